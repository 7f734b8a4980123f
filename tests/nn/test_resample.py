"""Pooling and unpooling of sets: order, padding, subsets, empty sets, values that are not lost, zero starts."""

from __future__ import annotations

import pytest
import torch

from syncyte.nn.resample import AskBlock, CrossAttention, GatedLayer, MergeValues, Pool, Unpool

WIDTH, HEADS = 16, 4


@pytest.fixture
def tokens():
    return torch.randn(5, 12, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(module, seed: int = 1):
    """The module in float64, with weights that are not small."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return module.double().eval()


def close(first, second) -> bool:
    return torch.allclose(first, second, atol=1e-10, rtol=0)


@pytest.mark.parametrize("layers", [0, 2])
def test_latents_do_not_hang_on_order_or_padding(tokens, layers):
    pool = made(Pool(3, WIDTH, HEADS, layers=layers))
    wanted = pool(tokens)
    assert wanted.shape == (5, 3, WIDTH)
    assert close(pool(tokens[:, torch.randperm(12)]), wanted)
    for more in (1, 50, 500):
        padded = torch.cat([tokens, 7 * torch.ones(5, more, WIDTH, dtype=torch.float64)], dim=1)
        valid = torch.arange(12 + more).expand(5, -1) < 12
        assert close(pool(padded, valid), wanted)
        shuffled = torch.randperm(12 + more)
        assert close(pool(padded[:, shuffled], valid[:, shuffled]), wanted)
    assert not close(pool(padded), wanted)  # padding that is not masked does move it


def test_an_empty_set_gives_what_the_queries_say(tokens):
    pool = made(Pool(3, WIDTH, HEADS))
    valid = torch.zeros(5, 12, dtype=torch.bool)
    valid[0] = True
    found = pool(tokens, valid)
    assert found.isfinite().all() and not close(found[0], found[1])
    alone = pool.queries + pool.read.layer(pool.read.before_layer(pool.queries))
    assert close(found[1], alone) and close(found[1:], alone.expand(4, -1, -1))
    states = tokens.clone().requires_grad_()
    pool(states, valid).sum().backward()
    assert states.grad.isfinite().all() and (states.grad[1:] == 0).all()


def test_an_answer_does_not_hang_on_what_else_is_asked(tokens):
    unpool, latents = made(Unpool(WIDTH, HEADS, layers=1)), tokens[:, :3]
    asked = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole = unpool(latents, asked)
    some = torch.tensor([7, 2, 5])
    assert whole.shape == (5, 9, WIDTH) and close(unpool(latents, asked[some]), whole[:, some])
    each = asked.expand(5, -1, -1).clone()
    each[1] = each[1].flip(0)
    assert close(unpool(latents, each)[1].flip(0), whole[1]) and close(unpool(latents, each)[2], whole[2])
    assert close(unpool(latents.flip(1), asked), whole)  # the latents are a set, too


def test_attention_is_its_formula(tokens):
    attention = made(CrossAttention(WIDTH, HEADS))
    asked = tokens[:, :4] + 1
    valid = torch.rand(5, 12, generator=torch.Generator().manual_seed(4)) < 0.6
    key, value = attention.key_value(tokens).split(WIDTH, dim=2)
    query, parts = attention.query(asked), []
    for head in range(HEADS):
        columns = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        score = query[..., columns] @ key[..., columns].transpose(1, 2) / (WIDTH / HEADS) ** 0.5
        score = score.masked_fill(~valid[:, None], -torch.inf)
        parts.append(score.softmax(dim=2) @ value[..., columns])
    assert close(attention(asked, tokens, valid), attention.outward(torch.cat(parts, dim=2)))


def test_counts_beside_the_vector_move_the_code_and_counts_times_the_vector_do_not(tokens):
    pool, merge = made(Pool(3, WIDTH, HEADS)), made(MergeValues(WIDTH))
    counts = torch.rand(5, 12, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 4 + 0.1
    scrambled = counts[:, torch.randperm(12, generator=torch.Generator().manual_seed(6))]
    apart = (pool(merge(tokens, counts))[:, None] - pool(merge(tokens, counts))[None]).norm(dim=(2, 3)).mean()
    moved = (pool(merge(tokens, counts)) - pool(merge(tokens, scrambled))).norm(dim=(1, 2)).mean()
    assert moved > 0.05 * apart
    times = (pool(tokens * counts) - pool(tokens * scrambled)).norm(dim=(1, 2)).mean()
    assert times < 1e-3 * apart  # what LayerNorm leaves of it is its epsilon


@pytest.mark.parametrize("block", [AskBlock, Pool, Unpool])
def test_with_zero_a_block_begins_as_the_identity(tokens, block):
    if block is AskBlock:
        assert torch.equal(block(WIDTH, HEADS, zero=True)(tokens.float(), tokens.float()), tokens.float())
    elif block is Unpool:
        asked = torch.randn(9, WIDTH)
        found = block(WIDTH, HEADS, layers=2, zero=True)(tokens.float(), asked)
        assert torch.equal(found, asked.expand(5, -1, -1))
    else:
        pool, start = block(3, WIDTH, HEADS, layers=2, zero=True), torch.randn(5, 3, WIDTH)
        assert torch.equal(pool(tokens.float(), start=start), pool.queries + start)
        loss = pool(tokens.float(), start=start).pow(2).sum()
        loss.backward()
        assert pool.read.attention.outward.weight.grad.abs().sum() > 0  # and can leave it


def test_the_gated_layer_is_its_formula():
    layer, states = made(GatedLayer(WIDTH)), torch.randn(3, WIDTH, dtype=torch.float64)
    gate, value = (states @ layer.inward.weight.T + layer.inward.bias).chunk(2, dim=1)
    wanted = (gate * torch.sigmoid(gate) * value) @ layer.outward.weight.T + layer.outward.bias
    assert close(layer(states), wanted)
