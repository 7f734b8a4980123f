"""Variants of files: VCF of every kind, BCF, tables, and files that are something else."""

from __future__ import annotations

import gzip
import importlib.util
import time

import numpy as np
import pytest
from tests.genome.held import bgzip, genome_of

from syncyte.errors import GenomeError, MissingExtraError
from syncyte.genome.fasta import Genome
from syncyte.genome.variants import COLUMNS, variants_of
from syncyte.genome.vcf import read_variants

HEAD = "##fileformat=VCFv4.2\n"
NAMES = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


@pytest.fixture
def genome(tmp_path):
    return genome_of(tmp_path, chr1="GGGCACACATTTTGACGT", chrM="ACGTACGT")


def vcf(*lines: str, samples: str = "") -> str:
    """Text of a VCF whose lines are written with blanks for tabs."""
    names = NAMES + ("\tFORMAT\t" + samples.replace(" ", "\t") if samples else "")
    return HEAD + names + "\n" + "".join(line.replace(" ", "\t") + "\n" for line in lines)


def test_rows_of_a_small_file(write, genome):
    text = vcf(
        "1 4 rs1 C T . . .",
        "chr1 9 . A ATT,G . . .",
        "MT 2 . C T . . .",
        "1 5 bad G T . . .",
        "1 4 twin C T . . .",
        "2 4 . C T . . .",
    )
    for name, data in (("a.vcf", text.encode()), ("b.vcf.gz", gzip.compress(text.encode()))):
        path = write(name, "")
        path.write_bytes(data)
        found = read_variants(path, genome)
        assert list(found.table) == COLUMNS and found.genotypes is None and found.samples == ()
        rows = found.table[["variant", "record", "chrom", "start", "ref", "alt", "kind"]].values.tolist()
        assert rows == [
            ["rs1", 3, "chr1", 3, "C", "T", "snv"],
            ["chr1:9:A>ATT", 4, "chr1", 9, "", "TT", "insertion"],
            ["chr1:9:A>G", 4, "chr1", 8, "A", "G", "snv"],
            ["chrM:2:C>T", 5, "chrM", 1, "C", "T", "snv"],
            ["bad", 6, "chr1", 4, "G", "T", "snv"],
            ["twin", 7, "chr1", 3, "C", "T", "snv"],
            ["chr2:4:C>T", 8, "chr2", 3, "C", "T", "snv"],
        ]
        assert found.counts() == {"ok": 4, "reference differs": 1, "repeated": 1, "not covered": 1}
        assert found.usable.tolist() == [0, 1, 2, 3]
        assert found.table["reason"][5] == "repeated: line 3 makes the same change"
        assert found.change(1) == (9, "", "TT")
        with pytest.raises(
            GenomeError, match=r"bad cannot be scored, reference differs: the genome has A, the file says G"
        ):
            found.change(4)


def test_windows_line_ends_and_a_missing_header_line(write, genome):
    text = vcf("1 4 rs1 C T . . .").replace("\n", "\r\n")
    assert read_variants(write("a.vcf", text), genome).change(0) == (3, "C", "T")
    assert read_variants(write("b.vcf", HEAD + "1\t4\trs1\tC\tT\t.\t.\n"), genome).change(0) == (3, "C", "T")
    with pytest.raises(GenomeError, match="line 2 has 10 columns and no header names them"):
        read_variants(write("c.vcf", HEAD + "1\t4\trs1\tC\tT\t.\t.\t.\tGT\t0|1\n"), genome)


def test_names_are_unique_and_short(write, genome):
    lines = ["1 4 rs1 C T . . .", "1 4 rs1 C G . . .", "1 4 rs1 C G . . .", "1 5 . A " + "A" * 50 + " . . ."]
    table = read_variants(write("a.vcf", vcf(*lines)), genome).table
    assert table["variant"].tolist() == [
        "rs1:chr1:4:C>T",
        "rs1:chr1:4:C>G",
        "rs1:chr1:4:C>G#2",
        "chr1:5:A>AAAAAAAAAA..50",
    ]


def test_genotypes_by_row(write, genome):
    text = vcf(
        "1 4 a C T,G . . . GT:DP:PS 0|1:3:7 1|2:3:9 ./. 2",
        "1 5 b A C . . . DP:GT 3:0/1 3:1/1 3:.|1 3:0",
        "1 6 c C A . . . GT 0|0 |1|0 0/1/1 .",
        "1 7 d A C . . . DP 1 1 1 1",
        samples="P Q R S",
    )
    found = read_variants(write("a.vcf", text), genome)
    assert found.samples == ("P", "Q", "R", "S") and found.genotypes.shape == (5, 4, 2)
    assert found.genotypes.dtype == np.int8 and found.phased.dtype == bool
    assert found.genotypes.tolist() == [
        [[0, 1], [1, 0], [-1, -1], [0, -2]],
        [[0, 0], [0, 1], [-1, -1], [1, -2]],
        [[0, 1], [1, 1], [-1, 1], [0, -2]],
        [[0, 0], [1, 0], [-1, -1], [-1, -1]],
        [[-1, -1]] * 4,
    ]
    assert found.phased[2].tolist() == [False, True, True, True] and found.phased[0].tolist() == [True] * 4
    assert found.phase_set[:2].tolist() == [[7, 9, 0, 0]] * 2 and not found.phase_set[2:].any()
    assert any("more than two copies" in note for note in found.notes)
    two = read_variants(write("a.vcf", text), genome, samples=["Q", "P"])
    assert two.samples == ("Q", "P") and np.array_equal(two.genotypes, found.genotypes[:, [1, 0]])
    part = found.take([2, 0])
    assert part.table["variant"].tolist() == ["b", "a:C>T"] and np.array_equal(part.genotypes, found.genotypes[[2, 0]])
    with pytest.raises(GenomeError, match="Unknown sample 'X'"):
        read_variants(write("a.vcf", text), genome, samples=["X"])
    with pytest.raises(GenomeError, match=r"Unknown sample 'p'\. Did you mean 'P'"):
        found.sample("p")


def test_tables(write, genome):
    for name, text in {
        "a.csv": "chrom,pos,ref,alt\n1,4,C,T\n1,5,G,A\n",
        "b.tsv": "ID\tCHR\tposition\tREF\tALT\r\nrs1\tchr1\t4\tc\tt\r\n\r\nrs2\tchr1\t5\tG\tA\r\n",
    }.items():
        found = read_variants(write(name, text), genome)
        assert found.change(0) == (3, "C", "T") and found.counts() == {"ok": 1, "reference differs": 1}
    assert found.table["variant"].tolist() == ["rs1", "rs2"] and found.table["record"].tolist() == [2, 4]


def test_places_before_the_first_base_are_refused_one_by_one(write, genome):
    places = ("4", "0", "-1", "-70")
    lines = vcf(*(f"1 {pos} v{pos} C T . . ." for pos in places))
    table = "chrom,pos,ref,alt,id\n" + "".join(f"1,{pos},C,T,v{pos}\n" for pos in places)
    for path in (write("a.vcf", lines), write("a.csv", table)):
        for given in (genome, None):
            found = read_variants(path, given)
            assert found.counts() == {"before the first base": 3, "ok": 1}
            assert found.table["variant"].tolist() == [f"v{pos}" for pos in places]
            assert found.table["reason"][3] == "before the first base: the position is -70, expected 1 or more"
            assert found.usable.tolist() == [0]


def test_without_a_genome_and_with_the_wrong_one(write, genome):
    path = write("a.vcf", vcf(*(f"1 {pos} . A G . . ." for pos in (1, 2, 3, 4, 5))))
    assert "not checked" in read_variants(path).notes[0] and len(read_variants(path).usable) == 5
    assert "4 of 5 reference alleles differ" in read_variants(path, genome).notes[0]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.vcf", b"", "is empty"),
        ("a.vcf", b"\n \n", "is empty"),
        ("a.vcf", b"\x89PNG\0\0\x01", "is binary"),
        ("a.vcf", b"1\t4\trs1\tC\tT\n", "line 1 is no header"),
        ("a.csv", b"chrom,start,ref,alt\n1,4,C,T\n", "line 1 is no header"),
        ("a.csv", b"chrom,pos,ref,alt\n", "only a header"),
        ("a.csv", b"chrom,pos,ref,alt\n1,4,C\n", "line 2 has 3 columns, the header 4"),
        ("a.csv", b"chrom,pos,ref,alt\n1,4.5,C,T\n", r"line 2 is malformed.*position '4.5'"),
        ("a.vcf", HEAD.encode(), "holds no variants, and no line #CHROM"),
        ("a.vcf", vcf("1 four . C T . . .").encode(), r"line 3 is malformed.*position 'four'"),
        ("a.vcf", vcf("1 4- . C T . . .").encode(), r"line 3 is malformed.*position '4-'"),
        ("a.vcf", vcf(f"1 {10**20} . C T . . .").encode(), r"line 3 is malformed.*position '1000"),
        ("a.vcf", vcf("1 4 . C T . . .", "1 4 . C").encode(), "line 4 has 4 columns, expected 8"),
        ("a.vcf", (HEAD + NAMES + "\n1 4 . C T . . .\n").encode(), "line 3 has 1 columns, expected 8"),
        ("a.vcf", (HEAD + NAMES.replace("POS", "START") + "\n").encode(), "line 2 is no header of VCF"),
        ("a.vcf", vcf("1 4 . C T . . . GT 0;1", samples="P").encode(), "line 3 has the genotype '0;1'"),
        ("a.vcf", vcf(samples="P P").encode(), "names a sample twice"),
        ("a.vcf.gz", gzip.compress(vcf(*["1 4 . C T . . ."] * 9000).encode())[:-40], "damaged or cut short"),
        ("a.vcf.gz", vcf().encode(), "named .gz but is not gzip"),
    ],
)
def test_other_files_are_named(tmp_path, genome, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(GenomeError, match=message) as told:
        read_variants(tmp_path / name, genome)
    assert name in str(told.value)


def test_bgzip_cut_between_blocks_is_told(tmp_path, genome):
    data = vcf(*(f"1 4 r{number} C T . . ." for number in range(9000))).encode()
    blocks = bgzip(data)
    (tmp_path / "whole.vcf.gz").write_bytes(blocks)
    assert len(read_variants(tmp_path / "whole.vcf.gz", genome)) == 9000
    (tmp_path / "cut.vcf.gz").write_bytes(bgzip(data[: data.rindex(b"\n", 0, 120_000) + 1])[:-28])
    with pytest.raises(GenomeError, match=r"cut\.vcf\.gz is cut short: the block that ends a bgzip file"):
        read_variants(tmp_path / "cut.vcf.gz", genome)


def test_a_header_alone_is_no_fault(write, genome):
    found = read_variants(write("a.vcf", vcf(samples="P Q")), genome)
    assert len(found) == 0 and found.counts() == {} and found.genotypes.shape == (0, 2, 2)


def test_bcf_needs_an_extra(write, genome, monkeypatch):
    path = write("a.bcf", "")
    path.write_bytes(gzip.compress(b"BCF\x02\x02\0\0"))
    with pytest.raises(GenomeError, match="Unknown reader of variants 'htslib'"):
        read_variants(path, genome, reader="htslib")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"a\.bcf \(BCF\) needs the package 'cyvcf2'.*syncyte\[vcf\]"):
        read_variants(path, genome)


@pytest.mark.parametrize("reader", ["cyvcf2", "pysam"])
def test_other_readers_say_the_same(write, tmp_path, genome, reader):
    pytest.importorskip(reader)
    meta = '##contig=<ID=1>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="x">\n'
    meta += '##INFO=<ID=END,Number=1,Type=Integer,Description="x">\n'
    text = vcf("1 4 a C T,G . . . GT 0|1 1/2", "1 9 b A <DEL> . . END=11 GT ./. 1|1", samples="P Q")
    path = write("a.vcf", text.replace(HEAD, HEAD + meta))
    own, other = read_variants(path, genome), read_variants(path, genome, reader=reader)
    assert own.table.drop(columns="record").equals(other.table.drop(columns="record"))
    assert own.counts() == {"ok": 3} and np.array_equal(own.genotypes, other.genotypes)
    assert np.array_equal(own.phased, other.phased) and own.samples == other.samples
    if reader == "pysam":
        import pysam

        with (
            pysam.VariantFile(str(path)) as source,
            pysam.VariantFile(str(tmp_path / "a.bcf"), "wb", header=source.header) as sink,
        ):
            for record in source:
                sink.write(record)
        packed = read_variants(tmp_path / "a.bcf", genome)
        assert np.array_equal(packed.genotypes, own.genotypes) and packed.table["variant"].equals(own.table["variant"])
        (tmp_path / "cut.bcf").write_bytes((tmp_path / "a.bcf").read_bytes()[:120])
        with pytest.raises(GenomeError, match=r"cut\.bcf"):
            read_variants(tmp_path / "cut.bcf", genome)


def test_rows_made_elsewhere():
    row = dict(zip(COLUMNS, ["x", 1, "chr1", 5, "A", "C", "snv", "ok", ""]))
    made = variants_of([row, row, {**row, "start": 6}])
    assert made.table["variant"].is_unique and made.change(2) == (6, "A", "C")
    assert len(variants_of([])) == 0


def test_a_long_file_takes_seconds(write, tmp_path):
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), 70_000))
    genome = genome_of(tmp_path, chr1=text)
    lines = [
        f"1 {at} . {text[at - 1]} {'CAAA'['ACGT'.index(text[at - 1])]} . . . GT 0|1 1/1" for at in range(1, 20_001)
    ]
    path = write("a.vcf", vcf(*lines, samples="P Q"))
    start = time.process_time()
    assert read_variants(path, genome).counts() == {"ok": 20_000}
    assert time.process_time() - start < 5


def test_real_reference_alleles_agree(real, tmp_path):
    genome = Genome.open(real("dna/hg38_chr1_0_1000000.fa.gz"), cache=tmp_path)
    found = read_variants(real("dna/chr1_eqtl_snps.vcf"), genome)
    assert found.counts() == {"ok": 8} and set(found.table["kind"]) == {"snv"}
