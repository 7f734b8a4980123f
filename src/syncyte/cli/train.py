"""``syncyte train``: a recipe and cells become a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="What to train: clm_x, clm_access, scldm, scmmgpt, bio_dta.", show_default=False
    ),
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
Starts = Annotated[
    Path | None, typer.Option("--tss", metavar="TSS", help="Transcription starts for bio_dta: GTF, BED or table.")
]
Peaks = Annotated[Path | None, typer.Option("--peaks", metavar="BED", help="Regions near genes, for bio_dta.")]
Openness = Annotated[
    Path | None,
    typer.Option("--atac", metavar="DATA", help="Cells whose openness the sequence model of bio_dta learns."),
]
DnaEncoder = Annotated[
    Path | None,
    typer.Option("--dna-encoder", metavar="DIR", help="Sequence model to use: Enformer, Borzoi, or of an earlier run."),
]
GeneFeatures = Annotated[
    Path | None, typer.Option("--gene-features", metavar="TABLE", help="Vectors of genes instead of DNA, for bio_dta.")
]
Backbone = Annotated[
    Path | None, typer.Option("--backbone", metavar="RUN", help="Run whose gene tokens bio_dta adapts.")
]
GeneMedians = Annotated[
    Path | None,
    typer.Option("--gene-medians", metavar="FILE", help="Medians of genes for the rank encoding of bio_dta."),
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
    fasta: options.Fasta = None,
    offset: options.Offset = None,
    tss: Starts = None,
    peaks: Peaks = None,
    atac: Openness = None,
    dna_encoder: DnaEncoder = None,
    gene_features: GeneFeatures = None,
    gene_medians: GeneMedians = None,
    backbone: Backbone = None,
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
    syncyte train bio_dta cells.h5mu --fasta genome.fa.gz --tss tss.bed.gz --out run --label-key cell_type
    syncyte train clm_x train.h5mu --out run --resume
    """
    values = options.plain(locals(), "settings", "condition_keys", "features")
    values |= {"fasta": fasta or None, "offset": offset or None}
    run = options.call("train", {**values, "validation": validation or None})
    options.note(run.recipe.get("notes", ()), quiet)
    task, more = "embed", "DATA --out OUT.h5mu"
    if run.can("generates"):
        task, more = "generate", "--n 1000 --out OUT.h5ad"
    if run.can("adapts"):
        task, more = "variants", "--vcf VCF --fasta GENOME.fa.gz --cells CELLS.h5ad --out EFFECTS"
    options.say(f"Wrote {out}\nNext: syncyte {task} {out} {more}", quiet)
