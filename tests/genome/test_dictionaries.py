"""Dictionaries of published models: JSON and pickles of plain values; anything else is refused and never run."""

from __future__ import annotations

import collections
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from syncyte.errors import GenomeError
from syncyte.genome.dictionaries import read_dictionary, read_medians, read_symbols, read_token_numbers

PLAIN = {"<pad>": 0, "<mask>": 1, "ENSG00000000001": 2, "ENSG00000000002": 70_000, "big": 1 << 40, "π": 3}
ran: list[str] = []


def run_me() -> dict[str, int]:
    ran.append("code")
    return {"a": 1}


class Harm:
    def __reduce__(self):
        return run_me, ()


def write(folder: Path, value, protocol: int = 4, name: str = "d.pkl") -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(tmp_path, protocol):
    values = {**PLAIN, "real": 1.5, "less": -7, "text": "ENSG1", "many": 2.0, **{f"g{n}": n for n in range(3000)}}
    assert read_dictionary(write(tmp_path, values, protocol)) == values


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32, np.uint8, np.dtype(">f8").type])
def test_numbers_of_numpy_are_read(tmp_path, protocol, kind):
    values = {f"g{n}": kind(n) for n in range(1, 5)}
    found = read_dictionary(write(tmp_path, values, protocol))
    assert found == {"g1": 1, "g2": 2, "g3": 3, "g4": 4} and type(found["g1"]) in (int, float)


def test_an_ordered_dictionary_is_one(tmp_path):
    assert read_dictionary(write(tmp_path, collections.OrderedDict(a=1, b=2.5))) == {"a": 1, "b": 2.5}


def test_the_old_home_of_numpy_numbers_is_known(tmp_path):
    content = pickle.dumps({"a": np.float64(2.5)}, protocol=2)
    for home in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        path = tmp_path / "old.pkl"
        path.write_bytes(content.replace(b"numpy._core.multiarray", home).replace(b"numpy.core.multiarray", home))
        assert read_dictionary(path) == {"a": 2.5}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [{"a": Harm()}, Harm(), {"a": {1, 2}}, {"a": [1]}, {"a": np.arange(3)}, {"a": Path("x")}, {"a": len}, {"a": 1j}],
    ids=["object", "only", "set", "list", "array", "path", "function", "complex"],
)
def test_nothing_else_is_opened_and_nothing_runs(tmp_path, value, protocol):
    ran.clear()
    with pytest.raises(GenomeError, match=r"d\.pkl (is no pickle of a plain dictionary|holds)"):
        read_dictionary(write(tmp_path, value, protocol))
    assert not ran


HOSTILE = [b"", b"not a pickle", b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"}(S'a'\nI1\nI2\nu."]
HOSTILE += [b"u.", b"t.", b"}R.", b"(dNb.", b"g9\n.", b"N.", b"cnumpy\ndtype\n(S'O'\ntRb.", b"\x80\x04\x95", b"e."]


@pytest.mark.parametrize("content", HOSTILE)
def test_broken_and_hostile_pickles_are_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "x.pickle"
    path.write_bytes(content)
    with pytest.raises(GenomeError, match=r"x\.pickle"):
        read_dictionary(path)


def test_pickles_cut_anywhere_are_refused(tmp_path):
    content = pickle.dumps({"a": np.float32(1), "b": "x", "c": 2.0})
    for size in range(len(content) - 1):
        path = tmp_path / "cut.pkl"
        path.write_bytes(content[:size])
        with pytest.raises(GenomeError):
            read_dictionary(path)


def test_the_message_says_how_to_make_a_json_file(tmp_path):
    path = write(tmp_path, {"a": [1]})
    with pytest.raises(GenomeError, match=r"write it as d\.json with the program that it comes from"):
        read_dictionary(path)


# --- JSON and what is in it ------------------------------------------------------------------------------------------


def put(folder: Path, value) -> Path:
    path = folder / "d.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_json_is_read(tmp_path):
    assert read_token_numbers(put(tmp_path, PLAIN)) == PLAIN
    assert read_medians(put(tmp_path, {"a": 1, "b": 0.25, "c": 0, "d": -1, "e": "x"})) == {"a": 1.0, "b": 0.25}
    assert read_medians(put(tmp_path, '{"a": 1.5, "b": NaN, "c": Infinity}')) == {"a": 1.5}
    assert read_symbols(put(tmp_path, {"CD3D": "ENSG00000167286"})) == {"CD3D": "ENSG00000167286"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "no JSON"),
        ([1], "holds a list"),
        ({}, "empty dictionary"),
        ({"a": [1]}, "text or a number"),
        ({"a": None}, "text or a number"),
    ],
)
def test_other_json_is_refused(tmp_path, value, words):
    with pytest.raises(GenomeError, match=words):
        read_dictionary(put(tmp_path, value))


def test_numbers_that_are_none_are_refused(tmp_path):
    with pytest.raises(GenomeError, match="whole numbers"):
        read_token_numbers(put(tmp_path, '{"a": Infinity}'))
    for value, words in [({"a": 1.5}, "whole numbers"), ({"a": -1}, "whole"), ({"a": "1"}, "whole")]:
        with pytest.raises(GenomeError, match=words):
            read_token_numbers(put(tmp_path, value))
    with pytest.raises(GenomeError, match="2 tokens 1 numbers"):
        read_token_numbers(put(tmp_path, {"a": 1, "b": 1}))
    with pytest.raises(GenomeError, match="no gene with a positive median"):
        read_medians(put(tmp_path, {"a": 0}))
    with pytest.raises(GenomeError, match="no Ensembl id"):
        read_symbols(put(tmp_path, {"a": 0}))
    with pytest.raises(GenomeError, match="There is no dictionary"):
        read_dictionary(tmp_path / "nowhere.json")
