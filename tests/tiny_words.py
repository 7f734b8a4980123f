"""One small world of cells and words, and a tiny run trained on it: what tests of words stand on.

The runs know five types; natural killer cells are in the world, and in no training set. Two labels (``HSC``,
``Erythroid``) have no term in the small ontology.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from tests.small_ontology import obo

import syncyte
from syncyte.recipes.simulate import simulate
from syncyte.tasks.trained import Trained

UNSEEN = "NK"
SEEN = ("B", "CD14 Mono", "CD4 T", "Erythroid", "HSC")
IDS = {"B": "CL:0000236", "CD14 Mono": "CL:0001054", "CD4 T": "CL:0000624", "NK": "CL:0000623"}


def told_cells(n: int = 400, seed: int = 0) -> AnnData:
    """RNA of six types in two technical batches, with a condition that shows in nothing but its column."""
    made = simulate(n, seed, types=6, batches=2, genes=120, regions=20, depth_rna=900.0, world=1)
    data = made["rna"].copy()
    data.obs = made.obs[["cell_type", "batch"]].astype(str).copy()
    data.obs["condition"] = np.where(np.arange(n) % 3 == 0, "stimulated", "control")
    data.obs["cluster"] = "cluster " + data.obs["cell_type"]
    return data


def training_cells(data: AnnData) -> AnnData:
    """Those of the types that a run is to know."""
    return data[(data.obs["cell_type"] != UNSEEN).to_numpy()].copy()


def write_ontology(folder: Path) -> Path:
    """The small ontology as a file."""
    path = folder / "cl.obo"
    path.write_text(obo(), encoding="utf-8")
    return path


def train_words(data: Any, out: Path, **options: Any) -> Trained:
    """Train the smallest preset; every option of ``syncyte.train`` may be given."""
    chosen = {"preset": "tiny", "label_key": "cell_type", "device": "cpu", "quiet": True, **options}
    return syncyte.train("scmmgpt", data, out=out, **chosen)
