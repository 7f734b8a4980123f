"""Positions among intervals, against a search by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import merge_overlaps, region_table
from syncyte.genome.intervals import CENTRE, FLANK, first_after, lookup, nothing, tss_steps

CHROMS = ("chr1", "chr2", "chr3")
PLACES = st.tuples(st.sampled_from(CHROMS), st.integers(0, 20_000), st.integers(1, 5000))


def row_of(where, chrom: int, position: int) -> int:
    """Row of the interval that holds a base, -1 for none."""
    stop = int(where.offsets[chrom + 1])
    row = first_after(stop, where.ends, where.origin, where.grid, chrom, position)
    return int(row) if row < stop and where.starts[row] <= position else -1


@given(st.lists(PLACES, max_size=30), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30_000)), max_size=20))
def test_positions_are_found(places, asked):
    chrom, start, width = zip(*places) if places else ([], [], [])
    table = merge_overlaps(region_table(chrom, np.array(start, int), np.array(start, int) + np.array(width, int)))
    where = lookup(table, CHROMS)
    for code, position in asked:
        inside = (table["chrom"] == CHROMS[code]) & (table["start"] <= position) & (position < table["end"])
        expected = int(np.flatnonzero(inside)[0]) if inside.any() else -1
        assert row_of(where, code, position) == expected


def test_narrow_intervals_in_one_step_of_the_grid():
    starts = np.arange(0, 3000, 7)
    where = lookup(region_table(["chr2"] * len(starts), starts, starts + 3), CHROMS)
    for position in range(3010):
        assert row_of(where, 1, position) == (position // 7 if position % 7 < 3 and position < 3000 else -1)


def test_no_intervals():
    assert row_of(nothing(CHROMS), 1, 100) == -1


@pytest.mark.parametrize(
    "table",
    [
        region_table(["chr1", "chr1"], np.array([0, 5]), np.array([10, 15])),
        region_table(["chr2", "chr1"], np.array([0, 5]), np.array([10, 15])),
        region_table(["chr9"], np.array([0]), np.array([10])),
    ],
)
def test_wrong_intervals_are_refused(table: pd.DataFrame):
    with pytest.raises(GenomeError, match="overlap, are out of order or lie on unknown chromosomes"):
        lookup(table, CHROMS)


def test_steps_around_transcription_starts_by_hand():
    tss = region_table(["chr1", "chr1", "chr1", "chr2", "chr8"], np.array([5000, 5000, 5060, 30, 7]), np.zeros(5))
    tss["tss"] = tss["start"]
    where, weights = tss_steps(tss, CHROMS)
    starts = {0: [5000, 5060], 1: [30], 2: []}
    for chrom in range(3):
        for position in [*range(0, 200), *range(2900, 3200), *range(4900, 5200), *range(6890, 7100), 9000]:
            away = [abs(position - start) for start in starts[chrom]]
            expected = (
                sum(distance <= CENTRE for distance in away),
                sum(FLANK[0] < distance <= FLANK[1] for distance in away),
            )
            row = row_of(where, chrom, position)
            assert (tuple(weights[row].tolist()) if row >= 0 else (0, 0)) == expected, (chrom, position)
