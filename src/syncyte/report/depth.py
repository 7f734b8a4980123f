"""The section on depth: how strongly each axis of each embedding follows it, and what equal depth changes.

Tables come from ``tasks.compare_depth``. Leaves out their computation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from syncyte.report.base import Section
from syncyte.report.tables import judge, number
from syncyte.tasks.plot import INK, MODEL, OTHER, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("depth_r", "axis", "depth_r2", "depth_r_in_type")


def depth_section(axes: pd.DataFrame, equal: pd.DataFrame | None, model: str, text: str = "") -> Section:
    """Heat-map of r by axis, the strongest r as a table, and scores at full beside equal depth.

    Parameters
    ----------
    axes
        Rows are methods; ``depth_r``, ``axis``, ``depth_r2``, ``depth_r_in_type``, and ``r_1``, ``r_2`` ... by axis.
    equal
        Rows are methods; ``nmi_equal``, ``nmi_full``, ``ari_equal`` ...; None where cells could not be thinned.
    model
        Row of the model.
    """
    shown = axes[[name for name in SHOWN if name in axes]]
    tables = {"Depth: the axis of each method that follows it most": shown}
    figures = {"Pearson's r of every axis with log depth: blue falls, red rises with it": axis_heatmap(axes)}
    verdicts, compared = [], []
    if equal is not None:
        caption = "Equal depth: the same cells thinned to one depth, and as they are"
        tables[caption] = equal
        if "nmi_equal" in equal:
            compared.append(caption)
            verdicts.append(judge(equal, "nmi_equal", model))
            figures["NMI of clusters and labels: hollow at full depth, filled at equal depth"] = full_and_equal(
                equal, "nmi", model
            )
    return Section(
        "Depth",
        text=text,
        tables=tables,
        figures=figures,
        model=model,
        compared=compared,
        verdicts=verdicts,
        data={"axes": axes.reset_index()},
    )


def axis_heatmap(axes: pd.DataFrame) -> Figure:
    """Methods down, axes across, colour by r between -1 and 1; the strongest of each row is written."""
    columns = [name for name in axes if str(name).startswith("r_")]
    values = axes[columns].to_numpy(dtype=float)
    rows, count = values.shape
    figure = new_figure(3.4 + 0.19 * max(count, 12), 1.1 + 0.3 * max(rows, 1))
    panel = figure.subplots()
    image = panel.pcolormesh(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-1, vmax=1)
    for row, line in enumerate(values):
        if np.isfinite(line).any():
            place = int(np.nanargmax(np.abs(line)))
            ink = "white" if abs(line[place]) > 0.6 else INK
            text = number(float(line[place]), 1)
            panel.text(place + 0.5, row + 0.5, text, ha="center", va="center", fontsize=6.5, color=ink)
    dress(panel, "", "axis", "")
    panel.set_yticks(np.arange(rows) + 0.5, [str(name) for name in axes.index], fontsize=8.5)
    step = 1 if count <= 12 else 5
    ticks = np.arange(step - 1, count, step)
    panel.set_xticks(ticks + 0.5, [str(tick + 1) for tick in ticks], fontsize=8)
    panel.set_ylim(rows, 0)
    panel.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=panel, shrink=0.8, label="r")
    bar.outline.set_visible(False)
    return figure


def full_and_equal(equal: pd.DataFrame, metric: str, model: str = "") -> Figure:
    """One line a method from its score at full depth to that at equal depth, best at equal depth on top."""
    order = equal.sort_values(f"{metric}_equal", na_position="first")
    figure = new_figure(5.4, 0.7 + 0.3 * max(len(order), 1))
    panel = figure.subplots()
    for place, (name, row) in enumerate(order.iterrows()):
        color = MODEL if model and str(name).startswith(model) else OTHER
        full, thin = float(row[f"{metric}_full"]), float(row[f"{metric}_equal"])
        panel.plot([full, thin], [place, place], color=color, linewidth=1.6)
        panel.scatter([full], [place], s=34, facecolors="white", edgecolors=color, zorder=3)
        panel.scatter([thin], [place], s=34, color=color, zorder=3)
    dress(panel, "", "", "", grid="x")
    panel.set_yticks(range(len(order)), [str(name) for name in order.index], fontsize=8.5)
    panel.set_ylim(-0.6, len(order) - 0.4)
    return figure
