"""The simulator of fragment files says the truth about them."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from syncyte.recipes.simulate_fragments import simulate_fragments

SIZES = {"chr1": 400_000, "chr2": 100_000}


def rows(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", ["f.tsv", "f.tsv.gz"])
def test_the_file_is_sorted_and_as_told(name: str, tmp_path):
    truth = simulate_fragments(tmp_path / name, 20_000, 1, cells=50, chrom_sizes=SIZES, sites=30)
    lines = rows(tmp_path / name)
    assert len(lines) == 20_000
    places = [(row[0], int(row[1]), int(row[2])) for row in lines]
    assert places == sorted(places)
    assert all(0 <= start < end <= SIZES[chrom] for chrom, start, end in places)
    found = Counter(row[3] for row in lines)
    assert [found[name] for name in truth["barcodes"]] == truth["fragments"].tolist()
    assert len(set(truth["barcodes"])) == 50
    assert {len(row) for row in lines} == {5}
    assert all(1 <= int(row[4]) <= 9 for row in lines)


def test_the_same_arguments_give_the_same_file(tmp_path):
    for name in ("a.tsv.gz", "b.tsv.gz"):
        simulate_fragments(tmp_path / name, 3000, 5, cells=10, chrom_sizes=SIZES)
    simulate_fragments(tmp_path / "c.tsv.gz", 3000, 6, cells=10, chrom_sizes=SIZES)
    files = [(tmp_path / name).read_bytes() for name in ("a.tsv.gz", "b.tsv.gz", "c.tsv.gz")]
    assert files[0] == files[1] != files[2]


def test_sites_are_where_they_were_put(tmp_path):
    simulate_fragments(
        tmp_path / "f.tsv", 5000, cells=10, chrom_sizes=SIZES, sites={"chr1": np.array([50_000])}, at_sites=1
    )
    middle = [(int(row[1]) + int(row[2])) / 2 for row in rows(tmp_path / "f.tsv") if row[0] == "chr1"]
    assert np.mean(np.abs(np.array(middle) - 50_000) < 500) > 0.99
