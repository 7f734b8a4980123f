"""Which pairs are looked at closely, and which allele of a gene is its strongest."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from syncyte.tasks.variant_close import close_tables, strongest_alleles


def found(own: list[list[float]], p: list[float], allele: list[int], gene: list[int]) -> SimpleNamespace:
    tokens = SimpleNamespace(
        table=pd.DataFrame({"allele": allele, "gene": gene}), alternate=torch.arange(len(allele))[:, None].float()
    )
    numbers = SimpleNamespace(own=np.array(own, dtype=np.float32))
    return SimpleNamespace(tokens=tokens, numbers=numbers, names=["a", "b", "c"], over_groups=np.array(p))


def test_the_strongest_alleles_move_the_gene_most():
    own = [[0.1, -0.2], [-0.9, 0.05], [np.nan, np.nan], [0.0, 0.0], [0.3, np.nan]]
    best = strongest_alleles(found(own, [0.5, 0.01, np.nan, np.nan, np.nan], [0, 1, 2, 2, 2], [7, 7, 8, 9, 7]))
    assert set(best) == {7}
    assert [(name, beyond) for name, _, beyond in best[7]] == [("b", True), ("c", False), ("a", False)]
    assert [token.item() for _, token, _ in best[7]] == [1, 4, 0]
    few = strongest_alleles(found(own, [0.5] * 5, [0, 1, 2, 2, 2], [7, 7, 8, 9, 7]), most=1)
    assert [name for name, _, _ in few[7]] == ["b"]


def test_nothing_scored_is_nothing_to_look_at():
    nothing = SimpleNamespace(effects=pd.DataFrame({"status": ["refused"], "variant": ["a"]}))
    assert close_tables(None, nothing, 5, 2, 0) == {}
    assert close_tables(None, SimpleNamespace(effects=pd.DataFrame(columns=["gene", "status"])), 5, 2, 0) == {}
