from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from tests.baselines.paired import simulate

from syncyte.baselines.lsi import LSI, Tfidf
from syncyte.baselines.prediction import log_cp10k, opened
from syncyte.baselines.space import Space
from syncyte.errors import ConfigError

CELLS = simulate()
SCALINGS = ["log_cp10k", "pearson", "tfidf", "tfidf_rest", "depth", "spectral"]


def counts_for(scaling: str) -> sp.csr_matrix:
    return CELLS.genes if scaling in ("log_cp10k", "pearson") else CELLS.regions


def test_tfidf_by_hand():
    counts = sp.csr_matrix(np.array([[2, 0, 1], [0, 1, 1]], dtype=np.float32))
    found = Tfidf().fit(counts).transform(counts).toarray()
    idf = np.log1p(2 / np.array([2, 2, 3]))
    assert np.allclose(found, np.log1p(1e4 * np.array([[0.5, 0, 0.5], [0, 0.5, 0.5]]) * idf), rtol=1e-5)


def test_log_space_is_pca():
    from sklearn.decomposition import PCA

    scores = Space("log_cp10k", 5).fit(CELLS.genes).transform(CELLS.genes)
    truth = PCA(5, svd_solver="full").fit_transform(log_cp10k(CELLS.genes).toarray())
    for axis in range(5):
        assert abs(np.corrcoef(scores[:, axis], truth[:, axis])[0, 1]) > 0.999
    assert np.allclose(scores.std(axis=0), truth.std(axis=0), rtol=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_new_cells_land_where_they_would_in_training(scaling):
    counts = counts_for(scaling)
    space = Space(scaling, 8).fit(counts)
    whole = space.transform(counts)
    assert whole.shape == (900, 8) and whole.dtype == np.float32 and np.isfinite(whole).all()
    assert np.allclose(space.transform(counts[[5, 2, 700]]), whole[[5, 2, 700]], atol=1e-4)
    again = Space(scaling, 8).fit(counts).transform(counts)
    assert np.array_equal(whole, again)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_types_are_seen(scaling):
    from sklearn.linear_model import LogisticRegression

    scores = Space(scaling, 8).fit(counts_for(scaling)[:600]).transform(counts_for(scaling))
    model = LogisticRegression(max_iter=1000).fit(scores[:600], CELLS.types[:600])
    assert model.score(scores[600:], CELLS.types[600:]) > 0.8


def test_first_axis_of_lsi_is_depth():
    depth = np.log(np.maximum(np.asarray(CELLS.regions.sum(axis=1)).ravel(), 1))
    first = LSI(5).fit(CELLS.regions).transform(CELLS.regions)
    second = LSI(5, drop_first=True).fit(CELLS.regions).transform(CELLS.regions)
    assert abs(np.corrcoef(first[:, 0], depth)[0, 1]) > 0.8
    assert first.shape == second.shape
    assert abs(np.corrcoef(first[:, 1], second[:, 0])[0, 1]) > 0.99


def test_counts_of_regions_are_only_looked_at_as_open():
    more = CELLS.regions.copy()
    more.data *= 7
    for scaling in ("tfidf", "depth", "spectral"):
        plain, tripled = (Space(scaling, 4).fit(x).transform(x) for x in (CELLS.regions, more))
        assert np.array_equal(plain, tripled)
    assert opened(more).max() == 1 and more.max() == 7


def test_small_and_empty_cells_are_fine():
    few = sp.vstack([CELLS.regions[:6], sp.csr_matrix((1, 300), dtype=np.float32)], format="csr")
    for scaling, axes in (("tfidf", 7), ("depth", 7), ("tfidf_rest", 6)):
        scores = Space(scaling, 30).fit(few).transform(few)
        assert scores.shape == (7, axes) and np.isfinite(scores).all()


def test_unknown_scaling_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'person'.*Did you mean 'pearson'"):
        Space("person")
