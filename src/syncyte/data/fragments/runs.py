"""Pairs of (barcode, region) to rows of counts, with bounded memory: sorted runs in a file, merged at the end.

The parser fills a buffer of pairs; a full one is sorted by barcode with one counting sort, equal pairs become a count,
and the *run* goes to a file without a name, which vanishes with the process however it ends. From a position-sorted
file every run covers a stretch of the genome, so that the rows of runs merge by appending; from any other order they
are sorted when merged. Nothing is ever sorted by barcode as text, and no order of the file is asked for.

Leaves out: who is a cell (``barcodes``), and the file of counts (``write``).
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from syncyte.genome.intervals import compiled

PAIRS = 1 << 21  # pairs of a run: 16 MB twice, small enough for the sort to stay in the cache
BLOCK = 1 << 20  # counts of a block of cells that is merged at once


@dataclass(frozen=True)
class Run:
    """Where a run lies in the file: ``ids`` of barcodes with pairs, ``first`` of each, then regions and counts."""

    at: int
    barcodes: int
    pairs: int
    wide: bool


class Runs:
    """Runs of pairs in one nameless file.

    Parameters
    ----------
    folder
        Where the file lies; None for the system's place.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object
        self._runs: list[Run] = []
        self._size = 0

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def add(self, rows: NDArray[np.uint32], columns: NDArray[np.int32], barcodes: int) -> None:
        """Sort pairs and append them as a run; ``rows`` and ``columns`` are used up.

        Parameters
        ----------
        rows, columns
            ``(p,)`` barcode and region of each pair, in the order of the file.
        barcodes
            Barcodes known so far; every row is below.
        """
        if not len(rows):
            return
        place = np.zeros(barcodes + 1, dtype=np.int64)
        regions, counts = np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int32)
        _group(rows, columns, place, regions)
        pairs = _count(place, regions, counts)
        ids = np.flatnonzero(np.diff(place)).astype(np.uint32)
        wide = bool(counts[:pairs].max() > 255)
        kept = counts[:pairs] if wide else counts[:pairs].astype(np.uint8)
        parts = (ids, place[ids].astype(np.uint32), regions[:pairs], kept)
        self._runs.append(Run(self._size, len(ids), pairs, wide))
        for part in parts:
            self._size += self._file.write(part.data)
        self._size += self._file.write(bytes(-self._size % 8))

    def blocks(self, ids: NDArray[np.int64], barcodes: int) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
        """Rows of counts of the barcodes asked for, in that order, some at a time.

        Yields
        ------
        tuple
            ``lengths (k,)`` int64 of the next ``k`` rows, ``columns`` int32 ascending in each row, and ``counts``
            int32.
        """
        if not self._runs:
            yield np.zeros(len(ids), dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
            return
        self._file.flush()
        rank = np.full(barcodes, -1, dtype=np.int64)
        rank[ids] = np.arange(len(ids))
        with mmap.mmap(self._file.fileno(), self._size, access=mmap.ACCESS_READ) as memory:
            first = np.zeros((len(self._runs), len(ids)), dtype=np.uint32)
            size = np.zeros_like(first)
            for number, run in enumerate(self._runs):
                known, start = self._index(memory, run)
                row = rank[known]
                length = np.diff(np.append(start, run.pairs))
                first[number, row[row >= 0]], size[number, row[row >= 0]] = start[row >= 0], length[row >= 0]
            _drop(memory)
            total = np.cumsum(size.sum(axis=0, dtype=np.int64))
            low = 0
            while low < len(ids):
                before = total[low - 1] if low else 0
                high = max(low + 1, int(np.searchsorted(total, before + BLOCK, side="right")))
                yield self._merge(memory, first[:, low:high], size[:, low:high], int(total[high - 1] - before))
                _drop(memory)
                low = high

    def _index(self, memory: mmap.mmap, run: Run) -> tuple[NDArray, NDArray]:
        known = np.frombuffer(memory, np.uint32, run.barcodes, run.at)
        return known.copy(), np.frombuffer(memory, np.uint32, run.barcodes, run.at + 4 * run.barcodes).copy()

    def _merge(self, memory: mmap.mmap, first: NDArray, size: NDArray, total: int) -> tuple[NDArray, NDArray, NDArray]:
        """Rows of a block, from all runs."""
        columns, counts = np.empty(total, dtype=np.int32), np.empty(total, dtype=np.int32)
        place = np.append(0, np.cumsum(size.sum(axis=0, dtype=np.int64)))[:-1]
        cursor = place.copy()
        for number, run in enumerate(self._runs):
            at = run.at + 8 * run.barcodes
            regions = np.frombuffer(memory, np.int32, run.pairs, at)
            kind = np.int32 if run.wide else np.uint8
            _append(
                regions,
                np.frombuffer(memory, kind, run.pairs, at + 4 * run.pairs),
                first[number],
                size[number],
                cursor,
                columns,
                counts,
            )
        edges = np.append(place, total)
        for row in np.flatnonzero(_mixed(edges, columns)):
            part = slice(edges[row], edges[row + 1])
            order = np.argsort(columns[part], kind="stable")
            columns[part], counts[part] = columns[part][order], counts[part][order]
        lengths = np.empty(len(place), dtype=np.int64)
        kept = _combine(edges, columns, counts, lengths)
        return lengths, columns[:kept], counts[:kept]


def _drop(memory: mmap.mmap) -> None:
    """Take what was read out of this process's memory, where the system can: it is read once."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None:
        memory.madvise(advice)


@compiled
def _group(rows, columns, place, out):
    """Stable counting sort by row; ``place`` becomes where each row begins."""
    for row in rows:
        place[row] += 1
    total = np.int64(0)
    for row in range(len(place)):
        size = place[row]
        place[row] = total
        total += size
    for pair in range(len(rows)):
        row = rows[pair]
        out[place[row]] = columns[pair]
        place[row] += 1
    for row in range(len(place) - 1, 0, -1):
        place[row] = place[row - 1]
    place[0] = 0


@compiled
def _count(place, regions, counts):
    """Sort each row and make equal regions one count, in place; ``place`` follows, the number of pairs comes back."""
    written = np.int64(0)
    for row in range(len(place) - 1):
        low, high = place[row], place[row + 1]
        place[row] = written
        _sort(regions, low, high)
        before = np.int64(-1)
        for pair in range(low, high):
            region = np.int64(regions[pair])
            if region == before:
                counts[written - 1] += 1
            else:
                regions[written], counts[written] = region, 1
                written += 1
                before = region
    place[len(place) - 1] = written
    return written


@compiled
def _sort(values, low, high):
    """Sort a stretch: by insertion while that is cheap, as it is for nearly sorted ones, else by heap."""
    moves, budget = np.int64(0), 8 * (high - low) + 64
    for place in range(low + 1, high):
        value, here = values[place], place
        while here > low and values[here - 1] > value:
            values[here] = values[here - 1]
            here -= 1
        values[here] = value
        moves += place - here
        if moves > budget:
            _heap(values, low, high)
            return


@compiled
def _sift(values, low, root, size):
    while 2 * root + 1 < size:
        child = 2 * root + 1
        if child + 1 < size and values[low + child + 1] > values[low + child]:
            child += 1
        if values[low + root] >= values[low + child]:
            return
        values[low + root], values[low + child] = values[low + child], values[low + root]
        root = child


@compiled
def _heap(values, low, high):
    size = high - low
    for root in range(size // 2 - 1, -1, -1):
        _sift(values, low, root, size)
    for last in range(size - 1, 0, -1):
        values[low], values[low + last] = values[low + last], values[low]
        _sift(values, low, 0, last)


@compiled
def _append(regions, numbers, first, size, cursor, columns, counts):
    """Copy the rows of one run behind what is there of each row."""
    for row in range(len(first)):
        here, start = cursor[row], np.int64(first[row])
        for pair in range(np.int64(size[row])):
            columns[here + pair] = regions[start + pair]
            counts[here + pair] = numbers[start + pair]
        cursor[row] = here + np.int64(size[row])


def _mixed(edges: NDArray[np.int64], columns: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Rows whose columns do not ascend."""
    falls = np.flatnonzero(columns[1:] < columns[:-1]) + 1
    mixed = np.zeros(len(edges) - 1, dtype=bool)
    row = np.searchsorted(edges, falls, side="right") - 1
    mixed[row[edges[row] != falls]] = True
    return mixed


@compiled
def _combine(edges, columns, counts, lengths):
    """Add up equal neighbours in each sorted row, in place."""
    written = np.int64(0)
    for row in range(len(edges) - 1):
        start = written
        for pair in range(edges[row], edges[row + 1]):
            if written > start and columns[written - 1] == columns[pair]:
                counts[written - 1] += counts[pair]
            else:
                columns[written], counts[written] = columns[pair], counts[pair]
                written += 1
        lengths[row] = written - start
    return written
