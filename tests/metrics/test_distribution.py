"""Distances of distributions against closed forms and libraries; what cheats must not win."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from syncyte.errors import DataError
from syncyte.metrics.distribution import (
    energy_distance,
    frechet,
    median_square,
    memorisation,
    mmd2,
    one_nn,
    precision_recall,
    score_sets,
    wasserstein,
)

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(300, 6)), RNG.normal(size=(300, 6))
FAR = B + 3.0


def test_energy_and_mmd_are_their_definitions():
    x, y = A[:40], FAR[:30]
    cross, own, other = cdist(x, y), cdist(x, x), cdist(y, y)
    wanted = 2 * cross.mean() - own.sum() / (40 * 39) - other.sum() / (30 * 29)
    assert energy_distance(x, y) == pytest.approx(wanted, rel=1e-12)
    scale = np.median(own[~np.eye(40, dtype=bool)] ** 2)
    assert median_square(x) == pytest.approx(scale)
    total = 0.0
    for factor in (0.25, 0.5, 1, 2, 4):
        k = [np.exp(-(d**2) / (2 * factor * scale)) for d in (own, other, cross)]
        total += (k[0].sum() - 40) / (40 * 39) + (k[1].sum() - 30) / (30 * 29) - 2 * k[2].mean()
    assert mmd2(x, y) == pytest.approx(total / 5, rel=1e-10)
    assert mmd2(x, y, scale=2 * scale) != pytest.approx(total / 5, rel=1e-3)


def test_unbiased_distances_of_equal_distributions_are_zero_on_average():
    draws = [np.random.default_rng(seed).normal(size=(2, 60, 4)) for seed in range(60)]
    for metric, size in ((energy_distance, 0.02), (mmd2, 0.003)):
        values = [metric(*draw) for draw in draws]
        assert abs(np.mean(values)) < size and min(values) < 0 < max(values)


def test_wasserstein_of_a_shift_is_the_shift():
    assert wasserstein(A, A + np.array([3, 4, 0, 0, 0, 0])) == pytest.approx(5)
    assert wasserstein(A[:2], A[1::-1]) == 0
    one = RNG.normal(size=(50, 1)), RNG.normal(size=(50, 1))
    assert wasserstein(*one) == pytest.approx(np.sqrt(((np.sort(one[0][:, 0]) - np.sort(one[1][:, 0])) ** 2).mean()))


def test_frechet_of_gaussians():
    s = np.diag([4.0, 1.0])
    x = RNG.normal(size=(40_000, 2)) @ np.sqrt(s)
    y = RNG.normal(size=(40_000, 2)) + np.array([1.0, 2.0])
    assert frechet(x, y) == pytest.approx(1 + 4 + (2 - 1) ** 2, rel=0.03)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_one_nn_is_half_for_the_same_distribution_and_one_for_another():
    assert abs(one_nn(A, B) - 0.5) < 0.07 and one_nn(A, FAR) > 0.99
    assert one_nn(A, A) == 0.0  # the copy is always nearest: as telling as 1


def test_precision_and_recall_tell_narrow_from_wide():
    narrow, wide = precision_recall(A, 0.3 * B), precision_recall(A, 3.0 * B)
    assert narrow[0] > 0.95 and narrow[1] < 0.5
    assert wide[0] < 0.6 and wide[1] > 0.9
    radius = np.sort(cdist(A, A), axis=1)[:, 5]
    wanted = (cdist(B, A) <= radius).any(axis=1).mean()
    assert precision_recall(A, B)[0] == pytest.approx(wanted)


def test_copies_of_training_cells_are_caught():
    training, held = RNG.normal(size=(500, 6)), RNG.normal(size=(200, 6))
    honest = memorisation(RNG.normal(size=(200, 6)), training, held)
    assert honest["copies"] == 0 and 0.85 < honest["memorisation_ratio"] < 1.15
    copied = memorisation(training[:200], training, held)
    assert copied == {"memorisation_ratio": 0.0, "copies": 200.0}
    nearly = memorisation(training[:200] + 0.05 * RNG.normal(size=(200, 6)), training, held)
    assert nearly["copies"] == 0 and nearly["memorisation_ratio"] < 0.2


@pytest.mark.parametrize("cheat", ["mean", "wide", "narrow", "one type"])
def test_a_cheat_loses_to_an_honest_draw(cheat):
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 3, (3, 200))
    centres = 4 * np.eye(3, 6)
    real, honest, other = (centres[kind] + rng.normal(size=(200, 6)) for kind in kinds)
    made = {
        "mean": np.repeat(real.mean(axis=0, keepdims=True), 200, axis=0),
        "wide": 2 * other,
        "narrow": centres[kinds[2]] + 0.1 * rng.normal(size=(200, 6)),
        "one type": centres[0] + rng.normal(size=(200, 6)),
    }[cheat]
    good, bad = score_sets(real, honest), score_sets(real, made)
    for key in ("w2", "energy", "mmd2", "frechet"):
        assert good[key] < bad[key]
    assert abs(good["one_nn"] - 0.5) < abs(bad["one_nn"] - 0.5) and good["harmonic"] > bad["harmonic"]
    assert abs(good["variance_ratio"] - 1) < abs(bad["variance_ratio"] - 1)


def test_bad_sets_are_refused():
    with pytest.raises(DataError, match="equally many"):
        score_sets(A, B[:10])
    with pytest.raises(DataError, match="same space"):
        one_nn(A, B[:, :3])
    with pytest.raises(DataError, match="NaN"):
        mmd2(A, np.full_like(A, np.nan))
    with pytest.raises(DataError, match="at most 5,000"):
        wasserstein(np.zeros((5001, 1)), np.zeros((5001, 1)))
