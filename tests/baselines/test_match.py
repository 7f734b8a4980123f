"""Ridge regression finds the partner of a cell; its penalty is chosen on cells that are left out."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from syncyte.baselines.match import RidgeMatch
from syncyte.baselines.space import Space
from syncyte.metrics.pairs import score_pairs


def paired(n: int, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Counts of two modalities that share three factors."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(100)
    factors = rng.normal(size=(n, 3))
    sides = []
    for width, level in ((60, 3.0), (120, 0.4)):
        rate = level * np.exp(factors @ world.normal(0, 0.5, size=(3, width)))
        sides.append(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    return sides[0], sides[1]


def foscttm(first, second) -> float:
    return score_pairs(first, second, tops=())["foscttm"]


def test_partners_of_new_cells_are_found_both_ways():
    known, new = paired(400, 0), paired(150, 1)
    for a, b, kinds in ((0, 1, ("pearson", "depth")), (1, 0, ("depth", "pearson"))):
        match = RidgeMatch(Space(kinds[0], 10), Space(kinds[1], 10)).fit(known[a], known[b])
        placed = match.transform(new[a]), match.place(new[b])
        assert placed[0].shape == placed[1].shape == (150, 10)
        assert foscttm(*placed) < 0.2 < foscttm(placed[0], placed[1][::-1])


def test_the_penalty_is_that_of_the_least_error_on_rows_left_out():
    a, b = paired(200, 2)
    match = RidgeMatch(Space("pearson", 8), Space("depth", 8))
    rows = np.arange(50)
    seen = []

    def error(first, second):
        seen.append((len(first), first.var()))
        return [3.0, 1.0, 2.0][len(seen) - 1]

    chosen = match.tuned(a, b, rows, error, penalties=(1.0, 1e2, 1e9))
    assert chosen is match and chosen.penalty == 1e2
    assert [count for count, _ in seen] == [50] * 3 and seen[2][1] < 1e-2 * seen[0][1]
    x, y = match.source.transform(a), match.target.transform(b)
    wanted = np.linalg.solve(
        (x - x.mean(0)).T @ (x - x.mean(0)) / x.std(0).max() ** 2 + 1e2 * np.eye(8),
        (x - x.mean(0)).T @ (y - y.mean(0)) / x.std(0).max(),
    )
    np.testing.assert_allclose(chosen.loadings, wanted, rtol=1e-3, atol=1e-5)
