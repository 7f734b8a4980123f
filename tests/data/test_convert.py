"""Cells back into files that anndata and mudata open, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from tests.data.made import dense, names, opened, pair, peaks, table

from syncyte.data import convert as module
from syncyte.data.convert import convert
from syncyte.data.describe import describe_cells
from syncyte.errors import DataError


def mosaic() -> MuData:
    return MuData({"rna": table(names(30)[:21]), "atac": peaks(names(30)[12:])})


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_several_modalities(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    cells = opened(mosaic())
    out = convert(cells, tmp_path / f"out{suffix}")
    back = opened(out)
    assert list(back.names) == list(cells.names)
    for key in ("rna", "atac"):
        np.testing.assert_array_equal(dense(back, key), dense(cells, key))
    pd.testing.assert_frame_equal(back.obs, cells.obs, check_dtype=False, check_categorical=False)
    whole = mudata.read_h5mu(out) if suffix == ".h5mu" else mudata.read_zarr(out)
    assert list(whole.obs_names) == list(cells.names) and list(whole.mod) == ["rna", "atac"]
    assert whole["rna"].shape == (21, 12) and whole["atac"].X.format == "csr"
    assert list(whole["atac"].var["chrom"][:2]) == ["chr1", "chr2"]
    assert np.array_equal(np.ravel(whole.obsm["rna"]), cells.present("rna"))
    np.testing.assert_array_equal(whole[:, "GENE3"]["rna"].X.toarray().ravel(), dense(cells, "rna")[:21, 2])


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_one_modality(tmp_path: Path, suffix: str):
    truth = table()
    out = convert(opened(truth), tmp_path / f"out{suffix}")
    back = ad.read_h5ad(out) if suffix == ".h5ad" else ad.read_zarr(out)
    np.testing.assert_array_equal(back.X.toarray(), truth.X.toarray())
    assert list(back.obs["batch"]) == list(truth.obs["batch"]) and back.uns["syncyte_read"]
    np.testing.assert_array_equal(dense(opened(out), "rna"), truth.X.toarray())


def test_a_plain_table_becomes_uncompressed_rows(tmp_path: Path):
    truth = table()
    truth.X = truth.X.tocsc()
    truth.write_h5ad(tmp_path / "slow.h5ad", compression="gzip")
    cells = opened(tmp_path / "slow.h5ad")
    assert any(
        "stored by features (CSC)" in note and "syncyte data convert slow.h5ad" in note
        for note in cells.report["notes"]
    )
    with h5py.File(convert(cells, tmp_path / "fast.h5ad")) as root:
        assert root["X"].attrs["encoding-type"] == "csr_matrix" and root["X/data"].compression is None
        assert root["X/indptr"].dtype == np.int64


def test_an_existing_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out.h5mu"
    convert(opened(pair()), out)
    before = out.read_bytes()
    monkeypatch.setattr(module, "_write_part", lambda *a: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError):
        convert(opened(pair(seed=4)), out)
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["out.h5mu"]


def test_a_file_onto_itself(tmp_path: Path):
    truth = table()
    truth.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    convert(opened(tmp_path / "a.h5ad"), tmp_path / "a.h5ad")
    np.testing.assert_array_equal(dense(opened(tmp_path / "a.h5ad"), "rna"), truth.X.toarray())


def test_the_suffix_must_fit(tmp_path: Path):
    with pytest.raises(DataError, match=r"2 modalities \(rna, atac\), an \.h5ad holds one\. Write out\.h5mu"):
        convert(opened(pair()), tmp_path / "out.h5ad")
    with pytest.raises(DataError, match=r"Use one of \.h5ad, \.h5mu, \.zarr"):
        convert(opened(pair()), tmp_path / "out.csv")


def test_the_description_says_what_matters(tmp_path: Path):
    mosaic().write(tmp_path / "cells.h5mu")
    text = describe_cells(opened(tmp_path / "cells.h5mu"))
    for part in (
        "30 (9 with rna and atac, 12 with rna alone, 9 with atac alone)",
        "21 cells x 12 features",
        "raw counts in X: whole numbers, largest seen",
        "15 regions: names taken as they are, no reference was given",
        "batch: 2 values: b0 (15), b1 (15)",
        "cells.h5mu (h5mu, ",
        "disagrees with other tables on obs column 'depth'",
    ):
        assert part in text, f"{part!r} is missing from:\n{text}"
