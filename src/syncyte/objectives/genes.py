"""Masked genes: hide a share of a cell's genes and predict their values from the others.

Leaves out: reading counts, which a source does (``recipes.train_genes``), and which parameters learn (the stage).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from syncyte.models.genes import GeneModel
from syncyte.types import Batch, Loss

Source = Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]  # rows -> amounts and log values, (b, g) each


class MaskedGenes(nn.Module):
    """Squared error of hidden genes in units of each gene's spread.

    Parameters
    ----------
    source
        Gives amounts and log values of rows; they are read when their minibatch comes and dense for that long only.
    ratio
        Share of genes hidden in every cell.
    asked
        Most genes predicted in a step, drawn anew each time.
    """

    def __init__(self, source: Source, *, ratio: float, asked: int) -> None:
        super().__init__()
        self.source, self.ratio, self.asked = source, ratio, asked

    def forward(self, model: GeneModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Loss over the hidden ones of the genes that were drawn."""
        place = model.table.device
        amounts, values = (part.to(place) for part in self.source(batch.rows.cpu().numpy()))
        genes = amounts.shape[1]
        drawn = torch.randperm(genes, generator=generator, device=generator.device)[: self.asked].to(place)
        hidden = (torch.rand(amounts.shape, generator=generator, device=generator.device) < self.ratio).to(place)
        tokens = model.tokens()
        read = model.read(amounts, tokens, hidden)
        error = (model.predict(read, tokens, drawn) - values[:, drawn]) / model.spread[drawn]
        asked = hidden[:, drawn]
        count = asked.sum()
        total = (error.square() * asked).sum() / count.clamp_min(1)
        return Loss(total, {"masked": total.detach()}, {"masked": count})
