"""How much of an embedding is depth: every axis against it, and types told apart when all cells are equally deep.

Depth is the total count of a cell. Two tables. ``depth``: by method, Pearson's r of every axis with log depth, the
strongest, how much of log depth all axes together explain (an axis can be turned so that none looks bad; this cannot),
and the strongest r within cell types (types differ in depth, which is biology). ``depth equal``: cells below a common
depth are left out, all others thinned to it, count by count by binomial draws, and embedded again by every method as
it was fitted; NMI and ARI of the same cells at full and at equal depth stand side by side. What the embedding of
equally deep cells still says about their former depth is biology.

Traps: where files count both ends of a fragment, ends are drawn, not fragments. Leaves out methods that are fitted on
the cells they embed (Harmony); drawing (``report``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.data.cells import Cells, MemoryRows
from syncyte.metrics.embedding import depth_correlation, depth_explained, score_clusters
from syncyte.tasks.compare_embed import Embedding, Method, depths

DRAWS = 3
QUANTILE = 0.25  # of the depth of the held-out cells: the common depth
FEWEST = 20


@dataclass(frozen=True)
class Thinned:
    """Equally deep cells: which of the others they are (``rows``), and the common depth by modality."""

    cells: Cells
    rows: NDArray[np.int64]
    depth: dict[str, int]


def compare_depth(
    methods: Mapping[str, Method],
    found: Mapping[str, Embedding],
    held: Cells,
    labels: NDArray[Any] | None,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, pd.DataFrame], str]:
    """Tables ``depth`` and ``depth equal``, and words on them.

    Parameters
    ----------
    methods, found
        What ``compare_embed.compare_embeddings`` returns.
    held
        The aligned cells of ``found``.
    labels
        ``(n,)`` cell types, ``""`` where a cell has none. Without labels only correlations are given.
    seed
        Of the draws, and of Leiden.
    """
    mods = tuple(dict.fromkeys(mod for how in methods.values() for mod in how.reads))
    total = {mod: depths(held, mod) for mod in mods}
    if not mods:
        return {}, ""
    tables = {"depth": axis_table(methods, found, total, labels)}
    text = (
        "Pearson's r of every axis with log depth (total count of the cell), and what a linear fit on all axes explains"
        " of it (R2). Types differ in depth, so some of it is biology; r within types leaves that out."
    )
    draws = [thin_cells(held, total, QUANTILE, seed + draw) for draw in range(DRAWS)]
    thinned = draws[0]
    common = ", ".join(f"{depth:,} ({mod})" for mod, depth in thinned.depth.items())
    if len(thinned.rows) < FEWEST or not all(thinned.depth.values()):
        return tables, f"{text} Too few cells are deep enough to be thinned to {common}."
    several = [equal_table(methods, found, drawn, total, labels, seed + draw, say) for draw, drawn in enumerate(draws)]
    tables["depth equal"] = over_draws(several)
    text += (
        f"\n\nEqual depth: {len(thinned.rows):,} of {len(held):,} cells have a total of at least {common} and were "
        f"thinned to it (binomial draws, seed {seed}), then embedded again by the methods as they were fitted; means "
        f"of {DRAWS} draws, intervals from the lowest to the highest. The columns at full depth are of the same "
        "cells, clustered as often. What is left of the correlation with the former depth is biology."
    )
    return tables, text


def axis_table(
    methods: Mapping[str, Method],
    found: Mapping[str, Embedding],
    total: Mapping[str, NDArray[np.float64]],
    labels: NDArray[Any] | None = None,
) -> pd.DataFrame:
    """One row a method and modality it reads: ``depth_r`` and its ``axis`` (from 1), ``depth_r2``, r by axis.

    Columns ``r_1``, ``r_2`` ... hold the axes; NaN beyond the last one of a method.
    """
    rows = {}
    for method, how in methods.items():
        for mod in how.reads:
            r = depth_correlation(found[method], total[mod])
            row: dict[str, float] = {
                "depth_r": float(np.abs(r).max(initial=0.0)),
                "axis": float(np.abs(r).argmax() + 1) if len(r) else np.nan,
                "depth_r2": depth_explained(found[method], total[mod]),
            }
            if labels is not None and (labels != "").any():
                row["depth_r_in_type"] = float(np.abs(_within(found[method], total[mod], labels)).max(initial=0.0))
            key = method if len(how.reads) == 1 else f"{method}, depth of {mod}"
            rows[key] = row | {f"r_{number + 1}": float(value) for number, value in enumerate(r)}
    return pd.DataFrame(rows).T.rename_axis("method")


def equal_table(
    methods: Mapping[str, Method],
    found: Mapping[str, Embedding],
    thinned: Thinned,
    total: Mapping[str, NDArray[np.float64]],
    labels: NDArray[Any] | None,
    seed: int,
    say: Callable[[str], None],
) -> pd.DataFrame:
    """NMI, ARI and the strongest r with the former depth, of the same cells at equal and at full depth."""
    rows: dict[str, dict[str, float]] = {}
    kinds = None if labels is None else labels[thinned.rows]
    known = None if kinds is None else np.flatnonzero(kinds != "")
    for method, how in methods.items():
        say(f"equal depth: {method}")
        pair = {"equal": how.embed(thinned.cells), "full": found[method][thinned.rows]}
        row: dict[str, float] = {}
        for side, embedding in pair.items():
            if kinds is not None and known is not None and len(known) >= FEWEST:
                scores = score_clusters(embedding[known], kinds[known], seed)
                row |= {f"nmi_{side}": scores["nmi"], f"ari_{side}": scores["ari"]}
            strongest = [
                np.abs(depth_correlation(embedding, total[mod][thinned.rows])).max(initial=0.0) for mod in how.reads
            ]
            row[f"depth_r_{side}"] = float(max(strongest, default=np.nan))
        rows[method] = row
    order = [f"{what}_{side}" for what in ("nmi", "ari", "depth_r") for side in ("equal", "full")]
    table = pd.DataFrame(rows).T.rename_axis("method")
    return table[[column for column in order if column in table]]


def over_draws(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean of several tables of the same shape, with ``<column>_low`` and ``<column>_high`` for what is judged."""
    stacked = np.stack([table.to_numpy(dtype=float) for table in tables])
    first = tables[0]
    table = pd.DataFrame(stacked.mean(axis=0), index=first.index, columns=first.columns)
    for place, column in enumerate(first.columns):
        if not column.startswith("depth_r"):
            table[f"{column}_low"] = stacked[:, :, place].min(axis=0)
            table[f"{column}_high"] = stacked[:, :, place].max(axis=0)
    return table


def thin_cells(cells: Cells, total: Mapping[str, NDArray[np.float64]], quantile: float, seed: int) -> Thinned:
    """Cells at or above the quantile of depth in every modality of ``total``, thinned to it in each.

    Parameters
    ----------
    total
        Depth of every cell by modality; the other modalities stay as they are.
    """
    common = {mod: int(np.floor(np.quantile(depth, quantile))) for mod, depth in total.items()}
    deep = [total[mod] >= common[mod] for mod in total]
    rows = np.flatnonzero(np.logical_and.reduce(deep)) if deep else np.arange(len(cells))
    rng = np.random.default_rng(seed)
    kept = cells.take(rows)
    parts = dict(kept.parts)
    for mod, depth in common.items():
        drawn = thin_counts(kept.counts(mod), depth, rng)
        parts[mod] = replace(parts[mod], rows=MemoryRows(drawn), index=np.arange(len(rows)))
    return Thinned(replace(kept, parts=parts), rows, common)


def thin_counts(counts: sp.csr_matrix, depth: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Draw each count binomially, so that a row's total is ``depth`` on average; shallower rows stay as they are."""
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    share = np.minimum(depth / np.maximum(total, 1.0), 1.0)
    drawn = sp.csr_matrix(counts, copy=True)
    drawn.data = rng.binomial(np.rint(drawn.data).astype(np.int64), np.repeat(share, np.diff(drawn.indptr)))
    drawn.data = drawn.data.astype(np.float32)
    drawn.eliminate_zeros()
    return drawn


def _within(embedding: Embedding, depth: NDArray[np.float64], labels: ArrayLike) -> NDArray[np.float64]:
    """Pearson's r of every axis with log depth, both less their mean in the type, over labelled cells."""
    types = np.asarray(labels).astype(str)
    known = types != ""
    points = pd.DataFrame(np.asarray(embedding, dtype=np.float64)[known]).assign(depth=np.log1p(depth[known]))
    moved = (points - points.groupby(types[known]).transform("mean")).to_numpy()
    axes, level = moved[:, :-1], moved[:, -1]
    length = np.sqrt((axes**2).sum(axis=0) * (level**2).sum())
    return np.divide(axes.T @ level, length, out=np.zeros(axes.shape[1]), where=length > 1e-12)
