"""The mix of types is no shift of a laboratory, and missing genes are told by the measured ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines.genewise import OWN, STRETCH, GeneClassifier

GENES = 60


def draw(cells: int, seed: int, share: tuple[float, ...] = (0.5, 0.3, 0.2)) -> tuple[sp.csr_matrix, np.ndarray]:
    world, rng = np.random.default_rng(5), np.random.default_rng(seed)
    rate = world.gamma(1.0, 2.0, (1, GENES)) * np.exp(world.normal(0, 0.5, (3, GENES)))
    kind = rng.choice(3, cells, p=share)
    return sp.csr_matrix(rng.poisson(rate[kind]).astype(np.float32)), np.array(["B", "Mono", "T"])[kind]


@pytest.fixture(scope="module")
def fitted() -> GeneClassifier:
    return GeneClassifier().fit(*draw(600, 0))


def right(
    model: GeneClassifier, counts: sp.csr_matrix, labels: np.ndarray, measured: np.ndarray | None = None
) -> float:
    return float((model.classes[model.predict(counts, measured).argmax(axis=1)] == labels).mean())


def test_a_sorted_sample_is_not_stretched_over_all_types(fitted):
    arrays = fitted.arrays()  # equal class means: own statistics with no regard to the mix
    naive = GeneClassifier.restore(
        arrays | {"middle": np.tile(arrays["mean"], (3, 1)), "within": np.tile(arrays["spread"], (3, 1))},
        fitted.classes,
    )
    for share in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        sample = draw(500, 1, share)
        assert right(fitted, *sample) > max(0.85, right(naive, *sample) + 0.2)
    mixed = draw(500, 1)
    assert right(fitted, *mixed) > right(naive, *mixed) - 0.01


def test_own_statistics_by_hand(fitted):
    mix = np.array([0.2, 0.3, 0.5])
    expected = mix @ fitted.middle
    variance = mix @ (fitted.within**2 + fitted.middle**2) - expected**2
    mean, spread = fitted._own(expected, variance, mix, 50)  # as expected of the mix: the statistics of training
    np.testing.assert_allclose(mean, fitted.mean, atol=1e-9)
    np.testing.assert_allclose(spread, fitted.spread, rtol=1e-9)
    mean, _ = fitted._own(expected + 0.4, variance, mix, int(OWN))  # a shift counts by n / (n + k)
    np.testing.assert_allclose(mean, fitted.mean + 0.2, atol=1e-9)
    _, spread = fitted._own(expected, 1e6 * variance, mix, 50)
    np.testing.assert_allclose(spread, STRETCH * fitted.spread, rtol=1e-9)


def test_missing_genes_are_told_by_the_measured_ones(fitted):
    measured = np.arange(GENES) % 4 == 0
    weights = fitted._passed_on(measured)
    assert not weights[:, ~measured].any()
    factors = ((fitted.middle - fitted.mean) / fitted.spread).T
    noise = np.diag(np.maximum(((fitted.within / fitted.spread) ** 2).mean(axis=0), 0.05))
    covariance = factors @ factors.T / 3 + noise  # of all genes, with the types alike
    told = covariance[np.ix_(~measured, measured)] @ np.linalg.inv(covariance[np.ix_(measured, measured)])
    np.testing.assert_allclose(
        weights[:, measured], fitted.weights[:, measured] + fitted.weights[:, ~measured] @ told, rtol=1e-6, atol=1e-9
    )
    np.testing.assert_array_equal(fitted._passed_on(np.ones(GENES, dtype=bool)), fitted.weights)


def test_rare_types_are_found_without_their_genes(fitted):
    measured = np.arange(GENES) % 4 == 0
    counts, labels = draw(800, 3)
    part = sp.csr_matrix(counts @ sp.diags(measured.astype(float)))
    told = (fitted.predict(part, measured).argmax(axis=1) == 2)[labels == "T"].mean()
    arrays = fitted.arrays()
    flat = GeneClassifier.restore(arrays | {"middle": np.tile(arrays["mean"], (3, 1))}, fitted.classes)
    assert told > (flat.predict(part, measured).argmax(axis=1) == 2)[labels == "T"].mean()


def test_nothing_wide_is_made_dense(monkeypatch):
    counts, labels = draw(400, 2)

    def refuse(self, *given, **named):
        raise AssertionError(f"a matrix of shape {self.shape} was made dense")

    for kind in (sp.csr_matrix, sp.csc_matrix):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, refuse)
    assert right(GeneClassifier().fit(counts, labels), counts, labels) > 0.9


def test_the_arrays_bring_it_back(fitted):
    counts, _ = draw(100, 4)
    again = GeneClassifier.restore(fitted.arrays(), fitted.classes)
    np.testing.assert_allclose(again.predict(counts), fitted.predict(counts), atol=1e-4)
