"""What a translation baseline returns: one modality's expected values, made a block of columns at a time.

Every prediction is a function of column numbers with a ``shape``; nothing of size cells x features is held. Targets are
of two kinds: ``values`` (expected ``log1p`` of counts per 10,000) and ``open`` (probability of a count above zero).
Leaves out scoring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Target = Literal["values", "open"]

LOWEST = 1e-5  # predicted probabilities stay this far from 0 and 1
SCALE = 1e4
BLOCK = 512  # columns made dense at once


class Prediction(Protocol):
    """Expected values of ``shape`` (cells, features); call it with column numbers for an ``(n, c)`` float32 block."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        ...

    def __call__(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Block of the asked columns."""
        ...


def limited(block: NDArray[np.floating], target: Target) -> NDArray[np.float32]:
    """Values kept at or above zero, probabilities inside (0, 1)."""
    top = 1.0 - LOWEST if target == "open" else None
    return np.clip(block, LOWEST if target == "open" else 0.0, top).astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class Factored:
    """``scores @ loadings + bias``: linear in a few components.

    Attributes
    ----------
    scores, loadings, bias
        ``(n, k)``, ``(k, f)``, ``(f,)``.
    target
        Kind of the target, which sets the limits.
    as_rate
        The product is a Poisson rate, and the prediction ``1 - exp(-rate)``.
    """

    scores: NDArray[np.floating]
    loadings: NDArray[np.floating]
    bias: NDArray[np.floating]
    target: Target
    as_rate: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.scores.shape[0], self.loadings.shape[1]

    def __call__(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Block of the asked columns."""
        block = self.scores @ self.loadings[:, columns] + self.bias[columns]
        return limited(-np.expm1(-np.maximum(block, 0.0)) if self.as_rate else block, self.target)


@dataclass(frozen=True, slots=True)
class Averaged:
    """Weighted means of training cells: ``weights (n, t)`` times their targets ``(t, f)``, both sparse."""

    weights: sp.csr_matrix
    targets: sp.csc_matrix
    target: Target

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.weights.shape[0], self.targets.shape[1]

    def __call__(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Block of the asked columns."""
        return limited((self.weights @ self.targets[:, columns]).toarray(), self.target)


@dataclass(frozen=True, slots=True)
class Scaled:
    """``intercept + slope x raw``, feature by feature: scores of another kind at the scale of the target.

    Attributes
    ----------
    raw
        Function from column numbers to an ``(n, c)`` block.
    slope, intercept
        ``(f,)``.
    cells
        Number of rows.
    """

    raw: Callable[[NDArray[np.int64]], NDArray[np.floating]]
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    cells: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.cells, len(self.slope)

    def __call__(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Block of the asked columns."""
        return limited(self.intercept[columns] + self.slope[columns] * self.raw(columns), "values")


def fit_scale(
    raw: Callable[[NDArray[np.int64]], NDArray[np.floating]], truth: sp.csr_matrix
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a slope (never negative) and intercept of every feature of ``truth`` on raw scores of the same cells.

    r over cells does not change by it; skill does.
    """
    mean, columns_of = column_means(truth), truth.tocsc()
    slope, middle = np.zeros(truth.shape[1]), np.zeros(truth.shape[1])
    for start in range(0, truth.shape[1], BLOCK):
        columns = np.arange(start, min(start + BLOCK, truth.shape[1]))
        block = np.asarray(raw(columns), dtype=np.float64)
        middle[columns] = block.mean(axis=0)
        block = block - middle[columns]
        together = np.asarray(columns_of[:, columns].multiply(block).sum(axis=0)).ravel()
        spread = (block**2).sum(axis=0)
        slope[columns] = np.where(spread > 1e-9, np.maximum(together, 0.0) / np.maximum(spread, 1e-9), 0.0)
    return slope, mean - slope * middle


def depth_of(counts: sp.csr_matrix) -> NDArray[np.float64]:
    """Total count of every cell, ``(n,)``."""
    return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()


def opened(counts: sp.spmatrix) -> sp.csr_matrix:
    """Ones where a count is above zero."""
    matrix = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    matrix.eliminate_zeros()
    matrix.data[:] = 1.0
    return matrix


def log_cp10k(counts: sp.spmatrix) -> sp.csr_matrix:
    """``log1p(10,000 x / n)`` of every stored count, sparse float32; cells without counts stay zero."""
    return log_values(counts, SCALE)


def log_values(counts: sp.spmatrix, per_cell: float) -> sp.csr_matrix:
    """log1p of counts brought to the total ``per_cell`` in every cell (0: as they are), sparse float32."""
    matrix = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    matrix.eliminate_zeros()
    if per_cell:
        total = depth_of(matrix)
        scale = per_cell / np.repeat(np.where(total > 0, total, 1.0), np.diff(matrix.indptr))
        matrix.data *= scale.astype(np.float32)
    np.log1p(matrix.data, out=matrix.data)
    return matrix


def target_matrix(counts: sp.spmatrix, target: Target) -> sp.csr_matrix:
    """Turn counts into their target, sparse: ``log1p`` CP10K, or ones where open."""
    return log_cp10k(counts) if target == "values" else opened(counts)


def column_means(matrix: sp.csr_matrix) -> NDArray[np.float64]:
    """Mean of every column in float64."""
    totals = np.bincount(matrix.indices, matrix.data.astype(np.float64), minlength=matrix.shape[1])
    return totals / max(matrix.shape[0], 1)
