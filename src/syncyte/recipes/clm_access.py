"""CLM-Access: open chromatin on one reference of a million regions (see docs/recipes/clm_access).

Paper -> parts: one reference for all data (``data harmonise``), patches of regions (``modalities.atac``), region-level
masked loss (``objectives.regions``), integration, annotation and expression prediction (``tasks``). Beyond the paper:
regions have vectors of their own instead of slots, started from the depth-scaled singular vectors; the loss reads what
is open and a sample of what is closed (``nn.region_head``); masks are drawn per cell; RNA may be measured beside.
Left out: flash attention, a contrastive stage.
"""

from __future__ import annotations

from typing import Any

from syncyte.data.cells import Cells
from syncyte.errors import ConfigError
from syncyte.recipes.base import CellParts, CellRecipe, Recipe, recipes
from syncyte.recipes.stages import NAMES, TINY, adapt, masked_recipe, masked_stage, needs, objectives
from syncyte.recipes.train_cells import prepare_cells

ENTRIES = 20_000_000  # measured entries the start is fitted on: about a gigabyte while it is


def _recipe(preset: str, epochs: tuple[float, float, float], **changes: Any) -> CellRecipe:
    values: dict[str, Any] = {
        "samples": {"atac": 4096},
        "tied": True,
        "validation_cells": 1000,
        "embedding": {"floor": True, "depth": 0.05},
        **changes,
        "start": {"entries": ENTRIES, **changes.get("start", {})},
    }
    return masked_recipe("clm_access", "regions", preset, epochs, **values)


def tiny() -> CellRecipe:
    """Seconds; for tests."""
    return _recipe("tiny", (1, 1, 1), **TINY, samples={"atac": 64})


def lite() -> CellRecipe:
    """No attention: the fastest."""
    return _recipe("lite", (2, 1, 3))


def small() -> CellRecipe:
    """Two layers of width 64: minutes on a laptop CPU."""
    return _recipe("small", (2, 1, 2), sizes={"layers": 2}, stage={"lr": 5e-4, "ema": 0.98})


def base() -> CellRecipe:
    """A table that learns and eight layers of width 256 over 512 patches: a corpus, and a GPU."""
    sizes = {"layers": 8, "width": 256, "heads": 8, "hidden": 512, "dropout": 0.2}
    return _recipe(
        "base",
        (3, 3, 5),
        sizes=sizes,
        start={"private": 64},
        samples={"atac": 16384},
        tokens={"rna": 1024, "atac": 512},
        groups={"rna": 0, "atac": 512},
        stage={"lr": 3e-4, "warmup_steps": 500, "lr_factors": {"level": 0.0, r"bias$": 0.1}},
    )


def paper() -> CellRecipe:
    """The published layout and sizes, without its off-by-one: 1,998 patches of 600 slots, 8 layers of width 256.

    Patches are hidden as published: 15 %, the same ones in all cells of a minibatch.
    """
    return _recipe(
        "paper",
        (15, 0, 0),
        sizes={"layers": 8, "width": 256, "heads": 8, "published": True},
        start={"mode": "none"},
        tokens={"rna": 0, "atac": 1998},
        groups={"rna": 0, "atac": 1998},
        slots={"rna": 0, "atac": 600},
        masking={"ratio": {"rna": 0.0, "atac": 0.15}},
        embedding={"floor": False, "depth": None},
        stages={
            "atac": masked_stage(
                "atac",
                {"slots": 1.0},
                15,
                lr=1e-4,
                weight_decay=0.01,
                betas=(0.9, 0.999),
                warmup_steps=10_000,
                batch_size=8,
                lr_factors={},
            )
        },
    )


def needs_atac(config: CellRecipe, cells: Cells) -> tuple[CellRecipe, list[str]]:
    """Refuse cells without open chromatin; then see ``stages.adapt``."""
    if "atac" not in cells.modalities:
        raise ConfigError(
            f"clm_access learns from open chromatin, and the cells have {' and '.join(cells.modalities)} alone. Give "
            "cells with ATAC (for a plain .h5ad: --modality atac), or train clm_x."
        )
    return adapt(config, cells)


recipes.add("clm_access")(
    Recipe(
        "clm_access",
        NAMES,
        ("embed", "integrate", "annotate", "translate", "evaluate"),
        {"tiny": tiny, "lite": lite, "small": small, "base": base, "paper": paper},
        prepare_cells,
        CellParts(objectives, needs_atac, needs),
    )
)
