"""A kernel machine on words with gaps, in closed form: the start of the sequence encoder, and a baseline by itself.

Two words of ``k`` bases are alike by the number of ways to choose ``informative`` places in which they agree (the
gapped k-mers of Ghandi et al., PLoS Comput Biol 2014); a sequence is the sum of its words on both strands. That kernel
is diagonal by order in the basis of products of contrasts of single places, so it costs one small transform. Its
leading axes (found on landmark sequences) become a table with one row a word; the target is a Gaussian kernel ridge
regression on the axes with the landmarks as centres (Nystroem). Nothing is learned by gradients.
Leaves out: where in the sequence a word stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import Self

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.sequence import Task, as_table
from syncyte.errors import ConfigError, DataError
from syncyte.genome.kmers import kmer_counts
from syncyte.genome.words import canonical_words, reverse_words

CONTRASTS = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=np.float32) / 2
BLOCK = 512  # sequences, or columns, at a time
RIDGES = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Spectrum:
    """Axes of sequences by their words.

    Attributes
    ----------
    k
        Bases of a word.
    table
        ``(words, axes)`` what one word adds, by canonical word.
    middle
        ``(axes,)`` the mean of the landmarks, taken off.
    """

    k: int
    table: NDArray[np.float32]
    middle: NDArray[np.float32]

    def transform(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Axes of length one ``(n, axes)``; zeros where a sequence has no word."""
        counts = kmer_counts(codes, self.k)
        total = np.asarray(counts.sum(axis=1)).ravel()
        axes = np.asarray(counts @ self.table) / np.maximum(total, 1.0)[:, None] - self.middle
        axes[total == 0] = 0.0
        return (axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def padded(self, axes: int) -> Self:
        """Copy with empty axes up to ``axes``; nothing it says changes."""
        more = max(0, axes - self.table.shape[1])
        return replace(self, table=np.pad(self.table, ((0, 0), (0, more))), middle=np.pad(self.middle, (0, more)))


def kernel_weights(k: int, informative: int) -> NDArray[np.float64]:
    """Weight of each order 0 to ``k`` of contrasts: the kernel of gapped words, in the basis where it is diagonal.

    ``sum_h K_h(j) * C(k - h, informative)`` with Krawtchouk polynomials ``K_h`` of four letters.
    """
    alike = [comb(k - h, informative) for h in range(k + 1)]
    return np.array(
        [
            sum(
                alike[h] * sum((-1) ** i * 3 ** (h - i) * comb(j, i) * comb(k - j, h - i) for i in range(h + 1))
                for h in range(k + 1)
            )
            for j in range(k + 1)
        ],
        dtype=np.float64,
    )


def contrast_transform(table: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Rows ``(n, 4 ** k)`` in the basis of products of contrasts; its own inverse but for the order within."""
    out = np.ascontiguousarray(table, dtype=np.float32)
    for place in range(k):
        out = np.matmul(CONTRASTS, out.reshape(-1, 4, 4 ** (k - place - 1))).reshape(len(table), -1)
    return out


def orders(k: int) -> NDArray[np.int64]:
    """How many places each product of contrasts looks at: ``(4 ** k,)``."""
    found = np.zeros(1, dtype=np.int64)
    for _ in range(k):
        found = np.add.outer(found, np.array([0, 1, 1, 1])).ravel()
    return found


def fit_spectrum(
    codes: NDArray[np.uint8], *, k: int = 7, informative: int = 5, axes: int = 256, landmarks: int = 2000, seed: int = 0
) -> tuple[Spectrum, NDArray[np.int64]]:
    """Leading axes of the words of some sequences, and which rows were their landmarks.

    Parameters
    ----------
    codes
        ``(n, L)`` bases.
    k
        Bases of a word, up to 8: memory is ``landmarks * 4 ** k`` numbers.
    informative
        Places of a word that must agree.
    axes
        Most axes to keep.
    landmarks
        Most sequences the axes are found on, drawn at random.
    seed
        Of the draw.

    Raises
    ------
    ConfigError
        If ``k`` or ``informative`` do not fit.
    DataError
        If fewer than two sequences have words.
    """
    if not (1 <= informative <= k <= 8):
        raise ConfigError(f"informative={informative} and k={k} do not fit. Choose 1 <= informative <= k <= 8.")
    usable = np.flatnonzero(np.asarray(kmer_counts(codes, k).sum(axis=1)).ravel() > 0)
    if len(usable) < 2:
        raise DataError(f"{len(usable)} sequences hold a word of {k} known bases; at least 2 are needed.")
    rows = np.sort(np.random.default_rng(seed).permutation(usable)[:landmarks])
    root = np.sqrt(np.maximum(kernel_weights(k, informative), 0.0))[orders(k)].astype(np.float32)
    features = _features(codes[rows], k) * root
    middle = features.mean(axis=0)
    features -= middle
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    wanted = min(axes, len(rows) - 1)
    gram = features @ features.T
    value, vector = scipy.linalg.eigh(gram, subset_by_index=(len(rows) - wanted, len(rows) - 1))
    value, vector = value[::-1], vector[:, ::-1]
    kept = value > 1e-6 * value[0]
    basis = features.T @ (vector[:, kept] / np.sqrt(value[kept])).astype(np.float32)  # (4 ** k, axes), orthonormal
    adds = contrast_transform(np.ascontiguousarray((basis * root[:, None]).T), k).T
    words = canonical_words(k)
    table = (adds[words] + adds[reverse_words(words, k)]) / 2
    return Spectrum(k, np.ascontiguousarray(table, dtype=np.float32), (middle @ basis).astype(np.float32)), rows


def _features(codes: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
    """Shares of words on both strands, in the basis of contrasts: ``(n, 4 ** k)``."""
    words = canonical_words(k)
    turned = reverse_words(words, k)
    out = np.empty((len(codes), 4**k), dtype=np.float32)
    for first in range(0, len(codes), BLOCK):
        counts = kmer_counts(codes[first : first + BLOCK], k).toarray()
        counts /= np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        full = np.zeros((len(counts), 4**k), dtype=np.float32)
        full[:, words] += counts / 2
        full[:, turned] += counts / 2
        out[first : first + BLOCK] = contrast_transform(full, k)
    return out


@dataclass(frozen=True)
class SpectrumMachine:
    """Gaussian kernel ridge regression on the axes of a spectrum.

    Attributes
    ----------
    spectrum
        The axes.
    centres
        ``(m, axes)`` axes of the landmarks.
    weights
        ``(m, T)`` of each centre.
    bias
        ``(T,)``.
    gamma
        Sharpness: a centre counts ``exp(gamma * (cosine - 1))``.
    task
        ``binary``: the answer is a logit; ``count``: a logarithm of one more than the count.
    """

    spectrum: Spectrum
    centres: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    gamma: float
    task: Task

    name = "gapped words, closed form"

    def predict(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits or values ``(n, T)``."""
        return self.from_axes(self.spectrum.transform(codes))

    def from_axes(self, axes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits or values of axes ``(n, axes)``."""
        return kernel(axes, self.centres, self.gamma) @ self.weights + self.bias

    def padded(self, centres: int) -> Self:
        """Copy with centres of no weight up to ``centres``; nothing it says changes."""
        more = ((0, max(0, centres - len(self.centres))), (0, 0))
        return replace(self, centres=np.pad(self.centres, more), weights=np.pad(self.weights, more))


def kernel(left: NDArray[np.float32], right: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """Gaussian kernel of axes of length one."""
    return np.exp(gamma * (left @ right.T - 1.0))


def fit_machine(
    axes: NDArray[np.float32],
    targets: ArrayLike,
    groups: ArrayLike,
    spectrum: Spectrum,
    landmarks: NDArray[np.int64],
    *,
    task: Task = "binary",
    gamma: float = 2.0,
    ridges: tuple[float, ...] = RIDGES,
    folds: int = 4,
) -> tuple[SpectrumMachine, NDArray[np.float32]]:
    """The machine of all rows, and what each row is told by a machine that never saw its chromosome.

    Parameters
    ----------
    axes
        ``(n, axes)`` of the training rows.
    targets
        ``(n, T)``.
    groups
        Chromosome of each row; folds are made of whole ones.
    landmarks
        Rows that serve as centres.
    ridges
        Penalties to choose from, by the squared error of the unseen folds.

    Returns
    -------
    tuple
        The machine, and ``(n, T)`` answers for unseen rows on its scale.
    """
    table = as_table(targets)
    values = np.log1p(table) if task == "count" else table
    fold = group_folds(groups, folds)
    features, own = kernel(axes, axes[landmarks], gamma), kernel(axes[landmarks], axes[landmarks], gamma)
    parts = [_moments(features[fold == number], values[fold == number]) for number in range(fold.max() + 1)]
    total = _sum(parts)
    trials = []
    for ridge in ridges:
        unseen = np.empty(values.shape)
        for number in range(len(parts)):
            rest = _sum(parts[:number] + parts[number + 1 :]) if len(parts) > 1 else total
            weights, bias = _solve(rest, own, ridge)
            unseen[fold == number] = features[fold == number] @ weights + bias
        trials.append((float(((unseen - values) ** 2).mean()), ridge, unseen))
    _, ridge, unseen = min(trials, key=lambda trial: trial[0])
    weights, bias = _solve(total, own, ridge)
    if task == "binary":
        slope, shift = _calibrated(unseen, table)
        weights, bias, unseen = weights * slope, bias * slope + shift, unseen * slope + shift
    centres = axes[landmarks]
    machine = SpectrumMachine(spectrum, centres, weights.astype(np.float32), bias.astype(np.float32), gamma, task)
    return machine, unseen.astype(np.float32)


def group_folds(groups: ArrayLike, folds: int) -> NDArray[np.int64]:
    """Fold of each row, whole groups kept together and folds of about one size."""
    names, codes, counts = np.unique(np.asarray(groups).astype(str), return_inverse=True, return_counts=True)
    load = np.zeros(max(1, min(folds, len(names))), dtype=np.int64)
    place = np.zeros(len(names), dtype=np.int64)
    for name in np.argsort(-counts, kind="stable"):
        place[name] = load.argmin()
        load[place[name]] += counts[name]
    return place[codes]


Moments = tuple[int, NDArray, NDArray, NDArray, NDArray]


def _moments(x: NDArray[np.float32], y: NDArray[np.float64]) -> Moments:
    x64 = x.astype(np.float64)
    return len(x), x64.sum(axis=0), y.sum(axis=0), (x.T @ x).astype(np.float64), x64.T @ y


def _sum(parts: list[Moments]) -> Moments:
    n, x, y, gram, cross = zip(*parts)
    return sum(n), np.sum(x, axis=0), np.sum(y, axis=0), np.sum(gram, axis=0), np.sum(cross, axis=0)


def _solve(moments: Moments, own: NDArray[np.float32], ridge: float) -> tuple[NDArray, NDArray]:
    """Weights and bias of the ridge regression in the space of the kernel."""
    n, x, y, gram, cross = moments
    normal = gram - np.outer(x, x) / n + ridge * own
    normal[np.diag_indices_from(normal)] += 1e-6 * np.trace(normal) / len(normal)
    weights = scipy.linalg.solve(normal, cross - np.outer(x, y) / n, assume_a="pos")
    return weights, (y - x @ weights) / n


def _calibrated(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Slope and shift of the logit of each target on its score; no slope where a target has one class."""
    from sklearn.linear_model import LogisticRegression

    slope, shift = np.zeros(targets.shape[1]), np.zeros(targets.shape[1])
    for column in range(targets.shape[1]):
        y = targets[:, column].astype(np.int64)
        if len(np.unique(y)) == 2:
            model = LogisticRegression(C=100.0).fit(scores[:, [column]], y)
            slope[column], shift[column] = model.coef_[0, 0], model.intercept_[0]
        else:
            shift[column] = 4.0 if y.all() else -4.0
    return slope, shift
