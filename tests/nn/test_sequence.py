"""The network of sequences: strands, starts, unknown bases, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from syncyte.errors import ConfigError
from syncyte.genome.sequence import one_hot, reverse_complement
from syncyte.nn.sequence import SequenceNet, SequenceSizes

SMALL = dict(
    length=60, filters=8, kernel=9, inner=8, members=2, channels=4, axes=6, centres=10, k=4, informative=3, kept=3
)


def made(**more: object) -> SequenceNet:
    torch.manual_seed(0)
    network = SequenceNet(SequenceSizes.parse({**SMALL, **more})).eval()
    for name, buffer in network.start.named_buffers():
        if name != "columns":
            buffer.copy_(torch.randn(buffer.shape))
    return network


def windows(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(one_hot(codes))


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (5, 60), dtype=np.uint8)


def test_both_strands_give_one_embedding(codes: np.ndarray):
    network = made()
    for tower in network.towers:
        tower.head.weight.data.normal_()
    ours, theirs = network.both(windows(codes)), network.both(windows(reverse_complement(codes)))
    assert ours[0].shape == (5, 2 * 4 + 3) == (5, network.sizes.width)
    for left, right in zip(ours, theirs):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_an_untrained_network_says_what_its_start_says(codes: np.ndarray):
    network, x = made(tasks=3), windows(codes)
    start = network.start
    assert torch.equal(network.both(x)[1], start.answers(start.axes(x)))


def test_nothing_of_the_start_learns(codes: np.ndarray):
    names = [name for name, _ in made().named_parameters()]
    assert names and not any(name.startswith("start") for name in names)


def test_unknown_windows_are_finite_and_have_no_axes():
    network = made()
    x = windows(np.full((2, 60), 4, dtype=np.uint8))
    assert (network.start.axes(x) == 0).all()
    assert all(torch.isfinite(part).all() for part in network.both(x))


def test_other_rows_change_nothing(codes: np.ndarray):
    network = made()
    torch.testing.assert_close(network(windows(codes))[2:3], network(windows(codes[2:3])))


@pytest.mark.parametrize("length", [20, 33, 200, 1344])
def test_lengths(length: int):
    network = made(length=length, blocks=4)
    codes = np.random.default_rng(1).integers(0, 4, (2, length), dtype=np.uint8)
    assert torch.isfinite(network(windows(codes))).all()


def test_without_towers_it_is_the_start_alone(codes: np.ndarray):
    assert made(members=0)(windows(codes)).shape == (5, 3)


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="filters"):
        SequenceSizes.parse({"length": 60, "filter": 3})
