"""Labels of cells from all genes, each standardised by the data at hand: what travels best between laboratories.

Multinomial logistic regression on ``log1p`` CP10K of every gene over its spread. Weights are learned on training cells;
means and spreads of genes are those of the data that are asked about, drawn to the ones of training where cells are
few. What differs between laboratories gene by gene drops out. What only another mix of types explains is taken out
first: the mix is read off a pass with training statistics, and own means are compared with the training means of that
mix, so that a sorted sample is not stretched over all types. Genes that were not measured take the value expected from
the others, with the means of the types as factors and independent noise (regression scores, Thomson 1951); this is
linear, and is passed on to the weights of the measured ones. Totals are taken among the measured.
Nothing is densified: with a free intercept, centring moves no weight, so columns are only scaled.
Leaves out: representations (``classify``), types without cells (``words.zero_shot``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax

from syncyte.errors import DataError

MOST_CELLS = 20_000  # learned from
FOLDS = 5
OWN = 50.0  # cells at which own and training statistics weigh alike
HIGHEST = 10.0  # of a standardised value
STRETCH = 3.0  # own spreads stay within this factor of the expected ones
LEAST = 1e-4  # variance of log1p CP10K below which two spreads are the same
NOISE = 0.05  # least variance of a standardised gene within types
FLOOR = 1e-3  # spread below which a gene tells nothing
TEMPERATURES = np.geomspace(0.25, 4.0, 33)
BINS = 15
ROWS = 8_192  # cells looked at together
PER_CELL = 1e4
KEPT = ("weights", "bias", "mean", "spread", "share", "middle", "within")
Blocks = Callable[[], Iterable[sp.csr_matrix]]
Values = NDArray[np.float64]


class GeneClassifier:
    """Probabilities of labels.

    Parameters
    ----------
    balance
        Power of the inverse frequency that a label is weighed by: 0 not at all, 1 all labels alike. In between both the
        common and the rare are found well.
    strength
        Inverse of the L2 penalty, as in scikit-learn.
    seed
        Of folds and of what is left out of many cells.

    Attributes
    ----------
    rows, fold, left_out
        After ``fit``: which cells were learned from, the fold of each, and what the other folds said of it, ``(n, c)``
        before any temperature (NaN where they could not). Not kept in ``arrays``.
    """

    def __init__(self, balance: float = 0.75, strength: float = 0.003, seed: int = 0) -> None:
        self.balance, self.strength, self.seed = balance, strength, seed
        self.temperature, self.calibration_error = 1.0, float("nan")

    def fit(self, counts: sp.csr_matrix, labels: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn from ``(n, f)`` raw counts.

        Parameters
        ----------
        labels
            ``(n,)`` names.
        groups
            ``(n,)`` technical batch or donor: whole ones are left out to calibrate on, else random fifths.

        Raises
        ------
        DataError
            If there is one label only, counts are negative, or sizes do not fit.
        """
        names = np.asarray(labels).astype(str)
        counts = sp.csr_matrix(counts)
        if len(names) != counts.shape[0] or (counts.nnz and counts.data.min() < 0):
            raise DataError(
                f"Found {counts.shape[0]:,} cells, {len(names):,} labels and a least count of "
                f"{counts.data.min(initial=0):g}; one label a cell and raw counts are needed."
            )
        if len(set(names)) < 2:
            raise DataError(
                f"All cells have the label {str(names[0])!r}; two are needed at least." if len(names) else "No cell."
            )
        self.rows = rows = self._some(names)
        counts, names = counts[rows], names[rows]
        self.classes = np.unique(names)
        self.fold = self._folds(names, None if groups is None else np.asarray(groups).astype(str)[rows])
        self._calibrate(counts, names, self.fold)
        self._learn(counts, names)
        return self

    def _learn(self, counts: sp.csr_matrix, names: NDArray[np.str_]) -> None:
        totals = np.asarray(counts.sum(axis=0)).ravel()
        self.share = totals / max(totals.sum(), 1e-12)
        logs = self._logs(counts, np.ones(counts.shape[1], dtype=bool))
        self.mean, self.spread = _moments([logs])[:2]
        codes = np.searchsorted(self.classes, names)
        size = np.bincount(codes, minlength=len(self.classes))
        weight = (len(names) / ((size > 0).sum() * np.maximum(size, 1)))[codes] ** self.balance
        parts = [_moments([logs[codes == code]])[:2] for code in range(len(self.classes))]
        self.middle, self.within = (np.stack([part[place] for part in parts]) for place in (0, 1))
        self.middle[size == 0], self.within[size == 0] = self.mean, self.spread  # a type this fold has not
        scaled = _scaled(logs, self.spread, self.mean)
        self.weights, self.bias = _solve(
            scaled, self.mean * _inverse(self.spread), codes, len(self.classes), weight, self.strength
        )

    def predict(self, counts: sp.csr_matrix, measured: NDArray[np.bool_] | None = None) -> Values:
        """Probabilities ``(n, c)`` of cells with the same columns; ``measured`` says which of these there were."""
        counts = sp.csr_matrix(counts)
        return self.predict_blocks(lambda: [counts], measured)

    def predict_blocks(self, blocks: Blocks, measured: NDArray[np.bool_] | None = None) -> Values:
        """The same of counts that come in blocks, twice over: once for the statistics, once for the answers.

        Raises
        ------
        DataError
            If the number of columns is another one.
        """
        width = len(self.mean)
        known = np.ones(width, dtype=bool) if measured is None else np.asarray(measured, dtype=bool)
        for block in blocks():
            if block.shape[1] != width or len(known) != width:
                raise DataError(
                    f"The cells have {block.shape[1]:,} columns and {len(known):,} flags of what was measured; the "
                    f"classifier knows {width:,} genes."
                )
            break
        weights = self._passed_on(known)
        totals, cells, moments = np.zeros(len(self.classes)), 0, []
        for block in blocks():
            for rows in range(0, block.shape[0], ROWS):
                logs = self._logs(block[rows : rows + ROWS], known)
                guess = softmax(self._level(logs, weights, self.mean, self.spread), axis=1)
                totals, cells = totals + guess.sum(axis=0), cells + len(guess)
                mean, spread, _ = _moments([logs])
                moments.append((len(guess), mean, spread))
        if not cells:
            return np.zeros((0, len(self.classes)))
        first = np.sum([size * mean for size, mean, _ in moments], axis=0) / cells
        second = np.sum([size * (spread**2 + mean**2) for size, mean, spread in moments], axis=0) / cells
        mean, spread = self._own(first, np.maximum(second - first**2, 0.0), totals / cells, cells)
        found = [
            self._level(self._logs(block[rows : rows + ROWS], known), weights, mean, spread)
            for block in blocks()
            for rows in range(0, block.shape[0], ROWS)
        ]
        return softmax(np.concatenate(found) / self.temperature, axis=1)

    def _own(self, first: Values, variance: Values, mix: Values, cells: int) -> tuple[Values, Values]:
        """Mean and spread of every gene, ``(n own + k train) / (n + k)``, at the mix of types in training.

        ``first`` and ``variance`` are those of the cells asked about, ``mix`` the ``(c,)`` shares of types in them.
        """
        expected = mix @ self.middle
        between = np.maximum(mix @ (self.within**2 + self.middle**2) - expected**2, 0.0)
        own = cells / (cells + OWN)
        found = own * variance + (1 - own) * between
        ratio = np.clip(np.sqrt((found + LEAST) / (between + LEAST)), 1 / STRETCH, STRETCH)
        shifted = first - (expected - self.mean) * ratio
        return own * shifted + (1 - own) * self.mean, self.spread * ratio

    def _passed_on(self, known: NDArray[np.bool_]) -> Values:
        """``(c, f)`` weights of the measured genes, those of the others passed on to them; zero elsewhere."""
        weights = self.weights * known
        if known.all() or not known.any():
            return weights
        inverse = _inverse(self.spread)
        factors = ((self.middle - self.mean) * inverse).T
        noise = np.maximum(((self.within * inverse) ** 2).mean(axis=0), NOISE)
        turned = factors[known].T / noise[known]
        precision = turned @ factors[known] + len(self.classes) * np.eye(len(self.classes))
        weights[:, known] += (self.weights[:, ~known] @ factors[~known]) @ np.linalg.solve(precision, turned)
        return weights

    def _level(self, logs: sp.csr_matrix, weights: Values, mean: Values, spread: Values) -> Values:
        """Logits ``(n, c)``."""
        return _scaled(logs, spread, mean) @ weights.T + (self.bias - weights @ (mean * _inverse(spread)))

    def _logs(self, counts: sp.csr_matrix, known: NDArray[np.bool_]) -> sp.csr_matrix:
        """``log1p`` of counts per 10,000, the total being that of the measured genes over their share in training."""
        logs = sp.csr_matrix(counts, dtype=np.float64, copy=True)
        total = np.asarray(logs.sum(axis=1)).ravel()
        scale = PER_CELL * max(float(self.share[known].sum()), 1e-6) / np.maximum(total, 1.0)
        logs.data = np.log1p(logs.data * np.repeat(scale, np.diff(logs.indptr)))
        return logs

    def _some(self, names: NDArray[np.str_]) -> NDArray[np.int64]:
        """At most ``MOST_CELLS`` cells, every label by its share and at least some of each."""
        if len(names) <= MOST_CELLS:
            return np.arange(len(names))
        rng, kept = np.random.default_rng(self.seed), []
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            kept.append(rng.permutation(rows)[: max(50, round(MOST_CELLS * len(rows) / len(names)))])
        return np.sort(np.concatenate(kept))

    def _folds(self, names: NDArray[np.str_], groups: NDArray[np.str_] | None) -> NDArray[np.int64]:
        rng = np.random.default_rng(self.seed)
        if groups is not None and len(set(groups)) > 1:
            kinds = rng.permutation(np.unique(groups))
            place = {name: at % FOLDS for at, name in enumerate(kinds)}
            return np.array([place[name] for name in groups])
        fold = np.empty(len(names), dtype=np.int64)
        for name in np.unique(names):
            rows = rng.permutation(np.flatnonzero(names == name))
            fold[rows] = np.arange(len(rows)) % FOLDS
        return fold

    def _calibrate(self, counts: sp.csr_matrix, names: NDArray[np.str_], fold: NDArray[np.int64]) -> None:
        """Temperature of the least log loss of folds that were left out, and the error that is left."""
        chance = np.full((len(names), len(self.classes)), np.nan)
        for part in np.unique(fold):
            inside = fold == part
            if len(set(names[~inside])) < 2:
                continue
            self._learn(counts[~inside], names[~inside])
            chance[inside] = self.predict(counts[inside])
        self.left_out = chance
        known = ~np.isnan(chance).any(axis=1)
        if not known.any():
            return
        logits = np.log(np.maximum(chance[known], 1e-300))
        truth = np.searchsorted(self.classes, names[known])
        at = np.arange(len(truth))
        losses = [-log_softmax(logits / heat, axis=1)[at, truth].mean() for heat in TEMPERATURES]
        self.temperature = float(TEMPERATURES[int(np.argmin(losses))])
        self.calibration_error = _error(softmax(logits / self.temperature, axis=1), truth)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All that was learned."""
        kept = {key: getattr(self, key) for key in KEPT}
        kept["heat"] = np.array([self.temperature, self.calibration_error])
        return {key: np.asarray(value, dtype=np.float32) for key, value in kept.items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray], classes: Sequence[str]) -> Self:
        """The classifier of such arrays."""
        missing = [key for key in (*KEPT, "heat") if key not in arrays]
        if missing:
            raise DataError(
                f"The classifier lacks {', '.join(missing)}: another version wrote it. Train the run again."
            )
        made = cls()
        for key in KEPT:
            setattr(made, key, np.asarray(arrays[key], dtype=np.float64))
        made.temperature, made.calibration_error = map(float, arrays["heat"])
        made.classes = np.asarray(classes).astype(str)
        return made


def _moments(blocks: Iterable[sp.csr_matrix]) -> tuple[Values, Values, int]:
    """Mean and spread of every column over blocks, and the number of rows."""
    first: Values = np.zeros(1)
    second, rows = first, 0
    for block in blocks:
        first = first + np.bincount(block.indices, block.data, minlength=block.shape[1])
        second = second + np.bincount(block.indices, block.data**2, minlength=block.shape[1])
        rows += block.shape[0]
    mean: Values = np.asarray(first) / max(rows, 1)
    return mean, np.sqrt(np.maximum(np.asarray(second) / max(rows, 1) - mean**2, 0.0)), rows


def _inverse(spread: Values) -> Values:
    return np.where(spread > FLOOR, 1.0 / np.maximum(spread, FLOOR), 0.0)


def _scaled(logs: sp.csr_matrix, spread: Values, mean: Values) -> sp.csr_matrix:
    """Values over their spread, none further than ``HIGHEST`` above the mean."""
    inverse = _inverse(spread)
    scaled = logs.copy()
    top = mean * inverse + HIGHEST
    scaled.data = np.minimum(scaled.data * inverse[scaled.indices], top[scaled.indices])
    return scaled


def _solve(
    scaled: sp.csr_matrix, middle: Values, codes: NDArray[np.int64], classes: int, weight: Values, strength: float
) -> tuple[Values, Values]:
    """Weights ``(c, f)`` and bias of the penalised multinomial regression on ``scaled - middle``."""
    from scipy.optimize import minimize

    cells, genes = scaled.shape
    turned, share, penalty = scaled.T.tocsr(), weight / weight.sum(), 1.0 / (strength * cells)
    truth = np.zeros((cells, classes))
    truth[np.arange(cells), codes] = 1.0

    def loss(flat: Values) -> tuple[float, Values]:
        """Penalised cross-entropy, and its slope."""
        table = flat.reshape(genes + 1, classes)
        weights = table[:genes]
        logs = log_softmax(scaled @ weights + (table[genes] - middle @ weights), axis=1)
        rest = (np.exp(logs) - truth) * share[:, None]
        total, slope = rest.sum(axis=0), np.empty_like(table)
        slope[:genes] = turned @ rest - np.outer(middle, total) + penalty * weights
        slope[genes] = total
        value = -(share * logs[np.arange(cells), codes]).sum() + 0.5 * penalty * (weights**2).sum()
        return float(value), slope.ravel()

    start = np.zeros((genes + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200, "gtol": 1e-5, "ftol": 1e-10})
    table = found.x.reshape(genes + 1, classes)
    return table[:genes].T.copy(), table[genes].copy()


def _error(chance: Values, truth: NDArray[np.int64]) -> float:
    """Expected calibration error of the likeliest label (Guo et al. 2017)."""
    sure, right = chance.max(axis=1), chance.argmax(axis=1) == truth
    part = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    size = np.bincount(part, minlength=BINS)
    gap = np.bincount(part, sure, BINS) - np.bincount(part, right.astype(float), BINS)
    return float(np.abs(gap).sum() / max(int(size.sum()), 1))
