"""How well scores rank the open cells of one region: AUROC and average precision, one column at a time.

AUROC is the Mann-Whitney statistic with ties counted half; average precision is ``sum over thresholds of (recall step)
x precision`` with tied scores taken together (as scikit-learn has it). Both need every cell of a region, so they work
on blocks of columns. With *strata* (cell type, runs of like depth) pairs of cells are compared only inside a stratum
and all pairs count alike: ``sum of U / sum of (positives x negatives)``. That is the mean of the strata's own AUROCs
weighted by their number of pairs; a stratum with one positive gets a small say, not a full one.

Leaves out: AUROC over all entries of the matrix at once. It is almost flat in skill (the mean profile alone reaches
most of what can be reached).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.stats import rankdata

from syncyte.errors import DataError


def check_finite(block: NDArray[np.floating], what: str = "predictions") -> None:
    """Refuse NaN and infinity, which would sort anywhere without a word."""
    if not np.isfinite(block).all():
        raise DataError(
            f"The {what} hold {int((~np.isfinite(block)).sum()):,} values that are NaN or infinite; every value must "
            "be a finite number. Look at the model's outputs before scoring."
        )


def rank_columns(scores: NDArray[np.floating], open_cells: sp.csc_matrix) -> tuple[NDArray, NDArray]:
    """AUROC and average precision of every column.

    Parameters
    ----------
    scores
        ``(n, c)``; only their order within a column matters.
    open_cells
        ``(n, c)`` CSC; stored entries are the positives.

    Returns
    -------
    auroc, auprc
        Each ``(c,)`` float64; NaN where a column has no positive or no negative.
    """
    check_finite(scores)
    n, width = scores.shape
    columns = np.ascontiguousarray(scores.T)
    auroc, auprc = np.full(width, np.nan), np.full(width, np.nan)
    for j in range(width):
        rows = open_cells.indices[open_cells.indptr[j] : open_cells.indptr[j + 1]]
        count = len(rows)
        if count == 0 or count == n:
            continue
        positives = np.sort(columns[j, rows])
        ordered = np.sort(columns[j])
        left = np.searchsorted(ordered, positives, side="left")
        right = np.searchsorted(ordered, positives, side="right")
        statistic = (left + right + 1).sum() / 2 - count * (count + 1) / 2
        auroc[j] = statistic / (count * (n - count))
        above = count - np.searchsorted(positives, positives, side="left")
        auprc[j] = np.mean(above / (n - left))
    return auroc, auprc


def rank_within(scores: NDArray[np.floating], open_cells: sp.csc_matrix, strata: NDArray[np.integer]) -> NDArray:
    """AUROC of every column over pairs of cells of the same stratum.

    Parameters
    ----------
    scores
        ``(n, c)``.
    open_cells
        ``(n, c)`` CSC; stored entries are the positives.
    strata
        ``(n,)`` codes ``0 .. s - 1``.

    Returns
    -------
    ``(c,)`` float64; NaN where no stratum has both a positive and a negative.
    """
    n, width = scores.shape
    rows, columns = open_cells.indices, np.repeat(np.arange(width), np.diff(open_cells.indptr))
    statistic, pairs = np.zeros(width), np.zeros(width)
    stratum_of = np.asarray(strata)[rows]
    for stratum in np.unique(stratum_of):
        member = np.flatnonzero(strata == stratum)
        place = np.empty(n, dtype=np.int64)
        place[member] = np.arange(len(member))
        mine = stratum_of == stratum
        ranks = rankdata(scores[member], axis=0)[place[rows[mine]], columns[mine]]
        count = np.bincount(columns[mine], minlength=width)
        statistic += np.bincount(columns[mine], ranks, minlength=width) - count * (count + 1) / 2
        pairs += count * (len(member) - count)
    return np.divide(statistic, pairs, out=np.full(width, np.nan), where=pairs > 0)


def like_depth(depth: NDArray[np.floating], runs: int = 20) -> NDArray[np.int64]:
    """Codes of ``runs`` equally full runs of cells of like depth (cells of equal depth are kept in file order)."""
    order = np.argsort(depth, kind="stable")
    codes = np.empty(len(order), dtype=np.int64)
    codes[order] = np.arange(len(order)) * min(runs, len(order)) // max(len(order), 1)
    return codes


def cross(first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.int64]:
    """Codes of the combinations of two groupings that occur."""
    joint = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
    return np.unique(joint, return_inverse=True)[1].astype(np.int64)
