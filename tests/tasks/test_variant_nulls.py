"""Random variants: alike in class, followed through the gene they fell at, and shared by variants that are alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tests.tiny_dna import network_of

from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import gene_windows, match_starts
from syncyte.genome.sequence import to_text
from syncyte.genome.tss import read_tss
from syncyte.genome.variants import Variants, variants_of
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks import variant_nulls
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variant_effects import pair_effects
from syncyte.tasks.variant_nulls import KINDS, Null, _chosen, _nearest, classes, pair_classes, random_effects
from syncyte.tasks.variant_tokens import alleles_of, changed_tokens


def row(ref: str, alt: str, kind: str, chrom: str = "chr1", start: int = 100) -> dict[str, object]:
    return {
        "variant": f"{ref}>{alt}",
        "record": 1,
        "chrom": chrom,
        "start": start,
        "ref": ref,
        "alt": alt,
        "kind": kind,
        "status": "ok",
        "reason": "",
    }


def test_classes_are_kinds_and_powers_of_two():
    made = variants_of(
        [row("A", "C", "snv"), row("AAAA", "", "deletion"), row("AAA", "CCC", "mnv"), row("", "A" * 9, "insertion")]
    )
    assert classes(made, np.arange(4)).tolist() == ["snv 1", "deletion 4", "mnv 2", "insertion 8"]
    assert classes(made, np.array([1])).tolist() == ["deletion 4"]


def test_few_variants_have_draws_of_their_own_and_many_share():
    few = pd.DataFrame({"class": ["a"] * KINDS, "distance": range(KINDS)})
    assert _chosen(few).equals(few)
    many = pd.DataFrame({"class": ["a"] * 100 + ["b"] * 2, "distance": [*range(100), 5, 6]})
    chosen = _chosen(many)
    assert len(chosen) <= KINDS + 2
    assert set(chosen["class"]) == {"a", "b"}
    own = chosen.loc[chosen["class"] == "a", "distance"]
    assert own.min() < 20
    assert own.max() > 80


def test_a_variant_is_compared_with_draws_for_the_one_most_like_it():
    draws = pd.DataFrame({"class": ["a", "a", "b", "a"], "for_distance": [10, 500, 10, 10]})
    null = Null(draws, None, None, {})
    kinds = np.array(["a", "a", "a", "c"], dtype=object)
    found = null.of(kinds, np.array([20.0, -400.0, 400.0, 0.0]))
    assert [rows.tolist() for rows in found] == [[0, 3], [0, 3], [1], []]


def test_effects_of_draws_are_brought_to_the_weight_of_a_variant():
    null = Null(pd.DataFrame(), SimpleNamespace(table=pd.DataFrame({"weight": [1.0, 0.5, 0.1]})), None, {})
    found = null.scaled(np.array([3.0, 2.0, 1.0]), np.array([1, 2]), 0.2)
    assert found == pytest.approx([2.0 * 0.4, 1.0 * 2])


def test_classes_tell_what_is_around(dna_files: dict[str, Path]):
    genome = Genome.open(dna_files["genome.fa"])
    text = to_text(genome.fetch("chr1", 0, 3_000))
    place = text.index("CG", 100)
    pairs = pd.DataFrame({"allele": [0, 0, 1], "slot": ["start", "peaks", "start"]})
    other = next(at for at in range(100, 3_000) if text[at - 1 : at + 2] in ("TTA", "ATT", "AAT"))
    variants = variants_of(
        [
            row("C", "T", "snv", "chr1", place),
            row(text[other], "G" if text[other] != "A" else "C", "snv", "chr1", other),
        ]
    )
    found = pair_classes(variants, pairs, genome)
    assert found[0].startswith("snv 1 transition CpG GC ")
    assert found[1] == found[0] + " in peaks"
    assert found[2].startswith("snv 1 transversion GC ")


@pytest.fixture(scope="module")
def drawn(dna_run: GeneRun, dna_world: Regulation, dna_files: dict[str, Path]) -> tuple[Null, Variants]:
    genome = Genome.open(dna_files["genome.fa"])
    side, _ = dna_run.side(genome, None, True)
    start = dna_world.tss.set_index("symbol").loc["TF1"]
    place = int(start["tss"]) + 30
    base = "ACGT"[int(genome.fetch(start["chrom"], place, place + 1)[0])]
    text = "".join("ACGT"[code] for code in genome.fetch(start["chrom"], place + 5, place + 9))
    variants = variants_of(
        [
            row(base, "ACGT"["ACGT".index(base) - 1], "snv", start["chrom"], place),
            row(text, "", "deletion", start["chrom"], place + 5),
        ]
    )
    tested = pd.DataFrame({"row": [0, 1], "class": classes(variants, np.arange(2)), "distance": [30, 35]}).assign(
        weight=1.0, tss=int(start["tss"]), strand=start["strand"], far=False
    )
    null = random_effects(
        dna_run.model, side, network_of(dna_run, dna_world), variants, tested, each=12, seed=0, quiet=True
    )
    assert null is not None
    none = random_effects(
        dna_run.model, side, network_of(dna_run, dna_world), variants, tested, each=0, seed=0, quiet=True
    )
    assert none is None
    return null, variants


def test_each_variant_has_as_many_draws_as_were_asked_for(drawn: tuple[Null, Variants]):
    null, _ = drawn
    assert null.draws.groupby("like").size().to_dict() == {0: 12, 1: 12}
    assert null.draws.groupby("class").size().to_dict() == {"snv 1": 12, "deletion 4": 12}
    assert sum(null.relaxed.values()) == 24
    assert null.draws["variant"].notna().all()


def test_draws_change_the_gene_they_fell_at(drawn: tuple[Null, Variants]):
    null, _ = drawn
    assert null.tokens.table["gene"].tolist() == null.draws["gene"].tolist()
    assert len(null.draws) == len(null.effects.size) == len(null.tokens.reference)
    assert (null.tokens.reference != null.tokens.alternate).any(dim=1).all()
    assert np.isfinite(null.effects.size).all()
    assert null.draws["gene"].nunique() > 5, "draws are spread over genes"


def test_a_variant_is_seen_from_the_nearest_start_of_its_gene():
    table = pd.DataFrame({"anchor": [100, 9_000, 500, 8_990]})
    links = pd.DataFrame({"gene": [0, 0, 1, 0], "window": [0, 1, 2, 3], "slot": ["start", "start", "start", "peaks"]})
    side = SimpleNamespace(windows=SimpleNamespace(links=links, table=table))
    assert _nearest(side, "start", np.array([0, 0, 1]), np.array([8_000, 200, 8_990])).tolist() == [1, 0, 2]
    assert _nearest(side, "peaks", np.array([0]), np.array([0])).tolist() == [3]


def test_a_variant_in_a_peak_is_compared_with_others_in_peaks(dna_run: GeneRun, dna_world: Regulation, dna_files):
    genome = Genome.open(dna_files["genome.fa"])
    side, _ = dna_run.side(genome, None, True)
    symbols = pd.DataFrame(index=pd.Index(dna_run.symbols))
    starts = match_starts(read_tss(dna_files["tss.bed"]), symbols)
    side = replace(
        side, windows=gene_windows(genome, starts, symbols.index, side.windows.length, peaks=dna_world.peaks)
    )
    table, links = side.windows.table, side.windows.links
    away = links[(links["slot"] == "peaks") & (links["distance"].abs() > 1_500)]
    link = away.iloc[len(away) // 2]
    peak = table.iloc[int(link["window"])]
    place = int(peak["anchor"]) + 10
    base = "ACGT"[int(genome.fetch(peak["chrom"], place, place + 1)[0])]
    variants = variants_of([row(base, "ACGT"["ACGT".index(base) - 1], "snv", peak["chrom"], place)])
    tokens = changed_tokens(dna_run.model, side, alleles_of(variants))
    assert "peaks" in set(tokens.table["slot"])
    kinds = dict(zip(tokens.table["slot"], pair_classes(variants, tokens.table, genome)))
    assert kinds["peaks"].startswith("snv 1 t") and kinds["peaks"].endswith(" in peaks")
    network = network_of(dna_run, dna_world)
    numbers = pair_effects(network, tokens, shifts=False)
    tested = variant_nulls.tested_pairs(variants, tokens, numbers, side)
    own = tested[tested["far"]]
    assert own["tss"].tolist() == [int(peak["anchor"])]
    null = random_effects(dna_run.model, side, network, variants, own, each=12, seed=0, quiet=True)
    assert null is not None
    assert set(null.draws["class"]) == {kinds["peaks"]}
    weights = null.tokens.table["weight"] / own["weight"].iloc[0]
    assert weights.between(0.2, 5).all()
    assert (null.tokens.table["slot"] == "peaks").all()
    assert null.draws["distance"].abs().max() <= side.windows.length // 2  # from the middle of a peak
