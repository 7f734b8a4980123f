"""Whether generated counts look like counts: zeros, mean against variance, depth, gene-gene correlation, calibration.

Cells are compared as two sets, feature by feature, so the number of cells need not be equal; composition must be, or
every score here measures it. ``score_counts`` gathers the numbers, ``gene_table`` has them by feature for plots, and
``quantile_residual_ks`` asks of a negative binomial prediction of single cells whether its spread is right.

Definitions.

- *Zeros*: mean absolute difference over features of the share of cells without a count.
- *Mean and variance*: of raw counts, over features seen in at least 10 real cells (the made cells have no say in the
  choice). Errors are mean absolute differences of natural logarithms; means and variances below one count in all real
  cells are raised to it, so a feature that is never made costs, and costs finitely. The slope is that of log variance
  on log mean over the same features, by least squares: 1 for Poisson counts, towards 2 for strong overdispersion.
- *Library*: Kolmogorov-Smirnov distance of total counts, and the ratio of their medians, made over real.
- *Correlation*: Pearson's r of ``log1p`` CP10K between the 200 features of largest variance of ``log1p`` CP10K in real
  cells; mean absolute difference over pairs. A feature that is constant in one set has r 0 there.

Traps. None is zero for two halves of the same cells: print that floor beside them. Means of a prediction are not
cells; here their zeros and variances show it. Nothing here sees copies of training cells
(``distribution.memorisation``). Leaves out: distances between sets as a whole (``metrics.distribution``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError
from syncyte.metrics.prediction import log_cp10k

ROWS = 8_192  # cells whose stored counts are summed at once
BLOCK = 1 << 22  # entries of a dense block: 32 MB as float64
SEEN = 10  # real cells a feature must be seen in, to be compared by mean and variance
TOP = 200  # features that are correlated
BINS = 512  # of quantile residuals: a KS distance is exact to 1/512
Means = Callable[[NDArray[np.int64]], NDArray[np.floating]]


def score_counts(real: sp.csr_matrix, made: sp.csr_matrix, *, top: int = TOP) -> dict[str, float]:
    """Score generated counts against real ones.

    Parameters
    ----------
    real, made
        ``(n, f)`` and ``(m, f)`` raw counts, sparse; composition alike.
    top
        Features that are correlated.

    Returns
    -------
    ``zero_error``, ``zeros_real`` and ``zeros_made`` (shares of all entries), ``log_mean_error``,
    ``log_variance_error``, ``slope_real``, ``slope_made``, ``library_ks``, ``library_ratio``, ``correlation_error``,
    and ``features`` (compared by mean and variance). Errors and KS are 0 at best, the ratio 1. NaN where no feature is
    seen in 10 real cells.

    Raises
    ------
    DataError
        For other features, fewer than 2 cells, and values that are negative or not finite. Values that are not whole
        are taken, so that predicted means can be shown to lose.
    """
    real, made = _checked(real, made)
    table = gene_table(real, made)
    own = np.asarray(table["zeros_real"] <= 1 - min(SEEN, real.shape[0]) / real.shape[0] + 1e-12)
    level = 1.0 / real.shape[0]
    logs = {name: np.log(np.maximum(table[name][own].to_numpy(), level)) for name in table if name[:5] != "zeros"}
    depth, drawn = _totals(real), _totals(made)
    return {
        "zero_error": float((table["zeros_real"] - table["zeros_made"]).abs().mean()),
        "zeros_real": float(table["zeros_real"].mean()),
        "zeros_made": float(table["zeros_made"].mean()),
        "log_mean_error": _gap(logs["mean_real"], logs["mean_made"]),
        "log_variance_error": _gap(logs["variance_real"], logs["variance_made"]),
        "slope_real": _slope(logs["mean_real"], logs["variance_real"]),
        "slope_made": _slope(logs["mean_made"], logs["variance_made"]),
        "library_ks": _ks(depth, drawn),
        "library_ratio": float(np.median(drawn) / max(float(np.median(depth)), 1e-12)),
        "correlation_error": correlation_error(real, made, top=top),
        "features": float(own.sum()),
    }


def gene_table(real: sp.csr_matrix, made: sp.csr_matrix) -> pd.DataFrame:
    """``mean``, ``variance`` (of the sample, n - 1) and share of ``zeros`` of every feature, in real and made cells.

    Returns
    -------
    One row a feature in the order of columns: ``mean_real``, ``mean_made``, ``variance_real``, ``variance_made``,
    ``zeros_real``, ``zeros_made``; raw counts.
    """
    real, made = _checked(real, made)
    both = {"real": _moments(real), "made": _moments(made)}
    columns = {f"{what}_{side}": getattr(both[side], what) for what in ("mean", "variance", "zeros") for side in both}
    return pd.DataFrame(columns)


def correlation_error(real: sp.csr_matrix, made: sp.csr_matrix, *, top: int = TOP) -> float:
    """Mean absolute difference of gene-gene correlations, over the ``top`` most variable features of the real cells.

    Pearson's r of ``log1p`` CP10K, where the variance is measured as well; of equal variances the first column. NaN
    with fewer than 2 features.
    """
    real, made = _checked(real, made)
    variance = _moments_of(log_cp10k(block) for block in _blocks(real)).variance
    chosen = np.argsort(-variance, kind="stable")[: min(top, int((variance > 0).sum()))]
    if len(chosen) < 2:
        return float("nan")
    pairs = np.triu_indices(len(chosen), 1)
    first, second = (_correlations(matrix, chosen)[pairs] for matrix in (real, made))
    return float(np.abs(first - second).mean())


def quantile_residual_ks(
    counts: sp.csr_matrix, mean: ArrayLike | Means, dispersion: ArrayLike, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Kolmogorov-Smirnov distance from uniform of randomised quantile residuals, by feature (Dunn and Smyth 1996).

    A count x becomes a uniform draw between ``F(x - 1)`` and ``F(x)`` of its own predicted negative binomial; where
    predictions are right these are uniform over cells, whatever the means. A rule of thumb for the floor is
    ``0.87 / sqrt(n)``, its expectation for right predictions of n cells.

    Parameters
    ----------
    counts
        ``(n, f)`` raw counts that the prediction was not fitted on.
    mean
        ``(n, f)``, or a function from row numbers to their ``(b, f)`` block, which is called once a block in order.
    dispersion
        ``(f,)`` or one number; the variance is ``mean + mean^2 / dispersion``.
    rng
        Of the uniform draws.

    Returns
    -------
    ``(f,)``, between 0 and 1; kept on 512 bins of the residuals, so up to 1/512 below the exact distance.
    """
    matrix = _counts(counts, "Counts")
    cells, features = matrix.shape
    spread = np.broadcast_to(np.asarray(dispersion, dtype=np.float64), (features,))
    if not callable(mean):
        block_of = _rows_of(np.asarray(mean), matrix.shape)
    else:
        block_of = mean
    if not (np.isfinite(spread).all() and (spread > 0).all()):
        raise DataError(
            "Dispersions of negative binomials must be above zero and finite. Clip them, say to 0.02 to 3,000."
        )
    found = np.zeros((features, BINS), dtype=np.int64)
    step, offset = max(1, BLOCK // features), np.arange(features) * BINS
    for start in range(0, cells, step):
        rows = np.arange(start, min(start + step, cells))
        block = np.asarray(block_of(rows), dtype=np.float64)
        if block.shape != (len(rows), features) or not (block >= 0).all():
            raise DataError(
                f"Predicted means need the shape {(len(rows), features)} and no negative or NaN value; found the shape "
                f"{block.shape}, least value {block.min(initial=0.0):g}. Hand in means of counts, not their logarithms."
            )
        uniform = _residuals(matrix[rows], block, spread, rng)
        place = np.minimum((uniform * BINS).astype(np.int64), BINS - 1) + offset
        found += np.bincount(place.ravel(), minlength=features * BINS).reshape(features, BINS)
    reached = np.cumsum(found, axis=1) / max(cells, 1)
    return np.abs(reached - np.arange(1, BINS + 1) / BINS).max(axis=1)


def split_half(counts: sp.csr_matrix, rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Deal every single count to one of two halves with equal chance; the halves sum to the whole.

    A model that is shown the first half and scored on the second cannot gain by copying. Given the cell's true rates
    both halves have the same mean, half of the whole.

    Parameters
    ----------
    counts
        ``(n, f)`` raw counts, sparse.

    Returns
    -------
    Two ``(n, f)`` float32 matrices without stored zeros.

    Raises
    ------
    DataError
        For values that are not whole.
    """
    matrix = _counts(counts, "Counts")
    whole = np.rint(matrix.data)
    if (whole != matrix.data).any():
        raise DataError(
            f"Only whole counts can be dealt into halves; found {matrix.data[whole != matrix.data][0]:g}. Hand in raw "
            "counts."
        )
    kept = rng.binomial(whole.astype(np.int64), 0.5)
    halves = []
    for data in (kept, whole - kept):
        part = sp.csr_matrix((data.astype(np.float32), matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)
        part.eliminate_zeros()
        halves.append(part)
    return halves[0], halves[1]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Mean, sample variance and share of zeros of every feature, ``(f,)`` each."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    zeros: NDArray[np.float64]


def _moments(counts: sp.csr_matrix) -> _Moments:
    return _moments_of(_blocks(counts))


def _moments_of(blocks: Iterator[sp.csr_matrix]) -> _Moments:
    """One pass over blocks; squares are counted from the mean of the first block, or large means would drown them."""
    sums = np.zeros((0, 0))
    cells = 0
    for block in blocks:
        if not cells:
            middle = _columns(block, block.data) / block.shape[0]
            sums = np.zeros((3, block.shape[1]))
        away = block.data - middle[block.indices]
        # an entry that is not stored lies -middle from the middle
        sums += np.stack([_columns(block, v) for v in (away + middle[block.indices], away**2, block.data > 0)])
        sums[1] += (block.shape[0] - _columns(block, np.ones(block.nnz))) * middle**2
        cells += block.shape[0]
    mean = sums[0] / cells
    variance = (sums[1] - cells * (mean - middle) ** 2) / max(cells - 1, 1)
    return _Moments(mean, np.maximum(variance, 0.0), 1.0 - sums[2] / cells)


def _blocks(counts: sp.csr_matrix) -> Iterator[sp.csr_matrix]:
    for start in range(0, counts.shape[0], ROWS):
        yield counts[start : start + ROWS].astype(np.float64)


def _columns(block: sp.csr_matrix, values: NDArray) -> NDArray[np.float64]:
    """Sum of values, one for each stored entry, by column."""
    return np.bincount(block.indices, values, block.shape[1]).astype(np.float64)


def _totals(counts: sp.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _correlations(counts: sp.csr_matrix, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pearson's r between the chosen columns of ``log1p`` CP10K; 0 where a column is constant."""
    cells, width = 0, len(chosen)
    total, products, middle = np.zeros(width), np.zeros((width, width)), np.zeros(width)
    for block in _blocks(counts):
        values = log_cp10k(block)[:, chosen].toarray().astype(np.float64)
        if not cells:
            middle = values.mean(axis=0)
        values -= middle
        total, products, cells = total + values.sum(axis=0), products + values.T @ values, cells + len(values)
    covariance = products - np.outer(total, total) / cells
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    spread[spread <= 1e-6 * np.sqrt(cells)] = np.inf
    return covariance / np.outer(spread, spread)


def _residuals(
    counts: sp.csr_matrix, mean: NDArray[np.float64], dispersion: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Uniform draws between the two steps of the distribution; the incomplete beta function for stored counts only."""
    from scipy.special import betainc

    place = rng.random(mean.shape)
    uniform = place * np.exp(-dispersion * np.log1p(mean / dispersion))  # between 0 and F(0)
    block = sp.coo_matrix(counts)
    keep = block.data > 0
    row, column, x = block.row[keep], block.col[keep], block.data[keep].astype(np.float64)
    r, m = dispersion[column], mean[row, column]
    below, upto = betainc(r, x, r / (r + m)), betainc(r, x + 1, r / (r + m))
    uniform[row, column] = below + place[row, column] * (upto - below)
    return uniform


def _rows_of(mean: NDArray, shape: tuple[int, int]) -> Means:
    if mean.shape != shape:
        raise DataError(f"Predicted means have the shape {mean.shape}; the counts have {shape}. Predict every entry.")
    return lambda rows: mean[rows]


def _gap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.abs(first - second).mean()) if len(first) else float("nan")


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Slope of y on x by least squares; NaN where x does not vary."""
    away = x - x.mean() if len(x) else x
    square = float(away @ away)
    return float(away @ y) / square if square > 1e-12 else float("nan")


def _ks(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Largest difference of two empirical distributions."""
    grid = np.concatenate([first, second])
    steps = [np.searchsorted(np.sort(part), grid, side="right") / len(part) for part in (first, second)]
    return float(np.abs(steps[0] - steps[1]).max())


def _counts(counts: sp.csr_matrix, label: str) -> sp.csr_matrix:
    if not sp.issparse(counts):
        raise DataError(
            f"{label} must be a sparse matrix (cells, features); found {type(counts).__name__}. Use "
            "scipy.sparse.csr_matrix."
        )
    matrix = sp.csr_matrix(counts)
    if not matrix.has_canonical_format:  # sums by stored entry want each place once
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if not (np.isfinite(matrix.data).all() and (matrix.data >= 0).all()):
        raise DataError(f"{label} hold negative, NaN or infinite values; raw counts are needed.")
    return matrix


def _checked(real: sp.csr_matrix, made: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    first, second = _counts(real, "Real cells"), _counts(made, "Made cells")
    if first.shape[1] != second.shape[1] or min(first.shape[0], second.shape[0]) < 2:
        raise DataError(
            f"Two sets of at least 2 cells with the same features are needed; found the shapes {first.shape} and "
            f"{second.shape}. Choose the same features in the same order."
        )
    return first, second
