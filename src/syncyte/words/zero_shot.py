"""Cell types without a training label: related types, markers, and being unlike all that was seen.

Three scores speak for an unseen type. ESZSL, a closed-form bilinear map from cells to vectors of terms
(Romera-Paredes and Torr, ICML 2015), standardised over the cells of a data set; markers, standardised likewise; and how
far a cell lies from the types of training, by a shared-covariance Gaussian for each (LDA), which also tells
these types apart. What each score is worth is learned by leaving every training type out in turn (nested calibration):
one logistic regression of "belongs to the type left out" serves all unseen types. Without such calibration an unseen
type is next to never chosen. Several unseen types are told from each other by texts and markers alone, weighed by
leaving out pairs.

Traps. A text carries little: print the same with ``term_vectors(kind="random")`` beside it. Standardising supposes that
a data set holds several types; a handful of cells is standardised as the training cells were.
Leaves out: how cells become vectors, and term vectors (``terms``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax

from syncyte.errors import ConfigError, DataError

CELL_PENALTY, TERM_PENALTY = 1.0, 0.1  # of ESZSL: on standardised axes of cells, on unit term vectors
APART_PENALTY = 0.01  # the first of these, where unseen types are told from each other
SHRINK = 0.05  # of the covariance towards a multiple of the identity
STRENGTH = 30.0  # inverse penalty of the calibration; the weights of all its cells sum to one
TEMPERATURES = np.geomspace(0.05, 4.0, 24)
FOLDS = 2
FEW = 50  # cells below which the training cells' statistics standardise
LEAST = 4  # cells of a type, for it to be a class of training
Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Fit:
    """Everything learned from cells of some types; ``seen`` are places in the classes."""

    seen: NDArray[np.int64]
    project: Values  # (d, k), cells to term space
    means: Values
    precision: Values


class ZeroShot:
    """Probabilities of seen and unseen types.

    Parameters
    ----------
    classes
        Terms (or names) of every candidate: types of training and others.
    vectors
        ``(t, k)`` vector of each class, see ``terms.term_vectors``.
    unseen_share
        Share of cells that is taken to be of unseen types, all together. One half weighs what is seen and what is not
        alike; lower it where nearly all cells should be of known types.
    seed
        Of the folds.
    """

    def __init__(self, classes: Sequence[str], vectors: ArrayLike, *, unseen_share: float = 0.5, seed: int = 0) -> None:
        self.classes, self.vectors = tuple(map(str, classes)), np.asarray(vectors, dtype=np.float64)
        if len(set(self.classes)) != len(self.classes) or self.vectors.shape[:1] != (len(self.classes),):
            raise ConfigError(
                f"Found {len(self.classes)} classes ({len(set(self.classes))} different) and vectors of the shape "
                f"{self.vectors.shape}; every class is named once and has one vector."
            )
        if not 0 < unseen_share < 1:
            raise ConfigError(f"unseen_share is {unseen_share}; it must lie between 0 and 1, for instance 0.5.")
        self.unseen_share, self.seed = unseen_share, seed

    def fit(self, x: ArrayLike, labels: ArrayLike, markers: ArrayLike | None = None) -> Self:
        """Learn from training cells.

        Parameters
        ----------
        x
            ``(n, d)`` vectors of cells.
        labels
            ``(n,)`` classes.
        markers
            ``(n, t)`` marker scores of every class (``markers.score_markers``), a column of zeros where a class has
            none; None for texts alone.

        Raises
        ------
        DataError
            If fewer than three types have four cells: with fewer, nothing can be left out to calibrate on.
        """
        names = np.asarray(labels).astype(str)
        cells, scores = self._checked(x, markers)
        if len(names) != len(cells):
            raise DataError(f"Found {len(cells):,} cells and {len(names):,} labels; each cell needs one.")
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise DataError(
                f"Labels that are no class: {', '.join(unknown[:5])}. Give a vector to every training type."
            )
        codes = np.array([self.classes.index(name) for name in names], dtype=np.int64)
        count = np.bincount(codes, minlength=len(self.classes))
        self.seen = np.flatnonzero(count >= LEAST)
        if len(self.seen) < 3:
            raise DataError(
                f"{len(self.seen)} types have at least {LEAST} training cells; three are needed, for each is left out "
                "in turn to learn what a score is worth. Add labelled cells of further types."
            )
        keep = np.isin(codes, self.seen)
        cells, codes = cells[keep], codes[keep]
        self.middle, self.width = cells.mean(axis=0), np.maximum(cells.std(axis=0), 1e-9)
        cells = (cells - self.middle) / self.width
        self.marked, self.with_markers = np.zeros(len(self.classes), dtype=bool), scores is not None
        if scores is not None:
            scores = scores[keep]
            self.marked = (scores != 0).any(axis=0)
            self.marker_middle, self.marker_width = scores.mean(axis=0), _width(scores)
            scores = (scores - self.marker_middle) / self.marker_width
        self.whole = _learn(cells, codes, self.seen, self.vectors)
        text = cells @ self.whole.project @ self.vectors.T
        self.text_middle, self.text_width = text.mean(axis=0), _width(text)
        self._calibrate(cells, codes, scores)
        if len(self.classes) > len(self.seen) + 1:
            self._tell_apart(cells, codes, scores)
        return self

    def predict(self, x: ArrayLike, markers: ArrayLike | None = None) -> Values:
        """Probabilities ``(n, t)`` of the classes; markers as in ``fit``, in the data set's own statistics."""
        cells, scores = self._checked(x, markers)
        if (scores is not None) != self.with_markers:
            raise DataError("Marker scores must be given to both fit and predict, or to neither.")
        cells, few = (cells - self.middle) / self.width, len(cells) < FEW
        if scores is not None:
            own = (self.marker_middle, self.marker_width) if few else (scores.mean(axis=0), _width(scores))
            scores = (scores - own[0]) / own[1]
            live = (scores != 0).any(axis=0) & self.marked
        else:
            live = self.marked
        text = cells @ self.whole.project @ self.vectors.T
        own = (self.text_middle, self.text_width) if few else (text.mean(axis=0), _width(text))
        text = (text - own[0]) / own[1]
        squares = _squares(self.whole, cells)
        known = log_softmax(-0.5 * self.temperature * squares, axis=1)
        unseen = np.setdiff1d(np.arange(len(self.classes)), self.seen)
        odds = np.full((len(cells), len(self.classes)), -np.inf)
        odds[:, self.seen] = known
        gates = np.empty((len(cells), len(unseen)))
        for column, place in enumerate(unseen):
            evidence = _evidence(text, squares, known, scores, self.seen, int(place), bool(live[place]))
            gates[:, column] = self.gates[bool(live[place])](evidence)
        if len(unseen):
            share = self._shares(cells, scores, unseen, few)  # of each among the unseen ones
            total = (gates * np.exp(share)).sum(axis=1) + np.log(self.unseen_share / (1 - self.unseen_share))
            odds[:, unseen] = total[:, None] + share
        return softmax(odds / self.softness, axis=1)

    def _shares(self, cells: Values, markers: Values | None, unseen: NDArray[np.int64], few: bool) -> Values:
        """Log probabilities of the unseen types among themselves."""
        if len(unseen) == 1:
            return np.zeros((len(cells), 1))
        text = cells @ self.apart.project @ self.vectors.T
        text = (text - self.apart_middle) / self.apart_width if few else _standard(text)
        scores = self.apart_weights[0] * text[:, unseen]
        if markers is not None:
            scores = scores + self.apart_weights[1] * (markers * self.marked)[:, unseen]
        return log_softmax(scores, axis=1)

    def _tell_apart(self, cells: Values, codes: NDArray[np.int64], markers: Values | None) -> None:
        """Learn what texts and markers say about which of two it is, from pairs of types left out together."""
        from sklearn.linear_model import LogisticRegression

        self.apart = _learn(cells, codes, self.seen, self.vectors, APART_PENALTY)
        text = cells @ self.apart.project @ self.vectors.T
        self.apart_middle, self.apart_width = text.mean(axis=0), _width(text)
        evidence, truth, weight = [], [], []
        for one, other in combinations(map(int, self.seen), 2):
            rest = np.setdiff1d(self.seen, [one, other])
            keep, ask = np.isin(codes, rest), np.isin(codes, [one, other])
            text = _standard(
                cells @ _learn(cells[keep], codes[keep], rest, self.vectors, APART_PENALTY).project @ self.vectors.T
            )
            hints = np.zeros_like(text) if markers is None else markers * self.marked
            evidence.append(np.column_stack([text[ask, one] - text[ask, other], hints[ask, one] - hints[ask, other]]))
            truth.append(codes[ask] == one)
            weight.append(_weights((~truth[-1]).astype(np.int64), 0))
        every = np.concatenate(weight)
        model = LogisticRegression(C=STRENGTH, fit_intercept=False, max_iter=1000)
        model.fit(np.concatenate(evidence), np.concatenate(truth), sample_weight=every / every.sum())
        self.apart_weights = np.maximum(model.coef_[0], 0.0)

    def _calibrate(self, cells: Values, codes: NDArray[np.int64], markers: Values | None) -> None:
        """Learn temperature and gates from types that are left out one by one, on cells outside the fit."""
        fold = _folds(codes, self.seed)
        self.temperature = self._tempered(cells, codes, fold)
        tasks: dict[bool, list[tuple[Values, NDArray[np.bool_], Values]]] = {True: [], False: []}
        held: list[tuple[bool, Values, Values, NDArray[np.int64], Values]] = []
        for left in self.seen:
            for part in range(FOLDS):
                learn, ask = (fold != part) & (codes != left), fold == part
                fit = _learn(cells[learn], codes[learn], np.setdiff1d(self.seen, left), self.vectors)
                text = _standard(cells[ask] @ fit.project @ self.vectors.T)
                squares = _squares(fit, cells[ask])
                known = log_softmax(-0.5 * self.temperature * squares, axis=1)
                own, truth = None if markers is None else _standard(markers[ask]), codes[ask]
                weight = _weights(truth, int(left))
                for marked in {False, bool(self.marked[left])}:
                    evidence = _evidence(text, squares, known, own, fit.seen, int(left), marked)
                    tasks[marked].append((evidence, truth == left, weight))
                    place = np.searchsorted(fit.seen, np.minimum(truth, fit.seen[-1]))
                    held.append((marked, evidence, known, np.where(truth == left, len(fit.seen), place), weight))
        self.gates = {marked: _Gate(parts) for marked, parts in tasks.items() if parts}
        losses = [sum(self._loss(item, softness) for item in held) for softness in TEMPERATURES]
        self.softness = float(TEMPERATURES[int(np.argmin(losses))])

    def _loss(self, item: tuple[bool, Values, Values, NDArray[np.int64], Values], softness: float) -> float:
        marked, evidence, known, truth, weight = item
        odds = np.column_stack([known, self.gates[marked](evidence)])
        return float(-(weight * log_softmax(odds / softness, axis=1)[np.arange(len(truth)), truth]).sum())

    def _tempered(self, cells: Values, codes: NDArray[np.int64], fold: NDArray[np.int64]) -> float:
        """Temperature of the Gaussian posteriors that gives cells outside the fit the least log loss."""
        losses = np.zeros(len(TEMPERATURES))
        for part in range(FOLDS):
            fit = _learn(cells[fold != part], codes[fold != part], self.seen, self.vectors)
            ask = fold == part
            squares, place = _squares(fit, cells[ask]), np.searchsorted(fit.seen, codes[ask])
            for at, temperature in enumerate(TEMPERATURES):
                chance = log_softmax(-0.5 * temperature * squares, axis=1)
                losses[at] -= chance[np.arange(len(place)), place].sum()
        return float(TEMPERATURES[int(losses.argmin())])

    def _checked(self, x: ArrayLike, markers: ArrayLike | None) -> tuple[Values, Values | None]:
        cells = np.asarray(x, dtype=np.float64)
        scores = None if markers is None else np.asarray(markers, dtype=np.float64)
        if cells.ndim != 2 or not len(cells) or not np.isfinite(cells).all():
            raise DataError(f"Cells must be a table of finite numbers, one row each; found the shape {cells.shape}.")
        if scores is not None and (scores.shape != (len(cells), len(self.classes)) or not np.isfinite(scores).all()):
            raise DataError(
                f"Marker scores have the shape {scores.shape}; finite numbers of the shape "
                f"({len(cells)}, {len(self.classes)}) are needed: a column a class, zeros where it has no marker."
            )
        return cells, scores


class _Gate:
    """Log odds that a cell is of the type in question, from standardised evidence."""

    def __init__(self, parts: Sequence[tuple[Values, NDArray[np.bool_], Values]]) -> None:
        from sklearn.linear_model import LogisticRegression

        evidence, truth, weight = (np.concatenate([part[place] for part in parts]) for place in range(3))
        self.middle, self.width = evidence.mean(axis=0), _width(evidence)
        model = LogisticRegression(C=STRENGTH, max_iter=1000)
        model.fit((evidence - self.middle) / self.width, truth, sample_weight=weight / weight.sum())
        self.weights, self.bias = model.coef_[0], float(model.intercept_[0])

    def __call__(self, evidence: Values) -> Values:
        """``(n,)`` log odds."""
        return (evidence - self.middle) / self.width @ self.weights + self.bias


def _learn(
    cells: Values,
    codes: NDArray[np.int64],
    seen: NDArray[np.int64],
    vectors: Values,
    penalty: float = CELL_PENALTY,
) -> _Fit:
    """ESZSL and Gaussians; every type weighs alike in both."""
    weight = np.array([len(cells) / (len(seen) * max(int((codes == place).sum()), 1)) for place in seen])
    weight = weight[np.searchsorted(seen, codes)]
    means = np.stack([cells[codes == place].mean(axis=0) for place in seen])
    centred = cells - means.mean(axis=0)  # every type counts alike, so the common part of the signs drops out
    weighted, signs = centred * weight[:, None], np.where(codes[:, None] == seen, 1.0, -1.0)
    gram = weighted.T @ centred + penalty * len(cells) * np.eye(cells.shape[1])
    own = vectors[seen]
    middle = np.linalg.solve(gram, weighted.T @ signs @ own)
    project = np.linalg.solve(own.T @ own + TERM_PENALTY * np.eye(own.shape[1]), middle.T).T
    rest = cells - means[np.searchsorted(seen, codes)]
    spread = rest.T @ rest / len(rest)
    spread = (1 - SHRINK) * spread + SHRINK * np.trace(spread) / len(spread) * np.eye(len(spread))
    precision: Values = np.linalg.inv(spread + 1e-9 * np.eye(len(spread)))
    return _Fit(seen, np.asarray(project, dtype=np.float64), means, precision)


def _squares(fit: _Fit, cells: Values) -> Values:
    """Squared Mahalanobis distances ``(n, s)`` to the means."""
    return np.stack([(((cells - mean) @ fit.precision) * (cells - mean)).sum(axis=1) for mean in fit.means], axis=1)


def _evidence(
    text: Values,
    squares: Values,
    known: Values,
    markers: Values | None,
    seen: NDArray[np.int64],
    place: int,
    marked: bool,
) -> Values:
    """What speaks for a type that no cell of training has, a row a cell."""
    best = known.argmax(axis=1)
    parts = [text[:, place], text[:, place] - text[:, seen].max(axis=1)]
    parts += [np.log(squares.min(axis=1) + 1e-9), known.max(axis=1)]
    if markers is not None:
        parts.append(markers[np.arange(len(markers)), seen[best]])
        if marked:
            parts += [markers[:, place], markers[:, place] - markers[:, seen].max(axis=1)]
    return np.column_stack(parts)


def _folds(codes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Folds with every type in each."""
    fold, rng = np.empty(len(codes), dtype=np.int64), np.random.default_rng(seed)
    for code in np.unique(codes):
        member = rng.permutation(np.flatnonzero(codes == code))
        fold[member] = np.arange(len(member)) % FOLDS
    return fold


def _weights(truth: NDArray[np.int64], left: int) -> Values:
    """Half of the weight on the type left out, the other half on the rest, type by type."""
    count = np.bincount(truth)
    others = (count > 0).sum() - (count[left] > 0 if left < len(count) else 0)
    share = np.where(np.arange(len(count)) == left, 0.5, 0.5 / max(int(others), 1))
    return share[truth] / count[truth]


def _width(values: Values) -> Values:
    spread = values.std(axis=0)
    return np.where(spread > 1e-9, spread, 1.0)


def _standard(values: Values) -> Values:
    return (values - values.mean(axis=0)) / _width(values)
