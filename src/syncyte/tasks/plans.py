"""What cells are to be made: the table of them, and the latent coordinates of any stretch of it.

Each function answers for one way of making cells; what a user asks for is checked here against what the run knows.
Leaves out: counts and files (``tasks.generate``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.models.conditions import Attribute, Shares, as_text
from syncyte.tasks.draw import BLOCK, Sampling, coder_of, draw_points, encode_points
from syncyte.tasks.trained import Trained

FLOW, COUNTS, LABELS = 0, 1, 2  # purposes of random numbers


@dataclass(frozen=True)
class Plan:
    """What is to be made: the table of cells, and the coordinates of any stretch of it.

    Where cells are ``given``, their counts come first as they are, and ``points`` count from behind them.
    """

    obs: pd.DataFrame
    points: Callable[[int, int], NDArray[np.float32]]
    facts: dict[str, Any]
    given: Cells | None = None


def read_where(pairs: Sequence[str] | Mapping[str, Any], attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """Attributes asked for, from ``KEY=VALUE`` texts; numbers as numbers, an empty value says nothing.

    Raises
    ------
    ConfigError
        Where a pair is not written so, or a key is given twice with different values.
    DataError
        For a key or value that the run does not know, with those it knows.
    """
    if not isinstance(pairs, Mapping):
        found: dict[str, Any] = {}
        for pair in [pairs] if isinstance(pairs, str) else pairs:
            key, separator, value = pair.partition("=")
            if not separator:
                raise ConfigError(f'--where {pair}: expected KEY=VALUE, such as --where cell_type="B cell".')
            if found.setdefault(key, value) != value:
                raise ConfigError(
                    f"--where asks for {key}={found[key]} and {key}={value} at once. A cell has one value of {key!r}: "
                    "generate them one after the other."
                )
        pairs = found
    asked: dict[str, Any] = {}
    for key, value in pairs.items():
        if key not in attributes:
            raise DataError(unknown("condition of this run", key, attributes))
        one = attributes[key]
        if not one.categorical and value != "":
            try:
                asked[key] = float(value)
            except ValueError:
                asked[key] = np.nan
            if not np.isfinite(asked[key]):
                raise DataError(f"{key!r} is a number in this run (mean {one.mean:.4g}); found {value!r}.")
        elif value != "" and str(value) not in one.levels:
            raise DataError(unknown(f"value of {key!r}", str(value), one.levels))
        else:
            asked[key] = str(value)
    return asked


def plan_new(
    trained: Trained,
    n: int,
    where: Mapping[str, Any],
    how: Sampling,
    seed: int,
    *,
    reference: Mapping[str, Any] | None = None,
    unconditional: bool = False,
    salt: int = 0,
) -> Plan:
    """``n`` new cells with some attributes given; another ``salt`` is other noise."""
    if n < 1:
        raise ConfigError(f"--n {n}: give the number of cells to generate, at least 1.")
    shares, notes = Shares.read(trained.recipe["shares"]), []
    if unconditional and where:
        raise ConfigError("--unconditional says nothing of the cells, --where does. Give one of them.")
    said = {key: value for key, value in where.items() if value != ""}
    categorical = {key: value for key, value in said.items() if isinstance(value, str)}
    if len(categorical) > 1 and not seen_together(trained, categorical):
        pair = " and ".join(f"{key}={value}" for key, value in categorical.items())
        notes.append(f"No training cell had {pair} together: this combination is put together from its parts.")
    drawn = shares.draw(n, said, np.random.default_rng([seed, LABELS]))
    blank = [key for key, value in where.items() if value == ""] + (list(drawn.columns) if unconditional else [])
    obs = drawn.assign(**{key: "" if isinstance(drawn[key].iloc[0], str) else np.nan for key in blank})
    obs.index = pd.Index([f"generated_{number}" for number in range(n)])
    coder = coder_of(trained)

    def points(first: int, last: int) -> NDArray[np.float32]:
        table = obs.iloc[first:last]
        control = None if reference is None else coder.arrays(table.assign(**dict(reference)))
        arrays = coder.arrays(table)
        return draw_points(trained, arrays, how, (seed, FLOW, salt, first), cells=last - first, control=control)

    facts = {"mode": "new", "where": dict(where), "reference": reference, "unconditional": unconditional}
    return Plan(obs, points, {**facts, "sampling": how.model_dump(), "evaluations": how.evaluations, "notes": notes})


def seen_together(trained: Trained, labels: Mapping[str, str]) -> bool:
    """Whether any training cell had all of some labels."""
    table = pd.DataFrame(trained.recipe.get("groups", trained.recipe["shares"])["values"])
    fits = np.logical_and.reduce([(table[key] == value).to_numpy() for key, value in labels.items()])
    return bool(fits.any())


def plan_reconstruct(trained: Trained, cells: Cells, seed: int) -> Plan:
    """One new cell from the posterior of each given cell, at its own total."""
    aligned = trained.align(cells)
    points = encode_points(trained, aligned, (seed, FLOW))
    obs = cells.obs.assign(syncyte_from=cells.names.astype(str))
    facts = {"mode": "reconstruct", "notes": [], "points": hashlib.sha256(points.tobytes()).hexdigest()[:16]}
    return Plan(obs, lambda first, last: points[first:last], facts)


def plan_between(
    trained: Trained, n: int, ends: Sequence[Mapping[str, Any]], stops: int, how: Sampling, seed: int
) -> Plan:
    """``n`` cells at each of ``stops`` places between two conditions, in latent space, the noise of a cell shared."""
    if len(ends) != 2 or stops < 2:
        raise ConfigError(
            f"--between is given twice (from, to), with at least 2 --stops; found {len(ends)} ends and {stops} stops."
        )
    first_plan, last_plan = (plan_new(trained, n, end, how, seed) for end in ends)
    begin, end = _stretch(first_plan, 0, n), _stretch(last_plan, 0, n)
    place = np.repeat(np.linspace(0, 1, stops), n)
    which = np.tile(np.arange(n), stops)
    obs = pd.DataFrame(
        {"syncyte_place": place, "syncyte_path": which},
        index=pd.Index([f"generated_{number}" for number in range(n * stops)]),
    )
    facts = {
        "mode": "interpolate",
        "between": [dict(one) for one in ends],
        "stops": stops,
        "sampling": how.model_dump(),
        "evaluations": how.evaluations,
    }

    def points(first: int, last: int) -> NDArray[np.float32]:
        t, rows = place[first:last, None].astype(np.float32), which[first:last]
        return (1 - t) * begin[rows] + t * end[rows]

    return Plan(obs, points, {**facts, "notes": [*first_plan.facts["notes"], *last_plan.facts["notes"]]})


def plan_augment(trained: Trained, cells: Cells, key: str, least: int | None, how: Sampling, seed: int) -> Plan:
    """New cells of every label of which fewer than ``least`` are given (None: than of the commonest)."""
    labels = as_text(cells.column(key))
    counts = labels[labels != ""].value_counts()
    attributes = coder_of(trained).attributes
    if key not in attributes or not attributes[key].categorical:
        raise DataError(unknown("condition of this run", key, [name for name in attributes]))
    strange = sorted(set(counts.index) - set(attributes[key].levels))
    if strange:
        raise DataError(unknown(f"value of {key!r}", strange[0], attributes[key].levels))
    goal = int(counts.max()) if least is None else least
    plans = [
        plan_new(trained, goal - int(count), {key: label}, how, seed, salt=number)
        for number, (label, count) in enumerate(sorted(counts.items()))
        if count < goal
    ]
    if not plans:
        raise ConfigError(f"Every value of {key!r} has {goal:,} cells or more already: nothing is to be added.")
    starts = np.cumsum([0, *(len(plan.obs) for plan in plans)])
    new = pd.concat([plan.obs for plan in plans])
    new.index = pd.Index([f"generated_{number}" for number in range(len(new))])
    obs = pd.concat([cells.obs, new]).assign(syncyte_generated=np.arange(len(cells) + len(new)) >= len(cells))

    def points(first: int, last: int) -> NDArray[np.float32]:
        found = []
        for plan, start, stop in zip(plans, starts[:-1], starts[1:], strict=True):
            low, high = max(first, start), min(last, stop)
            if low < high:  # whole plans are drawn by their own blocks, so that a stretch of one is always the same
                found.append(_stretch(plan, low - start, high - start))
        return np.concatenate(found)

    given = trained.align(cells)
    facts = {"mode": "augment", "key": key, "least": goal, "sampling": how.model_dump()}
    facts |= {"evaluations": how.evaluations, "given": counts_digest(given, trained.modalities[0])}
    notes = sorted({note for plan in plans for note in plan.facts["notes"]})
    return Plan(obs, points, {**facts, "notes": notes}, given)


def counts_digest(cells: Cells, modality: str) -> str:
    """Fingerprint of counts, read in blocks."""
    found = hashlib.sha256()
    for rows, counts in cells.blocks(modality):
        for part in (rows, counts.indptr, counts.indices, counts.data):
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()[:16]


def _stretch(plan: Plan, low: int, high: int) -> NDArray[np.float32]:
    """Coordinates of some rows of a plan, from the blocks they lie in."""
    begin = low // BLOCK * BLOCK
    blocks = [plan.points(start, min(start + BLOCK, len(plan.obs))) for start in range(begin, high, BLOCK)]
    return np.concatenate(blocks)[low - begin : high - begin]
