"""What a sequence model of the user's own learns from: windows of DNA and what is measured there.

- Cells with ATAC: how often a region is open in each group of cells over the group's mean, and 0 for as many places
  without a region, on the same chromosome and of like GC content.
- Regions alone: region or not.
- Neither: mean log expression of each group of cells, from windows around starts. Few examples and a far way from
  sequence to counts: the run is marked weak.

Windows are split by chromosome, never at random; with fewer than three, by stretches of them, which is said.
Leaves out: the network and its training (``models.dna_encoder``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.genome.coordinates import parse_regions
from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import GeneWindows
from syncyte.genome.negatives import matched_negatives, window_codes
from syncyte.genome.sequence import UNKNOWN

FEWEST = 60  # windows that a sequence model can be trained on at all
STRETCHES = 10  # of a genome of one or two chromosomes
MOST_UNKNOWN = 0.1  # share of bases of a window
TEST, VALID, TRAIN = 0.2, 0.1, 0.45  # shares of windows that are aimed at; the last is the least to train on
ORDERS = 400  # random orders of parts that are looked at
NEAR = 0.05  # a division that is worse than the best one by this much is as good: seeds then differ


@dataclass(frozen=True)
class Examples:
    """Windows and targets: ``codes (n, L)``, ``targets (n, t)`` with ``names (t,)``, ``parts (n,)`` split together."""

    codes: NDArray[np.uint8]
    targets: NDArray[np.float32]
    parts: NDArray
    names: tuple[str, ...]
    task: Literal["binary", "count"]
    source: str
    weak: bool = False
    notes: list[str] = field(default_factory=list)


def region_examples(
    genome: Genome,
    peaks: pd.DataFrame,
    length: int,
    openness: NDArray[np.float32] | None,
    names: tuple[str, ...],
    seed: int,
) -> Examples:
    """Windows of regions, and on each chromosome as many places without any, of the GC content of its regions.

    Drawn over the whole genome, places without a region would tell chromosomes apart instead: where regions are dense
    or rich in GC, few would be found.

    Parameters
    ----------
    peaks
        ``chrom``, ``start``, ``end``.
    openness
        ``(r, t)`` targets of the regions; None for region or not.
    """
    middle = ((peaks["start"] + peaks["end"]) // 2).to_numpy(dtype=np.int64)
    chrom = peaks["chrom"].astype(str).to_numpy()
    codes, kept = _fetch(genome, chrom, middle, length)
    if len(kept) < FEWEST:
        raise DataError(
            f"{len(kept):,} of {len(peaks):,} regions lie in the genome given; a sequence model needs {FEWEST} or "
            "more. Give a larger FASTA, or a trained model with --dna-encoder."
        )
    free = matched_negatives(genome, peaks, dict(Counter(chrom[kept].tolist())), seed, length=length)
    none = window_codes(genome, free)
    values = np.ones((len(kept), 1), dtype=np.float32) if openness is None else openness[kept]
    targets = np.concatenate([values, np.zeros((len(none), values.shape[1]), dtype=np.float32)])
    parts, notes = split_parts(
        np.concatenate([chrom[kept], free["chrom"].astype(str)]), np.concatenate([middle[kept], free["start"]])
    )
    found = np.concatenate([codes, none])
    if openness is None:
        return Examples(found, targets, parts, names, "binary", "regions or not", notes=notes)
    return Examples(found, targets, parts, names, "count", "openness of regions by group", notes=notes)


def expression_examples(
    genome: Genome, windows: GeneWindows, values: NDArray[np.float32], names: tuple[str, ...]
) -> Examples:
    """Windows around starts with the mean log expression ``(g, t)`` of their genes."""
    links = windows.links[(windows.links["slot"] == "start").to_numpy()]
    table = windows.table.iloc[links["window"].to_numpy()]
    codes = windows.fetch(genome)[links["window"].to_numpy()]
    parts, notes = split_parts(table["chrom"].to_numpy(), table["anchor"].to_numpy())
    note = (
        "No ATAC and no --peaks: the sequence model learned group means of expression from starts alone, which is weak."
    )
    targets = values[links["gene"].to_numpy()]
    return Examples(codes, targets, parts, names, "count", "expression of groups", True, [*notes, note])


def split_parts(chrom: NDArray, position: NDArray) -> tuple[NDArray, list[str]]:
    """What is held out together: chromosomes, or stretches where there are fewer than three."""
    names = pd.unique(np.asarray(chrom, dtype=object))
    if len(names) >= 3:
        return np.asarray(chrom, dtype=object), []
    parts = np.empty(len(chrom), dtype=object)
    for name in names:
        own = np.flatnonzero(chrom == name)
        order = own[np.argsort(position[own], kind="stable")]
        for number, stretch in enumerate(np.array_split(order, STRETCHES)):
            parts[stretch] = f"{name} part {number + 1}"
    return parts, [f"The genome has {len(names)} chromosome(s): stretches were held out, not chromosomes."]


def choose_parts(parts: NDArray, seed: int) -> tuple[list[str], list[str]]:
    """Parts that stop the training and that are only reported: chr10, and chr8 with chr9, where there are many.

    Else parts drawn at random, as near to a tenth and a fifth of the windows as parts allow; what is left trains.
    """
    names, sizes = np.unique(parts.astype(str), return_counts=True)
    if len(names) > 12 and {"chr8", "chr9", "chr10"} <= set(names):
        return ["chr10"], ["chr8", "chr9"]
    rng, share = np.random.default_rng(seed), sizes / sizes.sum()
    found = [_division(rng.permutation(len(names)), share) for _ in range(ORDERS)]
    found = [one for one in found if one[3] >= TRAIN] or found
    best = min(one[2] for one in found)
    valid, test = next(one[:2] for one in found if one[2] <= best + NEAR)
    return [str(name) for name in names[valid]], [str(name) for name in names[test]]


def _division(order: NDArray, share: NDArray) -> tuple[NDArray, NDArray, float, float]:
    """Parts in order, the first to test and the next to stop by; how far off that is, and the share that trains."""
    tests = _leading(share[order[:-2]], TEST)  # one part at least is left to stop by, and one to train on
    stops = tests + _leading(share[order[tests:-1]], VALID)
    test, valid = order[:tests], order[tests:stops]
    off = abs(share[test].sum() - TEST) + abs(share[valid].sum() - VALID)
    return valid, test, float(off), float(share[order[stops:]].sum())


def _leading(share: NDArray, wanted: float) -> int:
    """How many leading parts hold a share nearest to the one wanted: one at least, where there is any."""
    return int(np.abs(np.cumsum(share) - wanted).argmin()) + 1 if len(share) else 0


def _fetch(
    genome: Genome, chrom: NDArray, middle: NDArray[np.int64], length: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Windows around places that the genome covers, and which places those are."""
    start = middle - length // 2
    inside = [genome.covers(c, s, s + length) for c, s in zip(chrom, start.tolist())]
    kept = np.flatnonzero(inside)
    codes = np.empty((len(kept), length), dtype=np.uint8)
    for row, place in enumerate(kept):
        codes[row] = genome.fetch(chrom[place], int(start[place]), int(start[place]) + length)
    fine = (codes == UNKNOWN).mean(axis=1) <= MOST_UNKNOWN if len(kept) else np.empty(0, dtype=bool)
    return codes[fine], kept[fine]


def group_openness(
    cells: Cells, name: str, groups: pd.Series, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """``(r, t)`` each region's share of open cells in a group over the group's mean share, and the groups."""
    share, names = _group_sums(cells, name, groups, rows, lambda counts: (counts > 0).astype(np.float32))
    return (share / np.maximum(share.mean(axis=0), 1e-9)).astype(np.float32), names


def group_expression(
    cells: Cells, name: str, groups: pd.Series, rows: NDArray[np.int64], per_cell: float
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """``(g, t)`` counts per ``per_cell`` of genes in each group, from means of their logarithms."""
    from syncyte.baselines.prediction import log_values

    means, names = _group_sums(cells, name, groups, rows, lambda counts: log_values(counts, per_cell))
    return np.expm1(means).astype(np.float32), names


def _group_sums(cells: Cells, name: str, groups: pd.Series, rows: NDArray[np.int64], value: Any) -> tuple:
    known = groups.astype("category")
    code = known.cat.codes.to_numpy()
    keep = rows[code[rows] >= 0]
    total = np.zeros((len(cells.part(name).var), len(known.cat.categories)))
    for block, counts in cells.blocks(name, keep):
        values = value(counts)
        for group in np.unique(code[block]):
            total[:, group] += np.asarray(values[code[block] == group].sum(axis=0)).ravel()
    count = np.bincount(code[keep], minlength=total.shape[1])
    some = count > 0
    return total[:, some] / count[some], tuple(str(one) for one, has in zip(known.cat.categories, some) if has)


def regions_of(cells: Cells, name: str) -> pd.DataFrame:
    """Places of the regions of cells."""
    return parse_regions(cells.part(name).features, cells.part(name).var)
