"""What training cells of each combination of labels look like on average.

Means and variances of log counts by group are all that is kept of the training cells, so that a run can tell effects
without its data. Leaves out: effects (``effects``), cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import depth_of, log_cp10k

MOST_ENTRIES = 60_000_000  # groups x features that are kept


@dataclass(frozen=True)
class Groups:
    """Cells by combination of labels.

    Attributes
    ----------
    table
        ``(groups, attributes)`` labels, ``""`` where missing.
    cells
        ``(groups,)`` number of cells.
    totals
        ``(groups,)`` mean log total count.
    means, variances
        ``(groups, f)`` of log1p CP10K (or what else was ``observed``) over the cells.
    """

    table: pd.DataFrame
    cells: NDArray[np.int64]
    totals: NDArray[np.float32]
    means: NDArray[np.float32]
    variances: NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        blocks: Iterable[tuple[NDArray[np.int64], sp.csr_matrix]],
        labels: pd.DataFrame,
        observed: Callable[[sp.csr_matrix], sp.csr_matrix] = log_cp10k,
    ) -> Groups | None:
        """Sum up cells; None where there are too many groups to be kept.

        Parameters
        ----------
        blocks
            Pairs of row numbers into ``labels`` and counts; every row once.
        labels
            Text labels of all cells, one column an attribute.
        observed
            Counts to the values that are averaged.
        """
        grouped = labels.groupby(list(labels.columns), sort=True)
        codes, size = grouped.ngroup().to_numpy(), grouped.size()
        totals = np.zeros(len(size))
        sums = squares = np.zeros((0, 0))
        for rows, counts in blocks:
            if not sums.size:
                if len(size) * counts.shape[1] > MOST_ENTRIES:
                    return None
                sums, squares = np.zeros((2, len(size), counts.shape[1]))
            member = sp.csr_matrix((np.ones(len(rows)), (codes[rows], np.arange(len(rows)))), (len(size), len(rows)))
            logs = observed(counts).astype(np.float64)
            for total, values in ((sums, logs), (squares, logs.power(2))):
                part = (member @ values).tocoo()
                total[part.row, part.col] += part.data
            totals += member @ np.log(np.maximum(depth_of(counts), 1))
        cells = size.to_numpy(dtype=np.int64)
        means = sums / cells[:, None]
        variances = np.maximum(squares / cells[:, None] - means**2, 0)
        table = size.index.to_frame(index=False)
        return cls(table, cells, *(part.astype(np.float32) for part in (totals / cells, means, variances)))

    def collapse(self, key: str, others: list[str]) -> Groups:
        """The same by ``key`` and the ``others`` alone: columns ``context`` (others in one) and ``perturbation``."""
        context = self.table[others].agg(" | ".join, axis=1) if others else pd.Series("all", index=self.table.index)
        labels = pd.DataFrame({"context": context, "perturbation": self.table[key]})
        known = (labels["perturbation"] != "").to_numpy()
        grouped = labels[known].groupby(["context", "perturbation"], sort=True)
        codes, size = grouped.ngroup().to_numpy(), grouped.ngroups
        member = sp.csr_matrix((self.cells[known].astype(float), (codes, np.arange(len(codes)))), (size, len(codes)))
        cells = np.asarray(member.sum(axis=1)).ravel()
        weights = sp.diags(1 / cells) @ member
        means = weights @ self.means[known].astype(np.float64)
        second = weights @ (self.variances[known] + self.means[known].astype(np.float64) ** 2)
        variances = np.maximum(second - means**2, 0)
        parts = (part.astype(np.float32) for part in (weights @ self.totals[known], means, variances))
        return Groups(grouped.size().index.to_frame(index=False), cells.astype(np.int64), *parts)
