"""Exact search of vectors by one pass over codes of 8 bits.

Let ``x`` be a vector, ``c`` its codes times their scale, and ``loss = |x - c|``. For a query of length one, Cauchy and
Schwarz give ``|q x - q c| <= loss``. A row whose upper bound ``q c + loss`` is below the ``top``-th best score found so
far is out for certain; the few others are scored from the vectors. So the answer is exact and needs no guess of how
many candidates to rank again, while the pass reads a quarter of the bytes of float32, which numpy turns to float32 in
the cache almost for free (float16 takes it four times as long).

Scores are summed in float64, each row by itself, and rounded to float32, so that blocks, threads and the order of rows
do not show in them. Where a great many rows are within ``loss`` of the best (1e-2 at 256 numbers), the answer is the
same and takes longer.
Leaves out: files (``data.vector_files``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BUFFER = 2**18  # numbers of a block of codes as float32: one megabyte stays in the cache of a core
QUERIES = 64  # answered in one pass
PAIRS = 256  # of query and row, scored from the vectors at a time: half a megabyte at 256 numbers

Found = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows and scores, (q, top)


@dataclass
class Best:
    """The ``top`` best rows of each query among those added; equal scores by row number.

    ``floor`` ``(q,)`` is a score that ``top`` rows reach for certain, or minus infinity: no row below it matters.
    """

    queries: int
    top: int
    floor: NDArray[np.float32] = field(init=False)
    _pairs: list[tuple[NDArray, NDArray, NDArray]] = field(default_factory=list, init=False)
    _waiting: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.floor = np.full(self.queries, -np.inf, dtype=np.float32)

    def add(self, query: NDArray, row: NDArray, score: NDArray) -> None:
        """Add pairs ``(m,)``; each pair of query and row may come once."""
        self._pairs.append((query, row, score))
        self._waiting += len(row)
        if self._waiting >= self.queries * self.top:  # sorting as much as is new costs little, and memory stays small
            self._merge()

    def result(self) -> Found:
        """Rows and scores, ``(q, top)``; every query must have had ``top`` rows."""
        self._merge()
        _, row, score = self._pairs[0]
        return row.reshape(self.queries, self.top), score.reshape(self.queries, self.top)

    def _merge(self) -> None:
        query, row, score = (np.concatenate(part) for part in zip(*self._pairs))
        order = np.lexsort((row, -score, query))
        query, row, score = query[order], row[order], score[order]
        rank = np.arange(len(query)) - np.searchsorted(query, np.arange(self.queries))[query]
        last = rank == self.top - 1
        self.floor[query[last]] = np.maximum(self.floor[query[last]], score[last])
        keep = rank < self.top
        self._pairs, self._waiting = [(query[keep], row[keep], score[keep])], 0


def scan(
    vectors: NDArray[np.floating],
    codes: NDArray[np.int8],
    bounds: NDArray[np.float32],
    queries: NDArray[np.float32],
    top: int,
    block_rows: int | None = None,
) -> Found:
    """The ``top`` best rows of each query.

    Parameters
    ----------
    vectors
        ``(n, d)`` of length one or zero, in memory or mapped.
    codes, bounds
        ``(n, d)``, and ``(n, 2)``: scale, loss.
    queries
        ``(q, d)`` of length one or zero.
    top
        1 to ``n``.
    block_rows
        Rows at a time.
    """
    count, width = codes.shape
    rows, scores = np.empty((len(queries), top), np.int64), np.empty((len(queries), top), np.float32)
    block = min(count, block_rows or max(BUFFER // width, 64))
    buffer = np.empty((block, width), dtype=np.float32)
    for first in range(0, len(queries), QUERIES):
        asked = queries[first : first + QUERIES]
        turned = np.ascontiguousarray(asked.T)
        best = Best(len(asked), top)
        for start in range(0, count, block):
            part = codes[start : start + block]
            buffer[: len(part)] = part
            rough = buffer[: len(part)] @ turned
            query, row = _in_reach(rough, bounds[start : start + block], width, best.floor, top)
            if len(row):
                row += start
                best.add(query, row, score_pairs(vectors, asked, query, row))
        rows[first : first + QUERIES], scores[first : first + QUERIES] = best.result()
    return rows, scores


def score_pairs(vectors: NDArray[np.floating], queries: NDArray[np.float32], query: NDArray, row: NDArray) -> NDArray:
    """``(m,)`` float32 cosines of pairs of query and row."""
    score = np.empty(len(row), dtype=np.float32)
    for start in range(0, len(row), PAIRS):
        part = slice(start, start + PAIRS)
        product = vectors[row[part]].astype(np.float64)
        product *= queries[query[part]]
        score[part] = np.clip(product.sum(axis=1), -1, 1)  # lengths of stored vectors are rounded: 1.00001 is 1
    return score + np.float32(0)  # -0 becomes 0


def _in_reach(
    rough: NDArray[np.float32], bounds: NDArray[np.float32], width: int, floor: NDArray[np.float32], top: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Query and row of the pairs of a block that may be among the best.

    ``rough`` ``(m, q)`` are the products of unscaled codes and queries, overwritten; ``floor`` is raised where ``top``
    rows of the block are above it for certain.
    """
    scale, loss = bounds[:, :1], bounds[:, 1:]
    loss = loss + np.float32((width + 8) * 2.0**-23)  # twice the rounding of the sums in float32, in whatever order
    rough *= scale
    reach = rough + loss
    near = reach >= floor
    pairs = np.flatnonzero(near)
    if len(pairs) > 2 * top:
        for one in np.flatnonzero(np.count_nonzero(near, axis=0) > 2 * top):
            certain = np.partition(rough[:, one] - loss[:, 0], -top)[-top]
            floor[one] = max(floor[one], certain)
            near[:, one] = reach[:, one] >= floor[one]
        pairs = np.flatnonzero(near)
    row, query = np.divmod(pairs, len(floor))
    return query, row
