"""What was handed in: AnnData, MuData, cells, or a path, whose kind is told by its content and not by its name.

Every source becomes tables (``Table``): cell names, features and matrices that are opened only when looked at. Only
the ``obs`` and ``var`` of a file are read here; matrices, embeddings and graphs stay where they are.
Leaves out: 10x files (``data.tenx``), the choice of a matrix (``data.counts``), modalities (``data.assign``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.backed import Engine, Handle, canonical, check_dtype, open_matrix, open_root, reading
from syncyte.data.cells import Cells, MemoryRows, Part, Rows
from syncyte.data.chunks import check_names
from syncyte.data.counts import Slot
from syncyte.errors import DataError, nearest

if TYPE_CHECKING:
    from anndata import AnnData

EDGE = 2**20  # bytes of either end of a file that its fingerprint covers
MATRIX = "matrix.mtx"


@dataclass(frozen=True)
class PickedRows:
    """Some rows of other rows, in a given order."""

    rows: Rows
    index: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.index), self.rows.shape[1]

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for."""
        return self.rows.read(self.index[rows])


@dataclass(frozen=True)
class Table:
    """One AnnData-like table: cells by features, with one or more matrices.

    Attributes
    ----------
    label
        How messages name it.
    obs, var
        Tables of cells and features; the index of ``obs`` holds the cell names.
    slots
        Its matrices, the most trusted first.
    key
        Its key in a MuData, or the modality it is known to be; None for a plain table.
    """

    label: str
    obs: pd.DataFrame
    var: pd.DataFrame
    slots: tuple[Slot, ...]
    key: str | None = None


@dataclass(frozen=True)
class Source:
    """One thing handed in.

    Attributes
    ----------
    label
        How messages name it.
    tables
        Its tables.
    obs
        Shared covariates of a MuData or of cells, else None.
    origin
        Path, size and fingerprint, for the report.
    """

    label: str
    tables: tuple[Table, ...]
    obs: pd.DataFrame | None = None
    origin: dict[str, Any] = field(default_factory=dict)


def kind_of(path: Path) -> str:
    """Kind of a path by content: ``h5ad``, ``h5mu``, ``zarr``, ``10x``, ``mtx`` or ``store``.

    Raises
    ------
    DataError
        If there is nothing there, or nothing that can be read; the message says what it looks like.
    """
    if not path.exists():
        raise DataError(_missing(path))
    if path.is_dir():
        return _kind_of_folder(path)
    if path.name.removesuffix(".gz").endswith(MATRIX):
        return "mtx"
    import h5py

    if not h5py.is_hdf5(path):
        raise DataError(_not_hdf5(path))
    with open_root(path, "hdf5") as root, reading(path):
        keys = set(root)
        if "mod" in keys:
            return "h5mu"
        if {"obs", "var"} <= keys:
            return "h5ad"
        if "matrix" in keys or any("barcodes" in root[key] for key in keys if hasattr(root[key], "keys")):
            return "10x"
    raise DataError(
        f"{path} is an HDF5 file but neither AnnData, MuData nor a 10x matrix (it holds "
        f"{', '.join(sorted(keys)) or 'nothing'}). Save it with adata.write_h5ad(...) or mdata.write(...)."
    )


def _kind_of_folder(path: Path) -> str:
    names = {entry.name for entry in path.iterdir()}
    if "manifest.json" in names and '"syncyte-store"' in (path / "manifest.json").read_text(errors="replace"):
        return "store"
    if names & {"zarr.json", ".zgroup", ".zattrs"}:
        return "zarr"
    if any(name.removesuffix(".gz").endswith(MATRIX) for name in names):
        return "mtx"
    inside = sorted(
        entry for entry in path.iterdir() if entry.suffix in (".h5ad", ".h5mu", ".h5", ".zarr") or _is_mtx(entry)
    )
    hint = f" Did you mean {inside[0]}?" if inside else ""
    raise DataError(
        f"The folder {path} is no zarr folder, 10x folder ({MATRIX}, barcodes.tsv, features.tsv) or store of "
        f"syncyte.{hint}"
    )


def _is_mtx(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in (MATRIX, MATRIX + ".gz"))


def _missing(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        while not parent.is_dir():
            parent = parent.parent
        return f"There is no {path}: its folder does not exist (the nearest that does is {parent.absolute()})."
    close = nearest(path.name, sorted(entry.name for entry in parent.iterdir()))
    return f"There is no {path}." + (
        f" Did you mean {parent / close[0]}?" if close else f" {parent.absolute()} holds no such name."
    )


def _not_hdf5(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return f"{path} is empty (0 bytes). The step that wrote it was cut short: write or download it again."
    if head[:2] == b"\x1f\x8b":
        return (
            f"{path} is gzip-compressed, not HDF5. If the file inside is HDF5, unpack it first: "
            f"gunzip -c {path.name} > unpacked{path.suffix if path.suffix != '.gz' else path.with_suffix('').suffix}"
        )
    if head[:2] == b"PK":
        return f"{path} is a zip archive. Unpack it and give the file or folder inside."
    if b"\x00" not in head:
        first = head.decode(errors="replace").splitlines()[0][:60]
        return (
            f"{path} is a text file (it begins {first!r}), not HDF5. A page instead of the file? Download it again. "
            "A table of counts? Read it with anndata.io.read_csv and save it with adata.write_h5ad(...)."
        )
    return f"{path} is not HDF5, or its beginning is damaged. Compare its size with the original and copy it again."


def open_source(source: Any, modality: str | None = None) -> Source:
    """Open one source.

    Parameters
    ----------
    source
        Path, AnnData, MuData or cells.
    modality
        Canonical name the user gave for plain tables, or None.

    Raises
    ------
    DataError
        If it cannot be read, or is of no known type.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source).expanduser(), modality)
    if isinstance(source, Cells):
        return _from_cells(source, "cells", {"kind": "cells"})
    from anndata import AnnData
    from mudata import MuData

    if isinstance(source, MuData):
        keys = {key: adata for key, adata in source.mod.items() if isinstance(adata, AnnData)}
        tables = tuple(from_anndata(adata, f"MuData[{key!r}]", key) for key, adata in keys.items())
        return Source("MuData", tables, source.obs, {"kind": "MuData in memory"})
    if isinstance(source, AnnData):
        return Source("AnnData", (from_anndata(source, "AnnData", modality),), None, {"kind": "AnnData in memory"})
    raise DataError(
        f"Cannot read cells from {type(source).__name__}. Give a path, an AnnData, a MuData, or a list of them."
    )


def _open_path(path: Path, modality: str | None) -> Source:
    kind = kind_of(path)
    origin = {"path": str(path), "kind": kind, **fingerprint(path)}
    if kind == "store":
        from syncyte.data.store import open_store

        return _from_cells(open_store(path), path.name, origin)
    if kind in ("10x", "mtx"):
        from syncyte.data import tenx

        with reading(path):
            table = tenx.open_h5(path, modality) if kind == "10x" else tenx.open_mtx(path, modality)
        return Source(path.name, (table,), None, origin)
    engine: Engine = "zarr" if kind == "zarr" else "hdf5"
    with ExitStack() as stack, reading(path):
        root = open_root(path, engine)
        if engine == "hdf5":
            stack.enter_context(root)
        if "mod" not in root:
            return Source(path.name, (_from_group(path, root, engine, "/", path.name, modality),), None, origin)
        mods = root["mod"]
        order = [str(key) for key in mods.attrs.get("mod-order", sorted(mods))]
        order += sorted(set(mods) - set(order))
        tables = tuple(
            _from_group(path, mods[key], engine, f"/mod/{key}", f"{path.name}[{key!r}]", key)
            for key in order
            if "obs" in mods[key]
        )
        return Source(path.name, tables, _read_table(root["obs"], path.name), origin)


def _read_table(group: Any, label: str) -> pd.DataFrame:
    from anndata.io import read_elem

    index = group[group.attrs["_index"]] if hasattr(group, "store") and "_index" in group.attrs else None
    if index is not None and hasattr(index, "shape") and index.dtype.kind not in "iuf":
        check_names(index, f"{label}, {group.name.strip('/')},")
    table = read_elem(group)
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{label} is damaged: {group.name} is no table. Copy the file again, or write it anew.")
    return table


def _from_group(path: Path, group: Any, engine: Engine, prefix: str, label: str, key: str | None) -> Table:
    """Table of an AnnData on disk; matrices stay there."""
    if not hasattr(group["obs"], "keys"):  # anndata before 0.7 kept obs as one compound array
        from anndata.io import read_h5ad

        return from_anndata(read_h5ad(path), label, key)
    obs, var = _read_table(group["obs"], label), _read_table(group["var"], label)

    def slot(inner: str, name: str, features: pd.DataFrame) -> Slot:
        handle = Handle(str(path), f"{prefix.rstrip('/')}/{inner}", engine)
        return Slot(name, partial(open_matrix, handle, f"{label}, {name},"), features, handle)

    layers = list(group["layers"]) if "layers" in group else []
    slots = [slot("layers/counts", "layers['counts']", var)] if "counts" in layers else []
    if "raw" in group and "X" in group["raw"]:
        slots.append(slot("raw/X", "raw.X", _read_table(group["raw"]["var"], label)))
    if "X" in group and group["X"].attrs.get("encoding-type") != "null":
        slots.append(slot("X", "X", var))
    slots += [slot(f"layers/{name}", f"layers[{name!r}]", var) for name in layers if name != "counts"]
    return Table(label, obs, var, tuple(slots), key)


def from_anndata(adata: AnnData, label: str, key: str | None = None) -> Table:
    """Table of an AnnData in memory (or backed); nothing of it is copied until a matrix is opened."""

    def slot(holder: Any, inner: str | None, name: str, features: pd.DataFrame) -> Slot:
        return Slot(name, partial(_memory_rows, holder, inner, f"{label}, {name},"), features)

    layers: Mapping[str, Any] = adata.layers
    slots = [slot(layers, "counts", "layers['counts']", adata.var)] if "counts" in layers else []
    if adata.raw is not None:
        slots.append(slot(adata.raw, None, "raw.X", adata.raw.var))
    if adata.X is not None:
        slots.append(slot(adata, None, "X", adata.var))
    slots += [slot(layers, name, f"layers[{name!r}]", adata.var) for name in layers if name != "counts"]
    return Table(label, adata.obs, adata.var, tuple(slots), key)


def _memory_rows(holder: Any, inner: str | None, label: str) -> Rows:
    matrix = holder.X if inner is None else holder[inner]
    if sp.issparse(matrix):
        check_dtype(matrix.dtype, label)
        return MemoryRows(canonical(matrix))
    if isinstance(matrix, np.ndarray):
        check_dtype(matrix.dtype, label)
        blocks = [canonical(matrix[start : start + 4096]) for start in range(0, len(matrix), 4096)]
        return MemoryRows(sp.vstack(blocks, format="csr") if blocks else canonical(matrix))
    node = matrix.group if hasattr(matrix, "group") else matrix
    if hasattr(node, "attrs") and hasattr(node, "name"):
        return open_matrix(Handle.of(node), label)
    raise DataError(
        f"{label} is a {type(matrix).__module__}.{type(matrix).__name__}, which is not read here. Give the path of the "
        "file (it is read from disk as needed), or a numpy or scipy matrix."
    )


def _from_cells(cells: Cells, label: str, origin: dict[str, Any]) -> Source:
    tables = []
    for name, part in cells.parts.items():
        rows = np.flatnonzero(part.index >= 0)
        slot = Slot("X", partial(_picked, part, rows), part.var)
        tables.append(Table(f"{label}[{name!r}]", cells.obs.iloc[rows][[]], part.var, (slot,), name))
    return Source(label, tuple(tables), cells.obs, origin)


def _picked(part: Part, rows: np.ndarray) -> Rows:
    return PickedRows(part.rows, part.index[rows])


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and a cheap hash: of both ends of a file; of the names, sizes and largest file of a folder."""
    digest = hashlib.sha256()
    if path.is_file():
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(file.read(EDGE))
            file.seek(max(0, size - EDGE))
            digest.update(file.read(EDGE))
    else:
        files = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        sizes = [file.stat().st_size for file in files]
        size = sum(sizes)
        for entry, length in zip(files, sizes, strict=True):
            digest.update(f"{entry.relative_to(path).as_posix()}:{length}\n".encode())
        if files:
            with files[int(np.argmax(sizes))].open("rb") as file:
                digest.update(file.read(EDGE))
    return {"bytes": size, "fingerprint": f"sha256-ends:{digest.hexdigest()}"}
