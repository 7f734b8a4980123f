"""Few pairs: most cells keep both modalities, but unlinked; does pretraining on all of them help ATAC -> RNA?

    python benchmarks/few_pairs.py cortex.h5mu --test 09C 09J --validation 09A --pairs 482 --preset small --out DIR

482 random training cells keep their pairs (3 seeds), those of the validation batch among them serve for early stopping;
every other cell is split into two cells of one modality under different names. Rows: the linear start (of the pairs
alone, or bridged over all cells), the recipe on the pairs alone, the recipe on everything.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.baselines.start import fit_start
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.prediction import score_values
from syncyte.modalities import all_schemas, modalities
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.compare_translate import held_columns
from syncyte.tasks.trained import load_trained
from syncyte.tasks.translate import predictions, source_cells

ROWS = 512


def break_pairs(cells: Cells, keep: np.ndarray) -> Cells:
    """Keep the pairs of the given rows; every other cell becomes one cell a modality, named after it."""
    broken = np.setdiff1d(np.arange(len(cells)), keep)
    names = list(cells.modalities)
    blocks = [keep, *([broken] * len(names))]
    obs = pd.concat(
        [cells.obs.iloc[keep], *(cells.obs.iloc[broken].rename(index=lambda old, m=m: f"{m}:{old}") for m in names)]
    )
    parts = {}
    for place, name in enumerate(names):
        index = [
            cells.part(name).index[rows] if at in (0, place + 1) else np.full(len(rows), -1)
            for at, rows in enumerate(blocks)
        ]
        parts[name] = replace(cells.part(name), index=np.concatenate(index).astype(np.int64))
    return replace(cells, obs=obs, parts=parts)


def linear_scores(train: Cells, held: Cells, source: str, target: str, null: np.ndarray, seed: int) -> dict[str, float]:
    """Test r of the linear start in every way of using the pairs."""
    counts = {name: train.counts(name) for name in train.modalities}
    present = {name: train.present(name) for name in train.modalities}
    kinds = {name: modalities[name].residual for name in train.modalities}
    seen, scores = held.counts(source), {}
    for mode in ("cross", "bridge"):
        start = fit_start(counts, present, kinds, mode=mode, seed=seed)
        blocks = (start.predict(source, target, seen[i : i + ROWS]) for i in range(0, len(held), ROWS))
        columns = held_columns(blocks, (len(held), len(null)))
        scores[f"linear start, {mode}"] = score_values(columns, held.counts(target), null).summary
    return {f"{name} {metric}": found[metric] for name, found in scores.items() for metric in ("r", "skill")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--validation", nargs="+", required=True)
    parser.add_argument("--leave-out", nargs="*", default=[], help="batches neither scored nor learned from")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--source", default="atac")
    parser.add_argument("--target", default="rna")
    parser.add_argument("--pairs", type=int, default=482)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the recipe, as stages.rna.epochs=5")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    given = parser.parse_args()
    cells = open_cells(given.data, schemas=all_schemas())
    batch = cells.column(given.batch_key).astype(str).to_numpy()
    test = np.isin(batch, given.test)
    held, train = cells.take(test), cells.take(~test & ~np.isin(batch, given.leave_out))
    null = np.asarray(modalities[given.target].observed(train.counts(given.target)).mean(axis=0)).ravel()
    print(f"`{shlex.join(['python', *sys.argv])}`\n", flush=True)
    rows: dict[str, list[float]] = {}
    for seed in given.seeds:
        pairs = np.sort(np.random.default_rng(seed).choice(len(train), given.pairs, replace=False))
        everything, alone = break_pairs(train, pairs), train.take(pairs)
        for name, value in linear_scores(everything, held, given.source, given.target, null, seed).items():
            rows.setdefault(name, []).append(value)
        for name, data in (("recipe, pairs only", alone), ("recipe, pretrained on all", everything)):
            run = given.out / f"{name.replace(' ', '_').replace(',', '')}_{seed}"
            train_recipe(
                configure("clm_x", given.preset, given.set),
                data,
                run,
                batch_key=given.batch_key,
                validation=given.validation,
                overwrite=True,
                device="cpu",
                seed=seed,
                quiet=True,
            )
            trained = load_trained(run, "cpu")
            source = source_cells(trained, held, given.source, given.target)
            columns = held_columns(predictions(trained, source, given.target), (len(held), len(null)))
            found = score_values(columns, held.counts(given.target), null).summary
            for metric in ("r", "skill"):
                rows.setdefault(f"{name} {metric}", []).append(found[metric])
            print(f"seed {seed}: {name}: r {found['r']:.4f}", file=sys.stderr, flush=True)
    print(f"| {given.pairs} pairs, {given.source} to {given.target} | mean | by seed |\n| --- | --- | --- |")
    for name, values in rows.items():
        print(f"| {name} | {np.mean(values):.4f} | {', '.join(f'{value:.4f}' for value in values)} |")


if __name__ == "__main__":
    main()
