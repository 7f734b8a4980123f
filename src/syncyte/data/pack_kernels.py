"""Compiled loops that write CSR rows as words of 64 bits and read them back.

A row of n entries with gaps g (columns skipped before each) and counts v + 1 is::

    head     low (bits 0-7), more (bits 8-15), zero (16-31), checksum of the row (32-63)
    gaps     a one behind g >> low zeros, for each entry
    counts   a one behind min(v >> more, ESCAPE) zeros
    lows     low bits of g and above them more bits of v, low + more bits an entry
    escapes  v in 32 bits, where v >> more reaches ESCAPE

Each part begins with a new word, bits count from the lowest, and an empty row has no word. Ones are found a word at a
time and low bits lie at known places, so no entry waits for the bits of the one before it. Reading trusts nothing: it
stays inside the row and inside the output, and the parts must end where the row does.
They hold no state and start no threads. Importing this module loads numba, so it is imported where it is used.
Leaves out: files (``data.shards``), checks of what is to be written (``data.pack``).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import extending
from numba.core import types

njit: Any = numba.njit
intrinsic: Any = extending.intrinsic

ESCAPE = 20  # zeros that stand for "see the escapes": a count of 21 and more in a row of ones costs no more than this
ODD = np.uint64(0x9E3779B97F4A7C15)


@intrinsic
def ctz(_, value):
    """Zeros below the lowest one of a word that is not zero."""
    signature = types.uint64(types.uint64)
    return signature, lambda context, builder, sig, args: builder.cttz(args[0], context.get_constant(types.boolean, 1))


@intrinsic
def ones(_, value):
    """Ones in a word."""
    signature = types.uint64(types.uint64)
    return signature, lambda context, builder, sig, args: builder.ctpop(args[0])


@njit(cache=True, nogil=True)
def checksum(words, at, end, n):
    """32 bits over the words of a row but for the upper half of its head; changing any one word changes all of it."""
    mixed = (np.uint64(n) + np.uint64(1)) * ODD
    mixed = (mixed ^ (words[at] & np.uint64(0xFFFFFFFF))) * ODD
    for place in range(at + 1, end):
        mixed = ((mixed >> np.uint64(29)) | (mixed << np.uint64(35))) ^ words[place]
        mixed *= ODD
    return mixed >> np.uint64(32)


@njit(cache=True, nogil=True)
def best_low(indices, begin, end):
    """Low bits of the gaps of a row, and the bits of its unary part.

    Fewer than two below or more than one above the logarithm of the mean gap never win: each low bit costs one bit an
    entry, and one less at least doubles the zeros.
    """
    n = end - begin
    mean = (np.int64(indices[end - 1]) + 1 - n) // n
    level = 0
    while (mean >> (level + 1)) > 0:
        level += 1
    best, bits, cost = 0, np.int64(0), np.int64(-1)
    for low in range(max(level - 2, 0), level + 2):
        zeros, before = np.int64(0), np.int64(-1)
        for entry in range(begin, end):
            zeros += (np.int64(indices[entry]) - before - 1) >> low
            before = np.int64(indices[entry])
        if cost < 0 or n * low + zeros < cost:
            best, bits, cost = low, n + zeros, n * low + zeros
    return best, bits


@njit(cache=True, nogil=True)
def best_more(data, begin, end):
    """Low bits of the counts of a row, the bits of its unary part, and its escapes."""
    n = end - begin
    best, bits, escapes, cost = 0, np.int64(0), np.int64(0), np.int64(-1)
    for more in range(32):
        if cost >= 0 and n * (more + 1) >= cost:
            break
        unary, over = np.int64(0), np.int64(0)
        for entry in range(begin, end):
            zeros = (np.int64(data[entry]) - 1) >> more
            over += zeros >= ESCAPE
            unary += 1 + (zeros if zeros < ESCAPE else ESCAPE)
        if cost < 0 or n * more + unary + 32 * over < cost:
            best, bits, escapes, cost = more, unary, over, n * more + unary + 32 * over
    return best, bits, escapes


@njit(cache=True, nogil=True)
def plan(indptr, indices, data, width, shape, words):
    """Choose the bits of each row: ``shape`` (rows, 4) gets low, more and the words of both unary parts.

    ``words`` gets the words of each row. Returns -1, or the first row that cannot be written: columns that do not
    ascend or lie outside, counts below 1 or above 2 ** 32 - 1.
    """
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        words[row] = 0
        before = np.int64(-1)
        for entry in range(begin, end):
            column, count = np.int64(indices[entry]), np.int64(data[entry])
            if column <= before or column >= width or count < 1 or count > 0xFFFFFFFF:
                return row
            before = column
        if end > begin:
            low, gap_bits = best_low(indices, begin, end)
            more, count_bits, escapes = best_more(data, begin, end)
            shape[row, 0], shape[row, 1] = low, more
            shape[row, 2], shape[row, 3] = (gap_bits + 63) >> 6, (count_bits + 63) >> 6
            lows = ((end - begin) * (low + more) + 63) >> 6
            words[row] = 1 + shape[row, 2] + shape[row, 3] + lows + ((escapes + 1) >> 1)
    return -1


@njit(cache=True, nogil=True)
def write(indptr, indices, data, shape, starts, out):
    """Write rows as ``plan`` chose into ``out``, which is zero and of the words planned."""
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        if end == begin:
            continue
        low, more, at = shape[row, 0], shape[row, 1], starts[row]
        gaps = (at + 1) * 64  # all places are in bits here
        counts = gaps + 64 * shape[row, 2]
        lows = counts + 64 * shape[row, 3]
        escapes = (lows + (end - begin) * (low + more) + 63) >> 6 << 6
        before = np.int64(-1)
        for entry in range(begin, end):
            gap, value = np.int64(indices[entry]) - before - 1, np.int64(data[entry]) - 1
            before = np.int64(indices[entry])
            gaps += gap >> low
            out[gaps >> 6] |= np.uint64(1) << np.uint64(gaps & 63)
            gaps += 1
            counts += min(value >> more, ESCAPE)
            out[counts >> 6] |= np.uint64(1) << np.uint64(counts & 63)
            counts += 1
            rest = gap & ((np.int64(1) << low) - 1)
            if value >> more >= ESCAPE:
                out[escapes >> 6] |= np.uint64(value) << np.uint64(escapes & 63)
                escapes += 32
            else:
                rest |= (value & ((np.int64(1) << more) - 1)) << low
            if rest:
                out[lows >> 6] |= np.uint64(rest) << np.uint64(lows & 63)
                if (lows & 63) + low + more > 64:
                    out[(lows >> 6) + 1] |= np.uint64(rest) >> np.uint64(64 - (lows & 63))
            lows += low + more
        out[at] = np.uint64(low) | (np.uint64(more) << np.uint64(8))
        out[at] |= checksum(out, at, starts[row + 1], end - begin) << np.uint64(32)


@njit(cache=True, nogil=True)
def read_gaps(words, at, end, n, place, out_indices):
    """Zeros before each of ``n`` ones, all before it included; the word behind them, or -1.

    Places are unsigned where many are used: numba lets signed ones count from the end of an array, which takes time.
    """
    done, base = np.int64(0), np.int64(0)
    while done < n:
        if at >= end or base > 0x7FFFFFBF:
            return -1
        word = words[at]
        found = np.int64(ones(word))
        if done + found > n:
            return -1
        zeros = base - done
        for entry in range(np.uint64(place + done), np.uint64(place + done + found)):
            out_indices[entry] = zeros + np.int64(ctz(word))
            zeros -= 1
            word &= word - np.uint64(1)
        done += found
        base += 64
        at += 1
    return at


@njit(cache=True, nogil=True)
def read_counts(words, at, end, n, place, out_data):
    """One more than the zeros between ``n`` ones; the word behind them (or -1), and how many are escapes."""
    done, base, before, most, escapes = np.int64(0), np.int64(0), np.int64(-1), np.int64(0), np.int64(0)
    while done < n:
        if at >= end:
            return -1, escapes
        word = words[at]
        found = np.int64(ones(word))
        if done + found > n:
            return -1, escapes
        for entry in range(np.uint64(place + done), np.uint64(place + done + found)):
            here = base + np.int64(ctz(word))
            word &= word - np.uint64(1)
            step = np.int32(here - before)
            before = here
            out_data[entry] = step
            if step > ESCAPE:  # hardly ever
                escapes += 1
                most = max(most, np.int64(step))
        done += found
        base += 64
        at += 1
    return (-1 if most > ESCAPE + 1 else at), escapes


@njit(cache=True, nogil=True, inline="always")
def window(words, at, bit):
    """Bits from ``bit`` on behind word ``at``, at least 64 - 63 of them in the first word and the rest in the next."""
    word, shift = at + (bit >> np.uint64(6)), bit & np.uint64(63)
    return (words[word] >> shift) | ((words[word + np.uint64(1)] << np.uint64(1)) << (np.uint64(63) - shift))


@njit(cache=True, nogil=True)
def read_lows(words, at, low, n, place, out_indices):
    """Join the low bits of gaps to what ``read_gaps`` found; the last column."""
    mask, step, shift = (np.uint64(1) << np.uint64(low)) - np.uint64(1), np.uint64(low), np.uint64(low)
    first, bit, total = np.uint64(at), np.uint64(0), np.uint64(0)
    column = np.uint64(0)
    for entry in range(np.uint64(place), np.uint64(place + n)):
        total += window(words, first, bit) & mask
        column = (np.uint64(out_indices[entry]) << shift) + total
        out_indices[entry] = column
        total += np.uint64(1)
        bit += step
    return np.int64(column)


@njit(cache=True, nogil=True)
def read_both(words, at, low, more, escapes, n, place, out_indices, out_data):
    """As ``read_lows`` for rows whose counts have low bits or escapes too."""
    mask, mask_more = (np.uint64(1) << np.uint64(low)) - np.uint64(1), (np.uint64(1) << np.uint64(more)) - np.uint64(1)
    first, bit, total = np.uint64(at), np.uint64(0), np.uint64(0)
    column = np.uint64(0)
    for entry in range(np.uint64(place), np.uint64(place + n)):
        both = window(words, first, bit)
        total += both & mask
        column = (np.uint64(out_indices[entry]) << np.uint64(low)) + total
        out_indices[entry] = column
        total += np.uint64(1)
        value = np.int64(out_data[entry]) - 1
        if value == ESCAPE:
            value = np.int64((words[escapes >> 6] >> np.uint64(escapes & 63)) & np.uint64(0xFFFFFFFF))
            escapes += 32
        else:
            value = (value << more) + np.int64((both >> np.uint64(low)) & mask_more)
        out_data[entry] = value + 1
        bit += np.uint64(low + more)
    return np.int64(column)


@njit(cache=True, nogil=True)
def read_row(words, at, end, n, width, place, out_indices, out_data):
    """Read a row into the output; whether it is one."""
    low, more = np.int64(words[at] & np.uint64(255)), np.int64((words[at] >> np.uint64(8)) & np.uint64(255))
    if low > 31 or more > 31 or checksum(words, at, end, n) != words[at] >> np.uint64(32):
        return False
    counts = read_gaps(words, at + 1, end, n, place, out_indices)
    if counts < 0:
        return False
    lows, escapes = read_counts(words, counts, end, n, place, out_data)
    tail = lows + ((n * (low + more) + 63) >> 6)
    if lows < 0 or tail + ((escapes + 1) >> 1) != end:
        return False
    if more or escapes:
        return read_both(words, lows, low, more, tail * 64, n, place, out_indices, out_data) < width
    return read_lows(words, lows, low, n, place, out_indices) < width


@njit(cache=True, nogil=True)
def read(words, starts, indptr, width, out_indices, out_data):
    """Read rows that lie end to end in ``words``, behind which one more word is free; -1 or the first damaged row."""
    for row in range(len(starts) - 1):
        at, end, n = starts[row], starts[row + 1], indptr[row + 1] - indptr[row]
        if at < 0 or end < at or end >= len(words) or n < 0 or indptr[row] < 0 or indptr[row + 1] > len(out_indices):
            return row
        if (n == 0) != (end == at):
            return row
        if n and not read_row(words, at, end, n, width, indptr[row], out_indices, out_data):
            return row
    return -1
