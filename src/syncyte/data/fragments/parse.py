"""Fragments from bytes: the compiled loop that reads lines, knows barcodes, and finds regions.

One pass over each line, no object made. A barcode is a key of 64 bits: up to 24 letters A, C, G, T packed two bits each
with the number after ``-``; anything else by a hash of its bytes, which are compared. The loop stops at whatever
needs a decision (a new chromosome, a full buffer, a malformed line) and says where; the caller acts and calls again.

A line is ``chromosome, start, end, barcode [, read pairs [, ...]]``, tab-separated, 0-based half-open. Lines that are
empty or begin with ``#`` are passed over.

Leaves out: reading and inflating files (``read``), and what the numbers become (``runs``, ``quality``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from syncyte.genome.intervals import compiled, first_after, inlined

PAD = 256  # bytes that may be read behind a text
DONE, FULL, GROW, CHROM, MALFORMED, REVERSED, SUFFIX = range(7)  # why the loop came back
ENDS, INSERTIONS, OVERLAP = range(3)  # counting rules, see ``count``
READ, UNKNOWN, BEYOND, UNLISTED, WITHIN = range(5)  # numbers of the whole file
UNSAID = -(1 << 40)  # reads of a line that does not say them; makes the sum of its barcode negative
COLUMNS = ("fragments", "reads", "free", "mono", "mitochondrial", "centre", "flank", "in_peaks")  # numbers of a barcode
FREE, MONO = 147, 294  # lengths in bp below which a fragment is nucleosome-free, mono-nucleosomal

_BASE = np.full(256, 255, dtype=np.uint8)
_BASE[[65, 67, 71, 84]] = range(4)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_TOP = np.uint64(1 << 63)


class Barcodes(NamedTuple):
    """Hash table of barcodes, by open addressing; ids are given in the order of arrival.

    ``slots (2t,)`` uint64: key and id + 1, in turn; ``text`` uint8 and ``offsets (n + 1,)`` int64: spelling of each
    id; ``used (2,)`` int64: barcodes, bytes of text; ``stats (n, 8)`` int64: ``COLUMNS`` of each barcode.
    """

    slots: NDArray[np.uint64]
    text: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    used: NDArray[np.int64]
    stats: NDArray[np.int64]


class Chroms(NamedTuple):
    """Chromosome names met in the file: ``text``, ``offsets``, their ``code`` (-1 unknown); ``size`` by code."""

    text: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    code: NDArray[np.int64]
    size: NDArray[np.int64]


class Rules(NamedTuple):
    """What is counted: the rule, shifts of start and end (bp), suffix to take off (-1 none), fixed barcodes, chrM."""

    mode: int
    shift_start: int
    shift_end: int
    strip: int
    listed: int
    mito: int


@inlined
def _number(text, at):
    """Whole number at a place, and the place after it; the same place where there is none of up to 9 digits."""
    value, here = np.int64(0), at
    digit = np.int64(text[here]) - 48
    while 0 <= digit <= 9:
        value = value * 10 + digit
        here += 1
        digit = np.int64(text[here]) - 48
    return (value, here) if here - at < 10 else (np.int64(0), at)


@inlined
def _chrom(text, at, letters, offsets, known):
    """Number of the chromosome name that begins here, and the place after its tab; -1 for a new name, -2 for no tab."""
    low = offsets[known]
    size = offsets[known + 1] - low
    same = text[at + size] == 9
    for place in range(size):
        same &= text[at + place] == letters[low + place]
    if same:
        return known, at + size + 1
    stop = at
    while text[stop] != 9 and text[stop] != 10:
        stop += 1
    if text[stop] == 10 or stop == at:
        return np.int64(-2), at
    for known in range(len(offsets) - 1):
        low = offsets[known]
        if offsets[known + 1] - low != stop - at:
            continue
        same = True
        for place in range(stop - at):
            same &= text[at + place] == letters[low + place]
        if same:
            return known, stop + 1
    return np.int64(-1), stop


@inlined
def _barcode(text, at, strip):
    """Key of the barcode here, the place after it, its length as kept (-1: another suffix than the one expected)."""
    key, here = np.uint64(0), at
    base = _BASE[text[here]]
    while base < 4:
        key = (key << np.uint64(2)) | np.uint64(base)
        here += 1
        base = _BASE[text[here]]
    bases, number = here - at, np.int64(0)
    plain = 0 < bases <= 24
    if text[here] == 45 and plain and text[here + 1] != 48:  # "-", no leading zero
        number, stop = _number(text, here + 1)
        plain = 0 < number < 1000
        here = stop
    if plain and (text[here] == 9 or text[here] == 10 or text[here] == 13):
        size = here - at
        if strip >= 0 and number:
            size = bases if number == strip else np.int64(-1)
            number = np.int64(0)
        return (key << np.uint64(15)) | np.uint64((bases << 10) | number), here, size
    here = at
    key = np.uint64(14695981039346656037)
    dash = np.int64(-1)
    while text[here] != 9 and text[here] != 10 and text[here] != 13:
        if text[here] == 45:
            dash = here
        here += 1
    stop = here
    if strip >= 0 and dash > at:
        number, after = _number(text, dash + 1)
        if after == here and after > dash + 1:
            if number != strip:
                return key, here, np.int64(-1)
            stop = dash
    for place in range(at, stop):
        key = (key ^ np.uint64(text[place])) * np.uint64(1099511628211)
    return key | _TOP, here, stop - at


@inlined
def _find(text, at, size, key, slots, letters, offsets, used, listed):
    """Id of a barcode, new ones added unless the list is fixed (-1); -2 where the table must grow first."""
    mask = np.int64(len(slots) // 2 - 1)
    slot = np.int64((key * _MIX) >> np.uint64(32)) & mask
    while True:
        found = np.int64(slots[2 * slot + 1]) - 1
        if found < 0:
            break
        if slots[2 * slot] == key:
            same = True
            if key & _TOP:
                low = offsets[found]
                same = offsets[found + 1] - low == size
                if same:
                    for place in range(size):
                        same &= letters[low + place] == text[at + place]
            if same:
                return found
        slot = (slot + 1) & mask
    if listed:
        return np.int64(-1)
    count, end = used[0], used[1]
    if 4 * count > mask or count + 1 >= len(offsets) or end + size > len(letters):
        return np.int64(-2)
    for place in range(size):
        letters[end + place] = text[at + place]
    offsets[count + 1] = end + size
    slots[2 * slot], slots[2 * slot + 1] = key, np.uint64(count + 1)
    used[0], used[1] = count + 1, end + size
    return count


@compiled
def add_barcodes(text, at, stop, strip, table):
    """Put barcodes, one a line, into the table; the place where it must grow, or -1 when done."""
    while at < stop:
        key, here, size = _barcode(text, at, strip)
        if size > 0 and _find(text, at, size, key, table.slots, table.text, table.offsets, table.used, 0) == -2:
            return at
        at = here + 1
    return np.int64(-1)


@inlined
def _emit(mode, stop, starts, ends, origin, grid, chrom, start, last, cell, rows, columns, filled):
    """Write down the regions that a fragment counts in; how many pairs there are now, -1 where they do not fit."""
    first = first_after(stop, ends, origin, grid, chrom, start)
    if mode == OVERLAP:
        while first < stop and starts[first] <= last:
            if filled == len(rows):
                return np.int64(-1)
            rows[filled], columns[filled] = cell, first
            filled, first = filled + 1, first + 1
        return filled
    second = first_after(stop, ends, origin, grid, chrom, last)
    rows[filled], columns[filled] = cell, first  # written in any case, kept where it counts: branches cost more
    held = (first < stop) & (starts[first] <= start)
    filled += held
    rows[filled], columns[filled] = cell, second
    return filled + (
        (second < stop) & (starts[second] <= last) & ((second != first) | (not held) | (mode == INSERTIONS))
    )


@inlined
def _measure(stats, cell, start, last, chrom, tss, weights, peaks):
    """Add a fragment to the numbers of its barcode."""
    stats[cell, 0] += 1
    width = last + 1 - start
    if width < MONO:
        stats[cell, 2 if width < FREE else 3] += 1
    if len(weights):
        stop = tss.offsets[chrom + 1]
        for place in (start, last):
            row = first_after(stop, tss.ends, tss.origin, tss.grid, chrom, place)
            if row < stop and tss.starts[row] <= place:
                stats[cell, 5] += weights[row, 0]
                stats[cell, 6] += weights[row, 1]
    if len(peaks.ends) > 1:
        stop = peaks.offsets[chrom + 1]
        row = first_after(stop, peaks.ends, peaks.origin, peaks.grid, chrom, start)
        stats[cell, 7] += row < stop and peaks.starts[row] <= last


@inlined
def _fields(text, at, name_text, name_offsets, known, strip):
    """Why a line cannot be used, chromosome, start, end, place, size and key of the barcode, reads, the next line."""
    key = np.uint64(0)
    name, here = _chrom(text, at, name_text, name_offsets, known)
    if name < 0:
        return (CHROM if name == -1 else MALFORMED), known, at, at, at, at, key, at, at
    start, after = _number(text, here)
    fine = after > here and text[after] == 9
    here = after + 1 if fine else here
    end, after = _number(text, here)
    if not fine or after == here or text[after] != 9:
        return MALFORMED, name, at, at, at, at, key, at, at
    begin = after + 1
    key, here, size = _barcode(text, begin, strip)
    if size <= 0:
        return (SUFFIX if size < 0 else MALFORMED), name, start, end, begin, size, key, at, at
    reads = np.int64(UNSAID)
    if text[here] == 9:
        reads, after = _number(text, here + 1)
        if after == here + 1 or (text[after] != 9 and text[after] != 10 and text[after] != 13):
            return MALFORMED, name, start, end, begin, size, key, reads, at
        here = after
    while text[here] != 10:
        here += 1
    return (DONE if start < end else REVERSED), name, start, end, begin, size, key, reads, here + 1


@compiled
def parse(text, at, stop, names, known, table, rules, regions, tss, weights, peaks, tally, rows, columns, filled):
    """Read whole lines from ``at`` to ``stop``.

    Returns
    -------
    tuple
        Why it came back, the place of the line that is next, lines passed, chromosome number, pairs written so far.
    """
    name_text, name_offsets, code, length = names
    slots, letters, offsets, used, stats = table
    mode, shift_start, shift_end, strip, listed, mito = rules
    offset, starts, ends, origin, grid = regions
    why, lines, passed, unknown, beyond, unlisted, within = DONE, 0, 0, 0, 0, 0, 0
    while at < stop:
        if text[at] == 35 or text[at] == 10 or text[at] == 13:  # comment, empty line
            while text[at] != 10:
                at += 1
            at, lines, passed = at + 1, lines + 1, passed + 1
            continue
        if filled + 2 > len(rows):
            why = FULL
            break
        why, known, start, end, begin, size, key, reads, after = _fields(
            text, at, name_text, name_offsets, known, strip
        )
        if why != DONE:
            break
        chrom = code[known]
        if chrom < 0 or end > length[chrom]:
            unknown, beyond = unknown + (chrom < 0), beyond + (chrom >= 0)
            at, lines = after, lines + 1
            continue
        cell = _find(text, begin, size, key, slots, letters, offsets, used, listed)
        if cell < 0:
            if cell == -2:
                why = GROW
                break
            unlisted, at, lines = unlisted + 1, after, lines + 1
            continue
        start, last = max(start + shift_start, 0), end + shift_end - 1
        last = max(last, start)  # of a fragment shorter than its shifts
        stop_r = offset[chrom + 1]
        written = _emit(mode, stop_r, starts, ends, origin, grid, chrom, start, last, cell, rows, columns, filled)
        if written < 0:
            why = FULL
            break
        within, filled = within + (written > filled), written
        stats[cell, 1] += reads
        if chrom == mito:
            stats[cell, 4] += 1
        else:
            _measure(stats, cell, start, last, chrom, tss, weights, peaks)
        at, lines = after, lines + 1
    tally[READ] += lines - passed
    tally[UNKNOWN] += unknown
    tally[BEYOND] += beyond
    tally[UNLISTED] += unlisted
    tally[WITHIN] += within
    return why, at, lines, known, filled
