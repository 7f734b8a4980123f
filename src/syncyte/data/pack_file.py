"""A packed shard: rows of ``data.pack`` in one file, with what is needed to read any of them.

::

    header    64 bytes: magic, version, CRC-32 of header and tables, cells, features, non-zeros, words, dtype of counts
    entries   <u4 a cell: non-zeros
    lengths   <u4 a cell: words of 64 bits
    words     <u8: the rows end to end
    rows      <i8 a cell: its row in the user's order

It bears no names: at a million regions they would outweigh the counts, and the store has them once.
Leaves out: several files as one matrix (``data.shards``), where names and covariates are (``data.store``).
"""

from __future__ import annotations

import os
import struct
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.pack import pack_rows, unpack_rows
from syncyte.errors import DataError

MAGIC = b"SYNCPACK"
VERSION = 1
HEADER = struct.Struct("<8sII4Q8s8x")
AT_ONCE = 2**19  # words read before they are unpacked: 4 MB, so that they are still in the processor's cache


def write_packed(path: Path, counts: sp.csr_matrix, rows: NDArray[np.int64]) -> None:
    """Write a shard; ``rows`` are the rows of its cells in the user's order."""
    packed = pack_rows(counts)
    tables = packed.entries.astype("<u4").tobytes() + packed.lengths.astype("<u4").tobytes()
    sizes = (*counts.shape, counts.nnz, len(packed.words), counts.dtype.str.encode())
    crc = zlib.crc32(tables, zlib.crc32(HEADER.pack(MAGIC, VERSION, 0, *sizes)))
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, crc, *sizes))
        file.write(tables)
        file.write(packed.words.astype("<u8", copy=False).data)
        file.write(rows.astype("<i8").data)


class PackedLayout(NamedTuple):
    """Where the rows of a packed shard lie in its file; holds no open file."""

    path: Path
    width: int
    indptr: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path, cells: int, width: int) -> PackedLayout:
        """Read and check header and tables; ``ValueError`` says what is wrong with them."""
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            tables = file.read(8 * cells)
        if len(head) < HEADER.size or head[:8] != MAGIC:
            raise ValueError("it is not a packed shard")
        _, version, crc, *sizes, dtype = HEADER.unpack(head)
        if version != VERSION:
            raise ValueError(f"it is a packed shard of version {version}, this syncyte reads {VERSION}")
        if sizes[:2] != [cells, width]:
            raise ValueError(f"it holds {sizes[0]:,} x {sizes[1]:,} counts, the manifest says {cells:,} x {width:,}")
        if zlib.crc32(tables, zlib.crc32(HEADER.pack(MAGIC, version, 0, *sizes, dtype))) != crc:
            raise ValueError("the CRC-32 of its tables is wrong")
        entries, lengths = np.frombuffer(tables, dtype="<u4").reshape(2, cells)
        indptr, starts = (np.concatenate([[0], np.cumsum(table, dtype=np.int64)]) for table in (entries, lengths))
        if [indptr[-1], starts[-1]] != sizes[2:]:
            raise ValueError("its tables do not add up to its size")
        return cls(path, width, indptr, starts)

    def rows(self) -> NDArray[np.int64]:
        """Row of each cell in the user's order."""
        return np.fromfile(self.path, dtype="<i8", offset=self._place(int(self.starts[-1])))

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Entries of rows."""
        return self.indptr[rows + 1] - self.indptr[rows]

    def advise(self, rows: NDArray[np.int64]) -> None:
        """Tell the system that ascending rows are read next: the disk works on many runs at once."""
        if hasattr(os, "posix_fadvise"):  # absent on macOS
            with self.path.open("rb", buffering=0) as file:
                for begin, end in runs(rows, self.starts):
                    os.posix_fadvise(file.fileno(), self._place(begin), 8 * (end - begin), os.POSIX_FADV_WILLNEED)

    def read_into(self, rows: NDArray[np.int64], data: NDArray[np.float32], indices: NDArray[np.int32]) -> int:
        """Fill the fronts of ``data`` and ``indices`` with ascending rows; how many entries that were."""
        lengths, entries = self.starts[rows + 1] - self.starts[rows], self.lengths(rows)
        ends, done = np.cumsum(lengths), np.concatenate([[0], np.cumsum(entries)])
        cuts = np.flatnonzero(np.diff(ends // AT_ONCE)) + 1
        edges = [0, *cuts.tolist(), len(rows)]
        most = max(int(lengths[low:high].sum()) for low, high in pairwise(edges))
        words = np.empty(most + 1, dtype="<u8")
        with self.path.open("rb", buffering=0) as file:
            for low, high in pairwise(edges):
                filled = 0
                for begin, end in runs(rows[low:high], self.starts):
                    fill(file, words[filled : filled + end - begin], self._place(begin))
                    filled += end - begin
                here = slice(done[low], done[high])
                some = lengths[low:high], entries[low:high]
                bad = unpack_rows(words[: filled + 1], *some, self.width, indices[here], data[here])
                if bad >= 0:
                    raise DataError(
                        f"{self.path} is damaged: the counts of its row {rows[low + bad]:,} fail their checksum. "
                        "Write the store anew from its source, or put back a good copy of that file."
                    )
        return int(done[-1])

    def _place(self, word: int) -> int:
        return HEADER.size + 8 * (len(self.starts) - 1) + 8 * word


def runs(rows: NDArray[np.int64], pointer: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where neighbours among ascending rows begin and end, by ``pointer``."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    first = rows[np.concatenate([[0], breaks])]
    last = rows[np.concatenate([breaks, [len(rows)]]) - 1]
    return list(zip(pointer[first].tolist(), pointer[last + 1].tolist(), strict=True))


def fill(file: Any, array: NDArray[Any], offset: int) -> None:
    """Read bytes from ``offset`` on until an array is full."""
    view = array.data.cast("B")
    file.seek(offset)
    while len(view):
        got = file.readinto(view)
        if not got:
            raise DataError(f"{file.name} ends too early: the store was changed or damaged. Write it anew.")
        view = view[got:]
