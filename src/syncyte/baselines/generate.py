"""Cheap generators of cells, printed beside every generative model: what a network must beat to have earned its place.

Counts: ``PerTypeNegativeBinomial`` knows the mean profile and the depths of a type, and no structure inside it;
``ResampledCells`` hands out training cells, the best that a memoriser could do. Latents: ``LatentMixture`` fits
Gaussians to the coordinates that an autoencoder gave its training cells; decoded by the same autoencoder it is the bar
for any flow or diffusion on them. All have ``fit``, ``sample(labels, rng)`` and ``name``, and give one cell a label, in
order.

Traps. Averages are not cells: without count noise every score of a distribution fails. The per-type negative binomial
is narrow, so its precision lies above that of real cells; look at recall. Give all generators the same labels.
Leaves out: which labels to ask for, decoding, scores (``metrics.realism``, ``metrics.distribution``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.prediction import depth_of
from syncyte.errors import DataError, unknown

BLOCK = 1 << 22  # entries of a dense block: 32 MB as float64
LOWEST, HIGHEST = -4.0, 8.0  # of the log dispersion: beyond, counts are all noise, or Poisson to the last digit
COMPONENTS, ENOUGH = 4, 240  # of a mixture, from as many cells of the type
GRID, DEPTHS = 25, 16  # dispersions tried, and bins of depth in which what was not counted is summed
FLOOR = 1e-4  # least variance along an axis of standardised latents


class CountGenerator(Protocol):
    """What every cheap generator of counts answers."""

    name: str

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Learn from ``(n, f)`` raw counts of training cells and their ``(n,)`` labels."""
        ...

    def sample(self, labels: ArrayLike, rng: np.random.Generator) -> sp.csr_matrix:
        """Draw one cell a label: ``(m, f)`` int32 counts in the order of ``labels``."""
        ...


class PerTypeNegativeBinomial:
    """Independent negative binomial genes around the mean profile of a type, at depths of its own cells.

    ``mean = depth x share``, ``variance = mean + mean^2 / dispersion``. A share is a gene's part of all counts of the
    type. There is one dispersion a gene for all types, the likeliest within ``exp(-4)`` and ``exp(8)``: moments follow
    single outlying cells, and their draws are too easy to tell from real cells.
    """

    name = "per-type negative binomial"

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Learn shares, dispersions and depths from ``(n, f)`` counts and ``(n,)`` labels.

        Raises
        ------
        DataError
            For counts that are not whole, labels that do not fit them, or an empty label.
        """
        counts, names = checked_counts(counts), checked_labels(labels, counts.shape[0])
        self.types, codes = np.unique(names, return_inverse=True)
        total = depth_of(counts)
        member = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (len(self.types), len(codes)))
        level = member @ total
        self.share = sp.csr_matrix(sp.diags(1.0 / np.maximum(level, 1.0)) @ (member @ counts.astype(np.float64)))
        self.share.sort_indices()
        self.depths = [total[codes == code] for code in range(len(self.types))]
        self.dispersion = self._fitted(counts, codes, total)
        return self

    def sample(self, labels: ArrayLike, rng: np.random.Generator) -> sp.csr_matrix:
        """Draw one cell a label: ``(m, f)`` int32 counts.

        Raises
        ------
        DataError
            For a label without training cells.
        """
        parts, places = [sp.csr_matrix((0, self.share.shape[1]), dtype=np.int32)], [np.zeros(0, np.int64)]
        asked = np.asarray(labels).astype(str)
        for code, rows in each_type(asked, self.types):
            share = self.share[[code]]
            depth = rng.choice(self.depths[code], len(rows))
            step = max(1, BLOCK // max(share.nnz, 1))
            for start in range(0, len(rows), step):
                mean = np.outer(depth[start : start + step], share.data)
                drawn = sp.csr_matrix(draw_counts(mean, self.dispersion[share.indices], rng))
                shape = (drawn.shape[0], self.share.shape[1])
                parts.append(sp.csr_matrix((drawn.data, share.indices[drawn.indices], drawn.indptr), shape=shape))
            places.append(rows)
        return in_order(parts, np.concatenate(places))

    def _fitted(self, counts: sp.csr_matrix, codes: NDArray[np.int64], total: NDArray) -> NDArray[np.float64]:
        """Dispersion ``(f,)`` of every gene: the likeliest of a grid, between whose values a parabola is laid.

        The likelihood is adjusted for the fitted shares (Cox and Reid 1987), which else make small types look even.
        What was not counted is summed over depths in bins, what was is summed entry by entry: nothing is made dense.
        """
        from scipy.special import gammaln

        width, grid = counts.shape[1], np.linspace(LOWEST, HIGHEST, GRID)
        x, column = counts.data.astype(np.float64), counts.indices
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        mean = total[row] * np.asarray(self.share[codes[row], column]).ravel()
        bins = [np.array_split(np.sort(depths), min(DEPTHS, len(depths))) for depths in self.depths]
        found = np.zeros((GRID, width))
        for number, theta in enumerate(np.exp(grid)):
            seen = gammaln(x + theta) - gammaln(theta) + x * (np.log(mean) - np.log(mean + theta))
            found[number] = np.bincount(column, seen, minlength=width)
            for code, depths in enumerate(bins):
                share = self.share[[code]]
                level = np.outer([part.mean() for part in depths], share.data)
                size = np.array([len(part) for part in depths], dtype=np.float64)
                zeros, known = size @ np.log1p(level / theta), size @ (level / (1 + level / theta))
                found[number, share.indices] -= theta * zeros + 0.5 * np.log(known)
        best = np.clip(found.argmax(axis=0), 1, GRID - 2)
        before, here, after = (found[best + step, np.arange(width)] for step in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = np.where(bend < -1e-9, 0.5 * (before - after) / np.minimum(bend, -1e-9), 0.0)
        return np.exp(np.clip(grid[best] + np.clip(shift, -1, 1) * (grid[1] - grid[0]), LOWEST, HIGHEST))


class ResampledCells:
    """Real training cells of the type: without replacement while there are enough, then from the start again.

    Cells drawn with replacement would meet their own copies in nearest-neighbour scores; every cell comes once before
    any comes twice.
    """

    name = "resampled cells"

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike) -> Self:
        """Keep ``(n, f)`` counts of training cells by their ``(n,)`` labels."""
        self.counts = checked_counts(counts).astype(np.int32)
        names = checked_labels(labels, counts.shape[0])
        self.types, codes = np.unique(names, return_inverse=True)
        self.rows = [np.flatnonzero(codes == code) for code in range(len(self.types))]
        return self

    def sample(self, labels: ArrayLike, rng: np.random.Generator) -> sp.csr_matrix:
        """Draw one cell a label: ``(m, f)`` int32 counts.

        Raises
        ------
        DataError
            For a label without training cells.
        """
        asked = np.asarray(labels).astype(str)
        chosen = np.zeros(len(asked), dtype=np.int64)
        for code, places in each_type(asked, self.types):
            rounds = -(-len(places) // len(self.rows[code]))
            chosen[places] = np.concatenate([rng.permutation(self.rows[code]) for _ in range(rounds)])[: len(places)]
        return self.counts[chosen]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Gaussians of one type in standardised coordinates: ``weights (c,)``, ``means (c, d)``, ``roots (c, d, d)``."""

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    roots: NDArray[np.float64]


class LatentMixture:
    """A Gaussian mixture with full covariances for every type, on latents instead of counts.

    Four components where the type has 240 cells and twice as many as coordinates, else one. A component of fewer cells
    n than twice the coordinates d has its covariance drawn to the pooled one within types, ``(n - 1)`` parts to ``2d``;
    so a type of one cell has the pooled covariance around that cell. The pooled covariance is shrunken itself (Ledoit
    and Wolf 2004), and where every type has one cell it is that of all cells. Inside, coordinates are divided by their
    standard deviation within types.

    Parameters
    ----------
    components
        Most components of a type; 1 gives one Gaussian a type.
    seed
        Of the starts of the fit.
    """

    name = "per-type Gaussian mixture"

    def __init__(self, components: int = COMPONENTS, seed: int = 0) -> None:
        self.components, self.seed = components, seed

    def fit(self, points: ArrayLike, labels: ArrayLike) -> Self:
        """Learn from ``(n, d)`` latents of training cells (draws of the encoder, not its means) and ``(n,)`` labels.

        Raises
        ------
        DataError
            For coordinates that are not finite, or labels that do not fit them.
        """
        values = np.asarray(points, dtype=np.float64)
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            raise DataError(
                f"A mixture needs finite (cells, coordinates), at least one of each; found the shape {values.shape}"
                f"{'' if np.isfinite(values).all() else ' with NaN or infinite values'}. Check what was encoded."
            )
        names = checked_labels(labels, len(values))
        self.types, codes = np.unique(names, return_inverse=True)
        self.middle = values.mean(axis=0)
        self.still = values.std(axis=0) <= 1e-12  # coordinates that never move stay where they are
        left, freedom = _within(values, codes)
        spread = np.sqrt((left**2).sum(axis=0) / freedom)
        self.spread = np.where(spread > 1e-12, spread, np.where(self.still, 1.0, values.std(axis=0)))
        values, pooled = (values - self.middle) / self.spread, _pooled(left / self.spread, freedom)
        self.mixtures = [self._fit_type(values[codes == code], pooled) for code in range(len(self.types))]
        return self

    def sample(self, labels: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw one cell a label: ``(m, d)`` latents.

        Raises
        ------
        DataError
            For a label without training cells.
        """
        asked = np.asarray(labels).astype(str)
        drawn = np.zeros((len(asked), len(self.middle)))
        for code, rows in each_type(asked, self.types):
            mixture = self.mixtures[code]
            part = rng.choice(len(mixture.weights), size=len(rows), p=mixture.weights)
            noise = rng.standard_normal((len(rows), len(self.middle)))
            for number in np.unique(part):
                here = part == number
                drawn[rows[here]] = mixture.means[number] + noise[here] @ mixture.roots[number].T
        return self.middle + self.spread * np.where(self.still, 0.0, drawn)

    def _fit_type(self, values: NDArray[np.float64], pooled: NDArray[np.float64]) -> Mixture:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        cells, width = values.shape
        if self.components == 1 or cells < max(ENOUGH, 2 * width):
            centred = values - values.mean(axis=0)
            weights, means, covariances = np.ones(1), values.mean(axis=0)[None], (centred.T @ centred / cells)[None]
        else:
            model = GaussianMixture(self.components, reg_covar=FLOOR, max_iter=200, random_state=self.seed)
            with warnings.catch_warnings():  # a fit that still creeps after 200 rounds is good enough to draw from
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(values)
            weights, means, covariances = model.weights_, model.means_, model.covariances_
        weights = weights / weights.sum()
        roots = np.stack([_root(part, weight * cells, pooled) for part, weight in zip(covariances, weights)])
        return Mixture(weights, means, roots)


def draw_counts(mean: NDArray, dispersion: NDArray, rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw negative binomial counts as Gamma-Poisson; ``dispersion`` broadcasts over the ``(n, f)`` block of means."""
    shape = np.broadcast_to(dispersion, mean.shape)
    return rng.poisson(rng.standard_gamma(shape) * (mean / dispersion)).astype(np.int32)


def checked_counts(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Sparse raw counts of at least one cell.

    Raises
    ------
    DataError
        For dense matrices, no cells, and values that are not whole, finite and at least zero.
    """
    if not sp.issparse(counts) or not counts.shape[0]:
        raise DataError(
            f"A generator needs a sparse matrix (cells, features) of raw counts with at least one cell; found "
            f"{type(counts).__name__} of shape {np.shape(counts)}. Use scipy.sparse.csr_matrix."
        )
    matrix = sp.csr_matrix(counts)
    values = matrix.data
    bad = ~np.isfinite(values) | (values < 0) | (values != np.rint(values))
    if bad.any():
        raise DataError(
            f"A generator needs raw counts, whole and not negative; found {values[bad][0]:g}. Hand in the counts "
            "themselves, not logarithms, rates or means."
        )
    return matrix


def checked_labels(labels: ArrayLike, cells: int) -> NDArray[np.str_]:
    """Labels of training cells as text, one a cell and none empty."""
    names = np.asarray(labels).astype(str)
    if names.shape != (cells,):
        raise DataError(f"Found labels of shape {names.shape} for {cells:,} cells. Give one label a cell.")
    if (names == "").any():
        raise DataError(f"{int((names == '').sum()):,} training cells have no label. Leave them out, or name them.")
    return names


def each_type(asked: NDArray[np.str_], types: NDArray[np.str_]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Code and places of every type that is asked for; an unknown one is refused."""
    if asked.ndim != 1:
        raise DataError(f"Found labels of shape {asked.shape}; one label a cell to draw is needed, shape (cells,).")
    for name in np.unique(asked):
        code = int(np.searchsorted(types, name))
        if code == len(types) or types[code] != name:
            raise DataError(unknown("label", str(name), types) + " Only labels with training cells can be drawn.")
        yield code, np.flatnonzero(asked == name)


def in_order(parts: list[sp.csr_matrix], places: NDArray[np.int64]) -> sp.csr_matrix:
    """Stack blocks of cells and put each row at its place."""
    stacked = sp.csr_matrix(sp.vstack(parts, format="csr", dtype=np.int32))
    return stacked[np.argsort(places)]


def _within(values: NDArray[np.float64], codes: NDArray[np.int64]) -> tuple[NDArray[np.float64], int]:
    """Distances from the mean of the type, and their degrees of freedom; from that of all where no type has two."""
    cells = np.bincount(codes)
    if not (cells > 1).any():
        return values - values.mean(axis=0), max(len(values) - 1, 1)
    means = np.stack([np.bincount(codes, column) for column in values.T], axis=1) / cells[:, None]
    left = (values - means[codes])[cells[codes] > 1]
    return left, len(left) - int((cells > 1).sum())


def _pooled(left: NDArray[np.float64], freedom: int) -> NDArray[np.float64]:
    """Shrunken covariance of distances from the mean."""
    from sklearn.covariance import ledoit_wolf

    if len(left) == 1:  # one cell in all
        return np.zeros((left.shape[1], left.shape[1]))
    return ledoit_wolf(left, assume_centered=True)[0] * len(left) / freedom


def _root(covariance: NDArray[np.float64], cells: float, pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square root of the covariance (divided by n) of a component, drawn to the pooled one where its cells are few."""
    width, own = len(pooled), max(cells - 1, 0.0)
    covariance = covariance * cells / max(own, 1.0)
    if cells < 2 * width:
        covariance = (own * covariance + 2 * width * pooled) / (own + 2 * width)
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, FLOOR))
