"""Bad days: each kind of bad input is refused with what was found, what was expected and what to do."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from tests.data.made import GENES, PEAKS, names, opened, pair, peaks, table

from syncyte.data.convert import convert
from syncyte.data.sources import from_anndata
from syncyte.errors import DataError, SyncyteError


def with_values(change: Callable[[np.ndarray], None], **options) -> AnnData:
    adata = table(**options)
    values = adata.X.toarray()
    change(values)
    adata.X = sp.csr_matrix(values)
    return adata


def put(row: int, column: int, value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[row, column] = value

    return change


def truncated(folder: Path) -> Path:
    table(names(400)).write_h5ad(folder / "cut.h5ad")
    data = (folder / "cut.h5ad").read_bytes()
    (folder / "cut.h5ad").write_bytes(data[: len(data) // 2])
    return folder / "cut.h5ad"


def file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def packed(folder: Path) -> Path:
    table().write_h5ad(folder / "plain.h5ad")
    return file(folder, "packed.h5ad", gzip.compress((folder / "plain.h5ad").read_bytes()))


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "cells.zarr", "w") as target:
        target.writestr("a", "b")
    return folder / "cells.zarr"


def misnamed(folder: Path) -> Path:
    table().write_h5ad(folder / "pbmc_rna.h5ad")
    return folder / "pbmc_rna.h5a"


def no_cells_folder(folder: Path) -> Path:
    (folder / "outs" / "filtered_feature_bc_matrix").mkdir(parents=True)
    (folder / "outs" / "filtered_feature_bc_matrix" / "matrix.mtx.gz").touch()
    return folder / "outs"


def other_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "weights.h5", "w") as root:
        root["layer_1"] = [1, 2]
    return folder / "weights.h5"


def without_var(folder: Path) -> Path:
    table().write_h5ad(folder / "novar.h5ad")
    with h5py.File(folder / "novar.h5ad", "r+") as root:
        del root["var"][root["var"].attrs["_index"]]
    return folder / "novar.h5ad"


def no_table(folder: Path) -> Path:
    table().write_h5ad(folder / "notable.h5ad")
    with h5py.File(folder / "notable.h5ad", "r+") as root:
        del root["obs"].attrs["encoding-type"]
    return folder / "notable.h5ad"


def packed_damage(folder: Path) -> Path:
    table(names(300)).write_h5ad(folder / "holes.h5ad", compression="gzip")
    with h5py.File(folder / "holes.h5ad") as root:
        chunk = root["X/data"].id.get_chunk_info(0)
    data = bytearray((folder / "holes.h5ad").read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    return file(folder, "holes.h5ad", bytes(data))


def text_matrix(folder: Path) -> Path:
    table().write_h5ad(folder / "text.h5ad")
    with h5py.File(folder / "text.h5ad", "r+") as root:
        del root["X"]
        ad.io.write_elem(root, "X", np.full((20, 12), "high", dtype=object))
    return folder / "text.h5ad"


def wrong_shape(folder: Path) -> Path:
    table().write_h5ad(folder / "shape.h5ad")
    with h5py.File(folder / "shape.h5ad", "r+") as root:
        del root["X"]
        ad.io.write_elem(root, "X", sp.csr_matrix(np.ones((19, 12))))
    return folder / "shape.h5ad"


def saved(adata: AnnData | MuData, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        adata.write(folder / name)
        return folder / name

    return write


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated h5ad": (truncated, r"cut\.h5ad cannot be opened .* cut short .* copy or download it again"),
    "empty file": (lambda f: file(f, "a.h5ad", b""), r"a\.h5ad is empty \(0 bytes\)"),
    "gzip junk": (lambda f: file(f, "a.h5ad", b"\x1f\x8b junk"), r"gzip-compressed, not HDF5.*gunzip -c a\.h5ad"),
    "gzipped h5ad": (packed, r"gzip-compressed, not HDF5"),
    "text named h5ad": (lambda f: file(f, "a.h5ad", b"<html>404</html>"), r"text file \(it begins '<html>404"),
    "text with blank lines": (lambda f: file(f, "a.h5ad", b"\n\n"), r"is a text file"),
    "binary junk": (lambda f: file(f, "a.h5ad", bytes(range(256))), r"not HDF5, or its beginning is damaged"),
    "zip named zarr": (archive, r"cells\.zarr is a zip archive\. Unpack it"),
    "missing file": (misnamed, r"There is no .*pbmc_rna\.h5a\. Did you mean .*pbmc_rna\.h5ad\?"),
    "missing folder": (lambda f: f / "no" / "such" / "a.h5ad", r"its folder does not exist \(the nearest that does is"),
    "folder of something else": (
        no_cells_folder,
        r"is no zarr folder, 10x folder .*Did you mean .*filtered_feature_bc_matrix\?",
    ),
    "HDF5 of something else": (other_hdf5, r"neither AnnData, MuData nor a 10x matrix \(it holds layer_1\)"),
    "damaged table": (without_var, r"novar\.h5ad cannot be read .* save it anew"),
    "table that is none": (no_table, r"notable\.h5ad (is damaged: /obs is no table|cannot be read)"),
    "damaged chunk": (packed_damage, r"holes\.h5ad cannot be read .* copy it again"),
    "text matrix": (text_matrix, r"text\.h5ad, X, holds text, not numbers"),
    "wrong shape": (wrong_shape, r"X is 19 x 12, its tables name 20 cells and 12 features"),
    "negative counts": (
        saved(with_values(put(3, 2, -4)), "a.h5ad"),
        r"negative counts: -4 at cell 'cell3', feature 'GENE3'",
    ),
    "NaN": (saved(with_values(put(1, 0, np.nan)), "a.h5ad"), r"holds NaN at cell 'cell1', feature 'GENE1'.*isfinite"),
    "infinity": (
        saved(with_values(put(19, 11, np.inf)), "a.h5ad"),
        r"holds infinity at cell 'cell19', feature 'GENE12'",
    ),
    "all zero": (saved(with_values(lambda v: v.fill(0)), "a.h5ad"), r"a\.h5ad holds nothing but zeros"),
    "no cells": (saved(table()[:0].copy(), "a.h5ad"), r"a\.h5ad has no cells \(0 x 12\)"),
    "no features": (saved(table()[:, :0].copy(), "a.h5ad"), r"a\.h5ad has no features \(20 x 0\)"),
    "unparsable peaks": (
        saved(peaks(features=[*PEAKS[:9], "chrom7"]), "a.h5ad"),
        r"1 of 10 names are not regions.*'chrom7'",
    ),
    "reversed intervals": (
        saved(peaks(features=[*PEAKS, "chr1:900-100"]), "a.h5ad"),
        r"reversed.*chr1:900-100.*start < end",
    ),
    "only unknown modalities": (
        saved(MuData({"prot": table()}), "a.h5mu"),
        r"no known modality \(found: 'prot'; known: rna",
    ),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore")
def test_bad_file(tmp_path: Path, kind: str):
    make, message = FILES[kind]
    path = make(tmp_path)
    with pytest.raises(SyncyteError) as error:
        opened(path)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def logged() -> AnnData:
    return with_values(lambda values: np.log1p(values, out=values))


def repeated() -> AnnData:
    adata = table()
    adata.obs_names = ["cell0", *adata.obs_names[:-1]]
    return adata


def typed(name: str) -> AnnData:
    adata = table()
    adata.var["feature_types"] = name
    return adata


def booleans() -> AnnData:
    adata = table()
    adata.X = adata.X.astype(bool)
    return adata


def empty_half() -> AnnData:
    adata = with_values(lambda values: values[:, 6:].fill(0))
    adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Peaks"] * 6
    return adata


OBJECTS: dict[str, tuple[Callable[[], object], dict, str]] = {
    "log values": (logged, {}, r'log-normalised.*adata\.layers\["counts"\] = raw_counts'),
    "duplicate cell names": (repeated, {}, r"1 cell names that occur more than once.*adata\.obs_names_make_unique\(\)"),
    "booleans": (booleans, {}, r'AnnData, X, holds booleans.*adata\.X\.astype\("float32"\)'),
    "no matrix": (lambda: AnnData(obs=table().obs, var=table().var), {}, r"no X, raw\.X or layers\['counts'\]"),
    "unknown modality": (
        table,
        {"modality": "atacc"},
        r"Unknown modality 'atacc'\. Did you mean 'atac'\? Known: atac, rna",
    ),
    "missing modality": (
        lambda: MuData({"rna": table()}),
        {"modality": "atac"},
        r"no modality 'atac' \(it holds: rna\)",
    ),
    "unknown feature type": (
        lambda: typed("Antibody Capture"),
        {},
        r"no known feature type.*Antibody Capture; known: Gene",
    ),
    "unknown layer": (logged, {"layer": "cuonts"}, r"Unknown layer 'cuonts'"),
    "an empty modality": (empty_half, {}, r"nothing but zeros in its atac features"),
    "same names in two files": (
        lambda: [table(), table(seed=2)],
        {},
        r"both hold rna and share 20 cell names \(first: 'cell0'\)",
    ),
    "no input": (list, {}, r"No input was given"),
    "something else": (lambda: pd.DataFrame(), {}, r"Cannot read cells from DataFrame"),
}


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.filterwarnings("ignore")
def test_bad_object(kind: str):
    make, options, message = OBJECTS[kind]
    with pytest.raises(DataError) as error:
        opened(make(), **options)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_lazy_and_foreign_arrays_are_refused():
    slot = from_anndata(SimpleNamespace(layers={}, raw=None, X=range(3), obs=None, var=None), "AnnData").slots[0]
    with pytest.raises(DataError, match=r"AnnData, X, is a builtins\.range, which is not read here. Give the path"):
        slot.open()


def test_colliding_files_come_with_the_line_that_mends_them(tmp_path: Path):
    for name, seed in (("one", 0), ("two", 1)):
        table(names(5, "AAAC"), seed=seed).write_h5ad(tmp_path / f"{name}.h5ad")
    with pytest.raises(DataError) as error:
        opened([tmp_path / "one.h5ad", tmp_path / "two.h5ad"])
    message = str(error.value)
    assert "one.h5ad and two.h5ad both hold rna and share 5 cell names (first: 'AAAC0')" in message
    line = message.rsplit(": ", 1)[1]
    adata = ad.read_h5ad(tmp_path / "two.h5ad")
    exec(line, {"adata": adata})  # the line is one that runs, and it helps
    adata.write_h5ad(tmp_path / "two.h5ad")
    assert len(opened([tmp_path / "one.h5ad", tmp_path / "two.h5ad"])) == 10


def test_the_line_for_missing_values_mends_them():
    adata = with_values(put(1, 0, np.nan))
    with pytest.raises(DataError) as error:
        opened(adata)
    line = str(error.value).rsplit("zero: ", 1)[1]
    exec(line, {"adata": adata, "scipy": __import__("scipy.sparse"), "numpy": np})
    assert len(opened(adata)) == 20


def test_unknown_covariate_with_a_suggestion():
    cells = opened(pair())
    with pytest.raises(DataError, match=r"Unknown obs column 'bacth'\. Did you mean 'batch'\?"):
        cells.column("bacth")


def test_missing_modality_of_opened_cells():
    with pytest.raises(DataError, match=r"no modality 'atac' \(found: rna\).*--modality"):
        opened(table()).counts("atac")


@pytest.mark.parametrize("place", ["blocker/out.h5mu", "folder.h5mu"])
def test_output_that_cannot_be_written(tmp_path: Path, place: str):
    (tmp_path / "blocker").write_text("a file")
    (tmp_path / "folder.h5mu").mkdir()
    with pytest.raises(DataError, match="Cannot write"):
        convert(opened(pair()), tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocker", "folder.h5mu"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(tmp_path: Path):
    table().write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").chmod(0)
    with pytest.raises(DataError):
        opened(tmp_path / "a.h5ad")


def test_a_store_that_is_damaged_is_named(tmp_path: Path):
    from syncyte.data.store import write_store

    write_store(opened(pair()), tmp_path / "store")
    next((tmp_path / "store" / "shards").iterdir()).unlink()
    with pytest.raises(SyncyteError, match="store"):
        opened(tmp_path / "store")


def test_messages_are_sentences_and_name_no_internals():
    with pytest.raises(DataError) as error:
        opened(logged())
    assert "Traceback" not in str(error.value) and GENES[0] in str(error.value)
