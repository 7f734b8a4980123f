"""Heads: from a cell's state to what is predicted for every feature, each with its own loss.

``MeanHead`` predicts log1p of counts directly, brought to a total of the cell that comes from the modality.
``RateHead`` predicts a profile over features (softmax of a tied low-rank product through a soft link) times a level,
so depth and profile can be trained and calibrated apart.
Both start from a closed-form linear decoder. Target ids never enter: all features, or a fixed list, are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syncyte.nn.likelihood import likelihoods, multinomial_log_prob, soft_link
from syncyte.nn.linear_path import segment_sum
from syncyte.types import Tokens

MOST_OPEN = 0.995  # probability no region is predicted above


@dataclass(frozen=True, slots=True)
class HeadLoss:
    """Loss of one head: total, parts by name, and the number of entries behind each part."""

    total: Tensor
    parts: dict[str, Tensor]
    counts: dict[str, Tensor]


def level_features(state: Float[Tensor, "b k"], context: Float[Tensor, "b m 2"]) -> Float[Tensor, "b l"]:
    """Inputs of the level: state, and for each modality its context, squares and product, and state x log depth."""
    depth, richness = context[..., 0], context[..., 1]
    product = (state[:, None, :] * depth[..., None]).flatten(1)
    return torch.cat([state, context.flatten(1), depth**2, richness**2, depth * richness, product], dim=1)


def level_width(components: int, modalities: int) -> int:
    """Number of level features."""
    return components + modalities * (5 + components)


def log_values(tokens: Tokens, cells: int, features: int, per_cell: float) -> Float[Tensor, "b f"]:
    """log1p of counts of a minibatch brought to the total ``per_cell`` in every cell (0: as they are), dense."""
    dense = torch.zeros(cells, features, device=tokens.value.device)
    dense = dense.index_put((tokens.cell, tokens.feature), tokens.value, accumulate=True)
    return torch.log1p(dense * (per_cell / dense.sum(dim=1, keepdim=True).clamp_min(1)) if per_cell else dense)


def level_deviance(level: Float[Tensor, "b"], depth: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Poisson deviance of a log level over the mean depth: proper for the mean, which probabilities need."""
    scale = depth.mean().clamp_min(1)
    rate = level.clamp(-10, 15).exp()
    return 2 * (depth * (depth.clamp_min(1).log() - level) - depth + rate) / scale


class MeanHead(nn.Module):
    """Linear prediction of log1p counts at a common total of cells.

    Parameters
    ----------
    weight
        ``(k, f)`` decoder.
    context
        ``(2 m, f)`` effect of the depth context of each modality.
    bias
        ``(f,)`` training mean.
    per_cell
        That total; 0 takes counts as they are.
    """

    def __init__(self, weight: Tensor, context: Tensor, bias: Tensor, *, per_cell: float) -> None:
        super().__init__()
        self.per_cell = per_cell
        self.weight = nn.Parameter(weight.float().clone())
        self.context = nn.Parameter(context.float().clone())
        self.bias = nn.Parameter(bias.float().clone())

    def forward(self, state: Tensor, base: Tensor, context: Tensor) -> Float[Tensor, "b f"]:
        """Predicted values; ``base`` is not used by this head."""
        del base
        return state @ self.weight + context.flatten(1) @ self.context + self.bias

    def loss(
        self, prediction: Tensor, tokens: Tokens, cells: Bool[Tensor, "b"], hidden: Bool[Tensor, "b f"] | None
    ) -> HeadLoss:
        """Squared error over hidden features (all, where ``hidden`` is None) of the chosen cells."""
        target = log_values(tokens, len(prediction), prediction.shape[1], self.per_cell)
        use = cells[:, None].expand_as(prediction) if hidden is None else hidden & cells[:, None]
        count = use.sum().clamp_min(1)
        error = -2 * likelihoods["gaussian"].log_prob(target, prediction)
        mean = (error * use).sum() / count
        return HeadLoss(mean, {"mse": mean.detach()}, {"mse": count})

    def expected(self, prediction: Tensor, level: Tensor | None = None) -> Float[Tensor, "b f"]:
        """Expected log1p counts at the common total, not below zero."""
        del level
        return prediction.clamp_min(0)


class RateHead(nn.Module):
    """Profile times level.

    Parameters
    ----------
    weight
        ``(k, f)`` decoder on the scale of relative change.
    bias
        ``(f,)`` log share of each feature.
    level_weight, level_bias
        ``(l,)`` and scalar: log of the expected level from ``level_features``.
    likelihood
        ``profile``, ``bernoulli``, ``poisson`` or ``nb``.
    binary
        Whether the target is open or closed (else counts).
    per_cell
        Total of a cell in expected values of counts; 0 expects them at the predicted level.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        level_weight: Tensor,
        level_bias: Tensor,
        *,
        likelihood: str = "profile",
        binary: bool = True,
        profile_weight: float = 10.0,
        level_loss: float = 0.0,
        per_cell: float,
    ) -> None:
        super().__init__()
        self.per_cell = per_cell
        self.weight = nn.Parameter(weight.float().clone())
        self.bias = nn.Parameter(bias.float().clone())
        self.level_weight = nn.Parameter(level_weight.float().clone())
        self.level_bias = nn.Parameter(level_bias.float().clone())
        self.likelihood, self.binary = likelihood, binary
        self.profile_weight, self.level_loss = profile_weight, level_loss
        self.dispersion = nn.Parameter(torch.full((weight.shape[1],), 2.3)) if likelihood == "nb" else None

    def forward(self, state: Tensor, base: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the profile ``(b, f)`` and log level ``(b,)``.

        The level reads the linear latents ``base``, not the learned state: inputs are thinned in training, and a
        network that may move the level learns to undo the thinning, which spoils it on whole cells.
        """
        return self.logits(state), level_features(base, context) @ self.level_weight + self.level_bias

    def logits(self, state: Float[Tensor, "b k"], features: slice = slice(None)) -> Float[Tensor, "b f"]:
        """Logits of the profile over all features, or over a slice of them (its softmax is over all)."""
        return soft_link(state @ self.weight[:, features]) + self.bias[features]

    def loss(
        self,
        prediction: tuple[Tensor, Tensor],
        tokens: Tokens,
        cells: Bool[Tensor, "b"],
        hidden: Bool[Tensor, "b f"] | None,
    ) -> HeadLoss:
        """Negative log-likelihood over hidden features of the chosen cells, and the Poisson deviance of the level."""
        logits, level = prediction
        use = cells[tokens.cell] & (tokens.value > 0)
        depth = segment_sum((use * (1.0 if self.binary else tokens.value)).float(), tokens.cell, len(cells))
        some = cells & (depth > 0)
        level_error = (level_deviance(level, depth) * some).sum() / some.sum().clamp_min(1)
        if hidden is not None:
            use = use & hidden[tokens.cell, tokens.feature]
        if self.likelihood == "profile":
            weight = use.float() if self.binary else use * tokens.value
            total = weight.sum().clamp_min(1)
            nll = -multinomial_log_prob(logits, tokens.cell, tokens.feature, weight).sum() / total
            combined = self.profile_weight * nll + self.level_loss * level_error
            counts = {"profile": total, "level": some.sum()}
            return HeadLoss(combined, {"profile": nll.detach(), "level": level_error.detach()}, counts)
        nll, total = self._entry_loss(logits, level, tokens, cells, hidden)
        return HeadLoss(nll, {self.likelihood: nll.detach()}, {self.likelihood: total})

    def _entry_loss(
        self, logits: Tensor, level: Tensor, tokens: Tokens, cells: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        target = torch.zeros_like(logits).index_put((tokens.cell, tokens.feature), tokens.value, accumulate=True)
        target = (target > 0).float() if self.binary else target
        mask = cells[:, None].expand_as(logits) if hidden is None else hidden & cells[:, None]
        dispersion = None if self.dispersion is None else self.dispersion.clamp(-4, 8).exp()
        log_prob = likelihoods[self.likelihood].log_prob(target, self.rate(logits, level), dispersion)
        total = mask.sum().clamp_min(1)
        # summed over features: the scale of a cell's log-likelihood, per 100 features
        return -(log_prob * mask).sum() / total * (logits.shape[1] / 100), total

    def rate(self, logits: Tensor, level: Tensor) -> Float[Tensor, "b f"]:
        """Expected count (or opening rate) of each feature."""
        return torch.softmax(logits, dim=1) * level.clamp(-10, 15).exp()[:, None]

    def expected(self, prediction: tuple[Tensor, Tensor], level: Tensor | None = None) -> Float[Tensor, "b f"]:
        """Probability of being open, or log1p of the profile at the common total for counts."""
        logits, predicted = prediction
        rate = self.rate(logits, predicted if level is None else level)
        if self.likelihood == "bernoulli":
            return likelihoods["bernoulli"].mean(rate)
        if self.binary:  # profile and level were fitted on openings, so the rate is the probability itself
            return rate.clamp_max(MOST_OPEN)
        return torch.log1p(torch.softmax(logits, dim=1) * self.per_cell if self.per_cell else rate)
