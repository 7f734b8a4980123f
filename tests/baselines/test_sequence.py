"""GC and words against planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from tests.sequences import background, planted

from syncyte.baselines.sequence import GcContent, KmerRegression, column_scores, composition, mean_score
from syncyte.errors import ConfigError, DataError
from syncyte.genome.sequence import reverse_complement, to_codes


def test_composition_by_hand():
    assert composition(to_codes("ACGT")[None]) == pytest.approx(np.array([[0.5, 0.25, 1 / 3]]))
    assert composition(np.full((1, 5), 4, np.uint8)) == pytest.approx(np.zeros((1, 3)))


def test_gc_finds_gc_and_no_motif():
    low, high = background(150, 80, 0, 0.35), background(150, 80, 1, 0.65)
    codes, y = np.concatenate([low, high]), np.repeat([0.0, 1.0], 150)
    assert mean_score(y, GcContent().fit(codes, y).predict(codes), "binary") > 0.99
    codes, y = planted(600, 3)
    held, held_y = planted(400, 11)
    assert abs(mean_score(held_y, GcContent().fit(codes, y).predict(held), "binary") - 0.5) < 0.2  # the motif has no CG


def test_words_find_a_motif_of_either_strand():
    codes, y = planted(800, 5)
    held, held_y = planted(300, 7)
    model = KmerRegression(6).tuned(codes, y, held, held_y)
    assert mean_score(held_y, model.predict(held), "binary") > 0.9
    assert np.allclose(model.predict(held), model.predict(reverse_complement(held)))


def test_counts_are_regressed_in_logarithms():
    codes = np.concatenate([background(100, 100, 0, 0.3), background(100, 100, 1, 0.7)])
    y = np.repeat([1.0, 50.0], 100)
    for model in (GcContent("count"), KmerRegression(3, "count")):
        guess = model.fit(codes, y).predict(codes)[:, 0]
        assert guess[:100].mean() == pytest.approx(np.log1p(1), abs=0.2)
        assert guess[100:].mean() == pytest.approx(np.log1p(50), abs=0.2)
        assert column_scores(y, guess, "count")[0] > 0.9


def test_several_targets_and_one_that_is_constant():
    codes, y = planted(200, 9)
    targets = np.stack([y, np.zeros(200), 1 - y], axis=1)
    guess = KmerRegression(4).fit(codes, targets).predict(codes)
    assert guess.shape == (200, 3) and (guess[:, 1] == 0).all()
    scores = column_scores(targets, guess, "binary")
    assert np.isnan(scores[1]) and scores[0] == pytest.approx(scores[2], abs=1e-6)


def test_wrong_targets_are_refused():
    codes = background(10, 30, 0)
    with pytest.raises(DataError, match="0 or 1"):
        GcContent().fit(codes, np.arange(10.0))
    with pytest.raises(DataError, match="neither"):
        KmerRegression(3, "count").fit(codes, -np.ones(10))
    with pytest.raises(ConfigError, match="binary, count"):
        GcContent("other")  # type: ignore[arg-type]
