"""Manifests of folders, a store's first of all: what its files are, and whether they still are.

Leaves out: the content of the files (``data.store``, ``data.shards``, ``data.packed``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder with a manifest: what it is called, and what is to be said when something is wrong with it."""

    called: str
    name: str
    format: str
    version: int
    source: str
    mend: str

    def damaged(self, folder: Path, path: str, finding: str) -> DataError:
        """Error for a file that is not as the manifest says."""
        return DataError(f"The {self.name} {folder} is damaged at {path}: {finding}. {self.mend}")

    def values(self, folder: Path) -> dict[str, Any]:
        """What ``manifest.json`` holds, of this format and no newer version.

        Raises
        ------
        DataError
            If there is none, it is of another kind, is of a newer version, or is no JSON.
        """
        path = folder / "manifest.json"
        if not path.is_file():
            raise DataError(f"{folder} is not {self.called}: it holds no manifest.json. {self.source}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self.damaged(folder, path.name, f"it is not JSON ({error})") from error
        if not isinstance(values, dict) or values.get("format") != self.format:
            raise DataError(
                f"{path} is not the manifest of {self.called} (format {self.format!r} expected). {self.source}"
            )
        if not isinstance(version := values.get("format_version"), int) or version > self.version:
            raise DataError(
                f"The {self.name} {folder} is of version {version}; this syncyte reads up to {self.version}. "
                "Update it: pip install -U syncyte"
            )
        return values

    def check(self, folder: Path, file: StoredFile, verify: bool) -> None:
        """Compare a file with its entry: existence and size, with ``verify`` its SHA-256 too."""
        path = folder / file.path
        if not path.is_file():
            raise self.damaged(folder, file.path, "the file is missing")
        if (size := path.stat().st_size) != file.bytes:
            raise self.damaged(folder, file.path, f"it has {size:,} bytes, the manifest says {file.bytes:,}")
        if verify and describe_file(folder, file.path).sha256 != file.sha256:
            raise self.damaged(folder, file.path, "its SHA-256 is not that of the manifest")


STORE = FolderKind(
    "a store",
    "store",
    FORMAT,
    max(VERSIONS.values()),
    "Give a folder written by syncyte.",
    "Write the store anew from its source, or put back a good copy of that file.",
)
damaged, check_file = STORE.damaged, STORE.check


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json`` of a store folder.

    Raises
    ------
    DataError
        If there is none, it is no store's, is of a newer version, or is damaged.
    """
    values = STORE.values(folder)
    try:
        return Manifest.parse(values)
    except ConfigError as error:
        raise damaged(folder, "manifest.json", str(error)) from error


def stored_files(manifest: Manifest) -> Iterator[StoredFile]:
    """Every file that a manifest names."""
    yield manifest.cell_table
    for entry in manifest.modalities.values():
        yield entry.feature_table
        yield from (shard.file for shard in entry.shards)


def describe_file(folder: Path, path: str) -> StoredFile:
    """Entry of a file that lies in the folder."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StoredFile(path=path, bytes=(folder / path).stat().st_size, sha256=digest)


def hash_names(names: pd.Index) -> str:
    """SHA-256 of names, one a line."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()
