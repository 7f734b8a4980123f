"""Cells of two modalities placed in one space by ridge regression: components of one predicted from the other's.

Both sides get components of their own (``Space``), fitted on the training cells; the target's are predicted from the
source's, and a cell seen by the source alone stands where its prediction falls. Predictions are shrunken towards the
mean, so the penalty should be chosen by how well pairs are found (``tuned``), not by how well values are.
Leaves out: matching itself (``metrics.pairs``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.space import Space

PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


class RidgeMatch:
    """Ridge from the components of one modality to those of another.

    Parameters
    ----------
    source, target
        Spaces of both modalities (fitted here).
    penalty
        Ridge penalty, on components scaled by the s.d. of the first.
    """

    def __init__(self, source: Space, target: Space, penalty: float = 100.0) -> None:
        self.source, self.target, self.penalty = source, target, penalty

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Learn from the ``(n, f)`` and ``(n, g)`` counts of paired training cells."""
        x = self.source.fit(source).transform(source).astype(np.float64)
        y = self.target.fit(target).transform(target).astype(np.float64)
        return self._regressed(x, y)

    def tuned(
        self,
        source: sp.csr_matrix,
        target: sp.csr_matrix,
        rows: NDArray[np.int64],
        error: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """Copy with the penalty of the least ``error``, learned from the same cells again.

        Parameters
        ----------
        source, target
            The counts that were fitted.
        rows
            Cells among them that are left out of the regression and scored, for the choice alone.
        error
            Of the two placements of these cells, lower is better.
        """
        x, y = self.source.transform(source).astype(np.float64), self.target.transform(target).astype(np.float64)
        left = np.setdiff1d(np.arange(len(x)), rows)
        trials = [self._with(penalty)._regressed(x[left], y[left]) for penalty in penalties]
        best = min(trials, key=lambda trial: error(trial._predicted(x[rows]), y[rows]))
        return best._regressed(x, y)

    def transform(self, source: sp.csr_matrix) -> NDArray[np.float64]:
        """``(n, k)`` places of cells of which the source is known."""
        return self._predicted(self.source.transform(source).astype(np.float64))

    def place(self, target: sp.csr_matrix) -> NDArray[np.float64]:
        """``(n, k)`` places of cells of which the target is known."""
        return self.target.transform(target).astype(np.float64)

    def _regressed(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Self:
        self.middle, self.mean = x.mean(axis=0), y.mean(axis=0)
        self.spread = max(float(x.std(axis=0).max(initial=0.0)), 1e-12)
        scaled = (x - self.middle) / self.spread
        ridge = scaled.T @ scaled + self.penalty * np.eye(x.shape[1])
        self.loadings = np.linalg.solve(ridge, scaled.T @ (y - self.mean))
        return self

    def _predicted(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x - self.middle) / self.spread @ self.loadings + self.mean

    def _with(self, penalty: float) -> Self:
        other = copy.copy(self)
        other.penalty = penalty
        return other
