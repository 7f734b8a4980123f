"""Windows of sequence with changes put in, and the haplotypes of a person.

A window keeps its length, and the base at its anchor (the transcription start) keeps its place: what an insertion adds
on one side of the anchor pushes bases out at that side's far end, what a deletion takes is filled up there with more of
the genome. Changes that come in by this are applied too. Windows are of the forward strand; turn them afterwards.

An insertion at the anchor goes before it. A change that replaces the anchor by bases keeps the place (offset ``k`` of
the reference allele stays offset ``k`` of the alternate one). A change that leaves no base in the anchor's place
deletes it: that is an error, or with ``join`` the first base behind the change takes its place.

Genotypes become weighted haplotypes. Phased ones give two of weight 1/2. Where the phase of some heterozygous changes
is unknown, every way of sharing them out counts equally, which is the mean over all phases; beyond 6 changes (or
blocks of one phase set) the ways are too many, and 64 of them are drawn.

Leaves out which changes can be scored (``variants``) and what a window means to a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

import numpy as np

from syncyte.errors import GenomeError
from syncyte.genome.sequence import to_codes, to_text
from syncyte.genome.variants import ABSENT, Variants

Change = tuple[int, str, str]
EXACT = 6  # blocks of unknown phase whose ways are all listed
DRAWN = 64


class Bases(Protocol):
    """What gives bases by place: a ``Genome``."""

    def fetch(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Codes of a place."""
        ...


class AnchorDeleted(GenomeError):
    """A change takes away the base that a window is anchored at."""


def anchor_deleted(changes: Sequence[Change], anchor: int) -> bool:
    """Whether a change leaves no base in the place of the anchor."""
    return any(start <= anchor < start + len(ref) and anchor - start >= len(alt) for start, ref, alt in changes)


def alternate(
    genome: Bases, chrom: str, start: int, end: int, anchor: int, changes: Sequence[Change], *, join: bool = False
) -> np.ndarray:
    """A window in which changes are put in (how: see the module).

    Parameters
    ----------
    genome
        Opened genome.
    chrom, start, end
        The window, 0-based half-open.
    anchor
        Position inside the window that keeps its place.
    changes
        ``(start, ref, alt)``, in any order, also of places outside the window.
    join
        Go on where the anchor is deleted: the base behind the deletion takes its place.

    Returns
    -------
    numpy.ndarray
        uint8 ``(end - start,)``, forward strand.

    Raises
    ------
    AnchorDeleted
        If a change deletes the anchor, unless ``join``.
    GenomeError
        If two changes overlap, a reference allele is not what the genome has, or the anchor is outside.
    """
    if not start <= anchor < end:
        raise GenomeError(f"The anchor {anchor} lies outside its window {chrom}:{start}-{end}. Give one inside.")
    ordered = sorted(changes)
    clash = overlapping(ordered)
    if clash:
        first, second = clash[0]
        raise GenomeError(
            f"Two changes of one haplotype overlap: {_told(chrom, ordered[first])} and "
            f"{_told(chrom, ordered[second])}. Apply one of them."
        )
    if not join and anchor_deleted(ordered, anchor):
        raise AnchorDeleted(
            f"A change deletes the anchor {chrom}:{anchor}. Score the window as one without its start, or join the "
            "bases around it (join=True)."
        )
    left, right, low, high = _sides(genome, chrom, anchor, ordered)
    before = [change for change in ordered if change[0] + len(change[1]) <= low]
    after = [change for change in ordered if change[0] >= high and change[0] + len(change[1]) > low]
    head = _leftwards(genome, chrom, low, left, before, anchor - start)
    tail = _rightwards(genome, chrom, high, right, after, end - anchor)
    return np.concatenate([head, tail])


def _sides(
    genome: Bases, chrom: str, anchor: int, changes: Sequence[Change]
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Bases that a change over the anchor puts before it and from it on, and where the genome goes on at both sides."""
    for change in changes:
        start, ref, alt = change
        if start <= anchor < start + len(ref):
            _check(genome, chrom, change)
            codes, place = to_codes(alt), min(anchor - start, len(alt))
            return codes[:place], codes[place:], start, start + len(ref)
    nothing = np.zeros(0, dtype=np.uint8)
    return nothing, nothing, anchor, anchor


def _leftwards(
    genome: Bases, chrom: str, at: int, known: np.ndarray, changes: Sequence[Change], length: int
) -> np.ndarray:
    """The last ``length`` bases before ``at``, with the known ones at the right end."""
    pieces, count = [known], len(known)
    for change in reversed(changes):
        start, ref, alt = change
        gap = at - (start + len(ref))
        if count + gap >= length:
            break
        _check(genome, chrom, change)
        pieces += [genome.fetch(chrom, start + len(ref), at), to_codes(alt)]
        count, at = count + gap + len(alt), start
    if count < length:
        pieces.append(genome.fetch(chrom, at - (length - count), at))
    codes = np.concatenate(pieces[::-1])
    return codes[len(codes) - length :]


def _rightwards(
    genome: Bases, chrom: str, at: int, known: np.ndarray, changes: Sequence[Change], length: int
) -> np.ndarray:
    """The first ``length`` bases from ``at`` on, with the known ones at the left end."""
    pieces, count = [known], len(known)
    for change in changes:
        start, ref, alt = change
        if count + start - at >= length:
            break
        _check(genome, chrom, change)
        pieces += [genome.fetch(chrom, at, start), to_codes(alt)]
        count, at = count + start - at + len(alt), start + len(ref)
    if count < length:
        pieces.append(genome.fetch(chrom, at, at + length - count))
    return np.concatenate(pieces)[:length]


def _check(genome: Bases, chrom: str, change: Change) -> None:
    start, ref, _ = change
    found = to_text(genome.fetch(chrom, start, start + len(ref)))
    if found != ref:
        raise GenomeError(
            f"{_told(chrom, change)} does not fit the genome, which has {found[:20]} there. Use the genome that the "
            "variants were called on."
        )


def _told(chrom: str, change: Change) -> str:
    start, ref, alt = change
    return f"{chrom}:{start}:{ref[:20] or '-'}>{alt[:20] or '-'}"


def overlapping(changes: Sequence[Change]) -> list[tuple[int, int]]:
    """Pairs of numbers of changes that cannot both be made, each with an earlier one by place.

    Changes side by side are fine; two insertions at one place, and one inside a replaced stretch, are not.
    """
    order = sorted(range(len(changes)), key=lambda row: (changes[row][0], len(changes[row][1]), row))
    clash, reach, last, inserted = [], -1, -1, (-1, -1)
    for row in order:
        start, ref, _ = changes[row]
        if start < reach:
            clash.append((last, row))
            continue
        if not ref:
            if inserted[0] == start:
                clash.append((inserted[1], row))
                continue
            inserted = (start, row)
        if start + len(ref) > reach:
            reach, last = start + len(ref), row
    return clash


@dataclass(frozen=True)
class Haplotypes:
    """The haplotypes of one person at some variants, for scores that are averaged with weights.

    Attributes
    ----------
    changes
        Changes of each haplotype.
    weights
        float64, of each haplotype; they sum to 1.
    phased
        False where the phase of changes had to be averaged over.
    how
        The same in words.
    left_out
        Reason by row of ``Variants``, for rows that the person carries and that are in no (or not in every) haplotype.
    """

    changes: tuple[tuple[Change, ...], ...]
    weights: np.ndarray
    phased: bool
    how: str
    left_out: dict[int, str] = field(default_factory=dict)


def haplotypes(variants: Variants, rows: Sequence[int] | np.ndarray, sample: str, seed: int = 0) -> Haplotypes:
    """Haplotypes of a sample at some rows, all of one chromosome.

    Where two changes of a haplotype overlap, the one that begins first stays and the other is left out, with a reason.

    Parameters
    ----------
    variants
        With genotypes.
    rows
        Numbers of rows, such as those near one window; refused ones are left out with their reason.
    sample
        Name of the person.
    seed
        Of the drawn ways, where there are more than ``2 ** EXACT``.
    """
    if variants.genotypes is None or variants.phased is None:
        raise GenomeError("The variants have no genotypes, so nobody's haplotypes. Read a VCF with samples.")
    column = variants.sample(sample)
    calls, ordered = variants.genotypes[:, column], variants.phased[:, column]
    sets = np.zeros(len(variants), np.int64) if variants.phase_set is None else variants.phase_set[:, column]
    left_out: dict[int, str] = {}
    both: list[int] = []
    blocks: dict[tuple[str, int], list[tuple[int, int]]] = {}
    single = True
    for row in map(int, rows):
        call = calls[row]
        if not (call == 1).any():
            continue
        if variants.table["status"].iat[row] != "ok":
            left_out[row] = str(variants.table["reason"].iat[row])
            continue
        single &= bool(call[1] == ABSENT)
        if call[0] == 1 and call[1] in (1, ABSENT):
            both.append(row)
        else:
            own = ("set", int(sets[row])) if ordered[row] else ("alone", row)
            blocks.setdefault(own, []).append((row, 0 if call[0] == 1 else 1))
    listed = list(blocks.values())
    ways, how = _ways(len(listed), seed)
    if single and both and not listed:
        ways, how = ways[:1], "one copy of the chromosome"
    found = [both + [row for block, way in zip(listed, one) for row, copy in block if copy == way] for one in ways]
    changes = tuple(_kept(variants, sorted(item), left_out) for item in found)
    weights = np.full(len(changes), 1 / len(changes))
    return Haplotypes(changes, weights, len(listed) < 2, how, left_out)


def _ways(blocks: int, seed: int) -> tuple[list[tuple[int, ...]], str]:
    """Which copy of each block a haplotype has, for all haplotypes of equal weight."""
    if blocks == 0:
        return [(), ()], "the same changes on both copies"
    if blocks == 1:
        return [(0,), (1,)], "two haplotypes in phase"
    if blocks <= EXACT:
        return list(product((0, 1), repeat=blocks)), f"phase unknown: mean over the phases of {blocks} changes"
    rng = np.random.default_rng(seed)
    half = rng.integers(0, 2, (DRAWN // 2, blocks))
    drawn = [tuple(map(int, row)) for row in np.concatenate([half, 1 - half])]
    return drawn, f"phase unknown: mean over {DRAWN // 2} drawn phases of {blocks} changes"


def _kept(variants: Variants, rows: list[int], left_out: dict[int, str]) -> tuple[Change, ...]:
    """Changes of a haplotype without those that overlap an earlier one, whose reasons are noted."""
    changes = [variants.change(row) for row in rows]
    dropped = set()
    for first, second in overlapping(changes):
        dropped.add(second)
        name = variants.table["variant"].iat[rows[first]]
        left_out[rows[second]] = f"overlap: {name} changes the same bases of one haplotype"
    return tuple(change for place, change in enumerate(changes) if place not in dropped)
