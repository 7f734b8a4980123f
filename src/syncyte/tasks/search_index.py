"""What searches read of cells, in memory or kept in a folder: names, probabilities, vectors.

A folder is known again by the run, the names of the cells and a hash of their counts: two data sets whose cells bear
the same names do not share one. The next search then runs no model; it reads the counts once to hash them, of more than
100,000 cells those of blocks spread over all. Vectors are searched exactly, or by faiss where there are very many.
Leaves out: what is searched for (``search``), how vectors lie on disk (``data.vectors``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir
from syncyte.data.cells import Cells
from syncyte.data.vector_faiss import MANIFEST as FAISS
from syncyte.data.vectors import VectorIndex
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.tasks.word_run import Asked, WordRun

Nearest = Literal["auto", "exact", "faiss"]
MANY = 2_000_000  # cells from which nearest ones are sought with faiss, where it is installed
HASHED = 100_000  # cells whose counts are all hashed; of more, PARTS blocks that are as many together
PARTS = 50
VECTORS, CHANCES, STAMP = "vectors", "chances.npy", "index.json"
FOUND_BY_FAISS = "The nearest cells were sought with faiss, which may miss some; --nearest exact misses none."


@dataclass(frozen=True)
class Library:
    """What searches read of cells: names, probabilities of classes ``(n, c)`` and of other fields, vectors.

    ``exact`` says whether the nearest vectors are found for certain, or by faiss.
    """

    names: NDArray[Any]
    chances: NDArray[np.floating]
    vectors: VectorIndex | NDArray[np.float32]
    notes: tuple[str, ...] = ()
    fields: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    exact: bool = True

    def nearest(self, query: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines of the nearest cells."""
        if isinstance(self.vectors, VectorIndex):
            found, cosines = self.vectors.search(query[None], top, exact=self.exact)
            return found[0], cosines[0]
        scores = self.vectors @ query
        rows = np.lexsort((np.arange(len(scores)), -scores))[:top]
        return rows, scores[rows]

    def vector(self, row: int) -> NDArray[np.float32]:
        """Vector of one cell."""
        every = self.vectors.vectors if isinstance(self.vectors, VectorIndex) else self.vectors
        return np.asarray(every[row], dtype=np.float32)


def check_nearest(nearest: str, index: Path | None, by_vector: bool) -> None:
    """Refuse a way to find the nearest vectors that is none, or that does not fit the search."""
    if nearest not in get_args(Nearest):
        raise ConfigError(unknown("way to find the nearest cells", nearest, get_args(Nearest)))
    if nearest == "faiss" and index is None:
        raise ConfigError("--nearest faiss keeps its index in the folder of --index: name one, or leave it out.")
    if nearest == "faiss" and not by_vector:
        raise ConfigError("--nearest faiss is for --mode vectors and cell:NAME; by terms all cells are scored.")


def sought(library: Library, nearest: str) -> Library:
    """The library with its nearest cells found as asked: by faiss, whose index is built where there is none."""
    vectors = library.vectors
    if nearest == "exact" or not isinstance(vectors, VectorIndex):
        return library
    if nearest == "auto" and (len(vectors) < MANY or importlib.util.find_spec("faiss") is None):
        return library
    try:
        ready = vectors if (vectors.folder / FAISS).is_file() else vectors.with_faiss("ivf")
    except DataError:
        if nearest == "auto":  # a folder that cannot be written is searched exactly
            return library
        raise
    return replace(library, vectors=ready, exact=False, notes=(*library.notes, FOUND_BY_FAISS))


def read_library(run: WordRun, cells: Cells, index: Path | None, batch_size: int | None) -> Library:
    """What is to be searched: from an index folder that fits the cells, or read from the counts (and kept there).

    Raises
    ------
    DataError
        For a folder of other cells, other counts or another run, or one that is no index.
    """
    if index is None:
        return _read(run, cells, batch_size)
    stamp = _stamp(run, cells)
    if (index / STAMP).is_file():
        try:
            found = json.loads((index / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"The index {index} cannot be read ({error}). Remove the folder.") from error
        if found != stamp:
            raise DataError(f"The index {index} was made {_other(found, stamp)}. Name another folder, or remove it.")
        return _opened(run, index, ())
    if index.exists() and any(index.iterdir()):
        raise DataError(f"{index} exists and is no index of cells, so it is left alone. Name another folder.")
    library = _read(run, cells, batch_size)
    with atomic_dir(index) as tmp:
        VectorIndex.build(iter([np.asarray(library.vectors)]), list(library.names), tmp / VECTORS)
        np.save(tmp / CHANCES, library.chances.astype(np.float16), allow_pickle=False)
        for name, values in library.fields.items():
            np.save(tmp / f"{name}.npy", values.astype(np.float16), allow_pickle=False)
        (tmp / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    return _opened(run, index, library.notes)


def _opened(run: WordRun, index: Path, notes: tuple[str, ...]) -> Library:
    vectors = VectorIndex.open(index / VECTORS)
    chances = np.load(index / CHANCES, mmap_mode="r", allow_pickle=False)
    others = [name for name in run.facts["classifiers"] if name != "type"]
    fields = {name: np.load(index / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in others}
    return Library(np.asarray(vectors.names), chances, vectors, notes, fields)


def _read(run: WordRun, cells: Cells, batch_size: int | None) -> Library:
    """From the counts of the cells that have any; others can be found by nothing."""
    asked = run.ask(cells)
    have = np.flatnonzero(asked.cells.present(run.modality))
    return library_of(run, replace(asked, cells=asked.cells.take(have)), batch_size)


def library_of(run: WordRun, asked: Asked, batch_size: int | None = None) -> Library:
    """What searches read of measured cells."""
    vectors = unit_vectors(run, asked, batch_size)
    fields = {name: run.chances(asked, name) for name in run.facts["classifiers"] if name != "type"}
    return Library(asked.cells.names.astype(str).to_numpy(), run.chances(asked), vectors, asked.notes, fields)


def unit_vectors(run: WordRun, asked: Asked, batch_size: int | None = None) -> NDArray[np.float32]:
    """``(n, d)`` one vector a cell, of length one: the mean over the queries of the bridge."""
    mean = run.vectors(asked, batch_size).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def count_hash(cells: Cells, modality: str) -> str:
    """Hash of features and counts, the same however they are stored; of many cells, of blocks spread over them."""
    seal = hashlib.blake2b(digest_size=16)
    seal.update("\n".join(cells.part(modality).features.astype(str)).encode())
    have = np.flatnonzero(cells.present(modality))
    if len(have) > HASHED:
        size = HASHED // PARTS
        starts = np.linspace(0, len(have) - size, PARTS).astype(np.int64)
        have = np.concatenate([have[start : start + size] for start in starts])
    for rows, block in cells.blocks(modality, have):
        counts = sp.csr_matrix(block, copy=True)
        counts.eliminate_zeros()
        counts.sort_indices()
        for values, kind in ((rows, np.int64), (counts.indptr, np.int64), (counts.indices, np.int64)):
            seal.update(np.ascontiguousarray(values, dtype=kind).tobytes())
        seal.update(counts.data.astype(np.float64).tobytes())
    return seal.hexdigest()


def _stamp(run: WordRun, cells: Cells) -> dict[str, Any]:
    names = hashlib.sha256("\n".join(cells.names.astype(str)).encode()).hexdigest()[:32]
    told = {"run": run.trained.recipe.get("fingerprint", ""), "cells": len(cells), "names": names}
    return {**told, "counts": count_hash(cells, run.modality)}


def _other(found: Mapping[str, Any], stamp: Mapping[str, Any]) -> str:
    """What is not as it should be."""
    if not isinstance(found, dict) or "counts" not in found:
        return "by a version that did not look at counts"
    if found.get("run") != stamp["run"]:
        return "by another run"
    if (found.get("cells"), found.get("names")) != (stamp["cells"], stamp["names"]):
        return f"for other cells (it has {found.get('cells')}, these are {stamp['cells']})"
    return "for cells of the same names with other counts"
