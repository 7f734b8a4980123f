"""The linear model every cell model starts from, and a baseline of its own: shared factors with closed-form decoders.

Encoders are the singular vectors of the cross-covariance between the residuals of two modalities over paired cells
(shared components), beside the leading components of each modality alone (private components). Where pairs are few and
unpaired cells many, a bridge takes its place: the first modality's own components, learned on all its cells, are the
shared space; the others reach it by a small regression of latents on latents over the pairs; and each decoder is that
regression times a decoder learned on all cells of its own modality, so pairs only have to teach a few hundred numbers.
Decoders:

- counts: ridge of log1p counts per 10,000 on the other modality's shared latents and its log depth;
- open or closed: ``W_j = (p_j G + c I)^-1 sum_i z_i (y_ij - n_i p_j)`` with ``G = sum_i n_i z_i z_i^T``: least squares
  of the relative change, weighted by the expected count; one eigendecomposition serves all regions;
- level: Poisson regression of the depth on latents, the other modality's depth context, its squares, and latents x log
  depth. The mean of the depth, not of its log, is what a probability needs; this alone is worth more than any network
  tried.

Component k enters a decoder scaled by its singular value over the first, a prior whose variance falls with it.
Leaves out: anything iterative. At most ``MOST_CELLS`` cells are used, so memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.closed_form import (
    fit_level,
    level_features,
    mean_decoder,
    raw_context,
    relative_decoder,
    ridge,
)
from syncyte.baselines.residual import Kind, Residual, ResidualMatrix, randomized_svd, svd
from syncyte.errors import DataError

MOST_CELLS = 50_000
FEW_PAIRS = 3500  # below, with unpaired cells at hand, latents of all cells and a small bridge beat the pairs alone
CLIP = 3.0
MOST_OPEN = 0.995  # probability no region is predicted above
BRIDGE, BRIDGE_PENALTY = 30, 30.0  # own components a bridge starts from, and its ridge penalty
Alone = tuple[NDArray[np.float32], NDArray[np.float32]]  # loadings (f, k) and singular values (k,) of one modality


@dataclass(frozen=True)
class Encoder:
    """Linear encoder of one modality.

    Attributes
    ----------
    residual, center
        Scaling of the counts and the mean residual ``(f,)`` over training cells.
    table
        ``(f, k)`` loadings over the training standard deviation of each latent: shared columns first.
    shared
        Number of shared columns.
    strength
        ``(k,)`` singular values over the first of their group.
    context_mean, context_sd
        ``(2,)`` of the depth context (log depth and log richness, see ``raw_context``) over training cells.
    """

    residual: Residual
    center: NDArray[np.float32]
    table: NDArray[np.float32]
    shared: int
    strength: NDArray[np.float32]
    context_mean: NDArray[np.float32]
    context_sd: NDArray[np.float32]

    def latents(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(cells, k)`` clipped latents."""
        sparse, left, right = self.residual.split(counts)
        raw = sparse @ self.table + left @ (right @ self.table) - self.center @ self.table
        return (CLIP * np.tanh(raw / CLIP)).astype(np.float32)

    def context(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(cells, 2)`` standardised depth context."""
        return ((raw_context(counts, self.residual) - self.context_mean) / self.context_sd).astype(np.float32)


@dataclass(frozen=True)
class Decoder:
    """Linear decoder of one modality from the latent space.

    ``weight`` (k, f), ``bias`` (f,), ``context`` (2, f) effect of the source's depth context (counts only), ``level``
    and ``level_bias`` predict the log of the expected depth from ``level_features``.
    """

    kind: Kind
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    context: NDArray[np.float32]
    level: NDArray[np.float32]
    level_bias: float

    def predict(self, latent: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(cells, f)``: expected log1p per 10,000, or probability of being open."""
        if self.kind == "pearson":
            return np.maximum(latent @ self.weight + context @ self.context + self.bias, 0)
        score = latent @ self.weight
        logits = np.where(score > 0, np.log1p(np.maximum(score, 0)), score) + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        profile = np.exp(logits)
        profile /= profile.sum(axis=1, keepdims=True)
        level = np.exp(level_features(latent, context) @ self.level + self.level_bias)
        return np.minimum(profile * level[:, None], MOST_OPEN)


@dataclass(frozen=True)
class LinearStart:
    """Encoders and decoders of all modalities.

    Attributes
    ----------
    encoders, decoders
        By modality.
    source
        By target modality: the modality whose latents its decoder was fitted on.
    components
        Width ``k`` of the latent space.
    note
        How the encoders were made, for the report.
    """

    encoders: dict[str, Encoder]
    decoders: dict[str, Decoder]
    source: dict[str, str]
    components: int
    note: str = ""
    extra: dict[str, float] = field(default_factory=dict)

    def latent(self, modality: str, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(cells, k)`` latent of cells seen in one modality."""
        return self.encoders[modality].latents(counts)[:, : self.components]

    def predict(self, source: str, target: str, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """Prediction of ``target`` for cells whose ``source`` counts are given."""
        encoder = self.encoders[source]
        return self.decoders[target].predict(self.latent(source, counts), encoder.context(counts))


def fit_start(
    counts: Mapping[str, sp.csr_matrix],
    present: Mapping[str, NDArray[np.bool_]],
    kinds: Mapping[str, Kind],
    *,
    shared: int = 24,
    private: int = 50,
    seed: int = 0,
    mode: str = "auto",
) -> LinearStart:
    """Fit the start on training cells.

    Parameters
    ----------
    counts
        By modality ``(cells, f)``, empty rows where not measured; the same cells in every modality.
    present
        By modality ``(cells,)``.
    kinds
        Residual scaling of each modality.
    shared, private
        Components of the cross-covariance and of each modality alone.
    mode
        ``auto``, ``cross`` (cross-covariance of the pairs), ``bridge`` (few pairs) or ``separate`` (no pairs used:
        every modality alone).
    """
    names = list(counts)
    rng = np.random.default_rng(seed)
    residuals = {m: Residual.fit(kinds[m], _totals(counts[m], kinds[m])) for m in names}
    alone = {m: _private(counts[m], present[m], residuals[m], private, seed, rng) for m in names}
    paired = np.logical_and.reduce([present[m] for m in names])
    pairs = int(paired.sum()) if len(names) > 1 else 0
    if mode == "auto":
        mode = _choose(pairs, {m: int(present[m].sum()) for m in names})
    tables: dict[str, NDArray[np.float32]] = {}
    strength = np.ones(0, dtype=np.float32)
    if mode != "separate":
        rows = _sample(np.flatnonzero(paired), rng)
        make = _bridged if mode == "bridge" else _shared
        tables, strength = make(counts, residuals, rows, shared, seed, alone)
    encoders = {
        m: _encoder(counts[m], present[m], residuals[m], tables.get(m), strength, alone[m], private) for m in names
    }
    width = len(strength) if mode != "separate" else min(e.table.shape[1] for e in encoders.values())
    source = {m: next((o for o in names if o != m), m) if mode != "separate" else m for m in names}
    decoders = {m: _decoder(m, source[m], counts, present, encoders, width, rng) for m in names}
    if mode == "bridge":
        decoders = {m: _bridge_decoder(m, source[m], counts, present, encoders, decoders[m], rng) for m in names}
    notes = {
        "cross": f"cross-covariance of {pairs:,} paired cells",
        "bridge": f"components of all cells, bridged over {pairs:,} paired cells",
        "separate": "each modality alone",
    }
    return LinearStart(encoders, decoders, source, width, notes[mode], {"pairs": float(pairs)})


def _choose(pairs: int, cells: Mapping[str, int]) -> str:
    if pairs < 50:
        return "separate"
    return "bridge" if pairs < FEW_PAIRS and max(cells.values()) > 1.5 * pairs else "cross"


def _totals(counts: sp.csr_matrix, kind: Kind) -> NDArray[np.float64]:
    if kind == "pearson":
        return np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    return np.bincount(counts.indices, minlength=counts.shape[1]).astype(np.float64)


def _sample(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= MOST_CELLS else np.sort(rng.choice(rows, MOST_CELLS, replace=False))


def _private(
    counts: sp.csr_matrix,
    present: NDArray[np.bool_],
    residual: Residual,
    components: int,
    seed: int,
    rng: np.random.Generator,
) -> Alone:
    """Loadings and singular values of one modality over all its cells."""
    rows = _sample(np.flatnonzero(present), rng)
    if len(rows) < 10:
        raise DataError(f"Only {len(rows)} training cells have this modality; at least 10 are needed to start from.")
    wanted = max(components, BRIDGE)
    matrix = ResidualMatrix.build(counts[rows], residual)
    # the spectrum of open chromatin is flat: fewer iterations leave the subspace unsettled
    _, strength, loadings = svd(matrix, min(wanted, min(matrix.shape) - 1), seed, iterations=12)
    return loadings, strength


def _shared(
    counts: Mapping[str, sp.csr_matrix],
    residuals: Mapping[str, Residual],
    rows: NDArray[np.int64],
    components: int,
    seed: int,
    alone: Mapping[str, Alone],
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Loadings of the shared components of each modality: the first against all others side by side."""
    del alone
    names = list(counts)
    first, *others = (ResidualMatrix.build(counts[m][rows], residuals[m]) for m in names)
    edges = np.cumsum([0, *(m.shape[1] for m in others)])

    def dot(other: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [m.dot(other[edges[i] : edges[i + 1]]) for i, m in enumerate(others)]
        return first.transpose_dot(np.sum(parts, axis=0))

    def transpose_dot(other: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = first.dot(other)
        return np.concatenate([m.transpose_dot(scores) for m in others])

    u, strength, v = randomized_svd(dot, transpose_dot, (first.shape[1], int(edges[-1])), components, seed, 3)
    pieces = [u, *(v[edges[i] : edges[i + 1]] for i in range(len(others)))]
    return dict(zip(names, pieces, strict=True)), strength / strength[0]


def _bridged(
    counts: Mapping[str, sp.csr_matrix],
    residuals: Mapping[str, Residual],
    rows: NDArray[np.int64],
    components: int,
    seed: int,
    alone: Mapping[str, Alone],
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Shared loadings where pairs are few: the first modality's own, and the others' regressed onto its latents."""
    del seed
    anchor, *others = counts
    loadings, strength = alone[anchor][0][:, :components], alone[anchor][1][:components]
    scores = ResidualMatrix.build(counts[anchor][rows], residuals[anchor]).dot(loadings)
    tables = {anchor: loadings}
    for name in others:
        basis, weight = alone[name][0][:, :BRIDGE], alone[name][1][:BRIDGE] / alone[name][1][0]
        own = ResidualMatrix.build(counts[name][rows], residuals[name]).dot(basis)
        scale = weight / np.maximum(own.std(axis=0), 1e-6)
        bridge, _ = ridge(own * scale, scores, BRIDGE_PENALTY)
        tables[name] = (basis @ (scale[:, None] * bridge)).astype(np.float32)
    return tables, strength / strength[0]


def _encoder(
    counts: sp.csr_matrix,
    present: NDArray[np.bool_],
    residual: Residual,
    shared: NDArray[np.float32] | None,
    strength: NDArray[np.float32],
    alone: Alone,
    private: int,
) -> Encoder:
    rows = np.flatnonzero(present)[:MOST_CELLS]
    matrix = ResidualMatrix.build(counts[rows], residual)
    loadings = alone[0][:, :private]
    table = loadings if shared is None else np.hstack([shared, loadings])
    table = table / np.maximum(matrix.dot(table).std(axis=0), 1e-6)
    values = alone[1][: loadings.shape[1]] / alone[1][0]
    context = raw_context(counts[rows], residual)
    return Encoder(
        residual,
        matrix.center,
        table.astype(np.float32),
        0 if shared is None else shared.shape[1],
        np.concatenate([strength, values]).astype(np.float32),
        context.mean(axis=0).astype(np.float32),
        np.maximum(context.std(axis=0), 1e-3).astype(np.float32),
    )


def _decoder(
    target: str,
    source: str,
    counts: Mapping[str, sp.csr_matrix],
    present: Mapping[str, NDArray[np.bool_]],
    encoders: Mapping[str, Encoder],
    width: int,
    rng: np.random.Generator,
) -> Decoder:
    rows = _sample(np.flatnonzero(present[target] & present[source]), rng)
    encoder, seen, wanted = encoders[source], counts[source][rows], counts[target][rows]
    latent, context = encoder.latents(seen)[:, :width], encoder.context(seen)
    prior = encoder.strength[:width]
    kind = encoders[target].residual.kind
    depth = encoders[target].residual.depth(wanted)
    level, level_bias = fit_level(level_features(latent, context), depth)
    if kind == "pearson":
        weights, bias, effect = mean_decoder(latent * prior, context, wanted)
        weights = weights * prior[:, None]
    else:
        share = encoders[target].residual.share
        opened = sp.csr_matrix((np.ones_like(wanted.data), wanted.indices, wanted.indptr), shape=wanted.shape)
        weights = relative_decoder(latent * (2 * prior), opened, depth, share) * (2 * prior)[:, None]
        bias, effect = np.log(share), np.zeros((2, len(share)))
    return Decoder(
        kind,
        weights.astype(np.float32),
        bias.astype(np.float32),
        effect.astype(np.float32),
        level.astype(np.float32),
        level_bias,
    )


def _bridge_decoder(
    target: str,
    source: str,
    counts: Mapping[str, sp.csr_matrix],
    present: Mapping[str, NDArray[np.bool_]],
    encoders: Mapping[str, Encoder],
    direct: Decoder,
    rng: np.random.Generator,
) -> Decoder:
    """Decoder through the target's own latents: pairs teach latents to latents, all cells latents to features.

    The level stays that of the ``direct`` decoder.
    """
    pairs = _sample(np.flatnonzero(present[target] & present[source]), rng)
    alone = _sample(np.flatnonzero(present[target]), rng)
    encoder, own, width = encoders[source], encoders[target], direct.weight.shape[0]
    first = own.shared
    kept = slice(first, first + BRIDGE)
    prior = encoder.strength[:width]
    latent = encoder.latents(counts[source][pairs])[:, :width] * prior
    wanted, everyone = own.latents(counts[target][pairs])[:, kept], own.latents(counts[target][alone])[:, kept]
    if direct.kind == "pearson":
        weight, bias, effect = mean_decoder(everyone, own.context(counts[target][alone]), counts[target][alone])
        design = np.hstack([latent, encoder.context(counts[source][pairs])])
        goal = np.hstack([wanted, own.context(counts[target][pairs])])
        bridge, offset = ridge(design, goal, BRIDGE_PENALTY)
        decoder = np.vstack([weight, effect])
        through = bridge @ decoder
        return replace(
            direct,
            weight=(through[:width] * prior[:, None]).astype(np.float32),
            context=through[width:].astype(np.float32),
            bias=(bias + offset @ decoder).astype(np.float32),
        )
    opened = counts[target][alone]
    depth = own.residual.depth(opened)
    opened = sp.csr_matrix((np.ones_like(opened.data), opened.indices, opened.indptr), shape=opened.shape)
    scale = 2 * own.strength[kept]
    weight = relative_decoder(everyone * scale, opened, depth, own.residual.share) * scale[:, None]
    bridge, _ = ridge(latent, wanted, BRIDGE_PENALTY)
    return replace(direct, weight=((bridge @ weight) * prior[:, None]).astype(np.float32))
