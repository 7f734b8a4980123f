"""A cell encoder that does not learn, beside the set model of a run of words: what it makes of cells, and its place.

It reads all cells once, before anything learns; what it makes of them lies in the RUN folder while training and is
removed with its end, so that memory does not grow with the cells. Centre and scale are those of training cells; axes of
one part of the encoder share a scale, so that its last ones stay as narrow as they are.
Leaves out: encoders themselves (``tasks.encoders``), what is learned from them (``objectives.words``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.meter import Meter
from syncyte.objectives.words import Seen, words_of
from syncyte.recipes.train_sets import Built
from syncyte.tasks.encoders import CellEncoder
from syncyte.train.distributed import Worker
from syncyte.train.folder import ENCODER, GIVEN, GIVEN_STATES

MOST_CELLS = 50_000  # that centre and scale are taken from
LEAST = 1e-4


@dataclass
class Second:
    """The encoder of a training.

    Attributes
    ----------
    encoder, cells
        It, and the cells in its features.
    most
        States of a cell that are kept.
    seen
        What it makes of the cells, once it has read them.
    """

    encoder: CellEncoder
    cells: Cells
    most: int
    seen: Seen | None = field(default=None, repr=False)

    @classmethod
    def of(cls, encoder: CellEncoder, cells: Cells, most: int, notes: list[str]) -> Second:
        """Check that it can read the cells; ``notes`` gets what should be known."""
        aligned, said = encoder.align(cells)
        some = " and ".join(name for name in encoder.modalities if name in aligned.modalities)
        notes += [f"The encoder {encoder.name} reads {some} of every cell beside the set model; it does not learn."]
        notes += said
        return cls(encoder, aligned, most)

    def read(self, built: Built, run: Path, worker: Worker, quiet: bool) -> Seen:
        """Let it read all cells, and set centre and scale in the model; every process gets the same."""
        if worker.rank == 0:
            self._write(run, worker.device, quiet)
        worker.barrier()
        vector = np.load(run / GIVEN, mmap_mode="r", allow_pickle=False)
        states = count = None
        if self.encoder.states:
            states = np.load(run / GIVEN_STATES, mmap_mode="r", allow_pickle=False)
            count = vector[:, -1].astype(np.int64)
        self.seen = Seen(vector[:, :-1], states, count)
        rows = np.sort(np.random.default_rng(0).permutation(built.split.train)[:MOST_CELLS])
        reader = words_of(built.model).given
        assert reader is not None
        mean, scale = moments(np.asarray(self.seen.vector[rows], dtype=np.float64), self.encoder.blocks)
        reader.mean.copy_(torch.from_numpy(mean))
        reader.scale.copy_(torch.from_numpy(scale))
        return self.seen

    def _write(self, run: Path, device: torch.device, quiet: bool) -> None:
        """Vectors with the number of states beside them, and states, as files that are mapped."""
        cells, encoder = len(self.cells), self.encoder.to(device)
        kind: dict[str, Any] = {"mode": "w+"}
        vector = np.lib.format.open_memmap(run / GIVEN, dtype=np.float32, shape=(cells, encoder.width + 1), **kind)
        first, states = 0, None
        if encoder.states:
            shape = (cells, self.most, encoder.states)
            states = np.lib.format.open_memmap(run / GIVEN_STATES, dtype=np.float16, shape=shape, **kind)
        with Meter("the encoder reads", "cells", quiet) as meter:
            for found in encoder.read(self.cells, self.most):
                last = first + len(found.vector)
                vector[first:last, :-1] = found.vector
                if states is not None and found.states is not None and found.count is not None:
                    states[first:last, : found.states.shape[1]] = found.states
                    vector[first:last, -1] = found.count
                first = last
                meter.advance(first, cells, first)
        encoder.to(torch.device("cpu"))
        if not np.isfinite(vector).all():
            raise DataError(f"The encoder {encoder.name} makes no numbers of some cells: its weights may be damaged.")
        vector.flush()
        if states is not None:
            states.flush()

    def finish(self, run: Path) -> dict[str, Any]:
        """Copy the encoder into the RUN folder, remove what was read; facts of the checkpoint."""
        self.encoder.keep(run / ENCODER)
        self.seen = None
        for name in (GIVEN, GIVEN_STATES):
            (run / name).unlink(missing_ok=True)
        return {
            "name": self.encoder.name,
            "modalities": list(self.encoder.modalities),
            "fingerprint": self.encoder.fingerprint,
            "width": self.encoder.width,
            "state_width": self.encoder.states,
            "states": self.most,
        }


def moments(vectors: NDArray[np.float64], blocks: tuple[int, ...]) -> tuple[NDArray, NDArray]:
    """Mean of each axis, and its scale: the largest standard deviation of its block."""
    spread = vectors.std(axis=0)
    starts = np.cumsum([0, *blocks[:-1]])
    widest = np.maximum.reduceat(spread, starts) if len(spread) else spread
    return vectors.mean(axis=0), np.maximum(np.repeat(widest, blocks), LEAST)
