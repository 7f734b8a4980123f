"""Counts of a cell as amounts of its genes on one scale: by rank, by bin, or as logarithm; sparse, without parameters.

- ``rank``: counts per ``PER_CELL`` over the gene's median where it is expressed (rank-value encoding, Theodoris et
  al., Nature 2023), then the place among the cell's expressed genes, 1 for the first and towards 0 for the last.
- ``bins``: within-cell quantile bin of the counts among those of expressed genes, over the number of bins.
- ``log``: log1p of counts per ``PER_CELL``.

A gene without counts has amount 0 in all of them. Ties share their mean place (rank) or their lowest (bins), so that an
amount depends on counts alone and not on the order of genes. Leaves out: tokens in order (``rank_tokens``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import log_values

Encoding = Literal["rank", "bins", "log"]
PER_CELL = 1e4
BINS = 50


def nonzero_medians(blocks: Iterable[sp.csr_matrix], genes: int, steps: int = 400) -> NDArray[np.float64]:
    """Median of each gene's counts per ``PER_CELL`` over the cells that express it; 1 for a gene in no cell.

    Read off a histogram with ``steps`` logarithmic bins between 0.01 and 10,000, so that memory does not grow with the
    number of cells; a median is within 2 % of the exact one.
    """
    edges = np.geomspace(1e-2, PER_CELL, steps + 1)
    histogram = np.zeros((genes, steps), dtype=np.int64)
    for counts in blocks:
        values = np.expm1(log_values(counts, PER_CELL).data)
        step = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, steps - 1)
        np.add.at(histogram, (counts.indices, step), 1)
    seen = histogram.sum(axis=1)
    middle = (np.cumsum(histogram, axis=1) * 2 >= seen[:, None]).argmax(axis=1)
    centres = np.sqrt(edges[:-1] * edges[1:])
    return np.where(seen > 0, centres[middle], 1.0)


def amounts(
    counts: sp.csr_matrix,
    kind: Encoding,
    medians: NDArray[np.float64],
    *,
    total: NDArray[np.float64] | None = None,
) -> sp.csr_matrix:
    """Amounts of ``(b, g)`` counts, with the same sparsity.

    Parameters
    ----------
    counts
        Raw counts.
    kind
        See the module.
    medians
        ``(g,)`` of the training cells, read by ``rank`` alone.
    total
        ``(b,)`` counts of each cell over all its genes, where ``counts`` holds only some of them.

    Returns
    -------
    csr_matrix
        ``(b, g)`` float32.
    """
    found = counts.astype(np.float64)
    found.eliminate_zeros()
    if kind == "log":
        scale = np.asarray(found.sum(axis=1)).ravel() if total is None else total
        found.data = np.log1p(found.data * np.repeat(PER_CELL / np.maximum(scale, 1), np.diff(found.indptr)))
        return found.astype(np.float32)
    score = scores(found, kind, medians)
    sizes = np.diff(found.indptr)
    cell = np.repeat(np.arange(found.shape[0]), sizes)
    low, high = _places(cell, score, sizes)
    many = np.maximum(sizes, 1)[cell]
    found.data = (low + high + 2) / 2 / many if kind == "rank" else (1 + np.floor(low / many * BINS)) / BINS
    return found.astype(np.float32)


def scores(counts: sp.csr_matrix, kind: Encoding, medians: NDArray[np.float64]) -> NDArray[np.float64]:
    """What expressed genes of a cell are ordered by: counts, over the median for ``rank``. Depth does not matter."""
    return counts.data / medians[counts.indices] if kind == "rank" else counts.data.astype(np.float64)


def _places(
    cell: NDArray[np.int64], score: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last place, from 0 for the smallest, that each entry shares with its equals in the same cell."""
    order = np.lexsort((score, cell))
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranked, own = score[order], cell[order]
    new = np.append(True, (ranked[1:] != ranked[:-1]) | (own[1:] != own[:-1]))
    group = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(order)) - 1
    low, high = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    low[order], high[order] = first[group], last[group]
    return low - start, high - start
