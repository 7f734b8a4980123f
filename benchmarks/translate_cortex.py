"""Translation of held-out technical batches by one or more runs, beside every baseline, as a markdown table.

    python benchmarks/translate_cortex.py RUN [RUN ...] --data cortex.h5mu --test 09C 09J [--multivi multivi.npz]

Baselines are fitted on all other batches. MultiVI's row comes from the file of ``benchmarks/peers_multivi.py``; files
named ``benchmarks/cache/multivi_*.npz`` that hold the same cells are found without being named. Look at a test batch
once: choices belong on the others.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.openness import score_open
from syncyte.metrics.prediction import score_values
from syncyte.modalities import all_schemas, modalities
from syncyte.tasks.evaluate import evaluate_cells
from syncyte.tasks.trained import load_trained

CACHE = Path(__file__).parent / "cache"


def markdown(table: pd.DataFrame) -> str:
    """Rows and columns as a markdown table, four decimals."""
    lines = [[str(table.index.name or ""), *map(str, table.columns)], ["---"] * (table.shape[1] + 1)]
    for name, row in table.iterrows():
        lines.append([str(name), *("" if pd.isna(value) else f"{value:.4f}" for value in row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def multivi_row(path: Path, held: Cells, reference: Cells, target: str, label_key: str | None) -> dict[str, float]:
    """Scores of stored predictions; empty where the file is about other cells or features."""
    with np.load(path) as stored:
        rows = pd.Index(stored["cells"]).get_indexer(held.names)
        features = stored["genes"] if modalities[target].schema.feature_kind == "gene" else stored["regions"]
        columns = pd.Index(features).get_indexer(held.part(target).features)
        if (rows < 0).any() or (columns < 0).any():
            return {}
        predicted = stored[target][np.ix_(rows, columns)]
        print(f"MultiVI ({path.name}): {stored['epochs']} epochs, ended by {stored['stopped']}, "
              f"{float(stored['cpu_seconds']):.0f} CPU seconds")  # fmt: skip
    observed = modalities[target].observed(reference.counts(target))
    null = np.asarray(observed.mean(axis=0), dtype=np.float64).ravel()
    labels = None if label_key is None else held.column(label_key).astype(str).to_numpy()
    score: Any = score_open if modalities[target].residual == "depth" else score_values
    return score(predicted, held.counts(target), null, types=labels).summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--leave-out", nargs="*", default=[], help="batches neither scored nor learned from")
    parser.add_argument("--multivi", type=Path, nargs="*", default=sorted(CACHE.glob("multivi_*.npz")))
    given = parser.parse_args()
    cells = open_cells(given.data, schemas=all_schemas())
    batch = cells.column(given.batch_key).astype(str).to_numpy()
    test = np.isin(batch, given.test)
    held, reference = cells.take(test), cells.take(~test & ~np.isin(batch, given.leave_out))
    print(f"`{shlex.join(['python', *sys.argv])}`\n")
    print(f"{len(held):,} test cells of {', '.join(given.test)}; baselines fitted on {len(reference):,} cells.\n")
    begin = time.process_time()
    tables: dict[str, pd.DataFrame] = {}
    for run in given.runs:
        trained = load_trained(run, "cpu")
        print(f"{run.name}: {trained.metrics.get('cpu_seconds', float('nan')):.0f} CPU seconds of training")
        keys = {"batch_key": given.batch_key, "label_key": given.label_key, "tasks": ("translate",)}
        found = evaluate_cells(trained, held, reference, **keys, most_features=None, quiet=True)
        for key, table in found.tables.items():
            if key.startswith("translate") and not key.endswith("reliability"):
                own = table[table.index.str.startswith("syncyte")].rename(lambda name, run=run: f"{name} ({run.name})")
                others = table[~table.index.str.startswith("syncyte")] if key not in tables else None
                tables[key] = pd.concat([own, others if others is not None else tables[key]])
    for key, table in tables.items():
        for path in given.multivi:
            if row := multivi_row(path, held, reference, key.split(" ")[-1], given.label_key):
                table.loc["MultiVI"] = pd.Series(row).reindex(table.columns)
        print(f"\n### {key}\n\n{markdown(table.rename_axis('method'))}")
    print(f"\n{time.process_time() - begin:.0f} CPU seconds of scoring.")


if __name__ == "__main__":
    main()
