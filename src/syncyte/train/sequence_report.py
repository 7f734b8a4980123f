"""What a sequence encoder is worth: beside GC content, short words and its own start, on chromosomes it never saw.

Intervals resample whole chromosomes where there are at least six, else sequences, and the verdict needs the interval of
the difference to lie above zero, for words of six and of two bases: pairs of neighbours are what composition alone can
say, and an encoder of shuffled sequences, which hold nothing else, gets no further. Few held-out windows, or windows of
nearly one class, get no verdict. Leaves out: training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.sequence import GcContent, KmerRegression, Task, as_table
from syncyte.genome.sequence import one_hot
from syncyte.models.dna_encoder import TrainedEncoder

DRAWS, LEVEL, GROUPS = 300, 0.95, 6
WORDS = (6, 2)  # bases of the words of the yardsticks
ENCODER, START = "encoder", "its closed form alone"
CLASS, ROWS = 20, 40  # fewest windows of either class, and of measured numbers, that a verdict is given on
BEATS, BEATS_GC, LOSES, UNTESTED, TOO_FEW = (
    "beats GC and k-mers",
    "beats GC content, not k-mers",
    "does not beat GC content",
    "never tested on held-out chromosomes",
    "too few held-out windows to tell",
)


def make_report(
    encoder: TrainedEncoder,
    codes: NDArray[np.uint8],
    targets: NDArray[np.float64],
    groups: NDArray[np.str_],
    parts: Mapping[str, NDArray[np.int64]],
    task: Task,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of the encoder and its yardsticks on the valid and test rows, and the verdict.

    Parameters
    ----------
    encoder
        Trained.
    codes
        ``(n, length)`` of all rows.
    targets, groups
        ``(n, T)`` and the chromosome of each row.
    parts
        Rows of ``train``, ``valid`` and ``test``.
    task
        Kind of targets.
    seed
        Of the resampling.

    Returns
    -------
    dict
        ``rows``, ``scores`` (part, method, measure to value, low, high), ``ahead`` (differences of the encoder),
        ``resampled`` and ``verdict``.
    """
    train, valid, test = parts["train"], parts["valid"], parts["test"]
    gc = GcContent(task).fit(codes[train], targets[train])
    seen = codes[train], targets[train], codes[valid], targets[valid]
    words = [KmerRegression(k, task).tuned(*seen) for k in WORDS]
    report: dict[str, Any] = {
        "rows": {name: len(rows) for name, rows in parts.items()},
        "mean_target": {name: float(targets[rows].mean()) for name, rows in parts.items() if len(rows)},
        "scores": {},
        "ahead": {},
        "resampled": "chromosomes" if len(set(groups[test].tolist())) >= GROUPS else "sequences",
    }
    for name, rows in (("valid", valid), ("test", test)):
        if not len(rows):
            continue
        answers, start = predictions(encoder, codes[rows])
        methods = {ENCODER: answers, START: start}
        methods |= {model.name: model.predict(codes[rows]) for model in words}
        methods[gc.name] = gc.predict(codes[rows])
        scores, ahead = compare(targets[rows], methods, groups[rows], task, seed)
        report["scores"][name], report["ahead"][name] = scores, ahead
    said = verdict(report["ahead"].get("test", {}), [model.name for model in words], gc.name)
    report["verdict"] = TOO_FEW if len(test) and too_few(targets[test], task) else said
    return report


@torch.no_grad()
def predictions(encoder: TrainedEncoder, codes: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
    """Answers of the encoder and of its start ``(n, T)``."""
    start, ours, theirs = encoder.network.start, [], []
    for first in range(0, len(codes), 256):
        x = torch.from_numpy(one_hot(codes[first : first + 256]))
        ours.append(encoder.logits(x).numpy())
        theirs.append(start.answers(start.axes(x)).numpy())
    return np.concatenate(ours), np.concatenate(theirs)


def compare(
    targets: ArrayLike, methods: Mapping[str, NDArray], groups: ArrayLike, task: Task, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of methods with intervals, and how far the first is ahead of each other one.

    Returns
    -------
    tuple
        ``{method: {measure: (value, low, high)}}`` and ``{other: (difference, low, high)}`` of the first measure.
    """
    truth, names = as_table(targets), list(methods)
    weights = _draws(np.asarray(groups).astype(str), seed)
    drawn = {name: _measures(truth, as_table(guess), weights, task) for name, guess in methods.items()}
    scores = {name: {key: _interval(values) for key, values in drawn[name].items()} for name in names}
    key = next(iter(scores[names[0]]))
    ahead = {name: _interval(drawn[names[0]][key] - drawn[name][key]) for name in names[1:]}
    return scores, ahead


def verdict(ahead: Mapping[str, tuple[float, float, float]], words: Sequence[str], gc: str) -> str:
    """What may be said, from the differences on the test chromosomes."""
    if gc not in ahead or not all(np.isfinite(ahead[name]).all() for name in (gc, *words)):
        return UNTESTED
    if ahead[gc][1] <= 0:
        return LOSES
    return BEATS if min(ahead[name][1] for name in words) > 0 else BEATS_GC


def too_few(targets: ArrayLike, task: Task) -> bool:
    """Whether targets ``(n, T)`` of the test rows say next to nothing: no column has enough rows of either class."""
    truth = as_table(targets)
    if task == "count":
        return len(truth) < ROWS
    hits = (truth > 0).sum(axis=0)
    return int(np.minimum(hits, len(truth) - hits).max(initial=0)) < CLASS


def _draws(groups: NDArray[np.str_], seed: int) -> NDArray[np.float64]:
    """How often each row is drawn: ``(1 + draws, n)``, the first as it is."""
    rng, (names, codes) = np.random.default_rng(seed), np.unique(groups, return_inverse=True)
    units = codes if len(names) >= GROUPS else np.arange(len(groups))
    count = int(units.max(initial=-1)) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / max(count, 1)), DRAWS)
    return np.concatenate([np.ones((1, len(groups))), drawn[:, units]])


def _measures(truth: NDArray, guess: NDArray, weights: NDArray[np.float64], task: Task) -> dict[str, NDArray]:
    """AUROC and AUPRC, or Pearson's r of logarithms, by draw: means over the targets that have them."""
    columns = range(truth.shape[1])
    if task == "count":
        return {"r": _means([weighted_r(np.log1p(truth[:, one]), guess[:, one], weights) for one in columns])}
    both = [weighted_ranking(truth[:, one], guess[:, one], weights) for one in columns]
    return {"auroc": _means([one[0] for one in both]), "auprc": _means([one[1] for one in both])}


def weighted_ranking(
    truth: NDArray[np.float64], guess: NDArray[np.floating], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC and average precision of one prediction ``(n,)`` under several weightings ``(w, n)`` of the rows.

    Ties count half in the first and are taken together in the second; NaN where a class has no weight.
    """
    order = np.argsort(-guess, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(guess[order]) != 0]))
    hits = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    misses = np.add.reduceat(weights[:, order] * (1 - truth[order]), starts, axis=1)
    found, wrong = hits.cumsum(axis=1), misses.cumsum(axis=1)
    positive, negative = found[:, -1], wrong[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        area = (misses * (found - hits / 2)).sum(axis=1) / (positive * negative)
        precision = np.where(found + wrong > 0, found / (found + wrong), 0.0)
        average = (hits * precision).sum(axis=1) / positive
    average[negative == 0] = np.nan
    return area, average


def weighted_r(
    truth: NDArray[np.float64], guess: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pearson's r of one prediction ``(n,)`` under several weightings ``(w, n)``; NaN where either is constant."""
    share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    left, right = truth - truth.mean(), guess - guess.mean()
    means = share @ left, share @ right
    cross = share @ (left * right) - means[0] * means[1]
    spread = (share @ left**2 - means[0] ** 2) * (share @ right**2 - means[1] ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-18, cross / np.sqrt(spread), np.nan)


def _means(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    table = np.stack(values)
    known = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return np.where(known, table, 0.0).sum(axis=0) / known.sum(axis=0)


def _interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """The first value, and percentiles of the others."""
    known = values[1:][np.isfinite(values[1:])]
    if not len(known):
        return float(values[0]), float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values[0]), float(low), float(high)
