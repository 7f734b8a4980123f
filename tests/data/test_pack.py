from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.data.pack import Packed, pack_rows, unpack_rows
from syncyte.errors import DataError

GUARD = 64  # elements behind the output that must stay as they are


def _csr(rows: list[tuple[list[int], list[int]]], width: int, dtype: str = "<u4") -> sp.csr_matrix:
    indptr = np.cumsum([0, *(len(columns) for columns, _ in rows)])
    indices = np.concatenate([np.array(columns, dtype=np.int32) for columns, _ in rows])
    data = np.concatenate([np.array(counts, dtype=dtype) for _, counts in rows])
    return sp.csr_matrix((data, indices, indptr), shape=(len(rows), width))


def _unpack(packed: Packed, width: int, words: np.ndarray | None = None, behind: int = 0, dtype: str = "<u4"):
    """First bad row, columns and counts; fails where anything behind the output was touched."""
    size = int(packed.entries.sum())
    indices, data = np.full(size + GUARD, -7, dtype=np.int32), np.full(size + GUARD, 7, dtype=dtype)
    words = np.append(packed.words if words is None else words, np.uint64(behind))
    bad = unpack_rows(words, packed.lengths, packed.entries, width, indices[:size], data[:size])
    assert (indices[size:] == -7).all() and (data[size:] == 7).all()
    return bad, indices[:size], data[:size]


def _check(matrix: sp.csr_matrix) -> Packed:
    packed = pack_rows(matrix)
    for behind in (0, 2**64 - 1):
        bad, indices, data = _unpack(packed, matrix.shape[1], behind=behind)
        assert bad == -1
        np.testing.assert_array_equal(indices, matrix.indices)
        np.testing.assert_array_equal(data, matrix.data)
    return packed


def _random(seed: int) -> sp.csr_matrix:
    """Rows of every length over a space of any width; gaps and counts of every shape, few of them huge."""
    generator = np.random.default_rng(seed)
    width = int(2 ** generator.uniform(0, 31)) if seed % 3 else 2**31 - 1
    rows = []
    for _ in range(int(generator.integers(1, 30))):
        n = int(min(width, 2 ** generator.uniform(-1, 9)))
        top = int(max(width * generator.uniform(0, 1) ** 4, n, 1))
        columns = np.unique(generator.integers(0, top, n))
        if seed % 2 and len(columns) > 1:
            columns[-1] = width - 1
        counts = generator.geometric(generator.uniform(0.001, 1), len(columns))
        huge = generator.random(len(columns)) < generator.choice([0, 0.01, 0.5])
        counts[huge] = generator.integers(1, 2**32, int(huge.sum()))
        rows.append((columns.tolist(), counts.tolist()))
    return _csr(rows, width)


@pytest.mark.parametrize("seed", range(60))
def test_rows_come_back_as_they_were(seed):
    _check(_random(seed))


def test_rows_at_the_edges_come_back():
    last = 2**31 - 2
    _check(
        _csr([([], []), ([0], [1]), ([], []), ([last], [2**32 - 1]), ([0, last], [1, 2**32 - 1]), ([], [])], last + 1)
    )
    _check(_csr([(list(range(500)), [1] * 500), ([], []), ([499], [7])], 500))
    _check(_csr([(list(range(0, 3000, 3)), [2**32 - 1] * 1000)], 3000))
    _check(_csr([([0, 1, 2, last], [20, 21, 22, 23]), ([5], [21]), ([5], [22])], last + 1))
    assert pack_rows(sp.csr_matrix((0, 5), dtype=np.uint32)).words.size == 0
    assert pack_rows(sp.csr_matrix((4, 5), dtype=np.uint32)).words.size == 0


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<f4"])
def test_counts_of_every_type_come_back_in_every_type(dtype):
    matrix = _csr([([1, 5, 9], [1, 200, 3]), ([0], [255])], 10, dtype)
    packed = pack_rows(matrix)
    for out in ("<u4", "<f4", "<i8"):
        bad, _, data = _unpack(packed, 10, dtype=out)
        assert bad == -1 and data.tolist() == matrix.data.tolist()


@pytest.mark.parametrize(("width", "most"), [(20_000, 1400), (1_200_000, 2500)])
def test_rows_are_short(width, most):
    generator = np.random.default_rng(0)
    columns = [np.unique(generator.integers(0, width, 1500)).tolist() for _ in range(50)]
    matrix = _csr([(row, generator.geometric(0.6, len(row)).tolist()) for row in columns], width)
    assert _check(matrix).words.nbytes / 50 < most


@pytest.mark.parametrize(
    ("columns", "counts"), [([3, 3], [1, 1]), ([4, 3], [1, 1]), ([10], [1]), ([1], [0]), ([-1], [1])]
)
def test_what_cannot_be_packed_is_refused(columns, counts):
    matrix = sp.csr_matrix((2, 10), dtype=np.uint32)
    matrix.indices, matrix.data = np.array(columns, dtype=np.int32), np.array(counts, dtype=np.uint32)
    matrix.indptr = np.array([0, 0, len(columns)], dtype=np.int32)
    with pytest.raises(DataError, match="Row 1 cannot be packed"):
        pack_rows(matrix)


@pytest.mark.parametrize("seed", range(20))
def test_any_flipped_bit_is_found_in_its_row(seed):
    packed = pack_rows(_random(seed))
    generator = np.random.default_rng(seed)
    ends = np.cumsum(packed.lengths)
    for place in generator.integers(0, max(len(packed.words), 1), 40 if len(packed.words) else 0):
        words = packed.words.copy()
        words[place] ^= np.uint64(1) << np.uint64(generator.integers(0, 64))
        bad, *_ = _unpack(packed, 2**31 - 1, words)
        assert bad == np.searchsorted(ends, place, side="right")


def _resign(packed: Packed, words: np.ndarray) -> np.ndarray:
    """Give rows the checksum that belongs to them, so that all later checks are met."""
    from syncyte.data.pack_kernels import checksum

    starts = np.concatenate([[0], np.cumsum(packed.lengths)])
    for row in np.flatnonzero(packed.lengths):
        at, end = int(starts[row]), int(starts[row + 1])
        head = int(words[at]) & 0xFFFFFFFF
        words[at] = head
        words[at] = head | int(checksum(words, at, end, int(packed.entries[row]))) << 32
    return words


@pytest.mark.parametrize("seed", range(30))
def test_damage_behind_a_right_checksum_stays_inside(seed):
    matrix = _random(seed)
    packed = pack_rows(matrix)
    generator = np.random.default_rng(seed)
    for _ in range(60):
        words = packed.words.copy()
        for place in generator.integers(0, max(len(words), 1), 3 if len(words) else 0):
            words[place] = generator.integers(0, 2**64, dtype=np.uint64)
        at = np.concatenate([[0], np.cumsum(packed.lengths)])[:-1][packed.lengths > 0]
        words[at] &= np.uint64(0x1F1F)  # heads that look right
        bad, indices, _ = _unpack(packed, matrix.shape[1], _resign(packed, words))
        if bad < 0:  # another row, but a row
            for row in np.split(indices, np.cumsum(packed.entries)[:-1]):
                assert (np.diff(row) > 0).all() and (row >= 0).all() and (row < matrix.shape[1]).all()


def test_tables_that_do_not_fit_the_words_are_refused():
    packed = _check(_csr([([1, 5, 9], [1, 2, 3]), ([0, 3], [1, 9])], 10))
    for change in (1, -1, 1000):
        for row in (0, 1):
            for name in ("entries", "lengths"):
                table = getattr(packed, name).copy()
                table[row] += change
                lengths, entries = (table if name == "lengths" else packed.lengths), packed.entries
                entries = table if name == "entries" else entries
                indices, data = np.zeros(5, dtype=np.int32), np.zeros(5, dtype=np.uint32)
                words = np.append(packed.words, np.uint64(0))
                assert unpack_rows(words, lengths, entries, 10, indices, data) >= 0
