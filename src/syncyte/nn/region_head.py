"""A head for a million features: profile times level, learned from what is open and a sample of what is closed.

The profile is ``softmax_j(bias_j + soft_link(state . d_j))``. Its normaliser, the only term that closed features enter
(the Bernoulli and the Poisson likelihood need no more), is estimated from features drawn by their corpus share, one
systematic sample a minibatch, each divided by the chance it was drawn with. In evaluation, and where features are few,
it is summed over all of them in blocks.
Decoder rows ``d_j`` are free, or *tied* to the table of loadings that encodes: for a linear
encoder the closed-form decoder is nearly a small matrix of it,

    d_j = (table_j @ mix) * scale_j / (spread * share_j + penalty),

where the denominator is the ridge of ``baselines.closed_form.relative_decoder``; no second table is needed.
Leaves out: dispersion (no negative binomial here) and fitting the tie (``models.assemble``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.heads import MOST_OPEN, HeadLoss, level_deviance, level_features
from syncyte.nn.likelihood import likelihoods, soft_link
from syncyte.nn.linear_path import LinearPath, segment_sum
from syncyte.nn.rows import lookup, mark_rows
from syncyte.types import Tokens, Visible

BLOCK = 32_768  # features of a block
MOST_LIVE = 0.9  # of the features: with more of them alive all are taken
DENSE = 65_536  # features up to which scoring all of them costs less than picking some
LIKELIHOODS = ("profile", "bernoulli", "poisson")


@dataclass(frozen=True)
class Rates:
    """A prediction before it is asked for: state ``(b, k)``, log level ``(b,)``, and the table of a tied decoder."""

    state: Tensor
    level: Tensor
    table: Tensor | None


@dataclass(frozen=True)
class Live:
    """Features with loadings: their numbers, each feature's place among them (-1: none), and what the others weigh."""

    index: Tensor | None
    place: Tensor | None
    rest: Tensor | None


class RegionHead(nn.Module):
    """Profile times level over very many features.

    Parameters
    ----------
    components, features
        Widths ``k`` and ``f``.
    levels
        Width of the level's features.
    likelihood
        ``profile``, ``bernoulli`` or ``poisson`` (on counts of fragments).
    tied
        Columns of the table that the decoder is tied to; 0 for free rows.
    samples
        Features drawn for the normaliser in training; 0 sums over all of them.
    token_of
        ``(f,)`` token of each feature, for losses over hidden shares of tokens.
    """

    share: Tensor
    scale: Tensor
    token_of: Tensor
    spread: Tensor
    penalty: Tensor

    def __init__(
        self,
        components: int,
        features: int,
        levels: int,
        *,
        likelihood: str = "profile",
        tied: int = 0,
        samples: int = 4096,
        token_of: Int[Tensor, "f"],
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"A sampled head knows {', '.join(LIKELIHOODS)}, not {likelihood!r}.")
        self.likelihood, self.samples, self.per_cell = likelihood, samples, 0.0
        self.most_dense = DENSE
        self.bias = nn.Parameter(torch.full((features,), -torch.tensor(float(features)).log().item()))
        self.level_weight = nn.Parameter(torch.zeros(levels))
        self.level_bias = nn.Parameter(torch.tensor(0.0))
        self.rows = None if tied else nn.Parameter(torch.zeros(features, components))
        if self.rows is not None:
            mark_rows(self.rows)
        if tied:
            self.mix = nn.Parameter(torch.zeros(tied, components))
        self.register_buffer("spread", torch.zeros(components))
        self.register_buffer("penalty", torch.ones(()))
        self.register_buffer("share", torch.full((features,), 1.0 / features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("token_of", token_of.int(), persistent=False)  # follows from the vocabulary
        self._drawn: tuple[int, Tensor] | None = None
        self._found: tuple[tuple[int, int, torch.device], Live] | None = None

    @property
    def binary(self) -> bool:
        """Whether the target is open or closed."""
        return self.likelihood != "poisson"

    @property
    def loadings(self) -> nn.Parameter:
        """What the decoder learns: its rows, or the mix that ties it to the table."""
        return self.mix if self.rows is None else self.rows

    def forward(self, state: Tensor, base: Tensor, context: Tensor, path: LinearPath) -> Rates:
        """Prediction that is worked out where it is asked for; the level reads the linear latents, see ``RateHead``."""
        level = level_features(base, context) @ self.level_weight + self.level_bias
        return Rates(state, level, None if self.rows is not None else path.table)

    def decoder(self, table: Tensor | None, features: Tensor | slice) -> Float[Tensor, "s k"]:
        """Decoder rows of some features; gradients of rows picked by number are sparse."""
        source = self.rows if self.rows is not None else table
        assert source is not None
        if isinstance(features, slice):
            picked = source[features]
        else:
            picked = lookup(source, features)
        if self.rows is not None:
            return picked
        shrunk = self.spread * self.share[features, None] + self.penalty
        return (picked @ self.mix) * self.scale[features, None] / shrunk

    def logits(self, state: Float[Tensor, "b k"], path: LinearPath, features: slice) -> Float[Tensor, "b s"]:
        """Logits of the profile over a slice of features (its softmax is over all)."""
        table = None if self.rows is not None else path.table
        return soft_link(state @ self.decoder(table, features).T) + self.bias[features]

    def relative(self, prediction: Rates, features: Tensor | slice) -> Float[Tensor, "b s"]:
        """``exp(soft_link(score))``: rates of some features over those of a cell of the mean profile."""
        return F.elu(prediction.state @ self.decoder(prediction.table, features).T) + 1

    def normaliser(
        self, prediction: Rates, hidden: Visible | None, *, exact: bool = True
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Sums of ``exp(logit)`` over all features, and over the hidden ones (the same sum where nothing is hidden)."""
        terms, rest = self._terms(prediction, exact)
        everything = torch.zeros_like(prediction.level)
        if rest is not None:
            everything = everything + rest.sum()
        unseen = everything if hidden is None or rest is None else self._hidden_rest(hidden, rest)
        for features, weight in terms:
            mass = self.relative(prediction, features) * weight
            everything = everything + mass.sum(dim=1)
            if hidden is not None:
                unseen = unseen + (mass * self._hidden_share(hidden, features)).sum(dim=1)
        return everything, everything if hidden is None else unseen

    def _hidden_rest(self, visible: Visible, rest: Float[Tensor, "t"]) -> Float[Tensor, "b"]:
        assert visible.share is not None
        return (1 - visible.share) @ rest

    def _hidden_share(self, visible: Visible, features: Tensor | slice) -> Float[Tensor, "b s"]:
        """How much of each feature is hidden, in expectation."""
        assert visible.share is not None
        return 1 - visible.share[:, self.token_of[features]]

    def _terms(self, prediction: Rates, exact: bool) -> tuple[list[tuple[Tensor | slice, Tensor]], Tensor | None]:
        """Features that stand for all of them, with their weights: a draw, or everything.

        Last comes what features without loadings add, by token.
        """
        count, live = len(self.bias), self._live(prediction)
        if not exact and 0 < self.samples < count:
            drawn = self._draw(prediction.level.device)
            return [(drawn, self.bias[drawn].exp() / (self.share[drawn] * self.samples))], None
        if live.index is not None:
            return [(block, self.bias[block].exp()) for block in live.index.split(BLOCK)], live.rest
        blocks = [slice(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
        return [(block, self.bias[block].exp()) for block in blocks], None

    @torch.no_grad()
    def _live(self, prediction: Rates) -> Live:
        """Features with loadings, where many have none: a reference knows more regions than a data set opens."""
        source = self.rows if self.rows is not None else prediction.table
        assert source is not None
        if source.requires_grad or self.bias.requires_grad:  # any may come alive
            return Live(None, None, None)
        key = (source._version, self.bias._version, source.device)
        if self._found is None or self._found[0] != key:
            some = source.any(dim=1)
            index = some.nonzero()[:, 0]
            found = Live(None, None, None)
            if len(index) < MOST_LIVE * len(some):
                place = torch.full((len(some),), -1, device=source.device).index_copy(
                    0, index, torch.arange(len(index), device=source.device)
                )
                rest = torch.zeros(int(self.token_of.max()) + 1, device=source.device)
                found = Live(index, place, rest.index_add(0, self.token_of[~some], self.bias[~some].exp()))
            self._found = (key, found)
        return self._found[1]

    def _dense_loss_terms(
        self, prediction: Rates, cell: Tensor, feature: Tensor, hidden: Visible | None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Logits of entries and both normalisers from one dense product, where that is small enough; else None."""
        live = self._live(prediction)
        features: Tensor | slice = slice(None) if live.index is None else live.index
        if (len(self.bias) if live.index is None else len(live.index)) > self.most_dense:
            return None
        mass = self.relative(prediction, features) * self.bias[features].exp()
        everything = unseen = mass.sum(dim=1)
        if hidden is not None:
            unseen = (mass * self._hidden_share(hidden, features)).sum(dim=1)
        if live.place is None or live.rest is None:
            return mass[cell, feature].clamp_min(1e-30).log(), everything, unseen
        place = live.place[feature]
        logits = torch.where(place >= 0, mass[cell, place.clamp_min(0)].clamp_min(1e-30).log(), self.bias[feature])
        rest = live.rest.sum() if hidden is None else self._hidden_rest(hidden, live.rest)
        return logits, everything + live.rest.sum(), unseen + rest

    @torch.no_grad()
    def _draw(self, device: torch.device) -> Int[Tensor, "s"]:
        """Systematic sample by share: one random offset, so every stretch of the genome is there in proportion."""
        if self._drawn is None or self._drawn[0] != self.share._version or self._drawn[1].device != device:
            self._drawn = (self.share._version, torch.cumsum(self.share.double(), 0))
        places = (torch.arange(self.samples, device=device) + torch.rand(1, device=device)) / self.samples
        found = torch.searchsorted(self._drawn[1], places.double() * self._drawn[1][-1])
        return found.clamp_max(len(self.share) - 1)

    def loss(
        self, prediction: Rates, tokens: Tokens, cells: Bool[Tensor, "b"], hidden: Visible | None = None
    ) -> HeadLoss:
        """Negative log-likelihood over hidden features of the chosen cells (all where ``hidden`` is None), an opening.

        Parameters
        ----------
        hidden
            What was visible: the loss is over the rest.
        """
        use = cells[tokens.cell] & (tokens.value > 0)
        if hidden is not None and hidden.entries is not None:
            use = use & ~hidden.entries
        cell, feature = tokens.cell[use], tokens.feature[use]
        value = torch.ones_like(tokens.value[use]) if self.binary else tokens.value[use]
        terms = self._dense_loss_terms(prediction, cell, feature, hidden)
        if terms is not None:
            logits, everything, unseen = terms
        else:
            decoder = self.decoder(prediction.table, feature)
            logits = soft_link((prediction.state[cell] * decoder).sum(dim=1)) + self.bias[feature]
            everything, unseen = self.normaliser(prediction, hidden, exact=not self.training)
        total = value.sum().clamp_min(1)
        if self.likelihood == "profile":
            nll = -(value * (logits - unseen.clamp_min(1e-12).log()[cell])).sum() / total
            depth = segment_sum(value, tokens.cell[use], len(cells))
            some = cells & (depth > 0)
            error = (level_deviance(prediction.level, depth) * some).sum() / some.sum().clamp_min(1)
            parts = (
                {"profile": nll.detach()} if hidden is not None else {"profile": nll.detach(), "level": error.detach()}
            )
            return HeadLoss(10.0 * nll, parts, {key: total if key == "profile" else some.sum() for key in parts})
        level = prediction.level.clamp(-10, 15).exp()
        rate = (logits.exp() / everything[cell]) * level[cell]
        expected = unseen / everything * level * cells  # over hidden features, open ones among them
        # a closed feature gives -rate in both likelihoods: take the sum over all and put the open ones right
        gain = likelihoods[self.likelihood].log_prob(value, rate) + rate
        nll = (expected.sum() - gain.sum()) / total
        return HeadLoss(nll, {self.likelihood: nll.detach()}, {self.likelihood: total})

    def profile(self, prediction: Rates, features: Tensor | slice = slice(None)) -> Float[Tensor, "b s"]:
        """Share of some features in a cell's openings, exactly normalised."""
        everything, _ = self.normaliser(prediction, None)
        return self.relative(prediction, features) * self.bias[features].exp() / everything[:, None]

    def expected(self, prediction: Rates, level: Tensor | None = None) -> Float[Tensor, "b f"]:
        """Probability of being open (or rate, for counts) of every feature: dense, so ask for few cells at once."""
        rate = self.profile(prediction) * (prediction.level if level is None else level).clamp(-10, 15).exp()[:, None]
        if self.likelihood == "bernoulli":
            return likelihoods["bernoulli"].mean(rate)
        return rate.clamp_max(MOST_OPEN) if self.likelihood == "profile" else -torch.expm1(-rate)
