"""Take technical batches out of an embedding by a soft mixture of linear shifts.

Cells are clustered softly so that every cluster holds every batch in its overall share as far as distances allow; in
each cluster the batches' shifts are estimated by ridge regression and taken out; both steps repeat. This is the model
of Harmony (Korsunsky et al., Nature Methods 2019), written anew for numpy: clustering on the unit sphere, shifts on the
plain embedding. Cells of unknown batch help to find the clusters and are left where they are.
Leaves out: several covariates at once (cross them before), choosing the number of clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
STEPS = 15  # of clustering in each round
BLOCKS = 20
SETTLED = 1e-3  # a round that moves cells less than this share of their length is the last


@dataclass(frozen=True, slots=True)
class Corrected:
    """Corrected ``points (n, k)``, soft ``members (n, clusters)``, and the number of rounds it took."""

    points: NDArray[np.float32]
    members: NDArray[np.float32]
    rounds: int


def correct_mixture(
    points: NDArray[np.floating],
    codes: NDArray[np.integer],
    *,
    seed: int = 0,
    clusters: int | None = None,
    diversity: float = 2.0,
    width: float = 0.1,
    ridge: float = 1.0,
    rounds: int = 10,
) -> Corrected:
    """Embedding without the shifts of technical batches.

    Parameters
    ----------
    points
        ``(n, k)`` embedding, axes scaled by how much they matter.
    codes
        ``(n,)`` technical batch of each cell, 0 to b - 1; -1 unknown.
    seed
        Of the first clusters.
    clusters
        How many; by default a cell in thirty, at most 100.
    diversity
        How strongly clusters are pushed to hold every batch (0 = not at all).
    width
        Softness of the clusters, as cosine distance.
    ridge
        Cells' worth of prior that a batch is not shifted in a cluster.
    rounds
        Most rounds of clustering and correction.
    """
    start = np.asarray(points, dtype=np.float64)
    batches = int(codes.max(initial=-1)) + 1
    if batches < 2 or len(start) < 4:
        return Corrected(start.astype(np.float32), np.ones((len(start), 1), dtype=np.float32), 0)
    count = clusters or int(np.clip(len(start) // 30, 2, 100))
    one_hot = (codes[:, None] == np.arange(batches)).astype(np.float64)
    corrected = start
    rng = np.random.default_rng(seed)
    centers, done = _first_centers(_unit(start), count, seed), 0
    while done < rounds:
        done += 1
        centers, members = _cluster(_unit(corrected), centers, one_hot, diversity, width, rng)
        moved = _take_out(start, members, one_hot, ridge)
        change = np.linalg.norm(moved - corrected) / max(float(np.linalg.norm(start)), 1e-12)
        corrected = moved
        if change < SETTLED:
            break
    return Corrected(corrected.astype(np.float32), np.asarray(members, dtype=np.float32), done)


def _unit(points: Matrix) -> Matrix:
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


def _first_centers(points: Matrix, count: int, seed: int) -> Matrix:
    from sklearn.cluster import KMeans

    fitted = KMeans(min(count, len(points)), n_init=1, max_iter=25, random_state=seed).fit(points)
    return _unit(fitted.cluster_centers_)


def _cluster(
    points: Matrix, centers: Matrix, one_hot: Matrix, diversity: float, width: float, rng: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Centers and soft members ``(n, clusters)``; where a batch is over its share, its cells are pushed elsewhere.

    Members change a block of cells at a time: all at once, cells of a batch would run from cluster to cluster together.
    """
    share = one_hot.sum(axis=0) / max(one_hot.sum(), 1.0)
    members = _softmax(points @ centers.T * (2 / width))
    for _ in range(STEPS):
        centers = _unit(members.T @ points)
        near = points @ centers.T * (2 / width)
        seen = members.T @ one_hot  # (clusters, batches)
        before = members.copy()
        for block in np.array_split(rng.permutation(len(points)), BLOCKS):
            seen -= members[block].T @ one_hot[block]
            wanted = seen.sum(axis=1, keepdims=True) * share
            push = diversity * one_hot[block] @ np.log((wanted + 1) / (np.maximum(seen, 0) + 1)).T
            members[block] = _softmax(near[block] + push)
            seen += members[block].T @ one_hot[block]
        if np.abs(members - before).sum(axis=1).mean() < 1e-2:
            break
    return centers, members


def _softmax(scores: Matrix) -> Matrix:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _take_out(points: Matrix, members: Matrix, one_hot: Matrix, ridge: float) -> Matrix:
    """Subtract each cluster's shifts of the batches, weighted by membership."""
    cells = len(points)
    design = np.hstack([np.ones((cells, 1)), one_hot])
    penalty = np.diag(np.concatenate([[1e-6], np.full(one_hot.shape[1], ridge)]))
    corrected = points.copy()
    for column in members.T:
        weighted = design * column[:, None]
        effect = np.linalg.solve(design.T @ weighted + penalty, weighted.T @ points)
        corrected -= column[:, None] * (one_hot @ effect[1:])
    return corrected
