"""Counts move through a table exactly, sorted and in whole numbers, whatever the order of the columns."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.made import opened, peaks

from syncyte.data import regroup
from syncyte.data.cells import MemoryRows, RegroupedRows
from syncyte.data.regroup import Regroup
from syncyte.errors import DataError


def made(seed: int, order: str, most: int, cells: int = 7) -> tuple[sp.csr_matrix, Regroup]:
    """Counts and a table over peaks that are sorted, sorted by chromosomes in another order, or shuffled."""
    generator = np.random.default_rng(seed)
    features, width = 60, 130
    low = np.sort(generator.integers(0, width - most, features))
    count = generator.integers(0, most + 1, features)
    if order != "overlapping":
        count = np.minimum(count, np.append(np.maximum(np.diff(low), 1), most))
    rank = np.arange(features)
    if order == "runs":
        rank = np.concatenate(np.array_split(rank, 5)[::-1])
    elif order == "shuffled":
        rank = generator.permutation(features)
    low, count = low[rank], count[rank]
    pointer = np.concatenate([[0], np.cumsum(count)])
    target = np.arange(pointer[-1]) - np.repeat(pointer[:-1] - low, count)
    bases = generator.integers(1, 500, pointer[-1]).astype(np.int32)
    dense = generator.poisson(0.7, (cells, features)) * generator.integers(1, 4, (cells, features))
    dense[2] = 0
    return sp.csr_matrix(dense.astype(np.float32)), Regroup(pointer, target.astype(np.int32), width, bases)


def expected(counts: sp.csr_matrix, table: Regroup, rule: str) -> np.ndarray:
    """The same by plain loops."""
    dense, out = counts.toarray(), np.zeros((counts.shape[0], table.width))
    for cell, column in np.argwhere(dense):
        span = slice(table.pointer[column], table.pointer[column + 1])
        value, targets, bases = dense[cell, column], table.target[span], table.bases[span]
        if rule == "any" or len(targets) < 2:
            out[cell, targets] += value
            continue
        exact = value * bases / bases.sum()
        if rule == "fraction":
            exact = (int(value) * bases.astype(int)) // bases.sum()
            rest = (int(value) * bases.astype(int)) % bases.sum()
            for place in sorted(range(len(bases)), key=lambda i: (-rest[i], i))[: int(value - exact.sum())]:
                exact[place] += 1
        out[cell, targets] += exact
    return out


@pytest.mark.parametrize("order", ["sorted", "runs", "shuffled", "overlapping"])
@pytest.mark.parametrize("most", [1, 2, 5])
@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_every_rule_in_every_order(order: str, most: int, seed: int):
    counts, split = made(seed, order, most)
    whole = Regroup(split.pointer, split.target, split.width)
    parts = Regroup(split.pointer, split.target, split.width, split.bases, whole=False)
    for table, rule in ((whole, "any"), (split, "fraction"), (parts, "parts")):
        moved = table.apply(counts)
        truth = expected(counts, split, rule)
        np.testing.assert_allclose(moved.toarray(), truth, rtol=0 if rule != "parts" else 1e-5)
        assert moved.has_canonical_format and sp.csr_matrix(moved, copy=True).has_sorted_indices
        assert all(np.all(np.diff(moved.indices[a:b]) > 0) for a, b in zip(moved.indptr, moved.indptr[1:]))
        assert moved.data.all() and moved.dtype == np.float32
    opened_ = whole.apply(counts, binary=True)
    np.testing.assert_array_equal(opened_.toarray(), expected(counts, split, "any") > 0)


def test_sorted_peaks_and_peaks_by_chromosome_are_merged_on_the_way():
    assert len(made(1, "sorted", 2)[1].runs[0]) == 1
    assert 1 < len(made(1, "runs", 2)[1].runs[0]) <= 10
    assert made(1, "overlapping", 5)[1].runs is None


@given(st.integers(1, 10_000), st.lists(st.integers(1, 2_000_000_000), min_size=1, max_size=6))
def test_parts_add_up_and_are_near_their_shares(value: int, bases: list[int]):
    table = Regroup(np.array([0, len(bases)]), np.arange(len(bases), dtype=np.int32), 6, np.array(bases, np.int32))
    moved = table.apply(sp.csr_matrix(np.array([[value]], dtype=np.float32))).toarray()[0, : len(bases)]
    exact = value * np.array(bases) / sum(bases)
    assert moved.sum() == value and np.all(np.abs(moved - exact) < 1)
    if value == 1:
        assert moved.argmax() == np.argmax(bases)


def test_threads_do_not_change_the_answer(monkeypatch):
    counts, split = made(3, "sorted", 3, cells=41)
    monkeypatch.setattr(regroup, "PER_THREAD", 1)
    for table in (split, Regroup(split.pointer, split.target, split.width)):
        one = table.apply(counts, threads=1)
        for threads in (2, 3, 7, 100):
            many = table.apply(counts, threads=threads)
            assert (many != one).nnz == 0 and np.array_equal(many.indptr, one.indptr)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8", "f4", "f8", "?"])
def test_whole_numbers_have_room_for_sums(dtype: str):
    counts = sp.csr_matrix(np.full((2, 3), 200 if dtype != "?" else 1).astype(dtype))
    moved = Regroup.of(np.array([1, 1, 1]), 2).apply(counts)
    assert moved.toarray().tolist() == [[0, 600 if dtype != "?" else 3]] * 2
    assert moved.dtype == (np.int32 if dtype in ("u1", "u2", "?") else np.dtype(dtype))


def test_nothing_in_nothing_out():
    table = Regroup.of(np.array([-1, -1]), 4)
    assert table.apply(sp.csr_matrix((3, 2), dtype=np.float32)).shape == (3, 4)
    assert table.apply(sp.csr_matrix(np.ones((3, 2), dtype=np.float32))).nnz == 0
    assert table.apply(sp.csr_matrix((0, 2), dtype=np.float32)).shape == (0, 4)


def test_fractions_are_refused_by_the_rule_that_splits():
    table = Regroup(np.array([0, 2]), np.array([0, 1], np.int32), 2, np.array([1, 1], np.int32))
    with pytest.raises(DataError, match="rule 'fraction' splits raw counts"):
        table.apply(sp.csr_matrix(np.array([[0.5]], dtype=np.float32)))


def test_rows_are_regrouped_as_they_are_read():
    counts, split = made(5, "sorted", 3)
    rows = RegroupedRows(MemoryRows(counts), split)
    assert rows.shape == (7, 130)
    np.testing.assert_array_equal(
        rows.read(np.array([4, 0, 4])).toarray(), expected(counts, split, "fraction")[[4, 0, 4]]
    )
    assert opened(peaks()).parts  # the reading of plain tables stays what it was
