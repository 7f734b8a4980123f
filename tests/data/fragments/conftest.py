"""A small genome to count fragments on, and fragment files made of lines."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from syncyte.genome.reference import Reference, build_reference

SIZES = {"chr1": 60_000, "chr2": 30_000, "chrX": 10_000, "chrM": 2_000}
GENES = [("ENSG00000000001", "chr1", 20_000), ("ENSG00000000002", "chr1", 40_000), ("ENSG00000000003", "chr2", 15_000)]


@pytest.fixture(scope="session")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sizes") / "chrom.sizes"
    path.write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    return path


@pytest.fixture(scope="session")
def bins(sizes: Path) -> Reference:
    """Bins of 500 bp."""
    return build_reference(sizes.parent / "bins", bins=500, chrom_sizes=sizes)


@pytest.fixture(scope="session")
def peaks(sizes: Path) -> Reference:
    """Regions with gaps, on two chromosomes, and three genes."""
    bed = sizes.parent / "peaks.bed"
    rows = [("chr1", start, start + 300 + start % 7 * 50) for start in range(100, 59_000, 900)]
    rows += [("chrX", 50, 60), ("chrX", 60, 61), ("chrX", 70, 5000)]
    bed.write_text("".join(f"{chrom}\t{start}\t{end}\n" for chrom, start, end in rows))
    genes = sizes.parent / "genes.csv"
    lines = [f"{name},{name},{chrom},{tss + 1},{tss + 500},+,protein_coding" for name, chrom, tss in GENES]
    genes.write_text("gene_id,symbol,chrom,start,end,strand,biotype\n" + "\n".join(lines) + "\n")
    return build_reference(sizes.parent / "peaks", regions=bed, genes=genes, chrom_sizes=sizes)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write lines (text, or tuples of fields) as a fragment file."""

    def write(lines: Iterable, name: str = "fragments.tsv.gz") -> Path:
        text = "".join((line if isinstance(line, str) else "\t".join(map(str, line))) + "\n" for line in lines)
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write
