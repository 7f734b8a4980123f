"""Linear spaces of cells: PCA or SVD of one modality under a named scaling.

Scalings: ``log_cp10k`` and ``pearson`` for counts, ``tfidf`` and ``depth`` for open regions (``residual`` has the two
residual ones), ``tfidf_rest`` without the first axis, which follows depth, and ``spectral`` for the graph of cosine
similarities (``spectral``), which is no linear space but answers the same calls. Everything is learned from training
cells and applied to any cells. ``tfidf`` and ``spectral`` are not centred.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.lsi import ITERATIONS, LSI, plain_matrix
from syncyte.baselines.prediction import column_means, depth_of, log_cp10k, opened
from syncyte.baselines.residual import Residual, ResidualMatrix, svd
from syncyte.baselines.spectral import Spectral
from syncyte.errors import ConfigError, unknown

Scaling = Literal["log_cp10k", "pearson", "tfidf", "tfidf_rest", "depth", "spectral"]


class Space:
    """Scores of cells on the leading axes of the training cells.

    Parameters
    ----------
    scaling
        How counts are scaled before the SVD.
    components
        Axes kept (fewer where the data have fewer cells or features).
    seed
        Of the randomised SVD.
    """

    def __init__(self, scaling: Scaling, components: int = 30, seed: int = 0) -> None:
        if scaling not in get_args(Scaling):
            raise ConfigError(unknown("scaling", scaling, get_args(Scaling)))
        self.scaling, self.components, self.seed = scaling, components, seed

    @property
    def counts_open(self) -> bool:
        """Whether the scaling looks at open or closed only."""
        return self.scaling in ("tfidf", "tfidf_rest", "depth", "spectral")

    whole: LSI | Spectral | None = None  # where a method does everything by itself

    def fit(self, counts: sp.csr_matrix) -> Self:
        """Learn scaling and axes from ``(n, f)`` counts of training cells."""
        axes, kind = min(self.components, *counts.shape), self.scaling
        if kind == "tfidf" or kind == "tfidf_rest":
            self.whole = LSI(axes, drop_first=kind == "tfidf_rest", seed=self.seed).fit(counts)
            return self
        if kind == "spectral":
            self.whole = Spectral(axes, self.seed).fit(counts)
            return self
        if kind == "log_cp10k":
            scaled = log_cp10k(counts)
            self.center = column_means(scaled).astype(np.float32)
            matrix = plain_matrix(scaled, self.center)
        else:
            seen = opened(counts) if self.counts_open else counts
            totals = column_means(seen) * counts.shape[0]
            self.residual = Residual.fit(kind, totals, top=float(self.depth(counts).max(initial=1.0)))
            matrix = ResidualMatrix.build(seen, self.residual)
            self.center = matrix.center
        self.loadings = svd(matrix, axes, self.seed, ITERATIONS)[2]
        return self

    def fit_transform(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``fit``, and the scores of the training cells: what ``transform`` gives, but for ``spectral``.

        There a training cell is not compared with itself, just as a new cell is not.
        """
        self.fit(counts)
        return self.whole.embedding if isinstance(self.whole, Spectral) else self.transform(counts)

    def transform(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """``(n, k)`` float32 scores of any cells with the same features."""
        if self.whole is not None:
            return self.whole.transform(counts)
        if self.scaling == "log_cp10k":
            return plain_matrix(log_cp10k(counts), self.center).dot(self.loadings)
        seen = opened(counts) if self.counts_open else sp.csr_matrix(counts)
        return ResidualMatrix(*self.residual.split(seen), self.center).dot(self.loadings)

    def depth(self, counts: sp.csr_matrix) -> NDArray[np.float64]:
        """``(n,)`` what was measured in each cell: open regions, or counts."""
        return depth_of(opened(counts) if self.counts_open else counts)
