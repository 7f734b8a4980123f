"""Results as files: only the new slots differ, in one step, from and to every kind."""

from __future__ import annotations

import itertools
import time

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from tests.processes import start

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.errors import DataError
from syncyte.tasks.result import Layer, Result, read_provenance
from syncyte.tasks.write import PredictionWriter, write_result_file

NAMES = [f"cell{number}" for number in range(30)]
COUNTS = sp.random_array((30, 7), density=0.4, rng=np.random.default_rng(0), format="csr", dtype=np.float32)


def make_adata():
    adata = ad.AnnData(sp.csr_matrix(COUNTS), obs=pd.DataFrame({"n": np.arange(30)}, index=NAMES))
    adata.var_names = [f"g{number}" for number in range(7)]
    adata.obs["kind"] = pd.Categorical(["x", "y"] * 15)
    adata.layers["counts"] = adata.X.copy()
    return adata


def make_mudata():
    first, second = make_adata()[:20].copy(), make_adata()[10:].copy()
    second.var_names = [f"chr1:{number}" for number in range(7)]
    whole = mudata.MuData({"rna": first, "atac": second})
    whole.obs["donor"] = ["d1", "d2"] * 15
    return whole


def make_cells(modalities=("one", "two")):
    obs = pd.DataFrame({"donor": ["a", "b"] * 15}, index=NAMES)
    parts = {}
    size = 20 if len(modalities) > 1 else 30
    for place, name in enumerate(modalities):
        index = np.full(30, -1, dtype=np.int64)
        index[place * 10 : place * 10 + size] = np.arange(size)[::-1]
        var = pd.DataFrame(index=[f"{name}_{number}" for number in range(7)])
        parts[name] = Part(MemoryRows(sp.csr_matrix(COUNTS[:size])), index, var)
    return Cells(obs, parts)


def make_result(names=NAMES, value=1.0):
    labels = np.array(["T", "B"] * (len(names) // 2), dtype=object)
    obs = {"syncyte_cell_type": labels, "syncyte_confidence": np.full(len(names), 0.5, np.float32)}
    table = pd.DataFrame({"f1": [0.5]}, index=["T"])
    obsm = {"X_syncyte": np.full((len(names), 3), value, np.float32)}
    return Result("annotate", pd.Index(names), obsm=obsm, obs=obs, uns={"per_class": table}, provenance={"seed": 1})


def check_slots(data, value=1.0):
    assert (np.asarray(data.obsm["X_syncyte"]) == value).all() and data.obsm["X_syncyte"].shape[1] == 3
    assert list(data.obs["syncyte_cell_type"][:2]) == ["T", "B"] and (data.obs["syncyte_confidence"] == 0.5).all()
    assert read_provenance(data)["annotate"]["seed"] == 1
    assert data.uns["syncyte"]["annotate_per_class"].loc["T", "f1"] == 0.5


def elements(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda key, item: found.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize("kind", [".h5ad", ".h5mu"])
def test_only_new_slots_differ(tmp_path, kind):
    source, out = tmp_path / f"in{kind}", tmp_path / "deep" / f"out{kind}"
    data = make_adata() if kind == ".h5ad" else make_mudata()
    data.write(source)
    original = source.read_bytes()
    assert write_result_file(make_result(), source, out) == out
    assert source.read_bytes() == original and [entry.name for entry in out.parent.iterdir()] == [out.name]
    before, after = elements(source), elements(out)
    for key, value in before.items():
        np.testing.assert_array_equal(value, after[key])
    new = {key.split("/")[1] for key in set(after) - set(before)}
    assert new == {"X_syncyte", "syncyte_cell_type", "syncyte_confidence", "syncyte"}
    back = ad.read_h5ad(out) if kind == ".h5ad" else mudata.read_h5mu(out)
    check_slots(back)
    assert list(back.obs_names) == list(data.obs_names)
    assert set(data.obs.columns) < set(back.obs.columns) and back.obs.columns[0] == data.obs.columns[0]
    if kind == ".h5mu":
        back.update()
        back["rna"].obs["new"] = 1
        check_slots(back)
        assert back.obs["donor"].notna().all() and back.mod["rna"].n_obs == 20


@pytest.mark.parametrize("kind", [".h5ad", ".h5mu", ".zarr"])
def test_in_place_and_again(tmp_path, kind):
    path = tmp_path / f"data{kind}"
    if kind == ".zarr":
        make_adata().write_zarr(path)
    else:
        (make_adata() if kind == ".h5ad" else make_mudata()).write(path)
    for value in (1.0, 2.0):
        write_result_file(make_result(value=value), path, path)
    back = {".h5ad": ad.read_h5ad, ".h5mu": mudata.read_h5mu, ".zarr": ad.read_zarr}[kind](path)
    check_slots(back, 2.0)
    np.testing.assert_array_equal((back if kind != ".h5mu" else back["rna"]).X.toarray()[:20], COUNTS.toarray()[:20])


def test_zarr_of_mudata_and_consolidation(tmp_path):
    make_mudata().write_zarr(str(tmp_path / "m.zarr"))
    make_adata().write_zarr(tmp_path / "a.zarr")
    write_result_file(make_result(), tmp_path / "m.zarr", tmp_path / "m2.zarr")
    write_result_file(make_result(), tmp_path / "a.zarr", tmp_path / "a2.zarr")
    check_slots(mudata.read_zarr(str(tmp_path / "m2.zarr")))
    assert zarr.open_group(tmp_path / "a2.zarr", mode="r").metadata.consolidated_metadata is not None
    assert "X_syncyte" not in ad.read_zarr(tmp_path / "a.zarr").obsm
    check_slots(ad.read_zarr(tmp_path / "a2.zarr"))


def test_foreign_slot_refused_before_copying(tmp_path):
    adata = make_adata()
    adata.obsm["X_syncyte"] = np.zeros((30, 2))
    adata.uns["syncyte"] = "mine"
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match=r"obsm\['X_syncyte'\], uns\['syncyte'\] exists already"):
        write_result_file(make_result(), tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5ad"]
    write_result_file(make_result(), tmp_path / "a.h5ad", tmp_path / "b.h5ad", key_added="other")
    assert {"X_syncyte", "X_other"} == set(ad.read_h5ad(tmp_path / "b.h5ad").obsm)
    write_result_file(make_result(), tmp_path / "a.h5ad", tmp_path / "b.h5ad", overwrite=True)
    check_slots(ad.read_h5ad(tmp_path / "b.h5ad"))


def test_missing_cells_and_layers_in_files(tmp_path):
    make_mudata().write(tmp_path / "a.h5mu")
    features = pd.Index(["chr1:2", "nowhere"])
    layer = Layer(np.arange(56, dtype=np.float32).reshape(28, 2), features)
    result = Result("translate", pd.Index(NAMES[2:]), layers={"syncyte_from_rna": layer})
    write_result_file(result, tmp_path / "a.h5mu", tmp_path / "a.h5mu")
    back = mudata.read_h5mu(tmp_path / "a.h5mu")["atac"]
    np.testing.assert_array_equal(back.layers["syncyte_from_rna"][:, 2], layer.values[8:, 0])
    write_result_file(make_result(NAMES[2:]), tmp_path / "a.h5mu", tmp_path / "b.h5mu")
    both = mudata.read_h5mu(tmp_path / "b.h5mu")
    assert list(both.obs["syncyte_cell_type"][:3]) == ["", "", "T"] and np.isnan(both.obsm["X_syncyte"][0]).all()


def test_plain_file_becomes_multimodal_whole(tmp_path):
    make_adata().write_h5ad(tmp_path / "a.h5ad")
    cells = make_cells(["one"])
    write_result_file(make_result(), tmp_path / "a.h5ad", tmp_path / "b.h5mu", cells=cells)
    back = mudata.read_h5mu(tmp_path / "b.h5mu")
    check_slots(back)
    assert list(back.mod) == ["one"] and list(back.obs_names) == NAMES and "kind" in back.obs
    np.testing.assert_array_equal(back["one"].layers["counts"].toarray(), COUNTS.toarray())


@pytest.mark.parametrize("kind", [".h5mu", ".zarr"])
def test_cells_are_written_in_order(tmp_path, kind):
    cells = make_cells()
    out = tmp_path / f"out{kind}"
    write_result_file(make_result(), cells, out)
    back = mudata.read_h5mu(out) if kind == ".h5mu" else mudata.read_zarr(str(out))
    check_slots(back)
    assert list(back.obs_names) == NAMES and list(back.obs["donor"]) == ["a", "b"] * 15
    for name in cells.modalities:
        assert list(back[name].obs_names) == list(cells.names[cells.present(name)])
        expected = cells.counts(name)[cells.present(name)]
        np.testing.assert_array_equal(back[name].X.toarray(), expected.toarray())
        assert list(back[name].var_names) == list(cells.part(name).features)


@pytest.mark.parametrize("kind", [".h5ad", ".zarr"])
def test_one_modality_becomes_anndata(tmp_path, kind):
    cells = make_cells(["one"])
    write_result_file(make_result(), cells, tmp_path / f"out{kind}")
    back = ad.read_h5ad(tmp_path / f"out{kind}") if kind == ".h5ad" else ad.read_zarr(tmp_path / f"out{kind}")
    check_slots(back)
    np.testing.assert_array_equal(back.X.toarray(), cells.counts("one").toarray())


def test_objects_in_memory_are_left_alone(tmp_path):
    adata, whole = make_adata(), make_mudata()
    adata.obs["text"] = "plain"
    write_result_file(make_result(), adata, tmp_path / "a.h5ad")
    write_result_file(make_result(), adata, tmp_path / "a.zarr")
    write_result_file(make_result(), whole, tmp_path / "a.h5mu")
    write_result_file(make_result(), whole, tmp_path / "m.zarr")
    write_result_file(make_result(), adata, tmp_path / "b.h5mu", cells=make_cells(["one"]))
    assert "X_syncyte" not in adata.obsm and "X_syncyte" not in whole.obsm and adata.obs["text"].dtype == object
    check_slots(ad.read_h5ad(tmp_path / "a.h5ad"))
    check_slots(ad.read_zarr(tmp_path / "a.zarr"))
    check_slots(mudata.read_zarr(str(tmp_path / "m.zarr")))
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    write_result_file(make_result(value=2.0), backed, tmp_path / "c.h5ad")
    assert backed.filename == tmp_path / "a.h5ad" and backed[:5].to_memory().X.sum() == adata[:5].X.sum()
    check_slots(ad.read_h5ad(tmp_path / "c.h5ad"), 2.0)
    for name in ("a", "b"):
        check_slots(mudata.read_h5mu(tmp_path / f"{name}.h5mu"))


def test_bad_files_are_said(tmp_path):
    make_adata().write_h5ad(tmp_path / "a.h5ad")
    half = tmp_path / "half.h5ad"
    half.write_bytes((tmp_path / "a.h5ad").read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        write_result_file(make_result(), half, tmp_path / "b.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["obs"] = np.zeros(3, dtype=[("index", "S5"), ("n", "f4")])
    with pytest.raises(DataError, match=r"Save it anew: anndata.read_h5ad"):
        write_result_file(make_result(), tmp_path / "old.h5ad", tmp_path / "b.h5ad")
    with pytest.raises(DataError, match=r"'out.txt'.*\.h5ad, \.h5mu, \.zarr"):
        write_result_file(make_result(), tmp_path / "a.h5ad", tmp_path / "out.txt")
    with pytest.raises(DataError, match=r"2 modalities \(one, two\).*\.h5mu"):
        write_result_file(make_result(), make_cells(), tmp_path / "b.h5ad")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write_result_file(make_result(), tmp_path / "a.h5ad", tmp_path / "file" / "b.h5ad")
    assert not list(tmp_path.glob("b.*")) and not list(tmp_path.glob(".*"))


def rewrite(path, names, ready):
    """Write one value after another until killed."""
    for value in itertools.count(1.0):
        result = Result("embed", pd.Index(names), obsm={"X_syncyte": np.full((len(names), 200), value, np.float32)})
        write_result_file(result, path, path)
        ready.touch()  # libraries are imported by now


def test_killed_at_any_moment_leaves_old_or_new(tmp_path):
    path, names = tmp_path / "a.h5ad", [f"cell{number}" for number in range(300)]
    adata = ad.AnnData(sp.csr_matrix(np.ones((300, 50), np.float32)), obs=pd.DataFrame(index=names))
    adata.write_h5ad(path)
    rng = np.random.default_rng(0)
    values = set()
    for number in range(4):
        ready = tmp_path / f"ready{number}"
        worker = start(rewrite, path, names, ready)
        while worker.is_alive() and not ready.exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0.05, 1.5))
        assert worker.is_alive()
        worker.kill()
        worker.join()
        back = ad.read_h5ad(path)
        assert back.X.sum() == 15_000 and list(back.obs_names) == names
        found = np.unique(back.obsm["X_syncyte"])
        assert len(found) == 1
        values.update(found)
    assert max(values) > 2


@pytest.mark.parametrize("sparse", [False, True])
def test_predictions_in_blocks(tmp_path, sparse):
    values = np.where(COUNTS.toarray() > 0, COUNTS.toarray(), 0).astype(np.float32)
    obs, var = pd.DataFrame({"n": np.arange(30)}, index=NAMES), pd.DataFrame(index=[f"r{i}" for i in range(7)])
    out = tmp_path / "pred.h5ad"
    with PredictionWriter(out, obs, var, sparse=sparse, uns={"syncyte": {"translate": "{}"}}) as writer:
        for start in range(0, 30, 8):
            block = values[start : start + 8]
            writer.append(sp.csr_matrix(block) if start == 8 else block)
        assert not out.exists()
    whole, backed = ad.read_h5ad(out), ad.read_h5ad(out, backed="r")
    assert sp.issparse(whole.X) is sparse and whole.X.dtype == np.float32
    np.testing.assert_array_equal(whole.X.toarray() if sparse else whole.X, values)
    rows = backed[10:12].to_memory().X
    np.testing.assert_array_equal(rows.toarray() if sparse else rows, values[10:12])
    assert list(whole.obs_names) == NAMES and list(whole.var_names) == list(var.index) and whole.uns["syncyte"]
    backed.file.close()


def test_incomplete_predictions_leave_nothing(tmp_path):
    obs, var = pd.DataFrame(index=NAMES), pd.DataFrame(index=["a", "b"])
    out = tmp_path / "pred.h5ad"
    with pytest.raises(DataError, match=r"10 of 30 cells"), PredictionWriter(out, obs, var) as writer:
        writer.append(np.zeros((10, 2), np.float32))
    with pytest.raises(DataError, match=r"\(10, 3\) after 0 rows"), PredictionWriter(out, obs, var) as writer:
        writer.append(np.zeros((10, 3), np.float32))
    with pytest.raises(KeyboardInterrupt), PredictionWriter(out, obs, var, sparse=True) as writer:
        writer.append(np.zeros((10, 2), np.float32))
        raise KeyboardInterrupt
    with pytest.raises(DataError, match=r"NAME\.h5ad"), PredictionWriter(tmp_path / "a.txt", obs, var):
        pass
    assert list(tmp_path.iterdir()) == []
    with PredictionWriter(out, obs[:0], var) as writer:
        pass
    with PredictionWriter(tmp_path / "none.h5ad", obs[:0], var, sparse=True) as writer:
        pass
    assert ad.read_h5ad(out).shape == ad.read_h5ad(tmp_path / "none.h5ad").shape == (0, 2)


def test_columns_of_text_beside_nothing_are_written(tmp_path):
    """Of cells and of features, numbers among the words; the caller's tables stay as they are."""
    obs = pd.DataFrame({"sample": ["a", None, np.nan], "mixed": ["b", 3, None]}, index=list("xyz"))
    obs = obs.assign(n=[1.0, np.nan, 2.0], whole=["p", "q", "q"], empty=None)
    var = pd.DataFrame({"symbol": ["g", None]}, index=["f1", "f2"])
    before = obs.copy(), var.copy()
    with PredictionWriter(tmp_path / "p.h5ad", obs, var) as writer:
        writer.append(np.ones((3, 2), np.float32))
    found = ad.read_h5ad(tmp_path / "p.h5ad")
    assert found.obs["sample"].astype(object).where(found.obs["sample"].notna(), None).tolist() == ["a", None, None]
    assert found.obs["mixed"].astype(object).where(found.obs["mixed"].notna(), None).tolist() == ["b", "3", None]
    assert found.obs["whole"].tolist() == ["p", "q", "q"] and found.obs["empty"].isna().all()
    assert found.obs["n"].tolist()[0::2] == [1.0, 2.0] and found.obs["n"].isna().tolist() == [False, True, False]
    assert found.var["symbol"].isna().tolist() == [False, True]
    pd.testing.assert_frame_equal(obs, before[0])
    pd.testing.assert_frame_equal(var, before[1])


def test_memory_stays_flat(tmp_path):
    import tracemalloc

    obs, var = pd.DataFrame(index=map(str, range(4000))), pd.DataFrame(index=map(str, range(2000)))
    block = np.ones((200, 2000), np.float32)
    tracemalloc.start()
    with PredictionWriter(tmp_path / "p.h5ad", obs, var) as writer:
        for _ in range(20):
            writer.append(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # the matrix has 32 MB


@pytest.mark.parametrize("name", ["pbmc3k/rna.h5ad", "muon_multiome_tiny/pbmc_tiny.h5mu"])
def test_real_files(real, name, tmp_path):
    source = real(name)
    out = tmp_path / source.name
    read = ad.read_h5ad if source.suffix == ".h5ad" else mudata.read_h5mu
    before = read(source)
    names = list(before.obs_names)[::-1]
    write_result_file(make_result(names[: len(names) // 2 * 2]), source, out)
    after = read(out)
    assert list(after.obs_names) == list(before.obs_names) and "syncyte_cell_type" in after.obs
    assert after.obs[list(before.obs.columns)].equals(before.obs)
    known = after.obs["syncyte_cell_type"] != ""
    assert known.sum() == len(names) // 2 * 2 and (after.obsm["X_syncyte"][known.to_numpy()] == 1).all()
    olds, news = elements(source), elements(out)
    assert all(np.array_equal(value, news[key]) for key, value in olds.items())
