"""One feature space per modality, from one or many tables.

Genes go through ``genome.genes`` and several tables end on the union of their names. Regions go through
``genome.regions``: canonical names ``chr:start-end``, the reference's regions where it has any, else the merged set of
all tables. What is neither is taken by name. Counts are not touched here: columns are mapped while they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import MappedRows, RegroupedRows, Rows
from syncyte.data.place import How, Located, locate, naming, place, table_of
from syncyte.types import Schema

if TYPE_CHECKING:
    from syncyte.genome.reference import Reference

ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl_gene_id", "ensembl", "feature_id", "ensembl_ids")
NO_REFERENCE = "names taken as they are, no reference was given"


@dataclass(frozen=True)
class Columns:
    """Features of one table and the rows that hold them."""

    label: str
    rows: Rows
    var: pd.DataFrame


@dataclass(frozen=True)
class Named:
    """Rows of every table in one feature space.

    Attributes
    ----------
    rows
        One entry a table, all with the columns of ``var``.
    var
        The features; its index holds their names.
    sentence
        What was mapped and how, for people.
    details
        The same for programs.
    notes
        What else is worth knowing.
    """

    rows: list[Rows]
    var: pd.DataFrame
    sentence: str
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def harmonise(tables: Sequence[Columns], schema: Schema, reference: Reference | None, how: How) -> Named:
    """Bring tables of one modality into one feature space.

    Parameters
    ----------
    tables
        At least one.
    schema
        The modality.
    reference
        Names and places to map to, or None.
    how
        How regions are put on those of the reference.

    Raises
    ------
    GenomeError
        If names cannot be parsed, fit another genome build, or too few are known to the reference.
    """
    if schema.feature_kind == "gene":
        return _genes(tables, reference)
    if schema.feature_kind == "region":
        return _regions(tables, reference, how)
    names = [pd.Index(table.var.index.astype(str)) for table in tables]
    union = pd.Index(np.concatenate([index.to_numpy(dtype=object) for index in names])).unique()
    targets = [union.get_indexer(index) for index in names]
    sentence = f"{len(union):,} features: {NO_REFERENCE}"
    return Named(_mapped(tables, targets, len(union)), pd.DataFrame(index=union), sentence)


def _mapped(tables: Sequence[Columns], targets: Sequence[NDArray], width: int) -> list[Rows]:
    """Rows in the new space; a table that is in it already stays as it is."""
    return [
        table.rows
        if width == table.rows.shape[1] and np.array_equal(target, np.arange(width))
        else MappedRows(table.rows, np.asarray(target, dtype=np.int64), width)
        for table, target in zip(tables, targets, strict=True)
    ]


def _said(tables: Sequence[Columns], sentences: Sequence[str]) -> str:
    """One sentence for all tables, or each with the name of its table."""
    if len(set(sentences)) == 1:
        return sentences[0]
    return "; ".join(f"{table.label}: {text}" for table, text in zip(tables, sentences, strict=True))


def _genes(tables: Sequence[Columns], reference: Reference | None) -> Named:
    from syncyte.genome.genes import map_genes

    maps = []
    for table in tables:
        with naming(table.label):
            maps.append(map_genes(table.var.index, reference, _ids(table.var)))
    union = pd.Index(np.concatenate([found.names.to_numpy(dtype=object) for found in maps])).unique()
    places = [np.append(union.get_indexer(found.names), -1) for found in maps]
    targets = [place[found.target] for place, found in zip(places, maps, strict=True)]
    var = pd.DataFrame(index=union)
    ids = [_ids(table.var) for table in tables]
    if any(column is not None for column in ids):
        var["gene_id"] = _first_ids(ids, targets, len(union))
    sentence = _said(tables, [found.sentence for found in maps])
    if len(tables) > 1:
        shared = int((np.bincount(np.concatenate([np.unique(t[t >= 0]) for t in targets])) == len(tables)).sum())
        sentence += f"; {len(union):,} genes in all, {shared:,} of them in every table"
    details = {
        "mapping": {table.label: found.counts for table, found in zip(tables, maps, strict=True)},
        "unmapped": sorted({str(name) for found in maps for name in found.unmapped})[:50],
    }
    return Named(_mapped(tables, targets, len(union)), var, sentence, details, _gene_notes(tables, maps))


def _ids(var: pd.DataFrame) -> pd.Series | None:
    columns = {str(column).lower(): column for column in reversed(var.columns)}
    name = next((columns[key] for key in ID_COLUMNS if key in columns), None)
    return None if name is None else var[name].astype(object).where(var[name].notna(), "").astype(str)


def _first_ids(ids: Sequence[pd.Series | None], targets: Sequence[NDArray], width: int) -> NDArray:
    """Id of each gene from the first column that has one."""
    found = np.full(width, "", dtype=object)
    for column, target in reversed(list(zip(ids, targets, strict=True))):
        if column is not None:
            keep = np.flatnonzero((target >= 0) & (column != "").to_numpy())[::-1]
            found[target[keep]] = column.to_numpy(dtype=object)[keep]
    return found


def _gene_notes(tables: Sequence[Columns], maps: Sequence[Any]) -> list[str]:
    notes = []
    for table, found in zip(tables, maps, strict=True):
        lost = int((found.target < 0).sum())
        if lost > len(found.target) / 2:
            shown = ", ".join(map(str, found.unmapped[:5]))
            notes.append(
                f"{table.label}: {lost:,} of {len(found.target):,} genes are unknown to the reference ({shown} ...)."
            )
    return notes


def _regions(tables: Sequence[Columns], reference: Reference | None, how: How) -> Named:
    from syncyte.genome.coordinates import region_names

    located = [locate(table.label, table.var, reference, how) for table in tables]
    if reference is not None and reference.index is not None:
        return _on_reference(tables, located, reference, how)
    parsed = [found.table for found in located]
    builds = {table.label: found.details["build"] for table, found in zip(tables, located) if "build" in found.details}
    notes = [note for found in located for note in found.notes]
    start = Named([], pd.DataFrame(), "", {"build": builds} if builds else {}, notes)
    names = [region_names(places) for places in parsed]
    if all(set(index) == set(names[0]) for index in names[1:]):
        return _same_regions(tables, parsed[0], names, reference, start)
    return _merged_regions(tables, parsed, reference, start)


def _on_reference(tables: Sequence[Columns], located: Sequence[Located], reference: Reference, how: How) -> Named:
    """Put tables on the regions of the reference that any of them reaches."""
    index = reference.index
    assert index is not None
    maps = [place(table.label, found, reference, how) for table, found in zip(tables, located, strict=True)]
    used = np.unique(np.concatenate([found.target for found in maps]))
    rows: list[Rows] = []
    for table, found in zip(tables, maps, strict=True):
        moved = replace(table_of(found, len(used)), target=np.searchsorted(used, found.target).astype(np.int32))
        same = len(moved.target) == table.rows.shape[1] == len(used) and bool(found.kept.all())
        same = same and np.array_equal(moved.target, np.arange(len(used)))
        rows.append(table.rows if same else RegroupedRows(table.rows, moved))
    labels = [table.label for table in tables]
    details: dict[str, Any] = {
        key: {label: found.details[key] for label, found in zip(labels, located) if key in found.details}
        for key in ("build", "liftover")
        if any(key in found.details for found in located)
    }
    details["mapping"] = {label: found.counts for label, found in zip(labels, maps)}
    details["unmapped"] = sorted({name for found in maps for name in found.unmapped})[:50]
    var = index.table(used).set_axis(index.names(used), axis=0)
    sentence = _said(tables, [found.sentence for found in maps])
    return Named(rows, _plain(var), sentence, details, [note for found in located for note in found.notes])


def _merged_regions(
    tables: Sequence[Columns], parsed: list[pd.DataFrame], reference: Reference | None, named: Named
) -> Named:
    """Put tables on the merged set of all their peaks."""
    from syncyte.genome.coordinates import region_names
    from syncyte.genome.regions import assign_regions, merge_region_sets

    merged = merge_region_sets(parsed)
    targets = [assign_regions(places, merged) for places in parsed]
    var = merged.set_axis(region_names(merged), axis=0)
    sentence = f"{merged.attrs['sentence']}; {_why_own(reference)}"
    return Named(_mapped(tables, targets, len(var)), _plain(var), sentence, named.details, named.notes)


def _same_regions(
    tables: Sequence[Columns],
    places: pd.DataFrame,
    names: list[pd.Index],
    reference: Reference | None,
    named: Named,
) -> Named:
    """Leave tables with the same regions on them; their order is the first table's."""
    first = ~names[0].duplicated()
    union = names[0][first]
    var = _plain(places[first].set_axis(union, axis=0))
    sentence = f"{len(union):,} regions: {_why_own(reference)}"
    rows = _mapped(tables, [union.get_indexer(index) for index in names], len(union))
    return Named(rows, var, sentence, named.details, named.notes)


def _plain(var: pd.DataFrame) -> pd.DataFrame:
    """Chromosomes as text, no leftovers of the making."""
    plain = pd.DataFrame({"chrom": var["chrom"].astype(str), "start": var["start"], "end": var["end"]})
    plain.index.name = None
    return plain


def _why_own(reference: Reference | None) -> str:
    return (
        NO_REFERENCE
        if reference is None
        else f"coordinates taken as they are, the reference {reference.name!r} holds no regions"
    )
