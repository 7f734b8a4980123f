"""Confidence that means what it says: temperature scaling on held-out predictions (Guo et al., ICML 2017).

One number for all classes: log probabilities are divided by it. It is fitted on cells that the classifier did not learn
from, so it also mends what held-out technical batches do to confidence. Ranking and labels stay as they are.
Leaves out: one temperature a class, which rare classes cannot feed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from syncyte.metrics.annotation import calibration_error

LOWEST, HIGHEST = 0.1, 10.0
TINY = 1e-7


def temper(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """``(n, c)`` probabilities at another temperature; above 1 is less sure."""
    with np.errstate(divide="ignore"):  # a class the classifier never met keeps the probability 0
        logs = np.log(probabilities) / temperature
    logs -= logs.max(axis=1, keepdims=True)
    chance = np.exp(logs)
    return chance / chance.sum(axis=1, keepdims=True)


def log_loss(probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Mean negative log probability of the true class."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(codes)), codes], TINY)).mean())


def fit_temperature(probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Temperature of the least log loss on held-out cells; classes the classifier never met are left out."""
    from scipy.optimize import minimize_scalar

    known = probabilities[np.arange(len(codes)), codes] > 0
    if not known.any():
        return 1.0
    chance, truth = probabilities[known], codes[known]
    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(lambda value: log_loss(temper(chance, float(np.exp(value))), truth), bounds=bounds)
    return float(np.exp(found.x))


def cross_calibration_error(
    probabilities: NDArray[np.float64], codes: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> float:
    """Calibration error of held-out cells, each tempered without its own group.

    Parameters
    ----------
    groups
        ``(n,)`` technical batch or fold of each cell; random halves are taken where there is only one.
    """
    if len(np.unique(groups)) < 2:
        groups = np.random.default_rng(seed).permutation(len(codes)) % 2
    confidence, correct = np.empty(len(codes)), probabilities.argmax(axis=1) == codes
    for group in np.unique(groups):
        inside = groups == group
        temperature = fit_temperature(probabilities[~inside], codes[~inside])
        confidence[inside] = temper(probabilities[inside], temperature).max(axis=1)
    return calibration_error(confidence, correct)
