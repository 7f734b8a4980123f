"""Tests of effects against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from syncyte.tasks.variant_tests import adjusted, empirical, over_donors

NAN = float("nan")


def test_empirical_p_by_hand():
    null = np.array([0.1, 0.5, 0.5, 0.9])
    assert empirical(0.5, null) == (1 + 3) / 5
    assert empirical(2.0, null) == 1 / 5, "never below what the number of draws can say"
    assert empirical(0.0, null) == 1
    assert empirical(0.5, np.append(null, NAN)) == (1 + 3) / 5
    assert np.isnan(empirical(NAN, null))
    assert np.isnan(empirical(0.5, np.array([NAN])))
    assert np.isnan(empirical(0.5, np.empty(0)))


def test_adjusted_is_benjamini_and_hochberg():
    p = np.random.default_rng(0).uniform(0, 1, 40) ** 3
    assert adjusted(p) == pytest.approx(stats.false_discovery_control(p))
    order = np.argsort(p)
    by_hand = np.minimum.accumulate((p[order] * 40 / np.arange(1, 41))[::-1])[::-1]
    assert adjusted(p)[order] == pytest.approx(by_hand)


def test_tests_that_were_not_made_do_not_count():
    p = np.array([0.01, NAN, 0.04, NAN])
    found = adjusted(p)
    assert np.isnan(found[[1, 3]]).all()
    assert found[[0, 2]] == pytest.approx(stats.false_discovery_control([0.01, 0.04]))
    assert np.isnan(adjusted(np.array([NAN]))).all()
    assert adjusted(np.empty(0)).shape == (0,)


def test_one_donor_gives_no_p():
    found = over_donors(np.array([[1.0], [2.0]]))
    assert found["mean"].tolist() == [1, 2]
    assert found["donors"].tolist() == [1, 1]
    for name in ("p", "low", "high"):
        assert np.isnan(found[name]).all()


def test_two_donors_give_an_interval_and_no_p():
    found = over_donors(np.array([[1.0, 3.0]]))
    assert (found["low"][0], found["mean"][0], found["high"][0]) == (1, 2, 3)
    assert np.isnan(found["p"]).all()


def test_three_donors_are_tested_as_scipy_does():
    values = np.random.default_rng(0).normal(0.5, 1, (50, 3))
    found = over_donors(values)
    assert found["p"] == pytest.approx(stats.ttest_1samp(values, 0, axis=1).pvalue)
    assert found["mean"] == pytest.approx(values.mean(axis=1))
    assert ((found["low"] <= found["mean"]) & (found["mean"] <= found["high"])).all()


def test_donors_without_cells_are_left_out():
    values = np.array([[1.0, 2.0, NAN, 4.0], [NAN] * 4, [1.0, NAN, NAN, NAN], [1.0, 2.0, 3.0, 5.0]])
    found = over_donors(values)
    assert found["donors"].tolist() == [3, 0, 1, 4]
    assert found["mean"][[0, 2, 3]] == pytest.approx([7 / 3, 1, 11 / 4])
    assert np.isnan(found["mean"][1])
    assert found["p"][0] == pytest.approx(stats.ttest_1samp([1, 2, 4], 0).pvalue)
    assert np.isnan(found["p"][[1, 2]]).all()


def test_agreement_to_the_last_digit_is_no_miracle():
    found = over_donors(np.array([[0.3, 0.3, 0.3], [0.0, 0.0, 0.0]]))
    assert found["p"][0] == pytest.approx(2 * stats.t.sf(1000, 2))
    assert found["p"][1] == 1


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=(5, 6))
    first, second = over_donors(values, seed=2), over_donors(values, seed=2)
    assert np.array_equal(first["low"], second["low"])


def test_an_interval_covers_the_mean_of_donors_nearly_always():
    values = np.random.default_rng(1).normal(1, 1, (400, 12))
    found = over_donors(values)
    covered = ((found["low"] <= 1) & (found["high"] >= 1)).mean()
    assert 0.85 < covered < 0.98
