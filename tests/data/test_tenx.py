"""10x files: one matrix group, the older layout, and folders of text."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from tests.data.made import GENES, PEAKS, dense, names, opened, pair

from syncyte.errors import DataError

BARCODES = [f"AAAC{number}-1" for number in range(20)]


def joint() -> tuple[np.ndarray, list[str], list[str]]:
    mdata = pair()
    counts = np.hstack([mdata["rna"].X.toarray(), mdata["atac"].X.toarray()]).astype(np.int32)
    return counts, [*GENES, *PEAKS], ["Gene Expression"] * 12 + ["Peaks"] * 15


def write_h5(path: Path, counts: np.ndarray, features: list[str], types: list[str]) -> None:
    matrix = sp.csr_matrix(counts)
    with h5py.File(path, "w") as root:
        group = root.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group.create_dataset(key, data=getattr(matrix, key), compression="gzip")
        group["shape"] = np.array(matrix.shape[::-1], dtype=np.int32)
        group["barcodes"] = np.array(BARCODES, dtype="S")
        listed = group.create_group("features")
        listed["id"] = np.array(
            [f"ID{i}" if t != "Peaks" else f for i, (f, t) in enumerate(zip(features, types))], dtype="S"
        )
        listed["name"], listed["feature_type"] = np.array(features, dtype="S"), np.array(types, dtype="S")
        listed["genome"] = np.array(["GRCh38"] * len(features), dtype="S")


def write_mtx(folder: Path, counts: np.ndarray, packed: bool = True, prefix: str = "", **files: str) -> Path:
    folder.mkdir()
    scipy.io.mmwrite(folder / "plain.mtx", sp.coo_matrix(counts.T), field="integer")
    matrix = (folder / "plain.mtx").read_bytes()
    (folder / "plain.mtx").unlink()
    for name, content in (
        {"matrix.mtx": matrix} | {name.replace("__", "."): text.encode() for name, text in files.items()}
    ).items():
        path = folder / f"{prefix}{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def lines(*columns: list[str]) -> str:
    return "".join("\t".join(row) + "\n" for row in zip(*columns))


def check(cells, counts: np.ndarray) -> None:
    assert list(cells.names) == BARCODES
    np.testing.assert_array_equal(dense(cells, "rna"), counts[:, :12])
    np.testing.assert_array_equal(dense(cells, "atac"), counts[:, 12:])
    assert list(cells.parts["rna"].features) == GENES and cells.report["paired"] == 20


def test_multiome_h5_is_split_and_stays_on_disk(tmp_path: Path):
    counts, features, types = joint()
    write_h5(tmp_path / "filtered.h5", counts, features, types)
    cells = opened(tmp_path / "filtered.h5")
    check(cells, counts)
    assert cells.report["sources"][0]["kind"] == "10x" and cells.report["atac"]["depth_zero"] == 0
    assert list(cells.parts["rna"].var["gene_id"])[:2] == ["ID0", "ID1"]
    np.testing.assert_array_equal(cells.counts("atac", [7, 3]).toarray(), counts[[7, 3], 12:])


def test_one_group_a_genome(tmp_path: Path):
    counts, _, _ = joint()
    matrix = sp.csr_matrix(counts[:, :12])
    with h5py.File(tmp_path / "old.h5", "w") as root:
        group = root.create_group("GRCh38")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"], group["barcodes"] = [12, 20], np.array(BARCODES, dtype="S")
        group["genes"], group["gene_names"] = (
            np.array([f"ID{i}" for i in range(12)], dtype="S"),
            np.array(GENES, dtype="S"),
        )
    cells = opened(tmp_path / "old.h5")
    np.testing.assert_array_equal(dense(cells, "rna"), counts[:, :12])
    with h5py.File(tmp_path / "two.h5", "w") as root, h5py.File(tmp_path / "old.h5") as old:
        for name in ("GRCh38", "mm10"):
            old.copy("GRCh38", root, name)
    with pytest.raises(DataError, match=r'holds 2 genomes .*genome="GRCh38"'):
        opened(tmp_path / "two.h5")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_mtx_folder(tmp_path: Path, packed: bool, prefix: str):
    counts, features, types = joint()
    ids = [f"ID{i}" for i in range(27)]
    folder = write_mtx(
        tmp_path / "mtx",
        counts,
        packed,
        prefix,
        barcodes__tsv=lines(BARCODES),
        features__tsv=lines(ids, features, types),
    )
    check(opened(folder), counts)
    check(opened(next(folder.glob("*matrix.mtx*"))), counts)


def test_older_and_atac_only_folders(tmp_path: Path):
    counts, _, _ = joint()
    old = write_mtx(
        tmp_path / "old",
        counts[:, :12],
        False,
        barcodes__tsv=lines(BARCODES),
        genes__tsv=lines([f"I{i}" for i in range(12)], GENES),
    )
    np.testing.assert_array_equal(dense(opened(old), "rna"), counts[:, :12])
    bed = "# a comment\n" + lines(
        *(list(column) for column in zip(*(name.replace(":", "-").split("-") for name in PEAKS)))
    )
    atac = write_mtx(tmp_path / "atac", counts[:, 12:], False, barcodes__tsv=lines(BARCODES), peaks__bed=bed)
    cells = opened(atac)
    assert list(cells.parts["atac"].features) == PEAKS
    np.testing.assert_array_equal(dense(cells, "atac"), counts[:, 12:])
    both = opened([old, atac])
    assert both.report["paired"] == 20


def test_a_matrix_with_cells_in_rows(tmp_path: Path):
    counts, features, types = joint()
    ids = [f"ID{i}" for i in range(27)]
    folder = write_mtx(
        tmp_path / "mtx", counts.T, barcodes__tsv=lines(BARCODES), features__tsv=lines(ids, features, types)
    )
    check(opened(folder), counts)


def test_what_does_not_fit_is_named(tmp_path: Path):
    counts, features, types = joint()
    ids = [f"ID{i}" for i in range(27)]
    short = write_mtx(
        tmp_path / "short", counts, barcodes__tsv=lines(names(7)), features__tsv=lines(ids, features, types)
    )
    with pytest.raises(DataError, match=r"is 27 x 20, beside it are 27 features and 7 barcodes"):
        opened(short)
    bare = write_mtx(tmp_path / "bare", counts, barcodes__tsv=lines(BARCODES))
    with pytest.raises(DataError, match=r"has a matrix but no features\.tsv or genes\.tsv or peaks\.bed"):
        opened(bare)
    cut = write_mtx(
        tmp_path / "cut", counts, False, barcodes__tsv=lines(BARCODES), features__tsv=lines(ids, features, types)
    )
    (cut / "matrix.mtx").write_bytes((cut / "matrix.mtx").read_bytes()[:200])
    with pytest.raises(DataError, match=r"matrix\.mtx is no whole Matrix Market file"):
        opened(cut)
    two = write_mtx(
        tmp_path / "two", counts, False, "a_", barcodes__tsv=lines(BARCODES), features__tsv=lines(ids, features, types)
    )
    (two / "b_matrix.mtx").write_bytes((two / "a_matrix.mtx").read_bytes())
    with pytest.raises(DataError, match=r"holds 2 matrices \(a_matrix\.mtx, b_matrix\.mtx\)"):
        opened(two)
    check(opened(two / "a_matrix.mtx"), counts)
