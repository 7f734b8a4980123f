"""Which transcription starts lie nearest to regions, and how far, with the sign of transcription.

A region is taken at its middle. Leaves out what being near means (enhancers skip genes), and reading genes
(``reference``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def middles(regions: pd.DataFrame) -> NDArray[np.int64]:
    """``(r,)`` middle of each region in bp, 0-based."""
    return (regions["start"].to_numpy(dtype=np.int64) + regions["end"].to_numpy(dtype=np.int64)) // 2


def nearest_starts(
    regions: pd.DataFrame, starts: pd.DataFrame, count: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest transcription starts of regions.

    Parameters
    ----------
    regions
        ``(r, 3)`` table of ``coordinates``.
    starts
        ``chrom``, ``tss`` (0-based) and ``strand`` (``+`` or ``-``), in any order.
    count
        How many, the nearest first.

    Returns
    -------
    tuple
        ``(r, count)`` rows of ``starts``, -1 where the chromosome has no more, and ``(r, count)`` distances in bp from
        start to middle: negative upstream, positive downstream of the start, NaN where there is none.
    """
    row = np.full((len(regions), count), -1, dtype=np.int64)
    distance = np.full((len(regions), count), np.nan)
    middle, chrom = middles(regions), regions["chrom"].astype(str).to_numpy()
    place, chrom_of = starts["tss"].to_numpy(dtype=np.int64), starts["chrom"].astype(str).to_numpy()
    sign = np.where(starts["strand"] == "-", -1, 1)
    window = np.arange(-count, count)
    for name in np.unique(chrom):
        own = np.flatnonzero(chrom_of == name)
        if not len(own):
            continue
        own = own[np.argsort(place[own], kind="stable")]
        here = np.flatnonzero(chrom == name)
        spot = np.searchsorted(place[own], middle[here])[:, None] + window
        known = (spot >= 0) & (spot < len(own))
        found = own[spot.clip(0, len(own) - 1)]
        gap = middle[here, None] - place[found]
        order = np.argsort(np.where(known, np.abs(gap), np.iinfo(np.int64).max), axis=1, kind="stable")[:, :count]
        found, gap, known = (np.take_along_axis(values, order, axis=1) for values in (found, gap, known))
        row[here] = np.where(known, found, -1)
        distance[here] = np.where(known, gap * sign[found], np.nan)
    return row, distance
