"""What masked recipes of RNA and ATAC share: objectives by name, the cells a stage needs, stages that cannot run.

Leaves out: sizes and numbers, which are the recipes' own.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from syncyte.baselines.start import FEW_PAIRS
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError
from syncyte.objectives.masked import Augmented, MaskedShare, MaskedWhole
from syncyte.objectives.regions import MaskedRegions, MaskedSlots
from syncyte.recipes.base import CellRecipe
from syncyte.train.plan import StageConfig

NAMES = ("rna", "atac")
FROZEN = {r"^paths\.": 0.0, r"^heads\.": 0.0}  # tables: about 20 openings a region cannot move them for the better


TINY: dict[str, Any] = {  # seconds; for tests
    "sizes": {"hidden": 16, "layers": 2, "width": 16, "heads": 2},
    "start": {"shared": 6, "private": 6},
    "tokens": {"rna": 24, "atac": 16},
    "groups": {"rna": 0, "atac": 16},
    "stage": {"batch_size": 32},
}


def masked_stage(name: str, objectives: dict[str, float], epochs: float, **changes: Any) -> StageConfig:
    """Stage with the numbers that masked training was found to want, some of them changed."""
    values: dict[str, Any] = {
        "name": name,
        "objectives": objectives,
        "epochs": epochs,
        "lr": 1e-3,
        "weight_decay": 0.2,
        "betas": (0.9, 0.98),
        "warmup_steps": 30,
        "clip": 1.0,
        "validate_every": 0.5,
        "patience": 4,
        "lr_factors": FROZEN,
        "no_decay": (r"bias$", r"norm", r"mixes", r"blend", r"table"),
        **changes,
    }
    return StageConfig.parse(values)


def masked_recipe(name: str, first: str, preset: str, epochs: tuple[float, float, float], **changes: Any) -> CellRecipe:
    """Recipe with three masked stages and the numbers of ``lite``, some of them changed.

    Parameters
    ----------
    first
        Objective of the stage of ATAC.
    epochs
        Of the stages of ATAC, of RNA and of both.
    changes
        Fields of the recipe; ``stage`` holds changes of every stage.
    """
    stage: dict[str, Any] = changes.pop("stage", {})
    values: dict[str, Any] = {
        "name": name,
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
            "atac": masked_stage("atac", {first: 1.0}, epochs[0], **stage),
            "rna": masked_stage("rna", {"share_rna": 1.0}, epochs[1], **stage),
            "both": masked_stage("both", {"whole": 1.0}, epochs[2], **stage),
        },
        **changes,
    }
    return CellRecipe.parse(values)


def objectives(config: CellRecipe, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """Objectives that the modalities at hand allow."""
    masking = config.masking
    augmented = Augmented(dict(masking.dropout), dict(masking.thinning))
    found: dict[str, nn.Module] = {
        f"share_{name}": MaskedShare(name, ratio=masking.ratio[name], alone=masking.alone, augmented=augmented)
        for name in names
    }
    if "atac" in names:
        found["regions"] = MaskedRegions(
            "atac", ratio=masking.ratio["atac"], whole=masking.patches, augmented=augmented
        )
        found["slots"] = MaskedSlots("atac", ratio=masking.ratio["atac"])
    if len(names) > 1:
        found["whole"] = MaskedWhole(names, augmented=augmented)
    return found


def adapt(config: CellRecipe, cells: Cells) -> tuple[CellRecipe, list[str]]:
    """Drop stages whose modality is absent, and say how few pairs are used."""
    names = tuple(name for name in NAMES if name in cells.modalities)
    if config.sizes.published and names != ("atac",):
        raise ConfigError(
            f"The published layout reads ATAC alone; the cells have {' and '.join(names)}. Give cells with ATAC only "
            "(--modality atac), or another preset."
        )
    pairs = int((cells.present(NAMES[0]) & cells.present(NAMES[1])).sum()) if len(names) > 1 else 0
    available = set(objectives(config, names)) - ({"whole"} if pairs < 2 else set())
    notes = []
    stages = {}
    for key, stage in config.stages.items():
        kept = {name: weight for name, weight in stage.objectives.items() if name in available}
        if kept:
            stages[key] = stage.model_copy(update={"objectives": kept})
        elif stage.active:
            notes.append(f"Stage {key!r} is left out: the cells lack what it needs.")
    if len(names) > 1 and pairs < FEW_PAIRS and len(cells) > 1.5 * pairs:
        # opening the tables to masked training was tried here and lost to the bridge (see benchmarks/results)
        notes.append(
            f"Only {pairs:,} of {len(cells):,} cells are paired: the start is learned on all cells and bridged."
        )
    return config.model_copy(update={"stages": stages}), notes


def needs(config: CellRecipe) -> dict[str, tuple[str, ...]]:
    """Modalities a cell must have to be of use in each stage."""
    wanted = {"share_rna": ("rna",), "share_atac": ("atac",), "regions": ("atac",), "slots": ("atac",), "whole": NAMES}
    return {
        stage.name: tuple(dict.fromkeys(name for key in stage.objectives for name in wanted[key]))
        for stage in config.stages.values()
    }
