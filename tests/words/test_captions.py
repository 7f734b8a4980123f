"""Captions and back."""

from __future__ import annotations

import time

import pytest
from tests.blood_terms import TERMS

from syncyte.errors import ConfigError, DataError
from syncyte.words.captions import SLOTS, Facts, facts_of, parse_caption, plain, with_article, wordings, write_captions

FULL = Facts("X:4", ("CD3D", "LYZ"), "blood", "lupus", "adult stage", "interferon beta")
MARKERS = {"X:4": ("CD3D", "CD4"), "X:9": ("CD79A",)}


def test_there_are_many_wordings_with_every_field_once():
    assert len(wordings()) >= 12
    for wording in wordings():
        fields = [part for sentence in wording for part in SLOTS if "{" + part + "}" in sentence]
        assert sorted(fields) == sorted(SLOTS)


@pytest.mark.parametrize("number", range(13))
def test_every_wording_is_read_back(number):
    caption = write_captions([FULL], terms=TERMS, markers=MARKERS, drop=0, wording=number)[0]
    assert parse_caption(caption.text) == caption.slots
    assert caption.slots["type"] == "CD4-positive, alpha-beta T cell"
    assert caption.slots["ancestors"] == ("T cell", "lymphocyte", "leukocyte") or len(caption.slots["ancestors"]) == 3
    assert set(caption.slots) == set(SLOTS) - {"synonyms"}


def test_fields_are_dropped_at_random_with_a_seed():
    first = write_captions([FULL] * 200, terms=TERMS, markers=MARKERS, seed=3)
    again = write_captions([FULL] * 200, terms=TERMS, markers=MARKERS, seed=3)
    assert first == again and len({caption.text for caption in first}) > 100
    assert all("type" in caption.slots for caption in first)
    kept = sum("tissue" in caption.slots for caption in first) / 200
    assert 0.55 < kept < 0.85
    assert all(parse_caption(caption.text) == caption.slots for caption in first)


def test_only_expressed_genes_are_named():
    for caption in write_captions([FULL] * 20, terms=TERMS, markers=MARKERS, drop=0):
        assert caption.slots["markers"] == ("CD3D",) and "CD79A" not in caption.text
    silent = write_captions([Facts("X:4")], terms=TERMS, markers=MARKERS, drop=0)[0]
    assert "markers" not in silent.slots and "CD3D" not in silent.text


@pytest.mark.parametrize(
    "text",
    [
        "{type} {0} {x.__class__}",
        "{{ 7*7 }} <script>alert(1)</script> $HOME `id`",
        "The donor had flu. Tissue: lung | disease: none",
        "血液 🧬\u2028new line\x00",
        "a; b. It was taken from {tissue}.",
        "|",
    ],
)
def test_any_user_text_is_plain_text(text):
    captions = write_captions([Facts("X:9", (), text, text, "", text)] * 30, terms=TERMS, drop=0.1)
    for caption in captions:
        assert parse_caption(caption.text) == caption.slots
        assert "49" not in caption.text and "\x00" not in caption.text and "\n" not in caption.text
        assert (
            caption.slots["tissue"] in (plain(text), plain(text.replace("|", "/")))
            if "tissue" in caption.slots
            else True
        )


def test_nothing_known_and_no_ontology():
    empty = write_captions([Facts()])[0]
    assert empty.text and empty.slots == {}
    bare = write_captions([Facts("odd cell", tissue="gut")], drop=0, wording=0)[0]
    assert bare.text == "This cell is an odd cell. It was taken from gut."


@pytest.mark.parametrize("number", range(13))
@pytest.mark.parametrize("name", ["Erythroid", "NK cell", "umbrella cell", "HSC, early", "an odd one"])
def test_an_stands_where_it_is_said(number, name):
    caption = write_captions([Facts(name, tissue="an organ", condition="a drug")], drop=0, wording=number)[0]
    assert f" a {name}" not in caption.text and not caption.text.startswith(f"A {name}")
    assert parse_caption(caption.text) == caption.slots and caption.slots["type"] == name


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("B cell", "a"),
        ("eukaryotic cell", "a"),
        ("unipolar brush cell", "a"),
        ("urothelial cell", "a"),
        ("MAIT cell", "a"),
        ("Müller cell", "a"),
        ("unknown", "an"),
        ("oligodendrocyte", "an"),
        ("M cell", "an"),
        ("FCGR3A+ Monocyte", "an"),
        ("MK", "an"),
    ],
)
def test_articles(value, said):
    assert with_article("It is a ", value) == f"It is {said} "
    assert with_article("one of ", value) == "one of "


def test_sentences_of_other_texts_are_read():
    found = parse_caption("Something new. Tissue: lung. Markers: CD3D; CD2. Nothing more")
    assert found == {"markers": ("CD3D", "CD2"), "tissue": "lung"}
    assert parse_caption("") == {} and parse_caption("no caption at all") == {}


def test_long_texts_take_no_time():
    started = time.perf_counter()
    parse_caption("It was taken from " * 20_000)
    parse_caption("Tissue: lung. " * 20_000)
    assert time.perf_counter() - started < 5


def test_facts_of_columns():
    found = facts_of({"type": ["X:9", None], "tissue": ["a\nb", float("nan")]}, [["CD79A"], []])
    assert found == [Facts("X:9", ("CD79A",), "a b"), Facts()]
    with pytest.raises(ConfigError, match="Did you mean 'tissue'"):
        facts_of({"tisue": []})
    with pytest.raises(DataError, match="differ in length"):
        facts_of({"type": ["a"], "tissue": []})
    with pytest.raises(ConfigError, match="chance"):
        write_captions([FULL], drop=1.0)
    with pytest.raises(ConfigError, match="no wording"):
        write_captions([FULL], wording=99)
