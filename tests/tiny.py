"""One small world of simulated cells and a tiny run trained on it, shared by all tests of the model side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from mudata import MuData

import syncyte
from syncyte.baselines.start import LinearStart, fit_start
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.modalities import Tokenizer, all_schemas, modalities
from syncyte.recipes.simulate import simulate
from syncyte.tasks.trained import Trained
from syncyte.types import Batch, Tokens, Visible


def world(n: int = 240, seed: int = 0, **options: Any) -> MuData:
    """Cells of one fixed biology: 4 types, 2 technical batches, 80 genes, 300 regions."""
    base = {"types": 4, "batches": 2, "genes": 80, "regions": 300, "depth_atac": 300.0, "depth_rna": 800.0, "world": 1}
    return simulate(n, seed, **{**base, **options})


def cells_of(data: Any) -> Cells:
    return open_cells(data, schemas=all_schemas())


def train_tiny(data: Any, out: Path, **options: Any) -> Trained:
    """Train the smallest preset; every option of ``syncyte.train`` may be given."""
    chosen = {"preset": "tiny", "batch_key": "batch", "device": "cpu", "quiet": True, **options}
    return syncyte.train("clm_x", data, out=out, **chosen)


def train_tiny_sets(data: Any, out: Path, **options: Any) -> Trained:
    """The same of a set model, asked for type, technical batch and a number; options as above."""
    keys = {"label_key": "cell_type", "condition_keys": ("batch", "pseudotime")}
    chosen = {"preset": "tiny", "device": "cpu", "quiet": True, **keys, **options}
    return syncyte.train("scldm", data, out=out, **chosen)


def linear_start(data: MuData, **options: Any) -> tuple[LinearStart, dict[str, sp.csr_matrix]]:
    """Linear start on all cells, and the counts it was fitted on."""
    cells = cells_of(data).only([name for name in ("rna", "atac") if name in data.mod])
    counts = {name: cells.counts(name) for name in cells.modalities}
    present = {name: cells.present(name) for name in cells.modalities}
    kinds = {name: modalities[name].residual for name in cells.modalities}
    return fit_start(counts, present, kinds, **{"shared": 6, "private": 6, **options}), counts


def tensors(tokenizer: Tokenizer, counts: sp.csr_matrix) -> Tokens:
    return Tokens(**{key: torch.from_numpy(value) for key, value in tokenizer(counts).items()})


def batch_of(tokenizers: Mapping[str, Tokenizer], counts: Mapping[str, sp.csr_matrix]) -> Batch:
    """Minibatch of all cells; a modality left out of ``counts`` is absent."""
    size = next(iter(counts.values())).shape[0]
    blocks = {
        name: counts.get(name, sp.csr_matrix((size, tokenizer.width), dtype=np.float32))
        for name, tokenizer in tokenizers.items()
    }
    return Batch(
        {name: tensors(tokenizers[name], block) for name, block in blocks.items()},
        {name: torch.full((size,), name in counts) for name in tokenizers},
        {"batch": torch.full((size,), -1)},
        torch.arange(size),
    )


def seen(size: int, features: torch.Tensor | None = None) -> Visible:
    return Visible(torch.ones(size, dtype=torch.bool), features)
