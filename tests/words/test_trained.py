"""What is learned from an ontology is kept by its content, and found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.small_ontology import obo, wide

from syncyte.genome.ontology import Ontology
from syncyte.genome.ontology_files import read_ontology
from syncyte.words import characters, rerank, trained
from syncyte.words.characters import CharacterVectors, to_ids, train_characters
from syncyte.words.map import LabelMapper
from syncyte.words.trained import cache_folder, trained_for


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Ontology:
    path = tmp_path_factory.mktemp("ontology") / "wide.obo"
    path.write_text(wide())
    return read_ontology(path)


@pytest.fixture(scope="module")
def cache(known, tmp_path_factory) -> Path:
    """Cache with one short training in it."""
    folder = tmp_path_factory.mktemp("cache") / "deeper"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rerank, "TREES", 8)
        patch.setattr(characters, "PAIRS", 64)
        trained_for(known, cache=folder, steps=25, quiet=True)
    return folder


def test_it_is_found_again(known, cache, monkeypatch):
    monkeypatch.setattr(trained, "train", lambda *_, **__: pytest.fail("trained again"))
    models, note = trained_for(known, cache=cache, steps=25, quiet=True)
    assert note == ""
    assert models.encoder is not None
    assert models.reranker.trees is not None
    mapper = LabelMapper(known, models=models, usual=False)
    found = mapper.map(["Liver fibroblasts", "fibroblast in the skin", "17"])
    assert found[0].term == "liver fibroblast"
    assert mapper.ranked("fibroblast in the skin")[0][0] == known["skin fibroblast"].id
    assert found[2].how == "none"


def test_other_content_or_seed_is_another_file(known, cache):
    names = {trained._content(known, 0, 25), trained._content(known, 1, 25), trained._content(known, 0, 26)}
    less = known.without([(key, term.synonyms[0]) for key, term in known.active.items() if term.synonyms][:1])
    assert len(names | {trained._content(less, 0, 25)}) == 4
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_a_damaged_file_is_made_anew(known, cache, monkeypatch):
    path = next(cache.iterdir())
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\x00" * 100):
        path.write_bytes(broken)
        again = trained._load(path)
        assert again is None
    path.write_bytes(whole)
    assert trained._load(path) is not None


def test_few_synonyms_are_not_trained_on(tmp_path):
    (tmp_path / "cl.obo").write_text(obo())
    models, note = trained_for(read_ontology(tmp_path / "cl.obo"), cache=tmp_path, quiet=True)
    assert models.encoder is None
    assert "training takes 120" in note
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_cache_that_cannot_be_written_is_said(known, cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    made = trained._load(next(cache.iterdir()))
    monkeypatch.setattr(trained, "train", lambda *_, **__: made)
    models, note = trained_for(known, cache=tmp_path / "file", quiet=True)
    assert models is made
    assert "could not be kept" in note


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "syncyte" / "labels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert cache_folder().parts[-3:] == (".cache", "syncyte", "labels")


def test_the_encoder_learns_and_repeats_itself(known, monkeypatch):
    monkeypatch.setattr(characters, "PAIRS", 32)
    told = []
    one = train_characters(known.active, steps=3, seed=1, advance=lambda *given: told.append(given))
    two = train_characters(known.active, steps=3, seed=1)
    other = train_characters(known.active, steps=3, seed=2)
    names = ["liver fibroblast", "", "kidney neuron"]
    assert (one.encode(names) == two.encode(names)).all()
    assert not np.allclose(one.encode(names), other.encode(names))
    assert np.allclose(np.linalg.norm(one.encode(names), axis=1), 1, atol=1e-5)
    assert [given[:2] for given in told] == [(1, 3), (2, 3), (3, 3)]
    again = CharacterVectors.restore(one.arrays())
    assert (again.encode(names) == one.encode(names)).all()
    assert one.encode([]).shape == (0, 128)


def test_letters_become_numbers():
    ids = to_ids(["ab", "é!", "b" * 100])
    assert ids.shape == (3, 48)
    assert ids[0, :3].tolist() == [2, 3, 0]
    assert ids[1].sum() == 0
