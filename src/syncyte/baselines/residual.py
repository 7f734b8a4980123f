"""Counts as residuals of a depth-only null model, kept sparse plus low rank.

Two scalings, both with the total of the cell ``n`` and the training share of the feature ``p``:

- ``pearson``: ``(x - n p) / sqrt(n p + (n p)^2 / theta)``, clipped; Lause, Berens & Kobak, Genome Biology 2021.
- ``depth``: open or closed ``y``: ``(y - n p) / sqrt(max(n, floor)) / sqrt(p + 0.3 mean p)``, the mean over features
  that were ever open, so that features no cell opens change nothing; keeps what log TF-IDF
  loses at few open regions a cell.

Almost all values are zero and the residual of a zero depends on depth and feature only, so a block of residuals is
``S + A @ B``: ``S`` sparse corrections at the measured entries, ``A`` (cells, m) piecewise-linear coordinates of the
depth, ``B`` (m, features) the residual of a zero at m depths. Nothing is ever densified.
Leaves out: choosing features, other null models (batch-specific shares are given as several ``Residual`` objects).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Kind = Literal["pearson", "depth"]

THETA = 10.0  # overdispersion of the Pearson null, as in the paper
CLIP = 8.0
FLOOR = 20.0  # open regions below which depth scaling stops growing
NODES = 24
OFFSET = 0.3  # of the mean share, so that rare features do not rule
UNSEEN = 0.01  # of the mean total, as pseudo-count of every feature
SHALLOW = (0.0, 1.0, 2.0, 4.0, 7.0, 10.0, 14.0, FLOOR)  # of ``depth``: its zeros follow sqrt(n) exactly from FLOOR on
ROWS = 4096  # cells scaled at once: the working memory is that of a block


@dataclass(frozen=True)
class Residual:
    """Residual scaling fitted on training cells.

    Attributes
    ----------
    kind
        ``pearson`` or ``depth``.
    share
        ``(f,)`` float64, share of each feature in all counts (or openings) of the training cells; sums to 1.
    nodes
        ``(m,)`` float64, depths between which the residual of a zero is interpolated (linear in the square root).
    zero
        ``(m, f)`` float32, residual of a zero at each node.
    offset
        Added to shares in the feature part of the depth scaling.
    """

    kind: Kind
    share: NDArray[np.float64]
    nodes: NDArray[np.float64]
    zero: NDArray[np.float32]
    offset: float

    @classmethod
    def from_share(
        cls, kind: Kind, share: NDArray[np.float64], top: float = 1e6, offset: float | None = None
    ) -> Residual:
        """Scaling with known shares; ``top`` is the deepest cell that is interpolated, not extrapolated."""
        share = np.asarray(share, dtype=np.float64)
        offset = OFFSET * float(share.mean()) if offset is None else offset
        nodes = np.concatenate([[0.0], np.geomspace(1.0, max(top, 10.0), NODES - 1)])
        if kind == "depth":
            nodes = np.array([*SHALLOW, max(top, 10 * FLOOR)])
        empty = cls(kind, share, nodes, np.empty((0, len(share)), dtype=np.float32), offset)
        columns, zero = np.arange(len(share)), np.empty((len(nodes), len(share)), dtype=np.float32)
        for row, node in zip(zero, nodes, strict=True):
            row[:] = empty._value(np.zeros(1), np.full(1, node), columns)
        return cls(kind, share, nodes, zero, offset)

    @classmethod
    def fit(cls, kind: Kind, totals: NDArray[np.float64], top: float = 1e6) -> Residual:
        """Scaling from per-feature totals of the training cells (a tiny pseudo-count keeps unseen features finite)."""
        totals = np.asarray(totals, dtype=np.float64)
        share = totals + UNSEEN * max(totals.mean(), 1e-12)
        share /= share.sum()
        return cls.from_share(kind, share, top, OFFSET * float(share[totals > 0].mean()) if totals.any() else None)

    def values(self, counts: sp.csr_matrix) -> NDArray[np.float32]:
        """What is scaled: the counts, or ones where the scaling looks at open or closed only."""
        return counts.data if self.kind == "pearson" else np.ones_like(counts.data)

    def depth(self, counts: sp.csr_matrix) -> NDArray[np.float64]:
        """``(cells,)`` total counts, or number of open regions."""
        if self.kind == "pearson":
            return np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        return np.diff(counts.indptr).astype(np.float64)

    def _value(self, x: NDArray[np.float64], n: NDArray[np.float64], column: NDArray[np.int64]) -> NDArray[np.float64]:
        mean = n * self.share[column]
        if self.kind == "pearson":
            scaled = (x - mean) / np.sqrt(np.maximum(mean + mean**2 / THETA, 1e-12))
            return np.clip(scaled, -CLIP, CLIP)
        return (x - mean) / np.sqrt(np.maximum(n, FLOOR)) / self.scale[column]

    @property
    def scale(self) -> NDArray[np.float64]:
        """``(f,)`` feature part of the depth scaling."""
        return np.sqrt(self.share + self.offset)

    def coordinates(self, depth: NDArray[np.float64]) -> NDArray[np.float32]:
        """``(cells, m)`` hat-function coordinates of the depth; two entries a row are non-zero."""
        root, knots = np.sqrt(depth), np.sqrt(self.nodes)
        left = np.clip(np.searchsorted(knots, root, side="right") - 1, 0, len(knots) - 2)
        right_share = (root - knots[left]) / (knots[left + 1] - knots[left])
        out = np.zeros((len(depth), len(knots)), dtype=np.float32)
        row = np.arange(len(depth))
        out[row, left] = 1 - right_share
        out[row, left + 1] = right_share
        return out

    def split(self, counts: sp.csr_matrix) -> tuple[sp.csr_matrix, NDArray[np.float32], NDArray[np.float32]]:
        """Residuals of a block as ``(S, A, B)`` with ``residual = S + A @ B``."""
        coordinates = self.coordinates(self.depth(counts))
        data = np.empty(counts.nnz, dtype=np.float32)
        for first in range(0, counts.shape[0], ROWS):
            begin, end = counts.indptr[first], counts.indptr[min(first + ROWS, counts.shape[0])]
            data[begin:end] = self._corrections(counts[first : first + ROWS], coordinates[first : first + ROWS])
        return sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape), coordinates, self.zero

    def _corrections(self, counts: sp.csr_matrix, coordinates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Residual of every measured entry less that of a zero in its place."""
        cell, column = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), counts.indices
        value = self._value(self.values(counts).astype(np.float64), self.depth(counts)[cell], column)
        left = np.minimum(np.argmax(coordinates != 0, axis=1), coordinates.shape[1] - 2)[cell]
        value -= coordinates[cell, left] * self.zero[left, column]
        return value - coordinates[cell, left + 1] * self.zero[left + 1, column]


@dataclass(frozen=True)
class ResidualMatrix:
    """Residuals of many cells as an implicit matrix: products only, never the entries.

    ``center`` is subtracted from every row (zeros for none).
    """

    sparse: sp.csr_matrix
    left: NDArray[np.float32]
    right: NDArray[np.float32]
    center: NDArray[np.float32]

    @classmethod
    def build(cls, counts: sp.csr_matrix, residual: Residual, center: bool = True) -> ResidualMatrix:
        """Residuals of ``counts``; with ``center`` the mean over these cells is taken out."""
        sparse, left, right = residual.split(counts)
        mean = np.zeros(counts.shape[1], dtype=np.float32)
        if center:
            mean = np.asarray(sparse.mean(axis=0), dtype=np.float32).ravel() + left.mean(axis=0) @ right
        return cls(sparse, left, right, mean)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.sparse.shape

    def dot(self, other: NDArray[np.float32]) -> NDArray[np.float32]:
        """``X @ other``."""
        return np.asarray(self.sparse @ other + self.left @ (self.right @ other) - self.center @ other)

    def transpose_dot(self, other: NDArray[np.float32]) -> NDArray[np.float32]:
        """``X.T @ other``."""
        total = other.sum(axis=0, keepdims=True)
        product = self.sparse.T @ other + self.right.T @ (self.left.T @ other)
        return np.asarray(product - self.center[:, None] @ total)


Product = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def svd(
    matrix: ResidualMatrix, components: int, seed: int = 0, iterations: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Randomised SVD ``X ~ U diag(s) V.T`` (Halko, Martinsson & Tropp, SIAM Review 2011).

    Returns
    -------
    tuple
        ``U`` (cells, k), ``s`` (k,), ``V`` (features, k); signs fixed so that each column of V sums to >= 0.
    """
    return randomized_svd(matrix.dot, matrix.transpose_dot, matrix.shape, components, seed, iterations)


def randomized_svd(
    dot: Product, transpose_dot: Product, shape: tuple[int, int], components: int, seed: int, iterations: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Leading singular triplets of a matrix known by its products with thin matrices.

    Only the side of ``shape[0]`` is orthonormalised: the other may be a million long, where a QR costs more than all
    products together. The last factor comes from its Gram matrix, in double precision.
    """
    rng = np.random.default_rng(seed)
    width = min(components + 10, *shape)
    block = dot(rng.standard_normal((shape[1], width)).astype(np.float32))
    for _ in range(iterations):
        block = dot(transpose_dot(np.linalg.qr(block)[0]))
    columns = np.linalg.qr(block)[0]
    other = transpose_dot(columns)
    values, vectors = np.linalg.eigh(_gram(other))
    keep = np.argsort(values)[::-1][: min(components, width)]
    s = np.sqrt(np.maximum(values[keep], 1e-30))
    u, v = columns @ vectors[:, keep], (other @ (vectors[:, keep] / s).astype(np.float32))
    flip = np.where(v.sum(axis=0) < 0, -1.0, 1.0)
    return (u * flip).astype(np.float32), s.astype(np.float32), (v * flip).astype(np.float32)


def _gram(matrix: NDArray[np.float32], rows: int = 65_536) -> NDArray[np.float64]:
    """``X.T @ X`` in double precision, a block of rows at a time."""
    blocks = (matrix[first : first + rows].astype(np.float64) for first in range(0, len(matrix), rows))
    return np.sum([block.T @ block for block in blocks], axis=0)
