"""The finished checkpoint: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from syncyte.errors import CheckpointError
from syncyte.train.checkpoint import load_checkpoint, load_weights, save_checkpoint
from syncyte.train.folder import is_finished, prepare_run


def content() -> dict:
    shared = torch.arange(6.0).reshape(2, 3)
    genes = pd.DataFrame(
        {
            "symbol": ["NA", "", "tab\there"],
            "start": [1, 2, 3],
            "known": [True, False, True],
            "rate": [0.1, np.nan, 1e-300],
        },
        index=pd.Index(["ENSG1", "nan", 'quo"te'], name="gene"),
    )
    return {
        "weights": {"a": shared, "b": shared.T, "c": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)},
        "recipe": {"name": "toy", "sizes": [1, 2], "lr": np.float32(0.5)},
        "vocabularies": {"genes": genes, "regions": pd.DataFrame(index=pd.Index([5, 7]))},
        "preprocessing": {"mean": np.arange(6.0).reshape(2, 3).T, "flags": np.array([True, False])},
        "card": {"name": "A toy", "data": {"cells": 12, "batches": ["x", "y|z"]}, "license": "bsd-3-clause"},
        "metrics": {"validation": {"total": 0.123456}, "missing": float("nan")},
    }


@pytest.fixture
def run(tmp_path):
    with prepare_run(tmp_path / "RUN") as folder:
        save_checkpoint(folder.path, **content())
    return tmp_path / "RUN"


def test_round_trip(run):
    loaded, saved = load_checkpoint(run), content()
    assert loaded.weights.keys() == saved["weights"].keys()
    for name, tensor in saved["weights"].items():
        assert torch.equal(loaded.weights[name], tensor) and loaded.weights[name].dtype == tensor.dtype
    assert loaded.recipe == {"name": "toy", "sizes": [1, 2], "lr": 0.5}
    for name, table in saved["vocabularies"].items():
        pd.testing.assert_frame_equal(loaded.vocabularies[name], table, check_column_type=False)
    for name, array in saved["preprocessing"].items():
        np.testing.assert_array_equal(loaded.preprocessing[name], array)
        assert loaded.preprocessing[name].dtype == array.dtype
    assert loaded.metrics == {"validation": {"total": 0.123456}, "missing": None}
    assert loaded.card["data"]["batches"] == ["x", "y|z"]


def test_no_file_can_run_code(run):
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    assert names == [
        "README.md", "card.json", "checkpoint.json", "metrics.json", "model.safetensors", "preprocessing.safetensors",
        "recipe.json", "run.json", "vocab/genes.tsv.gz", "vocab/regions.tsv.gz",
    ]  # fmt: skip


def test_same_content_same_bytes(run, tmp_path):
    save_checkpoint(tmp_path / "again", **content())
    for path in run.rglob("*"):
        if path.is_file() and path.name not in (".lock", "run.json"):
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(run)).read_bytes()


def test_a_moved_folder_loads_and_its_readme_may_be_edited(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere")
    (tmp_path / "elsewhere/README.md").write_text("mine")
    assert load_checkpoint(str(tmp_path / "elsewhere")).recipe["name"] == "toy"


FILES = ["model.safetensors", "recipe.json", "vocab/genes.tsv.gz", "preprocessing.safetensors", "card.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(run)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_named(run, name):
    (run / name).write_bytes((run / name).read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=rf"{name} has \d+ bytes instead of \d+"):
        load_checkpoint(run)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named(run, name):
    data = bytearray((run / name).read_bytes())
    data[-3] ^= 1
    (run / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is not the file that training wrote"):
        load_checkpoint(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2, "syncyte": "9.1"}, r"format 2 of syncyte 9\.1; this is syncyte .* which reads format 1"),
        ({"files": {}}, "does not list model.safetensors"),
        ({"files": None}, "lists no files"),
    ],
)
def test_another_manifest_is_refused(run, change, message):
    path = run / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(run)


def test_no_checkpoint_says_what_is_there(tmp_path, run):
    with pytest.raises(CheckpointError, match="There is no RUN folder"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"is not a run of syncyte: it has no checkpoint\.json"):
        load_checkpoint(tmp_path / "folder")
    with prepare_run(tmp_path / "begun"), pytest.raises(CheckpointError, match=r"not finished\. .*--resume"):
        load_checkpoint(tmp_path / "begun")
    (run / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is not valid JSON"):
        load_checkpoint(run)


def test_a_stop_before_the_manifest_leaves_no_checkpoint(tmp_path, monkeypatch):
    class Dead(BaseException):
        pass

    real = os.replace
    for allowed in range(9):
        run, done = tmp_path / str(allowed), []

        def replace(source, target, done=done, allowed=allowed):
            if len(done) == allowed:
                raise Dead
            done.append(target)
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(Dead):
                save_checkpoint(run, **content())
        assert not is_finished(run)
        save_checkpoint(run, **content())
        assert load_checkpoint(run).recipe["name"] == "toy"


def test_the_state_goes_when_the_checkpoint_is_complete(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/state.json").write_text("{}")
    save_checkpoint(tmp_path, **content())
    assert not (tmp_path / "state").exists() and is_finished(tmp_path)


def test_a_finished_checkpoint_is_never_changed(run):
    with pytest.raises(CheckpointError, match="never changed"):
        save_checkpoint(run, **content())


def test_the_card_can_be_read_by_people_and_hubs(run):
    text = (run / "README.md").read_text()
    head = text.split("---")[1]
    assert 'library_name: "syncyte"' in head and 'license: "bsd-3-clause"' in head
    for part in ("# A toy", "## Data", "| cells | 12 |", "x, y\\|z", "## Intended use", "## Limits", "## Metrics",
                 "| validation: total | 0.1235 |", "syncyte.load(", '"sizes"'):  # fmt: skip
        assert part in text


def test_weights_load_strictly():
    module = nn.Linear(2, 3)
    weights = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    load_weights(module, weights, "RUN")
    assert torch.equal(module.bias, weights["bias"])
    with pytest.raises(CheckpointError, match=r"in RUN do not fit .* 1 missing \(bias\); 1 unexpected \(extra\)"):
        load_weights(module, {"weight": weights["weight"], "extra": weights["bias"]}, "RUN")
    with pytest.raises(CheckpointError, match=r"1 of another shape \(bias \(1,\) instead of \(3,\)\)"):
        load_weights(module, {**weights, "bias": torch.ones(1)}, "RUN")
