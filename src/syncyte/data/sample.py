"""Which cells, in which order: index arithmetic only, seeded and resumable.

A block shuffle: storage order is cut into blocks of neighbours, blocks are shuffled, a buffer of many blocks is
gathered and shuffled again, minibatches are cut from it. Disks read runs, training sees a near-random order, and memory
stays one buffer. Every minibatch follows from (seed, epoch, rank, number) alone, so a run resumes anywhere, no replay.
Leaves out: reading (``data.load``). To draw some cells more often, repeat their numbers in ``rows``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import ConfigError


class Fetch(NamedTuple):
    """One read: ``rows`` of the whole buffer in storage order, and each minibatch as positions in it."""

    rows: NDArray[np.int64]
    batches: list[NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class BlockSampler:
    """Minibatches of row numbers, block-shuffled.

    Attributes
    ----------
    rows
        ``(n,)`` row numbers of cells in storage order (see :func:`storage_order`).
    batch_size
        Cells in a minibatch.
    block
        Consecutive cells that are read together.
    fetch
        Minibatches in the buffer that is read at once.
    seed
        Of the order; the same on all ranks.
    shuffle
        False gives the rows as they are, for predictions.
    drop_last
        Leave out the last minibatch where it is smaller.
    rank, world
        This process and how many there are. Shuffled: each rank gets ``n // world`` cells, so all make equally many
        steps and no cell is seen twice; the tail, fewer than ``world`` cells, is dropped and differs between epochs.
        Not shuffled: consecutive shares, none lost, so ranks laid end to end give the order of ``rows``; their numbers
        of steps may differ.
    """

    rows: NDArray[np.int64]
    batch_size: int
    block: int = 64
    fetch: int = 64
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", np.asarray(self.rows, dtype=np.int64))
        for name in ("batch_size", "block", "fetch", "world"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank is {self.rank}; with {self.world} processes it must be 0 to {self.world - 1}.")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must not be negative.")

    def __len__(self) -> int:
        """Minibatches in an epoch of this rank."""
        low, high = self._share()
        full, rest = divmod(high - low, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[NDArray[np.int64]]:
        """Row numbers of each minibatch of an epoch, from minibatch ``start`` on."""
        for fetch in self.fetches(epoch, start):
            for positions in fetch.batches:
                yield fetch.rows[positions]

    def fetches(self, epoch: int = 0, start: int = 0) -> Iterator[Fetch]:
        """Give the same minibatches as :meth:`epoch`, grouped by the buffer they are cut from."""
        steps = len(self)
        if not 0 <= start <= steps:
            raise ConfigError(f"Cannot start at minibatch {start}: an epoch of these cells has {steps}.")
        low, high = self._share()
        high = min(high, low + steps * self.batch_size)
        order = self._block_order(epoch)
        size = self.fetch * self.batch_size
        for number in range(start // self.fetch, -(-steps // self.fetch)):
            first = low + number * size
            positions = order.positions(first, min(first + size, high))
            shuffled = np.arange(len(positions))
            if self.shuffle:
                positions = np.sort(positions)
                shuffled = self._generator(epoch, self.rank, number).permutation(len(positions))
            batches = np.split(shuffled, range(self.batch_size, len(shuffled), self.batch_size))
            yield Fetch(self.rows[positions], batches[max(start - number * self.fetch, 0) :])

    def _share(self) -> tuple[int, int]:
        """First and past-the-last position of this rank in the shuffled order."""
        n = len(self.rows)
        if self.shuffle:
            return self.rank * (n // self.world), (self.rank + 1) * (n // self.world)
        return self.rank * n // self.world, (self.rank + 1) * n // self.world

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _block_order(self, epoch: int) -> _BlockOrder:
        n = len(self.rows)
        if not self.shuffle:
            return _BlockOrder(np.arange(0, n, self.block), np.minimum(np.arange(0, n, self.block) + self.block, n))
        generator = self._generator(epoch)
        # the first block is cut short at random, so that blocks do not hold the same neighbours in every epoch
        inner = np.arange(generator.integers(1, self.block + 1), n, self.block)
        edges = np.concatenate([[0], inner, [n]])
        mixed = generator.permutation(len(edges) - 1)
        return _BlockOrder(edges[:-1][mixed], edges[1:][mixed])


class _BlockOrder:
    """Blocks laid end to end; any stretch of it without building the whole."""

    def __init__(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.begins = begins
        self.ends = ends
        self.passed = np.cumsum(ends - begins)  # cells up to and including each block

    def positions(self, low: int, high: int) -> NDArray[np.int64]:
        """Storage positions of places ``low`` to ``high`` (exclusive) of this order."""
        first = int(np.searchsorted(self.passed, low, side="right"))
        last = int(np.searchsorted(self.passed, high, side="left")) + 1
        pieces = [np.arange(a, b) for a, b in zip(self.begins[first:last], self.ends[first:last], strict=True)]
        skip = low - (int(self.passed[first - 1]) if first else 0)
        return np.concatenate(pieces)[skip : skip + high - low]


def storage_order(indexes: Iterable[NDArray[np.int64]], rows: ArrayLike | None = None) -> NDArray[np.int64]:
    """Cells sorted by where they lie, so that neighbours in the result are neighbours on disk.

    Parameters
    ----------
    indexes
        For each modality ``(cells,)``: row of each cell in that modality's storage, -1 where it has none
        (``part.index`` of every part).
    rows
        Row numbers or flags of the cells wanted; all by default.

    Returns
    -------
    numpy.ndarray
        Row numbers of cells. A cell in several modalities goes by its mean relative place; cells in none come last.
    """
    places = np.stack([np.where(index >= 0, index / max(index.max(initial=0), 1), np.nan) for index in indexes])
    seen = np.isfinite(places)
    place = np.where(seen, places, 0).sum(0) / np.maximum(seen.sum(0), 1)
    place[~seen.any(0)] = np.inf
    chosen = np.arange(len(place)) if rows is None else np.asarray(rows)
    chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
    return chosen[np.argsort(place[chosen], kind="stable")]
