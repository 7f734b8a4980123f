"""Which regions a peak's counts go to, and in what shares.

Rules, by name:

``largest``
    The whole count goes to the one region the peak shares the most bases with; of equals, to the one with the lower
    start. Counts of mapped peaks are conserved. The default.
``any``
    The whole count goes to every region the peak shares a base with. Which regions are open is kept exactly; a count is
    repeated where a peak spans regions.
``fraction``
    The count is split over the regions in proportion to the bases shared with each, so that the parts add up to the
    count; bases of the peak in no region do not lessen it. How parts become whole counts: see ``data.regroup``.

In all three a peak that shares no base with any region is dropped and counted. Leaves out moving the counts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import GenomeError, unknown
from syncyte.genome.coordinates import region_names
from syncyte.genome.index import RegionIndex

Rule = Literal["largest", "any", "fraction"]
RULES: tuple[str, ...] = get_args(Rule)
LEAST_OVERLAP = 0.3  # share of peaks, or of counts, below which a data set is refused


@dataclass(frozen=True, eq=False)
class RegionMap:
    """Where each peak's counts go.

    Attributes
    ----------
    rule
        One of ``RULES``.
    pointer, target
        Peak ``i`` goes to the regions ``target[pointer[i]:pointer[i + 1]]``, ascending; ``(f + 1,)`` int64 and int32.
    bases
        ``(pointer[-1],)`` int32 bases shared, for ``fraction``; else None.
    counts
        ``total``, ``mapped``, ``dropped`` peaks, ``several`` (peaks that share bases with more than one region),
        ``regions`` reached, ``bases_outside`` (share of the mapped peaks' bases that lie in no region).
    sentence
        The same for people.
    unmapped
        The first 50 peaks dropped.
    """

    rule: str
    pointer: NDArray[np.int64] = field(repr=False)
    target: NDArray[np.int32] = field(repr=False)
    bases: NDArray[np.int32] | None = field(repr=False)
    counts: dict[str, float]
    sentence: str
    unmapped: tuple[str, ...] = ()

    @property
    def kept(self) -> NDArray[np.bool_]:
        """``(f,)`` peaks that go somewhere."""
        return np.diff(self.pointer) > 0


def check_rule(rule: str) -> None:
    """Refuse an unknown rule, with the nearest known one."""
    if rule not in RULES:
        raise GenomeError(unknown("overlap rule", rule, RULES))


def map_peaks(source: pd.DataFrame, index: RegionIndex, rule: str = "largest") -> RegionMap:
    """Find the regions of each peak (rules: see the module).

    Parameters
    ----------
    source
        ``(f, 3)`` peaks in any order, overlaps allowed; a peak without chromosome goes nowhere.
    index
        The reference's regions.
    rule
        One of ``RULES``.
    """
    from syncyte.genome.search import largest, spread

    check_rule(rule)
    start, end = (np.ascontiguousarray(source[key], dtype=np.int64) for key in ("start", "end"))
    low, high = index.touching(index.code_of(source), start, end)
    pointer = np.concatenate([[0], np.cumsum(high - low)])
    target, bases = (np.empty(pointer[-1], dtype=np.int32) for _ in range(2))
    spread(start, end, index.start, index.end, low, pointer, target, bases)
    several, kept = int((high - low > 1).sum()), high > low
    width = float((end - start)[kept].sum())
    outside = 1 - float(bases.sum(dtype=np.int64)) / width if width else 0.0
    if rule == "largest":
        best = np.empty(len(source), dtype=np.int64)
        largest(start, end, index.start, index.end, low, high, best)
        pointer, target = np.concatenate([[0], np.cumsum(kept)]), best[kept].astype(np.int32)
    reached = np.zeros(len(index), dtype=bool)
    reached[target] = True
    mapped, regions = int(kept.sum()), int(reached.sum())
    dropped = len(source) - mapped
    counts = {"total": len(source), "mapped": mapped, "dropped": dropped, "several": several, "regions": regions}
    sentence = f"{mapped:,} of {len(source):,} peaks mapped to {regions:,} of {len(index):,} regions"
    sentence += f"; {dropped:,} overlap none and are dropped" if dropped else ""
    lost = np.flatnonzero(~kept & source["chrom"].notna().to_numpy())[:50]
    return RegionMap(
        rule,
        pointer,
        target,
        bases if rule == "fraction" else None,
        {**counts, "bases_outside": round(max(outside, 0.0), 6)},
        sentence,
        tuple(region_names(source.iloc[lost])),
    )


def check_overlap(share: float, what: str, name: str, force: bool) -> str:
    """Refuse data of which too little lies in the reference; with ``force`` a sentence that says so, else nothing.

    Parameters
    ----------
    share
        Of the peaks or counts, 0 to 1.
    what
        ``peaks`` or ``counts``.
    name
        Of the reference.
    force
        Go on.

    Raises
    ------
    GenomeError
        Below ``LEAST_OVERLAP``, unless forced.
    """
    if share >= LEAST_OVERLAP:
        return ""
    sentence = f"Only {share:.1%} of the {what} lie in regions of the reference {name!r}"
    sentence += f" (at least {LEAST_OVERLAP:.0%} expected)"
    if not force:
        raise GenomeError(
            f"{sentence}. Check species and genome build (give a chain file to lift the peaks over, --chain), or use a "
            "reference that covers them. To go on nevertheless pass force=True (--force)."
        )
    return f"{sentence}; forced."
