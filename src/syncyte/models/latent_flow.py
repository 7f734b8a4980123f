"""A velocity field over the latent coordinates of cells: standardised codes and log total count, under conditions.

The last coordinate is the log total count, so that depth follows type and state as it does in real cells. Coordinates
are standardised with the mean and spread of training cells, which are part of the model. Over ``tokens`` > 0 they are
laid out as that many short tokens (padded by zeros that are never noise) for a transformer; else they are one vector.
Leaves out: guidance and solvers (``nn.flow``), the network (``nn.denoise``), what a latent means (``models.sets``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from syncyte.config import Config
from syncyte.nn.denoise import Conditions, Denoiser


class FlowSizes(Config):
    """Sizes of the velocity network; ``tokens`` and ``heads`` 0 make it work on one vector."""

    width: int = 128
    layers: int = 3
    tokens: int = 0
    heads: int = 0
    factor: int = 4
    dropout: float = 0.0


class LatentFlow(nn.Module):
    """Velocity of latent coordinates.

    Parameters
    ----------
    latents
        Number of latents, without the log total.
    categories, vectors
        Attributes, see ``nn.denoise.Conditions``.
    sizes
        Of the network.
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self, latents: int, categories: Mapping[str, int], vectors: Mapping[str, int], sizes: FlowSizes
    ) -> None:
        super().__init__()
        self.coordinates = latents + 1
        self.tokens = sizes.tokens
        self.each = -(-self.coordinates // sizes.tokens) if sizes.tokens else self.coordinates
        self.register_buffer("mean", torch.zeros(self.coordinates))
        self.register_buffer("sd", torch.ones(self.coordinates))
        self.conditions = Conditions(sizes.width, categories, vectors)
        self.network = Denoiser(
            self.each,
            self.conditions,
            sizes.width,
            sizes.layers,
            tokens=sizes.tokens,
            heads=sizes.heads,
            factor=sizes.factor,
            dropout=sizes.dropout,
        )

    def standardise(self, points: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """Coordinates with mean zero and spread one over training cells."""
        return (points - self.mean) / self.sd

    def restore(self, state: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """Undo ``standardise``."""
        return state * self.sd + self.mean

    def forward(
        self, state: Float[Tensor, "b c"], time: Float[Tensor, "b"], condition: Mapping[str, Tensor]
    ) -> Float[Tensor, "b c"]:
        """Velocity at a state; the form of ``nn.flow.Velocity``. Vectors that are not given are null."""
        missing = {name: size for name, size in self.conditions.vectors.items() if name not in condition}
        blank = {name: state.new_full((len(state), size), torch.nan) for name, size in missing.items()}
        condition = {**condition, **blank}
        if not self.tokens:
            return self.network(state, time, condition)
        pad = self.tokens * self.each - self.coordinates
        laid = nn.functional.pad(state, (0, pad)).view(len(state), self.tokens, self.each)
        return self.network(laid, time, condition).flatten(1)[:, : self.coordinates]
