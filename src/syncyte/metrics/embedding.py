"""How good an embedding is: types kept apart, technical batches mixed, depth kept out.

The scIB scores (Luecken et al., Nature Methods 2022), each between 0 and 1, higher is better:
NMI and ARI of Leiden clusters at the resolution of the best NMI, silhouettes of types and of batches within types, LISI
of types and batches, graph connectivity, isolated labels; ``overall = 0.6 bio + 0.4 batch``, where bio is the mean of
NMI, ARI, type silhouette and cLISI, and batch the mean of batch silhouette, iLISI and graph connectivity.

Traps: clusters are Leiden's on the neighbour graph, never k-means on a UMAP; a resolution chosen by NMI flatters all
methods alike, so compare, do not quote, and see ``nmi_fixed`` at one resolution that no label chose; silhouettes and
LISI move little (0.5 to 0.6 is a large step for the former). Missing labels should be left out before. Leaves out kBET
and principal component regression.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError
from syncyte.metrics.neighbors import Neighbors, fuzzy_graph, graph_connectivity, leiden, lisi, nearest

RESOLUTIONS = tuple(np.round(np.arange(0.2, 2.01, 0.2), 1))
FIXED = 1.0  # one of them, the usual default
MOST = 20000  # cells a silhouette is taken over; its cost is their square


def leiden_agreement(neighbors: Neighbors, labels: ArrayLike, seed: int = 0) -> dict[str, float]:
    """NMI and ARI between labels and the Leiden clusters of the best NMI over ten resolutions.

    ``nmi_fixed`` and ``ari_fixed`` are those at resolution 1, the same for every method, where labels choose nothing.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    graph, labels = fuzzy_graph(neighbors), np.asarray(labels)
    clusters = {resolution: leiden(graph, float(resolution), seed) for resolution in RESOLUTIONS}
    scores = {key: normalized_mutual_info_score(labels, found) for key, found in clusters.items()}
    best = max(scores, key=lambda key: scores[key])
    found = clusters[best]
    return {
        "nmi": float(scores[best]),
        "ari": float(adjusted_rand_score(labels, found)),
        "resolution": float(best),
        "clusters": float(found.max() + 1),
        "nmi_fixed": float(scores[FIXED]),
        "ari_fixed": float(adjusted_rand_score(labels, clusters[FIXED])),
    }


def silhouette_label(embedding: NDArray[np.floating], labels: ArrayLike) -> float:
    """Mean silhouette of the types, moved to ``(s + 1) / 2``."""
    return float((_silhouettes(embedding, _codes(labels)).mean() + 1) / 2)


def silhouette_batch(embedding: NDArray[np.floating], labels: ArrayLike, batches: ArrayLike) -> float:
    """Mean over types of ``1 - |silhouette|`` of the batches inside the type; 1 is fully mixed.

    Types in one batch only, or with one cell in each, are left out; NaN where no type remains.
    """
    kinds, lanes, values = _codes(labels), _codes(batches), []
    for kind in np.unique(kinds):
        member = np.flatnonzero(kinds == kind)
        count = len(np.unique(lanes[member]))
        if 1 < count < len(member):
            values.append(1 - np.abs(_silhouettes(embedding[member], lanes[member])).mean())
    return float(np.mean(values)) if values else float("nan")


def isolated_labels(embedding: NDArray[np.floating], labels: ArrayLike, batches: ArrayLike) -> float:
    """Mean silhouette, moved to ``(s + 1) / 2``, of the types that occur in the fewest batches."""
    kinds, lanes = _codes(labels), _codes(batches)
    spread = pd.Series(lanes).groupby(kinds).nunique()
    rare = spread.index[spread == spread.min()]
    values = (_silhouettes(embedding, kinds) + 1) / 2
    return float(np.mean([values[kinds == kind].mean() for kind in rare]))


def depth_correlation(embedding: NDArray[np.floating], depth: ArrayLike) -> NDArray[np.float64]:
    """Pearson's r of every axis with log depth, ``(d,)``; 0 for an axis that does not vary."""
    points = np.asarray(embedding, dtype=np.float64)
    level = np.log1p(np.asarray(depth, dtype=np.float64))
    points, level = points - points.mean(axis=0), level - level.mean()
    length = np.sqrt((points**2).sum(axis=0) * (level**2).sum())
    return np.divide(points.T @ level, length, out=np.zeros(points.shape[1]), where=length > 1e-12)


def depth_explained(embedding: NDArray[np.floating], depth: ArrayLike) -> float:
    """Share of the variance of log depth that all axes together explain in a linear fit, adjusted for their number.

    Unlike the correlation of single axes it does not change when the axes are turned. 0 where nothing is explained or
    depth does not vary; NaN with fewer cells than axes.
    """
    points = np.asarray(embedding, dtype=np.float64)
    level = np.log1p(np.asarray(depth, dtype=np.float64))
    cells, axes = points.shape
    if cells <= axes + 1:
        return float("nan")
    points, level = points - points.mean(axis=0), level - level.mean()
    whole = float((level**2).sum())
    if whole < 1e-12:
        return 0.0
    rest = level - points @ np.linalg.lstsq(points, level, rcond=None)[0]
    unexplained = float((rest**2).sum()) / (cells - axes - 1) * (cells - 1)
    return float(np.clip(1.0 - unexplained / whole, 0.0, 1.0))


def score_clusters(embedding: ArrayLike, labels: ArrayLike, seed: int = 0) -> dict[str, float]:
    """``leiden_agreement`` of an ``(n, d)`` embedding alone, without the other scores."""
    return leiden_agreement(nearest(np.asarray(embedding, dtype=np.float64), 15), labels, seed)


def score_embedding(
    embedding: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    depth: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """All scores that the given covariates allow.

    Parameters
    ----------
    embedding
        ``(n, d)``.
    labels, batches
        Cell types and technical batches, ``(n,)``.
    depth
        Total counts or open regions, ``(n,)``; gives ``depth_r``, the largest absolute correlation of an axis.
    seed
        Of Leiden, and of the draw of cells for silhouettes above 20,000 cells.

    Returns
    -------
    ``nmi``, ``ari``, ``nmi_fixed``, ``ari_fixed``, ``asw_label``, ``clisi``, ``graph_connectivity``, ``bio`` with
    labels; ``ilisi`` with batches; ``asw_batch``, ``isolated_labels``, ``batch``, ``overall`` with both.
    """
    points = np.asarray(embedding, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise DataError(f"An embedding must be a finite (cells, axes) array; found shape {points.shape} or NaN values.")
    scores: dict[str, float] = {}
    if depth is not None:
        scores["depth_r"] = float(np.abs(depth_correlation(points, depth)).max(initial=0.0))
    if labels is None and batches is None:
        return scores
    near = nearest(points, 90)
    some = _some(len(points), seed)
    if labels is not None:
        scores |= leiden_agreement(near.first(15), labels, seed)
        scores["asw_label"] = silhouette_label(points[some], np.asarray(labels)[some])
        count = len(np.unique(_codes(labels)))
        scores["clisi"] = float((count - np.median(lisi(near, _codes(labels)))) / max(count - 1, 1))
        scores["graph_connectivity"] = graph_connectivity(near.first(15), _codes(labels))
        scores["bio"] = float(np.mean([scores[name] for name in ("nmi", "ari", "asw_label", "clisi")]))
    if batches is not None and len(np.unique(_codes(batches))) > 1:
        count = len(np.unique(_codes(batches)))
        scores["ilisi"] = float((np.median(lisi(near, _codes(batches))) - 1) / (count - 1))
        if labels is not None:
            groups = np.asarray(labels)[some], np.asarray(batches)[some]
            scores["asw_batch"] = silhouette_batch(points[some], *groups)
            scores["isolated_labels"] = isolated_labels(points[some], *groups)
            parts = [scores[name] for name in ("asw_batch", "ilisi", "graph_connectivity")]
            scores["batch"] = float(np.mean(parts))
            scores["overall"] = 0.6 * scores["bio"] + 0.4 * scores["batch"]
    return scores


def _codes(labels: ArrayLike) -> NDArray[np.int64]:
    return np.unique(np.asarray(labels).astype(str), return_inverse=True)[1].astype(np.int64)


def _some(cells: int, seed: int) -> NDArray[np.int64]:
    if cells <= MOST:
        return np.arange(cells)
    return np.sort(np.random.default_rng(seed).choice(cells, MOST, replace=False))


def _silhouettes(embedding: NDArray[np.floating], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    from sklearn.metrics import silhouette_samples

    if len(np.unique(codes)) < 2:
        return np.zeros(len(codes))
    return silhouette_samples(embedding, codes)
