"""Two processes train one model together and predict the same cells in the same order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from tests.processes import start_crew
from tests.tiny import train_tiny, world

import syncyte
from syncyte.tasks.trained import Trained, load_trained


def embedded(run: Trained) -> np.ndarray:
    return syncyte.embed(run, world(101, seed=4), batch_size=16, device="cpu").obsm["X_syncyte"]


def main(folder: Path) -> None:
    """One of two processes."""
    run = train_tiny(world(), folder / "RUN")
    rank = os.environ["RANK"]
    np.save(folder / f"predicted-{rank}.npy", embedded(run))
    weights = {name: tensor.numpy() for name, tensor in run.model.state_dict().items()}
    np.savez(folder / f"weights-{rank}.npz", **weights)
    again = train_tiny(world(), folder / "RUN", resume=True)  # finished: nothing happens, in every process
    assert again.recipe["fingerprint"] == run.recipe["fingerprint"]


def test_two_processes_train_and_predict(tmp_path, tiny_run):
    start_crew(tmp_path, 2, main, tmp_path)
    run = load_trained(tmp_path / "RUN", "cpu")
    with np.load(tmp_path / "weights-0.npz") as first, np.load(tmp_path / "weights-1.npz") as second:
        for name, tensor in run.model.state_dict().items():
            np.testing.assert_array_equal(first[name], second[name])
            np.testing.assert_array_equal(first[name], tensor.numpy())
    for rank in range(2):  # the verb gives all processes what it gives one
        np.testing.assert_array_equal(np.load(tmp_path / f"predicted-{rank}.npy"), embedded(run))
    stages, alone = (given.recipe["training"]["stages"] for given in (run, tiny_run))
    for one, other in zip(
        stages, alone, strict=True
    ):  # the same validation cells; what is hidden of them is drawn by process
        assert one["start"] == pytest.approx(other["start"], rel=0.1)
    assert syncyte.embed(run, world(20, seed=6)).obsm["X_syncyte"].shape == (20, 6)
