"""Genome files are read as documented, and each fault is named with its line."""

from __future__ import annotations

import gzip

import pytest

from syncyte.errors import GenomeError
from syncyte.genome.tables import read_aliases, read_bed, read_chrom_sizes, read_gene_table, read_gtf

GOOD = 'chr1\tX\tgene\t11\t20\t.\t{strand}\t.\tgene_id "ENSG0000000000{n}.3"; gene_name "A{n}"; gene_biotype "b";\n'


def test_gtf_is_read(gtf, write):
    genes = read_gtf(gtf).set_index("gene_id")
    assert len(genes) == 14  # the second copy of PLCXD1 is the first again
    tp53 = genes.loc["ENSG00000141510"]
    assert (tp53["symbol"], tp53["chrom"], tp53["strand"]) == ("TP53", "chr17", "-")
    assert (tp53["start"], tp53["end"], tp53["tss"]) == (7_661_778, 7_687_550, 7_687_549)
    assert genes.loc["ENSG00000198727", "chrom"] == "chrM" and genes.loc["ENSG00000287000", "symbol"] == ""
    packed = write("any_name.txt", "")
    packed.write_bytes(gzip.compress(gtf.read_bytes()))
    assert read_gtf(packed).equals(read_gtf(gtf))


def test_gtf_of_ensembl_names_biotype_otherwise(write):
    genes = read_gtf(write("a.gtf", GOOD.format(n=1, strand="+") + GOOD.format(n=2, strand="-")))
    assert genes["biotype"].tolist() == ["b", "b"] and genes["tss"].tolist() == [10, 19]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no lines of genes"),
        ('chr1\tX\texon\t1\t2\t.\t+\t.\tgene_id "x";\n', "no lines of genes"),
        (
            "#c\n" + GOOD.format(n=1, strand="+").replace("\t11\t", "\televen\t"),
            r"line 2 is malformed.*9 tab-separated",
        ),
        (GOOD.format(n=1, strand="+").replace("gene_id", "id"), "line 1 is malformed"),
        ("chr1\tX\tgene\t11\n", "line 1 is malformed"),
        (GOOD.format(n=1, strand="+").replace("\t11\t", "\t21\t"), "line 1 is reversed: start 21 is after end 20"),
    ],
)
def test_bad_gtf_is_named(write, text, message):
    with pytest.raises(GenomeError, match=message):
        read_gtf(write("bad.gtf", text))


@pytest.mark.parametrize("reader", [read_gtf, read_bed, read_gene_table, read_aliases, read_chrom_sizes])
def test_broken_files_are_named(tmp_path, reader):
    with pytest.raises(GenomeError, match=r"none\.gz does not exist"):
        reader(tmp_path / "none.gz")
    whole = gzip.compress(b"chr1\t1\t2\n" * 5000)
    for name, data in {"cut.gz": whole[:-20], "torn.gz": whole[:40] + b"\0" * 30 + whole[70:]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(GenomeError, match=rf"{name} is damaged or cut short"):
            reader(tmp_path / name)
    (tmp_path / "plain.gz").write_text("chr1\t1\t2\n")
    with pytest.raises(GenomeError, match=r"named \.gz but is not gzip"):
        reader(tmp_path / "plain.gz")
    with pytest.raises(GenomeError, match="cannot be read"):
        reader(tmp_path)


def test_bed_is_read(write):
    text = "track name=x\n# note\nbrowser position\n1\t5\t9\tname\t3\nchrX\t0\t2\tother\t4\n"
    table = read_bed(write("a.bed", text))
    assert table.astype(str).to_numpy().tolist() == [["chr1", "5", "9", "4"], ["chrX", "0", "2", "5"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t1\t2\nchr1\t9\t3\n", r"line 2 is empty or reversed: 9 to 3 \(1 such lines\)"),
        ("#\nchr1\t4\t4\n", "line 2 is empty or reversed"),
        ("chr1\t1\t2\nchr1\tx\t3\n", "line 2 is malformed: start 'x'"),
        ("chr1\t1\t2\nchr1\t-5\t3\n", "line 2 is malformed: start '-5'"),
        ("chr1\t1\t2\nchr1\t5\n", "line 2 is malformed"),
        ("chr1\t1\t2\n\nchr1\t1\t2\n", "line 2 is malformed"),
        ("chr1\t1.5\t2\n", "line 1 is malformed"),
        ("chr1 1 2\n", "no table"),
        ("", "no table"),
    ],
)
def test_bad_bed_is_named(write, text, message):
    with pytest.raises(GenomeError, match=message):
        read_bed(write("bad.bed", text))


def test_peaks_of_a_header_alone_are_named(write):
    with pytest.raises(GenomeError, match="no table"):
        read_bed(write("bad.narrowPeak", "# a comment without an end"), extra=[6])


def test_sizes_are_read_in_genome_order(write):
    assert list(read_chrom_sizes(write("s", "X\t5\n10 6 99\n\n2\t7\nMT\t1\n")).items()) == [
        ("chr2", 7),
        ("chr10", 6),
        ("chrX", 5),
        ("chrM", 1),
    ]
    for text, message in {
        "chr1\n": "line 1",
        "chr1\t5\nchr1\t6\n": "line 2 gives chr1 a second",
        "": "no chromosomes",
    }.items():
        with pytest.raises(GenomeError, match=message):
            read_chrom_sizes(write("s", text))


def test_gene_tables_with_named_columns(write):
    text = (
        'ensgene,symbol,chr,start,end,strand,biotype\nENSG00000000001,"A",1,11,20,-1,pc\nENSG00000000002,B,MT,1,9,1,x\n'
    )
    genes = read_gene_table(write("genes.csv", text))
    assert genes["tss"].tolist() == [19, 0] and genes["chrom"].tolist() == ["chr1", "chrM"]
    with pytest.raises(GenomeError, match="no column for strand; it has ensgene"):
        read_gene_table(write("genes.csv", text.replace("strand", "sense")))
    with pytest.raises(GenomeError, match="line 3 is malformed"):
        read_gene_table(write("genes.csv", text.replace(",1,9,", ",one,9,")))


def test_transcription_starts_of_one_gene_become_its_outermost(write):
    rows = [("ENST00000000001", 500, "+", 1), ("ENST00000000002", 400, "+", 1), ("ENST00000000003", 900, "-", 2)]
    text = "".join(
        f"chr1\t{at}\t{at}\t{name}\t.\t{strand}\tENSG0000000000{gene}.5\n" for name, at, strand, gene in rows
    )
    genes = read_gene_table(write("tss.bed", text))
    assert genes[["gene_id", "tss", "symbol"]].to_numpy().tolist() == [
        ["ENSG00000000001", 400, ""],
        ["ENSG00000000002", 900, ""],
    ]


def test_windows_around_starts_are_understood(write):
    text = "#chr\tstart\tend\tname\tscore\tstrand\tid\ttype\n"
    text += "".join(f"chr1\t{i * 1000}\t{i * 1000 + 500}\tG{i}\t0\t+\tENSG{i:011d}\tpc\n" for i in range(1, 31))
    genes = read_gene_table(write("tss500.bed", text))
    assert genes["tss"].tolist()[:2] == [1250, 2250] and genes["symbol"][0] == "G1" and set(genes["biotype"]) == {"pc"}
    with pytest.raises(GenomeError, match="no column of Ensembl gene ids"):
        read_gene_table(write("plain.bed", "chr1\t1\t5\tA\n"))


def test_alias_tables(write):
    assert read_aliases(write("two.tsv", "OLD\tNEW\nSAME\tSAME\n")).to_numpy().tolist() == [["OLD", "NEW"]]
    named = read_aliases(write("named.csv", "alias,symbol\nOLD,NEW\n"))
    assert named.to_numpy().tolist() == [["OLD", "NEW"]]
    hgnc = "hgnc_id\tsymbol\talias_symbol\tprev_symbol\tensembl_gene_id\n"
    hgnc += "1\tNEW\tA|B\t\tENSG00000000001\n2\tBARE\t\tC\t\n"
    pairs = read_aliases(write("hgnc.txt", hgnc)).to_numpy().tolist()
    assert sorted(pairs) == [
        ["A", "ENSG00000000001"],
        ["B", "ENSG00000000001"],
        ["C", "BARE"],
        ["NEW", "ENSG00000000001"],
    ]
    mgi = "MGI Accession ID\tMarker Symbol\tMarker Synonyms (pipe-separated)\nMGI:1\tGfap\tOld1|Old2\n"
    assert len(read_aliases(write("mgi.rpt", mgi))) == 2
    with pytest.raises(GenomeError, match="is no alias table"):
        read_aliases(write("three.tsv", "a\tb\tc\n"))


def test_a_real_annotation(real):
    genes = read_gtf(real("reference/GRCh38.91_chr9_1_1000000.gtf.gz"))
    assert len(genes) == 23 and set(genes["chrom"]) == {"chr9"} and "WASHC1" in set(genes["symbol"])
