"""Searches in plain language, read into clauses."""

from __future__ import annotations

import pytest

from syncyte.errors import ConfigError, DataError
from syncyte.words.query import Clause, Query, parse_query

READ = {
    "B cells": "B cells",
    "find me all the NK cells, please": "NK cells",
    "CD14 and CD16 monocytes": "CD14 [monocytes] OR CD16 monocytes",
    "T or NK cells": "T [cells] OR NK cells",
    "B cells, T cells & memory": "B cells OR (T cells AND memory [T cells])",
    "T cells AND CD8 positive, but not naive": "(T cells AND CD8 positive [T cells]) AND NOT naive [T cells]",
    "T cells that are also CD8 positive": "T cells AND CD8 positive [T cells]",
    "monocytes, not CD14 positive": "monocytes AND NOT CD14 positive [monocytes]",
    "T cells, not CD8": "T cells AND NOT CD8 [T cells]",
    "neither T nor B cells": "all cells AND NOT T [cells] AND NOT B cells",
    "anything but T cells": "all cells AND NOT T cells",
    "not T cells but B cells": "B cells AND NOT T cells",
    "myeloid cells lacking CD14": "myeloid cells AND NOT CD14 [myeloid cells]",
    "leukocytes that are not lymphocytes": "leukocytes AND NOT lymphocytes",
    "non-classical monocytes": "non-classical monocytes",
    "cells that engulf and kill bacteria": "cells that engulf and kill bacteria",
    "B cells and cells that kill": "B cells OR cells that kill",
    "monocytes other than CD14 monocytes or DC": "monocytes AND NOT CD14 monocytes AND NOT DC",
    "γδ T cells": "gammadelta T cells",
}


@pytest.mark.parametrize("text", READ)
def test_reading(text):
    assert str(parse_query(text)) == READ[text]


def test_known_names_stay_whole():
    names = {"CD8-positive, alpha-beta T cell", "granulocyte and monocyte progenitor"}
    known = names.__contains__
    assert str(parse_query("CD8-positive, alpha-beta T cell", known)) == "CD8-positive, alpha-beta T cell"
    found = parse_query("B cells or granulocyte and monocyte progenitor", known)
    assert [str(clause) for clause in found.clauses] == ["B cells", "granulocyte and monocyte progenitor"]


def test_repeats_count_once():
    assert parse_query("B cells, B cells") == Query(((Clause("B cells"),),))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("the cells", "common words"),
        ("not", "common words"),
        ("🧬🧬", "no letters"),
        ("123 ?", "no letters"),
        ("клетки крови", "Latin letters"),
        ("B細胞免疫細胞", "Latin letters"),
        (5, "is a text"),
    ],
)
def test_what_is_no_search(text, match):
    with pytest.raises(ConfigError, match=match):
        parse_query(text)


def test_too_much_is_refused():
    with pytest.raises(DataError, match="characters"):
        parse_query("B cells " * 100)
    with pytest.raises(DataError, match="clauses"):
        parse_query(", ".join(f"B{n}" for n in range(60)))
