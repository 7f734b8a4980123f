"""Rows of matrices that stay on disk: CSR, CSC and dense, in HDF5 files and zarr folders.

Only the row pointers of a CSR matrix are held in memory (8 bytes a cell). A CSC matrix, which cannot be read by rows,
is turned once into a temporary CSR file; a dense one is read and sparsified a few rows at a time. Handles are opened
on first use and again after a fork or pickling, so any worker may hold these rows.
Leaves out: whether the values are counts (``data.counts``) and which matrix of a file to take (``data.sources``).
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.cells import MemoryRows, Rows
from syncyte.data.chunks import absent, check_sparse, check_whole
from syncyte.errors import DataError

GAP = 2048  # entries read through rather than around, when two wanted rows lie this close
SMALL = 500_000_000  # bytes: a CSC matrix up to this size is turned in memory
CHUNK = 8_000_000  # entries handled at once when a larger one is turned on disk
DENSE_CELLS = 512  # dense rows held at once
MANY = 5_000_000  # stored values from which compression is worth a word
CACHE = 32 * 2**20  # bytes of decompressed HDF5 chunks kept per dataset

Engine = Literal["hdf5", "zarr"]


@dataclass
class Handle:
    """Place of one group or array on disk, opened lazily and once a process."""

    path: str
    key: str
    engine: Engine
    _root: Any = field(default=None, repr=False, compare=False)
    _node: Any = field(default=None, repr=False, compare=False)
    _pid: int = field(default=-1, repr=False, compare=False)

    @classmethod
    def of(cls, node: Any) -> Handle:
        """Handle of a group or array that somebody has opened already (a backed AnnData)."""
        import h5py

        if isinstance(node, h5py.Group | h5py.Dataset):
            return cls(node.file.filename, node.name, "hdf5", None, node, os.getpid())
        root = getattr(node.store, "root", None) or getattr(node.store, "path", "")
        return cls(str(root), node.path or "/", "zarr", None, node, os.getpid())

    def node(self) -> Any:
        """Open the group or array, where it is not open yet."""
        if self._node is None or self._pid != os.getpid():
            self._root, self._pid = open_root(self.path, self.engine), os.getpid()
            with reading(self.path):
                self._node = self._root[self.key]
        return self._node

    def close(self) -> None:
        """Close the file until the next read, so that its owner may write to it; what others opened stays open."""
        if self._root is not None:
            if self.engine == "hdf5" and self._pid == os.getpid():
                self._root.close()
            self._root = self._node = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_root": None, "_node": None, "_pid": -1}


def open_root(path: str | os.PathLike[str], engine: Engine) -> Any:
    """Open a file or folder for reading.

    Raises
    ------
    DataError
        If it is damaged, cut short or not readable.
    """
    try:
        if engine == "hdf5":
            import h5py

            return h5py.File(path, "r", rdcc_nbytes=CACHE)
        import zarr

        return zarr.open_group(str(path), mode="r")
    except FileNotFoundError:
        raise DataError(
            f"{path} is gone: it was there when the cells were opened. Put it back or open it anew."
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} cannot be opened ({error}). It is damaged, cut short or still being written: compare its size "
            "with the original and copy or download it again."
        ) from error


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what libraries raise on damaged content into a sentence that names the file."""
    try:
        yield
    except (DataError, AttributeError, NameError):  # the latter two would be faults of ours
        raise
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read ({cause}). It is damaged or was not written by anndata, mudata or 10x software: "
            "copy it again, or open it with the tool that made it and save it anew."
        ) from error


def check_dtype(dtype: np.dtype, label: str) -> None:
    """Refuse matrices whose values are not plain real numbers.

    Raises
    ------
    DataError
        For booleans, text, complex numbers and objects, with the line that mends it where there is one.
    """
    if dtype.kind in "iuf":
        return
    if dtype.kind == "b":
        raise DataError(
            f"{label} holds booleans, not counts. If true means open or detected, write it as numbers: "
            'adata.X = adata.X.astype("float32")'
        )
    found = "holds text" if dtype.kind in "SUOT" else f"holds values of type {dtype}"
    raise DataError(f"{label} {found}, not numbers; raw counts are needed. Read the table with numeric columns.")


def canonical(matrix: Any) -> sp.csr_matrix:
    """CSR float32, duplicates summed, indices sorted, no stored zeros. The argument is left as it is."""
    source = sp.csr_matrix(matrix)
    block = sp.csr_matrix((source.data.astype(np.float32, copy=False), source.indices, source.indptr), source.shape)
    if not block.has_canonical_format or not block.data.all():
        block = block.copy()  # the arrays may be the user's
        block.sum_duplicates()
        block.eliminate_zeros()
    return block


def runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Half-open runs of neighbouring numbers in ascending unique row numbers."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    for part in np.split(rows, cuts):
        if len(part):
            yield int(part[0]), int(part[-1]) + 1


@dataclass(frozen=True)
class CsrRows:
    """Rows of a CSR matrix on disk (a group with ``data`` and ``indices``)."""

    handle: Handle
    shape: tuple[int, int]
    indptr: NDArray[np.int64] = field(repr=False)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(cells,)`` stored entries of each row."""
        return np.diff(self.indptr)

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for; neighbouring rows are fetched in one go."""
        if len(rows) == 0:
            return sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        unique, inverse = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        start, stop = self.indptr[unique], self.indptr[unique + 1]
        with reading(self.handle.path):
            data, indices, offset = self._fetch(start, stop)
        lengths = stop - start
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        if len(data) != indptr[-1]:  # something was read through
            take = np.repeat(offset - indptr[:-1], lengths) + np.arange(indptr[-1])
            data, indices = data[take], indices[take]
        _check_indices(self.handle, indices, self.shape[1], "feature")
        block = canonical(sp.csr_matrix((data, indices, indptr), shape=(len(unique), self.shape[1])))
        return block if np.array_equal(unique, rows) else block[inverse]

    def _fetch(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
        """Entries of the spans that cover all rows, and where each row starts in them."""
        group = self.handle.node()
        first = np.flatnonzero(np.concatenate([[True], start[1:] > stop[:-1] + GAP]))
        begin, end = start[first], stop[np.append(first[1:] - 1, len(stop) - 1)]
        pieces = [(int(a), int(b)) for a, b in zip(begin, end, strict=True) if b > a]
        stored, columns = group["data"], group["indices"]
        data = np.concatenate([np.empty(0, stored.dtype), *(stored[a:b] for a, b in pieces)])
        indices = np.concatenate([np.empty(0, columns.dtype), *(columns[a:b] for a, b in pieces)])
        base = np.cumsum(end - begin) - (end - begin)
        owner = np.searchsorted(first, np.arange(len(start)), side="right") - 1
        return data, indices, base[owner] + start - begin[owner]


@dataclass(frozen=True)
class DenseRows:
    """Rows of a dense array on disk, sparsified as they are read."""

    handle: Handle
    shape: tuple[int, int]

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for; at most ``DENSE_CELLS`` dense rows exist at a time."""
        array = self.handle.node()
        unique, inverse = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        blocks = [sp.csr_matrix((0, self.shape[1]), dtype=np.float32)]
        for first, last in runs(unique):
            for start in range(first, last, DENSE_CELLS):
                with reading(self.handle.path):
                    block = array[start : min(start + DENSE_CELLS, last)]
                blocks.append(canonical(block))
        block = canonical(sp.vstack(blocks, format="csr"))
        return block if np.array_equal(unique, rows) else block[inverse]


def open_matrix(handle: Handle, label: str) -> Rows:
    """Rows over a matrix that anndata wrote.

    Parameters
    ----------
    handle
        Where it is.
    label
        How messages name it.

    Raises
    ------
    DataError
        If it is no two-dimensional matrix of numbers.
    """
    node = handle.node()
    with reading(handle.path):
        kind = str(node.attrs.get("encoding-type") or node.attrs.get("h5sparse_format") or "")
        if kind[:3] in ("csr", "csc"):
            shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
            check_dtype(node["data"].dtype, label)
            size = (int(shape[0]), int(shape[1]))
            indptr = np.asarray(node["indptr"][:], dtype=np.int64)
            majors, width = size if kind[:3] == "csr" else size[::-1]
            _check_lengths(node, indptr, majors, label)
            if handle.engine == "zarr":
                check_sparse(node, indptr, width, label)
            return CsrRows(handle, size, indptr) if kind[:3] == "csr" else turned(handle, size, indptr)
        if len(getattr(node, "shape", ())) != 2:
            raise DataError(
                f"{label} is no matrix (found: {kind or type(node).__name__}). Write the file again with anndata."
            )
        check_dtype(node.dtype, label)
        if handle.engine == "zarr":
            check_whole(node, label)
        return DenseRows(handle, (int(node.shape[0]), int(node.shape[1])))


def storage_advice(handle: Handle) -> str:
    """Say what of the way a matrix is stored makes it slow to read by cells; nothing where all is well."""
    node = handle.node()
    kind = str(node.attrs.get("encoding-type") or node.attrs.get("h5sparse_format") or "")
    path = Path(handle.path)
    suffix = ".h5mu" if path.suffix == ".h5" else path.suffix  # 10x files may hold several modalities
    faster = f"faster: syncyte data convert {path.name} --out plain{suffix}"
    if kind.startswith("csc"):
        return f"is stored by features (CSC) and was turned into rows once for this run; {faster}"
    if hasattr(node, "shape"):
        gone = len(absent(node)) if handle.engine == "zarr" else 0
        if gone:
            return (
                f"lacks {gone:,} of its pieces, which read as zeros; if cells without counts are not expected, the "
                "folder is damaged: copy it again"
            )
        return f"is stored dense and is sparsified while it is read; {faster}"
    packed = getattr(node["data"], "compression", None)
    if packed and node["data"].shape[0] > MANY:
        return f"is compressed ({packed}), so single cells are slow to read; {faster}"
    return ""


def _check_indices(handle: Handle, indices: NDArray, width: int, what: str) -> None:
    if len(indices) and not 0 <= indices.min() <= indices.max() < width:
        worst = indices.min() if indices.min() < 0 else indices.max()
        raise DataError(
            f"{handle.path} ({handle.key}) names {what} {int(worst):,} of {width:,}. "
            "The file is damaged: copy or write it again."
        )


def _check_lengths(node: Any, indptr: NDArray[np.int64], majors: int, label: str) -> None:
    stored = node["data"].shape[0]
    if len(indptr) != majors + 1 or indptr[-1] != stored or node["indices"].shape[0] != stored:
        raise DataError(
            f"{label} is damaged: its row pointers speak of {int(indptr[-1]):,} values in {len(indptr) - 1:,} rows, "
            f"{stored:,} values and {majors:,} rows are there. Copy or write the file again."
        )
    if indptr[0] or np.any(np.diff(indptr) < 0):
        raise DataError(f"{label} is damaged: its row pointers go backwards. Copy or write the file again.")


def turned(handle: Handle, shape: tuple[int, int], indptr: NDArray[np.int64]) -> Rows:
    """Rows of a CSC matrix: in memory where it is small, else through a temporary CSR file.

    The file lies in the system's temporary folder (``TMPDIR``) until the process ends.
    """
    group = handle.node()
    if indptr[-1] * 8 <= SMALL:
        indices = group["indices"][:]
        _check_indices(handle, indices, shape[0], "cell")  # scipy does not, and would write anywhere
        matrix = sp.csc_matrix((group["data"][:], indices, indptr), shape=shape)
        return MemoryRows(canonical(matrix.tocsr()))
    folder = Path(tempfile.mkdtemp(prefix="syncyte-rows-"))
    atexit.register(_remove, folder, os.getpid())
    bands = -(-int(indptr[-1]) // CHUNK)
    edges = np.linspace(0, shape[0], bands + 1).astype(np.int64)
    _spill(handle, shape, indptr, edges, folder)
    return _gather(edges, folder, shape)


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked worker must not take the file away from its parent
        shutil.rmtree(folder, ignore_errors=True)


def _spill(handle: Handle, shape: tuple[int, int], indptr: NDArray, edges: NDArray, folder: Path) -> None:
    """First pass: cut the matrix into column blocks and append each, by bands of rows, to the bands' files."""
    group = handle.node()
    first = 0
    while first < shape[1]:
        last = max(first + 1, int(np.searchsorted(indptr, indptr[first] + CHUNK, side="right")) - 1)
        a, b = int(indptr[first]), int(indptr[last])
        indices = group["indices"][a:b]
        _check_indices(handle, indices, shape[0], "cell")
        columns = sp.csc_matrix(
            (group["data"][a:b], indices, indptr[first : last + 1] - a), shape=(shape[0], last - first)
        )
        block = columns.tocsr()
        for band, (top, bottom) in enumerate(pairwise(edges)):
            span = slice(block.indptr[top], block.indptr[bottom])
            _append(folder / f"{band}.row", np.repeat(np.arange(bottom - top), np.diff(block.indptr[top : bottom + 1])))
            _append(folder / f"{band}.column", block.indices[span] + first)
            _append(folder / f"{band}.value", block.data[span].astype(np.float32))
        first = last


def _append(path: Path, values: NDArray) -> None:
    with path.open("ab") as file:
        (values if values.dtype == np.float32 else values.astype(np.int32)).tofile(file)


def _gather(edges: NDArray, folder: Path, shape: tuple[int, int]) -> CsrRows:
    """Second pass: bring each band's entries into row order and write them one band below the other."""
    import h5py

    path = folder / "rows.h5"
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (0,), np.float32, maxshape=(None,), chunks=(65_536,))
        indices = file.create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(65_536,))
        for band, (top, bottom) in enumerate(pairwise(edges)):
            row = np.fromfile(folder / f"{band}.row", np.int32)
            order = np.argsort(row, kind="stable")  # columns were spilled in ascending order
            indptr[top + 1 : bottom + 1] = indptr[top] + np.cumsum(np.bincount(row, minlength=bottom - top))
            for dataset, name, kind in ((data, "value", np.float32), (indices, "column", np.int32)):
                values = np.fromfile(folder / f"{band}.{name}", kind)[order]
                dataset.resize((int(indptr[bottom]),))
                dataset[int(indptr[top]) :] = values
            for name in ("row", "column", "value"):
                (folder / f"{band}.{name}").unlink()
    return CsrRows(Handle(str(path), "/", "hdf5"), shape, indptr)
