"""Most variable features: those that vary beyond their mean are chosen, in the order of the columns."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines import variable
from syncyte.baselines.variable import variable_columns
from syncyte.errors import DataError

VARIABLE = [3, 7, 11, 24]


def counts(cells: int = 300, features: int = 30, seed: int = 0) -> sp.csr_matrix:
    """Poisson features of all levels; four differ between two groups of cells, the last two are never counted."""
    rng = np.random.default_rng(seed)
    level = np.linspace(0.2, 20, features) * np.ones((cells, 1))
    level[:, VARIABLE] *= np.where(np.arange(cells) < cells // 2, 0.3, 1.7)[:, None]
    level[:, -2:] = 0
    return sp.csr_matrix(rng.poisson(level).astype(np.float32))


def test_features_that_vary_beyond_their_mean_are_chosen():
    found = variable_columns(counts(), 4)
    assert found.tolist() == VARIABLE  # not those of the highest mean, and in ascending order
    more = variable_columns(counts(), 10)
    assert len(more) == 10 and set(VARIABLE) < set(more) and (np.diff(more) > 0).all()


def test_features_that_were_never_counted_are_never_chosen():
    assert variable_columns(counts(), 28).tolist() == list(range(28))
    with pytest.raises(DataError, match="29 variable features are asked for, and 28 were counted in training cells"):
        variable_columns(counts(), 29)


def test_they_are_those_of_the_definition():
    """Variance of clipped Pearson residuals under a negative binomial of dispersion 100 (Lause et al. 2021)."""
    data = counts(120)
    x = data[:, :28].toarray().astype(np.float64)
    mean = np.outer(x.sum(axis=1), x.sum(axis=0)) / x.sum()
    residual = np.clip((x - mean) / np.sqrt(mean + mean**2 / 100), -(120**0.5), 120**0.5)
    wanted = np.sort(np.argsort(-residual.var(axis=0))[:9])
    assert variable_columns(data, 9).tolist() == wanted.tolist()


def test_the_counts_stay_as_they_were_and_the_first_cells_decide(monkeypatch):
    data = counts()
    before = data.copy()
    whole = variable_columns(data, 6)
    assert (data != before).nnz == 0 and np.array_equal(whole, variable_columns(data, 6))
    monkeypatch.setattr(variable, "MOST_CELLS", 150)  # all of one group, in which the four do not stand out
    assert variable_columns(data, 6).tolist() == variable_columns(data[:150], 6).tolist() != whole.tolist()
