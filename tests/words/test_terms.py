"""Vectors of terms."""

from __future__ import annotations

import numpy as np
import pytest
from tests.blood_terms import CLASSES, TERMS

from syncyte.errors import ConfigError, DataError
from syncyte.words.terms import lineage, term_vectors, text_of, words_of


@pytest.mark.parametrize("kind", ["graph", "words", "both"])
def test_kin_lie_closer_than_strangers(kind):
    vectors, missing = term_vectors(["X:4", "X:5", "X:14"], TERMS, kind=kind)
    assert missing == ""
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_random_control_has_no_meaning_and_a_seed():
    first, said = term_vectors(CLASSES, TERMS, kind="random", seed=1)
    again, _ = term_vectors(CLASSES, None, kind="random", seed=1)
    other, _ = term_vectors(CLASSES, TERMS, kind="random", seed=2)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and "control" in said
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)


def test_without_an_ontology_words_of_labels_are_left():
    vectors, missing = term_vectors(["naive B cell", "memory B cell", "platelet"])
    assert "No ontology" in missing
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    vectors, _ = term_vectors(["!!", "??"])
    assert np.isfinite(vectors).all()


def test_unknown_terms_are_placed_by_their_label_and_named():
    vectors, missing = term_vectors(["X:9", "own"], TERMS, labels={"own": "strange B cell"})
    assert "strange B cell" in missing and np.isfinite(vectors).all()


def test_pieces():
    assert words_of("CD8-positive, T cell") == ["cd8", "positive", "t", "cell"]
    assert lineage("X:3", TERMS) == {"X:3": 0, "X:2": 1, "X:1": 2, "X:0": 3}
    assert lineage("none", TERMS) == {"none": 0} and text_of("none", None, {"none": "a"}) == "a"
    with pytest.raises(ConfigError, match="Did you mean 'graph'"):
        term_vectors(["X:1"], TERMS, kind="graphs")
    with pytest.raises(DataError, match="at least one"):
        term_vectors([], TERMS)
