"""Which modality a table holds, and the split of a table that holds several.

A plain table says it by the user's word, else by ``var["feature_types"]``, else by its features: regions by their names
or coordinate columns, anything else is genes. A table of a MuData says it by its key. What no schema knows is left out
and named. No modality is known here by name: schemas are handed in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import MappedRows, MemoryRows, Rows
from syncyte.data.sources import Source, Table
from syncyte.errors import DataError, unknown
from syncyte.types import Schema

REGION = re.compile(r"^[^\s:]+[:\-_]\d+[\-_]\d+$")
COORDINATES = ({"chrom", "start", "end"}, {"chr", "start", "end"}, {"seqnames", "start", "end"})
PEAK_WIDTH = 10_000  # bp: a table of wider intervals under other names is one of annotated genes
LOOK = 2000  # names looked at


@dataclass(frozen=True)
class Assigned:
    """A table, or some columns of it, with the modality it was found to hold."""

    table: Table
    schema: Schema
    columns: NDArray[np.int64] | None
    how: str


def schema_named(name: str, schemas: Sequence[Schema]) -> Schema:
    """Find the schema that a user's word means.

    Raises
    ------
    DataError
        If no schema has it; the nearest name is offered.
    """
    for schema in schemas:
        if name.lower() in (schema.name, *schema.keys):
            return schema
    raise DataError(unknown("modality", name, [schema.name for schema in schemas]))


def assign(source: Source, schemas: Sequence[Schema], wanted: str | None, notes: list[str]) -> list[Assigned]:
    """Modalities of one source.

    Parameters
    ----------
    source
        The source.
    schemas
        Every modality there is.
    wanted
        Canonical name to keep alone, and what plain tables without feature types hold; None keeps all.
    notes
        Sentences on what was left out are added.

    Raises
    ------
    DataError
        If nothing known, or nothing wanted, is in it.
    """
    several = len(source.tables) > 1 or source.obs is not None
    found = [item for table in source.tables for item in _assign_table(table, schemas, wanted, several, notes)]
    if not found:
        held = ", ".join(repr(table.key) for table in source.tables if table.key) or "nothing"
        known = ", ".join(f"{schema.name} ({'/'.join(schema.keys)})" for schema in schemas)
        raise DataError(f"{source.label} holds no known modality (found: {held}; known: {known}). Rename its keys.")
    kept = [item for item in found if wanted in (None, item.schema.name)]
    if not kept:
        held = ", ".join(sorted({item.schema.name for item in found}))
        raise DataError(
            f"{source.label} has no modality {wanted!r} (it holds: {held}). Give a file that holds it, or leave "
            "out the modality (--modality)."
        )
    return kept


def _assign_table(
    table: Table, schemas: Sequence[Schema], wanted: str | None, several: bool, notes: list[str]
) -> list[Assigned]:
    if several:  # a key of a MuData
        for schema in schemas:
            if str(table.key).lower() in (schema.name, *schema.keys):
                return [Assigned(table, schema, None, f"key {table.key!r}")]
    types = _feature_types(table.var)
    if types is not None:
        found = _by_types(table, types, schemas, notes)
        if found or several:
            return found
    if several:
        notes.append(f"{table.label} was left out: no modality goes by the name {table.key!r}.")
        return []
    if wanted is not None:
        return [Assigned(table, schema_named(wanted, schemas), None, "as told")]
    if types is not None:
        raise DataError(
            f"{table.label}: no known feature type in var['feature_types'] (found: {', '.join(sorted(set(types)))}; "
            f"known: {', '.join(name for schema in schemas for name in schema.feature_types)}). Say what it is with "
            "modality (--modality)."
        )
    kind, how = _feature_kind(table.var)
    for schema in schemas:
        if schema.feature_kind == kind:
            return [Assigned(table, schema, None, how)]
    raise DataError(
        f"{table.label} looks like {kind}s ({how}), which no modality measures. Say what it is with --modality."
    )


def _feature_types(var: pd.DataFrame) -> pd.Series | None:
    for column in ("feature_types", "feature_type"):
        if column in var:
            types = var[column].astype(object).where(var[column].notna(), "unknown").astype(str)
            return types if (types != "unknown").any() else None
    return None


def _by_types(table: Table, types: pd.Series, schemas: Sequence[Schema], notes: list[str]) -> list[Assigned]:
    values = types.str.lower().to_numpy()
    found, taken = [], np.zeros(len(values), dtype=bool)
    for schema in schemas:
        names = {name.lower() for name in schema.feature_types} | set(schema.keys) | {schema.name}
        mine = np.isin(values, sorted(names))
        if mine.any():
            columns = None if mine.all() else np.flatnonzero(mine)
            found.append(Assigned(table, schema, columns, "var['feature_types']"))
            taken |= mine
    if found and not taken.all():
        left = types[~taken].value_counts()
        listed = ", ".join(f"{count:,} of type {name!r}" for name, count in left.items())
        notes.append(f"{table.label}: features left out, {listed}.")
    return found


def _feature_kind(var: pd.DataFrame) -> tuple[str, str]:
    names = [str(name) for name in var.index[:: max(1, len(var) // LOOK)]]
    like_region = sum(REGION.match(name) is not None for name in names)
    if names and like_region >= len(names) / 2:
        return "region", f"feature names such as {names[0]!r}"
    columns = {str(column).lower(): column for column in var.columns}
    for wanted in COORDINATES:
        if wanted <= set(columns):
            width = pd.to_numeric(var[columns["end"]], errors="coerce") - pd.to_numeric(
                var[columns["start"]], errors="coerce"
            )
            if width.median() <= PEAK_WIDTH and not _gene_columns(columns):
                return "region", "var columns with chromosome, start and end"
    return "gene", f"feature names such as {names[0]!r}" if names else "no features"


def _gene_columns(columns: dict[str, str]) -> bool:
    return any("gene" in name or "ensembl" in name or name == "symbol" for name in columns)


def split(rows: Rows, var: pd.DataFrame, columns: NDArray[np.int64] | None) -> tuple[Rows, pd.DataFrame]:
    """Take some columns of a table; on disk they are picked while reading."""
    if columns is None:
        return rows, var
    if isinstance(rows, MemoryRows):
        return replace(rows, matrix=rows.matrix[:, columns]), var.iloc[columns]
    target = np.full(rows.shape[1], -1, dtype=np.int64)
    target[columns] = np.arange(len(columns))
    return MappedRows(rows, target, len(columns)), var.iloc[columns]
