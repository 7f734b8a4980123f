"""Intervals on another build: blocks, gaps, strands, and every way in which a lift fails."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.liftover import lift, read_chain
from syncyte.genome.regions import parse_regions, region_names

# 1: two blocks of 100 with 10 deleted between; then 300 bases turned around on chr2. X: a block given twice, and
# another target for its first half. 5: blocks far apart on the target.
CHAINS = """\
chain 9 1 1000 + 0 210 1 2000 + 500 700 1
100 10 0
100

chain 8 1 1000 + 300 600 2 1000 - 100 400 2
300

chain 7 X 1000 + 0 400 X 1000 + 10 410 3
400

chain 7 chrX 1000 + 0 400 chrX 1000 + 10 410 4
400

chain 6 X 1000 + 0 100 Y 1000 + 0 100 5
100

chain 5 5 1000 + 0 200 5 9000 + 0 5200 6
100 0 5000
100
"""


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "a_to_b.chain.gz"
    path.write_bytes(gzip.compress(CHAINS.encode()))
    return path


CASES = {
    "chr1:0-100": "chr1:500-600",
    "chr1:20-40": "chr1:520-540",
    "1:60-200": None,  # 10 of 140 bases are gone: below 95 %
    "chr1:0-210": "chr1:500-700",  # 10 of 210 are gone
    "chr1:220-290": None,
    "chr1:300-310": "chr2:890-900",  # backwards
    "chr1:590-600": "chr2:600-610",
    "chr2:0-10": None,
    "chrX:200-300": "chrX:210-310",
    "chrX:50-90": None,  # two targets
    "chr5:50-150": None,  # 5,000 bases come between
    "chr1:205-395": None,
}


def test_every_case(chains: Path):
    found = lift(parse_regions(CASES), read_chain(chains))
    assert found.counts == {"total": 12, "lifted": 6, "unmapped": 4, "split": 1, "ambiguous": 1, "turned": 2}
    names = region_names(found.table)
    assert [name if "nan" not in name else None for name in names] == list(CASES.values())
    assert "6 of 12 peaks lifted over with a_to_b.chain.gz" in found.sentence
    assert found.table["chrom"].cat.categories.tolist() == ["chr1", "chr2", "chr5", "chrX", "chrY"]


def test_pieces_on_two_chains_are_split(tmp_path: Path):
    text = "chain 1 1 9 + 0 100 1 9 + 0 100 1\n100\n\nchain 1 1 9 + 100 200 2 9 + 0 100 2\n100\n"
    (tmp_path / "c").write_text(text)
    found = lift(parse_regions(["chr1:50-150", "chr1:98-200"]), read_chain(tmp_path / "c"))
    assert found.counts == {"total": 2, "lifted": 1, "unmapped": 0, "split": 1, "ambiguous": 0, "turned": 0}
    assert region_names(found.table)[1] == "chr2:0-100"


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.data()
)
def test_as_base_by_base(tmp_path_factory, blocks, data):
    turned = data.draw(st.booleans())
    image: dict[int, int] = {}
    source, target, lines = 50, 70, []
    for size, gap, other in blocks:
        image |= {source + base: target + base for base in range(size)}
        source, target = source + size + gap, target + size + other
        lines.append(f"{size} {gap} {other}")
    lines[-1] = str(blocks[-1][0])
    length = 5000
    if turned:
        image = {base: length - 1 - place for base, place in image.items()}
    head = f"chain 1 1 9999 + 50 {source} 1 {length} {'-' if turned else '+'} 70 {target} 1"
    path = tmp_path_factory.mktemp("c") / "c"
    path.write_text("\n".join([head, *lines]) + "\n")
    asked = data.draw(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 80)), min_size=1, max_size=10))
    found = lift(parse_regions([f"chr1:{s}-{s + w}" for s, w in asked]), read_chain(path), min_match=0.5)
    for (start, width), chrom, low, high in zip(asked, *(found.table[key] for key in ("chrom", "start", "end"))):
        places = [image[base] for base in range(start, start + width) if base in image]
        fits = len(places) >= 0.5 * width and max(places) + 1 - min(places) <= 2 * width
        assert (chrom == "chr1") == fits
        if fits:
            assert (low, high) == (min(places), max(places) + 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no chains"),
        ("100 1 1\n", "line 1 is malformed"),
        ("chain 1 1 9 - 0 9 1 9 + 0 9 1\n9\n", "line 1 is malformed .*forward strand"),
        ("chain 1 1 9 + 0 9 1 9 + 0 9 1\n9 x 1\n", "line 2 is malformed"),
        ("chain 1 1 9 + 0\n", "line 1 is malformed"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, said: str):
    (tmp_path / "c").write_text(text)
    with pytest.raises(GenomeError, match=said):
        read_chain(tmp_path / "c")


def test_gene_starts_land_where_the_other_annotation_has_them(real):
    import pandas as pd

    from syncyte.genome.regions import region_table

    chain = read_chain(real("reference/GRCh37_to_GRCh38.chain.gz"))
    old, new = (
        pd.read_csv(real(f"reference/annotables_grch{build}.csv.gz"), dtype={"chr": str})
        .query("chr.str.fullmatch('[0-9]+|X|Y')")
        .drop_duplicates("ensgene")
        .set_index("ensgene")
        for build in (37, 38)
    )
    both = old.index.intersection(new.index)
    old, new = old.loc[both], new.loc[both]
    start = old["start"].to_numpy() - 1
    found = lift(region_table(old["chr"], start, start + 500), chain)
    assert found.counts["lifted"] > 0.999 * len(both) and found.counts["turned"] > 100
    truth = region_table(new["chr"], new["start"].to_numpy() - 1, new["start"].to_numpy())
    ok = found.table["chrom"].notna().to_numpy()
    same = found.table["chrom"].astype(str).to_numpy() == truth["chrom"].astype(str).to_numpy()
    near = np.abs(found.table["start"].to_numpy() - truth["start"].to_numpy()) < 5000
    assert (same & near)[ok].mean() > 0.94 and same[ok].mean() > 0.999
