"""Train a recipe on cells: split, start, stages, gate, checkpoint.

The same function serves every cell-model recipe. Left out: opening files (``api``) and the loop itself (``train``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.data.split import Split, choose_validation, hold_out
from syncyte.errors import ConfigError, DataError
from syncyte.models.cell import CellModel, without
from syncyte.recipes.axes import embedding_axes
from syncyte.recipes.base import Assembled, CellRecipe, assemble, loader_maker, recipes
from syncyte.train.checkpoint import save_checkpoint
from syncyte.train.distributed import Worker, start_worker
from syncyte.train.folder import prepare_run
from syncyte.train.loop import FitReport, fit
from syncyte.train.plan import EpochLoader
from syncyte.types import json_ready

GATES = (0.0, 0.25, 0.5, 0.75, 1.0)
KEPT = 0.5  # of what held-out cells ask for: they also stopped the training, and other batches want less (measured)


def configure(recipe: str, preset: str, settings: Sequence[str] = ()) -> CellRecipe:
    """Configuration of a preset with dotted settings applied."""
    from syncyte.errors import unknown

    found = recipes[recipe]
    if preset not in found.presets:
        raise ConfigError(unknown(f"preset of {recipe}", preset, found.presets))
    return found.presets[preset]().override(settings)


def split_cells(cells: Cells, batch_key: str | None, validation: str | Sequence[str] | None, seed: int) -> Split:
    """Cells that train and cells that choose: the named technical batches, else one batch, else a random tenth."""
    column = cells.column(batch_key) if batch_key else None
    if validation:
        if column is None:
            raise ConfigError("--validation names technical batches: say in which column they are with --batch-key.")
        values = [validation] if isinstance(validation, str) else list(validation)
        train, held = hold_out(column, values)
        return Split(train, held, "batch", ", ".join(values))
    return choose_validation(column, len(cells), seed=seed)


def train_recipe(
    config: CellRecipe,
    cells: Cells,
    out: Path,
    *,
    batch_key: str | None = None,
    label_key: str | None = None,
    validation: str | Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    command: str = "",
) -> Path:
    """Train and write the RUN folder; see ``syncyte.train``."""
    recipe = recipes[config.name]
    known = [name for name in recipe.modalities if name in cells.modalities]
    if not known:
        raise DataError(
            f"The recipe {config.name} learns from {' and '.join(recipe.modalities)}; "
            f"the cells have {', '.join(cells.modalities) or 'none'}."
        )
    cells = cells.only(known)
    if label_key is not None:
        cells.column(label_key)  # said now, not after the training
    split = split_cells(cells, batch_key, validation, seed)
    config, notes = recipe.adapt(config, cells.take(split.train))
    without = 0 if batch_key is None else int(cells.column(batch_key).isna().sum())
    if without:
        notes.append(f"{without:,} of {len(cells):,} cells have no {batch_key!r}: as if of an average technical batch.")
    worker = start_worker(device)
    # the caller's random state stays as it was
    with prepare_run(out, resume=resume, overwrite=overwrite, worker=worker) as folder, torch.random.fork_rng([]):
        if folder.finished:
            return folder.path
        torch.manual_seed(seed)  # initial weights
        built = assemble(config, cells, split, batch_key, seed)
        modules = recipe.objectives(config, tuple(known))
        stages = [stage for stage in config.stages.values() if stage.active]
        objectives = {stage.name: {key: modules[key] for key in stage.objectives} for stage in stages}
        make = loader_maker(built, cells, recipe.needs(config), seed)
        how: dict[str, Any] = {"device": device, "seed": seed, "resume": resume, "quiet": quiet, "worker": worker}
        report = fit(built.model, stages, run=folder.path, make_loader=make, objectives=objectives, **how)
        paired = next((stage for stage in stages if "whole" in stage.objectives), None)
        gates = {}
        if config.gate and paired is not None:
            loader = make(paired, "validation", 0, 1)
            # without a start there is nothing to fall back on
            gates = choose_gates(built.model, loader, worker, 1.0 if config.start.mode == "none" else KEPT)
        if worker.rank == 0:
            facts = _facts(built, cells, report, gates, notes, batch_key, label_key, command)
            axes = embedding_axes(built, cells, worker.device, seed)
            _save(folder.path, built, facts, axes)
        worker.barrier()
    return Path(out)


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


def _held_batches(cells: Cells, key: str | None, split: Split) -> list[str]:
    """Technical batches that were held out whole."""
    if key is None or split.kind != "batch":
        return []
    return sorted(set(cells.column(key).astype(str).iloc[split.validation]))


def _facts(
    built: Assembled,
    cells: Cells,
    report: FitReport,
    gates: dict[str, float],
    notes: list[str],
    batch_key: str | None,
    label_key: str | None,
    command: str,
) -> dict[str, Any]:
    return {
        "config": built.config.model_dump(mode="json"),
        "spec": built.spec.model_dump(mode="json"),
        "start": built.start.note,
        "gates": gates,
        "notes": notes,
        "batch_key": batch_key,
        "label_key": label_key,
        "batches": built.batches,
        "split": {
            "kind": built.split.kind,
            "validation": built.split.name,
            "validation_batches": _held_batches(cells, batch_key, built.split),
            "train_cells": len(built.split.train),
            "validation_cells": len(built.split.validation),
        },
        "training": {
            "cpu_seconds": report.cpu_seconds,
            "wall_seconds": report.wall_seconds,
            "stages": [vars(stage) for stage in report.stages],
        },
        "data": cells.report,
        "command": command,
    }


def _save(run: Path, built: Assembled, facts: dict[str, Any], axes: dict[str, NDArray[np.float32]]) -> None:
    weights = built.model.state_dict()
    digest = hashlib.sha256(json.dumps(json_ready(facts["config"]), sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    split, training = facts["split"], facts["training"]
    card = {
        "name": f"{facts['config']['name']} ({facts['config']['preset']})",
        "data": {
            "training cells": split["train_cells"],
            "held out for choices": f"{split['validation_cells']} cells ({split['kind']}: {split['validation']})",
            **{f"{name} features": len(var) for name, var in built.vocabularies.items()},
        },
        "start": facts["start"],
        "notes": facts["notes"],
        "command": facts["command"],
    }
    metrics = {
        "cpu_seconds": training["cpu_seconds"],
        **{f"gate_{name}": gate for name, gate in facts["gates"].items()},
        **{f"{stage['name']}_validation_start": stage["start"] for stage in training["stages"]},
        **{f"{stage['name']}_validation_best": stage["best"] for stage in training["stages"]},
    }
    save_checkpoint(
        run,
        weights=weights,
        recipe={**facts, "fingerprint": digest.hexdigest()[:16]},
        vocabularies=built.vocabularies,
        preprocessing={f"{name}.strength": built.start.encoders[name].strength for name in built.vocabularies} | axes,
        card=card,
        metrics=metrics,
    )
