"""Devices and processes: one small surface for a plain CPU process and for lightning's Fabric.

Several processes come from ``torchrun`` (``torchrun --nproc-per-node 2 -m syncyte ...``): gloo on CPUs, nccl on GPUs,
one GPU a process. Gradients are averaged over processes with equal weight: every process must hold equally many cells
(the loaders see to that), otherwise the average is slightly off; validation is exact, it sums counts.
Every node must see the RUN folder. Left out: sharded weights (FSDP) and starting processes itself.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from syncyte.errors import ConfigError

BF16_MIN_WIDTH = 256  # narrower layers spend their time on other things than the matrix product
BF16_MIN_GAIN = 1.3


class Worker(Protocol):
    """One training process among ``world`` equal ones."""

    rank: int
    world: int
    device: torch.device

    def setup(self, module: nn.Module) -> nn.Module:
        """Move to the device and wrap for data-parallel training."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add gradients."""
        ...

    def accumulating(self, module: nn.Module, more: bool) -> AbstractContextManager[Any]:
        """Context of a minibatch; with ``more`` to come before the step, gradients are not exchanged yet."""
        ...

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over processes, the same in each."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Collect the value of every process, by rank, in each."""
        ...

    def barrier(self) -> None:
        """Wait for all processes."""
        ...


class Alone:
    """One process on one device, without lightning (whose import takes seconds)."""

    rank = 0
    world = 1

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def setup(self, module: nn.Module) -> nn.Module:
        """See ``Worker``."""
        return module.to(self.device)

    def backward(self, loss: torch.Tensor) -> None:
        """See ``Worker``."""
        loss.backward()

    def accumulating(self, module: nn.Module, more: bool) -> AbstractContextManager[Any]:
        """See ``Worker``."""
        return nullcontext()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """See ``Worker``."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """See ``Worker``."""
        return [value]

    def barrier(self) -> None:
        """See ``Worker``."""


class Lightning:
    """A process of a lightning Fabric: a GPU, or one of several data-parallel processes.

    Parameters
    ----------
    accelerator
        ``cpu``, ``cuda`` or ``mps``.
    devices
        Processes on this node, or a list with the number of one GPU.
    nodes
        Nodes.
    """

    def __init__(self, accelerator: str, devices: int | list[int], nodes: int = 1) -> None:
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy

        several = not isinstance(devices, list) and devices * nodes > 1
        # an objective uses part of the model only, so some parameters get no gradient in some steps
        strategy = DDPStrategy(find_unused_parameters=True) if several else "auto"
        self.fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)
        with _without_banner():
            self.fabric.launch()
        if several and torch.distributed.get_backend() == "gloo":
            atexit.unregister(_leave)
            atexit.register(_leave)
        self.rank = self.fabric.global_rank
        self.world = self.fabric.world_size
        self.device = self.fabric.device

    def setup(self, module: nn.Module) -> nn.Module:
        """See ``Worker``."""
        return self.fabric.setup_module(module)

    def backward(self, loss: torch.Tensor) -> None:
        """See ``Worker``."""
        self.fabric.backward(loss)

    def accumulating(self, module: nn.Module, more: bool) -> AbstractContextManager[Any]:
        """See ``Worker``."""
        if self.world == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(module, enabled=more)  # type: ignore[arg-type]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """See ``Worker``."""
        total = self.fabric.all_reduce(values, reduce_op="sum")
        assert isinstance(total, torch.Tensor)
        return total

    def gather(self, value: Any) -> list[Any]:
        """See ``Worker``."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """See ``Worker``."""
        self.fabric.barrier()


def _leave() -> None:
    """Join gloo's threads while Python is still whole: one that frees a tensor later aborts the process.

    Lightning does so for NCCL alone.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _without_banner() -> Iterator[None]:
    """Keep lightning from greeting on standard error, which is for errors."""
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def start_worker(device: str = "auto") -> Worker:
    """Join the processes that ``torchrun`` started, or work alone.

    Parameters
    ----------
    device
        ``auto`` (a CUDA GPU where there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises
    ------
    ConfigError
        For a device that is not there.
    """
    kind, index = resolve_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        return Lightning(kind, here, world // here)
    return Alone() if kind == "cpu" else Lightning(kind, [index] if kind == "cuda" else 1)


def resolve_device(device: str = "auto") -> tuple[str, int]:
    """Kind and number of a device that exists, from what the user wrote; see ``start_worker``.

    Of several processes each takes the GPU of its number, where none is named.
    """
    kind, separator, number = device.strip().lower().partition(":")
    kind = {"gpu": "cuda"}.get(kind, kind)
    gpus = torch.cuda.device_count() if kind in ("auto", "cuda") else 0
    own = int(os.environ.get("LOCAL_RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0
    if kind == "auto":
        return ("cuda", own % gpus) if gpus else ("cpu", 0)
    if kind not in ("cpu", "cuda", "mps") or (separator and not number.isdigit()):
        raise ConfigError(f"Unknown device {device!r}. Choose auto, cpu, cuda, cuda:NUMBER or mps.")
    place = int(number or own)
    if kind == "cuda" and place >= gpus:
        raise ConfigError(f"Device {device!r} was asked for, but torch sees {gpus} CUDA GPU(s). Use auto or cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("Device 'mps' was asked for, but torch sees no Apple GPU. Use auto or cpu.")
    return kind, place if kind == "cuda" else int(number or 0)


def choose_precision(asked: str, module: nn.Module, worker: Worker) -> str:
    """``32`` or ``bf16`` for a stage; ``auto`` is settled by a measurement on the first process.

    bf16 is taken where a square matrix product of the model's width runs at least 1.3 times faster in it than in
    float32. On a CPU, models narrower than 256 stay in float32 without a measurement: there bf16 gains nothing, and
    results do not hang on a clock.
    """
    if asked != "auto":
        return asked
    width = max((min(p.shape) for p in module.parameters() if p.ndim == 2), default=0)
    if worker.device.type == "mps" or (worker.device.type == "cpu" and width < BF16_MIN_WIDTH):
        return "32"
    faster = worker.rank == 0 and bf16_gain(str(worker.device), 1 << max(5, width.bit_length() - 1)) >= BF16_MIN_GAIN
    return worker.gather("bf16" if faster else "32")[0]


@functools.cache
def bf16_gain(device: str, width: int) -> float:
    """Measure how many times faster a ``(1024, width) x (width, width)`` product is in bf16 than in float32."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.ones(1024, width, device=device, dtype=dtype)
        right = torch.ones(width, width, device=device, dtype=dtype)
        trials = []
        for _ in range(7):
            begin = time.perf_counter()
            (left @ right)[0, 0].item()  # item() waits for the device
            trials.append(time.perf_counter() - begin)
        seconds[dtype] = min(trials[2:])
    return seconds[torch.float32] / seconds[torch.bfloat16]
