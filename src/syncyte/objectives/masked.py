"""Masked reconstruction: a share of one modality's features, or the whole of it.

``MaskedShare`` hides random features of a modality, per cell, and predicts them from the rest. ``MaskedWhole`` draws
for every cell one modality to predict from the others; it is translation, and its target's ids, padding and depth are
never seen. Inputs are augmented by dropping and thinning entries; targets are always the full counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from syncyte.config import Registry
from syncyte.models.cell import CellModel
from syncyte.types import Batch, Loss, Tokens, Visible

objectives: Registry[type[nn.Module]] = Registry("objective")


def augment(tokens: Tokens, generator: torch.Generator, dropout: float, thinning: float) -> Tokens:
    """Drop entries (a share uniform in [0, dropout] a cell) and thin counts (a share uniform in [0, thinning])."""
    cells = tokens.ids.shape[0]
    if not (dropout or thinning) or len(tokens.value) == 0:
        return tokens
    uniform = torch.rand(2, cells, generator=generator, device=generator.device)
    value, cell = tokens.value.to(generator.device), tokens.cell.to(generator.device)
    if thinning:
        value = torch.binomial(value, (1 - thinning * uniform[0])[cell], generator=generator)
    if dropout:
        drop = torch.rand(len(value), generator=generator, device=generator.device) < (dropout * uniform[1])[cell]
        value = value.masked_fill(drop, 0)
    value = value.to(tokens.value.device)
    return Tokens(tokens.feature, value, tokens.cell, tokens.token, tokens.ids, tokens.valid)


class Augmented(nn.Module):
    """Settings of input augmentation shared by the masked objectives."""

    def __init__(self, dropout: dict[str, float], thinning: dict[str, float]) -> None:
        super().__init__()
        self.dropout, self.thinning = dropout, thinning

    def forward(self, batch: Batch, generator: torch.Generator, training: bool) -> dict[str, Tokens]:
        """Augmented tokens of every modality (unchanged outside training)."""
        if not training:
            return batch.tokens
        return {
            name: augment(tokens, generator, self.dropout.get(name, 0.0), self.thinning.get(name, 0.0))
            for name, tokens in batch.tokens.items()
        }


@objectives.add("masked_share")
class MaskedShare(nn.Module):
    """Hide a share of one modality's features and predict them from what is left of it (and, at times, the others).

    Parameters
    ----------
    modality
        Which is reconstructed.
    ratio
        Share of features hidden.
    alone
        Share of cells in which the other modalities are hidden too.
    """

    def __init__(self, modality: str, *, ratio: float, alone: float, augmented: Augmented) -> None:
        super().__init__()
        self.modality, self.ratio, self.alone, self.augmented = modality, ratio, alone, augmented

    def forward(self, model: CellModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Loss over hidden features of cells that have the modality."""
        cells = batch.present[self.modality]
        features = model.paths[self.modality].table.shape[0]
        place = generator.device
        hidden = (torch.rand(len(batch), features, generator=generator, device=place) < self.ratio).to(cells.device)
        alone = (torch.rand(len(batch), generator=generator, device=place) < self.alone).to(cells.device)
        visible = {
            name: Visible(present, ~hidden) if name == self.modality else Visible(present & ~alone)
            for name, present in batch.present.items()
        }
        tokens = self.augmented(batch, generator, model.training)
        encoded = model.encode(tokens, visible)
        prediction = model.decode(encoded, self.modality, batch.covariates.get("batch"), gated=False)
        loss = model.heads[self.modality].loss(prediction, batch.tokens[self.modality], cells, hidden)  # type: ignore[arg-type]
        named = {f"share_{self.modality}_{part}": value for part, value in loss.parts.items()}
        counts = {f"share_{self.modality}_{part}": value for part, value in loss.counts.items()}
        return Loss(loss.total, named, counts)


@objectives.add("masked_whole")
class MaskedWhole(nn.Module):
    """Predict one whole modality of each paired cell from the others.

    Parameters
    ----------
    targets
        Modalities that may be drawn as target.
    """

    def __init__(self, targets: tuple[str, ...], *, augmented: Augmented) -> None:
        super().__init__()
        self.targets, self.augmented = targets, augmented

    def forward(self, model: CellModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Sum over directions of the loss on the cells that drew it; both directions for each cell outside training."""
        present = torch.stack([batch.present[name] for name in model.names], dim=1)
        paired = present.sum(dim=1) > 1
        if model.training:
            draw = torch.randint(len(self.targets), (len(batch),), generator=generator, device=generator.device)
            draw = draw.to(paired.device)
            return self._loss(model, batch, self.augmented(batch, generator, True), paired, draw)
        losses = [
            self._loss(model, batch, batch.tokens, paired, torch.full_like(batch.rows, index))
            for index in range(len(self.targets))
        ]
        parts = {key: value for loss in losses for key, value in loss.parts.items()}
        counts = {key: value for loss in losses for key, value in loss.counts.items()}
        return Loss(torch.stack([loss.total for loss in losses]).sum(), parts, counts)

    def _loss(self, model: CellModel, batch: Batch, tokens: dict[str, Tokens], paired: Tensor, draw: Tensor) -> Loss:
        chosen = {name: paired & batch.present[name] & (draw == index) for index, name in enumerate(self.targets)}
        nothing = torch.zeros_like(paired)
        visible = {
            name: Visible(present & paired & ~chosen.get(name, nothing)) for name, present in batch.present.items()
        }
        encoded = model.encode(tokens, visible)
        total = encoded.latent.sum() * 0.0
        parts, counts = {}, {}
        for name, cells in chosen.items():
            if not bool(cells.any()):
                continue
            prediction = model.decode(encoded, name, batch.covariates.get("batch"), gated=False)
            loss = model.heads[name].loss(prediction, batch.tokens[name], cells, None)
            total = total + loss.total
            parts.update({f"to_{name}_{part}": value for part, value in loss.parts.items()})
            counts.update({f"to_{name}_{part}": value for part, value in loss.counts.items()})
        return Loss(total, parts, counts)
