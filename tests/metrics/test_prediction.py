from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.errors import DataError
from syncyte.metrics import prediction
from syncyte.metrics.prediction import log_cp10k, score_values


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b", "c"], 40)
    rate = rng.gamma(1.0, 1.0, (3, 25))[np.repeat(np.arange(3), 40)] * rng.gamma(5, 0.2, (120, 1))
    counts = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    return counts, types


def test_log_cp10k_by_hand():
    found = log_cp10k(sp.csr_matrix(np.array([[1.0, 3.0], [0.0, 0.0]]))).toarray()
    assert np.allclose(found, [[np.log1p(2500), np.log1p(7500)], [0, 0]])


def test_pearson_by_feature_agrees_with_numpy(cells):
    counts, types = cells
    truth = log_cp10k(counts).toarray()
    guess = truth + np.random.default_rng(1).normal(size=truth.shape)
    null = truth.mean(axis=0)
    scores = score_values(guess, counts, null, types=types, min_cells=1)
    plain = [np.corrcoef(truth[:, j], guess[:, j])[0, 1] for j in range(25)]
    assert np.allclose(scores.features["r"], plain)
    inside = []
    for j in range(25):
        both = np.stack([truth[:, j], guess[:, j]])
        for kind in "abc":
            both[:, types == kind] -= both[:, types == kind].mean(axis=1, keepdims=True)
        inside.append(np.corrcoef(both)[0, 1])
    assert np.allclose(scores.features["r_in_type"], inside)
    assert scores.summary["skill"] == pytest.approx(1 - ((truth - guess) ** 2).sum() / ((truth - null) ** 2).sum())
    across = np.mean([np.corrcoef(truth[i], guess[i])[0, 1] for i in range(120)])
    assert scores.summary["cell_r"] == pytest.approx(across)


def test_r_given_depth_is_the_partial_correlation(cells):
    counts, _ = cells
    truth = log_cp10k(counts).toarray()
    depth = np.log1p(np.asarray(counts.sum(axis=1)).ravel())
    guess = truth + 3 * depth[:, None] + np.random.default_rng(2).normal(size=truth.shape)
    found = score_values(guess, counts, truth.mean(axis=0), min_cells=1).features["r_given_depth"]
    design = np.column_stack([np.ones(120), depth])
    clean = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in (truth, guess)]
    assert np.allclose(found, [np.corrcoef(clean[0][:, j], clean[1][:, j])[0, 1] for j in range(25)])


def test_the_null_and_the_truth_bound_the_scores(cells):
    counts, types = cells
    truth = log_cp10k(counts).toarray()
    null = truth.mean(axis=0)
    flat = score_values(np.tile(null, (120, 1)), counts, null, types=types).summary
    assert flat["skill"] == pytest.approx(0) and flat["r"] == 0 and flat["r_in_type"] == 0 and np.isnan(flat["slope"])
    best = score_values(truth, counts, null, types=types).summary
    assert best["skill"] == 1 and best["r"] == pytest.approx(1) and best["slope"] == pytest.approx(1)
    means = np.stack([truth[types == kind].mean(axis=0) for kind in "abc"])[np.repeat(np.arange(3), 40)]
    assert score_values(means, counts, null, types=types).summary["r_in_type"] == 0


def test_rare_and_constant_features_are_left_out():
    counts = sp.csr_matrix(np.column_stack([np.arange(20) % 2, np.arange(20) == 3, np.zeros(20), np.arange(20) + 1]))
    guess = np.random.default_rng(0).random((20, 4))
    scores = score_values(guess, counts, np.zeros(4), min_cells=5)
    assert scores.features["column"].tolist() == [0, 3]
    assert scores.summary["features"] == 2


def test_blocks_do_not_change_anything(cells, monkeypatch):
    counts, types = cells
    truth = log_cp10k(counts).toarray()
    guess = truth + np.random.default_rng(1).normal(size=truth.shape)
    whole = score_values(guess, counts, truth.mean(axis=0), types=types, batches=types)
    monkeypatch.setattr(prediction, "BLOCK", 120 * 4)
    parts = score_values(lambda columns: guess[:, columns], counts, truth.mean(axis=0), types=types, batches=types)
    assert parts.summary == pytest.approx(whole.summary)
    assert np.allclose(parts.features["r"], whole.features["r"])


def test_levels_by_batch(cells):
    counts, types = cells
    truth = log_cp10k(counts).toarray()
    table = score_values(2 * truth, counts, truth.mean(axis=0), batches=types).batches
    assert table["batch"].tolist() == ["a", "b", "c"] and table["cells"].tolist() == [40, 40, 40]
    assert np.allclose(table["ratio"], 2)


def test_wrong_shapes_are_explained(cells):
    counts, _ = cells
    with pytest.raises(DataError, match=r"\(120, 24\).*\(120, 25\).*Align"):
        score_values(np.zeros((120, 24)), counts, np.zeros(25))
    with pytest.raises(DataError, match="3 group labels for 120 cells"):
        score_values(np.zeros((120, 25)), counts, np.zeros(25), types=["a", "b", "c"])
