"""The doctor finds what is wrong, says what mends it, and leaves with 1 only where the core cannot work."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from syncyte.cli import app, doctor

FINE = {
    "version": "2.13.0",
    "cuda_build": None,
    "threads": 2,
    "devices": [{"name": "cpu", "kind": "AVX2", "bf16": 0.9}],
}


@pytest.fixture(autouse=True)
def quick_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine_torch", lambda: FINE)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


def test_a_working_machine():
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "device cpu       AVX2, bf16 0.9x the speed of float32" in done.output
    assert done.output.rstrip().endswith("The core works.")
    for name in ("syncyte", "python", "memory", "anndata", "torch", "bench"):
        assert name in done.output


def test_json_twin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(done.output)
    assert found["works"] is True
    assert found["packages"]["numpy"]["fits"] is True
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["disk_free"] > 0
    assert set(found["extras"]) >= {"bench", "docs", "test"}


def test_quiet_says_nothing():
    assert CliRunner().invoke(app, ["doctor", "--quiet"]).output == ""


def test_torch_that_does_not_import_stops_the_core(monkeypatch):
    monkeypatch.setattr(doctor, "examine_torch", lambda: {"error": "OSError: libtorch_cpu.so: cannot open"})
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "PROBLEM: torch cannot be imported (OSError: libtorch_cpu.so: cannot open)" in done.output
    assert "mend: pip install --force-reinstall torch" in done.output


def test_a_device_that_is_not_here():
    done = CliRunner().invoke(app, ["doctor", "--device", "cuda"])
    assert done.exit_code == 1
    assert "the device 'cuda' is not here" in done.output
    assert "choose --device auto or one of: cpu" in done.output


def test_missing_and_old_packages():
    state = {
        "mudata": {"wanted": ">=0.3.1", "found": None, "fits": False},
        "anndata": {"wanted": ">=0.12.6", "found": "0.10.9", "fits": False},
        "numpy": {"wanted": ">=2.0", "found": "2.4.6", "fits": True},
    }
    missing, old = doctor.package_problems(state)
    assert missing == {"what": "mudata is not installed", "mend": "pip install 'mudata>=0.3.1'", "stops": True}
    assert (old["what"], old["stops"]) == ("anndata 0.10.9 is outside >=0.12.6", False)


def machine(**changed) -> dict:
    return {
        "cores": 4,
        "omp_num_threads": None,
        "memory": {"total": 16 * doctor.GIB, "available": 12 * doctor.GIB},
        "disk_free": 50 * doctor.GIB,
        "folder_writable": True,
        **changed,
    }


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({}, None),
        ({"omp_num_threads": "4"}, None),
        ({"omp_num_threads": "16"}, "OMP_NUM_THREADS=16 is more than the 4 cores"),
        ({"omp_num_threads": "many"}, "OMP_NUM_THREADS='many' is not a number"),
        ({"memory": {"total": 8 * doctor.GIB, "available": doctor.GIB}}, "only 1.0 GiB of memory are free"),
        ({"memory": {"total": None, "available": None}}, None),
        ({"disk_free": doctor.GIB}, "only 1.0 GiB are free on the disk"),
        ({"folder_writable": False}, "cannot be written to"),
    ],
)
def test_machine_problems(changed, what, tmp_path):
    problems = doctor.machine_problems(machine(**changed), tmp_path)
    assert len(problems) == (what is not None)
    if what:
        assert what in problems[0]["what"]
        assert not problems[0]["stops"]
        assert problems[0]["mend"]


def test_a_gpu_that_torch_does_not_use(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (problem,) = doctor.torch_problems(FINE, "auto")
    assert "CPU build" in problem["what"]
    (problem,) = doctor.torch_problems({**FINE, "cuda_build": "13.0"}, "auto")
    assert "torch finds no GPU" in problem["what"]
    assert not problem["stops"]


def test_torch_itself_is_examined(monkeypatch):
    monkeypatch.undo()
    found = doctor.examine_torch()
    assert found["devices"][0]["name"] == "cpu"
    assert found["devices"][0]["bf16"] > 0
    assert found["threads"] == 1
