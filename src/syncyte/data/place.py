"""Peaks of one table on a reference: read, lifted over where asked, checked against the genome build, mapped.

What is safe is done and said (chromosomes spelled ``1``, peaks that overlap each other, a few peaks beyond a
chromosome's end); what is not is refused with a way on: regions that are reversed, another genome build, too little
overlap. Leaves out moving counts (``regroup``) and several tables (``harmonise``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from syncyte.data.regroup import Regroup
from syncyte.errors import GenomeError

if TYPE_CHECKING:
    from syncyte.genome.overlap import RegionMap
    from syncyte.genome.reference import Reference


@dataclass(frozen=True)
class How:
    """How peaks are put on regions.

    Attributes
    ----------
    rule
        ``largest``, ``any`` or ``fraction`` (``genome.overlap``).
    chain
        Chain file from the build of the peaks to that of the reference, or None.
    force
        Go on although the build or the overlap looks wrong.
    """

    rule: str = "largest"
    chain: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Located:
    """Peaks with coordinates on the build of the reference.

    Attributes
    ----------
    table
        ``(f, 3)``; peaks that could not be lifted over have no chromosome.
    details
        ``build`` and ``liftover``, where they were looked at, for programs.
    notes
        What was changed or looks odd, for people.
    """

    table: pd.DataFrame
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Let an error about names say which table has them."""
    try:
        yield
    except GenomeError as error:
        raise GenomeError(f"{label}: {error}") from error


def locate(label: str, var: pd.DataFrame, reference: Reference | None, how: How) -> Located:
    """Read the peaks of a table, lift them over, and check their build.

    Parameters
    ----------
    label
        How messages name the table.
    var
        Its features.
    reference
        None reads the peaks and checks nothing.
    how
        Chain file, and whether to go on where the build looks wrong.

    Raises
    ------
    GenomeError
        If the peaks cannot be read or contradict the build.
    """
    from syncyte.genome.assembly import check_build
    from syncyte.genome.coordinates import parse_regions

    details: dict[str, Any] = {}
    notes: list[str] = []
    with naming(label):
        table = parse_regions(var.index, var)
        if "respelled" in table.attrs:
            old, new = table.attrs["respelled"]
            notes.append(f"{label}: chromosomes spelled {old!r} were read as {new!r}.")
        if how.chain is not None:
            from syncyte.genome.liftover import lift, read_chain

            lifted = lift(table, read_chain(how.chain))
            table, details["liftover"] = lifted.table, lifted.counts
            notes.append(f"{label}: {lifted.sentence}.")
        if reference is not None:
            placed = table if how.chain is None else table[table["chrom"].notna()]
            build = check_build(placed, reference, how.force)
            details["build"] = build
            if build["verdict"] != "fits":
                notes.append(f"{label}: {build['sentence']}")
            if build.get("beyond_ends") and build["verdict"] != "contradicts":
                count = round(build["beyond_ends"] * len(placed))
                notes.append(f"{label}: {count:,} peaks begin beyond the end of their chromosome and are dropped.")
    return Located(table, details, notes)


def place(label: str, located: Located, reference: Reference, how: How) -> RegionMap:
    """Regions of the reference that the peaks go to; notes are added to ``located``.

    Raises
    ------
    GenomeError
        If fewer than 30 % of the peaks lie in regions (unless forced), or none does.
    """
    from syncyte.genome.overlap import check_overlap, map_peaks

    assert reference.index is not None
    found = map_peaks(located.table, reference.index, how.rule)
    if not found.counts["mapped"]:
        raise GenomeError(
            f"{label}: none of its {len(located.table):,} regions overlaps the {len(reference.index):,} regions of the "
            "reference. Check species and genome build (a chain file lifts peaks over, --chain), or give the reference "
            "they belong to."
        )
    with naming(label):
        share = found.counts["mapped"] / len(located.table)
        said = check_overlap(share, "peaks", reference.name, how.force)
    if said:
        located.notes.append(f"{label}: {said}")
    if crowded := _overlapping(located.table):
        located.notes.append(f"{label}: {crowded:,} peaks overlap another peak; where they meet, counts are summed.")
    return found


def table_of(found: RegionMap, width: int) -> Regroup:
    """Table that moves counts as a map says, into ``width`` regions."""
    return Regroup(found.pointer, found.target, width, found.bases)


def _overlapping(table: pd.DataFrame) -> int:
    """Peaks that begin before an earlier one of their chromosome has ended."""
    code, start, end = table["chrom"].cat.codes.to_numpy(), table["start"].to_numpy(), table["end"].to_numpy()
    key = code.astype(np.int64) << 32
    order = np.lexsort((start, code))
    order = order[code[order] >= 0]
    reach = np.maximum.accumulate((key + end)[order])
    return int(((key + start)[order][1:] < reach[:-1]).sum())
