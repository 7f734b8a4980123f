"""Retrieval of genes by their vectors: half by chance, all where the answer is planted, no chromosome in two folds."""

from __future__ import annotations

import numpy as np
import pytest

from syncyte.recipes.adapter_check import held_out, retrieval

RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(300, 9)).astype(np.float32)
PARTS = np.array([f"chr{one}" for one in RNG.integers(1, 12, 300)], dtype=object)


def fold() -> np.ndarray:
    return held_out(TOKENS, TOKENS, PARTS, lambda x, y: lambda new: new)[1]


def test_a_perfect_prediction_comes_first():
    found = retrieval(TOKENS.copy(), TOKENS, fold())
    assert found["sequence"] == found["sequence low"] == found["first"] == 1
    assert found["explained"] == 1
    assert found["mean expression"] == 1
    assert found["genes"] == 300
    assert found["first by chance"] == pytest.approx(5 / 300)


def test_a_random_prediction_is_half_way():
    found = retrieval(RNG.normal(size=TOKENS.shape), TOKENS, fold())
    assert found["sequence"] == pytest.approx(0.5, abs=0.06)
    assert found["sequence low"] < 0.5 < found["sequence high"]
    assert found["first"] < 0.1
    assert found["explained"] < 0


def test_permuted_genes_are_chance_whatever_was_predicted():
    found = retrieval(TOKENS.copy(), TOKENS, fold())
    assert found["permuted genes"] == pytest.approx(0.5, abs=0.06)


def test_a_constant_prediction_is_chance():
    found = retrieval(np.ones_like(TOKENS), TOKENS, fold())
    assert found["sequence"] == pytest.approx(0.5)
    assert found["mean expression"] == pytest.approx(0.5, abs=0.06)


def test_a_common_direction_helps_nobody():
    shifted = retrieval(TOKENS + 50, TOKENS + 50, fold())
    noise = RNG.normal(size=TOKENS.shape)
    assert shifted["sequence"] == pytest.approx(1, abs=1e-3)
    assert retrieval(noise + 50, TOKENS + 50, fold())["sequence"] == pytest.approx(0.5, abs=0.06)


def test_folds_never_share_a_chromosome():
    seen = []

    def fit(x: np.ndarray, y: np.ndarray):
        seen.append({tuple(row) for row in x})
        return lambda new: new

    found, folds = held_out(TOKENS, TOKENS, PARTS, fit)
    assert np.array_equal(found, TOKENS)
    assert len(seen) == len(np.unique(folds)) == 5
    for chrom in np.unique(PARTS):
        assert len(np.unique(folds[chrom == PARTS])) == 1
    for number, known in zip(np.unique(folds), seen):
        assert known == {tuple(row) for row in TOKENS[folds != number]}


def test_few_parts_are_few_folds():
    parts = np.repeat(["chr1", "chr2"], 150)
    assert len(np.unique(held_out(TOKENS, TOKENS, parts, lambda x, y: lambda new: new)[1])) == 2


def test_folds_too_small_to_rank_in_say_nothing():
    assert retrieval(TOKENS[:8], TOKENS[:8], np.arange(8) % 2) == {}
