"""Everything that generates cells for a comparison, behind one call: a table of attributes and labels to counts.

The run's flow; other sources of codes with the same decoder, which show what the flow adds; cheap generators that know
labels and counts alone; peers where they are installed. Leaves out: scoring (``compare_generate``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.generate import CountGenerator, LatentMixture, PerTypeNegativeBinomial, ResampledCells
from syncyte.data.cells import Cells
from syncyte.objectives.sets import DEPTH_NOISE
from syncyte.tasks.draw import BLOCK, Sampling, coder_of, draw_counts, draw_points, encode_points
from syncyte.tasks.trained import Trained

LABEL = "_label"  # the column of the label in tables of cells that are asked for
Make = Callable[[pd.DataFrame, int], sp.csr_matrix]  # attributes and labels of the cells, number of the draw


@dataclass(frozen=True)
class Training:
    """Labelled training cells, aligned to the run."""

    cells: Cells
    counts: sp.csr_matrix
    labels: NDArray[Any]

    def rows(self, labels: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
        """Training cells with asked labels: without replacement while there are enough, then from the start again."""
        found = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            places, rows = np.flatnonzero(labels == label), np.flatnonzero(self.labels == label)
            turns = [rng.permutation(rows) for _ in range(-(-len(places) // len(rows)))]
            found[places] = np.concatenate(turns)[: len(places)]
        return found


def attribute_table(trained: Trained, cells: Cells) -> pd.DataFrame:
    """What the run can be told of cells: its attributes, as far as they have them."""
    names = [name for name in coder_of(trained).attributes if name in cells.obs.columns]
    return cells.obs[names]


def flow_cells(trained: Trained, table: pd.DataFrame, how: Sampling, seed: int) -> sp.csr_matrix:
    """Counts of new cells with given attributes; values that the run never saw are left unsaid."""
    coder = coder_of(trained)
    blocks = []
    for first in range(0, len(table), BLOCK):
        some = table.iloc[first : first + BLOCK]
        arrays = coder.arrays(some, strict=False)
        points = draw_points(trained, arrays, how, (seed, 0, first), cells=len(some))
        blocks.append(draw_counts(trained, points, (seed, 1, first)))
    return sp.vstack(blocks, format="csr")


def all_generators(
    trained: Trained,
    name: str,
    training: Training,
    how: Sampling,
    seed: int,
    *,
    peers: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Make]:
    """All methods by name, the run's own first."""
    found = _codes(trained, name, training, how, seed)
    cheap: dict[str, CountGenerator] = {
        "negative binomial by label": PerTypeNegativeBinomial(),
        "training cells, resampled": ResampledCells(),
    }
    for number, (key, method) in enumerate(cheap.items()):
        method.fit(training.counts, training.labels)

        def make(table: pd.DataFrame, draw: int, method: CountGenerator = method, number: int = number) -> Any:
            return method.sample(table[LABEL].to_numpy(), np.random.default_rng([seed, draw, number]))

        found[key] = make
    return found | (_peers(training, seed, say) if peers else {})


def _codes(trained: Trained, name: str, training: Training, how: Sampling, seed: int) -> dict[str, Make]:
    """Sources of codes for one decoder: the flow, a mixture, and posteriors of training cells."""
    codes = encode_points(trained, training.cells, (seed, 2)).astype(np.float64)
    noisy = codes.copy()
    noisy[:, -1] += DEPTH_NOISE * np.random.default_rng(seed).normal(size=len(codes))
    mixture = LatentMixture(seed=seed).fit(noisy, training.labels)

    def flow(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        return flow_cells(trained, table.drop(columns=LABEL), how, seed + 101 * draw)

    def mixed(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        points = mixture.sample(table[LABEL].to_numpy(), np.random.default_rng([seed, draw, 3]))
        return draw_counts(trained, points.astype(np.float32), (seed, draw, 4))

    def posterior(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        rows = training.rows(table[LABEL].to_numpy(), np.random.default_rng([seed, draw, 5]))
        return draw_counts(trained, codes[rows].astype(np.float32), (seed, draw, 6))

    return {name: flow, "same codes, mixture by label": mixed, "same codes, posterior of training cells": posterior}


def _peers(training: Training, seed: int, say: Callable[[str], None]) -> dict[str, Make]:
    """scVI, where it is installed: its prior, and its posterior on training cells."""
    from importlib.util import find_spec

    from syncyte.baselines.deep_generate import ScviGenerator

    if find_spec("scvi") is None:
        return {}
    say("generation: scVI, to early stopping")
    model = ScviGenerator(seed=seed).fit(training.counts, training.labels)

    def prior(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        return model.prior(len(table), np.random.default_rng([seed, draw, 11]))

    def posterior(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        rng = np.random.default_rng([seed, draw, 12])
        return model.posterior_predictive(training.counts[training.rows(table[LABEL].to_numpy(), rng)], rng)

    def gaussian(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        return model.per_type_gaussian(table[LABEL].to_numpy(), np.random.default_rng([seed, draw, 13]))

    words = f"{model.epochs} epochs"
    return {
        f"scVI prior ({words})": prior,
        f"scVI posterior of training cells ({words})": posterior,
        f"scVI codes, Gaussian by label ({words})": gaussian,
    }
