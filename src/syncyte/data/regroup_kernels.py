"""Compiled loops that move the columns of CSR rows through a (pointer, target, bases) table.

Each loop fills rows ``first`` to ``last`` from ``place`` on in output arrays large enough for the worst case, and
returns where it ended; ``length`` gets the entries of each row. ``data`` may be None: only places are moved then. They
hold no state and start no threads, so that any thread or forked process may run them over its own rows. Compiled once
and kept on disk. Importing this module loads numba, so it is imported where it is used.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

njit: Any = numba.njit


@njit(cache=True, nogil=True, inline="always")
def split(value, bases, low, high, shares):
    """Largest-remainder rounding: whole parts of ``value`` in proportion to ``bases``, the first of equals first.

    ``value * base`` must stay below 2 ** 63, which counts below 2 ** 32 and intervals below 2 ** 31 bp do.
    """
    best, total, left = low, np.int64(0), value
    for at in range(low, high):
        shares[at - low] = 0
        total += bases[at]
        best = at if bases[at] > bases[best] else best
    if value == 1:  # nearly all counts: to the first of the largest
        shares[best - low] = 1
    else:
        for at in range(low, high):
            shares[at - low] = value * bases[at] // total
            left -= shares[at - low]
        for _ in range(left):
            best, largest = low, np.int64(-1)
            for at in range(low, high):
                remainder = value * bases[at] - shares[at - low] * total
                if remainder > largest:
                    best, largest = at, remainder
            shares[best - low] += 1  # its remainder is negative from here on: no part is rounded up twice


@njit(cache=True, nogil=True)
def cut(indices, low, high, begins, cuts):
    """Where each run of columns begins in the sorted columns ``indices[low:high]`` of a row."""
    for run in range(len(begins)):
        top = high
        while low < top:
            middle = (low + top) >> 1
            if indices[middle] < begins[run]:
                low = middle + 1
            else:
                top = middle
        cuts[run] = low
    cuts[len(begins)] = high


@njit(cache=True, nogil=True)
def move(indptr, indices, data, runs, code, pointer, target, first, last, place, length, out_indices, out_data):
    """Whole counts to every target, where targets ascend run by run, so that equal ones are neighbours.

    ``runs`` are the first columns of the runs and the order to take them in. ``code`` (f,) holds four times the first
    target plus 0 for no target, 1 for one, 2 for it and the next column, 3 for anything else, which is looked up. Two
    are always written and the second is kept where it counts, which spares a branch that no processor could foresee;
    hence the place beyond the last must be free.
    """
    begins, order = runs
    cuts = np.zeros(len(begins) + 1, dtype=np.int64)
    for row in range(first, last):
        cut(indices, indptr[row], indptr[row + 1], begins, cuts)
        begin, latest = place, np.int64(-1)
        for run in order:
            for entry in range(cuts[run], cuts[run + 1]):
                packed = np.int64(code[indices[entry]])
                count, lead = packed & 3, packed >> 2
                if count == 0:
                    continue
                at = place - (lead == latest)
                out_indices[at] = lead
                out_indices[at + 1] = lead + 1
                if data is not None:
                    value = data[entry]
                    out_data[at] = out_data[at] + value if lead == latest else value
                    out_data[at + 1] = value
                place = at + count
                latest = lead + (count >> 1)
                if count == 3:
                    place = at + 1
                    for more in range(pointer[indices[entry]] + 1, pointer[indices[entry] + 1]):
                        latest = np.int64(target[more])
                        out_indices[place] = latest
                        if data is not None:
                            out_data[place] = value
                        place += 1
        length[row] = place - begin
    return place


@njit(cache=True, nogil=True)
def move_parts(indptr, indices, data, runs, pointer, target, bases, first, last, place, length, out_indices, out_data):
    """As ``move``, but counts are split by ``bases`` into whole parts; parts of zero are left out."""
    begins, order = runs
    cuts = np.zeros(len(begins) + 1, dtype=np.int64)
    shares = np.zeros(most(pointer), dtype=np.int64)
    for row in range(first, last):
        cut(indices, indptr[row], indptr[row + 1], begins, cuts)
        begin, latest = place, np.int64(-1)
        for run in order:
            for entry in range(cuts[run], cuts[run + 1]):
                column = indices[entry]
                low, high = pointer[column], pointer[column + 1]
                if high - low == 1:
                    shares[0] = np.int64(data[entry])
                elif high > low:
                    split(np.int64(data[entry]), bases, low, high, shares)
                for at in range(low, high):
                    share = shares[at - low]
                    if share == 0:
                        continue
                    reached = np.int64(target[at])
                    if reached == latest:
                        out_data[place - 1] += share
                        continue
                    out_indices[place] = latest = reached
                    out_data[place] = share
                    place += 1
        length[row] = place - begin
    return place


@njit(cache=True, nogil=True)
def most(pointer):
    """Most targets of any column, at least one."""
    found = np.int64(1)
    for column in range(len(pointer) - 1):
        found = max(found, pointer[column + 1] - pointer[column])
    return found


@njit(cache=True, nogil=True, inline="always")
def expand(column, value, pointer, target, bases, whole, shares, keys, sums, count):
    """Write one column's targets and what each gets behind ``count`` others; how many there are then.

    Arrays are passed whole here and below: a slice costs more than the work on it.
    """
    low, high = pointer[column], pointer[column + 1]
    parted = len(bases) > 0 and high - low > 1
    total = np.int64(0)
    if parted and whole:
        split(np.int64(value), bases, low, high, shares)
    elif parted:
        for at in range(low, high):
            total += bases[at]
    for at in range(low, high):
        if parted and whole and shares[at - low] == 0:
            continue
        keys[0, count] = target[at]
        sums[0, count] = value
        if parted:
            sums[0, count] = shares[at - low] if whole else value * (bases[at] / total)
        count += 1
    return count


@njit(cache=True, nogil=True)
def radix(keys, sums, count, passes, buckets):
    """Sort the first ``count`` of ``keys[0]`` and their ``sums[0]``, 11 bits at a time; which half holds the result."""
    now = 0
    for turn in range(passes):
        shift = 11 * turn
        buckets[:] = 0
        for i in range(count):
            buckets[(keys[now, i] >> shift) & 2047] += 1
        place = 0
        for bucket in range(len(buckets)):
            size = buckets[bucket]
            buckets[bucket] = place
            place += size
        for i in range(count):
            bucket = (keys[now, i] >> shift) & 2047
            to = buckets[bucket]
            buckets[bucket] = to + 1
            keys[1 - now, to] = keys[now, i]
            sums[1 - now, to] = sums[now, i]
        now = 1 - now
    return now


@njit(cache=True, nogil=True)
def sort_rows(
    indptr,
    indices,
    data,
    pointer,
    target,
    bases,
    whole,
    sums,
    passes,
    first,
    last,
    place,
    length,
    out_indices,
    out_data,
):
    """Any table: a row's targets are written out, sorted by radix, and equal ones are merged.

    With ``bases`` a count is split over its targets, rounded to whole counts where ``whole``. ``sums`` (2, longest) is
    room for what the targets of one row get, ``passes`` of 11 bits cover the columns of the new space.
    """
    shares = np.zeros(most(pointer), dtype=np.int64)
    keys = np.zeros(sums.shape, dtype=np.int32)
    buckets = np.zeros(2048, dtype=np.int64)
    for row in range(first, last):
        begin, count = place, 0
        for entry in range(indptr[row], indptr[row + 1]):
            value = data[entry] if data is not None else sums[0, 0]
            count = expand(indices[entry], value, pointer, target, bases, whole, shares, keys, sums, count)
        now = radix(keys, sums, count, passes, buckets)
        latest = np.int32(-1)
        for i in range(count):
            if keys[now, i] == latest:
                if data is not None:
                    out_data[place - 1] += sums[now, i]
                continue
            out_indices[place] = latest = keys[now, i]
            if data is not None:
                out_data[place] = sums[now, i]
            place += 1
        length[row] = place - begin
    return place


@njit(cache=True, nogil=True)
def room(indices, pointer):
    """Entries that rows may come to: the targets of all their columns."""
    total = np.int64(0)
    for column in indices:
        total += pointer[column + 1] - pointer[column]
    return total
