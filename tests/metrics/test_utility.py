"""Utility of generated cells: right, useless and rare-type cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from syncyte.errors import DataError
from syncyte.metrics.utility import classifier_utility, compare_utility

CENTRES = np.random.default_rng(0).normal(0, 1.2, (3, 6))
SHARES = (0.72, 0.25, 0.03)
SCORES = ["accuracy", "macro_f1", "accuracy_balanced", "macro_f1_balanced"]


def cells(n: int, seed: int, shares: tuple[float, ...] = SHARES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=shares)
    return CENTRES[kind] + rng.normal(size=(n, 6)), np.array(["common", "middle", "rare"])[kind]


def test_scores_are_those_of_logistic_regression():
    (x, y), (seen, truth) = cells(400, 0), cells(300, 1)
    found = classifier_utility(x, y, seen, truth)
    assert list(found) == SCORES
    for ending, weight in (("", None), ("_balanced", "balanced")):
        guess = LogisticRegression(class_weight=weight, max_iter=2000).fit(x, y).predict(seen)
        assert found[f"accuracy{ending}"] == pytest.approx((guess == truth).mean())
        f1 = [2 * ((guess == k) & (truth == k)).sum() / ((guess == k).sum() + (truth == k).sum()) for k in set(truth)]
        assert found[f"macro_f1{ending}"] == pytest.approx(np.mean(f1))


def test_good_cells_are_as_good_as_real_ones_and_shuffled_labels_are_not():
    real, test = cells(1500, 0), cells(1500, 1)
    points, labels = cells(900, 2)
    table = compare_utility(real, (points, labels), test)
    assert list(table.columns) == ["cells", *SCORES]
    assert list(table.index) == ["real", "real, equal n", "generated", "real + balanced generated"]
    assert list(table["cells"][:3]) == [1500, 900, 900]
    assert abs(table.loc["generated", "accuracy"] - table.loc["real, equal n", "accuracy"]) < 0.02
    mixed = np.random.default_rng(0).permutation(labels)
    bad = compare_utility(real, (points, mixed), test)
    assert bad.loc["generated", "accuracy"] < table.loc["generated", "accuracy"] - 0.1
    assert bad.loc["generated", "macro_f1"] < table.loc["generated", "macro_f1"] - 0.3


def test_one_type_for_all_loses_macro_f1():
    real, test = cells(600, 0), cells(600, 1)
    collapsed = real[0], np.full(600, "common")
    table = compare_utility(real, collapsed, test)
    assert table.loc["generated", "macro_f1"] < 0.4 < table.loc["real", "macro_f1"]


def test_balanced_cells_help_a_rare_type():
    found = []
    for seed in range(5):
        real, test = cells(120, 10 + seed), cells(3000, 30 + seed)
        extra = cells(600, 50 + seed, (1 / 3, 1 / 3, 1 / 3))
        table = compare_utility(real, cells(120, 70 + seed), test, extra=extra)
        assert table.loc["real + balanced generated", "cells"] == 720
        found.append(table["macro_f1"])
    mean = np.mean(found, axis=0)
    assert mean[3] > mean[0] + 0.03


def test_balanced_cells_are_taken_from_made_as_evenly_as_it_allows():
    real, made, test = cells(300, 0), cells(600, 1), cells(300, 2)
    counts = {name: int((made[1] == name).sum()) for name in set(made[1])}
    table = compare_utility(real, made, test)
    wanted = sum(min(count, 200) for count in counts.values())
    assert table.loc["real + balanced generated", "cells"] == 300 + wanted < 900


def test_equal_n_keeps_shares_and_depends_on_the_seed_alone():
    real, made, test = cells(2000, 0), cells(100, 1), cells(500, 2)
    first, again, other = (compare_utility(real, made, test, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)
    from syncyte.metrics.utility import _subset

    labels = _subset(real, 100, np.random.default_rng(0))[1]
    for name in ("common", "middle", "rare"):
        assert abs((labels == name).mean() - (real[1] == name).mean()) <= 0.01


def test_a_type_that_no_classifier_knows_counts_as_wrong():
    (x, y), (seen, truth) = cells(500, 0), cells(500, 1)
    known = y != "middle"
    found = classifier_utility(x[known], y[known], seen, truth)
    assert found["accuracy"] < (truth != "middle").mean() + 1e-9


def test_what_cannot_be_used_is_said():
    (x, y), test = cells(50, 0), cells(50, 1)
    with pytest.raises(DataError, match="6 coordinates and test cells 4"):
        classifier_utility(x, y, test[0][:, :4], test[1])
    with pytest.raises(DataError, match="training cells have coordinates of shape"):
        classifier_utility(x, y[:5], *test)
    with pytest.raises(DataError, match="generated cells hold NaN"):
        compare_utility((x, y), (np.full_like(x, np.nan), y), test)
    with pytest.raises(DataError, match="6, 4, 4 coordinates"):
        compare_utility((x, y), (x[:, :4], y), test)
