"""Words of bases as numbers in base 4: their other strand, and the one number for both.

The columns are those of ``kmers.kmer_counts``. Leaves out: counting.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from syncyte.errors import GenomeError

LONGEST = 10


def reverse_words(words: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Reverse complements of words of ``k`` bases, as numbers in base 4."""
    left, turned = words.copy(), np.zeros_like(words)
    for _ in range(k):
        turned = turned * 4 + (3 - (left & 3))
        left = left >> 2
    return turned


@lru_cache(maxsize=4)
def canonical_words(k: int) -> NDArray[np.int64]:
    """Words that do not come after their reverse complement, sorted: the columns of counts on both strands.

    Raises
    ------
    GenomeError
        If ``k`` is not from 1 to 10.
    """
    if not 1 <= k <= LONGEST:
        raise GenomeError(f"k-mers of length {k} were asked for; expected 1 to {LONGEST}.")
    words = np.arange(4**k, dtype=np.int64)
    found = words[words <= reverse_words(words, k)]
    found.flags.writeable = False
    return found


@lru_cache(maxsize=4)
def word_columns(k: int) -> NDArray[np.int64]:
    """Column of each of the ``4 ** k`` words."""
    words = np.arange(4**k, dtype=np.int64)
    found = np.searchsorted(canonical_words(k), np.minimum(words, reverse_words(words, k)))
    found.flags.writeable = False
    return found
