"""What a report is made of: plain data, no drawing and no HTML.

Leaves out: what to say about an evaluation (``report.sections``), files (``report.write``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Verdict:
    """An honest sentence on model and baselines, and which way it went."""

    text: str
    outcome: Literal["ahead", "level", "behind", "alone"]


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes
    ----------
    title
        Heading, also the entry of the contents.
    text
        Paragraphs.
    tables
        Caption to table; long ones are folded.
    figures
        Caption to figure.
    metrics
        Name to number or text, shown as tiles.
    model
        Row that is the model, in the tables named in ``compared``: their best values are set bold.
    compared
        Captions of tables whose rows are methods and whose columns are metrics.
    verdicts
        Sentences on model and baselines.
    data
        Further numbers for the JSON twin, not shown.
    """

    title: str
    text: str | Sequence[str] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    compared: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """Text as paragraphs, empty ones dropped."""
        items = [self.text] if isinstance(self.text, str) else self.text
        return tuple(item.strip() for text in items for item in text.split("\n\n") if item.strip())


@dataclass(frozen=True)
class Report:
    """A page: title, one line below it, a few facts, sections in order."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
