"""Random sequences, and sequences in which half hold a motif."""

from __future__ import annotations

import numpy as np

from syncyte.genome.sequence import reverse_complement, to_codes


def background(n: int, length: int, seed: int, gc: float = 0.5) -> np.ndarray:
    half = gc / 2
    return np.random.default_rng(seed).choice(4, (n, length), p=[0.5 - half, half, half, 0.5 - half]).astype(np.uint8)


def planted(n: int, seed: int, word: str = "TGACTCAG") -> tuple[np.ndarray, np.ndarray]:
    """Half of the sequences hold a word, on either strand."""
    codes, rng = background(n, 60, seed), np.random.default_rng(seed + 1)
    y = np.arange(n) % 2
    for row in np.flatnonzero(y):
        at = rng.integers(0, 50)
        motif = to_codes(word)
        codes[row, at : at + len(word)] = motif if rng.random() < 0.5 else reverse_complement(motif)
    return codes, y.astype(float)
