"""Bio-DTA: tokens of genes adapted to their DNA; a variant is followed into cells (see docs/recipes/bio_dta).

Paper -> parts: the token of a gene computed from its sequence by an adapter (``models.adapter``), a model of cells in
which a gene is a token (``models.genes``, amounts by rank as Geneformer has them), an edit at a transcription start
followed to other genes (``tasks.variants``). Beyond the paper: a sequence model trained on the user's own accessibility
beside published ones, peaks near a gene, a gate between static and adapted token, the gene's own predicted value as
the way from cis to trans, nulls, donors as replicates. The published text states neither layers, widths nor what is
trained; every number here is our choice. ``lite`` has no attention: effects of thousands of variants are exact sums.
"""

from __future__ import annotations

from typing import Any

from syncyte.recipes.base import Recipe, recipes
from syncyte.recipes.train_dna import prepare_dna
from syncyte.recipes.train_genes import GeneRecipe

ADAPTER = {
    "name": "adapter",
    "objectives": {"masked": 1.0},
    "epochs": 4,
    "batch_size": 64,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "warmup_steps": 20,
    "clip": 1.0,
    "trainable": (r"^adapter\.",),
    "patience": 3,
    "validate_every": 0.5,
}
NETWORK = {
    "name": "genes",
    "objectives": {"masked": 1.0},
    "epochs": 6,
    "batch_size": 64,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "warmup_steps": 50,
    "clip": 1.0,
    "ema": 0.98,
    "patience": 3,
    "validate_every": 0.5,
    # the table is the start itself: masked training of it forgets what few cells say of single genes
    "trainable": (r"^(mix|output|project|amount|norm|cell|backbone|query|key|read_out)",),
}


def _recipe(
    preset: str, *, first: dict[str, Any] | None = None, second: dict[str, Any] | None = None, **changes: Any
) -> GeneRecipe:
    """The numbers of ``small``, some of them changed."""
    values: dict[str, Any] = {
        "name": "bio_dta",
        "preset": preset,
        "stages": {"genes": {**NETWORK, **(first or {})}, "adapter": {**ADAPTER, **(second or {})}},
        **changes,
    }
    return GeneRecipe.parse(values)


def tiny() -> GeneRecipe:
    """Seconds; for tests."""
    short = {"epochs": 1, "batch_size": 32, "warmup_steps": 1}
    return _recipe(
        "tiny",
        first={**short, "ema": 0.5},
        second=short,
        sizes={"components": 8, "layers": 1, "width": 16, "heads": 2, "tokens": 16, "hidden": 8},
        window=400,
        encoder={"filters": 8, "inner": 8, "members": 1, "channels": 8, "k": 5, "axes": 16, "centres": 64, "epochs": 2},
    )


def lite() -> GeneRecipe:
    """No attention: the network is the closed form, and thousands of variants take minutes on a laptop CPU."""
    encoder = {"filters": 48, "inner": 32, "members": 1, "channels": 32, "epochs": 10}
    return _recipe("lite", first={"epochs": 0}, encoder=encoder)


def small() -> GeneRecipe:
    """The same with 96 coordinates and a larger sequence model; attention gained half a percent of the masked loss."""
    encoder = {"members": 2, "channels": 24, "epochs": 16}
    return _recipe("small", first={"epochs": 0}, sizes={"components": 96}, encoder=encoder)


def base() -> GeneRecipe:
    """Six layers of width 256 over 1,024 genes, an untied output, windows of 1,344 bases: one GPU."""
    sizes = {"components": 128, "layers": 6, "width": 256, "heads": 8, "tokens": 1_024, "hidden": 512, "tied": False}
    return _recipe(
        "base",
        first={"lr": 3e-4, "warmup_steps": 500, "ema": 0.999, "batch_size": 32},
        sizes=sizes,
        window=1_344,
        encoder={"filters": 96, "channels": 24},
    )


recipes.add("bio_dta")(
    Recipe(
        "bio_dta",
        ("rna", "atac"),
        ("variants",),
        {"tiny": tiny, "lite": lite, "small": small, "base": base},
        prepare_dna,
    )
)
