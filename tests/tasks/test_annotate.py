"""Annotate: right labels from what a cell has, honest confidence, classes of the reference only, clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny import cells_of, train_tiny, world

from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError
from syncyte.metrics.annotation import calibration_error
from syncyte.tasks.annotate import UNASSIGNED, annotate_cells
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained

KEY = "cell_type"


@pytest.fixture(scope="module")
def data() -> Cells:
    return cells_of(world(360, batches=4, depth_atac=200.0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Knows batches 1 and 2; batch 3 chose, batch 4 is new."""
    source = world(360, batches=4, depth_atac=200.0)
    source = source[source.obs["batch"].isin(["batch_1", "batch_2", "batch_3"])].copy()
    return train_tiny(
        source, tmp_path_factory.mktemp("annotate") / "run", validation="batch_3", settings=["start.cells=train"]
    )


@pytest.fixture(scope="module")
def sides(data: Cells) -> tuple[Cells, Cells]:
    """Query (batch 4) and reference."""
    new = (data.obs["batch"] == "batch_4").to_numpy()
    return data.take(new), data.take(~new)


@pytest.fixture(scope="module")
def probed(trained: Trained, sides: tuple[Cells, Cells]) -> Result:
    """What a probe says of the query; not to be changed."""
    return annotate_cells(trained, *sides, KEY, method="probe")


def accuracy(result, query: Cells) -> float:
    return float((np.asarray(result.obs[f"syncyte_{KEY}"]) == query.column(KEY).astype(str)).mean())


@pytest.mark.parametrize(
    ("names", "method"),
    [
        *((names, method) for names in (("rna",), ("atac",), ("rna", "atac")) for method in ("probe", "full")),
        (("rna", "atac"), "auto"),
        (("rna", "atac"), "lora"),
    ],
)
def test_labels_of_a_new_batch_are_found(trained: Trained, sides: tuple[Cells, Cells], names, method: str):
    query, reference = sides
    result = annotate_cells(trained, query.only(names), reference, KEY, method=method, batch_key="batch")
    settings = result.provenance["settings"]
    share = query.column(KEY).value_counts(normalize=True).max()
    assert accuracy(result, query) > max(0.7, share + 0.1)
    assert settings["groups"][0]["modalities"] == list(names)
    assert settings["groups"][0]["chosen"] in {"probe", "full", "probe and full"} if method == "auto" else [method]
    confidence = np.asarray(result.obs["syncyte_confidence"])
    correct = np.asarray(result.obs[f"syncyte_{KEY}"]) == query.column(KEY).astype(str)
    assert calibration_error(confidence, correct) < 0.2
    chance = result.obsm[f"syncyte_{KEY}_probability"]
    np.testing.assert_allclose(chance.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(chance.max(axis=1), confidence, atol=1e-6)


def test_the_unseen_batch_judges(trained: Trained, sides: tuple[Cells, Cells]):
    group = annotate_cells(trained, *sides, KEY).provenance["settings"]["groups"][0]
    assert "batch_3" in group["held_out"] and "not seen" in group["held_out"]
    assert set(group["held_out_log_loss"]) == {"probe", "full", "probe and full"}
    assert group["chosen"] in group["why"]


def test_without_an_unseen_batch_the_probe_is_taken(trained: Trained, sides: tuple[Cells, Cells]):
    query, reference = sides
    known = reference.take((reference.obs["batch"] != "batch_3").to_numpy())
    result = annotate_cells(trained, query, known, KEY)
    group = result.provenance["settings"]["groups"][0]
    assert group["chosen"] == "probe" and "no held-out cell can judge" in group["why"]
    assert accuracy(result, query) > 0.8


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_same_seed_same_answer_and_the_model_stays(
    trained: Trained, sides: tuple[Cells, Cells], method: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("syncyte.tasks.finetune.PASSES", (1, 1))
    embed_cells(trained, sides[0])  # leaves tensors of inference mode in the model
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    state = torch.random.get_rng_state()
    first = annotate_cells(trained, *sides, KEY, method=method, seed=3)
    torch.rand(5)
    second = annotate_cells(trained, *sides, KEY, method=method, seed=3)
    key = f"syncyte_{KEY}_probability"
    np.testing.assert_array_equal(first.obsm[key], second.obsm[key])
    after = trained.model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert not trained.model.training
    torch.random.set_rng_state(state)


def test_labels_of_the_query_are_never_read(trained: Trained, sides: tuple[Cells, Cells], probed: Result):
    query, reference = sides
    bare = Cells(query.obs.drop(columns=[KEY]), query.parts)
    without = annotate_cells(trained, bare, reference, KEY, method="probe")
    for key, values in probed.obs.items():
        np.testing.assert_array_equal(values, without.obs[key])


def test_prediction_does_not_depend_on_the_other_query_cells(
    trained: Trained, sides: tuple[Cells, Cells], probed: Result
):
    query, reference = sides
    some = annotate_cells(trained, query.take(np.arange(5)[::-1]), reference, KEY, method="probe", batch_size=2)
    key = f"syncyte_{KEY}_probability"
    np.testing.assert_allclose(some.obsm[key][::-1], probed.obsm[key][:5], atol=1e-5)


def test_cells_learn_from_cells_that_have_the_same(trained: Trained, sides: tuple[Cells, Cells]):
    _, reference = sides
    mosaic = cells_of(world(200, seed=5, batches=4, paired=0.4, depth_atac=200.0))
    result = annotate_cells(trained, mosaic, reference, KEY, method="probe")
    groups = {tuple(group["modalities"]): group["query_cells"] for group in result.provenance["settings"]["groups"]}
    assert groups == {("rna", "atac"): 80, ("rna",): 60, ("atac",): 60}
    assert accuracy(result, mosaic) > 0.8


def test_cells_without_a_shared_modality_stay_unassigned(trained: Trained, sides: tuple[Cells, Cells]):
    query, reference = sides
    part = query.parts["atac"]
    index = part.index.copy()
    index[:7] = -1
    partly = Cells(query.obs, {"atac": type(part)(part.rows, index, part.var)})
    result = annotate_cells(trained, partly, reference, KEY, method="probe")
    label, confidence = result.obs[f"syncyte_{KEY}"], result.obs["syncyte_confidence"]
    assert set(label[:7]) == {UNASSIGNED} and np.isnan(confidence[:7]).all()
    assert UNASSIGNED not in set(label[7:]) and np.isfinite(confidence[7:]).all()


def test_threshold_abstains_and_keeps_the_best_guess(trained: Trained, sides: tuple[Cells, Cells], probed: Result):
    query, reference = sides
    bound = annotate_cells(trained, query, reference, KEY, method="probe", threshold=0.95)
    unsure = np.asarray(probed.obs["syncyte_confidence"]) < 0.95
    assert 0 < unsure.mean() < 1
    label = np.asarray(bound.obs[f"syncyte_{KEY}"])
    np.testing.assert_array_equal(label == UNASSIGNED, unsure)
    np.testing.assert_array_equal(bound.obs[f"syncyte_{KEY}_best"], probed.obs[f"syncyte_{KEY}"])
    assert bound.metrics["unassigned"] == pytest.approx(unsure.mean())
    assert f"syncyte_{KEY}_best" not in probed.obs


def relabelled(reference: Cells, change) -> Cells:
    labels = reference.column(KEY).astype(str).to_numpy().astype(object)
    change(labels)
    return Cells(reference.obs.assign(**{KEY: labels}), reference.parts, reference.report)


def test_cells_without_a_label_are_left_out_and_counted(trained: Trained, sides: tuple[Cells, Cells]):
    query, reference = sides

    def change(labels):
        labels[:10], labels[10:15], labels[15:18], labels[18] = np.nan, "", "doublet", "rare"

    result = annotate_cells(trained, query, relabelled(reference, change), KEY, method="probe", unclear=["doublet"])
    settings = result.provenance["settings"]
    assert settings["reference"]["without_label"] == 15 and settings["reference"]["unclear"] == 3
    assert settings["reference"]["few"] == ["rare"]
    assert "doublet" not in settings["classes"] and "rare" in settings["classes"] and "" not in settings["classes"]


def test_query_cells_in_the_reference_are_counted(trained: Trained, sides: tuple[Cells, Cells]):
    _, reference = sides
    result = annotate_cells(trained, reference.take(np.arange(20)), reference, KEY, method="probe")
    assert result.provenance["settings"]["query_cells_in_reference"] == 20


def test_errors_say_what_to_do(trained: Trained, sides: tuple[Cells, Cells]):
    query, reference = sides
    with pytest.raises(DataError, match=r"'cell_typ'.*Did you mean 'cell_type'"):
        annotate_cells(trained, query, reference, "cell_typ")
    with pytest.raises(DataError, match="'lane'"):
        annotate_cells(trained, query, reference, KEY, batch_key="lane")
    with pytest.raises(DataError, match="nothing is common to all three"):
        annotate_cells(trained, query.only(["rna"]), reference.only(["atac"]), KEY)
    with pytest.raises(ConfigError, match=r"method 'fll'.*'full'"):
        annotate_cells(trained, query, reference, KEY, method="fll")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        annotate_cells(trained, query, reference, KEY, threshold=1.5)

    def one(labels):
        labels[:] = "T"

    def none(labels):
        labels[:] = np.nan

    with pytest.raises(DataError, match=r"only 'T'.*at least two classes"):
        annotate_cells(trained, query, relabelled(reference, one), KEY)
    with pytest.raises(DataError, match="no label"):
        annotate_cells(trained, query, relabelled(reference, none), KEY)


def test_a_handful_of_labels_is_enough_to_run(trained: Trained, sides: tuple[Cells, Cells]):
    query, reference = sides
    result = annotate_cells(trained, query, reference.take(np.arange(12)), KEY)
    assert set(result.obs[f"syncyte_{KEY}"]) <= set(reference.column(KEY).astype(str))


def test_the_result_goes_into_files(trained: Trained, sides: tuple[Cells, Cells], tmp_path: Path):
    import anndata as ad

    query, reference = sides
    result = annotate_cells(trained, query, reference, KEY, method="probe", threshold=0.9)
    adata = ad.AnnData(query.counts("rna"), obs=query.obs.copy(), var=query.part("rna").var[[]])
    result.write(adata)
    adata.write_h5ad(tmp_path / "out.h5ad")
    again = ad.read_h5ad(tmp_path / "out.h5ad")
    assert {f"syncyte_{KEY}", f"syncyte_{KEY}_best", "syncyte_confidence"} <= set(again.obs)
    assert "syncyte" in again.uns and list(again.obs_names) == list(query.names)
