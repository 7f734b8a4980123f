"""Features end in the space of a reference, and the report says how."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from mudata import MuData
from tests.data.made import dense, names, opened, pair, peaks, table

from syncyte.data.cells import MemoryRows
from syncyte.data.harmonise import Columns, harmonise
from syncyte.data.place import How
from syncyte.errors import GenomeError
from syncyte.genome.reference import Reference, build_reference
from syncyte.modalities import all_schemas

SYMBOLS = ["CD3E", "MS4A1", "NKG7", "LYZ", "SEPTIN7"]
IDS = [f"ENSG{number:011d}" for number in range(1, 6)]
TSS = [10_000, 30_000, 50_000, 70_000, 90_000]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    rows = [
        f"chr1\ttest\tgene\t{tss + 1}\t{tss + 2000}\t.\t+\t.\t"
        f'gene_id "{gene}.3"; gene_name "{symbol}"; gene_type "protein_coding";'
        for symbol, gene, tss in zip(SYMBOLS, IDS, TSS)
    ]
    (folder / "genes.gtf.gz").write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))
    (folder / "alias.tsv").write_text("alias\tsymbol\nSEPT7\tSEPTIN7\nCD20\tMS4A1\n")
    (folder / "sizes.tsv").write_text("chr1\t100000\nchr2\t50000\n")
    (folder / "regions.bed").write_text("chr1\t9500\t10500\nchr1\t20000\t20500\nchr2\t0\t1000\n")
    return build_reference(
        folder / "built",
        gtf=folder / "genes.gtf.gz",
        aliases=folder / "alias.tsv",
        chrom_sizes=folder / "sizes.tsv",
        regions=folder / "regions.bed",
        name="toy",
    )


def test_genes_by_name_id_case_and_alias(reference: Reference):
    adata = table(features=["CD3E", "cd20", "ENSG00000000003.7", "SEPT7", "nonsense", "LYZ"])
    cells = opened(adata, reference=reference)
    part = cells.parts["rna"]
    assert list(part.features) == ["CD3E", "MS4A1", "NKG7", "SEPTIN7", "LYZ"]
    np.testing.assert_array_equal(dense(cells, "rna"), adata.X.toarray()[:, [0, 1, 2, 3, 5]])
    assert cells.report["features"]["rna"].startswith("5 of 6 genes mapped")
    assert cells.report["rna"]["unmapped"] == ["nonsense"]
    assert cells.report["rna"]["mapping"]["AnnData"]["alias"] == 2
    assert cells.report["reference"] == {"name": "toy", "hash": reference.hash}


def test_ids_in_var_are_used_and_duplicates_summed(reference: Reference, tmp_path: Path):
    adata = table(features=["first", "second", "CD3E"])
    adata.var["gene_ids"] = [IDS[0], IDS[3], IDS[0]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    cells = opened(tmp_path / "a.h5ad", reference=reference.path)
    assert list(cells.parts["rna"].features) == ["CD3E", "LYZ"]
    truth = adata.X.toarray()
    np.testing.assert_array_equal(dense(cells, "rna"), np.stack([truth[:, 0] + truth[:, 2], truth[:, 1]], axis=1))


def test_symbols_and_ids_of_two_files_meet(reference: Reference):
    first, second = table(names(3, "a"), SYMBOLS[:3]), table(names(4, "b"), IDS[1:], seed=3)
    cells = opened([first, second], reference=reference)
    assert list(cells.parts["rna"].features) == SYMBOLS
    expected = np.zeros((7, 5))
    expected[:3, :3], expected[3:, 1:] = first.X.toarray(), second.X.toarray()
    np.testing.assert_array_equal(dense(cells, "rna"), expected)


def test_rows_are_wrapped_only_where_columns_move(tmp_path: Path):
    from syncyte.data.cells import MappedRows, MemoryRows

    assert isinstance(opened(table()).parts["rna"].rows, MemoryRows)
    assert isinstance(opened(table(features=["A", "A", "B"])).parts["rna"].rows, MappedRows)


def test_regions_go_to_those_of_the_reference(reference: Reference):
    found = ["chr1:9400-9600", "chr1_10000_10400", "chr1-20400-20600", "chr2:3000-3500"]
    adata = peaks(features=found)
    cells = opened(adata, reference=reference)
    assert list(cells.parts["atac"].features) == ["chr1:9500-10500", "chr1:20000-20500"]
    truth = adata.X.toarray()
    np.testing.assert_array_equal(dense(cells, "atac"), np.stack([truth[:, 0] + truth[:, 1], truth[:, 2]], axis=1))
    assert cells.report["features"]["atac"] == "3 of 4 peaks mapped to 2 of 3 regions; 1 overlap none and are dropped"
    assert list(cells.parts["atac"].var.columns) == ["chrom", "start", "end"]


def test_two_files_reach_different_regions(reference: Reference):
    first, second = peaks(names(2, "a"), ["chr2:10-20", "chr1:9900-9950"]), peaks(names(3, "b"), ["chr1:20100-20200"])
    cells = opened([first, second], reference=reference)
    assert list(cells.parts["atac"].features) == ["chr1:9500-10500", "chr1:20000-20500", "chr2:0-1000"]
    expected = np.zeros((5, 3))
    expected[:2, [2, 0]], expected[2:, 1] = first.X.toarray(), second.X.toarray()[:, 0]
    np.testing.assert_array_equal(dense(cells, "atac"), expected)


def test_peaks_of_another_build_are_refused_unless_forced(reference: Reference):
    beyond = [f"chr1:{start}-{start + 500}" for start in range(90_000, 140_000, 1000)]
    with pytest.raises(GenomeError, match=r"AnnData: .*beyond the end of their chromosome.*--force"):
        opened(peaks(features=beyond), reference=reference)
    with_start = peaks(features=["chr1:9900-9950", *beyond])
    cells = opened(with_start, reference=reference, force=True)
    assert list(cells.parts["atac"].features) == ["chr1:9500-10500"]
    assert any("do not fit the genome build" in note for note in cells.report["notes"])


def test_one_file_of_another_build_among_several_is_named(reference: Reference, tmp_path: Path):
    near = [f"chr1:{start}-{start + 500}" for start in range(1000, 40_000, 1000)]
    beyond = [f"chr1:{start}-{start + 500}" for start in range(90_000, 140_000, 1000)]
    peaks(names(3, "a"), near).write_h5ad(tmp_path / "right.h5ad")
    peaks(names(3, "b"), beyond).write_h5ad(tmp_path / "wrong.h5ad")
    with pytest.raises(GenomeError, match=r"^wrong\.h5ad: "):
        opened([tmp_path / "right.h5ad", tmp_path / "wrong.h5ad"], reference=reference)


def test_nothing_in_common_with_the_reference(reference: Reference):
    with pytest.raises(GenomeError, match=r"AnnData: Only 0 of 3 genes are known"):
        opened(table(features=["Foo", "Bar", "Baz"]), reference=reference)
    with pytest.raises(GenomeError, match=r"AnnData: none of its 1 regions overlaps the 3 regions of the reference"):
        opened(peaks(features=["chr2:30000-30100"]), reference=reference)


def test_paired_data_through_a_reference(reference: Reference):
    mdata = MuData({"rna": table(features=SYMBOLS), "atac": peaks(features=["chr1:9900-9950", "chr2:5-50"])})
    cells = opened(mdata, reference=reference)
    assert cells.report["features"].keys() == {"rna", "atac"} and cells.report["paired"] == 20
    again = opened(cells, reference=reference)
    assert again is cells


def test_a_store_is_mapped_when_a_reference_is_given(reference: Reference, tmp_path: Path):
    from syncyte.data.store import write_store

    adata = table(features=["CD20", "LYZ"])
    write_store(opened(adata), tmp_path / "store")
    assert list(opened(tmp_path / "store").parts["rna"].features) == ["CD20", "LYZ"]
    cells = opened(tmp_path / "store", reference=reference)
    assert list(cells.parts["rna"].features) == ["MS4A1", "LYZ"]
    np.testing.assert_array_equal(dense(cells, "rna"), adata.X.toarray())


def test_a_modality_that_is_neither_genes_nor_regions():
    from syncyte.data.read import open_cells
    from syncyte.types import Schema

    schema = Schema("protein", "other", ("Antibody Capture",), ("protein", "prot"))
    first, second = table(names(3, "a"), ["CD3", "CD4"]), table(names(3, "b"), ["CD4", "CD8"])
    cells = open_cells([first, second], schemas=(schema,), modality="prot")
    assert list(cells.parts["protein"].features) == ["CD3", "CD4", "CD8"]
    assert isinstance(cells.parts["protein"].var, pd.DataFrame)
    assert set(pair().mod) == {"rna", "atac"}


@pytest.mark.parametrize("rule", ["largest", "any", "fraction"])
def test_a_dropped_peak_beside_one_on_two_regions(tmp_path: Path, rule: str):
    (tmp_path / "regions.bed").write_text("chr1\t0\t100\nchr1\t100\t200\n")
    (tmp_path / "sizes").write_text("chr1\t100000\n")
    two = build_reference(tmp_path / "two", regions=tmp_path / "regions.bed", chrom_sizes=tmp_path / "sizes")
    rows = MemoryRows(sp.csr_matrix(np.array([[4, 5]], dtype=np.float32)))
    columns = Columns("x", rows, pd.DataFrame(index=["chr1:50-150", "chr1:500-600"]))
    schema = next(schema for schema in all_schemas() if schema.feature_kind == "region")
    found = harmonise([columns], schema, two, how=How(rule, force=True))
    expected = {"largest": [4], "any": [4, 4], "fraction": [2, 2]}[rule]
    assert found.rows[0].read(np.array([0])).toarray().tolist() == [expected]
