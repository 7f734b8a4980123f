"""Integrate: an embedding of cells in which technical batches lie together and cell types stay apart.

Labels are never used. Leaves out: integrating counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.metrics.neighbors import lisi, nearest
from syncyte.models.cell import everything
from syncyte.tasks.embed import gated_latent
from syncyte.tasks.mixture import correct_mixture
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained

MIXING_CELLS = 3000  # cells on which mixing is measured


def integrate_cells(
    trained: Trained,
    cells: Cells,
    *,
    batch_key: str,
    seed: int = 0,
    quiet: bool = True,
    batch_size: int | None = None,
) -> Result:
    """Integrate cells of several technical batches; see ``syncyte.integrate``.

    Parameters
    ----------
    trained
        The run; its batches need not be those of the cells.
    cells
        Cells with any of the run's modalities.
    batch_key
        ``obs`` column of the technical batch; cells without a value shape the result but are not shifted.
    seed
        Of clustering.
    quiet
        Nothing is printed either way.
    batch_size
        Cells embedded at once.
    """
    del quiet
    column = cells.column(batch_key)
    aligned = trained.align(cells)
    codes, names = pd.factorize(column.astype(str).where(column.notna()), sort=True)
    points = _points(trained, aligned, batch_size)
    corrected = correct_mixture(points, codes, seed=seed)
    mixing = {
        "mixing_before": batch_mixing(points, codes, seed),
        "mixing_after": batch_mixing(corrected.points, codes, seed),
    }
    notes = _notes(codes, names, batch_key)
    provenance = trained.provenance(aligned, seed=seed, batch_key=batch_key, batches=[str(name) for name in names])
    provenance |= {"notes": notes, "rounds": corrected.rounds}
    return Result(
        "integrate", cells.names, obsm={"X_syncyte_integrated": corrected.points}, provenance=provenance, metrics=mixing
    )


def batch_mixing(points: NDArray[Any], codes: NDArray[np.integer], seed: int = 0) -> float | None:
    """Median number of batches around a cell (iLISI), 0 = one, 1 = all equally; None where there is one batch.

    Measured on at most 3,000 random cells of known batch.
    """
    known = np.flatnonzero(codes >= 0)
    count = len(np.unique(codes[known]))
    if count < 2 or len(known) < 4:
        return None
    if len(known) > MIXING_CELLS:
        known = np.sort(np.random.default_rng(seed).choice(known, MIXING_CELLS, replace=False))
    around = lisi(nearest(points[known], 90), codes[known])
    return float((np.median(around) - 1) / (count - 1))


def _notes(codes: NDArray[np.integer], names: pd.Index, batch_key: str) -> list[str]:
    notes = []
    unknown = int((codes < 0).sum())
    if len(names) < 2:
        notes.append(f"{batch_key!r} holds {len(names)} technical batch: nothing to integrate, the embedding is as it was.")
    elif unknown:
        notes.append(f"{unknown:,} cells have no {batch_key!r}: they help to find clusters and are not shifted.")
    return notes


@torch.inference_mode()
def _points(trained: Trained, cells: Cells, batch_size: int | None) -> NDArray[np.float32]:
    scale = torch.from_numpy(trained.strength).to(trained.device)
    blocks = []
    for batch in trained.batches(cells, batch_size):
        encoded = trained.model.encode(batch.tokens, everything(batch))
        blocks.append((gated_latent(trained.model, encoded) * scale).cpu().numpy())
    return np.concatenate(blocks) if blocks else np.empty((0, len(trained.strength)), dtype=np.float32)
