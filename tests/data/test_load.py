from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.load import Loader, predict_batches, read_ahead
from syncyte.data.sample import BlockSampler, storage_order
from syncyte.data.store import open_store, write_store
from syncyte.errors import DataError
from syncyte.types import Tokens


class Entries:
    """A tokenizer that lays the entries bare: one token a cell that holds everything measured in it."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, counts: sp.csr_matrix) -> dict[str, np.ndarray]:
        assert counts.shape[1] == self.width
        cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        return {
            "feature": counts.indices.astype(np.int64),
            "value": counts.data,
            "cell": cell,
            "token": cell,
            "ids": np.zeros((counts.shape[0], 1), dtype=np.int64),
            "valid": (np.diff(counts.indptr) > 0)[:, None],
        }


@pytest.fixture
def cells() -> Cells:
    n = 90
    generator = np.random.default_rng(0)
    parts = {}
    for name, width, present in (("a", 30, np.arange(n) < 70), ("b", 50, np.arange(n) >= 40)):
        matrix = sp.random(present.sum(), width, 0.2, format="csr", dtype=np.float32, random_state=generator)
        matrix.data[:] = generator.integers(1, 9, matrix.nnz)
        index = np.where(present, np.cumsum(present) - 1, -1)
        parts[name] = Part(MemoryRows(matrix), index, pd.DataFrame(index=[f"{name}{i}" for i in range(width)]))
    return Cells(pd.DataFrame(index=[f"c{i}" for i in range(n)]), parts)


TOKENIZERS = {"a": Entries(30), "b": Entries(50), "absent": Entries(7)}


def _dense(tokens: Tokens, width: int) -> np.ndarray:
    block = torch.zeros(len(tokens.ids), width)
    return block.index_put((tokens.cell, tokens.feature), tokens.value, accumulate=True).numpy()


def test_minibatches_hold_the_counts_of_their_rows(cells):
    codes = np.arange(90, dtype=np.int16) % 4 - 1
    sampler = BlockSampler(np.arange(90), 8, block=4, fetch=3, seed=1)
    loader = Loader(cells, TOKENIZERS, sampler, covariates={"batch": codes})
    batches = list(loader.epoch(2))
    assert len(batches) == len(loader) == 12
    assert [batch.rows.tolist() for batch in batches] == [rows.tolist() for rows in sampler.epoch(2)]
    for batch in batches:
        rows = batch.rows.numpy()
        for name, tokenizer in TOKENIZERS.items():
            expected = cells.counts(name, rows).toarray() if name in cells.parts else np.zeros((len(rows), 7))
            assert (_dense(batch.tokens[name], tokenizer.width) == expected).all()
            assert batch.present[name].tolist() == cells.present(name)[rows].tolist()
        assert batch.covariates["batch"].dtype == torch.int64
        assert batch.covariates["batch"].tolist() == codes[rows].tolist()


@pytest.mark.parametrize("ahead", [0, 2])
def test_resume_gives_the_same_next_minibatch(cells, ahead):
    loader = Loader(cells, TOKENIZERS, BlockSampler(np.arange(90), 8, block=4, fetch=3, seed=1), ahead=ahead)
    whole = list(loader.epoch(1))
    for start in (0, 1, 3, 7, 12):
        rest = list(loader.epoch(1, start))
        assert [batch.rows.tolist() for batch in rest] == [batch.rows.tolist() for batch in whole[start:]]
        if rest:
            assert torch.equal(rest[0].tokens["a"].value, whole[start].tokens["a"].value)


def test_a_store_and_memory_give_the_same_minibatches(cells, tmp_path):
    stored = open_store(write_store(cells, tmp_path / "s", shard_cells=20))
    rows = storage_order([part.index for part in stored.parts.values()])
    sampler = BlockSampler(rows, 8, block=4, fetch=3)
    for one, two in zip(
        Loader(cells, TOKENIZERS, sampler).epoch(), Loader(stored, TOKENIZERS, sampler).epoch(), strict=True
    ):
        assert torch.equal(one.rows, two.rows)
        for name in TOKENIZERS:
            assert torch.equal(one.tokens[name].value, two.tokens[name].value)
            assert torch.equal(one.tokens[name].feature, two.tokens[name].feature)


@pytest.mark.parametrize("in_order", [True, False])
def test_prediction_sees_every_cell_once(cells, tmp_path, in_order):
    stored = open_store(write_store(cells, tmp_path / "s", shard_cells=20))
    seen = {
        rank: [batch.rows.tolist() for batch in predict_batches(stored, TOKENIZERS, 16, in_order=in_order, **rank_of)]
        for rank, rank_of in enumerate(({}, {"rank": 0, "world": 2}, {"rank": 1, "world": 2}))
    }
    assert [seen[0][::2], seen[0][1::2]] == [seen[1], seen[2]]  # in turn, the minibatches of one process
    rows = [row for batch in seen[0] for row in batch]
    assert sorted(rows) == list(range(90))
    assert (rows == list(range(90))) == in_order


def test_prediction_holds_few_cells_at_once():
    read = []

    class Counted:
        shape = (10_000, 30)

        def read(self, rows):
            read.append(len(rows))
            return sp.csr_matrix((len(rows), 30), dtype=np.float32)

    names = pd.Index([f"c{i}" for i in range(10_000)])
    many = Cells(pd.DataFrame(index=names), {"a": Part(Counted(), np.arange(10_000), pd.DataFrame(index=range(30)))})
    for size in (100, 512, 9000):
        read.clear()
        assert sum(len(batch) for batch in predict_batches(many, {"a": Entries(30)}, size)) == 10_000 == sum(read)
        assert max(read) <= max(4096, size)


def test_a_wrong_feature_space_is_refused(cells):
    with pytest.raises(DataError, match="have 30 a features, the model expects 31"):
        Loader(cells, {"a": Entries(31)}, BlockSampler(np.arange(90), 8))
    with pytest.raises(DataError, match="'batch' has 3 codes for 90 cells"):
        Loader(cells, {"a": Entries(30)}, BlockSampler(np.arange(90), 8), covariates={"batch": np.zeros(3, int)})


def test_read_ahead_keeps_order_passes_errors_on_and_ends_its_thread():
    def failing():
        yield 1
        yield 2
        raise DataError("the disk went away")

    before = threading.active_count()
    assert list(read_ahead(iter(range(20)), 2)) == list(range(20))
    items = read_ahead(failing(), 2)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(DataError, match="disk went away"):
        next(items)
    dropped = read_ahead(iter(range(1000)), 2)
    next(dropped)
    assert threading.active_count() == before + 1
    dropped.close()
    assert threading.active_count() == before


def test_read_ahead_makes_no_more_than_asked():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    ahead = read_ahead(items(), 2)
    next(ahead)
    ahead.close()
    assert len(made) <= 3


def test_data_is_free_of_torch_until_a_minibatch_is_made():
    code = "import sys; import syncyte.data.load, syncyte.data.store, syncyte.data.split; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
