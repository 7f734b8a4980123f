"""What a speaker says: values first, a sentence with marks after them, nothing that was not given."""

from __future__ import annotations

import numpy as np
import pytest

from syncyte.words.captions import wordings
from syncyte.words.pieces import Pieces
from syncyte.words.spoken import FIELDS, MARKS, SAY, draw_slots, fill_spoken, read_spoken, sound, write_spoken


def test_values_come_first_and_are_read_back() -> None:
    text = write_spoken({"type": "B cell", "condition": "interferon beta", "tissue": ""}, ["markers"], 0)
    values, sentence = read_spoken(text)
    assert values == {"type": "B cell", "condition": "interferon beta"}
    assert sentence.startswith("This cell is a <=type>.")
    assert "<=markers>" in sentence and "<=tissue>" not in sentence


@pytest.mark.parametrize("wording", range(len(wordings())))
def test_every_wording_is_sound_and_fills_without_a_mark_left(wording: int) -> None:
    values = {name: f"value of {name}" for name in FIELDS}
    slots = ["markers", "synonyms", "definition", "ancestors"]
    sentence = read_spoken(write_spoken(values, slots, wording))[1]
    assert sound(sentence)
    filled = fill_spoken(
        sentence,
        {**values, "markers": ("CD3E", "CD2"), "synonyms": ("x",), "definition": "A cell.", "ancestors": ("y",)},
    )
    assert "<=" not in filled and "CD3E; CD2" in filled and "value of type" in filled


def test_a_sentence_without_its_value_is_left_out_and_the_others_stay() -> None:
    sentence = "A <=type>. Tissue of origin: <=tissue>. Genes it expresses include <=markers>."
    assert (
        fill_spoken(sentence, {"type": "T cell", "markers": ["CD3E"]}) == "A T cell. Genes it expresses include CD3E."
    )


def test_values_are_never_read_as_marks() -> None:
    filled = fill_spoken("A <=type>. Tissue of origin: <=tissue>.", {"type": "<=tissue> {type} cell", "tissue": "gut"})
    assert filled == "A <=tissue> {type} cell. Tissue of origin: gut."
    text = write_spoken({"type": "<say> <=markers> <tissue> trap"}, [], 0)
    values, _ = read_spoken(text)
    assert set(values) == {"type"} and text.count(SAY) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "A cell of unknown kind.",  # no type
        "A <=type>. A <=type>.",  # twice
        "A <=type>. It also killed the donor.",  # not a known sentence
        "",
    ],
)
def test_other_sentences_are_not_sound(sentence: str) -> None:
    assert not sound(sentence)


def test_marks_are_single_pieces() -> None:
    pieces = Pieces.learn(["A B cell of blood.", "T cell"], 300, MARKS)
    text = write_spoken({"type": "B cell"}, ["markers"], 0)
    numbers = pieces.encode([text], 60, closed=True)[0]
    assert pieces.number("<type>") in numbers and pieces.number("<=markers>") in numbers
    values, sentence = read_spoken(pieces.decode(numbers))
    assert values == {"type": "B cell"} and sound(sentence)


def test_slots_are_left_out_at_random_but_by_seed() -> None:
    names = ["markers", "synonyms", "definition", "ancestors"] * 50
    kept = draw_slots(names, 0.3, np.random.default_rng(0))
    assert kept == draw_slots(names, 0.3, np.random.default_rng(0))
    assert 0.6 < len(kept) / len(names) < 0.8


def test_a_filled_sentence_says_an_where_the_value_wants_it():
    sentence = "This cell is a <=type>. Expressed markers: <=markers>."
    assert fill_spoken(sentence, {"type": "erythrocyte"}) == "This cell is an erythrocyte."
    assert (
        fill_spoken(sentence, {"type": "B cell", "markers": ("A",)}) == "This cell is a B cell. Expressed markers: A."
    )
