"""Responses to knock-outs (ECCITE-seq): held-out cells of seen targets, and held-out targets.

    python benchmarks/perturb_papalexi.py PAPALEXI.h5ad --runs RUNS [--features TABLE|pathways] [--out FILE.md]

Seen targets: a random half of each target's cells and of the control cells trains, the other half is predicted from its
own control cells. Held-out targets: each target's cells are left out in turn, features from ``--features`` or from the
genes of the run; ``pathways`` is the table below, textbook roles of the targets. Strong targets (IFNGR1, JAK2) are
listed apart. Replicates are not contexts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.files import read_features
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.compare_generate import Ground
from syncyte.tasks.compare_perturb import compare_responses
from syncyte.tasks.trained import Trained, load_trained

SCORES = ["pearson_delta", "pearson_delta_reference", "mae_top20", "pds_centred", "pds_l1", "energy"]
STRONG = ("IFNGR1", "JAK2", "IFNGR2", "STAT1")
CONTROL = "control"
PATHWAYS = {
    "interferon gamma": "IFNGR1 JAK2 IRF1 IRF7",
    "interferon alpha": "STAT2 IRF1 IRF7 UBE2L6 ETV7",
    "JAK and STAT": "IFNGR1 JAK2 STAT2 STAT5A",
    "transcription factor": "ATF2 ETV7 IRF1 IRF7 MYC POU2F2 SPI1 STAT2 STAT5A",
    "membrane": "CD86 CMTM6 IFNGR1 MARCH8 PDCD1LG2 TNFRSF14",
    "checkpoint": "CD86 CMTM6 PDCD1LG2 TNFRSF14",
    "ubiquitin": "CUL3 MARCH8 UBE2L6",
    "growth": "ATF2 MYC SPI1",
}


def main() -> None:
    """Train, predict, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--features", help="a table, or 'pathways'")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    target = cells.obs["perturbation"].astype(str).to_numpy()
    features = table_of(options.features)

    def trained_on(rows: np.ndarray, name: str, settings: tuple[str, ...] = ()) -> tuple[Trained, Cells]:
        some = cells.take(np.flatnonzero(rows))
        config = configure("scldm", options.preset, settings)
        keys = {"condition_keys": ("perturbation",)}
        run = train_recipe(config, some, options.runs / name, **keys, resume=True, quiet=True)
        return load_trained(run, "cpu"), some

    half = np.random.default_rng(0).random(len(cells)) < 0.5
    trained, some = trained_on(half, "seen")
    ground = Ground.fit(trained.align(some).counts("rna"), 0)
    held = trained.align(cells.take(np.flatnonzero(~half)))
    seen = compare_responses(trained, "syncyte", held, "perturbation", CONTROL, features=features, ground=ground)
    print(seen.table[SCORES].round(3).to_string(), *seen.notes, sep="\n", flush=True)
    found = [seen.units.assign(kind="seen targets, held-out cells")]
    for name in sorted(set(target) - {CONTROL}):
        trained, some = trained_on(half & (target != name), f"without_{name}", ("stages.flow.epochs=0",))
        ground = Ground.fit(trained.align(some).counts("rna"), 0)
        own = cells.take(np.flatnonzero(~half & np.isin(target, [name, CONTROL])))
        how = {"features": features, "ground": ground, "methods": ("regression",)}
        done = compare_responses(trained, "syncyte", trained.align(own), "perturbation", CONTROL, **how)
        found.append(done.units.assign(kind="held-out targets"))
        print(name, *done.notes, sep="\n", flush=True)
    tables = summarise(pd.concat(found))
    if options.out:
        options.out.write_text(tables)
    print(tables)


def table_of(features: str | None) -> pd.DataFrame | None:
    """Feature vectors of targets."""
    if features is None:
        return None
    if features != "pathways":
        return read_features([f"perturbation={features}"])["perturbation"]
    genes = sorted({gene for names in PATHWAYS.values() for gene in names.split()})
    return pd.DataFrame({key: [float(g in names.split()) for g in genes] for key, names in PATHWAYS.items()}, genes)


def summarise(units: pd.DataFrame) -> str:
    """Means over targets with intervals, all and strong ones, in Markdown."""
    units = units.assign(strong=units["perturbation"].astype(str).str.strip("(),'").isin(STRONG))
    lines = []
    for kind, own in units.groupby("kind"):
        for words, rows in ((f"{kind}: all", own), (f"{kind}: {', '.join(STRONG)}", own[own["strong"]])):
            lines += [f"\n{words} ({len(rows) // own['method'].nunique()} units)\n"]
            lines += ["| method | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 1) + "|"]
            for method, part in rows.groupby("method", sort=False):
                lines.append(f"| {method} | " + " | ".join(interval(part, score) for score in SCORES) + " |")
    return "\n".join(lines) + "\n"


def interval(rows: pd.DataFrame, score: str) -> str:
    """Mean and interval of one score."""
    values = rows[score].to_numpy(dtype=float) if score in rows else np.array([np.nan])
    values = values[np.isfinite(values)]
    if not len(values):
        return "-"
    found = bootstrap_interval(values, np.random.default_rng(0))
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


if __name__ == "__main__":
    main()
