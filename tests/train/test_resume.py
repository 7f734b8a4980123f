"""Killed, interrupted or damaged: a resumed run goes on at the same minibatch and gives the same curve."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.toy import ToyLoader, ToyModel, curves, make_toy_loader, toy_fit, toy_objectives, toy_stages

from syncyte.errors import CheckpointError
from syncyte.train import state

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")


def train(run: Path, resume: bool, save_every: float, wait: float) -> None:
    """Fit with a pause before each minibatch; says so in a file where it was asked to stop."""

    def loader(stage, split, rank, world):
        plain = make_toy_loader(stage, split, rank, world)
        return ToyLoader(plain.rows, plain.size, plain.shuffle, wait=wait)

    try:
        toy_fit(run, resume=resume, make_loader=loader, save_every_seconds=save_every)
    except KeyboardInterrupt as stop:
        (run / "said").write_text(str(stop))


def start(run: Path, resume: bool = False, save_every: float = 0.0, wait: float = 0.01):
    process = multiprocessing.get_context("fork").Process(target=train, args=(run, resume, save_every, wait))
    process.start()
    return process


def steps_saved(run: Path) -> int:
    path = run / "state/state.json"
    if not path.exists():
        return 0
    place = json.loads(path.read_text())["place"]
    return place["offset"] + place["step"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed")
    report, model = toy_fit(run)
    return curves(run), report, model.state_dict()


def same(run: Path, undisturbed) -> None:
    """Finish a run and compare everything with the undisturbed one."""
    report, model = toy_fit(run, resume=True)
    lines, expected, weights = undisturbed
    assert curves(run) == lines
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    for one, other in zip(report.stages, expected.stages, strict=True):
        assert (one.steps, one.best, one.best_step, one.start) == (
            other.steps,
            other.best,
            other.best_step,
            other.start,
        )


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_killed_again_and_again(tmp_path, undisturbed, steps):
    """Each process gets some steps further and dies, at some point of a step, without a chance to tidy up."""
    moments = np.random.default_rng(steps)
    deaths = 0
    for _ in range(5):
        goal = steps_saved(tmp_path) + steps
        process = start(tmp_path, resume=True)
        while process.is_alive() and steps_saved(tmp_path) < goal:
            time.sleep(0.002)
        process.join(moments.uniform(0, 0.02))
        died = process.is_alive()
        process.kill()
        process.join()
        if not died:
            break
        deaths += 1
    assert deaths >= 1
    same(tmp_path, undisturbed)


def test_rows_after_the_saved_state_are_dropped(tmp_path, undisturbed):
    """State saved once, at a stage end, the curves running ahead of it: as after a kill between two saves."""
    process = start(tmp_path, save_every=1e9)
    while process.is_alive() and not (tmp_path / "state/state.json").exists():
        time.sleep(0.002)
    process.join(0.03)
    process.kill()
    process.join()
    with (tmp_path / "metrics.csv").open("a") as handle:
        handle.write("99,9,two,train,total,0.5")  # half a line
    same(tmp_path, undisturbed)


def test_killed_before_the_first_state_starts_anew(tmp_path, undisturbed):
    toy_fit(tmp_path)
    shutil.rmtree(tmp_path / "state")
    same(tmp_path, undisturbed)


def test_resume_after_the_last_stage_gives_the_final_weights(tmp_path, undisturbed):
    toy_fit(tmp_path)
    report, _ = toy_fit(tmp_path, resume=True)
    assert report.resumed and not report.finished and len(report.stages) == 2
    same(tmp_path, undisturbed)


def test_every_moment_of_saving(tmp_path, undisturbed, monkeypatch):
    """A stop before and after each rename, link removal and write of a save leaves a state that loads."""

    class Dead(BaseException):
        pass

    for moment in range(6):
        run = tmp_path / str(moment)
        calls = {"n": 0}

        def counted(real, calls=calls, moment=moment):
            def call(*arguments, **keywords):
                calls["n"] += 1
                if calls["n"] == 12 + moment:
                    raise Dead
                result = real(*arguments, **keywords)
                calls["n"] += 1
                if calls["n"] == 12 + moment:
                    raise Dead
                return result

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            with pytest.raises(Dead):
                toy_fit(run, save_every_seconds=0.0)
        same(run, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_say_how_to_go_on(tmp_path, undisturbed, number):
    process = start(tmp_path, save_every=1e9, wait=0.1)
    while process.is_alive() and not (tmp_path / "tensorboard").exists():
        time.sleep(0.002)  # the curves begin with the first step
    process.join(0.05)
    os.kill(process.pid, number)
    process.join(60)
    said = (tmp_path / "said").read_text()
    assert said.startswith("Stopped in stage 'one' after step") and "--resume" in said
    place = json.loads((tmp_path / "state/state.json").read_text())["place"]
    assert place["stage"] == 0 and 0 <= place["step"] < 28
    same(tmp_path, undisturbed)


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    toy_fit(tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_settings_are_refused_by_name(tmp_path):
    toy_fit(tmp_path)
    with pytest.raises(CheckpointError, match=r"stages\[0\]\.lr = 0\.02; now it is 0\.5"):
        toy_fit(tmp_path, resume=True, stages=toy_stages(lr=0.5))
    with pytest.raises(CheckpointError, match=r"seed = 0; now it is 4"):
        toy_fit(tmp_path, resume=True, seed=4)


def test_another_model_is_refused(tmp_path):
    toy_fit(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        toy_fit(tmp_path, resume=True, model=ToyModel(width=8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "state.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "state.json").write_text('{"format": 99}'), "cannot be read"),
        (lambda folder: next(folder.glob("*.safetensors")).unlink(), "is missing"),
        (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"junk"), "is damaged"),
        (lambda folder: (folder.parent / "metrics.csv").write_text("step"), "metrics.csv has 4 bytes"),
    ],
)
def test_a_damaged_state_is_refused(tmp_path, damage, message):
    toy_fit(tmp_path)
    damage(tmp_path / "state")
    with pytest.raises(CheckpointError, match=message) as caught:
        toy_fit(tmp_path, resume=True)
    assert "--overwrite" in str(caught.value)


def test_another_format_is_refused(tmp_path, monkeypatch):
    toy_fit(tmp_path)
    monkeypatch.setattr(state, "STATE_FORMAT", 2)
    with pytest.raises(CheckpointError, match="has format 1; this syncyte resumes format 2"):
        toy_fit(tmp_path, resume=True)


def test_the_halved_minibatch_is_remembered(tmp_path):
    class Once(torch.nn.Module):
        def __init__(self, fail: bool, stop_at: int) -> None:
            super().__init__()
            self.inner = toy_objectives()["one"]["fit"]
            self.steps, self.fail, self.stop_at = 0, fail, stop_at

        def forward(self, model, batch, generator):
            if self.training:
                self.steps += 1
                if self.fail and self.steps == 3:
                    raise MemoryError
                if self.steps == self.stop_at:
                    raise KeyError("stop")
            return self.inner(model, batch, generator)

    def run(name, resume=False, **options):
        objectives = {"one": {"fit": Once(**options)}}
        return toy_fit(tmp_path / name, stages=toy_stages()[:1], objectives=objectives, resume=resume,
                       save_every_seconds=0.0)  # fmt: skip

    run("whole", fail=True, stop_at=-1)
    with pytest.raises(KeyError):
        run("cut", fail=True, stop_at=20)
    report, _ = run("cut", resume=True, fail=False, stop_at=-1)
    assert report.stages[0].batch_size == 4
    assert curves(tmp_path / "whole") == curves(tmp_path / "cut")
