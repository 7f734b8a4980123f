"""scmmgpt from cells to a checkpoint: columns, terms, texts, markers, what a run holds, interruption, refusals."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.small_ontology import ROWS, obo
from tests.tiny_words import IDS, SEEN, told_cells, train_words, training_cells, write_ontology
from tests.train.toy import curves

import syncyte
from syncyte.errors import CheckpointError, ConfigError, DataError
from syncyte.genome.ontology_files import ontology_of, ontology_table, read_ontology
from syncyte.objectives.words import Align, Speak
from syncyte.recipes import scmmgpt, train_sets
from syncyte.recipes.base import recipes
from syncyte.recipes.train import configure
from syncyte.recipes.train_sets import SetRecipe
from syncyte.recipes.word_types import COLUMNS, WordsConfig, choose_columns
from syncyte.tasks.trained import load_trained
from syncyte.tasks.word_run import WordRun

PRESETS = list(recipes["scmmgpt"].presets)
SHORT = [f"stages.{name}.epochs=0.2" for name in ("autoencode", "align", "flow")]


@pytest.fixture(scope="module")
def data():
    """Five types of cells; not to be changed."""
    return training_cells(told_cells())


@pytest.fixture(scope="module")
def ontology(tmp_path_factory) -> Path:
    return write_ontology(tmp_path_factory.mktemp("ontology"))


@pytest.fixture(scope="module")
def run(data, ontology, tmp_path_factory):
    """The tiny preset as it is, with an ontology; not to be changed."""
    return train_words(data, tmp_path_factory.mktemp("scmmgpt") / "RUN", ontology=ontology)


@pytest.fixture(scope="module")
def bare(data, tmp_path_factory):
    """The same without one; not to be changed."""
    return train_words(data, tmp_path_factory.mktemp("bare") / "RUN", batch_key="batch")


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json_and_hold_together(preset):
    config = configure("scmmgpt", preset)
    assert SetRecipe.parse(json.loads(config.model_dump_json())) == config and config.preset == preset
    assert list(config.stages) == ["autoencode", "align", "flow"] and set(config.steps) <= set(config.stages)
    assert {"align", "speak", "read"} <= set(config.stages["align"].objectives)
    words = config.words
    assert words.width % words.heads == 0 and words.texts >= 4 and 0 <= words.drop < 1
    assert config.stages["flow"].trainable == (r"^flow\.",)


def test_settings_reach_the_words():
    config = configure("scmmgpt", "tiny", ["words.sigmoid=true", "words.softness=0", "words.map=trained"])
    assert config.words.sigmoid and config.words.softness == 0 and config.words.map == "trained"
    with pytest.raises(ConfigError, match=r"'softnes'\. Did you mean 'softness'"):
        configure("scmmgpt", "tiny", ["words.softnes=2"])


def test_columns_are_named_on_the_command_line():
    config = configure("scmmgpt", "tiny", ["words.columns.condition=stim", "words.columns.tissue=organ"])
    assert choose_columns(config.words, pd.DataFrame({"k": [1], "stim": ["a"], "organ": ["b"]}), "k") == {
        "type": "k",
        "condition": "stim",
        "tissue": "organ",
    }


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_found_under_their_usual_names():
    obs = pd.DataFrame(
        {"kind": list("abab"), "organ": list("xxyy"), "stim": list("uvuv"), "stage": [1.0, 2.0, 3.0, 4.0]}
    )
    found = choose_columns(WordsConfig(), obs, "kind")
    assert found == {"type": "kind", "tissue": "organ", "condition": "stim"}  # a stage in numbers is no word
    renamed = obs.rename(columns={"organ": "tissue"})
    assert choose_columns(WordsConfig(), renamed, "tissue") == {"type": "tissue", "condition": "stim"}


def test_columns_can_be_named_or_left_out():
    obs = pd.DataFrame({"kind": list("abab"), "organ": list("xxyy"), "place": list("uvuv")})
    assert choose_columns(WordsConfig(columns={"tissue": "place"}), obs, "kind")["tissue"] == "place"
    assert "tissue" not in choose_columns(WordsConfig(columns={"tissue": "none"}), obs, "kind")
    with pytest.raises(
        ConfigError, match=r"words\.columns\.organ is no field; fields are tissue, disease, stage, cond"
    ):
        choose_columns(WordsConfig(columns={"organ": "organ"}), obs, "kind")
    with pytest.raises(ConfigError, match=r"words\.columns\.tissue='palce': the cells have no such column"):
        choose_columns(WordsConfig(columns={"tissue": "palce"}), obs, "kind")


def test_a_column_of_many_values_is_said_only_when_named():
    obs = pd.DataFrame({"kind": ["a", "b"] * 40, "tissue": [f"t{number}" for number in range(80)]})
    assert choose_columns(WordsConfig(), obs, "kind") == {"type": "kind"}
    assert choose_columns(WordsConfig(columns={"tissue": "tissue"}), obs, "kind")["tissue"] == "tissue"
    assert set(COLUMNS) == {"tissue", "disease", "stage", "condition"}


# --- what a run holds ------------------------------------------------------------------------------------------------


def test_a_run_says_what_was_learned(run, data):
    facts = run.recipe["words"]
    assert [stage["name"] for stage in run.recipe["training"]["stages"]] == ["autoencode", "align", "flow"]
    assert facts["columns"] == {"type": "cell_type", "condition": "condition"}
    assert facts["values"] == {"type": list(SEEN), "condition": ["control", "stimulated"]}
    assert {label: match["id"] for label, match in facts["matches"].items()} == {
        label: IDS.get(label, "") for label in SEEN
    }
    assert facts["ontology"] == {"name": "cl.obo", "prefix": "CL"}
    assert len(facts["groups"]["type"]) == len(facts["expressed"]) == 10
    assert facts["classifiers"]["type"]["classes"] == list(SEEN)
    assert {run.can(what) for what in ("matches", "generates", "encodes")} == {True}
    assert not (run.path / "codes.npy").exists() and not (run.path / "state").exists()


def test_remembered_cells_are_training_cells(run, data):
    table, arrays = run.tables["reference"], run.arrays
    assert len(table) <= run.recipe["split"]["train_cells"] and set(table["type"]) == set(SEEN)
    own = data.obs.loc[table.index]
    assert list(own["cell_type"]) == list(table["type"]) and list(own["condition"]) == list(table["condition"])
    counts = data[list(table.index)].to_df()[run.vocabularies["rna"].index].to_numpy()
    for key in ("places", "markers", "codes", "vectors"):
        assert len(arrays[f"reference.{key}"]) == len(table), key
    np.testing.assert_allclose(np.linalg.norm(arrays["reference.vectors"].astype(float), axis=1), 1, atol=1e-2)
    totals = np.log(counts.sum(axis=1)).ravel()
    np.testing.assert_allclose(arrays["reference.codes"][:, -1], np.asarray(totals).ravel(), rtol=1e-5)


def test_genes_that_texts_name_are_expressed(run, data):
    groups, table = run.recipe["words"]["groups"], data.to_df() > 0
    markers = WordRun(run).markers
    for kind, condition, genes in zip(
        groups["type"], groups["condition"], run.recipe["words"]["expressed"], strict=True
    ):
        member = ((data.obs["cell_type"] == kind) & (data.obs["condition"] == condition)).to_numpy()
        assert all(table.loc[member, gene].mean() > 0.4 for gene in genes)  # half of the training cells
        assert set(genes) <= set(markers.of(IDS.get(kind, kind)))


def test_nothing_in_a_run_is_a_pickle(run):
    for path in (one for one in run.path.rglob("*") if one.is_file() and "tensorboard" not in str(one)):
        assert path.suffix not in (".pkl", ".pt", ".npy", ".bin"), path
    assert {"model.safetensors", "preprocessing.safetensors", "recipe.json", "README.md"} <= {
        path.name for path in run.path.iterdir()
    }


def test_a_loaded_run_reads_texts_and_cells_as_the_trained_one(run, data):
    loaded = load_trained(run.path, "cpu")
    one, other = WordRun(run), WordRun(loaded)
    np.testing.assert_array_equal(one.texts(["B cells", "a monocyte"]), other.texts(["B cells", "a monocyte"]))
    cells = syncyte.api.open_data(data)
    np.testing.assert_array_equal(one.vectors(one.ask(cells)), other.vectors(other.ask(cells)))
    np.testing.assert_array_equal(one.chances(one.ask(cells)), other.chances(other.ask(cells)))
    shape = (len(data), loaded.model.words.sizes.queries, loaded.model.words.sizes.shared)
    assert one.vectors(one.ask(cells)).shape == shape


# --- terms -----------------------------------------------------------------------------------------------------------


def test_labels_without_a_term_go_by_their_names(run):
    words = WordRun(run)
    assert [words.term(label) for label in SEEN] == ["CL:0000236", "CL:0001054", "CL:0000624", "Erythroid", "HSC"]
    assert [words.name(words.term(label)) for label in SEEN[3:]] == ["Erythroid", "HSC"]
    assert words.name("CL:0000236") == "B cell" and words.name("CL:0000788") == "naive B cell"
    assert "Without a term, known by their names alone: 'Erythroid', 'HSC'." in run.recipe["notes"]
    assert words.markers.of("Erythroid") and len(words.markers.of("Erythroid")) <= 12
    assert "training cells" in words.markers.sources["Erythroid"]


def test_without_an_ontology_names_come_from_the_tables(bare):
    words = WordRun(bare)
    assert words.ontology is None and bare.recipe["words"]["ontology"] is None and "ontology" not in bare.tables
    assert words.term("HSC") == "CL:0000037" and words.name("CL:0000037") == "hematopoietic stem cell"
    assert set(words.terms) == set(words.classes)
    notes = " ".join(bare.recipe["notes"])
    assert "No ontology: types are known by their labels" in notes and "Pass --ontology" in notes
    assert "the reader of texts learns from the texts of the cells alone" in notes


def test_the_ontology_comes_back_from_its_table(ontology, run):
    known = read_ontology(ontology)
    for table in (ontology_table(known), run.tables["ontology"]):
        again = ontology_of(table, known.name, known.prefix)
        assert dict(again.terms) == dict(known.terms) and dict(again.active) == dict(known.active)
        assert again.distance("CL:0000624", "CL:0000625") == known.distance("CL:0000624", "CL:0000625") == 2
    assert WordRun(run).ontology.active["CL:0000236"].definition == 'A lymphocyte that makes "antibodies".'
    assert len(known.active) >= len(ROWS)


# --- a user's own text and markers -----------------------------------------------------------------------------------


def test_own_texts_are_learned_from(data, tmp_path, monkeypatch):
    kept = []

    def write(config, lexis, *given):
        kept.append((lexis, real(config, lexis, *given)))
        return kept[-1][1]

    real = scmmgpt.write_texts
    monkeypatch.setattr(scmmgpt, "write_texts", write)
    told = data.copy()
    told.obs["note"] = ["from my own " + kind.lower() + " experiment" for kind in told.obs["cell_type"]]
    told.obs.loc[(told.obs["cell_type"] == "HSC").to_numpy(), "note"] = ""
    made = train_words(told, tmp_path / "RUN", text_key="note", settings=SHORT)
    ((lexis, texts),) = kept
    assert set(made.recipe["words"]["groups"]["own text"]) == set(told.obs["note"])
    own = lexis.pieces.encode(list(lexis.groups["own text"]), texts.pieces.shape[2])
    for row, text in enumerate(lexis.groups["own text"]):
        same = (texts.pieces[row] == own[row]).all(axis=1)  # every other one is the user's
        assert list(np.flatnonzero(same)) == (list(range(0, len(same), 2)) if text else [])
    with pytest.raises(DataError, match=r"Unknown obs column 'ntoe'\. Did you mean 'note'"):
        train_words(told, tmp_path / "other", text_key="ntoe")
    assert not (tmp_path / "other").exists()


def test_own_markers_replace_the_table(data, tmp_path):
    path = tmp_path / "markers.csv"
    first, second = data.var_names[:2]
    path.write_text(f'id,label,genes\nCL:0000236,B cell,"{first} {second}"\n')
    made = train_words(data, tmp_path / "RUN", markers=path, settings=SHORT)
    markers = WordRun(made).markers
    assert markers.of("CL:0000236") == (first, second)
    assert set(markers.genes) == {WordRun(made).term(label) for label in SEEN}  # the others have their own


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_learned_is_refused_before_anything_is_written(data, ontology, tmp_path):
    alone = data[(data.obs["cell_type"] == "B").to_numpy()].copy()
    cases = [
        (data, {"label_key": None}, ConfigError, "learns from the types of cells: name their column with --label-key"),
        (data, {"label_key": "cell_tipe"}, DataError, "'cell_tipe'. Did you mean 'cell_type'"),
        (data, {"settings": ["words.columns={organ: batch}"]}, ConfigError, "words.columns.organ is no field"),
        (data, {"settings": ["words.columns={tissue: no}"]}, ConfigError, "words.columns.tissue"),
        (data, {"settings": ["words.columns={tissue: place}"]}, ConfigError, "the cells have no such column"),
        (alone, {}, DataError, "'cell_type' has 1 values in training cells; words need two types"),
        (data, {"settings": ["words=null"]}, ConfigError, "no part 'words', without which this recipe is scldm"),
    ]
    for cells, options, kind, says in cases:
        with pytest.raises(kind, match=says):
            train_words(cells, tmp_path / "RUN", **options)
        assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("option", "named"), [("ontology", "--ontology"), ("markers", "--markers"), ("text_key", "--text-key")]
)
def test_other_recipes_know_no_words(data, ontology, tmp_path, option, named):
    given = {"ontology": ontology, "markers": tmp_path / "none.csv", "text_key": "condition"}[option]
    with pytest.raises(ConfigError, match=f"The recipe scldm knows no words: leave out {named}, or train .*scmmgpt"):
        syncyte.train("scldm", data, out=tmp_path / "RUN", preset="tiny", quiet=True, **{option: given})
    assert not (tmp_path / "RUN").exists()


# --- again, interrupted, finished ------------------------------------------------------------------------------------


def test_same_seed_same_run(data, ontology, run, tmp_path):
    torch.manual_seed(99)  # the caller's random state has no say
    np.random.seed(99)  # noqa: NPY002
    again = train_words(data, tmp_path / "again", ontology=ontology)
    assert curves(again.path) == curves(run.path)
    assert again.recipe["fingerprint"] == run.recipe["fingerprint"] and again.recipe["words"] == run.recipe["words"]
    for name, array in run.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)
    other = train_words(data, tmp_path / "other", ontology=ontology, seed=1)
    assert other.recipe["fingerprint"] != run.recipe["fingerprint"]


def train_slowly(run: Path, ontology: Path, pause: float) -> None:
    """Train with the state saved after every step, and a pause in each."""

    def slowed(real):
        def slow(self, *given):
            time.sleep(pause)
            return real(self, *given)

        return slow

    for kind in (Align, Speak, train_sets.CountElbo, train_sets.FlowMatching):
        kind.forward = slowed(kind.forward)
    train_sets.fit = partial(train_sets.fit, save_every_seconds=0.0)
    train_words(training_cells(told_cells()), run, ontology=ontology, resume=True)


def steps_saved(run: Path) -> int:
    path = run / "state/state.json"
    place = json.loads(path.read_text())["place"] if path.exists() else {"offset": 0, "step": 0}
    return place["offset"] + place["step"]


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize("steps", [27, 44])
def test_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, data, ontology, run, steps):
    """In the stage of words, whose texts are drawn again, and in the flow, whose texts are read again."""
    path = tmp_path / "RUN"
    process = multiprocessing.get_context("fork").Process(target=train_slowly, args=(path, ontology, 0.03))
    process.start()
    while process.is_alive() and steps_saved(path) < steps:
        time.sleep(0.002)
    assert process.is_alive(), "it ended before it could be killed"
    process.kill()
    process.join()
    assert steps <= steps_saved(path) < 60 and not (path / "checkpoint.json").exists()
    with pytest.raises(CheckpointError):
        load_trained(path, "cpu")
    resumed = train_words(data, path, ontology=ontology, resume=True)
    assert curves(path) == curves(run.path) and not (path / "codes.npy").exists()
    assert resumed.recipe["fingerprint"] == run.recipe["fingerprint"]
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    for name, array in run.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array, err_msg=name)


def test_training_takes_an_ontology_that_is_read(data, tmp_path):
    path = tmp_path / "small.obo"
    path.write_text(obo(), encoding="utf-8")
    made = train_words(data, tmp_path / "RUN", ontology=read_ontology(path), settings=SHORT)
    assert made.recipe["words"]["ontology"]["name"] == "small.obo"
