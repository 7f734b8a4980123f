"""Barcodes: the table the parser fills, lists of cells, and which barcodes are cells where no list is given.

The rule without a list: barcodes with at least ``LEAST`` fragments are binned by the logarithm of their fragments. The
mode of the cells is where the barcodes of a bin hold most fragments together; the threshold is the emptiest place below
it (the upper one of equals), down to a thousandth of the mode. A file of cells only keeps all of them.

Leaves out: doublets, and tests of single barcodes against the background.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from syncyte.data.fragments.parse import COLUMNS, PAD, Barcodes, add_barcodes
from syncyte.errors import DataError
from syncyte.genome.tables import opened

LEAST = 10  # fragments below which a barcode is never a cell
BIN = 0.05  # width of a bin, in powers of ten
_SUFFIX = re.compile(r"(.+)-([1-9]\d{0,2})")


def empty_table(slots: int = 1 << 18) -> Barcodes:
    """Table without barcodes; it is grown when a quarter of its slots is taken."""
    most = slots // 4
    return Barcodes(
        np.zeros(2 * slots, dtype=np.uint64),
        np.zeros(most * 24 + PAD, dtype=np.uint8),
        np.zeros(most + 1, dtype=np.int64),
        np.zeros(2, dtype=np.int64),
        np.zeros((most, len(COLUMNS)), dtype=np.int64),
    )


def grown(table: Barcodes) -> Barcodes:
    """Table with twice the room and the same barcodes under the same ids."""
    count = int(table.used[0])
    larger = empty_table(len(table.slots))
    text = np.zeros(max(len(larger.text), 2 * len(table.text)), dtype=np.uint8)
    larger = larger._replace(text=text)
    spelled = [table.text[table.offsets[i] : table.offsets[i + 1]].tobytes() for i in range(count)]
    _put(larger, spelled)
    larger.stats[:count] = table.stats[:count]
    return larger


def _put(table: Barcodes, spelled: Sequence[bytes]) -> None:
    text = np.frombuffer(b"\n".join(spelled) + b"\n" * PAD, dtype=np.uint8)
    if add_barcodes(text, 0, len(text) - PAD + 1, -1, table) >= 0:
        raise DataError("The table of barcodes is too small for its own content.")


def spellings(table: Barcodes, ids: NDArray[np.int64]) -> list[str]:
    """Barcodes as text."""
    text, low, high = table.text.tobytes(), table.offsets[ids], table.offsets[ids + 1]
    return [text[start:stop].decode("utf-8", errors="replace") for start, stop in zip(low.tolist(), high.tolist())]


def listed_table(listed: Sequence[str]) -> Barcodes:
    """Table of exactly these barcodes, whose ids are their places in the list."""
    slots = 1 << max(10, int(len(listed) * 4 + 4).bit_length())
    table = empty_table(slots)
    spelled = [name.encode() for name in listed]
    table = table._replace(text=np.zeros(sum(map(len, spelled)) + PAD, dtype=np.uint8))
    _put(table, spelled)
    return table


def read_list(barcodes: str | Path | Sequence[str]) -> list[str]:
    """Barcodes of a list: a sequence, or a file with one at the beginning of each line (plain or gzip; csv, tsv).

    Raises
    ------
    DataError
        If there are none, or one is listed twice.
    GenomeError
        If the file cannot be read.
    """
    if isinstance(barcodes, str | Path):
        path = Path(barcodes).expanduser()
        with opened(path) as stream:
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
        words = [re.split(r"[\t,]", line, maxsplit=1)[0].strip().strip('"') for line in lines]
        found = [word for word in words if word and not word.startswith("#") and word.lower() not in ("barcode", "")]
        source = str(path)
    else:
        found, source = [str(name) for name in barcodes], "The list of barcodes"
    if not found:
        raise DataError(f"{source} holds no barcodes. Expected one a line.")
    if len(set(found)) < len(found):
        twice = pd.Index(found)
        raise DataError(
            f"{source} lists {int(twice.duplicated().sum()):,} barcodes twice, first {twice[twice.duplicated()][0]!r}. "
            "Keep one line for each."
        )
    return found


def fit_suffix(listed: list[str], seen: Sequence[str]) -> tuple[list[str], int, str]:
    """Make a list and a file agree on the ``-1`` behind barcodes.

    Parameters
    ----------
    listed
        Barcodes of the list.
    seen
        Barcodes of the first fragments.

    Returns
    -------
    tuple
        The list as the file spells it, in the same order; the suffix to take off the file's barcodes (-1 for none); and
        a sentence where something was done.
    """
    mine, theirs = _suffixes(listed), _suffixes(seen)
    if None not in mine and theirs == {None}:
        bare = [match[1] for name in listed if (match := _SUFFIX.fullmatch(name))]
        if len(set(bare)) < len(bare):
            raise DataError(
                f"The list of barcodes has several suffixes ({_said(mine)}), the fragment file has "
                "none, so that a barcode "
                "of the file may mean several cells. Give the list of this file's sample alone."
            )
        return bare, -1, f"the suffix {_said(mine)} of the list was taken off: the file has none"
    if mine == {None} and None not in theirs and theirs:
        if len(theirs) > 1:
            raise DataError(
                f"The fragment file has barcodes with several suffixes ({_said(theirs)}), the list has none, so that a "
                "barcode of the list may mean several cells. Give the list with its suffixes."
            )
        suffix = next(iter(theirs)) or ""
        return listed, int(suffix), f"the suffix -{suffix} of the file was taken off: the list has none"
    return listed, -1, ""


def _suffixes(names: Sequence[str]) -> set[str | None]:
    matches = [_SUFFIX.fullmatch(name) for name in names]
    return {match[2] if match else None for match in matches}


def _said(suffixes: set[str | None]) -> str:
    return ", ".join(f"-{suffix}" for suffix in sorted(map(str, suffixes))[:5])


def cell_threshold(fragments: NDArray[np.int64]) -> tuple[int, str]:
    """Least fragments of a cell by the rule of this module, and a sentence that says how it was found.

    Parameters
    ----------
    fragments
        ``(n,)`` of every barcode.
    """
    many = fragments[fragments >= LEAST]
    if len(many) < 100:
        return LEAST, f"fewer than 100 barcodes have {LEAST} fragments: each of them is taken as a cell"
    place = np.log10(many)
    edges = np.arange(np.log10(LEAST), place.max() + 2 * BIN, BIN)
    density = gaussian_filter1d(np.histogram(place, edges)[0].astype(float), 2.0, mode="nearest")
    held = gaussian_filter1d(np.histogram(place, edges, weights=many)[0].astype(float), 2.0, mode="nearest")
    mode = int(held.argmax())
    low = max(0, mode - round(3 / BIN))
    below = density[low : mode + 1]
    valley = low + len(below) - 1 - int(below[::-1].argmin())
    threshold = int(np.ceil(10 ** (edges[valley] + BIN / 2)))
    depth = density[valley] / max(density[mode], 1e-9)
    text = (
        f"barcodes with at least {threshold:,} fragments are cells: the gap below the mode at {10 ** edges[mode]:,.0f}"
    )
    if depth > 0.5:
        text += (
            "; cells and empty droplets are not clearly apart (the gap is half as full as the mode or "
            "more), so look at "
            "the plot of ranks and set min_fragments (--min-fragments) or a list (--barcodes)"
        )
    return threshold, text
