"""Pieces of zarr arrays that are not there, or not whole, where zarr itself would say nothing.

A zarr folder keeps an array as many small files. One that is absent reads as the fill value, zero for what anndata
writes, since pieces of zeros alone need not be stored. Whether that can be meant is known for some arrays: stored
values of a sparse matrix are not zero, a row names a feature once, names are not empty. Blosc reads a file whose end
is missing and may make up the rest; its header says how long it should be. Other damage is met when a piece is read.
Leaves out what cannot be told apart from zeros that are meant: pieces of dense matrices (which are noted, in
``data.backed``) and of columns of tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syncyte.errors import DataError

HEADER = 16  # bytes of a blosc header; its last four are the length of the whole


def absent(array: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Name and place in the grid of every piece of a zarr array that has no file; nothing for remote stores."""
    folder = _folder(array)
    if folder is None:
        return []
    there = {name for name, _ in _files(folder)}
    encode = array.metadata.encode_chunk_key
    grid = product(*(range(-(-length // size)) for length, size in zip(array.shape, _sizes(array), strict=True)))
    return [(name, place) for place in grid if (name := encode(place)) not in there]


def check_sparse(group: Any, indptr: NDArray[np.int64], width: int, label: str) -> None:
    """Refuse a sparse matrix with pieces gone or cut short.

    Parameters
    ----------
    group
        Zarr group with ``data``, ``indices`` and ``indptr``.
    indptr
        Row pointers as read.
    width
        Number of columns (of rows, for CSC).
    label
        How messages name the matrix.
    """
    for name in ("data", "indices", "indptr"):
        array, where = group[name], f"{label.rstrip(',')}, {name},"
        check_whole(array, where)
        size = _sizes(array)[0]
        gone = [(key, place[0] * size, (place[0] + 1) * size) for key, place in absent(array)]
        if name == "data" and array.fill_value:
            gone = []  # pieces of ones alone, say, may be meant
        elif name == "indices":
            gone = [piece for piece in gone if not _zero_indices_fit(indptr, piece[1], piece[2])]
        elif name == "indptr":
            gone = gone if np.diff(indptr).max(initial=0) > width else []
        if gone:
            _refuse(where, [key for key, _, _ in gone], "zeros, which cannot be meant")


def check_names(array: Any, label: str) -> None:
    """Refuse an index of names with pieces gone: they would read as empty names."""
    check_whole(array, label)
    if gone := absent(array):
        _refuse(label, [key for key, _ in gone], "empty names")


def check_whole(array: Any, label: str) -> None:
    """Refuse pieces compressed with blosc whose files are shorter than their headers say."""
    folder = _folder(array)
    kinds = [type(codec).__name__ for codec in getattr(array, "compressors", ())]
    if folder is None or array.shards is not None or not kinds or kinds[-1] not in ("Blosc", "BloscCodec"):
        return
    for name, path in _files(folder):
        with path.open("rb") as file:
            header = file.read(HEADER)
        if len(header) < HEADER or int.from_bytes(header[12:16], "little") != path.stat().st_size:
            raise DataError(
                f"{label} is damaged: its piece {name} is not as long as it says it is. Copy or write the folder again."
            )


def _zero_indices_fit(indptr: NDArray[np.int64], start: int, stop: int) -> bool:
    """Whether entries ``start`` to ``stop`` may all lie in the first column: no row has two of them."""
    inside = np.clip(indptr, start, stop)
    return int(np.diff(inside).max(initial=0)) <= 1


def _refuse(label: str, keys: list[str], what: str) -> None:
    raise DataError(
        f"{label} is damaged: {len(keys):,} of its pieces are not there (the first is {keys[0]}) and would read as "
        f"{what}. Copy or write the folder again."
    )


def _sizes(array: Any) -> tuple[int, ...]:
    return array.shards or array.chunks


def _folder(array: Any) -> Path | None:
    """Where the pieces of an array lie, if that is a folder of this machine."""
    root = getattr(array.store, "root", None)
    folder = None if root is None else Path(str(root)) / array.path
    return folder if folder is not None and folder.is_dir() else None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Pieces of an array: key and file."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name not in (".zarray", ".zattrs", ".zgroup", "zarr.json"):
                path = Path(place) / name
                yield path.relative_to(folder).as_posix(), path
