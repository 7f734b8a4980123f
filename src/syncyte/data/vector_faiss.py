"""Approximate search beside an index of vectors, by faiss (Douze et al., 2024, arXiv:2401.08281).

``hnsw`` is a graph of neighbours (Malkov & Yashunin, 2020), ``ivf`` lists around centres of k-means. Both keep 8-bit
codes of their own; what they find is scored from the stored vectors. ``faiss.index`` is no pickle, but its reader
trusts it: the size and the SHA-256 of the file are compared first.
Leaves out: approximate search without faiss, settings of its indexes, other devices.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.config import Config
from syncyte.data.manifest import StoredFile, describe_file
from syncyte.data.vector_files import CHUNK, check, damaged, write_json
from syncyte.errors import ConfigError, DataError, MissingExtraError

Kind = Literal["hnsw", "ivf"]
INDEX, MANIFEST = "faiss.index", "faiss.json"
LINKS = 32  # of a row in the graph
CARE = 100  # rows among which the neighbours of a new row are sought; 40, faiss's own, finds too few in clusters
EFFORT = 256  # rows that a search of the graph keeps in view, at least
PER_CENTRE = 64  # rows from which each centre is learned
SHARE = 64  # one in so many lists is looked through, and at least as many as
LISTS = 16


class FaissManifest(Config):
    """What ``faiss.json`` holds. ``vectors_sha256`` says of which vectors the index was made."""

    kind: Kind
    faiss: str
    vectors_sha256: str
    file: StoredFile


def write_faiss(folder: Path, vectors: NDArray[np.floating], kind: Kind, vectors_sha256: str) -> None:
    """Build an index of the vectors ``(n, d)`` and put it and its manifest into the folder."""
    faiss = _import_faiss()
    count, width = vectors.shape
    # About 2 sqrt(n) lists balance the search for lists and through them; faiss wants 39 rows for each
    lists = max(1, min(int(2 * count**0.5), count // 39))
    recipe = f"HNSW{LINKS},SQ8" if kind == "hnsw" else f"IVF{lists},SQ8"
    index = faiss.index_factory(width, recipe, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = CARE
    sample = np.linspace(0, count - 1, min(count, PER_CENTRE * lists)).astype(np.int64)
    index.train(vectors[sample].astype(np.float32))
    for start in range(0, count, CHUNK):
        index.add(vectors[start : start + CHUNK].astype(np.float32))
    (folder / MANIFEST).unlink(missing_ok=True)  # a kill between the two files leaves no index, not a wrong one
    with atomic_file(folder / INDEX) as temporary:
        faiss.write_index(index, str(temporary))
    manifest = FaissManifest(
        kind=kind, faiss=faiss.__version__, vectors_sha256=vectors_sha256, file=describe_file(folder, INDEX)
    )
    with atomic_file(folder / MANIFEST) as temporary:
        write_json(temporary, manifest)


def read_faiss(folder: Path, count: int, width: int, vectors_sha256: str) -> Any:
    """The index that lies in a folder, ready to be searched.

    Raises
    ------
    DataError
        There is none, or it is not as its manifest says.
    MissingExtraError
        faiss is not installed.
    """
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder} holds no index for approximate search. Make one with index.with_faiss(), or pass exact=True."
        )
    faiss = _import_faiss()
    try:
        manifest = FaissManifest.parse(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise damaged(folder, MANIFEST, str(error)) from error
    if manifest.file.path != INDEX or manifest.vectors_sha256 != vectors_sha256:
        raise damaged(folder, MANIFEST, "it describes an index of other vectors; index.with_faiss() makes a new one")
    check(folder, manifest.file, verify=True)
    index = faiss.read_index(str(folder / INDEX))
    if (index.ntotal, index.d) != (count, width):
        raise damaged(folder, INDEX, f"it holds ({index.ntotal:,}, {index.d}), not ({count:,}, {width})")
    if manifest.kind == "ivf":
        index.nprobe = min(max(LISTS, index.nlist // SHARE), index.nlist)
    return index


def candidates(index: Any, queries: NDArray[np.float32], wanted: int) -> NDArray[np.int64]:
    """``(q, wanted)`` rows near each query ``(q, d)``, by the codes of faiss; -1 where it finds no more."""
    faiss = _import_faiss()
    parameters = None
    if isinstance(index, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(efSearch=max(EFFORT, wanted))
    return index.search(np.ascontiguousarray(queries), wanted, params=parameters)[1]


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "faiss", "Approximate search") from error
    return faiss
