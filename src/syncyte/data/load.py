"""From cells to minibatches of tensors.

Each fetch of the sampler is read once, in storage order; minibatches are taken from it as CSR and handed to one
tokenizer a modality, in numpy. A background thread stays two minibatches ahead. The only file of ``data`` that imports
torch, and only when a minibatch is made. Leaves out: the order (``data.sample``), what a token is (the modalities).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.cells import BLOCK, Cells, Held
from syncyte.data.sample import BlockSampler, Fetch, storage_order
from syncyte.errors import DataError
from syncyte.types import Batch, Tokens

T = TypeVar("T")


class Tokenizer(Protocol):
    """Turns counts of a minibatch into the fields of :class:`syncyte.types.Tokens`, as numpy arrays."""

    @property
    def width(self) -> int:
        """Features it expects."""
        ...

    def __call__(self, counts: sp.csr_matrix) -> dict[str, NDArray[Any]]:
        """Token arrays of ``(b, width)`` counts."""
        ...


class Sampler(Protocol):
    """Gives the minibatches of an epoch, grouped by what is read at once."""

    def __len__(self) -> int:
        """Minibatches in an epoch."""
        ...

    def fetches(self, epoch: int, start: int) -> Iterator[Fetch]:
        """Buffers of an epoch, from minibatch ``start`` on."""
        ...


@dataclass(frozen=True)
class Loader:
    """Minibatches of an epoch, read ahead of their use.

    Attributes
    ----------
    cells
        Where counts are read.
    tokenizers
        By modality, every one the model knows; one that the cells lack altogether is handed empty rows.
    sampler
        Which cells, in which order.
    covariates
        By name, ``(cells,)`` integer codes, -1 = unknown.
    ahead
        Minibatches prepared in the background; 0 works in the caller's thread.
    """

    cells: Cells
    tokenizers: Mapping[str, Tokenizer]
    sampler: Sampler
    covariates: Mapping[str, NDArray[np.integer]] = field(default_factory=dict)
    ahead: int = 2

    def __post_init__(self) -> None:
        for name, tokenizer in self.tokenizers.items():
            if name in self.cells.parts and (width := self.cells.parts[name].rows.shape[1]) != tokenizer.width:
                raise DataError(
                    f"The cells have {width:,} {name} features, the model expects {tokenizer.width:,}. "
                    "Put the cells into the model's feature space first (Cells.align)."
                )
        for name, codes in self.covariates.items():
            if len(codes) != len(self.cells):
                raise DataError(f"Covariate {name!r} has {len(codes):,} codes for {len(self.cells):,} cells.")

    def __len__(self) -> int:
        """Minibatches in an epoch."""
        return len(self.sampler)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Minibatches of an epoch, from minibatch ``start`` on; an error of the reader surfaces here."""
        batches = self._batches(epoch, start)
        return read_ahead(batches, self.ahead) if self.ahead else batches

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        names = [name for name in self.tokenizers if name in self.cells.parts]
        fetches = held(self.cells, names, self.sampler.fetches(epoch, start), ahead=self.ahead > 0)
        for rows, batches, counts in fetches:
            for positions in batches:
                yield self._batch(rows[positions], {name: block[positions] for name, block in counts.items()})
            del counts  # one buffer at a time: the next is read before these names are bound again

    def _batch(self, rows: NDArray[np.int64], counts: dict[str, sp.csr_matrix]) -> Batch:
        import torch

        tokens = {}
        for name, tokenizer in self.tokenizers.items():
            block = counts[name] if name in counts else sp.csr_matrix((len(rows), tokenizer.width), dtype=np.float32)
            tokens[name] = Tokens(**{key: torch.from_numpy(array) for key, array in tokenizer(block).items()})
        return Batch(
            tokens=tokens,
            present={name: torch.from_numpy(self._present(name, rows)) for name in self.tokenizers},
            covariates={
                name: torch.from_numpy(codes[rows].astype(np.int64, copy=False))
                for name, codes in self.covariates.items()
            },
            rows=torch.from_numpy(rows),
        )

    def _present(self, modality: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        if modality not in self.cells.parts:
            return np.zeros(len(rows), dtype=bool)
        return self.cells.parts[modality].index[rows] >= 0


def predict_batches(
    cells: Cells,
    tokenizers: Mapping[str, Tokenizer],
    batch_size: int,
    *,
    covariates: Mapping[str, NDArray[np.integer]] | None = None,
    in_order: bool = True,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Every cell once, without shuffling.

    ``in_order`` keeps the order of the cells, for writers that stream. False goes by where the cells lie, which is
    faster on a store; put results at ``batch.rows`` then. Of several processes each takes every ``world``-th
    minibatch: the minibatches are those of one process alone.
    """
    rows = np.arange(len(cells)) if in_order else storage_order(part.index for part in cells.parts.values())
    rows = rows[np.arange(len(rows)) // batch_size % world == rank]
    fetch = max(1, BLOCK // batch_size)  # nothing is shuffled, so a large buffer would only take memory
    sampler = BlockSampler(rows, batch_size, fetch=fetch, shuffle=False)
    return Loader(cells, tokenizers, sampler, covariates or {}).epoch()


def held(
    cells: Cells, names: Sequence[str], fetches: Iterator[Fetch], ahead: bool = True
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.int64]], dict[str, Held]]]:
    """Rows, minibatches and counts of each fetch; packed counts of the next are read while one is decoded.

    Counts that are not packed take several times the room, so that of them one fetch is held at a time.
    """
    reads = ((rows, batches, {name: cells.hold(name, rows) for name in names}) for rows, batches in fetches)
    packed = all(hasattr(cells.parts[name].rows, "hold") for name in names)
    return read_ahead(reads, 1) if ahead and packed and names else reads


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """Give the same items in the same order, ``depth`` of them made ahead by one background thread.

    The thread ends with the iterator, when the iterator is closed or dropped, or after an error, which is raised here.
    """
    end = object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="syncyte-reader")
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
