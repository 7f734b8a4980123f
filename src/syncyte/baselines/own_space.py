"""Axes of training cells on which any data set is placed by its own statistics of genes.

Pearson residuals against the data set's own shares of genes and centred by itself, on loadings of training cells: what
differs between laboratories gene by gene drops out. It supposes that the data set holds several types; a handful of
cells is placed by the shares and centre of training.
Leaves out: spaces that place cells one by one (``space``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.genewise import Blocks
from syncyte.baselines.prediction import column_means
from syncyte.baselines.residual import Residual, ResidualMatrix, svd

ITERATIONS = 6
FEW = 50  # cells below which the statistics of training are taken


class OwnSpace:
    """Scores of cells on the leading axes of Pearson residuals of training cells.

    Parameters
    ----------
    components
        Axes.
    seed
        Of the randomised SVD.
    """

    def __init__(self, components: int = 30, seed: int = 0) -> None:
        self.components, self.seed = components, seed

    def fit(self, counts: sp.csr_matrix) -> Self:
        """Learn axes from ``(n, f)`` counts of training cells."""
        totals = column_means(counts) * counts.shape[0]
        residual = Residual.fit("pearson", totals, top=float(counts.sum(axis=1).max()))
        matrix = ResidualMatrix.build(counts, residual)
        axes = min(self.components, *(size - 1 for size in counts.shape))
        self.loadings = svd(matrix, max(axes, 1), self.seed, ITERATIONS)[2]
        self.share, self.center = residual.share, matrix.center
        return self

    def transform(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(n, k)`` scores of cells with the same features."""
        return self.transform_blocks(lambda: [sp.csr_matrix(counts)])

    def transform_blocks(self, blocks: Blocks) -> NDArray[np.float32]:
        """The same of counts that come in blocks of cells, twice over: for the data set's statistics, then for scores.

        Memory is that of a block and of the scores.
        """
        totals, cells, top = np.zeros(len(self.share)), 0, 1.0
        for block in blocks():
            totals += column_means(block) * block.shape[0]
            cells, top = cells + block.shape[0], max(top, float(block.sum(axis=1).max()))
        if not cells:
            return np.zeros((0, self.loadings.shape[1]), dtype=np.float32)
        few = cells < FEW
        residual = Residual.from_share("pearson", self.share, top) if few else Residual.fit("pearson", totals, top=top)
        nothing = np.zeros(len(self.share), dtype=np.float32)
        placed = [ResidualMatrix(*residual.split(block), nothing).dot(self.loadings) for block in blocks()]
        scores = np.concatenate(placed).astype(np.float64)
        center = self.center.astype(np.float64) @ self.loadings if few else scores.mean(axis=0)
        return (scores - center).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All that was learned."""
        kept = {"loadings": self.loadings, "share": self.share, "center": self.center}
        return {key: np.asarray(value, dtype=np.float32) for key, value in kept.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The space of such arrays."""
        made = cls(arrays["loadings"].shape[1])
        made.loadings, made.center = arrays["loadings"], arrays["center"]
        made.share = arrays["share"].astype(np.float64)
        return made
