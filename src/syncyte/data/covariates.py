"""One table of covariates from many: shared ``obs``, each modality's ``obs``, and the prefixed copies of MuData.

A column that occurs in several tables becomes one, filled from the first table that knows a cell. Where tables
disagree the first wins and a sentence says so. ``rna:batch``, as MuData writes it, stays and also fills ``batch``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd


def combine(names: pd.Index, tables: Sequence[tuple[str, pd.DataFrame]], notes: list[str]) -> pd.DataFrame:
    """Covariates of all cells.

    Parameters
    ----------
    names
        Cell names, unique, in the order of the result.
    tables
        (label, table) in order of trust; each index holds unique cell names.
    notes
        A sentence is added for each pair of tables that disagrees.
    """
    columns: dict[str, pd.Series] = {}
    origin: dict[str, str] = {}
    for label, table in tables:
        whole = table.index.equals(names)
        quarrels = []
        for key in dict.fromkeys(map(str, table.columns)):
            column = table[key] if key in table else table.iloc[:, list(map(str, table.columns)).index(key)]
            column = column.iloc[:, 0] if isinstance(column, pd.DataFrame) else column
            column = column if whole else column.reindex(names)
            if key not in columns:
                columns[key], origin[key] = column, label
                continue
            columns[key], cells = _fill(columns[key], column)
            if cells:
                quarrels.append(f"{key!r} ({cells:,} cells, first kept: {origin[key]})")
        if quarrels:
            notes.append(f"{label} disagrees with other tables on obs column {', '.join(quarrels)}.")
    obs = pd.DataFrame({key: _tidy(column) for key, column in columns.items()}, index=names)
    obs.index.name = None
    return obs


def unprefixed(obs: pd.DataFrame, held: Mapping[str, Collection[str]]) -> list[tuple[str, pd.DataFrame]]:
    """Columns that MuData named ``key:column``, under their own names, one table a key.

    ``held`` has the columns of each modality's own table; copies of those are left out.
    """
    found = []
    for key, own in held.items():
        mine = {column: str(column)[len(key) + 1 :] for column in obs.columns if str(column).startswith(f"{key}:")}
        table = obs[[column for column, name in mine.items() if name not in own]].rename(columns=mine)
        if len(table.columns):
            found.append((f"columns {key}:*", table.loc[:, ~table.columns.duplicated()]))
    return found


def _fill(first: pd.Series, second: pd.Series) -> tuple[pd.Series, int]:
    """``first`` with its gaps filled from ``second``, and in how many cells the two differ."""
    have, more = first.notna().to_numpy(), second.notna().to_numpy()
    both, gaps = have & more, more & ~have
    differ = int(_different(first[both], second[both]).sum()) if both.any() else 0
    if not gaps.any():
        return first, differ
    if first.dtype == second.dtype and not isinstance(first.dtype, pd.CategoricalDtype):
        return first.where(have, second), differ
    merged = first.astype(object).where(have, second.astype(object))
    if isinstance(first.dtype, pd.CategoricalDtype):
        return merged.astype("category"), differ
    return merged.infer_objects(), differ


def _different(first: pd.Series, second: pd.Series) -> np.ndarray:
    left, right = first.to_numpy(dtype=object), second.to_numpy(dtype=object)
    same = left == right
    if same.all():
        return ~same
    return ~(same | (left.astype(str) == right.astype(str)))


def _tidy(column: pd.Series) -> pd.Series:
    """Drop categories no cell has; give back whole numbers that a detour over gaps made floats."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories()
    return column
