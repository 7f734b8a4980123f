"""``syncyte train``: a recipe and cells become a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="What to train: clm_x, clm_access, scldm or scmmgpt.", show_default=False),
]
ConditionKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--condition-keys", metavar="KEY ...", help="More obs columns that scldm can be asked for (one or several)."
    ),
]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "--features", metavar="KEY=TABLE", help="Feature vectors of the values of a condition (.csv or .tsv)."
    ),
]
TextKey = Annotated[
    str | None, typer.Option("--text-key", metavar="KEY", help="obs column with your own text about a cell.")
]
Markers = Annotated[Path | None, typer.Option("--markers", metavar="TABLE", help="Marker genes of types, for scmmgpt.")]
Encoder = Annotated[
    Path | None,
    typer.Option(
        "--encoder",
        metavar="FOLDER",
        help="An earlier run, or a published gene transformer, that reads the cells beside scmmgpt's own encoder.",
    ),
]
Validation = Annotated[
    list[str] | None,
    typer.Option("--validation", metavar="VALUE", help="Technical batch held out for early stopping (repeatable)."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one setting of the recipe (repeatable)."),
]


def train(
    recipe: RecipeName,
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run to make.", show_default=False)],
    preset: Annotated[
        str, typer.Option("--preset", metavar="NAME", help="tiny, lite (no attention), small, base or paper.")
    ] = "small",
    batch_key: options.BatchKey = None,
    label_key: options.LabelKey = None,
    condition_keys: ConditionKeys = None,
    features: Features = None,
    text_key: TextKey = None,
    ontology: options.OntologyFile = None,
    markers: Markers = None,
    encoder: Encoder = None,
    validation: Validation = None,
    settings: Settings = None,
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
    syncyte train scldm train.h5ad --out run --label-key cell_type --condition-keys condition donor
    syncyte train scmmgpt cells.h5ad --out run --label-key cell_type --ontology cl.json.zst --text-key description
    syncyte train scmmgpt cells.h5mu --out run --label-key cell_type --encoder clm_x_run
    syncyte train clm_x train.h5mu --out run --resume
    """
    values = options.plain(locals(), "settings", "condition_keys", "features")
    run = options.call("train", {**values, "validation": validation or None})
    options.note(run.recipe.get("notes", ()), quiet)
    task = "generate" if run.can("generates") else "embed"
    more = "--n 1000 --out OUT.h5ad" if run.can("generates") else "DATA --out OUT.h5mu"
    options.say(f"Wrote {out}\nNext: syncyte {task} {out} {more}", quiet)
