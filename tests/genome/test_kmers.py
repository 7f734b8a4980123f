"""Words of both strands against counting by hand and by text."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from syncyte.errors import GenomeError
from syncyte.genome.kmers import canonical_words, kmer_columns, kmer_counts, kmer_names
from syncyte.genome.sequence import reverse_complement, to_codes, to_text


def test_counts_by_hand():
    counts = kmer_counts(to_codes("ACGTT")[None], 2)
    found = dict(zip(kmer_names(2), counts.toarray()[0]))
    assert {word: n for word, n in found.items() if n} == {"AC": 2, "CG": 1, "AA": 1}  # GT is AC, TT is AA


def test_one_strand_by_hand():
    counts = kmer_counts(to_codes("ACGTT")[None], 2, both_strands=False)
    found = {word: n for word, n in zip(kmer_names(2, False), counts.toarray()[0]) if n}
    assert found == {"AC": 1, "CG": 1, "GT": 1, "TT": 1}


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_as_text_counts(k: int):
    rng = np.random.default_rng(k)
    codes = rng.integers(0, 5, (7, 60), dtype=np.uint8)
    names = kmer_names(k)
    table = kmer_counts(codes, k).toarray()
    for row, one in enumerate(codes):
        text = to_text(one)
        words = [text[at : at + k] for at in range(len(text) - k + 1)]
        expected = Counter(min(word, to_text(reverse_complement(to_codes(word)))) for word in words if "N" not in word)
        assert {name: int(n) for name, n in zip(names, table[row]) if n} == dict(expected)


@pytest.mark.parametrize("k", [3, 6, 8])
def test_strands_are_the_same(k: int):
    codes = np.random.default_rng(0).integers(0, 5, (5, 100), dtype=np.uint8)
    assert (kmer_counts(codes, k) != kmer_counts(reverse_complement(codes), k)).nnz == 0


def test_how_many_words_there_are():
    assert canonical_words(6).size == (4**6 + 4**3) // 2 == len(kmer_names(6))
    assert canonical_words(5).size == 4**5 // 2


def test_unknown_bases_and_short_sequences_give_nothing():
    assert kmer_counts(np.full((2, 30), 4, dtype=np.uint8), 4).nnz == 0
    assert kmer_counts(np.zeros((3, 2), dtype=np.uint8), 4).shape == (3, canonical_words(4).size)
    assert kmer_counts(np.zeros((0, 9), dtype=np.uint8), 4).shape == (0, canonical_words(4).size)
    assert (kmer_columns(to_codes("AANAA")[None], 2) >= 0).tolist() == [[True, False, False, True]]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    codes = np.random.default_rng(1).integers(0, 5, (9, 50), dtype=np.uint8)
    whole = kmer_counts(codes, 4)
    monkeypatch.setattr("syncyte.genome.kmers.BLOCK", 100)
    assert (kmer_counts(codes, 4) != whole).nnz == 0


@pytest.mark.parametrize("k", [0, 13])
def test_lengths_out_of_range_are_refused(k: int):
    with pytest.raises(GenomeError, match="Choose a length from 1 to 12"):
        kmer_counts(np.zeros((1, 20), dtype=np.uint8), k)


def test_a_single_sequence_is_refused():
    with pytest.raises(GenomeError, match=r"shape \(n, L\)"):
        kmer_counts(np.zeros(20, dtype=np.uint8), 4)
