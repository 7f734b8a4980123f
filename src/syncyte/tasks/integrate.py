"""Integrate: an embedding of cells in which technical batches lie together and cell types stay apart.

Two steps, neither of which sees a label. A conditional autoencoder on the run's latents is given the technical batch in
its decoder, so that its code need not hold it (``tasks.recode``; an adversary on the code is optional). What is left of
the batches is taken out by a soft mixture of linear shifts (``tasks.mixture``). In mosaic data a cell's set of measured
modalities counts as part of its technical batch.
Leaves out: integrating counts, and cells of unknown batch, which shape the result but are not shifted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from syncyte.data.cells import Cells
from syncyte.metrics.neighbors import lisi, nearest
from syncyte.modalities import modalities
from syncyte.models.cell import everything, without
from syncyte.tasks.embed import gated_latent, latents
from syncyte.tasks.mixture import correct_mixture
from syncyte.tasks.recode import recode
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained
from syncyte.types import Batch, Visible

FEWEST_CELLS = 1000  # below, the autoencoder would learn the cells by heart
MIXING_CELLS = 3000  # on which mixing is measured
SLOT = "X_syncyte_integrated"


def integrate_cells(
    trained: Trained,
    cells: Cells,
    *,
    batch_key: str,
    seed: int = 0,
    quiet: bool = True,
    batch_size: int | None = None,
    decoder: bool | None = None,
    adversary: float = 0.0,
) -> Result:
    """Integrate cells of several technical batches; see ``syncyte.integrate``.

    Parameters
    ----------
    trained
        The run; its technical batches need not be those of the cells.
    cells
        Cells with any of the run's modalities.
    batch_key
        ``obs`` column of the technical batch. Cells without a value are decoded with the mean batch and not shifted.
    seed
        Of the autoencoder and of clustering.
    quiet, batch_size
        Nothing is printed either way; cells embedded at once.
    decoder
        Whether to fit the conditional autoencoder, by default from 1,000 cells on; else only the mixture is.
    adversary
        Weight of the adversary that reads technical batches off the code; 0 leaves it out.

    Returns
    -------
    Result
        ``obsm["X_syncyte_integrated"]``; ``metrics`` hold the batch mixing before and after (see ``batch_mixing``).
    """
    trained.need_capability("decodes", "integrate technical batches")
    del quiet
    column = cells.column(batch_key)
    aligned = trained.align(cells)
    codes, names = pd.factorize(column.astype(str).where(column.notna()), sort=True)
    codes = codes.astype(np.int64)
    before = latents(trained, aligned, batch_size)
    groups, notes = technical_groups(trained, aligned, codes, names, batch_key)
    points, mixed = before, int(groups.max(initial=-1)) + 1
    done: dict[str, Any] = {"groups": mixed, "notes": notes}
    if mixed > 1:
        if len(cells) >= FEWEST_CELLS if decoder is None else decoder:
            counts = frozenset(name for name in aligned.modalities if modalities[name].residual == "pearson")
            views = encoder_views(trained, aligned, batch_size)
            found = recode(aligned, views, groups, counts, trained.device, seed=seed, adversary=adversary)
            points, done["decoder"] = found.code, found.facts
        else:
            notes.append("The run's embedding was corrected without a decoder of these cells.")
        corrected = correct_mixture(points, groups, seed=seed)
        points, done["rounds"] = corrected.points, corrected.rounds
    mixing = {"mixing_before": batch_mixing(before, codes, seed), "mixing_after": batch_mixing(points, codes, seed)}
    settings = {"seed": seed, "batch_key": batch_key, "adversary": adversary, "batches": [str(name) for name in names]}
    provenance = {**trained.provenance(aligned, **settings), "integrate": done}
    return Result("integrate", cells.names, obsm={SLOT: points}, provenance=provenance, metrics=mixing)


def technical_groups(
    trained: Trained, cells: Cells, codes: NDArray[np.int64], names: pd.Index, batch_key: str
) -> tuple[NDArray[np.int64], list[str]]:
    """What is mixed, ``(n,)``, -1 unknown: technical batches, in mosaic data crossed with the modalities measured."""
    notes = []
    unknown = int((codes < 0).sum())
    if len(names) and unknown:
        notes.append(f"{unknown:,} cells have no {batch_key!r}: decoded with the mean batch, and not shifted.")
    present = np.stack([cells.present(name) for name in cells.modalities], axis=1)
    pattern = present @ (1 << np.arange(present.shape[1]))
    patterns = np.unique(pattern)
    if len(patterns) > 1 and len(trained.modalities) > 1:
        alone = trained.recipe.get("start") == "each modality alone"
        if alone:
            notes.append("The run saw no pairs: cells of different modalities are not mixed with each other.")
        else:
            crossed = np.where(codes >= 0, codes * (int(pattern.max()) + 1) + pattern, -1)
            fresh, found = pd.factorize(np.where(crossed >= 0, crossed, -1), sort=True)
            codes = fresh.astype(np.int64) - int(len(found) > 0 and found[0] == -1)
            notes.append("Cells differ in what was measured: that counts as part of their technical batch.")
    if int(codes.max(initial=-1)) < 1:
        notes.append(f"{batch_key!r} holds {len(names)} technical batch: nothing to mix, the embedding is as it was.")
    return codes, notes


def batch_mixing(points: NDArray[Any], codes: NDArray[np.integer], seed: int = 0) -> float | None:
    """How many technical batches are around the median cell (iLISI): 0 its own only, 1 all equally.

    Measured on at most 3,000 random cells of known batch; None where there is one batch.
    """
    known = np.flatnonzero(codes >= 0)
    count = len(np.unique(codes[known]))
    if count < 2 or len(known) < 4:
        return None
    if len(known) > MIXING_CELLS:
        known = np.sort(np.random.default_rng(seed).choice(known, MIXING_CELLS, replace=False))
    around = lisi(nearest(points[known], 90), codes[known])
    return float((np.median(around) - 1) / (count - 1))


def encoder_views(trained: Trained, cells: Cells, batch_size: int | None = None) -> Tensor:
    """``(v, n, i)`` float32 inputs of the encoder: everything measured, then (in mosaic data) each modality alone.

    Inputs are the latent state, each axis over its standard deviation, the private components of every modality, and
    which modalities are seen. NaN where a modality alone is not there to be seen.
    """
    mixed = len(cells.modalities) > 1 and not all(cells.present(name).all() for name in cells.modalities)
    alone = cells.modalities if mixed else ()
    blocks = list(trained.each(cells, partial(_views, alone=alone), batch_size))
    views = torch.from_numpy(np.concatenate(blocks, axis=1))
    width = trained.model.components
    views[:, :, :width] /= views[0, :, :width].std(dim=0).clamp_min(1e-3)
    return views


def _views(trained: Trained, batch: Batch, *, alone: tuple[str, ...]) -> NDArray[np.float32]:
    views = [_inputs(trained, batch, everything(batch))]
    for name in alone:
        visible = everything(batch)
        for other in alone:
            visible = visible if other == name else {**visible, other: without(batch, other)[other]}
        view = _inputs(trained, batch, visible)
        view[~batch.present[name].cpu()] = torch.nan
        views.append(view)
    return torch.stack(views).numpy()


def _inputs(trained: Trained, batch: Batch, visible: dict[str, Visible]) -> Tensor:
    model = trained.model
    encoded = model.encode(batch.tokens, visible)
    flags = torch.stack([visible[name].whole for name in model.names], dim=1).float()
    private = [encoded.parts[name][:, model.components :] for name in model.names]
    return torch.cat([gated_latent(model, encoded), *private, flags], dim=1).cpu()
