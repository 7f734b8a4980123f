"""scLDM from cells to a checkpoint: settings, steps, features, modalities, averages, interruption, what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from tests.tiny import cells_of, train_tiny_sets, world
from tests.train.toy import curves

import syncyte
from syncyte.baselines.variable import variable_columns
from syncyte.errors import CheckpointError, ConfigError, DataError
from syncyte.objectives.sets import CountElbo, FlowMatching
from syncyte.recipes import train_sets
from syncyte.recipes.base import recipes
from syncyte.recipes.train import configure
from syncyte.recipes.train_sets import SetRecipe, within_steps
from syncyte.tasks.trained import load_trained
from syncyte.train.optim import Average

PRESETS = list(recipes["scldm"].presets)


@pytest.fixture(scope="module")
def short(tiny_data, tmp_path_factory):
    """The tiny preset as it is; not to be changed."""
    return train_tiny_sets(tiny_data, tmp_path_factory.mktemp("scldm") / "RUN")


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json_and_hold_together(preset):
    config = configure("scldm", preset)
    assert SetRecipe.parse(json.loads(config.model_dump_json())) == config and config.preset == preset
    sizes, flow = config.sizes, config.flow
    assert list(config.stages) == ["autoencode", "flow"] and set(config.steps) <= set(config.stages)
    assert sizes.latents % max(sizes.queries, 1) == 0 and (sizes.queries or not sizes.unpool)
    assert not sizes.queries or sizes.width % sizes.heads == 0
    assert not flow.tokens or (flow.width % flow.heads == 0 and flow.tokens <= sizes.latents + 1)
    assert config.stages["flow"].ema > 0 and {stage.keep for stage in config.stages.values()} == {"last"}


def test_settings_reach_the_configuration():
    config = configure("scldm", "tiny", ["stages.flow.epochs=5", "sizes.latents=6", "likelihood=zinb", "features=30"])
    assert config.stages["flow"].epochs == 5 and config.sizes.latents == 6 and config.features == 30
    assert config.likelihood == "zinb"
    with pytest.raises(ConfigError, match=r"'latent'. Did you mean 'latents'"):
        configure("scldm", "tiny", ["sizes.latent=6"])
    with pytest.raises(ConfigError, match="likelihood"):
        configure("scldm", "tiny", ["likelihood=normal"])


def test_the_number_of_epochs_is_brought_within_the_steps():
    config, notes = configure("scldm", "lite", ["few_cells=0"]), []
    stages = within_steps(config, 1280, notes)  # 10 steps an epoch
    assert {name: stage.epochs for name, stage in stages.items()} == {"autoencode": 80, "flow": 300}
    assert notes[0] == "Stage 'autoencode': 800 steps instead of 300 (steps.autoencode)." and len(notes) == 2
    many = within_steps(config, 12_800_000, notes)
    assert {name: round(stage.epochs * 100_000) for name, stage in many.items()} == dict.fromkeys(many, 20_000)
    notes.clear()
    assert within_steps(config, 128_000, notes) == dict(config.stages) | {
        name: stage.model_copy(update={"epochs": 20}) for name, stage in config.stages.items()
    }
    assert "20,000 steps instead of 30,000" in notes[1]
    notes.clear()
    assert within_steps(config, 12_800 * 5, notes) == config.stages and not notes
    off = configure("scldm", "lite", ["few_cells=0", "stages.flow.epochs=0"])
    assert within_steps(off, 1280, [])["flow"].epochs == 0  # what is switched off stays off


def test_cells_of_few_counts_stop_early(tiny_data, tmp_path):
    settings = ["few_counts=1e9", "stages.autoencode.epochs=1", "stages.flow.epochs=0"]
    run = syncyte.train("scldm", tiny_data, out=tmp_path / "RUN", preset="tiny", settings=settings, quiet=True)
    stage = run.recipe["config"]["stages"]["autoencode"]
    assert (stage["keep"], stage["patience"]) == ("best", 4)
    assert any("features: a narrow autoencoder keeps its best round" in note for note in run.recipe["notes"])


def test_few_cells_get_small_minibatches_in_the_autoencoder_alone():
    config = configure("scldm", "lite")
    few, many = within_steps(config, 2_000, []), within_steps(config, 3_000, [])
    assert (few["autoencode"].batch_size, few["flow"].batch_size) == (64, 128)
    assert (many["autoencode"].batch_size, many["flow"].batch_size) == (128, 128)


# --- what a run holds ------------------------------------------------------------------------------------------------


def test_a_run_says_what_was_done(short):
    facts = short.recipe
    assert facts["kind"] == "sets" and [stage["name"] for stage in facts["training"]["stages"]] == [
        "autoencode",
        "flow",
    ]
    assert [stage["steps"] for stage in facts["training"]["stages"]] == [14, 14]
    assert [one["name"] for one in facts["spec"]["attributes"]] == ["cell_type", "batch", "pseudotime"]
    assert facts["split"]["train_cells"] + facts["split"]["validation_cells"] == 240
    assert facts["label_key"] == "cell_type" and len(facts["fingerprint"]) == 16
    assert any("learns one modality: 'rna' here (--set modality=..." in note for note in facts["notes"])
    assert not (short.path / "codes.npy").exists() and not (short.path / "state").exists()
    assert short.can("generates") and short.can("encodes") and not short.can("decodes")
    assert sum(facts["shares"]["counts"]) == facts["split"]["train_cells"]


def test_a_loaded_run_gives_the_codes_that_the_flow_was_trained_on(tiny_data, tmp_path, monkeypatch):
    kept = []

    def write(*given):
        kept.append(np.array(real(*given)))
        return real(*given)

    real = train_sets.write_codes
    monkeypatch.setattr(train_sets, "write_codes", write)
    train_tiny_sets(tiny_data, tmp_path / "RUN")
    run = load_trained(tmp_path / "RUN", "cpu")
    (codes,) = kept
    vectors = syncyte.embed(run, tiny_data).obsm["X_syncyte"]
    assert vectors.shape == (240, 4) and vectors.std(axis=0).min() > 0
    np.testing.assert_array_equal(vectors, codes[:, :4])
    totals = np.asarray(tiny_data["rna"].X.sum(axis=1)).ravel()
    np.testing.assert_allclose(codes[:, -1], np.log(totals), rtol=1e-6)
    some = codes[:, :4].std(axis=0)
    assert (run.model.flow.sd[:4].numpy() > some * 0.95).all()  # the posteriors' own spread is part of the scale


def test_variable_features_are_chosen_on_training_cells(tiny_data, tmp_path):
    how = {"settings": ["features=30"], "validation": "batch_2", "batch_key": "batch", "condition_keys": ()}
    run = train_tiny_sets(tiny_data, tmp_path / "RUN", **how)
    cells = cells_of(tiny_data)
    train = np.flatnonzero(cells.obs["batch"].astype(str) == "batch_1")
    wanted = cells.part("rna").features[variable_columns(cells.counts("rna", train), 30)]
    assert list(run.vocabularies["rna"].index) == list(wanted) and run.model.spec.features == 30
    other = tiny_data["rna"].copy()
    other.X = other.X.multiply(other.var_names.isin(wanted)).tocsr()
    vectors = [syncyte.embed(run, MuData({"rna": one})).obsm["X_syncyte"] for one in (tiny_data["rna"].copy(), other)]
    np.testing.assert_array_equal(*vectors)
    assert syncyte.generate(run, n=5, quiet=True).counts.shape == (5, 30)


def test_named_batches_are_held_out(tiny_data, tmp_path):
    run = train_tiny_sets(tiny_data, tmp_path / "RUN", batch_key="batch", validation="batch_2")
    split = run.recipe["split"]
    assert (split["kind"], split["validation_batches"]) == ("batch", ["batch_2"])
    assert split["validation_cells"] == (tiny_data.obs["batch"] == "batch_2").sum()
    assert [one["levels"] for one in run.recipe["spec"]["attributes"]][1] == ["batch_1"]
    assert set(run.recipe["shares"]["values"]["batch"]) == {"batch_1"}
    with pytest.raises(DataError, match=r"Unknown value of 'batch' 'batch_2'.*Known: batch_1\."):
        syncyte.generate(run, n=1, where={"batch": "batch_2"}, quiet=True)
    with pytest.raises(ConfigError, match="--batch-key"):
        train_tiny_sets(tiny_data, tmp_path / "other", validation="batch_2")


def test_the_averaged_weights_are_the_ones_that_are_saved(tiny_data, tmp_path, short, monkeypatch):
    settled = {}

    def settle(self):
        live = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        settled.update({name: (live[name], self.shadow[name].clone()) for name in live})
        return real(self)

    real = Average.settle
    monkeypatch.setattr(Average, "settle", settle)
    run = train_tiny_sets(tiny_data, tmp_path / "mean")
    saved = load_trained(run.path, "cpu").model.state_dict()
    assert set(settled) == {name for name, _ in run.model.named_parameters() if name.startswith("flow.")}
    for name, (_, average) in settled.items():
        assert torch.equal(saved[name], average), name
        assert torch.equal(saved[name], short.model.state_dict()[name]), name
    assert sum(not torch.equal(live, average) for live, average in settled.values()) > len(settled) / 2
    plain = train_tiny_sets(tiny_data, tmp_path / "last", settings=["stages.flow.ema=0"])
    for name, (live, _) in settled.items():  # without an average, the last weights are kept: the same path
        assert torch.equal(plain.model.state_dict()[name], live), name


def test_attributes_may_have_features(tiny_data, tmp_path):
    table = pd.DataFrame([[0.5, 1.0, -1.0], [2.0, 0.0, 3.0]], index=["batch_2", "batch_1"])
    run = train_tiny_sets(tiny_data, tmp_path / "RUN", features={"batch": table}, condition_keys=("batch",))
    kept = load_trained(run.path, "cpu").arrays["features.batch"]
    np.testing.assert_array_equal(kept[1:], table.loc[["batch_1", "batch_2"]].to_numpy(dtype=np.float32))
    assert np.isnan(kept[0]).all() and run.recipe["spec"]["attributes"][1]["features"] == 3
    assert syncyte.generate(run, n=6, where={"batch": "batch_1"}, guidance=1.5, quiet=True).counts.shape == (6, 80)


# --- modalities ------------------------------------------------------------------------------------------------------


def test_open_regions_train_too(tiny_data, tmp_path):
    run = train_tiny_sets(tiny_data, tmp_path / "RUN", settings=["modality=atac", "decoded=100"])
    assert run.modalities == ("atac",) and any("'atac' here" in note for note in run.recipe["notes"])
    vectors = syncyte.embed(run, tiny_data).obsm["X_syncyte"]
    assert np.isfinite(vectors).all() and vectors.std(axis=0).min() > 0
    made = syncyte.generate(run, n=50, where={"cell_type": "B"}, quiet=True)
    assert made.counts.shape == (50, 300) and list(made.var.index) == list(run.vocabularies["atac"].index)
    real = np.asarray(tiny_data["atac"].X.sum(axis=1)).mean()
    assert 0.4 * real < made.counts.sum(axis=1).mean() < 2.5 * real


def test_cells_without_the_modality_are_left_out(tmp_path):
    data = world(150, paired=0.5)
    run = train_tiny_sets(data, tmp_path / "RUN")
    have = int(cells_of(data).present("rna").sum())
    assert have < 150 and f"{150 - have} of 150 cells have no 'rna' and are left out." in run.recipe["notes"]
    assert run.recipe["split"]["train_cells"] + run.recipe["split"]["validation_cells"] == have


@pytest.mark.parametrize("likelihood", ["poisson", "zinb", "gaussian"])
def test_other_likelihoods_train(tiny_data, tmp_path, likelihood):
    settings = [f"likelihood={likelihood}", "decoded=40", "stages.autoencode.epochs=5"]
    run = train_tiny_sets(tiny_data, tmp_path / "RUN", settings=settings)
    counts = syncyte.generate(run, n=60, quiet=True).counts
    real = np.asarray(tiny_data["rna"].X.sum(axis=1)).mean()
    assert (counts.data >= 0).all() and 0.3 * real < counts.sum(axis=1).mean() < 3 * real
    first, last = (run.recipe["training"]["stages"][0][key] for key in ("start", "best"))
    assert last < first


def test_what_cannot_be_learned_is_refused_before_anything_is_written(tiny_data, tmp_path):
    data = tiny_data.copy()
    data.obs["flat"] = 2.5
    strange = {"lineage": pd.DataFrame({"a": [1.0]}, index=["HSC"])}
    cases = [
        ({"settings": ["modality=lipids"]}, ConfigError, "'lipids' is not in the cells, which have rna and atac"),
        ({"features": strange}, ConfigError, "describes 'lineage', which is no condition"),
        ({"settings": ["sizes.latents=5"]}, ConfigError, r"sizes\.latents=5 is no multiple of sizes\.queries=2"),
        ({"settings": ["flow.heads=3"]}, ConfigError, r"flow\.width=16 is no multiple of flow\.heads=3"),
        ({"settings": ["sizes.heads=3"]}, ConfigError, r"sizes\.width=8 is no multiple of sizes\.heads=3"),
        ({"condition_keys": ("flat",)}, DataError, "'flat' is the same number in all training cells"),
        ({"condition_keys": ("batsh",)}, DataError, r"Unknown obs column 'batsh'\. Did you mean 'batch'"),
        ({"label_key": "cell_tipe"}, DataError, r"'cell_tipe'\. Did you mean 'cell_type'"),
    ]
    for options, kind, words in cases:
        with pytest.raises(kind, match=words):
            train_tiny_sets(data, tmp_path / "RUN", **options)
        assert not (tmp_path / "RUN").exists()


def test_without_keys_cells_can_be_generated_but_not_asked_for(tiny_data, tmp_path):
    run = train_tiny_sets(tiny_data, tmp_path / "RUN", label_key=None, condition_keys=())
    assert any("No --label-key and no --condition-keys" in note for note in run.recipe["notes"])
    made = syncyte.generate(run, n=7, guidance=1.5, quiet=True)
    assert made.counts.shape == (7, 80) and made.obs.shape == (7, 0)
    attributes = syncyte.generate(run, n=7, depth="attributes", quiet=True)
    assert attributes.counts.sum() > 0
    with pytest.raises(DataError, match=r"Unknown condition of this run 'cell_type'\. Known: none\."):
        syncyte.generate(run, n=7, where={"cell_type": "B"}, quiet=True)


# --- again, interrupted, finished ------------------------------------------------------------------------------------


def test_same_seed_same_weights(tmp_path, tiny_data, short):
    torch.manual_seed(99)  # the caller's random state has no say
    before = torch.get_rng_state()
    again = train_tiny_sets(tiny_data, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before) and curves(again.path) == curves(short.path)
    assert again.recipe["fingerprint"] == short.recipe["fingerprint"]
    assert train_tiny_sets(tiny_data, tmp_path / "other", seed=1).recipe["fingerprint"] != short.recipe["fingerprint"]


def train_slowly(run: Path, pause: float) -> None:
    """Train with the state saved after every step, and a pause in each."""

    def slowed(real):
        def slow(self, *given):
            time.sleep(pause)
            return real(self, *given)

        return slow

    for kind in (CountElbo, FlowMatching):
        kind.forward = slowed(kind.forward)
    train_sets.fit = partial(train_sets.fit, save_every_seconds=0.0)
    train_tiny_sets(world(), run, resume=True)


def steps_saved(run: Path) -> int:
    path = run / "state/state.json"
    place = json.loads(path.read_text())["place"] if path.exists() else {"offset": 0, "step": 0}
    return place["offset"] + place["step"]


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize("steps", [3, 20])
def test_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, tiny_data, short, steps):
    """In the autoencoder, whose warm-up has a count of its own, and in the flow, whose codes are made again."""
    run = tmp_path / "RUN"
    process = multiprocessing.get_context("fork").Process(target=train_slowly, args=(run, 0.05))
    process.start()
    while process.is_alive() and steps_saved(run) < steps:
        time.sleep(0.002)
    assert process.is_alive(), "it ended before it could be killed"
    process.kill()
    process.join()
    assert steps <= steps_saved(run) < 28 and not (run / "checkpoint.json").exists()
    assert (run / "codes.npy").exists() == (steps > 14)
    with pytest.raises(CheckpointError):
        load_trained(run, "cpu")
    resumed = train_tiny_sets(tiny_data, run, resume=True)
    assert curves(run) == curves(short.path) and not (run / "codes.npy").exists()
    assert resumed.recipe["fingerprint"] == short.recipe["fingerprint"]
    for name, tensor in short.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
