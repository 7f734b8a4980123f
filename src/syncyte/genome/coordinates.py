"""Places on a genome: how regions are spelled, ordered and kept apart.

Coordinates are 0-based and half-open: ``chr1:100-200`` holds 100 bases and touches, but does not overlap,
``chr1:200-300``. Chromosomes are spelled ``chr1 ... chrX, chrM`` whatever the file says (``1``, ``MT``); contigs keep
their names. A *table* is a DataFrame with the columns ``chrom`` (categorical, categories in genome order), ``start``
and ``end`` (int64).

Leaves out reading files (``tables``), mapping (``regions``), liftover and fragments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError

_NAME = re.compile(r"\s*(.+)[:_\-]([\d,]+)[_\-]([\d,]+)\s*")
_CHROMOSOME = re.compile(r"(?:chr)?(\d{1,2}[LR]?|[XYZW]|MT?)", re.IGNORECASE)
POSITION = (1 << 32) - 1  # the part of a key that is the position, see interval_keys
_COLUMNS = {
    "chrom": ("chrom", "chr", "chromosome", "seqnames", "seqname"),
    "start": ("start", "chromstart", "chrom_start"),
    "end": ("end", "chromend", "chrom_end", "stop"),
}


def chromosome_name(name: str) -> str:
    """One spelling for a chromosome: ``1`` and ``chr1`` are ``chr1``, ``MT`` is ``chrM``; contigs stay as they are."""
    match = _CHROMOSOME.fullmatch(name)
    if match is None:
        return name
    short = match[1].upper()
    return "chrM" if short in ("M", "MT") else f"chr{short}"


def region_table(chrom: Iterable[str], start: np.ndarray, end: np.ndarray) -> pd.DataFrame:
    """Table of regions, rows in the order given, chromosome names unified, categories in genome order.

    Where a chromosome was spelled another way, ``attrs["respelled"]`` holds the first such name and its new spelling.
    """
    code, found = pd.factorize(np.asarray(chrom, dtype=object))
    spelled = [chromosome_name(str(name)) for name in found]
    order = pd.Index(sorted(set(spelled), key=genome_order), dtype=object)
    codes = np.append(order.get_indexer(spelled), -1)[code]
    table = pd.DataFrame(
        {
            "chrom": pd.Categorical.from_codes(codes, categories=order),
            "start": np.asarray(start, dtype=np.int64),
            "end": np.asarray(end, dtype=np.int64),
        }
    )
    changed = [(str(old), new) for old, new in zip(found, spelled) if str(old) != new]
    if changed:
        table.attrs["respelled"] = changed[0]
    return table


def genome_order(name: str) -> tuple[int, int, str]:
    """Sort key: numbered chromosomes, then sex chromosomes, the mitochondrion, and contigs by name."""
    match = _CHROMOSOME.fullmatch(name)
    if match is None:
        return (3, 0, name)
    digits = re.match(r"\d+", match[1])
    if digits:
        return (0, int(digits[0]), name)
    return (2 if match[1] == "M" else 1, 0, name)


def sort_regions(table: pd.DataFrame) -> pd.DataFrame:
    """Sort regions into genome order (chromosome, start, end)."""
    chrom = table["chrom"].cat.codes.to_numpy()
    return table.iloc[np.lexsort((table["end"], table["start"], chrom))].reset_index(drop=True)


def parse_regions(names: Iterable[str], var: pd.DataFrame | None = None) -> pd.DataFrame:
    """Coordinates of peaks from their names or from columns of ``var``.

    Names may be ``chr:start-end``, ``chr-start-end`` or ``chr_start_end``, with commas in the numbers; they are read
    from the right, so contigs may hold any of the separators. Columns for chromosome, start and end, where ``var``
    has all three without gaps, go before names; the 10x column ``interval`` is used where names are not coordinates.

    Parameters
    ----------
    names
        ``(r,)`` names of the peaks.
    var
        ``(r, ...)`` annotation of the same peaks, or None.

    Returns
    -------
    DataFrame
        ``(r, 3)`` table in the order given, 0-based half-open.

    Raises
    ------
    GenomeError
        If some name is no region, or an interval is empty or reversed; the first ones are listed.
    """
    listed = [str(name) for name in names]
    columns = {} if var is None else {str(name).lower(): name for name in reversed(var.columns)}
    found = [next((columns[key] for key in keys if key in columns), None) for keys in _COLUMNS.values()]
    if var is not None and all(name is not None for name in found) and not var[found].isna().any(axis=None):
        chrom, start, end = (var[name] for name in found)
        try:
            table = region_table(chrom.astype(str), start.astype(np.int64), end.astype(np.int64))
        except ValueError as error:
            raise GenomeError(
                f"The columns {found} of var are not coordinates: {error}. Give whole numbers."
            ) from error
        _check_agreement(listed, table, found)
    else:
        if "interval" in columns and not all(map(_NAME.fullmatch, listed[:100])):
            assert var is not None
            listed = var[columns["interval"]].astype(str).tolist()
        table = _parse_names(listed)
    wrong = np.flatnonzero((table["start"] >= table["end"]) | (table["start"] < 0))
    if len(wrong):
        raise GenomeError(
            f"{len(wrong):,} of {len(table):,} regions are empty, reversed or negative, first: "
            f"{', '.join(region_names(table.iloc[wrong[:5]]))}. Regions are 0-based half-open, start < end."
        )
    return table


def _check_agreement(names: list[str], table: pd.DataFrame, columns: list[Any]) -> None:
    """Refuse names that say other places than the columns, as after a liftover of one of them; a base off is fine."""
    some = range(0, len(names), max(1, len(names) // 1000))
    read = [(row, match.groups()) for row in some if (match := _NAME.fullmatch(names[row]))]
    if len(read) < len(some):
        return
    rows = [row for row, _ in read]
    said = _parse_names([names[row] for row in rows])
    held = table.iloc[rows]
    other = said["chrom"].astype(str).to_numpy() != held["chrom"].astype(str).to_numpy()
    for key in ("start", "end"):
        other |= np.abs(said[key].to_numpy() - held[key].to_numpy()) > 1
    if other.mean() > 0.01:
        first = int(np.flatnonzero(other)[0])
        raise GenomeError(
            f"Names and columns {columns} of the peaks disagree: {names[rows[first]]!r} lies at "
            f"{region_names(held.iloc[[first]])[0]} by its columns. Correct one of the two, or drop the columns: "
            f"adata.var = adata.var.drop(columns={[str(column) for column in columns]})"
        )


def _parse_names(names: list[str]) -> pd.DataFrame:
    parts = [match.groups() if (match := _NAME.fullmatch(name)) else None for name in names]
    bad = [name for name, part in zip(names, parts) if part is None]
    if bad:
        raise GenomeError(
            f"{len(bad):,} of {len(names):,} names are not regions, first: {', '.join(map(repr, bad[:5]))}. Expected "
            "chr1:100-200, chr1-100-200 or chr1_100_200, or var columns chrom, start and end."
        )
    read = [part for part in parts if part]
    start, end = (np.fromiter((_whole(part[place]) for part in read), np.int64, len(read)) for place in (1, 2))
    return region_table([part[0] for part in read], start, end)


def _whole(digits: str) -> int:
    return int(digits.replace(",", "") or -1) if "," in digits else int(digits)


def region_names(table: pd.DataFrame) -> pd.Index:
    """Names ``chr1:100-200`` of a table's regions."""
    rows = zip(table["chrom"].tolist(), table["start"].tolist(), table["end"].tolist())
    return pd.Index([f"{chrom}:{start}-{end}" for chrom, start, end in rows], dtype=object)


def merge_overlaps(table: pd.DataFrame) -> pd.DataFrame:
    """Disjoint regions in genome order: regions connected by overlaps of at least one base become their hull."""
    ordered = sort_regions(table)
    if not len(ordered):
        return ordered
    start, end = interval_keys(ordered)
    reach = np.maximum.accumulate(end)
    first = np.append(True, start[1:] >= reach[:-1])
    last = np.append(first[1:], True)
    merged = ordered[first].reset_index(drop=True)
    merged["end"] = reach[last] & POSITION
    return merged


def interval_keys(table: pd.DataFrame, code: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Start and end as one ascending number line: chromosome number above, position in the lower 32 bits."""
    chrom = (table["chrom"].cat.codes.to_numpy() if code is None else code).astype(np.int64) << 32
    return chrom + table["start"].to_numpy(), chrom + table["end"].to_numpy()
