from __future__ import annotations

import numpy as np
import pytest

from syncyte.errors import DataError
from syncyte.metrics import embedding
from syncyte.metrics.embedding import (
    depth_correlation,
    depth_explained,
    score_clusters,
    score_embedding,
    silhouette_batch,
)
from syncyte.metrics.neighbors import graph_connectivity, lisi, nearest

# scib-metrics 0.5.10 on ``toy()`` with exact neighbours (90 for LISI, 15 for graphs, the cell itself included):
# numbers of one run, copied here. Leiden is random: over twelve seeds its NMI there ran from 0.615 to 0.651.
PEER = {
    "asw_label": 0.6048685,
    "asw_batch": 0.945207,
    "ilisi": 0.6847998,
    "clisi": 0.9236509,
    "graph_connectivity": 0.961111111,
    "isolated_labels": 0.61505806,
}
PEER_NMI, PEER_ARI = 0.651, 0.719


def toy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c", "d"], [240, 180, 120, 60])
    batches = rng.choice(["x", "y", "z"], 600, p=[0.5, 0.3, 0.2])
    batches[(labels == "d") & (batches == "z")] = "x"
    points = rng.normal(size=(600, 6))
    for axis, label in enumerate("abcd"):
        points[labels == label, axis] += 2.5
    for step, batch in enumerate("xyz"):
        points[batches == batch, 4] += 0.8 * step
    return points, labels, batches


def test_agrees_with_scib_metrics():
    points, labels, batches = toy()
    scores = score_embedding(points, labels=labels, batches=batches)
    assert {name: scores[name] for name in PEER} == pytest.approx(PEER, abs=2e-6)
    assert scores["nmi"] == pytest.approx(PEER_NMI, abs=0.06) and scores["ari"] == pytest.approx(PEER_ARI, abs=0.08)
    bio = np.mean([scores[name] for name in ("nmi", "ari", "asw_label", "clisi")])
    batch = np.mean([scores[name] for name in ("asw_batch", "ilisi", "graph_connectivity")])
    assert scores["overall"] == pytest.approx(0.6 * bio + 0.4 * batch)
    assert 0 < scores["nmi_fixed"] <= scores["nmi"]
    assert score_clusters(points, labels)["nmi"] == scores["nmi"]
    assert scores == score_embedding(points, labels=labels, batches=batches)


def test_lisi_counts_groups():
    rng = np.random.default_rng(0)
    near = nearest(rng.normal(size=(800, 3)), 90)
    found = np.median(lisi(near, rng.integers(0, 4, 800)))
    assert 3.2 < found < 4  # thirty neighbours cannot show all of four groups
    assert np.allclose(lisi(near, np.zeros(800, dtype=int)), 1)


def test_lisi_weights_have_the_asked_perplexity():
    from syncyte.metrics.neighbors import _gaussian

    distances = np.sort(np.random.default_rng(0).gamma(3, 5, (20, 89)), axis=1)
    weights = _gaussian(distances, np.log(30))
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)
    assert np.allclose(np.exp(entropy), 30, rtol=1e-4)


def test_graph_connectivity_sees_a_split_type():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 2))
    points[:50] += 100  # a quarter of the only type lies elsewhere
    assert graph_connectivity(nearest(points, 15), np.zeros(200, dtype=int)) == pytest.approx(0.75, abs=0.03)


def test_duplicates_keep_each_cell_as_its_own_first_neighbour():
    near = nearest(np.repeat(np.eye(3), 40, axis=0), 10)
    assert (near.indices[:, 0] == np.arange(120)).all()
    assert all(len(set(row)) == 10 for row in near.indices.tolist())


def test_silhouette_of_batches_leaves_out_types_of_one_batch():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(90, 2)), np.repeat(["a", "b", "c"], 30)
    batches = np.where(labels == "c", "x", np.tile(["x", "y"], 45))
    assert silhouette_batch(points, labels, batches) > 0.85
    assert np.isnan(silhouette_batch(points, labels, labels))


def test_depth_correlation_by_axis():
    depth = np.random.default_rng(0).gamma(2, 100, 500)
    axes = np.column_stack([-np.log1p(depth), np.random.default_rng(1).normal(size=500), np.ones(500)])
    found = depth_correlation(axes, depth)
    assert found[0] == pytest.approx(-1) and abs(found[1]) < 0.15 and found[2] == 0
    assert score_embedding(axes, depth=depth) == {"depth_r": pytest.approx(1)}


def test_depth_hidden_by_turned_axes_is_still_explained():
    rng = np.random.default_rng(0)
    depth = rng.gamma(2, 100, 600)
    axes = np.column_stack([np.log1p(depth), rng.normal(size=(600, 7)) * np.log1p(depth).std()])
    turned = axes @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert np.abs(depth_correlation(turned, depth)).max() < 0.9
    assert depth_explained(turned, depth) == pytest.approx(1) == depth_explained(axes, depth)
    assert depth_explained(rng.normal(size=(600, 30)), depth) < 0.05
    assert depth_explained(axes, np.full(600, 7)) == 0 and np.isnan(depth_explained(axes[:5], depth[:5]))


def test_silhouettes_of_many_cells_take_a_draw(monkeypatch):
    points, labels, batches = toy()
    monkeypatch.setattr(embedding, "MOST", 300)
    some = score_embedding(points, labels=labels, batches=batches)
    assert some["asw_label"] == pytest.approx(PEER["asw_label"], abs=0.02)
    assert some["asw_label"] != pytest.approx(PEER["asw_label"], abs=1e-6)


def test_nan_is_refused():
    with pytest.raises(DataError, match="finite"):
        score_embedding(np.full((5, 2), np.nan), labels=list("aabbb"))
