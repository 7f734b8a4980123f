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


@njit(cache=True, nogil=True)
def split(value, bases, shares):
    """Largest-remainder rounding: whole parts of ``value`` in proportion to ``bases``, the first of equals first.

    ``value * base`` must stay below 2 ** 63, which counts below 2 ** 32 and intervals below 2 ** 31 bp do.
    """
    if value == 1:  # nearly all counts: to the first of the largest
        best = 0
        for j in range(len(bases)):
            shares[j] = 0
            best = j if bases[j] > bases[best] else best
        shares[best] = 1
        return
    total = np.int64(0)
    for base in bases:
        total += base
    left = value
    for j in range(len(bases)):
        shares[j] = value * bases[j] // total
        left -= shares[j]
    for _ in range(left):
        best, largest = 0, np.int64(-1)
        for j in range(len(bases)):
            remainder = value * bases[j] - shares[j] * total
            if remainder > largest:
                best, largest = j, remainder
        shares[best] += 1  # its remainder is negative from here on: no part is rounded up twice


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
                    split(np.int64(data[entry]), bases[low:high], shares)
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


@njit(cache=True, nogil=True)
def scatter(
    indptr, indices, data, pointer, target, bases, whole, sums, first, last, place, length, out_indices, out_data
):
    """Any table: sums in a row as wide as the target space, read out in order from a bitmap of what was reached.

    With ``bases`` a count is split over its targets, rounded to whole counts where ``whole``. ``sums`` are zeros, as
    many as columns, and zeros again in the end.
    """
    shares = np.zeros(most(pointer), dtype=np.int64)
    words = np.zeros((len(sums) >> 6) + 1, dtype=np.uint64)
    groups = np.zeros((len(words) >> 6) + 1, dtype=np.uint64)
    one = np.uint64(1)
    for row in range(first, last):
        begin = place
        for entry in range(indptr[row], indptr[row + 1]):
            column = indices[entry]
            low, high = pointer[column], pointer[column + 1]
            if data is not None and len(bases):
                total = np.int64(0)
                for base in bases[low:high]:
                    total += base
                if whole and high - low > 1:
                    split(np.int64(data[entry]), bases[low:high], shares)
            for at in range(low, high):
                if data is not None:
                    value = data[entry]
                    if len(bases) and high - low > 1:
                        value = shares[at - low] if whole else data[entry] * (bases[at] / total)
                        if value == 0:
                            continue
                    sums[target[at]] += value
                word = target[at] >> 6
                words[word] |= one << np.uint64(target[at] & 63)
                groups[word >> 6] |= one << np.uint64(word & 63)
        for group in range(len(groups)):
            if not groups[group]:
                continue
            for word in range(group << 6, min((group + 1) << 6, len(words))):
                bits, base = words[word], word << 6
                while bits:
                    reached = base + trailing(bits)
                    bits &= bits - one
                    out_indices[place] = reached
                    if data is not None:
                        out_data[place] = sums[reached]
                        sums[reached] = 0
                    place += 1
                words[word] = 0
            groups[group] = 0
        length[row] = place - begin
    return place


@njit(cache=True, nogil=True, inline="always")
def trailing(bits):
    """Number of the lowest set bit."""
    lowest = bits & (~bits + np.uint64(1))
    count = 0
    if lowest >> np.uint64(32):
        lowest >>= np.uint64(32)
        count += 32
    if lowest >> np.uint64(16):
        lowest >>= np.uint64(16)
        count += 16
    if lowest >> np.uint64(8):
        lowest >>= np.uint64(8)
        count += 8
    if lowest >> np.uint64(4):
        lowest >>= np.uint64(4)
        count += 4
    if lowest >> np.uint64(2):
        lowest >>= np.uint64(2)
        count += 2
    return count + np.int64(lowest >> np.uint64(1))


@njit(cache=True, nogil=True)
def room(indices, pointer):
    """Entries that rows may come to: the targets of all their columns."""
    total = np.int64(0)
    for column in indices:
        total += pointer[column + 1] - pointer[column]
    return total
