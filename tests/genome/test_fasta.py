"""Genomes in FASTA files: plain and packed, whole and in slices, fetched by place."""

from __future__ import annotations

import gzip
import os
import pickle
import struct

import numpy as np
import pytest
from tests.genome.held import bgzip

from syncyte.errors import GenomeError
from syncyte.genome import fasta
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import to_text

TEXT = ">1 first\nACGTacgt\nNNRY\n>chrM\nGGGGCCCC\n>contig.7\nTTT\n"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bgzip], ids=["plain", "gzip", "bgzip"])
def test_fetch_by_place(tmp_path, cache, pack):
    path = tmp_path / ("a.fa" if pack(b"A") == b"A" else "a.fa.gz")
    path.write_bytes(pack(TEXT.encode()))
    genome = Genome.open(path, cache=cache)
    assert genome.spans == {"chr1": (0, 12), "chrM": (0, 8), "contig.7": (0, 3)}
    assert to_text(genome.fetch("chr1", 2, 9)) == "GTACGTN" and to_text(genome.fetch("1", 0, 4)) == "ACGT"
    assert to_text(genome.fetch("MT", -2, 10)) == "NNGGGGCCCCNN" and to_text(genome.fetch("chrM", 50, 53)) == "NNN"
    assert genome.fetch("chr1", 5, 5).shape == (0,) and genome.fetch("chr1", -9, -9).shape == (0,)
    assert genome.covers("1", 0, 12) and not genome.covers("chr1", 0, 13) and not genome.covers("chr2", 0, 1)
    assert {item.name for item in tmp_path.iterdir()} == {path.name, "cache"}, "nothing is written beside the file"
    again = Genome.open([path], cache=cache)
    assert again.fingerprint == genome.fingerprint
    copy = pickle.loads(pickle.dumps(genome))
    assert to_text(copy.fetch("chr1", 0, 4)) == "ACGT"


def test_long_chromosomes_are_read_by_pieces(tmp_path, cache, monkeypatch):
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), 30_000))
    path = tmp_path / "a.fa"
    path.write_text(">chr1\n" + "\n".join(text[at : at + 61] for at in range(0, 30_000, 61)))
    held = Genome.open(path, cache=cache)
    monkeypatch.setattr(fasta, "HELD", 1000)
    pieces = Genome.open(path, cache=cache)
    for start, end in [(0, 1), (0, 30_000), (29_990, 30_010), (60, 62), (61, 122), (-5, 3), (12_345, 13_345)]:
        assert np.array_equal(held.fetch("chr1", start, end), pieces.fetch("chr1", start, end))
    assert to_text(pieces.fetch("chr1", 100, 160)) == text[100:160] and not pieces._held
    assert pieces.fingerprint == Genome.open(path, cache=cache).fingerprint


def test_what_is_fetched_may_be_changed(write, cache):
    genome = Genome.open(write("a.fa", TEXT), cache=cache)
    genome.fetch("chr1", 0, 4)[:] = 3
    assert to_text(genome.fetch("chr1", 0, 4)) == "ACGT"


def test_bgzip_with_its_indexes_is_read_in_place(tmp_path, cache):
    pytest.importorskip("Bio")
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), 200_000))
    data = (">chr1\n" + "".join(text[at : at + 100] + "\n" for at in range(0, 200_000, 100))).encode()
    path = tmp_path / "a.fa.gz"
    path.write_bytes(bgzip(data))
    packed, unpacked = path.read_bytes(), 0
    blocks, at = [], 0
    while at < len(packed):
        size = struct.unpack("<H", packed[at + 16 : at + 18])[0] + 1
        unpacked += struct.unpack("<I", packed[at + size - 4 : at + size])[0]
        at += size
        blocks.append((at, unpacked))
    pairs = [number for block in blocks[:-1] for number in block]
    (tmp_path / "a.fa.gz.gzi").write_bytes(struct.pack(f"<{len(pairs) + 1}Q", len(pairs) // 2, *pairs))
    (tmp_path / "a.fa.gz.fai").write_text("chr1\t200000\t6\t100\t101\n")
    genome = Genome.open(path, cache=cache)
    assert genome.parts["chr1"].path == path and not cache.exists()
    assert to_text(genome.fetch("chr1", 118_790, 118_850)) == text[118_790:118_850]
    assert genome.fingerprint == Genome.open(path, cache=cache).fingerprint


@pytest.mark.parametrize("header", ["chr22:100-112", "22:101-112", "chr22:100-112(+) slice"])
def test_slices_know_their_place(write, cache, header):
    genome = Genome.open(write("a.fa", f">{header}\nACGTACGT\nTTTT\n"), cache=cache)
    assert genome.spans == {"chr22": (100, 112)}
    assert to_text(genome.fetch("chr22", 98, 103)) == "NNACG" and to_text(genome.fetch("chr22", 110, 114)) == "TTNN"
    assert genome.covers("chr22", 100, 112) and not genome.covers("chr22", 99, 101)
    assert not genome.covers("chr22", 0, 12)


def test_several_files_and_offsets(write, cache):
    one, two = write("one.fa", ">chr1\nAAAA\n"), write("two.fa", ">chr2\r\nCCCC\r\nGG\r\n")
    genome = Genome.open([two, one], offset={"two.fa": 10}, cache=cache)
    assert genome.spans == {"chr1": (0, 4), "chr2": (10, 16)} and to_text(genome.fetch("chr2", 13, 16)) == "CGG"
    assert genome.fingerprint != Genome.open([two, one], cache=cache).fingerprint
    assert Genome.open(one, offset=7, cache=cache).spans == {"chr1": (7, 11)}
    for arguments, message in [
        (([one, two], 5), "One offset .5. was given for 2 files"),
        (([one], {"tow.fa": 5}), "Unknown file with an offset 'tow.fa'"),
        (([one, write("1.fa", ">1\nA\n")], None), "chr1 comes twice, from 'chr1' of one.fa and from '1' of"),
        (([], None), "No FASTA file"),
        (([write("c.fa", TEXT)], 5), "holds 3 sequences and the offset is 5"),
        (([write("d.fa", ">chr1:5-9\nACGT\n")], 6), "starts at 5, the offset given is 6"),
        (([write("e.fa", ">chr1:5-19\nACGT\n")], None), "says 14 bases, the sequence has 4"),
    ]:
        with pytest.raises(GenomeError, match=message):
            Genome.open(arguments[0], offset=arguments[1], cache=cache)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no FASTA: it is empty"),
        (b"ACGT\n", "is no FASTA: it begins with 'ACGT"),
        (b"BZh9\x00\x01", "is no FASTA"),
        (b">chr1\nACGT\nACGTA\nACGT\n", "cannot be indexed.*all lines of one sequence equally long"),
        (b">chr1\nACGT\n>chr1\nACGT\n", "cannot be indexed: Duplicate key"),
        (b">chr1\nACGT\n>1\nACGT\n", "holds chr1 twice, as 'chr1' and '1'"),
        (b">prot\nMEEPQ\n", "is no letter of DNA"),
    ],
)
def test_other_files_are_named(tmp_path, cache, data, message):
    path = tmp_path / "bad.fa"
    path.write_bytes(data)
    with pytest.raises(GenomeError, match=message) as told:
        Genome.open(path, cache=cache).fetch("prot", 0, 5)
    assert "bad.fa" in str(told.value)


def test_damaged_and_missing_files(tmp_path, cache):
    whole = gzip.compress(b">chr1\n" + b"ACGTACGTAC\n" * 90_000, mtime=0)
    (tmp_path / "cut.fa.gz").write_bytes(whole[:-30])
    with pytest.raises(GenomeError, match=r"cut\.fa\.gz is damaged or cut short"):
        Genome.open(tmp_path / "cut.fa.gz", cache=cache)
    assert not list(cache.glob("*"))
    (tmp_path / "block.fa.gz").write_bytes(bgzip(b">chr1\n" + b"ACGTACGTAC\n" * 90_000)[:-28])
    with pytest.raises(GenomeError, match=r"block\.fa\.gz is cut short: the block that ends"):
        Genome.open(tmp_path / "block.fa.gz", cache=cache)
    with pytest.raises(GenomeError, match="does not exist"):
        Genome.open(tmp_path / "no.fa", cache=cache)


def test_unknown_places(write, cache):
    genome = Genome.open(write("a.fa", TEXT), cache=cache)
    with pytest.raises(GenomeError, match=r"Unknown chromosome 'chr7'.*The FASTA has no sequence of it"):
        genome.fetch("chr7", 0, 5)
    with pytest.raises(GenomeError, match="is reversed"):
        genome.fetch("chr1", 5, 4)


def test_an_index_beside_the_file_is_used_unless_it_is_older(write, cache):
    path = write("a.fa", ">chr1\nACGT\n")
    index = write("a.fa.fai", "chr1\t4\t6\t4\t5\n")
    os.utime(index, (path.stat().st_mtime + 5,) * 2)
    assert Genome.open(path, cache=cache).parts["chr1"].index == index and not cache.exists()
    path.write_text(">chr1\nACGTTT\n")
    os.utime(path, (index.stat().st_mtime + 5,) * 2)
    assert Genome.open(path, cache=cache).spans == {"chr1": (0, 6)}


def test_fingerprints_follow_bases_not_files(tmp_path, cache):
    (tmp_path / "a.fa").write_bytes(b">chr1\nACGTAC\n")
    (tmp_path / "b.fa.gz").write_bytes(gzip.compress(b">1\nacg\ntac\n"))
    (tmp_path / "c.fa").write_bytes(b">chr1\nACGTAA\n")
    prints = [Genome.open(tmp_path / name, cache=cache).fingerprint for name in ("a.fa", "b.fa.gz", "c.fa")]
    assert prints[0] == prints[1] != prints[2]


def test_real_slices(real, cache):
    paths = [real("dna/hg38_chr1_0_1000000.fa.gz"), real("dna/hg38_chr22_32000000_32300000.fa.gz")]
    genome = Genome.open(paths, offset={paths[1].name: 32_000_000}, cache=cache)
    assert genome.spans == {"chr1": (0, 1_000_000), "chr22": (32_000_000, 32_300_000)}
    assert (genome.fetch("chr1", 0, 1_000_000) == 4).sum() == 160_000
    assert to_text(genome.fetch("chr22", 32_000_000, 32_000_010)) == "AAGTTCCGGG"
