"""Does a vector of DNA name its gene? Retrieval of static tokens on chromosomes that the regression has not seen.

For every gene of a held-out chromosome, all genes held out with it are ranked by the cosine between the token
predicted from its vector and their static tokens; the *percentile* of the right one is 1 when it comes first and 0.5 by
chance. Beside it: the same with predicted tokens of permuted genes, and with mean expression alone (genes ranked by how
near their level is to the predicted level). Tokens are centred first: a common direction would help nobody's retrieval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
DRAWS = 1_000


def held_out(
    vectors: NDArray[np.float32],
    tokens: NDArray[np.float32],
    parts: NDArray,
    fit: Callable[[NDArray, NDArray], Callable[[NDArray], NDArray]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Tokens predicted for every gene by a regression that has not seen its part, and the fold of each gene."""
    names = np.random.default_rng(0).permutation(np.unique(parts))
    fold = np.zeros(len(tokens), dtype=np.int64)
    for number, some in enumerate(np.array_split(names, min(FOLDS, len(names)))):
        fold[np.isin(parts, some)] = number
    found = np.zeros_like(tokens)
    for number in np.unique(fold):
        own = fold == number
        found[own] = fit(vectors[~own], tokens[~own])(vectors[own])
    return found, fold


def retrieval(predicted: NDArray, tokens: NDArray, fold: NDArray[np.int64], seed: int = 0) -> dict[str, Any]:
    """Percentile and first place of the right gene, with what chance and mean expression alone reach.

    Parameters
    ----------
    predicted, tokens
        ``(g, w)``; the last column is the level.
    fold
        ``(g,)`` genes that are ranked together.
    """
    rng = np.random.default_rng(seed)
    ways: dict[str, list[NDArray]] = {"sequence": [], "permuted genes": [], "mean expression": []}
    first = []
    for number in np.unique(fold):
        own = np.flatnonzero(fold == number)
        if len(own) < 5:
            continue
        guess, truth = predicted[own] - predicted[own].mean(axis=0), tokens[own] - tokens[own].mean(axis=0)
        cosine = _unit(guess) @ _unit(truth).T
        rank = (cosine > np.diag(cosine)[:, None]).sum(axis=1)
        first.append(rank == 0)
        ways["sequence"].append(_percentile(cosine, np.arange(len(own))))
        ways["permuted genes"].append(_percentile(cosine, rng.permutation(len(own))))
        near = -np.abs(guess[:, -1:] - truth[:, -1][None])
        ways["mean expression"].append(_percentile(near, np.arange(len(own))))
    if not first:
        return {}
    found: dict[str, Any] = {}
    for name, parts in ways.items():
        values = np.concatenate(parts)
        means = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
        found[name] = float(values.mean())
        found[f"{name} low"], found[f"{name} high"] = (float(edge) for edge in np.quantile(means, (0.025, 0.975)))
    hits = np.concatenate(first)
    error = np.square(predicted - tokens).sum() / np.square(tokens - tokens.mean(axis=0)).sum()
    return {
        **found,
        "first": float(hits.mean()),
        "first by chance": float(len(np.unique(fold)) / len(hits)),
        "explained": float(1 - error),
        "genes": len(hits),
    }


def _unit(values: NDArray) -> NDArray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def _percentile(scores: NDArray, right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the other genes that the right one is ranked above; a tie is half."""
    own = scores[np.arange(len(scores)), right][:, None]
    below = (scores < own).sum(axis=1) + 0.5 * ((scores == own).sum(axis=1) - 1)
    return below / max(scores.shape[1] - 1, 1)
