"""What the package asks of a modality, and the registry that enrols one.

A modality answers: its ``schema`` (names in files), how counts become tokens, how tokens are embedded, what head
predicts it, and how a prediction reads. Everything else is written against these answers; a further modality is one
more file beside this one. Leaves out: fitting, which ``baselines.start`` does from the ``residual`` kind named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from syncyte.baselines.residual import Kind
from syncyte.config import Registry
from syncyte.nn.embed import TokenEmbedder
from syncyte.types import Schema


@dataclass(frozen=True)
class Layout:
    """How features are grouped into tokens.

    Attributes
    ----------
    token_of
        ``(f,)`` int64, token each feature belongs to.
    count
        Number of different tokens.
    most
        Tokens a cell may have; the most informative are kept.
    group, position
        ``(count,)`` chromosome code and place in [0, 1] of each token, or None.
    slot_of, slots
        ``(f,)`` place of each feature inside its token and the most places of a token, for the ``slots`` layout.
    """

    token_of: NDArray[np.int64]
    count: int
    most: int
    group: NDArray[np.int64] | None = None
    position: NDArray[np.float32] | None = None
    slot_of: NDArray[np.int64] | None = None
    slots: int = 0


class Modality(Protocol):
    """One kind of measurement.

    Attributes
    ----------
    schema
        What it is called in files.
    residual
        How counts are scaled on the way in: ``pearson`` for counts, ``depth`` for open or closed.
    per_cell
        Total that counts of a cell are brought to before the log1p in which they are predicted; 0 takes them as they
        are. Stored in every checkpoint. Without effect on what is open or closed.
    unit
        How a prediction reads.
    """

    schema: Schema
    residual: Kind
    per_cell: float
    unit: str

    @property
    def likelihoods(self) -> tuple[str, ...]:
        """Likelihoods its head may take, the usual one first."""
        ...

    def layout(self, var: pd.DataFrame, *, tokens: int, groups: int, slots: int = 0) -> Layout:
        """Group the features of a vocabulary into tokens."""
        ...

    def observed(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Counts on the scale that predictions are given in, sparse."""
        ...


modalities: Registry[Modality] = Registry("modality")


def all_schemas() -> tuple[Schema, ...]:
    """Schemas of all registered modalities, in the order in which they are tried (``Schema.rank``, then name).

    The order matters where two answer to the same: a plain table of genes goes to the first that measures genes, and a
    key or feature type that two share to the first of them. It does not hang on the order of imports.
    """
    schemas = (modality.schema for _, modality in modalities.items())
    return tuple(sorted(schemas, key=lambda schema: (schema.rank, schema.name)))


@dataclass(frozen=True)
class Tokenizer:
    """Counts of a minibatch to the arrays of ``types.Tokens``; no parameters, no randomness.

    Attributes
    ----------
    layout
        Features to tokens.
    share
        ``(f,)`` training share of each feature, by which entries are ranked when a cell has more tokens than fit:
        those least expected at the cell's depth stay.
    """

    layout: Layout
    share: NDArray[np.float32]

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.layout.token_of)

    def __call__(self, counts: sp.csr_matrix) -> dict[str, NDArray]:
        """Ragged entries and padded tokens of ``counts`` (b, f)."""
        cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        feature = counts.indices.astype(np.int64)
        kind = self.layout.token_of[feature]
        if self.layout.count == self.width:  # a token a feature: entries are tokens already
            pair, inverse = cell * self.layout.count + kind, np.arange(len(kind))
        else:
            pair, inverse = np.unique(cell * self.layout.count + kind, return_inverse=True)
        row, identity = np.divmod(pair, self.layout.count)
        chosen = self._most_informative(row, feature, counts.data, inverse, counts.shape[0])
        row, identity = row[chosen], identity[chosen]
        per_row = np.bincount(row, minlength=counts.shape[0])
        columns = int(per_row.max(initial=0))
        position = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
        ids = np.zeros((counts.shape[0], columns), dtype=np.int64)
        valid = np.zeros((counts.shape[0], columns), dtype=bool)
        ids[row, position] = identity
        valid[row, position] = True
        slot = np.full(len(pair), -1, dtype=np.int64)
        slot[chosen] = row * columns + position
        return {
            "feature": feature,
            "value": counts.data.astype(np.float32),
            "cell": cell.astype(np.int64),
            "token": slot[inverse],
            "ids": ids,
            "valid": valid,
        }

    def _most_informative(
        self,
        row: NDArray[np.int64],
        feature: NDArray[np.int64],
        value: NDArray[np.float32],
        inverse: NDArray[np.int64],
        cells: int,
    ) -> NDArray[np.int64]:
        """Positions of the tokens kept, in their order (row by row)."""
        per_row = np.bincount(row, minlength=cells)
        if per_row.max(initial=0) <= self.layout.most:
            return np.arange(len(row))
        surprise = np.bincount(inverse, weights=value / np.sqrt(self.share[feature]), minlength=len(row))
        keep = np.ones(len(row), dtype=bool)
        starts = np.cumsum(per_row) - per_row
        for index in np.flatnonzero(per_row > self.layout.most):
            span = slice(starts[index], starts[index] + per_row[index])
            drop = np.argpartition(-surprise[span], self.layout.most)[self.layout.most :]
            keep[starts[index] + drop] = False
        return np.flatnonzero(keep)


def embedder(layout: Layout, width: int, components: int, bins: int = 0) -> TokenEmbedder:
    """Token embedder of a layout; ``bins`` > 0 reads amounts in within-cell bins."""

    def tensor(values: NDArray | None) -> torch.Tensor | None:
        return None if values is None else torch.as_tensor(values)

    return TokenEmbedder(
        layout.count,
        width,
        components,
        slots=layout.slots,
        group=tensor(layout.group),
        position=tensor(layout.position),
        slot_of=tensor(layout.slot_of),
        bins=bins,
    )
