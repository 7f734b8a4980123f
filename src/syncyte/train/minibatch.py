"""Minibatches by optimiser step, the randomness of a step, and what happens to them when memory runs out.

Left out: which cells a minibatch holds (the loader's affair).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch

from syncyte.errors import DataError
from syncyte.train.plan import EpochLoader, StageConfig
from syncyte.types import Batch


class Feed:
    """Groups of minibatches by optimiser step; asking for the next step goes on, any other one starts there."""

    def __init__(self, loader: EpochLoader, accumulate: int) -> None:
        self._loader = loader
        self._accumulate = accumulate
        self.steps = math.ceil(len(loader) / accumulate)
        self._next = -1
        self._iterator: Iterator[Batch] = iter(())

    def at(self, step: int) -> list[Batch]:
        """Minibatches of optimiser step ``step``, counted from the start of the stage."""
        epoch, within = divmod(step, self.steps)
        if within == 0 or step != self._next:
            self._iterator = self._loader.epoch(epoch, within * self._accumulate)
        self._next = step + 1
        group = list(islice(self._iterator, self._accumulate))
        if not group:
            raise DataError(f"The loader promised {len(self._loader)} minibatches and ended early in epoch {epoch}.")
        return group


def step_generator(key: tuple[int, ...], device: torch.device) -> torch.Generator:
    """Make the generator of one step from ``key`` alone; torch's global one (dropout) is seeded alike."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would visit every kind of device, in each step
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def halved(stage: StageConfig) -> StageConfig:
    """Copy a stage with minibatches of half the size and twice as many to a step."""
    return stage.model_copy(update={"batch_size": stage.batch_size // 2, "accumulate": stage.accumulate * 2})


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in text
        or "not enough memory" in text
    )
