"""What every recipe records of a training, and the checkpoint it leaves.

Leaves out: what is particular to a recipe, which hands it in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from syncyte.data.cells import Cells
from syncyte.data.split import Split
from syncyte.recipes.base import Order
from syncyte.train.checkpoint import save_checkpoint
from syncyte.train.loop import FitReport
from syncyte.types import json_ready


def held_batches(cells: Cells, key: str | None, split: Split) -> list[str]:
    """Technical batches that were held out whole."""
    if key is None or split.kind != "batch":
        return []
    return sorted(set(cells.column(key).astype(str).iloc[split.validation]))


def common_facts(cells: Cells, split: Split, report: FitReport, notes: list[str], order: Order) -> dict[str, Any]:
    """Keys, split, training, data and command, as they lie in ``recipe.json``."""
    return {
        "notes": notes,
        "batch_key": order.batch_key,
        "label_key": order.label_key,
        "split": {
            "kind": split.kind,
            "validation": split.name,
            "validation_batches": held_batches(cells, order.batch_key, split),
            "train_cells": len(split.train),
            "validation_cells": len(split.validation),
        },
        "training": {
            "cpu_seconds": report.cpu_seconds,
            "wall_seconds": report.wall_seconds,
            "stages": [vars(stage) for stage in report.stages],
        },
        "data": cells.report,
        "command": order.command,
    }


def save_run(
    run: Path,
    model: nn.Module,
    vocabularies: Mapping[str, pd.DataFrame],
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    about: Mapping[str, Any],
    metrics: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write the finished checkpoint.

    Parameters
    ----------
    facts
        All of ``recipe.json``: ``config``, ``spec``, what ``common_facts`` gives, and more.
    arrays
        Preprocessing by name.
    tables
        More tables, which are no features.
    about, metrics
        What the card says beside data, notes and command, and numbers beside time and validation.
    """
    weights = model.state_dict()
    digest = hashlib.sha256(json.dumps(json_ready(facts["config"]), sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    split, training = facts["split"], facts["training"]
    card = {
        "name": f"{facts['config']['name']} ({facts['config']['preset']})",
        "data": {
            "training cells": split["train_cells"],
            "held out for choices": f"{split['validation_cells']} cells ({split['kind']}: {split['validation']})",
            **{f"{name} features": len(var) for name, var in vocabularies.items()},
        },
        **about,
        "notes": facts["notes"],
        "command": facts["command"],
    }
    numbers = {
        "cpu_seconds": training["cpu_seconds"],
        **metrics,
        **{f"{stage['name']}_validation_start": stage["start"] for stage in training["stages"]},
        **{f"{stage['name']}_validation_best": stage["best"] for stage in training["stages"]},
    }
    save_checkpoint(
        run,
        weights=weights,
        recipe={**facts, "fingerprint": digest.hexdigest()[:16]},
        vocabularies={**vocabularies, **(tables or {})},
        preprocessing=arrays,
        card=card,
        metrics=numbers,
    )
