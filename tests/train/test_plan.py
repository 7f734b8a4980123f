"""Stages as configuration: what is refused, with the nearest valid name."""

from __future__ import annotations

import pytest
import torch
from tests.train.toy import ToyModel, ToyObjective, toy_batch, toy_objectives, toy_stages

from syncyte.errors import ConfigError
from syncyte.train.plan import StageConfig, StageModule, Work, check_stages, matches

NAMES = [name for name, _ in ToyModel().named_parameters()]


def stage(**changes) -> StageConfig:
    return StageConfig.parse({"name": "one", "objectives": {"fit": 1.0}, **changes})


def test_unknown_keys_name_the_nearest():
    with pytest.raises(ConfigError, match=r"'weigth_decay'\. Did you mean 'weight_decay'"):
        stage(weigth_decay=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"schedule": "linear"}, "schedule"),
        ({"trainable": ["("]}, "not a regular expression"),
        ({"lr_factors": {"head": -1}}, "0 or more"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_impossible_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        stage(**changes)


def test_overrides_from_a_command_line():
    changed = stage().override(["precision=32", "lr=1e-4", "objectives.fit=0"])
    assert (changed.precision, changed.lr, changed.active) == ("32", 1e-4, False)
    assert stage().active and not stage(epochs=0).active


def test_patterns():
    assert matches("a.b", ["*"]) and matches("rows.bias", ["bias$"]) and not matches("bias.x", ["bias$", "^x"])


def test_a_sound_plan_passes():
    check_stages(toy_stages(), toy_objectives(), NAMES)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage(), stage()], "Two stages are named 'one'"),
        ([stage(objectives={"fitt": 1})], "objective of stage 'one' 'fitt'. Did you mean 'fit'"),
        ([stage(trainable=["haed"])], "trainable of stage 'one': no parameter matches 'haed'. Did you mean 'head'"),
        ([stage(lr_factors={"embedding": 0.1})], "lr_factors of stage 'one': no parameter matches 'embedding'"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(stages, message):
    with pytest.raises(ConfigError, match=message):
        check_stages(stages, toy_objectives(), NAMES)


def test_total_is_the_weighted_sum():
    objectives = {"a": ToyObjective(0.0), "b": ToyObjective(0.0), "off": ToyObjective()}
    module = StageModule(ToyModel(dropout=0), objectives, {"a": 1.0, "b": 0.5, "off": 0.0})
    work = Work(toy_batch(torch.arange(5).numpy()), torch.Generator())
    total = module(work)
    assert set(work.losses) == {"a", "b"}
    torch.testing.assert_close(total, 1.5 * work.losses["a"].total)
    names = {module.spelled(name) for name, _ in module.named_parameters()}
    assert {"head.weight", "objectives.a.shift", "objectives.b.shift"} <= names
