"""CLM-X: RNA and ATAC in one token space, translated both ways (Lin et al.; see docs/recipes/clm_x).

Paper -> parts: shared attention with an expert per modality and a mixer (``nn.transformer``), patches of regions and
gene tokens (``modalities``), stage-wise masked reconstruction (``objectives.masked``): ATAC, RNA, then whole modalities
both ways, the direction drawn per cell. Beyond the paper: the linear start, region embeddings instead of slots,
unpaired cells, decoders that take technical batches, a gate chosen on held-out cells. Left out: flash attention.
"""

from __future__ import annotations

from typing import Any

from syncyte.recipes.base import CellRecipe, Recipe, recipes
from syncyte.recipes.stages import NAMES, adapt, masked_stage, needs, objectives


def _recipe(preset: str, epochs: tuple[float, float, float], **changes: Any) -> CellRecipe:
    stage: dict[str, Any] = changes.pop("stage", {})
    values: dict[str, Any] = {
        "name": "clm_x",
        "preset": preset,
        "tokens": {"rna": 128, "atac": 96},
        "groups": {"rna": 0, "atac": 96},
        "slots": {"rna": 0, "atac": 0},
        "bins": {"rna": 0, "atac": 0},
        "likelihood": {"rna": "gaussian", "atac": "profile"},
        "masking": {
            "ratio": {"rna": 0.2, "atac": 0.3},
            "dropout": {"rna": 0.4, "atac": 0.1},
            "thinning": {"rna": 0.5},
        },
        "stages": {
            "atac": masked_stage("atac", {"share_atac": 1.0}, epochs[0], **stage),
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
        stage={"batch_size": 32},
    )


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
        objectives,
        adapt,
        needs,
    )
)
