"""The public verbs: one name each, keyword arguments alike, nothing done to what they are given."""

from __future__ import annotations

import inspect

import pytest
from tests.tiny import cells_of, train_tiny

import syncyte
from syncyte import api
from syncyte.errors import CheckpointError, DataError
from syncyte.tasks.trained import Trained

VERBS = ("embed", "integrate", "annotate", "translate", "top_regions", "evaluate")
READING = {"modality": None, "genome": None, "layer": None, "force": False}


@pytest.mark.parametrize("verb", [*VERBS, "train"])
def test_verbs_share_names_and_defaults(verb):
    given = {name: item.default for name, item in inspect.signature(getattr(api, verb)).parameters.items()}
    shared = {**READING, "device": "auto", "seed": 0, "quiet": False}
    assert {name: given.get(name, "absent") for name in shared} == shared
    assert getattr(syncyte, verb) is getattr(api, verb)
    assert inspect.getdoc(getattr(api, verb))


def test_everything_named_is_there():
    for name in syncyte.__all__:
        assert callable(getattr(syncyte, name))
    with pytest.raises(AttributeError, match="no attribute 'embd'"):
        _ = syncyte.embd


def test_a_run_is_a_path_or_a_trained_model(tiny_run):
    assert syncyte.load(tiny_run) is tiny_run
    loaded = syncyte.load(str(tiny_run.path), device="cpu")
    assert isinstance(loaded, Trained) and loaded.modalities == ("rna", "atac")
    with pytest.raises(CheckpointError, match="no-such"):
        syncyte.load("no-such-run")


def test_opened_cells_serve_as_data(tiny_run, tiny_data):
    first, second = syncyte.embed(tiny_run, cells_of(tiny_data)), syncyte.embed(tiny_run, tiny_data)
    assert (first.obsm["X_syncyte"] == second.obsm["X_syncyte"]).all()


def test_training_leaves_the_data_alone(tiny_data, tmp_path):
    data = tiny_data.copy()
    train_tiny(data, tmp_path / "RUN", settings=[f"stages.{name}.epochs=0.2" for name in ("atac", "rna", "both")])
    for name in data.mod:
        assert (data[name].X != tiny_data[name].X).nnz == 0 and data[name].X.dtype == tiny_data[name].X.dtype
        assert not data[name].layers and "syncyte" not in data[name].uns
    assert list(data.obs_names) == list(tiny_data.obs_names) and "syncyte" not in data.uns


def test_inspection_tells_what_is_there(tiny_data):
    told = api.inspect_data(tiny_data)
    assert "240" in told["summary"] and "rna" in told["summary"]


def test_places_that_cannot_be_written_are_refused_first(tiny_run, tiny_data, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        syncyte.embed(tiny_run, tiny_data, out=tmp_path / "file" / "out.h5mu")
    with pytest.raises(DataError, match="ending says the kind"):
        syncyte.embed(tiny_run, tiny_data, out=tmp_path / "out.csv")
