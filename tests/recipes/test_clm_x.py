"""CLM-X from cells to a checkpoint: configuration, stages, missing modalities, repetition, interruption."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mudata import MuData
from tests.processes import join, start
from tests.tiny import cells_of, train_tiny, world
from tests.train.toy import curves

import syncyte
from syncyte.data.split import Split
from syncyte.errors import CapabilityError, CheckpointError, ConfigError, DataError
from syncyte.objectives.masked import MaskedShare, MaskedWhole
from syncyte.recipes import train as recipe_train
from syncyte.recipes import train_cells
from syncyte.recipes.base import assemble, recipes
from syncyte.recipes.clm_x import adapt
from syncyte.recipes.train import configure
from syncyte.tasks.trained import load_trained

# --- configuration ---------------------------------------------------------------------------------------------------


def test_settings_reach_the_configuration():
    config = configure("clm_x", "tiny", ["stages.rna.epochs=5", "sizes.width=32", "stages.atac.epochs=0"])
    assert config.stages["rna"].epochs == 5 and config.sizes.width == 32 and not config.stages["atac"].active
    assert configure("clm_x", "tiny").stages["rna"].epochs == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.rna.epoch=5", r"'epoch'. Did you mean 'epochs'"),
        ("stages.rma.epochs=5", r"'rma'. Did you mean 'rna'"),
        ("size.width=5", r"'size'. Did you mean 'sizes'"),
        ("sizes.width=wide", r"'sizes.width' = 'wide' is not valid"),
        ("start.mode=magic", r"'start.mode' = 'magic' is not valid"),
        ("stages.rna.epochs", r"Write it as name=value"),
        ("preset.x=1", r"'preset' is a single value"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        configure("clm_x", "tiny", [setting])


def test_unknown_recipes_and_presets_are_named():
    with pytest.raises(ConfigError, match=r"Unknown recipe 'clmx'. Did you mean 'clm_x'"):
        configure("clmx", "tiny")
    with pytest.raises(ConfigError, match=r"Unknown preset of clm_x 'smal'. Did you mean 'small'"):
        configure("clm_x", "smal")


def test_a_stage_of_no_epochs_is_switched_off(tmp_path, tiny_data):
    run = train_tiny(tiny_data, tmp_path / "RUN", settings=["stages.atac.epochs=0", "stages.both.epochs=0"])
    assert [stage["name"] for stage in run.recipe["training"]["stages"]] == ["rna"]
    assert run.recipe["gates"] == {} and run.recipe["config"]["stages"]["atac"]["epochs"] == 0


# --- what a run holds ------------------------------------------------------------------------------------------------


def test_a_run_says_what_was_done(tiny_run):
    facts = tiny_run.recipe
    assert [stage["name"] for stage in facts["training"]["stages"]] == ["atac", "rna", "both"]
    assert facts["start"].startswith("cross-covariance of") and facts["batch_key"] == "batch"
    assert facts["split"]["train_cells"] + facts["split"]["validation_cells"] == 240
    assert facts["config"]["preset"] == "tiny" and facts["batches"] == ["batch_1", "batch_2"]
    assert facts["training"]["cpu_seconds"] > 0 and len(facts["fingerprint"]) == 16
    card = (tiny_run.path / "README.md").read_text()
    assert "clm_x (tiny)" in card and "syncyte.train" in card
    assert tiny_run.metrics["cpu_seconds"] > 0 and "both_validation_best" in tiny_run.metrics


def test_gates_are_stored_and_loaded(tiny_run):
    gates = tiny_run.recipe["gates"]
    assert set(gates) == {"rna", "atac"} and set(gates.values()) <= {0.0, 0.125, 0.25, 0.375, 0.5}
    assert tiny_run.model.gate.tolist() == [gates[name] for name in tiny_run.model.names]
    assert tiny_run.metrics["gate_rna"] == gates["rna"]


def test_training_never_ends_above_its_start(tiny_run):
    for stage in tiny_run.recipe["training"]["stages"]:
        assert stage["best"] <= stage["start"]


def save_embedding(run: Path, data: Path, out: Path) -> None:
    np.save(out, syncyte.embed(run, data, device="cpu").obsm["X_syncyte"])


def test_a_fresh_process_gives_the_same_embedding_bit_for_bit(tiny_run, tiny_data, tmp_path):
    tiny_data.copy().write(tmp_path / "cells.h5mu")
    out = tmp_path / "vectors.npy"
    assert join([start(save_embedding, tiny_run.path, tmp_path / "cells.h5mu", out)], 120) == [0]
    np.testing.assert_array_equal(np.load(out), syncyte.embed(tiny_run, tiny_data).obsm["X_syncyte"])


@pytest.mark.parametrize("damage", ["weights", "vocabulary", "missing", "recipe"])
def test_a_damaged_run_is_refused(tiny_run, tmp_path, damage):
    run = tmp_path / "RUN"
    shutil.copytree(tiny_run.path, run)
    if damage == "weights":
        raw = bytearray((run / "model.safetensors").read_bytes())
        raw[-3] ^= 1
        (run / "model.safetensors").write_bytes(raw)
    elif damage == "vocabulary":
        next((run / "vocab").iterdir()).write_bytes(b"")
    elif damage == "missing":
        (run / "preprocessing.safetensors").unlink()
    else:
        text = (run / "recipe.json").read_text()
        (run / "recipe.json").write_text(text.replace('"hidden": 16', '"hidden": 32'))
    with pytest.raises(CheckpointError):
        load_trained(run, "cpu")
    with pytest.raises(CheckpointError, match="nowhere"):
        load_trained(tmp_path / "nowhere", "cpu")


# --- missing modalities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rna", "atac"])
def test_one_modality_trains_and_embeds(tmp_path, tiny_data, name):
    alone = MuData({name: tiny_data[name].copy()})
    run = train_tiny(alone, tmp_path / "RUN")
    assert run.modalities == (name,) and [s["name"] for s in run.recipe["training"]["stages"]] == [name]
    vectors = syncyte.embed(run, alone).obsm["X_syncyte"]
    assert vectors.shape == (240, 6) and np.isfinite(vectors).all() and (vectors.std(axis=0) > 0).all()
    np.testing.assert_array_equal(syncyte.embed(run, tiny_data).obsm["X_syncyte"], vectors)  # the other is ignored
    other = {"rna": "atac", "atac": "rna"}[name]
    with pytest.raises(CapabilityError, match=f"knows no '{other}'"):
        syncyte.translate(run, tiny_data, source=name, target=other)
    with pytest.raises(DataError, match=f"reads {name}; the cells have {other}"):
        syncyte.embed(run, MuData({other: tiny_data[other].copy()}))


@pytest.mark.parametrize("paired", [0.6, 0.3, 0.0])
def test_mosaic_cells_train_and_embed(tmp_path, paired):
    data = world(300, paired=paired)
    run = train_tiny(data, tmp_path / "RUN")
    cells = cells_of(data)
    both = cells.present("rna") & cells.present("atac")
    result = syncyte.embed(run, data)
    assert list(result.cells) == list(cells.names) and np.isfinite(result.obsm["X_syncyte"]).all()
    if paired == 0:
        assert run.recipe["start"] == "each modality alone" and run.recipe["gates"] == {}
        assert any("'both' is left out" in note for note in run.recipe["notes"])
        return
    if paired == 0.3:
        assert "bridged" in run.recipe["start"]
        assert any("are paired: the start is learned on all cells" in note for note in run.recipe["notes"])
    assert 0 < both.sum() < len(cells)
    got = syncyte.translate(run, data, source="atac", target="rna")
    assert list(got.cells) == list(cells.names[cells.present("atac")])
    assert np.isfinite(got.layers["syncyte_from_atac"].values).all()


def test_cells_with_either_modality_lie_together(tiny_run):
    """The same new cells seen by RNA alone, by ATAC alone and by both."""
    data = world(200, seed=5)
    vectors = {
        names: syncyte.embed(tiny_run, MuData({name: data[name].copy() for name in names})).obsm["X_syncyte"]
        for names in (("rna",), ("atac",), ("rna", "atac"))
    }
    for one in (("rna",), ("atac",)):
        for axis in range(2):
            assert np.corrcoef(vectors[one][:, axis], vectors[("rna", "atac")][:, axis])[0, 1] > 0.7
    assert np.corrcoef(vectors[("rna",)][:, 0], vectors[("atac",)][:, 0])[0, 1] > 0.4


def test_stages_are_dropped_with_what_they_need(tiny_data):
    config = configure("clm_x", "tiny")
    cells = cells_of(MuData({"rna": tiny_data["rna"].copy()}))
    adapted, notes = adapt(config, cells)
    assert list(adapted.stages) == ["rna"] and len(notes) == 2
    assert recipes["clm_x"].parts.needs(config) == {"atac": ("atac",), "rna": ("rna",), "both": ("rna", "atac")}


def test_cells_without_a_known_modality_are_refused(tmp_path, tiny_data):
    cells = cells_of(tiny_data)
    strange = replace(cells, parts={"lipids": cells.parts["rna"]})
    with pytest.raises(DataError, match=r"learns from rna and atac; the cells have lipids"):
        recipe_train.train_recipe(configure("clm_x", "tiny"), strange, tmp_path / "RUN", quiet=True)
    assert not (tmp_path / "RUN").exists()
    with pytest.raises(DataError, match=r"Unknown obs column 'cell_tipe'\. Did you mean 'cell_type'"):
        train_tiny(tiny_data, tmp_path / "RUN", label_key="cell_tipe")
    with pytest.raises(ConfigError, match="--batch-key"):
        train_tiny(tiny_data, tmp_path / "RUN", batch_key=None, validation="batch_1")


def test_start_ablation_trains(tmp_path, tiny_data):
    run = train_tiny(tiny_data, tmp_path / "RUN", settings=["start.mode=none", "sizes.layers=0"], validation="batch_2")
    assert run.recipe["split"]["validation"] == "batch_2" and run.model.backbone is None
    assert run.recipe["batches"] == ["batch_1"] and run.model.batch_effect is None


# --- again, interrupted, finished ------------------------------------------------------------------------------------


def test_same_seed_same_weights(tmp_path, tiny_data, tiny_run):
    torch.manual_seed(99)  # the caller's random state has no say
    before = torch.get_rng_state()
    again = train_tiny(tiny_data, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in tiny_run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert curves(tmp_path / "again") == curves(tiny_run.path)
    assert again.recipe["fingerprint"] == tiny_run.recipe["fingerprint"]
    other = train_tiny(tiny_data, tmp_path / "other", seed=1)
    assert other.recipe["fingerprint"] != tiny_run.recipe["fingerprint"]


def test_resume_of_a_finished_run_changes_nothing(tiny_data, tiny_run):
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tiny_run.path.rglob("*")}
    again = train_tiny(tiny_data, tiny_run.path, resume=True)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tiny_run.path.rglob("*")} == before
    assert again.recipe["fingerprint"] == tiny_run.recipe["fingerprint"]
    with pytest.raises(CheckpointError, match="--resume"):
        train_tiny(tiny_data, tiny_run.path)


def train_slowly(run: Path, pause: float) -> None:
    """Train with the state saved after every step, and a pause in each."""

    def slowed(real):
        def slow(self, *given):
            time.sleep(pause)
            return real(self, *given)

        return slow

    for kind in (MaskedShare, MaskedWhole):
        kind.forward = slowed(kind.forward)
    train_cells.fit = partial(train_cells.fit, save_every_seconds=0.0)
    train_tiny(world(), run, resume=True)


def steps_saved(run: Path) -> int:
    path = run / "state/state.json"
    place = json.loads(path.read_text())["place"] if path.exists() else {"offset": 0, "step": 0}
    return place["offset"] + place["step"]


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize("steps", [2, 8, 14])
def test_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, tiny_data, tiny_run, steps):
    run = tmp_path / "RUN"
    process = multiprocessing.get_context("fork").Process(target=train_slowly, args=(run, 0.05))
    process.start()
    while process.is_alive() and steps_saved(run) < steps:
        time.sleep(0.002)
    assert process.is_alive(), "it ended before it could be killed"
    process.kill()
    process.join()
    assert steps <= steps_saved(run) < 18 and not (run / "checkpoint.json").exists()
    with pytest.raises(CheckpointError):
        load_trained(run, "cpu")
    resumed = train_tiny(tiny_data, run, resume=True)
    assert curves(run) == curves(tiny_run.path)
    assert resumed.recipe["fingerprint"] == tiny_run.recipe["fingerprint"]


def test_reduced_precision_trains(tmp_path, tiny_data):
    settings = [f"stages.{name}.precision=bf16" for name in ("atac", "rna", "both")]
    run = train_tiny(tiny_data, tmp_path / "RUN", settings=settings)
    assert {stage["precision"] for stage in run.recipe["training"]["stages"]} == {"bf16"}
    assert np.isfinite(syncyte.embed(run, tiny_data).obsm["X_syncyte"]).all()


def test_the_start_may_leave_held_out_cells_alone(tiny_data):
    """With ``start.cells=train`` nothing of the held-out cells enters; with ``all`` they do."""
    cells, split = cells_of(tiny_data), Split(np.arange(200), np.arange(200, 240), "random", "x")
    other = cells.take(np.r_[np.arange(200), np.arange(40)])
    other = replace(other, obs=other.obs.set_index(cells.names))
    for chosen, same in (("train", True), ("all", False)):
        config = configure("clm_x", "tiny", [f"start.cells={chosen}"])
        tables = [assemble(config, given, split, None, 0).start.encoders["rna"].table for given in (cells, other)]
        assert np.array_equal(*tables) is same
