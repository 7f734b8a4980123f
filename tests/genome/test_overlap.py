"""Peaks go to regions by the documented rules, and what is lost is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.index import RegionIndex
from syncyte.genome.overlap import check_overlap, map_peaks
from syncyte.genome.regions import merge_overlaps, parse_regions

REGIONS = RegionIndex.of(parse_regions(["chr1:0-100", "chr1:100-200", "chr1:300-400", "chr2:0-100"]))
PEAKS = {
    "chr1:90-130": [(0, 10), (1, 30)],
    "chr1:50-150": [(0, 50), (1, 50)],
    "chr1:150-350": [(1, 50), (2, 50)],
    "chr1:200-300": [],
    "2:10-20": [(3, 10)],
    "chr7:10-20": [],
}


def targets(rule: str) -> list[list[int]]:
    found = map_peaks(parse_regions(PEAKS), REGIONS, rule)
    return [found.target[a:b].tolist() for a, b in zip(found.pointer, found.pointer[1:])]


def test_rules():
    every = [[region for region, _ in pairs] for pairs in PEAKS.values()]
    assert targets("largest") == [[1], [0], [1], [], [3], []]
    assert targets("any") == every and targets("fraction") == every
    found = map_peaks(parse_regions(PEAKS), REGIONS, "fraction")
    assert found.bases.tolist() == [bases for pairs in PEAKS.values() for _, bases in pairs]


def test_what_is_lost_is_counted():
    found = map_peaks(parse_regions(PEAKS), REGIONS)
    outside = found.counts.pop("bases_outside")
    assert found.counts == {"total": 6, "mapped": 4, "dropped": 2, "several": 3, "regions": 3}
    assert outside == pytest.approx(100 / 350, abs=1e-6)
    assert found.sentence == "4 of 6 peaks mapped to 3 of 4 regions; 2 overlap none and are dropped"
    assert found.unmapped == ("chr1:200-300", "chr7:10-20")
    assert found.kept.tolist() == [True, True, True, False, True, False]


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(GenomeError, match="Did you mean 'fraction'"):
        map_peaks(parse_regions(PEAKS), REGIONS, "fractions")


@given(st.data())
def test_largest_against_every_pair(data):
    draw = st.tuples(st.integers(1, 2), st.integers(0, 80), st.integers(1, 20))
    regions, asked = (data.draw(st.lists(draw, min_size=1, max_size=20)) for _ in range(2))
    table = merge_overlaps(parse_regions([f"chr{c}:{s}-{s + w}" for c, s, w in regions]))
    source = parse_regions([f"chr{c}:{s}-{s + w}" for c, s, w in asked])
    found = map_peaks(source, RegionIndex.of(table))
    row = np.full(len(source), -1)
    row[found.kept] = found.target
    for peak, (chrom, start, end) in enumerate(source.astype(str).astype({"start": int, "end": int}).to_numpy()):
        shared = np.minimum(end, table["end"]) - np.maximum(start, table["start"])
        shared = shared.where(table["chrom"].astype(str) == chrom, 0)
        assert row[peak] == (int(shared.to_numpy().argmax()) if shared.max() > 0 else -1)


def test_too_little_overlap_is_refused_unless_forced():
    assert check_overlap(0.3, "peaks", "toy", force=False) == ""
    with pytest.raises(GenomeError, match=r"Only 29\.0% of the counts .*'toy'.*--chain.*--force"):
        check_overlap(0.29, "counts", "toy", force=False)
    assert check_overlap(0.1, "peaks", "toy", force=True).endswith("forced.")
