"""The store: cells shuffled once into shards, and a manifest that says what they are.

::

    STORE/manifest.json                   what is inside: sizes and SHA-256 of every file, seed, software, report
          cells.h5ad                      covariates of all cells in the user's order; where each cell lies
          features/<modality>.tsv.gz      name and columns of every feature
          shards/<modality>-00000.h5ad    raw counts: CSR, uncompressed and contiguous, smallest integer type
          shards/<modality>-00000.pack    the same packed, in a store written with ``compact``

Place ``p`` holds the user's cell ``numpy.random.default_rng(seed).permutation(cells)[p]`` and belongs to shard
``p // shard_cells``, in every modality the cell has. Writing passes once over the source in its own order and scatters
rows over one scratch file a shard, so that time does not suffer from the shuffle and memory is about one shard.
Leaves out: the inside of a shard (``data.shards``), opening users' files (``data.read``), order of reading
(``data.sample``).
"""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import json
import platform
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir
from syncyte.data.cells import BLOCK, Cells, Part
from syncyte.data.manifest import (
    FORMAT,
    PACKED,
    PLAIN,
    VERSIONS,
    Manifest,
    Shard,
    StoredFile,
    StoredModality,
    check_file,
    damaged,
    describe_file,
    hash_names,
    read_manifest,
    stored_files,
)
from syncyte.data.pack_file import write_packed
from syncyte.data.shards import ShardRows, smallest_dtype, write_shard
from syncyte.errors import ConfigError, DataError
from syncyte.types import json_ready

ORDER = "place p holds cell numpy.random.default_rng(seed).permutation(cells)[p]; its shard is p // shard_cells"
STORAGE = "syncyte_storage"  # obsm of cells.h5ad: row of each cell in the shards laid end to end, -1 = not measured
ROW = "syncyte_row"  # obs of a shard: row of the cell in the user's order


def write_store(
    cells: Cells,
    out: Path | str,
    *,
    shard_cells: int = 16384,
    compact: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write cells as a store and return ``out``; the folder appears whole or not at all.

    Text and other covariates that AnnData cannot hold as they are become categories.

    Parameters
    ----------
    cells
        What to store; read in blocks.
    out
        Folder to make.
    shard_cells
        Cells in a shard; memory grows with it.
    compact
        Pack the counts: a third to a fifth of the room, but only this package opens the shards.
    seed
        Of the shuffle.
    overwrite
        Replace an existing folder.
    progress
        Called with (steps done, steps in all).

    Raises
    ------
    DataError
        No cells, repeated names, counts that are not raw, a place that cannot be written.
    """
    _check_cells(cells, shard_cells)
    order = np.random.default_rng(seed).permutation(len(cells))
    tick = _ticker(2 * sum(int(cells.present(name).sum()) for name in cells.parts), progress)
    obs = storable(cells.obs)
    with atomic_dir(out, overwrite=overwrite) as folder:
        for name in ("features", "shards"):
            (folder / name).mkdir()
        storage = np.full((len(cells), len(cells.parts)), -1, dtype=np.int64)
        modalities = {}
        for column, (name, part) in enumerate(cells.parts.items()):
            scratch = _Scratch(folder / f"scatter-{name}", name, part, order, shard_cells)
            modalities[name], storage[:, column] = _write_modality(
                folder, name, scratch, None if compact else obs, tick
            )
        how = {"seed": seed, "shard_cells": shard_cells, "layout": PACKED if compact else PLAIN}
        _write_manifest(folder, cells, obs, storage, modalities, how)
    return Path(out)


def _write_manifest(
    folder: Path,
    cells: Cells,
    obs: pd.DataFrame,
    storage: NDArray[np.int64],
    modalities: dict[str, StoredModality],
    how: dict[str, Any],
) -> None:
    """Write the table of cells, then the manifest that makes the folder a store."""
    manifest = Manifest(
        format=FORMAT,
        format_version=VERSIONS[how["layout"]],
        software=_software(),
        cells=len(cells),
        cell_names_sha256=hash_names(obs.index),
        cell_table=_write_cells(folder, obs, storage),
        combinations=_combinations(cells),
        order=ORDER,
        modalities=modalities,
        report=json_ready(cells.report),
        **how,
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _check_cells(cells: Cells, shard_cells: int) -> None:
    """Refuse what cannot become a store, before anything is written."""
    if shard_cells < 1:
        raise ConfigError(f"shard_cells is {shard_cells}; it must be at least 1.")
    if not len(cells) or not cells.parts:
        raise DataError("There are no cells to store. Check the filters and the modality asked for.")
    if not cells.names.is_unique:
        again = cells.names[cells.names.duplicated()][0]
        raise DataError(f"Cell names must be unique to be stored; {str(again)!r} occurs twice. Make them unique first.")


def is_store(path: Path | str) -> bool:
    """Whether a path looks like a store (it holds a manifest)."""
    return (Path(path) / "manifest.json").is_file()


def open_store(path: Path | str, *, verify: bool = False) -> Cells:
    """Cells of a store in the user's original order; counts stay on disk.

    Parameters
    ----------
    path
        Folder written by :func:`write_store`.
    verify
        Also compare the SHA-256 of every file (reads all of it); sizes are always compared.

    Raises
    ------
    DataError
        If the folder is no store, is of a newer version, or a file is missing or differs from the manifest.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for file in stored_files(manifest):
        check_file(folder, file, verify)
    obs, storage = _read_cells(folder, manifest.cell_table.path)
    if hash_names(obs.index) != manifest.cell_names_sha256 or storage.shape != (len(obs), len(manifest.modalities)):
        raise damaged(folder, manifest.cell_table.path, "its cells are not those that the manifest names")
    parts = {}
    for column, (name, entry) in enumerate(manifest.modalities.items()):
        rows = ShardRows(folder, entry.shards, entry.features, manifest.layout)
        parts[name] = Part(rows, storage[:, column].copy(), _read_features(folder, entry))
    source = {"path": str(folder), "format_version": manifest.format_version, "cells": manifest.cell_names_sha256}
    return Cells(obs, parts, {**manifest.report, "store": source})


class _Scratch:
    """Rows of one modality on their way from the order of the source to shuffled shards."""

    def __init__(self, folder: Path, modality: str, part: Part, order: NDArray[np.int64], shard_cells: int) -> None:
        self.folder = folder
        self.modality = modality
        self.part = part
        self.members = [order[start : start + shard_cells] for start in range(0, len(order), shard_cells)]
        self.members = [cells[part.index[cells] >= 0] for cells in self.members]
        self.shard_of = np.empty(len(order), dtype=np.int64)
        self.shard_of[order] = np.arange(len(order)) // shard_cells
        self.lengths = np.zeros(len(order), dtype=np.int64)
        self.largest = np.zeros(len(self.members), dtype=np.int64)

    def fill(self, tick: Callable[[int], None]) -> None:
        """One pass over the source in its own order; each row goes to the end of its shard's scratch file."""
        self.folder.mkdir()
        index = self.part.index
        measured = np.flatnonzero(index >= 0)
        measured = measured[np.argsort(index[measured], kind="stable")]
        for start in range(0, len(measured), BLOCK):
            cells = measured[start : start + BLOCK]
            cells = cells[np.argsort(self.shard_of[cells], kind="stable")]
            block = self.part.rows.read(index[cells])
            check_raw(block, self.modality)
            self.lengths[cells] = np.diff(block.indptr)
            shards, begins = np.unique(self.shard_of[cells], return_index=True)
            cuts = block.indptr[np.append(begins, len(cells))]
            for shard, low, high in zip(shards, cuts[:-1], cuts[1:], strict=True):
                self._append(shard, block.data[low:high], block.indices[low:high])
            tick(len(cells))

    def _append(self, shard: int, data: NDArray[np.float32], indices: NDArray[np.int32]) -> None:
        self.largest[shard] = max(self.largest[shard], data.max(initial=0))
        for kind, values in (("data", data.astype("<u4")), ("indices", indices.astype("<i4", copy=False))):
            with (self.folder / f"{shard}.{kind}").open("ab") as file:
                file.write(values.data)

    def shard(self, number: int, width: int) -> sp.csr_matrix:
        """Take the counts of a shard in shuffled order; its scratch is removed."""
        cells = self.members[number]
        data, indices = (self._take(f"{number}.{kind}", dtype) for kind, dtype in (("data", "<u4"), ("indices", "<i4")))
        data = data.astype(smallest_dtype(int(self.largest[number])))
        arrived = np.lexsort((cells, self.part.index[cells]))  # the order of ``fill``
        back = np.empty(len(cells), dtype=np.int64)
        back[arrived] = np.arange(len(cells))
        indptr = np.concatenate([[0], np.cumsum(self.lengths[cells[arrived]])])
        return sp.csr_matrix((data, indices, indptr), shape=(len(cells), width))[back]

    def _take(self, name: str, dtype: str) -> NDArray[Any]:
        path = self.folder / name
        if not path.exists():
            return np.zeros(0, dtype=dtype)
        values = np.fromfile(path, dtype=dtype)
        path.unlink()
        return values


def check_raw(block: sp.csr_matrix, modality: str) -> None:
    """Refuse counts that a store cannot hold: negative ones, fractions, 2 ** 32 and more."""
    bad = (block.data < 0) | (block.data != np.rint(block.data)) | (block.data > np.iinfo(np.uint32).max)
    if bad.any():
        raise DataError(
            f"The {modality} counts hold {block.data[bad][0]:g}; a store holds raw counts (whole numbers from 0). "
            "Give the layer with raw counts."
        )


def _write_modality(
    folder: Path, name: str, scratch: _Scratch, obs: pd.DataFrame | None, tick: Callable[[int], None]
) -> tuple[StoredModality, NDArray[np.int64]]:
    """Fill the scratch and turn it into shards, packed where there is no ``obs``; also where each cell lies in them."""
    scratch.fill(tick)
    var = scratch.part.var
    place = np.full(len(scratch.shard_of), -1, dtype=np.int64)
    names = var.index.astype(str)
    shards: list[Shard] = []
    done = 0
    for number, cells in enumerate(scratch.members):
        counts = scratch.shard(number, len(var))
        path = f"shards/{name}-{number:05d}." + ("pack" if obs is None else "h5ad")
        if obs is None:
            counts.sort_indices()
            counts.eliminate_zeros()
            write_packed(folder / path, counts, cells)
        else:
            write_shard(folder / path, counts, obs.iloc[cells].assign(**{ROW: cells}), names)
        file = describe_file(folder, path)
        shards.append(Shard(file=file, cells=len(cells), nonzeros=counts.nnz, dtype=counts.data.dtype.name))
        place[cells] = done + np.arange(len(cells))
        done += len(cells)
        tick(len(cells))
    shutil.rmtree(scratch.folder)
    table, columns = _write_features(folder, name, var)
    entry = StoredModality(
        features=len(var),
        feature_table=table,
        feature_names_sha256=hash_names(var.index),
        columns=columns,
        cells=done,
        shards=tuple(shards),
    )
    return entry, place


def storable(obs: pd.DataFrame) -> pd.DataFrame:
    """Covariates as AnnData can hold them: numbers and flags as they are, everything else as categories of text."""
    columns = {}
    for key, column in obs.items():
        categories = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else None
        text = categories is not None and pd.api.types.infer_dtype(categories) == "string"
        if not text and not pd.api.types.is_numeric_dtype(column if categories is None else categories):
            column = column.astype(object).map(str, na_action="ignore").astype("category")
        columns[str(key)] = column
    return pd.DataFrame(columns, index=obs.index.astype(str).rename(None))


def _write_cells(folder: Path, obs: pd.DataFrame, storage: NDArray[np.int64]) -> StoredFile:
    import anndata

    with h5py.File(folder / "cells.h5ad", "w") as file:
        anndata.io.write_elem(file, "/", anndata.AnnData(obs=obs, obsm={STORAGE: storage}))
    return describe_file(folder, "cells.h5ad")


def _read_cells(folder: Path, path: str) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    import anndata

    try:
        with h5py.File(folder / path, "r") as file:
            return anndata.io.read_elem(file["obs"]), file["obsm"][STORAGE][:]
    except (OSError, KeyError, ValueError) as error:
        raise damaged(folder, path, str(error)) from error


def _write_features(folder: Path, name: str, var: pd.DataFrame) -> tuple[StoredFile, dict[str, str]]:
    path = f"features/{name}.tsv.gz"
    text = var.rename(columns=str).to_csv(sep="\t", index_label="name")
    (folder / path).write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))
    plain = {str(key): column.dtype for key, column in var.items()}
    numeric = {key: pd.api.types.is_numeric_dtype(dtype) for key, dtype in plain.items()}  # booleans too
    return describe_file(folder, path), {key: str(dtype) if numeric[key] else "str" for key, dtype in plain.items()}


def _read_features(folder: Path, entry: StoredModality) -> pd.DataFrame:
    path = entry.feature_table.path
    keys = list(entry.columns)
    how: dict[str, Any] = {"sep": "\t", "header": 0, "keep_default_na": False, "float_precision": "round_trip"}
    how |= {"names": ["\0name", *keys], "na_values": {key: [""] for key in keys}}  # a column may be called name as well
    try:
        text = gzip.decompress((folder / path).read_bytes())
        if b'"' in text or b"\r" in text:
            table = pd.read_csv(io.BytesIO(text), dtype={"\0name": str, **entry.columns}, **how)
            names = table.pop("\0name").tolist()
        else:  # a line is a feature: a million names are split five times as fast as they are parsed
            lines = text.decode().split("\n")[1:-1]
            names = [line.partition("\t")[0] for line in lines] if keys else lines
            table = pd.DataFrame(index=range(len(names)))
            if keys:
                table = pd.read_csv(io.BytesIO(text), dtype=entry.columns, usecols=keys, **how)
        table.index = pd.Index(names, dtype=object)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(folder, path, str(error)) from error
    if hash_names(names) != entry.feature_names_sha256:
        raise damaged(folder, path, "its feature names are not those that the manifest names")
    return table


def _combinations(cells: Cells) -> dict[str, int]:
    """Cells by the modalities they have; their number without any under an empty name."""
    flags = pd.DataFrame({name: cells.present(name) for name in cells.parts})
    return {"+".join(flags.columns[list(key)]): int(count) for key, count in flags.value_counts().items()}


def _software() -> dict[str, str]:
    packages = {
        name: importlib.metadata.version(name) for name in ("syncyte", "anndata", "h5py", "numpy", "pandas", "scipy")
    }
    return {"python": platform.python_version(), **packages}


def _ticker(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return tick
