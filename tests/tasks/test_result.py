"""Results in memory: aligned by name, nothing else touched, own slots replaced, foreign ones refused."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from syncyte.errors import DataError
from syncyte.tasks.result import Layer, Result, read_provenance

NAMES = [f"cell{number}" for number in range(12)]


def make_adata(names=NAMES, features=6, prefix="g"):
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(1.0, (len(names), features)).astype(np.float32))
    obs = pd.DataFrame({"donor": rng.choice(["a", "b"], len(names))}, index=list(names))
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"{prefix}{number}" for number in range(features)]))
    adata.obsm["X_pca"] = rng.normal(size=(len(names), 3))
    adata.uns["other"] = {"kept": 1}
    return adata


def make_mudata():
    mods = {"rna": make_adata(NAMES[:9]), "atac": make_adata(NAMES[3:], 8, "chr1:")}
    for adata in mods.values():
        del adata.uns["other"]
    whole = mudata.MuData(mods)
    whole.obs["donor"] = "d"
    return whole


def embed(names=NAMES, task="embed", **more):
    values = np.arange(len(names) * 4, dtype=np.float32).reshape(len(names), 4)
    return Result(task, pd.Index(names), obsm={"X_syncyte": values}, provenance={"seed": 3, "x": None}, **more)


def annotate(names=NAMES, dtype=object):
    labels = pd.Series(["T", "B"] * (len(names) // 2), index=names, dtype=dtype)
    score = np.linspace(0.1, 0.9, len(names), dtype=np.float32)
    table = pd.DataFrame({"n": [1, 2], "mixed": [None, "a"]}, index=["T", "B"])
    obs = {"syncyte_cell_type": labels, "syncyte_confidence": score}
    return Result("annotate", pd.Index(names), obs=obs, uns={"per_class": table}, metrics={"accuracy": 0.5})


def test_written_by_name_and_nothing_else_changes():
    adata = make_adata()
    before = adata.copy()
    shuffled = NAMES[::-1]
    result = embed(shuffled)
    assert result.write(adata) is adata
    np.testing.assert_array_equal(adata.obsm["X_syncyte"], result.obsm["X_syncyte"][::-1])
    del adata.obsm["X_syncyte"], adata.uns["syncyte"]
    assert (adata.X != before.X).nnz == 0 and adata.obs.equals(before.obs) and adata.uns == before.uns
    assert list(adata.obs_names) == NAMES and set(adata.obsm) == {"X_pca"}


def test_missing_cells_get_nan_and_empty():
    adata = make_adata()
    embed(NAMES[2:]).write(adata)
    annotate(NAMES[2:]).write(adata)
    assert np.isnan(adata.obsm["X_syncyte"][:2]).all() and np.isfinite(adata.obsm["X_syncyte"][2:]).all()
    assert list(adata.obs["syncyte_cell_type"][:3]) == ["", "", "T"]
    assert adata.obs["syncyte_confidence"].isna().sum() == 2
    flags = Result("embed", pd.Index(NAMES[1:]), obs={"syncyte_ok": np.ones(11, bool), "syncyte_n": np.arange(11)})
    flags.write(adata)
    assert adata.obs["syncyte_ok"].isna().sum() == 1 and adata.obs["syncyte_n"][1] == 0


def test_no_known_cell_and_repeated_names_are_said():
    with pytest.raises(DataError, match=r"None of the 12 cells .* among the 2 cells of the result"):
        embed(["x", "y"]).write(make_adata())
    with pytest.raises(DataError, match=r"names 1 cells more than once .*'cell1'.*obs_names_make_unique"):
        embed().write(make_adata(["cell1", "cell1"]))
    with pytest.raises(DataError, match="The result names 1 cells"):
        embed(["a", "a"])
    with pytest.raises(DataError, match="3 rows for 2 cells"):
        Result("embed", pd.Index(["a", "b"]), obsm={"X_syncyte": np.zeros((3, 2))})


@pytest.mark.parametrize("make", [make_adata, make_mudata])
def test_own_slots_are_replaced_foreign_ones_refused(make):
    data = make()
    data.obsm["X_syncyte"] = np.ones((12, 2))
    with pytest.raises(DataError, match=r"obsm\['X_syncyte'\] exists already .*overwrite=True"):
        embed().write(data)
    assert (data.obsm["X_syncyte"] == 1).all() and "syncyte" not in data.uns
    embed().write(data, key_added="mine")
    assert "X_mine" in data.obsm and "mine" in data.uns
    embed().write(data, overwrite=True)
    embed(NAMES[::-1]).write(data)  # now its own
    assert data.obsm["X_syncyte"].shape == (12, 4)


def test_foreign_uns_is_refused_and_earlier_slots_stay_own():
    adata = make_adata()
    adata.uns["syncyte"] = "a note of mine"
    with pytest.raises(DataError, match=r"uns\['syncyte'\] exists"):
        embed().write(adata)
    embed().write(adata, overwrite=True)
    first = annotate()
    fine = Result("annotate", first.cells, obs={"syncyte_fine": first.obs["syncyte_cell_type"]})
    for result in (first, fine, first, fine):
        result.write(adata)
    assert set(read_provenance(adata)) == {"embed", "annotate"}
    assert read_provenance(adata)["embed"]["seed"] == 3 and read_provenance(adata)["embed"]["x"] is None


def test_round_trip_h5ad_and_h5mu(tmp_path):
    adata, whole = make_adata(), make_mudata()
    for data in (adata, whole):
        embed().write(data)
        annotate().write(data, key_added="second")
        annotate(dtype="category").write(data)
    adata.write_h5ad(tmp_path / "a.h5ad")
    whole.write(tmp_path / "a.h5mu")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), mudata.read_h5mu(tmp_path / "a.h5mu")):
        assert list(back.obs_names) == list(adata.obs_names if back.n_vars == 6 else whole.obs_names)
        np.testing.assert_array_equal(back.obsm["X_syncyte"], embed().slots(back.obs_names).obsm["X_syncyte"])
        assert list(back.obs["syncyte_cell_type"]) == ["T", "B"] * 6
        assert list(back.obs["second_cell_type"]) == ["T", "B"] * 6
        assert read_provenance(back)["annotate"]["metrics"] == {"accuracy": 0.5}
        assert back.uns["syncyte"]["annotate_per_class"].loc["B", "mixed"] == "a"
        annotate().write(back)  # still known as its own after the trip
    assert not any("X_syncyte" in mod.obsm for mod in whole.mod.values())


def test_category_order_is_kept():
    adata = make_adata()
    labels = pd.Categorical(["T", "B"] * 6, categories=["T", "B", "NK"])
    Result("annotate", pd.Index(NAMES), obs={"syncyte_x": pd.Series(labels)}).write(adata)
    assert list(adata.obs["syncyte_x"].cat.categories) == ["T", "B", "NK"]


def test_scanpy_follows():
    import scanpy as sc

    adata = make_adata([f"c{number}" for number in range(40)])
    embed(list(adata.obs_names)).write(adata)
    sc.pp.neighbors(adata, use_rep="X_syncyte", n_neighbors=5)
    assert adata.obsp["connectivities"].shape == (40, 40)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_layer_goes_where_the_features_are(kind):
    whole = make_mudata()
    features = pd.Index(["chr1:5", "chr1:0", "elsewhere"])
    values = np.arange(1, 37, dtype=np.float32).reshape(12, 3)
    result = Result("translate", pd.Index(NAMES), layers={"syncyte_from_rna": Layer(kind(values), features)})
    result.write(whole)
    layer = whole["atac"].layers["syncyte_from_rna"]
    layer = layer.toarray() if sp.issparse(layer) else layer
    np.testing.assert_array_equal(layer[:, 0], values[3:, 1])
    np.testing.assert_array_equal(layer[:, 5], values[3:, 0])
    unknown = layer[:, 1]
    assert (unknown == 0).all() if kind is sp.csr_matrix else np.isnan(unknown).all()
    assert "syncyte_from_rna" not in whole["rna"].layers
    assert result.predicted().shape == (12, 3)
    with pytest.raises(DataError, match=r"none of the 3 predicted features .*predicted\(\)"):
        result.write(make_adata())
    result.write(whole)


def test_views_become_real():
    adata = make_adata()
    view = adata[:5]
    embed().write(view)
    assert view.obsm["X_syncyte"].shape == (5, 4) and "X_syncyte" not in adata.obsm


def test_table_holds_every_number():
    result = Result("annotate", pd.Index(NAMES), obsm=embed().obsm, obs=annotate().obs)
    table = result.table()
    assert list(table.columns)[:3] == ["syncyte_cell_type", "syncyte_confidence", "X_syncyte_1"]
    assert table.shape == (12, 6) and table.loc["cell1", "X_syncyte_4"] == 7


def test_plots_for_every_kind(monkeypatch):
    import syncyte.tasks.plot as plot

    monkeypatch.setattr(plot, "umap_coordinates", lambda values, seed: (np.arange(len(values)), values[:, :2]))
    color = pd.Series(["x", "y"] * 6, index=NAMES, name="kind")
    both = Result("annotate", pd.Index(NAMES), obsm=embed().obsm, obs=annotate().obs)
    layer = Layer(np.ones((12, 2), np.float32), pd.Index(["a", "b"]))
    predicted = Result("translate", pd.Index(NAMES), layers={"syncyte_from_rna": layer})
    drawn = [
        embed().plot(),
        embed().plot(color=color),
        embed().plot(color=np.arange(12.0)),
        both.plot("syncyte_cell_type"),
        annotate().plot(),
        predicted.plot(),
    ]
    for figure in drawn:
        figure.canvas.draw()
    assert len(drawn[3].axes) == 2
    with pytest.raises(DataError, match=r"Unknown column of the result 'cell_typ'.*color=adata.obs"):
        both.plot("cell_typ")
    with pytest.raises(DataError, match="nothing to draw"):
        Result("embed", pd.Index(NAMES)).plot()
