"""A reference folder is whole, checked, and the same for the same sources."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from syncyte.errors import DataError, GenomeError
from syncyte.genome.reference import SOURCES, Reference, build_reference, download_reference
from syncyte.genome.regions import region_names


@pytest.fixture
def full(gtf, aliases, write, tmp_path) -> dict:
    write("sizes", "".join(f"{name}\t250000000\n" for name in [*range(1, 23), "X", "Y"]) + "MT\t16569\n")
    write("regions.bed", "chr2\t50\t90\n1\t10\t20\n1\t15\t30\nKI270728.1\t1\t5\n")
    write("lift.chain", "chain 1 1 100 + 0 100 1 100 + 0 100 2\n100\n")
    files = {"chrom_sizes": "sizes", "regions": "regions.bed", "chain": "lift.chain"}
    return {"gtf": gtf, "aliases": aliases, **{role: tmp_path / name for role, name in files.items()}}


def test_everything_in_one_folder(full, tmp_path):
    reference = build_reference(tmp_path / "hg38", **full)
    assert reference.name == "hg38" and len(reference.hash) == 64
    assert reference.summary == "hg38: 25 chromosomes, 14 genes, 8 aliases, 2 regions"
    assert region_names(reference.regions).tolist() == ["chr1:10-30", "chr2:50-90"]
    assert reference.manifest["notes"] == [
        "1 of 5 aliases name no gene of the reference and were left out",
        "1 regions on contigs without a size were left out",
        "3 regions overlapped and were merged into 2 disjoint ones",
    ]
    assert list(reference.chrom_sizes)[:2] == ["chr1", "chr2"] and reference.chrom_sizes["chrM"] == 16_569
    assert reference.chain.read_text().startswith("chain 1 1 100")
    assert reference.tss.columns.tolist() == ["chrom", "tss", "gene_id", "name"]
    assert reference.tss.set_index("name").loc["TP53", "tss"] == 7_687_549
    assert set(reference.manifest["sources"]) == set(full)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_the_same_sources_give_the_same_hash(full, tmp_path):
    one, two = (build_reference(tmp_path / name, **full) for name in ("one", "two"))
    assert one.hash == two.hash and one.name != two.name
    full["regions"].write_text("chr1\t1\t2\n")
    assert build_reference(tmp_path / "two", overwrite=True, **full).hash != one.hash


def test_parts_that_were_not_given_are_none(gtf, tmp_path):
    reference = build_reference(tmp_path / "genes", gtf=gtf)
    assert reference.regions is None and reference.chrom_sizes is None and reference.chain is None
    sizes = tmp_path / "sizes"
    sizes.write_text("chr1\t1000\n")
    bare = build_reference(tmp_path / "bare", chrom_sizes=sizes)
    assert bare.genes is None and bare.tss is None and bare.aliases is None


def test_bins_tile_the_chromosomes(write, tmp_path):
    sizes = write("sizes", "chr2\t1000\nchr1\t2501\nMT\t900\n")
    reference = build_reference(tmp_path / "bins", bins=1000, chrom_sizes=sizes)
    expected = ["chr1:0-1000", "chr1:1000-2000", "chr1:2000-2501", "chr2:0-1000"]
    assert region_names(reference.regions).tolist() == expected
    assert isinstance(np.load(tmp_path / "bins" / "regions.npy", mmap_mode="r"), np.memmap)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "Nothing to build"),
        ({"chain"}, "Nothing to build"),
        ({"gtf", "genes"}, "Both gtf and genes"),
        ({"regions", "bins", "chrom_sizes"}, "Both regions and bins"),
        ({"gtf", "bins"}, "Bins need a width"),
        ({"regions", "aliases"}, "Aliases need genes"),
    ],
)
def test_impossible_requests_are_refused(full, tmp_path, request_, message):
    full |= {"genes": full["gtf"], "bins": 100}
    with pytest.raises(GenomeError, match=message):
        build_reference(tmp_path / "out", **{role: full[role] for role in request_})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("role", "text", "message"),
    [
        (
            "regions",
            "chr1\t10\t20\nchr1\t249999990\t250000001\n",
            r"regions\.bed: 1 of 2 intervals end beyond.*line 2 at chr1",
        ),
        ("regions", "KI270728.1\t1\t5\n", "no regions on known chromosomes"),
        (
            "chrom_sizes",
            "chr17\t7000000\n",
            r"1 of 14 intervals end beyond.*ENSG00000141510 at chr17.*one genome build",
        ),
        ("chain", "chr1\t1\t2\n", r"is no chain file.*found b'chr1"),
        ("gtf", "nothing here\n", "no lines of genes"),
    ],
)
def test_contradictions_leave_nothing_behind(full, write, tmp_path, role, text, message):
    if role == "gtf":
        full["gtf"] = write("bad.gtf", text)
    else:
        full[role].write_text(text)
    with pytest.raises(GenomeError, match=message):
        build_reference(tmp_path / "out", **full)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_damage_is_noticed(full, tmp_path):
    folder = tmp_path / "hg38"
    build_reference(folder, **full)
    for name in ("regions.npy", "genes.tsv.gz", "liftover.chain"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-1] + b"\x07")
        with pytest.raises(GenomeError, match=rf"{name} is missing or damaged"):
            Reference.load(folder)
        (folder / name).unlink()
        with pytest.raises(GenomeError, match=rf"{name} is missing or damaged"):
            Reference.load(folder)
        (folder / name).write_bytes(kept)
    manifest = json.loads((folder / "manifest.json").read_text())
    for change, message in (
        ({"format": 99}, "format 99"),
        ({"contents": {}}, "hash does not fit"),
        ({"kind": "store"}, "holds a store"),
    ):
        (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(GenomeError, match=message):
            Reference.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(GenomeError, match="is damaged"):
        Reference.load(folder)
    with pytest.raises(GenomeError, match="no reference folder"):
        Reference.load(tmp_path)


def test_existing_folders_are_kept(full, tmp_path):
    out = tmp_path / "out"
    before = build_reference(out, **full).hash
    with pytest.raises(DataError, match="exists and is not empty"):
        build_reference(out, **full)
    assert Reference.load(out).hash == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(GenomeError, match="not a reference folder and will not be replaced"):
        build_reference(tmp_path / "mine", overwrite=True, **full)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_killed_build_leaves_nothing(full, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from syncyte.genome import contents, reference\n"
        "contents._copy_chain = lambda folder, path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "reference.build_reference(sys.argv[1], gtf=sys.argv[2], chain=sys.argv[3])\n"
    )
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, out, full["gtf"], full["chain"]], check=False)
    assert done.returncode == -signal.SIGKILL and not out.exists() and len(list(tmp_path.glob(".out*"))) == 1
    build_reference(out, **full)
    assert not list(tmp_path.glob(".out*"))


@pytest.fixture
def mirror(full):
    """Local stand-ins for the files behind the public addresses."""
    chain = gzip.compress(full["chain"].read_bytes())
    hgnc = b"symbol\talias_symbol\tprev_symbol\tensembl_gene_id\nTP53\tLFS1\t\tENSG00000141510\n"
    data = {
        ".gtf.gz": gzip.compress(full["gtf"].read_bytes()),
        ".chrom.sizes": full["chrom_sizes"].read_bytes(),
        ".bed": full["regions"].read_bytes(),
        ".chain.gz": chain,
        ".txt": hgnc,
    }

    def fetch(url, path):
        path.write_bytes(next(content for end, content in data.items() if url.endswith(end)))

    fetch.data = data
    return fetch


def test_download_records_where_everything_came_from(mirror, tmp_path):
    reference = download_reference("hg38", tmp_path / "hg38", fetch=mirror)
    assert reference.name == "hg38" and reference.chain.suffix == ".gz"
    assert set(reference.manifest["sources"]) == {part.role for part in SOURCES["hg38"].parts}
    record = reference.manifest["sources"]["gtf"]
    assert record["url"].startswith("https://") and record["version"] == "GENCODE 47 basic"
    assert len(record["sha256"]) == 64 and record["retrieved"].endswith("Z")
    with pytest.raises(GenomeError, match="exists and is not empty"):
        download_reference("hg38", tmp_path / "hg38", fetch=mirror)
    assert "human, GRCh38: GENCODE 47 basic" in str(SOURCES["hg38"])


@pytest.mark.parametrize(
    ("end", "content", "message"),
    [
        (".gtf.gz", b"", "gave no data"),
        (".txt", b"<!DOCTYPE html><html>busy</html>", "gave a web page"),
        (".chain.gz", gzip.compress(b"chain 1" * 5000, mtime=0)[:-9], "damaged or cut short"),
        (".gtf.gz", b"plain", "not gzip"),
    ],
)
def test_bad_downloads_leave_nothing(mirror, tmp_path, end, content, message):
    mirror.data[end] = content
    with pytest.raises(GenomeError, match=message):
        download_reference("hg38", tmp_path / "hg38", fetch=mirror)
    assert not (tmp_path / "hg38").exists()


def test_known_hashes_are_kept_to(mirror, tmp_path, monkeypatch):
    from dataclasses import replace

    source = SOURCES["hg38"]
    strict = replace(source, parts=(replace(source.parts[0], sha256="0" * 64), *source.parts[1:]))
    monkeypatch.setitem(SOURCES, "hg38", strict)
    with pytest.raises(GenomeError, match="expected 0000"):
        download_reference("hg38", tmp_path / "hg38", fetch=mirror)


def test_unknown_names_and_no_network(tmp_path):
    with pytest.raises(GenomeError, match=r"Unknown reference source 'hg39'. Did you mean 'hg38'"):
        download_reference("hg39", tmp_path / "x")
    with pytest.raises(GenomeError, match=r"could not be fetched.*syncyte reference build"):
        download_reference("hg38", tmp_path / "x")
