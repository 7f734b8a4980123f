"""Train a recipe on cells: what all recipes share, from the checks to the RUN folder.

Left out: opening files (``api``), what a recipe does (``train_cells``, ``train_sets``) and the loop (``train``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from syncyte.config import Config
from syncyte.data.cells import Cells
from syncyte.data.split import Split, hold_out, split_random
from syncyte.errors import ConfigError, DataError
from syncyte.recipes.base import Order, recipes
from syncyte.train.distributed import start_worker
from syncyte.train.folder import prepare_run

HELD_OUT, MOST_HELD = 0.05, 1_000  # share and number of cells


def configure(recipe: str, preset: str, settings: Sequence[str] = ()) -> Any:
    """Configuration of a preset with dotted settings applied."""
    from syncyte.errors import unknown

    found = recipes[recipe]
    if preset not in found.presets:
        raise ConfigError(unknown(f"preset of {recipe}", preset, found.presets))
    return found.presets[preset]().override(settings)


def named_split(cells: Cells, order: Order) -> Split | None:
    """Split by the technical batches that were named to be held out; None where none were."""
    if not order.validation:
        return None
    if order.batch_key is None:
        raise ConfigError("--validation names technical batches: say in which column they are with --batch-key.")
    values = [order.validation] if isinstance(order.validation, str) else list(order.validation)
    train, held = hold_out(cells.column(order.batch_key), values)
    return Split(train, held, "batch", ", ".join(values))


def few_held_out(cells: Cells, order: Order) -> Split:
    """The technical batches that were named, else a few cells at random that only draw the curves of validation."""
    share = min(HELD_OUT, MOST_HELD / max(len(cells), 1))
    return named_split(cells, order) or split_random(len(cells), share, order.seed)


def train_recipe(
    config: Config,
    cells: Cells,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    **asked: Any,
) -> Path:
    """Train and write the RUN folder; see ``syncyte.train``. What else may be asked is in ``Order``."""
    name = config.name  # type: ignore[attr-defined]
    recipe, order = recipes[name], Order(resume=resume, **asked)
    known = [name for name in recipe.modalities if name in cells.modalities]
    if not known:
        raise DataError(
            f"The recipe {name} learns from {' and '.join(recipe.modalities)}; "
            f"the cells have {', '.join(cells.modalities) or 'none'}."
        )
    beside = () if order.encoder is None else order.encoder.modalities  # another encoder may read more
    cells = cells.only([*known, *(name for name in beside if name in cells.modalities and name not in known)])
    if order.label_key is not None:
        cells.column(order.label_key)  # said now, not after the training
    learn = recipe.prepare(recipe, config, cells, order)
    worker = start_worker(device)
    # the caller's random state stays as it was
    with prepare_run(out, resume=resume, overwrite=overwrite, worker=worker) as folder, torch.random.fork_rng([]):
        if folder.finished:
            return folder.path
        torch.manual_seed(order.seed)  # initial weights
        learn(folder.path, worker)
        worker.barrier()
    return Path(out)
