"""The spectral embedding against the same thing computed densely, and against the package it follows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from tests.baselines.paired import simulate

from syncyte.baselines.space import Space
from syncyte.baselines.spectral import Spectral

CELLS = simulate(260)


def dense(counts: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, eigenvectors and similarities, with the n x n matrix and numpy alone."""
    x = counts.toarray().astype(float) * np.log(counts.shape[0] / (counts > 0).sum(axis=0).A1.clip(1))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    similar = x @ x.T
    np.fill_diagonal(similar, 0)
    root = 1 / np.sqrt(similar.sum(axis=1))
    values, vectors = np.linalg.eigh(similar * root[:, None] * root)
    order = np.argsort(-values)
    return values[order], vectors[:, order], similar


def aligned(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return found * np.sign((found * truth).sum(axis=0))


def test_equals_the_dense_computation():
    counts = CELLS.regions
    counts = counts[np.diff(counts.indptr) > 0]
    model = Spectral(10, seed=3).fit(counts)
    values, vectors, _ = dense(counts)
    assert values[0] == pytest.approx(1.0)  # the trivial one, which is left out
    assert np.allclose(model.eigenvalues, values[1:11], atol=1e-6)
    truth = vectors[:, 1:11] * np.sqrt(len(vectors) * values[1:11])
    assert np.allclose(aligned(model.embedding, truth), truth, atol=2e-3)


def test_new_cells_lie_where_nystrom_puts_them():
    counts = CELLS.regions[np.diff(CELLS.regions.indptr) > 0]
    known, new = counts[:200], counts[200:]
    model = Spectral(6).fit(known)
    values, vectors, similar = dense(known)
    weights = np.log(200 / (known > 0).sum(axis=0).A1.clip(1))
    x, y = (part.toarray() * weights for part in (known, new))
    x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))
    between = y @ x.T
    step = between / np.sqrt(between.sum(axis=1, keepdims=True) * similar.sum(axis=1))
    truth = step @ vectors[:, 1:7] * np.sqrt(200 / values[1:7])
    assert np.allclose(aligned(model.transform(new), truth), truth, atol=2e-3)
    assert np.array_equal(Space("spectral", 6).fit_transform(known), model.embedding)


def test_depth_matters_less_than_in_lsi():
    depth = np.log1p(CELLS.regions.sum(axis=1).A1)
    strongest = {
        scaling: np.abs(np.corrcoef(Space(scaling, 4).fit_transform(CELLS.regions).T, depth)[-1, :-1]).max()
        for scaling in ("tfidf", "spectral")
    }
    assert strongest["spectral"] < strongest["tfidf"]


def test_empty_cells_and_few_cells_are_fine():
    few = sp.vstack([CELLS.regions[:6], sp.csr_matrix((1, 300), dtype=np.float32)], format="csr")
    model = Spectral(30).fit(few)
    found = model.transform(few)
    assert found.shape == model.embedding.shape == (7, len(model.eigenvalues)) and np.isfinite(found).all()
    assert (found[-1] == 0).all() and (model.eigenvalues > 0).all()


def test_same_as_snapatac2():
    snap = pytest.importorskip("snapatac2")
    import anndata

    counts = CELLS.regions[np.diff(CELLS.regions.indptr) > 0]
    cells = anndata.AnnData(counts.astype(np.float64))
    values, vectors = snap.tl.spectral(cells, features=None, n_comps=9, inplace=False)
    model = Spectral(8).fit(counts)
    assert np.allclose(model.eigenvalues, np.asarray(values)[1:9], atol=1e-5)
    truth = np.asarray(vectors)[:, 1:9] * np.sqrt(counts.shape[0])
    assert np.allclose(aligned(model.embedding, truth), truth, atol=2e-3)
