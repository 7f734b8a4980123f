"""Where a training stands is taken up whole, or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from syncyte.train.sequence_state import keep_state, kept_state


def parts(width: int = 3, steps: int = 10) -> dict[str, Any]:
    tower = nn.Linear(width, 2)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps)
    return {"tower": tower, "optimiser": optimiser, "schedule": schedule}


def learn(state: dict[str, Any], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(4, state["tower"].in_features))).float() + torch.rand(1)
    state["optimiser"].zero_grad()
    state["tower"](x).square().sum().backward()
    state["optimiser"].step()
    state["schedule"].step()


def told(state: dict[str, Any], rng: np.random.Generator) -> list[Any]:
    """Everything that a state holds, comparable."""
    held = [{name: part.state_dict() for name, part in state.items()}, rng.bit_generator.state]
    return [repr(copy.deepcopy(held)), torch.random.get_rng_state().tolist()]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state, rng = parts(), np.random.default_rng(0)
    for _ in range(3):
        learn(state, rng)
    keep_state(tmp_path / "a.pt", rng, **state, epochs=3)
    return tmp_path / "a.pt"


def test_a_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path):
    torch.manual_seed(0)
    state, rng = parts(), np.random.default_rng(0)
    for _ in range(3):
        learn(state, rng)
    keep_state(tmp_path / "a.pt", rng, **state, epochs=3)
    learn(state, rng)
    torch.manual_seed(7)
    other, drawn = parts(), np.random.default_rng(8)
    assert kept_state(tmp_path / "a.pt", drawn, ("epochs",), **other) == {"epochs": 3}
    learn(other, drawn)
    assert told(other, drawn) == told(state, rng)


def lose(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda whole: whole.pop(name)


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        for key in keys[:-1]:
            whole = whole[key]
        whole[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lose("tower"),
        lose("optimiser"),
        lose("schedule"),
        lose("numpy"),
        lose("torch"),
        lose("epochs"),
        put("tower", value=3),
        put("tower", "bias", value=torch.zeros(5)),
        put("tower", "other", value=torch.zeros(2)),
        put("tower", "bias", value="text"),
        put("optimiser", "param_groups", value=[]),
        put("optimiser", "state", 1, "exp_avg", value=torch.zeros(7)),
        put("optimiser", "state", 9, value={"exp_avg": torch.zeros(7)}),
        put("schedule", "more", value=1),
        put("numpy", value="no text of a generator"),
        put("numpy", value="{}"),
        put("torch", value=torch.zeros(3)),
        put("torch", value=None),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(kept: Path, damage: Callable[[dict[str, Any]], None]):
    whole = torch.load(kept, weights_only=True)
    damage(whole)
    torch.save(whole, kept)
    torch.manual_seed(7)
    state, rng = parts(), np.random.default_rng(8)
    learn(state, rng)
    before = told(state, rng)
    assert kept_state(kept, rng, ("epochs",), **state) is None
    assert told(state, rng) == before
    learn(state, rng)


def test_a_state_of_another_shape_changes_nothing(kept: Path):
    state, rng = parts(width=5), np.random.default_rng(8)
    before = told(state, rng)
    assert kept_state(kept, rng, **state) is None
    assert told(state, rng) == before


@pytest.mark.parametrize("content", [None, b"", b"nothing", "cut"])
def test_nothing_to_read_changes_nothing(kept: Path, content: bytes | str | None):
    if content is None:
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:-200] if isinstance(content, str) else content)
    state, rng = parts(), np.random.default_rng(8)
    before = told(state, rng)
    assert kept_state(kept, rng, **state) is None
    assert kept_state(None, rng, **state) is None
    assert told(state, rng) == before
