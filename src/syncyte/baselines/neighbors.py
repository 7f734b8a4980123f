"""Translation by nearest neighbours: the mean of the other modality over the k training cells next to a cell.

The classic "transfer" of Seurat-like pipelines, in the SVD space of the source. Probabilities of few neighbours are
coarse (k = 50 can say 0, 0.02, 0.04 ...), which deviance punishes hard.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp

from syncyte.baselines.prediction import Averaged, Target, target_matrix
from syncyte.baselines.space import Space


class NeighborTransfer:
    """Mean target of the nearest training cells.

    Parameters
    ----------
    space
        Space of the source in which distances are taken (fitted here).
    target
        Kind of the target.
    neighbors
        How many training cells are averaged; 50 and 200 are the usual rows of a report.
    """

    def __init__(self, space: Space, target: Target, neighbors: int = 50) -> None:
        self.space, self.target, self.neighbors = space, target, neighbors

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Keep the paired training cells."""
        from sklearn.neighbors import NearestNeighbors

        count = min(self.neighbors, source.shape[0])
        self.index = NearestNeighbors(n_neighbors=count).fit(self.space.fit(source).transform(source))
        self.targets = target_matrix(target, self.target).tocsc()
        return self

    def predict(self, source: sp.csr_matrix) -> Averaged:
        """Means over the neighbours of each cell in ``source``."""
        found = self.index.kneighbors(self.space.transform(source), return_distance=False)
        cells, count = found.shape
        start = np.arange(cells + 1) * count
        weights = np.full(cells * count, 1.0 / count, dtype=np.float32)
        shape = (cells, self.targets.shape[0])
        return Averaged(sp.csr_matrix((weights, found.ravel(), start), shape), self.targets, self.target)
