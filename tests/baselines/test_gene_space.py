"""The closed form of a gene network against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines.gene_space import LEAST_SPREAD, fit_gene_space, moments
from syncyte.errors import DataError


def amounts_of(n: int = 60, genes: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    states, loadings = rng.normal(size=(n, 3)), rng.normal(size=(3, genes))
    values = np.clip(states @ loadings / 3 + 0.4 + 0.2 * rng.normal(size=(n, genes)), 0, None)
    values[:, 0] = 0  # a gene in no cell
    return values.astype(np.float32)


def test_moments_count_zeros():
    values = amounts_of()
    mean, sd = moments(sp.csr_matrix(values), 0.3)
    assert mean == pytest.approx(values.mean(axis=0), abs=1e-6)
    assert sd == pytest.approx(np.maximum(values.std(axis=0), 0.3), abs=1e-6)
    assert sd[0] == 0.3


def test_it_is_the_singular_value_decomposition():
    values = amounts_of()
    space = fit_gene_space(sp.csr_matrix(values), 5)
    dense = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), LEAST_SPREAD)
    right = np.linalg.svd(dense, full_matrices=False)[2][:5].T
    assert np.abs(space.table.T @ right) == pytest.approx(np.eye(5), abs=1e-4)
    assert (space.table[np.abs(space.table).argmax(axis=0), np.arange(5)] > 0).all(), "signs are not settled"


def test_the_mix_is_least_squares_of_genes_on_all_others():
    values = amounts_of()
    space = fit_gene_space(sp.csr_matrix(values), 4)
    dense = (values - space.mean) / space.sd
    read = dense @ space.table
    features = (read[:, None] - dense[:, :, None] * space.table) * space.table  # cell, gene, axis
    expected = np.linalg.lstsq(features.reshape(-1, 4), dense.ravel(), rcond=None)[0]
    assert space.mix == pytest.approx(np.clip(expected, 0, None), rel=1e-3)


def test_the_same_seed_gives_the_same_space():
    matrix = sp.csr_matrix(amounts_of())
    first, second = (fit_gene_space(matrix, 4, seed=3) for _ in range(2))
    assert np.array_equal(first.table, second.table)
    assert np.array_equal(first.mix, second.mix)


@pytest.mark.parametrize(("n", "genes", "most"), [(11, 24, 3), (60, 10, 3), (2, 24, 1)])
def test_too_little_is_said_with_a_number_that_would_do(n: int, genes: int, most: int):
    with pytest.raises(DataError, match=rf"too few for 4 components.*sizes\.components={most}\."):
        fit_gene_space(sp.csr_matrix(amounts_of(n, genes)), 4)


def test_given_places_are_taken_and_how_they_predict_is_fitted():
    values = amounts_of()
    given = np.random.default_rng(1).normal(size=(24, 9))
    space = fit_gene_space(sp.csr_matrix(values), 4, given=given)
    left = np.linalg.svd(given, full_matrices=False)[0][:, :4]
    assert np.abs(space.table.T @ left) == pytest.approx(np.eye(4), abs=1e-4)
    dense = (values - space.mean) / space.sd
    read = dense @ space.table
    features = (read[:, None] - dense[:, :, None] * space.table) * space.table
    expected = np.linalg.lstsq(features.reshape(-1, 4), dense.ravel(), rcond=None)[0]
    assert space.mix == pytest.approx(np.clip(expected, 0, None), rel=1e-3, abs=1e-5)


def test_fewer_places_than_components_leave_axes_empty():
    given = np.random.default_rng(1).normal(size=(24, 2))
    space = fit_gene_space(sp.csr_matrix(amounts_of()), 4, given=np.concatenate([given, given], axis=1))
    assert not space.table[:, 2:].any()
    assert space.mix[2:] == pytest.approx(0)
    assert np.isfinite(space.mix).all()
