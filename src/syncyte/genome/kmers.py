"""Short words of sequences (k-mers), counted on both strands as one.

A word and its reverse complement are the same thing seen from two sides, so both are counted under the one that comes
first in the alphabet. Words that hold an unknown base are left out.
Leaves out: words with gaps, and any model on the counts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.errors import GenomeError

LONGEST = 12  # bases of a word: its columns are listed, 8 million of them at 12
BLOCK = 4_000_000  # words in memory at a time
LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)


def kmer_counts(codes: NDArray[np.uint8], k: int, both_strands: bool = True) -> sp.csr_matrix:
    """How often each word of ``k`` bases stands in each sequence.

    Parameters
    ----------
    codes
        ``(n, L)`` bases: A 0, C 1, G 2, T 3, anything else unknown.
    k
        Bases of a word, 1 to 12.
    both_strands
        Count a word and its reverse complement together; a place counts once, also where the two are equal.
        Otherwise the ``4 ** k`` words of the strand at hand.

    Returns
    -------
    scipy.sparse.csr_matrix
        ``(n, words)`` float32 with sorted columns, in the order of ``kmer_names``. Sequences shorter than ``k`` have
        no words.

    Raises
    ------
    GenomeError
        If ``k`` is out of range or ``codes`` has another shape.
    """
    _check(k)
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise GenomeError(f"Words are counted in codes of shape (n, L), and these have {codes.shape}. Stack them.")
    width = canonical_words(k).size if both_strands else 4**k
    rows = max(1, BLOCK // max(codes.shape[1], 1))
    parts = [_counted(codes[first : first + rows], k, both_strands, width) for first in range(0, len(codes), rows)]
    return sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, width), dtype=np.float32)


def _counted(codes: NDArray[np.uint8], k: int, both_strands: bool, width: int) -> sp.csr_matrix:
    words = kmer_columns(codes, k, both_strands)
    known = words >= 0
    ends = np.concatenate([[0], np.cumsum(known.sum(axis=1, dtype=np.int64))])
    ones = np.ones(int(ends[-1]), dtype=np.float32)
    counts = sp.csr_matrix((ones, words[known], ends), shape=(len(codes), width))
    counts.sum_duplicates()
    return counts


def kmer_columns(codes: NDArray[np.uint8], k: int, both_strands: bool = True) -> NDArray[np.int32]:
    """Column of the word that begins at each base: ``(n, L - k + 1)``, -1 where a base of it is unknown."""
    _check(k)
    codes = np.asarray(codes, dtype=np.uint8)
    places = max(codes.shape[1] - k + 1, 0)
    words = np.zeros((len(codes), places), dtype=np.int32)
    known = np.ones(words.shape, dtype=bool)
    for offset in range(k):
        base = codes[:, offset : offset + places]
        words = words * 4 + np.minimum(base, 3)
        known &= base < 4
    if both_strands:
        words = _column_of_word(k)[words]
    return np.where(known, words, -1)


def kmer_names(k: int, both_strands: bool = True) -> NDArray[np.str_]:
    """Words in the order of the columns of ``kmer_counts``, as text."""
    _check(k)
    words = canonical_words(k) if both_strands else np.arange(4**k)
    digits = (words[:, None] >> (2 * np.arange(k - 1, -1, -1))) & 3
    return np.ascontiguousarray(LETTERS[digits]).view(f"S{k}")[:, 0].astype(f"U{k}")


@lru_cache(maxsize=4)
def canonical_words(k: int) -> NDArray[np.int64]:
    """Words, as numbers in base 4, that do not come after their reverse complement; sorted."""
    _check(k)
    words = np.arange(4**k, dtype=np.int64)
    found = words[words <= reverse_words(words, k)]
    found.flags.writeable = False
    return found


def reverse_words(words: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Reverse complements of words given as numbers in base 4."""
    left, turned = words.copy(), np.zeros_like(words)
    for _ in range(k):
        turned = turned * 4 + (3 - (left & 3))
        left = left >> 2
    return turned


@lru_cache(maxsize=4)
def _column_of_word(k: int) -> NDArray[np.int32]:
    words = np.arange(4**k, dtype=np.int64)
    return np.searchsorted(canonical_words(k), np.minimum(words, reverse_words(words, k))).astype(np.int32)


def _check(k: int) -> None:
    if not 1 <= k <= LONGEST:
        raise GenomeError(f"Words of {k} bases are not counted here. Choose a length from 1 to {LONGEST}.")
