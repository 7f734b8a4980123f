"""The front door: whatever a user has, as cells.

``open_cells`` leaves counts on disk; ``read`` gives a MuData in memory. Both find the raw counts, tell modalities by
content, name features, match cells between files by name, and record every choice in a report. What the user hands in
is never changed.

Rules. Sources with different modalities and the same cell name describe the same cell. Sources with the same modality
are stacked and must not share cell names. Cells keep the order of the sources, within a MuData its own. Cells without
any known modality are left out and counted; cells without any count are kept and counted.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from syncyte.data.assign import assign, schema_named, split
from syncyte.data.cells import Cells, Part, Rows, StackedRows
from syncyte.data.counts import empty_cells, find_counts, layer_name
from syncyte.data.covariates import combine, unprefixed
from syncyte.data.harmonise import Columns, harmonise
from syncyte.data.place import How
from syncyte.data.sources import Source, kind_of, open_source
from syncyte.errors import DataError, unknown
from syncyte.types import Schema, json_ready

if TYPE_CHECKING:
    from mudata import MuData

    from syncyte.genome.reference import Reference


@dataclass(frozen=True)
class _Piece:
    """One modality of one source, with its counts found."""

    label: str
    schema: Schema
    names: pd.Index
    rows: Rows
    var: pd.DataFrame
    slot: str
    counts: str
    how: str
    empty: int | None


def open_cells(
    source: Any,
    *,
    schemas: Sequence[Schema],
    modality: str | None = None,
    reference: Reference | str | os.PathLike[str] | None = None,
    layer: str | None = None,
    force: bool = False,
) -> Cells:
    """Open cells; counts of files stay on disk.

    Parameters
    ----------
    source
        Path, AnnData, MuData, or a list of these. Files: ``.h5ad``, ``.h5mu``, ``.zarr`` (AnnData or MuData), 10x
        ``.h5``, mtx folder, store. Cells that are open already come back as they are.
    schemas
        Every modality there is (``syncyte.modalities.all_schemas()``).
    modality
        What a plain table holds, where neither its feature types nor its features say it; of a source with several
        modalities, the one to keep.
    reference
        A reference or the path of one: maps genes and regions to its names. None takes names as they are.
    layer
        Where the raw counts are: ``X``, ``raw`` or the name of a layer. None finds them.
    force
        Go on although regions look like those of another genome build.

    Raises
    ------
    DataError
        If a source cannot be read or holds no raw counts, names collide, or nothing known is in it.
    GenomeError
        If regions cannot be parsed, do not fit the reference, or no feature is in it.
    """
    if isinstance(source, Cells):
        return source
    items = list(source) if isinstance(source, list | tuple) else [source]
    if not items:
        raise DataError("No input was given. Name at least one file.")
    wanted = schema_named(modality, schemas).name if modality else None
    if len(items) == 1 and reference is None and _is_store(items[0]):
        from syncyte.data.store import open_store

        cells = open_store(items[0])
        return cells.only([wanted]) if wanted else cells
    sources = [open_source(item, wanted) for item in items]
    notes: list[str] = []
    try:
        pieces = _pieces(sources, schemas, wanted, layer, notes)
        return _assemble(sources, pieces, schemas, _reference(reference), force, notes)
    finally:
        _close(sources)


def _close(sources: Sequence[Source]) -> None:
    """Close files until the first read: nothing keeps a user from mending and saving them after an error."""
    for source in sources:
        for table in source.tables:
            for slot in table.slots:
                if slot.handle is not None:
                    slot.handle.close()


def _is_store(item: Any) -> bool:
    return isinstance(item, str | os.PathLike) and Path(item).is_dir() and kind_of(Path(item)) == "store"


def _reference(reference: Any) -> Reference | None:
    if isinstance(reference, str | os.PathLike):
        from syncyte.genome.reference import Reference

        return Reference.load(Path(reference))
    return reference


def _pieces(
    sources: Sequence[Source], schemas: Sequence[Schema], wanted: str | None, layer: str | None, notes: list[str]
) -> list[_Piece]:
    held = {layer_name(slot.name) for source in sources for table in source.tables for slot in table.slots}
    if layer is not None and layer not in held:
        raise DataError(f"{sources[0].label}: {unknown('layer', layer, held)}")
    pieces = []
    for source in sources:
        if source.obs is not None:
            _check_names(source.obs.index, source.label, "mdata.obs_names_make_unique()")
        for item in assign(source, schemas, wanted, notes):
            table = item.table
            names = pd.Index(table.obs.index.astype(str))
            _check_names(names, table.label, "adata.obs_names_make_unique()")
            own = layer if layer in {layer_name(slot.name) for slot in table.slots} else None
            counts = find_counts(table.slots, names, table.label, own)
            notes.extend(counts.notes)
            rows, var = split(counts.rows, counts.var, item.columns)
            empty = counts.empty if item.columns is None else empty_cells(rows)
            if empty == len(names):
                raise DataError(
                    f"{table.label} holds nothing but zeros in its {item.schema.name} features. Check the step that "
                    "wrote it, or leave that modality out."
                )
            pieces.append(
                _Piece(table.label, item.schema, names, rows, var, counts.slot, counts.sentence, item.how, empty)
            )
    return pieces


def _check_names(names: pd.Index, label: str, line: str) -> None:
    twice = names[names.duplicated()]
    if len(twice):
        raise DataError(
            f"{label} has {len(twice.unique()):,} cell names that occur more than once (first: {twice[0]!r}). "
            f"Names tell cells apart; make them unique and save again: {line}"
        )


def _assemble(
    sources: Sequence[Source],
    pieces: Sequence[_Piece],
    schemas: Sequence[Schema],
    reference: Reference | None,
    force: bool,
    notes: list[str],
) -> Cells:
    names = _order(sources, pieces, notes)
    parts: dict[str, Part] = {}
    report: dict[str, Any] = {"sources": [source.origin for source in sources], "cells": len(names), "features": {}}
    report["reference"] = None if reference is None else {"name": reference.name, "hash": reference.hash}
    for schema in schemas:
        mine = [piece for piece in pieces if piece.schema.name == schema.name]
        if not mine:
            continue
        _check_collisions(mine)
        columns = [Columns(piece.label, piece.rows, piece.var) for piece in mine]
        named = harmonise(columns, schema, reference, How(force=force))
        rows = named.rows[0] if len(mine) == 1 else StackedRows(tuple(named.rows))
        index = pd.Index(np.concatenate([piece.names.to_numpy(dtype=object) for piece in mine])).get_indexer(names)
        parts[schema.name] = Part(rows, index.astype(np.int64), named.var)
        report["features"][schema.name] = named.sentence
        report[schema.name] = {**_counts_report(mine, schema, notes), "features": len(named.var), **named.details}
        notes.extend(named.notes)
    report["modalities"] = list(parts)
    report["paired"] = int(np.all([part.index >= 0 for part in parts.values()], axis=0).sum()) if len(parts) > 1 else 0
    obs = combine(names, _covariates(sources), notes)
    report["notes"] = notes
    return Cells(obs, parts, json_ready(report))


def _order(sources: Sequence[Source], pieces: Sequence[_Piece], notes: list[str]) -> pd.Index:
    """All cell names, in the sources' order; cells without a known modality are left out."""
    measured = pd.Index(np.concatenate([piece.names.to_numpy(dtype=object) for piece in pieces])).unique()
    listed: list[pd.Index] = []
    for source in sources:
        indexes = [table.obs.index for table in source.tables]
        listed += [
            pd.Index(index.astype(str)) for index in ([source.obs.index] if source.obs is not None else []) + indexes
        ]
    everyone = pd.Index(np.concatenate([index.to_numpy(dtype=object) for index in listed])).unique()
    names = everyone[everyone.isin(measured)]
    if len(names) < len(everyone):
        notes.append(
            f"{len(everyone) - len(names):,} of {len(everyone):,} cells were left out: none of the modalities read has "
            "them."
        )
    return names


def _check_collisions(pieces: Sequence[_Piece]) -> None:
    for place, piece in enumerate(pieces):
        for other in pieces[:place]:
            shared = piece.names[piece.names.isin(other.names)]
            if len(shared):
                raise DataError(
                    f"{other.label} and {piece.label} both hold {piece.schema.name} and share {len(shared):,} cell "
                    f"names (first: {shared[0]!r}). If they are the same cells, give one of the two only. If not, give "
                    f'those of {piece.label} names of their own and save it: adata.obs_names = "b_" + adata.obs_names'
                )


def _counts_report(pieces: Sequence[_Piece], schema: Schema, notes: list[str]) -> dict[str, Any]:
    cells = sum(len(piece.names) for piece in pieces)
    known = [piece.empty for piece in pieces if piece.empty is not None]
    empty = sum(known) if len(known) == len(pieces) else None
    if empty:
        sentence = f"{schema.name}: {empty:,} of {cells:,} cells have no count at all (depth 0); they are kept."
        notes.append(sentence)
        warnings.warn(sentence, stacklevel=5)
    by_counts: dict[str, list[str]] = {}
    for piece in pieces:
        by_counts.setdefault(piece.counts, []).append(piece.label)
    said = "; ".join(text if len(by_counts) == 1 else f"{', '.join(who)}: {text}" for text, who in by_counts.items())
    return {
        "cells": cells,
        "counts": said,
        "slots": {piece.label: piece.slot for piece in pieces},
        "told_by": {piece.label: piece.how for piece in pieces},
        "depth_zero": empty,
    }


def _covariates(sources: Sequence[Source]) -> list[tuple[str, pd.DataFrame]]:
    """Tables of covariates in order of trust: shared ones, each modality's, then prefixed copies."""

    def named(table: pd.DataFrame) -> pd.DataFrame:
        return table.set_axis(table.index.astype(str), axis=0)

    shared = [(source.label, named(source.obs)) for source in sources if source.obs is not None]
    own = [(table.label, named(table.obs)) for source in sources for table in source.tables]
    copies = [
        item
        for source in sources
        if source.obs is not None
        for item in unprefixed(named(source.obs), {str(table.key): set(table.obs.columns) for table in source.tables})
    ]
    return [*shared, *own, *copies]


def read(
    source: Any,
    *,
    schemas: Sequence[Schema],
    modality: str | None = None,
    reference: Reference | str | os.PathLike[str] | None = None,
    layer: str | None = None,
    force: bool = False,
) -> MuData:
    """Read cells into a new MuData: modalities under their own names, raw counts in ``X``, covariates in ``obs``.

    Options as in ``open_cells``. The report lies as JSON in ``uns["syncyte_read"]``. All counts come into memory; for
    what does not fit, ``open_cells`` or a store.
    """
    cells = open_cells(source, schemas=schemas, modality=modality, reference=reference, layer=layer, force=force)
    return to_mudata(cells)


def to_mudata(cells: Cells) -> MuData:
    """MuData in memory, in the order of the cells; each modality holds the cells that were measured in it."""
    from anndata import AnnData
    from mudata import MuData, set_options

    tables = {}
    for name, part in cells.parts.items():
        have = np.flatnonzero(part.index >= 0)
        obs = pd.DataFrame(index=cells.names[have].astype(str))
        tables[name] = AnnData(cells.counts(name, have), obs=obs, var=part.var.copy())
    with set_options() as options:
        before = {key: options[key] for key in ("pull_on_update",) if key in options}
    set_options(**dict.fromkeys(before, False))
    try:
        mdata = MuData(tables)
        if not mdata.obs_names.equals(cells.names):
            mdata = mdata[cells.names.to_numpy()].copy()
        for column in cells.obs:
            mdata.obs[column] = cells.obs[column].reindex(mdata.obs_names)
    finally:
        set_options(**before)
    mdata.uns["syncyte_read"] = json.dumps(cells.report)
    return mdata
