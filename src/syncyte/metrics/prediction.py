"""How well one modality was predicted from another: scores per feature over cells, against a null.

Here the target is expected ``log1p`` of counts per 10,000, scored by Pearson's r of every feature over cells (plain,
within cell type, given depth) and by ``skill = 1 - squared error / squared error of the training mean``;
``openness`` scores probabilities. r given groups or log depth is the partial correlation: both sides have the group
means and the linear effect of log depth taken out.

Traps these numbers are built around. Correlation over the features of one cell is printed second: a constant profile
reaches 0.8. Depth drives log CP10K of shallow cells, so r is also given with depth held fixed. A feature seen in fewer
than ``min_cells`` cells carries no information and is left out of the averages; a constant prediction scores r 0.

Predictions come as an array or as a function of column numbers, truth as sparse counts; neither is ever held dense
beyond a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError
from syncyte.metrics.ranking import check_finite

Columns = Callable[[NDArray[np.int64]], NDArray[np.floating]]
BLOCK = 1 << 23  # entries of a dense block: 64 MB as float64
SCALE = 1e4


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one prediction.

    Attributes
    ----------
    summary
        Name to number, for the report's table.
    features
        One row a feature that was scored; ``column`` is its position.
    batches
        One row a technical batch: observed and predicted level. Empty where no batches were given.
    reliability
        Observed share open by bin of predicted probability (``open`` targets only).
    """

    summary: dict[str, float]
    features: pd.DataFrame
    batches: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)


def log_cp10k(counts: sp.spmatrix, total: NDArray[np.floating] | None = None) -> sp.csr_matrix:
    """``log1p(10,000 x / n)`` of every stored count, sparse.

    ``total`` is n per cell; by default the row sum. Cells without counts stay zero.
    """
    matrix = sp.csr_matrix(counts, dtype=np.float64, copy=True)
    matrix.eliminate_zeros()
    total = np.asarray(matrix.sum(axis=1)).ravel() if total is None else np.asarray(total, dtype=np.float64)
    matrix.data *= SCALE / np.repeat(np.where(total > 0, total, 1.0), np.diff(matrix.indptr))
    np.log1p(matrix.data, out=matrix.data)
    return matrix


def as_columns(predicted: ArrayLike | Columns, shape: tuple[int, int]) -> Columns:
    """Predictions as a function from column numbers to a dense block, with its shape checked."""
    if not callable(predicted):
        array = np.asarray(predicted)
        if array.shape != shape:
            raise DataError(
                f"The predictions have the shape {array.shape}, the truth {shape}; rows are the same cells and columns "
                "the same features in the same order. Align the prediction to the truth by name first."
            )
        return lambda columns: array[:, columns]
    return predicted


def column_blocks(columns: NDArray[np.int64], cells: int) -> Iterator[NDArray[np.int64]]:
    """Split column numbers so that a dense block of them stays small whatever the number of cells."""
    width = max(1, BLOCK // max(cells, 1))
    for start in range(0, len(columns), width):
        yield columns[start : start + width]


def group_codes(groups: ArrayLike | None, cells: int) -> tuple[NDArray[np.int64], NDArray]:
    """Codes and sorted names of labels; one group named ``all`` where there are none. Missing labels are a group."""
    if groups is None:
        return np.zeros(cells, dtype=np.int64), np.array(["all"])
    names, codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(codes) != cells:
        raise DataError(f"There are {len(codes):,} group labels for {cells:,} cells; one a cell is needed.")
    return codes.astype(np.int64), names


def _basis(codes: NDArray[np.int64], depth: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Orthonormal basis of what a correlation is taken *given*: group means and, if asked, log depth."""
    sizes = np.bincount(codes)
    basis = np.zeros((len(codes), len(sizes)))
    basis[np.arange(len(codes)), codes] = 1.0 / np.sqrt(sizes[codes])
    if depth is None:
        return basis
    level = np.log1p(depth)
    level = level - basis @ (basis.T @ level)
    length = np.linalg.norm(level)
    return np.column_stack([basis, level / length]) if length > 1e-9 else basis


def _bases(types: ArrayLike | None, depth: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Make the basis that each kind of correlation is taken given, by name."""
    one = np.zeros(len(depth), dtype=np.int64)
    bases = {"r": _basis(one), "r_given_depth": _basis(one, depth)}
    if types is not None:
        kinds = group_codes(types, len(depth))[0]
        bases |= {"r_in_type": _basis(kinds), "r_in_type_depth": _basis(kinds, depth)}
    return bases


def _correlate(truth: NDArray, predicted: NDArray, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's r of every column pair given ``basis``; NaN for constant truth, 0 for constant predictions."""
    left, right = basis.T @ truth, basis.T @ predicted
    squares = np.einsum("ij,ij->j", truth, truth), np.einsum("ij,ij->j", predicted, predicted)
    own = squares[0] - (left**2).sum(axis=0)
    other = squares[1] - (right**2).sum(axis=0)
    both = np.einsum("ij,ij->j", truth, predicted) - (left * right).sum(axis=0)
    varies, moves = own > 1e-10 * squares[0], other > 1e-10 * squares[1]
    good = varies & moves
    result = np.where(varies, 0.0, np.nan)
    result[good] = both[good] / np.sqrt(own[good] * other[good])
    return result


class CellCorrelation:
    """Running sums for Pearson's r of each cell over features."""

    def __init__(self, cells: int) -> None:
        self.sums = np.zeros((5, cells))
        self.count = 0

    def add(self, truth: NDArray, predicted: NDArray) -> None:
        """Take in one block of columns."""
        parts = (truth, predicted, truth * truth, predicted * predicted, truth * predicted)
        self.sums += np.stack([part.sum(axis=1, dtype=np.float64) for part in parts])
        self.count += truth.shape[1]

    def mean(self) -> float:
        """Mean over the cells where both vary."""
        a, b, aa, bb, ab = self.sums / max(self.count, 1)
        own, other = aa - a * a, bb - b * b
        good = (own > 1e-9 * aa) & (other > 1e-9 * bb)
        return float(np.mean((ab - a * b)[good] / np.sqrt((own * other)[good]))) if good.any() else float("nan")


def mean_known(values: NDArray | pd.Series) -> float:
    """Mean of the values that are numbers; NaN where none is."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def skill_of(loss: float, null: float) -> float:
    """``1 - loss / null``; NaN where the null is perfect."""
    return 1.0 - float(loss) / float(null) if null > 0 else float("nan")


def level_by_batch(codes: NDArray[np.int64], names: NDArray, observed: NDArray, predicted: NDArray) -> pd.DataFrame:
    """Mean observed and predicted level of each technical batch; their ratio should be 1."""
    cells = np.bincount(codes)
    table = pd.DataFrame({"batch": names, "cells": cells})
    table["observed"] = np.bincount(codes, observed) / cells
    table["predicted"] = np.bincount(codes, predicted) / cells
    return table.assign(ratio=table["predicted"] / table["observed"].where(table["observed"] > 0))


def score_values(
    predicted: ArrayLike | Columns,
    counts: sp.spmatrix,
    null: ArrayLike,
    *,
    types: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    min_cells: int = 10,
) -> Scores:
    """Score predicted ``log1p`` CP10K against measured counts.

    Parameters
    ----------
    predicted
        ``(n, f)`` array, or a function from ``(c,)`` column numbers to an ``(n, c)`` block.
    counts
        ``(n, f)`` sparse raw counts of the same cells, all features: their sum is the depth.
    null
        ``(f,)`` mean of the target over the *training* cells: the prediction that skill is measured against.
    types, batches
        ``(n,)`` labels of cell type and technical batch, optional.
    min_cells
        Features seen in fewer cells are not scored (``r_all`` takes every feature that varies).

    Returns
    -------
    Scores with ``r``, ``r_all``, ``r_in_type``, ``r_given_depth``, ``r_in_type_depth``, ``skill``, ``cell_r``,
    ``slope`` (of truth on prediction about the null; 1 is calibrated) and ``features`` (how many were scored).
    """
    n, width = counts.shape
    get, null = as_columns(predicted, (n, width)), np.asarray(null, dtype=np.float64)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    target = log_cp10k(counts).tocsc()
    bases = _bases(types, depth)
    seen, per_cell, tables = np.diff(target.indptr), CellCorrelation(n), []
    slope, level = np.zeros(2), np.zeros((2, n))
    for columns in column_blocks(np.arange(width), n):
        truth = target[:, columns].toarray()
        guess = np.asarray(get(columns), dtype=np.float64)
        check_finite(guess)
        per_cell.add(truth, guess)
        level += (truth.sum(axis=1), guess.sum(axis=1))
        centred, moved = truth - null[columns], guess - null[columns]
        keep = seen[columns] >= min_cells
        slope += (np.sum(centred[:, keep] * moved[:, keep]), np.sum(moved[:, keep] ** 2))
        table = {name: _correlate(centred, moved, basis) for name, basis in bases.items()}
        error, worst = ((truth - guess) ** 2).sum(axis=0), (centred**2).sum(axis=0)
        tables.append(pd.DataFrame({"column": columns, "cells": seen[columns], **table, "error": error, "null": worst}))
    every = pd.concat(tables, ignore_index=True)
    scored = every[every["cells"] >= min_cells].reset_index(drop=True)
    summary = {name: mean_known(scored[name]) for name in bases}
    summary |= {"r_all": mean_known(every["r"]), "skill": skill_of(scored["error"].sum(), scored["null"].sum())}
    moves = slope[1] > 1e-9 * scored["null"].sum()
    summary |= {"cell_r": per_cell.mean(), "slope": float(slope[0] / slope[1]) if moves else float("nan")}
    scored["skill"] = 1.0 - scored["error"] / scored["null"].where(scored["null"] > 0)
    return Scores(
        {**summary, "features": float(len(scored))}, scored, level_by_batch(*group_codes(batches, n), *level / width)
    )
