"""One allele becomes one change: trimmed, left-aligned, checked, or refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.genome.held import genome_of, put_in

from syncyte.genome.normalise import kind_of, resolve, trim

#       0         1         2
#       0123456789012345678901234
TEXT = "GGGCACACATTTTGACGTNNACGTA"


@pytest.fixture
def genome(tmp_path):
    return genome_of(tmp_path, chr1=TEXT)


@pytest.mark.parametrize(
    ("pos", "ref", "alt", "expected"),
    [
        (4, "C", "T", (3, "C", "T", "snv")),
        (4, "c", "t", (3, "C", "T", "snv")),
        (4, "CAC", "CTC", (4, "A", "T", "snv")),
        (4, "CA", "TG", (3, "CA", "TG", "mnv")),
        (8, "CA", "C", (8, "A", "", "deletion")),
        (7, "ACA", "A", (3, "CA", "", "deletion")),  # one CA of three: the leftmost is taken
        (8, "CAT", "T", (3, "CA", "", "deletion")),
        (13, "T", "TT", (9, "", "T", "insertion")),  # one T more before the first T
        (9, "A", "ACA", (3, "", "CA", "insertion")),
        (1, "G", "GG", (0, "", "G", "insertion")),  # as far as the sequence goes
        (14, "GAC", "TT", (13, "GAC", "TT", "indel")),
    ],
)
def test_changes_by_hand(genome, pos, ref, alt, expected):
    found = resolve(genome, "chr1", pos, ref, alt)
    assert found.status == "ok" and found[:4] == expected
    before = put_in(TEXT, [(pos - 1, ref.upper(), alt.upper())])
    assert put_in(TEXT, [found[:3]]) == before


@pytest.mark.parametrize(
    ("pos", "ref", "alt", "kind", "reason"),
    [
        (4, "G", "T", "snv", "reference differs: the genome has C, the file says G at chr1:4"),
        (
            4,
            "CAG",
            "C",
            "deletion",
            "reference differs: the genome has CAC, the file says CAG (first at base 3) at chr1:4",
        ),
        (18, "TAC", "T", "deletion", "reference differs: the genome has TNN, the file says TAC"),
        (26, "A", "C", "snv", "not covered: the genome has chr1:0-25, the change lies at chr1:25-26"),
        (4, "C", "C", "none", "no change: both alleles are C"),
        (4, "C", ".", "none", "no alternate:"),
        (4, "C", "<NON_REF>", "none", "no alternate:"),
        (4, "C", "*", "symbolic", "spanning deletion:"),
        (4, "R", "A", "snv", "ambiguous bases: the reference allele 'R'"),
        (4, "C", "N", "snv", "ambiguous bases: the alternate allele 'N'"),
        (4, "C", "7", "snv", "no bases: the alternate allele '7'"),
        (0, "C", "A", "snv", "before the first base: the position is 0"),
        (-5, "C", "A", "snv", "before the first base: the position is -5"),
        (-5, "C", "<DEL>", "symbolic", "before the first base: the position is -5"),
        (4, "C", "C[chr2:9[", "breakend", "breakend: C[CHR2:9["),
        (4, "C", ".A", "breakend", "breakend:"),
        (4, "C", "<INS>", "symbolic", "symbolic allele: <INS> names an insertion without its bases"),
        (4, "C", "<INV>", "symbolic", "symbolic allele: <INV> has no sequence"),
        (4, "C", "<CN2>", "symbolic", "symbolic allele: <CN2>"),
    ],
)
def test_refused_with_a_reason(genome, pos, ref, alt, kind, reason):
    found = resolve(genome, "chr1", pos, ref, alt)
    assert (found.status, found.kind) == ("refused", kind) and found.reason.startswith(reason)


def test_another_chromosome_is_not_covered(genome):
    assert resolve(genome, "chr2", 4, "C", "T").reason == "not covered: the genome has no sequence of chr2"


@pytest.mark.parametrize(
    ("alt", "info", "expected"),
    [
        ("<DEL>", "END=13", (9, "TTTT", "", "deletion", "ok", "")),
        ("<DEL>", "SVTYPE=DEL;SVLEN=-4", (9, "TTTT", "", "deletion", "ok", "")),
        ("<DEL:ME>", "END=13;SVLEN=-4;CIPOS=0,0", (9, "TTTT", "", "deletion", "ok", "")),
        ("<DUP:TANDEM>", "END=11", (9, "", "TT", "duplication", "ok", "")),
        ("<DEL>", "END=13;IMPRECISE", "imprecise ends"),
        ("<DEL>", "END=13;CIPOS=-5,5", "imprecise ends"),
        ("<DUP>", "END=13;CIEND=0,2", "imprecise ends"),
        ("<DEL>", "SVTYPE=DEL", "no end"),
        ("<DEL>", "END=13;SVLEN=-5", "two ends"),
        ("<DEL>", "END=9", "no length"),
        ("<DEL>", "END=19", "unknown bases"),
        ("<DEL>", "END=99", "not covered"),
        ("<DEL>", "END=99999999", "too long"),
    ],
)
def test_structural_variants_need_exact_ends(genome, alt, info, expected):
    found = resolve(genome, "chr1", 9, "A", alt, info)
    if isinstance(expected, tuple):
        assert tuple(found) == expected
    else:
        assert found.status == "refused" and found.reason.startswith(expected + ":")


def test_structural_variants_need_the_genome_and_the_right_one(genome):
    assert resolve(None, "chr1", 9, "A", "<DEL>", "END=13").reason.startswith("symbolic allele: the bases")
    assert resolve(genome, "chr1", 9, "C", "<DEL>", "END=13").reason.startswith("reference differs")


def test_without_a_genome_alleles_are_only_trimmed():
    assert resolve(None, "chr1", 7, "ACA", "A")[:4] == (6, "AC", "", "deletion")


@given(st.text("AC", max_size=6), st.text("AC", max_size=6))
def test_trimming_keeps_the_change(ref, alt):
    start, short, other = trim(3, ref, alt)
    assert put_in("GGG" + ref + "GGG", [(start, short, other)]) == "GGG" + alt + "GGG"
    assert not (short and other) or (short[-1] != other[-1] and short[0] != other[0])
    assert (kind_of(ref, alt) == "none") == (ref == alt)


@given(st.data())
def test_left_alignment_is_one_for_all_spellings(tmp_path_factory, data):
    text = data.draw(st.text("AC", min_size=12, max_size=20))
    genome = genome_of(tmp_path_factory.mktemp("g"), chr1=text)
    size, at = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    made = text[:at] + text[at + size :]
    spellings = [place for place in range(1, len(text) - size + 1) if text[:place] + text[place + size :] == made]
    found = {resolve(genome, "chr1", at, text[at - 1 : at + size], text[at - 1])[:3] for at in spellings}
    assert len(found) == 1
    start, ref, alt = found.pop()
    assert put_in(text, [(start, ref, alt)]) == made and start <= min(spellings)
