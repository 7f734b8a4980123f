"""Compiled loops over sorted, disjoint regions: which of them an interval touches.

They release the interpreter's lock, hold no state and start no threads of their own, so that any thread or forked
process may call them. They are compiled once and kept on disk; importing this module loads numba, so it is imported
where it is used.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

njit: Any = numba.njit


@njit(cache=True, nogil=True)
def touch(
    code: NDArray[np.int64],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    offset: NDArray[np.int64],
    region_start: NDArray[np.int32],
    region_end: NDArray[np.int32],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> None:
    """First region each interval overlaps and the one after the last, into ``low`` and ``high``; equal where none.

    Looks ahead from the last find in growing steps, so intervals in genome order cost a few comparisons each and
    those in any order no more than a binary search.
    """
    last_code, at = -1, 0
    for i in range(len(code)):
        c = code[i]
        if c < 0:
            low[i] = high[i] = 0
            continue
        first, stop, s = offset[c], offset[c + 1], start[i]
        if c != last_code or (at > first and region_end[at - 1] > s):
            at = first
        last_code = c
        step, top = 1, at
        while top < stop and region_end[top] <= s:
            at = top + 1
            top += step
            step *= 2
        top = min(top, stop)
        while at < top:
            middle = (at + top) >> 1
            if region_end[middle] <= s:
                at = middle + 1
            else:
                top = middle
        low[i] = at
        reach = at
        while reach < stop and region_start[reach] < end[i]:
            reach += 1
        high[i] = reach


@njit(cache=True, nogil=True)
def spread(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    region_start: NDArray[np.int32],
    region_end: NDArray[np.int32],
    low: NDArray[np.int64],
    pointer: NDArray[np.int64],
    target: NDArray[np.int32],
    bases: NDArray[np.int32],
) -> None:
    """Write out every overlap: ``target`` and shared ``bases`` of interval ``i`` at ``pointer[i]:pointer[i + 1]``."""
    for i in range(len(start)):
        for place in range(pointer[i], pointer[i + 1]):
            region = low[i] + place - pointer[i]
            target[place] = region
            bases[place] = min(end[i], region_end[region]) - max(start[i], region_start[region])


@njit(cache=True, nogil=True)
def largest(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    region_start: NDArray[np.int32],
    region_end: NDArray[np.int32],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    best: NDArray[np.int64],
) -> None:
    """Region each interval shares the most bases with, the lower of equals; -1 for none."""
    for i in range(len(start)):
        most, winner = 0, -1
        for region in range(low[i], high[i]):
            shared = min(end[i], region_end[region]) - max(start[i], region_start[region])
            if shared > most:
                most, winner = shared, region
        best[i] = winner


@njit(cache=True, nogil=True)
def keep_best(
    code: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which intervals survive when each, in ``order``, removes those it overlaps and that are still there.

    Intervals are sorted by chromosome and start and are of one width, so that those that overlap one are neighbours.
    """
    alive = np.ones(len(start), dtype=np.bool_)
    kept = np.zeros(len(start), dtype=np.bool_)
    for i in order:
        if not alive[i]:
            continue
        kept[i] = True
        other = i - 1
        while other >= 0 and code[other] == code[i] and end[other] > start[i]:
            alive[other] = False
            other -= 1
        other = i + 1
        while other < len(start) and code[other] == code[i] and start[other] < end[i]:
            alive[other] = False
            other += 1
    return kept
