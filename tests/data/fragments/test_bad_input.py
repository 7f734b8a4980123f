"""What is wrong with a file is said, with the place, and nothing is left behind."""

from __future__ import annotations

import gzip
import os
import time

import pytest
from tests.processes import start

import syncyte
from syncyte.errors import ConfigError, DataError, GenomeError
from syncyte.genome.reference import build_reference
from syncyte.recipes.simulate_fragments import simulate_fragments

GOOD = ("chr1", 5, 100, "ACGT-1", 1)


def count(path, reference, **options):
    return syncyte.count_fragments(path, genome=reference, quiet=True, **{"min_fragments": 1, **options})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("chr1\t5\tten\tACGT-1\t1", r"line 4 is malformed: 'chr1\\t5\\tten\\tACGT-1\\t1'. Expected chromosome, start"),
        ("chr1\t5", "line 4 is malformed"),
        ("chr1", "line 4 is malformed"),
        ("chr1 5 10 ACGT-1 1", "line 4 is malformed"),
        ("chr1\t5\t10", "line 4 is malformed"),
        ("chr1\t5\t10\t\t1", "line 4 is malformed"),
        ("chr1\t5\t10\tACGT-1\t", "line 4 is malformed"),
        ("chr1\t5\t10\tACGT-1\t1.5", "line 4 is malformed"),
        ("chr1\t-5\t10\tACGT-1\t1", "line 4 is malformed"),
        ("chr1\t5\t99999999999\tACGT-1\t1", "line 4 is malformed"),
        ("\t5\t10\tACGT-1\t1", "line 4 is malformed"),
        ("chr1\t10\t10\tACGT-1\t1", "line 4 is empty or reversed: 'chr1.t10.t10.* 0-based half-open"),
        ("chr1\t100\t10\tACGT-1\t1", "line 4 is empty or reversed"),
    ],
)
def test_lines(line: str, words: str, bins, file):
    with pytest.raises(DataError, match=words):
        count(file(["# comment", GOOD, GOOD, line, GOOD]), bins)


def test_truncated_gzip(bins, tmp_path):
    path = tmp_path / "f.tsv.gz"
    simulate_fragments(path, 20_000, cells=20, chrom_sizes=bins.chrom_sizes)
    whole = path.read_bytes()
    for cut in (len(whole) - 40, len(whole) // 2, 1000):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"is damaged or cut short .* Copy or download it again"):
            count(path, bins)


def test_damaged_gzip(bins, tmp_path):
    path = tmp_path / "f.tsv.gz"
    text = gzip.compress(b"chr1\t5\t10\tACGT-1\t1\n" * 50_000)
    path.write_bytes(text[: len(text) // 2] + bytes(100) + text[len(text) // 2 + 100 :])
    with pytest.raises(DataError, match=r"is damaged or cut short|is malformed"):
        count(path, bins)
    path.write_bytes(text + b"junk behind the end")
    with pytest.raises(DataError, match="is damaged or cut short"):
        count(path, bins)


def test_files_that_are_none(bins, tmp_path):
    (tmp_path / "f.tsv.gz").write_bytes(b"no gzip at all")
    (tmp_path / "empty.tsv").write_bytes(b"")
    (tmp_path / "empty.tsv.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "comments.tsv").write_text("# nothing\n# here\n")
    (tmp_path / "binary.tsv").write_bytes(bytes(range(256)) * 1000)
    for name, words in {
        "f.tsv.gz": "is named .gz but is not gzip",
        "empty.tsv": r"is empty \(0 bytes\)",
        "empty.tsv.gz": "holds no fragments",
        "comments.tsv": "holds no fragments",
        "binary.tsv": "line 1 is malformed",
        "missing.tsv.gz": "does not exist",
        ".": "is a folder",
    }.items():
        with pytest.raises(DataError, match=words):
            count(tmp_path / name, bins)


def test_a_line_without_end_is_refused_in_bounded_time(bins, tmp_path, monkeypatch):
    monkeypatch.setattr("syncyte.data.fragments.read.BLOCK", 1 << 12)
    (tmp_path / "f.tsv").write_bytes(b"A" * 100_000)
    with pytest.raises(DataError, match="line 1 is malformed"):
        count(tmp_path / "f.tsv", bins)


def test_a_chromosome_name_of_no_chromosome(bins, file):
    with pytest.raises(DataError, match=r"line 2 begins with 'xxx.*too long for a chromosome name"):
        count(file([GOOD, ("x" * 300, 5, 10, "A", 1)]), bins)


def test_names_without_chr_are_mapped_and_said(bins, file):
    counts = count(file([("1", 5, 10, "AC-1", 1), ("X", 5, 10, "AC-1", 1), ("MT", 5, 10, "AC-1", 1)]), bins)
    assert counts.report["counts"] == 2
    assert counts.obs.loc["AC-1", "mitochondrial_share"] == pytest.approx(1 / 3)
    assert "3 chromosomes are spelled otherwise in the file (1 is chr1); taken as the same" in counts.summary


@pytest.mark.parametrize("names", [("chr1", "1"), ("1", "chr1")])
def test_two_spellings_in_one_file_are_refused(names, bins, file):
    with pytest.raises(DataError, match=r"line 2 spells a chromosome .* Give a file with one spelling"):
        count(file([(name, 5, 10, "AC-1", 1) for name in names]), bins)


def test_unknown_chromosomes_are_counted_or_refused(bins, file):
    rows = [GOOD] * 9 + [("GL000009.2", 5, 10, "ACGT-1", 1)]
    counts = count(file(rows), bins)
    assert counts.report["fragments_on_unknown_chromosomes"] == 1
    assert "1 fragments on chromosomes the reference lacks (GL000009.2) were left out" in counts.summary
    rows = [GOOD, ("chrA", 5, 10, "ACGT-1", 1), ("chrB", 5, 10, "ACGT-1", 1)]
    with pytest.raises(
        GenomeError, match=r"66.7% of its fragments are on chromosomes it lacks, such as chrA, chrB.*--force"
    ):
        count(file(rows), bins)
    assert count(file(rows), bins, force=True).report["counts"] == 1


def test_beyond_the_end_of_a_chromosome(bins, file):
    rows = [GOOD] * 5000 + [("chrX", 9_990, 10_001, "ACGT-1", 1)]
    counts = count(file(rows), bins)
    assert counts.report["fragments_beyond_ends"] == 1
    assert counts.report["fragments_of_cells"] == 5000
    rows += [("chrX", 20_000, 20_010, "ACGT-1", 1)] * 9
    with pytest.raises(GenomeError, match=r"10 fragments \(0.20%\) end beyond the end of their chromosome"):
        count(file(rows), bins)


def test_a_wrong_build_shows_at_transcription_starts(peaks, tmp_path, monkeypatch):
    monkeypatch.setattr("syncyte.data.fragments.cells.ENOUGH", 500)
    path = tmp_path / "f.tsv.gz"
    simulate_fragments(path, 60_000, cells=20, chrom_sizes=peaks.chrom_sizes, at_sites=0)
    with pytest.raises(GenomeError, match="times as dense at transcription starts as 2 kb away"):
        count(path, peaks)
    assert "forced although insertions" in count(path, peaks, force=True).summary


def test_lists_that_match_nothing(bins, file):
    with pytest.raises(
        DataError, match=r"None of the 2 barcodes of the list .* begins TTTT-1, GGGG-1; the file has ACGT-1"
    ):
        count(file([GOOD]), bins, barcodes=["TTTT-1", "GGGG-1"])


def test_too_few_fragments(bins, file):
    with pytest.raises(DataError, match="the fullest has 1, needed are 10"):
        count(file([GOOD]), bins, min_fragments=None)


def test_a_reference_without_regions(sizes, tmp_path, file):
    empty = build_reference(tmp_path / "ref", chrom_sizes=sizes)
    with pytest.raises(GenomeError, match=r"has no regions to count fragments on. Build one with regions"):
        count(file([GOOD]), empty)


def test_options_that_are_none(bins, file, tmp_path):
    with pytest.raises(ConfigError, match=r"Unknown counting rule 'end'. Did you mean 'ends'"):
        count(file([GOOD]), bins, rule="end")
    with pytest.raises(DataError, match=r"written as .h5ad"):
        count(file([GOOD]), bins, out=tmp_path / "x.h5mu")
    with pytest.raises(GenomeError, match="has no peaks on chromosomes of the reference"):
        count(file([GOOD]), bins, peaks=file([("chrQ", 1, 2)], "p.bed"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(bins, file, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match="Cannot write"):
        count(file([GOOD]), bins, out=tmp_path / "locked" / "x.h5ad")


def test_a_place_below_a_file(bins, file, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        count(file([GOOD]), bins, out=tmp_path / "taken" / "x.h5ad")


@pytest.mark.parametrize("what", ["runs", "counts"])
def test_a_full_disk_is_said_and_leaves_nothing(what: str, bins, file, tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    if what == "runs":
        monkeypatch.setattr("syncyte.data.fragments.runs.Runs.add", full)
    else:
        monkeypatch.setattr("syncyte.data.fragments.write.CountsFile.write_rows", full)
    folder = tmp_path / "out"
    with pytest.raises(DataError, match=r"The disk is full while writing .*x.h5ad"):
        count(file([GOOD]), bins, out=folder / "x.h5ad")
    assert list(folder.iterdir()) == []


def test_a_fault_leaves_an_older_file_as_it_was(bins, file, tmp_path):
    out = tmp_path / "x.h5ad"
    out.write_text("older")
    with pytest.raises(DataError, match="malformed"):
        count(file([GOOD, "broken"]), bins, out=out)
    assert out.read_text() == "older"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def count_for_long(fragments, reference, out):
    import syncyte.data.fragments.count as module

    module.blocks = lambda path: time.sleep(600)
    count(fragments, reference, out=out)


def test_a_killed_process_leaves_nothing_under_the_name(bins, tmp_path):
    """Killed while it waits for the next block of text."""
    out, good = tmp_path / "out" / "x.h5ad", tmp_path / "good.tsv"
    good.write_text("chr1\t5\t10\tACGT-1\t1\n")
    process = start(count_for_long, good, bins.path, out)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (out.parent.exists() and any(out.parent.iterdir())):
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()
    assert not out.exists()
    assert [path for path in out.parent.iterdir()], "it was not writing yet"
    count(good, bins, out=out)
    assert [path.name for path in out.parent.iterdir()] == ["x.h5ad"]


@pytest.mark.parametrize("wrong", [{"shift": (4,)}, {"min_fragments": 0}, {"plots": "a.file"}])
def test_what_would_fail_after_the_count_is_refused_before(tmp_path, wrong):
    import syncyte
    from syncyte.errors import ConfigError

    (tmp_path / "a.file").write_text("x")
    given = {key: tmp_path / value if key == "plots" else value for key, value in wrong.items()}
    with pytest.raises(ConfigError, match=r"expected two numbers of bp and at least 1|is a file; name a folder"):
        syncyte.count_fragments(tmp_path / "none.tsv", genome=tmp_path, **given)
