"""Nearest neighbours of an embedding and what is read off them: clusters, LISI, graph connectivity.

Definitions follow scIB (Luecken et al., Nature Methods 2022) in the form of the scib-metrics package, against which the
numbers were compared. A cell is its own first neighbour, as there: 15 neighbours means 14 others.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Neighbors:
    """``indices (n, k)`` and ``distances (n, k)`` ascending; column 0 is the cell itself."""

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]

    def first(self, k: int) -> Neighbors:
        """Keep the nearest ``k``, the cell itself included."""
        return Neighbors(self.indices[:, :k], self.distances[:, :k])

    def graph(self) -> sp.csr_matrix:
        """Directed graph without loops, ``(n, n)``, ones from each cell to its neighbors."""
        n, k = self.indices.shape
        links = np.ones(n * (k - 1), dtype=np.float32)
        return sp.csr_matrix((links, self.indices[:, 1:].ravel(), np.arange(n + 1) * (k - 1)), shape=(n, n))


def nearest(embedding: NDArray[np.floating], k: int) -> Neighbors:
    """Exact Euclidean neighbours of an ``(n, d)`` embedding; ``k`` counts the cell itself."""
    from sklearn.neighbors import NearestNeighbors

    points = np.asarray(embedding, dtype=np.float64)
    k = min(k, len(points))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points)
    own = np.arange(len(points))
    wrong = np.flatnonzero(indices[:, 0] != own)  # duplicates of a cell may come before the cell itself
    for row in wrong:
        place = np.flatnonzero(indices[row] == row)
        indices[row, 1 : (place[0] if len(place) else k - 1) + 1] = indices[row, : place[0] if len(place) else k - 1]
        indices[row, 0], distances[row, 0] = row, 0.0
    return Neighbors(indices.astype(np.int64), distances)


@functools.cache
def load_umap() -> ModuleType:
    """``umap``, whose loops are compiled once and kept on disk; it would compile them in each process, for 10 s."""
    import umap
    from umap import layouts, umap_, utils

    loops = [(umap_, "smooth_knn_dist"), (umap_, "compute_membership_strengths"), (utils, "fast_knn_indices")]
    loops += [(layouts, "_nb_optimize_layout_euclidean_single_epoch")]
    for module, name in loops:
        with contextlib.suppress(AttributeError, RuntimeError):  # of another version; no folder for compiled code
            getattr(module, name).enable_caching()
    return umap


def fuzzy_graph(neighbors: Neighbors) -> sp.csr_matrix:
    """UMAP's symmetric weighted graph, the one that Leiden runs on in scanpy."""
    n, k = neighbors.indices.shape
    graph, *_ = load_umap().umap_.fuzzy_simplicial_set(
        sp.coo_matrix((n, 1)),
        k,
        None,
        None,
        knn_indices=neighbors.indices,
        knn_dists=neighbors.distances.astype(np.float32),
    )
    return graph.tocsr()


def leiden(graph: sp.csr_matrix, resolution: float, seed: int) -> NDArray[np.int64]:
    """Leiden clusters (modularity) of a symmetric weighted graph."""
    import random

    import igraph

    upper = sp.triu(graph, k=1).tocoo()
    network = igraph.Graph(n=graph.shape[0], edges=np.column_stack([upper.row, upper.col]))
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = network.community_leiden("modularity", weights=upper.data.tolist(), resolution=resolution)
    finally:
        igraph.set_random_number_generator(random)  # igraph's default
    return np.asarray(found.membership, dtype=np.int64)


def lisi(neighbors: Neighbors, codes: NDArray[np.integer], perplexity: float | None = None) -> NDArray[np.float64]:
    """Local inverse Simpson index of every cell: the effective number of groups around it.

    Neighbour weights are Gaussian with the width that gives the wanted perplexity (Korsunsky et al. 2019; by default a
    third of the neighbours, 30 of 90), found by bisection for all cells at once.
    """
    distances, indices = neighbors.distances[:, 1:], neighbors.indices[:, 1:]
    perplexity = neighbors.indices.shape[1] // 3 if perplexity is None else perplexity
    weights = _gaussian(distances, np.log(perplexity))
    member = np.asarray(codes)[indices]
    simpson = np.zeros(len(member))
    for code in range(int(codes.max(initial=0)) + 1):
        simpson += (weights * (member == code)).sum(axis=1) ** 2
    return 1.0 / np.maximum(simpson, 1e-12)


def _gaussian(distances: NDArray[np.float64], entropy: float, rounds: int = 50) -> NDArray[np.float64]:
    """Rows of ``exp(-beta d)``, normalised, with beta such that each row has the wanted entropy."""
    beta, low, high = np.ones(len(distances)), np.zeros(len(distances)), np.full(len(distances), np.inf)
    moved = distances - distances[:, :1]  # the same weights, without underflow
    for _ in range(rounds):
        weights = np.exp(-moved * beta[:, None])
        total = weights.sum(axis=1)
        difference = np.log(total) + beta * (moved * weights).sum(axis=1) / total - entropy
        wide = difference > 0  # too many effective neighbours: narrow the kernel
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), beta * 2.0, (low + high) / 2.0)
    weights = np.exp(-moved * beta[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def graph_connectivity(neighbors: Neighbors, codes: NDArray[np.integer]) -> float:
    """Mean over labels of the share of its cells in the largest strongly connected part of the label's own graph."""
    from scipy.sparse.csgraph import connected_components

    graph, shares = neighbors.graph(), []
    for code in np.unique(codes):
        member = np.flatnonzero(codes == code)
        parts = connected_components(graph[member][:, member], connection="strong")[1]
        shares.append(np.bincount(parts).max() / len(member))
    return float(np.mean(shares))
