"""How good predicted cell types are: accuracy, macro-F1, calibration, and what abstaining buys.

Macro-F1 averages over every class that occurs in the truth *or* the prediction, as scikit-learn does; a class
predicted once and never true counts with F1 0. Calibration error (ECE): cells in 15 bins of the top probability, mean
of |accuracy - confidence| weighted by cells (Guo et al. 2017). Trap: on a few hundred cells ECE of a perfect model is
not 0 but about 0.02. Cells of an unclear class are left out with ``exclude`` before anything is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError

BINS = 15


@dataclass(frozen=True, slots=True)
class AnnotationScores:
    """Scores of predicted classes.

    Attributes
    ----------
    summary
        ``accuracy``, ``macro_f1``, ``balanced_accuracy``, ``ece``, ``log_loss``, ``confidence`` (mean top
        probability), ``cells``, ``unseen`` (share of cells whose true class the model does not know).
    classes
        Precision, recall, F1, cells and predicted count of each class.
    confusion
        Cells by true (rows) and predicted class (columns).
    reliability
        Cells, mean confidence and accuracy by bin of confidence.
    coverage
        Accuracy among the cells kept when abstaining below a threshold, by share of cells kept.
    """

    summary: dict[str, float]
    classes: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame
    coverage: pd.DataFrame


def score_annotation(
    truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], *, exclude: Sequence[str] = ()
) -> AnnotationScores:
    """Score class probabilities against true labels.

    Parameters
    ----------
    truth
        ``(n,)`` labels.
    probabilities
        ``(n, c)``, rows sum to one.
    classes
        The c class names, in column order.
    exclude
        True labels whose cells are not scored.
    """
    labels, chance = np.asarray(truth).astype(str), np.asarray(probabilities, dtype=np.float64)
    names = np.asarray(list(classes)).astype(str)
    if chance.shape != (len(labels), len(names)):
        raise DataError(
            f"Probabilities have the shape {chance.shape}; {len(labels):,} cells and {len(names)} classes need "
            f"({len(labels)}, {len(names)})."
        )
    keep = ~np.isin(labels, [str(name) for name in exclude])
    labels, chance = labels[keep], chance[keep]
    if not len(labels):
        raise DataError("No cell is left to score: every true label is excluded. Check the label column.")
    found, confidence = names[chance.argmax(axis=1)], chance.max(axis=1)
    correct = found == labels
    table = _per_class(labels, found)
    place = pd.Index(names).get_indexer(pd.Index(labels))
    known = place >= 0
    own = chance[np.flatnonzero(known), place[known]]
    reliability = reliability_table(confidence, correct)
    summary = {
        "accuracy": float(correct.mean()),
        "macro_f1": float(table["f1"].mean()),
        "balanced_accuracy": float(table.loc[table["cells"] > 0, "recall"].mean()),
        "ece": calibration_error(confidence, correct),
        "log_loss": float(-np.log(np.clip(own, 1e-12, 1.0)).mean()) if known.any() else float("nan"),
        "confidence": float(confidence.mean()),
        "cells": float(len(labels)),
        "unseen": float((~known).mean()),
    }
    confusion = pd.crosstab(pd.Series(labels, name="truth"), pd.Series(found, name="predicted"))
    return AnnotationScores(summary, table, confusion, reliability, abstention_curve(confidence, correct))


def reliability_table(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Cells, mean confidence and accuracy in equally wide bins of confidence; empty bins are left out."""
    score, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    table = pd.DataFrame({"lower": np.arange(bins) / bins, "cells": count})
    for name, values in (("confidence", score), ("accuracy", right)):
        table[name] = np.bincount(place, values, minlength=bins) / np.maximum(count, 1)
    return table[count > 0].reset_index(drop=True)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Compute the expected calibration error of the top class."""
    table = reliability_table(confidence, correct, bins)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float((gap * table["cells"]).sum() / table["cells"].sum())


def abstention_curve(confidence: ArrayLike, correct: ArrayLike, points: int = 50) -> pd.DataFrame:
    """Risk against coverage: accuracy of the most confident share of cells, and the threshold that keeps them.

    Cells of equal confidence stand or fall together, so a constant confidence gives one point.
    """
    score, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(score[1:] < score[:-1], True))  # last cell of each run of equal confidence
    wanted = np.unique(np.searchsorted(ends, np.linspace(0, len(score) - 1, points)))
    ends = ends[wanted.clip(max=len(ends) - 1)]
    kept = ends + 1
    return pd.DataFrame({"threshold": score[ends], "coverage": kept / len(score), "accuracy": hits[ends] / kept})


def _per_class(labels: NDArray, found: NDArray) -> pd.DataFrame:
    names = np.unique(np.concatenate([labels, found]))
    truth, guess = np.searchsorted(names, labels), np.searchsorted(names, found)
    cells = np.bincount(truth, minlength=len(names))
    predicted = np.bincount(guess, minlength=len(names))
    right = np.bincount(truth[truth == guess], minlength=len(names))
    table = pd.DataFrame({"class": names, "cells": cells, "predicted": predicted})
    table["precision"] = right / np.maximum(predicted, 1)
    table["recall"] = right / np.maximum(cells, 1)
    table["f1"] = 2 * right / np.maximum(cells + predicted, 1)
    return table
