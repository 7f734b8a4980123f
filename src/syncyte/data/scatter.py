"""Rows of one modality on their way from the order of the source to shuffled shards.

One pass over the source in its own order; each row goes to the end of its shard's scratch file, plain or packed
already. Time does not suffer from the shuffle so, and memory is about one block of rows, then one shard.
Leaves out: the shards themselves (``data.shards``, ``data.packed``) and what is written beside them (``data.store``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.backed import canonical
from syncyte.data.cells import Part
from syncyte.data.packed import pack_rows
from syncyte.data.shards import smallest_dtype
from syncyte.errors import DataError

ROWS = 2048  # scattered at once: with a thousand open regions each some 20 MB


class Scratch:
    """Scratch files of one modality.

    Parameters
    ----------
    folder
        To be made; the caller removes it.
    modality, part
        What to scatter.
    order
        ``(cells,)`` shuffled row numbers.
    shard_cells
        Cells in a shard, as they follow in ``order``.
    compact
        Pack rows on the way.
    """

    def __init__(
        self, folder: Path, modality: str, part: Part, order: NDArray[np.int64], shard_cells: int, compact: bool
    ) -> None:
        self.folder = folder
        self.modality = modality
        self.part = part
        self.compact = compact
        self.members = [order[start : start + shard_cells] for start in range(0, len(order), shard_cells)]
        self.members = [cells[part.index[cells] >= 0] for cells in self.members]
        self.shard_of = np.empty(len(order), dtype=np.int64)
        self.shard_of[order] = np.arange(len(order)) // shard_cells
        self.lengths = np.zeros(len(order), dtype=np.int64)
        self.sizes = np.zeros(len(order) if compact else 0, dtype=np.int64)  # words of each cell
        self.largest = np.zeros(len(self.members), dtype=np.int64)

    def fill(self, tick: Callable[[int], None]) -> None:
        """Scatter all rows; ``tick`` is told how many cells were done."""
        self.folder.mkdir()
        index = self.part.index
        measured = np.flatnonzero(index >= 0)
        measured = measured[np.argsort(index[measured], kind="stable")]
        for start in range(0, len(measured), ROWS):
            cells = measured[start : start + ROWS]
            block = self.part.rows.read(index[cells])
            check_raw(block, self.modality)
            if self.compact:
                block = canonical(block)
            self.lengths[cells] = np.diff(block.indptr)
            self._append(cells, block)
            tick(len(cells))

    def _append(self, cells: NDArray[np.int64], block: sp.csr_matrix) -> None:
        """Rows to the files of their shards."""
        np.maximum.at(self.largest, self.shard_of[cells], _largest(block))
        order = np.argsort(self.shard_of[cells], kind="stable")
        cells = cells[order]
        if self.compact:  # packed rows are put in order: they are a fifth of the counts
            words, sizes = pack_rows(block)
            self.sizes[cells] = sizes[order]
            arrays, ends = {"words": _moved(words, sizes, order)}, np.cumsum(sizes[order])
        else:
            block = block[order]
            arrays, ends = {"data": block.data.astype("<u4"), "indices": block.indices.astype("<i4")}, block.indptr[1:]
        edges = np.concatenate([[0], ends])
        shards, begins = np.unique(self.shard_of[cells], return_index=True)
        for shard, first, last in zip(shards, begins, np.append(begins[1:], len(cells)), strict=True):
            for kind, values in arrays.items():
                self._write(f"{shard}.{kind}", values[edges[first] : edges[last]])

    def _write(self, name: str, values: NDArray[Any]) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(values.data)

    def counts(self, number: int) -> sp.csr_matrix:
        """Take the counts of a shard in shuffled order; its scratch is removed."""
        cells = self.members[number]
        data, indices = (self._take(f"{number}.{kind}", dtype) for kind, dtype in (("data", "<u4"), ("indices", "<i4")))
        data = data.astype(smallest_dtype(int(self.largest[number])))
        arrived, back = self._arrival(cells)
        indptr = np.concatenate([[0], np.cumsum(self.lengths[cells[arrived]])])
        return sp.csr_matrix((data, indices, indptr), shape=(len(cells), len(self.part.var)))[back]

    def words(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
        """Take the packed rows of a shard in shuffled order: words, words a cell, entries a cell."""
        cells = self.members[number]
        words = self._take(f"{number}.words", "<u4")
        arrived, back = self._arrival(cells)
        return _moved(words, self.sizes[cells[arrived]], back), self.sizes[cells], self.lengths[cells]

    def _arrival(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Order in which ``fill`` met the cells of a shard, and the way back from it."""
        arrived = np.lexsort((cells, self.part.index[cells]))
        back = np.empty(len(cells), dtype=np.int64)
        back[arrived] = np.arange(len(cells))
        return arrived, back

    def _take(self, name: str, dtype: str) -> NDArray[Any]:
        path = self.folder / name
        if not path.exists():
            return np.zeros(0, dtype=dtype)
        values = np.fromfile(path, dtype=dtype)
        path.unlink()
        return values


def _moved(words: NDArray[np.uint32], sizes: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Packed rows in another order."""
    from syncyte.data.pack_kernels import gather

    out = np.empty(int(sizes.sum()), dtype=np.uint32)
    gather(words, (np.cumsum(sizes) - sizes)[order], sizes[order], out)
    return out


def _largest(block: sp.csr_matrix) -> NDArray[np.int64]:
    """Largest count of each row, 0 in an empty one."""
    found = np.maximum.reduceat(np.append(block.data, np.float32(0)), block.indptr[:-1])
    return np.where(np.diff(block.indptr) > 0, found, 0).astype(np.int64)


def check_raw(block: sp.csr_matrix, modality: str) -> None:
    """Refuse counts that a store cannot hold: negative ones, fractions, 2 ** 32 and more."""
    bad = (block.data < 0) | (block.data != np.rint(block.data)) | (block.data >= 2**32)
    if bad.any():
        raise DataError(
            f"The {modality} counts hold {block.data[bad][0]:g}; a store holds raw counts (whole numbers from 0 to "
            "2 ** 32 - 1). Give the layer with raw counts."
        )
