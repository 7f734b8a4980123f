"""Is an effect more than chance: against random variants, over donors, and for many variants at once.

- *Random variants*: of the same class and length, alike in distance to the start, GC content and CpG state. The
  empirical p is ``(1 + k) / (1 + n)`` with ``k`` of ``n`` at least as large, so that none is below ``1 / (1 + n)``.
- *Donors* are the replicates, cells are not: the donors' mean changes are tested against zero (one-sample t), with an
  interval from resampling donors; with one donor numbers are descriptive only.
- Benjamini and Hochberg (1995) over all tests of a column that were made.

Leaves out: drawing variants (``genome.matched``), sets of targets (``target_sets``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def empirical(observed: float, null: NDArray[np.floating]) -> float:
    """Share of null values at least as large, both counted once more; NaN where nothing can be compared."""
    known = null[np.isfinite(null)]
    if not np.isfinite(observed) or len(known) == 0:
        return float("nan")
    return float((1 + (known >= observed).sum()) / (1 + len(known)))


def adjusted(p: NDArray[np.floating]) -> NDArray[np.float64]:
    """Benjamini-Hochberg over the tests that were made; NaN stays NaN."""
    found = np.full(p.shape, np.nan)
    made = np.isfinite(p)
    if made.any():
        found[made] = stats.false_discovery_control(p[made])
    return found


def over_donors(values: NDArray[np.floating], seed: int = 0, draws: int = 1_000) -> dict[str, NDArray[np.float64]]:
    """Mean over donors with what can be said of it.

    Parameters
    ----------
    values
        ``(n, d)`` mean of each donor; NaN where a donor has too few cells.

    Returns
    -------
    dict
        ``mean``, ``low``, ``high`` (95 % interval over resampled donors), ``p`` (two-sided t, from 3 donors on) and
        ``donors``, each ``(n,)``; interval and p are NaN where there are too few donors.
    """
    known = np.isfinite(values)
    count = known.sum(axis=1)
    filled = np.where(known, values, 0.0)
    mean = np.where(count > 0, filled.sum(axis=1) / np.maximum(count, 1), np.nan)
    low, high, p = (np.full(len(values), np.nan) for _ in range(3))
    rng = np.random.default_rng(seed)
    for columns in np.unique(known, axis=0):
        own = np.flatnonzero((known == columns).all(axis=1))
        part = values[np.ix_(own, np.flatnonzero(columns))].astype(np.float64)
        if part.shape[1] < 2:
            continue
        drawn = rng.integers(0, part.shape[1], (draws, part.shape[1]))
        for begin in range(0, len(own), 1_000):
            rows = slice(begin, begin + 1_000)
            means = part[rows][:, drawn].mean(axis=2)
            low[own[rows]], high[own[rows]] = np.quantile(means, (0.025, 0.975), axis=1)
        if part.shape[1] >= 3:
            p[own] = _one_sample(part)
    return {"mean": mean, "low": low, "high": high, "p": p, "donors": count.astype(np.float64)}


def _one_sample(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p of a t test of rows against zero; 1 where all are zero."""
    mean, error = part.mean(axis=1), part.std(axis=1, ddof=1) / part.shape[1] ** 0.5
    # donors who agree to the last digits would have p near 0 by rounding alone
    error = np.maximum(error, 1e-3 * np.abs(mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean / error), part.shape[1] - 1)
    return np.where(mean == 0, 1.0, p)
