"""scVI and MultiVI behind the surface of the other baselines; both come with the ``bench`` extra.

Peers get a budget in epochs, not in wall time: early stopping on the library's own held-out cells, at most 400 epochs,
and the epochs used are returned so that a report can print them. Everything else is the library's default.
MultiVI gives no level to a cell whose regions it cannot see, so the level is that of ``MeanTimesDepth``; its expected
expression is a share of counts, brought to ``log1p`` CP10K gene by gene on training cells. It is trained without a
batch covariate, since held-out technical batches are unknown to it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.mean import MeanTimesDepth
from syncyte.baselines.prediction import SCALE, Scaled, Target, fit_scale, limited, log_cp10k, opened
from syncyte.errors import MissingExtraError

MOST_EPOCHS = 400
ROWS = 512  # cells predicted at once


@dataclass(frozen=True, slots=True)
class Trained:
    """An embedding ``(n, k)`` and the epochs it took."""

    embedding: NDArray[np.float32]
    epochs: int


def scvi_embedding(
    counts: sp.csr_matrix,
    batches: ArrayLike,
    *,
    epochs: int = MOST_EPOCHS,
    early_stopping: bool = True,
    seed: int = 0,
) -> Trained:
    """Embed counts with scVI (Lopez et al., Nature Methods 2018), technical batch as covariate.

    Parameters
    ----------
    counts
        ``(n, g)`` raw counts.
    batches
        ``(n,)`` technical batch of each cell.
    epochs
        Most epochs; all of them are run without ``early_stopping``.
    """
    import anndata

    scvi = load_scvi(seed)
    cells = anndata.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=batch_table(counts.shape[0], batches))
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.SCVI(cells)
    model.train(max_epochs=epochs, early_stopping=early_stopping, enable_progress_bar=False)
    return Trained(np.asarray(model.get_latent_representation(), dtype=np.float32), epochs_run(model))


class ScAnvi:
    """Cell types by scANVI (Xu et al., Molecular Systems Biology 2021) on counts, learned from labelled cells alone.

    Technical batch is not a covariate: new cells come from batches that were never seen.
    """

    def __init__(self, epochs: int = MOST_EPOCHS, seed: int = 0) -> None:
        self.most, self.seed = epochs, seed

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Train scVI with early stopping, then scANVI from it for its default number of epochs."""
        scvi = load_scvi(self.seed)
        cells = self._cells(counts, labels)
        scvi.model.SCVI.setup_anndata(cells, labels_key="label")
        first = scvi.model.SCVI(cells)
        first.train(max_epochs=self.most, early_stopping=True, enable_progress_bar=False)
        self.model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="")
        self.model.train(max_epochs=min(self.most, 20), enable_progress_bar=False)
        self.classes = np.unique(np.asarray(labels).astype(str))
        return self

    def predict(self, counts: sp.csr_matrix) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``."""
        cells = self._cells(counts, np.full(counts.shape[0], self.classes[0]))
        found = self.model.predict(cells, soft=True)
        return found[list(self.classes)].to_numpy(dtype=np.float64)

    def _cells(self, counts: sp.csr_matrix, labels: ArrayLike) -> Any:
        import anndata

        obs = batch_table(counts.shape[0], np.zeros(counts.shape[0], dtype=int))
        obs["label"] = pd.Categorical(np.asarray(labels).astype(str))
        return anndata.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs)


class MultiVI:
    """Translation by MultiVI (Ashuach et al., Nature Methods 2023), the other modality hidden by zeros.

    Parameters
    ----------
    target
        ``open`` predicts regions from counts, ``values`` predicts counts from regions.
    epochs
        Most epochs; early stopping is on.
    seed
        Of training.
    """

    def __init__(self, target: Target, epochs: int = MOST_EPOCHS, seed: int = 0) -> None:
        self.target, self.most, self.seed = target, epochs, seed

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Train on paired counts; ``epochs`` then says how many were used."""
        scvi = load_scvi(self.seed)
        self.width = target.shape[1]
        cells = self._paired(source, target)
        self.model = scvi.model.MULTIVI(cells)
        self.model.train(max_epochs=self.most, early_stopping=True, enable_progress_bar=False)
        self.epochs = epochs_run(self.model)
        if self.target == "open":
            self.level = MeanTimesDepth("open").fit(source, target)
        else:
            self.slope, self.intercept = fit_scale(self._decoded(source), log_cp10k(target))
        return self

    def predict(self, source: sp.csr_matrix) -> Scaled | OnDisk:
        """Predict the target of each cell in ``source`` without seeing it."""
        decoded = self._decoded(source)
        if self.target == "values":
            return Scaled(decoded, self.slope, self.intercept, source.shape[0])
        level = np.zeros(source.shape[0])
        for start in range(0, len(level), ROWS):
            level[start : start + ROWS] = decoded.matrix[start : start + ROWS].sum(axis=1, dtype=np.float64)
        return OnDisk(decoded.matrix, decoded.folder, self.level.level_of(source) / np.maximum(level, 1e-12))

    def _paired(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Any:
        import anndata
        import mudata

        scvi = load_scvi(self.seed)
        regions, genes = (target, source) if self.target == "open" else (source, target)
        parts = {"genes": sp.csr_matrix(genes, dtype=np.float32), "regions": opened(regions)}
        obs = batch_table(source.shape[0], np.zeros(source.shape[0], dtype=int))
        both = mudata.MuData({name: anndata.AnnData(part, obs=obs.copy()) for name, part in parts.items()})
        for name, part in both.mod.items():
            part.var_names = [f"{name}{number}" for number in range(part.n_vars)]
        both.update()
        scvi.model.MULTIVI.setup_mudata(both, modalities={"rna_layer": "genes", "atac_layer": "regions"})
        return both

    def _decoded(self, source: sp.csr_matrix) -> OnDisk:
        """Log expression, or Poisson rate of being open up to the level, of every cell, written block by block."""
        hidden = sp.csr_matrix((source.shape[0], self.width), dtype=np.float32)
        cells = self._paired(source, hidden)
        folder = tempfile.TemporaryDirectory(prefix="syncyte-multivi-")
        path = Path(folder.name) / "decoded.npy"
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=hidden.shape)
        for start in range(0, source.shape[0], ROWS):
            rows = np.arange(start, min(start + ROWS, source.shape[0]))
            if self.target == "open":
                chance = self.model.get_normalized_accessibility(
                    cells, indices=rows, normalize_regions=True, return_numpy=True
                )
                matrix[rows] = -np.log1p(-np.clip(chance, 0.0, 1.0 - 1e-6))
            else:
                share = self.model.get_normalized_expression(cells, indices=rows, return_numpy=True)
                matrix[rows] = np.log1p(SCALE * share)
        return OnDisk(matrix, folder, None)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Decoded values in a temporary file, read by columns.

    Attributes
    ----------
    matrix
        ``(n, f)`` memory map.
    folder
        Holds the file; it goes when the last user of it does.
    scale
        ``(n,)`` makes rates of rows, giving ``1 - exp(-rate)``; None gives the plain values.
    """

    matrix: NDArray[np.float32]
    folder: tempfile.TemporaryDirectory[str]
    scale: NDArray[np.float64] | None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def __call__(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Block of the asked columns."""
        block = self.matrix[:, columns]
        return block if self.scale is None else limited(-np.expm1(-block * self.scale[:, None]), "open")


def load_scvi(seed: int, purpose: str = "The scVI and MultiVI baselines") -> ModuleType:
    """Import scvi-tools, quiet and with its seed set.

    Raises
    ------
    MissingExtraError
        Where it is not installed; ``purpose`` says what needs it.
    """
    try:
        import scvi
    except ImportError:
        raise MissingExtraError("scvi-tools", "bench", purpose) from None
    scvi.settings.seed = seed  # the library knows no other way
    scvi.settings.verbosity = 40
    return scvi


def batch_table(cells: int, batches: ArrayLike) -> pd.DataFrame:
    """Table of cells with their technical batch as a category."""
    names = pd.Categorical(np.asarray(batches).astype(str))
    return pd.DataFrame({"batch": names}, index=[f"cell{number}" for number in range(cells)])


def epochs_run(model: Any) -> int:
    """Epochs that were run, from the training history."""
    return len(next(iter(model.history.values())))
