"""Single pairs looked at closely, and tracks of every change around a start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny_dna import moved, network_of

from syncyte.genome.fasta import Genome
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.variant_detail import LISTED, MATCHED, Detail, look_closely, mutagenesis
from syncyte.tasks.variant_tests import over_donors
from syncyte.tasks.variant_tokens import Allele, SequenceSide, changed_tokens

GENE = 1


@pytest.fixture(scope="module")
def network(dna_run: GeneRun, dna_world: Regulation) -> NetworkCells:
    return network_of(dna_run, dna_world)


@pytest.fixture(scope="module")
def detail(network: NetworkCells, dna_run: GeneRun) -> Detail:
    return look_closely(network, dna_run.symbols, GENE, network.tokens[GENE], moved(dna_run, GENE), "type_2")


@pytest.fixture(scope="module")
def side(dna_run: GeneRun, dna_files: dict[str, Path]) -> SequenceSide:
    return dna_run.side(Genome.open(dna_files["genome.fa"]), None, True)[0]


def test_other_genes_are_listed_by_the_size_of_their_change(detail: Detail, network: NetworkCells, dna_run: GeneRun):
    trans = detail.trans
    assert len(trans) == min(LISTED, len(dna_run.genes) - 1)
    assert dna_run.symbols[GENE] not in set(trans["other"])
    assert trans["rank"].tolist() == list(range(1, len(trans) + 1))
    assert trans["in_sd"].abs().is_monotonic_decreasing
    response = network.respond(GENE, moved(dna_run, GENE)[None], carried=True)
    units = np.flatnonzero(network.units["group"] == "type_2")
    change = response.change[0, units]
    first = trans.iloc[0]
    assert (trans["in_sd"] != trans["change"]).all()
    place = list(dna_run.symbols).index(first["other"])
    donors = over_donors(change.T)
    assert first["change"] == pytest.approx(change[:, place].mean(), rel=1e-4)
    assert first["donor_p"] == pytest.approx(donors["p"][place])
    assert first["shift"] == pytest.approx(response.shift[0, units, place].mean(), rel=1e-3)
    assert trans["donor_fdr"].between(0, 1).all()


def test_p_against_genes_of_like_expression(detail: Detail):
    assert detail.trans["matched_genes_p"].between(1 / (1 + MATCHED), 1).all()
    assert detail.facts["matched genes"] == MATCHED
    assert 1 / (1 + MATCHED) <= detail.facts["matched genes p"] <= 1


def test_facts_compare_with_what_needs_no_sequence(detail: Detail, network: NetworkCells, dna_run: GeneRun):
    agrees = {name for name in detail.facts if name.startswith("agrees with ")}
    ways = ("delete", "mask", "random direction", "co-expression", "mean expression")
    assert agrees == {f"agrees with {way}" for way in ways}
    assert all(-1 <= detail.facts[name] <= 1 for name in agrees)
    response = network.respond(GENE, moved(dna_run, GENE)[None], carried=True)
    units = np.flatnonzero(network.units["group"] == "type_2")
    change = np.delete(response.change[0, units].mean(axis=0) / network.model.spread.numpy(), GENE)
    assert detail.facts["size"] == pytest.approx(np.sqrt(np.square(change).mean()), rel=1e-4)


def test_no_change_is_no_news(network: NetworkCells, dna_run: GeneRun):
    token = network.tokens[GENE]
    found = look_closely(network, dna_run.symbols, GENE, token, token, "type_1")
    assert found.facts["size"] == 0
    assert found.facts["matched genes p"] == 1
    assert (found.trans["change"] == 0).all()
    assert np.isnan(found.facts["agrees with delete"])


def test_every_single_change_around_a_start(dna_run: GeneRun, side: SequenceSide, dna_world: Regulation):
    reach = 12
    for symbol in ("TF1", *dna_world.tss.query("strand == '-'")["symbol"].head(1)):
        gene = list(dna_run.symbols).index(symbol)
        start = dna_world.tss.set_index("symbol").loc[symbol]
        track = mutagenesis(dna_run.model, side, gene, "type_1", reach)
        assert len(track) == 3 * (2 * reach + 1)
        assert track["distance"].min() == -reach
        assert track["distance"].max() == reach
        assert set(track.loc[track["distance"] == 0, "pos"]) == {start["tss"] + 1}
        sign = -1 if start["strand"] == "-" else 1
        assert ((track["pos"] - 1 - start["tss"]) * sign == track["distance"]).all()
        for row in track.sample(5, random_state=0).itertuples():
            base = "ACGT"[int(side.genome.fetch(row.chrom, row.pos - 1, row.pos)[0])]
            assert row.ref == base != row.alt
            alone = changed_tokens(dna_run.model, side, [Allele(row.chrom, ((row.pos - 1, row.ref, row.alt),))])
            own = np.flatnonzero(alone.table["gene"] == gene)[0]
            before, after = (dna_run.model.split(one[own])[1] for one in (alone.reference, alone.alternate))
            assert row.level_change == pytest.approx(float(after - before), abs=1e-5)
            assert row.track_change == pytest.approx(alone.tracks[own, 0], abs=1e-5)


def test_a_group_that_the_sequence_model_does_not_know_has_the_largest_output(dna_run: GeneRun, side: SequenceSide):
    known = [mutagenesis(dna_run.model, side, 0, name, 3)["track_change"].to_numpy() for name in side.names]
    other = mutagenesis(dna_run.model, side, 0, "all", 3)["track_change"].to_numpy()
    sizes = np.stack(known)
    assert other == pytest.approx(sizes[np.abs(sizes).argmax(axis=0), np.arange(sizes.shape[1])], abs=1e-6)


def test_the_whole_window_without_a_reach(dna_run: GeneRun, side: SequenceSide):
    assert mutagenesis(dna_run.model, side, 0, "type_1")["pos"].nunique() == side.windows.length


def test_a_gene_without_a_window_has_no_track(dna_run: GeneRun, side: SequenceSide):
    from dataclasses import replace

    links = side.windows.links[side.windows.links["gene"] != 0]
    bare = replace(side, windows=replace(side.windows, links=links))
    assert mutagenesis(dna_run.model, bare, 0, "type_1", 3).empty


def test_random_directions_are_as_long_as_the_change(network: NetworkCells, monkeypatch: pytest.MonkeyPatch):
    from syncyte.tasks.target_sets import rankings

    seen: list[torch.Tensor] = []
    respond = network.respond

    def watched(gene: int, tokens: torch.Tensor, *given, **more):
        seen.append((tokens - network.tokens[gene]).norm())
        return respond(gene, tokens, *given, **more)

    monkeypatch.setattr(network, "respond", watched)
    other = network.tokens[GENE] + 0.25
    rankings(network, GENE, other)
    lengths = [float(length) for length in seen]
    assert lengths[-1] == pytest.approx(float((other - network.tokens[GENE]).norm()), rel=1e-4)
