"""Packed shards: the cells of one modality as words of bits, a fifth of the bytes of plain CSR and less.

::

    header   magic, cells, columns, non-zeros, words, bytes of an entry of either index, CRC-32 of all before the words
    sizes    (cells,) words of each cell, smallest unsigned type
    lengths  (cells,) entries of each cell, smallest unsigned type
    words    uint32, little-endian, cell after cell; each carries its own checksum (``data.pack_kernels``)

Any cell is read by itself. What is handed out is checked on the way: a cell whose bits are not those that were written
is an error that names its file. Names of features and covariates are kept once a store, not here. Leaves out: which
cell lies where and what the files should be (``data.store``), how bits are set (``data.pack_kernels``).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.manifest import Shard, damaged
from syncyte.data.shards import Laid, advise, fill, runs_of, smallest_dtype
from syncyte.errors import DataError

MAGIC = b"syncyte packed 1"
HEADER = struct.Struct("<16s6QII")  # the last number is spare
SPARE = 3  # words behind the last cell that the loops may look at; that of ``pack_kernels``, which is slow to import


def pack_rows(block: sp.csr_matrix) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Words of all rows, one behind the other, and how many each row has.

    Parameters
    ----------
    block
        ``(b, f)`` CSR of whole numbers from 1 to 2 ** 32 - 1; columns ascend in each row.

    Raises
    ------
    DataError
        If columns do not ascend or zeros are stored.
    """
    from syncyte.data.pack_kernels import pack

    rows = block.shape[0]
    words = np.zeros(3 * block.nnz + 8 * rows + SPARE, dtype=np.uint32)  # room for the worst; untouched pages are free
    sizes = np.zeros(rows, dtype=np.int64)
    indices = block.indices.astype(np.int32, copy=False)
    bad = pack(block.indptr.astype(np.int64, copy=False), indices, block.data.astype(np.uint32), words, sizes)
    if bad >= 0:
        raise DataError(
            f"Row {bad} of a block of counts has columns out of order or stored zeros; a compact store takes neither. "
            "Pass the matrix through sum_duplicates and eliminate_zeros."
        )
    return words[: int(sizes.sum())], sizes


def write_packed(
    path: Path, words: NDArray[np.uint32], sizes: NDArray[np.int64], lengths: NDArray[np.int64], width: int
) -> None:
    """Write one shard of cells whose words lie one behind the other."""
    index = [array.astype(smallest_dtype(int(array.max(initial=0)))) for array in (sizes, lengths)]
    facts = (len(sizes), width, int(lengths.sum()), len(words), *(array.itemsize for array in index))
    head = HEADER.pack(MAGIC, *facts, 0, 0)
    check = zlib.crc32(b"".join([head, *(array.tobytes() for array in index)]))
    with path.open("wb") as file:
        file.write(HEADER.pack(MAGIC, *facts, check, 0))
        for array in (*index, words.astype("<u4", copy=False)):
            file.write(array.data)


class PackedRows(Laid["_Layout"]):
    """Rows of packed shards."""

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for: CSR float32."""
        return self.hold(rows)[np.arange(len(rows))]

    def hold(self, rows: NDArray[np.int64]) -> PackedBlock:
        """Rows in the order asked for, read but not decoded yet; -1 gives an empty row. Neighbours are read at once."""
        rows = np.asarray(rows, dtype=np.int64)
        unique, inverse = np.unique(rows, return_inverse=True)
        found = unique[unique >= 0]
        wanted = self._located(found)
        absent = np.zeros(len(unique) - len(found), dtype=np.int64)
        sizes = np.concatenate([absent, *(layout.sizes[local] for layout, local in wanted)], dtype=np.int64)
        lengths = np.concatenate([absent, *(layout.lengths[local] for layout, local in wanted)], dtype=np.int64)
        words = np.empty(int(sizes.sum()) + SPARE, dtype=np.uint32)
        words[len(words) - SPARE :] = 0
        done = 0
        for layout, local in wanted:
            done += layout.read_into(local, words[done : len(words) - SPARE])
        begins = np.cumsum(sizes) - sizes
        return PackedBlock(self, rows, words, begins[inverse], sizes[inverse], lengths[inverse])

    def blame(self, row: int) -> DataError:
        """Error for a row whose bits are not those that were written."""
        number = int(np.searchsorted(np.cumsum([shard.cells for shard in self.shards]), row, side="right"))
        return damaged(self.folder, self.shards[number].file.path, "the bits of a cell are not those that were written")

    def _open(self, path: Path, shard: Shard) -> _Layout:
        return _Layout.of(path, shard, self.width)


@dataclass(frozen=True, eq=False)
class PackedBlock:
    """Some rows as they lie on disk; ``block[positions]`` decodes those at these positions, in that order.

    Attributes
    ----------
    source, rows
        Where they were read, and ``(b,)`` their numbers there.
    words
        The bits of all.
    begins, sizes, lengths
        ``(b,)`` first word of each, its words, its entries.
    """

    source: PackedRows
    rows: NDArray[np.int64]
    words: NDArray[np.uint32]
    begins: NDArray[np.int64]
    sizes: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __getitem__(self, positions: NDArray[np.int64]) -> sp.csr_matrix:
        """``(len(positions), f)`` CSR float32."""
        from syncyte.data.pack_kernels import unpack

        lengths = self.lengths[positions]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices, data = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.float32)
        width = self.source.width
        bad = unpack(self.words, self.begins[positions], self.sizes[positions], lengths, width, indices, data)
        if bad >= 0:
            raise self.source.blame(int(self.rows[positions][bad]))
        if indptr[-1] <= np.iinfo(np.int32).max:
            indptr = indptr.astype(np.int32)  # scipy wants both index arrays of one type
        matrix = sp.csr_matrix((len(lengths), width), dtype=np.float32)
        matrix.data, matrix.indices, matrix.indptr = data, indices, indptr  # not searched for faults once more
        matrix.has_canonical_format = True
        return matrix


class _Layout(NamedTuple):
    """The index of a shard, and where its words begin."""

    path: Path
    sizes: NDArray[Any]
    lengths: NDArray[Any]
    offset: int

    @classmethod
    def of(cls, path: Path, shard: Shard, width: int) -> _Layout:
        """Read and check the index of a shard; ``ValueError`` says what is wrong with it."""
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            if len(head) < HEADER.size or not head.startswith(MAGIC):
                raise ValueError("it does not begin as a packed shard does")
            _, cells, columns, nonzeros, words, *kinds, check, _ = HEADER.unpack(head)
            if (cells, columns, nonzeros) != (shard.cells, width, shard.nonzeros) or not {*kinds} <= {1, 2, 4}:
                raise ValueError(f"it says {cells:,} cells, {columns:,} columns and {nonzeros:,} non-zeros")
            raw = file.read(cells * sum(kinds))
        plain = HEADER.pack(*HEADER.unpack(head)[:-2], 0, 0)
        offset = HEADER.size + cells * sum(kinds)
        if path.stat().st_size != offset + 4 * words or zlib.crc32(plain + raw) != check:
            raise ValueError("its index is cut short or changed")
        sizes = np.frombuffer(raw, dtype=f"<u{kinds[0]}", count=cells)
        lengths = np.frombuffer(raw, dtype=f"<u{kinds[1]}", count=cells, offset=cells * kinds[0])
        if int(sizes.sum(dtype=np.int64)) != words or int(lengths.sum(dtype=np.int64)) != nonzeros:
            raise ValueError("its index does not add up")
        return cls(path, sizes, lengths, offset)

    def read_into(self, rows: NDArray[np.int64], words: NDArray[np.uint32]) -> int:
        """Fill the front of ``words`` with ascending rows; how many words that were."""
        ends = np.cumsum(self.sizes, dtype=np.int64)
        first, last = runs_of(rows)
        runs = list(zip((ends[first] - self.sizes[first]).tolist(), ends[last].tolist(), strict=True))
        done = 0
        with self.path.open("rb", buffering=0) as file:
            advise(file, self.offset, 4, runs)
            for begin, end in runs:
                fill(file, words[done : done + end - begin], self.offset + begin * 4)
                done += end - begin
        return done
