"""The most variable features of counts, chosen on training cells.

By the variance of analytic Pearson residuals, as scanpy has it. Leaves out: technical batches.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.errors import DataError

MOST_CELLS = 20_000


def variable_columns(counts: sp.csr_matrix, count: int) -> NDArray[np.int64]:
    """Ascending columns of the ``count`` most variable features (Lause, Berens and Kobak, Genome Biology 2021).

    Raises
    ------
    DataError
        If fewer features were counted at all.
    """
    import anndata
    import scanpy

    seen = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]))
    if len(seen) < count:
        raise DataError(
            f"{count:,} variable features are asked for, and {len(seen):,} were counted in training cells. Ask fewer."
        )
    if len(seen) == count:
        return seen
    table = anndata.AnnData(counts[:MOST_CELLS][:, seen])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that are constant in the cells looked at
        chosen = scanpy.experimental.pp.highly_variable_genes(table, n_top_genes=count, inplace=False)
    return seen[chosen["highly_variable"].to_numpy()]
