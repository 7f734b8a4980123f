"""Words as numbers against text, and against the columns of the counts."""

from __future__ import annotations

import numpy as np
import pytest

from syncyte.errors import GenomeError
from syncyte.genome.kmers import kmer_counts, kmer_names
from syncyte.genome.sequence import reverse_complement, to_codes, to_text
from syncyte.genome.words import canonical_words, reverse_words, word_columns


def number(text: str) -> int:
    return int("".join(map(str, to_codes(text))), 4)


@pytest.mark.parametrize("word", ["A", "ACG", "TTTGCAT", "ACGT"])
def test_the_other_strand(word: str):
    turned = reverse_words(np.array([number(word)]), len(word))[0]
    assert turned == number(to_text(reverse_complement(to_codes(word))))
    assert reverse_words(np.array([turned]), len(word))[0] == number(word)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_columns_are_those_of_the_counts(k: int):
    names = kmer_names(k)
    assert [number(name) for name in names] == canonical_words(k).tolist()
    for word in range(4**k):
        digits = np.array([(word >> (2 * (k - 1 - place))) & 3 for place in range(k)], dtype=np.uint8)
        assert kmer_counts(digits[None], k).indices.tolist() == [word_columns(k)[word]]


def test_lengths_out_of_range():
    with pytest.raises(GenomeError, match="expected 1 to 10"):
        canonical_words(11)
