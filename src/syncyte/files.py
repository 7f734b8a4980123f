"""Verbs about files: read, inspect, store, convert; and what every verb shares in opening data.

Leaves out: models. ``api`` hands these on beside its own verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncyte.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mudata import MuData

    from syncyte.data.cells import Cells


def open_data(
    data: Any,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> Cells:
    """Open cells from whatever the user gave; see ``read`` for the options."""
    from syncyte.data.read import open_cells
    from syncyte.modalities import all_schemas

    return open_cells(data, schemas=all_schemas(), modality=modality, reference=genome, layer=layer, force=force)


def read(
    source: Any,
    *,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
) -> MuData:
    """Read cells into a new MuData of raw counts under canonical modality and feature names.

    Parameters
    ----------
    source
        ``.h5ad``, ``.h5mu``, ``.zarr``, 10x ``.h5``, mtx folder, store; a list of these; AnnData; MuData.
    modality
        What a plain table holds, where its features do not say it (``rna``, ``atac``).
    genome
        Reference folder that maps gene names and regions (``syncyte reference build``).
    layer
        Where the raw counts are, if they should not be looked for.
    force
        Go on although regions look like those of another genome build.

    Raises
    ------
    DataError, GenomeError
        Saying what was found, what was expected and what to do.
    """
    from syncyte.data.read import read as read_source
    from syncyte.modalities import all_schemas

    return read_source(source, schemas=all_schemas(), modality=modality, reference=genome, layer=layer, force=force)


def inspect_data(
    data: Any,
    *,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """What is in the data: the report of reading, and ``summary``, text for people."""
    from syncyte.data.describe import describe_cells

    del quiet
    cells = open_data(data, modality, genome, layer, force)
    return {**cells.report, "summary": describe_cells(cells)}


def write_store(
    data: Any,
    *,
    out: str | Path,
    shard_cells: int = 16384,
    overwrite: bool = False,
    seed: int = 0,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write cells as shuffled shards that train from disk."""
    from syncyte.data.store import write_store as write

    del quiet
    cells = open_data(data, modality, genome, layer, force)
    return write(cells, Path(out), shard_cells=shard_cells, seed=seed, overwrite=overwrite)


def convert(
    data: Any,
    *,
    out: str | Path,
    modality: str | None = None,
    genome: str | Path | None = None,
    layer: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Write raw counts, covariates and canonical names as ``.h5ad``, ``.h5mu`` or ``.zarr``."""
    from syncyte.data.convert import convert as write

    del quiet
    return write(open_data(data, modality, genome, layer, force), Path(out))


def check_out(out: str | Path | None) -> None:
    """Refuse early what could not be written in the end."""
    if out is None:
        return
    path = Path(out)
    if path.is_dir() and path.suffix != ".zarr":
        raise ConfigError(f"--out {path} is a folder; name a file in it.")
    if path.parent.exists() and not path.parent.is_dir():
        raise DataError(f"Cannot write {path}: {path.parent} is not a folder.")
