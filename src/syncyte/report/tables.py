"""Tables as text: numbers, intervals, the best value of a column, and the sentence on who wins.

A table of methods has one row a method, one column a metric; ``<metric>_low`` and ``<metric>_high`` beside a metric are
its interval. A row with "oracle" in its name knows what no method may know: it is printed and never judged. A row that
starts with the model's name is a variant of it, not a baseline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from syncyte.errors import DataError, unknown
from syncyte.report.base import Verdict
from syncyte.report.measures import measure

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a printed table."""

    text: str
    note: str = ""
    number: bool = False
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One printed row and its role: ``model``, ``oracle`` or nothing."""

    name: str
    cells: list[Cell]
    role: str = ""


def number(value: Any, decimals: int | None = None) -> str:
    """Write a number as people read it: thousands separated, three digits that matter, a dash for none."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return DASH
        if decimals is None and 0 < abs(float(value)) < 1e-4:
            return f"{value:.1e}".replace("-", "−", int(value < 0))
        text = f"{value:,.{decimals_for([value]) if decimals is None else decimals}f}"
        return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")
    return DASH if value is None or value is pd.NaT else str(value)


def sentence_case(text: str) -> str:
    """Begin with a capital, unless the first word is a symbol or has capitals of its own."""
    first = text.split(" ")[0]
    return text if len(first) == 1 or any(letter.isupper() for letter in first) else f"{text[:1].upper()}{text[1:]}"


def is_oracle(name: Any) -> bool:
    """Whether a row knows what no method may know."""
    return "oracle" in str(name).lower()


def baselines(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Rows the model is judged against: no oracles, no variants of the model."""
    keep = [not is_oracle(name) and not str(name).startswith(model) for name in table.index]
    return table[keep]


def model_row(table: pd.DataFrame, model: str) -> str:
    """Row of the model: the name itself, else the first that starts with it."""
    names = [str(name) for name in table.index]
    for fits in (lambda name: name == model, lambda name: bool(model) and name.startswith(model)):
        if (found := next(filter(fits, names), None)) is not None:
            return found
    raise DataError(unknown("model row", model, names))


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Columns that are metrics themselves, not the ends of an interval."""
    names = set(table.columns)
    ends = {f"{name}_{end}" for name in names for end in ("low", "high")}
    return [name for name in table.columns if name not in ends]


def judged_columns(table: pd.DataFrame) -> list[str]:
    """Numeric metrics for which one direction is better."""
    return [
        name
        for name in metric_columns(table)
        if measure(name).higher_is_better is not None and pd.api.types.is_numeric_dtype(table[name])
    ]


def verdict(table: pd.DataFrame, metric: str, model: str, higher_is_better: bool | None = None) -> str:
    """Sentence that says whether the model or a baseline wins, by how much, and how sure that is."""
    return judge(table, metric, model, higher_is_better).text


def judge(table: pd.DataFrame, metric: str, model: str, higher_is_better: bool | None = None) -> Verdict:
    """``verdict`` with its outcome. A direction that is not given is that of the metric (higher where unknown)."""
    if metric not in table.columns:
        raise DataError(unknown("metric", metric, table.columns))
    up = higher_is_better if higher_is_better is not None else measure(metric).higher_is_better is not False
    name, label = model_row(table, model), sentence_case(measure(metric).label)
    own = table.loc[name, metric]
    others = baselines(table, model)[metric].dropna()
    if pd.isna(own):
        return Verdict(f"{label}: {name} has no value.", "alone")
    if others.empty:
        return Verdict(f"{label}: {name} reaches {number(own)}; there is no baseline to compare with.", "alone")
    decimals = decimals_for([own, *others])
    best = others.idxmax() if up else others.idxmin()
    lead = (own - others[best]) * (1 if up else -1)
    said, best_said = number(float(own), decimals), number(float(others[best]), decimals)
    gap = number(float(abs(own - others[best])), decimals)
    if said == best_said or gap == number(0.0, decimals):  # what looks alike is not called a win
        return Verdict(f"{label}: {name} and the best baseline, {best}, are level at {said}.", "level")
    doubt = _doubt(table, metric, name, float(others[best]), decimals)
    if lead > 0:
        text = f"{label}: {name} ({said}) is ahead of the best baseline, {best} ({best_said}), by {gap}.{doubt}"
        return Verdict(text, "level" if doubt else "ahead")
    better = int(((others - own) * (1 if up else -1) > 0).sum())
    count = f" {better} of {len(others)} baselines are better." if better > 1 else ""
    text = f"{label}: the baseline {best} wins with {best_said}; {name} reaches {said}, {gap} behind.{count}{doubt}"
    return Verdict(text, "level" if doubt else "behind")


def overview(table: pd.DataFrame, model: str) -> str:
    """One sentence over all judged metrics: where the model leads and where it does not."""
    verdicts = {measure(name).label: judge(table, name, model).outcome for name in judged_columns(table)}
    verdicts = {name: outcome for name, outcome in verdicts.items() if outcome != "alone"}
    if len(verdicts) < 2:
        return ""
    ahead = sum(outcome == "ahead" for outcome in verdicts.values())
    if ahead == len(verdicts):
        return f"The model is ahead of every baseline in all {ahead} judged metrics."
    text = f"Of {len(verdicts)} judged metrics the model is ahead of every baseline in {ahead}"
    for outcome, words in (("level", "not distinguishable in"), ("behind", "behind a baseline in")):
        names = [name for name, found in verdicts.items() if found == outcome]
        if names:
            text += f"; {words} {len(names)} ({', '.join(names)})"
    return f"{text}."


def layout(table: pd.DataFrame, model: str = "", compare: bool = False) -> tuple[list[str], list[Row]]:
    """Header and rows as text. With ``compare``, the best value of each judged column is marked."""
    columns = metric_columns(table) if compare else list(table.columns)
    places = {name: _column_decimals(table, name) for name in columns}
    marked = {name: _best(table, name) for name in judged_columns(table)} if compare else {}
    own = model_row(table, model) if compare and model else None
    rows = []
    for spot, name in enumerate(table.index):
        cells = []
        for column in columns:
            value = table[column].iloc[spot]
            numeric = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            interval = _interval(table, column, spot, places[column]) if compare else ""
            cells.append(Cell(number(value, places[column]), interval, numeric, spot in marked.get(column, ())))
        role = "oracle" if compare and is_oracle(name) else "model" if own is not None and str(name) == own else ""
        rows.append(Row(number(name), cells, role))
    header = [measure(str(name)).label if compare else str(name).replace("_", " ") for name in columns]
    return [str(table.index.name or ""), *header], rows


def _doubt(table: pd.DataFrame, metric: str, name: str, other: float, decimals: int) -> str:
    ends = [f"{metric}_{end}" for end in ("low", "high")]
    if not set(ends) <= set(table.columns):
        return ""
    low, high = (float(table.loc[name, end]) for end in ends)
    if not low <= other <= high:
        return ""
    return (
        f" The interval of {name} ({number(low, decimals)} to {number(high, decimals)}) holds that value, "
        "so the two cannot be told apart."
    )


def _best(table: pd.DataFrame, column: str) -> set[int]:
    values = table[column].astype(float).where([not is_oracle(name) for name in table.index])
    if values.notna().sum() < 2:
        return set()
    top = values.max() if measure(column).higher_is_better else values.min()
    return set(np.flatnonzero(np.isclose(values, top, rtol=1e-6, atol=1e-9)))


def _interval(table: pd.DataFrame, column: str, spot: int, decimals: int | None) -> str:
    ends = [f"{column}_{end}" for end in ("low", "high")]
    if not set(ends) <= set(table.columns):
        return ""
    low, high = (table[end].iloc[spot] for end in ends)
    return "" if pd.isna(low) or pd.isna(high) else f"{number(float(low), decimals)} to {number(float(high), decimals)}"


def _column_decimals(table: pd.DataFrame, column: str) -> int | None:
    values = table[column]
    if isinstance(values, pd.DataFrame) or not pd.api.types.is_float_dtype(values):
        return None
    finite = values[np.isfinite(values)]
    if len(finite) and np.all(finite == np.round(finite)) and finite.abs().max() > 1:
        return 0
    return decimals_for(list(finite))


def decimals_for(values: list[Any]) -> int:
    """Count the decimals that show three digits of the largest value, at most six."""
    top = max((abs(float(value)) for value in values if math.isfinite(value)), default=0.0)
    return 3 if top == 0 else int(np.clip(3 - math.ceil(math.log10(top)), 0, 6))
