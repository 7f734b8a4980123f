"""What set models learn: to give back counts from a thinned set of them, and the velocity of their codes.

``CountElbo`` is the evidence bound: the encoder sees a binomial thinning of the cell, the loss scores the whole of it,
and the divergence of the code from a standard normal counts fully after a warm-up. ``FlowMatching`` moves noise to
posterior *samples* of stored codes, with attributes dropped so that every subset of them is learned.
Leaves out: how codes are stored (``recipes.codes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from syncyte.models.conditions import ConditionCoder
from syncyte.models.sets import SetModel
from syncyte.nn.denoise import drop_conditions
from syncyte.nn.flow import path, stratified_times
from syncyte.objectives.masked import augment
from syncyte.types import Batch, Loss, Tokens

DEPTH_NOISE = 0.05  # of log totals, which are whole numbers' and would be learned one by one


def dense_counts(tokens: Tokens, features: int) -> Float[Tensor, "b f"]:
    """Counts of a minibatch as a matrix."""
    cells = tokens.ids.shape[0]
    flat = tokens.value.new_zeros(cells * features)
    return flat.index_add_(0, tokens.cell * features + tokens.feature, tokens.value).view(cells, features)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape of another tensor."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


class CountElbo(nn.Module):
    """Reconstruct all counts of a cell from some of them.

    Parameters
    ----------
    modality
        Which is learned.
    kl
        Weight of the divergence; 0 makes codes deterministic.
    warmup
        Minibatches over which that weight rises from 0.
    thinning
        Largest share of the counts that the encoder does not see.
    some
        Features that are decoded in a step of training, drawn anew each time, their total taken among themselves; 0 for
        all. The loss stands for that of all.
    noise
        Standard deviation added to codes where ``kl`` is 0, so that the decoder bears errors of a generator.
    """

    seen: Tensor

    def __init__(
        self,
        modality: str,
        *,
        kl: float = 1.0,
        warmup: int = 0,
        thinning: float = 0.5,
        noise: float = 0.0,
        some: int = 0,
    ) -> None:
        super().__init__()
        self.some = some
        self.modality, self.kl, self.warmup = modality, kl, warmup
        self.thinning, self.noise = thinning, noise
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # a buffer, so that a resumed run knows it

    def forward(self, model: SetModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Nats per cell."""
        tokens = batch.tokens[self.modality]
        shown = augment(tokens, generator, 0.0, self.thinning) if self.training else tokens
        mean, log_sd, _ = model.encoder(shown)
        spread = log_sd.exp() if self.kl else self.noise
        latent = mean + spread * normal(mean, generator) if self.training else mean
        counts, features, scale = dense_counts(tokens, model.spec.features), None, 1.0
        if self.training and 0 < self.some < model.spec.features:
            features = torch.randperm(model.spec.features, generator=generator, device=generator.device)[: self.some]
            features = features.to(counts.device)
            counts, scale = counts[:, features], model.spec.features / self.some
        error = -scale * model.log_prob(latent, counts, counts.sum(dim=1).clamp_min(1).log(), features)
        kl = 0.5 * (mean.square() + (2 * log_sd).exp() - 1 - 2 * log_sd).sum(dim=1)
        weight = self.kl
        if self.training and self.warmup:
            weight *= min(1.0, int(self.seen) / self.warmup)
            self.seen += 1
        rows = torch.tensor(float(len(batch)), device=mean.device)
        parts = {"reconstruction": error.mean().detach(), "kl": kl.mean().detach()}
        return Loss(error.mean() + weight * kl.mean(), parts, dict.fromkeys(parts, rows))


@dataclass(frozen=True)
class Codes:
    """Posterior of every cell's code, and its attributes.

    Attributes
    ----------
    values
        ``(cells, 2 z + 1)`` means, log standard deviations and log total; may lie on disk.
    conditions
        By attribute, codes ``(cells,)`` or values ``(cells, 1)``.
    coder
        Makes conditions of them.
    drawn
        More conditions that are drawn anew for every minibatch of cells.
    """

    values: NDArray[np.float32]
    conditions: Mapping[str, NDArray]
    coder: ConditionCoder
    drawn: Callable[[NDArray[np.int64], torch.Generator], Mapping[str, Tensor]] | None = None

    def points(self, rows: NDArray[np.int64], generator: torch.Generator, noise: float) -> Float[Tensor, "b c"]:
        """Posterior samples and log totals of some cells."""
        values = torch.from_numpy(np.ascontiguousarray(self.values[rows])).to(generator.device)
        mean, log_sd = values[:, :-1].chunk(2, dim=1)
        total = values[:, -1:]
        return torch.cat(
            [mean + log_sd.exp() * normal(mean, generator), total + noise * normal(total, generator)], dim=1
        )


class FlowMatching(nn.Module):
    """Velocity of latent coordinates from noise to posterior samples (Lipman et al. 2023).

    Parameters
    ----------
    codes
        Gives the codes of all cells, by the rows of the minibatches; called once, with the model as it then is.
    each, every
        Rates at which attributes are dropped, see ``nn.denoise.drop_conditions``.
    """

    def __init__(self, codes: Callable[[SetModel], Codes], *, each: float = 0.1, every: float = 0.05) -> None:
        super().__init__()
        self.make, self.each, self.every = codes, each, every
        self.codes: Codes | None = None

    def forward(self, model: SetModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Mean squared error of the velocity over standardised coordinates."""
        if self.codes is None:
            self.codes = self.make(model)
        rows = batch.rows.cpu().numpy()
        data = model.flow.standardise(self.codes.points(rows, generator, DEPTH_NOISE).to(model.flow.mean))
        given = {name: values[rows] for name, values in self.codes.conditions.items()}
        condition = self.codes.coder.tensors(given, data.device)
        if self.codes.drawn is not None:
            condition = condition | {n: x.to(data.device) for n, x in self.codes.drawn(rows, generator).items()}
        if self.training and condition:
            condition = drop_conditions(condition, self.each, self.every, generator)
        time = stratified_times(len(data), generator).to(data)
        state, target = path(normal(data, generator), data, time)
        error = (model.flow(state, time, condition) - target).square().mean()
        count = torch.tensor(float(len(data)), device=data.device)
        return Loss(error, {"velocity": error.detach()}, {"velocity": count})
