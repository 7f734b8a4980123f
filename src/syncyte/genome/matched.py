"""Random variants that match a given one, for nulls: same kind and length, elsewhere in the windows of given genes.

A drawn variant lies at a similar distance from its own transcription start (same bin and side), has a similar GC share
of the 51 bases around it, and touches a CpG where the given one does. Where too few places fit, the match is relaxed
step by step (``LEVELS``), and each row says by how much.

What is put in: a single or several exchanged bases keep which of them are transitions; deletions take the bases there;
inserted and replacing bases are the given ones in another order, in the gene's direction; duplications double the bases
there; shuffles shuffle what is there, and lost motifs the bases at like places.

Leaves out scores and p-values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.normalise import trim
from syncyte.genome.sequence import UNKNOWN, dinucleotide_shuffle, reverse_complement, to_codes, to_text
from syncyte.genome.tss import fetch_windows, windows
from syncyte.genome.variants import Variants, variants_of

TRIES = 20  # orders of bases, until one differs
FLANK = 25  # bases at both sides whose GC share is matched
EDGES = np.array([0, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 1_000_000])
# name: bins of distance that may differ (None: any), either side, difference of GC shares, CpG state kept
LEVELS = (
    ("exact", 0, False, 0.05, True),
    ("GC within 0.10", 0, False, 0.10, True),
    ("GC within 0.10, either side of the start", 0, True, 0.10, True),
    ("GC within 0.10, next bins of distance, either side", 1, True, 0.10, True),
    ("GC within 0.20, next bins of distance, either side", 1, True, 0.20, True),
    ("GC within 0.20, any distance", None, True, 0.20, True),
    ("any GC, any distance", None, True, 1.01, True),
    ("any place", None, True, 1.01, False),
)
_UNIT = 200  # steps of a stored GC share
_CELLS = 250_000  # places looked at together
_SHUFFLED = ("shuffle", "random", "motif")


@dataclass(frozen=True, eq=False)
class Background:
    """Windows from which variants are drawn; make one with ``background``.

    Attributes
    ----------
    table
        ``(g, ...)`` starts with ``chrom``, ``tss``, ``strand``, ``start``, ``end``.
    length
        Bases of a window.
    codes
        uint8 ``(g, length + 2 * FLANK)`` in the gene's direction, with the bases at both sides.
    gc, cpg
        ``(g, length)``: GC share around each base in steps of 1/200 (255 where unknown); whether it is in a CpG.
    left_out
        Starts whose chromosome the genome lacks.
    """

    genome: Genome
    table: pd.DataFrame
    length: int
    codes: np.ndarray
    gc: np.ndarray
    cpg: np.ndarray
    left_out: int

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Number of the chromosome, start, end and whether on the reverse strand, of each window."""
        chrom = np.array([list(self.genome.spans).index(name) for name in self.table["chrom"].astype(str)], np.int64)
        start, end = (self.table[key].to_numpy(dtype=np.int64) for key in ("start", "end"))
        return chrom, start, end, (self.table["strand"] == "-").to_numpy()


@dataclass(frozen=True, eq=False)
class Matched:
    """Drawn variants.

    Attributes
    ----------
    variants
        Rows as of a file, all ``ok``; ``record`` counts from 1.
    draws
        One row each: ``variant``, ``window`` (row of ``Background.table``), ``gene_id`` where that has one,
        ``distance`` (of its first base in the gene's direction, negative before the start), ``gc``, ``cpg``, ``level``
        (number in ``LEVELS``).
    relaxed
        How many were drawn at each level, by its name.
    missing
        How many fewer than asked: all places of the windows were used.
    """

    variants: Variants
    draws: pd.DataFrame
    relaxed: dict[str, int]
    missing: int


def background(genome: Genome, table: pd.DataFrame, length: int) -> Background:
    """Windows of starts to draw from.

    Parameters
    ----------
    genome
        Opened genome.
    table
        Starts as ``read_tss`` gives them; those of chromosomes that the genome lacks are left out.
    length
        Bases of a window.
    """
    there = table["chrom"].astype(str).isin(list(genome.spans)).to_numpy()
    kept = windows(table[there].reset_index(drop=True), length)
    if not len(kept):
        raise GenomeError(
            f"None of {len(table):,} transcription starts is on a chromosome of the genome. Check the files."
        )
    wide = length + 2 * FLANK
    # fetch_windows puts the start at wide // 2 = length // 2 + FLANK, so FLANK bases stand at both sides
    codes = fetch_windows(genome, kept, wide)
    gc, cpg = np.empty((len(kept), length), np.uint8), np.empty((len(kept), length), bool)
    step = max(1, _CELLS // wide)
    for at in range(0, len(kept), step):
        part = codes[at : at + step]
        strong, known = _moving((part == 1) | (part == 2)), _moving(part < UNKNOWN)
        share = np.round(strong * np.float32(_UNIT) / np.maximum(known, 1))
        gc[at : at + step] = np.where(known > 0, share, 255)
        pair = (part[:, :-1] == 1) & (part[:, 1:] == 2)
        cpg[at : at + step] = pair[:, FLANK : FLANK + length] | pair[:, FLANK - 1 : FLANK - 1 + length]
    return Background(genome, kept, length, codes, gc, cpg, int((~there).sum()))


def matched_variants(
    source: Background, variants: Variants, row: int, tss: int, strand: str, n: int = 200, seed: int = 0
) -> Matched:
    """Draw random variants that match one (how: see the module); every place is drawn once at most.

    Parameters
    ----------
    source
        Windows to draw from.
    variants, row
        The given variant; it must be ``ok``.
    tss, strand
        The transcription start it is seen from.
    n
        How many.
    seed
        Together with the variant and the start it decides what is drawn.

    Returns
    -------
    Matched
        Fewer than ``n`` where the windows have too few places.
    """
    start, ref, alt = variants.change(row)
    chrom, kind = (str(variants.table[key].iloc[row]) for key in ("chrom", "kind"))
    minus, size = strand == "-", len(alt) if kind == "duplication" else len(ref)
    if size > source.length:
        raise GenomeError(
            f"The variant changes {size:,} bases, the windows have {source.length:,}. Use longer windows."
        )
    told = f"{seed}|{chrom}:{start}:{ref}>{alt}|{kind}|{tss}{strand}".encode()
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(told, digest_size=16).digest(), "little"))
    distance = tss - (start + size - 1) if minus else start - tss
    gc, cpg = around(source.genome, chrom, start, size, minus)
    window, place, level = _draw(source, (size, distance, gc, cpg), (chrom, start), n, rng)
    old, new = to_codes(ref), to_codes(alt)
    if minus:
        old, new = reverse_complement(old), reverse_complement(new)
    rows, kept = _rows(source, window, place, size, kind, (old, new), rng)
    drawn = variants_of(rows)
    window, place, level = window[kept], place[kept], level[kept]
    draws = pd.DataFrame({"variant": drawn.table["variant"], "window": window, "distance": place - source.length // 2})
    draws["gc"] = source.gc[window, _centre(source, place, size)] / _UNIT
    draws["cpg"] = _touches(source, window, place, size)
    draws["level"] = level
    if "gene_id" in source.table:
        draws.insert(2, "gene_id", source.table["gene_id"].to_numpy()[window])
    counts = {LEVELS[item][0]: int(count) for item, count in zip(*np.unique(level, return_counts=True))}
    return Matched(drawn, draws, counts, n - len(rows))


def _moving(values: np.ndarray) -> np.ndarray:
    """Sums over 2 * FLANK + 1 columns: ``(g, length + 2 * FLANK)`` to ``(g, length)``."""
    total = np.concatenate([np.zeros((len(values), 1), np.int32), np.cumsum(values, axis=1, dtype=np.int32)], axis=1)
    return total[:, 2 * FLANK + 1 :] - total[:, : -2 * FLANK - 1]


def _centre(source: Background, place: np.ndarray, size: int) -> np.ndarray:
    return np.minimum(place + max(size - 1, 0) // 2, source.length - 1)


def _touches(source: Background, window: np.ndarray | int, place: np.ndarray | int, size: int) -> np.ndarray:
    """Whether changed bases are in a CpG, or an insertion goes into one."""
    if size:
        return np.any([source.cpg[window, np.add(place, by)] for by in range(size)], axis=0)
    before, behind = (source.codes[window, np.add(place, FLANK - by)] for by in (1, 0))
    return (before == 1) & (behind == 2)


def around(genome: Genome, chrom: str, start: int, size: int, minus: bool = False) -> tuple[float, bool]:
    """GC share around a change and whether it touches a CpG, as ``background`` has them of its windows."""
    reach = FLANK + size + 1
    codes = genome.fetch(chrom, start - reach, start + size + reach)
    if minus:
        codes = reverse_complement(codes)
    centre = reach + max(size - 1, 0) // 2
    near = codes[centre - FLANK : centre + FLANK + 1]
    strong, known = ((near == 1) | (near == 2)).sum(), (near < UNKNOWN).sum()
    pair = (codes[:-1] == 1) & (codes[1:] == 2)
    cpg = pair[reach - 1 : reach + size].any()  # for an insertion the one pair that it goes into
    return float(strong / max(known, 1)), bool(cpg)


def _bin(distance: np.ndarray) -> np.ndarray:
    """Number of the distance's bin, from 1."""
    return np.searchsorted(EDGES, np.abs(distance), side="right")


def _draw(
    source: Background, like: tuple[int, int, float, bool], own: tuple[str, int], n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows, places in them and levels of up to ``n`` different places."""
    size, distance, gc, cpg = like
    columns = np.arange(source.length - size + 1)
    apart = columns - source.length // 2
    near, side = np.abs(_bin(apart) - _bin(np.array(distance))), (apart < 0) == (distance < 0)
    order = rng.permutation(len(source.table))
    chosen: list[np.ndarray] = []
    taken, count = np.zeros(0, dtype=np.int64), 0
    for number, (_, bins, either, gap, same) in enumerate(LEVELS):
        fits = np.ones(len(columns), bool) if bins is None else near <= bins
        fits &= either | side
        window, place = _candidates(source, columns[fits], order, size, (gc, gap, cpg if same else None), 4 * n + 50)
        keys = _keys(source, window, place, size)
        fresh = ~np.isin(keys, taken) & ~_overlaps_own(source, window, place, size, own)
        _, first = np.unique(np.where(fresh, keys, -1), return_index=True)
        first = rng.permutation(first[fresh[first]])[: n - count]
        taken, count = np.concatenate([taken, keys[first]]), count + len(first)
        chosen.append(np.stack([window[first], place[first], np.full(len(first), number)], axis=1))
        if count >= n:
            break
    window, place, level = np.concatenate(chosen).T
    return window, place, level


def _candidates(
    source: Background,
    columns: np.ndarray,
    order: np.ndarray,
    size: int,
    like: tuple[float, float, bool | None],
    want: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Windows and places that fit, from windows in the order given, until there are enough."""
    if not len(columns) or not len(order):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    gc, gap, cpg = like
    first, last = int(columns[0]), int(columns[-1]) + 1
    own = columns - first
    low, high = (gc - gap) * _UNIT - 0.5, (gc + gap) * _UNIT + 0.5
    step = max(1, _CELLS // (last - first + size))
    found, count = [], 0
    for at in range(0, len(order), step):
        rows = order[at : at + step]
        share = source.gc[rows[:, None], _centre(source, columns, size)]
        fits = (share >= low) & (share <= high) & (share < 255)
        codes = source.codes[rows, first + FLANK - 1 : last + FLANK + size]
        # one column before the first place, for insertions between the bases of a CpG
        fits &= ~_any(codes[:, 1:] >= UNKNOWN, max(size, 1))[:, own]
        if cpg is not None:
            marked = source.cpg[rows, first : last + size - 1] if size else None
            pair = (codes[:, :-1] == 1) & (codes[:, 1:] == 2) if marked is None else _any(marked, size)
            fits &= pair[:, own] == cpg
        row, column = np.nonzero(fits)
        found.append(np.stack([rows[row], columns[column]]))
        count += len(row)
        if count >= want:
            break
    window, place = np.concatenate(found, axis=1)
    return window, place


def _any(marked: np.ndarray, size: int) -> np.ndarray:
    """Whether something is marked in each run of ``size`` columns: ``(g, m)`` to ``(g, m - size + 1)``."""
    if size == 1:
        return marked
    total = np.concatenate([np.zeros((len(marked), 1), np.int32), np.cumsum(marked, axis=1, dtype=np.int32)], axis=1)
    return total[:, size:] > total[:, :-size]


def _starts(source: Background, window: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Positions on the chromosome where changes at places of windows begin."""
    _, low, high, minus = source.places
    return np.where(minus[window], high[window] - place - size, low[window] + place)


def _keys(source: Background, window: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """One number for each position, whatever the window it is seen in."""
    return (source.places[0][window] << 40) + _starts(source, window, place, size) + source.length


def _overlaps_own(
    source: Background, window: np.ndarray, place: np.ndarray, size: int, own: tuple[str, int]
) -> np.ndarray:
    spans = list(source.genome.spans)
    same = source.places[0][window] == (spans.index(own[0]) if own[0] in spans else -1)
    return same & (np.abs(_starts(source, window, place, size) - own[1]) < max(size, 1))


def _rows(
    source: Background,
    window: np.ndarray,
    place: np.ndarray,
    size: int,
    kind: str,
    alleles: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> tuple[list[dict[str, object]], list[int]]:
    """Rows of ``Variants`` on the forward strand, and the numbers of the draws that change something."""
    twice = kind == "duplication"
    starts = _starts(source, window, place, 0 if twice else size)
    chrom, minus = source.table["chrom"].astype(str).to_numpy(), source.places[3]
    rows: list[dict[str, object]] = []
    kept: list[int] = []
    for number, (at, first, start) in enumerate(zip(window.tolist(), place.tolist(), starts.tolist())):
        here = source.codes[at, first + FLANK : first + FLANK + size]
        made = _made(kind, here, *alleles, rng)
        gone = here[:0] if twice else here
        if minus[at]:
            gone, made = reverse_complement(gone), reverse_complement(made)
        start, ref, alt = trim(start, to_text(gone), to_text(made))
        if ref or alt:
            kept.append(number)
            name = f"{chrom[at]}:{start}:{kind}:{len(kept)}"
            row = {"variant": name, "record": len(kept), "chrom": chrom[at], "start": start, "ref": ref, "alt": alt}
            rows.append({**row, "kind": kind, "status": "ok", "reason": ""})
    return rows, kept


def _made(kind: str, here: np.ndarray, old: np.ndarray, new: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is put in instead of the bases that are there, in the gene's direction."""
    if kind == "duplication":
        return here
    if kind in _SHUFFLED and len(old) == len(new):
        some = old != new if kind == "motif" else np.ones(len(here), dtype=bool)  # between motifs nothing is changed
        made = here.copy()
        for _ in range(TRIES):  # short bases often come back as they were
            whole = kind != "motif" and len(here) > 3
            made[some] = dinucleotide_shuffle(here, rng) if whole else rng.permutation(here[some])
            if (made != here).any():
                break
        return made
    if kind in ("snv", "mnv"):
        step = old ^ new  # of the codes 0 to 3: 0 the same base, 2 a transition, 1 and 3 transversions
        return here ^ np.where(step % 2 == 1, 1 + 2 * rng.integers(0, 2, len(step)), step).astype(np.uint8)
    return rng.permutation(new)
