"""Transcription starts from every kind of file, and windows around them, on both strands."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pandas as pd
import pytest

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import reverse_complement, to_codes, to_text
from syncyte.genome.tss import TSS_COLUMNS, covered, fetch_windows, read_tss, windows

LINE = '{c}\tX\t{f}\t{s}\t{e}\t.\t{d}\t.\tgene_id "{g}"; transcript_id "{t}"; gene_name "{n}";\n'


def places(table: pd.DataFrame) -> list[tuple]:
    return list(zip(table["gene_id"], table["chrom"].astype(str), table["tss"], table["strand"]))


def test_gtf_gives_every_transcript_once(write):
    text = "#!x\n" + LINE.format(c=1, f="gene", s=11, e=90, d="+", g="ENSG00000000001.3", t="", n="A")
    for start, name in [(11, "ENST00000000001.1"), (21, "ENST00000000002.1"), (11, "ENST00000000003.1")]:
        text += LINE.format(c=1, f="transcript", s=start, e=90, d="+", g="ENSG00000000001.3", t=name, n="A")
    text += LINE.format(c="MT", f="transcript", s=5, e=30, d="-", g="ENSG00000000002", t="ENST00000000009", n="")
    table = read_tss(write("a.gtf", text))
    assert list(table) == TSS_COLUMNS and table["tss"].dtype == np.int64
    assert places(table) == [
        ("ENSG00000000001", "chr1", 10, "+"),
        ("ENSG00000000001", "chr1", 20, "+"),
        ("ENSG00000000002", "chrM", 29, "-"),
    ]
    assert table["tss_id"].tolist() == ["ENST00000000001", "ENST00000000002", "ENST00000000009"]
    assert table["symbol"].tolist() == ["A", "A", "ENSG00000000002"]


def test_gtf_without_transcripts_gives_genes(gtf):
    only = "".join(line for line in gtf.read_text().splitlines(True) if "\ttranscript\t" not in line)
    path = gtf.with_name("genes_only.gtf")
    path.write_text(only)
    table = read_tss(path).set_index("symbol")
    assert table.loc["TP53", ["tss", "strand"]].tolist() == [7_687_549, "-"]
    assert table.loc["PLCXD1", "chrom"].tolist() == ["chrX", "chrY"] and table["tss_id"].is_unique


@pytest.mark.parametrize(
    ("interval", "plus", "minus"),
    [
        ((100, 101), 100, 100),  # one base: itself
        ((98, 103), 100, 100),  # odd width: the middle
        ((100, 600), 350, 349),  # even width: the downstream one of the two in the middle
        ((101, 101), 100, 100),  # a 1-based position written twice
    ],
)
def test_bed_intervals_mean_their_middle(write, interval, plus, minus):
    start, end = interval
    text = "".join(f"1\t{start}\t{end}\tG{strand}\t0\t{strand}\n" for strand in "+-")
    found = dict(zip(*(read_tss(write("a.bed", text))[key] for key in ("strand", "tss"))))
    assert found == {"+": plus, "-": minus}


def test_bed_columns_are_told_apart_by_content(write):
    text = "#chr\tstart\tend\tname\tscore\tstrand\tid\n"
    text += "chr2\t100\t600\tA\t0\t+\tENSG00000000001.2\nchr1\t100\t600\tB\t0\t-\tENSG00000000002.1\n"
    table = read_tss(write("a.bed", text))
    assert places(table) == [("ENSG00000000002", "chr1", 349, "-"), ("ENSG00000000001", "chr2", 350, "+")]
    assert table["symbol"].tolist() == ["B", "A"] and table["tss_id"].is_unique


@pytest.mark.parametrize("comment", ["", "#", "# made by hand\n", "\ufeff", "\ufeff#", "\n"])
@pytest.mark.parametrize("names", ["chrom\tstart\tend", "Chr\tchromStart\tchromEnd", "seqnames\tstart\tstop"])
def test_a_line_of_names_of_a_bed_file_is_passed_over(write, names, comment):
    rows = "chr2\t100\t600\tA\t0\t+\nchr1\t100\t600\tB\t0\t-\n"
    expected = read_tss(write("a.bed", rows))
    for more in ("\tname\tscore\tstrand", "\tgene\tvalue\tstrand", "\ta\tb\tc", ""):
        pd.testing.assert_frame_equal(read_tss(write("b.bed", f"{comment}{names}{more}\n{rows}")), expected)


def test_names_of_the_columns_of_a_bed_file_count(write):
    text = "chrom\tstart\tend\tother\tsymbol\tgene_id\tstrand\n1\t10\t11\tx\tA\tG1\t1\n1\t20\t21\ty\tB\tG2\t-1\n"
    table = read_tss(write("a.bed", text))
    assert places(table) == [("G1", "chr1", 10, "+"), ("G2", "chr1", 20, "-")]
    assert table["symbol"].tolist() == ["A", "B"]
    with pytest.raises(GenomeError, match=r"line 3 is malformed: 'ten'"):
        read_tss(write("b.bed", "chrom\tstart\tend\tname\tscore\tstrand\n1\t1\t2\tA\t0\t+\n1\tten\t20\tB\t0\t+\n"))
    with pytest.raises(GenomeError, match="is empty"):
        read_tss(write("c.bed", "chrom\tstart\tend\tname\tscore\tstrand\n"))
    by_name = "chrom\tstart\tend\ttss\tstrand\tsymbol\n1\t10\t610\t350\t-\tA\n"
    assert places(read_tss(write("d.tsv", by_name))) == [("A", "chr1", 350, "-")], "a column of starts is what it says"


def test_wide_bed_intervals_of_different_widths_are_genes(write):
    table = read_tss(write("a.bed", "chr1\t100\t9000\tA\t0\t+\nchr1\t100\t7000\tB\t0\t-\n"))
    assert places(table) == [("A", "chr1", 100, "+"), ("B", "chr1", 6999, "-")]
    short = "".join(f"chr1\t{at}\t{at + 100 + at % 7}\tS{at}\t0\t+\n" for at in range(100, 120))
    table = read_tss(write("b.bed", "chr1\t50\t9000\tA\t0\t+\n" + short))
    assert table["tss"].tolist() == [50, *range(100, 120)], "many short genes and a long one"
    even = "".join(f"chr1\t{at}\t{at + 8000}\tS{at}\t0\t+\n" for at in range(100, 120))
    table = read_tss(write("c.bed", "chr1\t0\t7900\tA\t0\t+\n" + even))
    assert table["tss"].tolist() == [3950, *range(4100, 4120)], "wide windows, one cut at the start of its chromosome"


def test_tables(write):
    table = read_tss(write("a.csv", "gene_id,chrom,tss,strand\nG1,1,10,+\nG1,1,20,+\nG2,X,5,-1\n"))
    assert places(table) == [("G1", "chr1", 10, "+"), ("G1", "chr1", 20, "+"), ("G2", "chrX", 5, "-")]
    assert table["tss_id"].tolist() == ["G1@chr1:10", "G1@chr1:20", "G2@chrX:5"]
    again = write("b.tsv", "")
    table.to_csv(again, sep="\t", index=False)
    pd.testing.assert_frame_equal(read_tss(again), table)
    mart = (
        "Gene stable ID\tChromosome/scaffold name\tTranscription start site (TSS)\tStrand\nENSG00000000001\t1\t11\t1\n"
    )
    assert places(read_tss(write("c.txt", mart))) == [("ENSG00000000001", "chr1", 10, "+")]
    genes = "symbol\tchrom\tstart\tend\tstrand\nA\tchr1\t11\t20\t+\nB\tchr1\t11\t20\t-\n"
    assert places(read_tss(write("d.tsv", genes))) == [("A", "chr1", 10, "+"), ("B", "chr1", 19, "-")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("#only\n", "is empty"),
        ("chr1\t10\t20\tA\n", "no column of strands"),
        ("chr1\t10\t20\tA\t0\t+\nchr1\tten\t20\tA\t0\t+\n", "line 2 is malformed: 'ten'"),
        ("chr1\t10\t20\tA\t0\t+\nchr1\t30\t20\tA\t0\t+\n", "line 2 is reversed"),
        ("gene_id,chrom,tss\nA,1,5\n", "no column for strand"),
        ("chrom,tss,strand\n1,5,+\n", "no column for gene_id"),
        ("gene_id,chrom,tss,strand\nA,1,5,+\nA,1,5.5,+\n", "line 3 is malformed: '5.5'"),
        ("gene_id,chrom,tss,strand\nA,1,5,*\n", r"1 of 1 rows are no transcription start"),
        (LINE.format(c=1, f="transcript", s=11, e=90, d=".", g="A", t="", n=""), "line 1 is malformed"),
    ],
)
def test_faults_are_named(write, text, message):
    with pytest.raises(GenomeError, match=message):
        read_tss(write("bad.txt", text))


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "cut.bed.gz").write_bytes(gzip.compress(b"chr1\t1\t2\tA\t0\t+\n" * 5000)[:-20])
    with pytest.raises(GenomeError, match="damaged or cut short"):
        read_tss(tmp_path / "cut.bed.gz")


@pytest.mark.parametrize("length", [1, 4, 5])
def test_starts_stand_in_the_middle_of_either_strand(write, tmp_path, length):
    genome = Genome.open(write("a.fa", ">chr1\nTTTTTTAAATTTTTT\n>chr2\nA\n"), cache=tmp_path / "cache")
    table = pd.DataFrame({"chrom": "chr1", "tss": [6, 8, 0], "strand": ["+", "-", "-"]})
    frame = windows(table, length)
    assert (frame["end"] - frame["start"]).eq(length).all()
    codes = fetch_windows(genome, table, length)
    assert codes.shape == (3, length)
    # + : the first A stands at length // 2; - : the last A, which is the first T of the other strand's three
    assert to_text(codes[0])[length // 2 :] == "AAATT"[: length - length // 2]
    assert to_text(codes[1])[length // 2 :] == "TTTAA"[: length - length // 2]
    assert to_text(codes[2]) == ("A" * length)[: length // 2 + 1].rjust(length // 2 + 1, "A") + "N" * (
        length - length // 2 - 1
    )
    assert covered(genome, table, length).tolist() == [True, True, length == 1]


def test_windows_need_bases():
    with pytest.raises(GenomeError, match="at least 1"):
        windows(pd.DataFrame({"tss": [1], "strand": ["+"]}), 0)


def test_real_start_codons_read_atg(real, tmp_path):
    genome = Genome.open(real("reference/GRCh38_chr9_1_1000000.fa.gz"), cache=tmp_path)
    with gzip.open(real("reference/GRCh38.91_chr9_1_1000000.gtf.gz"), "rt") as stream:
        lines = [
            line.split("\t") for line in stream if "\tstart_codon\t" in line and 'biotype "protein_coding"' in line
        ]
    found = []
    for field in lines:
        codes = genome.fetch(field[0], int(field[3]) - 1, int(field[4]))
        if len(codes) == 3:  # a codon cut by an intron is two lines
            found.append((field[6], to_text(reverse_complement(codes) if field[6] == "-" else codes)))
    assert len(found) > 20 and {strand for strand, _ in found} == {"+", "-"}
    assert {codon for _, codon in found} == {"ATG"}


def test_real_files_agree_on_starts(real):
    collapsed = read_tss(real("dna/gencode_v43_tss500.hg38.bed.gz"))
    basic = read_tss(real("reference/hg38_GENCODE24_TSS.Basic.bed.gz"))
    annotation = read_tss(real("reference/GRCh38.91_chr9_1_1000000.gtf.gz"))
    assert len(collapsed) == 20_531 and collapsed["tss_id"].is_unique and basic["tss_id"].is_unique
    known = {strand: set(zip(rows["gene_id"], rows["tss"])) for strand, rows in basic.groupby("strand")}
    for strand, rows in collapsed.groupby("strand"):
        agree = [
            np.mean([(gene, tss + by) in known[strand] for gene, tss in zip(rows["gene_id"], rows["tss"])])
            for by in (-1, 0, 1)
        ]
        assert agree[1] > 0.45 and max(agree[0], agree[2]) < 0.02
    here = basic[(basic["chrom"] == "chr9") & (basic["tss"] < 1_000_000)]
    both = set(places(here)) & set(places(annotation))
    assert len(both) > 0.9 * len(here)


def test_real_starts_carry_their_window(real, tmp_path):
    genome = Genome.open(real("reference/GRCh38_chr9_1_1000000.fa.gz"), cache=tmp_path)
    table = read_tss(real("reference/GRCh38.91_chr9_1_1000000.gtf.gz"))
    inside = table[covered(genome, table, 2000)]
    codes = fetch_windows(genome, inside, 2000)
    for row, code in list(zip(inside.itertuples(), codes))[:20]:
        forward = to_text(genome.fetch("chr9", row.tss - 5, row.tss + 6))
        expected = forward if row.strand == "+" else to_text(reverse_complement(to_codes(forward)))
        assert to_text(code[995:1006]) == expected
    assert re.fullmatch("[ACGTN]+", to_text(codes[0]))
