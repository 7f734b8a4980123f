"""Responses to interferon beta: each cell type left out in turn, and one donor from the other.

    python benchmarks/perturb_kang.py KANG_2DONORS.h5ad --runs RUNS [--preset lite] [--out FILE.md]
    python benchmarks/perturb_kang.py KANG.h5ad --drop KANG_2DONORS.h5ad --runs RUNS [--out FILE.md]

For each unit the stimulated cells of a type (or of a donor) are taken out, a run is trained on the rest, and they are
predicted from its control cells by the three methods, beside the cheap rules. Units are type x donor; type alone where
stimulated cells have no donor. ``--drop`` leaves out cells whose barcode is in another file too, which holds the same
cells under other names; unlabelled cells are always left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.data.read import open_cells
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.compare_generate import Ground
from syncyte.tasks.compare_perturb import compare_responses
from syncyte.tasks.trained import load_trained

SCORES = ["pearson_delta", "pearson_delta_reference", "mae_top20", "spearman_de", "direction_match", "energy", "w2"]
LEAST = 10  # stimulated cells of a type that is left out


def main() -> None:
    """Train, predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--drop", type=Path, action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs; finished ones are used again")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    shared = {barcode(name) for path in options.drop for name in open_cells(path, schemas=all_schemas()).names}
    fresh = np.array([barcode(name) not in shared for name in cells.names])
    cells = cells.take(fresh & (cells.obs["cell_type"].astype(str) != "unknown").to_numpy())
    obs = cells.obs.astype({"cell_type": str, "condition": str, "donor": str})
    control = next(name for name in obs["condition"].unique() if name.lower().startswith(("c", "unstim")))
    stimulated = (obs["condition"] != control).to_numpy()
    treated = obs[stimulated].value_counts("cell_type")
    parts = {
        f"type {name}": ("type", (obs["cell_type"] == name).to_numpy()) for name in treated[treated >= LEAST].index
    }
    donors = [] if (obs["donor"] == "unknown").any() else list(obs["donor"].unique())
    parts |= {f"donor {name}": ("donor", (obs["donor"] == name).to_numpy()) for name in donors}
    found = []
    for label, (kind, own) in parts.items():
        train, held = cells.take(~(stimulated & own)), cells.take(own)
        run = options.runs / label.replace(" ", "_")
        config = configure("scldm", options.preset, options.settings)
        keys = {"label_key": "cell_type", "condition_keys": ("condition", "donor") if donors else ("condition",)}
        trained = load_trained(train_recipe(config, train, run, **keys, resume=True, quiet=True), "cpu")
        ground = Ground.fit(trained.align(train).counts("rna"), 0)
        done = compare_responses(trained, "syncyte", trained.align(held), "condition", control, ground=ground)
        print(label, done.table[SCORES].round(3).to_string(), *done.notes, sep="\n", flush=True)
        found.append(done.units.assign(part=label, kind=kind))
    tables = summarise(pd.concat(found))
    if options.out:
        options.out.write_text(tables)
    print(tables)


def barcode(name: str) -> str:
    """Sequence of a barcode, without what tells samples apart."""
    return str(name).split("-")[0]


def summarise(units: pd.DataFrame) -> str:
    """Means over units with intervals, in Markdown."""
    lines = []
    for kind, own in units.groupby("kind"):
        lines += [f"\n{kind} left out, {own['part'].nunique()} parts, {len(own) // own['method'].nunique()} units\n"]
        lines += ["| method | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
        for method, rows in own.groupby("method", sort=False):
            cells = []
            for score in SCORES:
                values = rows[score].to_numpy(dtype=float) if score in rows else np.array([np.nan])
                if not np.isfinite(values).any():
                    cells.append("-")
                    continue
                interval = bootstrap_interval(values[np.isfinite(values)], np.random.default_rng(0))
                cells.append(f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
