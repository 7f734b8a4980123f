from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from tests.baselines.paired import simulate

from syncyte.baselines.linear import SvdRidge
from syncyte.baselines.mean import MeanProfile, MeanTimesDepth, TypeMean, true_depth
from syncyte.baselines.neighbors import NeighborTransfer
from syncyte.baselines.prediction import LOWEST, Averaged, Factored, fit_scale, log_cp10k
from syncyte.baselines.space import Space

CELLS = simulate(1200)
TRAIN, TEST = CELLS.part(0, 900), CELLS.part(900, 1200)
EVERY = {"open": np.arange(300), "values": np.arange(60)}


def sides(target):
    return ("genes", "regions") if target == "open" else ("regions", "genes")


def fitted(model, target):
    source, other = sides(target)
    return model.fit(getattr(TRAIN, source), getattr(TRAIN, other)).predict(getattr(TEST, source))


def error(prediction, target):
    truth = TEST.regions.toarray() if target == "open" else log_cp10k(TEST.genes).toarray()
    return float(((truth - prediction(EVERY[target])) ** 2).sum())


def models(target):
    log, residual = ("log_cp10k", "pearson") if target == "open" else ("tfidf", "depth")
    return {
        "mean": MeanProfile(target),
        "depth": MeanTimesDepth(target),
        "near": NeighborTransfer(Space(log, 8), target, 50),
        "ridge": SvdRidge(Space(log, 8), target, penalty=10.0),
        "residual": SvdRidge(Space(residual, 8), target, penalty=10.0),
    }


@pytest.mark.parametrize("target", ["open", "values"])
def test_better_knowledge_predicts_better(target):
    errors = {name: error(fitted(model, target), target) for name, model in models(target).items()}
    assert errors["depth"] < errors["mean"]
    assert max(errors["near"], errors["ridge"], errors["residual"]) < errors["mean"]
    assert errors["ridge"] < errors["depth"] and errors["residual"] < errors["depth"]


@pytest.mark.parametrize("target", ["open", "values"])
def test_predictions_stay_in_their_limits_and_come_in_blocks(target):
    for model in models(target).values():
        prediction = fitted(model, target)
        assert prediction.shape == (300, len(EVERY[target]))
        block = prediction(EVERY[target])
        assert block.dtype == np.float32 and block.min() >= (LOWEST * 0.99 if target == "open" else 0)
        assert target == "values" or block.max() < 1
        some = np.array([7, 3, 50])
        assert np.allclose(prediction(some), block[:, some], atol=1e-6)


def test_the_target_is_never_looked_at():
    for target in ("open", "values"):
        source = sides(target)[0]
        for model in models(target).values():
            first = fitted(model, target)(EVERY[target])
            again = model.predict(getattr(TEST, source).copy())(EVERY[target])  # predict has no way to be given it
            assert np.array_equal(first, again)


def test_mean_profile_is_the_training_mean():
    block = fitted(MeanProfile("open"), "open")(EVERY["open"])
    expected = np.asarray(TRAIN.regions.mean(axis=0)).ravel()
    assert np.allclose(block, np.clip(expected, LOWEST, None)[None], atol=1e-6)


def test_level_follows_depth():
    model = MeanTimesDepth("open").fit(TRAIN.genes, TRAIN.regions)
    level, true = model.level_of(TEST.genes), true_depth(TEST.regions)
    assert np.corrcoef(np.log(level), np.log(true + 1))[0, 1] > 0.6
    assert level.mean() == pytest.approx(true.mean(), rel=0.15)


def test_type_mean_is_an_oracle_with_a_fallback():
    model = TypeMean("open").fit(TRAIN.genes, TRAIN.regions, TRAIN.types)
    block = model.predict(TEST.genes, TEST.types)(EVERY["open"])
    alpha = np.asarray(TRAIN.regions[TRAIN.types == "alpha"].mean(axis=0)).ravel()
    assert np.allclose(block[TEST.types == "alpha"], alpha, atol=0.01)
    unseen = model.predict(TEST.genes[:1], ["omega"])(EVERY["open"])
    assert np.allclose(unseen, np.asarray(TRAIN.regions.mean(axis=0)), atol=1e-5)
    deep = model.predict(TEST.genes, TEST.types, true_depth(TEST.regions))
    assert error(deep, "open") < error(model.predict(TEST.genes, TEST.types), "open")


def test_neighbours_average_training_cells():
    model = NeighborTransfer(Space("log_cp10k", 8), "open", 1).fit(TRAIN.genes, TRAIN.regions)
    itself = model.predict(TRAIN.genes[:20])(EVERY["open"])
    assert np.allclose(itself, np.clip(TRAIN.regions[:20].toarray(), LOWEST, 1 - LOWEST))


def test_ridge_is_the_closed_form():
    model = SvdRidge(Space("log_cp10k", 5), "values", penalty=7.0).fit(TRAIN.genes, TRAIN.genes)
    scores = Space("log_cp10k", 5).fit(TRAIN.genes).transform(TRAIN.genes).astype(float)
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0).max()
    truth = log_cp10k(TRAIN.genes).toarray().astype(float)
    weights = np.linalg.solve(scores.T @ scores + 7 * np.eye(5), scores.T @ (truth - truth.mean(axis=0)))
    expected = np.maximum(scores @ weights + truth.mean(axis=0), 0)
    assert np.allclose(model.predict(TRAIN.genes)(EVERY["values"]), expected, atol=1e-3)


def test_penalty_is_chosen_by_the_score_given():
    model = SvdRidge(Space("log_cp10k", 8), "open").fit(TRAIN.genes, TRAIN.regions)
    assert model.penalty == 3000
    best = model.tuned(TEST.genes, lambda prediction: -error(prediction, "open"), (1.0, 30.0, 1e6))
    assert best.penalty in (1.0, 30.0) and model.penalty == 3000
    direct = SvdRidge(Space("log_cp10k", 8), "open", best.penalty).fit(TRAIN.genes, TRAIN.regions)
    assert np.array_equal(best.predict(TEST.genes)(EVERY["open"]), direct.predict(TEST.genes)(EVERY["open"]))
    assert error(best.predict(TEST.genes), "open") <= error(model.predict(TEST.genes), "open")


def test_depth_is_given_back_to_residual_scalings_only():
    assert SvdRidge(Space("pearson"), "open").with_depth and SvdRidge(Space("depth"), "values").with_depth
    assert not SvdRidge(Space("tfidf"), "values").with_depth
    assert not SvdRidge(Space("depth"), "values", with_depth=False).with_depth


def test_fit_scale_is_least_squares_without_negative_slopes():
    rng = np.random.default_rng(0)
    raw = rng.random((200, 3))
    truth = np.column_stack([2 * raw[:, 0] + 1, -raw[:, 1] + 2, np.ones(200)])
    slope, intercept = fit_scale(lambda columns: raw[:, columns], sp.csr_matrix(truth))
    assert np.allclose(slope, [2, 0, 0], atol=1e-6)
    assert np.allclose(intercept, [1, truth[:, 1].mean(), 1], atol=1e-6)


def test_factors_and_averages_by_hand():
    rate = Factored(np.array([[1.0], [2.0]]), np.array([[0.5, 0.0]]), np.zeros(2), "open", as_rate=True)
    assert np.allclose(rate(np.array([0])), 1 - np.exp([[-0.5], [-1.0]]))
    assert rate(np.array([1]))[0, 0] == np.float32(LOWEST)
    mean = Averaged(sp.csr_matrix([[0.5, 0.5]]), sp.csc_matrix([[1.0, 0.0], [3.0, 0.0]]), "values")
    assert mean.shape == (1, 2) and mean(np.array([0, 1])).tolist() == [[2.0, 0.0]]
