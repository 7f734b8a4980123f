"""How far a long step over a file has come, and how long it will take.

A bar on a terminal, elsewhere a line about every ten seconds.

Leaves out: training, which has stages and a loss (``train.progress``).
"""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 10.0


class Meter:
    """Progress over a known amount; a context manager.

    Parameters
    ----------
    what
        What is being done, ``counting fragments``.
    unit
        What is counted beside the amount, ``fragments``.
    quiet
        Show nothing.
    """

    def __init__(self, what: str, unit: str, quiet: bool = False) -> None:
        self._what, self._unit, self._quiet = what, unit, quiet
        self._begin = self._line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Meter:
        if not self._quiet and sys.stderr.isatty():
            self._bar, self._task = start_bar(self._what, 1.0, transient=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int, total: int, count: int) -> None:
        """``done`` of ``total`` is behind, and with it ``count`` units."""
        now = time.monotonic()
        if self._quiet or (self._bar is None and now - self._line < LINE_SECONDS):
            return
        elapsed = max(now - self._begin, 1e-9)
        share = min(done / max(total, 1), 1.0)
        left = duration(elapsed * (1 - share) / max(share, 1e-9))
        rate = count / elapsed
        speed = f"{rate / 1e6:.1f} M/s" if rate > 5e4 else f"{rate:,.0f}/s"
        facts = f"{count:,} {self._unit}, {speed}, {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=share, facts=facts)
        else:
            self._line = now
            sys.stderr.write(f"{self._what}: {share:.0%}, {facts}\n")
            sys.stderr.flush()


def start_bar(what: str, total: float, transient: bool = False) -> tuple[Any, Any]:
    """Bar on standard error with a field ``facts``, and its task; ``transient`` ones vanish when they stop."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    texts = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    facts = TextColumn("{task.fields[facts]}")
    bar = Progress(*texts, facts, console=Console(stderr=True), refresh_per_second=4, transient=transient)
    bar.start()
    return bar, bar.add_task(what, total=total, facts="")


class Lines:
    """Progress through files and a joining step, a line each: every file that is done, the rest every ten seconds."""

    def __init__(self) -> None:
        self._began = {"files": time.monotonic()}
        self._line = 0.0

    def __call__(self, stage: str, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` of a stage is behind; ``what`` is said of a file, the share of any other stage."""
        now = time.monotonic()
        begin = self._began.setdefault(stage, now)
        if not what and now - self._line < LINE_SECONDS and done < total:
            return
        self._line = now
        share = done / max(total, 1)
        left = f", {duration((now - begin) * (1 - share) / max(share, 1e-9))} left" if done < total else ""
        sys.stderr.write(f"{what or f'{stage} {share:.0%}'}{left}\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
