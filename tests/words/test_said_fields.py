"""What a sentence says of conditions and places, in the words of training."""

from __future__ import annotations

import time

import pytest

from syncyte.words.said_fields import control_of, settle_fields

VALUES = {"type": ["CD8 T cells", "B cells"], "condition": ["control", "stimulated"], "tissue": ["peripheral blood"]}
NAMES = {"lung macrophages", "red blood cells", "activated CD8 T cells", "resting memory B cells"}


def settled(text: str, values=VALUES, spoken=()) -> tuple[str, list[str]]:
    return settle_fields(text, values, spoken, NAMES.__contains__)


@pytest.mark.parametrize(
    "text",
    [
        "unstimulated CD8 T cells",
        "non-stimulated CD8 T cells",
        "untreated CD8 T cells",
        "resting CD8 T cells",
        "not stimulated CD8 T cells",
        "CD8 T cells, not stimulated",
        "CD8 T cells that were not stimulated",
        "CD8 T cells that were not treated with interferon beta",
        "CD8 T cells without interferon",
        "CD8 T cells without interferon-beta stimulation",
        "CD8 T cells without any stimulation",
        "CD8 T cells, no treatment",
        "CD8 T cells in the absence of IFN-gamma",
        "unstimulated and untreated CD8 T cells",
        "unstimulated control CD8 T cells",
    ],
)
def test_what_is_denied_is_the_control(text):
    read, notes = settled(text)
    assert read == "control CD8 T cells"
    assert len(notes) == 1 and "is read as 'control', a condition of training" in notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "CD8 T cells",
        "control CD8 T cells",
        "stimulated CD8 T cells",
        "CD8 T cells stimulated with interferon beta",
        "T cells, not B cells",
        "lymphocytes without B cells",
        "resting memory B cells",
        "activated CD8 T cells",
        "lung macrophages",
        "red blood cells",
        "skin cells",
        "CD8 T cells from blood",
        "CD8 T cells of peripheral blood",
        "This cell is a B cell. It was taken from peripheral blood. It was studied under stimulated.",
        "type: B cell | tissue: peripheral blood | condition: control",
        "",
    ],
)
def test_what_training_can_read_stays(text):
    assert settled(text) == (text, [])


@pytest.mark.parametrize(
    ("text", "read", "left"),
    [
        ("CD8 T cells from lung", "CD8 T cells", ["from lung"]),
        ("lung CD8 T cells", "CD8 T cells", ["lung"]),
        ("CD8 T cells from blood and lung", "CD8 T cells from blood", ["lung"]),
        ("CD8 T cells from lung or blood", "CD8 T cells from blood", ["lung"]),
        ("CD8 T cells isolated from the bone marrow", "CD8 T cells", ["isolated from the bone marrow"]),
        ("CD8 T cells of patients with lupus", "CD8 T cells", ["of patients with lupus"]),
        ("fetal B cells", "B cells", ["fetal"]),
        ("This cell is a B cell. It was taken from gills.", "This cell is a B cell.", ["It was taken from gills."]),
        ("type: B cell | disease: mange", "type: B cell", ["disease: mange"]),
        ("lung macrophages from liver", "lung macrophages", ["from liver"]),
    ],
)
def test_fields_that_training_never_spoke_of_are_left_out(text, read, left):
    found, notes = settled(text)
    assert found == read
    assert [note.split("' is left out: no training text of this run spoke of it ")[0] for note in notes] == [
        f"'{part}" for part in left
    ]


def test_notes_say_what_training_named_and_a_text_of_nothing_else_stays():
    assert settled("B cells from lung")[1][0].endswith("spoke of it (training texts name peripheral blood).")
    assert settled("B cells from lung", {})[1][0].endswith("spoke of it (none named a tissue).")
    text, notes = settled("from lung")
    assert text == "from lung" and "speaks of nothing but fields" in notes[0]
    assert settled("B cells from lung", spoken=["A sample of lung, cut in May"]) == ("B cells from lung", [])


def test_without_conditions_these_are_left_out_too():
    assert settled("unstimulated B cells", {})[0] == "B cells"
    read, notes = settled("B cells stimulated with interferon beta from blood", {"tissue": ["blood"]})
    assert read == "B cells from blood" and "(none named a condition)" in notes[0]


@pytest.mark.parametrize(
    ("values", "text", "read"),
    [
        (["unstimulated", "stimulated"], "unstimulated B cells", "unstimulated B cells"),
        (["unstimulated", "stimulated"], "B cells without stimulation", "unstimulated B cells"),
        (["CTRL", "IFN-b"], "B cells without IFN-b", "CTRL B cells"),
        (["day 0", "day 7"], "B cells, not day 7", "day 0 B cells"),
        (["Non-treated", "drug"], "untreated B cells", "Non-treated B cells"),
    ],
)
def test_the_control_is_spelled_as_the_data_have_it(values, text, read):
    assert settled(text, {"condition": values})[0] == read


def test_where_no_control_is_known_the_text_stays_and_that_is_said():
    text, notes = settled("untreated B cells", {"condition": ["a", "b", "c"]})
    assert text == "untreated B cells" and "which condition of training is the control is not clear" in notes[0]
    assert control_of(["vehicle", "dmso"]) is None and control_of(["Un-stimulated", "x"]) == "Un-stimulated"


def test_long_texts_take_no_time():
    started = time.process_time()
    settled("not " * 120)
    settled("from lung and " * 35)
    assert time.process_time() - started < 3
