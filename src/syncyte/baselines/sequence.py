"""What composition and short words of a sequence say about a target: the two yardsticks of every sequence encoder.

Both have ``fit(codes, targets)`` and ``predict(codes) -> (n, T)``: logits of binary targets by logistic regression,
values of counts and other numbers by ridge regression. Means and scales come from the training rows alone.
Leaves out: words with gaps (``spectrum``) and anything that learns motifs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import ConfigError, DataError
from syncyte.genome.kmers import kmer_counts
from syncyte.genome.sequence import cpg_share, gc_share

Task = Literal["binary", "count"]
STRENGTHS = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


class GcContent:
    """Regression on GC, its square, and the share of CpG.

    Parameters
    ----------
    task
        ``binary`` targets of 0 and 1, or ``count`` for numbers.
    """

    name = "GC content"

    def __init__(self, task: Task = "binary") -> None:
        self.task = _checked(task)

    def fit(self, codes: NDArray[np.uint8], targets: ArrayLike) -> Self:
        """Learn from ``(n, L)`` codes and ``(n, T)`` targets."""
        x = composition(codes)
        self.middle, self.spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
        self.models = [_linear(self.task, 1.0, 1.0).fit(self._scaled(x), y) for y in _columns(targets, self.task)]
        return self

    def predict(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Logits or values ``(n, T)``."""
        x = self._scaled(composition(codes))
        return np.stack([_answer(model, x) for model in self.models], axis=1)

    def _scaled(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return (x - self.middle) / self.spread


class KmerRegression:
    """Regression on counts of short words of both strands.

    Parameters
    ----------
    k
        Bases of a word.
    task
        As of ``GcContent``.
    strength
        Inverse of the penalty of the logistic regression (scikit-learn's C); of numbers, ``1 / strength`` is the
        penalty. Choose it with ``tuned``.
    """

    def __init__(self, k: int = 6, task: Task = "binary", strength: float = 0.01) -> None:
        self.k, self.task, self.strength = k, _checked(task), strength
        self.name = f"{k}-mers"

    def fit(self, codes: NDArray[np.uint8], targets: ArrayLike) -> Self:
        """Learn from ``(n, L)`` codes and ``(n, T)`` targets."""
        return self._fit(kmer_counts(codes, self.k), targets)

    def _fit(self, x: sp.csr_matrix, targets: ArrayLike) -> Self:
        penalty = 1.0 / self.strength
        self.models = [_linear(self.task, self.strength, penalty).fit(x, y) for y in _columns(targets, self.task)]
        return self

    def tuned(
        self,
        codes: NDArray[np.uint8],
        targets: ArrayLike,
        held_codes: NDArray[np.uint8],
        held_targets: ArrayLike,
        strengths: Sequence[float] | None = None,
    ) -> Self:
        """Fit with the strength that scores best on held-out rows (mean AUROC, or Pearson's r)."""
        x, held = kmer_counts(codes, self.k), kmer_counts(held_codes, self.k)
        options = strengths or (STRENGTHS if self.task == "binary" else tuple(1.0 / p for p in PENALTIES))
        trials = [type(self)(self.k, self.task, strength)._fit(x, targets) for strength in options]
        worth = [mean_score(held_targets, trial._predict(held), self.task) for trial in trials]
        best = trials[int(np.argmax(np.nan_to_num(worth, nan=-np.inf)))]
        self.strength, self.models = best.strength, best.models
        return self

    def predict(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Logits or values ``(n, T)``."""
        return self._predict(kmer_counts(codes, self.k))

    def _predict(self, x: sp.csr_matrix) -> NDArray[np.float64]:
        return np.stack([_answer(model, x) for model in self.models], axis=1)


def composition(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """GC, its square and the share of CpG: ``(n, 3)``; windows without a known base have the middle of nothing, 0."""
    gc = np.nan_to_num(gc_share(codes))
    return np.stack([gc, gc**2, np.nan_to_num(cpg_share(codes))], axis=1)


def column_scores(targets: ArrayLike, predicted: ArrayLike, task: Task) -> NDArray[np.float64]:
    """AUROC (binary) or Pearson's r of every target ``(T,)``; NaN where a target or its prediction is constant."""
    from sklearn.metrics import roc_auc_score

    truth, guess = as_table(targets), as_table(predicted)
    scores = np.full(truth.shape[1], np.nan)
    for column in range(truth.shape[1]):
        y, p = truth[:, column], guess[:, column]
        if np.ptp(y) == 0:
            continue
        if task == "binary":
            scores[column] = roc_auc_score(y, p)
        elif np.ptp(p) > 0:
            scores[column] = np.corrcoef(np.log1p(y), p)[0, 1]
    return scores


def mean_score(targets: ArrayLike, predicted: ArrayLike, task: Task) -> float:
    """Mean of ``column_scores`` over the targets that have one; NaN where none has."""
    scores = column_scores(targets, predicted, task)
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def as_table(values: ArrayLike) -> NDArray[np.float64]:
    """Numbers as ``(n, T)``."""
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def _columns(targets: ArrayLike, task: Task) -> list[NDArray[np.float64]]:
    """Targets one by one, as the regressions want them: classes, or logarithms of one more than the count."""
    table = as_table(targets)
    if task == "binary":
        if not np.isin(table, (0.0, 1.0)).all():
            raise DataError("Binary targets are 0 or 1, and there are other values. Use task='count' for numbers.")
        return [column.astype(np.int64) for column in table.T]
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise DataError("Counts are finite and not negative, and some targets are neither. Leave those rows out.")
    return list(np.log1p(table).T)


def _linear(task: Task, strength: float, penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    return _Logistic(LogisticRegression(C=strength, max_iter=1000)) if task == "binary" else Ridge(alpha=penalty)


class _Logistic:
    """Logistic regression that also stands a target of one class alone."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.constant: float | None = None

    def fit(self, x: Any, y: NDArray) -> Self:
        if len(np.unique(y)) < 2:
            self.constant = 0.0
        else:
            self.model.fit(x, y)
        return self

    def predict(self, x: Any) -> NDArray[np.float64]:
        return self.model.decision_function(x) if self.constant is None else np.full(x.shape[0], self.constant)


def _answer(model: Any, x: Any) -> NDArray[np.float64]:
    return np.asarray(model.predict(x), dtype=np.float64)


def _checked(task: str) -> Any:
    if task not in ("binary", "count"):
        raise ConfigError(f"Unknown kind of targets {task!r}. Known: binary, count.")
    return task
