from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.metrics import prediction
from syncyte.metrics.openness import bernoulli_deviance, brier, score_open


@pytest.fixture(scope="module")
def world():
    """Cells of three types and wide depth; ``rate`` is the truth that made them."""
    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b", "c"], 100)
    profile = rng.gamma(0.7, 1.0, (3, 200))
    profile /= profile.sum(axis=1, keepdims=True)
    depth = rng.gamma(4, 10, (300, 1))
    rate = profile[np.repeat(np.arange(3), 100)] * depth
    counts = sp.csr_matrix((rng.poisson(rate) > 0).astype(np.float32))
    return counts, types, 1 - np.exp(-rate)


def test_deviance_and_brier_by_formula(world):
    counts, _, p = world
    y = counts.toarray()
    safe = np.clip(p, 1e-6, 1 - 1e-6)
    expected = -2 * (y * np.log(safe) + (1 - y) * np.log(1 - safe)).sum(axis=0)
    assert np.allclose(bernoulli_deviance(p, counts.tocsc()), expected)
    assert np.allclose(brier(p, counts.tocsc()), ((y - p) ** 2).sum(axis=0))


def test_mean_profile_has_no_skill_but_scores_under_true_depth(world):
    counts, types, _ = world
    null = np.asarray(counts.mean(axis=0)).ravel()
    scores = score_open(np.tile(null, (300, 1)), counts, null, types=types)
    assert scores.summary["auroc"] == pytest.approx(0.5) and scores.summary["auroc_in_type"] == pytest.approx(0.5)
    assert abs(scores.summary["d2"]) < 1e-6 and abs(scores.summary["brier_skill"]) < 1e-6
    assert scores.summary["level_r"] == 0
    assert scores.summary["auroc_profile"] > 0.6  # depth alone: the trap that auroc_profile's floor shows
    assert scores.summary["level_ratio"] == pytest.approx(1)


def test_truth_beats_type_mean_beats_mean(world):
    counts, types, p = world
    null = np.asarray(counts.mean(axis=0)).ravel()
    means = np.stack([np.asarray(counts[types == kind].mean(axis=0)).ravel() for kind in "abc"])
    middle = score_open(means[np.repeat(np.arange(3), 100)], counts, null, types=types).summary
    best = score_open(p, counts, null, types=types).summary
    assert 0 < middle["d2"] < best["d2"] < 1 and 0 < middle["brier_skill"] < best["brier_skill"]
    assert middle["auroc_in_type"] == pytest.approx(0.5) and best["auroc_in_type"] > 0.6
    assert best["auroc_like_depth"] > 0.6 and abs(best["auroc_in_type_depth"] - 0.5) < 0.04  # nothing else is left
    assert best["level_r"] > 0.9 and best["auroc_profile"] == pytest.approx(best["auroc"], abs=0.03)
    assert best["ece"] < 0.02 and best["auprc"] > best["prevalence"]


def test_only_the_profile_counts_in_auroc_profile(world):
    counts, _, p = world
    rate = -np.log1p(-p)
    wrong_level = 1 - np.exp(-rate / rate.sum(axis=1, keepdims=True) * np.random.default_rng(0).gamma(2, 10, (300, 1)))
    null = np.asarray(counts.mean(axis=0)).ravel()
    first, second = score_open(p, counts, null).summary, score_open(wrong_level, counts, null).summary
    assert second["auroc_profile"] == pytest.approx(first["auroc_profile"], abs=1e-4)
    assert second["auroc"] < first["auroc"] - 0.02


def test_calibration_by_technical_batch(world):
    counts, _, p = world
    lanes = np.array(["x", "y"])[np.arange(300) % 2]
    over = np.where((lanes == "y")[:, None], np.minimum(2 * p, 0.99), p)
    table = score_open(over, counts, np.full(200, 0.1), batches=lanes).batches.set_index("batch")
    assert table.loc["x", "ratio"] == pytest.approx(1, abs=0.05) and table.loc["y", "ratio"] > 1.5
    assert table.loc["y", "ece"] > 3 * table.loc["x", "ece"]


def test_reliability_table_adds_up(world):
    counts, _, p = world
    scores = score_open(p, counts, np.full(200, 0.1), min_cells=0)
    table = scores.reliability
    assert table["entries"].sum() == counts.shape[0] * counts.shape[1]
    assert (table["entries"] * table["observed"]).sum() == pytest.approx(counts.nnz)
    assert (table["entries"] * table["predicted"]).sum() == pytest.approx(p.sum())
    inside = table[table["entries"] > 500]
    assert np.allclose(inside["predicted"], inside["observed"], atol=0.03)


def test_float32_blocks_and_counts_above_one_make_no_difference(world, monkeypatch):
    counts, types, p = world
    null = np.asarray(counts.mean(axis=0)).ravel()
    whole = score_open(p, counts, null, types=types)
    monkeypatch.setattr(prediction, "BLOCK", 300 * 7)
    more = counts.copy()
    more.data *= 3
    parts = score_open(lambda columns: p[:, columns].astype(np.float32), more, null, types=types)
    assert parts.summary == pytest.approx(whole.summary, abs=1e-4)
    assert more.data.max() == 3  # the truth handed in stays as it was


def test_nothing_to_score_gives_no_ranking():
    counts = sp.csr_matrix(np.eye(4, dtype=np.float32))
    scores = score_open(np.full((4, 4), 0.25), counts, np.full(4, 0.25))
    assert scores.summary["features"] == 0 and np.isnan(scores.summary["auroc"])
    assert abs(scores.summary["d2_all"]) < 1e-6
