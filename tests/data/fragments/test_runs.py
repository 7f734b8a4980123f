"""Runs of pairs, sorted and merged, against a dictionary."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.data.fragments import runs as module
from syncyte.data.fragments.runs import Runs

BARCODES = 7


def rows_of(runs: Runs, ids: list[int]) -> Counter:
    """(barcode, region) to count of the rows asked for; their columns must ascend."""
    found, row = Counter(), 0
    for lengths, columns, counts in runs.blocks(np.array(ids, dtype=np.int64), BARCODES):
        edges = np.append(0, np.cumsum(lengths))
        assert edges[-1] == len(columns) == len(counts)
        for place in range(len(lengths)):
            part = slice(edges[place], edges[place + 1])
            assert (np.diff(columns[part]) > 0).all()
            found.update({(ids[row], int(c)): int(n) for c, n in zip(columns[part], counts[part])})
            row += 1
    assert row == len(ids)
    return found


@given(
    st.lists(st.lists(st.tuples(st.integers(0, BARCODES - 1), st.integers(0, 9)), max_size=60), max_size=5),
    st.permutations(range(BARCODES)),
    st.integers(0, BARCODES),
)
def test_runs_give_what_went_in(given_runs, order, kept):
    runs = Runs()
    for pairs in given_runs:
        rows, columns = zip(*pairs) if pairs else ((), ())
        runs.add(np.array(rows, dtype=np.uint32), np.array(columns, dtype=np.int32), BARCODES)
    everything = Counter(pair for pairs in given_runs for pair in pairs)
    ids = list(order[:kept])
    assert rows_of(runs, ids) == Counter({pair: n for pair, n in everything.items() if pair[0] in ids})
    runs.close()


@pytest.mark.parametrize("order", ["falling", "random", "rising"])
def test_long_rows_in_any_order(order: str, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 1000)
    columns = np.arange(20_000, dtype=np.int32) // 2
    columns = {"falling": columns[::-1], "rising": columns, "random": np.random.default_rng(0).permutation(columns)}[
        order
    ]
    runs = Runs()
    for part in np.array_split(columns.copy(), 3):
        runs.add(np.full(len(part), 3, dtype=np.uint32), part.copy(), BARCODES)
    assert rows_of(runs, [3, 0]) == {(3, column): 2 for column in range(10_000)}
    runs.close()
