"""Parts of training a gene network: its genes, amounts, closed-form start, and the minibatches of masked modelling.

Left out: what all recipes do (``train``), sequences (``train_dna``), the loss (``objectives.genes``), the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from syncyte.baselines.amounts import Encoding, amounts, nonzero_medians
from syncyte.baselines.gene_space import fit_gene_space, moments
from syncyte.baselines.prediction import log_values
from syncyte.config import Config
from syncyte.data.cells import Cells
from syncyte.data.split import Split
from syncyte.errors import DataError
from syncyte.models.adapter import AdapterMode
from syncyte.models.genes import GeneModel, GeneSizes, GeneSpec
from syncyte.recipes.base import stage_sampler
from syncyte.recipes.train_sets import RowLoader
from syncyte.train.plan import StageConfig

MOST_CELLS = 20_000  # that medians, moments and the start are taken from
FEWEST = 3  # cells that express a gene with a sequence
LEAST_SPREAD = 0.05  # of log values


class GeneRecipe(Config):
    """Everything that decides a gene network and its adapter.

    Attributes
    ----------
    encoding
        How counts become amounts: ``rank`` (Geneformer's), ``bins`` or ``log``.
    cells
        Cells that must express a gene for it to be learned.
    features
        Most genes; those expressed in most cells are kept, and every gene that has a sequence. 0 keeps all.
    ratio, asked
        Share of genes hidden, and most genes predicted in a step.
    mode, match
        Of the adapter, see ``models.adapter.TokenAdapter``.
    lora
        Rank of LoRA layers in the network's attention that learn with the adapter; 0 freezes the network as it is.
    window, reach, decay
        Bases of a window, distance up to which peaks of a gene are read, and length over which their weight falls to
        1/e.
    encoder
        Settings of the sequence model (``nn.sequence.SequenceSizes``), and ``epochs``.
    """

    name: str
    preset: str
    encoding: Encoding = "rank"
    cells: int = 10
    features: int = 0
    sizes: GeneSizes = GeneSizes()
    ratio: float = 0.15
    asked: int = 2_000
    mode: AdapterMode = "residual"
    match: bool = False
    lora: int = 0
    window: int = 600
    reach: int = 100_000
    decay: float = 10_000.0
    encoder: dict[str, int | float] = {}
    stages: dict[str, StageConfig]


@dataclass(frozen=True)
class GeneReader:
    """Amounts and log values of cells, dense for a minibatch at a time."""

    cells: Cells
    name: str
    encoding: Encoding
    medians: NDArray[np.float64]
    per_cell: float

    def sparse(self, rows: NDArray[np.int64]) -> tuple:
        """Amounts and log values, both ``(b, g)`` CSR."""
        counts = self.cells.counts(self.name, rows)
        return amounts(counts, self.encoding, self.medians), log_values(counts, self.per_cell)

    def __call__(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The same as tensors."""
        first, second = self.sparse(rows)
        return torch.from_numpy(first.toarray()), torch.from_numpy(second.toarray())


def choose_genes(cells: Cells, name: str, rows: NDArray[np.int64], config: GeneRecipe, wanted: NDArray) -> Cells:
    """Cells with the genes that are learned: expressed in enough cells, the commonest and those in ``wanted``."""
    seen = np.zeros(len(cells.part(name).var), dtype=np.int64)
    for _, counts in cells.blocks(name, rows):
        seen += np.bincount(counts.indices[counts.data > 0], minlength=len(seen))
    keep = seen >= min(config.cells, max(1, len(rows) // 20))
    if config.features and keep.sum() > config.features:
        rank = np.argsort(np.argsort(-seen, kind="stable"), kind="stable")
        keep &= (rank < config.features) | wanted
    keep |= wanted & (seen >= FEWEST)  # a gene that has a sequence is worth its place
    if not keep.any():
        raise DataError(f"No gene is expressed in {config.cells} of {len(rows):,} training cells. Check the counts.")
    return cells.align(name, cells.part(name).features[keep])


@torch.no_grad()
def start_network(
    spec: GeneSpec,
    cells: Cells,
    rows: NDArray[np.int64],
    medians: NDArray[np.float64],
    seed: int,
    given: NDArray[np.float32] | None = None,
) -> GeneModel:
    """Network with its moments and closed-form start; ``given`` are places of genes in another model."""
    reader = GeneReader(cells, spec.modality, spec.encoding, medians, spec.per_cell)
    found, values = reader.sparse(rows)
    space = fit_gene_space(found, spec.sizes.components, seed, given)
    level, spread = moments(values, LEAST_SPREAD)
    model = GeneModel(spec)
    for name, array in (("mean", space.mean), ("sd", space.sd), ("level", level), ("spread", spread)):
        getattr(model, name).copy_(torch.from_numpy(np.asarray(array, dtype=np.float32)))
    model.level_mean.fill_(float(level.mean()))
    model.level_scale.fill_(float(level.std() + 1e-6))
    model.table.copy_(torch.from_numpy(space.table))
    model.mix.copy_(torch.from_numpy(space.mix))
    if model.output is not None:
        model.output.copy_(model.table)
    return model


def learn_medians(
    cells: Cells, name: str, rows: NDArray[np.int64], var: pd.DataFrame, given: pd.Series | None = None
) -> NDArray[np.float64]:
    """Median of each gene where it is expressed, from training cells, or from a table by name or Ensembl id."""
    own = nonzero_medians((counts for _, counts in cells.blocks(name, rows)), len(cells.part(name).var))
    if given is None:
        return own
    found = given.reindex(var.index).to_numpy(dtype=np.float64)
    if "gene_id" in var:
        by_id = given.reindex(var["gene_id"].astype(str).str.split(".").str[0]).to_numpy(dtype=np.float64)
        found = np.where(np.isfinite(found), found, by_id)
    return np.where(np.isfinite(found) & (found > 0), found, own)


def some_rows(split: Split, seed: int) -> NDArray[np.int64]:
    """Training cells that moments and the start are taken from."""
    return np.sort(np.random.default_rng(seed).permutation(split.train)[:MOST_CELLS])


def row_loader(
    cells: Cells, name: str, split: Split, seed: int, stage: StageConfig, part: str, rank: int, world: int
) -> RowLoader | None:
    """Minibatches of row numbers for a stage."""
    rows = split.train if part == "train" else split.validation
    if len(rows) == 0:
        return None
    order = [cells.part(name).index]
    return RowLoader(stage_sampler(order, rows, stage, part == "train", seed, rank, world))
