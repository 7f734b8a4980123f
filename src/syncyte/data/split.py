"""Which cells train, which choose and which score: pure functions of columns and seeds.

Early stopping and choices should look at a technical batch the model never saw, since a random tenth of the cells
flatters every model; where no batch fits, the split is random and says so. Leaves out: reading cells, scoring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import ConfigError, DataError, unknown

LARGEST_BATCH = 0.35  # a technical batch with a larger share of the cells is too dear to hold out


@dataclass(frozen=True, eq=False)
class Split:
    """Two disjoint sets of cells.

    Attributes
    ----------
    train, validation
        Ascending row numbers.
    kind
        ``batch``: whole values of a covariate are held out; ``random``: cells drawn at random.
    name
        For reports: the values held out, or how the cells were drawn.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    kind: Literal["batch", "random"]
    name: str


def hold_out(column: pd.Series, values: Iterable[object]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells without and with the given values of a covariate.

    Values are compared as text, since the command line knows only text; cells without a value train.

    Returns
    -------
    tuple
        (train rows, held rows), ascending.

    Raises
    ------
    DataError
        If a value does not occur, or nothing is left to train on.
    """
    text = column.astype(str)
    wanted = [str(value) for value in values]
    for value in wanted:
        if not (text == value).any():
            raise DataError(unknown(f"value of {column.name!r}", value, text.unique()))
    held = (text.isin(wanted) & column.notna()).to_numpy()
    if held.all():
        raise DataError(
            f"All cells have {column.name!r} in {', '.join(wanted)}: none is left to train on. Hold out fewer."
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def choose_validation(batches: pd.Series | None, n: int, *, seed: int = 0, fraction: float = 0.1) -> Split:
    """Cells for early stopping and choices: one whole technical batch, else random cells.

    The batch whose share of the cells is nearest to ``fraction`` (as a ratio) is taken. Batches above
    ``LARGEST_BATCH`` or below a quarter of ``fraction`` are not; where none is left, cells are drawn at random.

    Parameters
    ----------
    batches
        ``(n,)`` technical batch of each cell, or None.
    n
        Number of cells.
    seed, fraction
        Of the random draw; the share of the cells wanted.
    """
    if batches is not None:
        shares = batches.astype(str)[batches.notna()].value_counts() / n
        shares = shares[(shares <= LARGEST_BATCH) & (shares >= fraction / 4)]
        if len(shares):
            distance = np.log(shares / fraction).abs().round(9)
            name = min(distance.index, key=lambda value: (distance[value], value))
            train, held = hold_out(batches, [name])
            return Split(train, held, "batch", str(name))
    return split_random(n, fraction, seed)


def split_random(n: int, fraction: float, seed: int = 0) -> Split:
    """``fraction`` of ``n`` cells drawn at random, at least one on each side."""
    if n < 2 or not 0 < fraction < 1:
        raise ConfigError(
            f"Cannot hold out a fraction of {fraction:g} of {n} cells: at least 2 cells and a fraction between 0 and 1 "
            "are needed."
        )
    size = min(max(round(n * fraction), 1), n - 1)
    held = np.zeros(n, dtype=bool)
    held[np.random.default_rng(seed).choice(n, size, replace=False)] = True
    return Split(np.flatnonzero(~held), np.flatnonzero(held), "random", f"random {size:,} of {n:,} cells (seed {seed})")
