"""Gene activity: expression read off the open regions near a gene's start, with no training but a scale.

Two usual forms. ``promoter``: openings from 2 kb before to 500 bases after a transcription start. ``distance``:
openings within 100 kb weighted by ``exp(-d / 5,000)``, d from the region's middle to the nearest start of the gene, as
ArchR weighs them. Published tools disagree on this score, so both are printed. Coordinates are 0-based, half-open.
Leaves out gene bodies and boundaries between genes; a start's position comes from a reference, not from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import SCALE, Scaled, fit_scale, log_cp10k, opened
from syncyte.errors import DataError

BEFORE, AFTER = 2000, 500
REACH, DECAY = 100_000, 5000.0


def region_gene_weights(
    regions: pd.DataFrame, starts: pd.DataFrame, genes: pd.Index, form: Literal["promoter", "distance"]
) -> sp.csc_matrix:
    """Weight of every region for every gene, ``(r, g)`` CSC float32.

    Parameters
    ----------
    regions
        ``chrom``, ``start``, ``end`` in column order of the counts.
    starts
        ``gene``, ``chrom``, ``position``, ``strand`` (``+`` or ``-``): one row a transcription start.
    genes
        Names of the target's columns; genes without a start get no weight.
    form
        ``promoter`` or ``distance``.

    Raises
    ------
    DataError
        Where no gene has a start in the table.
    """
    gene = genes.get_indexer(pd.Index(starts["gene"]))
    if not (gene >= 0).any():
        wanted, known = ", ".join(map(str, genes[:3])), ", ".join(map(str, starts["gene"][:3]))
        raise DataError(
            f"None of the {len(genes):,} genes ({wanted} ...) has a transcription start in the table ({known} ...). "
            "Build the reference from a GTF of this species with the same kind of names."
        )
    middle = (regions["start"].to_numpy(np.int64) + regions["end"].to_numpy(np.int64)) // 2
    chrom, chrom_of = regions["chrom"].astype(str).to_numpy(), starts["chrom"].astype(str).to_numpy()
    position, forward = starts["position"].to_numpy(np.int64), (starts["strand"] != "-").to_numpy()
    reach = (BEFORE, AFTER) if form == "promoter" else (REACH, REACH)
    left = position - np.where(forward, reach[0], reach[1])
    right = position + np.where(forward, reach[1], reach[0])
    rows, columns, values = [], [], []
    for name in np.unique(chrom):
        here = np.flatnonzero(chrom == name)
        here = here[np.argsort(middle[here], kind="stable")]
        near = np.flatnonzero((chrom_of == name) & (gene >= 0))
        first = np.searchsorted(middle[here], left[near], side="left")
        count = np.searchsorted(middle[here], right[near], side="right") - first
        owner = np.repeat(near, count)
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        region = here[np.repeat(first, count) + offset]
        distance = np.abs(middle[region] - position[owner])
        rows.append(region)
        columns.append(gene[owner])
        values.append(np.ones(len(region)) if form == "promoter" else np.exp(-distance / DECAY))
    weights = pd.DataFrame({"r": np.concatenate(rows), "g": np.concatenate(columns), "w": np.concatenate(values)})
    best = weights.groupby(["r", "g"], sort=False)["w"].max().reset_index()  # several starts: the nearest counts
    shape = (len(regions), len(genes))
    return sp.csc_matrix((best["w"].to_numpy(np.float32), (best["r"].to_numpy(), best["g"].to_numpy())), shape=shape)


class GeneActivity:
    """Expression from nearby openings: ``log1p(10,000 a / sum a)``, brought to the scale of training expression.

    Parameters
    ----------
    weights
        From ``region_gene_weights``.
    """

    def __init__(self, weights: sp.csc_matrix) -> None:
        self.weights = weights

    def fit(self, source: sp.csr_matrix, target: sp.csr_matrix) -> Self:
        """Learn one slope (never negative) and intercept a gene from paired training cells."""
        self.slope, self.intercept = fit_scale(self._raw(source), log_cp10k(target))
        return self

    def predict(self, source: sp.csr_matrix) -> Scaled:
        """Scale the activity of each cell in ``source``."""
        return Scaled(self._raw(source), self.slope, self.intercept, source.shape[0])

    def _raw(self, source: sp.csr_matrix) -> Callable[[NDArray[np.int64]], NDArray[np.float64]]:
        counts = opened(source)
        total = np.asarray(counts @ np.asarray(self.weights.sum(axis=1)), dtype=np.float64).ravel()
        scale = SCALE / np.where(total > 0, total, 1.0)

        def block(columns: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.log1p((counts @ self.weights[:, columns]).toarray() * scale[:, None])

        return block
