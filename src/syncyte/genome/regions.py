"""One region set out of several, and which peak goes to which region.

The door to regions: what other layers need of ``coordinates`` and ``assembly`` is offered here too. Tables and
coordinates are as described in ``coordinates`` (0-based half-open).

Leaves out reading files (``tables``), liftover and fragments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError
from syncyte.genome.assembly import check_build
from syncyte.genome.coordinates import (
    merge_overlaps,
    parse_regions,
    region_names,
    region_table,
    sort_regions,
)
from syncyte.genome.index import RegionIndex
from syncyte.genome.overlap import map_peaks

__all__ = [
    "assign_regions",
    "check_build",
    "map_peaks",
    "merge_overlaps",
    "merge_region_sets",
    "parse_regions",
    "region_names",
    "region_table",
    "sort_regions",
]


def merge_region_sets(tables: Sequence[pd.DataFrame], reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """One region set for files with different peaks.

    The rule: all peaks of all files are pooled; peaks that overlap by at least one base, directly or through a chain
    of others, become one region that spans them. Peaks that only touch stay apart. The result is disjoint, in genome
    order, does not depend on the order of the files, and every source peak lies in exactly one region. Files with the
    very same peaks, none overlapping, keep them. Chains are not cut: the widest region is reported, and where many
    files fuse into wide regions a reference region set is the remedy.

    With ``reference`` (its regions, or the peaks of the set the model was trained on) that set is the answer.

    Returns
    -------
    DataFrame
        Table; ``attrs`` holds ``regions``, ``merged`` (distinct peaks fused with another), ``widest`` (bp) and
        ``sentence``.
    """
    if reference is not None:
        merged = sort_regions(reference)
        merged.attrs = {"regions": len(merged), "sentence": f"{len(merged):,} regions of the given region set"}
        return merged
    if not tables:
        raise GenomeError("No region sets were given; at least one is needed.")
    chrom = np.concatenate([table["chrom"].astype(object) for table in tables])
    start, end = (np.concatenate([table[name] for table in tables]) for name in ("start", "end"))
    pooled = region_table(chrom, start, end).drop_duplicates(ignore_index=True)
    merged = merge_overlaps(pooled)
    same = pd.MultiIndex.from_frame(pooled).isin(pd.MultiIndex.from_frame(merged)).sum()
    widest = int((merged["end"] - merged["start"]).max()) if len(merged) else 0
    merged.attrs = {"regions": len(merged), "merged": len(pooled) - int(same), "widest": widest}
    merged.attrs["sentence"] = (
        f"{len(pooled):,} distinct peaks of {len(tables)} files became {len(merged):,} regions; "
        f"{merged.attrs['merged']:,} were fused with peaks they overlap, the widest has {widest:,} bp"
    )
    return merged


def assign_regions(source: pd.DataFrame, target: pd.DataFrame) -> np.ndarray:
    """Row of the target region each source peak goes to, -1 for none (the rule ``largest`` of ``overlap``).

    Parameters
    ----------
    source
        ``(f, 3)`` table in any order, overlaps allowed.
    target
        ``(r, 3)`` table, disjoint and in genome order.

    Returns
    -------
    ndarray
        ``(f,)`` int64. Time is ``O(f log r)``.
    """
    found = map_peaks(source, RegionIndex.of(target))
    row = np.full(len(source), -1, dtype=np.int64)
    row[found.kept] = found.target
    return row
