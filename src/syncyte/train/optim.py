"""Optimiser of a stage: who learns and how fast, the schedule, the running average, and its state as plain tensors.

AdamW with decoupled weight decay (Loshchilov and Hutter 2019). The learning rate is a pure function of the step, so
nothing of a schedule needs saving. Tables marked by ``nn.rows`` take the steps of ``train.rows``. Left out: other
optimisers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from syncyte.errors import CheckpointError, ConfigError
from syncyte.nn.rows import by_rows
from syncyte.train.plan import StageConfig, StageModule, matches
from syncyte.train.rows import RowwiseAdamW

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
ROW_MOMENTS = ("row_sum", "row_size")


def lr_factor(stage: StageConfig, step: int, total: int) -> float:
    """Share of the peak learning rate at optimiser step ``step`` (from 0) of ``total``."""
    warm = min(stage.warmup_steps, total)
    if step < warm:
        return (step + 1) / warm
    if stage.schedule == "constant":
        return 1.0
    progress = (step - warm) / max(1, total - warm)
    return stage.min_lr_factor + (1 - stage.min_lr_factor) * 0.5 * (1 + math.cos(math.pi * progress))


@contextmanager
def only_trainable(module: StageModule, stage: StageConfig) -> Iterator[dict[str, nn.Parameter]]:
    """Context in which only the stage's parameters require gradients; its value is those, by public name.

    Parameters frozen by their owner stay frozen. The flags are put back afterwards.

    Raises
    ------
    ConfigError
        If nothing is left to train.
    """
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters():
        spelled = module.spelled(name)
        open_ = name.startswith("objectives.") or matches(spelled, stage.trainable)
        learns = parameter.requires_grad and open_ and _factor(spelled, stage) > 0
        parameter.requires_grad_(learns)
        if learns:
            chosen[spelled] = parameter
    try:
        if not chosen:
            raise ConfigError(
                f"Stage {stage.name!r} trains no parameter: trainable = {list(stage.trainable)}, "
                f"lr_factors = {stage.lr_factors}. Choose patterns that leave some, or switch it off with epochs=0."
            )
        yield chosen
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)


def _factor(name: str, stage: StageConfig) -> float:
    factor = 1.0
    for pattern, value in stage.lr_factors.items():
        if matches(name, [pattern]):
            factor = value
    return factor


def make_optimizer(parameters: Mapping[str, nn.Parameter], stage: StageConfig) -> RowwiseAdamW:
    """AdamW with one group for each pair of learning-rate factor and weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = 0.0 if matches(name, stage.no_decay) else stage.weight_decay
        groups.setdefault((_factor(name, stage), decay), []).append(parameter)
    return RowwiseAdamW(
        [
            {"params": members, "weight_decay": decay, "factor": factor, "lr": stage.lr * factor}
            for (factor, decay), members in groups.items()
        ],
        lr=stage.lr,
        betas=stage.betas,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Moments and step counts by ``<parameter>/<moment>``; nothing for parameters that had no gradient yet."""
    return {
        f"{name}/{key}": optimizer.state[parameter][key]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for key in optimizer.state[parameter]
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` gave.

    Raises
    ------
    CheckpointError
        If a tensor belongs to no parameter or has another shape.
    """
    left = set(tensors)
    for name, parameter in parameters.items():
        moments = ROW_MOMENTS if by_rows(parameter) else MOMENTS
        keys = [f"{name}/{key}" for key in moments]
        if not left.issuperset(keys):
            continue
        wanted = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "row_sum": parameter.shape[:1]}
        if any(tensors[f"{name}/{key}"].shape != wanted.get(key, ()) for key in moments):
            break
        optimizer.state[parameter] = {
            key: tensors[full].to(parameter.device, copy=True) for key, full in zip(moments, keys, strict=True)
        }
        left.difference_update(keys)
    if left:
        raise CheckpointError(
            f"The saved optimiser state does not fit the model (first misfit: {min(left)!r}). Resume with the model "
            "that was being trained, or start anew with --overwrite."
        )


class Average:
    """Exponential running average of trained parameters.

    The decay is at most ``(1 + step) / (10 + step)``, so that the start is forgotten in short stages too.

    Parameters
    ----------
    parameters
        Trained parameters by name; the average starts at their values. Tables trained by rows are left out.
    decay
        Decay for each optimiser step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters = {name: parameter for name, parameter in parameters.items() if not by_rows(parameter)}
        self.decay = decay
        self.shadow = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [parameter.detach() for parameter in self.parameters.values()]
        get_ema_multi_avg_fn(decay)(list(self.shadow.values()), live, 0)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the module computes with the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def settle(self) -> None:
        """Make the average the weights, for good."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.shadow[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            live = parameter.detach().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name].copy_(live)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back a saved average."""
        for name, shadow in self.shadow.items():
            shadow.copy_(tensors[name])
