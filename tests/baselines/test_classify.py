from __future__ import annotations

import numpy as np
import pytest
from tests.baselines.paired import simulate

from syncyte.baselines.classify import LogisticClassifier, MajorityClassifier, MarkerScores, NeighborClassifier
from syncyte.baselines.space import Space

CELLS = simulate()
SCORES = Space("pearson", 8).fit(CELLS.genes[:600]).transform(CELLS.genes)


def accuracy(model, x) -> float:
    chance = model.predict(x)
    assert chance.shape == (len(CELLS.types[600:]), len(model.classes))
    assert np.allclose(chance.sum(axis=1), 1)
    return float((model.classes[chance.argmax(axis=1)] == CELLS.types[600:]).mean())


@pytest.mark.parametrize("model", [LogisticClassifier(), LogisticClassifier(balanced=True), NeighborClassifier()])
def test_types_are_found(model):
    assert accuracy(model.fit(SCORES[:600], CELLS.types[:600]), SCORES[600:]) > 0.9


def test_majority_knows_shares_only():
    labels = np.array(["a", "b", "b", "b"])
    model = MajorityClassifier().fit(SCORES[:4], labels)
    assert model.predict(SCORES[:2]).tolist() == [[0.25, 0.75], [0.25, 0.75]]


def test_markers_find_types_from_counts():
    model = MarkerScores(top=8).fit(CELLS.genes[:600], CELLS.types[:600])
    assert accuracy(model, CELLS.genes[600:]) > 0.8
    assert (np.count_nonzero(model.weights, axis=0) == 8).all()


def test_balance_favours_the_rare_class():
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(1000) < 0.05, "rare", "usual")
    x = rng.normal(size=(1000, 2)) + (labels == "rare")[:, None]
    plain, balanced = (LogisticClassifier(flag).fit(x, labels) for flag in (False, True))
    share = [float((model.classes[model.predict(x).argmax(1)] == "rare").mean()) for model in (plain, balanced)]
    assert share[0] < 0.05 < share[1]


def test_strength_is_chosen_on_held_out_cells():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 50)), np.tile(["a", "b"], 30)
    x[:, 0] += 2 * (labels == "b")
    held = rng.normal(size=(400, 50))
    truth = np.tile(["a", "b"], 200)
    held[:, 0] += 2 * (truth == "b")
    strengths = (1e-3, 1e-2, 1.0, 1e3)
    model = LogisticClassifier().tuned(x, labels, held, truth, strengths)
    right = {
        c: float(
            (truth == (m := LogisticClassifier(strength=c).fit(x, labels)).classes[m.predict(held).argmax(1)]).mean()
        )
        for c in strengths
    }
    assert right[model.strength] == max(right.values())
    assert np.allclose(model.predict(held), LogisticClassifier(strength=model.strength).fit(x, labels).predict(held))
