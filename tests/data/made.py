"""Handmade tables with known counts, for tests of the front door."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from syncyte.data.read import open_cells
from syncyte.types import Schema

SCHEMAS = (
    Schema("rna", "gene", ("Gene Expression",), ("rna", "gex", "gene", "expression")),
    Schema("atac", "region", ("Peaks",), ("atac", "peaks", "chromatin", "accessibility")),
)
GENES = [f"GENE{number}" for number in range(1, 13)]
PEAKS = [f"chr{1 + number % 3}:{1000 * number + 100}-{1000 * number + 600}" for number in range(15)]


def names(n: int = 20, prefix: str = "cell") -> list[str]:
    return [f"{prefix}{number}" for number in range(n)]


def table(cells: list[str] | None = None, features: list[str] | None = None, seed: int = 0, **options) -> AnnData:
    """AnnData of counts in X, with ``batch`` and ``depth`` in obs; every cell has at least one count."""
    cells, features = names() if cells is None else cells, GENES if features is None else features
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.8, (len(cells), len(features)))
    dense[:, 0] += 1
    obs = pd.DataFrame({"batch": pd.Categorical([f"b{number % 2}" for number in range(len(cells))])}, index=cells)
    obs["depth"] = dense.sum(axis=1)
    return AnnData(sp.csr_matrix(dense.astype(np.float32)), obs=obs, var=pd.DataFrame(index=features), **options)


def peaks(cells: list[str] | None = None, features: list[str] | None = None, seed: int = 1) -> AnnData:
    return table(cells, PEAKS if features is None else features, seed)


def pair(cells: list[str] | None = None, seed: int = 0, **others: AnnData) -> MuData:
    return MuData({"rna": table(cells, seed=seed), "atac": peaks(cells, seed=seed + 1), **others})


def opened(source, **options):
    return open_cells(source, schemas=SCHEMAS, **options)


def dense(cells, modality: str) -> np.ndarray:
    return cells.counts(modality).toarray()
