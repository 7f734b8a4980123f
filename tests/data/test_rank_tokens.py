"""Rank-value tokens: hand-computed lists, ties, cuts, what does not matter, genes by id and symbol."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from syncyte.data.rank_tokens import ensembl_ids, gene_columns, rank_tokens
from syncyte.errors import DataError


def csr(rows) -> sp.csr_matrix:
    return sp.csr_matrix(np.array(rows, dtype=np.float32))


def test_a_list_by_hand():
    # values 4/2, 3/1, 0, 1/0.25 over a total of 8, times 10,000
    found = rank_tokens(csr([[4, 3, 0, 1], [0, 0, 5, 0]]), np.array([2.0, 1.0, 1.0, 0.25]), 10)
    assert found.genes.tolist() == [[3, 1, 0], [2, -1, -1]]
    assert found.values[0].tolist() == pytest.approx([4 / 8 * 1e4, 3 / 8 * 1e4, 2 / 8 * 1e4])
    assert found.values[1].tolist() == [1e4, 0, 0]
    assert found.valid.tolist() == [[True, True, True], [True, False, False]]


def test_ties_go_to_the_higher_count_and_then_to_the_first_gene():
    medians = np.array([1.0, 2.0, 1.0, 4.0, 1.0])
    found = rank_tokens(csr([[1, 2, 1, 4, 1]]), medians, 10)  # all values are equal
    assert found.genes.tolist() == [[3, 1, 0, 2, 4]]


def test_lists_are_cut_at_their_end():
    counts = csr([[1, 2, 3, 4, 5], [5, 0, 0, 0, 0]])
    whole, cut = (rank_tokens(counts, np.ones(5), most) for most in (9, 2))
    assert cut.genes.tolist() == [[4, 3], [0, -1]] and np.array_equal(cut.genes, whole.genes[:, :2])
    assert np.array_equal(cut.values, whole.values[:, :2])


def test_genes_without_a_median_and_cells_without_a_gene_say_nothing():
    medians = np.array([np.nan, 0.0, -1.0, np.inf, 1.0])
    found = rank_tokens(csr([[9, 9, 9, 9, 1], [9, 9, 9, 9, 0], [0, 0, 0, 0, 0]]), medians, 5)
    assert found.genes.tolist() == [[4], [-1], [-1]] and found.valid.tolist() == [[True], [False], [False]]
    none = rank_tokens(csr([[0.0, 0.0]]), np.ones(2), 5)
    assert none.genes.shape == (1, 0) and rank_tokens(sp.csr_matrix((0, 2)), np.ones(2), 5).genes.shape == (0, 0)


def test_totals_scale_values_and_leave_the_order():
    counts = csr([[4, 3, 1]])
    own, other = rank_tokens(counts, np.ones(3), 3), rank_tokens(counts, np.ones(3), 3, totals=[80])
    assert np.array_equal(own.genes, other.genes) and np.allclose(own.values, 10 * other.values)


@given(st.lists(st.lists(st.integers(0, 6), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(1, 7))
def test_the_list_is_the_sorted_one(rows, most):
    medians = np.array([0.5, 1.0, 1.0, 2.0, 3.0, 0.5])
    counts = csr(rows)
    found = rank_tokens(counts, medians, most)
    for row, genes in zip(rows, found.genes, strict=True):
        wanted = sorted(
            (place for place, count in enumerate(row) if count), key=lambda g: (-row[g] / medians[g], -row[g], g)
        )
        assert [gene for gene in genes.tolist() if gene >= 0] == wanted[:most]


def test_unsorted_rows_and_stored_zeros_change_nothing():
    counts = csr([[0, 2, 5, 1]])
    messy = sp.csr_matrix((np.array([1.0, 0.0, 5.0, 2.0]), np.array([3, 0, 2, 1]), np.array([0, 4])), shape=(1, 4))
    assert np.array_equal(rank_tokens(counts, np.ones(4), 4).genes, rank_tokens(messy, np.ones(4), 4).genes)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"medians": np.ones(2)}, "counts of 3 genes and 2 medians"),
        ({"most": 0}, "A list of 0 genes"),
        ({"counts": csr([[-1, 0, 1]])}, "negative"),
        ({"counts": csr([[np.nan, 0, 1]])}, "no numbers"),
        ({"totals": [1, 2]}, "1 cells and 2 totals"),
    ],
)
def test_what_does_not_fit_is_refused(how, words):
    given_ = {"counts": csr([[1, 2, 3]]), "medians": np.ones(3), "most": 3, **how}
    with pytest.raises(DataError, match=words):
        rank_tokens(**given_)


# --- genes -----------------------------------------------------------------------------------------------------------

KNOWN = ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"]


def test_genes_are_found_by_id_name_and_symbol():
    symbols = {"AAA": KNOWN[2], "BBB": KNOWN[0]}
    names = ["AAA", "ENSG00000000002.7", "BBB", "CCC"]
    assert gene_columns(names, KNOWN, symbols=symbols).tolist() == [2, 1, 0, -1]
    assert gene_columns(names, KNOWN).tolist() == [-1, 1, -1, -1]
    ids = [KNOWN[1], "", "ENSG00000000003.1", "ENSG09"]  # an id counts more than a name
    assert gene_columns(names, KNOWN, ids=ids, symbols=symbols).tolist() == [1, 1, 2, -1]
    assert gene_columns(["AAA", "X"], ["X", "AAA"]).tolist() == [1, 0]


def test_ids_are_found_in_names_or_a_column():
    var = pd.DataFrame({"n": [1, 2], "gene_ids": ["ENSG00000000001.3", "ENSMUSG00000000002"]}, index=["a", "b"])
    assert ensembl_ids(var).tolist() == ["ENSG00000000001", "ENSMUSG00000000002"]
    assert ensembl_ids(pd.DataFrame(index=KNOWN)).tolist() == KNOWN
    assert ensembl_ids(var[["n"]]) is None and ensembl_ids(var[:0]) is None
