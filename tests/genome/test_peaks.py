"""One region set from many: fixed width, the best peak of each place."""

from __future__ import annotations

import itertools
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.peaks import read_peaks, regions_of_peaks
from syncyte.genome.reference import build_reference
from syncyte.genome.regions import region_names

NARROW = """\
track name="peaks"
1\t1000\t1200\tp1\t50\t.\t9.0\t5.0\t4.0\t20
1\t1300\t1500\tp2\t90\t.\t8.0\t9.0\t8.0\t10
2\t0\t100\tp3\t10\t.\t1.0\t1.0\t1.0\t50
2\t5000\t5100\tp4\t10\t.\t2.0\t2.0\t2.0\t50
"""


def test_summits_and_scores_of_a_narrow_peak_file(tmp_path: Path):
    (tmp_path / "a.narrowPeak").write_text(NARROW)
    table = read_peaks(tmp_path / "a.narrowPeak", 501)
    assert table["start"].tolist() == [770, 1060, -200, 4800] and set(table["end"] - table["start"]) == {501}
    assert table["score"].tolist() == [0.75, 1.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("1\t0\t100\n1\t200\t400\n", [0.75, 0.75]),
        ("1\t0\t100\ta\t7\n1\t200\t400\tb\t3\n", [1, 0.5]),
        ("1\t0\t100\ta\t0\t+\n1\t200\t400\tb\t0\t+\n", [0.75, 0.75]),
        ("1\t0\t100\ta\t.\n1\t200\t400\tb\t3\n", [0.75, 0.75]),
        ("1\t0\t100\ta\t1\t.\t5\t-1\t-1\t-1\n1\t200\t400\tb\t3\t.\t2\t-1\t-1\t-1\n", [1, 0.5]),
    ],
)
def test_scores_of_bed_files(tmp_path: Path, text: str, score: list[float]):
    (tmp_path / "a.bed").write_text(text)
    table = read_peaks(tmp_path / "a.bed", 101)
    assert table["score"].tolist() == score and table["start"].tolist() == [0, 250]


@pytest.mark.parametrize("kind", ["csr", "csc", "dense"])
def test_scores_of_cells_are_their_counts(tmp_path: Path, kind: str, monkeypatch):
    monkeypatch.setattr("syncyte.genome.peaks.STEP", 3)
    counts = np.array([[1, 0, 3], [1, 0, 0], [2, 1, 9]], dtype=np.float32)
    matrix = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[kind](counts)
    names = ["chr1:0-100", "chr1:500-600", "chr2:0-200"]
    ad.AnnData(matrix, var=pd.DataFrame(index=names)).write_h5ad(tmp_path / "a.h5ad")
    table = read_peaks(tmp_path / "a.h5ad", 11)
    assert table["score"].round(3).tolist() == [0.667, 0.333, 1.0] and table["start"].tolist() == [45, 545, 95]


def test_the_best_of_each_place_stays_in_any_order_of_files(tmp_path: Path):
    (tmp_path / "a.narrowPeak").write_text(NARROW)
    (tmp_path / "b.bed").write_text("chr1\t1000\t1400\tx\t3\nchr1\t1900\t2000\ty\t9\nchrUn\t0\t1000\tz\t1\n")
    files = [tmp_path / "a.narrowPeak", tmp_path / "b.bed"]
    for order in itertools.permutations(files):
        notes: list[str] = []
        found = regions_of_peaks(order, 501, {"chr1": 9000, "chr2": 9000}, notes)
        # 1310 and 1950 lead their files and stay; 1020 and 1200 overlap 1310; chr2:50 leaves its chromosome
        assert region_names(found).tolist() == ["chr1:1060-1561", "chr1:1700-2201", "chr2:4800-5301"]
        assert "7 peaks of 2 files became 3 disjoint regions of 501 bp" in notes[0] and "2 peaks off" in notes[0]


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(50, 400), st.integers(0, 9)), min_size=1, max_size=30))
def test_as_the_definition_says(tmp_path_factory, peaks):
    folder = tmp_path_factory.mktemp("p")
    path = folder / "a.bed"
    path.write_text("".join(f"chr{c}\t{m}\t{m + 1}\tn\t{s}\n" for c, m, s in peaks))
    table = read_peaks(path, 41)
    left = sorted(zip(-table["score"], table["chrom"].astype(str), table["start"]))
    kept: list[tuple[str, int]] = []
    for _, chrom, start in left:
        if all(chrom != other or abs(start - place) >= 41 for other, place in kept):
            kept.append((chrom, start))
    found = regions_of_peaks([path], 41, None, [])
    assert sorted(kept) == list(zip(found["chrom"].astype(str), found["start"]))


def test_a_reference_from_peaks(tmp_path: Path):
    (tmp_path / "a.narrowPeak").write_text(NARROW)
    (tmp_path / "sizes").write_text("1\t10000\n2\t10000\n")
    built = build_reference(
        tmp_path / "r", peaks=[tmp_path / "a.narrowPeak"], width=201, chrom_sizes=tmp_path / "sizes"
    )
    assert built.index.names().tolist() == ["chr1:920-1121", "chr1:1210-1411", "chr2:4950-5151"]
    assert built.manifest["sources"]["peaks"][0]["file"] == "a.narrowPeak"
    with pytest.raises(GenomeError, match="Both bins and peaks"):
        build_reference(tmp_path / "s", peaks=[tmp_path / "a.narrowPeak"], bins=10, chrom_sizes=tmp_path / "sizes")
    with pytest.raises(GenomeError, match="known length"):
        regions_of_peaks([tmp_path / "a.narrowPeak"], 501, {"chr9": 10}, [])


def test_a_bed_of_blocks_is_no_narrow_peak_file(tmp_path: Path):
    line = "chr1\t{0}\t{1}\tname\t{2}\t+\t{0}\t{1}\t0\t1\t600\t0\n"
    (tmp_path / "a.bed").write_text(
        "".join(line.format(1000 * n, 1000 * n + 600, score) for n, score in ((1, 9), (2, 5)))
    )
    table = read_peaks(tmp_path / "a.bed", 100)
    assert table["start"].tolist() == [1250, 2250] and table["score"].tolist() == [1.0, 0.5]
