"""Predicted cells and effects: known ones are found, controls stay as they are, and what cannot be said is refused."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from tests.processes import join, start
from tests.treated import CONTROL, FEATURES, GIVEN, KEY, LACKING, log_change, log_factors, treated, true_effect

import syncyte
from syncyte.errors import ConfigError, DataError
from syncyte.tasks.perturb import TOP, effect_table
from syncyte.tasks.respond import METHODS, mean_logs
from syncyte.tasks.write import PredictionWriter

LEAST = {"regression": 0.95, "transport": 0.7, "flow": 0.7}  # agreement over the genes that drugs act on


@pytest.fixture(scope="module")
def controls() -> anndata.AnnData:
    """120 new control cells."""
    new = treated(each=10, seed=5)
    return new[(new.obs[KEY] == CONTROL).to_numpy()].copy()


def ask(run, cells, target="d1", **options):
    return syncyte.perturb(run, cells, **{"key": KEY, "control": CONTROL, "target": target, "quiet": True, **options})


def effects_of(found, target: str, column: str = "effect") -> np.ndarray:
    """A column of the table of effects, in order of the genes."""
    own = found.effects[found.effects["target"] == target].set_index("gene")
    return own.loc[found.var.index, column].to_numpy()


def made(found, target: str) -> sp.csr_matrix:
    """Predicted cells of a target."""
    return found.counts[((found.obs[KEY] == target) & found.obs["syncyte_predicted"]).to_numpy()]


def same(first: sp.csr_matrix, second: sp.csr_matrix) -> bool:
    return first.shape == second.shape and (sp.csr_matrix(first) != sp.csr_matrix(second)).nnz == 0


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.corrcoef(found, truth)[0, 1])


def on_hits(found: np.ndarray, truth: np.ndarray) -> float:
    """Agreement over the genes that any drug acts on."""
    hits = log_factors().any(axis=0)
    return agreement(found[hits], truth[hits])


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_known_effects_are_found(tiny_treated_run, controls, method):
    """Of drugs, of one that training lacked in B cells, and of two together; by the table and by the cells."""
    found = ask(tiny_treated_run, controls, ["d2", "d4", "d1+d2"], method=method)
    for target in ("d2", "d4", "d1+d2"):
        truth, hit = true_effect(controls.X, target), log_change(target) != 0
        effect = effects_of(found, target)
        assert on_hits(effect, truth) > LEAST[method]
        assert agreement(effect, truth) > (0.85 if method == "regression" else 0.3)
        assert (np.sign(effect[hit]) == np.sign(truth[hit])).mean() > (0.95 if method == "regression" else 0.8)
        moved = mean_logs(made(found, target)) - mean_logs(controls.X)
        assert on_hits(moved, truth) > LEAST["flow"]
    assert found.facts["method"] == method and found.facts["notes"] == []


def test_a_pair_that_was_never_measured_leans_on_other_types(tiny_treated_run, controls):
    own = controls[(controls.obs["cell_type"] == LACKING[0]).to_numpy()]
    found = ask(tiny_treated_run, own, ["d4", "d5"])
    for target in ("d4", "d5"):
        truth = true_effect(own.X, target)
        assert agreement(effects_of(found, target), truth) > 0.8
        assert 0.6 < effects_of(found, target) @ truth / (truth @ truth) < 1.3
    # one measured beside three is surer than three alone
    assert (effects_of(found, "d5", "error") < effects_of(found, "d4", "error")).mean() > 0.9


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16, np.float32, np.float64, "dense", "csc", "layer"])
def test_controls_are_copied_bit_for_bit(tiny_treated_run, controls, kind):
    given = controls.copy()
    if kind == "layer":
        given.layers["raw"], given.X = given.X, np.log1p(given.X)
    elif isinstance(kind, str):
        given.X = given.X.toarray() if kind == "dense" else given.X.tocsc()
    else:
        given.X = given.X.astype(kind)
    found = ask(tiny_treated_run, given, layer="raw" if kind == "layer" else None)
    assert found.counts.dtype == np.int32 and same(found.counts[: len(controls)], controls.X)
    assert same(made(found, "d1"), made(ask(tiny_treated_run, controls), "d1"))


def test_cells_come_out_beside_what_they_came_from(tiny_treated_run, controls):
    found = ask(tiny_treated_run, controls, ["d3", "d1+d2"])
    n, names = len(controls), list(controls.obs_names)
    assert found.obs[KEY].tolist() == [CONTROL] * n + ["d3"] * n + ["d1+d2"] * n
    assert found.obs["syncyte_predicted"].tolist() == [False] * n + [True] * 2 * n
    assert found.obs["syncyte_from"].tolist() == [""] * n + names * 2
    assert found.obs.index[: n + 1].tolist() == [*names, f"{names[0]}_d3"]
    assert found.obs.index.is_unique and found.obs["cell_type"].tolist() == controls.obs["cell_type"].tolist() * 3
    assert found.counts.shape == (3 * n, 80) and found.counts.data.min() >= 0 and found.path is None
    assert list(found.var.index) == list(tiny_treated_run.vocabularies["rna"].index)
    depth = [np.log(np.asarray(part.sum(axis=1)).ravel()) for part in (controls.X, made(found, "d3"))]
    assert np.corrcoef(depth)[0, 1] > 0.7  # each keeps its own depth, so the order is theirs


def test_every_gene_of_the_vocabulary_is_written(tiny_treated_run, controls):
    """In the order of the run, whatever genes the cells have and in whatever order."""
    whole, turned = ask(tiny_treated_run, controls), ask(tiny_treated_run, controls[:, ::-1].copy())
    assert same(whole.counts, turned.counts)
    some = ask(tiny_treated_run, controls[:, 20:].copy())
    real, predicted = some.counts[: len(controls)], made(some, "d1")
    assert some.counts.shape[1] == 80 and same(real[:, 20:], controls[:, 20:].X) and real[:, :20].nnz == 0
    assert (np.asarray(predicted.sum(axis=0)).ravel()[:20] > 0).mean() > 0.8
    assert set(some.effects["gene"]) == set(tiny_treated_run.vocabularies["rna"].index)


def test_the_file_holds_what_memory_would(tiny_treated_run, controls, tmp_path):
    """Counts, tables and record; effects beside it as a table of their own."""
    out, targets = tmp_path / "p.h5ad", ["d1", "d1+d2"]
    kept = ask(tiny_treated_run, controls, targets, method="flow")
    found = ask(tiny_treated_run, controls, targets, method="flow", out=out)
    assert found.path == out and found.counts is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.effects.csv", "p.h5ad"]
    stored, memory = found.adata(), kept.adata()
    assert sp.issparse(stored.X) and stored.X.dtype == np.int32 and same(stored.X, memory.X)
    assert stored.obs[KEY].tolist() == memory.obs[KEY].tolist() and list(stored.var_names) == list(memory.var_names)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.effects.csv"), kept.table().reset_index(drop=True))
    assert stored.uns["syncyte"]["perturb_effects"]["gene"].tolist() == kept.effects["gene"].tolist()
    record = json.loads(stored.uns["syncyte"]["perturb"])
    assert record["targets"] == targets and record["method"] == "flow" and record["cells"] == len(controls)
    assert record["run_fingerprint"] == tiny_treated_run.recipe["fingerprint"] and record["sampling"]["steps"] == 8
    assert json.loads(memory.uns["syncyte"]["perturb"])["targets"] == targets


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_cells(tiny_treated_run, controls, method):
    state, given = torch.get_rng_state(), controls.copy()
    first, again, other = (ask(tiny_treated_run, controls, method=method, seed=seed) for seed in (3, 3, 4))
    assert same(first.counts, again.counts) and first.effects.equals(again.effects)
    assert not same(made(first, "d1"), made(other, "d1")) and same(first.counts[:120], other.counts[:120])
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random state has no part in it
    assert same(given.X, controls.X) and given.obs.equals(controls.obs)  # and the cells stay as they were


@pytest.mark.parametrize("method", ["transport", "flow"])
def test_targets_share_their_noise(tiny_treated_run, controls, method):
    """So cells under two targets are pairs, and a target is the same whatever else is asked for."""
    found = ask(tiny_treated_run, controls, ["d1", "d4"], method=method)
    assert same(made(found, "d4"), made(ask(tiny_treated_run, controls, "d4", method=method), "d4"))
    other = ask(tiny_treated_run, controls, "d4", method=method, seed=1)

    def depth(counts) -> np.ndarray:
        return np.log(np.asarray(counts.sum(axis=1)).ravel())

    pairs = agreement(depth(made(found, "d1")), depth(made(found, "d4")))
    assert pairs > 0.5
    if method == "flow":  # transport starts from the cell itself, whatever the seed
        assert abs(agreement(depth(made(found, "d1")), depth(made(other, "d4")))) < pairs - 0.2


def test_the_sampler_can_be_set(tiny_treated_run, controls):
    plain = ask(tiny_treated_run, controls, "d3", method="flow")
    strong, away = (
        ask(tiny_treated_run, controls, "d3", method="flow", guidance=2.0, settings=settings)
        for settings in ((), ("kind=referenced",))
    )
    assert away.facts["sampling"]["kind"] == "referenced" and strong.facts["sampling"]["guidance"] == 2.0
    truth = true_effect(controls.X, "d3")
    sizes = [effects_of(one, "d3") @ truth / (truth @ truth) for one in (plain, strong, away)]
    assert sizes[0] < min(sizes[1:])  # led away from the controls, cells come to be farther from them
    assert not same(strong.counts, away.counts)


# --- combinations, and what was never seen ---------------------------------------------------------------------------


def test_effects_of_a_combination_add_up(tiny_treated_run, controls):
    own, targets = controls[(controls.obs["cell_type"] == "HSC").to_numpy()], ["d1", "d2", "d1+d2", "d1 + d2"]
    found = ask(tiny_treated_run, own, targets)
    value = {target: effects_of(found, target) for target in targets}
    error = {target: effects_of(found, target, "error") - 1e-6 for target in targets}
    np.testing.assert_allclose(value["d1+d2"], value["d1"] + value["d2"])
    np.testing.assert_allclose(error["d1+d2"] ** 2, error["d1"] ** 2 + error["d2"] ** 2)
    np.testing.assert_array_equal(value["d1 + d2"], value["d1+d2"])
    assert agreement(value["d1+d2"], true_effect(own.X, "d3")) > 0.8  # which does both


def test_what_was_never_seen_gets_the_mean_effect_and_a_note(tiny_treated_run, controls):
    found = ask(tiny_treated_run, controls, [*GIVEN, "d7", "d8"])
    assert found.facts["notes"] == [
        f"{name}: {name} was never seen and has no features: it gets the mean effect of all perturbations."
        for name in ("d7", "d8")
    ]
    np.testing.assert_array_equal(effects_of(found, "d7"), effects_of(found, "d8"))
    mean = np.mean([effects_of(found, target) for target in GIVEN], axis=0)
    assert agreement(effects_of(found, "d7"), mean) > 0.97
    assert effects_of(found, "d7") @ mean / (mean @ mean) == pytest.approx(1, abs=0.25)
    assert (effects_of(found, "d7", "error") > effects_of(found, "d1", "error")).all()  # less is known of it


@pytest.mark.parametrize("method", METHODS)
def test_features_tell_what_was_never_seen(tiny_treated_run, controls, tmp_path, method):
    """To the regression and to the flow, which was trained on them."""
    FEATURES.to_csv(tmp_path / "drugs.csv")
    table = tmp_path / "drugs.csv"
    truth = true_effect(controls.X, "d7")
    bare, told = (ask(tiny_treated_run, controls, "d7", method=method, features=given) for given in (None, table))
    assert on_hits(effects_of(told, "d7"), truth) > max(LEAST[method], on_hits(effects_of(bare, "d7"), truth) + 0.3)
    notes = ["d7: d7 was never seen and has no features: it gets the mean effect of all perturbations."]
    how = "its effect comes from features of perturbations"
    if method != "regression":
        notes = ["d7: d7 was never seen by the flow: predicted by regression instead.", *notes]
        how = "the flow is told its features"
    assert bare.facts["notes"] == notes and told.facts["notes"] == [f"d7: d7 was never seen: {how}."]
    both = ask(tiny_treated_run, controls, "d2+d7", method=method, features=table)
    assert on_hits(effects_of(both, "d2+d7"), true_effect(controls.X, "d2+d7")) > 0.6


def test_features_that_do_not_serve_are_said(tiny_treated_run, controls, tmp_path):
    """Others than the flow was trained on serve the regression, and noise that clearly does not serve is left out."""
    place = tmp_path / "drugs.csv"
    FEATURES.assign(third=1.0, fourth=FEATURES["first"]).to_csv(place)
    wide = ask(tiny_treated_run, controls, "d7", method="flow", features=place)
    pd.DataFrame(np.random.default_rng(0).normal(size=(7, 2)), index=FEATURES.index).to_csv(place)
    noise, bare = ask(tiny_treated_run, controls, "d7", features=place), ask(tiny_treated_run, controls, "d7")
    assert [note.partition(": ")[2] for note in [*wide.facts["notes"], *noise.facts["notes"]]] == [
        "d7 was never seen by the flow: predicted by regression instead.",
        "d7 was never seen: its effect comes from features of perturbations.",
        "d7 was never seen, and features did not help to predict left-out perturbations: it gets the mean effect of "
        "all.",
    ]
    assert agreement(effects_of(wide, "d7"), true_effect(controls.X, "d7")) > 0.8
    np.testing.assert_allclose(effects_of(noise, "d7"), effects_of(bare, "d7"))


# --- the table of effects --------------------------------------------------------------------------------------------


def test_effects_have_signs_and_errors(tiny_treated_run, controls):
    found = ask(tiny_treated_run, controls, ["d3", "d5"])
    assert found.table() is found.effects
    assert list(found.effects.columns) == ["target", "gene", "effect", "error", "z", "sign", "rank"]
    for target, own in found.effects.groupby("target", sort=False):
        assert own["rank"].tolist() == list(range(1, 81)) and own["z"].abs().is_monotonic_decreasing
        np.testing.assert_allclose(own["z"], own["effect"] / own["error"])
        assert (own["sign"] == np.where(own["z"].abs() > 2, np.sign(own["effect"]), 0)).all()
        assert (own["error"] > 0).all()
        change = pd.Series(log_change(str(target)), index=found.var.index)
        hits = own.set_index("gene").loc[change[change != 0].index]
        assert (hits["sign"] == np.sign(change[change != 0])).all() and hits["rank"].median() < 12
        error = effects_of(found, str(target)) - true_effect(controls.X, str(target))
        assert 0.4 < np.std(error / effects_of(found, str(target), "error")) < 1.6  # errors are what they say


def test_a_table_of_effects_by_hand():
    found = effect_table("x", np.array([0.1, -3.0, 0.0, 1.0]), np.array([0.1, 1.0, 1.0, 0.25]), pd.Index(list("abcd")))
    assert found["gene"].tolist() == ["d", "b", "a", "c"] and found["rank"].tolist() == [1, 2, 3, 4]
    assert found["sign"].tolist() == [1, -1, 0, 0] and set(found["target"]) == {"x"}
    np.testing.assert_allclose(found["z"], [4, -3, 1, 0], rtol=1e-4)


def test_hits_are_drawn(tiny_treated_run, controls):
    figure = ask(tiny_treated_run, controls, ["d1", "d3"]).plot()
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == ["d1", "d3"]
    assert len(figure.axes[0].patches) == TOP


# --- what is refused, and noted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"key": "drg"}, DataError, r"condition of this run 'drg'\. Did you mean 'drug'\? Known: cell_type, drug"),
        ({"control": "non"}, DataError, r"control value of 'drug' 'non'\. Did you mean 'none'\? Known: d1, .*d6, none"),
        ({"target": "none"}, ConfigError, "--target none is the control: leave it out"),
        ({"target": ["d1", "d2", "d1"]}, ConfigError, "--target d1 is given twice"),
        ({"target": []}, ConfigError, r"Name what .*'drug' or several as A\+B\. Trained on: d1, d2, d3, d4, d5, d6\."),
        ({"target": "d1+"}, ConfigError, r"'d1\+': give a value of 'drug', or several .* none of them empty.*: d1, d2"),
        ({"target": "d1+none"}, ConfigError, r"'d1\+none': .*the control or repeated\. Trained on: d1"),
        ({"target": "d2+d2"}, ConfigError, r"'d2\+d2': .*the control or repeated"),
        ({"method": "shift"}, ConfigError, "Unknown method 'shift'.*Known: flow, regression, transport"),
        ({"settings": ["solver=rk4"]}, ConfigError, "solver"),
        ({"features": "nowhere.csv"}, ConfigError, r"there is no file 'nowhere\.csv'"),
        ({"out": "there.csv"}, DataError, r"Name the output NAME\.h5ad"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_with_what_exists(
    tiny_treated_run, controls, options, kind, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=words):
        ask(tiny_treated_run, controls, **options)
    assert list(tmp_path.iterdir()) == []


def test_cells_that_cannot_be_used_are_refused(tiny_treated_run, controls):
    new = treated(each=2, seed=6)
    with pytest.raises(DataError, match=r"0 of 48 cells are controls\. Unknown value of 'drug' 'none'.*Known: d1, d2"):
        ask(tiny_treated_run, new[(new.obs[KEY] != CONTROL).to_numpy()].copy())
    with pytest.raises(DataError, match=r"1 of 1 cells are controls\. At least 2 are needed\.$"):
        ask(tiny_treated_run, controls[:1].copy())
    with pytest.raises(DataError, match="has no cells"):
        ask(tiny_treated_run, controls[:0].copy())
    logs = controls.copy()
    logs.X = sp.csr_matrix(np.log1p(1e4 * logs.X.toarray() / logs.X.sum(axis=1)))
    with pytest.raises(DataError, match="it looks log-normalised"):
        ask(tiny_treated_run, logs)
    strange = controls.copy()
    strange.var_names = [f"x{name}" for name in strange.var_names]
    with pytest.raises(DataError, match=r"None of the 80 rna features is among the 80 .*data: xISG15.*model: ISG15"):
        ask(tiny_treated_run, strange)


def test_runs_that_know_no_responses_are_refused(tiny_treated_run, tiny_sets_run, controls):
    with pytest.raises(DataError, match=r"Unknown condition of this run 'pseudotime'.*Known: batch, cell_type\."):
        ask(tiny_sets_run, controls, key="pseudotime")  # a number has no control value
    bare = replace(tiny_treated_run, arrays={k: v for k, v in tiny_treated_run.arrays.items() if "groups" not in k})
    with pytest.raises(DataError, match=r"kept no group means .* fewer --condition-keys"):
        ask(bare, controls)
    groups = tiny_treated_run.recipe["groups"]
    alone = ["none" if kind == "B" else "d1" for kind in groups["values"]["cell_type"]]
    apart = {**groups, "values": {**groups["values"], KEY: alone}}
    with pytest.raises(DataError, match=r"No training cell is perturbed beside control cells of the same cell_t.*d1"):
        ask(replace(tiny_treated_run, recipe={**tiny_treated_run.recipe, "groups": apart}), controls)


def test_what_is_left_out_or_not_known_is_noted(tiny_treated_run, controls):
    new = treated(each=2, seed=6)
    found = ask(tiny_treated_run, new)
    assert found.facts["notes"] == ["48 cells that are not drug=none are left out."] and found.facts["cells"] == 24
    plain = controls.copy()
    del plain.obs[KEY]
    found = ask(tiny_treated_run, plain)
    assert found.facts["notes"] == ["The cells have no column 'drug': all of them are taken for controls."]
    assert same(found.counts, ask(tiny_treated_run, controls).counts) and set(found.obs[KEY]) == {CONTROL, "d1"}
    del plain.obs["cell_type"]
    notes = ask(tiny_treated_run, plain).facts["notes"]
    assert notes[1:] == ["The cells have no column 'cell_type': nothing is said of it."]
    renamed = controls.copy()
    renamed.var_names = [*renamed.var_names[:70], *(f"x{i}" for i in range(10))]
    lost = controls.X[:, 70:].sum()
    found = ask(tiny_treated_run, renamed)
    assert found.facts["notes"] == [
        f"{lost:,} counts of the controls, of features that the run does not know, are not written."
    ]
    assert same(found.counts[:120, :70], controls.X[:, :70]) and found.counts[:120, 70:].nnz == 0


# --- a killed command ------------------------------------------------------------------------------------------------


def interrupted(*given) -> None:
    raise KeyboardInterrupt


def killed_while_writing(run: str, cells: str, out: str) -> None:
    """Perturb in a process that is killed between two blocks."""
    plain = PredictionWriter.append

    def append(self, block) -> None:
        if self.rows:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, block)

    PredictionWriter.append = append  # type: ignore[method-assign]
    ask(run, cells, out=out, device="cpu")


def test_a_killed_command_leaves_nothing_half_written(tiny_treated_run, controls, tmp_path, monkeypatch):
    out, cells = tmp_path / "p.h5ad", tmp_path / "controls.h5ad"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PredictionWriter, "append", interrupted)
        ask(tiny_treated_run, controls, out=out)
    assert list(tmp_path.iterdir()) == []
    controls.write_h5ad(cells)
    found = ask(tiny_treated_run, cells, out=out)
    before = out.read_bytes()
    assert join([start(killed_while_writing, str(tiny_treated_run.path), str(cells), str(out))], 60) == [-9]
    assert out.read_bytes() == before and same(found.adata().X[:120], controls.X)
    ask(tiny_treated_run, cells, out=out)  # and clears away what the dead one left
    assert sorted(path.name for path in tmp_path.iterdir()) == ["controls.h5ad", "p.effects.csv", "p.h5ad"]
