"""One door for every kind of file: the same cells come out, whatever they lay in."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr
from mudata import MuData
from tests.data.made import GENES, PEAKS, SCHEMAS, dense, names, opened, pair, peaks, table

from syncyte.data.cells import Cells
from syncyte.data.read import read


@pytest.fixture(autouse=True, scope="module")
def _new_mudata_behaviour():
    mudata.set_options(pull_on_update=False)


def same(cells: Cells, truth: MuData) -> None:
    assert list(cells.names) == list(truth.obs_names)
    assert set(cells.modalities) == set(truth.mod)
    for key in cells.modalities:
        part = cells.parts[key]
        assert list(part.features) == list(truth[key].var_names)
        here = np.flatnonzero(cells.present(key))
        assert list(cells.names[here]) == list(truth[key].obs_names)
        np.testing.assert_array_equal(cells.counts(key, here).toarray(), truth[key].X.toarray())


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_mudata_on_disk_and_in_memory(tmp_path: Path, suffix: str):
    truth = pair()
    path = tmp_path / f"cells{suffix}"
    truth.write(path) if suffix == ".h5mu" else truth.write_zarr(path)
    for source in (truth, path, str(path)):
        cells = opened(source)
        same(cells, truth)
        assert cells.report["paired"] == 20 and cells.report["modalities"] == ["rna", "atac"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_anndata_in_zarr_of_either_version(tmp_path: Path, zarr_format: int):
    truth = table()
    with ad.settings.override(zarr_write_format=zarr_format), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth.write_zarr(tmp_path / "a.zarr")
    assert zarr.open_group(str(tmp_path / "a.zarr"), mode="r").metadata.zarr_format == zarr_format
    cells = opened(tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(cells, "rna"), truth.X.toarray())
    assert cells.report["sources"][0]["kind"] == "zarr"


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_h5ad_however_compressed(tmp_path: Path, compression: str | None):
    truth = table()
    truth.write_h5ad(tmp_path / "a.h5ad", compression=compression)
    np.testing.assert_array_equal(dense(opened(tmp_path / "a.h5ad"), "rna"), truth.X.toarray())


def test_content_decides_and_not_the_name(tmp_path: Path):
    pair().write(tmp_path / "cells.h5mu")
    shutil.copy(tmp_path / "cells.h5mu", tmp_path / "named.h5ad")
    assert opened(tmp_path / "named.h5ad").modalities == ("rna", "atac")
    table().write_h5ad(tmp_path / "plain.h5ad")
    shutil.copy(tmp_path / "plain.h5ad", tmp_path / "odd.h5mu")
    assert opened(tmp_path / "odd.h5mu").modalities == ("rna",)


def test_backed_anndata(tmp_path: Path):
    truth = table()
    truth.raw = table(seed=3)
    truth.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r+")
    np.testing.assert_array_equal(dense(opened(adata, layer="X"), "rna"), truth.X.toarray())
    np.testing.assert_array_equal(dense(opened(adata), "rna"), truth.raw.X.toarray())
    some = opened(adata[5:9], layer="X")
    np.testing.assert_array_equal(dense(some, "rna"), truth.X.toarray()[5:9])
    adata.file.close()


def test_only_tables_are_read_at_opening(tmp_path: Path):
    adata = table()
    adata.obsm["X_big"] = np.zeros((20, 4))
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as root:
        root["obsm/X_big"].attrs["encoding-type"] = "no such thing"  # whoever reads it fails
    assert len(opened(tmp_path / "a.h5ad")) == 20


@pytest.mark.parametrize(
    ("features", "var", "modality"),
    [
        (GENES, {}, "rna"),
        (PEAKS, {}, "atac"),
        ([name.replace(":", "-") for name in PEAKS], {}, "atac"),
        ([name.replace(":", "_").replace("-", "_") for name in PEAKS], {}, "atac"),
        (
            GENES,
            {"feature_types": "Peaks", "chrom": "chr1", "start": range(0, 1200, 100), "end": range(50, 1250, 100)},
            "atac",
        ),
        (
            [f"peak{i}" for i in range(12)],
            {"chrom": "chr1", "start": range(0, 1200, 100), "end": range(50, 1250, 100)},
            "atac",
        ),
        (GENES, {"chrom": "chr1", "start": range(0, 1200, 100), "end": range(90000, 91200, 100)}, "rna"),
        (GENES, {"gene_ids": "x", "chrom": "chr1", "start": range(0, 1200, 100), "end": range(50, 1250, 100)}, "rna"),
        (GENES, {"feature_types": "GEX"}, "rna"),
    ],
)
def test_a_plain_table_says_what_it_is(features: list[str], var: dict, modality: str):
    adata = table(features=list(features))
    for column, values in var.items():
        adata.var[column] = values
    assert opened(adata).modalities == (modality,)


def test_the_users_word_names_a_plain_table(tmp_path: Path):
    table(features=PEAKS).write_h5ad(tmp_path / "a.h5ad")
    assert opened(tmp_path / "a.h5ad", modality="Expression").modalities == ("rna",)


def test_both_feature_types_in_one_table_are_split(tmp_path: Path):
    truth = pair()
    both = table(features=[*GENES, *PEAKS, "CD3_TotalSeq"])
    joint = np.hstack([truth["rna"].X.toarray(), truth["atac"].X.toarray(), np.ones((20, 1))])
    order = np.random.default_rng(0).permutation(joint.shape[1])  # types need not lie together
    both = both[:, order].copy()
    both.X = joint[:, order]
    types = np.array(["Gene Expression"] * 12 + ["Peaks"] * 15 + ["Antibody Capture"], dtype=object)
    both.var["feature_types"] = types[order]
    both.write_h5ad(tmp_path / "both.h5ad")
    for source in (both, tmp_path / "both.h5ad"):
        cells = opened(source)
        for key in ("rna", "atac"):
            part = cells.parts[key]
            np.testing.assert_array_equal(dense(cells, key), truth[key][:, list(part.features)].X.toarray())
        assert any("1 of type 'Antibody Capture'" in note for note in cells.report["notes"])
        assert cells.report["rna"]["depth_zero"] == 0


def test_only_one_of_several_modalities():
    cells = opened(pair(), modality="peaks")
    assert cells.modalities == ("atac",)


def test_keys_of_other_spelling_and_unknown_ones():
    prot = table(features=["CD3", "CD4"])
    mdata = MuData({"GEX": table(), "Peaks": peaks(), "prot": prot})
    cells = opened(mdata)
    assert cells.modalities == ("rna", "atac")
    assert any("'prot'" in note and "left out" in note for note in cells.report["notes"])


def mosaic() -> MuData:
    cells = names(10)
    rna, atac = table(cells[:7]), peaks(cells[4:])
    mdata = MuData({"rna": rna, "atac": atac})
    order = [cells[i] for i in (9, 0, 5, 3, 8, 1, 6, 2, 7, 4)]
    return mdata[order].copy()


def test_mosaic_keeps_the_order_of_the_mudata(tmp_path: Path):
    mdata = mosaic()
    mdata.write(tmp_path / "mosaic.h5mu")
    for source in (mdata, tmp_path / "mosaic.h5mu"):
        cells = opened(source)
        same(cells, mdata)
        assert cells.report["paired"] == 3 and cells.report["rna"]["cells"] == 7
        assert cells.present("rna").sum() == 7 and cells.present("atac").sum() == 6
    alone = opened(mdata, modality="rna")
    assert len(alone) == 7 and any("3 of 10 cells were left out" in note for note in alone.report["notes"])


def test_covariates_come_from_every_table():
    mdata = mosaic()
    mdata["rna"].obs["type"] = pd.Categorical(["T"] * 7, categories=["T", "never"])
    mdata["atac"].obs["type"] = pd.Categorical(["B"] * 6)
    mdata["atac"].obs["frip"] = np.linspace(0, 1, 6)
    mdata["rna"].obs["only"] = pd.array([1, None, 3, 4, 5, 6, 7], dtype="Int64")
    mdata.obs["site"] = "here"
    cells = opened(mdata)
    kind = cells.obs["type"]
    assert kind.notna().all() and set(kind[cells.present("rna")]) == {"T"} and set(kind[~cells.present("rna")]) == {"B"}
    assert list(kind.cat.categories) == ["B", "T"]
    assert cells.obs["frip"].notna().sum() == 6 and set(cells.obs["site"]) == {"here"}
    assert cells.obs["only"].isna().sum() == 4
    assert any("'type' (3 cells, first kept" in note for note in cells.report["notes"])
    assert "batch" in cells.obs and cells.obs["batch"].notna().all()


def test_prefixed_columns_also_answer_to_their_own_name(tmp_path: Path):
    mdata = pair()
    for key in ("rna", "atac"):
        del mdata[key].obs["batch"], mdata[key].obs["depth"]
    mdata.obs["rna:batch"] = ["x"] * 10 + [None] * 10
    mdata.obs["atac:batch"] = ["x"] * 5 + ["y"] * 15
    mdata.write(tmp_path / "a.h5mu")
    cells = opened(tmp_path / "a.h5mu")
    assert list(cells.column("batch")) == ["x"] * 10 + ["y"] * 10
    assert "rna:batch" in cells.obs
    assert any("'batch' (5 cells, first kept: columns rna:*)" in note for note in cells.report["notes"])


def test_categorical_and_nullable_covariates_on_disk(tmp_path: Path):
    adata = table()
    adata.obs["flag"] = pd.array([True, None] * 10, dtype="boolean")
    adata.obs["count"] = pd.array([1, None] * 10, dtype="Int32")
    adata.obs["text"] = pd.array(["a", None] * 10, dtype="string")
    adata.obs["group"] = pd.Categorical(["u", None] * 10, categories=["never", "u"])
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(tmp_path / "a.h5ad")
    obs = opened(tmp_path / "a.h5ad").obs
    for column in ("flag", "count", "text", "group"):
        assert list(obs[column].isna()) == [False, True] * 10, column
    assert list(obs["group"].cat.categories) == ["u"]


def test_files_of_different_modalities_are_paired_by_name(tmp_path: Path):
    cells = names(10)
    table(cells[:7]).write_h5ad(tmp_path / "rna.h5ad")
    peaks(cells[4:]).write_h5ad(tmp_path / "atac.h5ad")
    found = opened([tmp_path / "rna.h5ad", tmp_path / "atac.h5ad"])
    assert list(found.names) == cells and found.report["paired"] == 3
    assert [source["path"] for source in found.report["sources"]] == [
        str(tmp_path / "rna.h5ad"),
        str(tmp_path / "atac.h5ad"),
    ]


def test_files_of_one_modality_are_stacked_on_the_union_of_genes(tmp_path: Path):
    first, second = table(names(5, "a"), ["A", "B", "C"]), table(names(4, "b"), ["C", "D", "A"], seed=5)
    first.write_h5ad(tmp_path / "first.h5ad")
    cells = opened([tmp_path / "first.h5ad", second])
    assert list(cells.parts["rna"].features) == ["A", "B", "C", "D"]
    expected = np.zeros((9, 4))
    expected[:5, :3] = first.X.toarray()
    expected[5:, [2, 3, 0]] = second.X.toarray()
    np.testing.assert_array_equal(dense(cells, "rna"), expected)
    mixed = [8, 0, 5, 2]
    np.testing.assert_array_equal(cells.counts("rna", mixed).toarray(), expected[mixed])
    assert "4 genes in all, 2 of them in every table" in cells.report["features"]["rna"]


def test_two_multiomes_end_on_one_region_set():
    first = MuData(
        {"rna": table(names(5, "a")), "atac": peaks(names(5, "a"), ["chr1:0-100", "chr1:300-400", "chr2:0-50"])}
    )
    second = MuData(
        {"rna": table(names(4, "b")), "atac": peaks(names(4, "b"), ["chr1:50-150", "chr2:0-50", "chr3:7-9"])}
    )
    cells = opened([first, second])
    assert list(cells.parts["atac"].features) == ["chr1:0-150", "chr1:300-400", "chr2:0-50", "chr3:7-9"]
    expected = np.zeros((9, 4))
    expected[:5, :3] = first["atac"].X.toarray()
    expected[5:, [0, 2, 3]] = second["atac"].X.toarray()
    np.testing.assert_array_equal(dense(cells, "atac"), expected)
    assert cells.report["paired"] == 9


def test_the_same_regions_in_another_order_are_not_merged():
    near = ["chr1:0-100", "chr1:50-150", "chr2:5-10"]  # overlapping peaks of one set stay apart
    first, second = peaks(names(3, "a"), near), peaks(names(3, "b"), near[::-1])
    cells = opened([first, second])
    assert list(cells.parts["atac"].features) == near
    np.testing.assert_array_equal(dense(cells, "atac")[3:], second.X.toarray()[:, ::-1])


def test_a_store_and_a_file_together(tmp_path: Path):
    from syncyte.data.store import open_store, write_store

    mdata = pair(names(6, "a"))
    write_store(opened(mdata), tmp_path / "store")
    alone = opened(tmp_path / "store")
    same(alone, mdata)
    assert alone.report["store"] == open_store(tmp_path / "store").report["store"]
    assert opened(tmp_path / "store", modality="atac").modalities == ("atac",)
    more = pair(names(4, "b"), seed=7)
    both = opened([tmp_path / "store", more])
    assert len(both) == 10 and both.report["paired"] == 10
    np.testing.assert_array_equal(dense(both, "rna")[:6], mdata["rna"].X.toarray())
    assert set(both.obs["batch"]) == {"b0", "b1"}


def test_open_cells_come_back_as_they_are():
    cells = opened(pair())
    assert opened(cells) is cells


def test_the_report_is_json(tmp_path: Path):
    pair().write(tmp_path / "cells.h5mu")
    cells = opened(tmp_path / "cells.h5mu")
    report = json.loads(json.dumps(cells.report))
    assert report["sources"][0]["bytes"] == (tmp_path / "cells.h5mu").stat().st_size
    assert report["sources"][0]["fingerprint"].startswith("sha256-ends:")
    assert report["features"]["rna"].startswith("12 genes taken as named; no reference was given")
    assert report["features"]["atac"] == "15 regions: names taken as they are, no reference was given"


def test_fingerprints_follow_content(tmp_path: Path):
    table().write_h5ad(tmp_path / "a.h5ad")
    shutil.copy(tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    table(seed=3).write_h5ad(tmp_path / "c.h5ad")
    marks = [opened(tmp_path / f"{name}.h5ad").report["sources"][0]["fingerprint"] for name in "abc"]
    assert marks[0] == marks[1] != marks[2]


def test_read_gives_a_new_mudata():
    mdata = mosaic()
    for key in ("rna", "atac"):
        mdata[key].layers["counts"] = mdata[key].X.copy()
        mdata[key].X = mdata[key].X / 3
    found = read(mdata, schemas=SCHEMAS)
    assert isinstance(found, MuData) and found is not mdata
    assert list(found.obs_names) == list(mdata.obs_names)
    for key in ("rna", "atac"):
        np.testing.assert_array_equal(found[key].X.toarray(), mdata[key].layers["counts"].toarray())
        assert list(found[key].obs_names) == list(mdata[key].obs_names)
    assert found.obs["batch"].notna().all()
    assert json.loads(found.uns["syncyte_read"])["paired"] == 3
    assert mdata["rna"].X.max() < found["rna"].X.max()
    same(opened(found), found)


def test_no_file_stays_open_after_opening(tmp_path: Path):
    truth = table()
    truth.write_h5ad(tmp_path / "a.h5ad")
    cells = opened(tmp_path / "a.h5ad")
    more = table(seed=8)
    more.write_h5ad(tmp_path / "a.h5ad")  # HDF5 refuses to write to a file this process has open
    np.testing.assert_array_equal(dense(opened(tmp_path / "a.h5ad"), "rna"), more.X.toarray())
    assert len(cells) == 20


def test_reading_does_not_change_the_options_of_mudata():
    with mudata.set_options() as options:
        before = dict(options)
        read(pair(), schemas=SCHEMAS)
        assert dict(options) == before


def test_files_of_old_anndata(tmp_path: Path):
    truth = table()
    with h5py.File(tmp_path / "old.h5ad", "w") as root:  # tables as compound arrays, as before anndata 0.7
        root["X"] = truth.X.toarray()
        for key, index in (("obs", truth.obs_names), ("var", truth.var_names)):
            root[key] = np.array([(name.encode(), 1) for name in index], dtype=[("index", "S10"), ("n", "i4")])
    np.testing.assert_array_equal(dense(opened(tmp_path / "old.h5ad"), "rna"), truth.X.toarray())
