"""Regions are spelled, ordered, joined and mapped as documented."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import chromosome_name
from syncyte.genome.regions import (
    assign_regions,
    merge_overlaps,
    merge_region_sets,
    parse_regions,
    region_names,
    region_table,
    sort_regions,
)


@pytest.mark.parametrize(
    ("name", "unified"),
    [
        ("1", "chr1"),
        ("Chr1", "chr1"),
        ("X", "chrX"),
        ("chrx", "chrX"),
        ("MT", "chrM"),
        ("chrMT", "chrM"),
        ("M", "chrM"),
        ("2L", "chr2L"),
        ("GL000194.1", "GL000194.1"),
        ("chr1_KI270706v1_random", "chr1_KI270706v1_random"),
    ],
)
def test_chromosomes_have_one_spelling(name, unified):
    assert chromosome_name(name) == unified


@pytest.mark.parametrize(
    ("name", "chrom", "start", "end"),
    [
        ("chr1:100-200", "chr1", 100, 200),
        ("chr1-100-200", "chr1", 100, 200),
        ("chr1_100_200", "chr1", 100, 200),
        ("1:1,000-2,000,000", "chr1", 1000, 2_000_000),
        ("chr1_KI270706v1_random_100_200", "chr1_KI270706v1_random", 100, 200),
        ("GL000194.1-100-200", "GL000194.1", 100, 200),
        ("HLA-DRB1*15:01:01:01:100-200", "HLA-DRB1*15:01:01:01", 100, 200),
        (" MT:0-5 ", "chrM", 0, 5),
    ],
)
def test_names_are_read_from_the_right(name, chrom, start, end):
    table = parse_regions([name])
    assert (table["chrom"][0], table["start"][0], table["end"][0]) == (chrom, start, end)
    assert table.dtypes["start"] == np.int64


def test_names_survive_the_round_trip():
    names = ["chr10:5-9", "chr2:1-3", "chrX:0-7", "KI270728.1:3-4"]
    table = parse_regions(names)
    assert region_names(table).tolist() == names
    assert region_names(sort_regions(table)).tolist() == ["chr2:1-3", "chr10:5-9", "chrX:0-7", "KI270728.1:3-4"]


def test_bad_names_are_listed():
    with pytest.raises(
        GenomeError, match=r"3 of 4 names are not regions, first: 'TP53', 'chr1:5', 'chr1:1-x'.*chr1:100"
    ):
        parse_regions(["chr1:1-2", "TP53", "chr1:5", "chr1:1-x"])
    with pytest.raises(GenomeError, match=r"2 of 3 regions are empty, reversed.*chr1:9-3, chr1:4-4"):
        parse_regions(["chr1:1-2", "chr1:9-3", "chr1:4-4"])


@pytest.mark.parametrize(
    "columns", [("chrom", "start", "end"), ("seqnames", "start", "end"), ("Chr", "chromStart", "stop")]
)
def test_columns_of_var_go_before_names(columns):
    var = pd.DataFrame(dict(zip(columns, (["1", "X"], ["5", "6"], [10, 20]))), index=["peak1", "chr9:1-2"])
    assert region_names(parse_regions(var.index, var)).tolist() == ["chr1:5-10", "chrX:6-20"]


def test_incomplete_columns_are_passed_over():
    var = pd.DataFrame({"chrom": ["chr1", None], "start": [1, 2], "end": [3, 4]}, index=["chr1:7-8", "chr1:9-10"])
    assert region_names(parse_regions(var.index, var)).tolist() == ["chr1:7-8", "chr1:9-10"]
    with pytest.raises(GenomeError, match="not coordinates"):
        parse_regions(["a"], pd.DataFrame({"chrom": ["1"], "start": ["x"], "end": ["2"]}))


def test_interval_column_serves_where_names_do_not():
    var = pd.DataFrame({"interval": ["chr1:7-8"]}, index=["peak_one"])
    assert region_names(parse_regions(var.index, var)).tolist() == ["chr1:7-8"]
    assert len(parse_regions([], pd.DataFrame())) == 0


def test_merging_joins_overlaps_and_not_neighbours():
    one = parse_regions(["chr1:100-200", "chr1:300-400", "chr2:1-5"])
    two = parse_regions(["chr1:200-300", "chr1:350-500", "1:480-600", "chr1:100-200"])
    merged = merge_region_sets([one, two])
    expected = ["chr1:100-200", "chr1:200-300", "chr1:300-600", "chr2:1-5"]
    assert region_names(merged).tolist() == expected
    assert merged.attrs["merged"] == 3 and merged.attrs["widest"] == 300
    assert merged.attrs["sentence"] == (
        "6 distinct peaks of 2 files became 4 regions; 3 were fused with peaks they overlap, the widest has 300 bp"
    )
    assert region_names(merge_region_sets([two, one])).tolist() == expected


def test_a_given_region_set_is_the_answer():
    given_set = parse_regions(["chr2:0-10", "chr1:5-9"])
    merged = merge_region_sets([parse_regions(["chr1:1-9"])], reference=given_set)
    assert region_names(merged).tolist() == ["chr1:5-9", "chr2:0-10"]
    with pytest.raises(GenomeError, match="at least one"):
        merge_region_sets([])


def test_the_largest_overlap_wins_and_ties_go_left():
    target = parse_regions(["chr1:0-100", "chr1:100-200", "chr1:300-310", "chr1:310-1000", "chr2:0-50"])
    cases = {
        "chr1:90-120": 1,
        "chr1:80-120": 0,
        "chr1:200-300": -1,
        "chr1:290-305": 2,
        "chr1:0-1000": 3,
        "chr2:49-60": 4,
        "chr2:50-60": -1,
        "chr3:0-100": -1,
        "chrX:5-6": -1,
    }
    source = parse_regions(cases)
    assert assign_regions(source, target).tolist() == list(cases.values())


def test_overlapping_targets_are_refused():
    with pytest.raises(GenomeError, match="merge_overlaps"):
        assign_regions(parse_regions(["chr1:1-2"]), parse_regions(["chr1:0-100", "chr1:99-200"]))
    with pytest.raises(GenomeError, match="genome order"):
        assign_regions(parse_regions(["chr1:1-2"]), parse_regions(["chr2:0-100", "chr1:99-200"]))


intervals = st.lists(
    st.tuples(st.sampled_from(["1", "chr2", "X"]), st.integers(0, 60), st.integers(1, 20)), max_size=25
)


def table_of(rows: list[tuple[str, int, int]]) -> pd.DataFrame:
    start = np.array([row[1] for row in rows], dtype=np.int64)
    return region_table([row[0] for row in rows], start, start + np.array([row[2] for row in rows], dtype=np.int64))


@given(intervals)
def test_merged_regions_cover_the_same_bases_and_are_disjoint(rows):
    table = table_of(rows)
    merged = merge_overlaps(table)

    def bases(regions: pd.DataFrame) -> list[tuple[str, int]]:
        return [(chrom, base) for chrom, a, b in regions.itertuples(index=False) for base in range(a, b)]

    assert sorted(set(bases(table))) == sorted(bases(merged))
    if len(table):
        assert (assign_regions(table, merged) >= 0).all()


@given(intervals, intervals)
def test_assignment_equals_the_plain_loop(rows, others):
    source, target = table_of(rows), merge_overlaps(table_of(others))
    expected = []
    for chrom, start, end in source.itertuples(index=False):
        shared = [min(end, b) - max(start, a) if name == chrom else 0 for name, a, b in target.itertuples(index=False)]
        expected.append(int(np.argmax(shared)) if shared and max(shared) > 0 else -1)
    assert assign_regions(source, target).tolist() == expected


def test_names_that_contradict_their_columns_are_refused():
    names = [f"chr1:{start}-{start + 50}" for start in range(100, 5000, 100)]
    columns = parse_regions(names).assign(start=lambda table: table["start"] - 1)  # names that count from one
    assert parse_regions(names, columns)["start"].tolist() == columns["start"].tolist()
    lifted = columns.assign(start=columns["start"] + 700, end=columns["end"] + 700)
    with pytest.raises(GenomeError, match=r"disagree: 'chr1:100-150' lies at chr1:799-850 by its columns.*drop"):
        parse_regions(names, lifted)
