"""Drawing of what a result holds: palette, UMAP, categories, histograms.

Works on ``matplotlib.figure.Figure`` directly: no pyplot, no global state, no display needed. The figures of a whole
evaluation are in ``report.plots``, which builds on these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError, unknown
from syncyte.metrics.neighbors import load_umap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from syncyte.tasks.result import Result

MAX_CELLS = 5_000
INK = "#333b47"
MODEL = "#0072b2"  # blue of the palette: the model wherever it stands beside others
OTHER = "#9aa3af"
GRID = "#e3e6ea"
# First eight: Okabe and Ito, safe for the common colour deficiencies. The rest differ in lightness first; marker shapes
# repeat the cycle, so that more categories than colours stay distinct.
PALETTE = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#5b5b5b"),
    *("#332288", "#88ccaa", "#882255", "#ddaa77", "#117733", "#aa99dd", "#7a4a1e", "#99ddff"),
    *("#aa3355", "#b5c98a", "#44557a", "#ffb0c4"),
)
MARKERS = ("o", "^", "s", "D", "v", "P")
MISSING = "#d5d9de"
_SPINES = ("top", "right")


def new_figure(width: float = 6.4, height: float = 4.4) -> Figure:
    """Empty figure that lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def dress(axes: Axes, title: str = "", x: str = "", y: str = "", grid: str = "") -> Axes:
    """Titles and quiet axes, the same everywhere."""
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK, length=3)
    axes.spines[list(_SPINES)].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aab1bb")
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
        axes.set_axisbelow(True)
    return axes


def styles(categories: ArrayLike) -> dict[str, tuple[str, str]]:
    """Colour and marker of every category, by its place among the sorted ones; the empty name is grey."""
    names = sorted({str(name) for name in np.asarray(categories, dtype=object)} - {""}, key=natural)
    cycle = {
        name: (PALETTE[place % len(PALETTE)], MARKERS[place // len(PALETTE) % len(MARKERS)])
        for place, name in enumerate(names)
    }
    return {**cycle, "": (MISSING, ".")}


def natural(name: str) -> tuple[tuple[int, Any], ...]:
    """Sort key that puts 2 before 10."""
    import re

    return tuple((0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part)


def umap_coordinates(
    embedding: NDArray[Any], seed: int = 0, max_cells: int = MAX_CELLS
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """UMAP of at most ``max_cells`` random cells with finite rows: their row numbers (ascending) and ``(cells, 2)``."""
    usable = np.flatnonzero(np.isfinite(embedding).all(axis=1))
    if len(usable) > max_cells:
        usable = np.sort(np.random.default_rng(seed).choice(usable, max_cells, replace=False))
    values = np.asarray(embedding[usable], dtype=np.float32)
    if len(usable) < 10 or values.shape[1] < 3:  # too few for a neighbour graph, or nothing to reduce
        flat = np.zeros((len(usable), 2), dtype=np.float32)
        flat[:, : min(2, values.shape[1])] = values[:, :2]
        return usable, flat
    reducer = load_umap().UMAP(n_neighbors=min(15, len(usable) - 1), init="pca", random_state=seed, n_jobs=1)
    return usable, np.asarray(reducer.fit_transform(values), dtype=np.float32)


def scatter(axes: Axes, coordinates: NDArray[Any], categories: ArrayLike, title: str = "", label: bool = True) -> None:
    """Cells by category, drawn in an order that favours none; legend outside, ``label`` writes names at the medians."""
    names = np.asarray(["" if pd.isna(name) else str(name) for name in np.asarray(categories, dtype=object)])
    look = styles(names)
    size = float(np.clip(9_000 / max(len(names), 1), 2.5, 28))
    order = np.random.default_rng(0).permutation(len(names))
    colors = np.asarray([look[name][0] for name in names[order]]) if len(names) else np.empty(0, dtype=str)
    for marker in dict.fromkeys(look[name][1] for name in sorted(set(names), key=natural)):
        pick = np.asarray([look[name][1] == marker for name in names[order]])
        spots = coordinates[order][pick]
        axes.scatter(spots[:, 0], spots[:, 1], s=size, c=colors[pick], marker=marker, linewidths=0, alpha=0.85)
    present = [name for name in sorted(set(names), key=natural) if name]
    if label and 1 < len(present) <= 24:
        _label(axes, coordinates, names, present)
    dress(axes, title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    shown = present + ([""] if "" in names else [])
    _legend(axes, {name or "(none)": look[name] for name in shown})


def scatter_numbers(axes: Axes, coordinates: NDArray[Any], values: ArrayLike, title: str = "") -> None:
    """Cells by a number, extreme values clipped at the 1st and 99th percentile."""
    numbers = np.asarray(values, dtype=float)
    low, high = np.nanpercentile(numbers, [1, 99]) if np.isfinite(numbers).any() else (0, 1)
    size = float(np.clip(9_000 / max(len(numbers), 1), 2.5, 28))
    drawn = axes.scatter(
        coordinates[:, 0], coordinates[:, 1], s=size, c=numbers, cmap="viridis", vmin=low, vmax=high, linewidths=0
    )
    dress(axes, title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.6)


def histogram(
    axes: Axes, values: ArrayLike, title: str = "", x: str = "", span: tuple[float, float] | None = None
) -> None:
    """Histogram of finite values with their median."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    axes.hist(numbers, bins=40, range=span, color=MODEL, alpha=0.85)
    if len(numbers):
        middle = float(np.median(numbers))
        axes.axvline(middle, color=INK, linewidth=1, linestyle="--", label=f"median {middle:.3g}")
        axes.legend(frameon=False, fontsize=8.5)
    dress(axes, title, x, "cells", grid="y")


def plot_result(result: Result, color: str | pd.Series | NDArray[Any] | None, seed: int) -> Figure:
    """Panels for what there is: UMAP of the first embedding, one histogram a numeric column, means of predictions."""
    numeric = {key: values for key, values in result.obs.items() if pd.api.types.is_numeric_dtype(values)}
    texts = {key: values for key, values in result.obs.items() if key not in numeric}
    shade = _shade(result, color, texts)
    count = bool(result.obsm) + (not result.obsm and bool(texts)) + len(numeric) + len(result.layers)
    if count == 0:
        raise DataError(f"The {result.task} result holds nothing to draw; see .table() and .metrics.")
    figure = new_figure(6.4 * count, 4.6)
    panels = iter(np.atleast_1d(figure.subplots(1, count)))
    if result.obsm:
        key, embedding = next(iter(result.obsm.items()))
        rows, spots = umap_coordinates(embedding, seed)
        title = f"UMAP of {key}" + (f" by {shade.name}" if shade.name else "")
        draw = scatter_numbers if pd.api.types.is_float_dtype(shade.dtype) else scatter
        draw(next(panels), spots, shade.to_numpy()[rows], title)
    elif texts:
        counts = pd.Series(np.asarray(next(iter(texts.values())))).astype(str).value_counts()
        axes = next(panels)
        axes.barh(counts.index[::-1], counts.to_numpy()[::-1], color=MODEL)
        dress(axes, next(iter(texts)), "cells", grid="x")
    for key, values in numeric.items():
        histogram(next(panels), values, key.replace("_", " "), "value")
    for key, layer in result.layers.items():
        histogram(next(panels), np.asarray(layer.values.mean(axis=1)).ravel(), key, "mean prediction of a cell")
    return figure


def _shade(result: Result, color: Any, texts: dict[str, Any]) -> pd.Series:
    """Value that colours each cell, in the order of the result."""
    if color is None:
        color = next(iter(texts), None)
    if color is None:
        return pd.Series([""] * len(result.cells), index=result.cells, dtype=object)
    if isinstance(color, str):
        if color not in result.obs:
            raise DataError(
                unknown("column of the result", color, result.obs)
                + " Pass any other column itself: color=adata.obs[...]."
            )
        return pd.Series(np.asarray(result.obs[color]), index=result.cells, name=color)
    if isinstance(color, pd.Series):
        return color.reindex(result.cells)
    return pd.Series(np.asarray(color), index=result.cells)


def _label(axes: Axes, coordinates: NDArray[Any], names: NDArray[Any], present: list[str]) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    span = np.maximum(np.ptp(coordinates, axis=0), 1e-9) * (0.16, 0.035)
    taken: list[NDArray[Any]] = []
    for name in sorted(
        present, key=lambda name: -np.sum(names == name)
    ):  # a label that would cover another is left out
        x, y = spot = np.median(coordinates[names == name], axis=0)
        if any((np.abs(spot - other) < span).all() for other in taken):
            continue
        taken.append(spot)
        text = name if len(name) <= 18 else f"{name[:17]}…"
        axes.text(x, y, text, fontsize=7.5, color=INK, ha="center", va="center", path_effects=halo)


def _legend(axes: Axes, look: dict[str, tuple[str, str]]) -> None:
    """Legend to the right, in columns of at most 22."""
    from matplotlib.lines import Line2D

    if not look or len(look) > 120:
        return
    marks = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            color=color,
            markersize=5,
            label=name if len(name) < 32 else f"{name[:30]}…",
        )
        for name, (color, marker) in look.items()
    ]
    axes.legend(
        handles=marks, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, labelcolor=INK,
        ncols=-(-len(marks) // 22), handletextpad=0.1, columnspacing=0.8, borderaxespad=0.2,
    )  # fmt: skip


def plot_effects(effects: pd.DataFrame, top: int) -> Figure:
    """Strongest effects of each target (at most twelve): bars of the change of log1p CP10K, with standard errors."""
    names = list(dict.fromkeys(effects["target"]))[:12]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(3.6 * columns, (0.17 * top + 0.9) * rows)
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).ravel(), names, strict=False):
        own = effects[effects["target"] == name].nsmallest(top, "rank").iloc[::-1]
        place = np.arange(len(own))
        axes.barh(place, own["effect"], xerr=own["error"], color=MODEL, ecolor=INK, error_kw={"linewidth": 0.8})
        axes.set_yticks(place, own["gene"])
        axes.axvline(0, color=INK, linewidth=0.8)
        dress(axes, str(name), "change of log1p CP10K", "", grid="x")
        axes.tick_params(labelsize=7)
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)
    return figure
