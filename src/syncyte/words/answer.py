"""From probabilities of types to an answer: a type, nothing, or the most special term that is sure enough.

The probability of a term of the ontology is the sum over the classes at or below it. A coarser answer is often right
where the type itself is not sure: of two T cell types at one half each, "T cell" is certain.
Leaves out: where probabilities come from (``zero_shot``, ``baselines.classify``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import ConfigError, DataError
from syncyte.words.terms import Terms, lineage

NO_ANSWER = "unknown"


@dataclass(frozen=True)
class Answers:
    """One answer a cell.

    Attributes
    ----------
    terms
        ``(n,)`` ids, ``unknown`` where nothing is sure enough.
    labels
        ``(n,)`` their names.
    confidence
        ``(n,)`` probability of the answer; where there is none, of the likeliest class.
    coarser
        ``(n,)`` True where the answer is an ancestor of classes, not a class.
    """

    terms: NDArray[np.str_]
    labels: NDArray[np.str_]
    confidence: NDArray[np.float64]
    coarser: NDArray[np.bool_]


def answer(
    probabilities: ArrayLike,
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
    terms: Terms | None = None,
    labels: Mapping[str, str] | None = None,
) -> Answers:
    """Answer with the deepest term whose probability reaches the threshold, or abstain.

    Parameters
    ----------
    probabilities
        ``(n, t)``.
    classes
        ``(t,)`` term ids.
    threshold
        Least probability of an answer, 0 to 1.
    terms
        The ontology; without it an answer is a class or nothing. Its root is no answer: it says nothing.
    labels
        Names of classes the ontology does not know.
    """
    chance = _checked(probabilities, classes)
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it must lie between 0 and 1.")
    above, names = sum_up(chance, classes, terms)
    depth = np.array([max(lineage(name, terms).values()) for name in names])
    own = np.isin(names, list(classes))
    usable = (depth > 0) | own
    sure = (above >= threshold - 1e-12) & usable
    # deepest first; of equally deep ones a class before its kin, then the likelier
    rank = np.where(sure, depth + 0.5 * own + 0.49 * above, -1.0)
    likeliest = chance.argmax(axis=1)  # below one half several may be sure: then the likeliest class is the answer
    best = np.where(chance.max(axis=1) >= threshold - 1e-12, likeliest, rank.argmax(axis=1))
    found = sure.any(axis=1)
    given = labels or {}
    shown = [terms[n].label if terms is not None and n in terms else given.get(n, n) for n in map(str, names)]
    rows = np.arange(len(chance))
    return Answers(
        np.where(found, names[best], NO_ANSWER).astype(str),
        np.where(found, np.array(shown)[best], NO_ANSWER).astype(str),
        np.where(found, above[rows, best], chance.max(axis=1)),
        found & ~own[best],
    )


def sum_up(
    probabilities: ArrayLike, classes: Sequence[str], terms: Terms | None
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Probabilities ``(n, a)`` of the classes and all their ancestors, and the ids of the columns, classes first."""
    chance = _checked(probabilities, classes)
    names = list(classes)
    for name in classes:
        names += [above for above in lineage(name, terms) if above not in names]
    member = np.array([[above in lineage(name, terms) for above in names] for name in classes], dtype=np.float64)
    return np.clip(chance @ member, 0.0, 1.0), np.array(names, dtype=str)


def smooth(probabilities: ArrayLike, clusters: ArrayLike, weight: float = 1.0) -> NDArray[np.float64]:
    """Mix the probabilities of each cell with the mean of its cluster.

    Trap: it helps where clusters are pure and hurts where they are not; report both.

    Parameters
    ----------
    probabilities
        ``(n, t)``.
    clusters
        ``(n,)`` any labels that were made without the types.
    weight
        1 gives every cell of a cluster the same answer, 0 changes nothing.
    """
    chance, names = np.asarray(probabilities, dtype=np.float64), np.asarray(clusters).astype(str)
    if chance.ndim != 2 or len(names) != len(chance):
        raise DataError(f"Found {len(names):,} cluster labels for probabilities of the shape {chance.shape}.")
    if not 0 <= weight <= 1:
        raise ConfigError(f"The weight of clusters is {weight}; it must lie between 0 and 1.")
    mean = pd.DataFrame(chance).groupby(names).transform("mean").to_numpy()
    return (1 - weight) * chance + weight * mean


def _checked(probabilities: ArrayLike, classes: Sequence[str]) -> NDArray[np.float64]:
    chance = np.asarray(probabilities, dtype=np.float64)
    if chance.ndim != 2 or chance.shape[1] != len(classes) or not len(classes):
        raise DataError(f"Probabilities have the shape {chance.shape}; one column for each of {len(classes)} classes.")
    return chance
