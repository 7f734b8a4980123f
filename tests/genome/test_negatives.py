"""Windows without peaks: by hand on a small genome."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.sequences import background

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.negatives import _contents, matched_negatives, nearest_gc, peak_windows, window_codes, window_gc
from syncyte.genome.sequence import gc_share, to_text


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


def test_by_chromosome_each_has_its_own_number_and_gc(tmp_path: Path):
    poor, rich = (background(1, 60_000, seed, share)[0] for seed, share in ((0, 0.35), (1, 0.65)))
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1\n{to_text(poor)}\n>chr2\n{to_text(rich)}\n>chr3\n{to_text(poor[:900])}\n")
    both = Genome.open(path, cache=tmp_path / "cache")
    given = pd.concat([peaks(*range(1000, 50_000, 5000), chrom=name) for name in ("chr1", "chr2")])
    given = pd.concat([given, peaks(200, chrom="chr3"), peaks(200, chrom="chr4")])
    table = matched_negatives(both, given, {"chr1": 8, "chr2": 30, "chr3": 5, "chr4": 5}, 0, length=200)
    assert table["chrom"].value_counts().to_dict() == {"chr1": 8, "chr2": 30}, "chr3 is full, chr4 is not there"
    means = table.groupby("chrom")["gc"].mean()
    for name in ("chr1", "chr2"):
        own = window_gc(both, peak_windows(both, given[given["chrom"] == name], 200))
        assert means[name] == pytest.approx(own.mean(), abs=0.02)
    with pytest.raises(GenomeError, match="without a peak"):
        matched_negatives(both, given, {"chr3": 5}, 0, length=200)
    with pytest.raises(GenomeError, match="No peak lies"):
        matched_negatives(both, given, {"chr4": 5}, 0, length=200)


def test_each_takes_the_nearest_that_is_left():
    rng = np.random.default_rng(0)
    assert nearest_gc(np.array([0.9, 0.1, 0.5, 0.52]), np.array([0.5, 0.5]), rng).tolist() == [False, False, True, True]
    assert nearest_gc(np.array([0.9, 0.1]), np.full(5, 0.2), rng).all()
    assert not nearest_gc(np.array([0.9, 0.1]), np.empty(0), rng).any()
    for seed in range(20):  # the plain way, with numbers that are never equally near
        gc, wanted = (np.random.default_rng((seed, part)).random(60 - 30 * part) for part in (0, 1))
        left = np.ones(60, dtype=bool)
        draw = np.random.default_rng(seed)
        draw.random(60)
        for value in draw.permutation(wanted):
            left[np.where(left, np.abs(gc - value), np.inf).argmin()] = False
        assert np.array_equal(nearest_gc(gc, wanted, np.random.default_rng(seed)), ~left)


def test_like_windows_are_taken_from_everywhere():
    taken = nearest_gc(np.full(1000, 0.4), np.full(200, 0.4), np.random.default_rng(0))
    assert taken.sum() == 200
    assert np.flatnonzero(taken).mean() == pytest.approx(500, abs=80)


def test_windows_read_together_are_those_read_alone(genome: Genome, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("syncyte.genome.negatives.READ", 7000)
    starts = np.array([0, 200, 900, 1200, 6900, 7100, 30_000, 59_800])
    gc, unknown = _contents(genome, "chr7", starts, 200)
    codes = np.stack([genome.fetch("chr7", int(start), int(start) + 200) for start in starts])
    assert np.array_equal(gc, gc_share(codes), equal_nan=True)
    assert unknown.tolist() == (codes == 4).mean(axis=1).tolist()
    assert unknown[0] == 1 and unknown[-1] == 0


def test_many_peaks_are_matched_in_time(tmp_path: Path):
    path = tmp_path / "large.fa"
    path.write_text(">chr1\n" + to_text(background(1, 3_000_000, 0)[0]) + "\n")
    large = Genome.open(path, cache=tmp_path / "cache")
    given = peaks(*range(1000, 2_900_000, 2000), chrom="chr1")
    begin = time.process_time()
    table = matched_negatives(large, given, {"chr1": len(given)}, 0, length=200)
    assert len(table) == len(given)
    assert time.process_time() - begin < 5
