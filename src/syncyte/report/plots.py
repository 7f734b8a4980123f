"""Figures of a report: arrays in, ``matplotlib`` Figure out.

No pyplot, no global state. Palette, axes and scatter come from ``tasks.plot``: a result and a report look alike.
Categories are sorted, legends stand outside. Leaves out: which figures an evaluation needs (``report.sections``).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.report.measures import measure
from syncyte.report.tables import DASH, decimals_for, is_oracle, number
from syncyte.tasks.plot import GRID, INK, MODEL, OTHER, PALETTE, dress, natural, new_figure, scatter, umap_coordinates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "abstention",
    "agreement_histogram",
    "agreement_scatter",
    "baseline_bars",
    "confusion",
    "confusion_matrix",
    "coverage_bars",
    "reliability",
    "reliability_bins",
    "training_curves",
    "umap",
    "umap_coordinates",
]
BINS = 10
NAME = 34  # letters of a method in a line beside its bar
NAMES = 45  # classes whose names still fit beside a confusion matrix


def umap(coordinates: NDArray[Any], categories: ArrayLike, title: str = "", label: bool = True) -> Figure:
    """``(cells, 2)`` coordinates coloured by category, whose names stand in the picture with ``label``."""
    count = len(set(map(str, np.asarray(categories, dtype=object))))
    figure = new_figure(4.0 + 1.5 * -(-count // 22), 4.2)
    scatter(figure.subplots(), coordinates, categories, title, label)
    return figure


def agreement_histogram(values: Mapping[str, ArrayLike], title: str = "", x: str = "") -> Figure:
    """Distribution of one number a feature, one outline a method; the first is the model. Medians in the legend."""
    figure = new_figure(5.0, 4.2)
    axes = figure.subplots()
    clean = {name: np.asarray(array, dtype=float) for name, array in values.items()}
    clean = {name: array[np.isfinite(array)] for name, array in clean.items()}
    every = np.concatenate([*clean.values(), np.zeros(0)])
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 41)
    for place, (name, array) in enumerate(clean.items()):
        label = f"{name} (median {number(float(np.median(array)))})" if len(array) else f"{name} (no value)"
        color = MODEL if place == 0 else PALETTE[(place + 4) % len(PALETTE)]
        look: dict[str, Any] = (
            {"color": color, "alpha": 0.75} if place == 0 else {"histtype": "step", "edgecolor": color}
        )
        axes.hist(array, bins=list(edges), label=label, linewidth=1.8 * (place > 0), **look)
        if len(array):
            axes.axvline(float(np.median(array)), color=color, linewidth=1.2, linestyle="--")
    if low < 0 < high:
        axes.axvline(0, color=INK, linewidth=0.8)
    dress(axes, title, x, "features", grid="y")
    _legend_below(figure, axes)
    return figure


def agreement_scatter(
    model: ArrayLike, baseline: ArrayLike, title: str = "", names: tuple[str, str] = ("", "")
) -> Figure:
    """One point a feature, baseline across and model up: above the diagonal the model is better, and how often."""
    x, y = np.asarray(baseline, dtype=float), np.asarray(model, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    figure = new_figure(4.8, 4.6)
    axes = figure.subplots()
    low, high = (float(min(x.min(), y.min())), float(max(x.max(), y.max()))) if len(x) else (0.0, 1.0)
    pad = 0.03 * (high - low or 1.0)
    axes.plot([low - pad, high + pad], [low - pad, high + pad], color=INK, linewidth=0.9, zorder=3)
    size = float(np.clip(6_000 / max(len(x), 1), 2.5, 22))
    axes.scatter(x, y, s=size, color=MODEL, alpha=float(np.clip(800 / max(len(x), 1), 0.15, 0.7)), linewidths=0)
    share = f"{np.mean(y > x):.0%} of {len(x):,} features above the diagonal" if len(x) else "no feature"
    dress(axes, title, names[1] or "baseline", names[0] or "model")
    axes.text(0.03, 0.97, share, transform=axes.transAxes, va="top", fontsize=8.5, color=INK)
    axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    return figure


def confusion(truth: ArrayLike, predicted: ArrayLike) -> pd.DataFrame:
    """Cells by true class (rows) and predicted class (columns), in natural order. An empty label is "(none)"."""
    names = [
        np.asarray([str(item) or "(none)" for item in np.asarray(side, dtype=object)]) for side in (truth, predicted)
    ]
    table = pd.crosstab(pd.Series(names[0], name="truth"), pd.Series(names[1], name="predicted"))
    rows = sorted(set(names[0]), key=natural)
    columns = rows + sorted(set(names[1]) - set(rows), key=natural)
    return table.reindex(index=rows, columns=columns, fill_value=0)


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, title: str = "") -> Figure:
    """Share of each true class by predicted class; rows sum to one."""
    from matplotlib.colors import LinearSegmentedColormap

    counts = confusion(truth, predicted)
    share = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    rows, columns = share.shape
    side = float(np.clip(0.34 * max(rows, columns), 3.0, 9.0))
    figure = new_figure(side + 2.6, side * rows / max(rows, columns) + 1.9)
    axes = figure.subplots()
    colors = LinearSegmentedColormap.from_list("share", ["#ffffff", "#b9d9ec", MODEL, "#00304d"])
    draw = axes.pcolormesh if max(rows, columns) <= NAMES else axes.imshow  # shapes where they are few, else pixels
    image = draw(share.to_numpy(), cmap=colors, vmin=0, vmax=1)
    if draw == axes.pcolormesh:
        axes.set(aspect="equal", ylim=(rows, 0))
    dress(axes, title, "predicted", "truth")
    axes.spines[:].set_visible(False)
    if rows <= NAMES:
        axes.set_yticks(
            np.arange(rows) + 0.5, [f"{name} ({total:,})" for name, total in counts.sum(axis=1).items()], fontsize=8
        )
    if columns <= NAMES:
        axes.set_xticks(np.arange(columns) + 0.5, share.columns, rotation=90 if columns > 4 else 0, fontsize=8)
    if max(rows, columns) <= 16:
        for (row, column), value in np.ndenumerate(share.to_numpy()):
            if value >= 0.005:
                ink = "white" if value > 0.5 else INK
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{value:.2f}".lstrip("0"),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=ink,
                )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    bar.outline.set_visible(False)
    return figure


def reliability_bins(truth: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Mean confidence and share correct of cells by confidence, equally wide bins that hold cells."""
    right = np.asarray(truth, dtype=object).astype(str) == np.asarray(predicted, dtype=object).astype(str)
    sure = np.asarray(confidence, dtype=float)
    known = np.isfinite(sure)
    place = np.clip((sure[known] * bins).astype(int), 0, bins - 1)
    table = pd.DataFrame({"bin": place, "predicted": sure[known], "observed": right[known].astype(float)})
    grouped = table.groupby("bin")
    return grouped.mean().assign(entries=grouped.size()).rename_axis(None).reset_index(drop=True)


def reliability(bins: pd.DataFrame, title: str = "", x: str = "confidence", y: str = "share correct") -> Figure:
    """Observed against predicted by bin, on the diagonal where calibrated; below, how many entries a bin holds.

    Logarithmic where the predictions span more than two orders of magnitude.
    """
    figure = new_figure(4.8, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    predicted, observed = bins["predicted"].to_numpy(float), bins["observed"].to_numpy(float)
    positive = predicted[predicted > 0]
    wide = len(positive) > 0 and positive.max() > 100 * positive.min()
    if wide:
        keep = (predicted > 0) & (observed > 0)
        predicted, observed, bins = predicted[keep], observed[keep], bins[keep]
        upper.set(xscale="log", yscale="log")
    low = float(min(predicted.min(), observed.min())) if wide and len(predicted) else 0.0
    upper.plot([low, 1], [low, 1], color=INK, linewidth=0.9, linestyle="--", label="calibrated")
    upper.plot(predicted, observed, color=MODEL, marker="o", markersize=5, linewidth=1.6, label="this run")
    dress(upper, title, "", y, grid="both")
    upper.legend(frameon=False, fontsize=8.5)
    entries = bins["entries"].to_numpy(float)
    width = predicted * 0.35 if wide else np.full(len(predicted), 0.07)
    lower.bar(predicted, entries, width=width, color=OTHER)
    lower.set_yscale("log")
    dress(lower, "", x, "entries")
    return figure


def abstention(truth: ArrayLike, predicted: ArrayLike, confidence: ArrayLike, title: str = "") -> Figure:
    """Accuracy of the most confident cells against the share of cells that keeps a label."""
    right = np.asarray(truth, dtype=object).astype(str) == np.asarray(predicted, dtype=object).astype(str)
    order = np.argsort(-np.nan_to_num(np.asarray(confidence, dtype=float), nan=-1), kind="stable")
    kept = np.arange(1, len(order) + 1)
    accuracy = np.cumsum(right[order]) / kept
    figure = new_figure(4.8, 3.8)
    axes = figure.subplots()
    start = min(len(order) // 50, max(len(order) - 1, 0))
    axes.plot(kept[start:] / max(len(order), 1), accuracy[start:], color=MODEL, linewidth=1.8)
    dress(axes, title, "share of cells that keep a label", "accuracy of these", grid="both")
    axes.set_xlim(0, 1.02)
    return figure


def training_curves(frame: pd.DataFrame, limit: int = 6) -> Figure:
    """Losses by step, one panel a name (``total`` first), training beside validation, a line where a stage begins.

    ``frame`` has the columns step, stage, split, name, value.
    """
    names = [name for name in dict.fromkeys(frame["name"]) if "/" not in str(name)] or list(
        dict.fromkeys(frame["name"])
    )
    names = sorted(names, key=lambda name: (name != "total", names.index(name)))[:limit]
    columns = min(3, max(len(names), 1))
    rows = -(-max(len(names), 1) // columns)
    figure = new_figure(3.5 * columns + 0.6, 2.7 * rows + 0.5)
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    starts = frame.groupby("stage", sort=False)["step"].min()
    for panel, name in zip(panels, names, strict=False):
        _curves(panel, frame[frame["name"] == name])
        dress(panel, str(name), "step", "", grid="y")
        for stage, step in starts.items():
            if len(starts) > 1:
                panel.axvline(step, color=GRID, linewidth=1)
                top = panel.get_xaxis_transform()
                panel.text(step, 0.02, f" {stage}", transform=top, fontsize=7, color=INK, rotation=90, va="bottom")
    if names:
        _legend_below(figure, panels[0])
    return figure


def coverage_bars(shares: Mapping[str, tuple[int, int]], title: str = "") -> Figure:
    """Name to (found, asked for): a bar of the share, the counts beside it."""
    figure = new_figure(5.4, 0.5 + 0.34 * max(len(shares), 1))
    axes = figure.subplots()
    names = list(shares)[::-1]
    for place, name in enumerate(names):
        found, total = shares[name]
        share = found / total if total else 0.0
        axes.barh(place, 1, color=GRID, height=0.62)
        axes.barh(place, share, color=MODEL, height=0.62)
        axes.text(1.02, place, f"{found:,} of {total:,} ({share:.1%})", va="center", fontsize=8.5, color=INK)
    dress(axes, title)
    axes.set(xlim=(0, 1.55), xticks=[], yticks=range(len(names)), yticklabels=names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def baseline_bars(table: pd.DataFrame, metric: str, model: str = "", title: str = "") -> Figure:
    """One bar a method, best at the top, intervals where the table has them; the model is blue, oracles are hatched."""
    values = table[metric].astype(float)
    values = values.sort_values(ascending=measure(metric).higher_is_better is not False, na_position="first")
    names = ["\n".join(textwrap.wrap(str(name), NAME)) or str(name) for name in values.index]
    lines = max((name.count("\n") + 1 for name in names), default=1)
    figure = new_figure(5.2, 0.6 + (0.12 + 0.18 * lines) * max(len(values), 1))
    axes = figure.subplots()
    lows, highs = (table.get(f"{metric}_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high"))
    reach = max(float(np.nanmax(np.abs([*values, *lows, *highs, 0.0]))), 1e-9)
    for place, (name, value) in enumerate(values.items()):
        color = MODEL if model and str(name).startswith(model) else OTHER
        hatch = "///" if is_oracle(name) else ""
        face = "white" if hatch else color
        axes.barh(place, value, height=0.66, color=face, edgecolor=color, hatch=hatch, linewidth=0.8)
        low, high = float(lows[name]), float(highs[name])
        if np.isfinite([low, high, value]).all():
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
        end = max(value, high if np.isfinite(high) else value, 0.0) if np.isfinite(value) else 0.0
        text = number(float(value), decimals_for(list(values.dropna()))) if np.isfinite(value) else DASH
        axes.text(end + 0.012 * reach, place, text, va="center", fontsize=8.5, color=INK)
    axes.axvline(0, color=INK, linewidth=0.8)
    dress(axes, title, "", "", grid="x")
    axes.set_yticks(range(len(values)), names, fontsize=8.5)
    axes.margins(x=0.12)
    axes.set_ylim(-0.6, len(values) - 0.4)
    return figure


def _curves(panel: Axes, rows: pd.DataFrame) -> None:
    for place, (split, part) in enumerate(rows.groupby("split", sort=True)):
        color = MODEL if place == 0 else PALETTE[(place + 4) % len(PALETTE)]
        for number_of_stage, (_, piece) in enumerate(part.groupby("stage", sort=False)):
            line = piece.sort_values("step")
            label = str(split) if number_of_stage == 0 else None
            mark = "o" if len(line) < 30 else ""
            panel.plot(
                line["step"], line["value"], color=color, linewidth=1.5, marker=mark, markersize=2.5, label=label
            )


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3 if len("".join(labels)) < 50 else 1,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
