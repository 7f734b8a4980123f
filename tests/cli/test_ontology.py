"""``syncyte ontology`` maps labels of a file and tells about an ontology."""

from __future__ import annotations

import inspect
import sys

import pandas as pd
import pytest
from tests.small_ontology import obo
from typer.testing import CliRunner

import syncyte
from syncyte import api
from syncyte.cli import app, main, ontology
from syncyte.errors import ConfigError, DataError


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cl.obo").write_text(obo())
    (tmp_path / "labels.txt").write_text("NK cells\nCD4 T\n🧬\nunknown\n")
    return tmp_path


def run(words: str):
    return CliRunner().invoke(app, words.split(), catch_exceptions=False)


def test_map(place):
    done = run("ontology map labels.txt --ontology cl.obo --out map.csv")
    assert "4 labels, 2 the same as a name" in done.output
    assert "training takes 120" in done.output
    table = pd.read_csv("map.csv", keep_default_na=False)
    assert table["term_id"].tolist() == ["CL:0000623", "CL:0000624", "", ""]
    assert table["evidence"].str.len().min() > 0


def test_map_without_an_ontology(place):
    done = run("ontology map labels.txt --out map.csv")
    assert "note: No ontology" in done.output
    assert pd.read_csv("map.csv")["term_id"][0] == "CL:0000623"


def test_subset_and_own_names(place):
    (place / "ids.txt").write_text("CL:0000623\n")
    (place / "mine.csv").write_text("thing one,CL:0000623\n")
    (place / "labels.txt").write_text("CD4 T\nthing one\n")
    done = run("ontology map labels.txt --ontology cl.obo --subset ids.txt --names mine.csv --fast --quiet --out m.csv")
    assert done.output == ""
    assert pd.read_csv("m.csv", keep_default_na=False)["term_id"].tolist() == ["", "CL:0000623"]


def test_info(place):
    done = run("ontology info cl.obo")
    assert "13 terms in use (CL)" in done.output
    assert "retired: 3, 2 of them replaced" in done.output
    told = run("ontology info cl.obo --term T-cell").output
    assert told.startswith("CL:0000084 T cell\nsynonyms: T lymphocyte; T-cell")
    assert "lymphocyte (1), leukocyte (2), cell (3)" in told
    assert "below: 2 terms" in told


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        ("map none.txt --out m.csv", "none.txt cannot be read", 1),
        ("map empty.txt --out m.csv", "holds no label", 1),
        ("map labels.txt --ontology empty.txt --out m.csv", "is empty", 1),
        ("map labels.txt --ontology labels.txt --out m.csv", "expected OBO text", 1),
        ("map labels.txt --cut 3 --out m.csv", "between 0 and 1", 2),
        ("map labels.txt --subset labels.txt --out m.csv", "Pass --ontology FILE", 2),
        ("map labels.txt --ontology cl.obo --subset labels.txt --out m.csv", "starts with an id", 1),
        ("info cl.obo --term CL:0000085", "Nearest: ", 1),
    ],
)
def test_errors_are_sentences(place, monkeypatch, capsys, words, says, code):
    (place / "empty.txt").write_text("")
    monkeypatch.setattr(sys, "argv", ["syncyte", "ontology", *words.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code
    assert says in capsys.readouterr().err
    assert not (place / "m.csv").exists()


def test_unknown_options_and_help(place):
    assert CliRunner().invoke(app, ["ontology", "map", "labels.txt", "--out", "m.csv", "--bogus"]).exit_code == 2
    told = run("ontology map --help").output
    assert "Examples:" in told
    assert "syncyte ontology map labels.txt --ontology cl.json.zst --out map.csv" in told


def test_options_are_those_of_the_verb():
    verb = inspect.signature(api.map_labels).parameters
    command = inspect.signature(ontology.map_).parameters
    assert set(command) - {"device"} == set(verb)
    for key, parameter in command.items():
        if parameter.default is not inspect.Parameter.empty and key in verb:
            assert verb[key].default == parameter.default, key


def test_the_verb(place):
    found = syncyte.map_labels(["NK", "nonsense xyz"], ontology="cl.obo", names={"mine": "CL:0000236"}, quiet=True)
    assert found.table()["term_id"].tolist() == ["CL:0000623", ""]
    assert found.counts() == {"same": 1, "close": 0, "coarser": 0, "none": 1}
    assert syncyte.map_labels(["NK"], ontology="cl.obo", subset=["CL:0000236"], fast=True).matches[0].id == ""
    with pytest.raises(ConfigError):
        syncyte.map_labels(["NK"], out=place)
    with pytest.raises(DataError):
        syncyte.map_labels(place / "missing.txt")
