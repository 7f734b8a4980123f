"""Parts of annotate: temperature, folds, profiles made without a cell's own fold, low-rank updates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from mudata import MuData
from tests.tiny import cells_of, train_tiny, world

from syncyte.baselines.residual import ResidualMatrix
from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.metrics.annotation import calibration_error
from syncyte.tasks import labelled as labelled_module
from syncyte.tasks.calibrate import cross_calibration_error, fit_temperature, log_loss, temper
from syncyte.tasks.finetune import Labeller, LowRank
from syncyte.tasks.labelled import keep_labelled, label_reference
from syncyte.tasks.probe import Probe, Profiles, read_evidence
from syncyte.tasks.trained import Trained
from syncyte.types import Visible


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_tiny(world(240, batches=3), tmp_path_factory.mktemp("parts") / "run", validation="batch_3")


def bare_cells(labels: list[object], batches: list[object]) -> Cells:
    n = len(labels)
    obs = pd.DataFrame({"label": labels, "batch": batches}, index=[f"c{i}" for i in range(n)])
    rows = MemoryRows(sp.csr_matrix(np.ones((n, 3), dtype=np.float32)))
    return Cells(obs, {"rna": Part(rows, np.arange(n), pd.DataFrame(index=list("abc")))})


def overconfident(n: int = 4000, sharp: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (n, 4))
    honest = temper(np.exp(logits), 1.0)
    codes = (rng.random(n)[:, None] > honest.cumsum(axis=1)).sum(axis=1)
    return temper(honest, 1 / sharp), codes


def test_temperature_is_recovered():
    chance, codes = overconfident(sharp=3.0)
    temperature = fit_temperature(chance, codes)
    assert temperature == pytest.approx(3.0, rel=0.1)
    right = chance.argmax(axis=1) == codes
    assert calibration_error(chance.max(axis=1), right) > 0.15
    assert calibration_error(temper(chance, temperature).max(axis=1), right) < 0.03
    assert cross_calibration_error(chance, codes, np.zeros(len(codes), dtype=int)) < 0.04
    assert log_loss(temper(chance, temperature), codes) < log_loss(chance, codes)


def test_tempering_keeps_the_order_and_sums_to_one():
    chance, _ = overconfident(50)
    warm = temper(chance, 2.0)
    np.testing.assert_allclose(warm.sum(axis=1), 1)
    np.testing.assert_array_equal(warm.argmax(axis=1), chance.argmax(axis=1))


def test_classes_never_met_do_not_spoil_the_temperature():
    chance, codes = overconfident()
    wide = np.c_[chance, np.zeros(len(chance))]
    some = codes.copy()
    some[:400] = 4
    assert fit_temperature(wide, some) == pytest.approx(fit_temperature(chance[400:], codes[400:]), rel=1e-3)


def test_placeholders_and_missing_labels_are_no_classes():
    cells = bare_cells(["A", "B", None, np.nan, "", " ", "unassigned", "A ", "bad"], ["x"] * 9)
    kept, facts = keep_labelled(cells, "label", unclear=["bad"])
    assert list(kept.names) == ["c0", "c1", "c7"]
    assert facts == {"cells": 3, "without_label": 5, "unclear": 1}


def test_folds_are_batches_and_unseen_ones_are_held_out():
    batches = np.repeat(["p", "q", "r", "s"], 50)
    cells = bare_cells(["A", "B"] * 100, list(batches))
    recipe = {"batch_key": "batch", "batches": ["p", "q", "r"]}
    part = label_reference(cells, "label", None, recipe, 0)
    assert all(len(set(part.folds[batches == name])) == 1 for name in "pqrs")
    assert [set(batches[part.folds == fold]) for fold in part.held] == [{"s"}]
    assert not part.seen and "not seen" in part.how
    train, held = part.rows(part.held[0])
    assert set(batches[held]) == {"s"} and len(train) + len(held) == 200
    whole = {**recipe, "config": {"start": {"cells": "all"}}, "split": {"kind": "batch", "validation": "s"}}
    assert label_reference(cells, "label", None, whole, 0).seen  # the start was fitted to the held-out batch too
    every = label_reference(cells, "label", "batch", {"batch_key": "batch", "batches": list("pqrs")}, 0)
    assert every.seen and len(every.held) == 4  # labels are few: every fold is held out in turn
    many = bare_cells(["A", "B"] * 1000, list(np.repeat(list("pqrs"), 500)))
    assert len(label_reference(many, "label", "batch", {"batch_key": "batch", "batches": list("pqrs")}, 0).held) == 3
    other = label_reference(cells, "label", "batch", {"batch_key": "donor", "batches": ["p"]}, 0)
    assert not other.seen  # another data set: it lacks the column the run was trained with
    unknown = label_reference(cells, "label", "batch", {"batch_key": None, "batches": []}, 0)
    assert unknown.seen


def test_without_batches_folds_have_equal_shares_of_the_classes():
    cells = bare_cells(["A"] * 75 + ["B"] * 25, ["x"] * 100)
    part = label_reference(cells, "label", "batch", {}, 0)
    counts = np.array([np.bincount(part.codes[part.folds == fold], minlength=2) for fold in range(5)])
    assert (counts == [15, 5]).all()


def test_many_batches_share_folds_and_large_references_are_drawn_from(monkeypatch: pytest.MonkeyPatch):
    batches = np.repeat([f"b{i}" for i in range(40)], 5)
    cells = bare_cells(["A", "B"] * 100, list(batches))
    part = label_reference(cells, "label", "batch", {}, 0)
    assert part.folds.max() + 1 == labelled_module.MOST_FOLDS
    assert all(len(set(part.folds[batches == name])) == 1 for name in set(batches))
    monkeypatch.setattr(labelled_module, "MOST_CELLS", 60)
    assert len(label_reference(cells, "label", "batch", {}, 0).cells) == 60


def test_profiles_are_sums_of_residuals_and_skip_a_cells_own_fold(trained: Trained):
    cells = trained.align(cells_of(world(240, batches=3)))
    part = label_reference(cells, "cell_type", "batch", trained.recipe, 0)
    profiles = Profiles(trained, part)
    evidence = read_evidence(trained, profiles, cells, private=False, batch_size=50)
    hot = np.eye(len(part.classes), dtype=np.float32)[part.codes]
    target = (hot - hot.mean(axis=0)) / np.sqrt(hot.sum(axis=0))
    for name in cells.modalities:
        residual, center = profiles.residuals[name]
        matrix = ResidualMatrix(*residual.split(cells.counts(name)), center)
        dense = matrix.dot(np.eye(matrix.shape[1], dtype=np.float32))
        scores = dense @ np.stack([dense[part.folds == fold].T @ target[part.folds == fold] for fold in range(3)])
        np.testing.assert_allclose(evidence[name].scores, scores.transpose(1, 0, 2), rtol=1e-3, atol=1e-2)
        with torch.no_grad():
            batch = next(trained.batches(cells, len(cells)))
            latent = trained.model.paths[name](batch.tokens[name], Visible(batch.present[name]))[0]
        np.testing.assert_allclose(evidence[name].latents, latent.cpu().numpy(), rtol=1e-4, atol=1e-4)


def test_random_labels_are_not_learned_by_heart(trained: Trained):
    """Scored on its own profile every cell would look right; without its own fold none does better than chance."""
    cells = trained.align(cells_of(world(240, batches=3)))
    rng = np.random.default_rng(0)
    shuffled = Cells(cells.obs.assign(label=rng.permutation(["A", "B"] * 120)), cells.parts)
    part = label_reference(shuffled, "label", "batch", trained.recipe, 0)
    probe = Probe(part, read_evidence(trained, Profiles(trained, part), shuffled, private=True))
    choice = probe.choose()
    rows, chance = probe.held_out(choice)
    assert 0.3 < (chance.argmax(axis=1) == part.codes[rows]).mean() < 0.7
    honest = log_loss(temper(chance, fit_temperature(chance, part.codes[rows])), part.codes[rows])
    assert honest > 0.6


def test_low_rank_update_starts_at_nothing():
    table = torch.randn(9, 4)
    update = LowRank(9, 4, 2)
    torch.testing.assert_close(update(table), table)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_only_the_adapter_and_the_heads_learn(trained: Trained, adapter: str):
    labeller = Labeller(trained.model, ("atac",), 3, adapter)
    learning = {name for name, parameter in labeller.model.named_parameters() if parameter.requires_grad}
    assert learning
    if adapter == "full":
        assert learning == {"paths.atac.table"} and labeller.model.backbone is None
    else:
        assert all("lora" in name or "parametrizations.table" in name for name in learning)
        assert any("backbone" in name and "attention" in name for name in learning)
        assert any("backbone" in name and "experts" in name for name in learning)
        assert not any(name.startswith("paths.rna") for name in learning)
    assert trained.model.backbone is not None
    assert all(parameter.requires_grad for parameter in trained.model.parameters())


def test_two_technical_batches_are_held_out_whole():
    batches = ["p", "q"] * 60
    cells = bare_cells((["A"] * 2 + ["B"] * 2) * 30, batches)
    part = label_reference(cells, "label", "batch", {"batches": ["p", "q"], "batch_key": "batch"}, seed=0)
    names = np.array(batches)
    assert part.held == (0, 1) and part.seen
    assert all(len(set(part.folds[names == name])) == 1 for name in "pq")
    for fold in (0, 1):  # every part lies in one batch, so profiles can leave out a cell's own
        assert len(set(part.parts[part.folds == fold])) == 3
    assert set(part.parts[part.folds == 0]).isdisjoint(part.parts[part.folds == 1])


def test_a_run_of_one_modality_is_read_by_its_latents_too(tmp_path):
    data = MuData({"rna": world(240, batches=3)["rna"]})
    data.obs = data["rna"].obs.copy()
    run = train_tiny(data, tmp_path / "run", validation="batch_3")
    part = label_reference(run.align(cells_of(data)), "cell_type", "batch", run.recipe, seed=0)
    found = read_evidence(run, Profiles(run, part), part.cells, private=True)["rna"]
    assert found.latents.shape == (len(part.cells), run.model.components)
    assert found.latents.std(axis=0).min() > 0
