"""One tiny simulated genome with the cells it regulates, and small runs trained on it: what tests of DNA stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from tests.tiny import cells_of

import syncyte
from syncyte.data.cells import Cells
from syncyte.models.genes import GeneModel, GeneSizes, GeneSpec
from syncyte.recipes.simulate_regulation import Regulation, simulate_regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.trained import Trained

SHAPE = {"genes": 150, "factors": 4, "targets": 12, "programmes": 3, "types": 3, "donors": 3}
PLAIN = ("sizes.layers=0", "stages.genes.epochs=0")  # the smallest preset without attention, as lite has it
NEAR = (*PLAIN, "reach=3000")  # peaks speak for the genes beside them, not for a whole chromosome
DEEP = ("stages.genes.keep=last",)  # so few cells never improve on the closed form, and attention is to say something
SILENT = {"device": "cpu", "quiet": True}


def regulation(n: int = 400, seed: int = 0, **changes: Any) -> Regulation:
    """A genome of ten chromosomes with 15 genes each, and cells of three types from three donors."""
    return simulate_regulation(n, seed, **{**SHAPE, **changes})


def train_dna(files: Mapping[str, Path], out: Path, settings: Sequence[str] = NEAR, **options: Any) -> Trained:
    """Train the smallest preset on the written world; every option of ``syncyte.train`` may be given."""
    chosen = {"preset": "tiny", "label_key": "cell_type", "fasta": files["genome.fa"], "tss": files["tss.bed"]}
    chosen |= {"settings": tuple(settings), **SILENT, **options}
    return syncyte.train("bio_dta", chosen.pop("data", files["cells.h5mu"]), out=out, **chosen)


def network_of(run: GeneRun, world: Regulation, **options: Any) -> NetworkCells:
    """The world's cells by type and donor, for a run."""
    cells = run.align(cells_of(world.cells))
    return NetworkCells(run.model, cells, cells.obs["cell_type"], cells.obs["donor"], run.medians, **options)


def counted(cells: Cells, name: str = "rna") -> sp.csr_matrix:
    """All counts of a modality."""
    return cells.counts(name, np.arange(len(cells)))


def moved(run: GeneRun, gene: int, size: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Another token of a gene, the same for the same seed."""
    token = run.model.tokens()[gene].detach()
    direction = torch.randn(token.shape, generator=torch.Generator().manual_seed(seed))
    return token + size * direction


def gene_model(genes: int = 12, layers: int = 0, inputs: int = 0, seed: int = 0, **options: Any) -> GeneModel:
    """A small network in which nothing is zero or one any more."""
    sizes = {"components": 4, "layers": layers, "width": 8, "heads": 2, "tokens": 6, "hidden": 5}
    sizes |= options.pop("sizes", {})
    spec = GeneSpec(
        modality="rna", features=genes, encoding="log", sizes=GeneSizes.parse(sizes), inputs=inputs, **options
    )
    generator = torch.Generator().manual_seed(seed)
    model = GeneModel(spec).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.bool:
                tensor.fill_(True)
            elif tensor.dtype.is_floating_point:
                random = torch.rand(tensor.shape, generator=generator)
                positive = name.endswith(("sd", "spread", "scale", "factor"))
                tensor.copy_(random + 0.5 if positive else random - 0.5)
    return model


def write_vcf(world: Regulation, path: Path) -> Path:
    """Variants of all sorts with two people: ``phased`` and ``unphased``.

    Four alleles can be scored (two at the start of the factor TF1, one deletes the start of TF2, and one of two alleles
    of a record), one leaves its window as it was, one lies in no window, and the others cannot be read.
    """
    starts = world.tss.set_index("symbol")

    def base(chrom: str, place: int, size: int = 1) -> str:
        return "".join("ACGT"[code] for code in world.sequences[chrom][place : place + size])

    def other(text: str, by: int = 1) -> str:
        return "".join("ACGT"[("ACGT".index(letter) + by) % 4] for letter in text)

    def at(gene: str, offset: int) -> tuple[str, int, str]:
        chrom, place = starts.loc[gene, "chrom"], int(starts.loc[gene, "tss"]) + offset
        return chrom, place, base(chrom, place)

    rows = []

    def add(name: str, chrom: str, place: int, ref: str, alt: str, phased: str = "0|0", free: str = "0/0") -> None:
        rows.append(f"{chrom}\t{place + 1}\t{name}\t{ref}\t{alt}\t.\tPASS\t.\tGT\t{phased}\t{free}")

    chrom, place, ref = at("TF1", -20)
    add("near", chrom, place, ref, other(ref), "0|1", "0/1")
    chrom, place, ref = at("TF1", 40)
    add("two", chrom, place, ref, f"{other(ref)},{other(ref, 2)}", "1|0", "0/1")
    chrom, place, _ = at("TF2", -3)
    add("gone", chrom, place, base(chrom, place, 8), base(chrom, place))
    low = int(starts.loc["TF3", "tss"]) - 200 + (starts.loc["TF3", "strand"] == "-")
    chrom, place, ref = starts.loc["TF3", "chrom"], low - 1, base(starts.loc["TF3", "chrom"], low - 1)
    add("edge", chrom, place, ref, ref + other(base(chrom, low)))
    chrom, place, ref = at("TF3", 5)
    add("wrong", chrom, place, other(ref), ref, "0|1", "0/1")
    add("symbol", chrom, place + 1, base(chrom, place + 1), "<INV>")
    add("beyond", chrom, 10**8, "A", "C")
    add("elsewhere", "chr20", 100, "A", "C")
    add("desert", "chr1", 300, base("chr1", 300), other(base("chr1", 300)), "1|1", "1/1")
    head = ["##fileformat=VCFv4.2", '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
    head.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tphased\tunphased")
    path.write_text("\n".join([*head, *rows]) + "\n")
    return path


def table_of(folder: Path, name: str = "effects") -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", comment="#")


def finished(folder: Path) -> list[str]:
    """Results in a folder, whole or half."""
    return [path.name for path in folder.glob("*") if path.name != ".work"] if folder.exists() else []
