"""A recipe for cell models as plain configuration, and the one function that trains it.

A recipe names modalities, sizes, start and stages; everything it does is in ``config``, written beside the weights.
What differs between recipes is which objectives exist and which preset numbers they take (one page each).
Leaves out: reading files and the command line (``api``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from syncyte.baselines.start import LinearStart, fit_start
from syncyte.config import Config, Registry
from syncyte.data.cells import Cells
from syncyte.data.load import Loader
from syncyte.data.sample import BlockSampler, storage_order
from syncyte.data.split import Split
from syncyte.errors import DataError
from syncyte.genome.fasta import Genome
from syncyte.genome.ontology import Ontology
from syncyte.modalities import Layout, Tokenizer, modalities
from syncyte.models.assemble import CellSpec, describe_start, empty_model, fill_from_start
from syncyte.models.cell import CellModel
from syncyte.models.dna_encoder import SequenceEncoder
from syncyte.nn.region_head import RegionHead
from syncyte.tasks.encoders import CellEncoder
from syncyte.train.distributed import Worker
from syncyte.train.plan import EpochLoader, StageConfig
from syncyte.words.markers import MarkerTable


class StartConfig(Config):
    """The linear start: shared and private components, and how pairs are used (see ``fit_start``).

    ``cells = "all"`` fits it on the cells held out for early stopping too: no cell is wasted, and held-out cells judge
    the learned residual against a linear part that knows them, which errs on the side of the linear part.
    ``tune`` chooses how far the decoders are shrunken, on cells set aside for it.
    ``entries`` > 0 takes no more cells than hold about so many measured entries, which bounds memory.
    ``mode = "none"`` replaces it by random loadings of the same scale, for ablation only.
    """

    shared: int = 24
    private: int = 50
    cells: Literal["all", "train"] = "all"
    mode: Literal["auto", "cross", "bridge", "separate", "none"] = "auto"
    tune: bool = True
    entries: int = 0


class SizesConfig(Config):
    """Sizes of the learned residual, see ``CellSizes``; ``published`` replaces it by the published layout."""

    hidden: int = 128
    layers: int = 0
    width: int = 64
    heads: int = 4
    mixer_layers: int = 1
    dropout: float = 0.5
    attention_dropout: float = 0.1
    published: bool = False


class MaskingConfig(Config):
    """Masked objectives: share of features hidden, and of cells that see one modality only; input augmentation.

    ``patches`` is how much of what is hidden of regions goes as whole patches, the rest as scattered regions.
    """

    ratio: dict[str, float]
    alone: float = 0.5
    patches: float = 0.5
    dropout: dict[str, float] = {}
    thinning: dict[str, float] = {}


class EmbeddingConfig(Config):
    """What an embedding makes of the latents.

    ``floor`` scales the axes of a run with one modality by how far their singular values rise above the last one, not
    by the values themselves: the last ones are noise. ``depth`` is the largest correlation an axis may keep with log
    depth of the training cells, the rest is taken out; None leaves depth as it is.
    """

    floor: bool = False
    depth: float | None = None


class CellRecipe(Config):
    """Everything that decides a cell model.

    ``tokens`` are the most tokens a cell may have, ``groups`` the number of patches, ``slots`` > 0 the published slot
    layout, ``bins`` > 0 within-cell value bins instead of log counts, by modality. ``gate`` shrinks the learned
    residual of each target as far as held-out cells ask for. ``samples`` > 0 learns a modality of very many features
    from its open and so many sampled ones, ``tied`` ties its decoder to the table of loadings. ``validation_cells`` > 0
    validates on no more cells than that, for validation there is exact over all features.
    """

    name: str
    preset: str
    start: StartConfig = StartConfig()
    sizes: SizesConfig = SizesConfig()
    tokens: dict[str, int]
    groups: dict[str, int] = {}
    slots: dict[str, int] = {}
    bins: dict[str, int] = {}
    samples: dict[str, int] = {}
    tied: bool = False
    validation_cells: int = 0
    likelihood: dict[str, str]
    masking: MaskingConfig
    stages: dict[str, StageConfig]
    gate: bool = True
    embedding: EmbeddingConfig = EmbeddingConfig()


@dataclass(frozen=True)
class SequenceOrder:
    """What genes are read from beside cells.

    Attributes
    ----------
    genome, starts
        Opened FASTA and transcription starts (``genome.tss.read_tss``).
    peaks
        Regions near genes; those of the cells' own ATAC by default.
    atac
        Other cells whose openness the sequence model learns.
    encoder, folder
        Sequence model that is trained already, and where it lies; None trains one.
    vectors
        Any vector of each gene, by name or Ensembl id, instead of sequence.
    medians
        Median of each gene where it is expressed, by name of the cells, from a published table.
    backbone
        A trained run (``tasks.trained.Trained``) whose gene tokens are adapted, instead of ones learned here.
    cache
        Folder of encoded sequences.
    """

    genome: Genome | None = None
    starts: pd.DataFrame | None = None
    peaks: pd.DataFrame | None = None
    atac: Cells | None = None
    encoder: SequenceEncoder | None = None
    folder: Path | None = None
    vectors: pd.DataFrame | None = None
    medians: pd.Series | None = None
    backbone: Any = None
    cache: Path | None = None


@dataclass(frozen=True)
class Order:
    """What a user asks of a training beside recipe and cells, see ``syncyte.train``."""

    batch_key: str | None = None
    label_key: str | None = None
    condition_keys: tuple[str, ...] = ()
    features: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    text_key: str | None = None
    ontology: Ontology | None = None
    markers: MarkerTable | None = None
    encoder: CellEncoder | None = None
    sequences: SequenceOrder | None = None
    validation: str | Sequence[str] | None = None
    resume: bool = False
    seed: int = 0
    quiet: bool = False
    command: str = ""

    def fitting(self) -> dict[str, Any]:
        """What ``train.loop.fit`` wants of it."""
        return {"seed": self.seed, "resume": self.resume, "quiet": self.quiet}


@dataclass(frozen=True)
class CellParts:
    """What differs between recipes of cell models: objectives, how they adapt to the cells, what stages need."""

    objectives: Callable[[CellRecipe, tuple[str, ...]], dict[str, nn.Module]]
    adapt: Callable[[CellRecipe, Cells], tuple[CellRecipe, list[str]]]
    needs: Callable[[CellRecipe], dict[str, tuple[str, ...]]]


Learn = Callable[[Path, Worker], None]  # trains into a RUN folder and writes the checkpoint


@dataclass(frozen=True)
class Recipe:
    """A named recipe: its presets, and what checks an order and gives what trains."""

    name: str
    modalities: tuple[str, ...]
    tasks: tuple[str, ...]
    presets: Mapping[str, Callable[[], Any]]
    prepare: Callable[[Recipe, Any, Cells, Order], Learn]
    parts: CellParts | None = None


recipes: Registry[Recipe] = Registry("recipe")


@dataclass(frozen=True)
class Assembled:
    """A model about to be trained, with what its loaders need."""

    config: CellRecipe
    spec: CellSpec
    model: CellModel
    start: LinearStart
    tokenizers: dict[str, Tokenizer]
    vocabularies: dict[str, pd.DataFrame]
    covariates: dict[str, NDArray[np.int64]]
    batches: list[str]
    split: Split


def layouts_of(config: CellRecipe, vocabularies: Mapping[str, pd.DataFrame]) -> dict[str, Layout]:
    """Tokens of each modality's vocabulary."""
    return {
        name: modalities[name].layout(
            var, tokens=config.tokens[name], groups=config.groups.get(name, 0), slots=config.slots.get(name, 0)
        )
        for name, var in vocabularies.items()
    }


def assemble(config: CellRecipe, cells: Cells, split: Split, batch_key: str | None, seed: int) -> Assembled:
    """Fit the start on training cells and build the model it fills."""
    chosen = split.train if config.start.cells == "train" else np.union1d(split.train, split.validation)
    held = cells.take(_start_rows(chosen, seed))
    if config.start.entries:
        held = _within(held, config.start.entries, seed)
    counts = {name: held.counts(name) for name in cells.modalities}
    present = {name: held.present(name) for name in cells.modalities}
    for name, flags in present.items():
        if not flags.any():
            raise DataError(f"No training cell has the modality {name!r}. Choose other --validation batches.")
    start = fit_start(
        counts,
        present,
        {name: modalities[name].residual for name in cells.modalities},
        per_cell={name: modalities[name].per_cell for name in cells.modalities},
        shared=config.start.shared,
        private=config.start.private,
        mode="auto" if config.start.mode == "none" else config.start.mode,
        seed=seed,
        groups=None if batch_key is None else held.column(batch_key).astype(str).to_numpy(),
        tune=config.start.tune,
    )
    codes, names = batch_codes(cells, batch_key, split)
    vocabularies = {name: cells.part(name).var for name in cells.modalities}
    sizes = {**config.sizes.model_dump(), "batches": len(names) if len(names) > 1 else 0}
    likelihood = {name: config.likelihood[name] for name in cells.modalities}
    spec = describe_start(start, likelihood, config.bins, config.samples, config.tied, **sizes)
    layouts = layouts_of(config, vocabularies)
    model = empty_model(spec, layouts)
    fill_from_start(model, start)
    if config.start.mode == "none":
        forget_start(model, seed)
    tokenizers = {
        name: Tokenizer(layouts[name], start.encoders[name].residual.share.astype(np.float32))
        for name in cells.modalities
    }
    return Assembled(config, spec, model, start, tokenizers, vocabularies, {"batch": codes}, names, split)


def forget_start(model: CellModel, seed: int) -> None:
    """Replace loadings and decoders by random ones of the same scale (ablation of the start); biases stay."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in model.names:
            head = model.heads[name]
            loadings = head.loadings if isinstance(head, RegionHead) else head.weight
            for parameter in (model.paths[name].table, loadings):
                scale = parameter.std()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def _start_rows(rows: NDArray[np.int64], seed: int, most: int = 50_000) -> NDArray[np.int64]:
    """Cells the start is fitted on: all, or a fixed number so that memory does not grow with the data."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _within(cells: Cells, entries: int, seed: int) -> Cells:
    """Random cells that hold about so many entries in all, judged by the first few hundred of them."""
    order = np.random.default_rng(seed + 1).permutation(len(cells))
    some = cells.take(np.sort(order[:512]))
    held = sum(some.counts(name).nnz for name in cells.modalities) / max(len(some), 1)
    return cells.take(np.sort(order[: max(1000, int(entries / max(held, 1.0)))]))


def batch_codes(cells: Cells, key: str | None, split: Split) -> tuple[NDArray[np.int64], list[str]]:
    """Codes of technical batches seen in training; -1 for others."""
    if key is None:
        return np.full(len(cells), -1, dtype=np.int64), []
    column = cells.column(key)
    text = column.astype(str).where(column.notna(), "")
    names = sorted({name for name in text.iloc[split.train] if name})
    return pd.Index(names).get_indexer(text).astype(np.int64), names


def stage_sampler(
    order: Sequence[NDArray[np.int64]],
    rows: NDArray[np.int64],
    stage: StageConfig,
    training: bool,
    seed: int,
    rank: int,
    world: int,
) -> BlockSampler:
    """Minibatches of a stage over some rows; ``order`` is where cells lie in each part."""
    return BlockSampler(
        storage_order(order, rows),
        stage.batch_size if training else 2 * stage.batch_size,
        block=1 if len(rows) <= 200_000 else 64,
        fetch=64 * stage.accumulate,
        seed=seed,
        shuffle=training,
        drop_last=training and len(rows) >= stage.batch_size,
        rank=rank,
        world=world,
    )


def loader_maker(
    built: Assembled, cells: Cells, needs: Mapping[str, tuple[str, ...]], seed: int
) -> Callable[[StageConfig, Literal["train", "validation"], int, int], EpochLoader | None]:
    """Minibatches of a stage: the cells that have every modality the stage needs."""
    order = [part.index for part in cells.parts.values()]

    def make(stage: StageConfig, split: Literal["train", "validation"], rank: int, world: int) -> EpochLoader | None:
        """Loader of one split, or None where it has no such cell."""
        rows = built.split.train if split == "train" else built.split.validation
        for name in needs[stage.name]:
            rows = rows[cells.present(name)[rows]]
        if len(rows) == 0:
            return None
        most = built.config.validation_cells
        if split != "train" and 0 < most < len(rows):
            rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        sampler = stage_sampler(order, rows, stage, split == "train", seed, rank, world)
        return Loader(cells, built.tokenizers, sampler, built.covariates)

    return make
