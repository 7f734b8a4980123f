"""Windows without peaks: by hand on a small genome."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.sequences import background

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.negatives import matched_negatives, peak_windows, window_codes, window_gc
from syncyte.genome.sequence import to_text


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    """60 kb: stretches of 1 kb that are rich or poor in GC by turns, with unknown bases at the start."""
    parts = [background(1, 1000, seed, 0.65 if seed % 2 else 0.35)[0] for seed in range(60)]
    parts[0][:] = 4
    path = tmp_path / "genome.fa"
    path.write_text(">chr7\n" + "".join(map(to_text, parts)) + "\n>chr8\n" + to_text(background(1, 5000, 99)[0]) + "\n")
    return Genome.open(path, cache=tmp_path / "cache")


def peaks(*starts: int, chrom: str = "chr7") -> pd.DataFrame:
    return pd.DataFrame({"chrom": chrom, "start": starts, "end": [start + 400 for start in starts]})


def test_windows_of_peaks_lie_whole_in_the_genome(genome: Genome):
    table = peak_windows(genome, peaks(0, 5000, 59_900, -500), 600)
    assert table.values.tolist() == [["chr7", 4900, 5500]]
    assert peak_windows(genome, peaks(5000, chrom="chr1"), 600).empty


def test_no_window_touches_a_peak_or_another(genome: Genome):
    given = peaks(*range(3000, 57_000, 4000))
    table = matched_negatives(genome, given, 40, 0, length=200, margin=100)
    assert len(table) == 40
    for row in table.itertuples():
        assert not ((given["start"] - 100 < row.end) & (given["end"] + 100 > row.start) & (row.chrom == "chr7")).any()
        assert row.end - row.start == 200
    for _, rows in table.groupby("chrom"):
        assert (np.diff(np.sort(rows["start"])) >= 200).all()
    assert ((window_codes(genome, table) == 4).mean(axis=1) <= 0.1).all()


def test_gc_is_that_of_the_peaks(genome: Genome):
    rich = peaks(*range(3300, 57_000, 6000))  # stretches of uneven number
    table = matched_negatives(genome, rich, 30, 0, length=200, margin=0)
    wanted = window_gc(genome, peak_windows(genome, rich, 200))
    assert wanted.mean() > 0.6
    assert table["gc"].mean() == pytest.approx(wanted.mean(), abs=0.03)
    assert table["gc"].to_numpy() == pytest.approx(window_gc(genome, table))


def test_the_seed_is_the_draw(genome: Genome):
    one, same, other = (matched_negatives(genome, peaks(5000, 9000), 10, seed, length=200) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


def test_too_little_sequence_is_said(genome: Genome):
    with pytest.raises(GenomeError, match="No peak lies"):
        matched_negatives(genome, peaks(5000, chrom="chr3"), 5, 0)
    everywhere = pd.DataFrame({"chrom": ["chr7", "chr8", "chr7"], "start": [0, 0, 900], "end": [60_000, 5000, 1900]})
    with pytest.raises(GenomeError, match="without a peak"):
        matched_negatives(genome, everywhere, 5, 0, length=200)
    assert len(matched_negatives(genome, peaks(5000), 10_000, 0, length=600)) < 110  # all there are
