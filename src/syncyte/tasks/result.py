"""What a task gives back, and the one place that writes it into a user's AnnData or MuData.

A ``Result`` is plain data beside the names of the cells it is about. Nothing is written unless ``write`` is called, and
``write`` adds slots and touches nothing else. Slots, for the stem ``syncyte`` (``key_added`` changes the stem):

=====================================  ==============================================================
``obsm["X_syncyte"]``                  embedding; ``X_syncyte_integrated`` after ``integrate``
``obs["syncyte_<label key>"]``         predicted label, ``obs["syncyte_confidence"]`` beside it
``layers["syncyte_from_<a>"]``         a predicted modality, in the AnnData that holds its features
``uns["syncyte"]["<task>"]``           provenance as one JSON text (HDF5 keeps neither None nor lists of dicts)
``uns["syncyte"]["<task>_<table>"]``   tables of the task
=====================================  ==============================================================

In MuData the first two go to the top-level ``obs`` and ``obsm``. Leaves out: files (``tasks.write``), reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.errors import DataError, unknown
from syncyte.types import json_ready

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure
    from mudata import MuData

    Annotated = TypeVar("Annotated", AnnData, MuData)

STEM = "syncyte"


@dataclass(frozen=True)
class Layer:
    """A predicted matrix over features by name.

    Attributes
    ----------
    values
        ``(cells, f)`` float32, dense or CSR, rows in the order of the result's cells.
    features
        ``(f,)`` names of the columns.
    modality
        Which AnnData of a MuData it belongs to; where none has this name, the one sharing most features.
    """

    values: NDArray[np.float32] | sp.csr_matrix
    features: pd.Index
    modality: str = ""


@dataclass(frozen=True)
class Slots:
    """What goes into one object: values aligned to its cells, and the record for ``uns``."""

    obsm: dict[str, NDArray[Any]]
    obs: dict[str, pd.Series]
    layers: dict[str, Layer]
    tables: dict[str, pd.DataFrame]
    record: dict[str, Any]

    def names(self) -> dict[str, list[str]]:
        """Keys by place."""
        return {"obsm": sorted(self.obsm), "obs": sorted(self.obs), "layers": sorted(self.layers)}


@dataclass(frozen=True)
class Result:
    """The outcome of one task on one set of cells.

    Attributes
    ----------
    task
        ``embed``, ``integrate``, ``annotate``, ``translate`` ...
    cells
        Unique cell names, in the user's order.
    obsm
        Slot name to ``(cells, k)`` values.
    obs
        Slot name to one value a cell.
    layers
        Slot name to predicted matrix.
    uns
        Name to table.
    provenance
        JSON-ready: recipe, run hash, version, seed, coverage report, time, settings.
    metrics
        Name to number.
    """

    task: str
    cells: pd.Index
    obsm: dict[str, NDArray[Any]] = field(default_factory=dict)
    obs: dict[str, pd.Series | NDArray[Any]] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    uns: dict[str, pd.DataFrame] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_duplicates(self.cells, "The result")
        matrices: dict[str, Any] = {**self.obsm, **{key: layer.values for key, layer in self.layers.items()}}
        for key, values in [*matrices.items(), *self.obs.items()]:
            if values.shape[0] != len(self.cells):
                raise DataError(
                    f"The slot {key!r} of the {self.task} result has {values.shape[0]:,} rows for {len(self.cells):,} "
                    "cells. Give one row a cell, in the order of the cells."
                )

    def write(self, data: Annotated, key_added: str | None = None, overwrite: bool = False) -> Annotated:
        """Add the result to ``data`` in place and return the same object.

        Cells are matched by name; cells the result does not know get NaN or ``""``. Order, ``X`` and all other slots
        stay as they are. Slots that syncyte wrote before are replaced.

        Raises
        ------
        DataError
            If a slot of that name exists that syncyte did not write (pass ``overwrite=True`` or another ``key_added``),
            no cell or feature is known, or cell names repeat.
        """
        slots = self.slots(data.obs_names, key_added)
        hosts = {key: find_host(layer, _hosts(data)) for key, layer in slots.layers.items()}
        holders = {"obsm": list(data.obsm.keys()), "obs": list(data.obs.columns)}
        holders["layers"] = [key for key, host in hosts.items() if key in _hosts(data)[host].layers]
        stem = key_added or STEM
        held = data.uns.get(stem, {})
        earlier = refuse_foreign(slots, holders, held, self.task, stem, overwrite)
        for key, host in hosts.items():
            adata = _hosts(data)[host]
            adata.layers[key] = align_layer(slots.layers[key], self.cells, adata.obs_names, adata.var_names)
        for key, values in slots.obsm.items():
            data.obsm[key] = values
        for key, column in slots.obs.items():
            data.obs[key] = column
        kept = dict(held) if isinstance(held, Mapping) else {}
        data.uns[stem] = {**kept, **uns_entries(slots, self.task, earlier)}
        return data

    def slots(self, names: pd.Index, key_added: str | None = None) -> Slots:
        """Values aligned to other cells by name, under the names of the slots."""
        refuse_duplicates(names, "The data to write into")
        where = self.cells.get_indexer(names)
        if len(names) and not (where >= 0).any():
            raise DataError(
                f"None of the {len(names):,} cells to write into ({', '.join(map(str, names[:2]))} ...) is among the "
                f"{len(self.cells):,} cells of the result ({', '.join(map(str, self.cells[:2]))} ...). "
                "Write into the object or file that the task was given."
            )
        record = {**self.provenance, "task": self.task, "metrics": self.metrics}
        return Slots(
            obsm={slot(key, key_added): _align_rows(values, where) for key, values in self.obsm.items()},
            obs={slot(key, key_added): _align_column(column, where, names) for key, column in self.obs.items()},
            layers={slot(key, key_added): layer for key, layer in self.layers.items()},
            tables={key.replace("/", "_"): _storable(table) for key, table in self.uns.items()},
            record=record,
        )

    def table(self) -> pd.DataFrame:
        """One row a cell: the columns of ``obs``, then the components of ``obsm`` as ``<slot>_1``, ``<slot>_2`` ..."""
        columns: dict[str, Any] = {key: np.asarray(values) for key, values in self.obs.items()}
        for key, values in self.obsm.items():
            columns |= {f"{key}_{number + 1}": values[:, number] for number in range(values.shape[1])}
        return pd.DataFrame(columns, index=self.cells)

    def predicted(self, key: str | None = None) -> AnnData:
        """One predicted matrix as an AnnData of its own: cells by predicted features."""
        from anndata import AnnData

        if not self.layers or (key is not None and key not in self.layers):
            raise DataError(unknown("predicted layer", str(key), self.layers))
        layer = self.layers[key or next(iter(self.layers))]
        table = pd.DataFrame({name: np.asarray(values) for name, values in self.obs.items()}, index=self.cells)
        return AnnData(X=layer.values, obs=table, var=pd.DataFrame(index=layer.features))

    def plot(self, color: str | pd.Series | NDArray[Any] | None = None, seed: int = 0) -> Figure:
        """Draw the result: UMAP of the embedding (at most 5,000 cells), labels, histograms of confidence.

        ``color`` is a column of the result's ``obs``, a Series by cell name, or one value a cell.
        """
        from syncyte.tasks.plot import plot_result

        return plot_result(self, color, seed)


@dataclass(frozen=True)
class Evaluation:
    """Plain data of an evaluation; ``report.build.report_from_evaluation`` makes the pages from it.

    Attributes
    ----------
    tables
        ``embed``, ``integrate``, ``annotate``, ``translate <a> to <b>``: rows are methods, columns are metrics, with
        ``<metric>_low`` and ``<metric>_high`` where there is an interval. ``depth``: by method the correlation of every
        axis with depth; ``depth equal``: scores at equal and at full depth. ``training``: step, epoch, stage, split,
        name, value. Any other name is printed as it is.
    arrays
        ``umap``: coordinates, label, batch. ``annotate``: truth, predicted, confidence. ``translate <a> to <b>``:
        per_feature, per_feature_baseline, per_feature_within, names (any of them).
    text
        Notes by the name of the table they belong to; also ``title``, ``summary``.
    provenance
        JSON-ready; ``coverage`` holds the report of the cells, ``command`` the command line.
    model
        Which row of the tables is the model.
    """

    tables: dict[str, pd.DataFrame]
    arrays: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    model: str = STEM


def slot(key: str, key_added: str | None = None) -> str:
    """Name of a slot under another stem: ``X_syncyte`` with ``mine`` is ``X_mine``. HDF5 allows no slash."""
    return key.replace(STEM, key_added or STEM, 1).replace("/", "_")


def read_provenance(data: AnnData | MuData, key_added: str | None = None) -> dict[str, dict[str, Any]]:
    """Read what syncyte recorded in an object, by task."""
    return _records(data.uns.get(key_added or STEM, {}))


def uns_entries(slots: Slots, task: str, earlier: Mapping[str, Iterable[str]] | None = None) -> dict[str, Any]:
    """Entries of ``uns["syncyte"]``: the record as JSON text, and the tables. ``earlier`` slots stay on record."""
    names = {kind: sorted({*keys, *(earlier or {}).get(kind, [])}) for kind, keys in slots.names().items()}
    text = json.dumps(json_ready({**slots.record, "slots": names}), default=str, ensure_ascii=False)
    return {task: text, **{f"{task}_{name}": table for name, table in slots.tables.items()}}


def refuse_foreign(
    slots: Slots, held: Mapping[str, Iterable[str]], stored: Any, task: str, stem: str, overwrite: bool
) -> dict[str, list[str]]:
    """Stop before a slot is overwritten that syncyte did not write. Gives the slots this task wrote earlier."""
    records = _records(stored)
    own = {
        kind: {key for record in records.values() for key in record["slots"].get(kind, [])} for kind in slots.names()
    }
    clash = [
        f"{kind}[{key!r}]"
        for kind, keys in slots.names().items()
        for key in keys
        if key in set(held[kind]) and key not in own[kind]
    ]
    if not isinstance(stored, Mapping) or (task in stored and task not in records):
        clash.append(f"uns[{stem!r}]")
    if clash and not overwrite:
        raise DataError(
            f"{', '.join(clash)} exists already and was not written by syncyte (uns[{stem!r}] has no record of it). "
            "Write under another stem with key_added (--key-added), or pass overwrite=True to replace it."
        )
    return records.get(task, {}).get("slots", {})


def find_host(layer: Layer, hosts: Mapping[str, Any]) -> str:
    """Which of several AnnData (or their feature names) holds a layer's features."""
    shared = {key: len(layer.features.intersection(getattr(host, "var_names", host))) for key, host in hosts.items()}
    best = layer.modality if shared.get(layer.modality) else max(shared, key=shared.__getitem__)
    if shared[best] == 0:
        raise DataError(
            f"The data to write into hold none of the {len(layer.features):,} predicted features "
            f"({', '.join(map(str, layer.features[:3]))} ...), so the prediction has no place in a layer. "
            "Take it as an object of its own with .predicted(), or write it with syncyte translate --out PRED.h5ad."
        )
    return best


def align_layer(layer: Layer, cells: pd.Index, names: pd.Index, features: pd.Index) -> Any:
    """Layer in the order of other cells and features: NaN where nothing was predicted (a sparse layer reads zero)."""
    rows, columns = cells.get_indexer(names), layer.features.get_indexer(features)
    if sp.issparse(layer.values):
        pick_rows = _selector(rows, len(cells))
        return (pick_rows @ layer.values @ _selector(columns, len(layer.features)).T).tocsr().astype(np.float32)
    aligned = np.full((len(names), len(features)), np.nan, dtype=np.float32)
    have_rows, have_columns = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    aligned[np.ix_(have_rows, have_columns)] = layer.values[np.ix_(rows[have_rows], columns[have_columns])]
    return aligned


def refuse_duplicates(names: pd.Index, owner: str) -> None:
    """Cells are matched by name, so names must be unique."""
    if names.has_duplicates:
        twice = names[names.duplicated()]
        raise DataError(
            f"{owner} names {len(twice):,} cells more than once (first: {twice[0]!r}), and cells are matched by name. "
            "Make the names unique, e.g. adata.obs_names_make_unique()."
        )


def _selector(where: NDArray[np.int64], width: int) -> sp.csr_matrix:
    have = np.flatnonzero(where >= 0)
    return sp.csr_matrix((np.ones(len(have), np.float32), (have, where[have])), shape=(len(where), width))


def _hosts(data: Any) -> dict[str, Any]:
    """AnnData objects inside, by modality (one without a name for an AnnData)."""
    return dict(data.mod) if hasattr(data, "mod") else {"": data}


def _records(stored: Any) -> dict[str, dict[str, Any]]:
    """Parse the records of syncyte; anything else under the same key is left out."""
    records = {}
    for key, text in stored.items() if isinstance(stored, Mapping) else ():
        if isinstance(text, str) and text.startswith("{"):
            try:
                record = json.loads(text)
            except json.JSONDecodeError:
                continue
            if "slots" in record:
                records[key] = record
    return records


def _align_rows(values: NDArray[Any], where: NDArray[np.int64]) -> NDArray[Any]:
    known = where >= 0
    if known.all():
        return np.asarray(values)[where]
    dtype = np.result_type(values.dtype, np.float32)
    aligned = np.full((len(where), *values.shape[1:]), np.nan, dtype=dtype)
    aligned[known] = values[where[known]]
    return aligned


def _align_column(column: pd.Series | NDArray[Any], where: NDArray[np.int64], names: pd.Index) -> pd.Series:
    """One column by cell: text becomes categorical with ``""`` for unknown, numbers NaN, flags missing."""
    values = column.array if isinstance(column, pd.Series) else pd.Series(column).array
    taken = pd.Series(values).take(np.maximum(where, 0)).set_axis(names)
    known = where >= 0
    if pd.api.types.is_bool_dtype(taken.dtype) or pd.api.types.is_numeric_dtype(taken.dtype):
        if known.all():
            return taken
        flags = pd.api.types.is_bool_dtype(taken.dtype)
        return taken.astype("boolean" if flags else np.result_type(taken.to_numpy().dtype, np.float32)).where(known)
    text = taken.astype(object).where(known & taken.notna().to_numpy(), "").astype(str)
    order = values.categories.astype(str) if isinstance(values, pd.Categorical) else np.unique(text)
    levels = [*order, *([""] if (text == "").any() and "" not in order else [])]
    return pd.Series(pd.Categorical(text, categories=levels), index=names)


def _storable(table: pd.DataFrame) -> pd.DataFrame:
    """Copy with text names and no mixed columns, which HDF5 cannot keep."""
    copy = table.copy()
    copy.index, copy.columns = copy.index.astype(str), [str(name).replace("/", "_") for name in copy.columns]
    for name in copy.select_dtypes(["object", "string"]):
        copy[name] = copy[name].astype(str)
    return copy
