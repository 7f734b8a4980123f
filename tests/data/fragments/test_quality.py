"""Quality of cells, from numbers chosen by hand."""

from __future__ import annotations

import numpy as np
import pytest

import syncyte
from syncyte.data.fragments.quality import enrichment


def count(path, reference, **options):
    return syncyte.count_fragments(path, genome=reference, quiet=True, **{"min_fragments": 1, "force": True, **options})


def test_every_measure_by_hand(peaks, file):
    """Cell A: one gene at 20,000; flanks are 1,901 to 2,000 away; a region at 100-400."""
    rows = [
        ("chr1", 19_950, 20_051, "A", 1),  # both ends central, 101 bp: free
        ("chr1", 19_949, 20_096, "A", 3),  # neither, 147 bp: mono
        ("chr1", 21_901, 22_194, "A", 1),  # start flanks, end does not; 293 bp: mono
        ("chr1", 18_000, 18_294, "A", 1),  # start flanks; 294 bp: neither
        ("chr1", 390, 500, "A", 1),  # overlaps a region; free
        ("chr1", 400, 500, "A", 1),  # touches it
        ("chrM", 10, 20, "A", 2),
        ("chr2", 10, 400, "B", 1),  # only a long one
    ]
    obs = count(file(rows), peaks).obs
    assert obs.loc["A", "fragments"] == 6
    assert obs.loc["A", "mitochondrial_share"] == pytest.approx(1 / 7)
    assert obs.loc["A", "duplicate_share"] == pytest.approx(1 - 7 / 10)
    assert obs.loc["A", "nucleosome_signal"] == pytest.approx(2 / 3)
    assert obs.loc["A", "tss_enrichment"] == pytest.approx((2 / 101) / (3 / 200))
    regions = peaks.regions
    inside = 0
    for chrom, start, end, *_ in rows[:6]:
        inside += ((regions["chrom"] == chrom) & (regions["start"] < end) & (start < regions["end"])).any()
    assert obs.loc["A", "frip"] == pytest.approx(inside / 6)
    assert np.isnan(obs.loc["B", "nucleosome_signal"])
    assert obs.loc["B", ["tss_enrichment", "frip"]].tolist() == [0, 0]


def test_measures_that_need_something_are_left_out(bins, file):
    obs = count(file([("chr1", 5, 10, "A", 1)]), bins).obs
    assert list(obs) == ["fragments", "mitochondrial_share", "duplicate_share", "nucleosome_signal"]


def test_peaks_of_a_bed(bins, file):
    bed = file([("chr2", 8, 9), ("1", 0, 6), ("chr1", 2, 20), ("chrUn", 0, 5)], "p.bed")
    counts = count(file([("chr1", 19, 30, "A", 1), ("chr1", 20, 30, "A", 1), ("chr2", 0, 9, "A", 1)]), bins, peaks=bed)
    assert counts.obs.loc["A", "frip"] == pytest.approx(2 / 3)
    assert counts.report["peaks"] == "peaks of p.bed"


def test_even_coverage_has_no_enrichment():
    assert enrichment(np.array(101 * 1000), np.array(200 * 1000)) == pytest.approx(1, rel=1e-4)
