from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.errors import DataError
from syncyte.metrics.ranking import cross, like_depth, rank_columns, rank_within


def draw(cells: int = 80, columns: int = 12, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(cells, columns))
    return (np.round(scores, 1) if ties else scores), rng.random((cells, columns)) < 0.2


def test_by_hand():
    scores = np.array([[0.1], [0.4], [0.35], [0.8]])
    truth = sp.csc_matrix(np.array([[0], [0], [1], [1]]))
    auroc, auprc = rank_columns(scores, truth)
    assert auroc[0] == pytest.approx(0.75)
    assert auprc[0] == pytest.approx((1.0 + 2 / 3) / 2)


@pytest.mark.parametrize("ties", [True, False])
def test_agrees_with_sklearn(ties):
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, truth = draw(ties=ties)
    auroc, auprc = rank_columns(scores, sp.csc_matrix(truth))
    for j in range(scores.shape[1]):
        assert auroc[j] == pytest.approx(roc_auc_score(truth[:, j], scores[:, j]))
        assert auprc[j] == pytest.approx(average_precision_score(truth[:, j], scores[:, j]))


def test_columns_of_one_kind_are_nan_and_constants_are_chance():
    truth = sp.csc_matrix(np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0]]))
    auroc, auprc = rank_columns(np.ones((3, 3)), truth)
    assert np.isnan(auroc[:2]).all() and np.isnan(auprc[:2]).all()
    assert auroc[2] == 0.5 and auprc[2] == pytest.approx(1 / 3)


def test_within_strata_counts_only_pairs_of_a_stratum():
    from sklearn.metrics import roc_auc_score

    scores, truth = draw()
    strata = np.random.default_rng(1).integers(0, 5, len(scores))
    found = rank_within(scores, sp.csc_matrix(truth), strata)
    for j in range(scores.shape[1]):
        total = pairs = 0.0
        for code in range(5):
            y, s = truth[strata == code, j], scores[strata == code, j]
            if 0 < y.sum() < len(y):
                weight = y.sum() * (~y).sum()
                total, pairs = total + weight * roc_auc_score(y, s), pairs + weight
        assert found[j] == pytest.approx(total / pairs)


def test_one_stratum_is_the_plain_score_and_stratum_means_are_chance():
    scores, truth = draw()
    matrix = sp.csc_matrix(truth)
    assert np.allclose(rank_within(scores, matrix, np.zeros(len(scores), dtype=int)), rank_columns(scores, matrix)[0])
    strata = np.arange(len(scores)) % 4
    constant = np.repeat(strata[:, None].astype(float), scores.shape[1], axis=1)
    assert np.allclose(rank_within(constant, matrix, strata), 0.5)


def test_like_depth_and_cross():
    depth = np.array([5.0, 1.0, 9.0, 2.0])
    assert like_depth(depth, 2).tolist() == [1, 0, 1, 0]
    assert like_depth(np.arange(3), 20).tolist() == [0, 1, 2]
    assert len(np.unique(cross(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0])))) == 3


def test_nan_is_refused():
    with pytest.raises(DataError, match="1 values that are NaN or infinite"):
        rank_columns(np.array([[np.nan], [0.0]]), sp.csc_matrix(np.array([[1], [0]])))
