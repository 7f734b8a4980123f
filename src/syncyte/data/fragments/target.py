"""What fragments are counted on: chromosomes, regions, transcription starts and peaks, ready for the parser.

The one door between a reference folder and the counting; anything that gives sorted disjoint regions can stand behind
it.

Leaves out: counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import genome_order, merge_overlaps
from syncyte.genome.intervals import Lookup, lookup, nothing, tss_steps
from syncyte.genome.reference import Reference
from syncyte.genome.tables import read_bed

ENDLESS = 1 << 40  # length of a chromosome whose length is unknown


@dataclass(frozen=True)
class Target:
    """Where fragments are counted.

    Attributes
    ----------
    name, hash
        Of the reference.
    chroms
        ``(c,)`` chromosomes, in genome order.
    sizes
        ``(c,)`` lengths in bp.
    table
        ``(r, 3)`` regions: ``chrom`` (categorical), ``start``, ``end``; sorted and disjoint.
    regions
        The same, to look up.
    tss, weights
        Steps around transcription starts (``intervals.tss_steps``); empty without genes.
    peaks
        Intervals whose share of fragments is reported; empty for none.
    peaks_of
        What they are, in words; empty for none.
    """

    name: str
    hash: str
    chroms: tuple[str, ...]
    sizes: NDArray[np.int64]
    table: pd.DataFrame
    regions: Lookup
    tss: Lookup
    weights: NDArray[np.uint16]
    peaks: Lookup
    peaks_of: str


def make_target(reference: Reference, peaks: str | Path | None = None) -> Target:
    """Ready a reference for counting.

    Parameters
    ----------
    reference
        With regions; with genes for the enrichment at transcription starts.
    peaks
        BED of peaks for the share of fragments in peaks. Without it the reference's regions serve, unless they tile the
        genome.

    Raises
    ------
    GenomeError
        If the reference has no regions, or the peaks none on its chromosomes.
    """
    table = reference.regions
    if table is None or not len(table):
        raise GenomeError(
            f"The reference {reference.name!r} has no regions to count fragments on. Build one with regions (--regions "
            "BED) or bins (--bins 2500 --chrom-sizes FILE)."
        )
    known = dict(reference.chrom_sizes or {})
    names = {*known, *table["chrom"].cat.categories}
    if reference.tss is not None and not known:
        names |= set(reference.tss["chrom"].cat.categories)
    chroms = tuple(sorted(names, key=genome_order))
    sizes = np.array([known.get(name, ENDLESS) for name in chroms], dtype=np.int64)
    regions = lookup(table, chroms)
    empty = nothing(chroms)
    tss, weights = (empty, np.zeros((0, 2), dtype=np.uint16))
    if reference.tss is not None:
        tss, weights = tss_steps(reference.tss, chroms)
    inside, words = empty, ""
    if peaks is not None:
        inside, words = _peaks(Path(peaks).expanduser(), chroms), f"peaks of {Path(peaks).name}"
    elif not _tiled(regions):
        inside, words = regions, "regions of the reference"
    return Target(reference.name, reference.hash, chroms, sizes, table, regions, tss, weights, inside, words)


def _tiled(regions: Lookup) -> bool:
    """Whether the regions cover the genome without gaps, so that every fragment lies in one."""
    gaps = regions.starts[1:-1] - regions.ends[:-2]
    return len(gaps) > 0 and float(np.mean(np.abs(gaps) <= 1)) > 0.25


def _peaks(path: Path, chroms: tuple[str, ...]) -> Lookup:
    table = read_bed(path)
    known = table[table["chrom"].isin(chroms)]
    if not len(known):
        raise GenomeError(
            f"{path} has no peaks on chromosomes of the reference: it has "
            f"{', '.join(table['chrom'].cat.categories[:5])}, "
            f"the reference {', '.join(chroms[:5])}. Give peaks of the same genome build."
        )
    merged = merge_overlaps(known[["chrom", "start", "end"]])
    merged["chrom"] = merged["chrom"].cat.remove_unused_categories()
    return lookup(merged, chroms)
