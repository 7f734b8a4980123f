"""Cheap generators: moments of what they draw, order of cells, small types, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import syncyte.baselines.generate as generate
from syncyte.baselines.generate import LatentMixture, PerTypeNegativeBinomial, ResampledCells, draw_counts
from syncyte.errors import DataError

GENES = 40
SHARE = np.random.default_rng(0).dirichlet(np.full(GENES, 0.5), 3)
THETA = np.exp(np.random.default_rng(1).uniform(-0.5, 2.5, GENES))
TYPES = np.array(["b", "nk", "t"])
LEVEL = np.array([300.0, 900.0, 1500.0])


def cells(n: int, seed: int) -> tuple[sp.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, n, p=[0.2, 0.3, 0.5])
    depth = LEVEL[kind] * np.exp(0.3 * rng.normal(size=n) - 0.045)
    counts = rng.poisson(SHARE[kind] * depth[:, None] * rng.gamma(THETA, 1 / THETA, (n, GENES)))
    return sp.csr_matrix(counts.astype(np.float32)), TYPES[kind]


COUNTS, LABELS = cells(3000, 2)
COUNT_GENERATORS = [PerTypeNegativeBinomial, ResampledCells]


@pytest.mark.parametrize("kind", COUNT_GENERATORS)
def test_one_surface(kind):
    """int32 counts in the order of the labels asked for, the same for the same seed."""
    model = kind().fit(COUNTS, LABELS)
    asked = np.random.default_rng(0).choice(TYPES, 500)
    first, again, other = (model.sample(asked, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert sp.isspmatrix_csr(first) and first.dtype == np.int32 and first.shape == (500, GENES)
    assert (first != again).nnz == 0 and (first != other).nnz > 0 and first.data.min() > 0
    total = np.asarray(first.sum(axis=1)).ravel()
    for name in TYPES:
        real = np.asarray(COUNTS[name == LABELS].sum(axis=1)).ravel()
        assert total[asked == name].mean() == pytest.approx(real.mean(), rel=0.15)
        near = first[asked == name].sum(axis=0).A1 / total[asked == name].sum()
        assert np.abs(near[:, None] - SHARE.T).sum(axis=0).argmin() == list(TYPES).index(name)
    assert model.name and model.sample([], np.random.default_rng(0)).shape == (0, GENES)


@pytest.mark.parametrize("kind", [*COUNT_GENERATORS, LatentMixture])
def test_unknown_labels_and_bad_fits_are_refused(kind):
    latent = kind is LatentMixture
    values = COUNTS.toarray() if latent else COUNTS
    model = kind().fit(values[:200], LABELS[:200])
    with pytest.raises(DataError, match=r"Unknown label 'nkt'. Did you mean 'nk'\? Known: b, nk, t."):
        model.sample(["b", "nkt"], np.random.default_rng(0))
    with pytest.raises(DataError, match=r"labels of shape \(100,\) for 200 cells"):
        kind().fit(values[:200], LABELS[:100])
    with pytest.raises(DataError, match="200 training cells have no label"):
        kind().fit(values[:200], [""] * 200)
    with pytest.raises(DataError, match="NaN" if latent else "whole and not negative; found 0.5"):
        kind().fit(np.full((5, 2), np.nan) if latent else COUNTS[:5] * 0.5, LABELS[:5])
    if not latent:
        with pytest.raises(DataError, match="sparse matrix"):
            kind().fit(COUNTS[:5].toarray(), LABELS[:5])


def test_negative_binomial_finds_its_parameters():
    model = PerTypeNegativeBinomial().fit(COUNTS, LABELS)
    often = SHARE.mean(axis=0) * LEVEL.mean() > 3
    ratio = model.dispersion[often] / THETA[often]
    assert 0.9 < np.median(ratio) < 1.1 and np.abs(np.log(ratio)).max() < 0.5
    np.testing.assert_allclose(model.share.toarray(), SHARE, atol=0.01)


def test_dispersion_of_small_types_is_not_too_high():
    """With three cells a type the fitted means follow the noise; the moments make up for it."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(300, 5.0), 200)  # of many genes, or the noise of one is in the depth
    kind = np.repeat(np.arange(200), 3)
    counts = rng.poisson(share[kind] * 3000 * rng.gamma(2.0, 0.5, (600, 300)))
    found = PerTypeNegativeBinomial().fit(sp.csr_matrix(counts), kind.astype(str)).dispersion
    assert np.median(found) == pytest.approx(2.0, rel=0.1)
    single = PerTypeNegativeBinomial().fit(sp.csr_matrix(counts[::3]), np.arange(200))
    assert (single.dispersion == np.exp(8)).all()


def test_dispersions_stay_within_their_limits():
    rng = np.random.default_rng(0)
    wild = np.zeros((4000, 4))
    wild[0, 0] = 5000.0  # one cell has it all
    wild[:, 1] = 7.0  # less than Poisson noise
    wild[:, 2] = rng.poisson(3, 4000)
    wild[:, 3] = 6000 - wild.sum(axis=1)  # equal depths
    model = PerTypeNegativeBinomial().fit(sp.csr_matrix(wild), ["x"] * 4000)
    assert model.dispersion[0] == np.exp(-4) and model.dispersion[1] == np.exp(8) and model.dispersion[2] > 20
    assert np.isfinite(model.sample(["x"] * 50, rng).data).all()


def test_negative_binomial_has_the_noise_of_its_counts_but_not_their_structure():
    rng = np.random.default_rng(0)
    program = np.exp(rng.normal(size=(2000, 1)) * 0.8 * np.where(np.arange(30) % 2, 1, -1))
    counts = sp.csr_matrix(rng.poisson(4.0 * program))
    made = PerTypeNegativeBinomial().fit(counts, ["x"] * 2000).sample(["x"] * 2000, rng)
    zeros = [(m.toarray() == 0).mean(axis=0) for m in (counts, made)]
    assert np.abs(zeros[0] - zeros[1]).mean() < 0.05
    r = [np.corrcoef(m.toarray().T)[::2, ::2][np.triu_indices(15, 1)].mean() for m in (counts, made)]
    assert r[0] > 0.7 and abs(r[1]) < 0.3  # what is left goes through the depth


def test_blocks_change_memory_only(monkeypatch):
    model = PerTypeNegativeBinomial().fit(COUNTS, LABELS)
    asked = np.tile(TYPES, 400)
    whole = model.sample(asked, np.random.default_rng(0))
    monkeypatch.setattr(generate, "BLOCK", 7 * GENES)
    small = model.sample(asked, np.random.default_rng(0))
    assert small.shape == whole.shape and small.sum() == pytest.approx(whole.sum(), rel=0.05)
    for name in TYPES:
        mine, own = (m[asked == name].sum(axis=0).A1 for m in (small, whole))
        assert np.corrcoef(mine, own)[0, 1] > 0.98


def test_draws_have_the_moments_of_a_negative_binomial():
    mean, theta = np.full((60_000, 2), 6.0), np.array([0.5, 20.0])
    x = draw_counts(mean, theta, np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(x.mean(axis=0), 6.0, rtol=0.02)
    np.testing.assert_allclose(x.var(axis=0), 6 + 36 / theta, rtol=0.05)


def test_resampled_cells_come_once_before_any_comes_twice():
    counts = sp.csr_matrix(np.diag(np.arange(1, 13)).astype(np.float32))
    labels = np.array(["a"] * 5 + ["b"] * 7)
    model = ResampledCells().fit(counts, labels)
    drawn = model.sample(["a"] * 12 + ["b"] * 7, np.random.default_rng(0)).toarray().sum(axis=1)
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [1, 2, 3, 4, 5] and len(set(drawn[10:12])) == 2
    assert sorted(drawn[12:]) == list(range(6, 13))


def gaussians(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two types in 4 dimensions at odd scales: one of two lumps, one tilted Gaussian."""
    rng = np.random.default_rng(seed)
    kind, lump = rng.integers(0, 2, n), rng.integers(0, 2, n) * 2 - 1
    x = rng.normal(size=(n, 4))
    x[:, 0] += np.where(kind == 0, 4.0 * lump, 0.0)
    x[:, 1] += np.where(kind == 1, 0.9 * x[:, 2], 8.0)
    return x * np.array([1.0, 100.0, 0.01, 1.0]), np.array(["lumps", "tilted"])[kind]


def test_mixture_keeps_lumps_that_one_gaussian_fills():
    points, labels = gaussians(2000, 0)
    asked = np.repeat(["lumps", "tilted"], 1500)
    made = LatentMixture().fit(points, labels).sample(asked, np.random.default_rng(0))
    plain = LatentMixture(components=1).fit(points, labels).sample(asked, np.random.default_rng(0))
    real = points[labels == "lumps", 0]
    between = [np.mean(np.abs(x) < 1.5) for x in (real, made[:1500, 0], plain[:1500, 0])]
    assert abs(between[1] - between[0]) < 0.02 and between[2] > 0.2
    tilted = points[labels == "tilted"]
    np.testing.assert_allclose(made[1500:].std(axis=0), tilted.std(axis=0), rtol=0.08)
    np.testing.assert_allclose(np.corrcoef(made[1500:].T), np.corrcoef(tilted.T), atol=0.06)
    np.testing.assert_allclose(made[1500:].mean(axis=0), tilted.mean(axis=0), atol=8.0)
    again = LatentMixture().fit(points, labels).sample(asked, np.random.default_rng(0))
    np.testing.assert_array_equal(made, again)


def test_components_follow_the_number_of_cells():
    points, labels = gaussians(900, 0)
    few = np.concatenate([np.flatnonzero(labels == "lumps")[:239], np.flatnonzero(labels == "tilted")[:240]])
    model = LatentMixture().fit(points[few], labels[few])
    assert [len(mixture.weights) for mixture in model.mixtures] == [1, 4]


def test_small_types_borrow_the_covariance_of_the_others():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(606, 10)) * np.linspace(1, 5, 10)
    labels = np.array(["big"] * 600 + ["five"] * 5 + ["one"])
    points[600:] += 50.0
    model = LatentMixture().fit(points, labels)
    made = model.sample(["one"] * 3000 + ["five"] * 3000, np.random.default_rng(1))
    np.testing.assert_allclose(made[:3000].mean(axis=0), points[605], atol=0.4)
    np.testing.assert_allclose(made[:3000].std(axis=0), np.linspace(1, 5, 10), rtol=0.15)
    assert np.linalg.matrix_rank(np.cov(made[3000:].T)) == 10  # five cells span four directions
    np.testing.assert_allclose(made[3000:].std(axis=0), np.linspace(1, 5, 10), rtol=0.5)


def test_types_of_one_cell_each_and_a_coordinate_that_never_moves():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.normal(size=(30, 3)), np.full(30, 7.0)])
    model = LatentMixture().fit(points, np.arange(30))
    made = model.sample(["3"] * 500, rng)
    assert np.isfinite(made).all() and (made[:, 3] == 7.0).all()
    np.testing.assert_allclose(made[:, :3].std(axis=0), points[:, :3].std(axis=0), rtol=0.35)
    alone = LatentMixture().fit(points[:1], ["x"]).sample(["x"] * 4, rng)
    np.testing.assert_allclose(alone, points[[0] * 4], atol=0.1)
