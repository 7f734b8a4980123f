"""Masked reconstruction of very many regions: whole patches and scattered regions are hidden, per cell.

What is hidden is kept as a flag for each *open* region and a share for each patch, so nothing of the size cells x
regions is made. Whole patches ask for the rest of the genome, scattered regions for the neighbourhood. The decoder asks
for regions by their own rows, so what is hidden needs no token. Leaves out: other modalities, which are not seen while
this is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from syncyte.models.cell import CellModel
from syncyte.objectives.masked import Augmented
from syncyte.types import Batch, Loss, Tokens, Visible


def hide_regions(
    tokens: Tokens,
    token_of: Tensor,
    patches: int,
    present: Tensor,
    generator: torch.Generator,
    *,
    ratio: float,
    whole: float,
) -> Visible:
    """Hide a share ``ratio`` of the regions of every cell, ``whole`` of it as patches and the rest scattered.

    Parameters
    ----------
    token_of
        ``(f,)`` patch of each region.
    present
        ``(b,)`` cells that have the modality.
    """
    device, place = tokens.feature.device, generator.device
    by_patch = ratio * whole
    scattered = (ratio - by_patch) / max(1 - by_patch, 1e-6)
    gone = torch.rand(len(present), patches, generator=generator, device=place).to(device) < by_patch
    single = torch.rand(len(tokens.feature), generator=generator, device=place).to(device) < scattered
    seen = ~single & ~gone[tokens.cell, token_of[tokens.feature].long()]
    return Visible(present, entries=seen, share=torch.where(gone, 0.0, 1.0 - scattered))


class MaskedSlots(nn.Module):
    """Objective of the published layout: the same patches are hidden in all cells of a minibatch.

    Parameters
    ----------
    modality
        Which is reconstructed.
    ratio
        Share of patches hidden.
    """

    def __init__(self, modality: str, *, ratio: float) -> None:
        super().__init__()
        self.modality, self.ratio = modality, ratio

    def forward(self, model: CellModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Mean binary cross-entropy of the slots of hidden patches."""
        network = model.published
        assert network is not None
        values = network.dense(batch.tokens[self.modality], len(batch))
        order = torch.rand(network.sizes.patches, generator=generator, device=generator.device)
        hidden = torch.zeros(len(order), dtype=torch.bool)
        hidden[order.argsort()[: max(1, round(self.ratio * len(order)))].cpu()] = True
        total, count = network.loss(values, hidden.to(values.device))
        return Loss(total, {"slots": total.detach()}, {"slots": count})


class MaskedRegions(nn.Module):
    """Predict hidden regions from the visible ones of the same cell.

    Parameters
    ----------
    modality
        Which is reconstructed; its head must be the one for very many features.
    ratio, whole
        See ``hide_regions``.
    """

    def __init__(self, modality: str, *, ratio: float, whole: float, augmented: Augmented) -> None:
        super().__init__()
        self.modality, self.ratio, self.whole, self.augmented = modality, ratio, whole, augmented

    def forward(self, model: CellModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Loss over hidden regions of cells that have the modality."""
        name = self.modality
        cells, path = batch.present[name], model.paths[name]
        assert path.members is not None
        tokens = self.augmented(batch, generator, model.training)
        seen = hide_regions(
            batch.tokens[name],
            path.members.token_of,
            path.members.count,
            cells,
            generator,
            ratio=self.ratio,
            whole=self.whole,
        )
        visible = {other: Visible(torch.zeros_like(present)) for other, present in batch.present.items()}
        encoded = model.encode(tokens, {**visible, name: seen})
        prediction = model.decode(encoded, name, batch.covariates.get("batch"), gated=False)
        loss = model.heads[name].loss(prediction, batch.tokens[name], cells, seen)  # type: ignore[arg-type]
        named = {f"regions_{part}": value for part, value in loss.parts.items()}
        return Loss(loss.total, named, {f"regions_{part}": value for part, value in loss.counts.items()})
