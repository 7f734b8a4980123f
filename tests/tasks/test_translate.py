"""Translation: features by name, order of cells, sizes, refusals. (What it must not see is in ``test_leak``.)"""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from mudata import MuData
from tests.tiny import world

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.tasks import translate as module

LAYER = "syncyte_from_rna"


@pytest.fixture(scope="module")
def truth(tiny_run, tiny_data) -> np.ndarray:
    return syncyte.translate(tiny_run, tiny_data, source="rna", target="atac").layers[LAYER].values


def test_scale_and_names(tiny_run, tiny_data, truth):
    assert truth.dtype == np.float32 and truth.shape == (240, 300) and truth.min() >= 0 and truth.max() <= 1
    result = syncyte.translate(tiny_run, tiny_data, source="atac", target="rna")
    layer = result.layers["syncyte_from_atac"]
    assert layer.values.min() >= 0 and list(layer.features) == list(tiny_run.vocabularies["rna"].index)
    rna = tiny_data["rna"].X.toarray()
    logs = np.log1p(1e4 * rna / rna.sum(axis=1, keepdims=True))
    columns = layer.features.get_indexer(tiny_data["rna"].var_names)
    assert np.corrcoef(layer.values[:, columns].mean(axis=0), logs.mean(axis=0))[0, 1] > 0.98
    opened = tiny_data["atac"].X.toarray() > 0
    columns = tiny_run.vocabularies["atac"].index.get_indexer(tiny_data["atac"].var_names)
    assert truth.mean() == pytest.approx(opened.mean(), rel=0.25)
    assert np.corrcoef(truth[:, columns].mean(axis=0), opened.mean(axis=0))[0, 1] > 0.95


def test_it_writes_into_the_users_object(tiny_run, tiny_data, truth):
    data = MuData({name: tiny_data[name].copy() for name in tiny_data.mod})
    syncyte.translate(tiny_run, data, source="rna", target="atac").write(data)
    assert list(data["atac"].layers) == [LAYER] and not data["rna"].layers
    columns = tiny_run.vocabularies["atac"].index.get_indexer(data["atac"].var_names)
    rows = data.obs_names.get_indexer(data["atac"].obs_names)
    np.testing.assert_array_equal(data["atac"].layers[LAYER], truth[rows][:, columns])
    assert (data["atac"].X != tiny_data["atac"].X).nnz == 0


def test_features_restrict_and_keep_their_order(tiny_run, tiny_data, truth, tmp_path):
    names = list(tiny_run.vocabularies["atac"].index[[7, 3, 250]])
    given = syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", features=names)
    assert list(given.layers[LAYER].features) == names
    np.testing.assert_array_equal(given.layers[LAYER].values, truth[:, [7, 3, 250]])
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names) + "\n\n")
    for spelled in (path, str(path)):
        read = syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", features=spelled)
        np.testing.assert_array_equal(read.layers[LAYER].values, given.layers[LAYER].values)
    with pytest.raises(DataError, match=r"1 of 2 features asked for .*\(chr99:1-2\)"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", features=[names[0], "chr99:1-2"])
    with pytest.raises(DataError, match="There is no file"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", features=tmp_path / "none.txt")
    path.write_text("")
    with pytest.raises(DataError, match="0 of 0 features"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", features=path)


def test_small_probabilities_are_dropped_on_request(tiny_run, tiny_data, truth):
    result = syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", min_prob=0.3)
    values = result.layers[LAYER].values
    assert sp.issparse(values) and values.dtype == np.float32 and values.data.min() >= 0.3
    np.testing.assert_array_equal(values.toarray(), np.where(truth >= 0.3, truth, 0))
    with pytest.raises(ConfigError, match="keeps every value"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", min_prob=0.0)


@pytest.mark.parametrize("min_prob", [None, 0.2])
def test_files_are_written_in_blocks(tiny_run, tiny_data, truth, tmp_path, min_prob):
    out = tmp_path / "prediction.h5ad"
    result = syncyte.translate(
        tiny_run, tiny_data, source="rna", target="atac", out=out, min_prob=min_prob, batch_size=50
    )
    assert not result.layers
    written = anndata.read_h5ad(out)
    assert list(written.obs_names) == list(result.cells) == list(tiny_data.obs_names)
    assert list(written.var_names) == list(tiny_run.vocabularies["atac"].index) and written.X.dtype == np.float32
    got = written.X.toarray() if min_prob else written.X
    np.testing.assert_allclose(got, np.where(truth >= (min_prob or 0), truth, 0), rtol=1e-4, atol=1e-5)
    told = json.loads(written.uns["syncyte"]["translate"])
    assert told["settings"]["source"] == "rna" and told["settings"]["unit"] == "probability of being open"
    assert told["run_fingerprint"] == tiny_run.recipe["fingerprint"]


def test_a_huge_dense_prediction_asks_for_less(tiny_run, tiny_data, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 240 * 300 - 1)
    with pytest.raises(DataError, match=r"240 cells x 300 features .*--features FILE.*--min-prob"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", out=tmp_path / "x.h5ad")
    assert not list(tmp_path.iterdir())
    names = list(tiny_run.vocabularies["atac"].index[:299])
    syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", features=names)
    syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", min_prob=0.1)


def test_impossible_requests_are_refused(tiny_run, tiny_data, tmp_path):
    with pytest.raises(ConfigError, match="both 'rna'"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="rna")
    with pytest.raises(CapabilityError, match="knows no 'protein'"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="protein")
    with pytest.raises(DataError, match="no modality 'rna'"):
        syncyte.translate(tiny_run, MuData({"atac": tiny_data["atac"].copy()}), source="rna", target="atac")
    with pytest.raises(DataError, match=r"\.h5ad"):
        syncyte.translate(tiny_run, tiny_data, source="rna", target="atac", out=tmp_path / "x.csv")


def test_cells_without_the_source_are_left_out_and_order_is_kept(tiny_run):
    data = world(90, seed=3, paired=0.4)
    result = syncyte.translate(tiny_run, data, source="rna", target="atac")
    names = [name for name in data.obs_names if name in set(data["rna"].obs_names)]
    assert list(result.cells) == names and 0 < len(names) < 90
    assert any("have no 'rna'" in note for note in result.provenance["coverage"]["notes"])
    alone = syncyte.translate(tiny_run, data["rna"].copy(), source="rna", target="atac")
    order = alone.cells.get_indexer(result.cells)
    np.testing.assert_allclose(result.layers[LAYER].values, alone.layers[LAYER].values[order], rtol=1e-4, atol=1e-6)
