"""How like two sets of cells are, as distributions: Wasserstein, energy, MMD, 1-NN, precision and recall, copies.

All functions take ``(n, d)`` coordinates of two sets in one space that was fitted on neither of them (usually principal
components of log counts of the training cells); ``score_sets`` gathers them. Lower is better for distances, 0.5 is
best for 1-NN accuracy.

Traps. Distances between samples are not zero for equal distributions: compare equal n only, and print the floor of two
real sets beside every number. Averages of predicted counts are not cells; every score here shows it. The ratio of
memorisation needs all training cells: against a part of them even exact copies pass.
Leaves out: which space, and per-gene calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance, for the kernels of MMD
EXACT = 5_000  # points an exact assignment is made for
BLOCK = 1 << 22  # distances held at once
Points = NDArray[np.float64]


def score_sets(real: ArrayLike, made: ArrayLike, *, k: int = 5, scale: float | None = None) -> dict[str, float]:
    """Score ``made`` cells against as many ``real`` ones.

    Parameters
    ----------
    real, made
        ``(n, d)`` each, equal n.
    k
        Neighbours whose distance is the radius of a ball, for precision and recall.
    scale
        Median squared distance of real cells, see ``median_square``; None measures it on ``real``.

    Returns
    -------
    ``w2``, ``energy``, ``mmd2``, ``one_nn``, ``precision``, ``recall``, ``harmonic`` (mean of these two), ``frechet``
    and ``variance_ratio`` (total variance of made over real cells).
    """
    a, b = _checked(real, made)
    if len(a) != len(b):
        raise DataError(
            f"Distances of distributions depend on the number of cells: found {len(a):,} real and {len(b):,} made "
            "ones. Draw equally many of both."
        )
    precision, recall = precision_recall(a, b, k=k)
    return {
        "w2": wasserstein(a, b),
        "energy": energy_distance(a, b),
        "mmd2": mmd2(a, b, scale=scale),
        "one_nn": one_nn(a, b),
        "precision": precision,
        "recall": recall,
        "harmonic": 2 * precision * recall / max(precision + recall, 1e-12),
        "frechet": frechet(a, b),
        "variance_ratio": float(b.var(axis=0).sum() / max(a.var(axis=0).sum(), 1e-12)),
    }


def wasserstein(first: ArrayLike, second: ArrayLike) -> float:
    """2-Wasserstein distance of two equally large samples, by the exact assignment.

    Raises
    ------
    DataError
        For unequal or more than 5,000 points (the assignment is cubic): draw fewer.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _checked(first, second)
    if len(a) != len(b) or len(a) > EXACT:
        raise DataError(
            f"The exact assignment is made for equally many points, at most {EXACT:,}; found {len(a):,} and "
            f"{len(b):,}. Draw equally many of both."
        )
    cost = np.concatenate([block for _, block in _squares(a, b)])
    rows, columns = linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean()))


def energy_distance(first: ArrayLike, second: ArrayLike) -> float:
    """``2 E|X-Y| - E|X-X'| - E|Y-Y'|`` with Euclidean norms, unbiased: may fall below zero (Szekely and Rizzo 2013)."""
    a, b = _checked(first, second)
    within = sum(_mean_of(np.sqrt, points, points) * len(points) / (len(points) - 1) for points in (a, b))
    return float(2 * _mean_of(np.sqrt, a, b) - within)


def median_square(points: ArrayLike, most: int = 2_000) -> float:
    """Median squared distance between different points, of the first ``most``."""
    a = np.asarray(points, dtype=np.float64)[:most]
    block = np.concatenate([block for _, block in _squares(a, a)])
    return float(np.median(block[~np.eye(len(a), dtype=bool)]))


def mmd2(first: ArrayLike, second: ArrayLike, *, scale: float | None = None) -> float:
    """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012); not clipped, so it may fall below zero.

    The kernel is the mean of five Gaussians, ``exp(-d^2 / (2 s))`` with ``s`` a quarter to four times ``scale``.

    Parameters
    ----------
    scale
        Median squared distance of real cells; None takes that of ``first``. Give the same to all that is compared.
    """
    a, b = _checked(first, second)
    widths = np.array(SCALES) * (median_square(a) if scale is None else scale)

    def kernel(squares: Points) -> Points:
        return np.mean([np.exp(-squares / (2 * width)) for width in widths], axis=0)

    within = [(_mean_of(kernel, points, points) * len(points) - 1) / (len(points) - 1) for points in (a, b)]
    return float(sum(within) - 2 * _mean_of(kernel, a, b))


def one_nn(first: ArrayLike, second: ArrayLike) -> float:
    """Leave-one-out accuracy of telling the sets apart by the nearest other cell; 0.5 where they are alike.

    Cells at the same distance of both sets count half (Lopez-Paz and Oquab 2017, balanced over the two sets).
    """
    a, b = _checked(first, second)
    hits = []
    for own, other in ((a, b), (b, a)):
        near, far = _nearest(own, own, 1, same=True)[:, 0], _nearest(own, other, 1)[:, 0]
        hits.append(np.mean((near < far) + 0.5 * (near == far)))
    return float(np.mean(hits))


def precision_recall(real: ArrayLike, made: ArrayLike, *, k: int = 5) -> tuple[float, float]:
    """Share of made cells inside the manifold of real ones, and the reverse (Kynkaanniemi et al. 2019).

    The manifold is the union of balls around its cells that reach to their ``k``-th neighbour.
    """
    a, b = _checked(real, made)
    return _inside(b, a, k), _inside(a, b, k)


def frechet(first: ArrayLike, second: ArrayLike) -> float:
    """Frechet distance of the Gaussians of two samples, ``|m1-m2|^2 + tr(S1 + S2 - 2 (S1^.5 S2 S1^.5)^.5)``."""
    a, b = _checked(first, second)
    s, t = (np.atleast_2d(np.cov(points, rowvar=False)) for points in (a, b))
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ t @ root), 0)).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross)


def memorisation(made: ArrayLike, training: ArrayLike, held: ArrayLike) -> dict[str, float]:
    """Whether made cells lie nearer to the training cells than new real cells do.

    Parameters
    ----------
    made, training, held
        ``(n, d)`` made cells, all cells of training, and real cells that were not trained on.

    Returns
    -------
    ``memorisation_ratio`` (median distance of made cells to the nearest training cell, over that of held-out cells:
    below 1 is suspicious) and ``copies`` (made cells at distance zero).
    """
    a, b = _checked(made, training)
    c, _ = _checked(held, training)
    own, usual = _nearest(a, b, 1)[:, 0], _nearest(c, b, 1)[:, 0]
    return {
        "memorisation_ratio": float(np.sqrt(np.median(own)) / max(np.sqrt(np.median(usual)), 1e-12)),
        "copies": float((own <= 1e-12 * max(float(np.median(usual)), 1e-12)).sum()),
    }


def _checked(first: ArrayLike, second: ArrayLike) -> tuple[Points, Points]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise DataError(
            f"Two sets of at least 2 cells in the same space are needed; found the shapes {a.shape} and {b.shape}."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("Coordinates of cells hold NaN or infinite values. Check what was projected.")
    return a, b


def _squares(first: Points, second: Points) -> Iterator[tuple[int, Points]]:
    """Squared distances in blocks of rows of ``first``."""
    from scipy.spatial.distance import cdist

    rows = max(1, BLOCK // len(second))
    for start in range(0, len(first), rows):
        yield start, cdist(first[start : start + rows], second, "sqeuclidean")


def _mean_of(function: Callable[[Points], Points], first: Points, second: Points) -> float:
    """Mean of a function of squared distances over all pairs."""
    return float(sum(function(block).sum() for _, block in _squares(first, second)) / (len(first) * len(second)))


def _nearest(queries: Points, targets: Points, k: int, same: bool = False) -> Points:
    """``(n, k)`` squared distances to the nearest targets, ascending; the query itself left out where it is one."""
    k = min(k, len(targets) - same)
    found = np.empty((len(queries), k))
    for start, block in _squares(queries, targets):
        if same:
            block[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        found[start : start + len(block)] = np.sort(
            np.partition(block, found.shape[1] - 1, axis=1)[:, : found.shape[1]]
        )
    return found


def _inside(queries: Points, points: Points, k: int) -> float:
    """Share of queries within the ball of any point."""
    radius = _nearest(points, points, k, same=True)[:, -1]
    return float(np.mean(np.concatenate([(block <= radius).any(axis=1) for _, block in _squares(queries, points)])))
