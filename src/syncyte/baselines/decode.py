"""Linear decoders of one modality from the latent space, in closed form, and how far they are shrunken.

- counts: ridge of log1p counts per 10,000 (or another total, see ``Encoder``) on the other modality's shared latents
  and its depth;
- open or closed: ``W_j = (p_j G + c I)^-1 sum_i z_i (y_ij - n_i p_j)`` with ``G = sum_i n_i z_i z_i^T``: least squares
  of the relative change, weighted by the expected count; one eigendecomposition serves all regions;
- level: Poisson regression of the depth on latents, the other modality's depth context, its squares, and latents x log
  depth. The mean of the depth, not of its log, is what a probability needs; this alone is worth more than any network
  tried.

Component k enters a decoder scaled by ``factor * strength_k ** power``, a prior whose variance falls with its singular
value. A decoder can also go *through* the target's own latents: pairs teach latents to latents, all cells of the target
teach latents to features. The mean of both ways errs less than either.
Leaves out: which shape suits the data (``baselines.tune``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.closed_form import fit_level, level_features, mean_decoder, relative_decoder, ridge
from syncyte.baselines.encode import Encoder, rows_of
from syncyte.baselines.prediction import opened
from syncyte.baselines.residual import Kind

MOST_OPEN = 0.995  # probability no region is predicted above
BRIDGE, BRIDGE_PENALTY = 30, 30.0  # own components a bridge goes through, and its ridge penalty
OPEN_SCALE = 2.0  # openings are rarer than counts: their decoder is scaled up against the same penalty


@dataclass(frozen=True)
class Decoder:
    """Linear decoder of one modality from the latent space.

    ``weight`` (k, f), ``bias`` (f,), ``context`` (2, f) effect of the source's depth context (counts only), ``level``
    and ``level_bias`` predict the log of the expected depth from ``level_features``; ``openings`` and ``prior`` (k,)
    are what its ridge weighed: openings it was fitted on, and the scale of every component.
    """

    kind: Kind
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    context: NDArray[np.float32]
    level: NDArray[np.float32]
    level_bias: float
    openings: float = 0.0
    prior: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def predict(self, latent: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(cells, f)``: expected log1p per 10,000, or probability of being open."""
        if self.kind == "pearson":
            return np.maximum(latent @ self.weight + context @ self.context + self.bias, 0)
        logits = self.logits(latent)
        logits -= logits.max(axis=1, keepdims=True)
        profile = np.exp(logits)
        profile /= profile.sum(axis=1, keepdims=True)
        level = np.exp(level_features(latent, context) @ self.level + self.level_bias)
        return np.minimum(profile * level[:, None], MOST_OPEN)

    def logits(
        self, latent: NDArray[np.float32], columns: NDArray[np.int64] | slice = slice(None)
    ) -> NDArray[np.float32]:
        """``(cells, f)`` logits of the profile, of some features."""
        score = latent @ self.weight[:, columns]
        return np.where(score > 0, np.log1p(np.maximum(score, 0)), score) + self.bias[columns]


@dataclass(frozen=True)
class Shape:
    """How a decoder is shrunken.

    Attributes
    ----------
    power, factor
        Component k is scaled by ``factor * strength_k ** power`` before the ridge.
    context
        Whether the effect of the source's depth is fitted (counts only); another technical batch may not share it.
    through
        Share of the way through the target's own latents.
    """

    power: float = 1.0
    factor: float = 1.0
    context: bool = True
    through: float = 0.5

    def prior(self, strength: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(k,)`` scale of every component."""
        return (self.factor * strength**self.power).astype(np.float32)


@dataclass(frozen=True)
class Pairs:
    """What a decoder learns from: latents of the source and counts of the target in the same cells.

    ``latent`` (cells, k) and ``context`` (cells, 2) of the source, ``wanted`` (cells, f) counts of the target.
    ``alone`` are counts of the target in all its cells, for the way through its own latents.
    """

    latent: NDArray[np.float32]
    context: NDArray[np.float32]
    wanted: sp.csr_matrix
    alone: sp.csr_matrix


def pairs_of(
    target: str,
    source: str,
    counts: Mapping[str, sp.csr_matrix],
    rows: NDArray[np.int64],
    alone: NDArray[np.int64],
    encoders: Mapping[str, Encoder],
    width: int,
) -> Pairs:
    """Pairs of the given ``rows``; ``alone`` are the rows that have the target."""
    seen = rows_of(counts[source], rows)
    encoder = encoders[source]
    latent, context = encoder.latents(seen)[:, :width], encoder.context(seen)
    return Pairs(latent, context, rows_of(counts[target], rows), rows_of(counts[target], alone))


def fit_decoder(pairs: Pairs, source: Encoder, target: Encoder, shape: Shape) -> Decoder:
    """Fit the decoder of ``target`` on latents of ``source``."""
    depth = target.residual.depth(pairs.wanted)
    level, level_bias = fit_level(level_features(pairs.latent, pairs.context), depth)
    blank = np.zeros(0, dtype=np.float32)
    decoder = Decoder(target.residual.kind, blank, blank, blank, level.astype(np.float32), level_bias)
    return fit_profile(pairs, source, target, shape, decoder)


def fit_profile(pairs: Pairs, source: Encoder, target: Encoder, shape: Shape, decoder: Decoder) -> Decoder:
    """Everything but the level, which stays that of ``decoder``."""
    parts = []
    prior = shape.prior(source.strength[: pairs.latent.shape[1]])
    ways = ((1 - shape.through, _direct), (shape.through, _through))
    for share, way in ways:
        if share > 0:
            weight, bias, context = way(pairs, prior, target, shape)
            weight *= (share * prior[:, None]).astype(weight.dtype)  # in place: regions may be a million
            parts.append([weight, share * bias, share * context])
    weight, bias, context = (sum(part[1:], part[0]).astype(np.float32) for part in zip(*parts, strict=True))
    openings = float(target.residual.depth(pairs.wanted).sum())
    return replace(decoder, weight=weight, bias=bias, context=context, openings=openings, prior=prior)


def _direct(
    pairs: Pairs, prior: NDArray[np.float32], target: Encoder, shape: Shape
) -> tuple[NDArray, NDArray, NDArray]:
    """Latents of the source to features of the target; weights on scaled latents."""
    latent, share = pairs.latent * prior, target.residual.share
    if target.residual.kind == "pearson":
        return mean_decoder(latent, pairs.context * shape.context, pairs.wanted, target.per_cell)
    openings = opened(pairs.wanted)
    weight = relative_decoder(latent * OPEN_SCALE, openings, target.residual.depth(openings), share)
    weight *= OPEN_SCALE
    return weight, np.log(share), np.zeros((2, len(share)))


def _through(
    pairs: Pairs, prior: NDArray[np.float32], target: Encoder, shape: Shape
) -> tuple[NDArray, NDArray, NDArray]:
    """Latents of the source to own latents of the target over pairs, these to features over all cells."""
    kept = slice(target.shared, target.shared + BRIDGE)
    latent, width = pairs.latent * prior, pairs.latent.shape[1]
    wanted, everyone = target.latents(pairs.wanted)[:, kept], target.latents(pairs.alone)[:, kept]
    if target.residual.kind == "pearson":
        weight, bias, effect = mean_decoder(everyone, target.context(pairs.alone), pairs.alone, target.per_cell)
        design = np.hstack([latent, pairs.context * shape.context])
        bridge, offset = ridge(design, np.hstack([wanted, target.context(pairs.wanted)]), BRIDGE_PENALTY)
        decoder = np.vstack([weight, effect])
        through = bridge @ decoder
        return through[:width], bias + offset @ decoder, through[width:]
    openings, share = opened(pairs.alone), target.residual.share
    scale = OPEN_SCALE * target.strength[kept]
    own = relative_decoder(everyone * scale, openings, target.residual.depth(openings), share)
    own *= scale[:, None].astype(np.float32)
    bridge, offset = ridge(latent, wanted, BRIDGE_PENALTY)
    # pairs may lie elsewhere than all cells of the target; beside the soft link this is right to first order only
    return bridge @ own, np.log(share) + offset @ own, np.zeros((2, len(share)))
