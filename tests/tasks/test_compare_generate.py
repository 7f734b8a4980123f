"""Generated cells scored beside real ones: what must win, what must be caught, and the section of the report."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.tiny import cells_of, world

import syncyte
from syncyte.baselines.prediction import log_cp10k
from syncyte.errors import DataError
from syncyte.report.generated import dose_figure, gene_figure, violins
from syncyte.tasks import evaluate, evaluate_generate
from syncyte.tasks.compare_generate import FLOOR, REAL, Ground, compare_generation
from syncyte.tasks.draw import Sampling, encode_points, expected_counts
from syncyte.tasks.generators import LABEL, Training, all_generators, attribute_table, flow_cells
from syncyte.tasks.result import Result

NAME = "syncyte tiny"
OWN = [
    NAME,
    "same codes, mixture by label",
    "same codes, posterior of training cells",
    "negative binomial by label",
    "training cells, resampled",
]


@pytest.fixture(scope="module")
def sides(tiny_sets_run, tiny_data):
    """Held-out and training cells, aligned, with their labels."""
    held, known = (tiny_sets_run.align(cells_of(data)) for data in (world(170, seed=11), tiny_data))
    labels = {
        side: cells.obs["cell_type"].astype(str).to_numpy() for side, cells in (("held", held), ("reference", known))
    }
    return held, known, labels


@pytest.fixture(scope="module")
def found(tiny_sets_run, sides):
    """A comparison with a method that copies and one that hands out means."""
    held, known, labels = sides
    training = Training(known, known.counts("rna"), labels["reference"])
    codes = encode_points(tiny_sets_run, known)

    def rows(table: pd.DataFrame, draw: int) -> np.ndarray:
        return training.rows(table[LABEL].to_numpy(), np.random.default_rng(draw))

    more = {
        "copies": lambda table, draw: training.counts[rows(table, draw)],
        "means": lambda table, draw: sp.csr_matrix(expected_counts(tiny_sets_run, codes[rows(table, draw)])),
    }
    return compare_generation(tiny_sets_run, NAME, held, known, labels, label_key="cell_type", draws=2, more=more)


# --- the tables ------------------------------------------------------------------------------------------------------


def test_all_methods_and_measures_are_there(found):
    assert list(found.table.index) == [*OWN, "copies", "means", FLOOR] and found.notes == []
    assert not found.table.isna().all(axis=0).any()
    wanted = {*evaluate_generate.CHOSEN, *evaluate_generate.COPIED}
    assert wanted < set(found.table.columns)
    assert set(found.counts) == set(found.points) == {*found.table.index, REAL}
    assert len(found.labels) == 85 == len(found.asked) and LABEL not in found.asked.columns
    assert all(counts.shape == (85, 80) for counts in found.counts.values())
    assert list(found.asked.columns) == ["cell_type", "batch", "pseudotime"]
    assert (found.asked["cell_type"].astype(str) == found.labels).all()


def test_real_cells_are_as_good_as_it_gets(found):
    """Of w2 that is not said: so few narrow cells lie near to any others."""
    table = found.table.drop(index=["copies", "training cells, resampled"])  # which are real cells, too
    floor, others = table.loc[FLOOR], table.drop(index=FLOOR)
    assert abs(floor["one_nn"] - 0.5) < 0.07 and abs(floor["energy"]) < 0.1 and 0.8 < floor["variance_ratio"] < 1.25
    assert (others["recall"] < floor["recall"] + 0.05).all() and (others["harmonic"] < floor["harmonic"] + 0.03).all()
    assert (others["energy"] > floor["energy"] - 0.05).all() and (others["frechet"] > 0.95 * floor["frechet"]).all()
    assert ((others["one_nn"] - 0.5).abs() > abs(floor["one_nn"] - 0.5) - 0.02).all()


def test_copies_are_caught(found):
    for name in ("copies", "training cells, resampled"):
        assert found.table.loc[name, "memorisation_ratio"] == 0 and found.table.loc[name, "copies"] == 85
    honest = found.table.drop(index=["copies", "training cells, resampled", "means"])
    assert (honest["copies"] == 0).all() and (honest["memorisation_ratio"] > 0.5).all()
    assert found.table.loc[FLOOR, "memorisation_ratio"] == pytest.approx(1.0, abs=0.15)


def test_means_are_no_cells(found):
    """However good the expectations, 1-NN tells them from cells, and kinds of cells are missing."""
    means, floor = found.table.loc["means"], found.table.loc[FLOOR]
    others = found.table.drop(index="means")
    assert means["one_nn"] > floor["one_nn"] + 0.15 and (others["one_nn"] < means["one_nn"]).all()
    assert means["recall"] < 0.2 and (others["recall"] > means["recall"] + 0.2).all()
    assert means["variance_ratio"] < 0.4 and (others["energy"] < means["energy"]).all()
    assert means["precision"] > 0.95  # which is why precision alone says nothing


def test_utility_trains_on_every_source(found):
    table = found.utility
    assert table.index[0] == NAME and f"real and balanced {NAME}" in table.index
    assert set(table.index) == {*OWN, "copies", "means", "real training cells", f"real and balanced {NAME}"}
    assert {"accuracy", "macro_f1", "accuracy_balanced", "macro_f1_balanced"} == set(table.columns)
    assert table.loc["real training cells", "accuracy"] > 0.6 and table.loc[NAME, "accuracy"] > 0.35
    assert table.loc["copies", "accuracy"] == pytest.approx(table.loc["real training cells", "accuracy"], abs=0.1)


def test_utility_asks_for_whole_cells(tiny_sets_run, sides, monkeypatch):
    """The run is told the label and what stands beside it in training, as where it is scored as a generator."""
    held, known, labels = sides
    asked = {}

    def spy(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        asked[draw] = table
        return known.counts("rna")[: len(table)]

    compare_generation(tiny_sets_run, NAME, held, known, labels, label_key="cell_type", draws=1, more={"spy": spy})
    for table in (asked[0], asked[77]):
        assert {"cell_type", "batch", "pseudotime", LABEL} == set(table.columns)
        assert (table["cell_type"].astype(str) == table[LABEL]).all() and not table.isna().any(axis=None)
    assert sorted(asked[77][LABEL]) == sorted(labels["reference"])
    real = pd.crosstab(labels["reference"], known.obs["batch"].astype(str), normalize="index")
    told = pd.crosstab(asked[77]["cell_type"], asked[77]["batch"], normalize="index")
    assert (real - told).abs().max(axis=None) < 0.1


def test_genes_are_compared_one_by_one(found, tiny_sets_run):
    assert list(found.genes.index) == list(tiny_sets_run.vocabularies["rna"].index)
    np.testing.assert_allclose(found.genes["mean_real"], np.asarray(found.counts[REAL].mean(axis=0)).ravel(), rtol=1e-5)
    np.testing.assert_allclose(found.genes["mean_made"], np.asarray(found.counts[NAME].mean(axis=0)).ravel(), rtol=1e-5)
    zeros = 1 - found.counts[NAME].getnnz(axis=0) / 85
    np.testing.assert_allclose(found.genes["zeros_made"], zeros, atol=1e-9)


def test_it_is_the_same_again_and_other_with_another_seed(tiny_sets_run, sides):
    held, known, labels = sides
    one, again, other = (
        compare_generation(tiny_sets_run, NAME, held, known, labels, draws=1, seed=seed).table for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(one, again)
    assert not np.allclose(one.loc[FLOOR], other.loc[FLOOR])


def test_without_labels_cells_are_one_crowd(tiny_sets_run, sides):
    held, known, _ = sides
    found = compare_generation(tiny_sets_run, NAME, held, known, None, draws=1)
    assert found.utility is None and found.notes == ["No labels: cells are compared as one crowd."]
    assert set(found.table.index) == {*OWN, FLOOR} and set(found.labels) == {"cell"}


def test_labels_that_training_lacks_are_left_out(tiny_sets_run, sides):
    held, known, labels = sides
    strange = {**labels, "held": np.where(labels["held"] == "B", "NKT", labels["held"])}
    strange["reference"] = np.where(labels["reference"] == "HSC", "", labels["reference"])
    found = compare_generation(tiny_sets_run, NAME, held, known, strange, draws=1)
    lost = np.isin(labels["held"], ["B", "HSC"]).sum()
    assert found.notes == [f"{lost} held-out cells have no label that training cells have: left out."]
    assert not {"NKT", "HSC", ""} & set(found.labels)
    few = held.take(np.arange(30))
    with pytest.raises(DataError, match="30 held-out cells have a label that training cells have; 40 are needed"):
        compare_generation(tiny_sets_run, NAME, few, known, {**labels, "held": labels["held"][:30]}, draws=1)


# --- parts -----------------------------------------------------------------------------------------------------------


def test_cells_are_compared_where_training_cells_vary(sides):
    held, known, _ = sides
    counts = known.counts("rna")
    ground = Ground.fit(counts, 0)
    assert ground.loadings.shape == (80, 30) and ground.training.shape == (240, 30)
    np.testing.assert_allclose(ground.place(counts), ground.training, atol=1e-5)
    logs = log_cp10k(counts)[:, ground.columns].toarray()
    np.testing.assert_allclose(ground.training, (logs - logs.mean(axis=0)) @ ground.loadings, atol=1e-4)
    square = np.square(ground.training[:, None] - ground.training[None]).sum(axis=2)
    assert ground.scale == pytest.approx(np.median(square[~np.eye(240, dtype=bool)]), rel=1e-6)
    assert ground.place(held.counts("rna")).std(axis=0).argmax() == 0


def test_training_cells_come_once_before_any_comes_twice(sides):
    _, known, labels = sides
    training = Training(known, known.counts("rna"), labels["reference"])
    asked = np.repeat(["B", "HSC"], [70, 20])
    rows = training.rows(asked, np.random.default_rng(0))
    assert (labels["reference"][rows] == asked).all()
    have = (labels["reference"] == "B").sum()
    assert len(set(rows[:70])) == min(have, 70) and len(set(rows[70:])) == 20
    assert np.bincount(rows[:70]).max() == -(-70 // have)


def test_every_generator_gives_a_cell_a_row(tiny_sets_run, sides):
    held, known, labels = sides
    training = Training(known, known.counts("rna"), labels["reference"])
    methods = all_generators(tiny_sets_run, NAME, training, Sampling(), 0)
    assert list(methods) == OWN
    table = attribute_table(tiny_sets_run, held).assign(**{LABEL: labels["held"]}).iloc[:25]
    for name, make in methods.items():
        first, again, other = (make(table, draw) for draw in (0, 0, 1))
        assert first.shape == (25, 80) and (first != again).nnz == 0 and (first != other).nnz > 0, name


def test_values_that_the_run_never_saw_are_left_unsaid(tiny_sets_run, sides):
    table = attribute_table(tiny_sets_run, sides[0]).iloc[:10].astype({"batch": object})
    blank, strange = table.assign(batch=""), table.assign(batch="batch_77")
    made = [flow_cells(tiny_sets_run, some, Sampling(), 0) for some in (table, blank, strange)]
    assert (made[1] != made[2]).nnz == 0 and (made[0] != made[1]).nnz > 0


# --- the report ------------------------------------------------------------------------------------------------------


def quick(patch: pytest.MonkeyPatch) -> None:
    """Leave UMAP, Leiden and annotation, which are slow, to their own tests."""

    def annotate_cells(trained, query, reference, label_key, **settings):
        labels = query.obs[label_key].astype(str).to_numpy()
        obs = {f"syncyte_{label_key}": labels, "syncyte_confidence": np.full(len(labels), 0.9)}
        return Result("annotate", query.names, obs=obs)

    for module in (evaluate, evaluate_generate):
        patch.setattr(module, "umap_coordinates", lambda values, seed: (np.arange(len(values)), values[:, :2]))
    patch.setattr("syncyte.metrics.embedding.leiden_agreement", lambda near, labels, seed: {"nmi": 0.5, "ari": 0.5})
    patch.setattr("syncyte.tasks.annotate.annotate_cells", annotate_cells)
    for name in ("_annotate", "_embed"):
        patch.setattr(evaluate, name, lambda work: None)


@pytest.fixture(scope="module")
def whole(tiny_sets_run, tiny_data, tmp_path_factory):
    """The verb, and the folder it wrote."""
    out = tmp_path_factory.mktemp("report")
    patch = pytest.MonkeyPatch()
    quick(patch)
    held = world(110, seed=12)
    held.obs_names = [f"new_{name}" for name in held.obs_names]
    for part in held.mod.values():
        part.obs_names = held.obs_names
    done = syncyte.evaluate(tiny_sets_run, held, reference=tiny_data, out=out, device="cpu", quiet=True)
    patch.undo()
    return done, out


def test_an_evaluation_holds_generation(whole):
    done, _ = whole
    assert {"generate", "generate counts", "generate utility", "generate guidance"} <= set(done.tables)
    assert list(done.tables["generate"].columns) == evaluate_generate.CHOSEN + evaluate_generate.COPIED
    assert done.model == NAME == done.tables["generate"].index[0] and FLOOR in done.tables["generate"].index
    assert not set(done.tables["generate counts"].columns) & set(done.tables["generate"].columns)
    assert "no generator can honestly do better" in done.text["generate"]
    assert not any(key.startswith(("translate", "integrate", "perturb")) for key in done.tables)
    assert "--perturbation KEY=CONTROL" in done.text["notes"]


def test_guidance_is_priced(whole):
    doses = whole[0].tables["generate guidance"]
    assert doses.index.tolist() == ["0", "1", "1.5", "2", "3"]
    assert list(doses.columns) == list(evaluate_generate.DIVERSITY)
    assert doses.loc["3", "variance_ratio"] != doses.loc["1", "variance_ratio"]
    # the same draw as in the table of methods, where guidance is 1
    assert 0 < doses.loc["1", "recall"] <= 1


def test_the_report_has_the_section_with_its_figures(whole):
    _, out = whole
    page = (out / "report.html").read_text(encoding="utf-8")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (section,) = (one for one in report["sections"] if one["title"] == "Generation")
    assert section["tables"] and section["data"]
    for words in (
        "Generation",
        "Genes: variance and zeros, real against generated",
        "Genes that tell labels apart best",
        "Guidance: what sharper conditions cost in diversity",
        FLOOR,
        "UMAP: generated",
    ):
        assert words in page, words


def test_figures_show_what_they_say(whole):
    done, _ = whole
    arrays = done.arrays["generate"]
    left, right = gene_figure(arrays).axes
    assert len(left.collections) == 2 and len(right.collections[0].get_offsets()) == 80
    panels = violins(arrays).axes
    assert [axes.get_title(loc="left") for axes in panels if axes.get_visible()] == list(arrays["names"])
    kinds = len(set(arrays["labels"]))
    assert all(len(axes.collections) == 2 * kinds for axes in panels if axes.get_visible())
    (axes,) = dose_figure(done.tables["generate guidance"]).axes
    assert len(axes.lines) == 4
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), done.tables["generate guidance"]["recall"])


def test_markers_are_genes_that_tell_labels_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 100)
    level = np.full((200, 20), 5.0)
    level[:100, 7] = 20.0
    spread = evaluate_generate._between(sp.csr_matrix(rng.poisson(level).astype(np.float32)), labels)
    assert spread.argmax() == 7 and 0.5 < spread[7] <= 1 and np.delete(spread, 7).max() < 0.3
