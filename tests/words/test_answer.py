"""Answers, abstention, coarser terms, clusters."""

from __future__ import annotations

import numpy as np
import pytest
from tests.blood_terms import TERMS

from syncyte.errors import ConfigError, DataError
from syncyte.words.answer import NO_ANSWER, answer, smooth, sum_up

CLASSES = ("X:4", "X:5", "X:9", "X:14")


def test_probability_goes_up_the_ontology():
    above, names = sum_up([[0.4, 0.3, 0.2, 0.1]], CLASSES, TERMS)
    found = dict(zip(names, above[0], strict=True))
    assert found["X:3"] == pytest.approx(0.7) and found["X:2"] == pytest.approx(0.9)
    assert found["X:0"] == pytest.approx(1.0) and tuple(names[:4]) == CLASSES


def test_the_deepest_sure_term_is_the_answer():
    chance = [[0.8, 0.1, 0.05, 0.05], [0.45, 0.45, 0.05, 0.05], [0.3, 0.2, 0.4, 0.1], [0.25, 0.1, 0.1, 0.55]]
    found = answer(chance, CLASSES, threshold=0.6, terms=TERMS)
    assert list(found.terms) == ["X:4", "X:3", "X:2", NO_ANSWER]
    assert list(found.coarser) == [False, True, True, False]
    assert found.labels[1] == "T cell" and found.confidence[1] == pytest.approx(0.9)
    assert found.confidence[3] == pytest.approx(0.55)


def test_without_an_ontology_a_class_or_nothing():
    found = answer([[0.7, 0.3], [0.5, 0.5]], ["a", "b"], threshold=0.6, labels={"a": "A cell"})
    assert list(found.terms) == ["a", NO_ANSWER] and found.labels[0] == "A cell"
    with pytest.raises(ConfigError, match="between 0 and 1"):
        answer([[1.0]], ["a"], threshold=2)
    with pytest.raises(DataError, match="one column"):
        answer([[1.0]], ["a", "b"])


def test_clusters_share_their_mean():
    chance = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    np.testing.assert_allclose(smooth(chance, ["p", "p", "q"]), [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(smooth(chance, ["p", "p", "q"], 0.5)[0], [0.75, 0.25])
    np.testing.assert_allclose(smooth(chance, ["p", "p", "q"], 0.0), chance)
    with pytest.raises(DataError, match="cluster labels"):
        smooth(chance, ["p"])
    with pytest.raises(ConfigError, match="weight"):
        smooth(chance, ["p", "p", "q"], 2)
