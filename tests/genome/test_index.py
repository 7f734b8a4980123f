"""The index of regions: mapped from disk, and what an interval touches in it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.index import RegionIndex, save_regions
from syncyte.genome.reference import Reference, build_reference
from syncyte.genome.regions import merge_overlaps, parse_regions, region_names, region_table


def touched(index: RegionIndex, names: list[str]) -> list[list[str]]:
    table = parse_regions(names)
    low, high = index.touching(index.code_of(table), table["start"].to_numpy(), table["end"].to_numpy())
    return [index.names(np.arange(first, last)).tolist() for first, last in zip(low, high)]


def test_what_an_interval_touches():
    index = RegionIndex.of(parse_regions(["chr1:10-20", "chr1:20-30", "chr1:50-60", "chr2:0-5"]))
    assert index.offset.tolist() == [0, 3, 4] and len(index) == 4
    cases = {
        "chr2:0-1": ["chr2:0-5"],
        "1:19-21": ["chr1:10-20", "chr1:20-30"],
        "chr1:30-50": [],
        "chr1:0-100": ["chr1:10-20", "chr1:20-30", "chr1:50-60"],
        "chr9:0-100": [],
        "chr2:5-9": [],
    }
    assert touched(index, list(cases)) == list(cases.values())
    assert touched(index, list(cases)[::-1]) == list(cases.values())[::-1]


@given(st.data())
def test_every_overlap_is_found_in_any_order(data):
    draw = st.tuples(st.integers(1, 3), st.integers(0, 120), st.integers(1, 30))
    pool = data.draw(st.lists(draw, min_size=1, max_size=30))
    asked = data.draw(st.lists(draw, min_size=1, max_size=30))
    index = RegionIndex.of(merge_overlaps(parse_regions([f"chr{c}:{s}-{s + w}" for c, s, w in pool])))
    low, high = index.touching(
        index.codes([f"{c}" for c, _, _ in asked]),
        np.array([s for _, s, _ in asked]),
        np.array([s + w for _, s, w in asked]),
    )
    chrom = np.array(index.chroms, dtype=object)[index.chrom_codes()]
    for (c, s, w), first, last in zip(asked, low, high):
        truth = np.flatnonzero((chrom == f"chr{c}") & (index.start < s + w) & (index.end > s))
        assert np.arange(first, last).tolist() == truth.tolist()


def test_a_saved_index_is_the_same_and_is_not_written_to(tmp_path: Path):
    table = parse_regions(["chr1:10-20", "chr1:20-30", "chr10:5-9"])
    save_regions(tmp_path / "regions.npy", table)
    index = RegionIndex.load(tmp_path / "regions.npy", table["chrom"].cat.categories)
    assert index.names().equals(region_names(table)) and index.table().equals(table)
    with pytest.raises(ValueError, match="read-only"):
        index.start[0] = 1
    rows = np.column_stack([table["chrom"].cat.codes, table["start"], table["end"]]).astype(np.int32)
    np.save(tmp_path / "by_rows.npy", rows)  # row after row, as earlier versions wrote them
    assert RegionIndex.load(tmp_path / "by_rows.npy", table["chrom"].cat.categories).table().equals(table)


def test_overlapping_and_unordered_regions_are_refused():
    for names in (["chr1:0-10", "chr1:9-20"], ["chr2:0-10", "chr1:0-10"]):
        with pytest.raises(GenomeError, match="overlap or are not in genome order"):
            RegionIndex.of(parse_regions(names))
    assert len(RegionIndex.of(region_table([], np.zeros(0), np.zeros(0)))) == 0


def test_a_million_bins_need_no_annotation_and_open_at_once(tmp_path: Path):
    (tmp_path / "sizes").write_text("chr1\t1300000000\n2\t1001\nMT\t16000\n")
    build_reference(tmp_path / "bins", bins=1000, chrom_sizes=tmp_path / "sizes")
    seconds = []
    for _ in range(3):
        started = time.process_time()
        index = Reference.load(tmp_path / "bins").index
        seconds.append(time.process_time() - started)
    assert index is not None and len(index) == 1_300_002
    assert index.names(slice(-2, None)).tolist() == ["chr2:0-1000", "chr2:1000-1001"]
    assert min(seconds) < 0.2
