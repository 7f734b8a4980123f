"""What generated cells are good for: a classifier that learns from them, tested on real cells.

Train on generated, test on real, beside a classifier trained on as many real cells; and real cells with balanced
generated ones added, which is what generation is for where types are rare. Logistic regression on coordinates that the
caller has made and standardised (principal components of ``log1p`` CP10K of the training cells), once plain and once
with classes weighted by the inverse of their frequency: the two differ by up to 0.2 in accuracy.

Traps. Where types are unequal, balanced labels raise macro-F1 and lower accuracy. Macro-F1 averages over classes that
occur in truth or prediction, so four cells of a rare type move it by 0.04 between seeds. Leaves out: making the cells
and their coordinates, other classifiers (``baselines.classify``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError

STRENGTH = 1.0  # inverse of the L2 penalty, scikit-learn's C
Cells = tuple[ArrayLike, ArrayLike]


def classifier_utility(
    train_x: ArrayLike, train_y: ArrayLike, test_x: ArrayLike, test_y: ArrayLike, *, strength: float = STRENGTH
) -> dict[str, float]:
    """Accuracy and macro-F1 on test cells of logistic regression fitted on training cells.

    Parameters
    ----------
    train_x, test_x
        ``(n, d)`` and ``(m, d)`` coordinates, standardised alike.
    train_y, test_y
        ``(n,)`` and ``(m,)`` labels. A test label without training cells counts as an error.
    strength
        Inverse of the L2 penalty.

    Returns
    -------
    ``accuracy``, ``macro_f1``, and ``accuracy_balanced``, ``macro_f1_balanced`` for weighted classes.

    Raises
    ------
    DataError
        For coordinates and labels that do not fit each other.
    """
    from sklearn.metrics import accuracy_score, f1_score

    (x, y), (seen, truth) = _checked((train_x, train_y), "training"), _checked((test_x, test_y), "test")
    if x.shape[1] != seen.shape[1]:
        raise DataError(
            f"Training cells have {x.shape[1]} coordinates and test cells {seen.shape[1]}. Project both on the same "
            "components."
        )
    scores = {}
    for ending, weight in (("", None), ("_balanced", "balanced")):
        found = _predicted(x, y, seen, weight, strength)
        scores[f"accuracy{ending}"] = float(accuracy_score(truth, found))
        scores[f"macro_f1{ending}"] = float(f1_score(truth, found, average="macro", zero_division=0))
    return scores


def compare_utility(
    real: Cells,
    made: Cells,
    test: Cells,
    *,
    extra: Cells | None = None,
    strength: float = STRENGTH,
    seed: int = 0,
) -> pd.DataFrame:
    """Utility of real, generated, and real plus balanced generated cells, on the same real test cells.

    Parameters
    ----------
    real, made, test
        Pairs of ``(n, d)`` coordinates and ``(n,)`` labels: training cells, generated cells, and real cells that
        neither classifier nor generator has seen.
    extra
        Generated cells with equally many of each label, added to all real ones. None takes them from ``made``, as
        equal as its cells allow.
    strength
        Inverse of the L2 penalty.
    seed
        Of drawing subsets, which keep the shares of labels.

    Returns
    -------
    Rows ``real`` (all), ``real, equal n`` and ``generated`` (equally many of both: the smaller number), and ``real +
    balanced generated``; columns ``cells`` and the four scores of ``classifier_utility``.
    """
    rng = np.random.default_rng(seed)
    own, drawn = _checked(real, "training"), _checked(made, "generated")
    added = _even(drawn, rng) if extra is None else _checked(extra, "extra generated")
    _same_space([own, drawn, added])
    fewest = min(len(own[1]), len(drawn[1]))
    rows = {
        "real": own,
        "real, equal n": _subset(own, fewest, rng),
        "generated": _subset(drawn, fewest, rng),
        "real + balanced generated": (np.vstack([own[0], added[0]]), np.concatenate([own[1], added[1]])),
    }
    scores = {
        name: {"cells": float(len(labels)), **classifier_utility(points, labels, *test, strength=strength)}
        for name, (points, labels) in rows.items()
    }
    return pd.DataFrame(scores).T.rename_axis("trained on")


Labelled = tuple[NDArray[np.float64], NDArray[np.str_]]


def _predicted(x: NDArray, y: NDArray, seen: NDArray, weight: str | None, strength: float) -> NDArray[np.str_]:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:  # a generator that knows one type only: nothing to fit
        return np.full(len(seen), y[0])
    return LogisticRegression(C=strength, class_weight=weight, max_iter=2000).fit(x, y).predict(seen)


def _subset(cells: Labelled, wanted: int, rng: np.random.Generator) -> Labelled:
    """So many cells without replacement, each label in its share.

    Every label is dealt out evenly over one order of all cells, and the first ones are taken.
    """
    points, labels = cells
    if wanted >= len(labels):
        return cells
    place = np.zeros(len(labels))
    for name in np.unique(labels):
        here = rng.permutation(np.flatnonzero(labels == name))
        place[here] = (np.arange(len(here)) + rng.random()) / len(here)
    chosen = np.sort(np.argsort(place, kind="stable")[:wanted])
    return points[chosen], labels[chosen]


def _even(cells: Labelled, rng: np.random.Generator) -> Labelled:
    """Of every label as many cells as its part of an even share, or all it has."""
    points, labels = cells
    names = np.unique(labels)
    share = max(len(labels) // len(names), 1)
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == name))[:share] for name in names])
    return points[chosen], labels[chosen]


def _same_space(sets: list[Labelled]) -> None:
    widths = [points.shape[1] for points, _ in sets]
    if len(set(widths)) > 1:
        raise DataError(
            f"Real, generated and extra cells have {', '.join(map(str, widths))} coordinates. Project all on the same "
            "components."
        )


def _checked(cells: Cells, what: str) -> Labelled:
    points, labels = np.asarray(cells[0], dtype=np.float64), np.asarray(cells[1]).astype(str)
    if points.ndim != 2 or labels.shape != points.shape[:1] or not len(labels):
        raise DataError(
            f"The {what} cells have coordinates of shape {points.shape} and labels of shape {labels.shape}; (n, d) and "
            "(n,) with at least one cell are needed."
        )
    if not np.isfinite(points).all():
        raise DataError(f"Coordinates of {what} cells hold NaN or infinite values. Check what was projected.")
    return points, labels
