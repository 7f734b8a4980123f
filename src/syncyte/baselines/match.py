"""Cells of two modalities placed in one space by ridge regression: components of one predicted from the other's.

Both sides get components of their own (``Space``), fitted on the training cells; the target's are predicted from the
source's, and a cell seen by the source alone stands where its prediction falls. Predictions are shrunken towards the
mean, so the penalty should be chosen by how well pairs are found (``tuned``), not by how well values are.
Leaves out: matching itself (``metrics.pairs``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.space import Space

Places = NDArray[np.floating]  # (cells, components)
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
        self.source.fit(source)
        self.target.fit(target)
        return self._regressed(self.source.transform(source), self.target.transform(target))

    def tuned(
        self,
        source: sp.csr_matrix,
        target: sp.csr_matrix,
        rows: NDArray[np.int64],
        error: Callable[[Places, Places], float],
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """``fit``, with the penalty of the least ``error``.

        Parameters
        ----------
        rows
            Cells among them that are left out of the regression and scored, for the choice alone.
        error
            Of the two placements of these cells, lower is better.
        """
        self.fit(source, target)
        x, y = self.source.transform(source), self.target.transform(target)
        left, errors = np.setdiff1d(np.arange(len(x)), rows), []
        for self.penalty in penalties:
            self._regressed(x[left], y[left])
            errors.append(error(self._predicted(x[rows]), y[rows]))
        self.penalty = penalties[int(np.argmin(errors))]
        return self._regressed(x, y)

    def transform(self, source: sp.csr_matrix) -> Places:
        """``(n, k)`` places of cells of which the source is known."""
        return self._predicted(self.source.transform(source))

    def place(self, target: sp.csr_matrix) -> Places:
        """``(n, k)`` places of cells of which the target is known."""
        return self.target.transform(target)

    def _regressed(self, scores: Places, wanted: Places) -> Self:
        x, y = scores.astype(np.float64), wanted.astype(np.float64)
        self.middle, self.mean = x.mean(axis=0), y.mean(axis=0)
        self.spread = max(float(x.std(axis=0).max(initial=0.0)), 1e-12)
        scaled = (x - self.middle) / self.spread
        ridge = scaled.T @ scaled + self.penalty * np.eye(x.shape[1])
        self.loadings = np.linalg.solve(ridge, scaled.T @ (y - self.mean))
        return self

    def _predicted(self, scores: Places) -> Places:
        return (scores - self.middle) / self.spread @ self.loadings + self.mean
