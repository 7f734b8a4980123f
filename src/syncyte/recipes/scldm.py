"""scLDM: counts as exchangeable sets, and a flow over their codes (see docs/recipes/scldm).

Paper -> parts: attention from learned queries to genes and back (``nn.resample`` in ``models.sets``), negative binomial
counts (``nn.likelihood``), a transformer with adaptive norms over latent tokens (``nn.denoise``), linear paths and
classifier-free guidance over any attributes (``nn.flow``). Beyond the paper: values stand beside the vector of a gene,
not multiplied into it, padding is masked, codes are posterior samples with a full KL term, depth is a coordinate of its
own, attributes are dropped one by one, averaged weights are the ones that sample, few steps suffice.
``lite`` has no attention: a sum over genes is a set encoder already, and on up to 10,000 cells nothing beat it.
"""

from __future__ import annotations

from typing import Any

from syncyte.recipes.base import Recipe, recipes
from syncyte.recipes.train_sets import SetRecipe, prepare_sets

# Adam moves a parameter by about the learning rate at a step, and logs of dispersions have far to go
DISPERSION = r"^decoder\.log_dispersion$"
SAME: dict[str, Any] = {"weight_decay": 1e-4, "keep": "last", "patience": 0, "schedule": "cosine"}


def _recipe(
    preset: str, *, first: dict[str, Any] | None = None, second: dict[str, Any] | None = None, **changes: Any
) -> SetRecipe:
    """The numbers of ``lite``, some of them changed: of either stage, or fields of the recipe."""
    autoencode = {
        "name": "autoencode",
        "objectives": {"elbo": 1.0},
        "epochs": 30,
        "batch_size": 128,
        "lr": 2e-3,
        "betas": (0.9, 0.99),
        "warmup_steps": 50,
        "min_lr_factor": 0.05,
        "clip": 50.0,
        "trainable": (r"^encoder\.", r"^decoder\."),
        "lr_factors": {DISPERSION: 10.0},
        "no_decay": (r"bias$", r"norm", r"log_dispersion$"),
        **SAME,
        **(first or {}),
    }
    flow = {
        "name": "flow",
        "objectives": {"flow": 1.0},
        "epochs": 30,
        "batch_size": 128,
        "lr": 2e-3,
        "warmup_steps": 100,
        "clip": 1.0,
        "ema": 0.999,
        "validate_every": 5.0,
        "trainable": (r"^flow\.",),
        **SAME,
        **(second or {}),
    }
    values: dict[str, Any] = {
        "name": "scldm",
        "preset": preset,
        "steps": {"autoencode": (800, 20_000), "flow": (3_000, 20_000)},
        "few_counts": 0.02,
        "few_cells": 3_000,
        "stages": {"autoencode": autoencode, "flow": flow},
        **changes,
    }
    return SetRecipe.parse(values)


def tiny() -> SetRecipe:
    """Seconds; for tests."""
    short = {"epochs": 2, "batch_size": 32, "warmup_steps": 2}
    return _recipe(
        "tiny",
        first=short,
        second={**short, "ema": 0.9, "validate_every": 1.0},
        tokens=24,
        groups=16,
        steps={},
        few_counts=0,
        few_cells=0,
        sizes={"latents": 4, "hidden": 16, "queries": 2, "width": 8, "heads": 2, "unpool": True},
        flow={"width": 16, "layers": 1, "tokens": 3, "heads": 2},
    )


def lite() -> SetRecipe:
    """No attention: a minute or two on a laptop CPU."""
    return _recipe("lite")


def small() -> SetRecipe:
    """The same with queries that read the 192 most surprising genes, and a small transformer over the codes."""
    return _recipe(
        "small",
        tokens=192,
        groups=96,
        sizes={"queries": 8, "width": 48, "heads": 4, "layers": 1},
        flow={"width": 64, "layers": 3, "tokens": 9, "heads": 4},
    )


def base() -> SetRecipe:
    """Queries read all genes, all genes ask back, and a transformer of four layers over the codes."""
    return _recipe(
        "base",
        groups=512,
        decoded=512,
        sizes={"latents": 32, "queries": 16, "width": 48, "heads": 4, "layers": 2, "unpool": True},
        flow={"width": 192, "layers": 4, "tokens": 17, "heads": 6},
        first={"lr_factors": {DISPERSION: 40.0}},  # a feature is decoded in a part of the steps alone
        second={"lr": 1e-3},
    )


recipes.add("scldm")(
    Recipe(
        "scldm",
        ("rna", "atac"),
        ("generate", "perturb", "embed", "annotate", "evaluate"),
        {"tiny": tiny, "lite": lite, "small": small, "base": base},
        prepare_sets,
    )
)
