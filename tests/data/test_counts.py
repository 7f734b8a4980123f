"""Raw counts are found, proved, and never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from tests.data.made import GENES, dense, names, opened, table

from syncyte.data import counts
from syncyte.errors import DataError


def logged(adata: AnnData) -> AnnData:
    """The usual preparation: counts per 10,000, log1p, in X."""
    adata = adata.copy()
    total = np.asarray(adata.X.sum(axis=1))
    adata.X = sp.csr_matrix(np.log1p(adata.X.toarray() / total * 1e4))
    return adata


def where(cells) -> str:
    (slot,) = cells.report["rna"]["slots"].values()
    return slot


def test_layer_counts_goes_before_raw_and_x():
    truth = table()
    adata = logged(truth)
    adata.raw = table(seed=9)
    adata.layers["counts"] = truth.X.copy()
    cells = opened(adata)
    assert where(cells) == "layers['counts']"
    assert cells.report["rna"]["counts"].startswith("raw counts in layers['counts']: whole numbers, largest seen")
    np.testing.assert_array_equal(dense(cells, "rna"), truth.X.toarray())


def test_raw_goes_before_x_and_brings_its_own_features():
    truth = table()
    adata = logged(truth)
    adata.raw = truth
    adata = adata[:, GENES[:5]].copy()
    cells = opened(adata)
    assert where(cells) == "raw.X" and list(cells.parts["rna"].features) == GENES
    np.testing.assert_array_equal(dense(cells, "rna"), truth.X.toarray())


def test_logged_raw_falls_through_to_counts_in_x_and_says_so():
    adata = table()
    adata.raw = logged(adata)
    cells = opened(adata)
    assert where(cells) == "X"
    assert any("raw.X was passed over, it looks log-normalised" in note for note in cells.report["notes"])


@pytest.mark.parametrize(("layer", "slot"), [("X", "X"), ("raw", "raw.X"), ("spliced", "layers['spliced']")])
def test_the_users_word_decides(layer: str, slot: str):
    adata = table(seed=1)
    adata.raw = table(seed=2)
    adata.layers["spliced"] = table(seed=3).X
    adata.layers["counts"] = table(seed=4).X
    cells = opened(adata, layer=layer)
    assert where(cells) == slot
    expected = {"X": adata.X, "raw": adata.raw.X, "spliced": adata.layers["spliced"]}[layer]
    np.testing.assert_array_equal(dense(cells, "rna"), expected.toarray())


def test_a_layer_may_be_named_raw():
    adata = table(seed=1)
    adata.layers["raw"] = table(seed=3).X
    cells = opened(adata, layer="raw")
    assert where(cells) == "layers['raw']"
    np.testing.assert_array_equal(dense(cells, "rna"), adata.layers["raw"].toarray())


def test_the_users_object_is_not_touched():
    adata = table()
    adata.X = adata.X.astype(np.int64)
    adata.layers["counts"] = sp.csr_matrix(adata.X)
    adata.layers["counts"].data[:3] = 0  # stored zeros
    before, index = adata.layers["counts"].copy(), list(adata.obs.columns)
    cells = opened(adata)
    block = cells.counts("rna")
    block.data[:] = -1
    assert adata.layers["counts"].nnz == before.nnz and list(adata.obs.columns) == index
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), before.toarray())
    assert cells.parts["rna"].rows.matrix.nnz == before.nnz - 3


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "array", "sparse array", "int64"])
def test_any_matrix_in_memory(kind: str):
    adata = table()
    truth = adata.X.toarray()
    adata.X = {
        "csr": sp.csr_matrix(truth),
        "csc": sp.csc_matrix(truth),
        "coo": sp.csr_matrix(sp.coo_matrix(truth)),
        "array": truth,
        "sparse array": sp.csr_array(truth),
        "int64": sp.csr_matrix(truth.astype(np.int64)),
    }[kind]
    np.testing.assert_array_equal(dense(opened(adata), "rna"), truth)


def test_a_view_is_read_as_the_view():
    adata = table()
    some = adata[::-2, GENES[3:]]
    cells = opened(some)
    assert list(cells.names) == list(some.obs_names)
    np.testing.assert_array_equal(dense(cells, "rna"), adata.X.toarray()[::-2, 3:])


def test_open_or_closed_only_is_fine_and_said():
    adata = table()
    adata.X = (adata.X > 0).astype(np.float32)
    assert "open or closed only" in opened(adata).report["rna"]["counts"]


def test_restored_counts_are_rounded_and_said():
    adata = table()
    truth = adata.X.toarray()
    adata.X = sp.csr_matrix(truth + (truth > 0) * 2e-4)
    cells = opened(adata)
    np.testing.assert_array_equal(dense(cells, "rna"), truth)
    assert any("rounded" in note for note in cells.report["notes"])


def test_cells_without_counts_are_kept_counted_and_warned_of(tmp_path: Path):
    adata = table()
    adata.X = adata.X.toarray()
    adata.X[[3, 7]] = 0
    with pytest.warns(UserWarning, match="2 of 20 cells have no count"):
        cells = opened(adata)
    assert len(cells) == 20 and cells.report["rna"]["depth_zero"] == 2
    adata.write_h5ad(tmp_path / "dense.h5ad")
    with pytest.warns(UserWarning, match="2 of 20 cells"):
        opened(tmp_path / "dense.h5ad")


def refused(adata: AnnData, **options) -> str:
    with pytest.raises(DataError) as error:
        opened(adata, **options)
    return str(error.value)


@pytest.mark.parametrize("force", [False, True])
def test_log_values_are_refused_with_the_line_that_mends_it(force: bool):
    message = refused(logged(table()), force=force)
    assert "X: it looks log-normalised" in message and "at cell 'cell0'" in message
    assert 'adata.layers["counts"] = raw_counts' in message


def test_depth_normalised_values_are_recognised():
    adata = table()
    adata.X = sp.csr_matrix(adata.X.toarray() / np.asarray(adata.X.sum(axis=1)) * 1e4)
    assert "normalised by depth (every cell sums to 10,000)" in refused(adata)


def test_scaled_values_are_recognised():
    adata = logged(table())
    values = adata.X.toarray()
    adata.X = (values - values.mean(axis=0)) / values.std(axis=0)
    assert "scaled or centred" in refused(adata)


def test_every_candidate_is_named():
    adata = logged(table())
    adata.raw = adata
    message = refused(adata)
    assert "raw.X: it looks log" in message and "X: it looks log" in message


def test_a_layer_with_whole_numbers_is_offered():
    adata = logged(table())
    adata.layers["umi"] = table().X
    assert "pass layer='umi' (--layer umi)" in refused(adata)


def test_mixed_values_on_disk_are_found_when_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counts, "PROBE", 2)
    adata = table()
    values = adata.X.toarray()
    values[5, 4] = 2.5
    adata.X = sp.csr_matrix(values)
    adata.write_h5ad(tmp_path / "mixed.h5ad")
    cells = opened(tmp_path / "mixed.h5ad")
    assert "6 of 20 cells tested" in cells.report["rna"]["counts"]
    cells.counts("rna", [0, 1])
    with pytest.raises(DataError, match=r"mixed\.h5ad, X, holds 2\.5 at cell 5, feature 4"):
        cells.counts("rna", [4, 5])


def test_first_middle_and_last_cells_of_a_file_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counts, "PROBE", 4)
    for place in (0, 10, 19):
        adata = table()
        values = adata.X.toarray()
        values[place, 2] = -1
        AnnData(sp.csr_matrix(values), obs=adata.obs, var=adata.var).write_h5ad(tmp_path / f"{place}.h5ad")
        with pytest.raises(DataError, match=f"negative counts: -1 at cell 'cell{place}', feature 'GENE3'"):
            opened(tmp_path / f"{place}.h5ad")


def test_duplicate_genes_are_summed():
    adata = table(features=["A", "B", "A", "C"])
    cells = opened(adata)
    assert list(cells.parts["rna"].features) == ["A", "B", "C"]
    truth = adata.X.toarray()
    np.testing.assert_array_equal(
        dense(cells, "rna"), np.stack([truth[:, 0] + truth[:, 2], truth[:, 1], truth[:, 3]], 1)
    )
    assert "summed" in cells.report["features"]["rna"]


def test_nothing_is_densified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    wide = sp.random(400, 5000, density=0.01, format="csr", random_state=0)
    wide.data = np.ceil(wide.data * 3)
    adata = AnnData(wide, obs=pd.DataFrame(index=names(400)), var=pd.DataFrame(index=[f"G{i}" for i in range(5000)]))
    adata.write_h5ad(tmp_path / "wide.h5ad")
    for kind in ("toarray", "todense"):
        monkeypatch.setattr(sp.csr_matrix, kind, lambda self, *a, **k: pytest.fail("densified"))
    for source in (adata, tmp_path / "wide.h5ad"):
        assert opened(source).counts("rna").nnz == wide.nnz
