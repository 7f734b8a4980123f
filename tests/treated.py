"""Simulated cells of which some were given drugs, with known effects: what responses are predicted and scored on.

A drug has two features; each multiplies the rates of its own genes, up or down, so that d1+d2 does what d3 does. One
drug was not given to one type in training, and d7 to no cell at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from tests.tiny import train_tiny_sets, world

from syncyte.baselines.prediction import column_means, log_cp10k
from syncyte.tasks.trained import Trained

KEY, CONTROL = "drug", "none"
FEATURES = pd.DataFrame(
    [[1, 0], [0, 1], [1, 1], [1.5, 0], [0, 1.5], [0.5, 1], [1.3, -0.5]],
    index=[f"d{number}" for number in range(1, 8)],
    columns=["first", "second"],
)
GIVEN = ("d1", "d2", "d3", "d4", "d5", "d6")  # d7 is left for what was never seen
LACKING = ("B", "d4")  # type and drug that training cells do not have together
FACTOR = 1.4  # log rate that one unit of a feature adds to its genes, or takes from them


@cache
def log_factors() -> np.ndarray:
    """``(2, genes)`` log rate that a unit of each feature adds: to three well measured genes, and off three others."""
    level = np.asarray(world(240)["rna"].X.mean(axis=0)).ravel()
    order = np.argsort(-level)[4:16]
    found = np.zeros((2, len(level)))
    for feature, genes in enumerate((order[0::2], order[1::2])):
        found[feature, genes[:3]], found[feature, genes[3:]] = FACTOR, -FACTOR
    return found


def log_change(drug: str) -> np.ndarray:
    """``(genes,)`` log rate that a drug, or several joined by ``+``, adds."""
    parts = [] if drug == CONTROL else drug.split("+")
    return FEATURES.loc[parts].sum().to_numpy() @ log_factors()


def dose(counts: sp.csr_matrix, drugs: Sequence[str], seed: int = 0) -> sp.csr_matrix:
    """Counts of cells after their drugs: more are drawn around what was there, or some of it is lost."""
    rng = np.random.default_rng([seed, 7])
    factor = np.exp([log_change(drug) for drug in drugs])
    real = counts.toarray()
    more = rng.poisson(real * np.maximum(factor - 1, 0))
    return sp.csr_matrix((rng.binomial(real, np.minimum(factor, 1)) + more).astype(np.int32))


def true_effect(counts: sp.csr_matrix, drug: str) -> np.ndarray:
    """``(genes,)`` change of mean log1p CP10K where these very cells are given a drug, little noise in it."""
    many = sp.vstack([counts] * 5, format="csr")
    return column_means(log_cp10k(dose(many, [drug] * many.shape[0]))) - column_means(log_cp10k(counts))


def treated(each: int = 12, seed: int = 0, drugs: Sequence[str] = GIVEN) -> AnnData:
    """Cells of four types: ``each`` of every drug in every type on average, and three times as many controls."""
    labels = np.repeat([CONTROL, *drugs], [12 * each, *[4 * each] * len(drugs)])
    labels = np.random.default_rng([seed, 8]).permutation(labels)
    cells = world(len(labels), seed=seed)["rna"]
    obs = cells.obs[["cell_type"]].assign(**{KEY: pd.Categorical(labels)})
    return AnnData(dose(cells.X, labels, seed), obs=obs, var=cells.var[["gene_ids"]])


def train_treated(out: Path, **options: Any) -> Trained:
    """A run that was told the drugs and their features."""
    data = treated()
    lacking = ((data.obs["cell_type"] == LACKING[0]) & (data.obs[KEY] == LACKING[1])).to_numpy()
    longer = ["stages.autoencode.epochs=20", "stages.autoencode.lr=5e-3", "sizes.dropout=0"]
    longer += ["stages.flow.epochs=60", "stages.flow.lr=4e-3", "flow.width=32"]
    chosen = {"condition_keys": (KEY,), "features": [{KEY: FEATURES}], "settings": longer, **options}
    return train_tiny_sets(data[~lacking].copy(), out, **chosen)
