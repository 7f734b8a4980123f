"""Errors a user can act on.

Every message answers three questions: what was found, what was expected, what to do.
The command line turns each of these into one readable paragraph and an exit code; anything else
that escapes is a defect of syncyte and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SyncyteError(Exception):
    """Base of all errors that syncyte raises on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1


class DataError(SyncyteError):
    """The cells, features or files handed in cannot be used as they are."""


class DiskFullError(DataError):
    """The disk has no room for an output; nothing is left under its name."""


class GenomeError(SyncyteError):
    """Coordinates, gene names or a reference do not fit."""


class ConfigError(SyncyteError):
    """An option or configuration value is unknown or impossible."""

    exit_code = 2


class CheckpointError(SyncyteError):
    """A trained run is missing, damaged, or does not fit the request."""


class CapabilityError(SyncyteError):
    """The model cannot do what the task asks; the message names recipes that can."""


class MissingExtraError(SyncyteError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}. Install it with: pip install 'syncyte[{extra}]'")


class Dismissed(SyncyteError):
    """Another process failed and has said why; this one stops without a word."""

    exit_code = 0

    def __init__(self) -> None:
        super().__init__("The first process stopped; its message says why.")


def nearest(name: str, valid: Iterable[str], count: int = 1) -> list[str]:
    """Valid names closest in spelling to ``name``, best first (empty where none is close)."""
    options = list(valid)
    folded = {option.lower(): option for option in reversed(options)}
    hits = difflib.get_close_matches(name.lower(), list(folded), n=count, cutoff=0.5)
    return [folded[hit] for hit in hits]


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """Sentence for an unknown name: what was asked, the nearest valid name, and what exists."""
    options = sorted(map(str, valid))
    close = nearest(name, options)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(options[:20]) + (f", ... ({len(options)} in all)" if len(options) > 20 else "")
    return f"Unknown {kind} {name!r}.{hint} Known: {listed or 'none'}."
