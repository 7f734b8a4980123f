"""Both haplotypes of a person as one token."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.variants import Variants, variants_of
from syncyte.genome.vcf import read_variants
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variant_people import _not_called, diploid_tokens
from syncyte.tasks.variant_tokens import SequenceSide, alleles_of, changed_tokens

PEOPLE = ("both", "one", "none", "phased", "free", "clash")


@pytest.fixture(scope="module")
def side(dna_run: GeneRun, dna_files: dict[str, Path]) -> SequenceSide:
    return dna_run.side(Genome.open(dna_files["genome.fa"]), None, True)[0]


@pytest.fixture(scope="module")
def given(side: SequenceSide, dna_world: Regulation, tmp_path_factory: pytest.TempPathFactory):
    """Two changes at the start of TF1, and a deletion that takes the place of the first."""
    start = dna_world.tss.set_index("symbol").loc["TF1"]
    chrom, places = start["chrom"], (int(start["tss"]) - 20, int(start["tss"]) + 40)

    def base(place: int, size: int = 1) -> str:
        return "".join("ACGT"[code] for code in side.genome.fetch(chrom, place, place + size))

    calls = ["1|1 0|1 0|0 0|1 0/1 0|1", "0|0 0|0 0|0 0|1 0/1 0|0", "0|0 0|0 0|0 0|0 0/0 0|1"]
    changes = [(place, base(place), "ACGT"["ACGT".index(base(place)) - 1]) for place in places]
    changes.append((places[0] - 3, base(places[0] - 3, 5), base(places[0] - 3)))
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(PEOPLE)]
    lines += [
        "\t".join([chrom, str(place + 1), f"v{number}", ref, alt, ".", "PASS", ".", "GT", *genotypes.split()])
        for number, ((place, ref, alt), genotypes) in enumerate(zip(changes, calls))
    ]
    path = tmp_path_factory.mktemp("people") / "people.vcf"
    path.write_text("\n".join(lines) + "\n")
    return read_variants(path, side.genome)


@pytest.fixture(scope="module")
def steps(dna_run: GeneRun, side: SequenceSide, given):
    """Change of TF1's token by each allele alone."""
    found = changed_tokens(dna_run.model, side, alleles_of(given))
    rows = np.flatnonzero(found.table["gene"] == list(dna_run.symbols).index("TF1"))
    assert found.table["allele"].iloc[rows].tolist() == [0, 1, 2]
    return (found.alternate - found.reference)[rows]


def step(dna_run: GeneRun, side: SequenceSide, given, name: str) -> tuple[torch.Tensor, list[str]]:
    _, tokens, notes = diploid_tokens(dna_run.model, side, given, name)
    row = np.flatnonzero(tokens.table["gene"] == list(dna_run.symbols).index("TF1"))[0]
    return tokens.alternate[row] - tokens.reference[row], notes


def test_on_both_copies_it_is_the_allele_itself(dna_run, side, given, steps):
    assert torch.allclose(step(dna_run, side, given, "both")[0], steps[0], atol=1e-6)


def test_on_one_copy_it_is_half(dna_run, side, given, steps):
    assert torch.allclose(step(dna_run, side, given, "one")[0], steps[0] / 2, atol=1e-6)


def test_of_unknown_phase_it_is_the_mean_over_phases(dna_run, side, given, steps):
    phased, notes = step(dna_run, side, given, "phased")
    assert not any("phase unknown" in note for note in notes)
    free, notes = step(dna_run, side, given, "free")
    assert any("phase unknown" in note for note in notes)
    apart = (steps[0] + steps[1]) / 2  # one change on each copy
    assert torch.allclose(free, (apart + phased) / 2, atol=1e-5)


def test_nothing_carried_is_nothing_scored(dna_run, side, given):
    table, tokens, notes = diploid_tokens(dna_run.model, side, given, "none")
    assert len(table) == len(tokens.table) == len(tokens.reference) == 0
    assert "none carries 0 of the alleles given" in notes[0]


def test_changes_that_exclude_each_other_are_told(dna_run, side, given, steps):
    found, notes = step(dna_run, side, given, "clash")
    assert any("left out of a haplotype, overlap" in note for note in notes)
    assert torch.allclose(found, steps[2] / 2, atol=1e-5), "the one that begins first stays"


def test_rows_say_how_many_alleles_and_how(dna_run, side, given):
    table, _, _ = diploid_tokens(dna_run.model, side, given, "phased")
    first = table.table.set_index("variant").loc["phased:TF1"]
    assert first["alt"] == "2 alleles: 2 on one copy; two haplotypes in phase"
    assert first["kind"] == "haplotypes"
    table, _, _ = diploid_tokens(dna_run.model, side, given, "both")
    assert table.table["alt"].iloc[0] == "1 allele: 1 on both copies; the same changes on both copies"
    table, _, notes = diploid_tokens(dna_run.model, side, given, "free")
    assert table.table["alt"].iloc[0] == "2 alleles: 2 on one copy; phase unknown: mean over the phases of 2 changes"
    assert not any("missing genotype" in note for note in notes)


def test_numbers_of_a_row_add_up(dna_run, side, given):
    """One change on both copies, two phased together on one copy, and one of unknown phase: two that may turn."""
    calls = np.array([[[1, 1]], [[0, 1]], [[1, 0]], [[0, 1]], [[1, -2]]], dtype=np.int8)
    phased = np.array([[True], [True], [True], [False], [True]])
    table = given.table.iloc[[0] * 5].assign(start=given.table["start"].iloc[1] + np.arange(5), ref="", alt="T")
    people = Variants(table, ("X",), calls, phased, np.zeros((5, 1), dtype=np.int64))
    rows = diploid_tokens(dna_run.model, side, people, "X")[0].table.set_index("variant")
    assert rows.loc["X:TF1", "alt"] == (
        "5 alleles: 1 on both copies, 3 on one copy, 1 on the only copy (2 of these phased: a block of them counts as "
        "one change); phase unknown: mean over the phases of 2 changes"
    )


def test_missing_genotypes_are_told(dna_run, side, given):
    """Of three alleles at TF1 one is called; one is missing whole and one in part, and that is no reference."""
    calls = given.genotypes.copy()
    calls[:, 1] = [[0, 1], [-1, -1], [-1, 0]]
    found, notes = step(dna_run, side, replace(given, genotypes=calls), "one")
    said = [note for note in notes if "missing genotype" in note]
    assert len(said) == 1
    assert re.match(r"2 alleles in windows of \d+ genes \(.*TF1.*\) have a missing genotype in one", said[0])
    assert "taken as reference" in said[0]
    assert torch.equal(found, step(dna_run, side, given, "one")[0])
    calls[:, 2] = -1
    table, _, notes = diploid_tokens(dna_run.model, side, replace(given, genotypes=calls), "none")
    assert len(table) == 0
    assert any(note.startswith("3 alleles in windows of") for note in notes)


def test_at_most_five_genes_are_named(side, given):
    at = [int(row) for row in np.flatnonzero(side.windows.links.groupby("window")["gene"].transform("size"))[:8]]
    windows = side.windows.table.iloc[side.windows.links["window"].iloc[at]]
    table = given.table.iloc[[0] * 8].assign(chrom=windows["chrom"].to_numpy(), start=windows["anchor"].to_numpy() + 9)
    calls = np.full((8, 1, 2), -1, dtype=np.int8)
    people = Variants(table, ("X",), calls, np.ones((8, 1), dtype=bool), np.zeros((8, 1), dtype=np.int64))
    (said,) = _not_called(side, people, "X")
    named = said.partition("(")[2].partition(" ...)")[0].split(", ")
    assert len(named) == 5
    assert set(named) <= set(side.windows.genes)


def test_unknown_people_are_refused(dna_run, side, given):
    with pytest.raises(GenomeError, match="nobody"):
        diploid_tokens(dna_run.model, side, given, "nobody")
    with pytest.raises(GenomeError, match="leave out --sample"):
        diploid_tokens(dna_run.model, side, variants_of([]), "both")
