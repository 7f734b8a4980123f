"""Integration scored against PCA, Harmony and scVI on cells of several donors; labels serve scoring alone.

    python benchmarks/peers_integrate.py DATA.h5ad --batch-key donor --out PEERS          # environment of the peers
    python benchmarks/integrate_kang.py DATA.h5ad --batch-key donor --label-key cell_type --peers PEERS --out TABLE.md

Trains ``clm_x`` (``lite``) on the cells for every seed, integrates them, and scores all embeddings with one code
(``syncyte.metrics.embedding``, scIB definitions). Rows are means over seeds; every seed is listed below the table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from syncyte.data.read import open_cells
from syncyte.metrics.embedding import score_embedding
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.integrate import SLOT, integrate_cells
from syncyte.tasks.trained import load_trained

PARTS = ("nmi", "ari", "asw_label", "clisi", "asw_batch", "ilisi", "graph_connectivity")
TOTALS = ("bio", "batch", "overall")
NAMES = {
    "pca": "PCA 50, log CP10K, all genes",
    "pca_hvg": "PCA 50, log CP10K, 1,000 HVG",
    "pca_harmony": "Harmony on PCA, all genes",
    "pca_hvg_harmony": "Harmony on PCA, HVG",
    "scvi80": "scVI, defaults, 80 epochs",
    "scvi": "scVI, defaults, early stopping",
    "scvi_nb80": "scVI, 2 layers, 30 latents, NB, 80 epochs",
    "scvi_nb": "scVI, 2 layers, 30 latents, NB, early stopping",
}


def own(options: argparse.Namespace, cells: Any, seed: int) -> list[tuple[str, np.ndarray, float]]:
    """Embeddings of the model and the CPU seconds each took beyond training."""
    folder = options.runs / f"run_{seed}"
    if not folder.exists():
        train_recipe(configure("clm_x", "lite"), cells, folder, batch_key=options.batch_key, seed=seed, quiet=True)
    trained = load_trained(folder, "cpu")
    found = [("syncyte, not integrated", embed_cells(trained, cells).obsm["X_syncyte"], 0.0)]
    variants: dict[str, dict[str, Any]] = {"syncyte integrate": {}}
    if options.ablation:
        variants |= {"syncyte, no decoder": {"decoder": False}, "syncyte, adversary 1": {"adversary": 1.0}}
    for name, settings in variants.items():
        begin = time.process_time()
        result = integrate_cells(trained, cells, batch_key=options.batch_key, seed=seed, **settings)
        found.append((name, result.obsm[SLOT], time.process_time() - begin))
    return found


def peers(folder: Path | None, seeds: list[int]) -> list[tuple[str, int, np.ndarray, float, int]]:
    """Embeddings that ``peers_integrate.py`` left."""
    if folder is None:
        return []
    found = []
    for key, name in NAMES.items():
        for seed in seeds:
            path = folder / f"{key}_{seed}.npz"
            if path.exists():
                stored = np.load(path)
                found.append((name, seed, stored["embedding"], float(stored["seconds"]), int(stored["epochs"])))
    return found


def main() -> None:
    """Score everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "syncyte-integrate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--no-model", dest="model", action="store_false", help="score the peers alone")
    parser.add_argument("--ablation", action="store_true", help="also without the decoder, and with the adversary")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    labels, batches = (cells.column(key).astype(str).to_numpy() for key in (options.label_key, options.batch_key))
    kept = options.runs / "scores"
    kept.mkdir(parents=True, exist_ok=True)

    def add(name: str, seed: int, points: np.ndarray, seconds: float, epochs: int = 0) -> None:
        path = kept / f"{name.replace(' ', '_')}_{seed}.json"
        if not path.exists():
            scores = score_embedding(points, labels=labels, batches=batches, seed=seed)
            chosen = {key: scores[key] for key in (*PARTS, *TOTALS)}
            row = {"method": name, "seed": seed, **chosen, "cpu s": seconds, "epochs": float(epochs)}
            path.write_text(json.dumps(row))
        print(f"{name}, seed {seed}: {json.loads(path.read_text())['overall']:.3f}", flush=True)

    for seed in options.seeds:
        for found in peers(options.peers, [seed]):
            add(*found)
        for name, points, seconds in own(options, cells, seed) if options.model else []:
            add(name, seed, points, seconds)
        rows = [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))]
        write(options.out, pd.DataFrame(rows), cells, options)


def write(path: Path, table: pd.DataFrame, cells: Any, options: argparse.Namespace) -> None:
    """Markdown: means over seeds, then every seed."""
    means = table.drop(columns="seed").groupby("method", sort=False).mean()
    means.insert(0, "seeds", table.groupby("method", sort=False).size())
    means["sd overall"] = table.groupby("method", sort=False)["overall"].std()
    means = means.sort_values("overall", ascending=False)
    command = (
        f"python benchmarks/integrate_kang.py {options.data.parent.name}/{options.data.name} "
        f"--batch-key {options.batch_key} --label-key {options.label_key} --peers PEERS --out TABLE.md"
    )
    lines = [
        f"# Integration of {options.data.parent.name}",
        "",
        f"{len(cells):,} cells, {cells.column(options.batch_key).nunique()} technical batches (`{options.batch_key}`), "
        f"labels `{options.label_key}` for scoring only. `overall = 0.6 bio + 0.4 batch`. `cpu s` is one thread; for "
        "syncyte it is what `integrate` takes beyond training.",
        "",
        f"Command: `{command}`, `PEERS` from `peers_integrate.py`.",
        "",
        *markdown(means.reset_index()),
        "",
        "## Every seed",
        "",
        *markdown(table),
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def markdown(table: pd.DataFrame) -> list[str]:
    """Rows of a markdown table."""

    def cell(value: object, column: str) -> str:
        if isinstance(value, float):
            return (
                ""
                if np.isnan(value) or (column == "epochs" and not value)
                else f"{value:.0f}"
                if column in ("cpu s", "epochs")
                else f"{value:.3f}"
            )
        return str(value)

    head = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * len(table.columns)]
    records = table.to_dict("records")
    return head + ["| " + " | ".join(cell(row[name], name) for name in table.columns) + " |" for row in records]


if __name__ == "__main__":
    main()
