"""Predicted responses beside measured ones, and beside what cheap rules predict.

A unit is a perturbation in a context. Held-out control cells of its context are dealt into two parts: predictions start
from one, and the measured shift is taken against the other, or a prediction of nothing would already correlate.
Baselines are fitted on the group means that the run kept of its training cells. Leaves out: pages, the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.groups import Groups
from syncyte.baselines.response import MeanAcrossContexts, ResponseBaseline, baselines
from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.metrics.differential import Differences, differential
from syncyte.metrics.response import score_cells, score_responses, split_controls, summarise
from syncyte.models.conditions import as_text
from syncyte.tasks.compare_generate import Ground
from syncyte.tasks.draw import Sampling, encode_points
from syncyte.tasks.respond import METHODS, Book, mean_logs, open_book, parts_of, predict_response
from syncyte.tasks.trained import Trained

FEWEST = 10  # perturbed cells of a unit, and control cells of its context
MOST = 2_000  # control cells that a prediction starts from, or that are subtracted
SHOWN = [
    "pearson_delta",
    "pearson_delta_reference",
    "mae_top20",
    "pds_centred",
    "pds_l1",
    "spearman_de",
    "direction_match",
]
CELLS = ["energy", "mmd2", "w2"]


@dataclass(frozen=True)
class Unit:
    """One perturbation in one context: rows of held-out cells."""

    perturbation: str
    context: str
    perturbed: NDArray[np.int64]
    start: NDArray[np.int64]
    against: NDArray[np.int64]


@dataclass
class Responses:
    """What was found: one row a method; scores by unit; words."""

    table: pd.DataFrame
    units: pd.DataFrame
    intervals: pd.DataFrame
    scatter: dict[str, NDArray[np.float64]]
    notes: list[str] = field(default_factory=list)


def units_of(held: Cells, book: Book, seed: int) -> tuple[list[Unit], list[str]]:
    """Units of held-out cells with enough cells, and what was left out."""
    values, contexts = as_text(held.obs[book.key]).to_numpy(), book.context_of(held.obs)
    found: list[Unit] = []
    few, bare = [], set()
    for context in np.unique(contexts):
        controls = np.flatnonzero((contexts == context) & (values == book.control))
        for name in sorted(set(values[contexts == context]) - {"", book.control}):
            rows = np.flatnonzero((contexts == context) & (values == name))
            if len(controls) < 2 * FEWEST:
                bare.add(str(context))
            elif len(rows) < FEWEST:
                few.append(f"{name} in {context} ({len(rows)})")
            else:
                start, against = split_controls(controls, np.random.default_rng([seed, len(found)]))
                found.append(Unit(str(name), str(context), rows, start[:MOST], against[:MOST]))
    notes = [f"Left out for fewer than {FEWEST} cells: {', '.join(few)}."] if few else []
    notes += [f"Left out for fewer than {2 * FEWEST} control cells: {', '.join(sorted(bare))}."] if bare else []
    return found, notes


def compare_responses(
    trained: Trained,
    name: str,
    held: Cells,
    key: str,
    control: str,
    *,
    features: pd.DataFrame | None = None,
    methods: Sequence[str] = METHODS,
    contexts: Sequence[str] | None = None,
    how: Sampling | None = None,
    ground: Ground | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Responses:
    """Score predicted responses on held-out perturbed and control cells.

    Parameters
    ----------
    held
        Aligned cells, perturbed ones and controls of the same contexts.
    methods
        Ways of predicting, see ``respond``.
    contexts
        Attributes that make a context; all of the run but ``key`` by default.
    ground
        Space in which cells are compared as distributions; None leaves that out.
    """
    book = open_book(trained, key, control, features, contexts)
    units, notes = units_of(held, book, seed)
    if not units:
        raise DataError(
            f"No perturbation can be scored: {' '.join(notes) or 'the held-out cells have control cells only.'}"
        )
    bench = Bench.of(trained, held, book, units)
    scored: dict[str, pd.DataFrame] = {}
    scatter = {"measured": (bench.real - bench.against)[0]}
    for method in methods:
        say(f"responses: {method}")
        effects, cells, words = _predicted(trained, book, held, units, method, how or Sampling(), ground, seed)
        notes += words
        scored[f"{name}: {method}"] = bench.score(bench.start + effects).join(cells)
        scatter.setdefault("predicted", effects[0])
    for label, means in _cheap(book, units, bench.start, features, bench.genes):
        moved = _shifted(bench.counts, units, means - bench.start, ground, seed)
        scored[label] = bench.score(means).join(moved)
    halves = [split_controls(unit.perturbed, np.random.default_rng(seed))[0] for unit in units]
    half = np.stack([mean_logs(bench.counts[rows]) for rows in halves])
    scored["half of the measured cells (oracle)"] = bench.score(bench.start + half - bench.against)
    return _gather(scored, seed, scatter, sorted(set(notes)))


@dataclass(frozen=True)
class Bench:
    """What predictions are held against: ``(units, f)`` means of measured and control cells, tests, names."""

    counts: sp.csr_matrix
    units: list[Unit]
    real: NDArray[np.float64]
    start: NDArray[np.float64]
    against: NDArray[np.float64]
    reference: NDArray[np.float64]
    tests: Differences
    genes: NDArray[np.str_]

    @classmethod
    def of(cls, trained: Trained, held: Cells, book: Book, units: list[Unit]) -> Bench:
        """Measure all units."""
        modality = trained.modalities[0]
        counts = held.counts(modality)
        real, start, against = (
            np.stack([mean_logs(counts[rows]) for rows in parts])
            for parts in zip(*((unit.perturbed, unit.start, unit.against) for unit in units), strict=True)
        )
        tests = Differences.stack([_test(counts, unit) for unit in units])
        genes = trained.vocabularies[modality].index.astype(str).to_numpy()
        return cls(counts, units, real, start, against, _references(book, units, against), tests, genes)

    def score(self, predicted: NDArray[np.float64]) -> pd.DataFrame:
        """Scores of predicted means, one row a unit."""
        return score_responses(
            predicted,
            self.real,
            self.against,
            reference=self.reference,
            perturbations=[parts_of(unit.perturbation) for unit in self.units],
            contexts=[unit.context for unit in self.units],
            genes=self.genes,
            start=self.start,
            differences=self.tests,
        )


def _test(counts: sp.csr_matrix, unit: Unit) -> pd.DataFrame:
    """Measured differences of one unit."""
    group = np.zeros(counts.shape[0], dtype=bool)
    base = group.copy()
    group[unit.perturbed], base[unit.against] = True, True
    return differential(counts, group, base)


def _references(book: Book, units: list[Unit], against: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of training perturbation centroids of each unit's context: control plus the mean effect of training."""
    rule = _fit(book, MeanAcrossContexts())
    return np.stack(
        [rule.predict(unit.context, "any perturbation", base) for unit, base in zip(units, against, strict=True)]
    )


def _fit(book: Book, rule: ResponseBaseline) -> ResponseBaseline:
    """A rule fitted on the training groups of contexts that have controls."""
    groups, means = _training(book.groups, book.control)
    return rule.fit(groups, means, book.control)


def _training(groups: Groups, control: str) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    table = groups.table.assign(cells=groups.cells)
    based = table.loc[table["perturbation"] == control, "context"]
    kept = table["context"].isin(based).to_numpy()
    return table[kept].reset_index(drop=True), groups.means[kept].astype(np.float64)


def _cheap(
    book: Book,
    units: list[Unit],
    start: NDArray[np.float64],
    features: pd.DataFrame | None,
    genes: NDArray[np.str_],
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Every rule that can answer, by name, with its predicted means."""
    groups, means = _training(book.groups, book.control)
    wanted = [parts_of(unit.perturbation) for unit in units]
    wanted = [parts if len(parts) > 1 else parts[0] for parts in wanted]  # type: ignore[misc]
    described = None if features is None or features.empty else features
    known = None if described is not None else genes
    for rule in baselines(groups, book.control, wanted, described, known):
        rule.fit(groups, means, book.control)
        found = [
            rule.predict(unit.context, target, base) for unit, target, base in zip(units, wanted, start, strict=True)
        ]
        yield rule.name.replace("_", " "), np.stack(found)


def _predicted(
    trained: Trained,
    book: Book,
    held: Cells,
    units: list[Unit],
    method: str,
    how: Sampling,
    ground: Ground | None,
    seed: int,
) -> tuple[NDArray[np.float64], pd.DataFrame, list[str]]:
    """Effects ``(units, f)``, scores of the predicted cells, and words."""
    effects, cells, words = [], [], []
    modality = trained.modalities[0]
    for unit in units:
        some = held.take(unit.start)
        points = encode_points(trained, some, (seed, 3))
        own = held.counts(modality, unit.start)
        found = predict_response(trained, book, own, points, some.obs, unit.perturbation, method, how, seed)
        effects.append(found.effect)
        words += found.words
        if ground is not None:
            real = ground.place(held.counts(modality, unit.perturbed))
            cells.append(score_cells(real, ground.place(found.counts), np.random.default_rng(seed), scale=ground.scale))
    return np.stack(effects), pd.DataFrame(cells, index=range(len(units))), words


def _shifted(
    counts: sp.csr_matrix, units: list[Unit], effects: NDArray[np.float64], ground: Ground | None, seed: int
) -> pd.DataFrame:
    """Scores of control cells that are moved by a predicted effect, as distributions."""
    rows = []
    for unit, effect in zip(units, effects, strict=True):
        if ground is not None:
            moved = ground.place(counts[unit.start]) + effect[ground.columns] @ ground.loadings
            real = ground.place(counts[unit.perturbed])
            rows.append(score_cells(real, moved, np.random.default_rng(seed), scale=ground.scale))
    return pd.DataFrame(rows, index=range(len(units)))


def _gather(
    scored: dict[str, pd.DataFrame], seed: int, scatter: dict[str, NDArray[np.float64]], notes: list[str]
) -> Responses:
    """Means over units by method, and intervals of the first method against the best cheap rule of each score."""
    columns = [name for name in [*SHOWN, *CELLS] if any(name in table for table in scored.values())]
    table = pd.DataFrame({label: one.reindex(columns=columns).mean() for label, one in scored.items()}).T
    own = next(iter(scored))
    ceiling = list(scored)[-1]
    rest = [label for label in scored if label not in (own, ceiling) and not label.startswith(own.split(":")[0])]
    best = table.loc[rest, "pearson_delta"].idxmax() if table.loc[rest, "pearson_delta"].notna().any() else rest[0]
    rng = np.random.default_rng(seed)
    intervals = summarise(scored[own], rng, scored[best], scored[ceiling])
    intervals = intervals[(intervals["context"] == "all") & intervals["score"].isin(SHOWN)].set_index("score")
    units = pd.concat({label: one for label, one in scored.items()}, names=["method", "unit"]).reset_index()
    notes.append(f"Intervals: {own} beside {best}, the best cheap rule by correlation; perturbations are resampled.")
    return Responses(table, units, intervals.drop(columns="context"), scatter, notes)
