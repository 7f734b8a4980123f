"""Scores of generated counts against closed forms, and what cheats must not win."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import ks_2samp, kstest, nbinom

import syncyte.metrics.realism as realism
from syncyte.errors import DataError
from syncyte.metrics.realism import correlation_error, gene_table, quantile_residual_ks, score_counts, split_half

GENES = 60
WEIGHT = np.random.default_rng(9).normal(0, 0.65, (3, GENES))
BASE = np.random.default_rng(8).normal(0.0, 1.2, GENES)
ERRORS = ("zero_error", "log_mean_error", "log_variance_error", "library_ks", "correlation_error")


def means(cells: int, seed: int) -> np.ndarray:
    """Rates with three programmes and a depth of each cell."""
    rng = np.random.default_rng(seed)
    rate = np.exp(BASE + rng.normal(size=(cells, 3)) @ WEIGHT)
    return rate / rate.sum(axis=1, keepdims=True) * 120 * np.exp(0.4 * rng.normal(size=(cells, 1)))


def drawn(mean: np.ndarray, seed: int, theta: float = 1.5) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    return sp.csr_matrix(rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape)).astype(np.float32))


REAL = drawn(means(1500, 0), 10)
OTHER = drawn(means(1500, 1), 11)


def test_numbers_are_their_definitions():
    scores, table = score_counts(REAL, OTHER), gene_table(REAL, OTHER)
    a, b = REAL.toarray().astype(float), OTHER.toarray().astype(float)
    for side, x in (("real", a), ("made", b)):
        np.testing.assert_allclose(table[f"mean_{side}"], x.mean(axis=0))
        np.testing.assert_allclose(table[f"variance_{side}"], x.var(axis=0, ddof=1), rtol=1e-10)
        np.testing.assert_allclose(table[f"zeros_{side}"], (x == 0).mean(axis=0))
        assert scores[f"zeros_{side}"] == pytest.approx((x == 0).mean())
        seen = (a > 0).sum(axis=0) >= 10
        fit = np.polyfit(*(np.log(np.maximum(v[seen], 1 / 1500)) for v in (x.mean(0), x.var(0, ddof=1))), 1)
        assert scores[f"slope_{side}"] == pytest.approx(fit[0], rel=1e-6)
    assert scores["features"] == seen.sum()
    assert scores["zero_error"] == pytest.approx(np.abs((a == 0).mean(0) - (b == 0).mean(0)).mean())
    assert scores["library_ks"] == pytest.approx(ks_2samp(a.sum(1), b.sum(1)).statistic)
    assert scores["library_ratio"] == pytest.approx(np.median(b.sum(1)) / np.median(a.sum(1)))
    logs = [np.log1p(1e4 * x / x.sum(1, keepdims=True)) for x in (a, b)]
    top = np.argsort(-logs[0].var(axis=0))[:20]
    pairs = np.triu_indices(20, 1)
    first, second = (np.corrcoef(x[:, top].T)[pairs] for x in logs)
    assert correlation_error(REAL, OTHER, top=20) == pytest.approx(np.abs(first - second).mean(), rel=1e-4)


def test_blocks_change_nothing(monkeypatch):
    whole = score_counts(REAL, OTHER)
    mean, theta = means(1500, 0), np.full(GENES, 3.0)
    residuals = quantile_residual_ks(REAL, mean, theta, np.random.default_rng(0))
    monkeypatch.setattr(realism, "ROWS", 77)
    monkeypatch.setattr(realism, "BLOCK", 91 * GENES)
    small = score_counts(REAL, OTHER)
    assert small == pytest.approx(whole, rel=1e-9)
    again = quantile_residual_ks(REAL, lambda rows: mean[rows], theta, np.random.default_rng(0))
    np.testing.assert_array_equal(again, residuals)


def test_a_resampled_copy_has_no_error():
    order = np.random.default_rng(0).permutation(1500)
    scores = score_counts(REAL, REAL[order])
    assert all(abs(scores[key]) < 1e-6 for key in ERRORS)
    assert scores["library_ratio"] == 1 and scores["slope_real"] == pytest.approx(scores["slope_made"])


def test_fresh_cells_come_near_the_floor_and_unequal_numbers_are_fine():
    floor = score_counts(REAL[:750], REAL[750:])
    fresh = score_counts(REAL, drawn(means(700, 5), 12))
    assert all(fresh[key] < 2 * floor[key] for key in ERRORS)
    assert fresh["library_ratio"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("cheat", ["means", "poisson", "inflated", "shuffled", "shallow", "one depth", "lost genes"])
def test_a_cheat_loses_where_it_should(cheat):
    mean = means(1500, 1)
    honest, floor = score_counts(REAL, OTHER), score_counts(REAL[:750], REAL[750:])
    rng = np.random.default_rng(3)
    values = OTHER.toarray()
    made, worse = {
        "means": (sp.csr_matrix(mean), ("zero_error", "log_variance_error", "correlation_error")),
        "poisson": (drawn(mean, 4, theta=1e6), ("zero_error", "log_variance_error")),
        "inflated": (drawn(mean, 4, theta=0.4), ("zero_error", "log_variance_error")),
        "shuffled": (sp.csr_matrix(rng.permuted(values, axis=0)), ("correlation_error",)),
        "shallow": (drawn(0.5 * mean, 4), ("zero_error", "log_mean_error", "library_ks")),
        "one depth": (drawn(mean / mean.sum(1, keepdims=True) * 120, 4), ("library_ks",)),
        "lost genes": (sp.csr_matrix(values * (np.arange(GENES) % 5 > 0)), ("log_mean_error", "log_variance_error")),
    }[cheat]
    scores = score_counts(REAL, made)
    for key in worse:
        assert scores[key] > 2 * max(honest[key], floor[key]), key
    if cheat == "means":
        assert scores["zeros_made"] == 0 and scores["slope_made"] != pytest.approx(scores["slope_real"], abs=0.02)
    if cheat == "poisson":
        assert scores["zeros_made"] < honest["zeros_made"] and scores["slope_made"] < honest["slope_made"]
    if cheat == "shallow":
        assert scores["library_ratio"] == pytest.approx(0.5, rel=0.1)


def test_slope_is_one_for_poisson_and_near_two_for_noise():
    level = np.exp(np.linspace(-1, 4, 80))
    rng = np.random.default_rng(0)
    plain = sp.csr_matrix(rng.poisson(np.tile(level, (2000, 1))).astype(float))
    wide = sp.csr_matrix(rng.poisson(level * rng.gamma(0.2, 5.0, (2000, 80))).astype(float))
    scores = score_counts(plain, wide)
    assert scores["slope_real"] == pytest.approx(1.0, abs=0.03) and 1.6 < scores["slope_made"] < 2.0


def test_moments_of_large_counts_keep_their_digits():
    rng = np.random.default_rng(0)
    x = rng.poisson(1e6, (400, 3)).astype(np.float64)
    table = gene_table(sp.csr_matrix(x), sp.csr_matrix(x + 0))
    np.testing.assert_allclose(table["variance_real"], x.var(axis=0, ddof=1), rtol=1e-9)


def test_right_predictions_have_uniform_residuals_and_wrong_ones_have_not():
    mean, theta = means(1500, 0), np.random.default_rng(1).uniform(0.5, 5.0, GENES)
    counts = drawn(mean, 3, theta=theta)
    right = quantile_residual_ks(counts, mean, theta, np.random.default_rng(0))
    floor = 0.87 / np.sqrt(1500)
    assert right.mean() == pytest.approx(floor, rel=0.15) and right.max() < 3 * floor
    often = mean.mean(axis=0) > 1.0
    for mean_, theta_ in ((mean, 8 * theta), (mean, theta / 8), (1.5 * mean, theta), (mean, 1e6)):
        wrong = quantile_residual_ks(counts, mean_, np.broadcast_to(theta_, GENES), np.random.default_rng(0))
        assert wrong[often].mean() > 2.5 * right[often].mean()


def test_residuals_are_those_of_scipy():
    mean, theta = means(400, 0), np.full(GENES, 2.0)
    counts = drawn(mean, 3, theta=2.0)
    found = quantile_residual_ks(counts, mean, 2.0, np.random.default_rng(7))
    place, x = np.random.default_rng(7).random(mean.shape), counts.toarray()
    below, upto = (nbinom.cdf(v, theta, theta / (theta + mean)) for v in (x - 1, x))
    uniform = below + place * (upto - below)
    wanted = np.array([kstest(column, "uniform").statistic for column in uniform.T])
    assert (found <= wanted + 1e-9).all() and (found >= wanted - 1 / 512 - 1e-9).all()


def test_halves_sum_to_the_whole_and_are_independent_given_the_rate():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(3.0, (4000, 4)).astype(np.float32))
    first, second = split_half(counts, np.random.default_rng(1))
    assert (first + second != counts).nnz == 0 and first.dtype == np.float32
    assert first.data.min() > 0 and second.data.min() > 0 and (first.data % 1 == 0).all()
    for half in (first, second):
        assert half.mean() == pytest.approx(1.5, abs=0.03)
    r = np.corrcoef(first.toarray().ravel(), second.toarray().ravel())[0, 1]
    assert abs(r) < 0.03  # halves of a Poisson are independent
    again, _ = split_half(counts, np.random.default_rng(1))
    assert (first != again).nnz == 0
    with pytest.raises(DataError, match=r"found \d+\.5"):
        split_half(counts * 0.5, np.random.default_rng(1))


def test_odd_sets():
    empty = sp.csr_matrix((5, GENES), dtype=np.float32)
    scores = score_counts(REAL, empty)
    assert scores["zeros_made"] == 1 and scores["library_ks"] == 1 and np.isfinite(scores["correlation_error"])
    assert np.isnan(score_counts(empty, REAL)["correlation_error"])
    twice = sp.csr_matrix(([1.0, 2.0, 4.0], [0, 0, 1], [0, 2, 3]), shape=(2, 2))  # one place stored twice
    np.testing.assert_allclose(gene_table(twice, twice)["mean_real"], [1.5, 2.0])
    assert twice.nnz == 3


def test_what_cannot_be_used_is_said():
    with pytest.raises(DataError, match="same features"):
        score_counts(REAL, OTHER[:, :5])
    with pytest.raises(DataError, match="must be a sparse matrix"):
        score_counts(REAL, OTHER.toarray())
    with pytest.raises(DataError, match="Made cells hold negative"):
        gene_table(REAL, -OTHER)
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="Predict every entry"):
        quantile_residual_ks(REAL, means(10, 0), 2.0, rng)
    with pytest.raises(DataError, match="not their logarithms"):
        quantile_residual_ks(REAL, np.log(means(1500, 0)), 2.0, rng)
    with pytest.raises(DataError, match="above zero"):
        quantile_residual_ks(REAL, means(1500, 0), 0.0, rng)
