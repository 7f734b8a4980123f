"""Spectral embedding of cells by cosine similarity, matrix-free, as SnapATAC2 does it.

Zhang et al., Nature Methods 2024: open regions are weighted by ``log(N / N_j)`` and cells brought to length one; the
similarity of two cells is then ``W = X X'``, its diagonal set to zero. Eigenvectors of ``D^-1/2 W D^-1/2`` come from
products with the sparse ``X`` alone; ``W`` (cells x cells) is never made. Each is weighted by the square root of its
eigenvalue, so that the number of axes hardly matters; axes without a positive eigenvalue are dropped. Coordinates are
then multiplied by ``sqrt(N)``, which takes the number of cells out of their scale.

The first eigenvector, ``sqrt(degree)`` with eigenvalue 1, says nothing but how connected (mostly: how deep) a cell is
and is left out; the package returns it as its first axis. The package takes counts as they come, here a region is open
or closed: files often count the two ends of a fragment, and on such openings did a little better. New cells are placed
by the Nystrom formula on the training cells, with their exact degree (the package approximates it). Leaves out: Jaccard
similarity, landmarks for more cells than fit into memory, selection of features.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import opened

# Of a residual to its eigenvalue: far below what moves a neighbour.
TOLERANCE = 1e-6


class Spectral:
    """Laplacian eigenmap of training cells that can place new ones.

    Parameters
    ----------
    components
        Axes returned (fewer where the data have fewer cells or positive eigenvalues).
    seed
        Of the first vector of the eigensolver.

    Attributes
    ----------
    eigenvalues
        ``(k,)`` descending, positive, the trivial one left out.
    embedding
        ``(n, k)`` float32 coordinates of the training cells. A cell is not its own neighbour here, while ``transform``
        does not know which cells it has seen: use this for the training cells themselves.
    """

    eigenvalues: NDArray[np.float64]
    embedding: NDArray[np.float32]

    def __init__(self, components: int = 30, seed: int = 0) -> None:
        self.components, self.seed = components, seed

    def fit(self, counts: sp.csr_matrix) -> Self:
        """Learn weights and axes from ``(n, r)`` counts of training cells."""
        cells = np.bincount(opened(counts).indices, minlength=counts.shape[1])
        # a feature open in all cells keeps a small weight, so that no cell is left without any
        self.weights = np.log(counts.shape[0] / np.clip(cells, 1, max(counts.shape[0] - 1, 1)))
        unit = self._unit(counts)
        self.total = np.bincount(unit.indices, unit.data, minlength=unit.shape[1])
        degree = unit @ self.total - _squares(unit)
        root = _inverse_root(degree)
        values, vectors = self._eigen(unit, root)
        keep = np.flatnonzero(values > 1e-9)
        self.eigenvalues, vectors = values[keep], vectors[:, keep]
        scale = np.sqrt(len(vectors))
        self.embedding = (vectors * (scale * np.sqrt(self.eigenvalues))).astype(np.float32)
        self.loadings = np.asarray(unit.T @ (vectors * root[:, None])) * (scale / np.sqrt(self.eigenvalues))
        return self

    def transform(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(n, k)`` coordinates of new cells by their similarity to the training cells; zeros for an empty cell."""
        unit = self._unit(counts)
        return np.asarray((unit @ self.loadings) * _inverse_root(unit @ self.total)[:, None], dtype=np.float32)

    def _unit(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Weighted rows of length one; a row without weight stays zero."""
        matrix = opened(counts).astype(np.float64)
        matrix.data = self.weights[matrix.indices]
        length = np.sqrt(_squares(matrix))
        matrix.data /= np.repeat(np.where(length > 0, length, 1.0), np.diff(matrix.indptr))
        return matrix

    def _eigen(self, unit: sp.csr_matrix, root: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues (descending) and unit eigenvectors after the first one."""
        from scipy.sparse.linalg import LinearOperator, eigsh

        own = _squares(unit) * root**2  # the diagonal that W does not have

        def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            flat = np.ravel(vector)
            return root * (unit @ (unit.T @ (root * flat))) - own * flat

        cells = unit.shape[0]
        wanted = min(self.components + 1, cells)
        if wanted >= cells - 1 or cells < 50:  # the solver needs room; so few cells are quick in full
            dense = np.apply_along_axis(product, 0, np.eye(cells))
            values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        else:
            first = np.random.default_rng(self.seed).uniform(size=cells)
            operator = LinearOperator((cells, cells), matvec=product, dtype=np.float64)
            values, vectors = eigsh(operator, k=wanted, which="LA", v0=first, tol=TOLERANCE)
        order = np.argsort(-values, kind="stable")[1:wanted]
        values, vectors = values[order], vectors[:, order]
        sign = np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(order))] < 0, -1.0, 1.0)
        return values, vectors * sign


def _squares(matrix: sp.csr_matrix) -> NDArray[np.float64]:
    """Squared length of every row."""
    return np.asarray(matrix.power(2).sum(axis=1)).ravel()


def _inverse_root(degree: NDArray[np.float64]) -> NDArray[np.float64]:
    """``degree^-1/2``, zero for a cell that is like no other."""
    return np.where(degree > 1e-12, 1.0 / np.sqrt(np.maximum(degree, 1e-12)), 0.0)
