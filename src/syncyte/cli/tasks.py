"""``syncyte embed | integrate | annotate | translate | regions | evaluate``: a run and cells become results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options

Candidates = Annotated[
    Path | None,
    typer.Option("--candidates", metavar="FILE", help="Types that may be answers, one a line; or the word 'all'."),
]
UnseenShare = Annotated[
    float | None,
    typer.Option(
        "--unseen-share",
        metavar="P",
        help="Share of cells expected to be of types of no training cell (--zero-shot; 0.5 where not given).",
    ),
]


class Method(StrEnum):
    """How ``annotate`` learns the labels of the reference."""

    auto = "auto"
    probe = "probe"
    lora = "lora"
    full = "full"


def embed(
    run: options.Run,
    data: options.Data,
    out: options.Out,
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
    """Write one vector a cell: obsm["X_syncyte"].

    Examples
    --------
    syncyte embed run cells.h5mu --out out.h5mu
    syncyte embed run atac.h5ad --modality atac --out out.h5ad
    """
    options.call("embed", locals())
    options.say(f"Wrote {out}", quiet)


def integrate(
    run: options.Run,
    data: options.Data,
    batch_key: Annotated[
        str, typer.Option("--batch-key", metavar="KEY", help="obs column of the technical batch.", show_default=False)
    ],
    out: options.Out,
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
    """Write an embedding without technical batch effects: obsm["X_syncyte_integrated"].

    Examples
    --------
    syncyte integrate run cells.h5mu --batch-key batch --out out.h5mu
    """
    result = options.call("integrate", locals())
    options.note(result.provenance["integrate"]["notes"], quiet)
    options.say(f"Wrote {out}", quiet)


def annotate(
    run: options.Run,
    query: Annotated[list[Path], typer.Argument(metavar="QUERY", help=options.DATA_HELP, show_default=False)],
    out: options.Out,
    reference: Annotated[
        list[Path] | None, typer.Option("--reference", metavar="DATA", help="Labelled cells (repeat for more files).")
    ] = None,
    label_key: Annotated[
        str | None, typer.Option("--label-key", metavar="KEY", help="obs column of their labels.")
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="By words, with a scmmgpt run: types it never saw may be answers.")
    ] = False,
    candidates: Candidates = None,
    tissue: Annotated[
        str | None, typer.Option("--tissue", metavar="NAME", help="Only types that are usual there, such as blood.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="KEY", help="obs column of clusters answered as one (--zero-shot).")
    ] = None,
    smooth: Annotated[bool, typer.Option("--smooth", help="Mix each cell with its neighbours (--zero-shot).")] = False,
    unseen_share: UnseenShare = None,
    method: Annotated[Method, typer.Option("--method", help="Frozen probe, LoRA or full fine-tuning.")] = Method.auto,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, metavar="P", help="Abstain below this confidence."),
    ] = None,
    unclear: options.Unclear = None,
    batch_key: options.BatchKey = None,
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
    """Label query cells from a labelled reference: obs["syncyte_<label key>"], obs["syncyte_confidence"].

    A scmmgpt run needs no reference: it knows the types it was trained on, and --zero-shot adds others by their texts,
    relatives and markers: obs["syncyte_type"], with wider terms or "unknown" where nothing is sure.

    Examples
    --------
    syncyte annotate run query.h5mu --reference train.h5mu --label-key cell_type --out out.h5mu
    syncyte annotate run query.h5mu --reference train.h5mu --label-key cell_type --threshold 0.7 --out out.h5mu
    syncyte annotate run query.h5ad --zero-shot --tissue blood --out out.h5ad
    syncyte annotate run query.h5ad --zero-shot --candidates types.txt --by cluster --out out.h5ad
    """
    values = options.plain(locals(), "unclear")
    if candidates is not None and str(candidates) == "all" and not candidates.exists():
        values["candidates"] = "all"
    result = options.call("annotate", {**values, "reference": reference or None})
    options.note(result.provenance["settings"].get("notes", ()), quiet)
    options.say(f"Wrote {out}", quiet)


def translate(
    run: options.Run,
    data: options.Data,
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="Modality to read.", show_default=False)],
    target: Annotated[str, typer.Option("--to", metavar="NAME", help="Modality to predict.", show_default=False)],
    out: options.Out,
    features: Annotated[
        Path | None, typer.Option("--features", metavar="FILE", help="Only these genes or regions, one name a line.")
    ] = None,
    min_prob: Annotated[
        float | None,
        typer.Option("--min-prob", min=0.0, max=1.0, metavar="P", help="Write sparse, only values of at least P."),
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
    """Predict one modality from the other; the predicted one is never looked at, even where the file holds it.

    X is the prediction: expected log1p of counts per 10,000 for RNA, probability of being open for ATAC.

    Examples
    --------
    syncyte translate run cells.h5mu --from rna --to atac --out atac.h5ad
    syncyte translate run cells.h5mu --from rna --to atac --min-prob 0.05 --out atac.h5ad
    syncyte translate run cells.h5mu --from atac --to rna --features genes.txt --out rna.h5ad
    """
    options.call("translate", locals())
    options.say(f"Wrote {out}", quiet)


def regions(
    run: options.Run,
    data: options.Data,
    label_key: Annotated[
        str, typer.Option("--label-key", metavar="KEY", help="obs column of the cell type.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="TABLE.csv", help="Table to write.", show_default=False)],
    genes: Annotated[
        list[str] | None,
        typer.Option("--genes", metavar="NAME", help="Gene whose regions to list (repeat for more)."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Regions of a cell type.")] = 20,
    unclear: options.Unclear = None,
    batch_size: options.BatchSize = None,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """List the regions most specific for each cell type, and those that move the prediction of genes.

    Beside the model's score stands how often the cells themselves open a region. With --genome, where the reference
    has genes, the nearest genes are listed. Regions of genes go to TABLE.genes.csv, where the run knows RNA too.

    Examples
    --------
    syncyte regions run cells.h5mu --label-key cell_type --out regions.csv
    syncyte regions run cells.h5mu --label-key cell_type --genome hg38 --genes CD8A --genes MS4A1 --out regions.csv
    """
    found = options.call("top_regions", {**locals(), "unclear": tuple(unclear or ())})
    options.note(found.notes, quiet)
    options.say(f"Wrote {' and '.join(map(str, found.files(out)))}", quiet)


def evaluate(
    run: options.Run,
    data: options.Data,
    reference: options.Reference,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report.", show_default=False)],
    batch_key: options.BatchKey = None,
    label_key: options.LabelKey = None,
    unclear: options.Unclear = None,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers", help="Train MultiVI, scVI, scANVI, CellTypist, PeakVI, PoissonVI, SnapATAC2 too: hours."
        ),
    ] = False,
    perturbation: Annotated[
        str | None,
        typer.Option("--perturbation", metavar="KEY=CONTROL", help="Score responses to this condition of a scldm run."),
    ] = None,
    batch_size: options.BatchSize = None,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measure a run on held-out cells beside the baselines: report.html and report.json.

    A scmmgpt run is also asked in words: types by every way it tells them, wordings of the same question, retrieval
    of texts and cells beside chance, descriptions beside templates, cells from texts beside real ones, searches.

    With --genome, where the reference has genes, gene activity is among them. Where the run knows regions, those most
    specific for each cell type and those that move genes are listed too: top_regions.csv and gene_regions.csv.

    Examples
    --------
    syncyte evaluate run heldout.h5mu --reference train.h5mu --label-key cell_type --out report
    syncyte evaluate run heldout.h5mu --reference train.h5mu --genome hg38 --unclear doublet --out report
    syncyte evaluate run heldout.h5ad --reference train.h5ad --perturbation condition=ctrl --out report
    """
    options.call("evaluate", {**locals(), "unclear": tuple(unclear or ())})
    options.say(f"Wrote {out / 'report.html'} and {out / 'report.json'}", quiet)
