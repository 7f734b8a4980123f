"""Closed forms behind the linear start: ridge, decoders of values and of openings, and the level.

Pure functions of arrays and sparse counts. Leaves out: which cells and latents they are fitted on
(``baselines.decode``).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import SCALE, log_values
from syncyte.baselines.residual import Residual

FEATURES = 65_536  # solved for at once


def raw_context(counts: sp.csr_matrix, residual: Residual) -> NDArray[np.float64]:
    """``(cells, 2)``: log depth (counts, or open regions) and log richness (features seen, or fragments)."""
    depth = residual.depth(counts)
    other = np.diff(counts.indptr) if residual.kind == "pearson" else np.asarray(counts.sum(axis=1)).ravel()
    return np.log(np.maximum(np.column_stack([depth, other]), 1.0))


def level_features(latent: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(cells, 2k + 5)``: latents, context, its squares and product, latents x log depth; ``nn.heads`` in torch."""
    depth, richness = context[:, :1], context[:, 1:]
    return np.hstack([latent, context, depth**2, richness**2, depth * richness, latent * depth])


def ridge(
    design: NDArray[np.float32], target: NDArray, penalty: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and intercept of ridge regression; ``target`` may be sparse."""
    mean, middle = design.mean(axis=0), np.asarray(target.mean(axis=0)).ravel()
    centred = (design - mean).astype(np.float64)
    gram = centred.T @ centred + penalty * np.eye(design.shape[1])
    moment = np.asarray((target.T @ centred).T) if sp.issparse(target) else centred.T @ (target - middle)
    weight = np.linalg.solve(gram, moment)
    return weight, middle - mean @ weight


def mean_decoder(
    latent: NDArray[np.float32], context: NDArray[np.float32], counts: sp.csr_matrix, per_cell: float = SCALE
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Ridge of log1p counts ``per_cell``: weights ``(k, f)``, bias ``(f,)`` and effect of the context ``(2, f)``."""
    weight, bias = ridge(np.hstack([latent, context]), log_values(counts, per_cell), 100.0)
    return weight[:-2], bias, weight[-2:]


def fit_level(features: NDArray[np.float32], depth: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Poisson regression of the depth: weights ``(l,)`` and bias of the log of its mean."""
    from sklearn.linear_model import PoissonRegressor

    mean, sd = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    scale = max(float(depth.mean()), 1e-6)  # the solver wants targets near one
    alpha = max(5e-3, 50 / len(depth))  # few cells, few degrees of freedom
    fitted = PoissonRegressor(alpha=alpha, max_iter=300).fit((features - mean) / sd, depth / scale)
    weight = fitted.coef_ / sd
    return weight, float(fitted.intercept_ + np.log(scale) - mean @ weight)


def fit_tie(
    weight: NDArray[np.float32],
    table: NDArray[np.float32],
    share: NDArray[np.float64],
    scale: NDArray[np.float64],
    spread: NDArray[np.float64],
    penalty: float = 30.0,
    most: int = 200_000,
) -> NDArray[np.float32]:
    """``mix`` (K, k) that makes ``weight_j ~ (table_j @ mix) * scale_j / (spread * share_j + penalty)``.

    For latents with weighted moments ``spread`` on the diagonal, ``relative_decoder`` divides a product of residuals
    and latents by just that denominator; where latents are projections on the table, that product is a small matrix
    of it.
    Least squares over regions, weighted by share, on an even sample of at most ``most`` of them.
    """
    chosen = np.linspace(0, len(share) - 1, min(len(share), most)).astype(np.int64)
    shrunk = (np.outer(share[chosen], spread) + penalty) / scale[chosen, None]
    rows = table[chosen].astype(np.float64)
    weighted = rows * share[chosen, None]
    gram = weighted.T @ rows
    gram += np.eye(len(gram)) * (1e-6 * np.trace(gram) / len(gram))
    return np.linalg.solve(gram, weighted.T @ (weight[:, chosen].T * shrunk)).astype(np.float32)


def relative_decoder(
    latent: NDArray[np.float32],
    opened: sp.csr_matrix,
    depth: NDArray[np.float64],
    share: NDArray[np.float64],
    penalty: float = 30.0,
) -> NDArray[np.float32]:
    """Weights ``(k, f)`` of the relative change of each opening's rate ``depth * share``, in closed form.

    Least squares of ``(y - n p) / sqrt(n p)`` on ``sqrt(n p) z`` with a ridge ``penalty``; one eigendecomposition of
    ``sum_i n_i z_i z_i^T`` serves all regions, which are gone through in blocks.
    """
    z = latent.astype(np.float64)
    values, vectors = np.linalg.eigh(z.T @ (z * depth[:, None]))
    z = z @ vectors
    expected, columns = z.T @ depth, opened.tocsc()
    weight = np.empty((len(values), len(share)), dtype=np.float32)
    for first in range(0, len(share), FEATURES):
        block = slice(first, first + FEATURES)
        moment = np.asarray((columns[:, block].T @ z).T) - np.outer(expected, share[block])
        weight[:, block] = vectors @ (moment / (values[:, None] * share[block] + penalty))
    return weight
