"""Drawn variants match the given one in kind, length, distance, GC share and CpG state, and say where they do not."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from tests.genome.held import genome_of

from syncyte.errors import GenomeError
from syncyte.genome.edits import parse_edits
from syncyte.genome.fasta import Genome
from syncyte.genome.haplotypes import alternate
from syncyte.genome.matched import EDGES, FLANK, LEVELS, background, matched_variants
from syncyte.genome.sequence import gc_share, reverse_complement, to_codes, to_text
from syncyte.genome.tss import read_tss, windows
from syncyte.genome.variants import COLUMNS, Variants, variants_of
from syncyte.genome.vcf import read_variants

RNG = np.random.default_rng(5)
TEXT = "".join(RNG.choice(list("ACGT"), 40_000))
STARTS = pd.DataFrame(
    {
        "gene_id": [f"G{number}" for number in range(18)],
        "chrom": "chr1",
        "tss": np.arange(2000, 38_000, 2000),
        "strand": ["+", "-"] * 9,
    }
)


@pytest.fixture
def genome(tmp_path):
    return genome_of(tmp_path, chr1=TEXT, chr2="ACGT" * 100)


@pytest.fixture
def source(genome):
    return background(genome, STARTS, 1000)


def one(start: int, ref: str, alt: str, kind: str) -> Variants:
    """A variant of one row that needs no file."""
    return variants_of([dict(zip(COLUMNS, ["given", 1, "chr1", start, ref, alt, kind, "ok", ""]))])


def changed(at: int) -> Variants:
    """An exchanged base at a place."""
    return one(at, TEXT[at], "ACGT"[("ACGT".index(TEXT[at]) + 1) % 4], "snv")


def cpg_of(start: int, size: int) -> bool:
    near = TEXT[start - 1 : start + size + 1]
    return "CG" in near if size else TEXT[start - 1 : start + 1] == "CG"


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("kind", ["snv", "mnv", "deletion", "insertion", "indel", "duplication"])
def test_draws_match(source, genome, kind, strand):
    tss, at = 10_000, 10_000 + (-160 if strand == "+" else 160)
    size = {"snv": 1, "mnv": 3, "insertion": 0, "duplication": 0}.get(kind, 4)
    ref = TEXT[at : at + size]
    swap = {"A": "G", "G": "A", "C": "T", "T": "C"}
    alt = {"snv": swap.get(ref[:1], ""), "deletion": "", "indel": "AC", "duplication": TEXT[at : at + 6]}.get(kind)
    alt = "GATTC" if kind == "insertion" else "".join(swap[base] for base in ref) if kind == "mnv" else alt
    given = one(at, ref, alt, kind)
    found = matched_variants(source, given, 0, tss, strand, n=60, seed=1)
    table, draws = found.variants.table, found.draws
    assert found.missing == 0 and len(table) == len(draws) == 60 and sum(found.relaxed.values()) == 60
    assert found.relaxed["exact"] > 10 and table["variant"].is_unique and (table["kind"] == kind).all()
    assert not table.duplicated(["chrom", "start"]).any() or kind == "indel"
    exact = draws[draws["level"] == 0]
    assert exact["distance"].between(-199, -100).all(), "one bin, on the given side of the start"
    span = 6 if kind == "duplication" else size
    assert (exact["cpg"] == cpg_of(at, span)).all()
    centre = at + max(span - 1, 0) // 2 + (1 if strand == "-" and span and span % 2 == 0 else 0)
    centre -= strand == "-" and span == 0
    own = float(gc_share(to_codes(TEXT[centre - FLANK : centre + FLANK + 1])))
    assert (exact["gc"] - own).abs().max() <= 0.055
    for row in range(60):
        start, before, after = found.variants.change(row)
        assert TEXT[start : start + len(before)] == before
        assert abs(start - at) >= max(size, 1) or table["chrom"][row] != "chr1"
        if kind in ("snv", "mnv"):
            assert after == "".join(swap[base] for base in before)
        elif kind == "deletion":
            assert (len(before), after) == (4, "")
        elif kind == "insertion":
            made = (
                after
                if STARTS["strand"][draws["window"][row]] == strand
                else to_text(reverse_complement(to_codes(after)))
            )
            assert sorted(made) == sorted("GATTC")
        elif kind == "duplication":
            assert before == "" and after in (TEXT[start : start + 6], TEXT[start - 6 : start])
        alternate(genome, "chr1", start - 20, start + 30, start - 10, [(start, before, after)])


def test_distances_are_those_of_the_forward_strand(source):
    found = matched_variants(source, changed(10_300), 0, 10_000, "+")
    for row, draw in enumerate(found.draws.itertuples()):
        gene = STARTS.iloc[draw.window]
        start, _, _ = found.variants.change(row)
        assert draw.distance == (start - gene.tss if gene.strand == "+" else gene.tss - start)
        assert draw.gene_id == gene.gene_id
        near = TEXT[start - FLANK : start + FLANK + 1]
        assert abs(draw.gc - float(gc_share(to_codes(near)))) < 0.003 and draw.cpg == cpg_of(start, 1)


def test_the_seed_and_the_variant_decide(source):
    rows = pd.concat([changed(10_050).table, changed(10_060).table], ignore_index=True)
    given = variants_of(rows.to_dict("records"))
    first, second = (matched_variants(source, given, 1, 10_000, "+", n=40) for _ in range(2))
    assert first.variants.table.equals(second.variants.table) and first.draws.equals(second.draws)
    alone = matched_variants(source, given.take([1]), 0, 10_000, "+", n=40)
    assert alone.variants.table.equals(first.variants.table)
    other = matched_variants(source, given, 1, 10_000, "+", n=40, seed=1)
    assert not other.variants.table.equals(first.variants.table)


def test_matching_is_relaxed_and_says_so(genome):
    few = background(genome, STARTS.iloc[:2], 100)
    given = changed(10_040)
    found = matched_variants(few, given, 0, 10_000, "+", n=120)
    assert len(found.relaxed) > 3 and found.missing == 0
    assert set(found.relaxed) <= {name for name, *_ in LEVELS} and found.draws["level"].is_monotonic_increasing
    every = matched_variants(few, given, 0, 10_000, "+", n=500)
    assert every.missing == 300 and len(every.variants) == 200


def test_edits_and_odd_requests(source, genome):
    found = matched_variants(source, parse_edits("chr1:10100-10160=shuffle", genome), 0, 10_000, "+", n=30)
    for row in range(len(found.variants)):
        start, ref, alt = found.variants.change(row)
        assert sorted(ref) == sorted(alt) and 40 < len(ref) <= 60 and TEXT[start : start + len(ref)] == ref
    with pytest.raises(GenomeError, match="changes 2,000 bases, the windows have 1,000"):
        matched_variants(source, parse_edits("chr1:10100-12100=delete", genome), 0, 10_000, "+")
    with pytest.raises(GenomeError, match="None of 18 transcription starts"):
        background(genome, STARTS.assign(chrom="chr9"), 100)
    mixed = background(genome, pd.concat([STARTS, STARTS.assign(chrom="chr9")]), 100)
    assert mixed.left_out == 18 and len(mixed.table) == 18


def test_the_bins_begin_at_nothing():
    assert EDGES[0] == 0 and (np.diff(EDGES) > 0).all()


def test_real_variants_are_matched_quickly(real, tmp_path):
    genome = Genome.open(real("dna/hg38_chr1_0_1000000.fa.gz"), cache=tmp_path)
    table = read_tss(real("dna/gencode_v43_tss500.hg38.bed.gz"))
    table = table[(table["chrom"] == "chr1") & (table["tss"] < 990_000)]
    source = background(genome, table, 20_000)
    found = read_variants(real("dna/chr1_eqtl_snps.vcf"), genome)
    start = time.process_time()
    drawn = [matched_variants(source, found, row, 69_090, "+", n=200) for row in (2, 3, 4)]
    assert time.process_time() - start < 10
    for item in drawn:
        assert item.missing == 0 and item.relaxed["exact"] > 40
        frame = windows(source.table, 20_000)
        assert item.variants.table["start"].between(frame["start"].min(), frame["end"].max()).all()


@pytest.mark.parametrize("kind", ["shuffle", "motif"])
def test_a_short_shuffle_is_tried_again_until_it_changes_something(source, kind, monkeypatch):
    ref = TEXT[10_040:10_047]
    alt = ref[0] + ref[1:-1][::-1] + ref[-1]
    found = matched_variants(source, one(10_040, ref, alt, kind), 0, 10_000, "+", n=60)
    monkeypatch.setattr("syncyte.genome.matched.TRIES", 1)
    once = matched_variants(source, one(10_040, ref, alt, kind), 0, 10_000, "+", n=60)
    assert len(found.draws) > len(once.draws) + 5
    assert len(found.draws) > 40, "some short runs of bases have no other order"


def test_bases_between_lost_motifs_stay(source):
    ref = TEXT[10_020:10_060]
    alt = ref[:6][::-1] + ref[6:34] + ref[34:][::-1]
    found = matched_variants(source, one(10_020, ref, alt, "motif"), 0, 10_000, "+", n=40)
    assert (found.variants.table["ref"].str.len() > 34).any()
    for ref_made, alt_made in found.variants.table[["ref", "alt"]].itertuples(index=False):
        assert sum(a != b for a, b in zip(ref_made, alt_made, strict=True)) <= 12
