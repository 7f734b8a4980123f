"""Intervals by resampling the units that must generalise: donors, technical batches, perturbations, seeds. Never cells.

Cells of one donor share its biology and its accidents; an interval over cells is far too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from syncyte.errors import DataError


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over units with its bootstrap percentiles; ``units`` says how many there were.

    With fewer than about six units the interval is a rough guide; with one it is the point itself.
    """

    mean: float
    low: float
    high: float
    units: int


def bootstrap_interval(
    values_by_unit: Mapping[str, float] | ArrayLike,
    rng: np.random.Generator,
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """Percentile bootstrap of a (weighted) mean over units.

    Parameters
    ----------
    values_by_unit
        One score a unit, as a mapping or an array. For two methods pass the *differences* by unit: the interval of a
        difference is what says whether one is better.
    rng
        Source of the draws.
    weights
        Weight of each unit (number of cells, say), in the same order; equal by default.
    level
        Coverage.
    draws
        Resamples.
    """
    values = values_by_unit.values() if isinstance(values_by_unit, Mapping) else values_by_unit
    scores = np.asarray(list(values), dtype=np.float64)  # type: ignore[arg-type]
    share = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(scores)
    scores, share = scores[known], share[known]
    if not len(scores):
        raise DataError("No unit has a finite score, so there is nothing to resample. Check the scores per unit.")
    chosen = rng.integers(0, len(scores), (draws, len(scores)))
    means = (scores[chosen] * share[chosen]).sum(axis=1) / share[chosen].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float((scores * share).sum() / share.sum()), float(low), float(high), len(scores))
