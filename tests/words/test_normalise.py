"""Names are brought to one spelling, and strange text is survived."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncyte.words.normalise import bare_words, key_of, no_types, normalise, singular


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("NK cells", "natural killer cell"),
        ("FCGR3A+ Monocytes", "cd16 positive monocyte"),
        ("CD16-CD56bright NK", "cd16 negative cd56 bright natural killer cell"),
        ("NK_CD56bright", "natural killer cell cd56 bright"),
        ("CD4⁺CD8⁻ thymocyte", "cd4 positive cd8 negative thymocyte"),
        ("IgD- memory B", "igd negative memory b cell"),
        ("γδ T cells", "gamma delta t cell"),
        ("non-classical monocyte", "nonclassical monocyte"),
        ("haematopoietic stem cells", "hematopoietic stem cell"),
        ("layer IV neurones", "layer 4 neuron"),
        ("type I NK T cell", "type 1 nkt cell"),
        ("CD4", "cd4 positive alpha beta t cell"),
        ("CD8.EM", "cd8 positive effector memory alpha beta t cell"),
        ("MemoryCD4T", "memory cd4 positive alpha beta t cell"),
        ("B naive", "b cell naive"),
        ("T lymphocytes", "t cell"),
        ("Bm2' B cell", "bm2' b cell"),
        ("Peyer's patch B cell", "peyer patch b cell"),
        ("pre- B", "pre b cell"),
        ("🧬🔬", ""),
        ("细胞", ""),
        ("", ""),
    ],
)
def test_spellings(written, spelled):
    assert normalise(written) == spelled


def test_index_and_label_meet():
    assert key_of(normalise("Naive CD4 T")) == key_of(normalise("naive thymus-derived CD4-positive, alpha-beta T cell"))
    assert key_of(normalise("B naive")) == key_of(normalise("naive B cell"))
    assert key_of(normalise("macrophage of lung")) == key_of(normalise("lung macrophage"))


def test_a_sign_stays_with_its_marker():
    assert key_of(normalise("CD4+ CD8- x")) != key_of(normalise("CD4- CD8+ x"))


def test_plurals():
    words = ("cells", "biopsies", "plexus", "meiosis", "gas", "class", "bm2'", "ILC3s".lower())
    assert [singular(word) for word in words] == ["cell", "biopsy", "plexus", "meiosis", "gas", "class", "bm2'", "ilc3"]


def test_markers_are_taken_off():
    assert bare_words("gzmk1 positive cd8 positive t cell") == ["t", "cell"]
    assert bare_words("t helper 17 cell") == ["t", "helper", "17", "cell"]


def test_words_of_labels_without_a_type():
    assert {"doublet", "unassigned"} <= no_types()
    assert "doublet" not in normalise("doublets").split() or normalise("doublets") == "doublet"


@given(st.text(max_size=400))
def test_nothing_crashes_and_spelling_is_stable(text):
    spelled = normalise(text)
    assert set(spelled) <= set("abcdefghijklmnopqrstuvwxyz0123456789' ")
    key_of(spelled)
    bare_words(spelled)
