"""Names against names by letters and words."""

from __future__ import annotations

import numpy as np
import pytest
from tests.blood_terms import TERMS, SmallTerm

from syncyte.errors import DataError
from syncyte.words.lexical import Lexicon, score_terms
from syncyte.words.normalise import key_of, normalise


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(TERMS, [("X:13", "patroller", "usual"), ("nowhere", "gone", "usual")])


def test_every_name_is_a_row(lexicon):
    written = {name.written for name in lexicon.names}
    assert {"T cell", "CD16 monocyte", "patroller"} <= written
    assert "gone" not in written
    assert "T lymphocyte" not in written  # spelled as the label
    assert (np.diff(lexicon.term_of) >= 0).all()


def test_a_term_scores_by_its_best_name(lexicon):
    asked = [normalise(text) for text in ("CD16 monocytes", "killer cells natural", "plasma cells")]
    best = score_terms(lexicon, asked).argmax(axis=1)
    assert [lexicon.ids[place] for place in best] == ["X:13", "X:7", "X:10"]


def test_words_are_weighed_by_rarity(lexicon):
    f1, asked, name = lexicon.by_words([normalise("naive B cell")])
    row = next(row for row, item in enumerate(lexicon.names) if item.written == "naive B cell")
    assert f1[0, row] == pytest.approx(1.0)
    assert asked[0, row] == name[0, row] == pytest.approx(1.0)
    assert lexicon.rarity["naive"] > lexicon.rarity["cell"]


def test_unknown_and_empty_names_score_nothing(lexicon):
    assert score_terms(lexicon, ["zzzz", ""]).max() <= 0.3
    assert np.isfinite(score_terms(lexicon, [""])).all()


def test_the_definition_is_a_field_of_its_own(lexicon):
    defined = lexicon.by_definition(["move"])
    assert lexicon.ids[int(defined[0].argmax())] == "X:1"
    alone = Lexicon({"a": SmallTerm("T cell")})
    assert alone.by_definition(["move"]).tolist() == [[0.0]]


def test_exact_names_by_key(lexicon):
    rows = lexicon.exact[key_of(normalise("B cell, naive"))]
    assert lexicon.names[rows[0]].written == "naive B cell"


def test_no_readable_name_is_an_error():
    with pytest.raises(DataError, match="No names to map to"):
        Lexicon({"a": SmallTerm("细胞")})
