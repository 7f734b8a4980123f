"""Candidates, their features, and the model that chooses among them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.blood_terms import TERMS

from syncyte.words import rerank
from syncyte.words.candidates import FEATURES, Candidates, Shortlist
from syncyte.words.lexical import Lexicon
from syncyte.words.normalise import normalise
from syncyte.words.rerank import Reranker, Trees, train_reranker, untrained


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    return Candidates(Lexicon(TERMS))


def column(shortlist: Shortlist, name: str) -> np.ndarray:
    return shortlist.features[:, FEATURES.index(name)]


def test_shortlists(candidates):
    found = candidates.find([normalise("CD8 T"), normalise("NK")])
    assert [candidates.lexicon.ids[item.terms[0]] for item in found] == ["X:5", "X:7"]
    assert found[0].features.shape == (len(TERMS), len(FEATURES))
    assert np.isfinite(found[0].features).all()
    assert (np.diff(found[0].total) <= 1e-6).all()
    assert column(found[0], "total_gap")[0] == 0


def test_one_at_a_time_gives_what_many_give(candidates):
    asked = [normalise(text) for text in ("CD8 T", "NK", "monocytes", "")]
    for name, item in zip(asked, candidates.find(asked)):
        alone = candidates.find([name])[0]
        assert (alone.terms == item.terms).all()
        assert np.allclose(alone.features, item.features, atol=1e-5)


def test_features_say_what_differs(candidates):
    found = candidates.find([normalise("CD4- T cell")])[0]
    place = [candidates.lexicon.ids[term] for term in found.terms].index("X:4")
    assert column(found, "signs_clash")[place] == 1
    parent = [candidates.lexicon.ids[term] for term in found.terms].index("X:3")
    assert column(found, "below")[parent] == pytest.approx(np.log1p(3))
    assert column(found, "in_descendants")[parent] == pytest.approx(np.log1p(3))


def made(count: int, seed: int = 0) -> tuple[list[Shortlist], list[int]]:
    """Lists in which feature 0 tells the right one, where feature 1 is high."""
    rng = np.random.default_rng(seed)
    lists, truths = [], []
    for _ in range(count):
        features = rng.standard_normal((10, len(FEATURES))).astype(np.float32)
        right = int(rng.integers(10))
        none = rng.random() < 0.2
        features[:, 1] = -1 if none else 1
        features[right, 0] += 0 if none else 4
        order = np.arange(10)
        lists.append(Shortlist(order, order, features, features[:, 0]))
        truths.append(-1 if none else right)
    return lists, truths


@pytest.fixture(scope="module")
def fitted() -> Reranker:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rerank, "TREES", 25)
        return train_reranker(*made(150))


def test_it_learns_what_is_right_and_when_nothing_is(fitted):
    lists, truths = made(200, seed=1)
    chances = [fitted.probabilities(item) for item in lists]
    assert all(0 <= chance.sum() <= 1 + 1e-9 for chance in chances)
    known = [(chance, truth) for chance, truth in zip(chances, truths) if truth >= 0]
    assert np.mean([chance.argmax() == truth for chance, truth in known]) > 0.9
    top = np.array([chance.max() for chance in chances])
    none = np.array(truths) < 0
    assert top[~none].mean() > 0.7 > 0.35 > top[none].mean()


def test_scores_are_cautious(fitted):
    assert fitted.power >= 1


def test_the_same_seed_gives_the_same(fitted, monkeypatch):
    monkeypatch.setattr(rerank, "TREES", 25)
    again = train_reranker(*made(150))
    item = made(1, seed=2)[0][0]
    assert (again.probabilities(item) == fitted.probabilities(item)).all()


def test_arrays_give_it_back(fitted):
    again = Reranker.restore(fitted.arrays())
    item = made(1, seed=2)[0][0]
    assert (again.probabilities(item) == fitted.probabilities(item)).all()
    plain = Reranker.restore(untrained().arrays())
    assert plain.trees is None


def test_trees_as_arrays_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, len(FEATURES))).astype(np.float32)
    slope = features[:, 0] + rng.standard_normal(300)
    arrays, leaf = rerank._grow(features, slope, np.ones(300), np.ones(300, dtype=bool), rng)
    trees = rerank._joined([arrays, arrays], 1)
    assert np.allclose(trees.margins(features)[0], 2 * arrays[4][leaf], atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("left", 10**6), ("left", 0), ("feature", 10**4)])
def test_damaged_trees_are_refused(fitted, key, value):
    arrays = {name: array.copy() for name, array in fitted.arrays().items()}
    arrays[key][int(np.flatnonzero(arrays["feature"] >= 0)[-1])] = value
    with pytest.raises(ValueError, match="damaged"):
        Trees.restore(arrays)


def test_weights_of_other_features_are_refused():
    with pytest.raises(ValueError, match="other features"):
        Reranker.restore({"weights": np.zeros(3), "calibration": np.ones(3)})
