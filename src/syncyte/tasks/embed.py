"""Embed: one vector a cell, from whatever was measured in it.

Model with several modalities: the shared latent space, in which cells seen in any of them lie together. Model with one:
its own components. Each axis is scaled by its singular value, so that distances weigh axes as a principal component
analysis would, or as the recipe says (``recipes.axes``), which may take depth out as well.
Leaves out: removing batch effects (``tasks.integrate``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.models.cell import everything, gated_latent
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained
from syncyte.types import Batch


def latents(trained: Trained, cells: Cells, batch_size: int | None = None) -> NDArray[np.float32]:
    """``(cells, k)`` shared latents of aligned cells, axes scaled and freed of depth as the run says."""
    found = np.empty((len(cells), len(trained.axes["embedding.scale"])), dtype=np.float32)
    first = 0
    for block in trained.each(cells, _latents, batch_size):
        found[first : first + len(block)] = block
        first += len(block)
    return found


def _latents(trained: Trained, batch: Batch) -> NDArray[np.float32]:
    encoded = trained.model.encode(batch.tokens, everything(batch))
    found = gated_latent(trained.model, encoded).cpu().numpy()
    context = encoded.context[:, :, 0].cpu().numpy()
    names, shown = trained.modalities, np.stack([batch.present[name].cpu().numpy() for name in trained.modalities], 1)
    for flags in np.unique(shown, axis=0):
        slope = trained.axes.get("embedding.depth." + "+".join(np.array(names)[flags]))
        if slope is not None:
            rows = (shown == flags).all(axis=1)
            found[rows] -= context[rows] @ slope
    return found * trained.axes["embedding.scale"]


def embed_cells(trained: Trained, cells: Cells, *, batch_size: int | None = None, seed: int = 0) -> Result:
    """Embed cells; see ``syncyte.embed``."""
    trained.need_capability("encodes", "embed cells")
    aligned = trained.align(cells)
    vectors = latents(trained, aligned, batch_size)
    provenance = trained.provenance(aligned, seed=seed, modalities=list(aligned.modalities))
    return Result("embed", cells.names, obsm={"X_syncyte": vectors}, provenance=provenance)
