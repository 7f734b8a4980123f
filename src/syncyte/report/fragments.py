"""Plots of the quality of cells that were counted from fragments.

Leaves out: the numbers (``data.fragments.quality``), and thresholds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from syncyte.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from syncyte.data.fragments.cells import FragmentCounts

_TITLES = {
    "fragments": "fragments of a cell",
    "tss_enrichment": "enrichment at transcription starts",
    "nucleosome_signal": "mono-nucleosomal / nucleosome-free",
    "frip": "share of fragments in peaks",
    "duplicate_share": "share of duplicates",
    "mitochondrial_share": "share of mitochondrial fragments",
}


def plot_fragments(counts: FragmentCounts) -> Figure:
    """One figure: barcodes by rank with the cells marked, a histogram of each measure, and enrichment by depth.

    Parameters
    ----------
    counts
        Of ``count_fragments``.
    """
    from matplotlib.figure import Figure

    shown = [name for name in _TITLES if name in counts.obs]
    panels = 1 + len(shown) + ("tss_enrichment" in counts.obs)
    rows = -(-panels // 3)
    figure = Figure(figsize=(12, 3.2 * rows), layout="constrained")
    axes = list(np.ravel(figure.subplots(rows, 3)))
    _ranks(axes[0], counts)
    for axis, name in zip(axes[1:], shown):
        _histogram(axis, counts.obs[name].to_numpy(dtype=float), _TITLES[name], log=name == "fragments")
    if "tss_enrichment" in counts.obs:
        axis = axes[1 + len(shown)]
        axis.scatter(counts.obs["fragments"], counts.obs["tss_enrichment"], s=2, linewidths=0, rasterized=True)
        axis.set(xscale="log", xlabel=_TITLES["fragments"], ylabel=_TITLES["tss_enrichment"])
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure


def write_plots(counts: FragmentCounts, folder: str | Path) -> Path:
    """Write the figure as ``fragments.png`` into a folder."""
    target = Path(folder).expanduser() / "fragments.png"
    with atomic_file(target) as path:
        plot_fragments(counts).savefig(path, dpi=150)
    return target


def _ranks(axis: Any, counts: FragmentCounts) -> None:
    """Fragments over rank of every barcode, thinned where the curve is dense."""
    ranked = counts.ranked[counts.ranked > 0]
    some = np.unique(np.geomspace(1, max(len(ranked), 1), 2000).astype(int)) - 1
    axis.plot(some + 1, ranked[some], color="0.6", label="barcodes")
    if len(counts.obs):
        axis.axhline(
            counts.obs["fragments"].min(), color="C0", linestyle="--", label=f"{len(counts.obs):,} cells above"
        )
    axis.set(xscale="log", yscale="log", xlabel="rank of the barcode", ylabel="fragments")
    axis.legend(frameon=False)


def _histogram(axis: Any, values: np.ndarray, title: str, log: bool) -> None:
    known = values[np.isfinite(values)]
    if log:
        known = known[known > 0]
        axis.set_xscale("log")
    if len(known):
        edges = np.geomspace(known.min(), known.max() * 1.001, 51) if log else 50
        axis.hist(known, bins=edges)
        axis.axvline(float(np.median(known)), color="k", linewidth=1)
        title += f" (median {np.median(known):.3g})"
    axis.set(xlabel=title, ylabel="cells")
