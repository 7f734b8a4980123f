"""Genes whose chromosomes the sequence model was only reported on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from syncyte.recipes.train_dna import unseen

PARTS = np.array(["chr1", "chr8", "chr10", "chr9", "chr8"], dtype=object)


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        ({"training": {"valid": ["chr10"], "test": ["chr8", "chr9"]}}, [True, False, True]),
        ({"training": {"valid": [], "test": ["chr8 part 2"]}}, [False, False, False]),
        ({}, [False, False, False]),
    ],
)
def test_only_genes_on_chromosomes_that_were_reported_alone(report: dict, wanted: list[bool]):
    side = SimpleNamespace(report=report, parts=PARTS)
    assert unseen(side, np.array([1, 2, 3])).tolist() == wanted
