"""``syncyte reference build | download | list``: the genes, regions and chromosomes that data are mapped to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options

app = typer.Typer(
    help="Make or fetch a reference folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Reference folder to make.", show_default=False)]

Peaks = Annotated[
    list[Path] | None,
    typer.Option("--peaks", metavar="FILE", help="Regions from peaks: narrowPeak, BED, .h5ad (repeat for more)."),
]
Bins = Annotated[
    int | None, typer.Option("--bins", min=1, metavar="N", help="Regions of N bases along the chromosomes instead.")
]
Width = Annotated[int, typer.Option("--width", min=1, metavar="N", help="Width in bp of the regions made from peaks.")]


def build(
    out: Folder,
    gtf: Annotated[Path | None, typer.Option("--gtf", metavar="FILE", help="Gene annotation.")] = None,
    genes: Annotated[
        Path | None, typer.Option("--genes", metavar="FILE", help="A table or BED of genes instead.")
    ] = None,
    regions: Annotated[Path | None, typer.Option("--regions", metavar="BED", help="Regions, e.g. cCREs.")] = None,
    bins: Bins = None,
    peaks: Peaks = None,
    width: Width = 501,
    chrom_sizes: Annotated[
        Path | None, typer.Option("--chrom-sizes", metavar="FILE", help="Two columns: chromosome, length.")
    ] = None,
    aliases: Annotated[
        Path | None, typer.Option("--aliases", metavar="FILE", help="Two columns: retired or alias name, current name.")
    ] = None,
    chain: Annotated[
        Path | None, typer.Option("--chain", metavar="FILE", help="Chain file, kept beside the rest.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the genome build, e.g. hg38.")
    ] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Make a reference folder from local files.

    Examples
    --------
    syncyte reference build --gtf genes.gtf.gz --regions ccres.bed --chrom-sizes hg38.sizes --out hg38
    syncyte reference build --gtf genes.gtf.gz --bins 5000 --chrom-sizes hg38.sizes --aliases alias.tsv --out hg38
    syncyte reference build --bins 2500 --chrom-sizes hg38.sizes --out bins
    syncyte reference build --peaks a.narrowPeak --peaks b.h5ad --chrom-sizes hg38.sizes --out peaks
    """
    del device, seed  # nothing is drawn or computed
    from syncyte.genome.reference import build_reference

    build_reference(
        out,
        gtf=gtf,
        genes=genes,
        regions=regions,
        bins=bins,
        peaks=peaks or (),
        width=width,
        chrom_sizes=chrom_sizes,
        aliases=aliases,
        chain=chain,
        name=name,
        overwrite=overwrite,
    )
    options.say(f"Wrote {out}\nNext: add --genome {out} to any command that reads cells", quiet)


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of: syncyte reference list.", show_default=False)],
    out: Folder,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Fetch a named public source, check it, and make a reference folder from it.

    Examples
    --------
    syncyte reference download hg38 --out hg38
    """
    del device, seed  # nothing is drawn or computed
    from syncyte.genome.reference import download_reference

    download_reference(name, out, overwrite=overwrite)
    options.say(f"Wrote {out}\nNext: add --genome {out} to any command that reads cells", quiet)


def list_sources(
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Print the public sources that can be downloaded by name.

    Examples
    --------
    syncyte reference list
    """
    del device, seed  # nothing is drawn or computed
    from syncyte.genome.reference import SOURCES

    for name, source in SOURCES.items():
        options.say(f"{name}\t{source}", quiet)


options.add(app, "build", build)
options.add(app, "download", download)
options.add(app, "list", list_sources)
