"""Axes of the embedding of a trained run: their scale, and how much of the depth is taken out of each.

Left out: applying them (``tasks.embed``) and what the axes mean.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.baselines.encode import axis_widths
from syncyte.data.cells import Cells
from syncyte.data.load import predict_batches
from syncyte.models.cell import everything, gated_latent
from syncyte.models.published import PublishedPatches
from syncyte.recipes.base import Assembled

MOST_CELLS = 5_000


def embedding_axes(built: Assembled, cells: Cells, device: torch.device, seed: int) -> dict[str, NDArray[np.float32]]:
    """Arrays of the checkpoint: ``embedding.scale`` (k,), and ``embedding.depth.<a+b>`` (m, k) for sets of modalities.

    A row of the latter is what one standard deviation of a modality's log depth adds to each latent, as far as it is to
    be taken out. Fitted on training cells, of which each set of modalities is shown alone.
    """
    config, model = built.config.embedding, built.model
    if model.published is not None:
        _fit_readout(model.published, built, cells, device, seed)
        return {"embedding.scale": np.ones(model.components, dtype=np.float32)}
    strength = built.start.encoders[model.names[0]].strength[: model.components]
    found = {"embedding.scale": strength}
    if config.floor and len(model.names) == 1:
        found["embedding.scale"] = axis_widths(strength)
    if config.depth is None:
        return found
    rows = np.random.default_rng(seed).permutation(built.split.train)[:MOST_CELLS]
    views = [(name,) for name in model.names] + ([tuple(model.names)] if len(model.names) > 1 else [])
    for names in views:
        have = np.logical_and.reduce([cells.present(name)[rows] for name in names])
        if have.sum() > 50:
            shown = cells.take(np.sort(rows[have])).only(names)
            found[f"embedding.depth.{'+'.join(names)}"] = _slopes(built, shown, device, config.depth)
    return found


@torch.no_grad()
def _fit_readout(network: PublishedPatches, built: Assembled, cells: Cells, device: torch.device, seed: int) -> None:
    """Axes of the published layout: principal components of pooled states of training cells."""
    rows = np.sort(np.random.default_rng(seed).permutation(built.split.train)[:MOST_CELLS])
    name = built.model.names[0]
    pooled = [
        network.pooled(batch.to(device).tokens[name], len(batch))
        for batch in predict_batches(cells.take(rows), built.tokenizers, 16)
    ]
    network.fit_readout(torch.cat(pooled))


@torch.no_grad()
def _slopes(built: Assembled, cells: Cells, device: torch.device, most: float) -> NDArray[np.float32]:
    """Effect of each modality's depth on each latent (m, k), less what may stay."""
    latents, depths = [], []
    for batch in predict_batches(cells, built.tokenizers, 256):
        batch = batch.to(device)
        encoded = built.model.encode(batch.tokens, everything(batch))
        latents.append(gated_latent(built.model, encoded).cpu().numpy())
        depths.append(encoded.context[:, :, 0].cpu().numpy())
    z, depth = np.concatenate(latents).astype(np.float64), np.concatenate(depths).astype(np.float64)
    z, depth = z - z.mean(axis=0), depth - depth.mean(axis=0)
    slope = np.linalg.lstsq(depth, z, rcond=None)[0]
    explained = depth @ slope
    r = np.sqrt((explained**2).sum(axis=0) / np.maximum((z**2).sum(axis=0), 1e-12))
    # what is left of the effect, so that the correlation afterwards is at most ``most``
    left = most / np.sqrt(1 - most**2) * np.sqrt(np.maximum(1 - r**2, 0)) / np.maximum(r, 1e-9)
    return (slope * (1 - np.minimum(left, 1))).astype(np.float32)
