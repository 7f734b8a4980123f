"""Types without a training label."""

from __future__ import annotations

import numpy as np
import pytest
from tests.blood_terms import CLASSES, TERMS

from syncyte.errors import ConfigError, DataError
from syncyte.words.terms import term_vectors
from syncyte.words.zero_shot import ZeroShot


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def world(rng):
    """Cells whose means follow the ontology, with marker scores that are noisy hints."""
    hidden, _ = term_vectors(CLASSES, TERMS, kind="graph")
    means = hidden @ rng.standard_normal((hidden.shape[1], 12)) * 3
    codes = rng.integers(0, len(CLASSES), 1400)
    x = means[codes] + rng.standard_normal((1400, 12))
    markers = (np.eye(len(CLASSES))[codes] * 2 + rng.standard_normal((1400, len(CLASSES)))).copy()
    markers[:, 6] = 0  # none of its markers were measured
    return x, np.array(CLASSES)[codes], markers


def left_out(world, unseen: str, marked: bool, kind: str = "both", **settings):
    x, types, markers = world
    keep = types != unseen
    model = ZeroShot(CLASSES, term_vectors(CLASSES, TERMS, kind=kind)[0], **settings)
    model.fit(x[keep][::2], types[keep][::2], markers[keep][::2] if marked else None)
    chance = model.predict(x[1::2], markers[1::2] if marked else None)
    return chance, types[1::2], model


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("unseen", ["X:5", "X:14"])
def test_an_unseen_type_is_found(world, unseen, marked):
    chance, truth, _ = left_out(world, unseen, marked)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    guess = np.array(CLASSES)[chance.argmax(axis=1)]
    assert (guess[truth == unseen] == unseen).mean() > 0.5
    assert (guess == truth)[truth != unseen].mean() > 0.6
    place = CLASSES.index(unseen)
    assert chance[truth == unseen, place].mean() > 3 * chance[truth != unseen, place].mean()


def test_probabilities_say_how_often_they_are_right(world):
    chance, truth, _ = left_out(world, "X:9", True, unseen_share=1 / len(CLASSES))
    guess = np.array(CLASSES)[chance.argmax(axis=1)]
    assert abs(chance.max(axis=1).mean() - (guess == truth).mean()) < 0.12


def test_the_share_of_unseen_types_moves_the_answer(world):
    low, _, _ = left_out(world, "X:9", True, unseen_share=0.05)
    high, _, _ = left_out(world, "X:9", True, unseen_share=0.95)
    place = CLASSES.index("X:9")
    assert low[:, place].mean() < high[:, place].mean()


def test_all_classes_seen_and_several_unseen(world):
    x, types, markers = world
    vectors, _ = term_vectors(CLASSES, TERMS)
    known = ZeroShot(CLASSES, vectors).fit(x, types, markers).predict(x, markers)
    assert (np.array(CLASSES)[known.argmax(axis=1)] == types).mean() > 0.8
    keep = ~np.isin(types, ["X:5", "X:13"])
    chance = ZeroShot(CLASSES, vectors).fit(x[keep], types[keep], markers[keep]).predict(x, markers)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    assert chance[types == "X:13", CLASSES.index("X:13")].mean() > chance[types == "X:13", CLASSES.index("X:5")].mean()


def test_few_cells_and_repeats(world):
    x, types, markers = world
    keep = types != "X:7"
    vectors, _ = term_vectors(CLASSES, TERMS)
    model = ZeroShot(CLASSES, vectors).fit(x[keep], types[keep], markers[keep])
    one = model.predict(x[:1], markers[:1])
    assert one.shape == (1, len(CLASSES)) and np.isfinite(one).all()
    np.testing.assert_array_equal(one, ZeroShot(CLASSES, vectors).fit(x[keep], types[keep], markers[keep]).predict(
        x[:1], markers[:1]
    ))  # fmt: skip


def test_what_cannot_be_done_is_refused(world):
    x, types, markers = world
    vectors, _ = term_vectors(CLASSES, TERMS)
    with pytest.raises(ConfigError, match="named once"):
        ZeroShot(["a", "a"], vectors[:2])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        ZeroShot(CLASSES, vectors, unseen_share=1.0)
    model = ZeroShot(CLASSES, vectors)
    two = np.isin(types, ["X:4", "X:5"])
    with pytest.raises(DataError, match="three are needed"):
        model.fit(x[two], types[two])
    with pytest.raises(DataError, match="no class"):
        model.fit(x, np.where(types == "X:4", "other", types))
    with pytest.raises(DataError, match="each cell needs one"):
        model.fit(x, types[:-1])
    with pytest.raises(DataError, match="finite"):
        model.fit(np.where(x > 100, x, np.nan), types)
    with pytest.raises(DataError, match="a column a class"):
        model.fit(x, types, markers[:, :2])
    with pytest.raises(DataError, match="both fit and predict"):
        model.fit(x, types, markers).predict(x)
