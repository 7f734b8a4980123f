"""Translations that know nothing of the cell but its depth or, as an oracle, its type.

``MeanProfile`` is the null of every skill score. ``MeanTimesDepth`` adds the level that the depth of the other modality
foretells; it is what a model must beat to claim more than depth. ``TypeMean`` is given the true label: no method that
merely recognises the type can do better.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.prediction import Factored, Target, column_means, depth_of, opened, target_matrix

PENALTY = 1.0  # ridge on one standardised predictor: matters for a handful of cells only


class MeanProfile:
    """The mean of the target over training cells, for every cell alike."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Learn from ``target`` counts; ``source`` is not looked at."""
        self.mean = column_means(target_matrix(target, self.target))
        return self

    def predict(self, source: sp.csr_matrix) -> Factored:
        """Repeat the mean for each of the cells in ``source``."""
        empty = np.zeros((source.shape[0], 0)), np.zeros((0, len(self.mean)))
        return Factored(*empty, self.mean, self.target)


class MeanTimesDepth:
    """The mean profile at the level that the log depth of the source foretells.

    ``open``: ``1 - exp(-level x profile)`` with log level linear in log depth. ``values``: every feature linear in log
    depth by least squares.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Learn from paired counts of training cells."""
        matrix = target_matrix(target, self.target)
        self.mean = column_means(matrix)
        depth = np.log1p(depth_of(source))
        self.middle, self.spread = float(depth.mean()), max(float(depth.std()), 1e-6)
        depth = (depth - self.middle) / self.spread
        level = np.log(np.maximum(depth_of(matrix), 1.0))
        grow = depth @ depth + PENALTY
        self.level = float(level.mean()), float(depth @ (level - level.mean()) / grow)
        self.slope = (matrix.T @ depth) / grow  # depth has mean zero, so the target needs no centring
        return self

    def predict(self, source: sp.csr_matrix) -> Factored:
        """From the depth of each cell in ``source`` alone."""
        if self.target == "values":
            depth = (np.log1p(depth_of(source)) - self.middle) / self.spread
            return Factored(depth[:, None], self.slope[None], self.mean, self.target)
        level, profile = self.level_of(source), profile_of(self.mean)
        return Factored(level[:, None], profile[None], np.zeros_like(self.mean), self.target, as_rate=True)

    def level_of(self, source: sp.csr_matrix) -> NDArray[np.float64]:
        """Foretell the number of open features of each cell from the depth of its ``source`` counts."""
        depth = (np.log1p(depth_of(source)) - self.middle) / self.spread
        return np.exp(self.level[0] + self.level[1] * depth)


class TypeMean:
    """Oracle: the training mean of the cell's true type, optionally at the cell's true depth.

    The mean of a type is drawn towards the overall mean by the weight of one cell, so that a type of three cells does
    not call every unseen region impossible. A type without training cells gets the overall mean.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Learn one mean a label; ``source`` is not looked at."""
        matrix, names = target_matrix(target, self.target), np.asarray(labels).astype(str)
        overall = column_means(matrix)
        self.types, codes = np.unique(names, return_inverse=True)
        member = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (len(self.types), len(codes)))
        sums = (member @ matrix).toarray() + overall
        self.means = np.vstack([sums / (np.bincount(codes) + 1.0)[:, None], overall])
        return self

    def predict(self, source: sp.csr_matrix, labels: ArrayLike, depth: NDArray[np.floating] | None = None) -> Factored:
        """Means of the true ``labels``; with the true target ``depth`` (``open`` only) also at the right level."""
        names = np.asarray(labels).astype(str)
        place = np.searchsorted(self.types, names).clip(max=len(self.types) - 1)
        place = np.where(self.types[place] == names, place, len(self.types))
        chosen = np.zeros((len(names), len(self.means)))
        chosen[np.arange(len(names)), place] = 1.0 if depth is None else depth
        if depth is None:
            return Factored(chosen, self.means, np.zeros(self.means.shape[1]), self.target)
        profiles = np.stack([profile_of(mean) for mean in self.means])
        return Factored(chosen, profiles, np.zeros(self.means.shape[1]), self.target, as_rate=True)


def profile_of(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rates of a mean cell, summing to one."""
    rate = -np.log1p(-np.minimum(mean, 1.0 - 1e-6))
    return rate / max(rate.sum(), 1e-12)


def true_depth(counts: sp.csr_matrix) -> NDArray[np.float64]:
    """Count the open features of every cell: what the depth oracle of ``TypeMean`` is given."""
    return depth_of(opened(counts))
