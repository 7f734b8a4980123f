"""Counts of a cell as an exchangeable set of (feature, value): an autoencoder, and a flow over its codes.

Encoder: the sum over measured features of value x vector, which does not know their order; where ``queries`` > 0,
learned queries read the same set by attention (``nn.resample``) and add a residual that begins at zero. Decoder: the
score of a feature is the product of its vector with a hidden state; where ``unpool`` is set, feature queries ask the
latents by attention and add a residual to it, zero at first as well. Scores of all features make shares by a softmax,
shares times a total make means (Palla et al. 2025, with the likelihoods of ``nn.likelihood``).
Guarantees, each a test: order and padding of the input do not change the code; the score of a feature does not hang on
which others are asked for. Knows no modality by name. Leaves out: losses (``objectives.sets``), sampling (``tasks``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.config import Config
from syncyte.models.conditions import Attribute, ConditionCoder
from syncyte.models.language import SAID, Words, WordSizes
from syncyte.models.latent_flow import FlowSizes, LatentFlow
from syncyte.nn.language import Given
from syncyte.nn.likelihood import likelihoods, negative_binomial, zero_inflated
from syncyte.nn.resample import AskBlock, MergeValues, Pool, Unpool
from syncyte.types import Encoded, Tokens, Visible

CountLikelihood = Literal["nb", "poisson", "zinb", "gaussian"]
DISPERSION = (-4.0, 8.0)  # limits of its logarithm
SPREAD = (-6.0, 2.0)  # limits of the log standard deviation of a code
ALL_TOKENS = 1 << 30  # no limit to what attention reads of a cell
SLICE = 1 << 22  # cell x feature answers made at once


class SetSizes(Config):
    """Sizes of the autoencoder; ``queries`` 0 leaves out attention, ``unpool`` lets features ask too."""

    latents: int = 16
    hidden: int = 256
    dropout: float = 0.1
    queries: int = 0
    width: int = 32
    heads: int = 4
    layers: int = 1
    unpool: bool = False


class SetSpec(Config):
    """Shape of a whole model, as it lies in a checkpoint."""

    modality: str
    features: int
    per_cell: float = 1e4
    likelihood: CountLikelihood = "nb"
    sizes: SetSizes = SetSizes()
    flow: FlowSizes = FlowSizes()
    attributes: list[Attribute] = []
    words: WordSizes | None = None


class SetEncoder(nn.Module):
    """Set of counts to mean and log standard deviation of a code.

    Parameters
    ----------
    features
        Number of features.
    sizes
        See ``SetSizes``.
    per_cell
        Total that counts are brought to before their logarithm.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, features: int, sizes: SetSizes, per_cell: float) -> None:
        super().__init__()
        self.per_cell, self.sizes = per_cell, sizes
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        bound = features**-0.5
        self.table = nn.Parameter(torch.empty(features, sizes.hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(sizes.hidden))
        self.norm = nn.LayerNorm(sizes.hidden)
        self.dropout = nn.Dropout(sizes.dropout)
        self.mean, self.log_sd = nn.Linear(sizes.hidden, sizes.latents), nn.Linear(sizes.hidden, sizes.latents)
        nn.init.constant_(self.log_sd.bias, -1.0)
        self.pool: Pool | None = None
        if sizes.queries:
            self.vectors = nn.Parameter(torch.randn(features, sizes.width) / sizes.width**0.5)
            self.merge = MergeValues(sizes.width, 2)
            self.start = nn.Linear(sizes.hidden, sizes.queries * sizes.width)
            self.pool = Pool(sizes.queries, sizes.width, sizes.heads, layers=sizes.layers)
            self.out = nn.Linear(sizes.width, 2 * sizes.latents // sizes.queries)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log standard deviation ``(b, z)``, and the total count ``(b,)`` seen."""
        hidden, scale, total = self._summed(tokens)
        mean, log_sd = self.mean(hidden), self.log_sd(hidden)
        if self.pool is not None:
            states = self._pooled(self.pool, *self._merged(tokens, scale), hidden)
            more = (
                self.out(states).view(len(total), 2, -1) if self.sizes.queries == 1 else self._split(self.out(states))
            )
            mean, log_sd = mean + more[:, 0], log_sd + more[:, 1]
        return mean, log_sd.clamp(*SPREAD), total

    def states(self, tokens: Tokens) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """All token states of cells: of the queries that have read the set, then of the features; and which are valid.

        Without queries the only state is the sum over the features.
        """
        hidden, scale, _ = self._summed(tokens)
        if self.pool is None:
            return hidden[:, None], torch.ones(len(hidden), 1, dtype=torch.bool, device=hidden.device)
        merged, valid = self._merged(tokens, scale)
        read = self._pooled(self.pool, merged, valid, hidden)
        return torch.cat([read, merged], dim=1), torch.cat([valid.new_ones(read.shape[:2]), valid], dim=1)

    @property
    def state_width(self) -> int:
        """Width of ``states``."""
        return self.sizes.width if self.sizes.queries else self.sizes.hidden

    def _summed(self, tokens: Tokens) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Hidden state from the sum over features, scale to ``per_cell``, and total."""
        cells = tokens.ids.shape[0]
        total = tokens.value.new_zeros(cells).index_add_(0, tokens.cell, tokens.value)
        scale = self.per_cell / total.clamp_min(1)
        logs = torch.log1p(tokens.value * scale[tokens.cell])
        offsets = torch.bincount(tokens.cell, minlength=cells).cumsum(0).roll(1)
        offsets[0] = 0
        weights = (logs / self.spread[tokens.feature]).to(self.table.dtype)
        summed = F.embedding_bag(tokens.feature, self.table, offsets, mode="sum", per_sample_weights=weights)
        summed = summed - (self.center / self.spread) @ self.table + self.bias
        return self.dropout(F.silu(self.norm(summed))), scale, total

    def _merged(self, tokens: Tokens, scale: Tensor) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Tokens of features with their values, and which hold any."""
        cells, columns = tokens.ids.shape[0], max(tokens.ids.shape[1], 1)  # cells may all be empty
        kept = (tokens.token >= 0) & (tokens.value > 0)
        place, value = tokens.token[kept], tokens.value[kept]
        vectors = self.vectors.new_zeros(cells * columns, self.vectors.shape[1])
        vectors = vectors.index_add(0, place, self.vectors[tokens.feature[kept]])
        amount = value.new_zeros(cells * columns).index_add_(0, place, value).view(cells, columns)
        values = torch.stack([amount, amount * scale[:, None]], dim=2).log1p()
        return self.merge(vectors.view(cells, columns, -1), values), amount > 0

    def _pooled(self, pool: Pool, merged: Tensor, valid: Tensor, hidden: Tensor) -> Float[Tensor, "b m d"]:
        """States of the queries, which start from the sum and have read the tokens."""
        return pool(merged, valid, self.start(hidden).view(len(hidden), self.sizes.queries, -1))

    def _split(self, parts: Float[Tensor, "b m e"]) -> Float[Tensor, "b two z"]:
        """Each query's share of means and of log standard deviations, gathered."""
        mean, log_sd = parts.chunk(2, dim=2)
        return torch.stack([mean.flatten(1), log_sd.flatten(1)], dim=1)


class SetDecoder(nn.Module):
    """Code to a score of any asked features.

    Parameters
    ----------
    features, sizes
        See ``SetSizes``.
    """

    def __init__(self, features: int, sizes: SetSizes, likelihood: CountLikelihood) -> None:
        super().__init__()
        self.sizes = sizes
        self.inward = nn.Linear(sizes.latents, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden)
        self.table = nn.Parameter(torch.randn(features, sizes.hidden) * 0.02)
        self.bias = nn.Parameter(torch.zeros(features))
        first = -0.7 if likelihood == "gaussian" else math.log(10.0)  # there it is the log spread of log values
        self.log_dispersion = nn.Parameter(torch.full((features,), first))
        self.zeros = nn.Linear(sizes.hidden, features) if likelihood == "zinb" else None
        if self.zeros is not None:
            nn.init.zeros_(self.zeros.weight)
            nn.init.constant_(self.zeros.bias, -4.0)
        self.mix = nn.ModuleList()
        self.unpool: Unpool | None = None
        if sizes.queries:
            self.open = nn.Linear(sizes.latents // sizes.queries, sizes.width)
            self.place = nn.Parameter(torch.randn(sizes.queries, sizes.width) * 0.02)
            self.mix = nn.ModuleList(AskBlock(sizes.width, sizes.heads) for _ in range(sizes.layers))
            self.back = nn.Linear(sizes.queries * sizes.width, sizes.hidden, bias=False)
            nn.init.zeros_(self.back.weight)
        if sizes.unpool:
            self.vectors = nn.Parameter(torch.randn(features, sizes.width) / sizes.width**0.5)
            self.unpool = Unpool(sizes.width, sizes.heads)
            self.out = nn.Linear(sizes.width, 1, bias=False)
            nn.init.zeros_(self.out.weight)

    def forward(
        self, latent: Float[Tensor, "b z"], features: Int[Tensor, "f"] | None = None
    ) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b h"]]:
        """Scores of the asked features (None: all), and the hidden state."""
        summed, states = self.inward(latent), None
        if self.sizes.queries:
            states = self.open(latent.view(len(latent), self.sizes.queries, -1)) + self.place
            for block in self.mix:
                states = block(states, states)
            summed = summed + self.back(states.flatten(1))
        hidden = F.silu(self.norm(summed))
        table, bias = (self.table, self.bias) if features is None else (self.table[features], self.bias[features])
        scores = F.linear(hidden, table, bias)
        if self.unpool is not None and states is not None:
            scores = scores + self._asked(self.unpool, states, features)
        return scores, hidden

    def _asked(self, unpool: Unpool, states: Float[Tensor, "b m d"], features: Tensor | None) -> Float[Tensor, "b f"]:
        """Residual of the scores: features ask the latents, some at a time where many are asked for."""
        vectors = self.vectors if features is None else self.vectors[features]
        size = max(64, SLICE // (len(states) * vectors.shape[1]))
        if self.training or len(vectors) <= size:
            return self.out(unpool(states, vectors))[..., 0]
        return torch.cat([self.out(unpool(states, some))[..., 0] for some in vectors.split(size)], dim=1)


class SetModel(nn.Module):
    """Autoencoder of sets of counts with a flow over its codes.

    Parameters
    ----------
    spec
        Its shape.
    """

    gate: Tensor

    def __init__(self, spec: SetSpec) -> None:
        super().__init__()
        self.spec, self.names = spec, (spec.modality,)
        self.components = spec.sizes.latents
        coder = ConditionCoder(spec.attributes)
        self.encoder = SetEncoder(spec.features, spec.sizes, spec.per_cell)
        self.decoder = SetDecoder(spec.features, spec.sizes, spec.likelihood)
        said = {} if spec.words is None else {SAID: spec.words.shared}
        self.flow = LatentFlow(spec.sizes.latents, coder.categories, coder.vectors | said, spec.flow)
        self.words = None if spec.words is None else Words(self.encoder.state_width, spec.words)
        self.capabilities = ("encodes", "generates", *(() if spec.words is None else ("matches", "speaks")))
        self.register_buffer("gate", torch.ones(1))  # nothing is shrunken

    def encode(
        self, tokens: Mapping[str, Tokens], visible: Mapping[str, Visible], *, token_states: bool = False
    ) -> Encoded:
        """Code of cells: its mean; depth beside it, zero where the cell has no such counts; token states if asked."""
        name = self.names[0]
        mean, _, total = self.encoder(tokens[name])
        seen = visible[name].whole.to(mean.dtype)
        latent = mean * seen[:, None]
        depth = (total.clamp_min(1).log() - self.flow.mean[-1]) / self.flow.sd[-1] * seen
        rich = (torch.bincount(tokens[name].cell, minlength=len(mean)).clamp_min(1)).log() * seen
        states, valid = self.encoder.states(tokens[name]) if token_states else (None, None)
        context = torch.stack([depth, rich], dim=1)[:, None]
        return Encoded(latent, latent, context, {name: latent}, states, valid)

    @property
    def state_width(self) -> int:
        """Width of the token states."""
        return self.encoder.state_width

    def show(self, tokens: Tokens, given: Given | None = None) -> tuple[Float[Tensor, "b q w"], Float[Tensor, "b q d"]]:
        """What the queries of the bridge read of cells, and the vectors of cells among texts."""
        if self.words is None:
            raise ValueError("This model has no part for words.")
        return self.words.show(*self.encoder.states(tokens), given)

    def log_shares(
        self, latent: Float[Tensor, "b z"], features: Int[Tensor, "f"] | None = None, *, within: bool = False
    ) -> Float[Tensor, "b f"]:
        """Log of each feature's expected share of the total.

        Parameters
        ----------
        features
            Columns asked for; None for all.
        within
            Share among the asked features alone (for a total of these); else among all.
        """
        scores, _ = self.decoder(latent, features)
        if features is None or within:
            return torch.log_softmax(scores, dim=1)
        return scores - torch.logsumexp(self.decoder(latent)[0], dim=1, keepdim=True)

    @property
    def log_dispersion(self) -> Float[Tensor, "f"]:
        """Log dispersion of every feature, within its limits."""
        return self.decoder.log_dispersion.clamp(*DISPERSION)

    def log_prob(
        self,
        latent: Float[Tensor, "b z"],
        counts: Float[Tensor, "b f"],
        log_total: Float[Tensor, "b"],
        features: Int[Tensor, "f"] | None = None,
    ) -> Float[Tensor, "b"]:
        """Log-probability of counts of cells, given their codes and totals, summed over features.

        Parameters
        ----------
        features
            Columns that are counted and totalled; None for all.
        """
        scores, hidden = self.decoder(latent, features)
        dispersion = self.log_dispersion if features is None else self.log_dispersion[features]
        share = torch.log_softmax(scores.float(), dim=1)
        level = share + log_total[:, None]
        kind = self.spec.likelihood
        if kind == "poisson":
            return (counts * level - level.exp() - torch.lgamma(counts + 1)).sum(dim=1)
        if kind == "gaussian":
            return self._log_normal(share, counts, log_total, features)
        if self.decoder.zeros is not None:
            logit = self.decoder.zeros(hidden).float()
            logit = logit if features is None else logit[:, features]
            return zero_inflated(counts, level, dispersion, logit).sum(dim=1)
        return negative_binomial(counts, level, dispersion).sum(dim=1)

    def _log_normal(
        self, share: Tensor, counts: Tensor, log_total: Tensor, features: Tensor | None
    ) -> Float[Tensor, "b"]:
        """Normal errors of log counts per ``per_cell``, one spread a feature."""
        scale = self.spec.per_cell * (-log_total).exp()[:, None]
        error = torch.log1p(counts * scale) - torch.log1p(self.spec.per_cell * share.exp())
        log_sd = self.decoder.log_dispersion.clamp(-3, 3)
        log_sd = log_sd if features is None else log_sd[features]
        return (-0.5 * (error / log_sd.exp()).square() - log_sd - 0.5 * math.log(2 * math.pi)).sum(dim=1)

    @torch.no_grad()
    def draw(
        self,
        latent: Float[Tensor, "b z"],
        log_total: Float[Tensor, "b"],
        generator: torch.Generator,
        log_share: Float[Tensor, "b f"] | None = None,
    ) -> Float[Tensor, "b f"]:
        """Counts of new cells with given codes and totals, with the noise of the likelihood.

        Parameters
        ----------
        log_share
            Expected shares to draw around, instead of those of the codes.
        """
        scores, hidden = self.decoder(latent)
        share = (torch.log_softmax(scores.float(), dim=1) if log_share is None else log_share).exp()
        mean = share * log_total.exp()[:, None]
        if self.spec.likelihood == "gaussian":
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            logs = torch.log1p(self.spec.per_cell * share) + noise * self.decoder.log_dispersion.clamp(-3, 3).exp()
            return (torch.expm1(logs) * log_total.exp()[:, None] / self.spec.per_cell).clamp_min(0).round()
        if self.spec.likelihood == "poisson":
            return torch.poisson(mean, generator=generator)
        counts = likelihoods["nb"].sample(mean, generator, self.log_dispersion.exp())
        if self.decoder.zeros is None:
            return counts
        return counts * (1 - torch.bernoulli(torch.sigmoid(self.decoder.zeros(hidden)), generator=generator))
