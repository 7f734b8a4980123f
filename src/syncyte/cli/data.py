"""``syncyte data inspect | harmonise | store | convert | fragments``: look at files, rewrite them, count fragments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from syncyte.cli import options
from syncyte.types import json_ready

if TYPE_CHECKING:
    from syncyte.data.gather import Gathered

Store = Annotated[Path, typer.Option("--out", metavar="STORE", help="Folder of the store to make.", show_default=False)]
ShardCells = Annotated[int, typer.Option("--shard-cells", min=1, metavar="N", help="Cells in a shard.")]
Compact = Annotated[
    bool, typer.Option("--compact/--plain", help="Pack counts for syncyte alone, or write shards that anndata opens.")
]
app = typer.Typer(help="Look at files of cells and rewrite them.", no_args_is_help=True, rich_markup_mode=None)


def inspect(
    data: options.Data,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Say what is in the files: modalities, cells, features, where the raw counts are, what maps to a reference.

    Examples
    --------
    syncyte data inspect cells.h5mu
    syncyte data inspect rna.h5ad atac.h5ad --genome hg38
    """
    del device, seed  # reading is exact
    reading = {"modality": modality, "genome": genome, "layer": layer, "force": force}
    found = options.call("inspect_data", {"data": data, "quiet": quiet, **reading})
    if as_json:
        typer.echo(json.dumps(json_ready({name: found[name] for name in found if name != "summary"}), indent=2))
    else:
        options.say(found["summary"], quiet)


def harmonise(
    files: options.Data,
    reference: Annotated[
        Path, typer.Option("--reference", metavar="REF", help="Reference folder to put all on.", show_default=False)
    ],
    out: Store,
    chain: Annotated[
        Path | None, typer.Option("--chain", metavar="FILE", help="Chain file that lifts the peaks to its build.")
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", metavar="NAME", help="Counts of a peak go by: largest, any or fraction overlap.")
    ] = "largest",
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes.")] = 1,
    skip_failed: Annotated[bool, typer.Option("--skip-failed", help="Go on without files that fail.")] = False,
    shard_cells: ShardCells = 16384,
    compact: Compact = True,
    overwrite: options.Overwrite = False,
    modality: options.Modality = None,
    layer: options.Layer = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on where the build looks wrong or little overlaps the reference.")
    ] = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Put many files, whatever their peaks, on one reference and join them in a store.

    A second call does only what is missing or changed. A file that fails does not stop the others; without
    --skip-failed no store is written then, and the errors are listed.

    Examples
    --------
    syncyte data harmonise one.h5ad two.h5 three.h5mu --reference hg38 --out store --workers 2
    syncyte data harmonise old.h5ad --reference hg38 --chain hg19ToHg38.over.chain.gz --out store
    """
    del device  # nothing is computed on a device
    done = options.call("harmonise", locals())
    options.say("\n".join(_told(done)), quiet)


def _told(done: Gathered) -> list[str]:
    """What became of the files, for people."""
    lines = [f"{name}: {said}" for name, said in done.report["features"].items()]
    lines += [f"failed, left out: {Path(source).name}: {error}" for source, error in done.failed.items()]
    if done.few is not None:
        lines.append(f"Cells with few open regions: {done.few}")
    way = f"{done.made:,} files read, {done.kept:,} kept from before"
    return [*lines, f"Wrote {done.path} ({way})", f"Next: syncyte train clm_x {done.path} --out RUN"]


def store(
    data: options.Data,
    out: Store,
    shard_cells: ShardCells = 16384,
    compact: Compact = False,
    overwrite: options.Overwrite = False,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Write cells as shuffled shards that train from disk and that plain anndata can open, unless they are compact.

    Examples
    --------
    syncyte data store cells.h5mu --out store
    syncyte data store one.h5 two.h5 three.h5 --genome hg38 --compact --out store
    """
    del device  # nothing is computed on a device
    options.call("write_store", locals())
    options.say(f"Wrote {out}\nNext: syncyte train clm_x {out} --out RUN", quiet)


def convert(
    data: options.Data,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File to write: .h5ad, .h5mu or .zarr.", show_default=False)
    ],
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Write cells as one uncompressed file with raw counts in X, which is the fastest to read by rows.

    Examples
    --------
    syncyte data convert filtered_feature_bc_matrix.h5 --out cells.h5mu
    syncyte data convert gzipped.h5ad --out plain.h5ad
    """
    del device, seed  # nothing is drawn or computed
    options.call("convert", locals())
    options.say(f"Wrote {out}", quiet)


def fragments(
    fragments: Annotated[
        Path, typer.Argument(metavar="FILE", help="Fragment file: .tsv.gz (gzip or bgzip) or .tsv.", show_default=False)
    ],
    genome: Annotated[
        Path,
        typer.Option(
            "--genome", "--reference", metavar="DIR", help="Reference folder with regions.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write: .h5ad.", show_default=False)],
    barcodes: Annotated[
        Path | None, typer.Option("--barcodes", metavar="FILE", help="The cells, one barcode a line; all become rows.")
    ] = None,
    min_fragments: Annotated[
        int | None, typer.Option("--min-fragments", min=1, metavar="N", help="Least fragments of a cell.")
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", metavar="NAME", help="ends, insertions or overlap: what counts in a region.")
    ] = "ends",
    shift: Annotated[
        tuple[int, int],
        typer.Option("--shift", metavar="BP BP", help="Added to start and end: 4 -5 if Tn5 was not corrected for."),
    ] = (0, 0),
    peaks: Annotated[
        Path | None, typer.Option("--peaks", metavar="BED", help="Peaks for the share of fragments in peaks.")
    ] = None,
    plots: Annotated[Path | None, typer.Option("--plots", metavar="DIR", help="Folder for plots of quality.")] = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Count fragments on the regions of a reference: cells x regions, with the quality of each cell.

    Cells are the barcodes of a list, or those above the gap in fragments per barcode. Raw counts in X, quality in obs.

    Examples
    --------
    syncyte data fragments fragments.tsv.gz --genome hg38 --out cells.h5ad
    syncyte data fragments fragments.tsv.gz --genome hg38 --barcodes barcodes.tsv.gz --plots plots --out cells.h5ad
    """
    del device, seed  # nothing is drawn or computed on a device
    found = options.call("count_fragments", locals())
    options.say(f"{found.summary}\nWrote {out}", quiet)


options.add(app, "inspect", inspect)
options.add(app, "harmonise", harmonise)
options.add(app, "store", store)
options.add(app, "convert", convert)
options.add(app, "fragments", fragments)
