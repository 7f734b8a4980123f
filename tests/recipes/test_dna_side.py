"""Vectors of genes beside cells: given ones, and which numbers of a vector belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from syncyte.errors import DataError
from syncyte.genome.gene_windows import GeneWindows
from syncyte.recipes.base import SequenceOrder
from syncyte.recipes.dna_side import Side, gene_parts, given_side

VAR = pd.DataFrame({"gene_id": ["E1.3", "E2.1", "E3", "E4"]}, index=["A", "B", "C", "D"])


def side(**changes: object) -> Side:
    windows = GeneWindows(pd.DataFrame(), pd.DataFrame(), VAR.index, 10)
    return Side(np.zeros((4, 10), np.float32), np.ones(4, bool), np.arange(4), windows, **changes)


def test_vectors_are_found_by_name_and_by_id():
    table = pd.DataFrame([[1.0], [2], [3], [4]], index=["A", "E3", "E2", "NOBODY"], columns=["x"])
    notes: list[str] = []
    found = given_side(SequenceOrder(vectors=table), VAR, notes)
    assert found.vectors[:, 0].tolist() == [1, 3, 2, 0]
    assert found.covered.tolist() == [True, True, True, False]
    assert notes == ["3 of 4 genes have a vector; the others stay static."]
    assert found.windows is None
    assert found.blocks.tolist() == [0]


def test_vectors_of_other_genes_are_refused_with_their_names():
    table = pd.DataFrame([[1.0]] * 3, index=["X", "Y", "Z"], columns=["x"])
    with pytest.raises(DataError, match=r"0 of 4 genes .* look like X, Y, Z"):
        given_side(SequenceOrder(vectors=table), VAR, [])


def test_numbers_of_a_vector_belong_to_slots_features_and_outputs():
    assert side(outputs=2).blocks.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert side().blocks.tolist() == [0] * 5 + [2] * 5


def test_genes_are_held_out_with_their_chromosome():
    table = pd.DataFrame({"chrom": ["chr1", "chr2", "chr3"], "anchor": [1, 2, 3]})
    links = pd.DataFrame({"gene": [0, 1, 1, 3], "window": [0, 1, 2, 2]})
    windows = GeneWindows(table, links, VAR.index, 10)
    assert gene_parts(windows).tolist() == ["chr1", "chr2", "", "chr3"]
