"""Schedule, groups, running average, and the optimiser's state as tensors."""

from __future__ import annotations

import pytest
import torch
from tests.train.toy import ToyModel, ToyObjective
from torch import nn

from syncyte.errors import CheckpointError, ConfigError
from syncyte.train.optim import (
    Average,
    load_optimizer,
    lr_factor,
    make_optimizer,
    only_trainable,
    optimizer_tensors,
    set_lr,
)
from syncyte.train.plan import StageConfig, StageModule


def stage(**changes) -> StageConfig:
    return StageConfig.parse({"name": "one", "objectives": {"fit": 1.0}, **changes})


def module() -> StageModule:
    return StageModule(ToyModel(), {"fit": ToyObjective()}, {"fit": 1.0})


def test_warm_up_then_cosine():
    plan = stage(warmup_steps=4, min_lr_factor=0.1)
    values = [lr_factor(plan, step, 24) for step in range(25)]
    assert values[:4] == [0.25, 0.5, 0.75, 1.0] and values[4] == 1.0
    assert values[14] == pytest.approx(0.55) and values[24] == pytest.approx(0.1)
    assert values[4:] == sorted(values[4:], reverse=True)


def test_constant_and_short_stages():
    assert [lr_factor(stage(schedule="constant"), step, 3) for step in range(3)] == [1, 1, 1]
    assert lr_factor(stage(warmup_steps=100), 9, 10) == 1.0


def test_groups_follow_the_patterns():
    plan = stage(lr=0.1, weight_decay=0.2, lr_factors={"body": 0.5, "body.1": 0}, trainable=["body", "head"])
    with only_trainable(module(), plan) as parameters:
        assert set(parameters) == {
            "body.0.weight", "body.0.bias", "head.weight", "head.bias", "objectives.fit.shift"
        }  # fmt: skip
        optimizer = make_optimizer(parameters, plan)
        groups = {(group["factor"], group["weight_decay"]): group for group in optimizer.param_groups}
        assert {key: len(group["params"]) for key, group in groups.items()} == {
            (0.5, 0.2): 1, (0.5, 0.0): 1, (1.0, 0.2): 2, (1.0, 0.0): 1
        }  # fmt: skip
        set_lr(optimizer, 0.04)
        assert groups[0.5, 0.2]["lr"] == 0.02


def test_frozen_stays_frozen_and_flags_come_back():
    whole = module()
    whole.model.head.weight.requires_grad_(False)
    with only_trainable(whole, stage(trainable=["head"])) as parameters:
        assert "head.weight" not in parameters and not whole.model.body[0].weight.requires_grad
    assert whole.model.body[0].weight.requires_grad and not whole.model.head.weight.requires_grad


def test_nothing_to_train_is_an_error():
    with (
        pytest.raises(ConfigError, match="trains no parameter"),
        only_trainable(module(), stage(lr_factors={"*": 0})),
    ):
        pass


def test_average_is_the_recursion_and_swaps_exactly():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    average = Average({"w": weight}, 0.5)
    expected = weight.detach().clone()
    for step, value in enumerate((3.0, 5.0, 7.0)):
        with torch.no_grad():
            weight.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average.shadow["w"], expected)
    with average.applied():
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(weight.detach(), torch.tensor([7.0, 7.0]))


def test_state_survives_as_tensors():
    def steps(network, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            network.head(torch.ones(2, 16)).square().sum().backward()
            optimizer.step()

    plan = stage(lr=0.1)
    one, other = ToyModel(), ToyModel()
    named = dict(one.named_parameters())
    first = make_optimizer(named, plan)
    steps(one, first, 3)
    tensors = {name: tensor.clone() for name, tensor in optimizer_tensors(first, named).items()}
    assert set(tensors) == {
        f"head.{part}/{key}" for part in ("weight", "bias") for key in ("exp_avg", "exp_avg_sq", "step")
    }
    other.load_state_dict(one.state_dict())
    second = make_optimizer(dict(other.named_parameters()), plan)
    load_optimizer(second, dict(other.named_parameters()), tensors)
    steps(one, first, 2)
    steps(other, second, 2)
    assert torch.equal(one.head.weight, other.head.weight)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_optimizer(second, dict(other.named_parameters()), {**tensors, "gone/step": torch.ones(())})
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_optimizer(second, dict(ToyModel(width=4).named_parameters()), tensors)
