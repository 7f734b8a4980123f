"""What several commands share: each common option declared once, registration, and the call of a verb."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from enum import Enum
from inspect import cleandoc
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer

DATA_HELP = "One or more files of cells: .h5ad, .h5mu, .zarr, 10x .h5, a 10x mtx folder, or a store."

Data = Annotated[list[Path], typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write or replace.", show_default=False)]
Reference = Annotated[
    list[Path],
    typer.Option("--reference", metavar="DATA", help="Reference cells (repeat for more files).", show_default=False),
]
BatchKey = Annotated[str | None, typer.Option("--batch-key", metavar="KEY", help="obs column of the technical batch.")]
LabelKey = Annotated[str | None, typer.Option("--label-key", metavar="KEY", help="obs column of the cell type.")]
Unclear = Annotated[
    list[str] | None,
    typer.Option("--unclear", metavar="LABEL", help="Label that means no class; not learned from (repeatable)."),
]
KeyAdded = Annotated[
    str | None, typer.Option("--key-added", metavar="STEM", help="Stem of the slots written, instead of 'syncyte'.")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, metavar="N", help="Cells in a minibatch.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands at --out.")]

Modality = Annotated[
    str | None, typer.Option("--modality", metavar="NAME", help="What a plain .h5ad holds: rna or atac.")
]
Genome = Annotated[
    Path | None, typer.Option("--genome", metavar="DIR", help="Reference folder that maps gene names and regions.")
]
Layer = Annotated[
    str | None, typer.Option("--layer", metavar="NAME", help="Layer of the raw counts, where they are not found.")
]
Force = Annotated[bool, typer.Option("--force", help="Go on where the genome build looks wrong.")]

OntologyFile = Annotated[
    Path | None,
    typer.Option(
        "--ontology",
        metavar="FILE",
        help="OBO text, OBO graphs (.json) or cellxgene-ontology-guide (.json.zst); may be compressed.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of everything random.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def add(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Register a command under a name; its docstring is its help, with the examples kept line by line."""
    text, _, examples = cleandoc(command.__doc__ or "").partition("\n\nExamples\n--------\n")
    summary = text.partition("\n\n")[0].rstrip(".")
    app.command(name, help=f"{text}\n\n\b\nExamples:\n{indent(examples, '  ')}", short_help=summary)(command)


def call(verb: str, values: dict[str, Any]) -> Any:
    """Call a verb of the package with a command's options, which bear the names of the verb's parameters.

    A list of one path becomes the path: the verbs take either.
    """
    from syncyte import api

    return getattr(api, verb)(**{name: _one_path(value) for name, value in values.items()})


def plain(values: dict[str, Any], *lists: str) -> dict[str, Any]:
    """A command's options as its verb wants them: words for choices, and tuples for what may be repeated."""
    found = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    return found | {name: tuple(found[name] or ()) for name in lists}


def _one_path(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Path) else value


def note(lines: Iterable[str], quiet: bool) -> None:
    """Print what a user should know of a result beside it, on standard error."""
    if not quiet and os.environ.get("RANK", "0") == "0":
        for line in lines:
            typer.echo(f"note: {line}", err=True)


def say(text: str, quiet: bool) -> None:
    """Print on standard output, unless told to be quiet; of several processes the first alone does."""
    if not quiet and os.environ.get("RANK", "0") == "0":
        typer.echo(text)


Fasta = Annotated[
    list[Path] | None,
    typer.Option("--fasta", metavar="FASTA", help="Genome (plain, gzip or bgzip; repeatable for several files)."),
]
Offset = Annotated[
    list[str] | None,
    typer.Option(
        "--offset",
        metavar="N",
        help="Where a slice of a genome begins: a number for one file, FILE=N for one of several (repeatable).",
    ),
]
