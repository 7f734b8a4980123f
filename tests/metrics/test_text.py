"""Scores of words, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from syncyte.errors import ConfigError, DataError
from syncyte.metrics.text import (
    bleu,
    hallucinated_genes,
    hierarchy_scores,
    precision_at,
    recall_at,
    reciprocal_rank,
    rouge_l,
    statement_scores,
)

LINES = {"cd4": ("t", "lymphocyte", "root"), "cd8": ("t", "lymphocyte", "root"), "t": ("lymphocyte", "root")}


def test_near_misses_count_more_than_far_ones():
    exact = hierarchy_scores(["cd4"], ["cd4"], LINES)
    assert (exact.precision, exact.recall, exact.f1) == (1, 1, 1)
    sibling = hierarchy_scores(["cd4"], ["cd8"], LINES)
    assert (sibling.precision, sibling.recall) == (0.75, 0.75)
    coarser = hierarchy_scores(["cd4"], ["t"], LINES)  # 3 of 3 right, 3 of 4 found
    assert (coarser.precision, coarser.recall) == (1.0, 0.75) and coarser.f1 == pytest.approx(6 / 7)
    none = hierarchy_scores(["cd4"], ["unknown"], LINES)
    assert (none.precision, none.recall, none.f1) == (0, 0, 0)
    assert hierarchy_scores(["cd4"], ["cd8"], LINES, root=["root"]).precision == pytest.approx(2 / 3)
    both = hierarchy_scores(["cd4", "cd4"], ["cd4", "cd8"], LINES)
    assert both.precision == pytest.approx(0.875)
    with pytest.raises(DataError, match="equally many"):
        hierarchy_scores(["a"], [], LINES)


def test_equal_scores_share_credit():
    scores = [[3, 2, 1], [1, 1, 1], [0, 5, 5]]
    right = [0, 1, 0]
    assert recall_at(scores, right, 1) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert recall_at(scores, right, 2) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert recall_at(scores, right, 3) == 1
    assert reciprocal_rank(scores, right) == pytest.approx((1 + (1 + 1 / 2 + 1 / 3) / 3 + 1 / 3) / 3)
    with pytest.raises(ConfigError, match="at least 1"):
        recall_at(scores, right, 0)
    with pytest.raises(DataError, match="columns 0 to 2"):
        recall_at(scores, [0, 1, 7], 1)
    with pytest.raises(DataError, match="NaN"):
        recall_at([[np.nan, 1]], [0], 1)


def test_precision_at_k():
    assert precision_at([4, 3, 2, 1], [True, False, True, True], 2) == 0.5
    assert precision_at([4, 1, 1, 1], [True, True, False, False], 2) == pytest.approx((1 + 1 / 3) / 2)
    assert precision_at([1, 1], [True, False], 50) == 0.5
    with pytest.raises(DataError, match="one each"):
        precision_at([1, 2], [True], 1)
    with pytest.raises(ConfigError, match="at least 1"):
        precision_at([1], [True], 0)


def test_statements():
    truth = [{"type": "T cell", "tissue": "blood", "markers": ("CD3D", "CD3E")}, {"type": "B cell"}]
    found = [{"type": "t cell ", "markers": ("CD3D", "LYZ")}, {"type": "NK cell", "tissue": "gut"}]
    scores = statement_scores(truth, found)
    assert scores.slots == {"type": 0.5, "tissue": 0.0, "markers": 0.5}
    assert scores.accuracy == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert scores.contradictions == 1.0  # LYZ in the first, the type in the second
    silent = statement_scores(truth, [{}, {}])
    assert silent.accuracy == 0 and silent.contradictions == 0
    with pytest.raises(DataError, match="equally many"):
        statement_scores([], [])


def test_genes_that_are_not_there():
    genes = ["CD3D", "CD14", "HLA-DRA", "WAS"]
    assert hallucinated_genes("Expresses CD3D, CD14 and HLA-DRA; it was sad.", genes, ["CD3D"]) == ("CD14", "HLA-DRA")
    assert hallucinated_genes("CD14-positive", genes, []) == ()  # part of a name
    assert hallucinated_genes("", genes, []) == ()


def test_bleu_by_hand():
    assert bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) == pytest.approx(1.0)
    # runs of 1 to 4 words: 5 of 6, 3 of 5, 2 of 4, 1 of 3
    said = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert said == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    short = bleu(["a b c d e f"], ["a b c d"])  # all right, two words missing
    assert short == pytest.approx(np.exp(1 - 6 / 4))
    assert bleu(["a b c d"], ["d c b a"]) == 0 and bleu(["a b"], [""]) == 0
    # the same word three times is right once only: clipped counts
    assert bleu(["a b c d e"], ["a b c d a"]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    with pytest.raises(DataError, match="equally many"):
        bleu([], [])


def test_rouge_by_hand():
    assert rouge_l(["police killed the gunman"], ["police kill the gunman"]) == pytest.approx(0.75)
    assert rouge_l(["a b c"], ["c b a"]) == pytest.approx(1 / 3)
    assert rouge_l(["a b", "a"], ["a b", "b"]) == 0.5
    assert rouge_l(["a"], [""]) == 0
    with pytest.raises(DataError, match="equally many"):
        rouge_l(["a"], [])
