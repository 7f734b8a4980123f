"""Lists of cells, suffixes, and the gap between cells and empty droplets."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import syncyte
from syncyte.data.fragments.barcodes import LEAST, cell_threshold, fit_suffix, read_list
from syncyte.errors import DataError
from syncyte.recipes.simulate_fragments import simulate_fragments

FIRST, SECOND, THIRD = "ACGTACGTACGTACGT", "TTTTACGTACGTACGT", "GGGGACGTACGTACGT"


def count(path, reference, **options):
    return syncyte.count_fragments(path, genome=reference, quiet=True, **options)


def rows(suffix: str) -> list[tuple]:
    return [("chr1", 5, 10, name + suffix, 1) for name in (FIRST, SECOND, SECOND, "CCCC" * 4)]


@pytest.mark.parametrize("mine", ["", "-1"])
@pytest.mark.parametrize("theirs", ["", "-1"])
def test_a_list_gives_all_rows_in_its_order_and_spelling(mine: str, theirs: str, bins, file):
    listed = [SECOND + mine, THIRD + mine, FIRST + mine]
    counts = count(file(rows(theirs)), bins, barcodes=listed)
    assert counts.obs.index.tolist() == listed
    assert counts.obs["fragments"].tolist() == [2, 0, 1]
    assert counts.report["fragments_of_unlisted_barcodes"] == 1
    assert "2 of the 3 listed barcodes are in the file; all listed ones are kept" in counts.summary
    said = {
        ("", "-1"): "the suffix -1 of the file was taken off",
        ("-1", ""): "the suffix -1 of the list was taken off",
    }
    assert ("suffix" in counts.summary) == (mine != theirs)
    assert said.get((mine, theirs), "") in counts.summary


def test_a_list_with_least_fragments(bins, file):
    counts = count(file(rows("")), bins, barcodes=[FIRST, SECOND], min_fragments=2)
    assert counts.obs.index.tolist() == [SECOND]


@pytest.mark.parametrize("general", [False, True])
def test_several_suffixes_are_not_taken_off(general: bool, bins, file):
    """Also where the second one shows only after the lines that were looked at."""
    name = "lib#" + FIRST if general else FIRST
    late = [("chr1", 5, 10, f"{name}-1", 1)] * 3000 + [("chr1", 5, 10, f"{name}-2", 1)]
    with pytest.raises(DataError, match=r"line 3001 has the barcode '.*-2', the lines before end in -1"):
        count(file(late), bins, barcodes=[name])
    with pytest.raises(DataError, match="several suffixes"):
        count(file(late[-2:]), bins, barcodes=[name])


def test_several_suffixes_of_the_list():
    with pytest.raises(
        DataError, match=r"list of barcodes has several suffixes \(-1, -2\), the fragment file has none"
    ):
        fit_suffix(["A-1", "A-2"], ["A", "C"])
    assert fit_suffix(["A-1", "C-2"], ["A", "C"])[0] == ["A", "C"]


@pytest.mark.parametrize("name", ["b.tsv", "b.tsv.gz", "b.csv"])
def test_lists_in_files(name: str, tmp_path):
    text = "barcode,is_cell\nAC-1,1\nGT-1,0\n" if name.endswith("csv") else "AC-1\nGT-1\n\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read_list(tmp_path / name) == ["AC-1", "GT-1"]


def test_lists_that_are_none(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="holds no barcodes"):
        read_list(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="lists 1 barcodes twice, first 'A'"):
        read_list(["A", "C", "A"])


@pytest.mark.parametrize("depth", [1000, 3000, 30_000])
@pytest.mark.parametrize("cells", [500, 5000])
def test_cells_are_told_from_empty_droplets(depth: int, cells: int):
    random = np.random.default_rng(0)
    filled = random.lognormal(np.log(depth), 0.4, cells).astype(int)
    empty = np.minimum(random.zipf(2.0, 100_000), depth // 20)
    threshold, said = cell_threshold(np.concatenate([filled, empty]))
    assert (filled >= threshold).mean() > 0.98
    assert (empty >= threshold).sum() < 0.02 * cells
    assert "not clearly apart" not in said


def test_a_file_of_cells_only_keeps_them():
    filled = np.random.default_rng(0).lognormal(np.log(5000), 0.5, 3000).astype(int)
    assert (filled >= cell_threshold(filled)[0]).mean() > 0.995


def test_no_gap_is_said():
    numbers = np.round(10 ** np.random.default_rng(0).uniform(1, 4, 20_000)).astype(int)
    assert "not clearly apart" in cell_threshold(numbers)[1]


def test_few_barcodes_are_all_taken():
    assert cell_threshold(np.array([5, 20, 2000]))[0] == LEAST


def test_simulated_cells_are_found(bins, tmp_path):
    sizes = {name: size for name, size in bins.chrom_sizes.items() if name != "chrM"}
    truth = simulate_fragments(tmp_path / "f.tsv.gz", 100_000, 3, cells=150, chrom_sizes=sizes, empty=0.1)
    counts = count(tmp_path / "f.tsv.gz", bins)
    assert set(counts.obs.index) == set(truth["barcodes"])
    depth = dict(zip(truth["barcodes"], truth["fragments"]))
    assert counts.obs["fragments"].to_dict() == depth
