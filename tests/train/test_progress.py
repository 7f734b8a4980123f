"""What the person sees, and signals."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from syncyte.train import progress
from syncyte.train.progress import Interrupt, Progress, duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3599.9, "1 h 0 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def drive(bar: Progress, clock: list[float]) -> None:
    with bar:
        bar.begin(0, 0, 20)
        for step in range(1, 13):
            clock[0] += 1.0
            bar.advance(step, 64, 0.5)


def test_lines_where_there_is_no_terminal(clock, capsys):
    drive(Progress([("one", 20), ("two", 40)]), clock)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "stage one: step 10 of 20, loss 0.5, 64 cells/s, 50 s left\n"


def test_quiet_shows_warnings_only(clock, capsys):
    bar = Progress([("one", 20)], "warnings")
    drive(bar, clock)
    bar.say("a fact")
    bar.say("a warning", warning=True)
    assert capsys.readouterr().err == "a warning\n"
    silent = Progress([("one", 20)], "nothing")
    silent.say("a warning", warning=True)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = Progress([("one", 20), ("two", 40)])
    drive(bar, clock)
    bar.say("[a] fact")
    shown = capsys.readouterr().err
    assert "stage one" in shown and "20%" in shown and "48 s left" in shown and "[a] fact" in shown


def test_time_left_after_a_resume(clock):
    bar = Progress([("one", 20), ("two", 40)], "all")
    bar.begin(1, 30, 40)
    clock[0] += 4.0
    bar.advance(32, 1, 0.1)
    bar._show(clock[0])
    assert bar.remaining() == pytest.approx(16.0)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_the_first_signal_asks_and_the_second_stops():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
