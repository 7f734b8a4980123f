"""Responses scored beside measured ones: what is in the tables, what must win, what may not, and nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.tiny import cells_of
from tests.treated import CONTROL, FEATURES, KEY, treated

from syncyte.baselines.response import MeanAcrossContexts
from syncyte.errors import ConfigError, DataError
from syncyte.metrics.response import HEADLINE, score_responses
from syncyte.report.tables import is_oracle
from syncyte.tasks.compare_generate import Ground
from syncyte.tasks.compare_perturb import CELLS, FEWEST, SHOWN, Bench, _predicted, compare_responses, units_of
from syncyte.tasks.draw import Sampling
from syncyte.tasks.evaluate_generate import score_perturbation
from syncyte.tasks.respond import METHODS, mean_logs, open_book
from syncyte.tasks.work import Work

NAME = "syncyte tiny"
OWN = [f"{NAME}: {method}" for method in METHODS]
CHEAP = ["no change", "perturbed mean", "perturbed mean of context", "mean across contexts"]
DESCRIBED = ["bilinear", "nearest", "kernel ridge"]
ORACLE = "half of the measured cells (oracle)"


@pytest.fixture(scope="module")
def held(tiny_treated_run):
    """New cells under four drugs that training had, and one that it never saw."""
    drugs = ("d1", "d2", "d3", "d4", "d7")
    return tiny_treated_run.align(cells_of(treated(each=15, seed=9, drugs=drugs)))


@pytest.fixture(scope="module")
def ground(tiny_treated_run):
    return Ground.fit(tiny_treated_run.align(cells_of(treated())).counts("rna"), 0)


@pytest.fixture(scope="module")
def found(tiny_treated_run, held, ground):
    """The whole comparison."""
    return compare_responses(tiny_treated_run, NAME, held, KEY, CONTROL, features=FEATURES, ground=ground)


@pytest.fixture(scope="module")
def bench(tiny_treated_run, held):
    """What predictions are held against, and the effects that the regression predicts."""
    book = open_book(tiny_treated_run, KEY, CONTROL, FEATURES)
    units, _ = units_of(held, book, 0)
    effects, _, _ = _predicted(tiny_treated_run, book, held, units, "regression", Sampling(), None, 0)
    return Bench.of(tiny_treated_run, held, book, units), effects


# --- the tables ------------------------------------------------------------------------------------------------------


def test_all_methods_and_scores_are_there(found):
    assert list(found.table.index) == [*OWN, *CHEAP, *DESCRIBED, ORACLE]
    assert list(found.table.columns) == [*SHOWN, *CELLS]
    units = found.units.groupby("method", sort=False)
    assert list(units.groups) == list(found.table.index) and set(units.size()) == {17}
    assert len(found.units) == 11 * 17 and set(found.units["perturbation"]) == {"d1", "d2", "d3", "d4", "d7"}
    means = units[SHOWN].mean().loc[found.table.index]
    pd.testing.assert_frame_equal(means, found.table[SHOWN], check_names=False)
    assert found.scatter["measured"].shape == found.scatter["predicted"].shape == (80,)
    assert np.corrcoef(found.scatter["measured"], found.scatter["predicted"])[0, 1] > 0.3


def test_units_have_cells_enough_and_two_parts_of_their_controls(tiny_treated_run, held):
    book = open_book(tiny_treated_run, KEY, CONTROL)
    units, notes = units_of(held, book, 0)
    values, kinds = held.obs[KEY].astype(str).to_numpy(), held.obs["cell_type"].astype(str).to_numpy()
    for unit in units:
        assert (values[unit.perturbed] == unit.perturbation).all() and (kinds[unit.perturbed] == unit.context).all()
        both = np.concatenate([unit.start, unit.against])
        assert sorted(both) == np.flatnonzero((values == CONTROL) & (kinds == unit.context)).tolist()
        assert len(unit.perturbed) >= FEWEST
    sizes = pd.Series(list(zip(kinds, values, strict=True)))[values != CONTROL].value_counts().sort_index()
    few = sizes[sizes < FEWEST]
    assert len(units) == len(sizes) - len(few) == 17
    listed = ", ".join(f"{drug} in {kind} ({n})" for (kind, drug), n in few.items())
    assert notes == [f"Left out for fewer than 10 cells: {listed}."]
    lone = np.flatnonzero(~((kinds == "B") & (values == CONTROL)))
    assert units_of(held.take(lone), book, 0)[1][-1] == "Left out for fewer than 20 control cells: B."


def test_words_say_what_was_done(found):
    assert found.notes[-1].startswith(f"Intervals: {OWN[0]} beside bilinear, the best cheap rule by correlation")
    assert "d7 was never seen: its effect comes from features of perturbations." in found.notes
    assert "d7 was never seen: the flow is told its features." in found.notes


def test_oracles_are_shown_and_not_judged(found):
    """The best row of all is what intervals close on, and not what they are held against."""
    table = found.table
    assert is_oracle(ORACLE) and not any(is_oracle(name) for name in table.index[:-1])
    rising = [name for name in SHOWN if name != "mae_top20"]
    assert (table.drop(index=ORACLE)[rising].max() <= table.loc[ORACLE, rising]).all()
    assert table["mae_top20"].idxmin() == ORACLE and table.loc[ORACLE, CELLS].isna().all()
    assert list(found.intervals.index) == [name for name in found.intervals.index if name in SHOWN]
    assert set(found.intervals.index) == set(SHOWN) and "context" not in found.intervals.columns
    row = found.intervals.loc["pearson_delta"]
    assert row["baseline"] == pytest.approx(table.loc[[*CHEAP, *DESCRIBED], "pearson_delta"].max())
    assert row["ceiling"] == pytest.approx(table.loc[ORACLE, "pearson_delta"])
    assert row["mean"] == pytest.approx(table.loc[OWN[0], "pearson_delta"])
    assert row["low"] < row["mean"] < row["high"] < row["ceiling"]


def test_scores_are_those_of_the_predicted_means(found, bench, tiny_treated_run):
    """Against a direct call: the run's own row, and a rule that is fitted by hand."""
    measured, effects = bench
    groups = open_book(tiny_treated_run, KEY, CONTROL).groups
    rule = MeanAcrossContexts().fit(groups.table.assign(cells=groups.cells), groups.means, CONTROL)
    units, start, against = measured.units, measured.start, measured.against
    rows = [(unit.context, unit.perturbation) for unit in units]
    predicted = {OWN[0]: start + effects}
    predicted["mean across contexts"] = np.stack([rule.predict(*row, base) for row, base in zip(rows, start)])
    reference = np.stack([rule.predict(context, "other", base) for (context, _), base in zip(rows, against)])
    for name, means in predicted.items():
        wanted = score_responses(
            means,
            np.stack([mean_logs(measured.counts[unit.perturbed]) for unit in units]),
            np.stack([mean_logs(measured.counts[unit.against]) for unit in units]),
            reference=reference,
            perturbations=[unit.perturbation for unit in units],
            contexts=[unit.context for unit in units],
            genes=measured.genes,
            start=np.stack([mean_logs(measured.counts[unit.start]) for unit in units]),
        )
        columns = ["pearson_delta", "pearson_delta_reference", "pds_centred", "pds_l1"]
        np.testing.assert_allclose(found.table.loc[name, columns], wanted[columns].mean(), rtol=1e-5, err_msg=name)


def test_it_is_the_same_again_and_other_with_another_seed(tiny_treated_run, held):
    one, again, other = (
        compare_responses(tiny_treated_run, NAME, held, KEY, CONTROL, methods=["flow"], seed=seed).table
        for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(one, again)
    assert list(one.index) == [OWN[2], *CHEAP, ORACLE] and list(one.columns) == SHOWN
    assert (one.loc[OWN[2]] != other.loc[OWN[2]]).any()


# --- what must win, and what may not ---------------------------------------------------------------------------------


def test_a_run_that_knows_the_effects_wins(found):
    """Over the mean of each drug over types, which no features of drugs help."""
    table, scores = found.table, ["pearson_delta", "pearson_delta_reference", "pds_centred"]
    assert (table.loc[OWN[0], scores] > table.loc[CHEAP[3], scores]).all()
    assert (table.loc[OWN, "pds_centred"] > 0.75).all() and (table.loc[OWN, "direction_match"] > 0.85).all()
    assert (table.loc[OWN, "energy"] < table.loc["no change", "energy"]).all()


def test_what_is_the_same_for_all_tells_nothing_apart(bench):
    """The mean of all effects, handed out to each: it correlates, and no perturbation can be told by it."""
    measured, effects = bench
    honest = measured.score(measured.start + effects)
    truth = measured.real - measured.against
    cheat = measured.score(measured.start + truth.mean(axis=0))  # and knows even the measured mean
    assert cheat["pearson_delta"].mean() > 0.3
    assert cheat["pds_centred"].mean() < 0.7 < 0.9 < honest["pds_centred"].mean()
    assert cheat["pearson_delta_reference"].mean() < honest["pearson_delta_reference"].mean()


def test_shuffled_labels_lose(bench):
    """The right cells of the wrong perturbation."""
    measured, effects = bench
    honest, order = measured.score(measured.start + effects), np.arange(len(effects))
    contexts = np.array([unit.context for unit in measured.units])
    for context in np.unique(contexts):
        own = np.flatnonzero(contexts == context)
        order[own] = np.roll(own, 1)
    cheat = measured.score(measured.start + effects[order])
    for score in ("pearson_delta", "pearson_delta_reference", "pds_centred", "pds_l1", "weighted_r2"):
        assert cheat[score].mean() < honest[score].mean() - 0.1, score
    assert cheat["mae_top20"].mean() > honest["mae_top20"].mean() + 0.1


def test_altered_controls_buy_nothing(bench):
    """Nothing predicted, and controls shifted so that it looks like an effect."""
    measured, effects = bench
    honest = measured.score(measured.start + effects)
    common = (measured.real - measured.against).mean(axis=0)
    cheat = replace(measured, start=measured.start - common).score(measured.start)
    plain = measured.score(measured.start)
    assert plain["pearson_delta"].isna().all() and cheat["pearson_delta"].mean() > 0.3  # bought
    for score in HEADLINE:
        np.testing.assert_array_equal(cheat[score], plain[score])  # which see predicted means alone
        assert cheat[score].mean() < honest[score].mean() - 0.1, score


# --- nothing leaks ---------------------------------------------------------------------------------------------------


def test_predictions_do_not_see_the_perturbed_cells(tiny_treated_run, held, bench):
    """The same, bit for bit, where all perturbed cells and the other part of the controls hold noise."""
    book = open_book(tiny_treated_run, KEY, CONTROL, FEATURES)
    units, _ = units_of(held, book, 0)
    counts = held.counts("rna").toarray()
    seen = np.concatenate([unit.start for unit in units])
    hidden = np.setdiff1d(np.arange(len(held)), seen)
    counts[hidden] = np.random.default_rng(0).poisson(9.0, (len(hidden), 80))
    altered = treated(each=15, seed=9, drugs=("d1", "d2", "d3", "d4", "d7"))
    altered.X = sp.csr_matrix(counts.astype(np.int32))
    noise = tiny_treated_run.align(cells_of(altered))
    for method in METHODS:
        first, second = (
            _predicted(tiny_treated_run, book, cells, units, method, Sampling(), None, 0)[0] for cells in (held, noise)
        )
        np.testing.assert_array_equal(first, second, err_msg=method)
    changed = Bench.of(tiny_treated_run, noise, book, units)
    assert not np.allclose(changed.real, bench[0].real)  # noise was scored


# --- what is refused, and the section of a report --------------------------------------------------------------------


def test_what_cannot_be_scored_is_said(tiny_treated_run, held):
    values = held.obs[KEY].astype(str).to_numpy()
    with pytest.raises(DataError, match=r"No perturbation can be scored: the held-out cells have control cells only\."):
        compare_responses(tiny_treated_run, NAME, held.take(np.flatnonzero(values == CONTROL)), KEY, CONTROL)
    with pytest.raises(DataError, match=r"Left out for fewer than 20 control cells: B, CD14 Mono, CD4 T"):
        compare_responses(tiny_treated_run, NAME, held.take(np.flatnonzero(values != CONTROL)), KEY, CONTROL)
    with pytest.raises(DataError, match=r"Unknown control value of 'drug' 'ctrl'.*Known: d1, d2"):
        compare_responses(tiny_treated_run, NAME, held, KEY, "ctrl")


def test_an_evaluation_holds_responses_where_they_are_asked_for(tiny_treated_run, held):
    known = tiny_treated_run.align(cells_of(treated()))

    def score(asked: str | None, given=held) -> Work:
        work = Work(tiny_treated_run, NAME, given, known, None, "cell_type", 0, lambda text: None, given=given)
        score_perturbation(work, asked)
        return work

    work = score(f"{KEY}={CONTROL}")
    assert list(work.tables) == ["perturb", "perturb intervals", "perturb units"] and not work.notes
    assert list(work.tables["perturb"].index) == [*OWN, *CHEAP, ORACLE]
    assert f"{ORACLE}, B, d1" in work.tables["perturb units"].index and "Intervals: " in work.text["perturb"]
    assert set(work.arrays["perturb"]) == {"measured", "predicted"}
    assert score(None).notes == ["Responses are not scored: say --perturbation KEY=CONTROL (KEY: cell_type, drug)."]
    bare = score(f"{KEY}={CONTROL}", held.take(np.flatnonzero((held.obs[KEY] == CONTROL).to_numpy())))
    assert bare.notes[0].startswith("WARNING: responses are not scored. No perturbation can be") and not bare.tables
    with pytest.raises(ConfigError, match="expected KEY=CONTROL, such as condition=ctrl"):
        score(KEY)
    with pytest.raises(DataError, match=r"'drg'\. Did you mean 'drug'"):
        score("drg=none")
