"""Scores of responses against direct formulae; chance levels; what cheats must not win; cell-eval and POT."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from syncyte.baselines.response import MeanAcrossContexts, NoChange, PerturbedMean, fit_means
from syncyte.errors import DataError
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.metrics.differential import Differences, differential, significance_weights
from syncyte.metrics.prediction import log_cp10k
from syncyte.metrics.response import (
    HEADLINE,
    HIGHER,
    LOWER,
    check_controls,
    score_cells,
    score_responses,
    split_controls,
    summarise,
)

GENES = np.array([f"g{i}" for i in range(40)])
NAMES = ["g3", "other", ("g5", "g6"), "g39", "x", "y"]


def profiles(seed: int = 0, units: int = 6, genes: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    control = np.repeat(rng.gamma(1.0, 1.0, (1, genes)), units, axis=0)
    shared = rng.normal(0, 0.3, genes)
    real = control + shared + rng.normal(0, 0.4, (units, genes))
    predicted = control + shared + 0.5 * (real - control - shared) + rng.normal(0, 0.2, (units, genes))
    start = control + rng.normal(0, 0.05, (units, genes))
    return {"predicted": predicted, "real": real, "control": control, "reference": control[0] + shared, "start": start}


def drawn_tests(seed: int, units: int = 6, genes: int = 40) -> Differences:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2.5, (units, genes))
    p = 2 * stats.norm.sf(np.abs(z))
    return Differences(z / 3, p, stats.false_discovery_control(p, axis=1), z)


def test_scores_are_their_formulae():
    data, real, made = profiles(), drawn_tests(1), drawn_tests(2)
    table = score_responses(
        **data, perturbations=NAMES, genes=GENES, differences=real, predicted_differences=made
    ).set_index("perturbation")
    assert list(table.index) == ["g3", "other", "g5+g6", "g39", "x", "y"]
    for i, drop in enumerate([[3], [], [5, 6], [39], [], []]):
        keep, row = np.setdiff1d(np.arange(40), drop), table.iloc[i]
        guess, truth, control, start = (data[k][i, keep] for k in ("predicted", "real", "control", "start"))
        middle = data["reference"][keep]
        assert row["pearson_delta"] == pytest.approx(np.corrcoef(guess - start, truth - control)[0, 1])
        assert row["pearson_delta_reference"] == pytest.approx(np.corrcoef(guess - middle, truth - middle)[0, 1])
        assert row["mae"] == pytest.approx(np.abs(guess - truth).mean())
        top = keep[np.argsort(real.p_value[i, keep])][:20]
        assert row["mae_top20"] == pytest.approx(np.abs(data["predicted"][i] - data["real"][i])[top].mean())
        assert row["mae_top100"] == pytest.approx(row["mae"])
        weights = significance_weights(real.statistic)[i, keep]
        error = np.average((guess - truth) ** 2, weights=weights)
        assert row["weighted_mse"] == pytest.approx(error)
        for name, shift in (("weighted_r2", truth - control), ("weighted_r2_reference", truth - middle)):
            spread = np.average((shift - np.average(shift, weights=weights)) ** 2, weights=weights)
            assert row[name] == pytest.approx(1 - error / spread)
        hit = real.fdr[i, keep] < 0.05
        assert row["significant"] == hit.sum() > 2
        effects = (truth - control)[hit], (guess - start)[hit]
        assert row["spearman_de"] == pytest.approx(stats.spearmanr(*effects).statistic)
        assert row["direction_match"] == np.mean(np.sign(effects[0]) == np.sign(effects[1]))
        largest = np.argsort(-np.abs(guess - start))[: hit.sum()]
        assert row["effect_overlap"] == hit[largest].mean()
        assert 0 <= row["de_overlap"] <= 1 and 0 <= row["de_precision"] <= 1 and 0 < row["de_pr_auc"] <= 1


def test_ranks_are_their_definition():
    data = profiles(3)
    table = score_responses(**data, perturbations=NAMES, genes=GENES)
    effect, true = data["predicted"] - data["start"], data["real"] - data["control"]
    for i, drop in enumerate([[3], [], [5, 6], [39], [], []]):
        keep = np.setdiff1d(np.arange(40), drop)

        def rank(made, others, distance, keep=keep, own=i):
            found = [distance(made[keep], other[keep]) for other in others]
            return sum(value < found[own] for value in found)

        def cosine(a, b):
            return -a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)

        for name, distance in (
            ("pds_l1", lambda a, b: np.abs(a - b).sum()),
            ("pds_l2", lambda a, b: np.sqrt(((a - b) ** 2).sum())),
            ("pds_cosine", cosine),
        ):
            assert table[name][i] == pytest.approx(1 - rank(effect[i], true, distance) / 6)
        centred = [data[side] - data[side].mean(axis=0) for side in ("predicted", "real")]
        about = rank(centred[0][i], centred[1], cosine)
        assert table["pds_centred"][i] == pytest.approx(1 - about / 6)
        near = rank(data["predicted"][i], data["real"], lambda a, b: ((a - b) ** 2).sum())
        assert table["centroid_accuracy"][i] == pytest.approx(1 - near / 5)
        bench = rank(data["real"][i], data["predicted"], lambda a, b: ((a - b) ** 2).sum())
        assert table["perturbench_rank"][i] == pytest.approx(bench / 6)


def test_a_perfect_prediction_is_perfect():
    data = profiles(1)
    data = data | {"predicted": data["real"], "start": data["control"]}
    table = score_responses(**data, perturbations=NAMES, genes=GENES, differences=drawn_tests(1))
    perfect = [score for score in HIGHER if not score.startswith("de_") and score != "effect_overlap"]
    np.testing.assert_allclose(table[perfect], 1.0)
    np.testing.assert_allclose(table[list(LOWER)], 0.0, atol=1e-12)


def test_one_answer_for_all_is_at_chance():
    data = profiles(2, units=9)
    names = [f"p{i}" for i in range(9)]
    for guess in (data["control"], np.repeat(data["predicted"][:1], 9, axis=0)):
        table = score_responses(**data | {"predicted": guess, "start": data["control"]}, perturbations=names)
        for name in ("pds_l1", "pds_l2", "pds_cosine", "pds_centred"):
            assert table[name].mean() == pytest.approx(10 / 18)
        assert table["centroid_accuracy"].mean() == pytest.approx(0.5)
        assert table["perturbench_rank"].tolist() == pytest.approx([4 / 9] * 9)


def test_the_mean_baseline_has_no_correlation_about_the_mean():
    data = profiles()
    for kind in (np.float64, np.float32):
        mean = np.repeat(data["reference"][None], 6, axis=0).astype(kind)
        table = score_responses(**data | {"predicted": mean}, perturbations=NAMES, genes=GENES)
        assert table["pearson_delta_reference"].isna().all() and table["pearson_delta"].min() > 0.2
        assert table["pds_centred"].mean() == pytest.approx(7 / 12)
        wide = score_responses(**data | {"predicted": mean, "reference": mean}, perturbations=NAMES, genes=GENES)
        pd.testing.assert_frame_equal(wide, table, rtol=1e-6)  # one reference for all, or one a unit
        row = summarise(table, np.random.default_rng(0)).set_index("score").loc["pearson_delta_reference"]
        assert np.isnan(row["mean"]) and row["nan_rate"] == 1 and row["units"] == 0
    weighted = score_responses(**data | {"predicted": mean}, perturbations=NAMES, weights=np.ones((6, 40)))
    assert (weighted["weighted_r2_reference"] <= 1e-9).all()


def test_ranks_stay_inside_a_context():
    data = profiles(4, units=12)
    names, contexts = [f"p{i % 6}" for i in range(12)], ["a"] * 6 + ["b"] * 6
    both = score_responses(**data, perturbations=names, contexts=contexts)
    for rows in (slice(0, 6), slice(6, 12)):
        part = {name: values if name == "reference" else values[rows] for name, values in data.items()}
        own = score_responses(**part, perturbations=names[rows], contexts=contexts[rows])
        pd.testing.assert_frame_equal(both.iloc[rows].reset_index(drop=True), own)
    alone = score_responses(**{k: v if k == "reference" else v[:1] for k, v in data.items()}, perturbations=["p"])
    assert np.isnan(alone["pds_l2"][0]) and np.isfinite(alone["pearson_delta"][0])


@pytest.mark.parametrize("split", [True, False])
def test_shared_controls_reward_no_change(split: bool):
    """On cells without any effect, predictions of control cells correlate with 'effects' only by shared controls."""
    rng = np.random.default_rng(0)
    predicted, real, control, start = [], [], [], []
    for _ in range(30):
        cells = log_cp10k(sp.csr_matrix(rng.poisson(rng.gamma(1, 1, 150), (240, 150))))
        pool, treated = np.arange(180), np.arange(180, 240)
        given, begin, other = split_controls(pool, rng, 3)
        if not split:
            begin = other = np.concatenate([begin, other])[:60]
        for out, rows in ((predicted, given), (real, treated), (control, other), (start, begin)):
            out.append(np.asarray(cells[rows].mean(axis=0)).ravel())
    scores = score_responses(
        predicted,
        real,
        control,
        start=start,
        reference=np.mean(real, axis=0),
        perturbations=[str(i) for i in range(30)],
    )["pearson_delta"]
    assert abs(scores.mean()) < 0.05 if split else scores.mean() > 0.3


@cache
def world() -> dict:
    """Three contexts, 26 perturbations with a common shift, own effects and a little that is particular to contexts.

    The last context was trained with half of the perturbations; predictions are of the others there.
    """
    rng = np.random.default_rng(7)
    genes, names, each = 150, [f"p{i}" for i in range(40)], 30
    rates = np.exp(rng.normal(0, 1, (3, 1, genes)) * 0.3 + rng.normal(0, 1, genes))
    common = rng.normal(0, 0.4, genes) * (rng.random(genes) < 0.3)
    own = rng.normal(0, 0.5, (40, genes)) * (rng.random((40, genes)) < 0.1)
    effects = np.concatenate([np.zeros((1, genes)), common + own])
    effects = effects + rng.normal(0, 0.3, (3, 41, genes)) * (effects != 0)
    labels = [(c, p, k) for c in range(3) for p in range(41) for k in range(4 * each if p == 0 else each)]
    context, kind, _ = (np.array(column) for column in zip(*labels))
    counts = sp.csr_matrix(
        rng.poisson(rng.gamma(8, 1 / 8, (len(labels), 1)) * (rates * np.exp(effects))[context, kind])
    )
    label = np.array(["control", *names])[kind]
    begin, other = split_controls(np.flatnonzero((context == 2) & (kind == 0)), rng)
    train = (context < 2) | (kind <= 20)
    train[other] = False
    groups, means, _ = fit_means(counts[train], context[train].astype(str), label[train])
    return {"counts": counts, "label": label, "context": context, "begin": begin, "other": other, "held": names[20:],
            "groups": groups, "means": means, "values": log_cp10k(counts)}  # fmt: skip


def mean_of(rows: np.ndarray) -> np.ndarray:
    return np.asarray(world()["values"][rows].mean(axis=0)).ravel()


@cache
def truth() -> dict:
    w = world()
    rows = [np.flatnonzero((w["context"] == 2) & (w["label"] == name)) for name in w["held"]]
    other = np.isin(np.arange(len(w["label"])), w["other"])
    tables = [differential(w["counts"], np.isin(np.arange(len(other)), own), other) for own in rows]
    model = PerturbedMean(by_context=True).fit(w["groups"], w["means"], "control")
    return {
        "real": np.stack([mean_of(own) for own in rows]),
        "control": np.repeat(mean_of(w["other"])[None], 20, axis=0),
        "start": np.repeat(mean_of(w["begin"])[None], 20, axis=0),
        "reference": model.predict("2", "p0"),
        "perturbations": w["held"],
        "differences": Differences.stack(tables),
    }


def answers(model) -> np.ndarray:
    w = world()
    model.fit(w["groups"], w["means"], "control")
    return np.stack([model.predict("2", name, control_mean=mean_of(w["begin"])) for name in w["held"]])


def score(predicted: np.ndarray, spread: float = 1.0, **changed) -> pd.DataFrame:
    """Scores of predicted means, and of cells that vary around them as control cells do, times ``spread``."""
    w, given = world(), truth() | changed
    begin = w["values"][w["begin"]].toarray()
    tables = []
    for mean in predicted:
        made = np.maximum(mean + spread * (begin - begin.mean(axis=0)), 0)
        cells = sp.csr_matrix(np.concatenate([made, w["values"][w["other"]].toarray()]))
        first = np.arange(cells.shape[0]) < len(begin)
        tables.append(differential(cells, first, ~first, logged=True))
    return score_responses(predicted, **given, predicted_differences=Differences.stack(tables))


def headline(table: pd.DataFrame) -> pd.Series:
    return summarise(table, np.random.default_rng(0)).set_index("score")["mean"][list(HEADLINE)]


def test_the_honest_baseline_does_well():
    honest, nothing = score(answers(MeanAcrossContexts())), score(answers(NoChange()))
    assert (headline(honest) > [0.2, 0.9, 0.0]).all()
    assert nothing["pearson_delta"].isna().all() and nothing["effect_overlap"].max() == 0
    assert nothing["pds_cosine"].mean() == pytest.approx(21 / 40)
    common = score(answers(PerturbedMean(by_context=True)))
    assert common["pearson_delta"].mean() > 0.3 and common["pearson_delta_reference"].isna().all()
    summary = summarise(honest, np.random.default_rng(0), baseline=common).set_index("score")
    assert summary.loc["pds_centred", "skill_low"] > 0.7 and np.isnan(summary.loc["pearson_delta_reference", "skill"])
    assert summary.loc["weighted_mse", "skill_low"] > 0


@pytest.mark.parametrize("cheat", ["duplicated mean", "inflated variance", "noise", "scaled", "shuffled", "controls"])
def test_a_cheat_does_not_beat_the_honest_baseline(cheat: str):
    honest = answers(MeanAcrossContexts())
    start, rng = truth()["start"], np.random.default_rng(1)
    made, spread, changed = honest, 1.0, {}
    if cheat == "duplicated mean":
        made, spread = np.repeat(honest.mean(axis=0)[None], 20, axis=0), 1e-3
    elif cheat == "inflated variance":
        spread = 3.0
    elif cheat == "noise":
        made = honest + rng.normal(0, honest.std(axis=0), honest.shape)
    elif cheat == "scaled":
        made = start + 4 * (honest - start)
    elif cheat == "shuffled":
        made = honest[np.roll(np.arange(20), 5)]
    else:  # as if the effect began elsewhere, so that the common shift is in the control already
        changed = {"start": honest.mean(axis=0) + 0 * start}
    before, after = score(honest), score(made, spread, **changed)
    good, bad = headline(before), headline(after).fillna(0)
    assert (bad <= good + 1e-9).all()
    if cheat in ("duplicated mean", "noise", "shuffled"):
        assert (bad < good - 0.03).all()
    elif cheat == "scaled":  # the usual scores can be bought, these cannot
        assert after["pds_l2"].mean() > before["pds_l2"].mean() and bad["pds_centred"] == good["pds_centred"]
    else:
        pd.testing.assert_series_equal(good, bad)
    if cheat == "controls":
        assert after["pds_cosine"].mean() > before["pds_cosine"].mean()


def test_altered_controls_are_refused():
    real = sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (5, 8)))
    check_controls(real, real.copy())
    altered = real.copy()
    altered.data[0] += 1
    for wrong in (altered, real[::-1], real[:4], real * 0.5):
        with pytest.raises(DataError, match="unchanged"):
            check_controls(real, wrong)


def test_summary_by_hand():
    data = profiles(5, units=12)
    names, contexts = [f"p{i % 6}" for i in range(12)], ["a"] * 6 + ["b"] * 6
    model = score_responses(**data, perturbations=names, contexts=contexts)
    worse = score_responses(**data | {"predicted": profiles(6, units=12)["predicted"]}, perturbations=names,
                            contexts=contexts)  # fmt: skip
    best = score_responses(**data | {"predicted": data["real"] + 0.01 * data["predicted"]}, perturbations=names,
                           contexts=contexts)  # fmt: skip
    table = summarise(model, np.random.default_rng(0), worse.iloc[::-1], best).set_index(["score", "context"])
    for name in ("pearson_delta", "mae"):
        row, own = table.loc[name, "all"], model[name].to_numpy()
        assert row["mean"] == pytest.approx(own.mean()) and row["units"] == 12 and row["nan_rate"] == 0
        gap = best[name].mean() - worse[name].mean()
        assert row["skill"] == pytest.approx((own.mean() - worse[name].mean()) / gap)
        assert row["skill_low"] < row["skill"] < row["skill_high"] and 0 < row["skill"] < 1
        pairs = own.reshape(2, 6).mean(axis=0)  # both contexts of a perturbation are drawn together
        wanted = bootstrap_interval(pairs, np.random.default_rng(1))
        assert row["low"] == pytest.approx(wanted.low, abs=0.02) and row["high"] == pytest.approx(wanted.high, abs=0.02)
        assert table.loc[(name, "a"), "mean"] == pytest.approx(own[:6].mean())
    backwards = summarise(worse, np.random.default_rng(0), best, model).set_index(["score", "context"])
    assert np.isnan(backwards.loc[("mae", "all"), "skill"])  # nothing to gain over a baseline above the ceiling
    with pytest.raises(DataError, match="same units"):
        summarise(model, np.random.default_rng(0), worse.iloc[:5])
    with pytest.raises(DataError, match="Unknown column"):
        summarise(model, np.random.default_rng(0), unit="perturbatio")


def test_cells_are_scored_beside_their_floor():
    rng = np.random.default_rng(0)
    real, alike, far, mean = (rng.normal(size=(200, 5)), rng.normal(size=(150, 5)), rng.normal(1, 1, (150, 5)),
                              np.zeros((150, 5)))  # fmt: skip
    good, bad, flat = (score_cells(real, made, np.random.default_rng(1)) for made in (alike, far, mean))
    assert good["cells"] == 100 and score_cells(real, far, rng, most=30)["cells"] == 30
    assert good["w2"] == pytest.approx(good["w2_floor"], rel=0.15) and abs(good["energy"]) < 0.1
    for name in ("energy", "mmd2", "w2"):
        assert bad[name] > 1.3 * abs(good[name]) and flat[name] > good[name]
        assert bad[f"{name}_floor"] == good[f"{name}_floor"]
    with pytest.raises(DataError, match="At least 4"):
        score_cells(real[:3], alike, rng)


def test_distances_of_cells_are_those_of_pot():
    ot = pytest.importorskip("ot")
    rng = np.random.default_rng(2)
    real, made = rng.normal(size=(60, 4)), rng.normal(0.5, 1.2, (30, 4))
    found, rng = score_cells(real, made, np.random.default_rng(3)), np.random.default_rng(3)
    order = rng.permutation(60)
    wanted = ot.emd2([], [], ot.dist(real[order[:30]], made[rng.permutation(30)]))
    assert found["w2"] == pytest.approx(np.sqrt(wanted))


def test_scores_are_those_of_cell_eval():
    pytest.importorskip("cell_eval")
    import anndata as ad
    from cell_eval._types import PerturbationAnndataPair
    from cell_eval.metrics import _anndata

    data = profiles(8)
    names = np.array(["g3", "g5", "g39", "x", "y", "z"])
    order = np.argsort(names)

    def file(made: np.ndarray) -> ad.AnnData:
        obs = pd.DataFrame({"target": ["control", *names]}, index=[str(i) for i in range(7)])
        return ad.AnnData(np.vstack([data["control"][:1], made]), obs=obs, var=pd.DataFrame(index=GENES))

    pair = PerturbationAnndataPair(file(data["real"]), file(data["predicted"]), "target", "control")
    own = score_responses(data["predicted"], data["real"], data["control"], reference=data["reference"],
                          perturbations=list(names), genes=GENES)  # fmt: skip
    for name, kind in (("pds_l1", "l1"), ("pds_l2", "l2"), ("pds_cosine", "cosine")):
        theirs = _anndata.discrimination_score(pair, metric=kind)
        np.testing.assert_allclose(own[name].iloc[order], [theirs[one] for one in names[order]])
    whole = score_responses(data["predicted"], data["real"], data["control"], reference=data["reference"],
                            perturbations=list(names))  # fmt: skip
    for name, call in (("pearson_delta", _anndata.pearson_delta), ("mae", _anndata.mae), ("mse", _anndata.mse)):
        theirs = call(pair)
        np.testing.assert_allclose(whole[name], [theirs[one] for one in names])


def test_what_does_not_fit_is_refused():
    data = profiles()
    with pytest.raises(DataError, match="found the shapes"):
        score_responses(**data | {"real": data["real"][:, :-1]}, perturbations=NAMES)
    with pytest.raises(DataError, match="6 profiles, 5 perturbations"):
        score_responses(**data, perturbations=NAMES[:5])
    with pytest.raises(DataError, match="more than once"):
        score_responses(**data, perturbations=["a"] * 6)
    with pytest.raises(DataError, match="same genes"):
        score_responses(**data, perturbations=NAMES, weights=np.ones((6, 3)))
    with pytest.raises(DataError, match="NaN"):
        score_responses(**data | {"predicted": np.full((6, 40), np.nan)}, perturbations=NAMES)
    with pytest.raises(DataError, match="cannot be split"):
        split_controls([1, 1, 2], np.random.default_rng(0))
    parts = split_controls(np.arange(7), np.random.default_rng(0), 3)
    assert sorted(np.concatenate(parts)) == list(range(7)) and [len(part) for part in parts] == [3, 2, 2]
