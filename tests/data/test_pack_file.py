"""Stores with packed shards: what the files are, that damage is named, and the ways out of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.data.made import pair

from syncyte import api
from syncyte.data import pack_file
from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.pack_file import PackedLayout
from syncyte.data.store import open_store, write_store
from syncyte.errors import DataError


@pytest.fixture
def cells() -> Cells:
    """100 cells, 90 of them measured, some without a count, one with huge ones."""
    generator = np.random.default_rng(0)
    matrix = sp.random(90, 3000, 0.05, format="csr", dtype=np.float32, random_state=generator)
    matrix.data[:] = generator.geometric(0.5, matrix.nnz)
    matrix.data[-5] = 2**24
    matrix = sp.csr_matrix(matrix.multiply(np.arange(90)[:, None] % 9 > 0))
    matrix.eliminate_zeros()
    index = np.full(100, -1)
    index[generator.permutation(100)[:90]] = np.arange(90)
    var = pd.DataFrame(index=[f"chr1:{i}-{i + 1}" for i in range(3000)])
    return Cells(pd.DataFrame(index=[f"c{i}" for i in range(100)]), {"a": Part(MemoryRows(matrix), index, var)})


def test_what_a_packed_store_is(cells, tmp_path):
    plain, packed = (write_store(cells, tmp_path / str(flag), shard_cells=40, compact=flag) for flag in (False, True))
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (plain, packed)]
    assert [manifest["layout"] for manifest in manifests] == ["h5ad-csr", "packed"]
    assert [manifest["format_version"] for manifest in manifests] == [1, 2], "older software opens plain stores"
    assert sorted(path.name for path in (packed / "shards").iterdir()) == [f"a-0000{i}.pack" for i in range(3)]
    keys = ("cells", "nonzeros", "dtype")
    left, right = ([[s[k] for k in keys] for s in m["modalities"]["a"]["shards"]] for m in manifests)
    assert left == right and ["uint32"] in [row[2:] for row in left]
    assert (open_store(plain).counts("a") != open_store(packed, verify=True).counts("a")).nnz == 0
    for number, shard in enumerate(manifests[1]["modalities"]["a"]["shards"]):
        rows = ad.read_h5ad(plain / f"shards/a-0000{number}.h5ad").obs["syncyte_row"].to_numpy()
        path = packed / f"shards/a-0000{number}.pack"
        np.testing.assert_array_equal(PackedLayout.of(path, shard["cells"], 3000).rows(), rows)
        content = path.read_bytes()
        assert content[:8] == b"SYNCPACK" and b"chr1" not in content
        entries = np.frombuffer(content, "<u4", shard["cells"], offset=64)
        np.testing.assert_array_equal(entries, np.diff(cells.counts("a", rows).indptr))


def test_reading_in_many_pieces_changes_nothing(cells, tmp_path, monkeypatch):
    again = open_store(write_store(cells, tmp_path / "s", shard_cells=33, compact=True))
    rows = np.random.default_rng(1).integers(0, 100, 300)
    whole = again.counts("a", rows)
    assert (whole != cells.counts("a", rows)).nnz == 0
    for words in (1, 7, 100):
        monkeypatch.setattr(pack_file, "AT_ONCE", words)
        assert (again.counts("a", rows) != whole).nnz == 0


def test_stored_zeros_are_left_out(tmp_path):
    matrix = sp.csr_matrix(np.array([[0, 1, 2], [3, 0, 0]], dtype=np.float32))
    matrix.data[1] = 0
    part = Part(MemoryRows(matrix), np.arange(2), pd.DataFrame(index=list("abc")))
    path = write_store(Cells(pd.DataFrame(index=["x", "y"]), {"a": part}), tmp_path / "s", compact=True)
    assert open_store(path).counts("a").toarray().tolist() == [[0, 1, 0], [3, 0, 0]]
    assert open_store(path).counts("a").nnz == 2


def test_forked_readers_see_the_same(cells, tmp_path):
    again = open_store(write_store(cells, tmp_path / "s", shard_cells=33, compact=True))
    expected = float(again.counts("a", np.arange(0, 100, 2)).sum(dtype=np.float64))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sums = pool.map(_sum, [(again, start) for start in (0, 0, 1, 1)])
    assert (
        sums[0] == sums[1] == expected
        and sums[2] == sums[3] == float(again.counts("a").sum(dtype=np.float64)) - expected
    )


def _sum(job: tuple[Cells, int]) -> float:
    cells, start = job
    return float(cells.counts("a", np.arange(start, 100, 2)).sum(dtype=np.float64))


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        (0, b"X", "it is not a packed shard"),
        (8, struct.pack("<I", 9), "a packed shard of version 9, this syncyte reads 1"),
        (16, struct.pack("<Q", 9), "it holds 9 x 3,000 counts, the manifest says"),
        (24, struct.pack("<Q", 7), "the manifest says .* x 3,000"),
        (32, b"\0\0\0\0", "the CRC-32 of its tables is wrong"),
        (64 + 4 * 3, b"\xff\xff\xff\x7f", "the CRC-32 of its tables is wrong"),
        (64 + 8 * 40 + 999, b"\x5a", r"a-00000\.pack is damaged: the counts of its row \d+ fail their checksum"),
    ],
)
def test_damage_is_named(cells, tmp_path, place, change, said):
    cells = cells.take(np.flatnonzero(cells.present("a"))[:80])
    path = write_store(cells, tmp_path / "s", shard_cells=40, compact=True)
    shard = path / "shards/a-00000.pack"
    content = bytearray(shard.read_bytes())
    content[place : place + len(change)] = change
    shard.write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_store(path).counts("a")
    with pytest.raises(DataError, match=r"damaged at shards/a-00000\.pack: its SHA-256"):
        open_store(path, verify=True)


def test_a_shard_cut_short_is_named(cells, tmp_path):
    path = write_store(cells, tmp_path / "s", shard_cells=40, compact=True)
    again = open_store(path)
    os.truncate(path / "shards/a-00001.pack", 1500)
    with pytest.raises(DataError, match="ends too early"):
        again.counts("a")
    with pytest.raises(DataError, match="it has 1,500 bytes"):
        open_store(path)


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_a_packed_store_becomes_a_file_again(tmp_path: Path, suffix: str):
    mdata = pair()
    store = api.write_store(mdata, out=tmp_path / "store", compact=True)
    back = api.read(api.convert(store, out=tmp_path / f"out{suffix}"))
    for name in ("rna", "atac"):
        np.testing.assert_array_equal(back[name].X.toarray(), mdata[name].X.toarray())


def test_a_packed_store_becomes_an_h5ad_again(tmp_path: Path):
    adata = pair()["atac"]
    store = api.write_store(adata, out=tmp_path / "store", compact=True, shard_cells=7)
    back = ad.read_h5ad(api.convert(store, out=tmp_path / "out.h5ad"))
    np.testing.assert_array_equal(back.X.toarray(), adata.X.toarray())
    assert back.obs_names.equals(adata.obs_names) and back.var_names.equals(adata.var_names)
    assert back.obs["batch"].tolist() == adata.obs["batch"].tolist()
