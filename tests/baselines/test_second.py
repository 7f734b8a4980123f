"""A second opinion on labels: heard where it knows more, silent where it does not, kept and restored."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines.genewise import GeneClassifier
from syncyte.baselines.second import WEIGHTS, SecondOpinion


def world(cells: int = 240, seed: int = 0):
    """Three labels: genes tell the first from the others, vectors the second from the third."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(3, size=cells)
    rates = np.full((cells, 30), 2.0)
    rates[codes == 0, :8] = 9.0
    counts = sp.csr_matrix(rng.poisson(rates).astype(np.float32))
    vectors = rng.normal(size=(cells, 5))
    vectors[:, 0] += 4 * (codes == 1) - 4 * (codes == 2)
    return counts, vectors, np.array(["a", "b", "c"])[codes]


def accuracy(chance, classes, labels) -> float:
    return float((np.asarray(classes)[chance.argmax(axis=1)] == labels).mean())


def test_it_is_heard_where_it_knows_more():
    counts, vectors, labels = world()
    first = GeneClassifier().fit(counts, labels)
    second = SecondOpinion().fit(first, vectors, labels)
    assert second.weight in WEIGHTS[1:]
    new_counts, new_vectors, truth = world(seed=1)
    alone = first.predict(new_counts)
    both = second.mix(alone, new_vectors)
    assert np.allclose(both.sum(axis=1), 1)
    assert accuracy(both, first.classes, truth) > accuracy(alone, first.classes, truth) + 0.15


def test_noise_is_not_heard():
    counts, _, labels = world()
    first = GeneClassifier().fit(counts, labels)
    second = SecondOpinion().fit(first, np.random.default_rng(3).normal(size=(len(labels), 40)), labels)
    chance = first.predict(counts)
    assert second.weight == 0 and second.mix(chance, np.zeros((len(labels), 40))) is chance


def test_it_comes_back_as_it_was():
    counts, vectors, labels = world()
    first = GeneClassifier().fit(counts, labels)
    second = SecondOpinion().fit(first, vectors, labels)
    again = SecondOpinion.restore(second.arrays())
    chance = first.predict(counts)
    assert np.allclose(again.mix(chance, vectors), second.mix(chance, vectors), atol=1e-5)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c", "rare"]])
def test_two_labels_and_rare_ones(labels):
    counts, vectors, names = world()
    names = np.where(names == "c", "b", names) if len(labels) == 2 else names.copy()
    if "rare" in labels:
        names = names.astype("U4")
        names[0] = "rare"  # the fold that holds it out knows nothing of it
    first = GeneClassifier().fit(counts, names)
    found = SecondOpinion().fit(first, vectors, names).mix(first.predict(counts), vectors)
    assert found.shape == (len(names), len(labels)) and np.isfinite(found).all()
    assert accuracy(found, first.classes, names) > 0.8
