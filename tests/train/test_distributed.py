"""Several processes: same steps, same gradients; and the choice of device and precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.processes import start_crew
from tests.train.toy import ToyModel, curves, toy_fit, toy_objectives, toy_stages
from torch import nn

from syncyte.errors import CheckpointError, ConfigError
from syncyte.train import distributed
from syncyte.train.distributed import Alone, choose_precision, resolve_device, start_worker
from syncyte.train.folder import prepare_run

ROOT = Path(__file__).resolve().parents[2]


def plain_stages():
    return toy_stages(batch_size=8, trainable=["*"], lr_factors={}, clip=0.5)


def run_here(folder: Path, batch_size: int, worker=None):
    stages = [stage.model_copy(update={"batch_size": batch_size}) for stage in plain_stages()]
    return toy_fit(
        folder, stages=stages, model=ToyModel(dropout=0), objectives=toy_objectives(0.0), worker=worker, device="cpu"
    )


def main(folder: Path) -> None:
    """One of two processes."""
    worker = start_worker("cpu")
    with prepare_run(folder / "RUN", worker=worker):
        report, model = run_here(folder / "RUN", 8, worker)
    again, resumed = toy_fit(
        folder / "RUN",
        stages=plain_stages(),
        model=ToyModel(dropout=0),
        objectives=toy_objectives(0.0),
        worker=worker,
        resume=True,
    )
    facts = {"rank": worker.rank, "world": worker.world, "steps": report.stages[0].steps}
    try:
        prepare_run(folder / "RUN", worker=worker)
    except CheckpointError as error:
        facts["refused"] = str(error)
    facts["resumed"] = again.resumed and torch.equal(resumed.head.weight, model.head.weight)
    (folder / f"facts-{worker.rank}.json").write_text(json.dumps(facts))
    torch.save(model.state_dict(), folder / f"weights-{worker.rank}.pt")


def test_two_processes_equal_one(tmp_path):
    start_crew(tmp_path, 2, main, tmp_path)
    facts = [json.loads((tmp_path / f"facts-{rank}.json").read_text()) for rank in range(2)]
    assert [item["rank"] for item in facts] == [0, 1]
    assert all(item["world"] == 2 and item["resumed"] for item in facts)
    assert all("Add --resume" in item["refused"] for item in facts)

    _, model = run_here(tmp_path / "one", 16)
    weights = [torch.load(tmp_path / f"weights-{rank}.pt", weights_only=True) for rank in range(2)]
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-3, atol=1e-5)
    lines = [line.split(",") for line in curves(tmp_path / "RUN")]
    alone = [line.split(",") for line in curves(tmp_path / "one")]
    assert [line[:5] for line in lines] == [line[:5] for line in alone]
    values, expected = ([float(line[5]) for line in part[1:]] for part in (lines, alone))
    assert values == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_devices(monkeypatch):
    assert resolve_device("cpu") == ("cpu", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(name) for name in ("auto", "gpu", "cuda:1")] == [("cuda", 0), ("cuda", 0), ("cuda", 1)]
    with pytest.raises(ConfigError, match=r"'cuda:2' was asked for, but torch sees 2"):
        resolve_device("cuda:2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [resolve_device(name) for name in ("auto", "cuda", "cuda:0")] == [("cuda", 1), ("cuda", 1), ("cuda", 0)]
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device() == ("cpu", 0)
    for name in ("cuda", "tpu", "cpu:x"):
        with pytest.raises(ConfigError):
            resolve_device(name)


def test_a_plain_cpu_process_needs_no_lightning():
    script = (
        "import sys, pathlib, tempfile\nfrom tests.train.toy import toy_fit, toy_stages\n"
        "toy_fit(pathlib.Path(tempfile.mkdtemp()), stages=toy_stages(epochs=0.2))\n"
        "assert 'lightning' not in sys.modules and 'pytorch_lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)


def test_precision_is_measured_where_it_can_matter(monkeypatch):
    narrow, wide = nn.Linear(64, 4000), nn.Linear(512, 300)
    monkeypatch.setattr(distributed, "bf16_gain", lambda device, width: 2.0 if width == 256 else 0.5)
    assert choose_precision("auto", narrow, Alone()) == "32"
    assert choose_precision("auto", wide, Alone()) == "bf16"
    assert choose_precision("auto", nn.Linear(512, 512), Alone()) == "32"
    assert choose_precision("32", wide, Alone()) == "32" and choose_precision("bf16", narrow, Alone()) == "bf16"


def test_the_measurement_gives_a_ratio_and_is_made_once():
    gain = distributed.bf16_gain("cpu", 64)
    assert 0 < gain < 1000 and distributed.bf16_gain("cpu", 64) == gain
