"""The manifest of a store: what its files are, and whether they still are.

Leaves out: the content of the files (``data.store``, ``data.shards``, ``data.packed``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from syncyte.config import Config
from syncyte.errors import ConfigError, DataError

FORMAT = "syncyte-store"
Layout = Literal["h5ad-csr", "packed"]
VERSIONS: dict[Layout, int] = {"h5ad-csr": 1, "packed": 2}  # of the format, which began with the first layout


class StoredFile(Config):
    """A file of the store, by its path in it."""

    path: str
    bytes: int
    sha256: str


class Shard(Config):
    """Some cells of one modality."""

    file: StoredFile
    cells: int
    nonzeros: int
    dtype: str


class StoredModality(Config):
    """One modality: its features and its shards. ``columns`` are the types of the feature table."""

    features: int
    feature_table: StoredFile
    feature_names_sha256: str
    columns: dict[str, str]
    cells: int
    shards: tuple[Shard, ...]


class Manifest(Config):
    """What ``manifest.json`` holds. ``combinations`` counts cells by the modalities they have (``a+b``)."""

    format: str
    format_version: int
    layout: Layout
    software: dict[str, str]
    cells: int
    cell_names_sha256: str
    cell_table: StoredFile
    combinations: dict[str, int]
    order: str
    seed: int
    shard_cells: int
    modalities: dict[str, StoredModality]
    report: dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a store folder.

    Raises
    ------
    DataError
        If there is none, it is no store's, is of a newer version, or is damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"{folder} is not a store: it holds no manifest.json. Give a folder written by syncyte.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(folder, path.name, f"it is not JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(
            f"{path} is not the manifest of a store (format {FORMAT!r} expected). Give a folder written by syncyte."
        )
    if not isinstance(version := values.get("format_version"), int) or version > max(VERSIONS.values()):
        raise DataError(
            f"The store {folder} is of version {version}; this syncyte reads up to {max(VERSIONS.values())}. "
            "Update it: pip install -U syncyte"
        )
    try:
        return Manifest.parse(values)
    except ConfigError as error:
        raise damaged(folder, path.name, str(error)) from error


def stored_files(manifest: Manifest) -> Iterator[StoredFile]:
    """Every file that a manifest names."""
    yield manifest.cell_table
    for entry in manifest.modalities.values():
        yield entry.feature_table
        yield from (shard.file for shard in entry.shards)


def check_file(folder: Path, file: StoredFile, verify: bool) -> None:
    """Compare a file with its entry: existence and size, with ``verify`` its SHA-256 too."""
    path = folder / file.path
    if not path.is_file():
        raise damaged(folder, file.path, "the file is missing")
    if (size := path.stat().st_size) != file.bytes:
        raise damaged(folder, file.path, f"it has {size:,} bytes, the manifest says {file.bytes:,}")
    if verify and describe_file(folder, file.path).sha256 != file.sha256:
        raise damaged(folder, file.path, "its SHA-256 is not that of the manifest")


def describe_file(folder: Path, path: str) -> StoredFile:
    """Entry of a file that lies in the folder."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(path=path, bytes=(folder / path).stat().st_size, sha256=digest)


def hash_names(names: pd.Index) -> str:
    """SHA-256 of names, one a line."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()


def damaged(folder: Path, path: str, finding: str) -> DataError:
    """Error for a file that is not as the manifest says."""
    return DataError(
        f"The store {folder} is damaged at {path}: {finding}. "
        "Write the store anew from its source, or put back a good copy of that file."
    )
