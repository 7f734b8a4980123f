"""The files of an index of vectors: written in one pass over blocks, checked and mapped when opened.

Vectors are brought to length one, stored, and rounded once more to codes of 8 bits with what that loses
(``data.vector_scan`` says what for). In names, tabs, line ends and backslashes are escaped by a backslash.
Leaves out: search, and the index of faiss that may lie beside (``data.vector_faiss``).
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.config import Config
from syncyte.data.manifest import FolderKind, StoredFile, describe_file
from syncyte.errors import ConfigError, DataError

FORMAT, VERSION = "syncyte-vectors", 1
ARRAYS = ("vectors.npy", "codes.npy", "bounds.npy")
NAMES = "names.tsv"
Metric = Literal["cosine"]
Dtype = Literal["float16", "float32"]
CHUNK = 8192  # rows written at a time, however large the blocks are
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_PLAIN = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


class VectorManifest(Config):
    """What ``manifest.json`` holds. ``files`` are the arrays, then the names."""

    format: str
    format_version: int
    software: dict[str, str]
    metric: Metric
    dtype: Dtype
    count: int
    width: int
    files: tuple[StoredFile, ...]

    @property
    def vectors_sha256(self) -> str:
        """SHA-256 of the file of vectors: equal where the vectors and their type are, whatever blocks they came in."""
        return self.files[0].sha256


def write_vectors(
    folder: Path, blocks: Iterable[ArrayLike], names: Iterable[str], metric: Metric, dtype: Dtype
) -> None:
    """Write all files into an existing empty folder; memory is that of one block and ``CHUNK`` rows."""
    number = np.dtype(dtype).newbyteorder("<")
    remaining, count, width = iter(names), 0, 0
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in (*ARRAYS, NAMES)}
        files[NAMES].write(b"name\n")
        for chunk in _chunks(blocks):
            if not width:
                width = chunk.shape[1]
                _write_headers(files, number, 0, width)
            vectors = chunk.astype(number)
            arrays: tuple[NDArray, ...] = (vectors, *_coded(vectors))
            for name, array in zip(ARRAYS, arrays):
                files[name].write(array.tobytes())
            _write_names(files[NAMES], remaining, len(chunk), count)
            count += len(chunk)
        if not width:
            raise DataError(
                "There are no vectors to index: not even an empty block, which would say how wide they are."
            )
        if next(remaining, None) is not None:
            raise DataError(
                f"There are {count:,} vectors but more names. Give one name for each vector, in their order."
            )
        _write_headers(files, number, count, width)
    manifest = VectorManifest(
        format=FORMAT,
        format_version=VERSION,
        software={name: importlib.metadata.version(name) for name in ("syncyte", "numpy")},
        metric=metric,
        dtype=dtype,
        count=count,
        width=width,
        files=tuple(describe_file(folder, name) for name in (*ARRAYS, NAMES)),
    )
    write_json(folder / "manifest.json", manifest)


def numbers(values: ArrayLike, what: str, width: int = 0) -> NDArray:
    """``(m, d)`` finite or not, but real and of the width asked for (0 = any)."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"The {what} are no array: {error}. Give numbers of shape (rows, width).") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"The {what} are of type {array.dtype}; real numbers are needed.")
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(f"The {what} have shape {array.shape}; (rows, width) is needed, with a width of at least 1.")
    if width and array.shape[1] != width:
        raise DataError(
            f"The {what} have {array.shape[1]} numbers each, those of the index {width}. Give equal widths."
        )
    return array


def unit(array: NDArray, what: str, first: int = 0) -> NDArray[np.float64]:
    """Rows brought to length one; those of zeros stay. ``first`` is the number of the first row, for the error."""
    vectors = array.astype(np.float64, order="C")  # sums, and so the last bit, differ between orders
    peak = np.abs(vectors).max(axis=1, initial=0)
    if (bad := np.flatnonzero(~np.isfinite(peak))).size:
        raise DataError(
            f"{what} {first + bad[0]:,} holds NaN or infinite numbers ({bad.size:,} such in its block). Leave them out."
        )
    vectors /= np.where(peak > 0, peak, 1)[:, None]  # else the squares of very large or small numbers are lost
    length = np.sqrt(np.square(vectors).sum(axis=1))
    vectors /= np.where(peak > 0, length, 1)[:, None]
    return vectors


INDEX_KIND = FolderKind(
    "an index of vectors",
    "index",
    FORMAT,
    VERSION,
    "Give a folder that VectorIndex.build made.",
    "Build it anew from its vectors.",
)
damaged, check = INDEX_KIND.damaged, INDEX_KIND.check


def read_manifest(folder: Path) -> VectorManifest:
    """Read and check ``manifest.json``.

    Raises
    ------
    DataError
        If there is none, it is no index's, is of a newer version, or is damaged.
    """
    values = INDEX_KIND.values(folder)
    try:
        manifest = VectorManifest.parse(values)
    except ConfigError as error:
        raise damaged(folder, "manifest.json", str(error)) from error
    if [file.path for file in manifest.files] != [*ARRAYS, NAMES] or manifest.count < 0 or manifest.width < 1:
        raise damaged(folder, "manifest.json", "it does not name the files, or has an impossible size")
    return manifest


def map_array(folder: Path, name: str, dtype: str, shape: tuple[int, int]) -> NDArray:
    """One of ``ARRAYS``, mapped from disk."""
    try:
        array = np.load(folder / name, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise damaged(folder, name, str(error)) from error
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise damaged(folder, name, f"it holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}")
    return np.asarray(array)


def read_names(folder: Path, count: int) -> NDArray[np.object_]:
    """``(n,)`` names."""
    try:
        lines = (folder / NAMES).read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(folder, NAMES, str(error)) from error
    if len(lines) != count + 2:  # the header, and nothing after the last end of a line
        raise damaged(folder, NAMES, f"it holds {len(lines) - 2:,} names, the manifest says {count:,}")
    names = np.empty(count, dtype=object)
    names[:] = [re.sub(r"\\(.)", _plain, line) if "\\" in line else line for line in lines[1:-1]]
    return names


def write_json(path: Path, config: Config) -> None:
    """Write a manifest."""
    path.write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def _chunks(blocks: Iterable[ArrayLike]) -> Iterator[NDArray[np.float64]]:
    """Vectors of length one, at most ``CHUNK`` at a time; an empty block comes as it is, for its width."""
    count = width = 0
    for block in blocks:
        array = numbers(block, f"vectors from row {count:,} on", width)
        width = array.shape[1]
        for start in range(0, max(len(array), 1), CHUNK):
            chunk = unit(array[start : start + CHUNK], "Vector", count)
            count += len(chunk)
            yield chunk


def _coded(vectors: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes ``(m, d)`` int8, and ``(m, 2)`` float32: their scale, and the length of ``vector - scale * code``."""
    exact = vectors.astype(np.float64)
    scale = (np.abs(exact).max(axis=1, initial=0) / 127).astype("<f4")
    codes = np.rint(exact / np.where(scale > 0, scale, 1)[:, None])
    exact -= codes * scale[:, None].astype(np.float64)
    loss = np.sqrt(np.square(exact).sum(axis=1)) * (1 + 1e-6)  # a bound: rounding to float32 must not lower it
    return codes.astype(np.int8), np.stack([scale, loss.astype("<f4")], axis=1)


def _write_headers(files: Mapping[str, BinaryIO], number: np.dtype, count: int, width: int) -> None:
    """Headers of the arrays, at the start of their files; numpy pads them so that another count takes no more room."""
    types: tuple[np.dtype, ...] = (number, np.dtype("i1"), np.dtype("<f4"))
    for name, dtype, columns in zip(ARRAYS, types, (width, width, 2)):
        files[name].seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (count, columns),
        }
        np.lib.format.write_array_header_1_0(files[name], header)


def _write_names(file: BinaryIO, names: Iterator[str], wanted: int, done: int) -> None:
    texts = [str(name).translate(_ESCAPES) + "\n" for name in islice(names, wanted)]
    if len(texts) < wanted:
        raise DataError(
            f"There are {done + len(texts):,} names but more vectors. Give one name for each vector, in their order."
        )
    try:
        file.write("".join(texts).encode())
    except UnicodeEncodeError as error:
        raise DataError(f"A name cannot be written as UTF-8: {error}. Rename that vector.") from error


def _plain(escape: re.Match[str]) -> str:
    return _PLAIN.get(escape[1], escape[0])
