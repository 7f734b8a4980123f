"""``syncyte search | describe``: plain language to cells, and cells to sentences."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options


class Mode(StrEnum):
    """How a sentence is compared with cells."""

    terms = "terms"
    vectors = "vectors"


class Nearest(StrEnum):
    """How the nearest vectors are found."""

    auto = "auto"
    exact = "exact"
    faiss = "faiss"


def search(
    run: options.Run,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Which cells, in words; or cell:NAME.")],
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", metavar="HITS.csv", help="Table to write.", show_default=False)],
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Cells to list.")] = 200,
    mode: Annotated[
        Mode, typer.Option("--mode", help="By types the sentence names, or by likeness to it as a whole.")
    ] = Mode.terms,
    index: Annotated[
        Path | None, typer.Option("--index", metavar="DIR", help="Folder that keeps what searches need of these cells.")
    ] = None,
    nearest: Annotated[
        Nearest,
        typer.Option(
            "--nearest",
            help="How nearest cells are found by vectors: exact; faiss (with --index; may miss some); auto: faiss from "
            "two million cells on, where it is installed.",
        ),
    ] = Nearest.auto,
    batch_size: options.BatchSize = None,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Find the cells that a sentence asks for: cell, score and evidence, best first.

    How the sentence was read is printed: which types each part was taken for, and which are unwanted.

    Examples
    --------
    syncyte search run "cytotoxic lymphocytes, not T cells" cells.h5ad --top 200 --out hits.csv
    syncyte search run "B cells or plasma cells" cells.h5ad --index cells.index --out hits.csv
    syncyte search run cell:AAACATACAACCAC-1 cells.h5ad --out alike.csv
    syncyte search run "activated B cells" cells.h5ad --mode vectors --index cells.index --nearest faiss --out hits.csv
    """
    found = options.call("search", options.plain(locals()))
    options.note(found.notes, quiet)
    options.say(f"{found.explain}\nWrote {out} ({len(found.table):,} cells)", quiet)


def describe(
    run: options.Run,
    data: options.Data,
    out: options.Out,
    by: Annotated[
        str | None, typer.Option("--by", metavar="KEY", help="obs column of clusters that get one sentence each.")
    ] = None,
    force_slots: Annotated[
        list[str] | None,
        typer.Option("--say", metavar="FIELD=VALUE", help="Said whatever the cells look like (repeatable)."),
    ] = None,
    key_added: options.KeyAdded = None,
    batch_size: options.BatchSize = None,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Write a sentence about each cell or cluster: obs["syncyte_description"], with evidence in uns["syncyte"].

    Examples
    --------
    syncyte describe run cells.h5ad --by cluster --out described.h5ad
    syncyte describe run cells.h5ad --say tissue=blood --out described.h5ad
    """
    result = options.call("describe", options.plain(locals(), "force_slots"))
    options.note(result.provenance["settings"]["notes"], quiet)
    options.say(f"Wrote {out}", quiet)
