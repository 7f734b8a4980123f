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
    interval_keys,
    merge_overlaps,
    parse_regions,
    region_names,
    region_table,
    sort_regions,
)
from syncyte.genome.genes import FeatureMap

__all__ = [
    "assign_regions",
    "check_build",
    "map_regions",
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


def assign_regions(source: pd.DataFrame, target: pd.DataFrame, min_overlap: float = 0.0) -> np.ndarray:
    """Row of the target region each source peak goes to, -1 for none (the rule of ``map_regions``).

    Parameters
    ----------
    source
        ``(f, 3)`` table in any order, overlaps allowed.
    target
        ``(r, 3)`` table, disjoint and in genome order.
    min_overlap
        Least share of a peak's bases that must lie in its region; at 0 one base is enough.

    Returns
    -------
    ndarray
        ``(f,)`` int64. Time is ``O(f log r)``.
    """
    left, right = interval_keys(target)
    if np.any(left[1:] < right[:-1]):
        raise GenomeError("Target regions overlap or are not in genome order; pass them through merge_overlaps first.")
    code = np.append(target["chrom"].cat.categories.get_indexer(source["chrom"].cat.categories), -1)
    start, end = interval_keys(source, code[source["chrom"].cat.codes])
    order = np.argsort(start)  # looking up in order of place finds the target already in the cache
    low, high = np.empty_like(start), np.empty_like(start)
    low[order] = np.searchsorted(right, start[order], side="right")
    high[order] = np.searchsorted(left, end[order], side="left")
    best = np.full(len(source), -1, dtype=np.int64)
    most = np.maximum(np.ceil(min_overlap * (end - start)).astype(np.int64), 1) - 1
    peak = np.flatnonzero((high > low) & (start >= 0))
    candidate = low[peak]
    while len(peak):  # one round per region a peak reaches; nearly all reach one or two
        overlap = np.minimum(end[peak], right[candidate]) - np.maximum(start[peak], left[candidate])
        better = overlap > most[peak]  # strictly: of equal overlaps the lower start stays
        best[peak[better]], most[peak[better]] = candidate[better], overlap[better]
        candidate = candidate + 1
        more = candidate < high[peak]
        peak, candidate = peak[more], candidate[more]
    return best


def map_regions(source: pd.DataFrame, target: pd.DataFrame, min_overlap: float = 0.0) -> FeatureMap:
    """Move peaks onto another region set.

    The rule: a peak goes, with its whole count, to the one target region it shares the most bases with; of equals, to
    the one with the lower start. A peak that shares no base with any region (or less than ``min_overlap`` of its own
    bases) is dropped and counted. So the counts of mapped peaks are conserved exactly.

    Returns
    -------
    FeatureMap
        ``names`` are the target regions reached, in genome order; ``target`` has one entry per source peak.
    """
    row = assign_regions(source, target, min_overlap)
    reached, position = np.unique(row, return_inverse=True)
    dropped = int((row < 0).sum())
    if dropped:
        reached, position = reached[1:], position - 1
    mapped = len(row) - dropped
    counts = {"total": len(row), "mapped": mapped, "dropped": dropped, "regions": len(reached)}
    counts["merged"] = mapped - len(reached)
    sentence = f"{mapped:,} of {len(row):,} peaks mapped to {len(reached):,} of {len(target):,} regions"
    sentence += f"; {dropped:,} overlap none and are dropped" if dropped else ""
    lost = tuple(region_names(source.iloc[np.flatnonzero(row < 0)[:50]]))
    return FeatureMap(region_names(target.iloc[reached]), position.astype(np.int64), counts, sentence, lost)
