"""Embedding: one vector a cell, in the user's order, in her object, which is otherwise left alone."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from mudata import MuData
from tests.tiny import world

import syncyte
from syncyte.errors import ConfigError, DataError


def snapshot(adata) -> dict[str, object]:
    return {
        "x": adata.X.copy(),
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "slots": [sorted(getattr(adata, slot)) for slot in ("obsm", "varm", "layers", "uns", "obsp")],
    }


def same(before: dict[str, object], adata) -> None:
    after = snapshot(adata)
    assert (before["x"] != after["x"]).nnz == 0 and before["x"].dtype == after["x"].dtype
    assert before["obs"].equals(after["obs"]) and before["var"].equals(after["var"])
    assert before["slots"] == after["slots"]


def test_the_users_object_is_unchanged_until_written(tiny_run, tiny_data):
    data = MuData({name: tiny_data[name].copy() for name in tiny_data.mod})
    before = {name: snapshot(data[name]) for name in data.mod}
    top = sorted(data.obsm), list(data.obs_names), sorted(data.uns)
    result = syncyte.embed(tiny_run, data)
    assert (sorted(data.obsm), list(data.obs_names), sorted(data.uns)) == top
    assert result.write(data) is data
    for name in data.mod:
        same(before[name], data[name])
    np.testing.assert_array_equal(data.obsm["X_syncyte"], result.obsm["X_syncyte"])
    assert list(data.obs_names) == top[1]
    assert "embed" in data.uns["syncyte"] and tiny_run.recipe["fingerprint"] in str(data.uns["syncyte"]["embed"])


def test_scanpy_goes_on_from_it(tiny_run, tiny_data):
    adata = tiny_data["rna"].copy()
    before = snapshot(adata)
    syncyte.embed(tiny_run, adata).write(adata)
    assert (before["x"] != adata.X).nnz == 0
    sc.pp.neighbors(adata, use_rep="X_syncyte", n_neighbors=10, transformer="sklearn", method="gauss")
    agree = [
        (adata.obs["cell_type"].iloc[row.indices] == kind).mean()
        for row, kind in zip(sp.csr_matrix(adata.obsp["connectivities"]), adata.obs["cell_type"], strict=True)
    ]
    assert np.mean(agree) > 1.5 * (adata.obs["cell_type"].value_counts(normalize=True) ** 2).sum()


def test_order_minibatches_and_other_cells_do_not_matter(tiny_run, tiny_data):
    truth = syncyte.embed(tiny_run, tiny_data).obsm["X_syncyte"]
    turn = np.random.default_rng(0).permutation(240)
    names = tiny_data.obs_names[turn]
    turned = MuData({name: tiny_data[name][names].copy() for name in tiny_data.mod})
    result = syncyte.embed(tiny_run, turned)
    assert list(result.cells) == list(turned.obs_names)
    order = tiny_data.obs_names.get_indexer(result.cells)
    np.testing.assert_allclose(result.obsm["X_syncyte"], truth[order], rtol=1e-4, atol=1e-5)
    few = syncyte.embed(tiny_run, tiny_data, batch_size=7).obsm["X_syncyte"]
    np.testing.assert_allclose(few, truth, rtol=1e-4, atol=1e-5)


def test_features_are_found_by_name(tiny_run, tiny_data):
    """Reordered columns, strange ones beside them, and some missing."""
    rna = tiny_data["rna"]
    turned = rna[:, ::-1].copy()
    truth = syncyte.embed(tiny_run, rna.copy()).obsm["X_syncyte"]
    result = syncyte.embed(tiny_run, turned)
    np.testing.assert_array_equal(result.obsm["X_syncyte"], truth)
    strange = rna[:, :10].copy()
    strange.var_names = [f"Strange{i}" for i in range(10)]
    wide = anndata.concat([rna[:, :60], strange], axis=1, merge="first")
    wide.var["feature_types"] = "Gene Expression"
    found = syncyte.embed(tiny_run, wide)
    assert found.provenance["coverage"]["align_rna"] == {"features": 80, "found": 60}
    with pytest.raises(DataError, match=r"None of the 10 rna features is among the 80"):
        syncyte.embed(tiny_run, strange)


def test_files_in_files_out(tiny_run, tiny_data, tmp_path):
    tiny_data["rna"].copy().write_h5ad(tmp_path / "in.h5ad")
    result = syncyte.embed(
        tiny_run.path, tmp_path / "in.h5ad", out=tmp_path / "out.h5ad", key_added="mine", device="cpu"
    )
    written, given = (anndata.read_h5ad(tmp_path / name) for name in ("out.h5ad", "in.h5ad"))
    np.testing.assert_array_equal(written.obsm["X_mine"], result.obsm["X_syncyte"])
    assert (written.X != given.X).nnz == 0 and written.obs.equals(given.obs)
    syncyte.embed(tiny_run, tiny_data, out=tmp_path / "out.h5mu")
    assert mudata.read_h5mu(tmp_path / "out.h5mu").obsm["X_syncyte"].shape == (240, 6)
    with pytest.raises(ConfigError, match="is a folder"):
        syncyte.embed(tiny_run, tiny_data, out=tmp_path)


def test_cells_without_counts_get_a_finite_vector(tiny_run):
    data = world(20, seed=9)
    rna = data["rna"].copy()
    dense = rna.X.toarray()
    dense[:2] = 0
    rna.X = sp.csr_matrix(dense)
    with pytest.warns(UserWarning, match="no count at all"):
        vectors = syncyte.embed(tiny_run, rna).obsm["X_syncyte"]
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_axes_are_weighed_by_their_strength(tiny_run, tiny_data):
    scale = tiny_run.axes["embedding.scale"]
    assert scale[0] == 1 and (np.diff(scale) <= 1e-6).all()
    spread = syncyte.embed(tiny_run, tiny_data["rna"].copy()).obsm["X_syncyte"].std(axis=0)
    assert spread[0] == spread.max()
