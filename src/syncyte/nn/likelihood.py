"""Likelihoods: ``log_prob``, ``mean``, ``sample`` of what a head predicts. The recipe chooses, not the modality.

- ``gaussian``: unit-variance errors on a transformed value (log1p of counts per 10,000);
- ``poisson``, ``nb``: counts with a rate;
- ``bernoulli``: open or closed, ``P(open) = 1 - exp(-rate)``, so that a rate means the same in all three;
- ``profile``: the Poisson likelihood in its factorised form, multinomial over features x level, whose two parts can be
  weighted and calibrated apart.

All functions return one value per entry (``profile``: per open entry), computed in float32, or float64 where that is
given. ``negative_binomial`` and ``zero_inflated`` take logarithms, so that small means keep their gradients.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from syncyte.config import Registry

TINY = 1e-8


class Likelihood(Protocol):
    """What every likelihood answers."""

    def log_prob(self, target: Tensor, mean: Tensor, dispersion: Tensor | None = None) -> Tensor:
        """Log-likelihood of each entry, up to terms that hold no parameter only where the docstring says so."""
        ...

    def mean(self, rate: Tensor) -> Tensor:
        """Expected observation for a rate (or mean)."""
        ...

    def sample(self, rate: Tensor, generator: torch.Generator, dispersion: Tensor | None = None) -> Tensor:
        """Draw observations."""
        ...


likelihoods: Registry[Likelihood] = Registry("likelihood")


class Gaussian:
    """Unit variance: minus half the squared error (the constant is left out)."""

    def log_prob(self, target: Tensor, mean: Tensor, dispersion: Tensor | None = None) -> Tensor:
        """Minus half the squared error."""
        del dispersion
        return -0.5 * (target.float() - mean.float()) ** 2

    def mean(self, rate: Tensor) -> Tensor:
        """The mean itself."""
        return rate

    def sample(self, rate: Tensor, generator: torch.Generator, dispersion: Tensor | None = None) -> Tensor:
        """Mean plus standard normal noise."""
        del dispersion
        return rate + torch.randn(rate.shape, generator=generator, dtype=rate.dtype, device=rate.device)


class Poisson:
    """Counts with mean ``rate``."""

    def log_prob(self, target: Tensor, mean: Tensor, dispersion: Tensor | None = None) -> Tensor:
        """Exact log-probability."""
        del dispersion
        rate = mean.float().clamp_min(TINY)
        target = target.float()
        return target * rate.log() - rate - torch.lgamma(target + 1)

    def mean(self, rate: Tensor) -> Tensor:
        """The rate."""
        return rate

    def sample(self, rate: Tensor, generator: torch.Generator, dispersion: Tensor | None = None) -> Tensor:
        """Poisson counts."""
        del dispersion
        return torch.poisson(rate, generator=generator)


class NegativeBinomial:
    """Counts with mean ``rate`` and variance ``rate + rate^2 / dispersion``."""

    def log_prob(self, target: Tensor, mean: Tensor, dispersion: Tensor | None = None) -> Tensor:
        """Exact log-probability; ``dispersion`` broadcasts over cells (default 10)."""
        level = _wide(mean).clamp_min(TINY).log()
        spread = torch.full_like(level, 10.0) if dispersion is None else _wide(dispersion)
        return negative_binomial(_wide(target), level, spread.log())

    def mean(self, rate: Tensor) -> Tensor:
        """The rate."""
        return rate

    def sample(self, rate: Tensor, generator: torch.Generator, dispersion: Tensor | None = None) -> Tensor:
        """Gamma-Poisson counts; torch's gamma sampler takes its noise from the generator's seed."""
        theta = torch.full_like(rate, 10.0) if dispersion is None else dispersion.expand_as(rate)
        scaled = torch._standard_gamma(theta.contiguous(), generator=generator)
        return torch.poisson(scaled * rate / theta, generator=generator)


class Bernoulli:
    """Open or closed with ``P(open) = 1 - exp(-rate)``."""

    def log_prob(self, target: Tensor, mean: Tensor, dispersion: Tensor | None = None) -> Tensor:
        """Exact log-probability of the binarised target."""
        del dispersion
        rate = mean.float().clamp_min(TINY)
        return torch.where(target > 0, torch.log(-torch.expm1(-rate)), -rate)

    def mean(self, rate: Tensor) -> Tensor:
        """Probability of being open."""
        return -torch.expm1(-rate)

    def sample(self, rate: Tensor, generator: torch.Generator, dispersion: Tensor | None = None) -> Tensor:
        """Zeros and ones."""
        del dispersion
        return torch.bernoulli(self.mean(rate), generator=generator)


likelihoods.add("gaussian")(Gaussian())
likelihoods.add("poisson")(Poisson())
likelihoods.add("nb")(NegativeBinomial())
likelihoods.add("bernoulli")(Bernoulli())


def negative_binomial(
    counts: Float[Tensor, "*s"], log_mean: Float[Tensor, "*s"], log_dispersion: Tensor
) -> Float[Tensor, "*s"]:
    """Exact log-probability of counts; gamma functions are computed where something was counted only.

    ``lgamma(x+t) - lgamma(t) - lgamma(x+1) - t softplus(m-r) - x softplus(r-m)`` with log mean ``m``, log dispersion
    ``r`` and ``t = exp(r)``: no small number is added inside a logarithm, so a mean near zero is not cut off.

    Parameters
    ----------
    log_dispersion
        Broadcasts over the counts. In float32 keep it below 9: differences of gamma functions lose digits beyond.
    """
    over = log_mean - log_dispersion
    theta = log_dispersion.exp().expand_as(over)
    found = theta * F.logsigmoid(-over) + counts * F.logsigmoid(over)
    seen = counts.nonzero(as_tuple=True)
    x, t = counts[seen], theta[seen]
    return found.index_put(seen, torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1), accumulate=True)


def zero_inflated(
    counts: Float[Tensor, "*s"], log_mean: Float[Tensor, "*s"], log_dispersion: Tensor, zero_logit: Tensor
) -> Float[Tensor, "*s"]:
    """Negative binomial in which a count is zero for another reason with probability ``sigmoid(zero_logit)``."""
    own = negative_binomial(counts, log_mean, log_dispersion)
    kept, lost = F.logsigmoid(-zero_logit), F.logsigmoid(zero_logit)
    return torch.where(counts > 0, kept + own, torch.logaddexp(lost.expand_as(own), kept + own))


def _wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype == torch.float64 else values.float()


def soft_link(score: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """``log(1 + x)`` above zero, ``x`` below.

    The decoder weights are fitted on the scale of relative change, so ``log(1 + x)`` reads them as they were meant
    where ``exp`` would explode for rare cells; below zero the identity keeps the rate positive.
    """
    return torch.where(score > 0, torch.log1p(score.clamp_min(0)), score)


def multinomial_log_prob(
    logits: Float[Tensor, "b f"], cell: Tensor, feature: Tensor, weight: Tensor | None = None
) -> Float[Tensor, "e"]:
    """Log share of each measured entry under the softmax profile of its cell."""
    log_share = torch.log_softmax(logits.float(), dim=1)[cell, feature]
    return log_share if weight is None else log_share * weight
