"""Parts of many files as one set of cells: names made unique, one feature space a modality, covariates side by side.

Names. Files with the same modality must not share cell names; where they do, all cells of the files concerned get the
file's stem in front (``lane1:AAAC-1``), and the report says which. Files with different modalities and the same name
describe the same cell. Counts stay in the parts and are read by rows. Leaves out making parts (``parts``) and running
many of them (``gather``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells, MappedRows, Part, Rows, StackedRows
from syncyte.data.covariates import combine
from syncyte.data.parts import FEW_REGIONS, open_part
from syncyte.genome.reference import Reference

FILE = "syncyte_file"  # obs column: stem of the file each cell came from


def join_parts(folders: Sequence[Path], reports: Sequence[dict[str, Any]], reference: Reference) -> Cells:
    """Cells of all parts, in the order of the files.

    Parameters
    ----------
    folders, reports
        Of the parts.
    reference
        What they were put on.

    Returns
    -------
    Cells
        Their report holds ``files`` (each file's own), ``prefixed`` and ``few_regions`` (a count) beside the usual.
    """
    regions = _regions(reference) if reference.index is not None else pd.DataFrame()
    opened = [open_part(folder, report, regions) for folder, report in zip(folders, reports, strict=True)]
    labels = stems([Path(report["file"]) for report in reports])
    names, prefixed = unique_names([cells.names for cells in opened], [_measured(cells) for cells in opened], labels)
    everyone = pd.Index(np.concatenate([index.to_numpy(dtype=object) for index in names])).unique()
    notes = [f"{labels[number]}: {note}" for number, report in enumerate(reports) for note in report["notes"]]
    if prefixed:
        notes.append(f"cell names occur in several files; the file's stem was put in front in: {', '.join(prefixed)}.")
    places, parts = _places(names, everyone), {}
    for name in dict.fromkeys(name for cells in opened for name in cells.parts):
        having = [number for number, cells in enumerate(opened) if name in cells.parts]
        parts[name] = _stack(
            name, [opened[number] for number in having], [places[number] for number in having], len(everyone)
        )
    obs = _covariates(opened, names, labels, everyone, notes)
    cells = Cells(obs, parts, {})
    return replace(cells, report=_report(cells, reports, reference, notes, prefixed))


def stems(paths: Sequence[Path]) -> list[str]:
    """A short name for each file, unlike any other: its stem, with its folder or a number where stems are the same."""
    names = [path.name.partition(".")[0] or path.name for path in paths]
    if len(set(names)) < len(names):
        again = {name for name in names if names.count(name) > 1}
        names = [f"{path.parent.name}_{name}" if name in again else name for name, path in zip(names, paths)]
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names[place] = name if seen[name] == 1 else f"{name}_{seen[name]}"
    return names


def _measured(cells: Cells) -> dict[str, NDArray[np.bool_]]:
    return {name: cells.present(name) for name in cells.parts}


def unique_names(
    names: Sequence[pd.Index], measured: Sequence[dict[str, NDArray[np.bool_]]], labels: Sequence[str]
) -> tuple[list[pd.Index], list[str]]:
    """Cell names of each file, with its label in front where two files of one modality share a name; those labels."""
    clashing: set[int] = set()
    for modality in dict.fromkeys(name for flags in measured for name in flags):
        having = [number for number, flags in enumerate(measured) if modality in flags]
        pool = [names[number][measured[number][modality]] for number in having]
        owner = np.repeat(having, [len(index) for index in pool])
        again = pd.Index(np.concatenate([index.to_numpy(dtype=object) for index in pool])).duplicated(keep=False)
        clashing |= set(owner[again].tolist())
    found = [
        index.map(lambda name, label=label: f"{label}:{name}") if number in clashing else index
        for number, (index, label) in enumerate(zip(names, labels, strict=True))
    ]
    return found, [labels[number] for number in sorted(clashing)]


def _regions(reference: Reference) -> pd.DataFrame:
    """Features of the reference's regions."""
    assert reference.index is not None
    table = reference.index.table()
    return table.assign(chrom=table["chrom"].astype(str)).set_axis(reference.index.names(), axis=0)


def _places(names: Sequence[pd.Index], everyone: pd.Index) -> list[NDArray[np.int64]]:
    """Where the cells of each file are among all; without looking names up where no file shares one with another."""
    edges = np.cumsum([0, *map(len, names)])
    if edges[-1] == len(everyone):
        return [np.arange(begin, end) for begin, end in pairwise(edges)]
    return [everyone.get_indexer(own).astype(np.int64) for own in names]


def _stack(name: str, cells: Sequence[Cells], places: Sequence[NDArray[np.int64]], count: int) -> Part:
    """One modality of several parts, one below the other, in one feature space."""
    parts = [item.parts[name] for item in cells]
    var = parts[0].var
    if any(part.var is not var and not part.features.equals(var.index) for part in parts):
        union = pd.Index(np.concatenate([part.features.to_numpy(dtype=object) for part in parts])).unique()
        joined = pd.concat([part.var for part in parts])
        var = joined[~joined.index.duplicated()].reindex(union)
    rows: list[Rows] = []
    for part in parts:
        same = part.var is var or part.features.equals(var.index)
        target = np.zeros(0, dtype=np.int64) if same else var.index.get_indexer(part.features).astype(np.int64)
        rows.append(part.rows if same else MappedRows(part.rows, target, len(var)))
    index = np.full(count, -1, dtype=np.int64)
    starts = np.cumsum([0, *(part.rows.shape[0] for part in parts)])
    for part, own, start in zip(parts, places, starts):
        have = part.index >= 0
        index[own[have]] = part.index[have] + start
    return Part(rows[0] if len(rows) == 1 else StackedRows(tuple(rows)), index, var)


def _covariates(
    cells: Sequence[Cells], names: Sequence[pd.Index], labels: Sequence[str], everyone: pd.Index, notes: list[str]
) -> pd.DataFrame:
    """Covariates of all cells and the file of each; tables without a cell in common are laid below each other first."""
    groups: list[tuple[set[str], list[pd.DataFrame], list[str]]] = []
    tables = [
        item.obs.set_axis(index, axis=0).assign(**{FILE: pd.Categorical([label] * len(index))})
        for item, index, label in zip(cells, names, labels)
    ]
    if sum(map(len, names)) == len(everyone):
        return _below(tables)
    for item, table, label in zip(cells, tables, labels):
        for held, below, who in groups:
            if held & set(item.parts):  # files with a modality in common have no cell in common
                held |= set(item.parts)
                below.append(table)
                who.append(label)
                break
        else:
            groups.append((set(item.parts), [table], [label]))
    stacked = [(", ".join(who[:3]), _below(below).drop(columns=FILE)) for _, below, who in groups]
    files = pd.concat([table[FILE].astype(object) for table in tables])
    files = files[~files.index.duplicated()].reindex(everyone).astype("category")
    return combine(everyone, stacked, notes).assign(**{FILE: files})


def _below(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other; columns that are categories in each stay categories."""
    obs = pd.concat(tables)
    for key in obs.columns:
        kinds = [table[key].dtype for table in tables if key in table]
        if all(isinstance(kind, pd.CategoricalDtype) for kind in kinds):
            obs[key] = obs[key].astype("category")
    return obs


def _report(
    cells: Cells, reports: Sequence[dict[str, Any]], reference: Reference, notes: list[str], prefixed: list[str]
) -> dict[str, Any]:
    """The report of reading, over all files, with each file's own."""
    report: dict[str, Any] = {
        "sources": [source for report in reports for source in report["source"]],
        "cells": len(cells),
        "features": {},
        "reference": {"name": reference.name, "hash": reference.hash},
    }
    for name, part in cells.parts.items():
        mine = [report["modalities"][name] for report in reports if name in report["modalities"]]
        total = sum(found["total"] for found in mine)
        report[name] = {"cells": int((part.index >= 0).sum()), "features": len(part.var), "total": total}
        report[name]["counts"] = "; ".join(dict.fromkeys(found["counts"] for found in mine if found["counts"]))
        said = f"{len(part.var):,} features of the reference {reference.name!r} from {len(mine):,} files"
        if all("lost" in found for found in mine):
            lost = sum(found["lost"] * found["total"] for found in mine) / total if total else 0.0
            few = sum(found["few_regions"] for found in mine)
            report[name] |= {"lost": lost, "few_regions": few}
            said += (
                f"; {lost:.2%} of the counts lie in no region; {few:,} cells have fewer than {FEW_REGIONS} open regions"
            )
        report["features"][name] = said
    report["modalities"] = list(cells.parts)
    present = [part.index >= 0 for part in cells.parts.values()]
    report["paired"] = int(np.all(present, axis=0).sum()) if len(present) > 1 else 0
    return {**report, "notes": notes, "files": list(reports), "prefixed": prefixed}


def few_regions(cells: Cells, modalities: Sequence[str]) -> pd.DataFrame:
    """Cells with fewer than ``FEW_REGIONS`` open regions: ``modality``, ``cell``, ``file``, ``regions``.

    Parameters
    ----------
    cells
        From ``join_parts``: the lengths of rows are known without reading them.
    modalities
        Those that lie on regions.
    """
    found = []
    for name in modalities:
        part = cells.parts[name]
        rows: Any = part.rows.sources if isinstance(part.rows, StackedRows) else (part.rows,)
        lengths = np.concatenate([np.diff(source.indptr) for source in rows])
        have = np.flatnonzero(part.index >= 0)
        count = lengths[part.index[have]]
        few = count < FEW_REGIONS
        columns = {"modality": name, "cell": cells.names[have[few]], "file": cells.obs[FILE].iloc[have[few]].to_numpy()}
        found.append(pd.DataFrame({**columns, "regions": count[few]}))
    return (
        pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["modality", "cell", "file", "regions"])
    )
