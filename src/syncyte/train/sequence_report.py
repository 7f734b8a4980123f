"""What a sequence encoder is worth: beside GC content, short words and its own start, on chromosomes it never saw.

Intervals resample whole chromosomes where there are at least six, else sequences, and the verdict needs the interval of
the difference to lie above zero. Leaves out: training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.sequence import GcContent, KmerRegression, Task, as_table, column_scores
from syncyte.genome.sequence import one_hot
from syncyte.models.dna_encoder import TrainedEncoder

DRAWS, LEVEL, GROUPS = 300, 0.95, 6
ENCODER, START = "encoder", "its closed form alone"
BEATS, BEATS_GC, LOSES, UNTESTED = (
    "beats GC and k-mers",
    "beats GC content, not k-mers",
    "does not beat GC content",
    "never tested on held-out chromosomes",
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
    words = KmerRegression(6, task).tuned(codes[train], targets[train], codes[valid], targets[valid])
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
        methods = {ENCODER: answers, START: start, words.name: words.predict(codes[rows])}
        methods[gc.name] = gc.predict(codes[rows])
        scores, ahead = compare(targets[rows], methods, groups[rows], task, seed)
        report["scores"][name], report["ahead"][name] = scores, ahead
    report["verdict"] = verdict(report["ahead"].get("test", {}), words.name, gc.name)
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
    guesses = {name: as_table(guess) for name, guess in methods.items()}
    picks = _draws(np.asarray(groups).astype(str), seed)
    whole = {name: _measures(truth, guess, task) for name, guess in guesses.items()}
    drawn = {name: [_measures(truth[pick], guess[pick], task) for pick in picks] for name, guess in guesses.items()}
    scores = {
        name: {key: _interval(whole[name][key], [draw[key] for draw in drawn[name]]) for key in whole[name]}
        for name in names
    }
    key, first = next(iter(whole[names[0]])), names[0]
    ahead = {
        name: _interval(
            whole[first][key] - whole[name][key], [a[key] - b[key] for a, b in zip(drawn[first], drawn[name])]
        )
        for name in names[1:]
    }
    return scores, ahead


def verdict(ahead: Mapping[str, tuple[float, float, float]], words: str, gc: str) -> str:
    """What may be said, from the differences on the test chromosomes."""
    if gc not in ahead or not all(np.isfinite(ahead[name]).all() for name in (gc, words)):
        return UNTESTED
    if ahead[gc][1] <= 0:
        return LOSES
    return BEATS if ahead[words][1] > 0 else BEATS_GC


def _draws(groups: NDArray[np.str_], seed: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    if len(names) < GROUPS:
        return [rng.integers(0, len(groups), len(groups)) for _ in range(DRAWS)]
    rows = [np.flatnonzero(groups == name) for name in names]
    return [np.concatenate([rows[one] for one in rng.integers(0, len(names), len(names))]) for _ in range(DRAWS)]


def _measures(truth: NDArray, guess: NDArray, task: Task) -> dict[str, float]:
    """AUROC and AUPRC, or Pearson's r of logarithms: means over the targets that have them."""
    if task == "count":
        return {"r": _mean(column_scores(truth, guess, task))}
    from sklearn.metrics import average_precision_score

    precision = [
        average_precision_score(truth[:, column], guess[:, column]) if np.ptp(truth[:, column]) else np.nan
        for column in range(truth.shape[1])
    ]
    return {"auroc": _mean(column_scores(truth, guess, task)), "auprc": _mean(np.array(precision))}


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _interval(value: float, draws: list[float]) -> tuple[float, float, float]:
    known = np.array([draw for draw in draws if np.isfinite(draw)])
    if not len(known):
        return value, float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value, float(low), float(high)
