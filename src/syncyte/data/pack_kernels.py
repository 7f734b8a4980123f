"""Compiled loops that turn rows of counts into words of bits and back.

A cell is a run of 32-bit words: a checksum, then bits from the lowest up, the last word filled with zeros::

    5 bits  k of the gaps
    2 bits  how counts are told: 0 all are ones, 1 PLACES, 2 PLAIN
    list    gaps between columns, less one (the first from -1)
    PLAIN:  5 bits k; list of all counts less one
    PLACES: 5 bits k, 5 bits k, 32 bits how many counts are above one;
            list of the gaps between their places, less one; list of those counts less two

A list of values is Rice-coded with one ``k``: first the low ``k`` bits of every value, then, for every value, as many
zeros as its high part says and a one. This is within a few hundredths of a bit of the entropy of random gaps, and the
two sections are read without one value having to wait for the place of the one before.

The loops hold no state and start no threads, so that any thread or forked process may run them. They read no word
outside a cell's own, whatever the bits say. Compiled once and kept on disk. Importing this module loads numba, so it is
imported where it is used. Leaves out: files (``data.packed``).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils

njit: Any = numba.njit
intrinsic: Any = numba.extending.intrinsic

ONES, PLACES, PLAIN = 0, 1, 2
SPARE = 3  # words that must follow the last cell in the array: windows of 64 bits reach beyond its end
LARGEST_K = 31
_PRIME = 0x9E3779B97F4A7C15


@intrinsic
def zeros_below(typingctx, value):
    """Zeros below the lowest one of a uint64 that is not zero."""

    def code(context, builder, signature, args):
        return builder.cttz(args[0], cgutils.true_bit)

    return types.uint64(types.uint64), code


@intrinsic
def ones_in(typingctx, value):
    """Ones of a uint64."""

    def code(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), code


@njit(cache=True, nogil=True, inline="always")
def window(words, bit):
    """At least 33 bits from ``bit`` on."""
    at = bit >> 5
    both = np.uint64(words[at]) | (np.uint64(words[at + 1]) << np.uint64(32))
    return both >> np.uint64(bit & 31)


@njit(cache=True, nogil=True, inline="always")
def take(words, bit, bits):
    """Value of ``bits`` (up to 32) bits."""
    return np.int64(window(words, bit) & ((np.uint64(1) << np.uint64(bits)) - np.uint64(1)))


@njit(cache=True, nogil=True, inline="always")
def put(words, bit, value, bits):
    """Write a value of ``bits`` (up to 32) bits over zeros."""
    at = bit >> 5
    both = np.uint64(value) << np.uint64(bit & 31)
    words[at] |= np.uint32(both & np.uint64(0xFFFFFFFF))
    words[at + 1] |= np.uint32(both >> np.uint64(32))


@njit(cache=True, nogil=True)
def checksum(words, first, last, count):
    """32 bits over the words ``first`` to ``last`` of a cell with ``count`` entries; any changed word changes it."""
    prime = np.uint64(_PRIME)
    state = np.uint64(count + 1) * prime
    for at in range(first, last - 1, 2):
        state = (state ^ (np.uint64(words[at]) | (np.uint64(words[at + 1]) << np.uint64(32)))) * prime
        state = (state << np.uint64(27)) | (state >> np.uint64(37))
    if (last - first) & 1:
        state = (state ^ np.uint64(words[last - 1])) * prime
    state ^= state >> np.uint64(32)
    return np.uint32(state & np.uint64(0xFFFFFFFF))


@njit(cache=True, nogil=True)
def cost(values, count, k):
    """Bits of a list."""
    total = np.int64(count) * (k + 1)
    for at in range(count):
        total += values[at] >> k
    return total


@njit(cache=True, nogil=True)
def best_k(values, count):
    """The ``k`` of fewest bits near the one that the mean asks for, and how many those are."""
    total = np.int64(0)
    for at in range(count):
        total += values[at]
    k = 0
    while k < LARGEST_K and (np.int64(count) << (k + 1)) <= total:
        k += 1
    best, least = k, cost(values, count, k)
    for other in (k - 1, k + 1):
        if 0 <= other <= LARGEST_K:
            bits = cost(values, count, other)
            if bits < least:
                best, least = other, bits
    return best, least


@njit(cache=True, nogil=True)
def write_list(words, bit, values, count, k):
    """Append a list; the bit behind it."""
    mask = (np.int64(1) << k) - 1
    for at in range(count):
        if k:
            put(words, bit, values[at] & mask, k)
        bit += k
    for at in range(count):
        bit += values[at] >> k
        put(words, bit, 1, 1)
        bit += 1
    return bit


@njit(cache=True, nogil=True)
def pack(indptr, indices, counts, words, sizes):
    """Code the rows of a CSR matrix one behind the other.

    Parameters
    ----------
    indptr, indices, counts
        ``(rows + 1,)`` int64, ``(nnz,)`` int32 ascending in each row, ``(nnz,)`` uint32 from 1.
    words
        Zeros, with room for ``3 * nnz + 8 * rows + SPARE`` words of uint32.
    sizes
        ``(rows,)`` int64, filled with the words of each row (0 for an empty one).

    Returns
    -------
    int
        -1, or the first row whose columns do not ascend or whose counts hold a zero.
    """
    longest = 0
    for row in range(len(sizes)):
        longest = max(longest, indptr[row + 1] - indptr[row])
    gaps, rest = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.int64)
    spots, above = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.int64)
    begin = np.int64(0)
    for row in range(len(sizes)):
        first, count = indptr[row], indptr[row + 1] - indptr[row]
        sizes[row] = 0
        if count == 0:
            continue
        column, spot, many = np.int64(-1), np.int64(-1), 0
        for at in range(count):
            gaps[at] = np.int64(indices[first + at]) - column - 1
            rest[at] = np.int64(counts[first + at]) - 1
            if gaps[at] < 0 or rest[at] < 0:
                return row
            column = np.int64(indices[first + at])
            if rest[at]:
                spots[many], above[many] = at - spot - 1, rest[at] - 1
                spot, many = np.int64(at), many + 1
        k, _ = best_k(gaps, count)
        bit = (begin + 1) * 32
        put(words, bit, k, 5)
        bit = write_list(words, bit + 7, gaps, count, k)
        if many:
            bit = write_counts(words, begin, bit, rest, count, spots, above, many)
        end = (bit + 31) >> 5
        words[begin] = checksum(words, begin + 1, end, count)
        sizes[row] = end - begin
        begin = end
    return -1


@njit(cache=True, nogil=True)
def write_counts(words, begin, bit, rest, count, spots, above, many):
    """Append the counts of a cell in the shorter of two ways; the bit behind them."""
    plain, bits = best_k(rest, count)
    apart, spot_bits = best_k(spots, many)
    high, above_bits = best_k(above, many)
    if bits + 5 <= spot_bits + above_bits + 42:
        put(words, (begin + 1) * 32 + 5, PLAIN, 2)
        put(words, bit, plain, 5)
        return write_list(words, bit + 5, rest, count, plain)
    put(words, (begin + 1) * 32 + 5, PLACES, 2)
    put(words, bit, apart, 5)
    put(words, bit + 5, high, 5)
    put(words, bit + 10, many, 32)
    bit = write_list(words, bit + 42, spots, many, apart)
    return write_list(words, bit, above, many, high)


@njit(cache=True, nogil=True)
def read_list(words, bit, stop, count, k, values):
    """Decode a list into ``values``; the bit behind it, or -1 if it does not end before ``stop``.

    All is unsigned in here: an index that might be negative costs a test each time.
    """
    if bit + count * (k + 1) > stop:
        return np.int64(-1)
    one, word, shift, mask = np.uint64(1), np.uint64(5), np.uint64(k), (np.uint64(1) << np.uint64(k)) - np.uint64(1)
    low, end, base = np.uint64(bit), np.uint64(stop), np.uint64(bit + count * k)
    done, wanted = np.uint64(0), np.uint64(count)
    after = base  # the bit behind the latest one
    while done < wanted:
        if base >= end:
            return np.int64(-1)
        at, skip = base >> word, base & np.uint64(31)
        ones = (np.uint64(words[at]) | (np.uint64(words[at + one]) << np.uint64(32))) >> skip
        if skip:
            ones |= np.uint64(words[at + np.uint64(2)]) << (np.uint64(64) - skip)
        until = min(wanted, done + ones_in(ones))
        if k == 0:
            while done < until:
                place = base + zeros_below(ones)
                ones &= ones - one
                values[done] = place - after
                after = place + one
                done += one
        while done < until:
            place = base + zeros_below(ones)
            ones &= ones - one
            at = low >> word
            both = np.uint64(words[at]) | (np.uint64(words[at + one]) << np.uint64(32))
            values[done] = ((place - after) << shift) | ((both >> (low & np.uint64(31))) & mask)
            after = place + one
            low += shift
            done += one
        base += np.uint64(64)
    return np.int64(after) if after <= end else np.int64(-1)


@njit(cache=True, nogil=True)
def gather(words, begins, sizes, out):
    """Copy runs of words, ``sizes`` from ``begins`` on, one behind the other into ``out``."""
    place = np.int64(0)
    for run in range(len(sizes)):
        for at in range(begins[run], begins[run] + sizes[run]):
            out[place] = words[at]
            place += 1


@njit(cache=True, nogil=True)
def unpack(words, begins, sizes, lengths, width, indices, data):
    """Decode cells one behind the other.

    Parameters
    ----------
    words
        Where the cells lie, and at least ``SPARE`` words more.
    begins, sizes, lengths
        ``(cells,)`` int64: first word of each cell, its words, its entries.
    width
        Columns there are.
    indices, data
        ``(sum of lengths,)`` to be filled.

    Returns
    -------
    int
        -1, or the first cell that is damaged.
    """
    longest = 0
    for cell in range(len(lengths)):
        longest = max(longest, lengths[cell])
    spots, values = np.empty(longest, dtype=np.int64), np.empty(longest, dtype=np.int64)
    place = np.int64(0)
    for cell in range(len(lengths)):
        begin, end, count = begins[cell], begins[cell] + sizes[cell], lengths[cell]
        if count == 0 and sizes[cell] == 0:
            continue
        if sizes[cell] < 2 or count == 0 or words[begin] != checksum(words, begin + 1, end, count):
            return cell
        bit, stop = (begin + 1) * 32, end * 32
        k, way = take(words, bit, 5), take(words, bit + 5, 2)
        bit = read_list(words, bit + 7, stop, count, k, values)
        if bit < 0:
            return cell
        column, columns, counts = np.int64(-1), indices[place : place + count], data[place : place + count]
        for at in range(count):
            column += values[at] + 1
            columns[at] = column
        if column >= width:
            return cell
        bit = read_counts(words, bit, stop, count, way, spots, values, counts)
        if bit < 0 or (bit + 31) >> 5 != end:
            return cell
        place += count
    return -1


@njit(cache=True, nogil=True)
def read_counts(words, bit, stop, count, way, spots, values, counts):
    """Decode the counts of a cell; the bit behind them, or -1 if they are damaged."""
    if way == PLAIN:
        bit = read_list(words, bit + 5, stop, count, take(words, bit, 5), values)
        if bit >= 0:
            for at in range(count):
                counts[at] = values[at] + 1
        return bit
    for at in range(count):
        counts[at] = 1
    if way == ONES:
        return bit
    if way != PLACES or bit + 42 > stop:
        return np.int64(-1)
    apart, high, many = take(words, bit, 5), take(words, bit + 5, 5), take(words, bit + 10, 32)
    if many > count:
        return np.int64(-1)
    bit = read_list(words, bit + 42, stop, many, apart, spots)
    if bit < 0:
        return bit
    bit = read_list(words, bit, stop, many, high, values)
    if bit < 0:
        return bit
    spot = np.int64(-1)
    for at in range(many):
        spot += spots[at] + 1
        if spot >= count:
            return np.int64(-1)
        counts[spot] = values[at] + 2
    return bit
