"""How well the open features of cells were predicted: ranking, likelihood, level and calibration, told apart.

A prediction of a sparse binary modality holds two things, the cell's *level* (how much is open) and its *profile* (what
is open, given the level), and plain AUROC mixes them. With the rate ``-log(1 - p)`` the profile of a cell is its rate
divided by the cell's sum; ``auroc_profile`` ranks the cells of a region by ``true depth x profile``, ``level_r`` is the
correlation of log predicted with log true number of open features, and ``d2`` and ``brier_skill`` judge both together
as probabilities against the training mean.

Two passes over the columns are made: one over all features for levels, one over those with enough positives.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.metrics.prediction import (
    CellCorrelation,
    Columns,
    Scores,
    as_columns,
    column_blocks,
    group_codes,
    level_by_batch,
    mean_known,
    skill_of,
)
from syncyte.metrics.ranking import check_finite, cross, like_depth, rank_columns, rank_within

FLOOR = 1e-6  # probabilities are kept this far from 0 and 1 before a logarithm
BINS = 20  # of predicted probability, equally wide in log10 from 1e-5 to 1, plus one below


def rate(probability: NDArray[np.floating]) -> NDArray[np.floating]:
    """``-log(1 - p)``: the Poisson rate whose chance of at least one event is p."""
    return -np.log1p(-np.clip(probability, 0.0, 1.0 - FLOOR))


def bernoulli_deviance(probability: NDArray[np.floating], open_cells: sp.csc_matrix) -> NDArray[np.float64]:
    """Twice the negative log-likelihood of every column of ``open_cells`` (stored entries are ones)."""
    safe = np.clip(probability, FLOOR, 1.0 - FLOOR)
    zeros = -np.log1p(-safe)
    rows, owner = open_cells.indices, np.repeat(np.arange(open_cells.shape[1]), np.diff(open_cells.indptr))
    ones = -np.log(safe[rows, owner]) - zeros[rows, owner]
    return 2.0 * (zeros.sum(axis=0, dtype=np.float64) + np.bincount(owner, ones, minlength=open_cells.shape[1]))


def brier(probability: NDArray[np.floating], open_cells: sp.csc_matrix) -> NDArray[np.float64]:
    """Sum of squared errors of every column of ``open_cells`` (stored entries are ones)."""
    rows, owner = open_cells.indices, np.repeat(np.arange(open_cells.shape[1]), np.diff(open_cells.indptr))
    ones = 1.0 - 2.0 * probability[rows, owner]
    squares = np.einsum("ij,ij->j", probability, probability, dtype=np.float64)
    return squares + np.bincount(owner, ones, minlength=open_cells.shape[1])


class Reliability:
    """Counts, predicted and observed sums by bin of probability and group of cells."""

    def __init__(self, groups: NDArray[np.int64]) -> None:
        self.groups = groups
        self.count = int(groups.max(initial=0)) + 1
        self.sums = np.zeros((3, self.count * (BINS + 1)))

    def add(self, probability: NDArray[np.floating], open_cells: sp.csc_matrix) -> None:
        """Take in one block of columns."""
        place = np.log10(np.maximum(probability, 1e-6)) * (BINS / 5) + BINS + 1
        place = np.clip(place, 0, BINS).astype(np.int64) + (self.groups * (BINS + 1))[:, None]
        rows, owner = open_cells.indices, np.repeat(np.arange(open_cells.shape[1]), np.diff(open_cells.indptr))
        length = self.sums.shape[1]
        self.sums[0] += np.bincount(place.ravel(), minlength=length)
        self.sums[1] += np.bincount(place.ravel(), probability.ravel(), minlength=length)
        self.sums[2] += np.bincount(place[rows, owner], minlength=length)

    def error(self, group: int | None = None) -> float:
        """Compute the calibration error: mean over entries of |mean predicted - share open| of their bin."""
        sums = self.sums.reshape(3, self.count, BINS + 1)
        count, predicted, observed = sums.sum(axis=1) if group is None else sums[:, group]
        return float(np.abs(predicted - observed).sum() / max(count.sum(), 1.0))

    def table(self) -> pd.DataFrame:
        """One row a bin that holds entries."""
        count, predicted, observed = self.sums.reshape(3, self.count, BINS + 1).sum(axis=1)
        lower = np.concatenate([[0.0], 10.0 ** (-5 + 5 / BINS * np.arange(BINS))])
        table = pd.DataFrame({"lower": lower, "entries": count, "predicted": predicted, "observed": observed})
        table = table[table["entries"] > 0].reset_index(drop=True)
        return table.assign(
            predicted=table["predicted"] / table["entries"], observed=table["observed"] / table["entries"]
        )


def score_open(
    predicted: ArrayLike | Columns,
    counts: sp.spmatrix,
    null: ArrayLike,
    *,
    types: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    min_cells: int = 10,
    most: int | None = None,
) -> Scores:
    """Score predicted probabilities of being open against measured counts.

    Parameters
    ----------
    predicted
        ``(n, f)`` array of probabilities, or a function from ``(c,)`` column numbers to an ``(n, c)`` block.
    counts
        ``(n, f)`` sparse counts of the same cells; any count above zero is open.
    null
        ``(f,)`` share of *training* cells in which the feature is open: the prediction that skill is measured against.
    types, batches
        ``(n,)`` labels of cell type and technical batch, optional.
    min_cells
        Features open in fewer cells are not scored, except in ``d2_all``, ``brier_skill_all``, ``cell_r`` and levels.
    most
        Of the features to score take this many, evenly spread over the columns: ranking is what costs time.

    Returns
    -------
    Scores with ``auroc``, ``auroc_in_type``, ``auroc_like_depth``, ``auroc_in_type_depth``, ``auroc_profile``,
    ``auprc``, ``prevalence`` (what a random order would reach in auprc), ``d2``, ``brier_skill``, both also ``_all``,
    ``level_r``, ``level_ratio`` (predicted over observed), ``ece``, ``cell_r`` and ``features`` (how many were scored).
    """
    n = counts.shape[0]
    get, null = as_columns(predicted, counts.shape), np.asarray(null, dtype=np.float64)
    truth = sp.csc_matrix(counts, copy=True)
    truth.eliminate_zeros()
    truth.data = np.ones_like(truth.data)
    depth = np.bincount(truth.indices, minlength=n).astype(np.float64)
    lanes, lane_names = group_codes(batches, n)
    level, whole = _whole(get, truth, null)
    strata = {"auroc_like_depth": like_depth(depth)}
    if types is not None:
        kinds = group_codes(types, n)[0]
        strata |= {"auroc_in_type": kinds, "auroc_in_type_depth": cross(kinds, like_depth(depth, 10))}
    chosen, reliability = _chosen(truth, min_cells, most), Reliability(lanes)
    scale = depth / np.maximum(level["rate"], FLOOR)
    tables = [
        _table(np.asarray(get(columns)), truth[:, columns], columns, null, scale, strata, reliability)
        for columns in column_blocks(chosen, n)
    ]
    scored = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"auroc": []})
    some = depth > 0
    summary = {**_macro(scored, n), **whole, "level_r": _log_correlation(level["open"][some], depth[some])}
    summary["level_ratio"] = float(level["open"].sum() / max(depth.sum(), 1.0))
    summary |= {"ece": reliability.error(), "features": float(len(scored))}
    by_batch = level_by_batch(lanes, lane_names, depth, level["open"])
    by_batch["ece"] = [reliability.error(code) for code in range(len(by_batch))]
    return Scores(summary, scored, by_batch, reliability.table())


def _chosen(truth: sp.csc_matrix, min_cells: int, most: int | None) -> NDArray[np.int64]:
    """Columns to score."""
    chosen = np.flatnonzero(np.diff(truth.indptr) >= min_cells)
    return chosen if most is None or len(chosen) <= most else chosen[np.arange(most) * len(chosen) // most]


def _table(
    guess: NDArray[np.floating],
    truth: sp.csc_matrix,
    columns: NDArray[np.int64],
    null: NDArray[np.float64],
    scale: NDArray[np.float64],
    strata: dict[str, NDArray[np.int64]],
    reliability: Reliability,
) -> pd.DataFrame:
    """Scores of one block of columns; ``scale`` turns a rate into true depth times profile."""
    auroc, auprc = rank_columns(guess, truth)
    table = {"column": columns, "cells": np.diff(truth.indptr), "auroc": auroc, "auprc": auprc}
    table["auroc_profile"] = rank_columns(rate(guess) * scale[:, None], truth)[0]
    table |= {name: rank_within(guess, truth, codes) for name, codes in strata.items()}
    reliability.add(guess, truth)
    return pd.DataFrame(table | _losses(guess, truth, null[columns]))


def _macro(scored: pd.DataFrame, cells: int) -> dict[str, float]:
    """Averages and skills over the scored features."""
    summary = {name: mean_known(scored[name]) for name in scored if str(name).startswith("au")}
    if len(scored):
        summary["prevalence"] = float(scored["cells"].mean() / cells)
        summary["d2"] = skill_of(scored["deviance"].sum(), scored["deviance_null"].sum())
        summary["brier_skill"] = skill_of(scored["brier"].sum(), scored["brier_null"].sum())
    return summary


def _whole(get: Columns, truth: sp.csc_matrix, null: NDArray) -> tuple[dict[str, NDArray], dict[str, float]]:
    """First pass: predicted level of each cell, and the losses over all features."""
    n, width = truth.shape
    level = {"rate": np.zeros(n), "open": np.zeros(n)}
    losses, per_cell = np.zeros(4), CellCorrelation(n)
    for columns in column_blocks(np.arange(width), n):
        guess, block = np.asarray(get(columns)), truth[:, columns]
        check_finite(guess)
        level["rate"] += rate(guess).sum(axis=1, dtype=np.float64)
        level["open"] += guess.sum(axis=1, dtype=np.float64)
        per_cell.add(block.toarray(), guess)
        losses += [part.sum() for part in _losses(guess, block, null[columns]).values()]
    skills = {"d2_all": skill_of(losses[0], losses[1]), "brier_skill_all": skill_of(losses[2], losses[3])}
    return level, {**skills, "cell_r": per_cell.mean()}


def _losses(guess: NDArray, block: sp.csc_matrix, null: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Deviance and Brier sum of every column, and of the constant training mean."""
    n, positives = block.shape[0], np.diff(block.indptr)
    safe = np.clip(null, FLOOR, 1.0 - FLOOR)
    deviance = -2.0 * (positives * np.log(safe) + (n - positives) * np.log1p(-safe))
    squares = n * null**2 + positives * (1.0 - 2.0 * null)
    return {
        "deviance": bernoulli_deviance(guess, block),
        "deviance_null": deviance,
        "brier": brier(guess, block),
        "brier_null": squares,
    }


def _log_correlation(predicted: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """Pearson's r of logarithms; 0 where the prediction is constant."""
    left, right = np.log(np.maximum(predicted, FLOOR)), np.log(observed)
    left, right = left - left.mean(), right - right.mean()
    length = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / length) if length > 1e-9 else 0.0
