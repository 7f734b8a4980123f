"""Pieces of zarr folders that are gone or cut short are noticed; pieces of zeros that are meant are not."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from tests.data.made import SCHEMAS

from syncyte.data.backed import Handle, open_matrix
from syncyte.data.read import open_cells
from syncyte.errors import DataError

PIECE = 500


def matrix_of(n: int = 300, width: int = 40) -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    return sp.csr_matrix(rng.poisson(0.4, (n, width)).astype(np.float32))


def stored(path: Path, matrix, zarr_format: int, compressors: object = "auto") -> Path:
    """A folder whose X lies in many pieces."""
    root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    kind = "array" if isinstance(matrix, np.ndarray) else f"{matrix.format}_matrix"
    if kind == "array":
        root.create_array("X", data=matrix, chunks=(50, matrix.shape[1]), compressors=compressors)
        root["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return path
    group = root.create_group("X")
    group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0", "shape": list(matrix.shape)})
    for name in ("data", "indices", "indptr"):
        values = getattr(matrix, name)
        group.create_array(name, data=values, chunks=(min(PIECE, len(values)),), compressors=compressors)
    return path


def read_all(path: Path):
    rows = open_matrix(Handle(str(path), "X", "zarr"), "cells.zarr, X,")
    return rows.read(np.arange(rows.shape[0]))


def pieces(path: Path, array: str) -> list[Path]:
    found = [file for file in (path / array).rglob("*") if file.is_file()]
    return sorted(file for file in found if not file.name.startswith(".z") and file.name != "zarr.json")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("name", ["data", "indices"])
def test_a_piece_that_is_gone(tmp_path: Path, zarr_format: int, layout: str, name: str):
    matrix = matrix_of()
    path = stored(tmp_path / "cells.zarr", matrix.asformat(layout), zarr_format)
    assert (read_all(path) != matrix).nnz == 0
    every = pieces(path, f"X/{name}")
    assert len(every) > 5
    every[2].unlink()
    with pytest.raises(DataError, match=rf"X, {name}, is damaged: 1 of its pieces .* would read as zeros.*Copy"):
        read_all(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
@pytest.mark.parametrize("compressors", ["auto", None])
@pytest.mark.parametrize("left", [0, 0.5, -1])
def test_a_piece_that_is_cut_short(tmp_path: Path, zarr_format: int, name: str, compressors, left: float):
    path = stored(tmp_path / "cells.zarr", matrix_of(), zarr_format, compressors)
    piece = pieces(path, f"X/{name}")[0]
    whole = piece.read_bytes()
    piece.write_bytes(whole[: int(left * len(whole))] if left >= 0 else whole[:-1])
    with pytest.raises(DataError, match=r"damaged|cannot be read"):
        read_all(path)


def test_blosc_of_the_second_format_says_how_long_it_is(tmp_path: Path):
    from numcodecs import Blosc

    path = stored(tmp_path / "cells.zarr", matrix_of(), 2, Blosc())
    assert read_all(path).nnz == matrix_of().nnz
    piece = pieces(path, "X/data")[1]
    piece.write_bytes(piece.read_bytes()[:-1])
    with pytest.raises(DataError, match="is not as long as it says"):
        read_all(path)


def test_lost_row_pointers(tmp_path: Path):
    path = stored(tmp_path / "cells.zarr", matrix_of(1200, 20), 3)
    first, second, *_ = pieces(path, "X/indptr")
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(DataError, match="indptr, is damaged: 1 of its pieces"):
        read_all(path)
    first.write_bytes(kept)
    second.unlink()
    with pytest.raises(DataError, match="row pointers go backwards"):
        read_all(path)


def test_zeros_that_are_meant(tmp_path: Path):
    first_column = sp.csr_matrix((np.ones(1100, np.float32), np.zeros(1100, int), np.arange(1101)), shape=(1100, 20))
    empty_first = sp.vstack([sp.csr_matrix((700, 20), dtype=np.float32), matrix_of(400, 20)], format="csr")
    for number, matrix in enumerate((first_column, empty_first)):
        path = stored(tmp_path / f"{number}.zarr", matrix, 3)
        array = "indices" if number == 0 else "indptr"
        assert len(pieces(path, f"X/{array}")) < 3  # zarr did not store the zeros
        assert (read_all(path) != matrix).nnz == 0


def test_dense_pieces_that_are_gone_are_noted(tmp_path: Path):
    path = stored(tmp_path / "cells.zarr", matrix_of().toarray(), 3)
    root = zarr.open_group(str(path), mode="a")
    for name, names in (("obs", [f"c{i}" for i in range(300)]), ("var", [f"G{i}" for i in range(40)])):
        ad.io.write_elem(root, name, pd.DataFrame(index=names))
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    pieces(path, "X")[1].unlink()
    cells = open_cells(path, schemas=SCHEMAS)
    assert any("lacks 1 of its pieces" in note for note in cells.report["notes"])


def test_indices_beyond_the_matrix(tmp_path: Path):
    for layout, what in (("csr", "feature 77 of 40"), ("csc", "cell 777 of 300")):
        matrix = matrix_of().asformat(layout)
        matrix.indices[600] = 77 if layout == "csr" else 777
        with pytest.raises(DataError, match=what):
            read_all(stored(tmp_path / layout, matrix, 3))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("table", ["obs", "var"])
def test_names_that_are_gone(tmp_path: Path, zarr_format: int, table: str):
    adata = ad.AnnData(matrix_of(), pd.DataFrame(index=[f"c{i}" for i in range(300)]))
    adata.var_names = [f"G{i}" for i in range(40)]
    with ad.settings.override(zarr_write_format=zarr_format):
        adata.write_zarr(tmp_path / "cells.zarr")
    assert open_cells(tmp_path / "cells.zarr", schemas=SCHEMAS).modalities == ("rna",)
    pieces(tmp_path / "cells.zarr", f"{table}/_index")[0].unlink()
    with pytest.raises(DataError, match=rf"cells\.zarr, {table}, is damaged: 1 of its pieces .* empty names"):
        open_cells(tmp_path / "cells.zarr", schemas=SCHEMAS)
