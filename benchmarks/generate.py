"""Generated cells beside cheap generators and scVI, on seeds of a split.

    python benchmarks/generate.py PBMC3K.h5ad --runs RUNS --preset lite --preset small --features 3000 --seeds 3
    python benchmarks/generate.py KANG.h5ad --runs RUNS --preset lite --hold-out donor=1256 --seeds 1

A random 30 % of each type is held out, or the cells with one value of a column. Features are chosen on training cells.
``--peers`` trains scVI to early stopping. Finished runs are used again. ``moments`` is the negative binomial by label
with dispersions from moments, which is easier to beat than the likeliest ones.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.baselines.generate import PerTypeNegativeBinomial
from syncyte.baselines.prediction import depth_of
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.realism import split_half
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.compare_generate import compare_generation
from syncyte.tasks.draw import Sampling
from syncyte.tasks.generators import LABEL, Training
from syncyte.tasks.trained import Trained, load_trained

COLUMNS = ["w2", "mmd2", "energy", "one_nn", "precision", "recall", "harmonic", "variance_ratio"]
COLUMNS += ["memorisation_ratio", "copies", "zero_error", "correlation_error", "library_ratio"]


def main() -> None:
    """Split, train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--preset", action="append", required=True)
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--features", type=int, default=0)
    parser.add_argument("--hold-out", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    lines = []
    for preset in options.preset:
        tables, uses, facts = [], [], []
        for seed in range(options.seeds):
            test = split(cells, options.label_key, options.hold_out, seed)
            train, held = cells.take(~test), cells.take(test)
            run = options.runs / f"{options.data.parent.name}_{preset}_{options.features}_{seed}"
            config = configure("scldm", preset, [f"features={options.features}"])
            begin = time.process_time()
            keys = {"label_key": options.label_key, "seed": seed, "resume": True, "quiet": True}
            trained = load_trained(train_recipe(config, train, run, **keys), "cpu")
            spent = trained.metrics["cpu_seconds"] if time.process_time() - begin < 5 else time.process_time() - begin
            table, use, halves = score(trained, preset, train, held, options, seed)
            tables.append(table)
            uses.append(use)
            facts.append({"training CPU s": spent, **halves})
            print(preset, seed, facts[-1], table[COLUMNS].round(4).to_string(), sep="\n", flush=True)
        lines += [f"\n## {preset}, mean of {options.seeds} seeds of the split, 3 draws each\n", to_markdown(tables)]
        lines += ["\nClassifier trained on them, tested on held-out cells:\n", to_markdown(uses)]
        lines += [f"\n{pd.DataFrame(facts).mean().round(1).to_dict()}\n"]
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text)


def split(cells: Cells, key: str, hold_out: str | None, seed: int) -> np.ndarray:
    """Flags of held-out cells."""
    if hold_out:
        column, _, value = hold_out.partition("=")
        return (cells.obs[column].astype(str) == value).to_numpy()
    labels, test = cells.obs[key].astype(str).to_numpy(), np.zeros(len(cells), dtype=bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test[rng.choice(rows, round(0.3 * len(rows)), replace=False)] = True
    return test


def score(
    trained: Trained, preset: str, train: Cells, held: Cells, options: Any, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Scores, utility and split losses of one run."""
    train, held = trained.align(train), trained.align(held)
    labels = {
        "reference": train.obs[options.label_key].astype(str).to_numpy(),
        "held": held.obs[options.label_key].astype(str).to_numpy(),
    }
    counts = train.counts("rna")
    moments = Moments().fit(counts, labels["reference"])

    def make(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        return moments.sample(table[LABEL].to_numpy(), np.random.default_rng([seed, draw, 21]))

    peers, model = scvi(counts, labels["reference"], seed) if options.peers else ({}, None)
    found = compare_generation(
        trained,
        f"syncyte {preset}",
        held,
        train,
        labels,
        label_key=options.label_key,
        how=Sampling(guidance=options.guidance),
        more={"negative binomial by label, moments": make, **peers},
        seed=seed,
    )
    first, second = split_half(held.counts("rna"), np.random.default_rng(seed))
    halves = {"split loss": split_loss(trained, held, first, second)}
    if model is not None:
        halves |= {"split loss, scVI": model.split_loss(first, second), "scVI epochs": model.epochs}
    return found.table, found.utility, halves


def scvi(counts: sp.csr_matrix, labels: np.ndarray, seed: int) -> tuple[dict[str, Any], Any]:
    """scVI trained to early stopping: its prior, its posterior on training cells, a Gaussian by label on its codes."""
    from syncyte.baselines.deep_generate import ScviGenerator

    model, training = ScviGenerator(seed=seed).fit(counts, labels), Training(None, counts, labels)

    def posterior(table: pd.DataFrame, draw: int) -> sp.csr_matrix:
        rng = np.random.default_rng([seed, draw, 12])
        return model.posterior_predictive(counts[training.rows(table[LABEL].to_numpy(), rng)], rng)

    return {
        "scVI prior": lambda table, draw: model.prior(len(table), np.random.default_rng([seed, draw, 11])),
        "scVI posterior of training cells": posterior,
        "scVI codes, Gaussian by label": lambda table, draw: model.per_type_gaussian(
            table[LABEL].to_numpy(), np.random.default_rng([seed, draw, 13])
        ),
    }, model


class Moments(PerTypeNegativeBinomial):
    """The baseline with dispersions by moments, pooled over types."""

    def _fitted(self, counts: sp.csr_matrix, codes: np.ndarray, total: np.ndarray) -> np.ndarray:
        over, level = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for code in range(len(self.types)):
            rows = codes == code
            mean = np.outer(total[rows], self.share[[code]].toarray()[0])
            over += ((counts[rows].toarray() - mean) ** 2 - mean).sum(axis=0)
            level += (mean**2).sum(axis=0)
        return np.clip(level / np.maximum(over, 1e-9), np.exp(-4), np.exp(8))


@torch.inference_mode()
def split_loss(trained: Trained, cells: Cells, first: sp.csr_matrix, second: sp.csr_matrix) -> float:
    """Nats a cell of one half of the counts given the other half, whose total scales the means."""
    from dataclasses import replace

    from syncyte.data.cells import MemoryRows, Part

    part = Part(MemoryRows(first), np.arange(len(cells)), cells.part("rna").var)
    loss, at = [], 0
    for batch in trained.batches(replace(cells, parts={"rna": part})):
        mean = trained.model.encoder(batch.tokens["rna"])[0]
        target = torch.from_numpy(second[at : at + len(batch)].toarray()).float()
        total = torch.from_numpy(depth_of(first[at : at + len(batch)])).float().clamp_min(1).log()
        loss.append(-trained.model.log_prob(mean, target, total).numpy())
        at += len(batch)
    return float(np.concatenate(loss).mean())


def to_markdown(tables: list[pd.DataFrame]) -> str:
    """Mean of tables, by method."""
    mean = sum(table.fillna(0) for table in tables) / len(tables)
    mean = mean[[name for name in COLUMNS if name in mean] or list(mean.columns)]
    rows = ["| method | " + " | ".join(mean.columns) + " |", "|---" * (len(mean.columns) + 1) + "|"]
    rows += [f"| {name} | " + " | ".join(f"{value:.4g}" for value in row) + " |" for name, row in mean.iterrows()]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
