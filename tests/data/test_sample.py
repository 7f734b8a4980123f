from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncyte.data.sample import BlockSampler, storage_order
from syncyte.errors import ConfigError

shapes = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "block": st.integers(1, 12),
        "fetch": st.integers(1, 6),
        "seed": st.integers(0, 5),
        "drop_last": st.booleans(),
        "world": st.integers(1, 4),
    }
)


def _epoch(sampler: BlockSampler, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [rows.tolist() for rows in sampler.epoch(epoch, start)]


@settings(max_examples=150, deadline=None)
@given(n=st.integers(0, 130), shape=shapes, epoch=st.integers(0, 3))
def test_training_ranks_share_the_cells_evenly(n, shape, epoch):
    world = shape.pop("world")
    samplers = [BlockSampler(np.arange(n) + 1000, **shape, rank=rank, world=world) for rank in range(world)]
    batches = [_epoch(sampler, epoch) for sampler in samplers]
    assert {len(one) for one in batches} == {len(samplers[0])}, "ranks make equally many steps"
    seen = [row for one in batches for batch in one for row in batch]
    assert len(seen) == len(set(seen)), "no cell twice"
    share = n // world
    kept = share // shape["batch_size"] * shape["batch_size"] if shape["drop_last"] else share
    assert len(seen) == world * kept
    assert set(seen) <= set(range(1000, 1000 + n))
    assert all(len(batch) == shape["batch_size"] for one in batches for batch in one[:-1])


@settings(max_examples=100, deadline=None)
@given(n=st.integers(0, 90), shape=shapes)
def test_prediction_ranks_laid_end_to_end_keep_the_order(n, shape):
    world = shape.pop("world")
    shape["drop_last"] = False
    rows = np.random.default_rng(n).permutation(n)
    samplers = [BlockSampler(rows, **shape, shuffle=False, rank=rank, world=world) for rank in range(world)]
    seen = [row for sampler in samplers for batch in _epoch(sampler) for row in batch]
    assert seen == rows.tolist()
    assert [len(_epoch(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 130), shape=shapes, epoch=st.integers(0, 3), data=st.data())
def test_resume_gives_the_same_next_minibatches(n, shape, epoch, data):
    shape.pop("world")
    sampler = BlockSampler(np.arange(n), **shape)
    whole = _epoch(sampler, epoch)
    start = data.draw(st.integers(0, len(whole)))
    again = BlockSampler(np.arange(n), **shape)
    assert _epoch(again, epoch, start) == whole[start:]


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed: int, epoch: int) -> list[list[int]]:
        return _epoch(BlockSampler(np.arange(500), 10, block=8, fetch=4, seed=seed), epoch)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)
    assert order(0, 1) != order(1, 0)


def test_fetches_are_read_in_storage_order_and_made_of_blocks():
    rows = np.arange(10_000)[::-1]
    sampler = BlockSampler(rows, 32, block=16, fetch=8, seed=1)
    for fetch in sampler.fetches():
        assert (np.diff(fetch.rows) < 0).all(), "the order of storage, which is descending here"
        runs = 1 + (np.diff(fetch.rows) != -1).sum()
        assert runs <= len(fetch.rows) / 16 + 3
        assert sorted(np.concatenate(fetch.batches)) == list(range(len(fetch.rows)))


def test_minibatches_mix_cells_from_far_apart():
    first = next(BlockSampler(np.arange(100_000), 256, seed=3).epoch())
    tenths = np.unique(first // 10_000)
    assert len(tenths) == 10
    assert not (np.diff(first) > 0).all()


def test_the_dropped_tail_differs_between_epochs():
    samplers = [BlockSampler(np.arange(101), 10, block=4, rank=rank, world=4) for rank in range(4)]
    dropped = set()
    for epoch in range(20):
        seen = {row for sampler in samplers for batch in _epoch(sampler, epoch) for row in batch}
        dropped |= set(range(101)) - seen
    assert len(dropped) > 5


def test_repeated_rows_are_drawn_as_often():
    rows = np.sort(np.concatenate([np.arange(20), np.repeat(np.arange(5), 3)]))
    seen = np.concatenate(list(BlockSampler(rows, 4, block=3, fetch=2).epoch()))
    assert np.bincount(seen).tolist() == [4] * 5 + [1] * 15


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1, "block": 0}, "block is 0"),
        ({"batch_size": 1, "rank": 2, "world": 2}, "rank is 2; with 2 processes"),
        ({"batch_size": 1, "seed": -1}, "seed is -1"),
    ],
)
def test_impossible_options_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        BlockSampler(np.arange(4), **options)


def test_a_start_beyond_the_epoch_is_an_error():
    with pytest.raises(ConfigError, match="minibatch 3: an epoch of these cells has 2"):
        list(BlockSampler(np.arange(4), 2).epoch(0, 3))


def test_storage_order_follows_each_modality():
    order = np.random.default_rng(0).permutation(200)  # place -> cell
    has_a, has_b = np.arange(200) % 3 != 0, np.arange(200) % 3 != 1
    indexes = []
    for has in (has_a, has_b):
        index = np.full(200, -1)
        index[order[has[order]]] = np.arange(has.sum())
        indexes.append(index)
    rows = storage_order(indexes)
    assert sorted(rows) == list(range(200))
    for index in indexes:
        read = index[rows]
        read = read[read >= 0]
        assert np.abs(read - np.sort(read)).max() <= 12, "neighbours stay neighbours in both"


def test_storage_order_of_some_cells():
    index = np.array([5, -1, 3, 4, 0])
    assert storage_order([index]).tolist() == [4, 2, 3, 0, 1]
    assert storage_order([index], np.array([0, 1, 2])).tolist() == [2, 0, 1]
    assert storage_order([index], index >= 0).tolist() == [4, 2, 3, 0]
