"""What clauses mean among classes, and scores."""

from __future__ import annotations

import numpy as np
import pytest
from tests.blood_terms import CLASSES, TERMS

from syncyte.errors import DataError
from syncyte.words.matching import Meanings, Names, score, spelled
from syncyte.words.query import parse_query
from syncyte.words.texts import Texts, stem

CD4, CD8, NK, B, M14, M16, MK = range(len(CLASSES))


@pytest.fixture(scope="module")
def meanings() -> Meanings:
    return Meanings(CLASSES, TERMS)


def found(meanings: Meanings, text: str) -> list[float]:
    """Scores of seven cells, each surely of one class."""
    resolved = meanings.resolve(parse_query(text, meanings.known))
    return list(score(resolved, np.eye(len(CLASSES))))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("B cells", [B]),
        ("CD8 T cells", [CD8]),
        ("CD4+ T cells", [CD4]),
        ("T lymphocytes", [CD4, CD8]),
        ("lymphocytes but not B cells", [CD4, CD8, NK]),
        ("white blood cells without monocytes", [CD4, CD8, NK, B]),
        ("monocytes, not CD14 positive", [M16]),
        ("T cells AND CD8", [CD8]),
        ("neither T cells nor B cells", [NK, M14, M16, MK]),
        ("CD16 monocytes or megakaryocytes", [M16, MK]),
    ],
)
def test_names_are_sets_of_classes(meanings, text, right):
    assert [place for place, value in enumerate(found(meanings, text)) if value > 0.99] == right
    assert sum(value > 0.01 for value in found(meanings, text)) == len(right)


def test_a_name_that_hits_the_unwanted_is_read_more_widely(meanings):
    scores = found(meanings, "cytotoxic lymphocytes, not T cells")
    assert np.argmax(scores) == NK and scores[NK] > 0.5 and scores[CD8] == 0
    resolved = meanings.resolve(parse_query("cytotoxic lymphocytes, not T cells"))
    assert "more widely" in resolved.explain() or resolved.any_of[0][0].how == "noun"


@pytest.mark.parametrize(
    ("text", "best", "how"),
    [
        ("naive B cells", B, "coarser"),
        ("cells that kill targets", NK, "words"),
        ("cells that patrol vessels", M16, "words"),
        ("platelets", MK, "words"),
        ("cells that make antibodies", B, "related"),
        ("lymphocytes that kill", NK, "noun"),
    ],
)
def test_guesses_are_capped_and_named(meanings, text, best, how):
    resolved = meanings.resolve(parse_query(text, meanings.known))
    meaning = resolved.any_of[0][0]
    assert meaning.how == how and meaning.weights.argmax() == best and meaning.weights.max() < 0.9
    assert str(meaning.clause) in resolved.explain()


def test_soft_members_stay_below_sure_ones(meanings):
    scores = found(meanings, "B cells or cells that kill targets")
    assert scores[B] == 1 and 0.3 < scores[NK] < 0.9


def test_an_ontology_that_puts_all_below_the_unwanted(meanings):
    lines = {**TERMS, "X:13": type(TERMS["X:13"])("CD16 monocyte", (), "", {"X:12": 1, **TERMS["X:12"].ancestors})}
    other = Meanings(CLASSES, lines)
    resolved = other.resolve(parse_query("monocytes, not CD14 positive", other.known))
    scores = score(resolved, np.eye(len(CLASSES)))
    assert scores[M16] == 1 and scores[M14] == 0 and "class of that name alone" in resolved.explain()


def test_score_is_wanted_times_not_unwanted(meanings):
    resolved = meanings.resolve(parse_query("lymphocytes, not B cells", meanings.known))
    chance = np.zeros((1, len(CLASSES)))
    chance[0, [CD4, B, M14]] = 0.5, 0.3, 0.2
    assert score(resolved, chance)[0] == pytest.approx(0.8 * 0.7)
    with pytest.raises(DataError, match="finite ones of 7"):
        score(resolved, chance[:, :3])


def test_what_fits_nothing_is_refused(meanings):
    with pytest.raises(DataError, match="Nothing in the search"):
        meanings.resolve(parse_query("violin makers"))
    noted = meanings.resolve(parse_query("B cells, not violin makers"))
    assert "nothing is left out" in noted.explain()
    with pytest.raises(DataError, match="no class"):
        Meanings(())


def test_without_an_ontology_words_of_labels():
    plain = Meanings(("CD4 T cells", "NK cells", "B cells"))
    resolved = plain.resolve(parse_query("NK cells or B cells"))
    assert list(score(resolved, np.eye(3)) > 0.3) == [False, True, True]


def test_another_matcher_is_asked():
    own = Meanings(CLASSES, TERMS, matcher=lambda text: ("X:14", 0.9) if "platelet" in text else ("X:9", 0.3))
    assert found(own, "blood platelets") == [0, 0, 0, 0, 0, 0, 1]
    assert found(own, "natural killer") != [0, 0, 0, 1, 0, 0, 0]  # not sure enough


def test_spelling():
    assert spelled("CD8+ T-lymphocytes") == spelled("CD8-positive alpha-beta T cell")
    assert Names(TERMS)("CD8 positive T cell") == ("X:5", 1.0)
    assert Names(TERMS)("nothing") is None
    assert stem("killing") == stem("kills") == stem("killer") == "kill"
    texts = Texts(["alpha beta", "beta gamma gamma", ""])
    fit = texts.fit("gamma")
    assert fit[1] > 0 and fit[0] == fit[2] == 0 and not texts.fit("the of cells").any()
