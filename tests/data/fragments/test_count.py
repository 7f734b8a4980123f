"""Counts against a count by hand: rules, shifts, orders of lines, spellings of barcodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import syncyte
from syncyte.data.fragments import read, runs
from syncyte.genome.coordinates import region_names

RULES = ("ends", "insertions", "overlap")


def drawn(seed: int, n: int = 3000, cells: int = 12) -> list[tuple]:
    """Fragments anywhere on the small genome, some very short, some long."""
    random = np.random.default_rng(seed)
    letters = random.choice(list("ACGT"), (cells, 16))
    names = ["".join(row) + "-1" for row in letters]
    chroms, sizes = ["chr1", "chr2", "chrX"], [60_000, 30_000, 10_000]
    rows = []
    for _ in range(n):
        chrom = random.choice(3, p=[0.6, 0.3, 0.1])
        width = int(random.choice([1, 5, 40, 150, 400, 3000]))
        start = int(random.integers(0, sizes[chrom] - width))
        rows.append((chroms[chrom], start, start + width, names[random.integers(cells)], int(random.integers(1, 5))))
    return sorted(rows)


def by_hand(rows: list[tuple], table, rule: str, shift: tuple[int, int] = (0, 0)) -> Counter:
    """(barcode, region) to count, one fragment at a time."""
    names, found = region_names(table), Counter()
    chroms = np.asarray(table["chrom"])
    for chrom, start, end, barcode, *_ in rows:
        start, last = max(start + shift[0], 0), end + shift[1] - 1
        last = max(last, start)
        here = np.flatnonzero(chroms == chrom)
        low, high = table["start"].to_numpy()[here], table["end"].to_numpy()[here]
        ends = [here[(low <= place) & (place < high)].tolist() for place in (start, last)]
        if rule == "ends":
            hit = sorted({*ends[0], *ends[1]})
        elif rule == "insertions":
            hit = ends[0] + ends[1]
        else:
            hit = here[(low <= last) & (start < high)].tolist()
        found.update((barcode, names[region]) for region in hit)
    return found


def as_counter(counts) -> Counter:
    adata = counts.adata
    matrix = adata.X.tocoo()
    assert adata.X.has_canonical_format
    pairs = zip(matrix.row, matrix.col, matrix.data)
    return Counter({(adata.obs_names[row], adata.var_names[column]): int(n) for row, column, n in pairs})


def count(path, reference, **options):
    return syncyte.count_fragments(path, genome=reference, quiet=True, **{"min_fragments": 1, "force": True, **options})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("which", ["bins", "peaks"])
def test_rules_by_hand(rule: str, which: str, request, file):
    reference = request.getfixturevalue(which)
    rows = drawn(1)
    counts = count(file(rows), reference, rule=rule)
    assert as_counter(counts) == by_hand(rows, reference.regions, rule)
    assert counts.report["fragments_read"] == len(rows) == counts.report["fragments_of_cells"]
    assert counts.report["reference_hash"] == reference.hash


@pytest.mark.parametrize("order", ["random", "by barcode", "chromosomes turned round"])
@pytest.mark.parametrize("room", [1000, 1 << 21])
def test_any_order_of_lines_gives_the_same(order: str, room: int, bins, file, monkeypatch):
    """Also with small buffers, which make many runs that overlap."""
    monkeypatch.setattr("syncyte.data.fragments.count.PAIRS", room)
    monkeypatch.setattr(runs, "BLOCK", 500)
    rows = drawn(2)
    turned = {
        "random": [rows[place] for place in np.random.default_rng(0).permutation(len(rows))],
        "by barcode": sorted(rows, key=lambda row: row[3]),
        "chromosomes turned round": sorted(rows, key=lambda row: row[0], reverse=True),
    }[order]
    assert as_counter(count(file(turned), bins)) == by_hand(rows, bins.regions, "ends")


def test_blocks_of_text_may_cut_lines_anywhere(bins, file, monkeypatch):
    monkeypatch.setattr(read, "BLOCK", 977)
    rows = drawn(3, 1500)
    assert as_counter(count(file(rows), bins)) == by_hand(rows, bins.regions, "ends")


def test_shift(bins, file):
    rows = drawn(4, 800)
    for rule in RULES:
        found = as_counter(count(file(rows), bins, shift=(4, -5), rule=rule))
        assert found == by_hand(rows, bins.regions, rule, (4, -5))


def test_many_equal_fragments_are_counted(bins, file):
    rows = [("chr1", 10, 20, "ACGTACGTACGTACGT-1", 1)] * 70_000
    assert as_counter(count(file(rows), bins)) == {("ACGTACGTACGTACGT-1", "chr1:0-500"): 70_000}


BARCODES = [
    "ACGT",
    "ACGT-1",
    "ACGT-2",
    "ACGT-10",
    "ACGT-01",
    "ACGT-1000",
    "A" * 24,
    "A" * 25,
    "ACGTN",
    "acgt",
    "lib1#ACGT-1",
    "bulk",
    "7",
    "AACGT",
    "-1",
    "A-",
    "ACGT_1",
    "x" * 200,
    "é",
]


def test_barcodes_of_any_spelling_stay_apart(bins, file):
    rows = [("chr1", 10 * place, 10 * place + 5, name, 1) for place, name in enumerate(BARCODES)]
    counts = count(file(rows * 3), bins)
    assert sorted(counts.obs.index) == sorted(BARCODES)
    assert (counts.obs["fragments"] == 3).all()


def test_the_table_of_barcodes_grows(bins, file, monkeypatch):
    from syncyte.data.fragments import barcodes

    monkeypatch.setattr("syncyte.data.fragments.count.empty_table", lambda: barcodes.empty_table(16))
    letters = np.random.default_rng(0).choice(list("ACGTN"), (500, 9))
    rows = [("chr1", place, place + 9, "".join(row), 1) for place, row in enumerate(letters)]
    counts = count(file(rows * 2), bins)
    assert sorted(counts.obs.index) == sorted({row[3] for row in rows})
    assert counts.obs["fragments"].sum() == 1000


@pytest.mark.parametrize("name", ["f.tsv", "f.tsv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_comments_columns_and_line_ends(name: str, end: str, bins, tmp_path):
    import gzip

    lines = [
        "# id=x",
        "",
        "chr1\t5\t10\tAC-1",
        "chr1\t5\t10\tAC-1\t2",
        "chr1\t5\t10\tAC-1\t2\t+",
        "chr2\t0\t3\tAC-1\t1",
    ]
    text = end.join(lines).encode()  # no line end behind the last line
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    counts = count(path, bins)
    assert as_counter(counts) == {("AC-1", "chr1:0-500"): 3, ("AC-1", "chr2:0-500"): 1}
    assert np.isnan(counts.obs.loc["AC-1", "duplicate_share"])  # one line does not say its reads


def test_bgzip_and_gzip_and_plain_are_the_same(bins, tmp_path):
    from syncyte.recipes.simulate_fragments import simulate_fragments

    sizes = bins.chrom_sizes
    for name in ("a.tsv.gz", "a.tsv"):
        simulate_fragments(tmp_path / name, 5000, cells=20, chrom_sizes=sizes, sites=20)
    found = [as_counter(count(tmp_path / name, bins)) for name in ("a.tsv.gz", "a.tsv")]
    assert found[0] == found[1]
    assert sum(found[0].values()) > 4000
