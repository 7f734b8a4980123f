"""Amounts: computed by hand, the same whatever the order of genes, and absent where there are no counts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from syncyte.baselines.amounts import BINS, PER_CELL, amounts, nonzero_medians

KINDS = ("rank", "bins", "log")
ROWS = arrays(np.int64, (3, 8), elements=st.integers(0, 5))


def rows(*values: list[int]) -> sp.csr_matrix:
    return sp.csr_matrix(np.array(values, dtype=np.int32))


def test_rank_by_hand():
    # over medians the scores are 1, 4, 4, 0.5: places 2, 3 and 4 shared, 1
    medians = np.array([2.0, 9.0, 1.0, 0.5, 4.0])
    found = amounts(rows([2, 0, 4, 2, 2]), "rank", medians).toarray()[0]
    assert found == pytest.approx([2 / 4, 0, 3.5 / 4, 3.5 / 4, 1 / 4])
    assert found.dtype == np.float32


def test_bins_by_hand():
    # of four expressed genes the lowest is in the first bin, twins share their lower one, the highest is at 3 / 4
    found = amounts(rows([1, 5, 5, 0, 9]), "bins", np.ones(5)).toarray()[0]
    assert found == pytest.approx([1 / BINS, 13 / BINS, 13 / BINS, 0, 38 / BINS])


def test_log_by_hand():
    counts = rows([1, 0, 3], [0, 7, 0])
    expected = np.log1p([[2500, 0, 7500], [0, PER_CELL, 0]])
    assert amounts(counts, "log", np.ones(3)).toarray() == pytest.approx(expected)
    whole = amounts(counts, "log", np.ones(3), total=np.array([40.0, 14.0])).toarray()
    assert whole == pytest.approx(np.log1p([[250, 0, 750], [0, 5000, 0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_explicit_zeros_and_empty_cells_have_no_amount(kind: str):
    stored = sp.csr_matrix((np.array([0, 3, 0, 1]), np.array([0, 1, 2, 3]), np.array([0, 4, 4])), shape=(2, 4))
    found = amounts(stored, kind, np.ones(4))
    assert found.nnz == 2
    assert (found.toarray() > 0).tolist() == [[False, True, False, True], [False] * 4]
    assert stored.nnz == 4, "the counts given were changed"


@pytest.mark.parametrize("kind", KINDS)
@given(counts=ROWS, order=st.permutations(range(8)))
def test_the_order_of_genes_does_not_matter(kind: str, counts: np.ndarray, order: list[int]):
    medians = np.arange(1.0, 9.0)
    plain = amounts(sp.csr_matrix(counts), kind, medians).toarray()
    turned = amounts(sp.csr_matrix(counts[:, order]), kind, medians[order]).toarray()
    assert np.array_equal(plain[:, order], turned)


@pytest.mark.parametrize("kind", ["rank", "bins"])
@given(counts=ROWS, depth=st.integers(2, 40))
def test_depth_does_not_matter_to_places(kind: str, counts: np.ndarray, depth: int):
    medians = np.arange(1.0, 9.0)
    plain, deep = (amounts(sp.csr_matrix(part), kind, medians).toarray() for part in (counts, depth * counts))
    assert np.array_equal(plain, deep)


@given(counts=ROWS)
def test_ranks_agree_with_scipy(counts: np.ndarray):
    from scipy.stats import rankdata

    found = amounts(sp.csr_matrix(counts), "rank", np.ones(8)).toarray()
    for row, own in zip(counts, found):
        some = row > 0
        assert own[some] == pytest.approx(rankdata(row[some]) / max(some.sum(), 1))


def test_medians_are_close_to_exact_ones():
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(1.0, 3.0, 30), (301, 30))
    counts[:, 7] = 0
    scaled = counts / counts.sum(axis=1, keepdims=True) * PER_CELL
    # of an even number, the lower one of the two in the middle
    seen = (np.sort(column[column > 0]) for column in scaled.T)
    exact = [own[(len(own) - 1) // 2] if len(own) else 1.0 for own in seen]
    blocks = [sp.csr_matrix(part) for part in np.array_split(counts, 4)]
    found = nonzero_medians(blocks, 30)
    assert found == pytest.approx(exact, rel=0.02)
    assert found[7] == 1
    assert np.array_equal(found, nonzero_medians([sp.csr_matrix(counts)], 30))
