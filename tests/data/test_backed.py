"""Rows over files: every layout gives the same cells, in any order, in any process."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given
from hypothesis import strategies as st

from syncyte.data import backed
from syncyte.data.backed import CsrRows, DenseRows, Handle, canonical, open_matrix
from syncyte.data.cells import MemoryRows
from syncyte.errors import DataError


def counts(n: int = 300, width: int = 40, seed: int = 0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.4, (n, width)).astype(np.float32)
    dense[5] = 0
    return sp.csr_matrix(dense)


def written(path: Path, matrix, engine: str, **options) -> Handle:
    if engine == "hdf5":
        with h5py.File(path, "w") as root:
            ad.io.write_elem(root, "X", matrix, dataset_kwargs=options)
    else:
        root = zarr.open_group(str(path), mode="w", zarr_format=int(engine[-1]))
        ad.io.write_elem(root, "X", matrix)
    return Handle(str(path), "X", "hdf5" if engine == "hdf5" else "zarr")


@pytest.mark.parametrize("engine", ["hdf5", "zarr2", "zarr3"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_every_layout_reads_the_same_rows(tmp_path: Path, engine: str, layout: str):
    matrix = counts()
    stored = matrix.toarray() if layout == "dense" else matrix.asformat(layout)
    rows = open_matrix(written(tmp_path / "file", stored, engine), "file, X,")
    assert isinstance(rows, {"csr": CsrRows, "csc": MemoryRows, "dense": DenseRows}[layout])
    assert rows.shape == matrix.shape
    for wanted in ([0, 1, 2, 3], [299, 5, 5, 17, 0], list(range(300)), [], [150]):
        block = rows.read(np.array(wanted, dtype=np.int64))
        assert block.dtype == np.float32 and block.has_sorted_indices and block.shape == (len(wanted), 40)
        np.testing.assert_array_equal(block.toarray(), matrix[wanted].toarray())


def test_gzip_and_integer_types_and_wide_pointers(tmp_path: Path):
    matrix = counts().astype(np.uint16)
    matrix.indptr = matrix.indptr.astype(np.int64)
    handle = written(tmp_path / "packed.h5", matrix, "hdf5", compression="gzip")
    block = open_matrix(handle, "packed").read(np.arange(300)[::-1])
    np.testing.assert_array_equal(block.toarray(), matrix.toarray()[::-1])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[CsrRows, np.ndarray]:
    matrix = counts(500, 30, seed=1)
    return open_matrix(written(tmp_path_factory.mktemp("rows") / "x.h5", matrix, "hdf5"), "x"), matrix.toarray()


@given(wanted=st.lists(st.integers(0, 499), max_size=60), gap=st.sampled_from([-1, 0, 20, 10_000]))
def test_any_rows_in_any_order(opened, wanted: list[int], gap: int):
    rows, dense = opened
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backed, "GAP", gap)
        np.testing.assert_array_equal(rows.read(np.array(wanted, dtype=np.int64)).toarray(), dense[wanted])


def test_neighbours_are_fetched_together(opened, monkeypatch: pytest.MonkeyPatch):
    rows, _ = opened
    spans = []

    class Spy:
        def __init__(self, dataset):
            self.dataset, self.dtype = dataset, dataset.dtype

        def __getitem__(self, key):
            spans.append((key.start, key.stop))
            return self.dataset[key]

    group = rows.handle.node()
    spied = CsrRows(Handle("x", "X", "hdf5"), rows.shape, rows.indptr)
    monkeypatch.setattr(Handle, "node", lambda self: {"data": Spy(group["data"]), "indices": Spy(group["indices"])})
    monkeypatch.setattr(backed, "GAP", 0)
    spied.read(np.array([10, 11, 12, 400, 401]))
    assert len(spans) == 4  # two runs, each read once from data and once from indices


def test_what_is_not_canonical_on_disk_is_made_so(tmp_path: Path):
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as root:
        group = root.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (2, 4)})
        group["data"], group["indices"], group["indptr"] = [1.0, 2.0, 3.0, 0.0], [3, 0, 3, 1], [0, 3, 4]
    block = open_matrix(Handle(str(path), "X", "hdf5"), "odd").read(np.array([0, 1]))
    assert block.nnz == 2 and block.has_canonical_format  # 1 + 3 summed, the zero dropped
    np.testing.assert_array_equal(block.toarray(), [[2, 0, 0, 4], [0, 0, 0, 0]])


def test_canonical_leaves_the_users_matrix_alone():
    data, indices, indptr = np.array([1, 0, 2, 3]), np.array([3, 1, 0, 0]), np.array([0, 2, 4])
    mine = sp.csr_matrix((data, indices, indptr), shape=(2, 4))
    block = canonical(mine)
    assert block.nnz == 2 and mine.nnz == 4
    np.testing.assert_array_equal(mine.indices, [3, 1, 0, 0])
    np.testing.assert_array_equal(mine.data, [1, 0, 2, 3])


def test_large_csc_is_turned_on_disk_in_bounded_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    matrix = counts(1000, 60, seed=2)
    handle = written(tmp_path / "columns.h5", matrix.tocsc(), "hdf5")
    monkeypatch.setattr(backed, "SMALL", 0)
    monkeypatch.setattr(backed, "CHUNK", 1500)  # about 15 column blocks and 15 bands of rows
    rows = open_matrix(handle, "columns")
    assert isinstance(rows, CsrRows) and rows.handle.path != handle.path
    np.testing.assert_array_equal(rows.read(np.arange(1000)).toarray(), matrix.toarray())
    np.testing.assert_array_equal(rows.read(np.array([999, 3, 512])).toarray(), matrix[[999, 3, 512]].toarray())
    leftovers = [path.name for path in Path(rows.handle.path).parent.iterdir()]
    assert leftovers == ["rows.h5"]


def test_pickled_rows_hold_no_open_file(tmp_path: Path):
    matrix = counts()
    for engine in ("hdf5", "zarr3"):
        rows = open_matrix(written(tmp_path / engine, matrix, engine), "x")
        rows.read(np.array([0]))
        copy = pickle.loads(pickle.dumps(rows))
        np.testing.assert_array_equal(copy.read(np.array([7, 2])).toarray(), matrix[[7, 2]].toarray())


def _sum(rows: CsrRows, wanted: np.ndarray, queue) -> None:
    queue.put((float(rows.read(wanted).sum()), rows.handle._pid))


@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_worker_opens_the_file_anew(opened):
    rows, dense = opened
    rows.read(np.array([0]))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_sum, args=(rows, np.arange(100), queue))
    worker.start()
    total, pid = queue.get(timeout=30)
    worker.join()
    assert total == dense[:100].sum() and pid == worker.pid != rows.handle._pid


def test_backed_anndata_is_read_through_its_own_handle(tmp_path: Path):
    matrix = counts()
    ad.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    rows = open_matrix(Handle.of(adata.X.group), "a")
    np.testing.assert_array_equal(rows.read(np.array([4, 1])).toarray(), matrix[[4, 1]].toarray())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows)).read(np.array([9])).toarray(), matrix[9].toarray())
    adata.file.close()


@pytest.mark.parametrize("part", ["indptr", "data", "index", "backwards"])
def test_damage_is_named(tmp_path: Path, part: str):
    handle = written(tmp_path / "x.h5", counts(), "hdf5")
    with h5py.File(handle.path, "r+") as root:
        if part == "index":
            root["X/indices"][3] = 77
        elif part == "backwards":
            root["X/indptr"][4] = 0
        else:
            values = root[f"X/{part}"][:-2]
            del root[f"X/{part}"]
            root[f"X/{part}"] = values
    with pytest.raises(DataError, match="damaged"):
        open_matrix(handle, "x, X,").read(np.arange(10))


def test_a_file_that_went_away_is_named(tmp_path: Path):
    handle = written(tmp_path / "x.h5", counts(), "hdf5")
    rows = pickle.loads(pickle.dumps(open_matrix(handle, "x")))
    Path(handle.path).unlink()
    with pytest.raises(DataError, match=r"x\.h5 is gone"):
        rows.read(np.array([0]))
