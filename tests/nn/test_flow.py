"""Paths, times, solvers and guidance: identities and orders that hold exactly."""

from __future__ import annotations

import math

import pytest
import torch

from syncyte.errors import ConfigError
from syncyte.nn.flow import (
    EVALUATIONS,
    Term,
    additive,
    chain,
    ends,
    guided,
    joint,
    path,
    referenced,
    solve,
    stratified_times,
    time_grid,
)

NULL = {"type": torch.zeros(6, dtype=torch.long), "drug": torch.zeros(6, dtype=torch.long)}
CELLS = {"type": torch.tensor([1, 2, 3, 1, 2, 3]), "drug": torch.tensor([1, 1, 2, 2, 1, 2])}
STATE, TIME = torch.randn(6, 4, dtype=torch.float64), torch.full((6,), 0.4, dtype=torch.float64)


class Network:
    """A velocity that mixes attributes in no simple way, and counts the rows it was asked for."""

    def __init__(self):
        self.rows, self.calls = 0, 0

    def __call__(self, state, time, condition):
        self.rows, self.calls = self.rows + len(state), self.calls + 1
        a, b = condition["type"].double()[:, None], condition["drug"].double()[:, None]
        return torch.sin(state * (1 + a)) + b * state**2 + a * b + time[:, None]


def run(terms, **options):
    network = Network()
    found = guided(network, terms, CELLS, **options)(STATE, TIME)
    return found, network


def test_a_path_goes_from_noise_to_data_and_back():
    noise, data = torch.randn(2, 5, 3, 2)
    time = stratified_times(5, torch.Generator().manual_seed(0))
    state, velocity = path(noise, data, time)
    back, forward = ends(state, velocity, time)
    assert torch.allclose(back, noise, atol=1e-6) and torch.allclose(forward, data, atol=1e-6)
    for at, wanted in ((0.0, noise), (1.0, data)):
        assert torch.equal(path(noise, data, torch.full((5,), at))[0], wanted)


def test_times_are_one_from_each_piece():
    times = stratified_times(64, torch.Generator().manual_seed(1))
    assert ((times.sort().values * 64).long() == torch.arange(64)).all() and not (times.diff() > 0).all()
    assert torch.equal(times, stratified_times(64, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_solvers_have_their_order_and_evaluations(solver, order):
    start, errors = torch.tensor([[1.0], [2.0]], dtype=torch.float64), []
    for steps in (16, 32):
        asked = []

        def field(state, time, asked=asked):
            asked.append(1)
            return state * (1 + time[:, None])

        found = solve(field, start, time_grid(steps).double(), solver)
        errors.append(float((found - start * math.exp(1.5)).abs().max()))
        assert len(asked) == steps * EVALUATIONS[solver]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.12)


def test_the_grid_is_warped_and_ends_where_it_should():
    even, early, late = (time_grid(8, shift) for shift in (1.0, 0.5, 2.0))
    assert torch.allclose(even, torch.linspace(0, 1, 9))
    for grid in (early, late):
        assert grid[0] == 0 and grid[-1] == 1 and (grid.diff() > 0).all()
    assert early[1] < even[1] < late[1] and early[-2] < even[-2] < late[-2]
    with pytest.raises(ConfigError, match="at least one step"):
        time_grid(0)
    with pytest.raises(ConfigError, match="heun"):
        solve(lambda z, t: z, STATE, time_grid(2), "huen")


def test_weight_one_is_one_plain_forward_and_others_are_one_larger_one():
    plain, network = run(joint(CELLS, NULL, 1.0))
    assert torch.equal(plain, Network()(STATE, TIME, CELLS)) and (network.calls, network.rows) == (1, 6)
    guided_, network = run(joint(CELLS, NULL, 1.7))
    assert (network.calls, network.rows) == (1, 12)
    none, yes = Network()(STATE, TIME, NULL), plain
    assert torch.allclose(guided_, none + 1.7 * (yes - none))
    assert torch.allclose(run(joint(CELLS, NULL, 0.0))[0], none)


def test_guidance_is_what_its_formula_says():
    none, both = Network()(STATE, TIME, NULL), Network()(STATE, TIME, CELLS)
    kind = Network()(STATE, TIME, {**NULL, "type": CELLS["type"]})
    drug = Network()(STATE, TIME, {**NULL, "drug": CELLS["drug"]})
    found, _ = run(additive(CELLS, NULL, {"type": 1.5, "drug": 0.7}))
    assert torch.allclose(found, none + 1.5 * (kind - none) + 0.7 * (drug - none))
    found, _ = run(chain(CELLS, NULL, ["type", "drug"], [1.2, 2.0]))
    assert torch.allclose(found, none + 1.2 * (kind - none) + 2.0 * (both - kind))
    control = {**CELLS, "drug": NULL["drug"]}
    found, _ = run(referenced(CELLS, control, 1.4))
    assert torch.allclose(found, kind + 1.4 * (both - kind))


def test_joint_additive_and_chain_agree_on_one_attribute():
    one, null = {"type": CELLS["type"], "drug": NULL["drug"]}, NULL
    ways = [joint(one, null, 1.6), additive(one, null, {"type": 1.6}), chain(one, null, ["type"], [1.6])]
    found = [run(terms)[0] for terms in ways]
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[0], found[2])


def test_interval_and_rescale():
    strong = joint(CELLS, NULL, 3.0)
    plain = Network()(STATE, TIME, CELLS)
    outside, network = run(strong, interval=(0.5, 0.9))
    assert torch.equal(outside, plain) and network.rows == 6
    assert torch.equal(run(strong, interval=(0.3, 0.5))[0], run(strong)[0])
    whole, half = run(strong, rescale=1.0)[0], run(strong, rescale=0.5)[0]
    assert torch.allclose(whole.std(dim=1), plain.std(dim=1))
    assert torch.allclose(half, (run(strong)[0] + whole) / 2)


def test_weights_that_do_not_add_up_are_refused():
    with pytest.raises(ConfigError, match=r"add up to 1\.5"):
        guided(Network(), [Term(1.5, CELLS)], CELLS)


def test_the_same_noise_makes_counterfactual_pairs():
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grid = time_grid(4).double()
    first, again = (solve(guided(Network(), joint(CELLS, NULL, 1.0), CELLS), noise, grid) for _ in range(2))
    other = solve(guided(Network(), joint(NULL, NULL, 1.0), NULL), noise, grid)
    assert torch.equal(first, again) and not torch.allclose(first, other)
