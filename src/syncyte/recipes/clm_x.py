"""CLM-X: RNA and ATAC in one token space, translated both ways (Lin et al.; see docs/recipes/clm_x).

Paper -> parts: shared attention with an expert per modality and a mixer (``nn.transformer``), patches of regions and
gene tokens (``modalities``), stage-wise masked reconstruction (``objectives.masked``): ATAC, RNA, then whole modalities
both ways, the direction drawn per cell. Beyond the paper: the linear start, region embeddings instead of slots,
unpaired cells, decoders that take technical batches, a gate chosen on held-out cells. Left out: flash attention.
"""

from __future__ import annotations

from functools import partial

from syncyte.recipes.base import CellParts, CellRecipe, Recipe, recipes
from syncyte.recipes.stages import NAMES, TINY, adapt, masked_recipe, needs, objectives
from syncyte.recipes.train_cells import prepare_cells

_recipe = partial(masked_recipe, "clm_x", "share_atac")


def tiny() -> CellRecipe:
    """Seconds; for tests."""
    return _recipe("tiny", (1, 1, 1), **TINY)


def lite() -> CellRecipe:
    """No attention: the fastest."""
    return _recipe("lite", (1, 1, 3))


def small() -> CellRecipe:
    """Two layers of width 64: minutes on a laptop CPU."""
    return _recipe("small", (1, 1, 2), sizes={"layers": 2}, stage={"lr": 5e-4, "ema": 0.98})


def base() -> CellRecipe:
    """Eight layers of width 256: one GPU."""
    sizes = {"layers": 8, "width": 256, "heads": 8, "mixer_layers": 3, "hidden": 512, "dropout": 0.2}
    return _recipe(
        "base",
        (3, 3, 5),
        sizes=sizes,
        start={"shared": 48, "private": 50},
        tokens={"rna": 1024, "atac": 512},
        groups={"rna": 0, "atac": 512},
        stage={"lr": 3e-4, "warmup_steps": 500, "ema": 0.999},
    )


def paper() -> CellRecipe:
    """The published sizes and slot layout (without its off-by-one): 12 layers of 512, 1,998 patches of 600 slots."""
    sizes = {"layers": 12, "width": 512, "heads": 8, "mixer_layers": 12, "hidden": 0, "attention_dropout": 0.1}
    return _recipe(
        "paper",
        (5, 5, 6),
        sizes=sizes,
        tokens={"rna": 1999, "atac": 1998},
        groups={"rna": 0, "atac": 1998},
        slots={"rna": 0, "atac": 600},
        bins={"rna": 50, "atac": 0},
        stage={"lr": 1e-4, "weight_decay": 0.01, "warmup_steps": 10_000, "batch_size": 8, "betas": (0.9, 0.999)},
    )


recipes.add("clm_x")(
    Recipe(
        "clm_x",
        NAMES,
        ("embed", "integrate", "annotate", "translate", "evaluate"),
        {"tiny": tiny, "lite": lite, "small": small, "base": base, "paper": paper},
        prepare_cells,
        CellParts(objectives, adapt, needs),
    )
)
