"""Vectors cached by content: the same numbers, resumed after a kill, damage found."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from syncyte.errors import DataError
from syncyte.tasks import encoded
from syncyte.tasks.encoded import Blocks, embed_cached


class Counting:
    """An encoder whose vectors can be told by hand; counts what it was asked, and may break down."""

    length, width, fingerprint = 12, 3, "counting"

    def __init__(self, breaks_after: int | None = None) -> None:
        self.asked, self.breaks_after = 0, breaks_after

    def embed(self, onehot: torch.Tensor) -> torch.Tensor:
        if self.breaks_after is not None and self.asked >= self.breaks_after:
            raise KeyboardInterrupt
        self.asked += len(onehot)
        return torch.stack([onehot[:, 0].sum(1), onehot[:, 1].sum(1), onehot[:, 2, 0] + 0.1], dim=1)


def windows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (n, 12), dtype=np.uint8)


def expected(codes: np.ndarray) -> np.ndarray:
    return np.stack([(codes == 0).sum(1), (codes == 1).sum(1), (codes[:, 0] == 2) + 0.1], axis=1).astype(np.float32)


def test_the_same_with_and_without_a_cache(tmp_path: Path):
    codes = windows(40)
    for cache in (None, tmp_path, tmp_path):
        assert np.array_equal(embed_cached(Counting(), codes, cache, 7), expected(codes))


def test_each_sequence_once(tmp_path: Path):
    codes = np.concatenate([windows(10), windows(10), windows(5, 1)])
    first, second = Counting(), Counting()
    embed_cached(first, codes, tmp_path, 4)
    assert first.asked == 15
    found = embed_cached(second, np.concatenate([codes[::-1], windows(3, 2)]), tmp_path, 4)
    assert second.asked == 3
    assert np.array_equal(found[:25], expected(codes[::-1]))


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded, "ROWS", 8)
    codes = windows(60)
    with pytest.raises(KeyboardInterrupt):
        embed_cached(Counting(breaks_after=32), codes, tmp_path, 4)
    resumed = Counting()
    found = embed_cached(resumed, codes, tmp_path, 4)
    assert resumed.asked == 60 - 32
    assert np.array_equal(found, expected(codes))


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "other"])
def test_damage_is_found_and_made_again(tmp_path: Path, how: str):
    codes = windows(20)
    embed_cached(Counting(), codes, tmp_path, 20)
    (place,) = tmp_path.rglob("*.npz")
    raw = bytearray(place.read_bytes())
    if how == "cut":
        raw = raw[: len(raw) // 2]
    elif how == "empty":
        raw = bytearray()
    elif how == "other":
        raw = bytearray(b"something else")
    else:
        with np.load(place) as parts:
            held = {name: parts[name].copy() for name in parts.files}
        held["vectors"][3, 1] += 1  # a sound file with a wrong number
        np.savez(place, **held)
        raw = bytearray(place.read_bytes())
    place.write_bytes(raw)
    again, third = Counting(), Counting()
    assert np.array_equal(embed_cached(again, codes, tmp_path, 20), expected(codes))
    assert again.asked == 20
    embed_cached(third, codes, tmp_path, 20)
    assert third.asked == 0


def test_other_encoders_and_options_have_their_own(tmp_path: Path):
    codes = windows(5)
    embed_cached(Counting(), codes, tmp_path)
    other = Counting()
    other.fingerprint = "another"
    embed_cached(other, codes, tmp_path)
    optioned = Counting()
    embed_cached(optioned, codes, tmp_path, options="shift=1")
    assert other.asked == optioned.asked == 5
    assert len(list(tmp_path.iterdir())) == 3


def test_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded, "ROWS", 5)
    codes, found = windows(50), {}

    def run(number: int) -> None:
        found[number] = embed_cached(Counting(), np.roll(codes, number, axis=0), tmp_path, 5)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], expected(np.roll(codes, number, axis=0))) for number in range(4))
    assert len(Blocks(tmp_path, Counting()).read({encoded.content_hash(row): 0 for row in codes})) == 50


def test_a_memory_map_will_do(tmp_path: Path):
    codes = windows(9)
    np.save(tmp_path / "codes.npy", codes)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    assert np.array_equal(embed_cached(Counting(), mapped, tmp_path / "cache", 4), expected(codes))


def test_no_windows(tmp_path: Path):
    assert embed_cached(Counting(), windows(0), tmp_path).shape == (0, 3)


def test_wrong_windows_and_wrong_vectors(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected \(n, 12\)"):
        embed_cached(Counting(), np.zeros((2, 11), np.uint8), tmp_path)

    class Broken(Counting):
        def embed(self, onehot: torch.Tensor) -> torch.Tensor:
            return torch.full((len(onehot), 3), torch.nan)

    with pytest.raises(DataError, match="finite"):
        embed_cached(Broken(), windows(2), tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_what_another_is_still_writing_is_left_alone(tmp_path: Path):
    codes = windows(6)
    first = embed_cached(Counting(), codes, tmp_path, 5)
    (folder,) = tmp_path.iterdir()
    unfinished = folder / ".half.npz.tmp-host-1-00000000.npz"
    unfinished.touch()
    assert np.array_equal(embed_cached(Counting(), codes, tmp_path, 5), first)
    assert unfinished.exists()
