"""Numbers of pairs of allele and gene: by hand, in any order, and the same from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny_dna import moved, network_of

from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks import variant_effects
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.variant_effects import FIELDS, NAMED, TURNED, Effects, group_means, pair_effects
from syncyte.tasks.variant_tokens import Tokens

GENES = [2, 0, 2, 1]


@pytest.fixture(scope="module")
def network(dna_run: GeneRun, dna_world: Regulation) -> NetworkCells:
    return network_of(dna_run, dna_world)


@pytest.fixture(scope="module")
def tokens(dna_run: GeneRun) -> Tokens:
    """Four pairs of three genes; the last leaves its token as it is."""
    reference = dna_run.model.tokens()[GENES].detach()
    alternate = torch.stack([moved(dna_run, gene, seed=seed) for seed, gene in enumerate(GENES)])
    alternate[3] = reference[3]
    table = pd.DataFrame({"allele": range(4), "gene": GENES})
    return Tokens(table, reference, alternate, np.zeros((4, 1), np.float32), np.ones(4, dtype=bool))


@pytest.fixture(scope="module")
def effects(network: NetworkCells, tokens: Tokens) -> Effects:
    return pair_effects(network, tokens)


def same(first: Effects, second: Effects) -> bool:
    return all(np.array_equal(getattr(first, one), getattr(second, one), equal_nan=True) for one in FIELDS)


def test_group_means_pass_over_donors_without_cells(network: NetworkCells):
    values = np.arange(9, dtype=np.float32).reshape(1, 9)
    values[0, [1, 6, 7, 8]] = np.nan
    assert list(network.units["group"]) == [f"type_{one}" for one in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
    found = group_means(network, values)
    assert found[0, :2].tolist() == [1, 4]
    assert np.isnan(found[0, 2])


def test_numbers_of_a_pair_by_hand(network: NetworkCells, tokens: Tokens, effects: Effects):
    gene, pair = GENES[2], 2
    given = (gene, tokens.alternate[[pair]], tokens.reference[pair])
    value, token = network.respond(*given, carried=True), network.respond(*given, kept=True)
    spread = network.model.spread.numpy()
    for place in range(3):
        units = [3 * place, 3 * place + 1, 3 * place + 2]
        change = value.change[0, units].mean(axis=0)
        size, alone = (
            np.sqrt(np.square(np.delete(one.change[0, units].mean(axis=0) / spread, gene)).mean())
            for one in (value, token)
        )
        assert effects.size[pair, place] == pytest.approx(size, rel=1e-4)
        assert effects.token[pair, place] == pytest.approx(alone, rel=1e-3, abs=1e-7)
        turn = np.sort(token.shift[0, units].mean(axis=0))[::-1][:TURNED].mean()
        assert effects.turn[pair, place] == pytest.approx(turn, rel=1e-3, abs=1e-7)
        order = np.argsort(change / spread)
        assert effects.top[pair, place, :NAMED].tolist() == order[::-1][:NAMED].tolist()
        assert effects.top[pair, place, NAMED:].tolist() == order[:NAMED].tolist()
        assert effects.top_change[pair, place, 0] == pytest.approx(change[order[-1]], rel=1e-4)
    assert effects.own[pair] == pytest.approx(value.own[0], rel=1e-4)
    assert np.array_equal(effects.cells[pair], value.cells)
    assert effects.groups == ("type_1", "type_2", "type_3")


def test_a_token_left_as_it_is_has_no_effect_and_names_nobody(effects: Effects):
    for name in ("own", "size", "token", "turn"):
        assert (getattr(effects, name)[3] == 0).all()
    assert (effects.top[3] == -1).all()
    assert np.isnan(effects.top_change[3]).all()


def test_pairs_come_in_the_order_they_were_given_in(network: NetworkCells, tokens: Tokens, effects: Effects):
    order = [3, 2, 1, 0]
    turned = Tokens(
        tokens.table.iloc[order].reset_index(drop=True),
        tokens.reference[order],
        tokens.alternate[order],
        tokens.tracks[order],
        tokens.touched,
    )
    found = pair_effects(network, turned)
    assert found.size[order] == pytest.approx(effects.size, rel=1e-4)
    assert found.own[order] == pytest.approx(effects.own, rel=1e-4, abs=1e-6)


def test_many_alleles_of_a_gene_are_followed_a_few_at_a_time(
    network: NetworkCells, tokens: Tokens, effects: Effects, monkeypatch: pytest.MonkeyPatch
):
    seen, fill = [], variant_effects._fill
    monkeypatch.setattr(variant_effects, "_fill", lambda *given: (seen.append(len(given[4])), fill(*given)))
    monkeypatch.setattr(variant_effects, "ENTRIES", 1)
    found = pair_effects(network, tokens)
    assert seen == [1, 1, 1, 1]
    for name in FIELDS:
        assert np.allclose(getattr(found, name), getattr(effects, name), rtol=1e-3, atol=1e-6, equal_nan=True), name


def test_finished_blocks_are_read_from_disk(
    network: NetworkCells, tokens: Tokens, effects: Effects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(variant_effects, "BLOCK", 2)
    assert same(pair_effects(network, tokens, keep=tmp_path), effects)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    with monkeypatch.context() as patch:
        patch.setattr(variant_effects, "_fill", lambda *given: pytest.fail("done again"))
        assert same(pair_effects(network, tokens, keep=tmp_path), effects)


def test_a_block_of_other_cells_tokens_or_questions_is_not_taken(
    network: NetworkCells, dna_run: GeneRun, dna_world: Regulation, tokens: Tokens, tmp_path: Path
):
    pair_effects(network, tokens, keep=tmp_path)
    other = Tokens(tokens.table, tokens.reference, tokens.alternate + 0.1, tokens.tracks, tokens.touched)
    pair_effects(network, other, keep=tmp_path)
    pair_effects(network, tokens, keep=tmp_path, shifts=False)
    pair_effects(network_of(dna_run, dna_world, seed=5), tokens, keep=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_no_pair_is_no_number(network: NetworkCells, tokens: Tokens):
    empty = Tokens(tokens.table.head(0), tokens.reference[:0], tokens.alternate[:0], tokens.tracks[:0], tokens.touched)
    found = pair_effects(network, empty)
    assert found.size.shape == (0, 3)
