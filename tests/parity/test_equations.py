"""The equations of the linear start, recomputed by hand on dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import PoissonRegressor
from tests.tiny import linear_start, world

from syncyte.baselines.closed_form import fit_level, level_features, mean_decoder, relative_decoder, ridge
from syncyte.baselines.residual import Residual, ResidualMatrix, randomized_svd, svd
from syncyte.baselines.start import fit_start
from syncyte.errors import DataError
from syncyte.modalities import modalities


def counts_of(rng: np.random.Generator, cells: int = 30, features: int = 40) -> sp.csr_matrix:
    """Skewed counts; the first cell is empty, one entry is far out."""
    rate = rng.gamma(0.3, 2.0, features) * rng.lognormal(0, 1, (cells, 1))
    dense = rng.poisson(rate).astype(np.float32)
    dense[0], dense[1, 3] = 0, 500
    return sp.csr_matrix(dense)


def by_hand(kind: str, dense: np.ndarray, share: np.ndarray, offset: float) -> np.ndarray:
    x = dense if kind == "pearson" else (dense > 0).astype(float)
    n = x.sum(axis=1, keepdims=True)
    mean = n * share
    if kind == "pearson":
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (x - mean) / np.sqrt(mean + mean**2 / 10)
        return np.clip(np.nan_to_num(scaled), -8, 8)
    return (x - mean) / np.sqrt(np.maximum(n, 20)) / np.sqrt(share + offset)


@pytest.mark.parametrize("kind", ["pearson", "depth"])
def test_split_is_the_residual(kind):
    counts = counts_of(np.random.default_rng(0))
    totals = counts.sum(axis=0) if kind == "pearson" else (counts > 0).sum(axis=0)
    residual = Residual.fit(kind, np.asarray(totals).ravel())
    seen = np.asarray(totals).ravel() > 0
    assert residual.offset == pytest.approx(0.3 * residual.share[seen].mean())
    assert residual.share.sum() == pytest.approx(1) and (residual.share > 0).all()
    sparse, left, right = residual.split(counts)
    assert sparse.nnz == counts.nnz and ((left != 0).sum(axis=1) <= 2).all()
    expected = by_hand(kind, counts.toarray().astype(float), residual.share, residual.offset)
    got = sparse.toarray() + left @ right
    measured = counts.toarray() > 0
    np.testing.assert_allclose(got[measured], expected[measured], rtol=1e-4, atol=1e-4)  # exact at what was measured
    np.testing.assert_allclose(got, expected, atol=0.05)  # interpolated in the depth elsewhere
    if kind == "pearson":
        assert expected.max() == 8 and got.max() == pytest.approx(8, abs=1e-4)


@pytest.mark.parametrize("kind", ["pearson", "depth"])
def test_zeros_are_exact_at_the_nodes(kind):
    residual = Residual.fit(kind, np.arange(1.0, 21.0))
    for node, row in zip(residual.nodes[::5], residual.zero[::5], strict=True):
        value = -node * residual.share
        if kind == "pearson":
            variance = np.maximum(node * residual.share + (node * residual.share) ** 2 / 10, 1e-12)
            expected = np.clip(value / np.sqrt(variance), -8, 8)
        else:
            expected = value / np.sqrt(max(node, 20)) / residual.scale
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    at_nodes = residual.coordinates(residual.nodes)
    np.testing.assert_allclose(at_nodes, np.eye(len(residual.nodes)), atol=1e-6)


def test_products_and_decompositions_equal_dense_ones():
    rng = np.random.default_rng(1)
    first, second = counts_of(rng), counts_of(rng, features=25)
    a = ResidualMatrix.build(first, Residual.fit("pearson", np.asarray(first.sum(axis=0)).ravel()))
    b = ResidualMatrix.build(second, Residual.fit("depth", np.asarray((second > 0).sum(axis=0)).ravel()))
    x, y = (m.sparse.toarray() + m.left @ m.right - m.center for m in (a, b))
    assert abs(x.mean(axis=0)).max() < 1e-5
    thin = rng.standard_normal((40, 3)).astype(np.float32)
    np.testing.assert_allclose(a.dot(thin), x @ thin, rtol=1e-4, atol=1e-4)
    tall = rng.standard_normal((30, 3)).astype(np.float32)
    np.testing.assert_allclose(a.transpose_dot(tall), x.T @ tall, rtol=1e-4, atol=1e-4)
    u, s, v = svd(a, 5, iterations=15)
    np.testing.assert_allclose(s, np.linalg.svd(x, compute_uv=False)[:5], rtol=1e-4)
    np.testing.assert_allclose(x @ v, u * s, atol=1e-3 * s[0])
    assert (v.sum(axis=0) >= 0).all()

    def dot(right):
        return a.transpose_dot(b.dot(right))

    def transpose_dot(left):
        return b.transpose_dot(a.dot(left))

    u, s, v = randomized_svd(dot, transpose_dot, (x.shape[1], y.shape[1]), 4, 0, 15)
    np.testing.assert_allclose(s, np.linalg.svd(x.T @ y, compute_uv=False)[:4], rtol=1e-3)
    np.testing.assert_allclose(x.T @ (y @ v), u * s, atol=1e-3 * s[0])


def test_ridge_solves_its_normal_equations():
    rng = np.random.default_rng(2)
    design, target = (
        rng.standard_normal((50, 4)).astype(np.float32),
        sp.random(50, 7, 0.3, random_state=0, format="csr"),
    )
    weight, bias = ridge(design, target, 3.0)
    stacked = np.vstack([design - design.mean(axis=0), np.sqrt(3.0) * np.eye(4)])
    goal = np.vstack([target.toarray() - target.toarray().mean(axis=0), np.zeros((4, 7))])
    np.testing.assert_allclose(weight, np.linalg.lstsq(stacked, goal, rcond=None)[0], atol=1e-5)
    np.testing.assert_allclose((design @ weight + bias).mean(axis=0), target.toarray().mean(axis=0), atol=1e-6)
    dense, _ = ridge(design, target.toarray(), 3.0)
    np.testing.assert_allclose(dense, weight, atol=1e-6)


def test_the_decoder_of_counts_is_ridge_on_log_counts_per_10k():
    rng = np.random.default_rng(3)
    counts = counts_of(rng)
    latent, context = rng.standard_normal((30, 5)).astype(np.float32), rng.standard_normal((30, 2)).astype(np.float32)
    weight, bias, effect = mean_decoder(latent, context, counts)
    dense = counts.toarray()
    target = np.log1p(dense * 1e4 / np.maximum(dense.sum(axis=1, keepdims=True), 1))
    expected, offset = ridge(np.hstack([latent, context]), target, 100.0)
    np.testing.assert_allclose(np.vstack([weight, effect]), expected, atol=1e-6)
    np.testing.assert_allclose(bias, offset, atol=1e-6)


def test_the_decoder_of_openings_is_weighted_least_squares():
    """Each region: rows sqrt(n_i p) z_i, goal (y_i - n_i p) / sqrt(n_i p), and a ridge penalty."""
    rng = np.random.default_rng(4)
    opened = sp.csr_matrix((rng.random((60, 9)) < rng.uniform(0.1, 0.9, 9)).astype(np.float64))
    latent, depth = rng.standard_normal((60, 4)).astype(np.float32), np.asarray(opened.sum(axis=1)).ravel() + 1
    share = rng.dirichlet(np.ones(9))
    got = relative_decoder(latent, opened, depth, share, penalty=2.0)
    for region in range(9):
        mean = depth * share[region]
        rows = np.vstack([np.sqrt(mean)[:, None] * latent, np.sqrt(2.0) * np.eye(4)])
        goal = np.concatenate([(opened[:, [region]].toarray().ravel() - mean) / np.sqrt(mean), np.zeros(4)])
        np.testing.assert_allclose(got[:, region], np.linalg.lstsq(rows, goal, rcond=None)[0], atol=1e-5)


def test_the_level_is_a_poisson_regression_of_the_depth():
    rng = np.random.default_rng(5)
    features = rng.standard_normal((400, 3)).astype(np.float32) * [1, 3, 0.2] + [0, 5, 1]
    depth = rng.poisson(np.exp(4 + 0.1 * features[:, 1])).astype(float)
    weight, bias = fit_level(features, depth)
    rate = np.exp(features @ weight + bias)
    assert rate.mean() == pytest.approx(depth.mean(), rel=1e-2)  # the intercept is not penalised
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    direct = PoissonRegressor(alpha=0.125, max_iter=1000, tol=1e-8).fit(scaled, depth / depth.mean())
    np.testing.assert_allclose(rate, direct.predict(scaled) * depth.mean(), rtol=2e-2)


def test_level_features_by_hand():
    latent, context = np.array([[2.0, 3.0]]), np.array([[5.0, 7.0]])
    np.testing.assert_array_equal(level_features(latent, context), [[2, 3, 5, 7, 25, 49, 35, 10, 15]])


def test_decoders_predict_as_their_formulas_say():
    start, counts = linear_start(world(), mode="cross")
    for source, target in (("rna", "atac"), ("atac", "rna")):
        encoder, decoder = start.encoders[source], start.decoders[target]
        dense = by_hand(
            encoder.residual.kind,
            counts[source].toarray().astype(float),
            encoder.residual.share,
            encoder.residual.offset,
        )
        raw = (dense - encoder.center) @ encoder.table
        latent = 3 * np.tanh(raw / 3)
        np.testing.assert_allclose(encoder.latents(counts[source]), latent, atol=0.02)
        z, context = start.latent(source, counts[source]).astype(float), encoder.context(counts[source]).astype(float)
        got = start.predict(source, target, counts[source])
        if target == "rna":
            expected = np.maximum(z @ decoder.weight + context @ decoder.context + decoder.bias, 0)
        else:
            score = z @ decoder.weight
            weight = np.where(score > 0, 1 + np.abs(score), np.exp(score)) * np.exp(decoder.bias)
            level = np.exp(level_features(z, context) @ decoder.level + decoder.level_bias)
            expected = np.minimum(level[:, None] * weight / weight.sum(axis=1, keepdims=True), 0.995)
            assert got.min() >= 0 and got.max() <= 1
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_the_context_is_standardised_log_depth_and_richness():
    start, counts = linear_start(world())
    rna, atac = counts["rna"].toarray(), counts["atac"].toarray()
    raw = {
        "rna": [rna.sum(axis=1), (rna > 0).sum(axis=1)],
        "atac": [(atac > 0).sum(axis=1), atac.sum(axis=1)],
    }
    for name, columns in raw.items():
        logs = np.log(np.maximum(np.stack(columns, axis=1), 1))
        expected = (logs - logs.mean(axis=0)) / logs.std(axis=0)
        np.testing.assert_allclose(start.encoders[name].context(counts[name]), expected, atol=1e-3)


def test_shared_tables_are_singular_vectors_of_the_cross_covariance():
    start, counts = linear_start(world(), mode="cross")
    first, second = (ResidualMatrix.build(counts[name], start.encoders[name].residual) for name in ("rna", "atac"))
    x, y = (m.sparse.toarray() + m.left @ m.right - m.center for m in (first, second))
    u, s, vt = np.linalg.svd(x.T @ y, full_matrices=False)
    np.testing.assert_allclose(start.encoders["rna"].strength[:3], s[:3] / s[0], rtol=1e-2)
    for name, columns in (("rna", u[:, :2]), ("atac", vt.T[:, :2])):
        table = start.encoders[name].table[:, :2]
        unit = table / np.linalg.norm(table, axis=0)
        assert (np.abs((unit * columns).sum(axis=0)) > 0.999).all()
        sd = (x if name == "rna" else y) @ table
        np.testing.assert_allclose(sd.std(axis=0), 1, rtol=1e-3)


def test_the_kind_of_start_follows_the_pairs():
    paired, _ = linear_start(world())
    assert paired.note.startswith("cross-covariance of 240") and paired.components == 6
    assert paired.source == {"rna": "atac", "atac": "rna"}
    few, _ = linear_start(world(400, paired=0.25))
    assert few.note.startswith("components of all cells, bridged over")
    alone, _ = linear_start(world(100, paired=0.0))
    assert alone.note == "each modality alone" and alone.source == {"rna": "rna", "atac": "atac"}


def test_a_bridge_decodes_both_ways():
    start, counts = linear_start(world(400, paired=0.4), mode="bridge")
    for source, target in (("rna", "atac"), ("atac", "rna")):
        got = start.predict(source, target, counts[source])
        assert np.isfinite(got).all() and got.min() >= 0
        opened = modalities[target].observed(counts[target]).toarray()
        paired = (opened.sum(axis=1) > 0) & (np.diff(counts[source].indptr) > 0)
        assert np.corrcoef(got[paired].mean(axis=0), opened[paired].mean(axis=0))[0, 1] > 0.8


def test_same_seed_same_start():
    data = world()
    (one, counts), (other, _) = linear_start(data, seed=3), linear_start(data, seed=3)
    for name in counts:
        np.testing.assert_array_equal(one.encoders[name].table, other.encoders[name].table)
        np.testing.assert_array_equal(one.decoders[name].weight, other.decoders[name].weight)


def test_too_few_cells_are_refused():
    counts = {"x": sp.csr_matrix(np.ones((5, 8), dtype=np.float32))}
    with pytest.raises(DataError, match="Only 5 training cells"):
        fit_start(counts, {"x": np.ones(5, dtype=bool)}, {"x": "pearson"})
