"""Small paired cells with known truth: types share latent programmes, both sides have depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Paired:
    genes: sp.csr_matrix
    regions: sp.csr_matrix
    types: np.ndarray
    chance: np.ndarray  # true probability of each region being open

    def part(self, start: int, stop: int) -> Paired:
        rows = slice(start, stop)
        return Paired(self.genes[rows], self.regions[rows], self.types[rows], self.chance[rows])


def simulate(cells: int = 900, genes: int = 60, regions: int = 300, seed: int = 0) -> Paired:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, cells)
    state = np.eye(4)[kind] * 2 + 0.5 * rng.normal(size=(cells, 4))
    to_genes, to_regions = rng.normal(size=(4, genes)) * 0.6, rng.normal(size=(4, regions)) * 0.6
    depth = rng.lognormal(0, 0.5, (cells, 1))
    expression = np.exp(state @ to_genes - 0.5) * depth
    rate = np.exp(state @ to_regions + rng.normal(size=regions) * 0.7 - 3.2) * depth
    counts = rng.poisson(expression).astype(np.float32)
    opened = (rng.poisson(rate) > 0).astype(np.float32)
    types = np.array(["alpha", "beta", "gamma", "delta"])[kind]
    return Paired(sp.csr_matrix(counts), sp.csr_matrix(opened), types, 1 - np.exp(-rate))
