"""What a report says of generated cells and of predicted responses: methods, genes, markers, the price of guidance.

Leaves out: the scores (``tasks.compare_generate``, ``tasks.compare_perturb``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.report import sections
from syncyte.report.base import Section
from syncyte.tasks.plot import INK, MODEL, OTHER, PALETTE, dress, natural, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = Mapping[str, NDArray[Any]]
MOST_VIOLINS = 8  # labels drawn
GENES = ("mean", "variance", "zeros")


def generation(table: pd.DataFrame, arrays: Arrays, model: str, text: str, more: Mapping[str, pd.DataFrame]) -> Section:
    """The section of generated cells."""
    base = sections.comparison("Generation", table, model, text, more, bars=4)
    figures, data = dict(base.figures), {}
    if "mean_real" in arrays:
        figures["Genes: variance and zeros, real against generated"] = gene_figure(arrays)
        sides = [f"{name}_{side}" for name in GENES for side in ("real", "made")]
        data["genes"] = pd.DataFrame({name: arrays[name] for name in sides})
    if "marker_real" in arrays:
        figures["Genes that tell labels apart best: real (left) and generated (right), log1p CP10K"] = violins(arrays)
    doses = more.get("generate guidance")
    if doses is not None:
        figures["Guidance: what sharper conditions cost in diversity"] = dose_figure(doses)
    return Section(
        base.title,
        text=base.text,
        tables=base.tables,
        figures=figures,
        compared=base.compared,
        model=model,
        verdicts=base.verdicts,
        data=data,
    )


def responses(table: pd.DataFrame, arrays: Arrays, model: str, text: str, more: Mapping[str, pd.DataFrame]) -> Section:
    """The section of predicted responses."""
    base = sections.comparison("Responses", table, model, text, more, bars=4)
    figures = dict(base.figures)
    if "predicted" in arrays:
        figures["Effects of the first unit, one point a gene: measured across, predicted up"] = effect_figure(arrays)
    return Section(
        base.title,
        text=base.text,
        tables=base.tables,
        figures=figures,
        compared=base.compared,
        model=model,
        verdicts=base.verdicts,
    )


def effect_figure(arrays: Arrays) -> Figure:
    """Predicted against measured change of mean log values."""
    figure = new_figure(4.8, 4.6)
    axes = figure.subplots()
    both = np.concatenate([arrays["measured"], arrays["predicted"]])
    low, high = float(both.min()), float(both.max())
    axes.plot([low, high], [low, high], color=INK, linewidth=0.8)
    axes.scatter(arrays["measured"], arrays["predicted"], s=6, color=MODEL, alpha=0.4, linewidths=0)
    dress(axes, "", "measured change of log1p CP10K", "predicted change")
    return figure


def gene_figure(arrays: Arrays) -> Figure:
    """Mean against variance in both, and share of zeros in one against the other; one point a gene."""
    figure = new_figure(9.2, 4.2)
    left, right = figure.subplots(1, 2)
    for side, color, words in (("real", OTHER, "real"), ("made", MODEL, "generated")):
        mean, variance = arrays[f"mean_{side}"], arrays[f"variance_{side}"]
        seen = (mean > 0) & (variance > 0)
        left.scatter(mean[seen], variance[seen], s=4, color=color, alpha=0.35, linewidths=0, label=words)
    left.set(xscale="log", yscale="log")
    dress(left, "", "mean count", "variance")
    left.legend(frameon=False, markerscale=3)
    right.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    right.scatter(arrays["zeros_real"], arrays["zeros_made"], s=4, color=MODEL, alpha=0.35, linewidths=0)
    dress(right, "", "share of zeros, real", "share of zeros, generated")
    return figure


def violins(arrays: Arrays) -> Figure:
    """Values of a few genes by label: real to the left, generated to the right."""
    names, labels = arrays["names"], np.asarray(arrays["labels"]).astype(str)
    shown = sorted(pd.Series(labels).value_counts().index[:MOST_VIOLINS], key=natural)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(3.4 * columns, 2.5 * rows + 0.8)
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
        if place >= len(names):
            axes.set_visible(False)
            continue
        for side, color, half in (("real", OTHER, "low"), ("made", MODEL, "high")):
            values = [arrays[f"marker_{side}"][labels == label, place] for label in shown]
            parts = axes.violinplot(values, positions=range(len(shown)), widths=0.9, side=half, showextrema=False)
            for body in parts["bodies"]:
                body.set(facecolor=color, alpha=0.8)
        last = place >= len(names) - columns
        axes.set_xticks(range(len(shown)), shown if last else [""] * len(shown), rotation=40, ha="right", fontsize=7.5)
        dress(axes, str(names[place]), "", "", grid="y")
    return figure


def dose_figure(doses: pd.DataFrame) -> Figure:
    """Scores by the weight of guidance."""
    figure = new_figure(5.4, 4.0)
    axes = figure.subplots()
    weight = doses.index.astype(float)
    for number, name in enumerate(("precision", "recall", "variance_ratio", "one_nn")):
        label = name.replace("_", " ").replace("one nn", "1-NN accuracy")
        axes.plot(weight, doses[name], marker="o", color=PALETTE[number % len(PALETTE)], label=label)
    dress(axes, "", "weight of guidance", "score", grid="y")
    axes.legend(frameon=False, fontsize=8.5)
    return figure
