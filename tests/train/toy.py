"""A regression small enough to train in a second, in the shapes that training expects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from syncyte.train.loop import FitReport, fit
from syncyte.train.plan import StageConfig
from syncyte.types import Batch, Loss

CELLS = 96


def toy_table(n: int = CELLS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 6, generator=generator)
    return x, torch.tanh(x @ torch.randn(6, 3, generator=generator)) + 0.1 * torch.randn(n, 3, generator=generator)


class ToyModel(nn.Module):
    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout))
            self.head = nn.Linear(width, 3)
            self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class ToyObjective(nn.Module):
    """Squared error from inputs of which some are hidden at random; owns a parameter."""

    def __init__(self, hide: float = 0.2) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))
        self.hide = hide
        self.calls = 0
        x, y = toy_table()
        self.register_buffer("x", x, persistent=False)
        self.register_buffer("y", y, persistent=False)

    def forward(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        self.calls += 1
        x, y = self.x[batch.rows], self.y[batch.rows]
        seen = torch.rand(x.shape, generator=generator, device=x.device) >= self.hide
        error = (model(x * seen) + self.shift - y).float().square().mean()
        count = torch.tensor(len(batch) * 3)
        return Loss(error, {"error": error.detach()}, {"error": count})


class ToyLoader:
    def __init__(self, rows: np.ndarray, size: int, shuffle: bool, rank: int = 0, world: int = 1, wait: float = 0.0):
        self.rows, self.size, self.shuffle, self.rank, self.world, self.wait = rows, size, shuffle, rank, world, wait

    def __len__(self) -> int:
        return -(-len(self.rows) // (self.size * self.world))

    def epoch(self, epoch: int, start: int = 0, /) -> Iterator[Batch]:
        order = np.random.default_rng((7, epoch)).permutation(self.rows) if self.shuffle else self.rows
        for step in range(start, len(self)):
            time.sleep(self.wait)
            whole = order[step * self.size * self.world : (step + 1) * self.size * self.world]
            yield toy_batch(whole[self.rank :: self.world])


def toy_batch(rows: np.ndarray) -> Batch:
    return Batch(tokens={}, present={}, covariates={}, rows=torch.as_tensor(rows))


def make_toy_loader(stage: StageConfig, split: str, rank: int, world: int) -> ToyLoader:
    rows = np.arange(CELLS)[:64] if split == "train" else np.arange(CELLS)[64:]
    return ToyLoader(rows, stage.batch_size, split == "train", rank, world)


def toy_stages(**changes: object) -> list[StageConfig]:
    base = {"objectives": {"fit": 1.0}, "epochs": 3.5, "batch_size": 8, "lr": 0.02, "warmup_steps": 3, "ema": 0.9}
    first = {**base, "validate_every": 0.5, "patience": 5}
    second = {**base, "epochs": 2, "weight_decay": 0.1, "lr_factors": {"head": 0.5}, "trainable": ["head", "body.1"]}
    return [
        StageConfig.parse({"name": name, **{**stage, **changes}}) for name, stage in (("one", first), ("two", second))
    ]


def toy_objectives(hide: float = 0.2) -> dict[str, dict[str, nn.Module]]:
    return {name: {"fit": ToyObjective(hide)} for name in ("one", "two")}


def toy_fit(run: Path, **options) -> tuple[FitReport, ToyModel]:
    """Fit a fresh toy model; every option of ``fit`` may be given, and ``model``."""
    model = options.pop("model", None) or ToyModel()
    defaults = {
        "stages": toy_stages(),
        "run": run,
        "make_loader": make_toy_loader,
        "objectives": toy_objectives(),
        "device": "cpu",
        "quiet": True,
    }
    return fit(model, **{**defaults, **options}), model


def curves(run: Path) -> list[str]:
    """Lines of ``metrics.csv`` without the two columns of seconds."""
    return [line.rsplit(",", 2)[0] for line in (run / "metrics.csv").read_text().splitlines()]
