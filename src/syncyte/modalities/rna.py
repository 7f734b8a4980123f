"""RNA: a gene is a token, its value a count.

Predictions are expected log1p of counts per 10,000. Pearson residuals are the input scale: at a few hundred counts a
cell, log counts per 10,000 are close to a presence matrix scaled by depth.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from syncyte.baselines.prediction import log_values
from syncyte.baselines.residual import Kind
from syncyte.modalities.base import Layout, modalities
from syncyte.types import Schema


class Rna:
    """RNA counts by gene."""

    schema = Schema("rna", "gene", ("Gene Expression",), ("rna", "gex", "gene", "expression"), rank=0)
    residual: Kind = "pearson"
    likelihoods = ("gaussian", "nb", "poisson")
    per_cell = 1e4
    unit = "expected log1p counts per 10,000"

    def layout(self, var: pd.DataFrame, *, tokens: int, groups: int, slots: int = 0) -> Layout:
        """One token a gene; at most ``tokens`` a cell. ``groups`` and ``slots`` have no meaning here."""
        del groups, slots
        return Layout(np.arange(len(var), dtype=np.int64), len(var), tokens)

    def observed(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """log1p of counts per 10,000; cells without counts stay empty."""
        return log_values(counts, self.per_cell)


modalities.add("rna")(Rna())
