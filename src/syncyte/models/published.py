"""The published layout of CLM-Access as a network of its own, to be compared with: slots in patches, dense.

A token is a patch: ``LayerNorm(patch embedding) + MLP(values of its slots)``. Slots are the regions of the patch in
genome order, filled from the left; beyond the last one they begin anew. Besides the patches there are a cell token and
a padding token; attention is full. Post-norm blocks with one LayerNorm shared by both sublayers and a feed-forward
layer of the token's width, as the released configuration has it (CLM-Access, AAAI 2026,
doi 10.1609/aaai.v40i1.37046; sizes in ``recipes.clm_access``). A head shared by all patches scores the slots.

Not carried over: the last region of every patch, which the released code loses by an off-by-one; the cell and padding
tokens, which it may mask; the same patches hidden in all cells stay the same, as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.attention import SelfAttention
from syncyte.types import Tokens

HIDDEN = -1.0  # value of a slot that is hidden
EMPTY = -2.0  # value of a slot without a region


@dataclass(frozen=True)
class PublishedSizes:
    """Sizes: patches and slots of each, token width, layers, heads."""

    patches: int
    slots: int = 600
    width: int = 256
    layers: int = 8
    heads: int = 8
    dropout: float = 0.1


class PublishedBlock(nn.Module):
    """Post-norm block; one LayerNorm serves both sublayers."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.forward_layers = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Apply the block."""
        states = self.norm(states + self.dropout(self.attention(states, valid)))
        return self.norm(states + self.dropout(self.forward_layers(states)))


class PublishedPatches(nn.Module):
    """Encoder and head of the published layout.

    Parameters
    ----------
    sizes
        See ``PublishedSizes``.
    token_of, slot_of
        ``(f,)`` patch of each region and its slot.
    components
        Axes of the embedding: principal components of the mean over patches, see ``fit_readout``.
    """

    readout: Tensor
    middle: Tensor

    slot: Tensor
    real: Tensor

    def __init__(
        self, sizes: PublishedSizes, token_of: Int[Tensor, "f"], slot_of: Int[Tensor, "f"], components: int = 0
    ) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.identity = nn.Embedding(sizes.patches + 2, width)  # patches, cell token, padding
        self.identity_norm = nn.LayerNorm(width)
        self.values = nn.Sequential(
            nn.Linear(sizes.slots, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.Dropout(sizes.dropout),
        )
        self.blocks = nn.ModuleList(PublishedBlock(width, sizes.heads, sizes.dropout) for _ in range(sizes.layers))
        self.register_buffer("readout", torch.zeros(width, components))
        self.register_buffer("middle", torch.zeros(width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, sizes.slots))
        flat = token_of * sizes.slots + slot_of
        self.register_buffer("slot", flat, persistent=False)  # both follow from the vocabulary
        real = torch.zeros(sizes.patches * sizes.slots, dtype=torch.bool)
        real[flat] = True
        self.register_buffer("real", real.view(sizes.patches, sizes.slots), persistent=False)

    def dense(self, tokens: Tokens, cells: int) -> Float[Tensor, "b p s"]:
        """Openings of cells in slots: 1 open, 0 closed, ``EMPTY`` where a patch has no further region."""
        out = torch.where(self.real, 0.0, EMPTY).flatten().repeat(cells, 1)
        place = self.slot[tokens.feature]
        use = tokens.value > 0
        out[tokens.cell[use], place[use]] = 1.0
        return out.view(cells, self.sizes.patches, self.sizes.slots)

    def forward(
        self, values: Float[Tensor, "b p s"], hidden: Bool[Tensor, "p"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """States of the cell token, the patches and the padding token; ``hidden`` patches lose all their slots."""
        cells = len(values)
        if hidden is not None:
            values = torch.where(hidden[None, :, None], HIDDEN, values)
        identity = self.identity_norm(self.identity.weight)
        patches = identity[None, :-2] + self.values(values)
        extra = identity[-2:].expand(cells, 2, -1)
        states = torch.cat([extra[:, :1], patches, extra[:, 1:]], dim=1)
        valid = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        valid[:, -1] = False
        for block in self.blocks:
            states = block(states, valid)
        return states

    def pooled(self, tokens: Tokens, cells: int) -> Float[Tensor, "b d"]:
        """Mean state of the patches of whole cells, as the published embedding has it."""
        return self.forward(self.dense(tokens, cells))[:, 1:-1].mean(dim=1)

    def embed(self, tokens: Tokens, cells: int) -> Float[Tensor, "b k"]:
        """Leading principal components of the pooled state, in units of the first one's standard deviation."""
        return (self.pooled(tokens, cells) - self.middle) @ self.readout

    @torch.no_grad()
    def fit_readout(self, pooled: Float[Tensor, "n d"]) -> None:
        """Principal components of pooled states of training cells."""
        self.middle.copy_(pooled.mean(dim=0))
        _, spread, axes = torch.linalg.svd(pooled - self.middle, full_matrices=False)
        count = min(self.readout.shape[1], len(axes))
        first = (spread[0] / max(len(pooled), 1) ** 0.5).clamp_min(1e-8)
        self.readout.zero_()
        self.readout[:, :count] = axes[:count].T / first

    def loss(self, values: Float[Tensor, "b p s"], hidden: Bool[Tensor, "p"]) -> tuple[Tensor, Tensor]:
        """Mean binary cross-entropy over the real slots of hidden patches, and how many they are."""
        states = self.forward(values, hidden)[:, 1:-1][:, hidden]
        logits, real = self.head(states), self.real[hidden]
        target = (values[:, hidden] > 0).float()
        error = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * real
        count = real.sum() * len(values)
        return error.sum() / count.clamp_min(1), count
