"""CLM-Access: open chromatin on one reference of a million regions (see docs/recipes/clm_access).

Paper -> parts: one reference for all data (``data harmonise``), patches of regions (``modalities.atac``), region-level
masked loss (``objectives.regions``), integration, annotation and expression prediction (``tasks``). Beyond the paper:
regions have vectors of their own instead of slots, started from the depth-scaled singular vectors; the loss reads what
is open and a sample of what is closed (``nn.region_head``); masks are drawn per cell; RNA may be measured beside.
Left out: flash attention, a contrastive stage.
"""

from __future__ import annotations

from typing import Any

from syncyte.recipes.base import CellRecipe, Recipe, recipes
from syncyte.recipes.stages import NAMES, adapt, masked_stage, needs, objectives

ENTRIES = 20_000_000  # measured entries the start is fitted on: about a gigabyte while it is


def _recipe(preset: str, epochs: tuple[float, float, float], **changes: Any) -> CellRecipe:
    stage: dict[str, Any] = changes.pop("stage", {})
    start: dict[str, Any] = changes.pop("start", {})
    values: dict[str, Any] = {
        "name": "clm_access",
        "preset": preset,
        "start": {"entries": ENTRIES, **start},
        "tokens": {"rna": 128, "atac": 96},
        "groups": {"rna": 0, "atac": 96},
        "slots": {"rna": 0, "atac": 0},
        "bins": {"rna": 0, "atac": 0},
        "samples": {"atac": 4096},
        "tied": True,
        "validation_cells": 1000,
        "embedding": {"floor": True, "depth": 0.05},
        "likelihood": {"rna": "gaussian", "atac": "profile"},
        "masking": {
            "ratio": {"rna": 0.2, "atac": 0.3},
            "dropout": {"rna": 0.4, "atac": 0.1},
            "thinning": {"rna": 0.5},
        },
        "stages": {
            "atac": masked_stage("atac", {"regions": 1.0}, epochs[0], **stage),
            "rna": masked_stage("rna", {"share_rna": 1.0}, epochs[1], **stage),
            "both": masked_stage("both", {"whole": 1.0}, epochs[2], **stage),
        },
        **changes,
    }
    return CellRecipe.parse(values)


def tiny() -> CellRecipe:
    """Seconds; for tests."""
    sizes = {"hidden": 16, "layers": 2, "width": 16, "heads": 2}
    return _recipe(
        "tiny",
        (1, 1, 1),
        sizes=sizes,
        start={"shared": 6, "private": 6},
        tokens={"rna": 24, "atac": 16},
        groups={"rna": 0, "atac": 16},
        samples={"atac": 64},
        stage={"batch_size": 32},
    )


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


recipes.add("clm_access")(
    Recipe(
        "clm_access",
        NAMES,
        ("embed", "integrate", "annotate", "translate", "evaluate"),
        {"tiny": tiny, "lite": lite, "small": small, "base": base, "paper": paper},
        objectives,
        adapt,
        needs,
    )
)
