"""A second opinion on labels, from vectors of cells: a regression that has a say beside a classifier on all genes.

Both are compared on the folds that the first left out: how far the second is heard, how strongly it is penalised and at
what temperature both are read is what these cells find likeliest, as long as no fewer of them, of common and of rare
labels, are told right. It is heard at most by half, since vectors come from an encoder that may have seen the very
cells that were left out.
Leaves out: where the vectors come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from syncyte.baselines.genewise import TEMPERATURES, GeneClassifier

STRENGTHS = (0.03, 0.3, 3.0)  # inverse of the penalty, as in scikit-learn
WEIGHTS = (0.0, 0.125, 0.25, 0.375, 0.5)
# The second is heard only for a log loss below this share of what the first has alone: gains of a twentieth within one
# donor were lost on another, whose vectors lie elsewhere; the first takes statistics of genes from the data at hand.
GAIN = 0.9
LEAST = 1e-12
Values = NDArray[np.float64]


class SecondOpinion:
    """Probabilities of labels mixed with those of a first classifier.

    Attributes
    ----------
    weights, bias
        ``(c, v)`` and ``(c,)``.
    weight
        How far it is heard, 0 to 0.5.
    temperature, first_temperature
        By which the mixed log probabilities are divided, and the one that the first found for itself, which is taken
        back before they are mixed.
    """

    weights: Values
    bias: Values
    weight: float = 0.0
    temperature: float = 1.0
    first_temperature: float = 1.0

    def fit(self, first: GeneClassifier, vectors: NDArray[np.floating], labels: NDArray[np.str_]) -> Self:
        """Learn from the cells that ``first`` was fitted on.

        Parameters
        ----------
        first
            Fitted on the same cells, in the same order.
        vectors
            ``(n, v)`` standardised vectors.
        labels
            ``(n,)`` names.
        """
        x, names = np.asarray(vectors, dtype=np.float64)[first.rows], np.asarray(labels).astype(str)[first.rows]
        codes = np.searchsorted(first.classes, names)
        judged = ~np.isnan(first.left_out).any(axis=1)
        alone = np.log(np.maximum(first.left_out[judged], LEAST))
        truth, best = codes[judged], STRENGTHS[0]
        self.first_temperature = first.temperature
        least = _loss(alone, truth)[0] * GAIN if len(truth) else -np.inf
        enough = _quality(alone, truth)
        for strength in STRENGTHS if len(truth) else ():
            other = np.zeros((len(x), len(first.classes)))
            for part in np.unique(first.fold[judged]):
                inside = first.fold == part
                weights, bias = _regression(x[~inside], codes[~inside], len(first.classes), strength, first.balance)
                other[inside] = log_softmax(x[inside] @ weights.T + bias, axis=1)
            for weight in WEIGHTS[1:]:
                mixed = _mixed(alone, other[judged], weight)
                loss, heat = _loss(mixed, truth)
                if loss < least and _quality(mixed, truth) >= enough:
                    least, best, self.weight, self.temperature = loss, strength, weight, heat
        self.weights, self.bias = _regression(x, codes, len(first.classes), best, first.balance)
        return self

    def mix(self, chance: Values, vectors: NDArray[np.floating]) -> Values:
        """``(n, c)`` probabilities of both; ``chance`` are calibrated ones of the first."""
        if not self.weight:
            return chance
        own = log_softmax(np.asarray(vectors, dtype=np.float64) @ self.weights.T + self.bias, axis=1)
        logs = _mixed(np.log(np.maximum(chance, LEAST)) * self.first_temperature, own, self.weight)
        return softmax(logs / self.temperature, axis=1)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All that was learned."""
        heard = np.array([self.weight, self.temperature, self.first_temperature])
        found = {"weights": self.weights, "bias": self.bias, "heard": heard}
        return {key: np.asarray(value, dtype=np.float32) for key, value in found.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The opinion of such arrays."""
        made = cls()
        made.weights, made.bias = (np.asarray(arrays[key], dtype=np.float64) for key in ("weights", "bias"))
        made.weight, made.temperature, made.first_temperature = map(float, arrays["heard"])
        return made


def _mixed(first: Values, second: Values, weight: float) -> Values:
    return log_softmax((1 - weight) * first + weight * second, axis=1)


def _loss(logs: Values, truth: NDArray[np.int64]) -> tuple[float, float]:
    """Least log loss over temperatures, and the temperature."""
    at = np.arange(len(truth))
    losses = [-log_softmax(logs / heat, axis=1)[at, truth].mean() for heat in TEMPERATURES]
    best = int(np.argmin(losses))
    return float(losses[best]), float(TEMPERATURES[best])


def _quality(logs: Values, truth: NDArray[np.int64]) -> float:
    """Mean of the share of cells that are told right and of the mean of that share over labels."""
    if not len(truth):
        return 0.0
    right, size = logs.argmax(axis=1) == truth, np.bincount(truth)
    each = np.bincount(truth, right.astype(float))[size > 0] / size[size > 0]
    return 0.5 * float(right.mean() + each.mean())


def _regression(
    x: Values, codes: NDArray[np.int64], classes: int, strength: float, balance: float
) -> tuple[Values, Values]:
    """Weights and bias of a penalised regression; labels that these cells lack are far from likely."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    weights, bias = np.zeros((classes, x.shape[1])), np.full(classes, -8.0)
    present, size = np.unique(codes, return_counts=True)
    if len(present) < 2:
        bias[present] = 0.0
        return weights, bias
    each = (len(codes) / (len(present) * size)) ** balance
    model = LogisticRegression(C=strength, class_weight=dict(zip(present.tolist(), each, strict=True)), max_iter=1000)
    with threadpool_limits(1):
        model.fit(x, codes)
    if len(present) == 2:  # one row of scores then, of the second label against the first
        weights[present[1]], bias[present] = model.coef_[0], (0.0, model.intercept_[0])
        return weights, bias
    weights[present], bias[present] = model.coef_, model.intercept_
    return weights, bias
