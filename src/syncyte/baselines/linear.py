"""Ridge regression from the SVD of one modality to every feature of the other.

The model class that wins most published comparisons of RNA-to-ATAC prediction. Two rows of it belong in a report: from
the usual log values (``log_cp10k``, ``tfidf``) and from residual-scaled values (``pearson``, ``depth``), which is the
fair linear bar: the scaling alone is worth more than most networks. Residual scaling takes depth out, so the log depth
of the source is given back as one more predictor.

Components are divided by the s.d. of the first, so a penalty means the same on any data. The best penalty differs by
two orders of magnitude between directions (about 3,000 towards sparse open regions, 30 towards values): choose it on a
held-out technical batch with ``tuned``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import Factored, Target, column_means, target_matrix
from syncyte.baselines.space import Space

PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
DEFAULT = {"values": 30.0, "open": 3000.0}


class SvdRidge:
    """SVD of the source, then ridge to all features of the target at once.

    Parameters
    ----------
    space
        Space of the source (fitted here).
    target
        Kind of the target.
    penalty
        Ridge penalty, on components scaled by the s.d. of the first; None takes 30 for values, 3,000 for open.
    with_depth
        Add the log depth of the source; None adds it for residual scalings only.
    """

    def __init__(
        self, space: Space, target: Target, penalty: float | None = None, with_depth: bool | None = None
    ) -> None:
        self.space, self.target = space, target
        self.penalty = DEFAULT[target] if penalty is None else penalty
        self.with_depth = space.scaling in ("pearson", "depth") if with_depth is None else with_depth

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Learn from paired counts of training cells."""
        scores = self._raw(source, fit=True)
        self.middle = scores.mean(axis=0)
        spread = scores.std(axis=0)
        leading = spread[: spread.size - self.with_depth]
        self.spread = np.full(spread.size, max(float(leading.max(initial=0.0)), 1e-12))
        if self.with_depth:
            self.spread[-1] = max(float(spread[-1]), 1e-12)
        matrix = target_matrix(target, self.target)
        self.mean = column_means(matrix)
        scores = (scores - self.middle) / self.spread
        self.gram = scores.T @ scores
        self.cross = np.asarray(matrix.T @ scores, dtype=np.float64).T  # scores have mean zero: no centring needed
        return self._solved()

    def tuned(
        self, source: sp.csr_matrix, score: Callable[[Factored], float], penalties: Sequence[float] = PENALTIES
    ) -> Self:
        """Copy of the fitted model with the penalty of the best ``score`` (higher is better).

        ``source`` are held-out cells; ``score`` compares their prediction with what was measured.
        """
        trials = [self._with(penalty) for penalty in penalties]
        return max(trials, key=lambda trial: score(trial.predict(source)))

    def predict(self, source: sp.csr_matrix) -> Factored:
        """Predict the target of each cell in ``source``, as factors."""
        scores = (self._raw(source) - self.middle) / self.spread
        return Factored(scores.astype(np.float32), self.loadings, self.mean.astype(np.float32), self.target)

    def _raw(self, source: sp.csr_matrix, fit: bool = False) -> NDArray[np.float64]:
        space = self.space.fit(source) if fit else self.space
        scores = space.transform(source).astype(np.float64)
        return np.column_stack([scores, np.log1p(space.depth(source))]) if self.with_depth else scores

    def _solved(self) -> Self:
        ridge = self.gram + self.penalty * np.eye(len(self.gram))
        self.loadings = np.linalg.solve(ridge, self.cross).astype(np.float32)
        return self

    def _with(self, penalty: float) -> Self:
        other = copy.copy(self)
        other.penalty = penalty
        return other._solved()
