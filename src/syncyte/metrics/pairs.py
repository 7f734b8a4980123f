"""How well two embeddings of the same cells fall on each other: FOSCTTM, top-k match, label transfer both ways.

FOSCTTM (fraction of samples closer than the true match; Liu et al. 2019) is 0 for a perfect match and 0.5 for chance.
Row i of both arrays is the same cell. Distances are Euclidean, made in blocks.
Trap: matching inside the same technical batch is easier or harder than overall; score whole held-out sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError

ROWS = 1 << 22  # entries of a block of distances


def score_pairs(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    tops: Sequence[int] = (1, 5, 50),
    k: int = 15,
) -> dict[str, float]:
    """Score two ``(n, d)`` embeddings of the same n cells.

    Parameters
    ----------
    first, second
        Embeddings of each modality, rows in the same order.
    labels
        Cell types, for label transfer by the majority of the ``k`` nearest cells of the other modality.
    tops
        For ``top_k``: share of cells whose true partner is among the k nearest of the other modality.

    Returns
    -------
    ``foscttm`` and ``top_<k>`` (means of both directions), ``transfer_forward`` (labels of first given to second) and
    ``transfer_back``.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or len(a) < 2:
        raise DataError(
            "Paired scores need two embeddings of the same cells in one space; found the shapes "
            f"{a.shape} and {b.shape}. Give both the same cells in the same order and the same axes."
        )
    ranks = np.concatenate([_closer(a, b), _closer(b, a)])
    scores = {"foscttm": float(np.mean(ranks / (len(a) - 1)))}
    scores |= {f"top_{top}": float(np.mean(ranks < top)) for top in tops}
    if labels is not None:
        names = np.asarray(labels).astype(str)
        scores["transfer_forward"] = _transfer(a, b, names, k)
        scores["transfer_back"] = _transfer(b, a, names, k)
    return scores


def _distances(queries: NDArray, targets: NDArray) -> Iterator[tuple[int, NDArray]]:
    squares = (targets**2).sum(axis=1)
    rows = max(1, ROWS // len(targets))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        yield start, (block**2).sum(axis=1)[:, None] + squares - 2.0 * block @ targets.T


def _closer(queries: NDArray, targets: NDArray) -> NDArray[np.float64]:
    """How many wrong partners are closer than the true one (ties count half)."""
    result = np.empty(len(queries))
    for start, block in _distances(queries, targets):
        own = block[np.arange(len(block)), start + np.arange(len(block))][:, None]
        ties = (block == own).sum(axis=1) - 1
        result[start : start + len(block)] = (block < own).sum(axis=1) + ties / 2
    return result


def _transfer(reference: NDArray, queries: NDArray, names: NDArray, k: int) -> float:
    kinds, codes = np.unique(names, return_inverse=True)
    hits, k = 0, min(k, len(reference))
    for start, block in _distances(queries, reference):
        near = np.argpartition(block, k - 1, axis=1)[:, :k]
        votes = np.zeros((len(block), len(kinds)))
        np.add.at(votes, (np.arange(len(block))[:, None], codes[near]), 1.0)
        hits += int((votes.argmax(axis=1) == codes[start : start + len(block)]).sum())
    return hits / len(queries)
