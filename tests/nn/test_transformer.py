"""The multiway transformer: padding, routes, mixer, order of tokens."""

from __future__ import annotations

import pytest
import torch

from syncyte.nn.attention import SelfAttention
from syncyte.nn.transformer import MIXER, Block, Multiway

WIDTH, CELLS, FIRST, SECOND = 16, 5, 4, 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> Multiway:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Multiway(WIDTH, 4, 3, ("a", "b"), mixer_layers=1).eval()


def inputs(valid: bool = True):
    flags = {"a": torch.ones(CELLS, FIRST, dtype=torch.bool), "b": torch.ones(CELLS, SECOND, dtype=torch.bool)}
    if not valid:
        flags["a"][:, -2:] = False
        flags["b"][2, 3:] = False
    return random(CELLS, WIDTH), {
        "a": (random(CELLS, FIRST, WIDTH, seed=1), flags["a"]),
        "b": (random(CELLS, SECOND, WIDTH, seed=2), flags["b"]),
    }


def test_attention_is_softmax_of_scaled_products():
    layer = SelfAttention(8, 2).eval()
    states, valid = random(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]], dtype=torch.bool)
    q = layer.query(states).view(2, 5, 2, 4)
    k, v = layer.key_value(states).view(2, 5, 2, 2, 4).unbind(dim=2)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / 2
    weights = scores.masked_fill(~valid[:, None, None], -torch.inf).softmax(dim=-1)
    expected = layer.outward(torch.einsum("bhij,bjhd->bihd", weights, v).reshape(2, 5, 8))
    torch.testing.assert_close(layer(states, valid), expected)


@pytest.mark.parametrize("mixed", [True, False])
def test_padding_changes_nothing(network, mixed):
    cell, tokens = inputs(valid=False)
    flag = torch.full((CELLS,), mixed)
    states, valid = network(cell, tokens, flag)
    loud = {
        name: (torch.where(flags[..., None], embedded, 1e3 * torch.ones(1)), flags)
        for name, (embedded, flags) in tokens.items()
    }
    other, _ = network(cell, loud, flag)
    assert torch.equal(states[valid], other[valid])
    wider = {
        name: (torch.cat([embedded, random(CELLS, 3, WIDTH, seed=9)], 1), torch.cat([flags, flags[:, :3] & False], 1))
        for name, (embedded, flags) in tokens.items()
    }
    more, flags = network(cell, wider, flag)
    torch.testing.assert_close(more[flags], states[valid], rtol=1e-5, atol=1e-5)


def test_each_route_uses_its_own_expert_and_pairs_the_mixer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = Block(WIDTH, 4, ("a", "b"), mixer=True).eval()
    states, valid = random(CELLS, 1 + FIRST + SECOND, WIDTH), torch.ones(CELLS, 1 + FIRST + SECOND, dtype=torch.bool)
    slices = {MIXER: slice(0, 1), "a": slice(1, 1 + FIRST), "b": slice(1 + FIRST, 1 + FIRST + SECOND)}
    mixed = torch.tensor([True, False, False, True, False])

    def changed(expert: str, flag: torch.Tensor) -> torch.Tensor:
        before = block(states, valid, slices, flag)
        with torch.no_grad():
            block.experts[expert][2 + 1].bias.add_(1)
            after = block(states, valid, slices, flag)
            block.experts[expert][2 + 1].bias.sub_(1)
        return ((after - before).abs() > 1e-3).any(dim=2)

    for name in ("a", "b"):
        expected = torch.zeros_like(valid)
        expected[~mixed, slices[name]] = True
        assert torch.equal(changed(name, mixed), expected)
    expected = torch.zeros_like(valid)
    expected[mixed], expected[:, 0] = True, True
    assert torch.equal(changed(MIXER, mixed), expected)
    everyone = torch.ones_like(mixed)
    assert changed(MIXER, everyone).all() and not changed("a", everyone).any()
    some = block(states, valid, slices, mixed)
    torch.testing.assert_close(some[mixed], block(states, valid, slices, everyone)[mixed], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(some[~mixed], block(states, valid, slices, ~everyone)[~mixed], rtol=1e-5, atol=1e-5)


def test_lower_layers_have_no_mixer_for_tokens(network):
    assert [block.mixes for block in network.blocks] == [False, False, True]
    block = network.blocks[2]
    for name, parameter in block.experts[MIXER].named_parameters():
        both = [block.experts[route].get_parameter(name) for route in ("a", "b")]
        torch.testing.assert_close(parameter, torch.stack(both).mean(dim=0))


def test_order_of_tokens_within_a_modality_does_not_matter(network):
    cell, tokens = inputs(valid=False)
    mixed = torch.arange(CELLS) % 2 == 0
    before, _ = network(cell, tokens, mixed)
    turn = torch.tensor([5, 2, 0, 1, 4, 3])
    embedded, flags = tokens["b"]
    after, _ = network(cell, {**tokens, "b": (embedded[:, turn], flags[:, turn])}, mixed)
    torch.testing.assert_close(after[:, 0], before[:, 0], rtol=1e-5, atol=1e-5)


def test_a_modality_without_tokens_is_passed_over(network):
    cell, tokens = inputs()
    empty = (torch.zeros(CELLS, 0, WIDTH), torch.zeros(CELLS, 0, dtype=torch.bool))
    mixed = torch.zeros(CELLS, dtype=torch.bool)
    with_empty, _ = network(cell, {**tokens, "b": empty}, mixed)
    alone, valid = network(cell, {"a": tokens["a"]}, mixed)
    assert torch.equal(with_empty, alone) and valid.shape == (CELLS, 1 + FIRST)
    only_cell, _ = network(cell, {}, mixed)
    assert only_cell.shape == (CELLS, 1, WIDTH) and torch.isfinite(only_cell).all()
