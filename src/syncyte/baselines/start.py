"""The linear model every cell model starts from, and a baseline of its own: shared factors with closed-form decoders.

Encoders are the singular vectors of the cross-covariance between the residuals of two modalities over paired cells
(shared components), beside the leading components of each modality alone (private components). Where pairs are few and
unpaired cells many, a bridge takes its place: the first modality's own components, learned on all its cells, are the
shared space; the others reach it by a small regression of latents on latents over the pairs; and each decoder is that
regression times a decoder learned on all cells of its own modality, so pairs only have to teach a few hundred numbers.
Decoders, and how far they are shrunken, are those of ``baselines.decode`` and ``baselines.tune``.
Leaves out: anything iterative. At most ``MOST_CELLS`` cells are used, so memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.closed_form import ridge
from syncyte.baselines.decode import BRIDGE, BRIDGE_PENALTY, Decoder, Shape, fit_decoder, pairs_of
from syncyte.baselines.encode import MOST_CELLS, Alone, Encoder, fit_encoder, rows_of
from syncyte.baselines.prediction import SCALE
from syncyte.baselines.residual import UNSEEN, Kind, Residual, ResidualMatrix, randomized_svd, svd
from syncyte.baselines.tune import FEWEST, MOST_HELD, MOST_LEARNED, choose_shape, hold_out
from syncyte.errors import DataError

MOST_SEEN = 0.8  # of the regions: with more of them open in some cell, all are fitted
FEW_PAIRS = 3500  # below, with unpaired cells at hand, latents of all cells and a small bridge beat the pairs alone
_THROUGH = {"cross": 0.5, "bridge": 1.0, "separate": 0.0}  # share of decoding that goes through the target's latents


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
    shapes
        By target: how its decoder was shrunken.
    """

    encoders: dict[str, Encoder]
    decoders: dict[str, Decoder]
    source: dict[str, str]
    components: int
    note: str = ""
    shapes: dict[str, Shape] = field(default_factory=dict)

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
    groups: NDArray | None = None,
    tune: bool = True,
    per_cell: Mapping[str, float] | None = None,
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
    groups
        ``(cells,)`` technical batches, some of which are held out to choose the shape of the decoders by.
    tune
        Choose that shape, where there are pairs enough; else the standard one is taken.
    per_cell
        Total that the counts of a modality are brought to where they are predicted as values; 10,000 by default.
    """
    names = list(counts)
    given: dict[str, Any] = {"shared": shared, "private": private, "seed": seed, "mode": mode, "groups": groups}
    kept = _opened(counts, kinds)
    if kept:  # a reference knows many more regions than one data set opens: fit on those, and spread the result
        few = {m: counts[m][:, kept[m]] if m in kept else counts[m] for m in names}
        start = fit_start(few, present, kinds, **given, tune=tune, per_cell=per_cell)
        return spread_start(start, {m: (kept[m], counts[m].shape[1]) for m in kept})
    rng = np.random.default_rng(seed)
    paired = np.logical_and.reduce([present[m] for m in names])
    pairs = int(paired.sum()) if len(names) > 1 else 0
    if mode == "auto":
        mode = _choose(pairs, {m: int(present[m].sum()) for m in names})
    source = {m: next((o for o in names if o != m), m) if mode != "separate" else m for m in names}
    totals = {m: (per_cell or {}).get(m, SCALE) for m in names}
    sizes: dict[str, Any] = {"shared": shared, "private": private, "seed": seed, "mode": mode, "per_cell": totals}
    shapes = dict.fromkeys(names, Shape(through=_THROUGH[mode]))
    if mode == "cross" and tune and pairs >= FEWEST:
        shapes = _tuned(counts, present, kinds, source, np.flatnonzero(paired), groups, rng, sizes)
    encoders, width = _fit_encoders(counts, present, kinds, rng, **sizes)
    decoders = {m: _decoder(m, source[m], counts, present, encoders, width, shapes[m], rng) for m in names}
    return LinearStart(encoders, decoders, source, width, _notes(mode, pairs), shapes)


def _opened(counts: Mapping[str, sp.csr_matrix], kinds: Mapping[str, Kind]) -> dict[str, NDArray[np.int64]]:
    """Regions that some cell opens, by modality, where they are few of all."""
    seen = {m: np.flatnonzero(_totals(counts[m], kind)) for m, kind in kinds.items() if kind == "depth"}
    return {m: columns for m, columns in seen.items() if len(columns) < MOST_SEEN * counts[m].shape[1]}


def _notes(mode: str, pairs: int) -> str:
    return {
        "cross": f"cross-covariance of {pairs:,} paired cells",
        "bridge": f"components of all cells, bridged over {pairs:,} paired cells",
        "separate": "each modality alone",
    }[mode]


def spread_start(start: LinearStart, places: Mapping[str, tuple[NDArray[np.int64], int]]) -> LinearStart:
    """The start for a wider vocabulary: ``places`` say in which columns of how many the fitted features lie.

    The others, which no training cell opened, share a small part of the openings and have no loadings.
    """
    encoders, decoders = dict(start.encoders), dict(start.decoders)
    for name, (columns, width) in places.items():
        encoder, decoder = encoders[name], decoders[name]
        fitted = encoder.residual
        share = np.full(width, UNSEEN / width)
        share[columns] = fitted.share * (1 - UNSEEN * (1 - len(columns) / width))

        def wide(values: NDArray, fill: NDArray | float = 0.0, at: NDArray = columns, size: int = width) -> NDArray:
            out = np.full((size, *values.shape[1:]), fill, dtype=values.dtype)
            out[at] = values
            return out

        residual = Residual.from_share(fitted.kind, share, float(fitted.nodes[-1]), fitted.offset)
        encoders[name] = replace(encoder, residual=residual, center=wide(encoder.center), table=wide(encoder.table))
        bias = np.log(share).astype(np.float32)
        bias[columns] = decoder.bias + np.log1p(-UNSEEN * (1 - len(columns) / width)).astype(np.float32)
        weight, context = wide(decoder.weight.T).T, wide(decoder.context.T).T
        decoders[name] = replace(decoder, weight=weight, bias=bias, context=context)
    return replace(start, encoders=encoders, decoders=decoders)


def _fit_encoders(
    counts: Mapping[str, sp.csr_matrix],
    present: Mapping[str, NDArray[np.bool_]],
    kinds: Mapping[str, Kind],
    rng: np.random.Generator,
    *,
    shared: int,
    private: int,
    seed: int,
    mode: str,
    per_cell: Mapping[str, float],
) -> tuple[dict[str, Encoder], int]:
    """Encoders of all modalities and the width of the latent space."""
    names = list(counts)
    residuals = {m: Residual.fit(kinds[m], _totals(counts[m], kinds[m])) for m in names}
    alone = {m: _private(counts[m], present[m], residuals[m], private, seed, rng) for m in names}
    tables: dict[str, NDArray[np.float32]] = {}
    strength = np.ones(0, dtype=np.float32)
    if mode != "separate":
        rows = _sample(np.flatnonzero(np.logical_and.reduce([present[m] for m in names])), rng)
        if mode == "bridge":
            tables, strength = _bridged(counts, residuals, rows, shared, alone)
        else:
            tables, strength = _shared(counts, residuals, rows, shared, seed)
    encoders = {
        m: fit_encoder(counts[m], present[m], residuals[m], tables.get(m), strength, alone[m], private, per_cell[m])
        for m in names
    }
    width = len(strength) if mode != "separate" else min(e.table.shape[1] for e in encoders.values())
    return encoders, width


def _tuned(
    counts: Mapping[str, sp.csr_matrix],
    present: Mapping[str, NDArray[np.bool_]],
    kinds: Mapping[str, Kind],
    source: Mapping[str, str],
    paired: NDArray[np.int64],
    groups: NDArray | None,
    rng: np.random.Generator,
    sizes: Mapping[str, Any],
) -> dict[str, Shape]:
    """Shape of each decoder, chosen on pairs that a start fitted on the others has not seen."""
    learned, held = hold_out(paired, groups, rng)
    learned, held = (
        np.sort(rng.permutation(rows)[:most]) for rows, most in ((learned, MOST_LEARNED), (held, MOST_HELD))
    )
    part = {m: counts[m][learned] for m in counts}
    encoders, width = _fit_encoders(part, {m: present[m][learned] for m in counts}, kinds, rng, **sizes)
    every = np.arange(len(learned))
    shapes = {}
    for target in counts:
        known = pairs_of(target, source[target], part, every, every, encoders, width)
        unseen = pairs_of(target, source[target], counts, held, held, encoders, width)
        shapes[target] = choose_shape(known, unseen, encoders[source[target]], encoders[target])
    return shapes


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
    matrix = ResidualMatrix.build(rows_of(counts, rows), residual)
    # the spectrum of open chromatin is flat: fewer iterations leave the subspace unsettled
    _, strength, loadings = svd(matrix, min(wanted, min(matrix.shape) - 1), seed, iterations=12)
    return loadings, strength


def _shared(
    counts: Mapping[str, sp.csr_matrix],
    residuals: Mapping[str, Residual],
    rows: NDArray[np.int64],
    components: int,
    seed: int,
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Loadings of the shared components of each modality: the first against all others side by side."""
    names = list(counts)
    first, *others = (ResidualMatrix.build(rows_of(counts[m], rows), residuals[m]) for m in names)
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
    alone: Mapping[str, Alone],
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Shared loadings where pairs are few: the first modality's own, and the others' regressed onto its latents."""
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


def _decoder(
    target: str,
    source: str,
    counts: Mapping[str, sp.csr_matrix],
    present: Mapping[str, NDArray[np.bool_]],
    encoders: Mapping[str, Encoder],
    width: int,
    shape: Shape,
    rng: np.random.Generator,
) -> Decoder:
    rows = _sample(np.flatnonzero(present[target] & present[source]), rng)
    alone = _sample(np.flatnonzero(present[target]), rng)
    pairs = pairs_of(target, source, counts, rows, alone, encoders, width)
    return fit_decoder(pairs, encoders[source], encoders[target], shape)
