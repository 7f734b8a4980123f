"""The state of an evaluation: what is scored, on what, and what was found so far.

Leaves out: the scoring (``evaluate`` and the modules it calls).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.tasks.labelled import clean_labels
from syncyte.tasks.trained import Trained

FEWEST = 20  # cells


@dataclass
class Work:
    """What is evaluated, and what was found so far.

    ``held`` and ``reference`` are aligned, ``given`` are the cells to be scored before those of the reference were left
    out; ``labels`` and ``batches`` are of the held-out cells, missing ones ``""``.
    """

    trained: Trained
    name: str
    held: Cells
    reference: Cells
    batch_key: str | None
    label_key: str | None
    seed: int
    say: Callable[[str], None]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    most_features: int | None = None
    unclear: tuple[str, ...] = ()
    peers: bool = False
    genes: pd.DataFrame | None = None
    given: Cells | None = None

    def labels_of(self, cells: Cells) -> NDArray[Any] | None:
        """Labels of some cells, ``""`` where missing or unclear; None without a label column."""
        return None if self.label_key is None else clean_labels(cells, self.label_key, self.unclear)


def sample_cells(cells: Cells, most: int, seed: int, what: str, notes: list[str]) -> Cells:
    """At most ``most`` cells, drawn with the seed and kept in their order; a note says so. Too few are refused."""
    if len(cells) < FEWEST:
        raise DataError(f"There are {len(cells)} {what} cells; at least {FEWEST} are needed to score anything.")
    if len(cells) <= most:
        return cells
    notes.append(f"Of {len(cells):,} {what} cells a random {most:,} are used (seed {seed}).")
    return cells.take(np.sort(np.random.default_rng(seed).choice(len(cells), most, replace=False)))


def texts(cells: Cells, key: str) -> NDArray[Any]:
    """A column as text, ``""`` where missing."""
    column = cells.column(key)
    return column.astype(str).where(column.notna(), "").to_numpy(dtype=object).astype(str)
