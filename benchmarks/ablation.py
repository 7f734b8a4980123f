"""What each part of the recipe gives to translation: variants trained alike, effects with intervals.

    python benchmarks/ablation.py cortex.h5mu --test 09A --leave-out 09C 09J --validation 09B --preset small --out DIR

Variants: the whole recipe; a random instead of the linear start; no third stage (whole modalities both ways); no
transformer (preset ``lite``); cells without a partner left out, with half of the pairs broken in both arms; and the
linear path alone (residual off). An effect is whole minus variant, so above zero the part helps. Intervals are 95 %
bootstraps of the difference over technical batches where there are several, else over random groups of test cells.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from few_pairs import break_pairs
from translate_cortex import markdown

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.metrics.openness import score_open
from syncyte.metrics.prediction import score_values
from syncyte.modalities import all_schemas, modalities
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.compare_translate import held_columns, units_of
from syncyte.tasks.trained import Trained, load_trained
from syncyte.tasks.translate import predictions, source_cells

METRICS = {"depth": ("auroc", "auroc_profile", "d2", "brier_skill"), "pearson": ("r", "skill")}
Scores = dict[tuple[str, str], np.ndarray]  # target and metric: whole test set first, then every unit


@dataclass(frozen=True)
class Variant:
    """One arm: its name, what it is compared with, the preset, settings, and its training cells."""

    name: str
    against: str
    preset: str
    settings: tuple[str, ...]
    cells: Cells


def variants(preset: str, train: Cells, seed: int) -> list[Variant]:
    """All arms, each after the one it is compared with."""
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.choice(len(train), len(train) // 2, replace=False))
    found = [
        Variant("whole recipe", "", preset, (), train),
        Variant("no linear start", "whole recipe", preset, ("start.mode=none",), train),
        Variant("no third stage", "whole recipe", preset, ("stages.both.epochs=0",), train),
        Variant("half of the pairs broken", "", preset, (), break_pairs(train, pairs)),
        Variant("the broken half left out", "half of the pairs broken", preset, (), train.take(pairs)),
    ]
    return found if preset == "lite" else [*found, Variant("no transformer", "whole recipe", "lite", (), train)]


def score_run(trained: Trained, held: Cells, nulls: dict[str, np.ndarray], units: np.ndarray, gated: bool) -> Scores:
    """Metrics of both directions on all test cells and in every unit."""
    found: Scores = {}
    groups = [np.arange(len(held)), *(np.flatnonzero(units == unit) for unit in np.unique(units))]
    for target, null in nulls.items():
        source = next(name for name in nulls if name != target)
        blocks = predictions(trained, source_cells(trained, held, source, target), target, residual=gated)
        columns = held_columns(blocks, (len(held), len(null)))
        kind, counts = modalities[target].residual, held.counts(target)
        parts = [_scored(kind, columns, rows, counts[rows], null, 10 if rows is groups[0] else 3) for rows in groups]
        found |= {(target, metric): np.array([part[metric] for part in parts]) for metric in METRICS[kind]}
    return found


def _scored(kind: str, columns: Any, rows: np.ndarray, counts: Any, null: np.ndarray, fewest: int) -> dict[str, float]:
    score: Any = score_open if kind == "depth" else score_values
    return score(lambda chosen: columns(chosen)[rows], counts, null, min_cells=fewest).summary


def effect(first: Scores, second: Scores, sizes: np.ndarray, seed: int) -> dict[str, str]:
    """Difference of two arms with its interval, by target and metric."""
    texts = {}
    for key, values in first.items():
        change = values - second[key]
        found = bootstrap_interval(change[1:], np.random.default_rng(seed), weights=sizes)
        low, high = found.low - found.mean + change[0], found.high - found.mean + change[0]
        texts[f"{key[0]} {key[1]}"] = f"{change[0]:+.4f} ({low:+.4f} to {high:+.4f})"
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--validation", nargs="+", required=True)
    parser.add_argument("--leave-out", nargs="*", default=[], help="batches neither scored nor learned from")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; finished ones are used again")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cells = open_cells(given.data, schemas=all_schemas())
    batch = cells.column(given.batch_key).astype(str).to_numpy()
    test = np.isin(batch, given.test)
    held, train = cells.take(test), cells.take(~test & ~np.isin(batch, given.leave_out))
    units, words = units_of(held.column(given.batch_key), len(held), given.seed)
    nulls = {
        name: np.asarray(modalities[name].observed(train.counts(name)).mean(axis=0), dtype=np.float64).ravel()
        for name in train.modalities
    }
    print(f"`{shlex.join(['python', *sys.argv])}`\n\n{len(held):,} test cells; intervals over {words}.\n", flush=True)
    scores: dict[str, Scores] = {}
    rows, effects, sizes = {}, {}, np.bincount(units).astype(float)
    for variant in variants(given.preset, train, given.seed):
        run, begin = given.out / variant.name.replace(" ", "_"), time.process_time()
        if not (run / "card.json").exists():
            train_recipe(
                configure("clm_x", variant.preset, variant.settings),
                variant.cells,
                run,
                batch_key=given.batch_key,
                validation=given.validation,
                overwrite=True,
                device="cpu",
                seed=given.seed,
                quiet=True,
            )
        trained = load_trained(run, "cpu")
        arms = {variant.name: True}
        if variant.name == "whole recipe":
            arms["linear path alone"] = False
        for name, gated in arms.items():
            scores[name] = score_run(trained, held, nulls, units, gated)
            rows[name] = {f"{target} {metric}": values[0] for (target, metric), values in scores[name].items()}
            against = variant.against if gated else "whole recipe"
            if against:
                effects[name] = effect(scores[against], scores[name], sizes, given.seed)
        rows[variant.name]["CPU s"] = trained.metrics.get("cpu_seconds", time.process_time() - begin)
        print(f"done: {variant.name}", file=sys.stderr, flush=True)
    print(markdown(pd.DataFrame(rows).T.rename_axis("variant")), "\n")
    table = pd.DataFrame(effects).T.rename_axis("effect of what is missing")
    print("\n".join("| " + " | ".join(map(str, line)) + " |" for line in _lines(table)))


def _lines(table: pd.DataFrame) -> list[list[str]]:
    head = [[str(table.index.name), *map(str, table.columns)], ["---"] * (table.shape[1] + 1)]
    return [*head, *([str(name), *map(str, row)] for name, row in table.iterrows())]


if __name__ == "__main__":
    main()
