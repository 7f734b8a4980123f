from __future__ import annotations

import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from syncyte.data import vector_scan
from syncyte.data.vectors import VectorIndex
from syncyte.errors import ConfigError, DataError, MissingExtraError

FILES = ["bounds.npy", "codes.npy", "manifest.json", "names.tsv", "vectors.npy"]
needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")


def clustered(count: int, width: int, seed: int, centres: int = 30) -> np.ndarray:
    generator = np.random.default_rng(seed)
    middle = generator.normal(size=(centres, width))
    return middle[generator.integers(0, centres, count)] + 0.4 * generator.normal(size=(count, width))


def names_of(count: int) -> list[str]:
    return [f"cell{i}" for i in range(count)]


def build(folder: Path, vectors: np.ndarray, **options) -> VectorIndex:
    return VectorIndex.build(vectors, names_of(len(vectors)), folder / "INDEX", **options)


def brute(index: VectorIndex, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The answer by definition: all cosines in float64, given as float32, sorted by score, then row."""
    queries = np.asarray(queries, dtype=np.float64)
    length = np.linalg.norm(queries, axis=1, keepdims=True)
    unit = (queries / np.where(length > 0, length, 1)).astype(np.float32).astype(np.float64)
    scores = np.clip(unit @ np.asarray(index.vectors, dtype=np.float64).T, -1, 1).astype(np.float32)
    rows = np.stack([np.lexsort((np.arange(len(index)), -score))[:top] for score in scores])
    return rows, np.take_along_axis(scores, rows, axis=1)


def assert_same(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    assert found[0].dtype == np.int64 and found[1].dtype == np.float32
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])


def test_cosines_by_hand(tmp_path: Path):
    vectors = np.array([[3, 4], [0, 2], [-5, 0], [0, 0], [6, 8]])  # lengths do not count; zeros score 0
    index = build(tmp_path, vectors, dtype="float32")
    rows, scores = index.search([[1, 0], [0, 7]], 4)
    assert rows.tolist() == [[0, 4, 1, 3], [1, 0, 4, 2]]
    assert scores.tolist() == [[np.float32(0.6)] * 2 + [0, 0], [1.0] + [np.float32(0.8)] * 2 + [0]]
    assert index.names[rows[1]].tolist() == ["cell1", "cell0", "cell4", "cell2"]
    assert not np.signbit(scores).any()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("make", ["random", "clustered"])
def test_equals_brute_force(dtype: str, make: str, tmp_path: Path):
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(3000, 48)) if make == "random" else clustered(3000, 48, 1)
    index = build(tmp_path, vectors, dtype=dtype)
    queries = np.concatenate([vectors[::40] + 0.1, generator.normal(size=(20, 48)), np.zeros((1, 48))])
    assert len(queries) > vector_scan.QUERIES  # more than one pass
    for top in (1, 10, 700):
        assert_same(index.search(queries, top), brute(index, queries, top))
    assert np.allclose(np.linalg.norm(index.vectors.astype(float), axis=1), 1, atol=1e-3)


def test_ties_go_by_row(tmp_path: Path):
    few = np.random.default_rng(2).normal(size=(7, 20))
    vectors = few[np.random.default_rng(3).integers(0, 7, 2000)]
    vectors[::50] = 0
    index = build(tmp_path, vectors)
    for block in (64, 500, 5000):
        found = index.search(np.concatenate([few, np.zeros((1, 20))]), 40, block_rows=block)
        assert_same(found, brute(index, np.concatenate([few, np.zeros((1, 20))]), 40))
    assert (np.diff(found[0], axis=1) > 0).all()  # each query has 40 rows or more of one score
    assert found[0][-1].tolist() == list(range(40))


def test_rows_that_get_better_and_better(tmp_path: Path):
    """The worst order for a running selection: every block beats the one before."""
    angle = np.linspace(np.pi / 2, 0, 3000)
    index = build(tmp_path, np.stack([np.cos(angle), np.sin(angle)], axis=1), dtype="float32")
    found = index.search([[1.0, 0.0]], 30, block_rows=10)
    assert_same(found, brute(index, [[1.0, 0.0]], 30))
    assert found[1][0, 0] == 1 and found[0].max() == 2999


@pytest.mark.parametrize("block", [1, 7, 999, 1000, 100_000])
def test_blocks_do_not_show(block: int, tmp_path: Path):
    index = build(tmp_path, clustered(1000, 33, 4))
    queries = clustered(70, 33, 5)
    whole = index.search(queries, 12)
    assert_same(index.search(queries, 12, block_rows=block), whole)
    for place in range(5):  # nor does it show how many queries are asked at once
        one = slice(place, place + 1)
        assert_same(index.search(queries[one], 12, block_rows=block), (whole[0][one], whole[1][one]))


def test_bounds_hold(tmp_path: Path):
    """The loss of every row is no less than what its codes lost, and no more than rounding can lose."""
    vectors = clustered(500, 64, 6)
    vectors[:100, 5] *= 1000  # one number rules the scale, the others are lost
    index = build(tmp_path, vectors)
    scale, loss = index.bounds.astype(np.float64).T
    lost = np.linalg.norm(index.vectors.astype(np.float64) - scale[:, None] * index.codes, axis=1)
    assert (loss >= lost).all() and (loss <= lost * (1 + 2e-6)).all()
    assert (loss <= scale / 2 * 8.001).all()  # sqrt(64) / 2 steps
    assert_same(index.search(vectors[:200], 9), brute(index, vectors[:200], 9))


def test_few_rows_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = build(tmp_path, np.random.default_rng(7).normal(size=(20_000, 32)))
    seen = []
    whole = vector_scan.score_pairs
    monkeypatch.setattr(vector_scan, "score_pairs", lambda *given: seen.append(len(given[3])) or whole(*given))
    index.search(np.eye(32)[:1], 10)
    assert 10 <= sum(seen) < 500


@pytest.mark.parametrize("sizes", [[1, 2, 0, 9000, 997], [10_000], [8192, 1808]])
def test_files_do_not_depend_on_the_blocks(sizes: list[int], tmp_path: Path):
    vectors = np.random.default_rng(8).normal(size=(10_000, 6)).astype(np.float32)
    blocks = np.split(vectors, np.cumsum(sizes)[:-1])
    index = VectorIndex.build(iter(blocks), iter(names_of(10_000)), tmp_path / "A")
    again = build(tmp_path, np.asfortranarray(vectors * 4))
    assert index.manifest.files == again.manifest.files
    assert sorted(path.name for path in index.folder.iterdir()) == FILES
    assert np.load(index.folder / "vectors.npy").shape == (10_000, 6)


def test_manifest(tmp_path: Path):
    values = json.loads((build(tmp_path, np.eye(3), dtype="float32").folder / "manifest.json").read_text())
    keys = ("format", "format_version", "metric", "dtype", "count", "width")
    assert [values[key] for key in keys] == ["syncyte-vectors", 1, "cosine", "float32", 3, 3]
    digest = hashlib.sha256((tmp_path / "INDEX" / "vectors.npy").read_bytes()).hexdigest()
    assert values["files"][0] == {"path": "vectors.npy", "bytes": 128 + 9 * 4, "sha256": digest}


def test_names_of_any_text(tmp_path: Path):
    names = ["zażółć", "細胞", "a\tb", "two\nlines", "back\\slash\\n", "", "\r", "🧬", "\x85\u2028", "again", "again"]
    index = VectorIndex.build(np.eye(len(names)), names, tmp_path / "INDEX")
    assert VectorIndex.open(tmp_path / "INDEX").names.tolist() == names
    assert (index.folder / "names.tsv").read_text(encoding="utf-8").split("\n")[3] == "a\\tb"
    with pytest.raises(DataError, match="cannot be written as UTF-8"):
        VectorIndex.build(np.eye(1), ["\ud800"], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_very_large_and_very_small_vectors(tmp_path: Path):
    index = build(tmp_path, np.array([[1e300, 1e300], [1e-300, 0], [5e-324, 5e-324]]), dtype="float32")
    rows, scores = index.search([[1e-200, 1e-200]], 3)
    assert rows.tolist() == [[0, 2, 1]]
    assert np.allclose(scores, [[1, 1, np.sqrt(0.5)]], atol=1e-7)


def test_one_vector_and_none(tmp_path: Path):
    index = VectorIndex.build(np.array([[2.0, 0.0]]), ["only"], tmp_path / "one")
    rows, scores = index.search([[1.0, 0.0], [-1.0, 0.0]], 10)
    assert rows.tolist() == [[0], [0]] and scores.tolist() == [[1.0], [-1.0]]
    empty = VectorIndex.build([np.zeros((0, 5))], [], tmp_path / "none")
    assert (len(empty), empty.width, empty.names.tolist()) == (0, 5, [])
    rows, scores = empty.search(np.ones((3, 5)), 10)
    assert rows.shape == scores.shape == (3, 0)
    rows, scores = index.search(np.zeros((0, 2)), 3)
    assert rows.shape == scores.shape == (0, 1)
    with pytest.raises(DataError, match="no vectors to index"):
        VectorIndex.build([], [], tmp_path / "nothing")


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((2, 5)), r"queries have 5 numbers each, those of the index 4"),
        (np.ones(4), r"queries have shape \(4,\); \(rows, width\) is needed"),
        ([[1, 2, 3, np.nan]], r"Query 0 holds NaN or infinite numbers"),
        ([[1, 2, 3, 4], [1, -np.inf, 3, 4]], r"Query 1 holds NaN or infinite numbers"),
        ([["a", "b", "c", "d"]], r"queries are of type <U1; real numbers are needed"),
        ([[1, 2], [3]], r"queries are no array"),
    ],
)
def test_bad_queries(queries: object, message: str, tmp_path: Path):
    index = build(tmp_path, np.eye(4))
    with pytest.raises(DataError, match=message):
        index.search(queries, 2)


def test_bad_options(tmp_path: Path):
    index = build(tmp_path, np.eye(4))
    with pytest.raises(ConfigError, match="top is 0; it must be at least 1"):
        index.search(np.eye(4), 0)
    with pytest.raises(ConfigError, match="block_rows is -1; it must be at least 1"):
        index.search(np.eye(4), 1, block_rows=-1)
    with pytest.raises(ConfigError, match=r"Unknown metric 'cosin'. Did you mean 'cosine'"):
        build(tmp_path, np.eye(4), metric="cosin", overwrite=True)
    with pytest.raises(ConfigError, match=r"Unknown dtype 'float64'. Did you mean"):
        build(tmp_path, np.eye(4), dtype="float64", overwrite=True)
    with pytest.raises(DataError, match="exists and is not empty"):
        build(tmp_path, np.eye(4))
    assert len(build(tmp_path, np.eye(3), overwrite=True)) == 3


@pytest.mark.parametrize(
    ("blocks", "names", "message"),
    [
        ([np.ones((2, 3)), np.ones((2, 4))], 4, r"vectors from row 2 on have 4 numbers each, those of the index 3"),
        ([np.ones((2, 3)), np.array([[1, np.nan, 2]])], 3, "Vector 2 holds NaN"),
        ([np.ones(3)], 1, r"shape \(3,\); \(rows, width\) is needed"),
        ([np.ones((3, 0))], 3, r"a width of at least 1"),
        ([np.ones((3, 2), dtype=complex)], 3, "of type complex128; real numbers"),
        ([np.ones((3, 2))], 2, "There are 2 names but more vectors"),
        ([np.ones((3, 2))], 4, "There are 3 vectors but more names"),
    ],
)
def test_bad_vectors_leave_nothing(blocks: list, names: int, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        VectorIndex.build(blocks, names_of(names), tmp_path / "INDEX")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_blocks_leaves_the_old_index(tmp_path: Path):
    def failing() -> Iterator[np.ndarray]:
        yield np.ones((9000, 3))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        VectorIndex.build(failing(), names_of(10_000), tmp_path / "INDEX")
    assert list(tmp_path.iterdir()) == []
    before = build(tmp_path, np.eye(3)).manifest
    with pytest.raises(RuntimeError, match="the source broke"):
        VectorIndex.build(failing(), names_of(10_000), tmp_path / "INDEX", overwrite=True)
    assert VectorIndex.open(tmp_path / "INDEX", verify=True).manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["INDEX"]


KILLED = """
import os, signal, sys
import numpy as np
from syncyte.data.vectors import VectorIndex
def blocks():
    yield np.ones((9000, 4))
    os.kill(os.getpid(), signal.SIGKILL)
VectorIndex.build(blocks(), map(str, range(20_000)), sys.argv[1])
"""


def test_killed_while_writing(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "INDEX")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name.startswith(".INDEX.tmp-") for path in tmp_path.iterdir()] == [True]
    build(tmp_path, np.eye(3))
    assert [path.name for path in tmp_path.iterdir()] == ["INDEX"]  # the next writer cleans up


@pytest.mark.parametrize("name", ["vectors.npy", "codes.npy", "bounds.npy", "names.tsv"])
def test_cut_changed_or_missing_files(name: str, tmp_path: Path):
    index = build(tmp_path, clustered(50, 4, 9))
    path = index.folder / name
    content = path.read_bytes()
    size = len(content)
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"damaged at {name}: it has {size - 1:,} bytes, the manifest says {size:,}"):
        VectorIndex.open(index.folder)
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    VectorIndex.open(index.folder)
    with pytest.raises(DataError, match=rf"damaged at {name}: its SHA-256 is not that of the manifest"):
        VectorIndex.open(index.folder, verify=True)
    path.unlink()
    with pytest.raises(DataError, match=rf"damaged at {name}: the file is missing. Build it anew"):
        VectorIndex.open(index.folder)


def test_manifests_that_do_not_fit(tmp_path: Path):
    with pytest.raises(DataError, match="is not an index of vectors: it holds no manifest"):
        VectorIndex.open(tmp_path)
    path = build(tmp_path, clustered(50, 4, 9)).folder / "manifest.json"
    good = json.loads(path.read_text())
    files = good["files"]
    for change, message in (
        ({"format": "syncyte-store"}, "not the manifest of an index of vectors"),
        ({"format_version": 2}, "is of version 2; this syncyte reads up to 1"),
        ({"count": 49}, r"vectors.npy: it holds float16 \(50, 4\), the manifest says float16 \(49, 4\)"),
        ({"dtype": "float32"}, "the manifest says float32"),
        ({"width": 0}, "impossible size"),
        ({"files": files[:3]}, "does not name the files"),
        ({"files": [{**files[0], "path": "../vectors.npy"}, *files[1:]]}, "does not name the files"),
        ({"colour": "red"}, "Unknown setting 'colour'"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=message):
            VectorIndex.open(path.parent)
    path.write_text("{")
    with pytest.raises(DataError, match=r"damaged at manifest.json: it is not JSON"):
        VectorIndex.open(path.parent)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    def peak(blocks: int) -> int:
        source = (np.ones((4000, 32), dtype=np.float32) for _ in range(blocks))
        names = (str(i) for i in range(4000 * blocks))
        tracemalloc.start()
        index = VectorIndex.build(source, names, tmp_path / "INDEX", overwrite=True)
        index.search(np.eye(32)[:2], 10)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # imports
    assert peak(24) < 1.2 * peak(3)


def test_half_precision_costs_little(tmp_path: Path):
    vectors = clustered(2000, 128, 10)
    half, single = build(tmp_path, vectors), build(tmp_path / "b", vectors, dtype="float32")
    a, b = half.search(vectors[:50], 20), single.search(vectors[:50], 20)
    assert np.abs(a[1] - b[1]).max() < 2e-4 and np.abs(a[1] - b[1]).mean() < 3e-5
    assert np.mean([len(set(x) & set(y)) / 20 for x, y in zip(a[0], b[0])]) > 0.98


@needs_faiss
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_faiss_finds_nearly_all(kind: str, tmp_path: Path):
    vectors = clustered(5000, 64, 11)
    index = build(tmp_path, vectors).with_faiss(kind)
    queries = vectors[::125] + 0.05
    rows, scores = index.search(queries, 10)
    found, theirs = index.search(queries, 10, exact=False)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, found)]) >= 0.9
    shared = rows == found
    assert shared.mean() > 0.5 and np.array_equal(scores[shared], theirs[shared])  # scored from the same vectors
    assert (np.diff(theirs, axis=1) <= 0).all()
    again = VectorIndex.open(index.folder).search(queries, 10, exact=False)
    assert np.array_equal(again[0], found)
    assert sorted(path.name for path in index.folder.iterdir()) == sorted([*FILES, "faiss.index", "faiss.json"])


@needs_faiss
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_faiss_that_finds_too_few_is_completed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from syncyte.data import vectors as module

    index = build(tmp_path, clustered(300, 16, 12)).with_faiss(kind)
    queries = clustered(5, 16, 13)
    whole = module.candidates

    def few(*given):
        rows = whole(*given)
        rows[1, 3:] = -1
        rows[4] = -1
        return rows

    monkeypatch.setattr(module, "candidates", few)
    found, wanted = index.search(queries, 8, exact=False), index.search(queries, 8)
    assert np.array_equal(found[0][[1, 4]], wanted[0][[1, 4]])
    assert (found[0] >= 0).all()
    assert len(index.search(queries, 1000, exact=False)[0][0]) == 300


@needs_faiss
def test_faiss_files_are_checked(tmp_path: Path):
    index = build(tmp_path, clustered(200, 8, 14)).with_faiss("ivf")
    path = index.folder / "faiss.index"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"damaged at faiss.index: it has .* bytes"):
        VectorIndex.open(index.folder).search(np.eye(8), 1, exact=False)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"damaged at faiss.index: its SHA-256"):
        VectorIndex.open(index.folder).search(np.eye(8), 1, exact=False)
    path.write_bytes(content)
    values = json.loads((index.folder / "faiss.json").read_text())
    (index.folder / "faiss.json").write_text(json.dumps({**values, "vectors_sha256": "0"}))
    with pytest.raises(DataError, match=r"damaged at faiss.json: it describes an index of other vectors"):
        VectorIndex.open(index.folder).search(np.eye(8), 1, exact=False)
    index.with_faiss("hnsw").search(np.eye(8), 1, exact=False)


def test_faiss_absent_or_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = build(tmp_path, np.eye(4))
    with pytest.raises(DataError, match=r"no index for approximate search. Make one with index.with_faiss\(\)"):
        index.search(np.eye(4), 1, exact=False)
    with pytest.raises(ConfigError, match=r"Unknown kind of approximate index 'ivff'. Did you mean 'ivf'"):
        index.with_faiss("ivff")
    with pytest.raises(DataError, match="has no rows"):
        VectorIndex.build(np.zeros((0, 4)), [], tmp_path / "none").with_faiss()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'faiss-cpu'. .*pip install 'syncyte\[faiss\]'"):
        index.with_faiss()
    assert index.search(np.eye(4), 1)[0].ravel().tolist() == [0, 1, 2, 3]
