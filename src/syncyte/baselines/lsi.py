"""TF-IDF of open regions and its SVD (latent semantic indexing), as Cusanovich et al., Cell 2018, and Signac use it.

``log1p(10,000 x y / n x log(1 + N / (1 + N_j)))`` with n open regions in the cell and N training cells, N_j of them
open at region j. Weights come from training cells only. The first axis is mostly depth: ``drop_first`` leaves it out,
which helps clustering and costs translation (depth is real information about what will be seen).
Trap: at 80-100 open regions a cell this scaling loses about half of the usable signal; depth-scaled residuals do not.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import SCALE, depth_of, opened
from syncyte.baselines.residual import ResidualMatrix, svd

# Of the randomised SVD. The spectrum of sparse open regions is flat: 3 lose a tenth of what can be predicted.
ITERATIONS = 12


class Tfidf:
    """Log TF-IDF with weights from training cells."""

    weights: NDArray[np.float32]

    def fit(self, counts: sp.csr_matrix) -> Self:
        """Learn the inverse document frequencies of ``(n, r)`` counts."""
        cells = np.bincount(opened(counts).indices, minlength=counts.shape[1])
        self.weights = np.log1p(counts.shape[0] / (1.0 + cells)).astype(np.float32)
        return self

    def transform(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Scaled values, sparse, same pattern as the open regions."""
        matrix = opened(counts)
        total = np.maximum(depth_of(matrix), 1.0)
        matrix.data *= (SCALE / np.repeat(total, np.diff(matrix.indptr))).astype(np.float32)
        matrix.data *= self.weights[matrix.indices]
        np.log1p(matrix.data, out=matrix.data)
        return matrix


class LSI:
    """SVD of log TF-IDF, with or without the first axis.

    Parameters
    ----------
    components
        Axes returned.
    drop_first
        Leave out the first axis, which follows depth.
    seed
        Of the randomised SVD.
    """

    def __init__(self, components: int = 50, drop_first: bool = False, seed: int = 0) -> None:
        self.components, self.drop_first, self.seed = components, drop_first, seed

    def fit(self, counts: sp.csr_matrix) -> Self:
        """Learn weights and axes from ``(n, r)`` counts of training cells."""
        self.tfidf = Tfidf().fit(counts)
        first = int(self.drop_first)
        axes = min(self.components + first, *counts.shape)
        self.loadings = svd(plain_matrix(self.tfidf.transform(counts)), axes, self.seed, ITERATIONS)[2][:, first:]
        return self

    def transform(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(n, k)`` scores of any cells."""
        return np.asarray(self.tfidf.transform(counts) @ self.loadings, dtype=np.float32)


def plain_matrix(sparse: sp.csr_matrix, center: NDArray[np.floating] | None = None) -> ResidualMatrix:
    """Wrap a sparse matrix, less a row of means if given, as the implicit matrix that ``residual.svd`` takes."""
    cells, features = sparse.shape
    mean = np.zeros(features) if center is None else center
    empty = np.zeros((cells, 1), dtype=np.float32), np.zeros((1, features), dtype=np.float32)
    return ResidualMatrix(sparse, *empty, mean.astype(np.float32))
