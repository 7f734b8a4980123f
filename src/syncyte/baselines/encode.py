"""Linear encoders of one modality: residuals of its counts times a table of loadings, standardised and clipped.

Leaves out: where the loadings come from (``baselines.start``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.closed_form import raw_context
from syncyte.baselines.prediction import SCALE
from syncyte.baselines.residual import Residual, ResidualMatrix

MOST_CELLS = 50_000
CLIP = 3.0
BELOW_LAST = 0.99  # of the last singular value is the floor, so that the last axis does not vanish altogether
Alone = tuple[NDArray[np.float32], NDArray[np.float32]]  # loadings (f, k) and singular values (k,) of one modality


@dataclass(frozen=True)
class Encoder:
    """Linear encoder of one modality.

    Attributes
    ----------
    residual, center
        Scaling of the counts and the mean residual ``(f,)`` over training cells.
    table
        ``(f, k)`` loadings over the training standard deviation of each latent: shared columns first.
    shared
        Number of shared columns.
    strength
        ``(k,)`` singular values over the first of their group.
    context_mean, context_sd
        ``(2,)`` of the depth context (log depth and log richness, see ``raw_context``) over training cells.
    per_cell
        Total that counts of a cell are brought to where they are predicted as values; 0 takes them as they are.
    """

    residual: Residual
    center: NDArray[np.float32]
    table: NDArray[np.float32]
    shared: int
    strength: NDArray[np.float32]
    context_mean: NDArray[np.float32]
    context_sd: NDArray[np.float32]
    per_cell: float = SCALE

    def latents(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(cells, k)`` clipped latents."""
        sparse, left, right = self.residual.split(counts)
        raw = sparse @ self.table + left @ (right @ self.table) - self.center @ self.table
        return (CLIP * np.tanh(raw / CLIP)).astype(np.float32)

    def context(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(cells, 2)`` standardised depth context."""
        return ((raw_context(counts, self.residual) - self.context_mean) / self.context_sd).astype(np.float32)


def axis_widths(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far singular values rise above the last one, which is mostly noise: root of the difference of squares."""
    floor = BELOW_LAST * float(strength.min())
    return np.sqrt(np.maximum(strength**2 - floor**2, 0)).astype(np.float32)


def rows_of(counts: sp.csr_matrix, rows: NDArray[np.int64]) -> sp.csr_matrix:
    """Rows of a matrix, which is not copied where they are all of it."""
    return counts if len(rows) == counts.shape[0] and (np.diff(rows) == 1).all() else counts[rows]


def fit_encoder(
    counts: sp.csr_matrix,
    present: NDArray[np.bool_],
    residual: Residual,
    shared: NDArray[np.float32] | None,
    strength: NDArray[np.float32],
    alone: Alone,
    private: int,
    per_cell: float = SCALE,
) -> Encoder:
    """Encoder with the shared loadings first, if any, then the modality's own; scaled on the cells that have it."""
    rows = np.flatnonzero(present)[:MOST_CELLS]
    seen = rows_of(counts, rows)
    matrix = ResidualMatrix.build(seen, residual)
    loadings = alone[0][:, :private]
    table = loadings if shared is None else np.hstack([shared, loadings])
    table = table / np.maximum(matrix.dot(table).std(axis=0), 1e-6)
    values = alone[1][: loadings.shape[1]] / alone[1][0]
    context = raw_context(seen, residual)
    return Encoder(
        residual,
        matrix.center,
        table.astype(np.float32),
        0 if shared is None else shared.shape[1],
        np.concatenate([strength, values]).astype(np.float32),
        context.mean(axis=0).astype(np.float32),
        np.maximum(context.std(axis=0), 1e-3).astype(np.float32),
        per_cell,
    )
