"""The store: cells shuffled once into shards, and a manifest that says what they are.

::

    STORE/manifest.json                   what is inside: sizes and SHA-256 of every file, seed, software, report
          cells.h5ad                      covariates of all cells in the user's order; where each cell lies
          features/<modality>.tsv.gz      name and columns of every feature
          shards/<modality>-00000.h5ad    raw counts: CSR, uncompressed and contiguous, smallest integer type

That layout, ``h5ad-csr``, opens in any AnnData tool. The compact one, ``packed``, holds ``features/<modality>.h5``
(``data.features``) and ``shards/<modality>-00000.pack`` (``data.packed``) instead: a fifth of the bytes, for syncyte
alone to read. Either gives back the same cells, and ``data.convert`` makes plain files of either.

Place ``p`` holds the user's cell ``numpy.random.default_rng(seed).permutation(cells)[p]`` and belongs to shard
``p // shard_cells``, in every modality the cell has. Writing passes once over the source in its own order and scatters
rows over one scratch file a shard (``data.scatter``), so that memory is about one shard.
Leaves out: the inside of a shard (``data.shards``, ``data.packed``), opening users' files (``data.read``), order of
reading (``data.sample``).
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir
from syncyte.data.cells import Cells, Part, Rows
from syncyte.data.features import column_types, read_features, write_binary, write_text
from syncyte.data.manifest import (
    FORMAT,
    VERSIONS,
    Layout,
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
from syncyte.data.packed import PackedRows, write_packed
from syncyte.data.scatter import Scratch
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
    seed: int = 0,
    overwrite: bool = False,
    compact: bool = False,
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
    seed
        Of the shuffle.
    overwrite
        Replace an existing folder.
    compact
        Pack the counts: a fifth of the bytes, but no tool beside syncyte reads the shards.
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
            scratch = Scratch(folder / f"scatter-{name}", name, part, order, shard_cells, compact)
            modalities[name], storage[:, column] = _write_modality(folder, name, scratch, obs, tick)
        layout: Layout = "packed" if compact else "h5ad-csr"
        _write_manifest(folder, cells, obs, storage, modalities, layout, seed, shard_cells)
    return Path(out)


def _write_manifest(
    folder: Path,
    cells: Cells,
    obs: pd.DataFrame,
    storage: NDArray[np.int64],
    modalities: dict[str, StoredModality],
    layout: Layout,
    seed: int,
    shard_cells: int,
) -> None:
    """Write the table of cells, then the manifest that makes the folder a store."""
    manifest = Manifest(
        format=FORMAT,
        format_version=VERSIONS[layout],
        layout=layout,
        software=_software(),
        cells=len(cells),
        cell_names_sha256=hash_names(obs.index),
        cell_table=_write_cells(folder, obs, storage),
        combinations=_combinations(cells),
        order=ORDER,
        seed=seed,
        shard_cells=shard_cells,
        modalities=modalities,
        report=json_ready(cells.report),
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
        kind = PackedRows if manifest.layout == "packed" else ShardRows
        rows: Rows = kind(folder, entry.shards, entry.features)
        parts[name] = Part(rows, storage[:, column].copy(), read_features(folder, entry))
    source = {"path": str(folder), "format_version": manifest.format_version, "cells": manifest.cell_names_sha256}
    return Cells(obs, parts, {**manifest.report, "store": source})


def _write_modality(
    folder: Path, name: str, scratch: Scratch, obs: pd.DataFrame, tick: Callable[[int], None]
) -> tuple[StoredModality, NDArray[np.int64]]:
    """Fill the scratch and turn it into shards; also where each cell lies in them."""
    scratch.fill(tick)
    var = scratch.part.var
    place = np.full(len(obs), -1, dtype=np.int64)
    shards: list[Shard] = []
    done = 0
    for number, cells in enumerate(scratch.members):
        shards.append(_write_shard(folder, f"shards/{name}-{number:05d}", scratch, number, obs))
        place[cells] = done + np.arange(len(cells))
        done += len(cells)
        tick(len(cells))
    shutil.rmtree(scratch.folder)
    table = f"features/{name}.h5" if scratch.compact else f"features/{name}.tsv.gz"
    (write_binary if scratch.compact else write_text)(folder / table, var)
    entry = StoredModality(
        features=len(var),
        feature_table=describe_file(folder, table),
        feature_names_sha256=hash_names(var.index),
        columns=column_types(var),
        cells=done,
        shards=tuple(shards),
    )
    return entry, place


def _write_shard(folder: Path, stem: str, scratch: Scratch, number: int, obs: pd.DataFrame) -> Shard:
    cells, var = scratch.members[number], scratch.part.var
    dtype = smallest_dtype(int(scratch.largest[number])).name
    path = f"{stem}.pack" if scratch.compact else f"{stem}.h5ad"
    if scratch.compact:
        words, sizes, lengths = scratch.words(number)
        write_packed(folder / path, words, sizes, lengths, len(var))
    else:
        covariates = obs.iloc[cells].assign(**{ROW: cells})
        write_shard(folder / path, scratch.counts(number), covariates, var.index.astype(str))
    nonzeros = int(scratch.lengths[cells].sum())
    return Shard(file=describe_file(folder, path), cells=len(cells), nonzeros=nonzeros, dtype=dtype)


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
