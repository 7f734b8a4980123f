"""Which shape of decoder suits the data: asked of cells that no encoder or decoder has seen.

Shallow cells want decoders that are shrunken far, deep cells hardly at all, and no constant serves both (measured: r
0.290 against 0.315 on deep cells, 0.165 against 0.169 on shallow ones). So the start is first fitted without some whole
technical batches (random cells, where there are no batches), every shape of a short ladder is scored on them, and the
best is used to fit on all cells. The ladder goes step by step: power and factor, then depth, then the way through.
Leaves out: the number of components, which matters little once the decoder is shrunken well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.decode import Decoder, Pairs, Shape, fit_decoder, fit_profile
from syncyte.baselines.encode import Encoder
from syncyte.baselines.prediction import log_values

SHARE, MOST_SHARE = 0.2, 0.6  # of the paired cells held out to choose by, if technical batches allow
FEWEST = 200  # paired cells below which the standard shape is taken as it is
MOST_LEARNED, MOST_HELD, MOST_FEATURES = 8000, 500, 20_000
POWERS = {"pearson": (0.0, 0.5, 1.0), "depth": (0.5, 1.0, 1.5)}
FACTORS = (0.5, 1.0, 2.0, 4.0)


def hold_out(
    rows: NDArray[np.int64], groups: NDArray | None, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to choose by: whole groups, none of which is most of the cells, else random rows."""
    if groups is not None:
        names = np.unique(groups[rows])
        held = np.zeros(len(rows), dtype=bool)
        for name in rng.permutation(names):
            grown = held | (groups[rows] == name)
            held = grown if grown.mean() <= MOST_SHARE else held
            if held.mean() >= SHARE:
                break
        if held.any():
            return rows[~held], rows[held]
    mixed = rng.permutation(rows)
    cut = max(1, round(SHARE * len(rows)))
    return np.sort(mixed[cut:]), np.sort(mixed[:cut])


def choose_shape(learned: Pairs, held: Pairs, source: Encoder, target: Encoder) -> Shape:
    """Shape whose decoder, fitted on ``learned``, predicts ``held`` best."""
    kind = target.residual.kind
    first = Shape(through=0.0)
    base = fit_decoder(learned, source, target, first)
    error = _squared(held, target.per_cell) if kind == "pearson" else _missed(held)

    def best(shapes: Iterable[Shape]) -> Shape:
        scored = [(error(fit_profile(learned, source, target, shape, base)), shape) for shape in shapes]
        return min(scored, key=lambda item: item[0])[1]

    shape = best(Shape(power, factor, True, 0.0) for power in POWERS[kind] for factor in FACTORS)
    if kind == "pearson":
        shape = best([shape, replace(shape, context=False)])
    return best([shape, replace(shape, through=0.5)])


def _squared(held: Pairs, per_cell: float) -> Callable[[Decoder], float]:
    """Mean over features of the squared error over the variance: every feature that varies counts alike."""
    truth = log_values(held.wanted, per_cell).toarray()
    spread = truth.var(axis=0)
    varies = spread > 1e-6

    def error(decoder: Decoder) -> float:
        missed = np.square(truth - decoder.predict(held.latent, held.context)).mean(axis=0)
        return float((missed[varies] / spread[varies]).mean())

    return error


def _missed(held: Pairs) -> Callable[[Decoder], float]:
    """Negative log of the profile at openings, over a fixed sample of regions."""
    width = held.wanted.shape[1]
    columns = np.arange(width)
    if width > MOST_FEATURES:
        columns = np.sort(np.random.default_rng(0).choice(width, MOST_FEATURES, replace=False))
    wanted: sp.coo_matrix = held.wanted[:, columns].tocoo()

    def error(decoder: Decoder) -> float:
        logits = decoder.logits(held.latent, columns)
        top = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        return float((total[wanted.row] - logits[wanted.row, wanted.col]).sum() / max(wanted.nnz, 1))

    return error
