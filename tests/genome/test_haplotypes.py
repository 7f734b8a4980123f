"""Changes put into windows: against the plainest way, on both sides of the anchor, and for the copies of a person."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.genome.held import Held, genome_of, put_in
from tests.genome.test_vcf import vcf

from syncyte.errors import GenomeError
from syncyte.genome.haplotypes import AnchorDeleted, alternate, anchor_deleted, haplotypes, overlapping
from syncyte.genome.sequence import reverse_complement, to_codes, to_text
from syncyte.genome.tss import windows
from syncyte.genome.vcf import read_variants

#       0         1         2
#       0123456789012345678901234567
TEXT = "ACGTTGCAACCGGTTAACGATCGATTGC"


def window(changes: list, start: int = 8, end: int = 20, anchor: int = 14, **how: bool) -> str:
    return to_text(alternate(Held(TEXT), "chr1", start, end, anchor, changes, **how))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((10, "C", "T"), "ACTGGTTAACGA"),
        ((14, "T", "G"), "ACCGGTGAACGA"),  # the anchor itself
        ((16, "AC", ""), "ACCGGTTAGATC"),  # behind: more of the genome comes in at the end
        ((10, "CG", ""), "CAACGTTAACGA"),  # before: more comes in at the start
        ((16, "", "TTT"), "ACCGGTTATTTA"),
        ((10, "", "TTT"), put_in(TEXT, [(10, "", "TTT")])[11:23]),  # before: bases go out at the start
        ((14, "", "GG"), put_in(TEXT, [(14, "", "GG")])[10:22]),  # at the anchor: before it
        ((13, "TTA", "C"), None),
        ((13, "TTA", "CG"), put_in(TEXT, [(13, "TTA", "CG")])[8:20]),  # T at 14 becomes G
        ((25, "TGC", ""), "ACCGGTTAACGA"),  # beyond the window
    ],
)
def test_one_change_by_hand(change, expected):
    if expected is None:
        with pytest.raises(AnchorDeleted, match=r"deletes the anchor chr1:14"):
            window([change])
        assert window([change], join=True) == put_in(TEXT, [change])[8:14] + "ACGATC"
    else:
        assert window([change]) == expected


def test_nothing_changes_nothing():
    assert window([]) == TEXT[8:20] and window([(9, "C", "C")]) == TEXT[8:20]


def test_a_deletion_over_the_anchor_and_beyond_the_window():
    change = (5, TEXT[5:25], "")
    assert anchor_deleted([change], 14) and not anchor_deleted([change], 4) and not anchor_deleted([change], 25)
    assert window([change], join=True) == "N" + TEXT[:5] + TEXT[25:] + "NNN"


def test_changes_that_come_in_are_applied():
    # the deletion pulls base 21 into the window, which is changed itself
    assert window([(16, "ACG", ""), (21, "C", "A")]) == "ACCGGTTAATAG"
    assert window([(10, "CG", ""), (7, "A", "G")]) == "CGACGTTAACGA"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([(10, "CGG", ""), (11, "G", "T")], r"overlap: chr1:10:CGG>- and chr1:11:G>T"),
        ([(10, "", "A"), (10, "", "G")], "overlap"),
        ([(9, "CCG", "T"), (10, "", "G")], "overlap"),
        ([(10, "G", "T")], r"chr1:10:G>T does not fit the genome, which has C there"),
    ],
)
def test_changes_that_do_not_fit(changes, message):
    with pytest.raises(GenomeError, match=message):
        window(changes)
    with pytest.raises(GenomeError, match="anchor 99 lies outside"):
        window([], anchor=99)


def test_side_by_side_is_no_overlap():
    assert overlapping([(10, "C", "T"), (11, "G", "A"), (12, "", "T"), (12, "G", "")]) == []
    assert overlapping([(5, "A", "C"), (3, "GGGG", "")]) == [(1, 0)]


@st.composite
def changed(draw):
    """A text, changes that do not overlap, and an anchor that none deletes."""
    text = draw(st.text("ACGT", min_size=30, max_size=60))
    at, changes = 0, []
    while at < len(text) - 6:
        start = at + draw(st.integers(0, 8))
        size = draw(st.integers(0, 5))
        if start + size > len(text):
            break
        if draw(st.booleans()):
            changes.append((start, text[start : start + size], draw(st.text("ACGT", max_size=5))))
        at = start + size + 1
    return text, changes, draw(st.integers(0, len(text) - 1))


@given(changed(), st.integers(0, 20), st.integers(1, 20))
def test_windows_are_cut_from_the_changed_whole(made, before, after):
    text, changes, anchor = made
    if anchor_deleted(changes, anchor):
        with pytest.raises(AnchorDeleted):
            alternate(Held(text), "c", anchor - before, anchor + after, anchor, changes)
        return
    place = anchor + sum(len(alt) - len(ref) if start + len(ref) <= anchor else 0 for start, ref, alt in changes)
    whole = Held(put_in(text, changes))
    expected = to_text(whole.fetch("c", place - before, place + after))
    assert to_text(alternate(Held(text), "c", anchor - before, anchor + after, anchor, changes)) == expected


@given(changed())
def test_there_and_back_again(made):
    text, changes, anchor = made
    if not changes or anchor_deleted(changes, anchor):
        return
    start, ref, alt = changes[0]
    if start <= anchor < start + len(ref):
        return
    there = put_in(text, [(start, ref, alt)])
    place = anchor + (len(alt) - len(ref) if start + len(ref) <= anchor else 0)
    back = alternate(Held(there), "c", place - 8, place + 9, place, [(start, alt, ref)])
    assert np.array_equal(back, Held(text).fetch("c", anchor - 8, anchor + 9))


@pytest.mark.parametrize("length", [10, 11])
@pytest.mark.parametrize("change", [(10, "CG", ""), (17, "", "TTT"), (16, "A", "C")])
def test_starts_stay_in_the_middle_of_turned_windows(length, change):
    row = windows(pd.DataFrame({"tss": [14], "strand": ["-"]}), length).iloc[0]
    codes = reverse_complement(alternate(Held(TEXT), "c", int(row["start"]), int(row["end"]), 14, [change]))
    changed_text = put_in(TEXT, [change])
    place = 14 + (len(change[2]) - len(change[1]) if change[0] < 14 else 0)
    turned = to_text(reverse_complement(to_codes(changed_text)))
    start = len(changed_text) - 1 - place
    assert to_text(codes) == turned[start - length // 2 : start - length // 2 + length]


def of_sample(write, tmp_path, *lines: str, **how: int):
    genome = genome_of(tmp_path, chr1=TEXT)
    found = read_variants(write("a.vcf", vcf(*lines, samples="P")), genome)
    return haplotypes(found, np.arange(len(found)), "P", **how)


A, B, C = (10, "C", "T"), (16, "A", "G"), (20, "T", "C")
LINES = ["1 11 a C T . . . GT {}", "1 17 b A G . . . GT {}", "1 21 c T C . . . GT {}"]


@pytest.mark.parametrize(
    ("calls", "changes", "phased", "how"),
    [
        (["0|1", "1|0", "1|1"], [(B, C), (A, C)], True, "two haplotypes in phase"),
        (["0/1", "0/0", "1/1"], [(C,), (A, C)], True, "two haplotypes in phase"),
        (["0/1", "0/1", "0/0"], [(), (B,), (A,), (A, B)], False, "phase unknown: mean over the phases of 2 changes"),
        (["0|1", "0|1", "0/1"], [(), (C,), (A, B), (A, B, C)], False, "phase unknown"),
        (["1", "0", "1"], [(A, C)], True, "one copy"),
        (["0|0", "0|0", "0|0"], [(), ()], True, "the same changes on both copies"),
        (["1/1", "1|1", "./."], [(A, B), (A, B)], True, "the same changes"),
    ],
)
def test_copies_of_a_person(write, tmp_path, calls, changes, phased, how):
    found = of_sample(write, tmp_path, *(line.format(call) for line, call in zip(LINES, calls)))
    assert sorted(found.changes) == sorted(changes) and found.phased == phased and found.how.startswith(how)
    assert np.allclose(found.weights, 1 / len(changes)) and found.left_out == {}


def test_phase_holds_inside_a_phase_set_only(write, tmp_path):
    lines = ["1 11 a C T . . . GT:PS 0|1:1", "1 17 b A G . . . GT:PS 0|1:1", "1 21 c T C . . . GT:PS 0|1:2"]
    found = of_sample(write, tmp_path, *lines)
    assert set(found.changes) == {(), (A, B), (C,), (A, B, C)} and not found.phased


def test_overlaps_and_refused_rows_are_told(write, tmp_path):
    lines = ["1 10 a CCG C . . . GT 0|1", "1 11 b C T . . . GT 1|1", "1 11 c A T . . . GT 0|1"]
    found = of_sample(write, tmp_path, *lines)
    # of two that begin at one base the shorter stays
    assert found.changes == ((A,), (A,))
    assert found.left_out[0] == "overlap: b changes the same bases of one haplotype"
    assert found.left_out[2].startswith("reference differs")


def test_many_unphased_changes_are_drawn(write, tmp_path):
    letters = {"A": "C", "C": "A", "G": "A", "T": "A"}
    lines = [f"1 {at} . {TEXT[at - 1]} {letters[TEXT[at - 1]]} . . . GT 0/1" for at in range(2, 22, 2)]
    found = of_sample(write, tmp_path, *lines)
    assert len(found.changes) == 64 and "32 drawn phases of 10 changes" in found.how
    share = np.mean(
        [[any(change[0] == at - 1 for change in one) for at in range(2, 22, 2)] for one in found.changes], 0
    )
    assert np.allclose(share, 0.5), "each change is on half of the haplotypes"
    assert of_sample(write, tmp_path, *lines).changes == found.changes


def test_haplotypes_need_genotypes(write, tmp_path):
    found = read_variants(write("a.vcf", vcf("1 11 a C T . . .")), genome_of(tmp_path, chr1=TEXT))
    with pytest.raises(GenomeError, match="no genotypes"):
        haplotypes(found, [0], "P")
