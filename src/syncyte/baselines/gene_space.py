"""Genes predicted from all other genes, in closed form: the start of a gene network.

Amounts of genes (``baselines.amounts``) are standardised over training cells. The leading right singular vectors
``t_g`` place every gene; a cell is read as ``z = sum_g a_g t_g``, and gene ``j`` is predicted from all genes but itself
as ``a_j = (z - a_j t_j) . F t_j``. ``F`` is diagonal and fitted by least squares: it is far flatter than the spectrum,
so that a strong axis (cell types) explains away what it can and weak ones (a factor and its targets) are still read.

Standardised amounts are sparse plus one row, ``S = A / sd - mean / sd``, and never made. Leaves out: learning by steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds

from syncyte.errors import DataError

LEAST_SPREAD = 0.02  # of an amount: a gene seen in a cell or two would be all noise at its own scale
FITTED = 400  # cells, and
FITTED_GENES = 1_500  # genes that F is fitted on


@dataclass(frozen=True)
class GeneSpace:
    """What ``fit_gene_space`` gives: ``mean``, ``sd`` ``(g,)`` of amounts, ``table`` ``(g, k)``, ``mix`` ``(k,)``."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    table: NDArray[np.float32]
    mix: NDArray[np.float32]


def moments(matrix: sp.csr_matrix, least: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (at least ``least``) of every column, zeros counted."""
    values = matrix.data.astype(np.float64)
    mean = np.bincount(matrix.indices, values, minlength=matrix.shape[1]) / matrix.shape[0]
    square = np.bincount(matrix.indices, values**2, minlength=matrix.shape[1]) / matrix.shape[0]
    return mean, np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), least)


def fit_gene_space(
    matrix: sp.csr_matrix, components: int, seed: int = 0, given: NDArray[np.floating] | None = None
) -> GeneSpace:
    """Place genes by the amounts of ``(n, g)`` training cells, and fit how they predict each other.

    Parameters
    ----------
    components
        Coordinates of a gene.
    given
        ``(g, d)`` places of genes to take instead, such as the tokens of another model: its leading ``components``
        axes. How genes predict each other by them is fitted here.

    Raises
    ------
    DataError
        If there are fewer cells or genes than three times the components.
    """
    if min(matrix.shape) < 3 * components:
        raise DataError(
            f"{matrix.shape[0]:,} cells and {matrix.shape[1]:,} genes are too few for {components} components: give "
            f"more cells, or --set sizes.components={max(min(matrix.shape) // 3, 1)}."
        )
    mean, sd = moments(matrix, LEAST_SPREAD)
    offset = mean / sd
    scaled = matrix.astype(np.float64) @ sp.diags(1 / sd)

    def times(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return scaled @ x - (offset @ x)

    def back(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return scaled.T @ y - np.multiply.outer(offset, y.sum(axis=0))

    if given is not None:
        left, size, _ = np.linalg.svd(np.asarray(given, dtype=np.float64), full_matrices=False)
        left = left[:, size > 1e-6 * size[0]][:, :components]
        table = np.concatenate([left, np.zeros((len(left), components - left.shape[1]))], axis=1)
        mix = _fit_mix(scaled, offset, table, seed)
        return GeneSpace(mean, sd, table.astype(np.float32), mix.astype(np.float32))
    operator = LinearOperator(matrix.shape, matvec=times, rmatvec=back, matmat=times, rmatmat=back, dtype=np.float64)
    first = np.random.default_rng(seed).normal(size=min(matrix.shape))
    _, _, right = svds(operator, k=components, v0=first, random_state=seed)
    table = right[::-1].T
    table = table * np.where(table[np.abs(table).argmax(axis=0), np.arange(components)] < 0, -1.0, 1.0)
    mix = _fit_mix(scaled, offset, table, seed)
    return GeneSpace(mean, sd, table.astype(np.float32), mix.astype(np.float32))


def _fit_mix(
    scaled: sp.csr_matrix, offset: NDArray[np.float64], table: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Least squares weight of each axis in the prediction of a gene by the others."""
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.permutation(scaled.shape[0])[:FITTED])
    genes = np.sort(rng.permutation(scaled.shape[1])[:FITTED_GENES])
    part = scaled[cells]
    read = part @ table - offset @ table
    truth = part[:, genes].toarray() - offset[genes]
    own = table[genes]
    normal, right = np.zeros((table.shape[1], table.shape[1])), np.zeros(table.shape[1])
    for z, a in zip(read, truth):
        features = (z[None, :] - a[:, None] * own) * own
        normal += features.T @ features
        right += features.T @ a
    ridge = 1e-6 * np.trace(normal) / len(normal)
    return np.clip(np.linalg.solve(normal + ridge * np.eye(len(normal)), right), 0, None)
