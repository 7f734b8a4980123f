"""What the person sees and how she stops: progress with the time left, and signals that end a step cleanly.

On a terminal a bar, elsewhere a line about every ten seconds, in quiet mode only warnings. Left out: curves.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Literal

from syncyte.meter import LINE_SECONDS, duration, start_bar

Show = Literal["all", "warnings", "nothing"]


class Progress:
    """Progress over all stages; a context manager.

    Parameters
    ----------
    plan
        Name and optimiser steps of every stage.
    show
        ``all``, ``warnings`` (quiet mode) or ``nothing`` (processes after the first).
    """

    def __init__(self, plan: Sequence[tuple[str, int]], show: Show = "all") -> None:
        self._plan = list(plan)
        self._level = show
        self._stage = 0
        self._step = 0
        self._mark(0)
        self._seconds_a_step = 0.0
        self._loss = float("nan")
        self._line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._level == "all" and sys.stderr.isatty():
            self._bar, self._task = start_bar("training", max(1, sum(steps for _, steps in self._plan)))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _mark(self, step: int) -> None:
        self._begin = time.monotonic()
        self._begin_step = step
        self._cells = 0

    def begin(self, stage: int, step: int, steps: int) -> None:
        """Enter a stage, whose length may have become another one (a halved minibatch)."""
        self._stage = stage
        self._plan[stage] = (self._plan[stage][0], steps)
        self._step = step
        self._loss = float("nan")  # stages differ in what they lose
        self._mark(step)

    def advance(self, step: int, cells: int, loss: float) -> None:
        """Optimiser step ``step`` of the stage is done; it used ``cells`` cells."""
        self._step = step
        self._cells += cells
        if loss == loss:
            self._loss = loss if self._loss != self._loss else 0.9 * self._loss + 0.1 * loss
        if self._level != "all":
            return
        now = time.monotonic()
        if self._bar is not None or now - self._line >= LINE_SECONDS:
            self._show(now)

    def _show(self, now: float) -> None:
        elapsed = max(now - self._begin, 1e-9)
        self._seconds_a_step = elapsed / max(1, self._step - self._begin_step)
        name, steps = self._plan[self._stage]
        left = duration(self.remaining())
        facts = f"loss {self._loss:.4g}  {self._cells / elapsed:,.0f} cells/s  {left} left"
        if self._bar is not None:
            done = sum(count for _, count in self._plan[: self._stage]) + self._step
            total = max(1, sum(count for _, count in self._plan))
            self._bar.update(self._task, description=f"stage {name}", completed=done, total=total, facts=facts)
        else:
            self._line = now
            sys.stderr.write(f"stage {name}: step {self._step} of {steps}, {facts.replace('  ', ', ')}\n")
            sys.stderr.flush()

    def remaining(self) -> float:
        """Seconds left in the whole training at the present pace; early stopping may cut it short."""
        later = sum(count for _, count in self._plan[self._stage + 1 :])
        return self._seconds_a_step * (self._plan[self._stage][1] - self._step + later)

    def say(self, text: str, warning: bool = False) -> None:
        """One sentence to the person; warnings come through quiet mode."""
        if self._level == "nothing" or (self._level == "warnings" and not warning):
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


class Interrupt:
    """Context in which the first SIGINT or SIGTERM only asks to stop; a second one stops at once.

    In a thread other than the main one, Python delivers no signals and nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt("Stopped at once; the last saved state is kept. Go on with --resume.")
        self.asked = True
