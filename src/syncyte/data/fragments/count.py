"""Fragments to counts: one pass over the file, then the rows of the cells.

Three rules (``RULES``). A fragment is the half-open interval of a line; its ends are the first base and the last one,
where the transposase cut.

``ends`` (default)
    A fragment counts once for each region that holds one of its ends, or both. (SnapATAC2: ``paired-insertion``)
``insertions``
    Each end counts for the region that holds it. (``insertion``)
``overlap``
    A fragment counts once for each region it shares a base with. (``fragment``)

One line is one fragment. Files of 10x are free of duplicates; column 5 (read pairs) never enters the counts.

Leaves out: the file of counts (``write``), and files of alignments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syncyte.data.fragments import parse as loop
from syncyte.data.fragments.barcodes import empty_table, fit_suffix, grown, listed_table, read_list, spellings
from syncyte.data.fragments.read import Block, blocks, check_file
from syncyte.data.fragments.runs import PAIRS, Runs
from syncyte.data.fragments.target import Target
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.genome.coordinates import chromosome_name

RULES = ("ends", "insertions", "overlap")
SAMPLE = 2000  # lines whose barcodes are compared with a list

Advance = Callable[[int, int, int], None]  # bytes read, bytes in all, fragments read


@dataclass(frozen=True)
class Counting:
    """How fragments are counted.

    Attributes
    ----------
    rule
        One of ``RULES``.
    shift
        bp added to the start and to the end of every fragment; ``(4, -5)`` for files that were not corrected for the
        footprint of Tn5. Files of 10x are corrected.
    barcodes
        The list of cells, or None to take all.
    """

    rule: str = "ends"
    shift: tuple[int, int] = (0, 0)
    barcodes: Sequence[str] | None = None


@dataclass
class Scan:
    """A file after its pass: barcodes with their numbers, pairs in runs, and what was met."""

    path: Path
    target: Target
    table: loop.Barcodes
    rules: loop.Rules
    runs: Runs
    tally: NDArray[np.int64] = field(default_factory=lambda: np.zeros(5, dtype=np.int64))
    chroms: list[str] = field(default_factory=lambda: ["\n"])  # the first stands for none met yet
    lines: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def barcodes(self) -> int:
        """Barcodes known."""
        return int(self.table.used[0])

    def names(self) -> loop.Chroms:
        """Chromosome names met, as the parser takes them."""
        spelled = [name.encode() for name in self.chroms]
        place = {name: code for code, name in enumerate(self.target.chroms)}
        code = [place.get(chromosome_name(name), place.get(name, -1)) for name in self.chroms]
        offsets = np.append(0, np.cumsum([len(name) for name in spelled])).astype(np.int64)
        text = np.frombuffer(b"".join(spelled) + bytes(loop.PAD), dtype=np.uint8)
        return loop.Chroms(text, offsets, np.array(code, dtype=np.int64), self.target.sizes)


def scan_fragments(path: Path, target: Target, how: Counting, folder: Path | None, advance: Advance | None) -> Scan:
    """Read a fragment file once.

    Parameters
    ----------
    path
        ``.tsv``, ``.tsv.gz`` (gzip or bgzip, no index needed); in any order of lines.
    target
        Regions to count on.
    how
        Rule, shift and list of cells.
    folder
        Where runs are kept meanwhile, about 5 bytes a count; None for the system's place.
    advance
        Called about every 4 MB of text.

    Raises
    ------
    DataError
        If the file is damaged, a line malformed, or no barcode of the list is in it.
    """
    if how.rule not in RULES:
        raise ConfigError(unknown("counting rule", how.rule, RULES))
    size = check_file(path)
    room = max(PAIRS, len(target.table) + 2) if how.rule == "overlap" else PAIRS
    pairs = np.empty(room, dtype=np.uint32), np.empty(room, dtype=np.int32)
    scan: Scan | None = None
    filled = known = 0
    runs = Runs(folder)
    try:
        for block in blocks(path):
            if scan is None:
                scan = _begin(path, target, how, runs, block)
            filled, known = _block(scan, block, pairs, filled, known)
            if advance is not None:
                advance(block.read, size, int(scan.tally[loop.READ]))
        if scan is None or not scan.tally[loop.READ]:
            raise DataError(f"{path} holds no fragments (only comments or nothing at all). Copy or make it again.")
        runs.add(pairs[0][:filled], pairs[1][:filled], scan.barcodes)
    except BaseException:
        runs.close()
        raise
    return scan


def _begin(path: Path, target: Target, how: Counting, runs: Runs, block: Block) -> Scan:
    """State before the first line; a list of cells is fitted to the barcodes of the first lines."""
    table, strip, notes = empty_table(), -1, []
    if how.barcodes is not None:
        text = block.text[: min(block.stop, 1 << 18)].tobytes().decode("utf-8", errors="replace")
        rows = [line.split("\t") for line in text.split("\n")[:SAMPLE] if not line.startswith("#")]
        listed, strip, note = fit_suffix(list(how.barcodes), [row[3].strip() for row in rows[:-1] if len(row) > 3])
        table, notes = listed_table(listed), [note] if note else []
    mito = target.chroms.index("chrM") if "chrM" in target.chroms else -1
    rules = loop.Rules(RULES.index(how.rule), *how.shift, strip, int(how.barcodes is not None), mito)
    return Scan(path, target, table, rules, runs, notes=notes)


def _block(scan: Scan, block: Block, pairs: tuple[NDArray, NDArray], filled: int, known: int) -> tuple[int, int]:
    """Parse a block, acting on whatever the loop comes back with."""
    target, at, names = scan.target, 0, scan.names()
    while True:
        why, at, lines, known, filled = loop.parse(
            block.text,
            at,
            block.stop,
            names,
            known,
            scan.table,
            scan.rules,
            target.regions,
            target.tss,
            target.weights,
            target.peaks,
            scan.tally,
            *pairs,
            filled,
        )
        scan.lines += lines
        if why == loop.DONE:
            return filled, known
        if why == loop.FULL:
            scan.runs.add(pairs[0][:filled], pairs[1][:filled], scan.barcodes)
            filled = 0
        elif why == loop.GROW:
            scan.table = grown(scan.table)
        elif why == loop.CHROM:
            _add_chrom(scan, _line(block, at)[0])
            names = scan.names()
        else:
            raise DataError(_complaint(scan, why, _line(block, at)))


def _line(block: Block, at: int) -> list[str]:
    stop = at + int(np.argmax(block.text[at:] == 10))
    return block.text[at:stop].tobytes().decode("utf-8", errors="replace").rstrip("\r").split("\t")


def _add_chrom(scan: Scan, name: str) -> None:
    """Take in a chromosome name; another spelling of a known one is said, two spellings in one file refused."""
    spelled = chromosome_name(name)
    met = [other for other in scan.chroms if chromosome_name(other) == spelled]
    if met and spelled in scan.target.chroms:
        raise DataError(
            f"{scan.path} line {scan.lines + 1} spells a chromosome {name!r} that is {met[0]!r} before; both would be "
            f"{spelled}. Give a file with one spelling."
        )
    if len(name.encode()) >= loop.PAD // 2:  # the loop compares that far behind a text
        raise DataError(
            f"{scan.path} line {scan.lines + 1} begins with {name[:40]!r}..., too long for a chromosome name."
        )
    if len(scan.chroms) > 100_000:
        raise DataError(
            f"{scan.path} has more than 100,000 chromosome names, the last {name[:40]!r}: no fragment file."
        )
    scan.chroms.append(name)


def _complaint(scan: Scan, why: int, fields: list[str]) -> str:
    """Say what is wrong with a line."""
    place = f"{scan.path} line {scan.lines + 1}"
    shown = "\t".join(fields)[:80]
    if why == loop.REVERSED:
        return f"{place} is empty or reversed: {shown!r}. Fragments are 0-based half-open, start < end."
    if why == loop.SUFFIX:
        return (
            f"{place} has the barcode {fields[3]!r}, the lines before end in -{scan.rules.strip}, and the list has no "
            "suffix, so that a barcode of the list may mean several cells. Give the list with its suffixes."
        )
    return (
        f"{place} is malformed: {shown!r}. Expected chromosome, start, end, barcode and, where there "
        "is a fifth column, "
        "read pairs; tab-separated, whole numbers."
    )


def listed_barcodes(barcodes: Any) -> list[str] | None:
    """Barcodes of a list or file, None for none."""
    return None if barcodes is None else read_list(barcodes)


def spelled(scan: Scan, ids: NDArray[np.int64], listed: Sequence[str] | None) -> list[str]:
    """Names of barcodes: as the list spells them where there is one."""
    return spellings(scan.table, ids) if listed is None else [listed[place] for place in ids.tolist()]
