"""The kernel of gapped words against counting pairs of words, and its machine against plain regression."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from tests.sequences import background, planted

from syncyte.baselines.spectrum import (
    contrast_transform,
    fit_machine,
    fit_spectrum,
    group_folds,
    kernel,
    kernel_weights,
    orders,
)
from syncyte.errors import ConfigError, DataError
from syncyte.genome.sequence import reverse_complement


def gapped(left: np.ndarray, right: np.ndarray, informative: int) -> int:
    """Choices of places in which two words agree, counted one by one."""
    places = combinations(range(len(left)), informative)
    return sum(all(left[at] == right[at] for at in choice) for choice in places)


@pytest.mark.parametrize(("k", "informative"), [(3, 1), (3, 2), (4, 3), (4, 4)])
def test_the_kernel_counts_gapped_words(k: int, informative: int):
    rng = np.random.default_rng(k)
    words = rng.integers(0, 4, (6, k))
    ones = np.zeros((6, 4**k), dtype=np.float32)
    ones[np.arange(6), words @ 4 ** np.arange(k - 1, -1, -1)] = 1
    features = contrast_transform(ones, k)
    found = (features * kernel_weights(k, informative)[orders(k)]) @ features.T
    expected = [[gapped(left, right, informative) for right in words] for left in words]
    assert found == pytest.approx(np.array(expected), abs=1e-3)


def test_the_transform_is_its_own_inverse():
    table = np.random.default_rng(0).normal(size=(3, 4**5)).astype(np.float32)
    assert contrast_transform(contrast_transform(table, 5), 5) == pytest.approx(table, abs=1e-5)


def test_axes_are_those_of_the_full_kernel():
    """With as many axes as landmarks less one, cosines of axes are cosines of centred features."""
    codes = background(12, 80, 0)
    spectrum, rows = fit_spectrum(codes, k=4, informative=3, axes=50, landmarks=12)
    assert rows.tolist() == list(range(12))
    weights = kernel_weights(4, 3)[orders(4)]
    strands = np.concatenate([codes, reverse_complement(codes)])
    full = np.zeros((24, 256), dtype=np.float32)
    for at in range(77):
        np.add.at(full, (np.arange(24), strands[:, at : at + 4] @ np.array([64, 16, 4, 1])), 1)
    features = contrast_transform(full[:12] + full[12:], 4) * np.sqrt(weights)
    features -= features.mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    axes = spectrum.transform(codes)
    assert axes @ axes.T == pytest.approx(features @ features.T, abs=1e-3)


def test_axes_do_not_know_the_strand():
    codes = background(30, 90, 1)
    spectrum, _ = fit_spectrum(codes, k=5, informative=4, axes=10)
    assert spectrum.transform(codes) == pytest.approx(spectrum.transform(reverse_complement(codes)), abs=1e-5)
    padded = spectrum.padded(20).transform(codes)
    assert padded[:, :10] == pytest.approx(spectrum.transform(codes)) and (padded[:, 10:] == 0).all()


def test_the_machine_finds_a_motif_and_unseen_answers_are_honest():
    codes, y = planted(600, 2)
    groups = np.array([f"chr{number % 5}" for number in range(600)])
    spectrum, rows = fit_spectrum(codes, k=6, informative=5, axes=100, landmarks=300)
    axes = spectrum.transform(codes)
    machine, unseen = fit_machine(axes, y, groups, spectrum, rows)
    held, held_y = planted(300, 17)
    guess = machine.predict(held)[:, 0]
    order = guess[held_y == 1][:, None] > guess[held_y == 0]
    assert order.mean() > 0.85
    own = machine.from_axes(axes)[:, 0]
    assert np.abs(own[y == 1].mean() - own[y == 0].mean()) > np.abs(unseen[y == 1].mean() - unseen[y == 0].mean())
    shares = 1 / (1 + np.exp(-unseen[:, 0]))
    assert shares.mean() == pytest.approx(y.mean(), abs=0.02)  # calibrated on rows it had not seen
    assert machine.padded(400).from_axes(axes) == pytest.approx(machine.from_axes(axes), abs=1e-5)


def test_shuffled_targets_teach_nothing_unseen():
    codes, y = planted(600, 4)
    groups = np.array([f"chr{number % 5}" for number in range(600)])
    spectrum, rows = fit_spectrum(codes, k=5, informative=4, axes=50, landmarks=200)
    mixed = np.random.default_rng(0).permutation(y)
    _, unseen = fit_machine(spectrum.transform(codes), mixed, groups, spectrum, rows)
    order = unseen[mixed == 1] > unseen[mixed == 0].T
    assert abs(order.mean() - 0.5) < 0.08


def test_counts_and_constant_targets():
    codes, y = planted(200, 6)
    groups = np.repeat(["a", "b", "c", "d"], 50)
    spectrum, rows = fit_spectrum(codes, k=5, informative=4, axes=40)
    axes = spectrum.transform(codes)
    machine, _ = fit_machine(axes, np.full(200, 7.0), groups, spectrum, rows, task="count")
    assert machine.from_axes(axes) == pytest.approx(np.log(8.0), abs=1e-3)
    machine, _ = fit_machine(axes, np.stack([y, np.ones(200)], axis=1), groups, spectrum, rows)
    assert machine.from_axes(axes)[:, 1] == pytest.approx(4.0, abs=1e-3)


def test_folds_keep_chromosomes_whole():
    groups = np.repeat(["a", "b", "c", "d", "e"], [50, 10, 20, 30, 5])
    fold = group_folds(groups, 3)
    assert all(len(set(fold[groups == name])) == 1 for name in "abcde") and set(fold) == {0, 1, 2}
    assert group_folds(["x"] * 4, 3).tolist() == [0, 0, 0, 0]


def test_kernels_of_equal_axes_are_one():
    axes = np.eye(3, dtype=np.float32)
    assert np.diag(kernel(axes, axes, 2.0)) == pytest.approx(1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="informative"):
        fit_spectrum(background(5, 30, 0), k=4, informative=5)
    with pytest.raises(DataError, match="at least 2"):
        fit_spectrum(np.full((5, 30), 4, dtype=np.uint8), k=4, informative=3)
