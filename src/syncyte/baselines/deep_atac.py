"""Embeddings of open regions by trained peers: PeakVI, PoissonVI, and SnapATAC2's own package.

The first two come with the ``bench`` extra, the last is installed by itself (``pip install snapatac2``). Budget as in
``deep``: at most 400 epochs with early stopping on the library's own held-out cells, the rest by default, and
``epochs`` says how many were run. PeakVI (Ashuach et al., Cell Reports Methods 2022) sees open or closed. PoissonVI
(Martens et al., Nature Methods 2024) wants fragments; files that count the two ends of each are full of even numbers,
which no Poisson is, and are halved as the paper does.
Leaves out: selection of regions, and what these models can do besides embedding.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.deep import MOST_EPOCHS, batch_table, epochs_run, load_scvi
from syncyte.baselines.prediction import opened
from syncyte.errors import MissingExtraError

CHECKED = (
    100  # cells the library looks at before it believes in fragments; fewer are an error there, so they are repeated
)


class PeakVi:
    """Variational autoencoder of open or closed regions.

    Parameters
    ----------
    epochs
        Most epochs.
    early_stopping
        Stop where the held-out loss no longer falls; without it all epochs are run.
    seed
        Of training.

    Attributes
    ----------
    epochs
        How many were run, after ``fit``.
    """

    words: ClassVar[str] = "PeakVI"

    def __init__(self, epochs: int = MOST_EPOCHS, early_stopping: bool = True, seed: int = 0) -> None:
        self.most, self.early_stopping, self.seed, self.epochs = epochs, early_stopping, seed, 0

    def fit(self, counts: sp.csr_matrix, batches: ArrayLike | None = None) -> Self:
        """Train on ``(n, r)`` raw counts; with ``batches`` ``(n,)`` the technical batch is a covariate.

        Raises
        ------
        MissingExtraError
            Where scvi-tools is not installed.
        """
        scvi = load_scvi(self.seed, f"The {self.words} baseline")
        self.halved = ends_counted(counts)
        kind = self._kind(scvi)
        cells = self._cells(counts, batches)
        kind.setup_anndata(cells, batch_key=None if batches is None else "batch")
        self.model = kind(cells)
        self.model.train(max_epochs=self.most, early_stopping=self.early_stopping, enable_progress_bar=False)
        self.epochs = epochs_run(self.model)
        return self

    def transform(self, counts: sp.csr_matrix, batches: ArrayLike | None = None) -> NDArray[np.float32]:
        """``(n, k)`` latent means of any cells; ``batches`` are needed where they were given to ``fit``."""
        found = self.model.get_latent_representation(self._cells(counts, batches))[: counts.shape[0]]
        return np.asarray(found, dtype=np.float32)

    def _kind(self, scvi: Any) -> Any:
        return scvi.model.PEAKVI

    def _values(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        return opened(counts)

    def _cells(self, counts: sp.csr_matrix, batches: ArrayLike | None) -> Any:
        import anndata

        batches = np.zeros(counts.shape[0], dtype=int) if batches is None else np.asarray(batches)
        rows = np.arange(max(counts.shape[0], CHECKED)) % counts.shape[0]
        return anndata.AnnData(self._values(counts)[rows], obs=batch_table(len(rows), batches[rows]))


class PoissonVi(PeakVi):
    """Variational autoencoder of the number of fragments in each region; parameters as ``PeakVi``."""

    words: ClassVar[str] = "PoissonVI"

    def _kind(self, scvi: Any) -> Any:
        return scvi.external.POISSONVI

    def _values(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        fragments = sp.csr_matrix(counts, dtype=np.float32, copy=True)
        if self.halved:
            fragments.data = np.ceil(fragments.data / 2)
        return fragments


def ends_counted(counts: sp.csr_matrix) -> bool:
    """Whether counts are of the two ends of fragments, not of fragments: twos are then more frequent than ones."""
    return bool((counts.data == 2).sum() > (counts.data == 1).sum())


def snapatac_embedding(counts: sp.csr_matrix, components: int = 30, seed: int = 0) -> NDArray[np.float32]:
    """``(n, k)`` spectral embedding of the cells by the package SnapATAC2 (Zhang et al., Nature Methods 2024).

    It places only the cells it is fitted on, and its first axis is the trivial one; both as its users get it.

    Parameters
    ----------
    counts
        ``(n, r)`` raw counts, all regions used.
    components
        Axes asked for.

    Raises
    ------
    MissingExtraError
        Where snapatac2 is not installed.
    """
    import anndata

    snapatac2 = load_snapatac()
    # an empty cell has no direction there and would make every number NaN
    held = np.flatnonzero(np.diff(counts.indptr) > 0)
    cells = anndata.AnnData(sp.csr_matrix(counts[held], dtype=np.float64))
    vectors = snapatac2.tl.spectral(cells, n_comps=components, features=None, random_state=seed, inplace=False)[1]
    found = np.zeros((counts.shape[0], np.shape(vectors)[1]), dtype=np.float32)
    found[held] = vectors
    return found


def load_snapatac() -> ModuleType:
    """Import snapatac2, or say how to install it."""
    try:
        import snapatac2
    except ImportError:
        raise MissingExtraError("snapatac2", "bench", "The SnapATAC2 baseline") from None
    return snapatac2
