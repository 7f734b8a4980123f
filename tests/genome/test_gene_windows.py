"""Which windows speak for a gene, how much, and what falls into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.genome.held import genome_of

from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import GeneWindows, gene_windows, hit_windows, match_starts
from syncyte.genome.sequence import reverse_complement, to_text

LENGTH = 20
GENES = pd.Index(["A", "B", "C", "D"])


@pytest.fixture
def genome(tmp_path: Path) -> Genome:
    rng = np.random.default_rng(0)
    return genome_of(tmp_path, **{name: "".join(rng.choice(list("ACGT"), 1000)) for name in ("chr1", "chr2")})


def starts_of(*rows: tuple[str, str, int, str]) -> pd.DataFrame:
    """Starts as ``read_tss`` gives them: gene, chromosome, place, strand."""
    names = [row[0] for row in rows]
    table = pd.DataFrame(rows, columns=["symbol", "chrom", "tss", "strand"])
    return table.assign(gene_id=names, tss_id=[f"{name}@{place}" for place, name in enumerate(names)])


def peaks_of(*rows: tuple[str, int, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])


def made(genome: Genome, starts: pd.DataFrame, peaks: pd.DataFrame | None = None, **options: float) -> GeneWindows:
    matched = match_starts(starts, pd.DataFrame(index=GENES))
    return gene_windows(genome, matched, GENES, LENGTH, peaks=peaks, **options)


def links(found: GeneWindows, gene: int, slot: str) -> pd.DataFrame:
    own = found.links[(found.links["gene"] == gene) & (found.links["slot"] == slot)]
    return own.merge(found.table, left_on="window", right_index=True)


def test_starts_are_read_in_the_direction_of_the_gene(genome: Genome):
    found = made(genome, starts_of(("A", "chr1", 100, "+"), ("B", "chr1", 300, "-")))
    assert found.table[["start", "end", "anchor", "strand"]].to_numpy().tolist() == [
        [90, 110, 100, "+"],
        [291, 311, 300, "-"],
    ]
    first, second = found.fetch(genome)
    assert to_text(first) == to_text(genome.fetch("chr1", 90, 110))
    assert to_text(second) == to_text(reverse_complement(genome.fetch("chr1", 291, 311)))
    base = genome.fetch("chr1", 300, 301)
    assert second[LENGTH // 2] == reverse_complement(base)[0]


def test_several_starts_are_a_mean(genome: Genome):
    found = made(genome, starts_of(("A", "chr1", 100, "+"), ("A", "chr1", 200, "+"), ("B", "chr1", 300, "-")))
    assert links(found, 0, "start")["weight"].tolist() == [0.5, 0.5]
    values = np.array([[1.0, 10], [3, 30], [5, 50]], dtype=np.float32)
    assert found.gather(values).tolist() == [[2, 20, 0, 0], [5, 50, 0, 0], [0] * 4, [0] * 4]


def test_genes_outside_the_genome_have_no_window(genome: Genome):
    rows = [("A", "chr1", 5, "+"), ("B", "chr1", 995, "-"), ("C", "chr9", 100, "+"), ("D", "chr2", 100, "+")]
    found = made(genome, starts_of(*rows))
    assert found.covered().tolist() == [False, False, False, True]
    assert len(found.table) == 1


def test_a_start_inside_counts_alone_where_the_other_is_outside(genome: Genome):
    found = made(genome, starts_of(("A", "chr1", 2, "+"), ("A", "chr1", 200, "+")))
    assert links(found, 0, "start")["weight"].tolist() == [1.0]


def test_peaks_fade_with_distance_and_are_shared(genome: Genome):
    starts = starts_of(("A", "chr1", 200, "+"), ("B", "chr1", 400, "-"))
    peaks = peaks_of(("chr1", 245, 255), ("chr1", 295, 305), ("chr1", 700, 710), ("chr2", 245, 255))
    found = made(genome, starts, peaks, reach=150, decay=50.0)
    first, second = links(found, 0, "peaks"), links(found, 1, "peaks")
    assert first["anchor"].tolist() == [250, 300]
    assert first["distance"].tolist() == [50, 100]
    raw = np.exp([-1.0, -2.0])
    assert first["weight"].to_numpy() == pytest.approx(raw / raw.sum())
    assert second["distance"].tolist() == [150, 100], "upstream of a gene on the other strand is to its right"
    assert set(second["window"]) == set(first["window"])
    assert sorted(found.table["name"]) == ["A@0", "B@1", "chr1:240-260", "chr1:290-310"]
    assert found.table.loc[found.table["kind"] == "peak", "strand"].tolist() == ["+", "+"]


def test_a_peak_near_two_starts_of_a_gene_counts_once_from_the_nearer(genome: Genome):
    starts = starts_of(("A", "chr1", 200, "+"), ("A", "chr1", 400, "+"))
    own = links(made(genome, starts, peaks_of(("chr1", 215, 225)), reach=500, decay=50.0), 0, "peaks")
    assert own[["distance", "weight"]].to_numpy().tolist() == [[20, 1.0]]


@pytest.mark.parametrize("edge", [0, 1])
def test_reach_counts_bases(genome: Genome, edge: int):
    peaks = peaks_of(("chr1", 295 + edge, 305 + edge))
    own = links(made(genome, starts_of(("A", "chr1", 200, "+")), peaks, reach=100), 0, "peaks")
    assert len(own) == 1 - edge


def test_weights_sum_to_one(genome: Genome):
    rng = np.random.default_rng(1)
    starts = starts_of(*[(name, "chr1", int(place), "+") for name in "ABC" for place in rng.integers(50, 900, 3)])
    peaks = peaks_of(*[("chr1", int(place), int(place) + 8) for place in rng.integers(50, 900, 12)])
    found = made(genome, starts, peaks)
    sums = found.links.groupby(["gene", "slot"])["weight"].sum()
    assert len(sums) == 6
    assert sums.to_numpy() == pytest.approx(1)


def test_no_gene_inside_is_no_window(genome: Genome):
    found = made(genome, starts_of(("A", "chr9", 100, "+")), peaks_of(("chr1", 10, 40)))
    assert len(found.table) == 0
    assert not found.covered().any()


def test_genes_are_matched_by_id_first():
    starts = starts_of(("A", "chr1", 1, "+"), ("B", "chr1", 2, "+"), ("X", "chr1", 3, "+")).assign(
        gene_id=["ENSG2", "ENSG9", "ENSG1"]
    )
    genes = pd.DataFrame({"gene_id": ["ENSG1.4", "ENSG2.1", "ENSG3"]}, index=["A", "B", "C"])
    # ENSG2 is B whatever the symbol says, and ENSG9 is known by its symbol alone
    assert match_starts(starts, genes).set_index("tss")["gene"].to_dict() == {1: 1, 2: 1, 3: 0}


WINDOWS = st.lists(st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60)), min_size=0, max_size=12)
PLACES = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2", "chr3"]), st.integers(0, 80), st.integers(0, 15)), max_size=12
)


@given(windows=WINDOWS, places=PLACES)
def test_hits_are_those_of_a_plain_loop(windows: list, places: list):
    table = pd.DataFrame(windows, columns=["chrom", "start"]).assign(end=lambda frame: frame["start"] + LENGTH)
    chrom, start, size = (np.array(part) for part in zip(*places)) if places else (np.empty(0, dtype=int),) * 3
    row, hit = hit_windows(table, chrom, start, start + size)
    expected = [
        (one, other)
        for one, (name, begin, many) in enumerate(places)
        for other, (where, first) in enumerate(windows)
        if name == where and begin < first + LENGTH and begin + max(many, 1) > first
    ]
    assert sorted(zip(row.tolist(), hit.tolist())) == expected


@pytest.mark.parametrize(("place", "inside"), [(99, False), (100, True), (119, True), (120, False)])
def test_an_insertion_touches_the_window_of_the_base_behind_it(place: int, inside: bool):
    table = pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [120]})
    row, _ = hit_windows(table, np.array(["chr1"]), np.array([place]), np.array([place]))
    assert bool(len(row)) == inside
