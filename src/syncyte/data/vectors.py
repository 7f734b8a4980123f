"""An index of vectors on disk, for search by cosine.

::

    FOLDER/manifest.json   count, width, type of number; sizes and SHA-256 of the files
           vectors.npy     (n, d) vectors of length one
           codes.npy       (n, d) int8, the vectors rounded with one scale a row
           bounds.npy      (n, 2) float32, that scale, and the length of what the rounding lost
           names.tsv       one name a line
           faiss.index     only after ``with_faiss``, described by faiss.json

Search is exact: a pass over the codes excludes most rows for certain, the vectors decide among the others
(``data.vector_scan``). Any tool that reads ``.npy`` opens the arrays.
Leaves out: what the rows are, additions to an index once it is written, measures other than cosine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.atomic import atomic_dir
from syncyte.data.vector_faiss import Kind, candidates, read_faiss, write_faiss
from syncyte.data.vector_files import (
    ARRAYS,
    Dtype,
    Metric,
    VectorManifest,
    check,
    map_array,
    numbers,
    read_manifest,
    read_names,
    unit,
    write_vectors,
)
from syncyte.data.vector_scan import Best, Found, scan, score_pairs
from syncyte.errors import ConfigError, DataError, unknown

WIDER = 4  # approximate search lets the codes of faiss find this many times ``top``; the vectors choose among them


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """Vectors of length one on disk, and search among them. Made by :meth:`build`, opened by :meth:`open`.

    Attributes
    ----------
    folder, manifest
        Where it lies, and what is there.
    vectors
        ``(n, d)`` float16 or float32, mapped from disk. A vector of zeros stays one and scores 0 with everything.
    codes, bounds
        ``(n, d)`` int8 and ``(n, 2)`` float32, what a scan reads first; mapped too.
    """

    folder: Path
    manifest: VectorManifest
    vectors: NDArray[np.floating] = field(repr=False)
    codes: NDArray[np.int8] = field(repr=False)
    bounds: NDArray[np.float32] = field(repr=False)

    @classmethod
    def build(
        cls,
        vectors: NDArray | Iterable[ArrayLike],
        names: Iterable[str],
        folder: Path | str,
        *,
        metric: Metric = "cosine",
        dtype: Dtype = "float16",
        overwrite: bool = False,
    ) -> VectorIndex:
        """Write an index and open it; the folder appears whole or not at all.

        Parameters
        ----------
        vectors
            ``(n, d)``, or its rows in blocks ``(m, d)`` of any sizes, taken one at a time: memory does not grow with
            ``n``. Their lengths are not kept.
        names
            One for each row, taken along with the blocks; may repeat.
        folder
            To make.
        metric
            ``cosine``.
        dtype
            Of the stored vectors. Rounding to float16 moves a cosine by some 1e-5, rarely 1e-4.
        overwrite
            Replace an existing folder.

        Raises
        ------
        ConfigError
            Unknown metric or type.
        DataError
            Blocks that are no finite numbers in two dimensions or differ in width, no block at all, another number of
            names than of rows, a place that cannot be written. Nothing is left then, nor after an error in ``vectors``.
        """
        for kind, given, valid in (("metric", metric, get_args(Metric)), ("dtype", dtype, get_args(Dtype))):
            if given not in valid:
                raise ConfigError(unknown(kind, str(given), valid))
        blocks = [vectors] if isinstance(vectors, np.ndarray) and vectors.ndim == 2 else vectors
        with atomic_dir(folder, overwrite=overwrite) as temporary:
            write_vectors(temporary, blocks, names, metric, dtype)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = False) -> VectorIndex:
        """Map an index from disk.

        Parameters
        ----------
        folder
            Made by :meth:`build`.
        verify
            Also compare the SHA-256 of every file (reads all of it); sizes and shapes are always compared.

        Raises
        ------
        DataError
            No index, one of a newer version, or a file that is missing, cut, or otherwise not as the manifest says.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for file in manifest.files:
            check(folder, file, verify)
        types, columns = (manifest.dtype, "int8", "float32"), (manifest.width, manifest.width, 2)
        arrays = [
            map_array(folder, name, dtype, (manifest.count, width))
            for name, dtype, width in zip(ARRAYS, types, columns)
        ]
        return cls(folder, manifest, *arrays)

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.manifest.width

    @cached_property
    def names(self) -> NDArray[np.object_]:
        """``(n,)`` names, read on first use; ``index.names[rows]`` are those of the rows that a search found."""
        return read_names(self.folder, len(self))

    def search(self, queries: ArrayLike, top: int, *, exact: bool = True, block_rows: int | None = None) -> Found:
        """Rows whose vectors have the greatest cosine with each query.

        Parameters
        ----------
        queries
            ``(q, d)`` of any lengths; one of zeros scores 0 with every row.
        top
            Rows to find; where the index has fewer, all of them.
        exact
            False asks the index of :meth:`with_faiss`. It may miss rows; the scores and the order of those it finds are
            exact even so.
        block_rows
            Rows that an exact search takes at a time. Changes the speed, never the answer.

        Returns
        -------
        rows
            ``(q, top)`` int64, best first; equal scores by row number.
        scores
            ``(q, top)`` float32, cosines with the vectors as stored, -1 to 1.

        Raises
        ------
        ConfigError
            ``top`` or ``block_rows`` below 1.
        DataError
            Queries that are not finite, not ``(q, d)``, or of another width; ``exact=False`` without an index of faiss.
        MissingExtraError
            ``exact=False``, and faiss is not installed.
        """
        for name, value in (("top", top), ("block_rows", block_rows)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        asked = unit(numbers(queries, "queries", self.width), "Query").astype(np.float32)
        top = min(top, len(self))
        if not exact:
            return self._approximate(self._faiss, asked, top)
        if not top:
            return np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32)
        return scan(self.vectors, self.codes, self.bounds, asked, top, block_rows)

    def with_faiss(self, kind: Kind = "ivf") -> VectorIndex:
        """Build an index of faiss for ``search(exact=False)``, put it into the folder, and open the folder anew.

        Parameters
        ----------
        kind
            ``ivf``, lists around centres, or ``hnsw``, a graph, which takes some thirty times as long to build. Either
            replaces the one that is there, and holds an 8-bit copy of all vectors in memory, the graph 0.3 kB a row
            more. Built by several threads, graphs differ a little each time. Where vectors form no clusters, both miss
            most of the nearest.

        Raises
        ------
        ConfigError
            Unknown kind.
        DataError
            An index without rows, or a folder that cannot be written.
        MissingExtraError
            faiss is not installed.
        """
        if kind not in get_args(Kind):
            raise ConfigError(unknown("kind of approximate index", str(kind), get_args(Kind)))
        if not len(self):
            raise DataError(f"The index {self.folder} has no rows for an approximate index. Search it exactly.")
        write_faiss(self.folder, self.vectors, kind, self.manifest.vectors_sha256)
        return VectorIndex.open(self.folder)

    @cached_property
    def _faiss(self) -> Any:
        return read_faiss(self.folder, len(self), self.width, self.manifest.vectors_sha256)

    def _approximate(self, index: Any, queries: NDArray[np.float32], top: int) -> Found:
        """Rows that faiss finds, scored from the vectors; queries for which it finds fewer than ``top`` are scanned."""
        found = candidates(index, queries, min(WIDER * top, len(self)))
        full = (found >= 0).sum(axis=1) >= top
        query, place = np.nonzero((found >= 0) & full[:, None])
        row = found[query, place]
        rows, scores = np.empty((len(queries), top), np.int64), np.empty((len(queries), top), np.float32)
        if full.any():
            renumbered = np.cumsum(full)[query] - 1
            best = Best(int(full.sum()), top)
            best.add(renumbered, row, score_pairs(self.vectors, queries, query, row))
            rows[full], scores[full] = best.result()
        if not full.all():
            rows[~full], scores[~full] = scan(self.vectors, self.codes, self.bounds, queries[~full], top)
        return rows, scores
