"""Denoisers: zero before training, null conditions, dropout of attributes, and a flow they can learn."""

from __future__ import annotations

import pytest
import torch

from syncyte.nn.denoise import Conditions, Denoiser, drop_conditions
from syncyte.nn.flow import guided, joint, path, solve, stratified_times, time_grid


def conditions(width: int = 32) -> Conditions:
    return Conditions(width, {"type": 3, "donor": 2}, {"dose": 1, "gene": 5})


def asked(cells: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "type": torch.randint(1, 4, (cells,), generator=generator),
        "donor": torch.randint(1, 3, (cells,), generator=generator),
        "dose": torch.rand(cells, 1, generator=generator),
        "gene": torch.randn(cells, 5, generator=generator),
    }


@pytest.mark.parametrize("tokens", [0, 4])
def test_before_training_the_answer_is_zero_and_after_a_step_it_is_not(tokens):
    torch.manual_seed(0)
    network = Denoiser(6, conditions(), 32, 2, tokens=tokens, heads=4)
    shape = (7, tokens, 6) if tokens else (7, 6)
    state, time = torch.randn(shape), torch.rand(7)
    assert torch.equal(network(state, time, asked(7)), torch.zeros(shape))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(4):
        optimiser.zero_grad()
        (network(state, time, asked(7)) - 1).pow(2).mean().backward()
        optimiser.step()
    assert all(parameter.grad is not None for parameter in network.parameters())
    moved = network(state, time, asked(7))
    assert not torch.allclose(moved, network(state, time, network.conditions.nothing(7)), atol=1e-4)
    assert not torch.allclose(moved, network(state, 1 - time, asked(7)), atol=1e-4)


def test_null_is_its_own_word_and_vectors_may_be_absent():
    made = conditions()
    with torch.no_grad():
        made.null.fill_(0.3)
    full, none = asked(4), made.nothing(4)
    part = {**full, "gene": none["gene"]}
    difference = made(full) - made(part)
    assert torch.allclose(difference, made.maps[1](full["gene"]) - 0.3, atol=1e-6)
    assert made(none).isfinite().all() and torch.equal(made(none)[0], made(none)[3])
    assert (none["type"] == 0).all() and none["dose"].isnan().all()


def test_attributes_are_dropped_alone_and_together():
    cells = 40_000
    found = drop_conditions(asked(cells), 0.1, 0.2, torch.Generator().manual_seed(1))
    gone = torch.stack(
        [(found["type"] == 0), (found["donor"] == 0), found["dose"].isnan()[:, 0], found["gene"].isnan().all(1)]
    )
    assert (gone.float().mean(dim=1) - (0.2 + 0.8 * 0.1)).abs().max() < 0.01
    assert abs(gone.all(dim=0).float().mean() - 0.2) < 0.01
    alone = gone[0] & ~gone[1:].any(dim=0)
    assert abs(alone.float().mean() - 0.8 * 0.1 * 0.9**3) < 0.01
    kept = ~gone[0]
    assert torch.equal(found["type"][kept], asked(cells)["type"][kept])
    assert all(torch.equal(value, asked(cells)[name]) for name, value in drop_conditions(asked(cells), 0, 0).items())


def test_a_small_network_learns_where_types_lie():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [-2.0, -1.0]])
    network = Denoiser(2, Conditions(32, {"type": 3}), 32, 2)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        kind = torch.randint(1, 4, (128,), generator=generator)
        data = centres[kind] + 0.3 * torch.randn(128, 2, generator=generator)
        time = stratified_times(128, generator)
        state, velocity = path(torch.randn(128, 2, generator=generator), data, time)
        loss = (network(state, time, drop_conditions({"type": kind}, 0.1, 0.0, generator)) - velocity).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    kind = torch.arange(1, 4).repeat(200)
    condition, null = {"type": kind}, network.conditions.nothing(600)
    noise = torch.randn(600, 2, generator=generator)
    with torch.no_grad():
        made = solve(guided(network, joint(condition, null, 1.0), condition), noise, time_grid(8))
        tight = solve(guided(network, joint(condition, null, 2.0), condition), noise, time_grid(8))
    for number in (1, 2, 3):
        own = made[kind == number]
        assert (own.mean(dim=0) - centres[number]).abs().max() < 0.15
        assert 0.2 < float(own.std(dim=0).mean()) < 0.45
    assert not torch.allclose(made, tight, atol=0.05)
