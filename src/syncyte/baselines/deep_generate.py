"""scVI as a generator of counts, from each of its sources of latents; comes with the ``bench`` extra.

scVI (Lopez et al., Nature Methods 2018) decodes a latent vector and a total count to a negative binomial. What its
cells are like depends on where the latents come from, so a report has a row for each: ``posterior_predictive`` (latents
of real cells, which are therefore needed), ``prior`` (standard normal) and ``per_type_gaussian`` (a Gaussian of the
training latents of each type, log total count among them).

The budget is in epochs with early stopping on the library's own held-out cells, and the epochs used are kept. No
technical batch is given, since new cells come from unknown ones. The likelihood is the negative binomial, not the
zero-inflated one that is the library's default, so that its loss compares with other negative binomials; all else is
default. Leaves out: counts decoded at other depths, tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.deep import MOST_EPOCHS, ROWS, batch_table, epochs_run, load_scvi
from syncyte.baselines.generate import LatentMixture, checked_counts, checked_labels, draw_counts
from syncyte.baselines.prediction import depth_of
from syncyte.errors import DataError

PURPOSE = "The scVI generator"


class ScviGenerator:
    """Counts from scVI.

    Parameters
    ----------
    epochs
        Most epochs; training stops early. After ``fit`` the attribute ``epochs`` says how many were used.
    seed
        Of training. Draws take a generator of their own.
    """

    name = "scVI"

    def __init__(self, epochs: int = MOST_EPOCHS, seed: int = 0) -> None:
        self.most, self.seed = epochs, seed

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike | None = None) -> Self:
        """Train on ``(n, f)`` raw counts; ``labels`` are needed for ``per_type_gaussian`` alone.

        Raises
        ------
        MissingExtraError
            Where scvi-tools is not installed.
        DataError
            For values that are no counts, or labels that do not fit them.
        """
        counts = checked_counts(counts)
        names = None if labels is None else checked_labels(labels, counts.shape[0])
        scvi = load_scvi(self.seed, PURPOSE)
        cells = self._cells(counts)
        scvi.model.SCVI.setup_anndata(cells)
        self.model = scvi.model.SCVI(cells, gene_likelihood="nb")
        self.model.train(max_epochs=self.most, early_stopping=True, enable_progress_bar=False)
        self.epochs, self.features = epochs_run(self.model), counts.shape[1]
        self.totals = depth_of(counts)
        self.mixture = None
        if names is not None:
            rng = np.random.default_rng(self.seed)
            points = np.column_stack([self.latents(counts, rng), np.log(np.maximum(self.totals, 1.0))])
            self.mixture = LatentMixture(components=1, seed=self.seed).fit(points, names)
        return self

    def latents(self, counts: sp.csr_matrix, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """``(n, d)`` posterior means of cells, or one draw of each posterior with ``rng``."""
        mean, variance = self.model.get_latent_representation(
            self._cells(self._fitting(counts)), return_dist=True, batch_size=ROWS
        )
        mean = np.asarray(mean, dtype=np.float64)
        return mean if rng is None else mean + np.sqrt(variance) * rng.standard_normal(mean.shape)

    def posterior_predictive(self, counts: sp.csr_matrix, rng: np.random.Generator | None = None) -> sp.csr_matrix:
        """Draw each cell anew from its own posterior at its own total count: ``(n, f)`` int32 counts.

        Without ``rng`` the seed of training is used.
        """
        rng = np.random.default_rng(self.seed) if rng is None else rng
        return self._drawn(self.latents(counts, rng), depth_of(counts), rng)

    def prior(self, n: int, rng: np.random.Generator) -> sp.csr_matrix:
        """Decode ``n`` standard normal latents at total counts of random training cells: ``(n, f)`` int32 counts."""
        latent = rng.standard_normal((n, int(self.model.module.n_latent)))
        return self._drawn(latent, rng.choice(self.totals, n), rng)

    def per_type_gaussian(self, labels: ArrayLike, rng: np.random.Generator | None = None) -> sp.csr_matrix:
        """Decode draws of the Gaussian of each label's training latents and log total counts: ``(m, f)`` int32 counts.

        Totals are kept within those of training cells, where a Gaussian tail would make giants of a few. Without
        ``rng`` the seed of training is used.

        Raises
        ------
        DataError
            Where ``fit`` was given no labels, or for a label without training cells.
        """
        if self.mixture is None:
            raise DataError("This scVI generator was fitted without labels. Hand labels to fit to draw cells by type.")
        rng = np.random.default_rng(self.seed) if rng is None else rng
        points = self.mixture.sample(labels, rng)
        total = np.clip(np.exp(points[:, -1]), self.totals.min(), self.totals.max())
        return self._drawn(points[:, :-1], total, rng)

    def split_loss(self, first_half: sp.csr_matrix, second_half: sp.csr_matrix) -> float:
        """Negative log-likelihood of second halves given the first ones, in nats a cell, summed over features.

        Halves come from ``metrics.realism.split_half``: each count is dealt to one of two halves with equal chance, so
        that both have one mean. The posterior mean of the first half is decoded and scaled by its total.

        Raises
        ------
        DataError
            For halves of different shapes, or of other features than in training.
        """
        first, second = self._fitting(first_half), self._fitting(second_half)
        if first.shape != second.shape:
            raise DataError(
                f"Two halves of the same cells are needed; found {first.shape[0]:,} and {second.shape[0]:,} cells. "
                "Take both from one call of split_half."
            )
        loss = 0.0
        for rows, mean, dispersion in self._decoded(self.latents(first), depth_of(first)):
            loss += float(negative_log_likelihood(second[rows], mean, dispersion).sum())
        return loss / first.shape[0]

    def _drawn(self, latent: NDArray, total: NDArray, rng: np.random.Generator) -> sp.csr_matrix:
        parts = [sp.csr_matrix((0, self.features), dtype=np.int32)]
        for _, mean, dispersion in self._decoded(latent, total):
            parts.append(sp.csr_matrix(draw_counts(mean, dispersion, rng)))
        return sp.csr_matrix(sp.vstack(parts, format="csr", dtype=np.int32))

    def _decoded(self, latent: NDArray, total: NDArray) -> Iterator[tuple[slice, NDArray, NDArray]]:
        """Rows, means ``(b, f)`` and dispersions ``(f,)`` of the negative binomials of cells, in blocks."""
        import torch

        module = self.model.module.eval()
        for start in range(0, len(latent), ROWS):
            rows = slice(start, min(start + ROWS, len(latent)))
            z = torch.as_tensor(latent[rows], dtype=torch.float32)
            # at total 1: the library takes logarithms of totals, which empty cells do not have
            with torch.inference_mode():
                px = module.generative(z, torch.zeros(len(z), 1), torch.zeros(len(z), 1, dtype=torch.long))["px"]
            share = px.mu.cpu().numpy().astype(np.float64)
            dispersion = px.theta.cpu().numpy().astype(np.float64)
            yield rows, share * total[rows, None], dispersion.reshape(-1, self.features)[0]

    def _fitting(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        matrix = checked_counts(counts)
        if matrix.shape[1] != self.features:
            raise DataError(
                f"scVI was trained on {self.features:,} features; found cells with {matrix.shape[1]:,}. Choose the "
                "same features in the same order."
            )
        return matrix

    def _cells(self, counts: sp.csr_matrix) -> Any:
        import anndata

        obs = batch_table(counts.shape[0], np.zeros(counts.shape[0], dtype=int))
        return anndata.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs)


def negative_log_likelihood(counts: sp.csr_matrix, mean: NDArray, dispersion: NDArray) -> NDArray[np.float64]:
    """Negative log-likelihood of each cell under negative binomials, summed over features, in nats: ``(n,)``.

    Parameters
    ----------
    counts
        ``(n, f)``, sparse: gamma functions are computed of stored counts only.
    mean, dispersion
        ``(n, f)`` and ``(f,)``; the variance is ``mean + mean^2 / dispersion``. A mean of zero forbids counts.
    """
    from scipy.special import gammaln

    block = sp.coo_matrix(counts)
    keep = block.data > 0
    row, column, x = block.row[keep], block.col[keep], block.data[keep].astype(np.float64)
    loss = (dispersion * np.log1p(mean / dispersion)).sum(axis=1)
    r, m = dispersion[column], mean[row, column]
    with np.errstate(divide="ignore"):
        own = gammaln(x + r) - gammaln(r) - gammaln(x + 1) + x * np.log(m / (m + r))
    return loss - np.bincount(row, own, minlength=block.shape[0])
