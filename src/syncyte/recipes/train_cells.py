"""Train a cell model: start, stages, gate, checkpoint.

The same function serves every recipe of cell models. Left out: what all recipes do (``train``) and the loop itself.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.split import Split, choose_validation
from syncyte.models.cell import CellModel, without
from syncyte.recipes.axes import embedding_axes
from syncyte.recipes.base import Assembled, CellRecipe, Learn, Order, Recipe, assemble, loader_maker
from syncyte.recipes.save import common_facts, save_run
from syncyte.recipes.train import named_split
from syncyte.train.distributed import Worker
from syncyte.train.loop import FitReport, fit
from syncyte.train.plan import EpochLoader

GATES = (0.0, 0.25, 0.5, 0.75, 1.0)
KEPT = 0.5  # of what held-out cells ask for: they also stopped the training, and other batches want less (measured)


def split_cells(cells: Cells, order: Order) -> Split:
    """Cells that train and cells that choose: the named technical batches, else one batch, else a random tenth."""
    named = named_split(cells, order)
    if named is not None:
        return named
    column = cells.column(order.batch_key) if order.batch_key else None
    return choose_validation(column, len(cells), seed=order.seed)


def prepare_cells(recipe: Recipe, config: CellRecipe, cells: Cells, order: Order) -> Learn:
    """Check what can be checked before anything is written, and give what trains."""
    assert recipe.parts is not None
    split = split_cells(cells, order)
    config, notes = recipe.parts.adapt(config, cells.take(split.train))
    without = 0 if order.batch_key is None else int(cells.column(order.batch_key).isna().sum())
    if without:
        notes.append(
            f"{without:,} of {len(cells):,} cells have no {order.batch_key!r}: as if of an average technical batch."
        )
    return partial(_learn, recipe, config, cells, order, split, notes)


def _learn(
    recipe: Recipe,
    config: CellRecipe,
    cells: Cells,
    order: Order,
    split: Split,
    notes: list[str],
    run: Path,
    worker: Worker,
) -> None:
    assert recipe.parts is not None
    built = assemble(config, cells, split, order.batch_key, order.seed)
    modules = recipe.parts.objectives(config, cells.modalities)
    stages = [stage for stage in config.stages.values() if stage.active]
    objectives = {stage.name: {key: modules[key] for key in stage.objectives} for stage in stages}
    make = loader_maker(built, cells, recipe.parts.needs(config), order.seed)
    report = fit(
        built.model, stages, run=run, make_loader=make, objectives=objectives, worker=worker, **order.fitting()
    )
    paired = next((stage for stage in stages if "whole" in stage.objectives), None)
    gates = {}
    if config.gate and paired is not None:
        loader = make(paired, "validation", 0, 1)
        # without a start there is nothing to fall back on
        gates = choose_gates(built.model, loader, worker, 1.0 if config.start.mode == "none" else KEPT)
    if worker.rank == 0:
        facts = _facts(built, cells, report, gates, notes, order)
        axes = embedding_axes(built, cells, worker.device, order.seed)
        _save(run, built, facts, axes)


@torch.no_grad()
def choose_gates(model: CellModel, loader: EpochLoader | None, worker: Worker, kept: float = KEPT) -> dict[str, float]:
    """Set each target's gate: ``kept`` times the share of the residual that held-out paired cells predict best with."""
    if loader is None:
        return {}
    model.eval()
    totals = {name: [0.0] * len(GATES) for name in model.names}
    for batch in loader.epoch(0):
        batch = batch.to(worker.device)
        for name in model.names:
            cells = batch.present[name]
            encoded = model.encode(batch.tokens, without(batch, name))
            for index, gate in enumerate(GATES):
                model.gate.fill_(gate)
                loss = model.heads[name].loss(model.decode(encoded, name), batch.tokens[name], cells, None)
                totals[name][index] += float(loss.total) * int(cells.sum())
    chosen = {name: kept * GATES[min(range(len(GATES)), key=values.__getitem__)] for name, values in totals.items()}
    for index, name in enumerate(model.names):
        model.gate[index] = chosen[name]
    return chosen


def _facts(
    built: Assembled, cells: Cells, report: FitReport, gates: dict[str, float], notes: list[str], order: Order
) -> dict[str, Any]:
    return {
        "config": built.config.model_dump(mode="json"),
        "spec": built.spec.model_dump(mode="json"),
        "start": built.start.note,
        "gates": gates,
        "batches": built.batches,
        **common_facts(cells, built.split, report, notes, order),
    }


def _save(run: Path, built: Assembled, facts: dict[str, Any], axes: dict[str, NDArray[np.float32]]) -> None:
    save_run(
        run,
        built.model,
        built.vocabularies,
        facts,
        {f"{name}.strength": built.start.encoders[name].strength for name in built.vocabularies} | axes,
        about={"start": facts["start"]},
        metrics={f"gate_{name}": gate for name, gate in facts["gates"].items()},
    )
