"""Edits become changes: by text and by table, deterministic, and refused with a reason where they cannot be made."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tests.genome.held import genome_of, put_in

from syncyte.errors import GenomeError
from syncyte.genome.edits import motif_places, parse_edits, read_edits, scramble_motif
from syncyte.genome.haplotypes import alternate
from syncyte.genome.sequence import reverse_complement, to_codes, to_text

RNG = np.random.default_rng(3)
TEXT = "".join(RNG.choice(list("ACGT"), 300)) + "NNNN" + "CCAGATAAGG" + "ACCTTATCTA" + "CCCCCC"


@pytest.fixture
def genome(tmp_path):
    return genome_of(tmp_path, **{"chr22:1000-1330": TEXT})


def after(found, row: int = 0) -> str:
    """The whole text after an edit."""
    start, ref, alt = found.change(row)
    return put_in(TEXT, [(start - 1000, ref, alt)])


def test_deleted_replaced_and_inserted(genome):
    found = parse_edits("chr22:1100-1110=delete; 22:1,100-1,110 = replace : acgt;chr22:1100-1100=replace:GGG", genome)
    assert found.table["kind"].tolist() == ["delete", "replace", "replace"] and found.counts() == {"ok": 3}
    assert after(found, 0) == TEXT[:100] + TEXT[110:]
    assert after(found, 1) == TEXT[:100] + "ACGT" + TEXT[110:]
    assert after(found, 2) == TEXT[:100] + "GGG" + TEXT[100:]
    assert found.table["variant"].tolist() == [
        "chr22:1100-1110=delete",
        "chr22:1100-1110=replace:ACGT",
        "chr22:1100-1100=replace:GGG",
    ]


def test_shuffles_keep_pairs_and_random_bases_keep_length(genome):
    found = parse_edits(["chr22:1100-1200=shuffle", "chr22:1100-1200=random"], genome)
    shuffled, drawn = after(found, 0), after(found, 1)
    assert len(shuffled) == len(drawn) == len(TEXT) and len({shuffled, drawn, TEXT}) == 3
    assert Counter(pairwise(shuffled)) == Counter(pairwise(TEXT))
    for text in (shuffled, drawn):
        assert text[:100] == TEXT[:100] and text[200:] == TEXT[200:]


def test_chance_depends_on_seed_and_edit_alone(genome):
    one = parse_edits("chr22:1100-1200=shuffle", genome)
    more = parse_edits("chr22:1000-1050=shuffle;22:1100-1200=shuffle", genome)
    assert one.change(0) == more.change(1)
    assert one.change(0) != parse_edits("chr22:1100-1200=shuffle", genome, seed=1).change(0)


def test_edits_go_through_windows_as_variants_do(genome):
    found = parse_edits("chr22:1100-1110=delete", genome)
    codes = alternate(genome, "chr22", 1050, 1150, 1080, [found.change(0)])
    assert to_text(codes) == TEXT[50:100] + TEXT[110:160]


def test_motifs_are_found_on_both_strands_and_scrambled(genome):
    codes = to_codes(TEXT[304:324])
    assert np.flatnonzero(motif_places(codes, "WGATAR")).tolist() == [2, 13]
    assert np.array_equal(
        motif_places(reverse_complement(codes), "WGATAR")[: 20 - 5][::-1], motif_places(codes, "WGATAR")[:15]
    )
    found = parse_edits("chr22:1304-1324=motif:WGATAR", genome)
    made = after(found)
    assert not motif_places(to_codes(made[304:324]), "WGATAR").any()
    assert Counter(made[306:312]) == Counter("AGATAA") and made[304:306] == "CC" and made[:304] == TEXT[:304]


def test_motifs_that_no_order_removes_get_other_bases():
    codes = to_codes("CCCCCCCC")
    made = scramble_motif(codes, "CCC", np.random.default_rng(0))
    assert not isinstance(made, str) and not motif_places(made, "CCC").any() and to_text(codes) == "CCCCCCCC"
    assert str(scramble_motif(codes, "N", np.random.default_rng(0))).startswith("motif everywhere")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("chr22:100-200=shuffle", "not covered: the genome has chr22:1000-1330"),
        ("chr1:100-200=delete", "not covered: the genome has no sequence of chr1"),
        ("chr22:1290-1310=delete", "unknown bases"),
        ("chr22:1325-1330=shuffle", "no change: shuffle leaves chr22:1325-1330"),
        ("chr22:1324-1330=motif:GATA", "no motif: GATA does not occur"),
    ],
)
def test_edits_that_cannot_be_made_say_why(genome, text, reason):
    found = parse_edits(text, genome)
    assert len(found.usable) == 0 and found.table["reason"][0].startswith(reason)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr22:1100-1200", "is no edit. Expected such as chr22:100-200=shuffle"),
        ("chr22:1100-1200=shufle", "Unknown edit 'shufle'. Did you mean 'shuffle'"),
        ("chr22:1200-1100=shuffle", "has the place 1200-1100"),
        ("chr22:1100-1100=delete", "has the place 1100-1100"),
        ("chr22:1100-1200=replace", "replace needs bases"),
        ("chr22:1100-1200=delete:ACG", "delete takes no bases"),
        ("chr22:1100-1200=replace:ACGN", "holds 'N'. Expected A, C, G, T"),
        ("chr22:1100-1200=motif:GATX", "holds 'X'. Expected IUPAC letters"),
    ],
)
def test_texts_that_are_no_edits(genome, text, message):
    with pytest.raises(GenomeError, match=message):
        parse_edits(text, genome)


def test_tables_and_lists_in_files(genome, write):
    table = "chrom,start,end,edit,sequence,id\n22,1100,1110,delete,,gone\nchr22,1100,1110,replace,ACGT,\n"
    found = read_edits(write("a.csv", table), genome)
    assert found.table["variant"].tolist() == ["gone", "chr22:1100-1110=replace:ACGT"]
    assert found.table["record"].tolist() == [2, 3] and found.counts() == {"ok": 2}
    listed = read_edits(write("b.txt", "# mine\nchr22:1,100-1,110=delete\r\n\nchr22:1100-1110=replace:ACGT\n"), genome)
    assert [listed.change(row) for row in (0, 1)] == [found.change(row) for row in (0, 1)]
    assert listed.table["record"].tolist() == [2, 4]
    for text, message in [
        ("", "holds no edits"),
        ("a,b\n1,2\n", "line 1 is neither an edit nor a header"),
        ("chrom,start,end,edit\nchr22,1100,x,delete\n", "line 2 has start '1100' and end 'x'"),
        ("chrom,start,end,edit\nchr22,1100,1110\n", "line 2 has 3 columns, the header 4"),
        ("chrom,start,end,edit\nchr22,1100,1110,delte\n", "line 2: Unknown edit 'delte'"),
    ]:
        with pytest.raises(GenomeError, match=message):
            read_edits(write("bad.csv", text), genome)
