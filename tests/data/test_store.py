from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.processes import start

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.store import is_store, open_store, write_store
from syncyte.errors import ConfigError, DataError


def _rows(n: int, width: int, seed: int, top: int = 5) -> sp.csr_matrix:
    generator = np.random.default_rng(seed)
    matrix = sp.random(n, width, 0.1, format="csr", dtype=np.float32, random_state=generator)
    matrix.data[:] = generator.integers(1, top, matrix.nnz)
    matrix.sort_indices()
    return matrix


@pytest.fixture
def cells() -> Cells:
    """103 cells: all with ``a`` but 20, ``b`` for 60, 3 with neither; rows of the sources in another order."""
    n = 103
    generator = np.random.default_rng(0)
    index_a = np.full(n, -1)
    index_a[generator.permutation(n)[:80]] = generator.permutation(90)[:80]
    index_b = np.full(n, -1)
    index_b[np.setdiff1d(np.arange(n), np.flatnonzero(index_a >= 0))[:20]] = np.arange(20)
    index_b[np.flatnonzero(index_a >= 0)[:40]] = 20 + np.arange(40)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(generator.choice(["x", "y"], n), categories=["y", "x", "unused"], ordered=True),
            "batch": [f"b{i % 3}" for i in range(n)],
            "depth": generator.normal(size=n),
            "good": np.arange(n) % 2 == 0,
            "mixed": [i if i % 2 else None for i in range(n)],
            "when": pd.date_range("2024-01-01", periods=n),
        },
        index=[f"cell{i}" for i in generator.permutation(n)],
    )
    obs["mixed"] = obs["mixed"].astype(object)
    names = pd.Index(["NA", "nan", "None", *(f"g{i}" for i in range(37))])
    var = pd.DataFrame(
        {"chrom": ["1"] * 39 + ["X"], "name": ["n"] * 40, "start": np.arange(40), "score": np.linspace(0, 1, 40) / 3},
        index=names,
    )
    parts = {
        "a": Part(MemoryRows(_rows(90, 40, 1)), index_a, var),
        "b": Part(
            MemoryRows(_rows(60, 500, 2, top=70_000)), index_b, pd.DataFrame(index=[f"r{i}" for i in range(500)])
        ),
    }
    return Cells(obs, parts, {"mapped": np.int64(7)})


def _same(left: sp.csr_matrix, right: sp.csr_matrix) -> bool:
    return left.shape == right.shape and (left != right).nnz == 0


@pytest.mark.parametrize("compact", [False, True])
def test_a_store_gives_back_what_was_put_in(cells, tmp_path, compact):
    steps = []
    options = {"shard_cells": 17, "seed": 3, "compact": compact}
    path = write_store(cells, tmp_path / "s", progress=lambda *step: steps.append(step), **options)
    again = open_store(path, verify=True)
    assert again.names.equals(cells.names)
    assert steps[-1] == (2 * 140, 2 * 140)
    for name in ("a", "b"):
        assert (again.present(name) == cells.present(name)).all()
        assert _same(again.counts(name), cells.counts(name))
        assert again.counts(name).dtype == np.float32
        pd.testing.assert_frame_equal(again.part(name).var, cells.part(name).var, check_column_type=False)
    assert again.report["mapped"] == 7
    assert again.report["store"]["path"] == str(path)
    for key in ("type", "depth", "good"):
        pd.testing.assert_series_equal(again.obs[key], cells.obs[key], check_freq=False)
    assert again.obs["batch"].astype(str).tolist() == cells.obs["batch"].tolist()
    assert again.obs["mixed"].isna().tolist() == cells.obs["mixed"].isna().tolist()
    assert again.obs["when"].iloc[0].startswith("2024-01-01")


@pytest.mark.parametrize("compact", [False, True])
def test_rows_come_in_the_order_asked_for_repeats_included(cells, tmp_path, compact):
    again = open_store(write_store(cells, tmp_path / "s", shard_cells=17, compact=compact))
    rows = np.random.default_rng(1).integers(0, len(cells), 250)
    for name in ("a", "b"):
        assert _same(again.counts(name, rows), cells.counts(name, rows))
        assert again.counts(name, rows[:0]).shape == (0, again.part(name).rows.shape[1])
        block = again.part(name).rows.read(np.array([3, 4, 5, 40]))
        assert block.has_sorted_indices
        assert block.indices.dtype == block.indptr.dtype == np.int32


def test_shards_open_in_plain_anndata(cells, tmp_path):
    path = write_store(cells, tmp_path / "s", shard_cells=40)
    files = sorted((path / "shards").iterdir())
    assert [file.name for file in files] == [f"{name}-{i:05d}.h5ad" for name in "ab" for i in range(3)]
    for file in files:
        name = file.name[0]
        shard = ad.read_h5ad(file)
        rows = shard.obs["syncyte_row"].to_numpy()
        assert shard.X.dtype == (np.uint8 if name == "a" else np.uint32)
        assert _same(shard.X.astype(np.float32), cells.counts(name, rows))
        assert shard.obs_names.equals(cells.names[rows])
        assert shard.var_names.equals(cells.part(name).features)
        assert shard.obs["type"].cat.categories.tolist() == ["y", "x", "unused"]
        assert _same(ad.read_h5ad(file, backed="r").X[2:7], shard.X[2:7])
        assert (rows != np.sort(rows)).any(), "shuffled"


def test_a_cell_lies_in_shards_of_one_number(cells, tmp_path):
    path = write_store(cells, tmp_path / "s", shard_cells=25, seed=9)
    order = np.random.default_rng(9).permutation(len(cells))
    for number in range(5):
        expected = order[number * 25 : (number + 1) * 25]
        for name in ("a", "b"):
            shard = ad.read_h5ad(path / "shards" / f"{name}-{number:05d}.h5ad")
            assert shard.obs["syncyte_row"].tolist() == expected[cells.present(name)[expected]].tolist()


def test_manifest_says_what_is_inside(cells, tmp_path):
    path = write_store(cells, tmp_path / "s", shard_cells=40, seed=5)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format"] == "syncyte-store"
    assert manifest["cells"] == 103
    assert manifest["seed"] == 5
    assert manifest["combinations"] == {"a": 40, "a+b": 40, "b": 20, "": 3}
    assert manifest["modalities"]["b"]["features"] == 500
    assert [shard["cells"] for shard in manifest["modalities"]["b"]["shards"]] == [
        int(cells.present("b")[rows].sum()) for rows in np.split(np.random.default_rng(5).permutation(103), [40, 80])
    ]
    assert manifest["software"]["anndata"] == ad.__version__
    assert is_store(path) and not is_store(tmp_path)


def test_the_same_cells_and_seed_give_the_same_manifest(cells, tmp_path):
    def entry(name: str, seed: int) -> dict:
        path = write_store(cells, tmp_path / name, shard_cells=40, seed=seed)
        return json.loads((path / "manifest.json").read_text())["modalities"]

    first = entry("s", 1)
    assert first == entry("t", 1)
    assert first != entry("u", 2)


@pytest.mark.parametrize("compact", [False, True])
def test_a_store_of_some_cells_of_a_store(cells, tmp_path, compact):
    first = open_store(write_store(cells, tmp_path / "s", shard_cells=17, compact=compact))
    rows = np.flatnonzero(first.present("b"))[::-2]
    second = open_store(
        write_store(first.take(rows).only(["b"]), tmp_path / "t", shard_cells=1000, compact=not compact)
    )
    assert second.names.equals(cells.names[rows])
    assert second.modalities == ("b",)
    assert _same(second.counts("b"), cells.counts("b", rows))


@pytest.mark.parametrize("compact", [False, True])
def test_cells_without_any_count_are_kept(tmp_path, compact):
    obs = pd.DataFrame(index=list("uvw"))
    var = pd.DataFrame(index=["g", "h"])
    empty = Cells(obs, {"a": Part(MemoryRows(sp.csr_matrix((3, 2), dtype=np.float32)), np.arange(3), var)})
    again = open_store(write_store(empty, tmp_path / "s", shard_cells=2, compact=compact), verify=True)
    assert again.counts("a").shape == (3, 2)
    assert again.counts("a").nnz == 0


@pytest.mark.parametrize("compact", [False, True])
def test_rows_survive_pickling(cells, tmp_path, compact):
    again = open_store(write_store(cells, tmp_path / "s", shard_cells=17, compact=compact))
    rows = again.part("a").rows
    rows.read(np.arange(5))
    assert _same(pickle.loads(pickle.dumps(rows)).read(np.arange(80)), rows.read(np.arange(80)))


def test_an_existing_folder_is_replaced_only_on_request(cells, tmp_path):
    path = write_store(cells, tmp_path / "s")
    with pytest.raises(DataError, match="exists and is not empty"):
        write_store(cells, path)
    write_store(open_store(path).take(np.arange(50)), path, overwrite=True)
    assert len(open_store(path)) == 50


@pytest.mark.parametrize(("value", "said"), [(0.5, "hold 0.5"), (-1, "hold -1"), (np.nan, "hold nan")])
def test_only_raw_counts_are_stored(cells, tmp_path, value, said):
    matrix = cells.part("a").rows.matrix
    matrix.data[matrix.indptr[cells.part("a").index.max()]] = value
    with pytest.raises(DataError, match=said):
        write_store(cells, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_stored_is_refused(cells, tmp_path):
    with pytest.raises(DataError, match="no cells to store"):
        write_store(cells.take(np.arange(0)), tmp_path / "s")
    with pytest.raises(DataError, match="occurs twice"):
        write_store(cells.take(np.array([1, 2, 1])), tmp_path / "s")
    with pytest.raises(ConfigError, match="shard_cells is 0"):
        write_store(cells, tmp_path / "s", shard_cells=0)


def _edit(path: Path, **changes: object) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: (path / "shards/a-00001.h5ad").unlink(), "damaged at shards/a-00001.h5ad: the file is missing"),
        (lambda path: os.truncate(path / "shards/b-00000.h5ad", 5000), "it has 5,000 bytes, the manifest says"),
        (lambda path: (path / "manifest.json").unlink(), "is not a store: it holds no manifest.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "damaged at manifest.json: it is not JSON"),
        (lambda path: (path / "manifest.json").write_text("[]"), "is not the manifest of a store"),
        (lambda path: _edit(path / "manifest.json", format_version=99), "of version 99; this syncyte reads up to 2"),
        (lambda path: _edit(path / "manifest.json", cells="many"), "damaged at manifest.json: Setting 'cells'"),
        (lambda path: _edit(path / "manifest.json", cell_names_sha256="0"), "its cells are not those"),
    ],
)
def test_a_damaged_store_is_named(cells, tmp_path, harm, said):
    path = write_store(cells, tmp_path / "s", shard_cells=40)
    harm(path)
    with pytest.raises(DataError, match=said):
        open_store(path)


@pytest.mark.parametrize("name", ["shards/a-00001.h5ad", "cells.h5ad", "features/a.tsv.gz"])
def test_changed_bytes_are_found_by_their_hash(cells, tmp_path, name):
    path = write_store(cells, tmp_path / "s", shard_cells=40)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 255
    (path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"damaged at {name}"):
        open_store(path, verify=True)


def test_a_shard_that_is_no_hdf5_is_named_when_read(cells, tmp_path):
    path = write_store(cells, tmp_path / "s", shard_cells=40)
    shard = path / "shards/a-00000.h5ad"
    shard.write_bytes(bytes(shard.stat().st_size))
    again = open_store(path)
    with pytest.raises(DataError, match=r"damaged at shards/a-00000\.h5ad"):
        again.counts("a")


def write_slowly(out, stop, reached):
    """Write six shards; sleep, and say so, once more than ``stop`` cells are done."""
    matrix = sp.csr_matrix(np.ones((60, 5), dtype=np.float32))
    part = Part(MemoryRows(matrix), np.arange(60), pd.DataFrame(index=list("abcde")))
    cells = Cells(pd.DataFrame(index=[str(i) for i in range(60)]), {"m": part})

    def progress(done, total):
        if done > stop:
            reached.touch()
            time.sleep(60)

    write_store(cells, out, shard_cells=10, progress=progress)


def test_a_killed_writer_leaves_no_half_store(tmp_path):
    out = tmp_path / "here" / "s"
    out.parent.mkdir()
    for stop in (0, 80, 119):
        reached = tmp_path / f"reached{stop}"
        process = start(write_slowly, out, stop, reached)
        while process.is_alive() and not reached.exists():
            time.sleep(0.002)
        assert process.is_alive()
        process.kill()
        process.join()
        assert not out.exists()
        assert len(list(out.parent.iterdir())) == 1, "only the hidden folder of the last killed writer"
    started = time.time()
    write_slowly(out, 1000, tmp_path / "never")
    assert time.time() - started < 60
    assert [entry.name for entry in out.parent.iterdir()] == ["s"]
    assert open_store(out, verify=True).counts("m").sum() == 300
