"""Training curves: exact means of losses, a tidy ``metrics.csv`` and TensorBoard event files.

One row for each number: step, epoch, stage, split, name, value, and the seconds spent so far. ``step`` counts optimiser
steps of the whole training, ``epoch`` those of the stage in epochs. Left out: reading and plotting (the reporter does).
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from syncyte.errors import CheckpointError
from syncyte.train.distributed import Worker
from syncyte.types import Loss

COLUMNS = ("step", "epoch", "stage", "split", "name", "value", "cpu_seconds", "wall_seconds")
CURVES = "metrics.csv"
EVENTS = "tensorboard"


class Clock:
    """CPU and wall seconds of a training, those before an interruption included."""

    def __init__(self, cpu: float = 0.0, wall: float = 0.0) -> None:
        self._cpu = cpu - time.process_time()
        self._wall = wall - time.monotonic()

    @property
    def cpu(self) -> float:
        """CPU seconds of this process, all threads."""
        return self._cpu + time.process_time()

    @property
    def wall(self) -> float:
        """Wall-clock seconds."""
        return self._wall + time.monotonic()


class Curves:
    """Writer of the curves of one run.

    Parameters
    ----------
    run
        RUN folder; None writes nothing (the processes after the first).
    clock
        Time spent.
    length
        Bytes of ``metrics.csv`` to keep, 0 for a new training: rows after the state that is resumed are dropped.
    step
        First step that will be written; TensorBoard drops what it has from there on.

    Raises
    ------
    CheckpointError
        If ``metrics.csv`` is shorter than ``length``.
    """

    def __init__(self, run: Path | None, clock: Clock, length: int = 0, step: int = 0) -> None:
        self._clock = clock
        self._run = run
        self._first = step
        self._board: Any = None
        self._handle = None
        if run is None:
            return
        path = run / CURVES
        found = path.stat().st_size if path.exists() else 0
        if found < length:
            raise CheckpointError(
                f"{path} has {found} bytes, but {length} were written when the state was saved. Put the file back, or "
                "start anew with --overwrite."
            )
        self._handle = path.open("r+" if length else "w", newline="", encoding="utf-8")
        self._handle.seek(length)
        self._handle.truncate()
        self._rows = csv.writer(self._handle, lineterminator="\n")
        if not length:
            self._rows.writerow(COLUMNS)

    def write(self, step: int, epoch: float, stage: str, split: str, values: Mapping[str, float]) -> None:
        """One row (and one TensorBoard point) for each value."""
        if self._handle is None:
            return
        spent = (f"{self._clock.cpu:.3f}", f"{self._clock.wall:.3f}")
        for name, value in values.items():
            self._rows.writerow((step, f"{epoch:.6g}", stage, split, name, repr(float(value)), *spent))
            self._events.add_scalar(f"{stage}/{split}/{name}", value, step)

    @property
    def _events(self) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            assert self._run is not None
            purge = {"purge_step": self._first} if self._first else {}
            self._board = SummaryWriter(str(self._run / EVENTS), **purge)
        return self._board

    def sync(self) -> int:
        """Bring everything to disk; bytes of ``metrics.csv``."""
        if self._handle is None:
            return 0
        self._handle.flush()
        os.fsync(self._handle.fileno())
        if self._board is not None:
            self._board.flush()
        return self._handle.tell()

    def close(self) -> None:
        """Close the files."""
        if self._handle is not None:
            self._handle.close()
        if self._board is not None:
            self._board.close()


class Tally:
    """Means of losses weighted by the counts behind them, over minibatches and processes.

    An objective's total is weighted by the sum of the counts of its parts, so minibatches in which it has nothing valid
    do not dilute it; the total is the weighted sum of those means.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, losses: Mapping[str, Loss]) -> None:
        """Take in the losses of one minibatch."""
        for objective, loss in losses.items():
            counts = {part: float(loss.counts[part]) for part in loss.parts}
            for part, value in loss.parts.items():
                self._add(f"{objective}/{part}", value, counts[part])
            self._add(objective, loss.total, sum(counts.values()))

    def _add(self, name: str, value: torch.Tensor, count: float) -> None:
        if count > 0:
            total, entries = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + float(value.detach()) * count, entries + count)

    def means(self, worker: Worker) -> dict[str, float]:
        """``total``, each objective, and each ``objective/part``; the same in every process."""
        merged: dict[str, tuple[float, float]] = {}
        for sums in worker.gather(self._sums):
            for name, (total, entries) in sums.items():
                before = merged.get(name, (0.0, 0.0))
                merged[name] = (before[0] + total, before[1] + entries)
        means = {name: total / entries for name, (total, entries) in merged.items()}
        weighted = [weight * means[name] for name, weight in self._weights.items() if name in means]
        return {"total": sum(weighted) if weighted else math.nan, **means}
