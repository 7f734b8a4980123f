"""The folder that keeps what searches read: whose it is, and how the nearest vectors in it are found."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.tiny_words import told_cells, train_words, training_cells

import syncyte
from syncyte.errors import ConfigError, DataError, MissingExtraError
from syncyte.files import open_data
from syncyte.tasks import search_index
from syncyte.tasks.search_index import FOUND_BY_FAISS, Library, count_hash, sought

HAS_FAISS = importlib.util.find_spec("faiss") is not None


@pytest.fixture(scope="module")
def data():
    """Not to be changed."""
    return told_cells(200)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run without an ontology; not to be changed."""
    return train_words(training_cells(data), tmp_path_factory.mktemp("run") / "RUN")


def hashed(data) -> str:
    return count_hash(open_data(data), "rna")


def changed(data, row: int, column: int):
    other, counts = data.copy(), sp.lil_matrix(data.X)
    counts[row, column] += 1
    other.X = sp.csr_matrix(counts)
    return other


# --- whose it is -----------------------------------------------------------------------------------------------------


def test_one_count_more_is_another_hash_and_storage_is_not(data, monkeypatch):
    own = hashed(data)
    dense, shuffled, explicit = data.copy(), data.copy(), data.copy()
    dense.X = np.asarray(data.X.todense())
    counts = sp.csr_matrix(data.X)
    for row in range(counts.shape[0]):  # columns of every row backwards
        a, b = counts.indptr[row : row + 2]
        counts.indices[a:b], counts.data[a:b] = counts.indices[a:b][::-1].copy(), counts.data[a:b][::-1].copy()
    counts.has_sorted_indices = False
    shuffled.X = counts
    more = sp.coo_matrix(data.X)
    free = np.argwhere(np.asarray(data.X.todense()) == 0)[0]
    rows, columns = np.append(more.row, free[0]), np.append(more.col, free[1])
    explicit.X = sp.csr_matrix((np.append(more.data, 0), (rows, columns)), shape=data.shape)
    assert {hashed(one) for one in (data, data.copy(), dense, shuffled, explicit)} == {own}
    renamed = data.copy()
    renamed.var_names = [data.var_names[1], data.var_names[0], *data.var_names[2:]]
    others = [changed(data, 0, 0), changed(data, 199, 119), data[::-1].copy(), data[:199].copy(), renamed]
    assert len({own, *(hashed(one) for one in others)}) == 6
    labels = data.copy()
    labels.obs["cell_type"] = "?"
    assert hashed(labels) == own


def test_of_many_cells_blocks_over_all_of_them_are_hashed(data, monkeypatch):
    monkeypatch.setattr(search_index, "HASHED", 100)
    monkeypatch.setattr(search_index, "PARTS", 10)
    own = hashed(data)
    assert own == hashed(data.copy()) != hashed(changed(data, 0, 0)) and own != hashed(changed(data, 199, 0))
    seen = sum(hashed(changed(data, row, 0)) != own for row in range(0, 200, 5))
    assert 15 <= seen <= 25  # about half of the cells


def test_equal_names_and_other_counts_share_no_index(run, data, tmp_path):
    found = syncyte.search(run, "B cells", data, index=tmp_path / "index")
    other = changed(data, 7, 3)
    with pytest.raises(
        DataError, match=r"was made for cells of the same names with other counts\. Name another folder"
    ):
        syncyte.search(run, "B cells", other, index=tmp_path / "index")
    again = syncyte.search(run, "B cells", data, index=tmp_path / "index")
    pd.testing.assert_frame_equal(again.table, found.table)
    stamp = json.loads((tmp_path / "index/index.json").read_text())
    assert stamp["counts"] == hashed(data)
    del stamp["counts"]
    (tmp_path / "index/index.json").write_text(json.dumps(stamp))
    with pytest.raises(DataError, match="was made by a version that did not look at counts"):
        syncyte.search(run, "B cells", data, index=tmp_path / "index")


# --- how the nearest are found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "options", "says"),
    [
        ("B cells", {"mode": "vectors", "nearest": "fais"}, r"'fais'\. Did you mean 'faiss'"),
        ("B cells", {"mode": "vectors", "nearest": "faiss"}, "keeps its index in the folder of --index"),
        ("B cells", {"nearest": "faiss", "index": "x"}, "is for --mode vectors and cell:NAME"),
    ],
)
def test_ways_that_do_not_fit_are_refused(run, data, tmp_path, query, options, says):
    with pytest.raises(ConfigError, match=says):
        syncyte.search(run, query, data, **{**options, **({"index": tmp_path / "x"} if "index" in options else {})})
    assert not (tmp_path / "x").exists()


def test_exact_and_auto_find_the_same(run, data, tmp_path):
    how = {"mode": "vectors", "top": 20, "index": tmp_path / "index"}
    exact, auto = (syncyte.search(run, "B cells", data, nearest=way, **how) for way in ("exact", "auto"))
    pd.testing.assert_frame_equal(exact.table, auto.table)
    plain = syncyte.search(run, "B cells", data, mode="vectors", top=20)
    np.testing.assert_allclose(exact.table["score"], plain.table["score"], atol=2e-3)
    assert FOUND_BY_FAISS not in (*exact.notes, *auto.notes) and not (tmp_path / "index/vectors/faiss.index").exists()


@pytest.mark.skipif(not HAS_FAISS, reason="needs faiss")
def test_faiss_finds_the_nearest_and_says_so(run, data, tmp_path, monkeypatch):
    how = {"mode": "vectors", "top": 20, "index": tmp_path / "index"}
    exact = syncyte.search(run, "B cells", data, nearest="exact", **how)
    found = syncyte.search(run, "B cells", data, nearest="faiss", **how)
    assert found.notes.count(FOUND_BY_FAISS) == 1 and (tmp_path / "index/vectors/faiss.index").exists()
    pd.testing.assert_frame_equal(found.table, exact.table)  # so few cells lie in lists that are all looked through
    name = data.obs_names[7]
    like = [syncyte.search(run, f"cell:{name}", data, nearest=way, **how).table for way in ("exact", "faiss")]
    pd.testing.assert_frame_equal(*like)
    monkeypatch.setattr(search_index, "MANY", 100)
    auto = syncyte.search(run, "B cells", data, **how)
    assert FOUND_BY_FAISS in auto.notes
    assert FOUND_BY_FAISS not in syncyte.search(run, "B cells", data, nearest="exact", **how).notes
    assert FOUND_BY_FAISS not in syncyte.search(run, "B cells", data, top=5, index=tmp_path / "index").notes


def test_without_faiss_auto_is_exact_and_faiss_says_what_is_missing(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(search_index, "MANY", 100)
    monkeypatch.setattr(search_index.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    how = {"mode": "vectors", "top": 20, "index": tmp_path / "index"}
    assert FOUND_BY_FAISS not in syncyte.search(run, "B cells", data, **how).notes
    with pytest.raises(MissingExtraError, match=r"syncyte\[faiss\]"):
        syncyte.search(run, "B cells", data, nearest="faiss", **how)


def test_vectors_in_memory_are_searched_exactly():
    library = Library(np.array(["a", "b"]), np.ones((2, 1)), np.eye(2, dtype=np.float32))
    assert sought(library, "auto") is library
    rows, scores = library.nearest(np.array([0.0, 1.0], dtype=np.float32), 2)
    assert list(rows) == [1, 0] and list(scores) == [1, 0]
