"""Shards: raw counts of some cells of one modality, in a file plain anndata opens and numpy reads at full speed.

A shard is an ``.h5ad`` whose CSR arrays are neither compressed nor chunked, so each is one run of bytes in the file.
HDF5 tells where the runs begin; rows are then read straight into the arrays handed out, as fast as from a flat file.
Leaves out: which cell lies where and what the files should be (``data.store``).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.manifest import Shard, damaged
from syncyte.errors import DataError

L = TypeVar("L")  # where things lie in a shard


def smallest_dtype(largest: int) -> np.dtype:
    """Smallest unsigned type of 8, 16 or 32 bits that holds counts up to ``largest``."""
    for dtype in ("<u1", "<u2"):
        if largest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype("<u4")


def write_shard(path: Path, counts: sp.csr_matrix, obs: pd.DataFrame, names: pd.Index) -> None:
    """Write one shard; ``counts`` keep their integer type."""
    import anndata

    index_dtype = "<i4" if counts.nnz <= np.iinfo(np.int32).max else "<i8"
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "/", anndata.AnnData(obs=obs, var=pd.DataFrame(index=names)))
        # anndata itself would make resizable, hence chunked, datasets
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": counts.shape})
        group.create_dataset("data", data=counts.data)
        group.create_dataset("indices", data=counts.indices.astype("<i4", copy=False))
        group.create_dataset("indptr", data=counts.indptr.astype(index_dtype, copy=False))


@dataclass(frozen=True, eq=False)
class Laid(ABC, Generic[L]):
    """Shards of one modality, laid end to end. Holds no open file, so it can be pickled and forked."""

    folder: Path
    shards: tuple[Shard, ...]
    width: int
    _layouts: dict[int, L] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sum(shard.cells for shard in self.shards), self.width

    @abstractmethod
    def _open(self, path: Path, shard: Shard) -> L:
        """Where things lie in the file of a shard."""

    def _layout(self, number: int) -> L:
        if number not in self._layouts:
            shard = self.shards[number]
            try:
                self._layouts[number] = self._open(self.folder / shard.file.path, shard)
            except (OSError, KeyError, ValueError) as error:
                raise damaged(self.folder, shard.file.path, str(error)) from error
        return self._layouts[number]

    def _located(self, rows: NDArray[np.int64]) -> list[tuple[L, NDArray[np.int64]]]:
        """Layouts of the shards that hold ascending rows, each with its own among them."""
        starts = np.cumsum([0, *(shard.cells for shard in self.shards)])
        bounds = np.searchsorted(rows, starts)
        return [
            (self._layout(i), rows[bounds[i] : bounds[i + 1]] - starts[i])
            for i in np.flatnonzero(np.diff(bounds)).tolist()
        ]


class ShardRows(Laid["_Layout"]):
    """Rows of plain shards."""

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for: CSR float32. Ascending rows are fastest: neighbours are read in one go."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) > 1 and not (np.diff(rows) > 0).all():
            ascending, back = np.unique(rows, return_inverse=True)
            return self.read(ascending)[back]
        wanted = self._located(rows)
        lengths = [layout.lengths(local) for layout, local in wanted]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])
        data = np.empty(indptr[-1], dtype=np.float32)
        indices = np.empty(indptr[-1], dtype=np.int32)
        done = 0
        for layout, local in wanted:
            done += layout.read_into(local, data[done:], indices[done:])
        if done <= np.iinfo(np.int32).max:
            indptr = indptr.astype(np.int32)  # scipy wants both index arrays of one type
        matrix = sp.csr_matrix((data, indices, indptr), shape=(len(rows), self.width), copy=False)
        matrix.has_canonical_format = True
        return matrix

    def _open(self, path: Path, shard: Shard) -> _Layout:
        return _Layout.of(path, shard.cells)


class _Layout(NamedTuple):
    """Where the arrays of a shard lie in its file."""

    path: Path
    indptr: NDArray[np.int64]
    data_dtype: np.dtype
    data_offset: int
    indices_offset: int

    @classmethod
    def of(cls, path: Path, cells: int) -> _Layout:
        """Find the arrays of a shard; ``ValueError`` says what is wrong with it."""
        with h5py.File(path, "r") as file:
            data, indices, indptr = (file["X"][key] for key in ("data", "indices", "indptr"))
            if indptr.shape != (cells + 1,) or indices.dtype != np.dtype("<i4") or data.chunks or indices.chunks:
                raise ValueError("its count arrays are not laid out as a store's are")
            offsets = [array.id.get_offset() or 0 for array in (data, indices)]  # None where nothing is stored
            return cls(path, indptr[:], data.dtype, *offsets)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return (self.indptr[rows + 1] - self.indptr[rows]).astype(np.int64)

    def read_into(self, rows: NDArray[np.int64], data: NDArray[np.float32], indices: NDArray[np.int32]) -> int:
        """Fill the fronts of ``data`` and ``indices`` with ascending rows; how many entries that were."""
        first, last = runs_of(rows)
        runs = list(zip(self.indptr[first].tolist(), self.indptr[last + 1].tolist(), strict=True))
        raw = np.empty(int(self.lengths(rows).sum()), dtype=self.data_dtype)
        done = 0
        with self.path.open("rb", buffering=0) as file:
            for offset, width in ((self.data_offset, raw.itemsize), (self.indices_offset, indices.itemsize)):
                advise(file, offset, width, runs)
            for begin, end in runs:
                size = end - begin
                fill(file, raw[done : done + size], self.data_offset + begin * raw.itemsize)
                fill(file, indices[done : done + size], self.indices_offset + begin * indices.itemsize)
                done += size
        data[:done] = raw
        return done


def runs_of(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last of each run of neighbours among ascending rows."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return rows[np.concatenate([[0], breaks])], rows[np.concatenate([breaks, [len(rows)]]) - 1]


def advise(file: Any, offset: int, width: int, runs: list[tuple[int, int]]) -> None:
    """Tell the system which entries of an array in a file are wanted, so that the disk works on many runs at once."""
    if len(runs) > 1 and hasattr(os, "posix_fadvise"):  # absent on macOS
        for begin, end in runs:
            os.posix_fadvise(file.fileno(), offset + begin * width, (end - begin) * width, os.POSIX_FADV_WILLNEED)


def fill(file: Any, array: NDArray[Any], offset: int) -> None:
    """Fill an array with the bytes of a file from ``offset`` on."""
    view = array.data.cast("B")
    file.seek(offset)
    while len(view):
        got = file.readinto(view)
        if not got:
            raise DataError(f"{file.name} ends too early: the store was changed or damaged. Write it anew.")
        view = view[got:]
