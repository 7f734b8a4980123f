"""``syncyte variants``: what changes of DNA do to genes, and through cells to other genes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options

Vcf = Annotated[
    Path | None, typer.Option("--vcf", metavar="VCF", help="Variants: VCF, BCF, or a table (chrom, pos, ref, alt).")
]
Edits = Annotated[
    str | None,
    typer.Option("--edits", metavar="EDITS", help="Edits: a file, or text such as chr22:100-200=shuffle."),
]
Targets = Annotated[
    Path | None, typer.Option("--targets", metavar="TABLE", help="Genes and their targets, whose ranking is tested.")
]


CellsOut = Annotated[
    Path | None, typer.Option("--cells-out", metavar="FILE", help="Write the cells with the tables in uns.")
]
Cache = Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Folder that keeps encoded sequences.")]


def variants(
    run: options.Run,
    fasta: Annotated[
        list[Path], typer.Option("--fasta", metavar="FASTA", help="Genome the variants are called on (repeatable).")
    ],
    cells: Annotated[Path, typer.Option("--cells", metavar="DATA", help="Cells that effects are followed through.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of results.", show_default=False)],
    vcf: Vcf = None,
    edits: Edits = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="NAME", help="Score both haplotypes of this sample of the VCF.")
    ] = None,
    offset: options.Offset = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="KEY", help="obs column of groups, told apart.")
    ] = None,
    donor: Annotated[
        str | None, typer.Option("--donor", metavar="KEY", help="obs column of donors, the replicates of tests.")
    ] = None,
    targets: Targets = None,
    nulls: Annotated[
        int, typer.Option("--nulls", min=0, metavar="N", help="Random variants that each one is compared with.")
    ] = 200,
    each: Annotated[
        int | None, typer.Option("--each", min=3, metavar="N", help="Cells of a donor in a group that are followed.")
    ] = None,
    close: Annotated[int, typer.Option("--close", min=0, metavar="N", help="Pairs looked at closely.")] = 10,
    shifts: Annotated[
        bool, typer.Option("--shifts/--no-shifts", help="Compare contextual embeddings too (most of the work).")
    ] = True,
    cache: Cache = None,
    cells_out: CellsOut = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace finished results at --out.")] = False,
    modality: options.Modality = None,
    genome: options.Genome = None,
    layer: options.Layer = None,
    force: options.Force = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Score variants with a bio_dta run: on the gene itself (cis), and on others through cells (trans).

    Examples
    --------
    syncyte variants run --vcf v.vcf.gz --fasta genome.fa.gz --cells cells.h5ad --group cell_type --out effects
    syncyte variants run --edits chr22:32100-32200=shuffle --fasta genome.fa.gz --cells cells.h5ad --out effects
    syncyte variants run --targets trrust.tsv --fasta genome.fa.gz --cells cells.h5ad --group cell_type --out effects
    """
    found = options.call("variants", options.plain(locals()))
    options.note(found.notes, quiet)
    count = found.metrics
    options.say(
        f"{count['alleles']:,} alleles, {count['alleles in a window']:,} in a window of a gene, "
        f"{count['alleles scored']:,} scored in {count['groups']} group(s).\n"
        f"Wrote {out / 'effects.tsv'} and {out / 'report.html'}",
        quiet,
    )
