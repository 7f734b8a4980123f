"""What a training stage is: its configuration, and the shapes of the objects that training is handed.

Training knows no model, modality or file. A recipe hands it a module, objectives by name, and a maker of loaders;
this module says what those must offer. Left out: how a step is taken (``stage``) and which stages exist (recipes).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import nn

from syncyte.config import Config
from syncyte.errors import ConfigError, nearest, unknown
from syncyte.types import Batch, Loss

EVERYTHING = "*"


class StageConfig(Config):
    """One training phase: what is learned, by which parameters, how fast and how long.

    Patterns are regular expressions searched in parameter names (``re.search``); ``"*"`` means all. A parameter of an
    objective is named ``objectives.<objective>.<parameter>`` and is trained whatever ``trainable`` says.

    Attributes
    ----------
    name
        Name of the stage, unique in a recipe.
    objectives
        Weight of each objective; 0 switches one off.
    epochs
        Passes over the training cells, fractions allowed; 0 switches the stage off.
    batch_size
        Cells in a minibatch, per process.
    accumulate
        Minibatches in one optimiser step.
    lr
        Peak learning rate.
    weight_decay
        Decoupled weight decay (AdamW).
    betas
        Decay rates of AdamW's two moments.
    warmup_steps
        Optimiser steps of linear warm-up.
    schedule
        ``cosine`` to ``min_lr_factor`` over the whole length of the stage, or ``constant`` after the warm-up. The
        length is the one configured: early stopping does not shorten the cosine, so choose ``epochs`` near the
        expected stop.
    min_lr_factor
        Learning rate at the end of the cosine, as a share of ``lr``.
    clip
        Largest norm of the gradient; 0 = no clipping.
    trainable
        Patterns of the parameters of the model that learn; the others are frozen.
    lr_factors
        Pattern to factor on ``lr``; the last pattern that matches a name wins; 0 freezes.
    no_decay
        Patterns of parameters without weight decay.
    ema
        Decay of the running average of the weights that validation and the result use; 0 = off.
    patience
        Validation rounds without improvement before the stage stops; 0 = never.
    validate_every
        Interval of validation rounds, in epochs.
    keep
        Weights that the stage leaves: those of the ``best`` validation round, or the ``last`` ones, where the loss does
        not say what is best.
    precision
        ``32``, ``bf16`` (autocast), or ``auto``: bf16 where it is measured to be faster.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    objectives: dict[str, float]
    epochs: float = Field(5.0, ge=0)
    batch_size: int = Field(128, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    min_lr_factor: float = Field(0.0, ge=0, le=1)
    clip: float = Field(1.0, ge=0)
    trainable: tuple[str, ...] = (EVERYTHING,)
    lr_factors: dict[str, float] = {}
    no_decay: tuple[str, ...] = (r"bias$", r"norm")
    ema: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(0, ge=0)
    validate_every: float = Field(1.0, gt=0)
    keep: Literal["best", "last"] = "best"
    precision: Literal["auto", "32", "bf16"] = "auto"

    @field_validator("precision", mode="before")
    @classmethod
    def _spelled(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # precision=32 on a command line arrives as a number

    @field_validator("trainable", "no_decay", "lr_factors")
    @classmethod
    def _compile(cls, value: Any) -> Any:
        for pattern in value:
            try:
                _compiled(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression ({error})") from None
        if isinstance(value, dict) and any(not math.isfinite(factor) or factor < 0 for factor in value.values()):
            raise ValueError("factors are 0 or more")
        return value

    @property
    def active(self) -> bool:
        """Whether the stage trains anything at all."""
        return self.epochs > 0 and any(self.objectives.values())


class Objective(Protocol):
    """What is learned: a ``torch.nn.Module`` that may own parameters (trained and kept with its stage).

    ``generator`` lives on the device of the minibatch and is the only source of randomness allowed; it is seeded from
    the run's seed, the stage, the step and the process, so that a resumed run draws the same numbers. In validation
    it is the same in every round.
    """

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Loss of one minibatch."""
        ...


class EpochLoader(Protocol):
    """Minibatches of one stage and split, for one process."""

    def __len__(self) -> int:
        """Minibatches in an epoch; for training the same number in every process."""
        ...

    def epoch(self, epoch: int, start: int = 0, /) -> Iterator[Batch]:
        """Minibatches ``start, start + 1, ...`` of an epoch; the same ones whenever asked."""
        ...


MakeLoader = Callable[[StageConfig, Literal["train", "validation"], int, int], "EpochLoader | None"]
"""``(stage, split, rank, world) -> loader``; None where the split has no cells (validation only).

When memory runs out it is called again with half the ``batch_size`` and twice the ``accumulate``; minibatches should
then be the halves of the former ones (keep the shuffle buffer at ``batch_size * accumulate`` times a constant).
"""


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether any pattern is found in the name."""
    return any(_compiled(pattern).search(name) for pattern in patterns)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("" if pattern == EVERYTHING else pattern)


def check_stages(
    stages: Sequence[StageConfig], objectives: Mapping[str, Mapping[str, nn.Module]], names: Sequence[str]
) -> None:
    """Refuse a plan that cannot run.

    Parameters
    ----------
    stages
        The plan.
    objectives
        Objectives by stage and name.
    names
        Names of the model's parameters.

    Raises
    ------
    ConfigError
        Two stages of one name, an objective that does not exist, or a pattern that matches no parameter.
    """
    seen: set[str] = set()
    for stage in stages:
        if stage.name in seen:
            raise ConfigError(f"Two stages are named {stage.name!r}. Give each stage its own name.")
        seen.add(stage.name)
        if not stage.active:
            continue
        for name, weight in stage.objectives.items():
            if weight and name not in objectives.get(stage.name, {}):
                raise ConfigError(unknown(f"objective of stage {stage.name!r}", name, objectives.get(stage.name, {})))
        own = [f"objectives.{name}" for name, weight in stage.objectives.items() if weight]
        for key in ("trainable", "lr_factors"):
            for pattern in getattr(stage, key):
                if not any(matches(name, [pattern]) for name in [*names, *own]):
                    parts = (name.split(".") for name in names)
                    close = nearest(
                        pattern, {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
                    )
                    hint = f" Did you mean {close[0]!r}?" if close else ""
                    raise ConfigError(f"{key} of stage {stage.name!r}: no parameter matches {pattern!r}.{hint}")


class StageModule(nn.Module):
    """Model and objectives as one module, so that one forward call gives the loss (data-parallel training needs that).

    Parameters
    ----------
    model
        The model.
    objectives
        The stage's objectives that have a weight.
    weights
        Weight of each.
    """

    def __init__(self, model: nn.Module, objectives: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(name for name, weight in weights.items() if weight)
        self.objectives = nn.ModuleList([objectives[name] for name in self.names])
        self.weights = {name: float(weights[name]) for name in self.names}

    def spelled(self, name: str) -> str:
        """Public name of a parameter or buffer of this module: no ``model.``, objectives by name."""
        head, _, rest = name.partition(".")
        if head == "model":
            return rest
        index, _, rest = rest.partition(".")
        return f"objectives.{self.names[int(index)]}.{rest}"

    def forward(self, work: Work) -> torch.Tensor:
        """Weighted total; each objective's own loss is left in ``work.losses``."""
        losses = {
            name: objective(self.model, work.batch, work.generator)
            for name, objective in zip(self.names, self.objectives, strict=True)
        }
        work.losses = losses
        total = torch.stack([losses[name].total.float() * self.weights[name] for name in self.names]).sum()
        if self.training and not total.requires_grad:  # nothing valid in this minibatch: a zero gradient, not an error
            total = total + 0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return total


class Work:
    """A minibatch on its way into the module, and its losses on their way out.

    A plain class on purpose: wrappers of data-parallel training look into containers and data classes and would try
    to rebuild frozen ones.
    """

    def __init__(self, batch: Batch, generator: torch.Generator) -> None:
        self.batch = batch
        self.generator = generator
        self.losses: dict[str, Loss] = {}
