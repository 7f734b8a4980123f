"""Which genes differ between two sets of cells (fold change, rank or t test, false discovery rate), and agreement.

The tests compare log1p CP10K, gene by gene: Mann-Whitney with ties and continuity corrected (the asymptotic p value of
SciPy) or Welch's t. Only stored entries are sorted, since the zeros of a gene are one run of ties below all others;
genes are taken in blocks, so cells x genes is never dense. The fold change is of means of CP10K, not of log values:
``log2((mean + pseudocount) / (control mean + pseudocount))``. Without a pseudocount the largest folds belong to genes
that a handful of cells express; 0.1 CP10K is about one molecule in ten cells of 10,000.

Traps. Cells are not replicates: p values grow with the number of cells, so compare numbers of significant genes at
equal cells only, and call a donor effect from donors. Predicted cells that all equal their mean, or that vary too
little, make every gene significant.
Leaves out: covariates, pseudobulk models, choosing the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtr
from scipy.stats import false_discovery_control, spearmanr

from syncyte.errors import ConfigError, DataError, unknown
from syncyte.metrics.ranking import rank_columns

Test = Literal["ranks", "welch"]
Numbers = NDArray[np.float64]

SCALE = 1e4
PSEUDOCOUNT = 0.1  # CP10K
ENTRIES = 1 << 23  # stored values of a block of genes
GENES = 1 << 14  # of a block at most, so that their numbers sort as 16 bit


def differential(
    cells: sp.csr_matrix,
    group: ArrayLike,
    control: ArrayLike,
    *,
    genes: ArrayLike | None = None,
    test: Test = "ranks",
    logged: bool = False,
    totals: ArrayLike | None = None,
    pseudocount: float = PSEUDOCOUNT,
) -> pd.DataFrame:
    """Compare the cells of ``group`` with those of ``control``, gene by gene.

    Parameters
    ----------
    cells
        ``(n, g)`` sparse raw counts, or log1p CP10K with ``logged``.
    group, control
        ``(n,)`` boolean masks of at least two cells each, apart from each other.
    genes
        ``(g,)`` names for the index; positions otherwise.
    test
        ``"ranks"`` (Mann-Whitney) or ``"welch"`` (t), both two-sided.
    totals
        ``(n,)`` counts of each cell over *all* genes, where ``cells`` holds a part of them; row sums otherwise.
    pseudocount
        CP10K added to both means before the fold change.

    Returns
    -------
    One row a gene, in the order of ``cells``: ``mean`` and ``control_mean`` (CP10K), ``log2_fold_change`` and its
    ``standard_error`` (delta method), ``statistic`` (z or t, positive where the group is higher), ``p_value``, and
    ``fdr`` (Benjamini and Hochberg 1995). A gene without any variation has p 1. DataError for masks that overlap or are
    too small, negative values, and counts that are not whole numbers.
    """
    if test not in ("ranks", "welch"):
        raise ConfigError(unknown("test", test, ("ranks", "welch")))
    if not pseudocount > 0:
        raise ConfigError(f"The pseudocount must be above 0 CP10K, found {pseudocount}; {PSEUDOCOUNT} is usual.")
    tested = _ranks if test == "ranks" else _welch
    matrix, rows, first = _selected(cells, group, control)
    _check_values(matrix, logged)
    total = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel() if totals is None else np.asarray(totals)[rows]
    factor = SCALE / np.where(total > 0, total, SCALE)
    sizes = np.array([[first], [len(rows) - first]], dtype=np.float64)
    parts = []
    for start, stop in _gene_blocks(matrix):
        block = matrix[:, start:stop].tocsc()
        column = np.repeat(np.arange(stop - start), np.diff(block.indptr))
        rate = np.expm1(block.data) if logged else block.data * factor[block.indices]
        value = block.data if logged else np.log1p(rate)
        inside = block.indices < first
        mean, variance = _moments(rate, column, inside, sizes, stop - start)
        parts.append(_columns(mean, variance, sizes, pseudocount, *tested(value, column, inside, sizes, stop - start)))
    names = np.arange(matrix.shape[1]) if genes is None else np.asarray(genes).astype(str)
    if len(names) != matrix.shape[1]:
        raise DataError(f"There are {len(names):,} gene names for {matrix.shape[1]:,} columns; one a column is needed.")
    table = pd.concat(parts, ignore_index=True).set_axis(pd.Index(names, name="gene"))
    return table.assign(fdr=false_discovery_control(table["p_value"]))


@dataclass(frozen=True, slots=True)
class Differences:
    """Tables of ``differential`` over many perturbations as arrays, ``(p, g)`` each, for the scores of ``response``.

    Attributes
    ----------
    fold
        log2 fold change.
    p_value, fdr
        Of the test.
    statistic
        z or t.
    """

    fold: Numbers
    p_value: Numbers
    fdr: Numbers
    statistic: Numbers

    @classmethod
    def stack(cls, tables: Sequence[pd.DataFrame]) -> Self:
        """From one table a unit, in the order of the units; all must have the same genes in the same order."""
        if not len(tables) or any(not table.index.equals(tables[0].index) for table in tables):
            raise DataError(
                f"Tables of differences of the same genes in the same order are needed; found {len(tables)} that "
                "differ. Make them all from one matrix of cells."
            )
        names = ("log2_fold_change", "p_value", "fdr", "statistic")
        return cls(*(np.stack([table[name].to_numpy(np.float64) for table in tables]) for name in names))

    def of(self, unit: int, genes: NDArray[np.int64]) -> Self:
        """Some genes of one unit, ``(k,)`` each."""
        kept = (values[unit, genes] for values in (self.fold, self.p_value, self.fdr, self.statistic))
        return type(self)(*kept)


def significance_weights(statistic: ArrayLike) -> Numbers:
    """Weights of genes from the *real* statistic, ``(p, g)`` to ``(p, g)``, each row summing to 1.

    The absolute statistic is brought to 0..1 over the genes of a row and squared (Mejia et al. 2025, arXiv 2506.22641).
    A row without any variation weighs all genes alike. Never give it statistics of predicted cells.
    """
    size = np.nan_to_num(np.abs(np.atleast_2d(np.asarray(statistic, dtype=np.float64))))
    low, high = size.min(axis=1, keepdims=True), size.max(axis=1, keepdims=True)
    weights = np.where(high > low, ((size - low) / np.where(high > low, high - low, 1.0)) ** 2, 1.0)
    return weights / weights.sum(axis=1, keepdims=True)


def agreement(
    real: Differences,
    effect: ArrayLike,
    predicted_effect: ArrayLike,
    predicted: Differences | None = None,
    *,
    alpha: float = 0.05,
) -> dict[str, float]:
    """How far predicted changes of one unit agree with tests of its real cells.

    Parameters
    ----------
    real, predicted
        Tests of one unit, ``(g,)`` each (``Differences.of``); those of predicted cells are optional.
    effect, predicted_effect
        ``(g,)`` true and predicted change of each gene, on one scale.
    alpha
        False discovery rate below which a gene is significant.

    Returns
    -------
    ``significant`` (number N of real genes), over these ``spearman_de`` and ``direction_match`` of the effects, and
    ``effect_overlap``, the share of them that is among the N largest predicted effects. With ``predicted`` also
    ``de_overlap`` (share among the N largest folds predicted to be significant), ``de_precision`` (share of real ones
    among those predicted, largest folds of as many) and ``de_pr_auc`` (average precision of predicted p values), as in
    cell-eval. NaN without a really significant gene; 0 where the prediction calls none.
    """
    names = ("spearman_de", "direction_match", "effect_overlap", "de_overlap", "de_precision", "de_pr_auc")
    hit, true, made = real.fdr < alpha, np.asarray(effect), np.asarray(predicted_effect)
    count = int(hit.sum())
    scores = {"significant": float(count)} | dict.fromkeys(names, float("nan"))
    if not count:
        return scores
    everything, found = np.ones_like(hit), set(np.flatnonzero(hit).tolist())
    if count > 2 and np.ptp(true[hit]) > 0 and np.ptp(made[hit]) > 0:
        scores["spearman_de"] = float(spearmanr(true[hit], made[hit]).statistic)
    scores["direction_match"] = float(np.mean(np.sign(true[hit]) == np.sign(made[hit])))
    scores["effect_overlap"] = len(found & _largest(made, everything, count)) / count
    if predicted is not None:
        called = predicted.fdr < alpha
        size = int(called.sum())
        scores["de_overlap"] = len(found & _largest(predicted.fold, called, count)) / count
        both = _largest(real.fold, hit, size) & _largest(predicted.fold, called, size)
        scores["de_precision"] = len(both) / size if size else 0.0
        rarity = -np.log10(np.maximum(predicted.p_value, 1e-300))
        scores["de_pr_auc"] = float(rank_columns(rarity[:, None], sp.csc_matrix(hit[:, None]))[1][0])
    return scores


def _largest(fold: Numbers, allowed: NDArray[np.bool_], count: int) -> set[int]:
    """Genes of the largest absolute folds among the allowed; one that does not change is never among them."""
    among = np.flatnonzero(allowed & (fold != 0))
    return set(among[np.argsort(-np.abs(fold[among]), kind="stable")[:count]].tolist())


def _selected(cells: sp.csr_matrix, group: ArrayLike, control: ArrayLike) -> tuple[sp.csr_matrix, NDArray, int]:
    """Rows of the group, then of the control, with their numbers and how many the group has."""
    masks = [np.asarray(mask) for mask in (group, control)]
    if any(mask.dtype != bool or mask.shape != (cells.shape[0],) for mask in masks):
        raise DataError(
            f"Masks of the shape ({cells.shape[0]},) and of type bool are needed; found {masks[0].shape} "
            f"{masks[0].dtype} and {masks[1].shape} {masks[1].dtype}. Compare labels with ==, which gives such a mask."
        )
    if (masks[0] & masks[1]).any():
        both = int((masks[0] & masks[1]).sum())
        raise DataError(f"{both:,} cells are both in the group and in the control. Take them out of one of the two.")
    sizes = [int(mask.sum()) for mask in masks]
    if min(sizes) < 2:
        raise DataError(f"Two cells a side are the least; found {sizes[0]} in the group and {sizes[1]} in the control.")
    rows = np.concatenate([np.flatnonzero(mask) for mask in masks])
    matrix = sp.csr_matrix(cells)[rows].astype(np.float64)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix, rows, sizes[0]


def _check_values(matrix: sp.csr_matrix, logged: bool) -> None:
    data = matrix.data
    if not np.isfinite(data).all() or data.min(initial=0.0) < 0:
        raise DataError("Cells hold negative, NaN or infinite values. Clip predicted values at 0 before testing them.")
    if not logged and (data != np.floor(data)).any():
        raise DataError(
            "Counts hold numbers that are not whole, which log values have. Pass raw counts, or logged=True where the "
            "values are log1p CP10K."
        )


def _gene_blocks(matrix: sp.csr_matrix) -> Iterator[tuple[int, int]]:
    """Runs of genes that hold about ``ENTRIES`` stored values together."""
    stored = np.bincount(matrix.indices, minlength=matrix.shape[1])
    start, held = 0, 0
    for gene, count in enumerate(stored):
        if gene > start and (held + count > ENTRIES or gene - start == GENES):
            yield start, gene
            start, held = gene, 0
        held += int(count)
    yield start, matrix.shape[1]


def _moments(
    values: Numbers, column: NDArray, inside: NDArray[np.bool_], sizes: Numbers, width: int
) -> tuple[Numbers, Numbers]:
    """Mean and unbiased variance of every gene, ``(2, width)`` each: group, then control."""
    place = column + width * ~inside
    total = np.bincount(place, values, minlength=2 * width).reshape(2, width)
    mean = total / sizes
    stored = np.bincount(place, minlength=2 * width).reshape(2, width)
    # squares about the mean, entry by entry: sums of squares would cancel where a gene hardly varies
    spread = np.bincount(place, (values - mean.ravel()[place]) ** 2, minlength=2 * width).reshape(2, width)
    return mean, (spread + (sizes - stored) * mean**2) / (sizes - 1)


def _welch(
    values: Numbers, column: NDArray, inside: NDArray[np.bool_], sizes: Numbers, width: int
) -> tuple[Numbers, Numbers]:
    """Statistic t and two-sided p of every gene (Welch 1947)."""
    mean, variance = _moments(values, column, inside, sizes, width)
    share = variance / sizes
    square, gap = share.sum(axis=0), mean[0] - mean[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(gap == 0, 0.0, gap / np.sqrt(square))
        freedom = square**2 / (share**2 / (sizes - 1)).sum(axis=0)
    return t, np.minimum(2 * stdtr(np.where(square > 0, freedom, 1.0), -np.abs(t)), 1.0)


def _ranks(
    values: Numbers, column: NDArray, inside: NDArray[np.bool_], sizes: Numbers, width: int
) -> tuple[Numbers, Numbers]:
    """Statistic z and two-sided p of every gene (Mann and Whitney 1947), with continuity and ties corrected.

    Ranks of stored values start above the zeros of their gene; equal values share the mean of their ranks.
    """
    n = float(sizes.sum())
    order = np.argsort(values)
    order = order[np.argsort(column[order].astype(np.uint16), kind="stable")]  # by gene, then by value
    stored = np.bincount(column, minlength=width)
    zeros = n - stored
    held, of = values[order], column[order]
    fresh = np.ones(len(values), dtype=bool)
    fresh[1:] = (held[1:] != held[:-1]) | (of[1:] != of[:-1])
    begin = np.flatnonzero(fresh)
    run, gene = np.diff(np.append(begin, len(values))), of[begin]
    rank = zeros[gene] + begin - (np.cumsum(stored) - stored)[gene] + (run + 1) / 2
    summed = np.bincount(of, np.repeat(rank, run) * inside[order], minlength=width)
    ties = np.bincount(gene, run.astype(np.float64) ** 3 - run, minlength=width) + zeros**3 - zeros
    own_zeros = sizes[0, 0] - np.bincount(column[inside], minlength=width)
    summed = summed + own_zeros * (zeros + 1) / 2
    u = summed - sizes[0, 0] * (sizes[0, 0] + 1) / 2 - sizes[0, 0] * sizes[1, 0] / 2  # about its expectation
    spread = np.sqrt(np.maximum(sizes[0, 0] * sizes[1, 0] / 12 * ((n + 1) - ties / (n * (n - 1))), 0.0))
    varies = spread > 1e-9 * n
    z = np.where(varies, np.maximum(np.abs(u) - 0.5, 0.0) / np.where(varies, spread, 1.0), 0.0)
    return np.sign(u) * z, np.minimum(2 * ndtr(-z), 1.0)


def _columns(
    mean: Numbers, variance: Numbers, sizes: Numbers, pseudocount: float, statistic: Numbers, p_value: Numbers
) -> pd.DataFrame:
    raised = mean + pseudocount
    error = np.sqrt((variance / sizes / raised**2).sum(axis=0)) / np.log(2)
    return pd.DataFrame(
        {
            "mean": mean[0],
            "control_mean": mean[1],
            "log2_fold_change": np.log2(raised[0] / raised[1]),
            "standard_error": error,
            "statistic": statistic,
            "p_value": p_value,
        }
    )
