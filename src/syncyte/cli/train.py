"""``syncyte train``: a recipe and cells become a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="What to train: clm_x or clm_access.", show_default=False)
    ],
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run to make.", show_default=False)],
    preset: Annotated[
        str, typer.Option("--preset", metavar="NAME", help="tiny, lite (no attention), small, base or paper.")
    ] = "small",
    batch_key: options.BatchKey = None,
    label_key: options.LabelKey = None,
    validation: Annotated[
        list[str] | None,
        typer.Option("--validation", metavar="VALUE", help="Technical batch held out for early stopping (repeatable)."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change one setting of the recipe (repeatable)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands at --out.")] = False,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train a recipe on cells and write a run: weights, settings, vocabularies, card.

    Examples
    --------
    syncyte train clm_x train.h5mu --out run --batch-key batch --label-key cell_type
    syncyte train clm_x rna.h5ad atac.h5ad --out run --preset lite
    syncyte train clm_x train.h5mu --out run --preset small --set stages.rna.epochs=5
    syncyte train clm_access store --out run --preset small --batch-key batch
    syncyte train clm_x train.h5mu --out run --resume
    """
    run = options.call("train", {**locals(), "validation": validation or None, "settings": tuple(settings or ())})
    options.note(run.recipe.get("notes", ()), quiet)
    options.say(f"Wrote {out}\nNext: syncyte embed {out} DATA --out OUT.h5mu", quiet)
