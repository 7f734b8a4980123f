"""From alleles to tokens: what changes which gene, and that nothing else changes at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.genome.held import genome_of
from tests.tiny_dna import gene_model

from syncyte.genome.gene_windows import gene_windows, match_starts
from syncyte.genome.sequence import reverse_complement, to_codes, to_text
from syncyte.tasks.variant_tokens import Allele, SequenceSide, Tokens, _apart, changed_tokens

LENGTH, WIDTH = 40, 5
GENES = pd.Index(["PLUS", "MINUS", "FAR", "NONE"])
A, C, G, T = range(4)


class Encoder:
    """Vectors that any exchanged base changes, each row by itself; writes down what it was asked."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.weights = rng.normal(size=(LENGTH, 5, WIDTH)).astype(np.float32)
        self.seen: list[str] = []

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        self.seen += [to_text(row) for row in codes]
        found = self.weights[np.arange(LENGTH), codes].sum(axis=1)
        return found.reshape(len(codes), WIDTH)


@pytest.fixture
def side(tmp_path: Path) -> SequenceSide:
    """Starts at 200 (+) and 500 (-) with a peak at 350 between them, and one on another chromosome."""
    rng = np.random.default_rng(3)
    genome = genome_of(tmp_path, **{name: "".join(rng.choice(list("ACGT"), 1000)) for name in ("chr1", "chr2")})
    starts = pd.DataFrame(
        [("PLUS", "chr1", 200, "+"), ("MINUS", "chr1", 500, "-"), ("FAR", "chr2", 500, "+")],
        columns=["symbol", "chrom", "tss", "strand"],
    )
    starts = starts.assign(gene_id=starts["symbol"], tss_id=starts["symbol"])
    peaks = pd.DataFrame({"chrom": ["chr1"], "start": [340], "end": [360]})
    matched = match_starts(starts, pd.DataFrame(index=GENES))
    windows = gene_windows(genome, matched, GENES, LENGTH, peaks=peaks, reach=200, decay=100.0)
    return SequenceSide(windows, genome, Encoder(), ("open", "shut"))


@pytest.fixture
def model() -> torch.nn.Module:
    return gene_model(genes=4, inputs=2 * WIDTH)


def base(side: SequenceSide, place: int, chrom: str = "chr1", size: int = 1) -> str:
    return to_text(side.genome.fetch(chrom, place, place + size))


def snv(side: SequenceSide, place: int, chrom: str = "chr1") -> Allele:
    old = base(side, place, chrom)
    return Allele(chrom, ((place, old, "ACGT"[(int(to_codes(old)[0]) + 1) % 4]),))


def genes_of(found: Tokens) -> list[str]:
    return [GENES[gene] for gene in found.table["gene"]]


def vectors_by_hand(side: SequenceSide, text: str) -> np.ndarray:
    return side.vectors(to_codes(text)[None])[0]


@pytest.mark.parametrize(
    "changes",
    [
        lambda side: ((205, base(side, 205), base(side, 205)),),  # the base that is there
        lambda side: ((180, "", "ACGT"),),  # before the first base of the window, so outside
        lambda side: ((170, base(side, 170, size=11), base(side, 170, size=10) + base(side, 180)),),
    ],
    ids=["same base", "insertion at the edge", "same bases over the edge"],
)
def test_an_allele_that_leaves_a_window_as_it_was_changes_nothing(side, model, changes):
    found = changed_tokens(model, side, [Allele("chr1", changes(side))])
    assert genes_of(found) == ["PLUS"]
    assert found.table["windows"].tolist() == [0]
    assert torch.equal(found.reference, found.alternate)
    assert not found.tracks.any()
    assert found.touched.all()


def test_what_falls_between_windows_touches_nothing(side, model):
    alleles = [snv(side, place) for place in (179, 220, 600)] + [Allele("chr5", ((100, "A", "C"),))]
    found = changed_tokens(model, side, alleles)
    assert not found.touched.any()
    assert len(found.table) == len(found.reference) == 0


def test_no_allele_is_no_token(side, model):
    found = changed_tokens(model, side, [])
    assert len(found.table) == len(found.touched) == 0


def test_a_change_at_a_start_by_hand(side, model):
    place = 207
    found = changed_tokens(model, side, [snv(side, place)])
    text = base(side, 180, size=LENGTH)
    other = text[: place - 180] + snv(side, place).changes[0][2] + text[place - 179 :]
    step = vectors_by_hand(side, other) - vectors_by_hand(side, text)
    genes = torch.tensor([0])
    vector = model.vectors[genes].clone()
    vector[0, :WIDTH] += torch.from_numpy(step)
    expected = model.tokens()[0] + model.moved(model.vectors[genes], vector)[0]
    assert torch.allclose(found.alternate[0], expected, atol=1e-5)
    assert torch.equal(found.reference[0], model.tokens()[0])
    assert found.tracks[0] == pytest.approx(step[-2:], abs=1e-5)
    row = found.table.iloc[0]
    assert (row["tss_distance"], row["windows"], row["slot"], row["tss_deleted"]) == (7, 1, "start", False)


def test_a_peak_speaks_for_all_genes_near_it(side, model):
    found = changed_tokens(model, side, [snv(side, 345)])
    assert genes_of(found) == ["PLUS", "MINUS"]
    assert found.table["slot"].tolist() == ["peaks", "peaks"]
    assert found.table["tss_distance"].tolist() == [150, 150], "the peak is downstream of both"
    assert (found.alternate != found.reference).any(dim=1).all()
    assert found.tracks[0] == pytest.approx(found.tracks[1])


def test_genes_on_the_other_strand_are_read_from_there(side, model):
    place = 503
    found = changed_tokens(model, side, [snv(side, place)])
    assert genes_of(found) == ["MINUS"]
    assert found.table["tss_distance"].tolist() == [-3], "to the right is upstream"
    window = side.windows.table.iloc[1]
    low = int(window["start"])
    text = base(side, low, size=LENGTH)
    other = text[: place - low] + snv(side, place).changes[0][2] + text[place - low + 1 :]
    turned = [to_text(reverse_complement(to_codes(one))) for one in (text, other)]
    assert set(side.vectors.seen) == set(turned)
    assert turned[0][LENGTH // 2] == to_text(reverse_complement(to_codes(base(side, 500))))


@pytest.mark.parametrize(("start", "size", "gone"), [(198, 5, True), (200, 1, True), (201, 5, False), (195, 5, False)])
def test_a_deleted_start_is_told(side, model, start: int, size: int, gone: bool):
    found = changed_tokens(model, side, [Allele("chr1", ((start, base(side, start, size=size), ""),))])
    assert found.table["tss_deleted"].tolist() == [gone]
    assert (found.alternate != found.reference).any()
    assert all(len(text) == LENGTH for text in side.vectors.seen)


def test_a_deletion_keeps_the_start_in_place(side, model):
    changed_tokens(model, side, [Allele("chr1", ((190, base(side, 190, size=4), ""),))])
    expected = base(side, 176, size=14) + base(side, 194, size=26)
    assert side.vectors.seen[1] == expected
    assert expected[LENGTH // 2] == base(side, 200)


def test_changes_of_one_haplotype_act_together(side, model):
    first, second = snv(side, 195), snv(side, 210)
    both = Allele("chr1", first.changes + second.changes)
    found = changed_tokens(model, side, [first, second, both])
    assert found.table["allele"].tolist() == [0, 1, 2]
    text = base(side, 180, size=LENGTH)
    other = text[:15] + first.changes[0][2] + text[16:30] + second.changes[0][2] + text[31:]
    assert other in side.vectors.seen
    assert not torch.equal(found.alternate[2], found.alternate[0])
    # this encoder adds up, and so does the linear part of what stands behind it: steps of vectors are sums
    assert found.tracks[2] == pytest.approx(found.tracks[0] + found.tracks[1], abs=1e-4)


def test_changes_far_apart_count_for_the_gene_they_are_at(side, model):
    both = Allele("chr1", snv(side, 195).changes + snv(side, 503).changes)
    found = changed_tokens(model, side, [both, snv(side, 195), snv(side, 503)])
    rows = found.table.reset_index().set_index(["allele", "gene"])["index"]
    for gene, alone in ((0, 1), (1, 2)):
        assert torch.allclose(found.alternate[rows[0, gene]], found.alternate[rows[alone, gene]], atol=1e-6)


def test_every_sequence_is_encoded_once(side, model):
    alleles = [snv(side, 205), snv(side, 205), snv(side, 345), snv(side, 195)]
    alleles.append(Allele("chr1", ((205, base(side, 205), base(side, 205)),)))
    changed_tokens(model, side, alleles)
    # two windows as they are, and three changed ones, although one stands for two alleles and one for two genes
    assert len(side.vectors.seen) == len(set(side.vectors.seen)) == 5


def test_an_allele_does_not_depend_on_its_company(side, model):
    alone = changed_tokens(model, side, [snv(side, 205)])
    among = changed_tokens(model, side, [snv(side, 345), snv(side, 205), snv(side, 500, "chr2")])
    row = among.table.index[among.table["allele"] == 1][0]
    assert torch.allclose(alone.alternate[0], among.alternate[row], atol=1e-6)


def test_genes_of_a_real_run_that_are_hit_lie_near(dna_run, dna_files, dna_world):
    from syncyte.genome.fasta import Genome

    genome = Genome.open(dna_files["genome.fa"])
    side, notes = dna_run.side(genome, None, True)
    assert notes == []
    window = side.windows.table.iloc[0]
    place = int(window["anchor"])
    found = changed_tokens(dna_run.model, side, [snv(side, place, str(window["chrom"]))])
    assert found.touched.all()
    near = set(dna_world.tss.loc[dna_world.tss["chrom"] == window["chrom"], "symbol"])
    assert 1 <= len(found.table) <= len(near)
    assert set(dna_run.genes[found.table["gene"]]) <= near
    assert found.tracks.shape[1] == 3
    assert torch.equal(found.reference, dna_run.model.tokens()[found.table["gene"].to_numpy()])


def test_distances_are_to_the_nearest_base_on_either_strand():
    begin, size = np.array([10, -30, -5, 4, -6, 10, 4, -4]), np.array([3, 5, 20, 1, 3, 0, 3, 4])
    plus = _apart(begin, size, np.ones(8, dtype=np.int64))
    assert plus.tolist() == [10, -26, 0, 4, -4, 10, 4, -1]
    minus = _apart(begin, size, -np.ones(8, dtype=np.int64))
    # an insertion before the base at 10 comes, read from the other side, before the base at 9
    assert minus.tolist() == [-10, 26, 0, -4, 4, -9, -4, 1]
