"""A run of words that reads its cells through another encoder too: an earlier run, or a published gene transformer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mudata import MuData
from tests.tiny import cells_of
from tests.tiny_words import train_words

import syncyte
from syncyte.errors import CheckpointError, ConfigError, DataError
from syncyte.models.language import Words, WordSizes
from syncyte.nn.language import Given
from syncyte.recipes import scmmgpt
from syncyte.recipes.word_encoder import moments
from syncyte.tasks.word_run import WordRun
from syncyte.train.folder import ENCODER, GIVEN, GIVEN_STATES

QUICK = ["words.texts=4", "words.states=6", "stages.flow.epochs=0.2"]


@pytest.fixture(scope="module")
def run(tiny_data, tiny_run, tmp_path_factory):
    """Words beside a run of both modalities whose own folder is gone; not to be changed."""
    folder = tmp_path_factory.mktemp("beside")
    shutil.copytree(tiny_run.path, folder / "first")
    made = train_words(tiny_data, folder / "made", encoder=folder / "first", settings=QUICK)
    shutil.rmtree(folder / "first")
    shutil.move(folder / "made", folder / "RUN")
    return syncyte.load(folder / "RUN", device="cpu"), made.recipe["notes"]


# --- the reader ------------------------------------------------------------------------------------------------------


def test_what_is_given_changes_nothing_at_first():
    sizes = {"pieces": 20, "grams": 30, "width": 8, "heads": 2, "shared": 12, "queries": 3, "layers": 1, "deep": 1}
    torch.manual_seed(0)
    bare = Words(6, WordSizes(**sizes)).eval()
    torch.manual_seed(0)
    beside = Words(6, WordSizes(**sizes, given=5, given_states=4)).eval()
    beside.load_state_dict({**beside.state_dict(), **bare.state_dict()})
    tokens, valid = torch.randn(4, 7, 6), torch.ones(4, 7, dtype=torch.bool)
    given = Given(torch.randn(4, 5), torch.randn(4, 3, 4), torch.tensor([[True, True, False]] * 3 + [[False] * 3]))
    for one, other in zip(bare.show(tokens, valid), beside.show(tokens, valid, given), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    with torch.no_grad():
        for parameter in beside.given.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    shown = beside.show(tokens, valid, given)[1]
    assert not torch.allclose(shown, bare.show(tokens, valid)[1], atol=1e-2) and torch.isfinite(shown).all()
    for wrong in (lambda: beside.show(tokens, valid), lambda: bare.show(tokens, valid, given)):
        with pytest.raises(ValueError, match="only where"):
            wrong()


def test_padding_of_states_is_not_read():
    sizes = {"pieces": 20, "grams": 30, "width": 8, "heads": 2, "shared": 12, "queries": 3, "layers": 1, "deep": 1}
    words = Words(6, WordSizes(**sizes, given=5, given_states=4)).eval()
    with torch.no_grad():
        for parameter in words.given.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    vector, states = torch.randn(2, 5), torch.randn(2, 4, 4)
    valid = torch.tensor([[True, True, False, False]] * 2)
    other = states.clone()
    other[:, 2:] = 99.0
    assert torch.allclose(words.given(Given(vector, states, valid)), words.given(Given(vector, other, valid)))


def test_axes_of_a_part_share_a_scale():
    x = np.random.default_rng(0).normal(size=(500, 4)) * np.array([2.0, 1.0, 3.0, 0.0]) + 5
    mean, scale = moments(x, (2, 1, 1))
    assert np.allclose(mean, x.mean(axis=0)) and scale[0] == scale[1] > 0
    assert np.allclose(scale[1:3], x.std(axis=0)[[0, 2]]) and scale[3] > 0


# --- an earlier run --------------------------------------------------------------------------------------------------


def test_a_run_holds_its_encoder_and_nothing_of_the_way(run, tiny_run):
    made, notes = run
    told = made.recipe["words"]["encoder"]
    assert told["modalities"] == ["rna", "atac"] and told["fingerprint"] == tiny_run.recipe["fingerprint"]
    assert (made.path / ENCODER / "checkpoint.json").is_file() and told["states"] == 6
    assert not (made.path / GIVEN).exists() and not (made.path / GIVEN_STATES).exists()
    sizes = made.model.words.sizes
    assert (sizes.given, sizes.given_states) == (told["width"], told["state_width"]) and sizes.given_states > 0
    assert float(made.model.words.given.outward.weight.detach().abs().max()) > 0  # it was learned
    assert any("reads rna and atac of every cell" in note for note in notes)
    assert not any("learns one modality" in note for note in notes)
    assert list(made.vocabularies) == ["rna"]


def test_all_tasks_of_words_read_it(run, tiny_data, tmp_path):
    made, _ = run
    some = tiny_data[:30].copy()
    typed = syncyte.annotate(made, some, zero_shot=True, candidates=[], device="cpu", quiet=True)
    assert len(typed.obs["syncyte_type"]) == 30
    told = syncyte.describe(made, some, by="cell_type", device="cpu", quiet=True)
    assert all(map(len, told.uns["evidence"]["description"]))
    found = syncyte.search(made, "B cells", some, index=tmp_path / "index", device="cpu")
    again = syncyte.search(made, "B cells", some, index=tmp_path / "index", device="cpu")
    assert list(found.table["cell"]) == list(again.table["cell"])
    near = syncyte.search(made, "B cells", some, mode="vectors", top=5, device="cpu")
    assert len(near.table) == 5
    assert syncyte.generate(made, text="B cells", n=3, device="cpu", quiet=True).counts.shape[0] == 3


def test_the_second_modality_is_read_for_new_cells(run, tiny_data):
    words = WordRun(run[0])
    whole, rna = words.ask(cells_of(tiny_data)), words.ask(cells_of(tiny_data["rna"]))
    assert any("the cells have no atac" in note for note in rna.notes)
    assert not np.allclose(words.vectors(whole), words.vectors(rna), atol=1e-3)
    assert np.allclose(words.vectors(whole), words.vectors(whole, batch_size=37), atol=1e-4)
    swapped = MuData({"rna": tiny_data["rna"].copy(), "atac": tiny_data["atac"][::-1].copy()})
    swapped["atac"].obs_names = tiny_data["atac"].obs_names
    swapped.update()
    other = words.ask(cells_of(swapped))
    assert not np.allclose(words.vectors(whole), words.vectors(other), atol=1e-3)
    assert other.beside.vectors(other.cells.names[3:5]).shape == (2, words.encoder.width)


def test_cells_without_rna_get_no_answer(run, tiny_data):
    part = MuData({"rna": tiny_data["rna"][:20].copy(), "atac": tiny_data["atac"][10:26].copy()})
    words = WordRun(run[0])
    asked = words.ask(cells_of(part))
    have = asked.cells.present("rna")
    chance = words.chances(asked)
    assert have.sum() == 20 and np.allclose(chance[have].sum(axis=1), 1) and not chance[~have].any()
    found = syncyte.search(run[0], "not B cells", part, device="cpu").table
    assert set(found["cell"]) <= set(asked.cells.names[have])
    typed = syncyte.annotate(run[0], part, zero_shot=True, candidates=[], device="cpu", quiet=True)
    assert list(typed.obs["syncyte_type"][~have]) == ["unknown"] * 6
    told = syncyte.describe(run[0], part, device="cpu", quiet=True).obs["syncyte_description"]
    assert all(bool(text) == flag for text, flag in zip(told, have, strict=True))


def test_the_encoder_must_be_the_one_of_training(run, tiny_data, tmp_path):
    for name in ("gone", "other"):
        shutil.copytree(run[0].path, tmp_path / name)
        shutil.rmtree(tmp_path / name / ENCODER)
    shutil.copytree(run[0].path, tmp_path / "other" / ENCODER)
    for name, words in (("gone", "encoder is missing"), ("other", "is not the encoder this run was trained with")):
        with pytest.raises(CheckpointError, match=words):
            syncyte.search(tmp_path / name, "B cells", tiny_data, device="cpu")


def test_a_training_that_broke_off_goes_on(run, tiny_data, tiny_run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("power is gone")

    order = {"encoder": tiny_run.path, "settings": QUICK}
    with monkeypatch.context() as patch:
        patch.setattr(scmmgpt, "remember", fail)
        with pytest.raises(RuntimeError, match="power is gone"):
            train_words(tiny_data, tmp_path / "RUN", **order)
    assert (tmp_path / "RUN" / GIVEN).is_file() and not (tmp_path / "RUN" / ENCODER).exists()
    again = train_words(tiny_data, tmp_path / "RUN", resume=True, **order)
    assert not (tmp_path / "RUN" / GIVEN).exists()
    for name, weight in run[0].model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    train_words(tiny_data, tmp_path / "RUN", overwrite=True, settings=QUICK)  # leaves no encoder of the run before
    assert not (tmp_path / "RUN" / ENCODER).exists() and WordRun(syncyte.load(tmp_path / "RUN")).encoder is None


def test_orders_that_cannot_be_are_refused_before_anything_is_written(tiny_data, tiny_run, tmp_path):
    with pytest.raises(ConfigError, match="no encoder of cells"):
        train_words(tiny_data, tmp_path / "RUN", encoder=tmp_path)
    with pytest.raises(ConfigError, match="clm_x knows no words: leave out --encoder"):
        syncyte.train("clm_x", tiny_data, out=tmp_path / "RUN", preset="tiny", encoder=tiny_run.path, device="cpu")
    with pytest.raises(ConfigError, match=r"words\.states=0"):
        train_words(tiny_data, tmp_path / "RUN", encoder=tiny_run.path, settings=["words.states=0"])
    other = tiny_data["rna"].copy()
    other.obs["cell_type"] = tiny_data.obs["cell_type"].to_numpy()
    other.var_names = [f"Gene{number}" for number in range(other.n_vars)]
    with pytest.raises(DataError, match="None of the 80 rna features"):
        train_words(other, tmp_path / "RUN", encoder=tiny_run.path)
    assert not (tmp_path / "RUN").exists()


# --- a published gene transformer ------------------------------------------------------------------------------------


def test_a_gene_transformer_is_an_encoder(tiny_data, tmp_path: Path):
    pytest.importorskip("transformers")
    from tests.gene_models import ensembl, save_gene_model

    rna = tiny_data["rna"].copy()
    rna.obs["cell_type"] = tiny_data.obs["cell_type"].to_numpy()
    symbols = {name: ensembl(number) for number, name in enumerate(rna.var_names[:60], 1)}
    folder = save_gene_model(tmp_path / "published", [*symbols.values()], framed=True)
    rna.var = rna.var[[]]
    with pytest.raises(DataError, match=r"None of the 80 genes is among the 60 .* gene_name_id\.json"):
        train_words(rna, tmp_path / "RUN", encoder=folder)
    (folder / "gene_name_id.json").write_text(json.dumps(symbols), encoding="utf-8")
    run = train_words(rna, tmp_path / "RUN", encoder=folder, settings=QUICK)
    shutil.rmtree(folder)
    told = run.recipe["words"]["encoder"]
    assert told["width"] == told["state_width"] == 8 and told["modalities"] == ["rna"]
    kept = {path.name for path in (run.path / ENCODER).iterdir()}
    assert kept == {
        *("config.json", "model.safetensors", "token_dictionary.json"),
        *("gene_median_dictionary.json", "gene_name_id.json"),
    }
    words = WordRun(syncyte.load(tmp_path / "RUN", device="cpu"))
    asked = words.ask(cells_of(rna))
    assert words.vectors(asked).shape[0] == 240 and np.isfinite(words.states(asked)).all()
    found = syncyte.search(tmp_path / "RUN", "B cells", rna, device="cpu")
    assert len(found.table)
    (run.path / ENCODER / "gene_median_dictionary.json").write_text(json.dumps(dict.fromkeys(symbols.values(), 1.0)))
    with pytest.raises(CheckpointError, match="is not the encoder"):
        syncyte.search(tmp_path / "RUN", "B cells", rna, device="cpu")
