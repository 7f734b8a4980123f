"""Progress of long steps over files."""

from __future__ import annotations

import pytest

from syncyte import meter
from syncyte.meter import Meter, duration


def test_lines_say_how_far_and_how_long(capsys, monkeypatch):
    now = iter([0.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    with Meter("counting", "fragments") as shown:
        shown.advance(1, 8, 1_000_000)
        shown.advance(2, 8, 2_000_000)
        shown.advance(3, 8, 3_000_000)
    assert capsys.readouterr().err == "counting: 25%, 2,000,000 fragments, 0.2 M/s, 30 s left\n"


def test_quiet_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(meter, "LINE_SECONDS", 0.0)
    with Meter("counting", "fragments", quiet=True) as shown:
        shown.advance(1, 2, 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "words"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations(seconds: float, words: str):
    assert duration(seconds) == words
