"""Codes of sequence: both ways, the other strand, indicators, shares, shuffles and hashes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.errors import GenomeError
from syncyte.genome.sequence import (
    content_hash,
    cpg_share,
    dinucleotide_shuffle,
    gc_share,
    one_hot,
    reverse_complement,
    to_codes,
    to_text,
)

DNA = st.text("ACGTN", max_size=60)


def test_letters_of_either_case_and_several_bases():
    assert to_codes("ACGTNacgtnUuRy-").tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3, 3, 4, 4, 4]
    assert to_codes(b"AC").dtype == np.uint8 and to_codes("").shape == (0,)


@pytest.mark.parametrize(("text", "message"), [("ACGE", r"'E' at position 4 of 4"), ("A CG", r"' ' at position 2")])
def test_other_letters_are_named(text, message):
    with pytest.raises(GenomeError, match=message):
        to_codes(text)


@given(DNA)
def test_text_comes_back_and_strands_turn_twice(text):
    codes = to_codes(text)
    assert to_text(codes) == text
    assert to_text(reverse_complement(reverse_complement(codes))) == text
    assert to_text(reverse_complement(codes)) == text.translate(str.maketrans("ACGTN", "TGCAN"))[::-1]


def test_indicators():
    found = one_hot(to_codes("ACN"))
    assert found.dtype == np.float32 and found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    several = one_hot(np.stack([to_codes("ACN"), to_codes("TTG")]))
    assert several.shape == (2, 4, 3) and several[0].tolist() == found.tolist() and several.flags.c_contiguous


def test_shares_by_hand():
    codes = np.stack([to_codes("GCGC"), to_codes("ANCG"), to_codes("NNNN")])
    assert gc_share(codes)[:2].tolist() == [1.0, 2 / 3] and np.isnan(gc_share(codes)[2])
    assert cpg_share(codes)[:2].tolist() == [1 / 3, 1.0] and np.isnan(cpg_share(codes)[2])
    assert gc_share(to_codes("GCAA")) == 0.5


@given(DNA, st.integers(0, 1000))
def test_shuffles_keep_pairs(text, seed):
    made = to_text(dinucleotide_shuffle(to_codes(text), np.random.default_rng(seed)))
    assert Counter(pairwise(made)) == Counter(pairwise(text))
    assert made[:1] == text[:1] and made[-1:] == text[-1:]
    assert made == to_text(dinucleotide_shuffle(to_codes(text), np.random.default_rng(seed)))


def test_shuffles_are_uniform():
    rng = np.random.default_rng(0)
    text = "ACAGATACA"  # all orders of the loops AC, AG, AT, AC from A to A: 4! / 2 = 12
    seen = Counter(to_text(dinucleotide_shuffle(to_codes(text), rng)) for _ in range(2400))
    assert len(seen) == 12 and min(seen.values()) > 150 and max(seen.values()) < 250
    text = "AACACCA"  # not symmetric: the tree of last exits matters
    seen = Counter(to_text(dinucleotide_shuffle(to_codes(text), rng)) for _ in range(2400))
    assert max(seen.values()) / min(seen.values()) < 1.5, seen


def test_shuffles_change_a_long_sequence():
    codes = np.random.default_rng(0).integers(0, 4, 2000).astype(np.uint8)
    made = dinucleotide_shuffle(codes, np.random.default_rng(1))
    assert 0.2 < np.mean(made == codes) < 0.3


def test_hashes_tell_content_shape_and_words_apart():
    codes = np.zeros((2, 6), dtype=np.uint8)
    told = [content_hash(codes), content_hash(codes.reshape(3, 4)), content_hash(codes, "a"), content_hash(codes + 1)]
    told += [content_hash(codes, "ab", "c"), content_hash(codes, "a", "bc"), content_hash(codes, "abc")]
    assert len(set(told)) == len(told) and all(len(text) == 32 for text in told)
    assert content_hash(codes.T.copy().T) == content_hash(codes)
