"""Progress of long steps over files."""

from __future__ import annotations

import pytest

from syncyte import meter
from syncyte.meter import Lines, Meter, duration


def test_lines_say_how_far_and_how_long(capsys, monkeypatch):
    now = iter([0.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    with Meter("counting", "fragments") as shown:
        shown.advance(1, 8, 1_000_000)
        shown.advance(2, 8, 2_000_000)
        shown.advance(3, 8, 3_000_000)
    assert capsys.readouterr().err == "counting: 25%, 2,000,000 fragments, 0.2 M/s, 30 s left\n"


def test_a_line_for_every_file_and_the_store_now_and_then(capsys, monkeypatch):
    now = iter([0.0, 2.0, 4.0, 20.0, 21.0, 35.0, 40.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    told = Lines()
    told("files", 1, 2, "1 of 2 files, a.h5ad")
    told("files", 2, 2, "2 of 2 files, b.h5ad")
    told("store", 1, 10, "")
    told("store", 2, 10, "")  # too soon
    told("store", 5, 10, "")
    told("store", 10, 10, "")
    assert capsys.readouterr().err.splitlines() == [
        "1 of 2 files, a.h5ad, 2 s left",
        "2 of 2 files, b.h5ad",
        "store 10%, 0 s left",
        "store 50%, 15 s left",
        "store 100%",
    ]


def test_quiet_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(meter, "LINE_SECONDS", 0.0)
    with Meter("counting", "fragments", quiet=True) as shown:
        shown.advance(1, 2, 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "words"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words
