from __future__ import annotations

import numpy as np
import pytest

from syncyte.errors import DataError
from syncyte.metrics import pairs
from syncyte.metrics.pairs import score_pairs


def test_perfect_match_and_chance():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 5))
    labels = np.where(a[:, 0] > 0, "p", "q")
    same = score_pairs(a, a, labels, k=1)
    assert same["foscttm"] == 0 and same["top_1"] == 1 and same["transfer_forward"] == 1 == same["transfer_back"]
    chance = score_pairs(a, rng.normal(size=(300, 5)), labels)
    assert chance["foscttm"] == pytest.approx(0.5, abs=0.03)
    assert chance["top_5"] == pytest.approx(5 / 300, abs=0.02)
    assert chance["transfer_forward"] == pytest.approx(0.5, abs=0.1)


def test_by_hand():
    a, b = np.array([[0.0], [1.0], [10.0]]), np.array([[0.4], [0.3], [9.0]])
    scores = score_pairs(a, b, tops=(1, 2))
    # a0: b1 is closer than b0; a1: b0 is closer; a2: own is nearest. b0: own is nearest; b1: a0 is closer; b2: own
    assert scores["foscttm"] == pytest.approx((1 + 1 + 0 + 0 + 1 + 0) / 6 / 2)
    assert scores["top_1"] == pytest.approx(0.5) and scores["top_2"] == 1


def test_constant_embeddings_are_chance_not_perfect():
    assert score_pairs(np.zeros((10, 2)), np.zeros((10, 2)))["foscttm"] == 0.5


def test_blocks_do_not_change_anything(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    labels = rng.integers(0, 3, 50)
    whole = score_pairs(a, b, labels)
    monkeypatch.setattr(pairs, "ROWS", 50 * 7)
    assert score_pairs(a, b, labels) == pytest.approx(whole)


def test_unequal_shapes_are_refused():
    with pytest.raises(DataError, match=r"\(4, 2\) and \(5, 2\)"):
        score_pairs(np.zeros((4, 2)), np.zeros((5, 2)))
