"""Axes of training cells on which data sets are placed by their own statistics of genes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines.own_space import FEW, OwnSpace
from syncyte.baselines.residual import Residual, ResidualMatrix
from syncyte.baselines.space import Space


@pytest.fixture
def counts() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 2.0, size=(1, 60)) * np.where(np.arange(300)[:, None] % 2, 1.0, rng.gamma(2, 0.5, (1, 60)))
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32))


def test_training_cells_lie_where_a_plain_space_puts_them(counts: sp.csr_matrix) -> None:
    own, plain = OwnSpace(5, seed=0).fit(counts), Space("pearson", 5, seed=0).fit(counts)
    a, b = own.transform(counts), plain.transform(counts)
    for axis in range(2):  # sign of an axis is free
        assert abs(np.corrcoef(a[:, axis], b[:, axis])[0, 1]) > 0.99


def test_a_gene_that_another_laboratory_catches_less_moves_cells_little(counts: sp.csr_matrix) -> None:
    factor = np.exp(np.random.default_rng(1).normal(0, 1, 60))
    rng = np.random.default_rng(2)
    other = sp.csr_matrix(rng.poisson(counts.toarray() * 5 * factor / factor.mean()).astype(np.float32))
    deep = sp.csr_matrix(rng.poisson(counts.toarray() * 5).astype(np.float32))
    own, plain = OwnSpace(5).fit(counts), Space("pearson", 5).fit(counts)
    moved = np.linalg.norm(own.transform(other) - own.transform(deep), axis=1).mean()
    moved_plain = np.linalg.norm(plain.transform(other) - plain.transform(deep), axis=1).mean()
    assert moved < 0.85 * moved_plain


def test_few_cells_are_placed_by_training(counts: sp.csr_matrix) -> None:
    own = OwnSpace(5).fit(counts)
    assert np.allclose(own.transform(counts[: FEW - 1])[:3], own.transform(counts[:3]), atol=1e-2)


def test_arrays_give_it_back_and_empty_cells_are_finite(counts: sp.csr_matrix) -> None:
    own = OwnSpace(5).fit(counts)
    again = OwnSpace.restore(own.arrays())
    assert np.allclose(again.transform(counts), own.transform(counts), atol=1e-4)
    assert np.allclose(again.transform(counts[:3]), own.transform(counts[:3]), atol=1e-4)
    assert np.isfinite(own.transform(sp.csr_matrix((2, 60), dtype=np.float32))).all()


@pytest.mark.parametrize("size", [1, 7, 128, 300])
def test_blocks_of_cells_are_placed_as_all_at_once(counts: sp.csr_matrix, size: int) -> None:
    own = OwnSpace(5).fit(counts)
    for cells in (counts, counts[: FEW - 1]):
        cut = [cells[first : first + size] for first in range(0, cells.shape[0], size)]
        np.testing.assert_allclose(own.transform_blocks(lambda cut=cut: cut), own.transform(cells), atol=1e-4)
    assert own.transform_blocks(lambda: []).shape == (0, 5)


def test_scores_of_many_cells_are_centred_residuals_on_the_loadings(counts: sp.csr_matrix) -> None:
    own = OwnSpace(5).fit(counts)
    matrix = ResidualMatrix.build(
        counts, Residual.fit("pearson", np.asarray(counts.sum(axis=0)).ravel(), float(counts.sum(axis=1).max()))
    )
    np.testing.assert_allclose(own.transform(counts), matrix.dot(own.loadings), atol=1e-4)
