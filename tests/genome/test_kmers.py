"""Counts of words: by hand, against the plainest way, and equal on both strands."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.kmers import kmer_counts, kmer_names
from syncyte.genome.sequence import reverse_complement, to_codes


def test_words_of_two_strands():
    assert kmer_names(1) == ["A", "C"] and kmer_names(1, both_strands=False) == ["A", "C", "G", "T"]
    assert kmer_names(2) == ["AA", "AC", "AG", "AT", "CA", "CC", "CG", "GA", "GC", "TA"]
    assert len(kmer_names(6)) == 2080 and len(kmer_names(3)) == 32


def test_counts_by_hand():
    counts = kmer_counts(np.stack([to_codes("AACG"), to_codes("ANTT")]), 2)
    found = dict(zip(kmer_names(2), counts.toarray().T.tolist()))
    assert found["AA"] == [1, 1] and found["AC"] == [1, 0] and found["CG"] == [1, 0] and counts.sum() == 4
    assert counts.dtype == np.float32 and counts.format == "csr"


@given(st.text("ACGTN", max_size=30), st.integers(1, 4))
def test_against_the_plainest_way(text, k):
    counts = kmer_counts(to_codes(text)[None], k, both_strands=False).toarray()[0]
    words = Counter(text[at : at + k] for at in range(len(text) - k + 1) if "N" not in text[at : at + k])
    assert {name: count for name, count in zip(kmer_names(k, False), counts) if count} == dict(words)


def test_strands_count_the_same_and_blocks_do_not_matter(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 5, (50, 40)).astype(np.uint8)
    counts = kmer_counts(codes, 5)
    assert (counts != kmer_counts(reverse_complement(codes), 5)).nnz == 0
    monkeypatch.setattr("syncyte.genome.kmers._ROWS", 100)
    assert (counts != kmer_counts(codes, 5)).nnz == 0 and counts.has_sorted_indices


def test_short_and_impossible():
    assert kmer_counts(to_codes("ACG")[None], 4).nnz == 0 and kmer_counts(np.zeros((0, 9), np.uint8), 4).shape == (
        0,
        136,
    )
    with pytest.raises(GenomeError, match="1 to 10"):
        kmer_counts(to_codes("ACGT"), 11)
