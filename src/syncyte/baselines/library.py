"""How many counts a cell has, from its attributes: partial pooling of levels and of their combinations.

``log total = grand mean + effect of each attribute's level + deviation of the combination + residual``. Effects are
shrunken by the noise of a level against the variance between levels (the best linear unbiased prediction of a mixed
model, Robinson 1991; its variances by Paule and Mandel 1982), so that a level of three cells hardly moves and one of
3,000 stands. A combination that training did not see has the sum of its main effects. Residual variances are a pooled
one times a factor for each level, shrunken in the same way, and the shape of the residuals is that of training cells.

A missing value (``""``, NaN, or no such column) adds nothing: the grand mean, which is the mean over training cells; a
draw then has the variance between levels on top. A level that training did not know is an error, never a guess.
Traps. Where two attributes say the same, the first takes the effect. In draws of an unseen combination its unknown
deviation is left out. Leaves out: continuous attributes (cut them into groups), and depth that follows the cell's
state (``generate.LatentMixture`` has it as a coordinate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError, unknown

ROUNDS, CLOSE = 200, 1e-7  # of alternating fits, and the change of an effect that ends them
QUANTILES = 257  # that the shape of residuals is kept by
FEW = 100  # cells below which residuals are taken as normal
TINY = 1e-12

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effects:
    """What one attribute does.

    Attributes
    ----------
    levels
        Its labels in training, sorted.
    mean
        ``(levels,)`` effects on the log total count; their mean over training cells is zero.
    log_variance
        ``(levels,)`` effects on the log of the residual variance.
    between
        Variance of ``mean`` over training cells, which a cell without a label has on top.
    """

    levels: list[str]
    mean: Numbers
    log_variance: Numbers
    between: float


@dataclass(frozen=True, slots=True)
class LibraryModel:
    """Log total counts by attributes.

    Attributes
    ----------
    grand
        Mean log total count of training cells.
    variance
        Pooled residual variance of log total counts.
    effects
        By attribute, in the order of the table that was fitted.
    deviations
        Of the combinations seen, by their level numbers in the order of attributes.
    shape
        Quantiles of standardised residuals at evenly spaced probabilities.
    """

    grand: float
    variance: float
    effects: dict[str, Effects]
    deviations: dict[tuple[int, ...], float]
    shape: Numbers

    @classmethod
    def fit(cls, log_totals: ArrayLike, attributes: pd.DataFrame) -> Self:
        """Learn from training cells.

        Parameters
        ----------
        log_totals
            ``(n,)`` natural logarithms of total counts.
        attributes
            n rows, one column an attribute, labels as text; ``""`` or NaN where unknown. No columns are fine.

        Raises
        ------
        DataError
            For totals that are not finite (cells without counts should be left out), other row numbers, and columns of
            real numbers.
        """
        y = np.asarray(log_totals, dtype=np.float64)
        if y.ndim != 1 or len(y) != len(attributes) or not len(y):
            raise DataError(
                f"Found log total counts of shape {y.shape} and {len(attributes):,} rows of attributes. Give one of "
                "each for every cell, and at least one cell."
            )
        if not np.isfinite(y).all():
            raise DataError(
                f"{int((~np.isfinite(y)).sum()):,} log total counts are not finite. Leave out cells without counts."
            )
        text = {str(name): as_labels(attributes[name]) for name in attributes.columns}
        levels = {name: sorted(set(column) - {""}) for name, column in text.items()}
        codes = np.full((len(y), len(text)), -1, dtype=np.int64)
        for place, (name, column) in enumerate(text.items()):
            codes[:, place] = pd.Index(levels[name], dtype=object).get_indexer(column)
        return cls._of_codes(y, codes, levels)

    @classmethod
    def _of_codes(cls, y: Numbers, codes: NDArray[np.int64], levels: Mapping[str, list[str]]) -> Self:
        groups, group = distinct(codes)
        sizes = [len(names) for names in levels.values()]
        cells: Numbers = np.bincount(group).astype(np.float64)
        average = _sums(group, y, len(groups)) / cells
        inside = y - average[group]
        squares = _sums(group, inside**2, len(groups))
        whole = np.asarray((groups >= 0).all(axis=1))
        noise = _within(squares, cells, whole, y)
        means, deviation = _fit_means(average, noise / cells, groups, sizes, whole)
        # effects are counted from their mean over cells, so that a missing label gives the mean over cells
        weights = [_sums(groups[:, a], cells, size) for a, size in enumerate(sizes)]
        means = [effect - np.average(effect, weights=w) if len(w) else effect for effect, w in zip(means, weights)]
        if whole.any():
            deviation = np.where(whole, deviation - np.average(deviation[whole], weights=cells[whole]), 0.0)
        fitted = deviation + _total(means, groups)
        grand = float(np.average(average - fitted, weights=cells))
        tails = max(1.0, (float((inside**4).mean()) / max(float((inside**2).mean()) ** 2, TINY) - 1.0) / 2.0)
        variance, logs = _fit_variances(squares, np.where(whole, cells - 1.0, 0.0), groups, sizes, (noise, tails))
        effects = {
            name: Effects(levels[name], means[a], logs[a], _spread(means[a], weights[a]))
            for a, name in enumerate(levels)
        }
        spread = np.sqrt(variance * np.exp(_total(logs, codes)))
        shape = _shape((y - grand - fitted[group]) / np.maximum(spread, TINY))
        kept = {tuple(map(int, key)): float(value) for key, value in zip(groups, deviation) if value}
        return cls(grand, variance, effects, kept, shape)

    def mean(self, attributes: pd.DataFrame) -> Numbers:
        """Expected log total count of cells with these attributes, ``(n,)``.

        Raises
        ------
        DataError
            For a label or a column that training did not know.
        """
        return self._mean(self._codes(attributes))

    def sd(self, attributes: pd.DataFrame) -> Numbers:
        """Standard deviation of the log total count of cells with these attributes, ``(n,)``."""
        residual, between = self._variances(self._codes(attributes))
        return np.sqrt(residual + between)

    def sample(self, attributes: pd.DataFrame, rng: np.random.Generator) -> Numbers:
        """Draw log total counts, one a row, ``(n,)``.

        Raises
        ------
        DataError
            For a label or a column that training did not know.
        """
        codes = self._codes(attributes)
        residual, between = self._variances(codes)
        grid = (np.arange(len(self.shape)) + 0.5) / len(self.shape)
        drawn = np.interp(rng.random(len(codes)), grid, self.shape)
        return self._mean(codes) + np.sqrt(residual) * drawn + np.sqrt(between) * rng.standard_normal(len(codes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that survive JSON; ``from_dict`` takes them back unchanged."""
        return {
            "grand": self.grand,
            "variance": self.variance,
            "effects": {
                name: {
                    "levels": one.levels,
                    "mean": one.mean.tolist(),
                    "log_variance": one.log_variance.tolist(),
                    "between": one.between,
                }
                for name, one in self.effects.items()
            },
            "deviations": [[list(key), value] for key, value in self.deviations.items()],
            "shape": self.shape.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Take back what ``to_dict`` gave."""
        effects = {
            name: Effects(
                list(one["levels"]), np.array(one["mean"], float), np.array(one["log_variance"], float), one["between"]
            )
            for name, one in values["effects"].items()
        }
        deviations = {tuple(key): float(value) for key, value in values["deviations"]}
        return cls(values["grand"], values["variance"], effects, deviations, np.array(values["shape"], float))

    def _codes(self, attributes: pd.DataFrame) -> NDArray[np.int64]:
        """Level numbers ``(n, a)``, -1 where missing."""
        attributes = attributes.rename(columns=str)
        for name in attributes.columns:
            if name not in self.effects:
                raise DataError(unknown("attribute", name, self.effects))
        codes = np.full((len(attributes), len(self.effects)), -1, dtype=np.int64)
        for place, (name, one) in enumerate(self.effects.items()):
            if name not in attributes.columns:
                continue
            text = as_labels(attributes[name])
            codes[:, place] = pd.Index(one.levels, dtype=object).get_indexer(text)
            strange = sorted(set(text[codes[:, place] < 0]) - {""})
            if strange:
                raise DataError(
                    unknown(f"value of {name!r}", strange[0], one.levels)
                    + " Without a total count of its own it can only be left empty, for the mean over all cells."
                )
        return codes

    def _mean(self, codes: NDArray[np.int64]) -> Numbers:
        groups, group = distinct(codes)
        extra = np.array([self.deviations.get(tuple(map(int, key)), 0.0) for key in groups], dtype=np.float64)
        return self.grand + _total([one.mean for one in self.effects.values()], codes) + extra[group]

    def _variances(self, codes: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        """Residual variance of each row, and that of the levels it does not name."""
        effects = list(self.effects.values())
        between = (codes < 0).astype(np.float64) @ np.array([one.between for one in effects], dtype=np.float64)
        return self.variance * np.exp(_total([one.log_variance for one in effects], codes)), between


def as_labels(column: pd.Series) -> NDArray[np.object_]:
    """Labels as text, ``""`` where missing; columns of real numbers are refused."""
    if pd.api.types.is_float_dtype(column.dtype) and column.notna().any():
        raise DataError(
            f"Attribute {str(column.name)!r} holds real numbers; labels are needed. Cut it into groups with "
            "pandas.cut, or write whole numbers as text."
        )
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object)


def between_variance(values: Numbers, noise: Numbers, freedom: float) -> float:
    """Variance of true values behind noisy ones: where ``sum (v - mean)^2 / (variance + noise)`` equals ``freedom``.

    Paule and Mandel (1982), by bisection; the mean is weighted by the same denominators. Zero where the noise alone
    explains the values.
    """

    def excess(variance: float) -> float:
        weight = 1.0 / (variance + noise)
        return float((weight * (values - np.average(values, weights=weight)) ** 2).sum() - freedom)

    if freedom <= 0 or excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(((values - values.mean()) ** 2).sum() / freedom) + float(noise.max())
    while excess(high) > 0:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def _fit_means(
    average: Numbers, noise: Numbers, groups: NDArray[np.int64], sizes: list[int], whole: NDArray[np.bool_]
) -> tuple[list[Numbers], Numbers]:
    """Effects of levels and deviations of combinations, from the mean of each combination and the variance of it.

    A combination mean is the sum of main effects, its deviation (where no label is missing) and noise. Effects are
    fitted one attribute after the other, with deviations and missing effects counted as noise in the weights.
    """
    effects, between = [np.zeros(size) for size in sizes], np.zeros(len(sizes))
    used = np.zeros(len(sizes))
    crossed = sum(size > 1 for size in sizes) > 1
    scatter, scale, left = 0.0, max(float(average.std()), TINY), average
    for _ in range(ROUNDS):
        moved = 0.0
        for place, size in enumerate(sizes):
            weight = 1.0 / (noise + scatter * whole + (groups < 0) @ between)
            own = _pick(effects[place], groups[:, place])
            left = average - _total(effects, groups)
            rest = left - np.average(left, weights=weight) + own
            if size:
                fresh, between[place], used[place] = _levels(rest, weight, groups[:, place], size)
                moved, effects[place] = max(moved, float(np.abs(fresh - effects[place]).max())), fresh
        left, before = average - _total(effects, groups), scatter
        if crossed:
            scatter = between_variance(left[whole], noise[whole], float(whole.sum()) - 1.0 - used.sum())
        if moved <= CLOSE * scale and abs(scatter - before) <= CLOSE * scale**2:
            break
    left = left - np.average(left, weights=1.0 / (noise + scatter * whole + (groups < 0) @ between))
    return effects, np.where(whole, scatter / (scatter + noise), 0.0) * left


def _levels(rest: Numbers, weight: Numbers, code: NDArray[np.int64], size: int) -> tuple[Numbers, float, float]:
    """Level effects drawn to their mean, the variance between levels, and the degrees of freedom they take."""
    mass = _sums(code, weight, size)
    raw, noise = _sums(code, weight * rest, size) / mass, 1.0 / mass
    variance = between_variance(raw, noise, size - 1)
    kept = variance / (variance + noise)
    middle = np.average(raw, weights=1.0 / (variance + noise))
    return kept * (raw - middle), variance, float(kept.sum()) * (size - 1) / size


def _fit_variances(
    squares: Numbers, freedom: Numbers, groups: NDArray[np.int64], sizes: list[int], start: tuple[float, float]
) -> tuple[float, list[Numbers]]:
    """Pooled variance and log factors of levels, from sums of squares within combinations.

    ``start`` is the variance where there are no such squares, and how much wider than those of normal residuals mean
    squares scatter.
    """
    from scipy.special import digamma, polygamma

    logs, plain, tails = [np.zeros(size) for size in sizes], *start
    if freedom.sum() < 2 or not squares[freedom > 0].sum() > 0:
        return plain, logs
    squares = np.where(freedom > 0, squares, 0.0)
    for _ in range(ROUNDS):
        moved = 0.0
        for place, size in enumerate(sizes):
            others = _total(logs, groups) - _pick(logs[place], groups[:, place])
            free = _sums(groups[:, place], freedom, size)
            total = _sums(groups[:, place], squares * np.exp(-others), size)
            seen = free > 0
            if seen.sum() < 2:
                continue
            half, floor = free[seen] / 2, 1e-6 * total.sum() / free.sum()
            raw = np.log(np.maximum(total[seen] / free[seen], floor)) - digamma(half) + np.log(half)
            noise = tails * polygamma(1, half)  # of the log of a mean square
            variance = between_variance(raw, noise, len(raw) - 1)
            fresh = np.zeros(size)
            fresh[seen] = variance / (variance + noise) * (raw - np.average(raw, weights=1.0 / (variance + noise)))
            moved, logs[place] = max(moved, float(np.abs(fresh - logs[place]).max())), fresh
        if moved <= CLOSE:
            break
    return float((squares / np.exp(_total(logs, groups))).sum() / freedom.sum()), logs


def _within(squares: Numbers, cells: Numbers, whole: NDArray[np.bool_], y: Numbers) -> float:
    """Variance inside combinations, or of all cells where no combination has several."""
    freedom = float((cells[whole] - 1).sum())
    found = float(squares[whole].sum() / freedom) if freedom >= 2 else float(y.var())
    return max(found, 1e-9 * float(y.var()), TINY)


def _spread(effect: Numbers, weights: Numbers) -> float:
    return float(np.average(effect**2, weights=weights)) if len(effect) else 0.0


def _shape(residuals: Numbers) -> Numbers:
    """Quantiles of residuals brought to mean 0 and variance 1; those of a normal where cells are few."""
    from scipy.special import ndtri

    grid = (np.arange(QUANTILES) + 0.5) / QUANTILES
    spread = residuals.std()
    found = np.quantile(residuals, grid) if len(residuals) >= FEW and spread > 1e-6 else ndtri(grid)
    return (found - found.mean()) / found.std()


def distinct(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows, and the number among them of each row."""
    if not codes.shape[1]:  # no attribute: all cells are alike
        return codes[:1], np.zeros(len(codes), dtype=np.int64)
    rows, number = np.unique(codes, axis=0, return_inverse=True)
    return rows, number.ravel()


def _sums(code: NDArray[np.int64], values: Numbers, size: int) -> Numbers:
    """Sum of values by level number; -1 is left out."""
    return np.asarray(np.bincount(code + 1, values, size + 1)[1:], dtype=np.float64)


def _total(effects: list[Numbers], codes: NDArray[np.int64]) -> Numbers:
    """Sum over attributes of the effect of each row's level."""
    found = np.zeros(len(codes))
    for place, effect in enumerate(effects):
        found += _pick(effect, codes[:, place])
    return found


def _pick(effect: Numbers, code: NDArray[np.int64]) -> Numbers:
    """Effect of each level number, zero for -1."""
    return np.append(effect, 0.0)[code]
