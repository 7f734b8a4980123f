"""Embed: one vector a cell, from whatever was measured in it.

Model with several modalities: the shared latent space, in which cells seen in any of them lie together. Model with one:
its own components. Each axis is scaled by its singular value, so that distances weigh axes as a principal component
analysis would. Leaves out: removing batch effects (``tasks.integrate``).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from syncyte.data.cells import Cells
from syncyte.models.cell import CellModel, everything
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained
from syncyte.types import Batch, Encoded


def gated_latent(model: CellModel, encoded: Encoded) -> Float[Tensor, "b k"]:
    """Latent with the learned residual shrunk by the mean gate of the targets."""
    return encoded.base + model.gate.mean() * (encoded.latent - encoded.base)


def latents(trained: Trained, cells: Cells, batch_size: int | None = None) -> NDArray[np.float32]:
    """``(cells, k)`` shared latents of aligned cells, axes scaled by their strength."""
    found = np.empty((len(cells), len(trained.strength)), dtype=np.float32)
    first = 0
    for block in trained.each(cells, _latents, batch_size):
        found[first : first + len(block)] = block
        first += len(block)
    return found


def _latents(trained: Trained, batch: Batch) -> NDArray[np.float32]:
    scale = torch.from_numpy(trained.strength).to(trained.device)
    encoded = trained.model.encode(batch.tokens, everything(batch))
    return (gated_latent(trained.model, encoded) * scale).cpu().numpy()


def embed_cells(trained: Trained, cells: Cells, *, batch_size: int | None = None, seed: int = 0) -> Result:
    """Embed cells; see ``syncyte.embed``."""
    aligned = trained.align(cells)
    vectors = latents(trained, aligned, batch_size)
    provenance = trained.provenance(aligned, seed=seed, modalities=list(aligned.modalities))
    return Result("embed", cells.names, obsm={"X_syncyte": vectors}, provenance=provenance)
