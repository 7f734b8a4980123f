"""Liftover: intervals of one genome build on another, by a chain file.

A chain is a row of ungapped blocks that two builds share, in one direction on the source and in either on the target
(format: UCSC). An interval is lifted where one chain alone holds at least ``min_match`` of its bases (0.95, as in the
UCSC tool); its place runs from the image of its first such base to that of its last, and blocks on the reverse strand
turn it around. What else happens is counted, and never guessed at:

``unmapped``
    no chain, or only chains that hold less than ``min_match`` of it together (deleted in the target);
``split``
    its pieces land apart: on several chains, or with more than its own length put between them;
``ambiguous``
    more than one chain would take it (several targets).

Chromosomes are spelled one way on both sides (``1`` and ``chr1`` are one). Files are plain or gzip. Leaves out fetching
chain files, and sequences: alleles are not looked at.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import chromosome_name, genome_order
from syncyte.genome.tables import opened

MIN_MATCH = 0.95


@dataclass(frozen=True, eq=False)
class Chain:
    """Blocks of a chain file, chain after chain, ascending on the source within each.

    Attributes
    ----------
    source_chroms, target_chroms
        Names that the codes below stand for.
    span
        ``(n, 4)`` int64: source chromosome, first and last source position, first block, by chain.
    target
        ``(n, 3)`` int64: target chromosome, its length, and 1 where the target is read backwards, by chain.
    source_start, target_start, size
        ``(blocks,)`` int64 in bp; target positions are counted from the end of the chromosome on the reverse strand.
    """

    path: Path
    source_chroms: tuple[str, ...]
    target_chroms: tuple[str, ...]
    span: NDArray[np.int64] = field(repr=False)
    target: NDArray[np.int64] = field(repr=False)
    source_start: NDArray[np.int64] = field(repr=False)
    target_start: NDArray[np.int64] = field(repr=False)
    size: NDArray[np.int64] = field(repr=False)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """``(blocks,)`` chain of each block."""
        return np.repeat(np.arange(len(self.span)), np.diff(np.append(self.span[:, 3], len(self.size))))


@dataclass(frozen=True, eq=False)
class Lifted:
    """Intervals on the other build.

    Attributes
    ----------
    table
        ``(f, 3)`` in the order given; rows that were not lifted have no chromosome and lie at 0-0.
    counts
        ``total``, ``lifted``, ``unmapped``, ``split``, ``ambiguous``, ``turned`` (lifted onto the reverse strand).
    sentence
        The same for people.
    """

    table: pd.DataFrame
    counts: dict[str, int]
    sentence: str


def read_chain(path: Path) -> Chain:
    """Read a chain file; chains given twice, under two spellings of a chromosome, count once. The last one is kept.

    Raises
    ------
    GenomeError
        If it is no chain file, or a line is malformed; the line is named.
    """
    with opened(path):  # says what is wrong with a path that cannot be read
        pass
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(1)
def _read(path: Path, changed: int) -> Chain:
    """Chain of a file as it was when last ``changed``."""
    del changed
    heads, blocks = _parse(path)
    firsts = [head[-1] for head in heads]
    last = dict(zip(firsts, [*firsts[1:], len(blocks)]))
    heads = list({head[:-1]: head for head in reversed(heads)}.values())[::-1]
    rows = np.concatenate([np.arange(head[-1], last[head[-1]]) for head in heads])
    sizes = [last[head[-1]] - head[-1] for head in heads]
    chroms = [tuple(sorted({head[side] for head in heads}, key=genome_order)) for side in (0, 1)]
    place = [{name: code for code, name in enumerate(names)} for names in chroms]
    code = [[place[side][head[side]] for head in heads] for side in (0, 1)]
    from_, to, length, turned = zip(*(head[2:6] for head in heads))
    span = np.column_stack([code[0], from_, to, np.cumsum([0, *sizes[:-1]])])
    target = np.column_stack([code[1], length, turned])
    columns = np.array(blocks, dtype=np.int64).reshape(-1, 3)[rows].T
    return Chain(path, chroms[0], chroms[1], span.astype(np.int64), target.astype(np.int64), *columns)


def _parse(path: Path) -> tuple[list[tuple[Any, ...]], list[tuple[int, int, int]]]:
    """Heads (both chromosomes, source start, end, target length, turned, target start, end, first block) and blocks."""
    heads: list[tuple[Any, ...]] = []
    blocks: list[tuple[int, int, int]] = []
    with opened(path) as stream:
        lines = stream.read().decode("utf-8", errors="replace").splitlines()
    source = target = 0
    for number, line in enumerate(lines, 1):
        part = line.split()
        if not part or line.startswith("#"):
            continue
        try:
            if part[0] == "chain":
                source, end, length, target, stop = (int(part[place]) for place in (5, 6, 8, 10, 11))
                names = (chromosome_name(part[2]), chromosome_name(part[7]))
                heads.append((*names, source, end, length, part[9] == "-", target, stop, len(blocks)))
                if part[4] != "+":
                    raise ValueError("the source of a chain is on the forward strand")
                continue
            if len(part) not in (1, 3) or not heads:
                raise ValueError("expected one or three numbers, after a line 'chain ...'")
            size, *gaps = map(int, part)
            blocks.append((source, target, size))
            if gaps:
                source, target = source + size + gaps[0], target + size + gaps[1]
        except (ValueError, IndexError) as error:
            raise GenomeError(
                f"{path} line {number} is malformed ({error}): {line[:80]!r}. Expected a chain file as UCSC describes."
            ) from error
    if not blocks:
        raise GenomeError(f"{path} holds no chains. Expected lines that begin with 'chain'.")
    return heads, blocks


def lift(table: pd.DataFrame, chain: Chain, min_match: float = MIN_MATCH) -> Lifted:
    """Lift intervals over (rules: see the module).

    Parameters
    ----------
    table
        ``(f, 3)`` intervals in any order.
    chain
        From the build of the table.
    min_match
        Least share of an interval's bases that one chain must hold.
    """
    start, end = (table[key].to_numpy(dtype=np.int64) for key in ("start", "end"))
    interval, owner = _candidates(table, start, end, chain)
    shared, low, high = _images(interval, owner, start, end, chain)
    some = shared > 0
    interval, owner, shared, low, high = (values[some] for values in (interval, owner, shared, low, high))
    length = end - start
    enough = shared >= min_match * length[interval]
    takers = np.bincount(interval[enough], minlength=len(table))
    held = np.bincount(interval, weights=shared, minlength=len(table))
    chains = np.bincount(interval, minlength=len(table))
    near = high - low <= 2 * length[interval]
    good = enough & (takers[interval] == 1) & near
    lifted = np.zeros(len(table), dtype=bool)
    lifted[interval[good]] = True
    ambiguous = takers > 1
    split = ~lifted & ~ambiguous & ((takers == 1) | ((chains > 1) & (held >= min_match * length)))
    counts = {"total": len(table), "lifted": int(lifted.sum())}
    counts["unmapped"] = int((~lifted & ~ambiguous & ~split).sum())
    counts |= {"split": int(split.sum()), "ambiguous": int(ambiguous.sum())}
    counts["turned"] = int(chain.target[owner[good], 2].sum())
    code = np.full(len(table), -1)
    places = np.zeros((2, len(table)), dtype=np.int64)
    code[interval[good]] = chain.target[owner[good], 0]
    places[0, interval[good]], places[1, interval[good]] = low[good], high[good]
    chrom = pd.Categorical.from_codes(code, categories=list(chain.target_chroms))
    sentence = (
        f"{counts['lifted']:,} of {len(table):,} peaks lifted over with {chain.path.name}; {counts['unmapped']:,} have "
        f"no place on the other build, {counts['split']:,} fall apart, {counts['ambiguous']:,} have several places"
    )
    return Lifted(pd.DataFrame({"chrom": chrom, "start": places[0], "end": places[1]}), counts, sentence)


def _candidates(
    table: pd.DataFrame, start: NDArray, end: NDArray, chain: Chain
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (interval, chain) whose spans overlap."""
    place = {name: number for number, name in enumerate(chain.source_chroms)}
    known = [place.get(str(name), -1) for name in table["chrom"].cat.categories]
    code = np.append(np.array(known, dtype=np.int64), -1)[table["chrom"].cat.codes]
    order = np.lexsort((start, code))
    key = (code[order] << 32) + start[order]
    widest = int((end - start).max(initial=0))
    first = np.searchsorted(key, (chain.span[:, 0] << 32) + np.maximum(chain.span[:, 1] - widest, 0))
    last = np.searchsorted(key, (chain.span[:, 0] << 32) + chain.span[:, 2])
    owner = np.repeat(np.arange(len(chain.span)), last - first)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    interval = order[np.repeat(first, last - first) + within]
    touching = end[interval] > chain.span[owner, 1]
    return interval[touching], owner[touching]


def _images(
    interval: NDArray, owner: NDArray, start: NDArray, end: NDArray, chain: Chain
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each pair: bases the chain holds, and first and last position of their image."""
    if not len(interval):
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    from_, to = start[interval], end[interval]
    begin_key = (chain.owner << 32) + chain.source_start
    low = np.searchsorted(begin_key + chain.size, (owner << 32) + from_, side="right")
    high = np.searchsorted(begin_key, (owner << 32) + to, side="left") - 1  # the last block touched
    held = high >= low
    low_, high_ = np.minimum(low, len(chain.size) - 1), np.maximum(high, 0)
    head = np.maximum(from_ - chain.source_start[low_], 0)  # bases of the first block before the interval
    tail = np.maximum(chain.source_start[high_] + chain.size[high_] - to, 0)  # and of the last block behind it
    total = np.concatenate([[0], np.cumsum(chain.size)])
    shared = np.where(held, total[high_ + 1] - total[low_] - head - tail, 0)
    first = chain.target_start[low_] + head
    last = chain.target_start[high_] + chain.size[high_] - tail
    backwards, length = chain.target[owner, 2] == 1, chain.target[owner, 1]
    return shared, np.where(backwards, length - last, first), np.where(backwards, length - first, last)
