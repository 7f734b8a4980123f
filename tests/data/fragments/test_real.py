"""A real file: 367,439 fragments of 24,508 barcodes of a 10x multiome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import syncyte
from syncyte.genome.reference import build_reference

Real = Callable[[str], Path]


@pytest.mark.parametrize(
    ("rule", "total", "nonzero"),
    [("ends", 394_657, 320_282), ("insertions", 734_878, 320_282), ("overlap", 394_659, 320_283)],
)
def test_counts_are_those_of_snapatac2(rule: str, total: int, nonzero: int, real: Real, tmp_path):
    """The numbers are SnapATAC2 2.9.0's, on bins of 2,500 bp, with no barcode left out."""
    sizes = real("reference/hg38.chrom.sizes")
    genome = build_reference(tmp_path / "ref", bins=2500, chrom_sizes=sizes)
    path = real("muon_multiome_tiny/fragments.tsv.gz")
    counts = syncyte.count_fragments(path, genome=genome, rule=rule, min_fragments=1, quiet=True)
    assert len(counts.obs) == 24_508
    assert counts.report["fragments_read"] == 367_439
    assert (counts.report["counts"], counts.report["nonzero"]) == (total, nonzero)


def test_the_right_build_is_not_refused(real: Real, tmp_path):
    sizes, genes = real("reference/hg38.chrom.sizes"), real("reference/hg38_GENCODE24_TSS.Basic.bed.gz")
    genome = build_reference(tmp_path / "ref", bins=5000, chrom_sizes=sizes, genes=genes)
    counts = syncyte.count_fragments(real("muon_multiome_tiny/fragments.tsv.gz"), genome=genome, quiet=True)
    assert counts.report["notes"] == []
    assert counts.obs["tss_enrichment"].median() > 1.5
