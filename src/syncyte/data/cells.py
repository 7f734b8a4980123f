"""Cells: the internal view every other part reads, in memory or on disk.

One row a cell, one part a modality; a cell may lack any modality. Counts stay sparse and are read by rows, so the same
code serves an AnnData in memory, a backed file and a store of shards. Nothing here knows a modality by name.
Leaves out: opening files (``data.read``), naming features (``data.harmonise``), order (``data.sample``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.regroup import Regroup
from syncyte.errors import DataError, unknown

BLOCK = 4096  # rows read at once where a whole pass is made


class Rows(Protocol):
    """A matrix that can be read by rows, whatever holds it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for (repeats allowed): CSR, float32, sorted indices, no stored zeros."""
        ...


class Held(Protocol):
    """Rows that are read once and then taken by their positions, perhaps many times: a CSR matrix is one."""

    def __getitem__(self, positions: NDArray[np.int64]) -> sp.csr_matrix:
        """``(len(positions), f)`` counts."""
        ...


@dataclass(frozen=True)
class MemoryRows:
    """Rows of a CSR matrix in memory."""

    matrix: sp.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.matrix.shape

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for."""
        return self.matrix[rows]


@dataclass(frozen=True)
class MappedRows:
    """Columns of other rows, renamed, summed where several go to one place, dropped where ``target`` is -1."""

    rows: Rows
    target: NDArray[np.int64]
    width: int

    @cached_property
    def table(self) -> Regroup:
        """The same as a table of targets."""
        return Regroup.of(self.target, self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.shape[0], self.width

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for, columns in the new space."""
        return self.table.apply(self.rows.read(rows))


@dataclass(frozen=True)
class RegroupedRows:
    """Columns of other rows moved by a table in which a column may have several targets."""

    rows: Rows
    table: Regroup

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.shape[0], self.table.width

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for, columns in the new space."""
        return self.table.apply(self.rows.read(rows))


@dataclass(frozen=True)
class StackedRows:
    """Several sources one below the other, all with the same columns."""

    sources: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return sum(source.shape[0] for source in self.sources), self.sources[0].shape[1]

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for; each source is read once."""
        starts = np.cumsum([0, *(source.shape[0] for source in self.sources)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        blocks, order = [], []
        for index in np.unique(owner):
            where = np.flatnonzero(owner == index)
            blocks.append(self.sources[index].read(rows[where] - starts[index]))
            order.append(where)
        if not blocks:
            return sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        stacked = sp.vstack(blocks, format="csr")
        back = np.empty(len(rows), dtype=np.int64)
        back[np.concatenate(order)] = np.arange(len(rows))
        return stacked[back]


@dataclass(frozen=True)
class Part:
    """One modality of the cells.

    Attributes
    ----------
    rows
        The counts, one row a measured cell.
    index
        ``(cells,)`` int64: row of each cell in ``rows``, -1 where the modality was not measured.
    var
        Table of the features; its index holds their names in the model's space.
    """

    rows: Rows
    index: NDArray[np.int64]
    var: pd.DataFrame

    @property
    def features(self) -> pd.Index:
        """Names of the features, in column order."""
        return self.var.index


@dataclass(frozen=True)
class Cells:
    """A set of cells with covariates and one or more modalities.

    Attributes
    ----------
    obs
        Covariates; its index holds the unique cell names, in the user's order.
    parts
        Modality name to counts.
    report
        What was found, chosen, mapped and dropped on the way here; JSON-ready, stored with every result.
    """

    obs: pd.DataFrame
    parts: dict[str, Part]
    report: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def names(self) -> pd.Index:
        """Cell names."""
        return self.obs.index

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that at least one cell has."""
        return tuple(self.parts)

    def part(self, modality: str) -> Part:
        """One modality, or an error that says which exist."""
        if modality not in self.parts:
            held = ", ".join(self.parts) or "none"
            raise DataError(
                f"These cells have no modality {modality!r} (found: {held}). Give a file that holds it, "
                "or name the modality of a plain .h5ad with --modality."
            )
        return self.parts[modality]

    def present(self, modality: str) -> NDArray[np.bool_]:
        """Which cells were measured in this modality (all false where no cell was)."""
        if modality not in self.parts:
            return np.zeros(len(self), dtype=bool)
        return self.parts[modality].index >= 0

    def counts(self, modality: str, rows: NDArray[np.int64] | Sequence[int] | slice | None = None) -> sp.csr_matrix:
        """Raw counts of the asked cells: CSR float32, empty rows where a cell lacks the modality."""
        part = self.part(modality)
        index = part.index if rows is None else part.index[rows]
        have = np.flatnonzero(index >= 0)
        block = part.rows.read(index[have])
        if len(have) == len(index):
            return block
        indptr = np.zeros(len(index) + 1, dtype=block.indptr.dtype)
        indptr[have + 1] = np.diff(block.indptr)
        return sp.csr_matrix((block.data, block.indices, np.cumsum(indptr)), shape=(len(index), block.shape[1]))

    def hold(self, modality: str, rows: NDArray[np.int64]) -> Held:
        """Counts of the asked cells, to take some of them at a time; packed ones stay packed until they are taken."""
        held = getattr(self.part(modality).rows, "hold", None)
        return self.counts(modality, rows) if held is None else held(self.part(modality).index[rows])

    def blocks(
        self, modality: str, rows: NDArray[np.int64] | None = None, size: int = BLOCK
    ) -> Iterator[tuple[NDArray[np.int64], sp.csr_matrix]]:
        """Pass over cells that have the modality: (their row numbers, counts), ``size`` cells at a time."""
        chosen = np.flatnonzero(self.present(modality)) if rows is None else rows[self.present(modality)[rows]]
        for start in range(0, len(chosen), size):
            block = chosen[start : start + size]
            yield block, self.counts(modality, block)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Cells:
        """Some of the cells, in the order asked for; counts are not copied."""
        places: NDArray[np.int64] = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        parts = {name: replace(part, index=part.index[places]) for name, part in self.parts.items()}
        return replace(self, obs=self.obs.iloc[places], parts=parts)

    def only(self, modalities: Sequence[str]) -> Cells:
        """The same cells with the other modalities gone, as if they had never been in the file."""
        return replace(self, parts={name: self.part(name) for name in modalities})

    def align(self, modality: str, features: pd.Index) -> Cells:
        """Put one modality's columns into another feature space by name; the report says how many were found.

        Features the data lack read as zero. Columns that are not in ``features`` are dropped.
        """
        part = self.part(modality)
        if part.features.equals(features):
            return self
        target = features.get_indexer(part.features).astype(np.int64)
        found = int((target >= 0).sum())
        var = pd.DataFrame(index=features)
        report = {**self.report, f"align_{modality}": {"features": len(features), "found": found}}
        if found == 0:
            raise DataError(
                f"None of the {len(part.features):,} {modality} features is among the {len(features):,} that the "
                f"model knows (data: {', '.join(map(str, part.features[:3]))} ...; "
                f"model: {', '.join(map(str, features[:3]))} ...). "
                "Check species, gene name type and genome build, or give --genome to map the names."
            )
        mapped = MappedRows(part.rows, target, len(features))
        return replace(self, parts={**self.parts, modality: replace(part, rows=mapped, var=var)}, report=report)

    def column(self, key: str) -> pd.Series:
        """A covariate by name, or an error that lists the columns there are."""
        if key not in self.obs.columns:
            raise DataError(unknown("obs column", key, self.obs.columns))
        return self.obs[key]
