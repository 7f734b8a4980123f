"""Train a set model: features, moments, autoencoder, stored codes, flow, checkpoint.

Left out: what all recipes do (``train``), the losses (``objectives.sets``) and the loop itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.baselines.prediction import depth_of, log_values
from syncyte.baselines.variable import variable_columns
from syncyte.config import Config
from syncyte.data.cells import Cells
from syncyte.data.load import Loader
from syncyte.data.sample import BlockSampler
from syncyte.data.split import Split
from syncyte.errors import ConfigError, DataError
from syncyte.modalities import Tokenizer, modalities
from syncyte.models.conditions import ConditionCoder, Shares, describe_attributes, feature_rows
from syncyte.models.language import WordSizes
from syncyte.models.latent_flow import FlowSizes
from syncyte.models.sets import ALL_TOKENS, CountLikelihood, SetModel, SetSizes, SetSpec
from syncyte.objectives.sets import Codes, CountElbo, FlowMatching
from syncyte.recipes.base import Learn, Order, Recipe, stage_sampler
from syncyte.recipes.codes import set_scale, write_codes
from syncyte.recipes.save import common_facts, save_run
from syncyte.recipes.set_memory import fit_groups, fit_library
from syncyte.recipes.train import few_held_out
from syncyte.recipes.word_types import WordsConfig
from syncyte.train.distributed import Worker
from syncyte.train.folder import CODES
from syncyte.train.loop import fit
from syncyte.train.plan import EpochLoader, StageConfig
from syncyte.types import Batch

PER_CELL = 1e4  # where the modality names no total of its own
MOST_CELLS = 50_000  # that moments and scales are taken from
FEW_ROUNDS, FEW_WIDTH = 4, 32  # rounds of validation without improvement
MOST_TRIED = 20_000  # that variable features are chosen on


class SetRecipe(Config):
    """Everything that decides a set model.

    Attributes
    ----------
    modality
        Which is learned where cells have several; the first of the recipe by default.
    features
        Number of most variable features that are kept, chosen on training cells; 0 keeps all.
    tokens, groups
        Most tokens that attention reads of a cell (0: no limit), and patches where features are regions.
    kl, warmup, thinning, noise
        See ``objectives.sets.CountElbo``; ``warmup`` is the share of the stage's minibatches.
    each, every
        Rates at which attributes are dropped in training the flow.
    decoded
        Features that are decoded in a step of training, drawn anew each time; 0 for all.
    steps
        Fewest and most optimiser steps of each stage: the number of epochs is brought within.
    few_counts
        Where cells hold fewer counts than that for each feature on average, the autoencoder is no wider than
        ``FEW_WIDTH``, keeps its best validation round and stops ``FEW_ROUNDS`` rounds after it: so little is soon
        learned by heart.
    few_cells
        Below so many training cells, ``few_hidden`` and ``few_batch`` replace width and minibatch of the autoencoder.
    words
        What is learned of words; None for nothing.
    """

    name: str
    preset: str
    modality: str = ""
    features: int = 0
    tokens: int = 0
    groups: int = 0
    likelihood: CountLikelihood = "nb"
    sizes: SetSizes = SetSizes()
    flow: FlowSizes = FlowSizes()
    kl: float = 1.0
    warmup: float = 0.25
    thinning: float = 0.5
    noise: float = 0.0
    decoded: int = 0
    each: float = 0.1
    every: float = 0.05
    steps: dict[str, tuple[int, int]] = {}
    few_counts: float = 0.0
    few_cells: int = 0
    few_hidden: int = 128
    few_batch: int = 64
    words: WordsConfig | None = None
    stages: dict[str, StageConfig]


@dataclass(frozen=True)
class RowLoader:
    """Minibatches that are row numbers only: what is learned lies with the objective."""

    sampler: BlockSampler

    def __len__(self) -> int:
        """Minibatches in an epoch."""
        return len(self.sampler)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Minibatches of an epoch."""
        for rows in self.sampler.epoch(epoch, start):
            yield Batch({}, {}, {}, torch.from_numpy(rows))


@dataclass(frozen=True)
class Added:
    """Facts, arrays and tables of a checkpoint."""

    facts: dict[str, Any]
    arrays: dict[str, NDArray]
    tables: dict[str, pd.DataFrame]


@dataclass(frozen=True)
class More:
    """What a recipe adds to a set model.

    Attributes
    ----------
    words
        Sizes of the part that knows words; None for none.
    objectives
        Gives more objectives by name, for the built model, the RUN folder and this process.
    drawn
        Gives more conditions of the flow, see ``Codes.drawn``, once what comes before the flow is learned.
    finish
        What the finished run holds besides.
    """

    words: WordSizes | None = None
    objectives: Callable[[Built, Path, Worker], Mapping[str, torch.nn.Module]] | None = None
    drawn: Callable[[SetModel], Callable[..., Mapping[str, torch.Tensor]]] | None = None
    finish: Callable[[Built, Path], Added] | None = None


@dataclass(frozen=True)
class Built:
    """A model about to be trained, and what its training reads."""

    config: SetRecipe
    spec: SetSpec
    model: SetModel
    cells: Cells
    split: Split
    tokenizer: Tokenizer
    coder: ConditionCoder
    shares: Shares
    notes: list[str]
    more: More = More()


def prepare_sets(
    recipe: Recipe,
    config: SetRecipe,
    cells: Cells,
    order: Order,
    more: Callable[[Cells, Cells, Split, list[str]], More] | None = None,
) -> Learn:
    """Check what can be checked before anything is written, and give what trains.

    ``more`` is given the cells with the modality that is learned, the same cells with all they have, split and notes.
    """
    notes: list[str] = []
    _check_sizes(config)
    able = [name for name in recipe.modalities if name in cells.modalities]
    name = config.modality or able[0]
    if name not in able:
        raise ConfigError(f"modality={name!r} is not in the cells, which have {' and '.join(able)}.")
    if len(able) > 1:
        notes.append(f"{recipe.name} learns one modality: {name!r} here (--set modality=... chooses another).")
    whole = cells
    have = cells.present(name)
    if not have.all():
        notes.append(f"{int((~have).sum()):,} of {len(cells):,} cells have no {name!r} and are left out.")
        whole = cells.take(np.flatnonzero(have))
    cells = whole.only([name])
    keys = list(dict.fromkeys([*([order.label_key] if order.label_key else []), *order.condition_keys]))
    for key in keys:
        cells.column(key)
    split = few_held_out(cells, order)
    strange = sorted(set(order.features) - set(keys))
    if strange:
        raise ConfigError(f"--features describes {strange[0]!r}, which is no condition: name it in --condition-keys.")
    attributes = describe_attributes(cells.obs, keys, split.train, order.features)
    coder = ConditionCoder(attributes, feature_rows(attributes, order.features))
    shares = Shares.of(cells.obs.iloc[split.train], attributes, order.seed)
    if not attributes:
        notes.append("No --label-key and no --condition-keys: cells can be generated, but not asked for.")
    extra = More() if more is None else more(cells, whole, split, notes)
    return partial(_learn, config, cells, order, split, coder, shares, notes, extra)


def _check_sizes(config: SetRecipe) -> None:
    """Refuse sizes that do not divide each other."""
    sizes, flow = config.sizes.model_dump(), config.flow.model_dump()
    pairs = [("sizes", sizes, "latents", "queries"), ("flow", flow, "width", "heads")]
    pairs += [("sizes", sizes, "width", "heads")] if config.sizes.queries else []
    for part, values, whole, share in pairs:
        if values[whole] % max(values[share], 1):
            raise ConfigError(
                f"{part}.{whole}={values[whole]} is no multiple of {part}.{share}={values[share]}: change one of them."
            )


def assemble_sets(
    config: SetRecipe,
    cells: Cells,
    split: Split,
    coder: ConditionCoder,
    shares: Shares,
    notes: list[str],
    seed: int,
    more: More = More(),
) -> Built:
    """Choose features, and make the model that knows the moments of training cells."""
    name = cells.modalities[0]
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(split.train)[:MOST_CELLS])
    if config.features and config.features < len(cells.part(name).var):
        columns = variable_columns(cells.counts(name, some[:MOST_TRIED]), config.features)
        cells = cells.align(name, cells.part(name).features[columns])
    if config.few_cells > len(split.train):
        config = config.model_copy(update={"sizes": config.sizes.model_copy(update={"hidden": config.few_hidden})})
    stages = within_steps(config, len(split.train), notes)
    depth = np.concatenate([depth_of(counts) for _, counts in cells.blocks(name, some)]).mean()
    if depth < config.few_counts * len(cells.part(name).var):
        few = f"{depth:.0f} counts a cell in {len(cells.part(name).var):,} features"
        notes.append(f"{few}: a narrow autoencoder keeps its best round (few_counts).")
        narrow = config.sizes.model_copy(update={"hidden": min(config.sizes.hidden, FEW_WIDTH)})
        config = config.model_copy(update={"sizes": narrow})
        early = {"keep": "best", "patience": FEW_ROUNDS}
        stages["autoencode"] = stages["autoencode"].model_copy(update=early)
    config = config.model_copy(update={"stages": stages})
    var = cells.part(name).var
    per_cell = modalities[name].per_cell or PER_CELL
    spec = SetSpec(
        modality=name,
        features=len(var),
        per_cell=per_cell,
        likelihood=config.likelihood,
        sizes=config.sizes,
        flow=config.flow,
        attributes=list(coder.attributes.values()),
        words=more.words,
    )
    model = SetModel(spec)
    share = fill_moments(model, cells, name, some)
    layout = modalities[name].layout(var, tokens=config.tokens or ALL_TOKENS, groups=config.groups)
    return Built(config, spec, model, cells, split, Tokenizer(layout, share), coder, shares, notes, more)


def within_steps(config: SetRecipe, cells: int, notes: list[str]) -> dict[str, StageConfig]:
    """Stages whose length in optimiser steps lies within ``config.steps``; a note says where that changed it."""
    found = {}
    for key, stage in config.stages.items():
        if key == "autoencode" and config.few_cells > cells:
            stage = stage.model_copy(update={"batch_size": min(stage.batch_size, config.few_batch)})
        each = max(1, cells // (stage.batch_size * stage.accumulate))
        low, high = config.steps.get(key, (0, 1 << 60))
        wanted = round(stage.epochs * each)
        steps = min(max(wanted, low), high)
        if stage.active and steps != wanted:
            notes.append(f"Stage {key!r}: {steps:,} steps instead of {wanted:,} (steps.{key}).")
            stage = stage.model_copy(update={"epochs": steps / each})
        found[key] = stage
    return found


@torch.no_grad()
def fill_moments(model: SetModel, cells: Cells, name: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Set centre and spread of log values, and the decoder's start at the mean shares, which are given back."""
    width = model.spec.features
    total, first, second, seen = np.zeros(width), np.zeros(width), np.zeros(width), 0
    for block, counts in cells.blocks(name, rows):
        logs = log_values(counts, model.spec.per_cell)
        values = logs.data.astype(np.float64)
        total += np.asarray(counts.sum(axis=0)).ravel()
        first += np.bincount(logs.indices, values, minlength=width)
        second += np.bincount(logs.indices, values**2, minlength=width)
        seen += len(block)
    if not total.sum():
        raise DataError(f"The training cells have no {name} counts at all. Check the file and its raw counts.")
    mean = first / seen
    spread = np.sqrt(np.maximum(second / seen - mean**2, 0)) + 0.25
    share = (total + 0.5 * total.mean() / seen) / (total.sum() * (1 + 0.5 / seen))
    model.encoder.center.copy_(torch.from_numpy(mean))
    model.encoder.spread.copy_(torch.from_numpy(spread))
    model.decoder.bias.copy_(torch.from_numpy(np.log(share)))
    return share.astype(np.float32)


def _learn(
    config: SetRecipe,
    cells: Cells,
    order: Order,
    split: Split,
    coder: ConditionCoder,
    shares: Shares,
    notes: list[str],
    more: More,
    run: Path,
    worker: Worker,
) -> None:
    built = assemble_sets(config, cells, split, coder, shares, notes, order.seed, more)
    stages = [stage for stage in built.config.stages.values() if stage.active]
    modules = set_objectives(built, run, worker)
    objectives = {stage.name: {key: modules[key] for key in stage.objectives} for stage in stages}
    make = partial(_loader, built, order.seed)
    report = fit(
        built.model, stages, run=run, make_loader=make, objectives=objectives, worker=worker, **order.fitting()
    )
    if worker.rank == 0:
        (run / CODES).unlink(missing_ok=True)
        facts = {
            "kind": "sets",
            "config": built.config.model_dump(mode="json"),
            "spec": built.spec.model_dump(mode="json"),
            "shares": built.shares.plain(),
            "library": fit_library(built, order.seed),
            **common_facts(built.cells, split, report, built.notes, order),
        }
        vocabularies = {built.spec.modality: built.cells.part(built.spec.modality).var}
        arrays: dict[str, np.ndarray] = {"share": built.tokenizer.share}
        arrays |= {"embedding.scale": np.ones(built.spec.sizes.latents, dtype=np.float32)}
        arrays |= {f"features.{key}": table for key, table in coder.features.items()}
        groups = fit_groups(built)
        if groups is not None:
            facts["groups"] = {"values": groups.table.to_dict("list"), "cells": groups.cells.tolist()}
            arrays |= {f"groups.{name}": getattr(groups, name) for name in ("totals", "means", "variances")}
        added = Added({}, {}, {}) if more.finish is None else more.finish(built, run)
        facts, arrays = facts | added.facts, arrays | added.arrays
        save_run(run, built.model, vocabularies, facts, arrays, tables=added.tables, about={}, metrics={})


def set_objectives(built: Built, run: Path, worker: Worker) -> dict[str, torch.nn.Module]:
    """Objectives by name."""
    config, name = built.config, built.spec.modality
    stage = config.stages["autoencode"]
    length = stage.epochs * (len(built.split.train) // stage.batch_size)

    def codes(model: SetModel) -> Codes:
        values = write_codes(model, built.cells, {name: built.tokenizer}, run, worker)
        rows = np.sort(np.random.default_rng(0).permutation(built.split.train)[:MOST_CELLS])
        set_scale(model, values, rows)
        drawn = None if built.more.drawn is None else built.more.drawn(model)
        return Codes(values, built.coder.arrays(built.cells.obs, strict=False), built.coder, drawn)

    how: dict[str, Any] = {"kl": config.kl, "thinning": config.thinning, "noise": config.noise, "some": config.decoded}
    elbo = CountElbo(name, warmup=round(config.warmup * length), **how)
    flow = FlowMatching(codes, each=config.each, every=config.every)
    own: dict[str, torch.nn.Module] = {"elbo": elbo, "flow": flow}
    return own if built.more.objectives is None else own | dict(built.more.objectives(built, run, worker))


def _loader(
    built: Built, seed: int, stage: StageConfig, split: Literal["train", "validation"], rank: int, world: int
) -> EpochLoader | None:
    training = split == "train"
    rows = built.split.train if training else built.split.validation
    if len(rows) == 0:
        return None
    cells, name = built.cells, built.spec.modality
    sampler = stage_sampler([cells.part(name).index], rows, stage, training, seed, rank, world)
    return RowLoader(sampler) if "flow" in stage.objectives else Loader(cells, {name: built.tokenizer}, sampler)
