"""Counts of short words of bases (k-mers), a word and its reverse complement being one.

Leaves out models on these counts (``baselines``).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from syncyte.errors import GenomeError
from syncyte.genome.sequence import UNKNOWN
from syncyte.genome.words import LONGEST, canonical_words, word_columns

_ROWS = 4_000_000  # bases worked on at once


def kmer_counts(codes: np.ndarray, k: int, both_strands: bool = True) -> sparse.csr_matrix:
    """How often each k-mer occurs in each sequence.

    Parameters
    ----------
    codes
        uint8 ``(n, L)``. Words with an unknown base are not counted.
    k
        Length of a word, 1 to 10.
    both_strands
        Count a word and its reverse complement as one, so that a sequence and its other strand have equal counts.

    Returns
    -------
    scipy.sparse.csr_matrix
        float32 ``(n, words)``, columns as in ``kmer_names``.
    """
    column, words = _columns(k, both_strands)
    codes = np.atleast_2d(np.asarray(codes, dtype=np.uint8))
    n, length = codes.shape
    if length < k:
        return sparse.csr_matrix((n, words), dtype=np.float32)
    step = max(1, min(_ROWS // length, (1 << 62) // words))
    parts = [_block(codes[at : at + step], k, column, words) for at in range(0, n, step)]
    return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, words), dtype=np.float32)


def kmer_names(k: int, both_strands: bool = True) -> list[str]:
    """Words in the order of the columns; of a word and its reverse complement the one that comes first by alphabet."""
    column, words = _columns(k, both_strands)
    first = np.full(words, -1, dtype=np.int64)
    order = np.arange(4**k)[::-1]
    first[column[order]] = order
    return ["".join("ACGT"[(number >> 2 * (k - 1 - place)) & 3] for place in range(k)) for number in first.tolist()]


def _columns(k: int, both_strands: bool) -> tuple[np.ndarray, int]:
    """Column of each of the ``4 ** k`` words, and the number of columns."""
    if both_strands:
        return word_columns(k), len(canonical_words(k))
    if not 1 <= k <= LONGEST:
        raise GenomeError(f"k-mers of length {k} were asked for; expected 1 to {LONGEST}.")
    return np.arange(4**k, dtype=np.int64), 4**k


def _block(codes: np.ndarray, k: int, column: np.ndarray, words: int) -> sparse.csr_matrix:
    n, length = codes.shape
    number = np.zeros((n, length - k + 1), dtype=np.int64)
    known = np.ones(number.shape, dtype=bool)
    for place in range(k):
        base = codes[:, place : place + number.shape[1]]
        known &= base < UNKNOWN
        number = number * 4 + (base & 3)
    row = np.broadcast_to(np.arange(n, dtype=np.int64)[:, None], number.shape)[known]
    key, count = np.unique(row * words + column[number[known]], return_counts=True)
    indptr = np.searchsorted(key, np.arange(n + 1, dtype=np.int64) * words)
    return sparse.csr_matrix((count.astype(np.float32), key % words, indptr), shape=(n, words))
