from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.convert import convert
from syncyte.data.features import read_features
from syncyte.data.load import Loader
from syncyte.data.manifest import StoredModality, describe_file
from syncyte.data.pack_kernels import SPARE, pack, unpack
from syncyte.data.packed import SPARE as SPARE_OF_FILES
from syncyte.data.packed import pack_rows
from syncyte.data.sample import BlockSampler
from syncyte.data.store import open_store, write_store
from syncyte.errors import DataError

TOP = 2**32 - 1


def csr(rows: list[dict[int, int]], width: int) -> sp.csr_matrix:
    """Matrix of uint32 from columns and counts of each row."""
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([column for row in rows for column in sorted(row)], dtype=np.int32)
    data = np.array([row[column] for row in rows for column in sorted(row)], dtype=np.uint32)
    return sp.csr_matrix((data, indices, indptr), shape=(len(rows), width))


def decode(words, sizes, lengths, width, dtype=np.uint32):
    padded = np.concatenate([words, np.zeros(SPARE, np.uint32)])
    indices, data = np.zeros(lengths.sum(), np.int32), np.zeros(lengths.sum(), dtype)
    return unpack(padded, np.cumsum(sizes) - sizes, sizes, lengths, width, indices, data), indices, data


def round_trip(matrix: sp.csr_matrix) -> None:
    words, sizes = pack_rows(matrix)
    bad, indices, data = decode(words, sizes, np.diff(matrix.indptr).astype(np.int64), matrix.shape[1])
    assert bad == -1
    assert np.array_equal(indices, matrix.indices) and np.array_equal(data, matrix.data)


COUNTS = st.one_of(st.just(1), st.integers(1, 4), st.integers(1, 300), st.integers(1, TOP), st.just(TOP))
WIDTHS = st.sampled_from([1, 2, 31, 300, 20_000, 1_200_000, 2**31 - 1])


@st.composite
def matrices(draw):
    width = draw(WIDTHS)
    columns = st.one_of(st.integers(0, width - 1), st.just(0), st.just(width - 1), st.integers(0, min(width, 70) - 1))
    rows = draw(st.lists(st.dictionaries(columns, COUNTS, max_size=90), max_size=8))
    return csr(rows, width)


@settings(max_examples=150, deadline=None)
@given(matrices())
def test_every_count_in_every_column_comes_back(matrix):
    round_trip(matrix)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 4097, 1_200_000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["ones", "few", "twos", "heavy", "largest"])
def test_cells_of_any_length_come_back(width, share, kind):
    generator = np.random.default_rng(0)
    rows = []
    for size in (0, int(share * min(width, 6000)), 1):
        columns = np.sort(generator.choice(width, min(size, width), replace=False))
        counts = {
            "ones": np.ones(len(columns)),
            "few": generator.geometric(0.9, len(columns)),
            "twos": np.full(len(columns), 2),
            "heavy": np.minimum(generator.pareto(0.5, len(columns)) + 1, TOP),
            "largest": np.full(len(columns), TOP),
        }[kind]
        rows.append(dict(zip(columns.tolist(), counts.astype(np.uint32).tolist(), strict=True)))
    round_trip(csr(rows, width))


def test_room_for_the_worst_is_enough_and_little_is_taken():
    assert SPARE_OF_FILES == SPARE
    worst = csr([{2**31 - 2: TOP}] * 40 + [{0: TOP, 2**31 - 2: TOP}] * 40, 2**31 - 1)
    round_trip(worst)
    generator = np.random.default_rng(0)
    columns = np.unique(generator.integers(0, 20_000, 1500)).tolist()
    words, _ = pack_rows(csr([dict(zip(columns, generator.geometric(0.6, len(columns)).tolist()))], 20_000))
    assert 4 * len(words) < 1.0 * len(columns), "bytes, at gaps of 13 and 1.6 bits a count"


@pytest.mark.parametrize("rows", [([3, 1], [1, 1]), ([1, 1], [1, 1]), ([1, 3], [1, 0])])
def test_columns_out_of_order_and_zeros_are_refused(rows):
    indices, data = (np.array(values, dtype=kind) for values, kind in zip(rows, (np.int32, np.uint32)))
    words, sizes = np.zeros(100, np.uint32), np.zeros(1, np.int64)
    assert pack(np.array([0, 2]), indices, data, words, sizes) == 0
    with pytest.raises(DataError, match="out of order or stored zeros"):
        pack_rows(sp.csr_matrix((data, indices, [0, 2]), shape=(1, 5)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bits_lead_out_of_a_cell(data):
    """Whatever is in the words, columns stay below the width and nothing is read or written elsewhere."""
    count, size = data.draw(st.integers(1, 60)), data.draw(st.integers(2, 40))
    words = np.array(data.draw(st.lists(st.integers(0, TOP), min_size=size, max_size=size)), dtype=np.uint32)
    from syncyte.data.pack_kernels import checksum

    words[0] = checksum(words, 1, size, count)  # so that the loops do look at the rest
    bad, indices, _ = decode(words, np.array([size]), np.array([count]), 1000)
    assert bad == 0 or (indices.min() >= 0 and indices.max() < 1000)


def test_any_flipped_bit_is_found():
    matrix = csr([{3: 1, 9: 2, 500: 1, 801: 70_000}], 1000)
    words, sizes = pack_rows(matrix)
    for bit in range(32 * len(words)):
        changed = words.copy()
        changed[bit // 32] ^= np.uint32(1 << bit % 32)
        assert decode(changed, sizes, np.array([4]), 1000)[0] == 0
    for wrong in (3, 5):
        assert decode(words, sizes, np.array([wrong]), 1000)[0] == 0


def stored(tmp_path: Path, n: int = 90, **options) -> tuple[Cells, Path]:
    generator = np.random.default_rng(1)
    matrix = sp.random(n, 700, 0.05, format="csr", dtype=np.float32, random_state=generator)
    matrix.data[:] = generator.geometric(0.5, matrix.nnz)
    matrix.sort_indices()
    index = np.where(np.arange(n + 9) % 11 == 3, -1, 0)
    index[index == 0] = np.arange((index == 0).sum())
    part = Part(MemoryRows(matrix), index, pd.DataFrame(index=[f"chr1:{i}00-{i}99" for i in range(700)]))
    cells = Cells(pd.DataFrame({"depth": np.arange(n + 9)}, index=[f"c{i}" for i in range(n + 9)]), {"a": part})
    return cells, write_store(cells, tmp_path / "s", shard_cells=25, compact=True, **options)


def test_what_a_packed_store_is(tmp_path):
    _, path = stored(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["layout"], manifest["format_version"]) == ("packed", 2)
    assert sorted(file.name for file in (path / "shards").iterdir()) == [f"a-0000{i}.pack" for i in range(4)]
    assert [file.name for file in (path / "features").iterdir()] == ["a.h5"]
    plain = write_store(open_store(path), tmp_path / "plain")
    manifest = json.loads((plain / "manifest.json").read_text())
    assert (manifest["layout"], manifest["format_version"]) == ("h5ad-csr", 1)


def test_a_packed_store_becomes_an_anndata(tmp_path):
    cells, path = stored(tmp_path)
    out = convert(path, tmp_path / "plain.h5ad", schemas=(), overwrite=True)
    adata = ad.read_h5ad(out)
    have = np.flatnonzero(cells.present("a"))
    assert (cells.counts("a", have) != adata.X).nnz == 0
    assert adata.obs_names.equals(cells.names[have]) and adata.var_names.equals(cells.part("a").features)


def test_held_rows_are_taken_by_position(tmp_path):
    cells, path = stored(tmp_path)
    again = open_store(path)
    rows = np.random.default_rng(0).integers(0, len(cells), 60)
    held = again.hold("a", rows)
    for positions in (np.arange(60), np.array([5, 5, 0]), np.zeros(0, np.int64)):
        assert (held[positions] != cells.counts("a", rows[positions])).nnz == 0
        assert held[positions].shape == (len(positions), 700)
    assert (again.hold("a", rows)[np.arange(60)] != cells.hold("a", rows)[np.arange(60)]).nnz == 0


def test_a_loader_gives_every_cell_once(tmp_path):
    cells, path = stored(tmp_path)

    class Sums:
        width = 700

        def __call__(self, counts):
            found = {"cell": np.arange(counts.shape[0]), "value": np.asarray(counts.sum(1)).ravel()}
            empty = np.zeros((counts.shape[0], 1))
            rest = {"feature": found["cell"], "token": found["cell"], "ids": empty.astype(int), "valid": empty > 0}
            return {**found, **rest}

    loader = Loader(open_store(path), {"a": Sums()}, BlockSampler(np.arange(len(cells)), 8, block=4, fetch=3))
    threads = threading.active_count()
    dropped = loader.epoch()
    next(dropped)
    dropped.close()
    assert threading.active_count() == threads, "both that read ahead have ended"
    seen = {}
    for batch in loader.epoch():
        assert not set(batch.rows.tolist()) & set(seen)
        seen |= dict(zip(batch.rows.tolist(), batch.tokens["a"].value.tolist(), strict=True))
    assert [seen[row] for row in range(len(cells))] == np.asarray(cells.counts("a").sum(1)).ravel().tolist()


def _sum(rows, numbers, queue) -> None:
    queue.put(float(rows.read(numbers).sum()))


@pytest.mark.parametrize("way", ["fork", "forkserver"])
def test_other_processes_may_read(tmp_path, way):
    _, path = stored(tmp_path)
    rows = open_store(path).part("a").rows
    numbers = np.arange(rows.shape[0])
    expected = float(rows.read(numbers).sum())
    context = multiprocessing.get_context(way)
    queue = context.Queue()
    workers = [context.Process(target=_sum, args=(rows, numbers, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=100) for _ in workers] == [expected, expected]
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("where", [3, 20, 60, 80, -9])
def test_changed_bytes_are_found_when_they_are_read(tmp_path, where):
    _, path = stored(tmp_path)
    shard = path / "shards/a-00001.pack"
    content = bytearray(shard.read_bytes())
    content[where] ^= 16
    shard.write_bytes(content)
    again = open_store(path)
    with pytest.raises(DataError, match=r"damaged at shards/a-00001\.pack"):
        again.counts("a")
    with pytest.raises(DataError, match=r"damaged at shards/a-00001\.pack: its SHA-256"):
        open_store(path, verify=True)


def test_a_shard_cut_short_is_found(tmp_path):
    _, path = stored(tmp_path)
    again = open_store(path)
    shard = path / "shards/a-00002.pack"
    size = shard.stat().st_size
    again.counts("a")
    for left in (size - 4, 40, 0):
        os.truncate(shard, left)
        with pytest.raises(DataError, match=r"damaged at shards/a-00002\.pack: it has"):
            open_store(path)
        with pytest.raises(DataError, match="ends too early"):
            again.counts("a")


def test_counts_that_are_not_canonical_are_stored_all_the_same(tmp_path):
    matrix = sp.csr_matrix((np.array([1, 0, 2, 3], np.float32), [4, 2, 1, 4], [0, 4]), shape=(1, 6))
    cells = Cells(
        pd.DataFrame(index=["c"]), {"a": Part(MemoryRows(matrix), np.arange(1), pd.DataFrame(index=[*"uvwxyz"]))}
    )
    found = open_store(write_store(cells, tmp_path / "s", compact=True)).counts("a")
    assert found.toarray().tolist() == [[0, 2, 0, 0, 4, 0]]


def test_feature_tables_of_any_kind_come_back(tmp_path):
    names = ["a\nb", "c\\n", "", "\\", "NA", "ü", "d\te", "\r"]
    var = pd.DataFrame(
        {
            "name": ["x\ny", None, "", "\\\\", "n", "n", "ü", "\\n"],
            "a/b": np.arange(8, dtype=np.int16),
            "share": [0.1, np.nan, *np.linspace(0, 1, 6)],
            "open": np.arange(8) % 2 == 0,
            "maybe": pd.array([1, None, 3, 4, 5, 6, 7, 8], dtype="Int32"),
            "whole": pd.array([1, 2, 3, 4, 5, 6, 7, 8], dtype="Int64"),
            "chrom": pd.Categorical(["1", "1", "2", "2", "X", "X", "1", "2"]),
        },
        index=names,
    )
    cells = Cells(pd.DataFrame(index=["c"]), {"a": Part(MemoryRows(sp.csr_matrix((1, 8))), np.arange(1), var)})
    found = open_store(write_store(cells, tmp_path / "s", compact=True), verify=True).part("a").var
    pd.testing.assert_frame_equal(found, var.assign(chrom=var["chrom"].astype(object)))


def test_a_damaged_feature_table_is_named(tmp_path):
    _, path = stored(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    entry = StoredModality.parse(manifest["modalities"]["a"])
    table = path / "features/a.h5"
    content = table.read_bytes()
    table.write_bytes(content.replace(b"chr1:500-599", b"chr1:500-598"))
    with pytest.raises(DataError, match=r"damaged at features/a\.h5: its feature names are not those"):
        open_store(path)
    table.write_bytes(content.replace(b"chr1:500-599\n", b"chr1:500-599_"))
    with pytest.raises(DataError, match=r"damaged at features/a\.h5: it holds 699 names"):
        read_features(path, entry)
    table.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"damaged at features/a\.h5"):
        read_features(path, entry.model_copy(update={"feature_table": describe_file(path, "features/a.h5")}))
