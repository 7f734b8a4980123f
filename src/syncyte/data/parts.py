"""One file of many on its way into a store: its counts on the reference, in a folder of its own.

::

    PART/part.json                 stamp (what it was made from), what is in it, report
         cells.h5                  covariates; features where they are not the reference's regions
         <modality>.data .indices  counts, cell after cell, 4 bytes each (uint32, int32)
         <modality>.indptr.npy     where each measured cell begins
         <modality>.index.npy      row of each cell, -1 where it was not measured

A part appears whole or not at all, and depends on its file, the reference and the options alone; the stamp says on
which. Counts are streamed: memory does not grow with the number of cells, but for their covariates. Leaves out several
files (``gather``) and the store that parts become (``store``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir
from syncyte.data.backed import runs
from syncyte.data.cells import Cells, Part, Rows
from syncyte.data.harmonise import Columns, harmonise
from syncyte.data.place import How, locate, place, table_of
from syncyte.data.read import open_cells
from syncyte.data.regroup import Regroup
from syncyte.data.scatter import check_raw
from syncyte.data.store import storable
from syncyte.errors import DataError, GenomeError
from syncyte.genome.reference import Reference
from syncyte.types import Schema, json_ready

FORMAT = 1
ENTRIES = 8_000_000  # counts held at once while a file is read
FIRST_ROWS, MOST_ROWS = 128, 4096
FEW_REGIONS = 100  # open regions below which a cell is listed


@dataclass(frozen=True)
class Job:
    """What one task needs to know; can be sent to another process or machine that sees the same files.

    Attributes
    ----------
    source, folder, reference
        Paths of the file, of the part to make, and of the reference.
    stamp
        What the part depends on, JSON-ready.
    schemas
        Every modality there is.
    how
        How peaks are put on regions.
    modality, layer
        As in ``open_cells``.
    threads
        For the counting loop.
    call
        Number of the call, so that a scheduler does not give back the answer to an earlier one.
    """

    source: str
    folder: str
    reference: str
    stamp: Mapping[str, Any]
    schemas: tuple[Schema, ...]
    how: How
    modality: str | None = None
    layer: str | None = None
    threads: int = 1
    call: str = ""


@dataclass(frozen=True)
class FlatRows:
    """Rows of a part's counts; holds no open file, so it can be pickled and forked."""

    stem: str
    shape: tuple[int, int]

    @cached_property
    def indptr(self) -> NDArray[np.int64]:
        """``(rows + 1,)`` where each row begins."""
        return np.load(f"{self.stem}.indptr.npy", allow_pickle=False)

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for; neighbours are read in one go."""
        unique, inverse = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        indptr = np.concatenate([[0], np.cumsum(self.indptr[unique + 1] - self.indptr[unique])])
        indices, data = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=np.float32)
        with Path(f"{self.stem}.indices").open("rb") as columns, Path(f"{self.stem}.data").open("rb") as values:
            done = 0
            for first, last in runs(unique):
                begin, size = int(self.indptr[first]), int(self.indptr[last] - self.indptr[first])
                indices[done : done + size] = _read(columns, "<i4", begin, size)
                data[done : done + size] = _read(values, "<u4", begin, size)
                done += size
        matrix = sp.csr_matrix((data, indices, indptr), shape=(len(unique), self.shape[1]))
        matrix.has_canonical_format = True
        return matrix if np.array_equal(unique, rows) else matrix[inverse]


def _read(file: Any, dtype: str, begin: int, size: int) -> NDArray[Any]:
    file.seek(begin * 4)
    values = np.fromfile(file, dtype=dtype, count=size)
    if len(values) != size:
        raise DataError(f"{file.name} ends too early: the part was changed or damaged. Delete its folder, run again.")
    return values


def make_part(job: Job) -> dict[str, Any]:
    """Make one part and give back its report.

    Raises
    ------
    DataError, GenomeError
        If the file cannot be read, or does not fit the reference.
    """
    cells = open_cells(
        Path(job.source), schemas=job.schemas, modality=job.modality, layer=job.layer, force=job.how.force
    )
    reference = Reference.load(job.reference)
    kinds = {schema.name: schema for schema in job.schemas}
    report: dict[str, Any] = {"file": job.source, "cells": len(cells), "modalities": {}}
    with atomic_dir(job.folder, overwrite=True) as folder:
        notes = list(cells.report.get("notes", []))
        variables = {}
        for name, part in cells.parts.items():
            move = _move(name, part, kinds[name], reference, job.how, notes)
            found = _write_counts(folder / name, part, move, job.threads)
            variables[name] = move.var
            found |= {"counts": cells.report.get(name, {}).get("counts", ""), **move.details}
            if move.table is not None:
                _check_counts(found, reference, job, notes)
            report["modalities"][name] = found
        report |= {"notes": notes, "source": cells.report.get("sources", [])}
        _write_cells(folder / "cells.h5", storable(cells.obs), variables)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        text = json.dumps(
            json_ready({"format": FORMAT, "stamp": job.stamp, "files": sizes, "report": report}), indent=1
        )
        (folder / "part.json").write_text(text, encoding="utf-8")
    return json_ready(report)


def _check_counts(found: dict[str, Any], reference: Reference, job: Job, notes: list[str]) -> None:
    """Refuse a file most of whose counts lie outside the reference."""
    from syncyte.genome.overlap import check_overlap

    said = check_overlap(1 - found["lost"], "counts", reference.name, job.how.force)
    if said:
        notes.append(said)


@dataclass(frozen=True)
class _Move:
    """How one modality goes into its space: rows ready there, or a table over the file's own rows."""

    rows: Rows
    table: Regroup | None
    var: pd.DataFrame | None
    details: dict[str, Any] = field(default_factory=dict)


def _move(name: str, part: Part, schema: Schema, reference: Reference, how: How, notes: list[str]) -> _Move:
    """The way of one modality; regions all go to the whole of the reference."""
    if schema.feature_kind != "region":
        named = harmonise([Columns(name, part.rows, part.var)], schema, reference, how)
        notes.extend(named.notes)
        return _Move(named.rows[0], None, named.var, {"features": named.sentence, **named.details})
    if reference.index is None:
        raise GenomeError(
            f"The reference {reference.name!r} holds no regions to put {name} on. Build one with regions: "
            "syncyte reference build --bins 2500 --chrom-sizes FILE --out REF"
        )
    located = locate(name, part.var, reference, how)
    found = place(name, located, reference, how)
    notes.extend(located.notes)
    details = {**located.details, "mapping": found.counts, "unmapped": list(found.unmapped)}
    details |= {"features": found.sentence, "rule": how.rule}
    return _Move(part.rows, table_of(found, len(reference.index)), None, details)


def _blocks(rows: NDArray[np.int64], entries: list[int]) -> Iterator[NDArray[np.int64]]:
    """Rows in pieces of about ``ENTRIES`` counts, told from the pieces before (the caller appends their sizes)."""
    done, size = 0, FIRST_ROWS
    while done < len(rows):
        yield rows[done : done + size]
        done += size
        mean = max(1.0, sum(entries) / max(done, 1))
        size = int(np.clip(ENTRIES / mean, 1, MOST_ROWS))


def _write_counts(stem: Path, part: Part, move: _Move, threads: int) -> dict[str, Any]:
    """Stream the counts of one modality to flat files; what came through."""
    measured = np.flatnonzero(part.index >= 0)
    lengths = [np.zeros(1, dtype=np.int64)]
    read: list[int] = []
    total = kept = 0.0
    with stem.with_suffix(".data").open("wb") as values, stem.with_suffix(".indices").open("wb") as columns:
        for rows in _blocks(part.index[measured], read):
            block = move.rows.read(rows)
            check_raw(block, stem.name)
            read.append(block.nnz)
            total += float(block.data.sum(dtype=np.float64))
            if move.table is not None:
                kept += float(block.data[move.table.kept[block.indices]].sum(dtype=np.float64))
                block = move.table.apply(block, threads)
            values.write(block.data.astype("<u4").data)
            columns.write(block.indices.astype("<i4", copy=False).data)
            lengths.append(np.diff(block.indptr).astype(np.int64))
    indptr = np.cumsum(np.concatenate(lengths))
    index = np.full(len(part.index), -1, dtype=np.int64)
    index[measured] = np.arange(len(measured))
    np.save(f"{stem}.indptr.npy", indptr, allow_pickle=False)
    np.save(f"{stem}.index.npy", index, allow_pickle=False)
    width = len(move.var) if move.table is None and move.var is not None else move.rows.shape[1]
    found: dict[str, Any] = {"cells": len(measured), "nonzeros": int(indptr[-1]), "total": total}
    if move.table is None:
        return {**found, "width": width}
    few = int((np.diff(indptr) < FEW_REGIONS).sum())
    return {**found, "width": move.table.width, "few_regions": few, "lost": 1 - kept / total if total else 0.0}


def _write_cells(path: Path, obs: pd.DataFrame, variables: Mapping[str, pd.DataFrame | None]) -> None:
    import anndata

    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "obs", obs)
        for name, var in variables.items():
            if var is not None:
                anndata.io.write_elem(file, f"var/{name}", storable(var))


def read_report(folder: Path, stamp: Mapping[str, Any]) -> dict[str, Any] | None:
    """Report of a part that is whole and was made from the same; None where it has to be made."""
    path = folder / "part.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in found["files"]}
        same = found["format"] == FORMAT and found["stamp"] == json_ready(dict(stamp)) and sizes == found["files"]
    except (ValueError, KeyError, TypeError, OSError):
        return None
    return found["report"] if same else None


def open_part(folder: Path, report: Mapping[str, Any], regions: pd.DataFrame) -> Cells:
    """Cells of a part; ``regions`` are the features of modalities that lie on the reference's regions."""
    import anndata

    parts = {}
    with h5py.File(folder / "cells.h5", "r") as file:
        obs = anndata.io.read_elem(file["obs"])
        for name, found in report["modalities"].items():
            var = anndata.io.read_elem(file[f"var/{name}"]) if f"var/{name}" in file else regions
            rows = FlatRows(str(folder / name), (found["cells"], found["width"]))
            parts[name] = Part(rows, np.load(folder / f"{name}.index.npy", allow_pickle=False), var)
    return Cells(obs, parts, dict(report))
