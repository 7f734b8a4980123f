"""What a training that reads DNA is given, from files to what the recipe wants.

Leaves out: opening cells (handed in), and what is made of it (``train_dna``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError
from syncyte.genome.dictionaries import read_medians
from syncyte.genome.fasta import Genome
from syncyte.genome.tables import read_bed
from syncyte.genome.tss import read_tss
from syncyte.models.dna_encoder import open_sequence_encoder
from syncyte.recipes.base import SequenceOrder, recipes
from syncyte.tasks.trained import load_trained
from syncyte.train.distributed import resolve_device

OPTIONS = ("fasta", "offset", "tss", "peaks", "atac", "dna_encoder", "gene_features", "gene_medians", "backbone")


def read_sequences(recipe: str, options: Mapping[str, Any], open_cells: Callable[[Any], Cells]) -> dict[str, Any]:
    """What a training that reads DNA is given, opened; refused for recipes that would pass it over.

    Parameters
    ----------
    recipe
        Its name.
    options
        Among others: ``fasta`` (one file or several) with the ``offset`` of slices; ``tss``, starts of genes (GTF, BED
        or table); ``peaks``, regions near genes; ``atac``, cells whose openness is learned; ``dna_encoder``, folder of
        a trained sequence model; ``gene_features``, any vectors of genes instead of DNA; ``gene_medians``, medians of
        genes (JSON, or a published pickle, which is read without running it); ``backbone``, a trained run whose gene
        tokens are adapted; ``cache``, folder of encoded sequences.
    open_cells
        Opens the cells of ``atac``.
    """
    given: dict[str, Any] = {name: options.get(name) for name in OPTIONS}
    if not any(value is not None for value in given.values()):
        return {}
    able = [name for name, one in recipes.items() if "variants" in one.tasks]
    if recipe not in able:
        named = " and ".join(f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None)
        raise ConfigError(f"The recipe {recipe} reads no DNA: leave out {named}, or train {', '.join(able)}.")
    folder = given["dna_encoder"]
    kind, index = resolve_device(options.get("device", "cpu"))
    device = f"{kind}:{index}" if kind == "cuda" else kind
    offset = read_offset(given["offset"])
    order = SequenceOrder(
        genome=_maybe(given["fasta"], lambda path: Genome.open(genome_paths(path), offset=offset)),
        starts=_maybe(given["tss"], read_tss),
        peaks=_maybe(given["peaks"], lambda path: read_bed(Path(path))),
        atac=_maybe(given["atac"], lambda data: _with_regions(open_cells(data), data)),
        encoder=_maybe(folder, lambda path: open_sequence_encoder(path, device=device)),
        folder=_maybe(folder, lambda path: Path(path).expanduser().resolve()),
        vectors=_maybe(given["gene_features"], read_vectors),
        medians=_maybe(given["gene_medians"], lambda path: pd.Series(read_medians(path))),
        backbone=_maybe(given["backbone"], lambda path: load_trained(path, "cpu")),
        cache=_maybe(options.get("cache"), Path),
    )
    return {"sequences": order}


def _maybe(value: Any, read: Callable[[Any], Any]) -> Any:
    return None if value is None else read(value)


def read_offset(offset: Any) -> Any:
    """Offset of a slice: a number, or numbers by name of file (``{"slice.fa.gz": 32000000}``, ``["slice.fa.gz=320"]``).

    Raises
    ------
    ConfigError
        Where a text is no whole number.
    """
    if offset is None or isinstance(offset, int | Mapping):
        return offset
    parts = [offset] if isinstance(offset, str) else list(offset)
    if not parts:
        return None
    try:
        if len(parts) == 1 and "=" not in str(parts[0]):
            return int(str(parts[0]).replace(",", ""))
        pairs = [str(part).rpartition("=") for part in parts]
        return {Path(name).name: int(number.replace(",", "")) for name, _, number in pairs}
    except ValueError as error:
        raise ConfigError(
            f"--offset {' '.join(map(str, parts))} is no place: give a whole number, or FILE=N for each of several."
        ) from error


def genome_paths(fasta: Any) -> Any:
    """One file, or a list of several."""
    if isinstance(fasta, list | tuple):
        return [Path(one) for one in fasta] if len(fasta) > 1 else Path(fasta[0])
    return Path(fasta)


def _with_regions(cells: Cells, data: Any) -> Cells:
    """The modality whose features are regions."""
    for name in cells.modalities:
        if cells.part(name).var.index.str.match(r".+[:_-]\d+[_-]\d+").any():
            return cells.only([name])
    raise DataError(f"--atac {data} has no regions as features ({', '.join(cells.modalities) or 'nothing'} found).")


def read_vectors(table: Any) -> pd.DataFrame:
    """Vectors of genes from a table: names first, numbers beside them."""
    if isinstance(table, pd.DataFrame):
        found = table
    else:
        path = Path(table)
        if not path.is_file():
            raise DataError(f"--gene-features {path} does not exist. Give a .csv or .tsv with names of genes first.")
        found = pd.read_csv(path, sep="," if path.name.removesuffix(".gz").endswith(".csv") else "\t", index_col=0)
    if not found.shape[1] or not all(np.issubdtype(kind, np.number) for kind in found.dtypes):
        raise DataError("--gene-features must hold numbers beside the names of genes.")
    if not found.index.is_unique or not np.isfinite(found.to_numpy(dtype=float)).all():
        raise DataError("--gene-features repeats a gene or has missing numbers. Give one complete row a gene.")
    found.index = found.index.astype(str)
    return found.astype(np.float32)
