"""Cell type baselines on a representation: logistic regression, nearest neighbours, majority class, marker scores.

All have ``fit(x, labels)`` and ``predict(x) -> (n, c)`` probabilities with the class names in ``classes``. Plain and
class-balanced logistic regression differ by up to 0.2 in accuracy, so a report prints both; the strength is chosen on a
held-out technical batch with ``tuned``. Classes and scalings come from training cells only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.prediction import column_means, log_cp10k
from syncyte.errors import MissingExtraError

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0)


class LogisticClassifier:
    """Multinomial logistic regression on standardised axes.

    Parameters
    ----------
    balanced
        Weigh classes by the inverse of their frequency: finds more of the rare ones at worse accuracy and calibration.
    strength
        Inverse of the L2 penalty (scikit-learn's C).
    """

    def __init__(self, balanced: bool = False, strength: float = 0.03) -> None:
        self.balanced, self.strength = balanced, strength

    def fit(self, x: NDArray[np.floating], labels: ArrayLike) -> Self:
        """Learn from ``(n, d)`` training cells."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        weight = "balanced" if self.balanced else None
        model = LogisticRegression(C=self.strength, class_weight=weight, max_iter=2000)
        self.model = make_pipeline(StandardScaler(), model).fit(x, np.asarray(labels).astype(str))
        self.classes = self.model.classes_
        return self

    def tuned(
        self,
        x: NDArray[np.floating],
        labels: ArrayLike,
        held_x: NDArray[np.floating],
        held_labels: ArrayLike,
        strengths: Sequence[float] = STRENGTHS,
    ) -> Self:
        """Fit with the strength that is most often right on held-out cells (of equals, the strongest penalty)."""
        truth, best = np.asarray(held_labels).astype(str), -1.0
        for strength in sorted(strengths):
            trial = type(self)(self.balanced, strength).fit(x, labels)
            accuracy = float((trial.classes[trial.predict(held_x).argmax(axis=1)] == truth).mean())
            if accuracy > best:
                best, self.strength, self.model, self.classes = accuracy, strength, trial.model, trial.classes
        return self

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``."""
        return self.model.predict_proba(x)


class NeighborClassifier:
    """Shares of classes among the nearest training cells."""

    def __init__(self, neighbors: int = 15) -> None:
        self.neighbors = neighbors

    def fit(self, x: NDArray[np.floating], labels: ArrayLike) -> Self:
        """Keep ``(n, d)`` training cells."""
        from sklearn.neighbors import KNeighborsClassifier

        model = KNeighborsClassifier(n_neighbors=min(self.neighbors, len(x)))
        self.model = model.fit(x, np.asarray(labels).astype(str))
        self.classes = self.model.classes_
        return self

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``."""
        return self.model.predict_proba(x)


class MajorityClassifier:
    """The shares of classes in training, for every cell alike."""

    def fit(self, x: NDArray[np.floating] | sp.csr_matrix, labels: ArrayLike) -> Self:
        """Count classes; ``x`` is not looked at."""
        self.classes, count = np.unique(np.asarray(labels).astype(str), return_counts=True)
        self.share = count / count.sum()
        return self

    def predict(self, x: NDArray[np.floating] | sp.csr_matrix) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``."""
        return np.tile(self.share, (x.shape[0], 1))


class CellTypist:
    """CellTypist (Dominguez Conde et al., Science 2022) trained on labelled counts by its stochastic learner."""

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Learn from ``(n, f)`` counts of training cells.

        Raises
        ------
        MissingExtraError
            Where celltypist is not installed.
        """
        try:
            import celltypist
        except ImportError:
            raise MissingExtraError("celltypist", "bench", "The CellTypist baseline") from None
        names = np.asarray(labels).astype(str)
        self.package, genes = celltypist, [f"gene{number}" for number in range(counts.shape[1])]
        self.genes = genes
        # its default learner asks scikit-learn for an argument that is gone since 1.8; its stochastic one does not
        how = {"check_expression": False, "use_SGD": True, "n_jobs": 1}
        self.model = celltypist.train(self._cells(counts), labels=names, genes=genes, **how)
        self.classes = np.asarray(self.model.cell_types).astype(str)
        return self

    def predict(self, counts: sp.csr_matrix) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``: its scores of each class by itself, scaled to one."""
        found = self.package.annotate(self._cells(counts), model=self.model).probability_matrix
        chance = found[list(self.classes)].to_numpy(dtype=np.float64)
        return chance / np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)

    def _cells(self, counts: sp.csr_matrix) -> Any:
        import anndata

        return anndata.AnnData(log_cp10k(counts), var=pd.DataFrame(index=self.genes))


class MarkerScores:
    """Mean scaled expression of the markers of each class, on counts.

    Markers are the ``top`` features with the largest mean ``log1p`` CP10K of the class over the highest other class.
    The scores of a cell, standardised by class, plus the log share of the class go through a softmax: usable as a
    ranking, not calibrated.
    """

    def __init__(self, top: int = 25) -> None:
        self.top = top

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Find markers in ``(n, f)`` counts of training cells."""
        matrix = log_cp10k(counts)
        self.classes, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
        means = np.stack([column_means(matrix[codes == code]) for code in range(len(self.classes))])
        spread = np.sqrt(np.maximum(column_means(matrix.multiply(matrix).tocsr()) - column_means(matrix) ** 2, 1e-6))
        top = min(self.top, counts.shape[1])
        self.weights = np.zeros((counts.shape[1], len(self.classes)))
        for code in range(len(self.classes)):
            others = np.delete(means, code, axis=0).max(axis=0, initial=0.0)
            chosen = np.argsort(-(means[code] - others), kind="stable")[:top]
            self.weights[chosen, code] = 1.0 / (top * (spread[chosen] + 0.1))
        self.prior = np.log(np.bincount(codes) / len(codes))
        scores = matrix @ self.weights
        self.middle, self.spread = scores.mean(axis=0), np.maximum(scores.std(axis=0), 1e-9)
        return self

    def predict(self, counts: sp.csr_matrix) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``."""
        scores = (log_cp10k(counts) @ self.weights - self.middle) / self.spread + self.prior
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)
