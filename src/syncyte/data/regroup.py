"""Columns of counts moved into another feature space through a table of (pointer, target, bases).

Column ``i`` goes to ``target[pointer[i]:pointer[i + 1]]``; none is dropped, one is renamed, several share it by a rule:

- without ``bases``, the whole count goes to each target, and columns that meet in one are summed;
- with ``bases`` (how many bases each target shares with the peak), a count is split in that proportion. Counts stay
  whole: each is rounded by largest remainders, per cell and peak, ties to the lower region, so what a peak's targets
  get adds up to its count, always in the same way. A count of 1 therefore goes to the region of largest overlap.
  ``whole=False`` gives the fractions themselves, which no store of raw counts takes.

One pass over the entries, in threads over blocks of rows, straight into the output. Where targets ascend with the
columns, from end to end or chromosome by chromosome, equal ones are neighbours and are merged on the way; else each
row is sorted. Leaves out where such tables come from (``genome.overlap``) and reading
(``data.cells``).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.errors import DataError

MOST_RUNS = 500  # each costs a search in every row
WIDEST = 2**30  # columns that fit the packed table
PER_THREAD = 2_000_000  # entries below which another thread is not worth starting


@dataclass(frozen=True, eq=False)
class Regroup:
    """How columns go to another feature space.

    Attributes
    ----------
    pointer
        ``(f + 1,)`` int64.
    target
        ``(pointer[-1],)`` int32 columns of the new space, ascending within a column.
    width
        Columns of the new space.
    bases
        ``(pointer[-1],)`` int32 by which counts are split, or None.
    whole
        Round parts to whole counts.
    """

    pointer: NDArray[np.int64] = field(repr=False)
    target: NDArray[np.int32] = field(repr=False)
    width: int
    bases: NDArray[np.int32] | None = field(default=None, repr=False)
    whole: bool = True

    @classmethod
    def of(cls, target: NDArray[Any], width: int) -> Regroup:
        """One target a column, -1 for none."""
        kept = target >= 0
        return cls(np.concatenate([[0], np.cumsum(kept)]), target[kept].astype(np.int32), width)

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """``(f,)`` columns that have a target."""
        return np.diff(self.pointer) > 0

    @cached_property
    def code(self) -> NDArray[np.uint32]:
        """``(f,)`` four times the first target, plus 0 to 3 for none, one, it and the next, or other targets."""
        count = np.diff(self.pointer)
        lead = np.zeros(len(count), dtype=np.int64)
        lead[self.kept] = self.target[self.pointer[:-1][self.kept]]
        pair = np.flatnonzero(count == 2)
        apart = self.target[self.pointer[pair] + 1] != lead[pair] + 1
        kind = np.minimum(count, 3)
        kind[pair[apart]] = 3
        return (lead * 4 + kind).astype(np.uint32)

    @cached_property
    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """First columns of the runs in which targets ascend, and the order in which all of them do; None without one.

        Peaks in genome order are one run, peaks by chromosomes in another order (1, 10, 11, ..., 2) one run each.
        """
        some = np.flatnonzero(self.kept)
        if not len(some):
            return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        lead, tail = self.target[self.pointer[some]], self.target[self.pointer[some + 1] - 1]
        sort = np.argsort(lead, kind="stable")
        if np.any(lead[sort][1:] < tail[sort][:-1]):
            return None
        place = np.empty(len(some), dtype=np.int64)
        place[sort] = np.arange(len(some))
        first = np.concatenate([[0], np.flatnonzero(np.diff(place) != 1) + 1])
        if len(first) > MOST_RUNS:
            return None
        order = np.argsort(lead[first], kind="stable")
        begins = some[first]
        begins[0] = 0
        return begins, order

    def apply(self, block: sp.csr_matrix, threads: int | None = None, binary: bool = False) -> sp.csr_matrix:
        """Rows in the new space: CSR, sorted, no duplicates.

        Parameters
        ----------
        block
            ``(b, f)`` CSR with sorted indices.
        threads
            At most this many; by default the processors this process may use.
        binary
            Ones where any source column is non-zero; ``data`` is neither read nor summed.

        Returns
        -------
        csr_matrix
            ``(b, width)``. Whole numbers of less than 32 bits come back as int32, so that sums have room.
        """
        indptr, indices = block.indptr.astype(np.int64, copy=False), block.indices.astype(np.int32, copy=False)
        data = None if binary else _summable(block.data)
        if data is not None and self.bases is not None and self.whole and np.any(data != np.rint(data)):
            raise DataError("Counts hold fractions; the rule 'fraction' splits raw counts. Give the layer with them.")
        rows = block.shape[0]
        edges = _edges(indptr, threads)
        starts = self._starts(indptr, indices, edges)
        length = np.zeros(rows, dtype=np.int64)
        out_indices = np.empty(starts[-1], dtype=np.int32)
        kind = np.float32 if data is None or (self.bases is not None and not self.whole) else data.dtype
        out_data = None if data is None else np.empty(starts[-1], dtype=kind)
        run = self._loop(indptr, indices, data, length, out_indices, out_data)
        jobs = [(first, last, start) for (first, last), start in zip(pairwise(edges), starts)]
        if len(jobs) > 1:
            with ThreadPoolExecutor(len(jobs)) as pool:
                ends = list(pool.map(lambda job: run(*job), jobs))
        else:
            ends = [run(*job) for job in jobs]
        out = [array for array in (out_indices, out_data) if array is not None]
        del run
        size = _close_gaps(out, starts, ends)
        if out_data is None:
            out_data = np.ones(size, dtype=np.float32)
        counted = np.concatenate([[0], np.cumsum(length)])
        counted = counted if size > np.iinfo(np.int32).max else counted.astype(np.int32)
        moved = sp.csr_matrix((rows, self.width), dtype=out_data.dtype)
        moved.data, moved.indices, moved.indptr = out_data, out_indices, counted
        moved.has_canonical_format = True
        return moved

    def _starts(self, indptr: NDArray, indices: NDArray, edges: list[int]) -> list[int]:
        """Where each block of rows begins in the output, with room for the worst case, and the size of it all."""
        from syncyte.data.regroup_kernels import room

        spans = [(int(indptr[first]), int(indptr[last])) for first, last in pairwise(edges)]
        if np.all(np.diff(self.pointer) <= 1):
            sizes = [stop - start for start, stop in spans]
        else:
            sizes = [int(room(indices[start:stop], self.pointer)) for start, stop in spans]
        return np.cumsum([0, *(size + 1 for size in sizes)]).tolist()

    def _loop(self, indptr: Any, indices: Any, data: Any, length: Any, out_indices: Any, out_data: Any) -> Any:
        """The loop for this table, as a function of first row, last row and start in the output."""
        from syncyte.data.regroup_kernels import move, move_parts, sort_rows

        source, out = (indptr, indices, data), (length, out_indices, out_data)
        table: tuple[Any, ...] = (self.pointer, self.target)
        if self.runs is not None and self.width < WIDEST and (self.bases is None or data is None):
            return lambda first, last, start: move(*source, self.runs, self.code, *table, first, last, start, *out)
        if self.runs is not None and self.whole and self.bases is not None:
            table += (self.bases,)
            return lambda first, last, start: move_parts(*source, self.runs, *table, first, last, start, *out)
        split = self.bases is not None and data is not None
        table += (self.bases if split else np.empty(0, dtype=np.int32), self.whole)
        longest = int(np.diff(indptr).max(initial=0)) * int(np.diff(self.pointer).max(initial=1))
        passes = -(-max(1, (self.width - 1).bit_length()) // 11)
        kind = np.float32 if out_data is None else out_data.dtype

        def run(first: int, last: int, start: int) -> int:
            sums = np.zeros((2, max(1, longest)), dtype=kind)
            return sort_rows(*source, *table, sums, passes, first, last, start, *out)

        return run


def _summable(data: NDArray) -> NDArray:
    """Values of a type that holds their sums."""
    return data.astype(np.int32) if data.dtype.kind in "biu" and data.dtype.itemsize < 4 else data


def available() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _edges(indptr: NDArray[np.int64], threads: int | None) -> list[int]:
    """Rows at which blocks of about equal numbers of entries begin, and the number of rows."""
    entries, rows = int(indptr[-1] - indptr[0]), len(indptr) - 1
    count = max(1, min(threads or available(), entries // PER_THREAD, rows))
    inner = np.searchsorted(indptr, indptr[0] + entries * np.arange(1, count) // count)
    return [0, *np.clip(inner, 0, rows).tolist(), rows]


def _close_gaps(arrays: list[NDArray], starts: list[int], ends: list[int]) -> int:
    """Move the blocks together and give back the rest of the room, which was never touched; the size that is left."""
    size = ends[0]
    for start, end in zip(starts[1:-1], ends[1:]):
        for array in arrays:
            array[size : size + end - start] = array[start:end]
        size += end - start
    for array in arrays:
        array.resize(size, refcheck=False)
    return size
