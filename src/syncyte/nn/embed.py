"""Token vectors: who a token is, what was measured there, and where it lies.

A token's entries (one count of a gene, the open regions of a patch) are summed as weight x table row and projected to
the width; identity, place and amount are added. The sum is order-free and tolerates missing features. ``slots`` layout
replaces the feature's own row by that of its position inside the token, which is the published patch layout (a linear
layer over 600 slots shared by all patches) in sparse form.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.rows import lookup
from syncyte.types import Tokens

FREQUENCIES = 8


def place_features(position: Float[Tensor, "t"]) -> Float[Tensor, "t p"]:
    """Sine and cosine of a position in [0, 1] at octave frequencies."""
    angle = position[:, None] * (2.0 ** torch.arange(FREQUENCIES, device=position.device)) * math.pi
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def cell_bins(amount: Float[Tensor, "b n"], bins: int) -> Int[Tensor, "b n"]:
    """Within-cell quantile bin of each amount: 1 to ``bins`` among the non-zero amounts of its cell, 0 for zero.

    Ties share the lowest rank, so a bin depends on amounts alone and not on the order of tokens.
    """
    some = amount > 0
    ordered = torch.where(some, amount, torch.inf).sort(dim=1).values
    below = torch.searchsorted(ordered, amount.contiguous())
    share = below / some.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.where(some, 1 + (share * bins).long().clamp(0, bins - 1), torch.zeros_like(below))


class TokenEmbedder(nn.Module):
    """Embed the tokens of one modality.

    Parameters
    ----------
    count
        Number of different tokens (genes, or patches).
    width
        Token width ``d``.
    components
        Columns ``k`` of the table of loadings that entries are summed in.
    slots
        Number of slots of the ``slots`` layout, 0 for learned feature rows.
    group, position
        ``(count,)`` chromosome code and relative place of each token, or None where tokens have no place.
    slot_of
        ``(f,)`` slot of each feature, for the ``slots`` layout.
    bins
        Number of within-cell quantile bins the amount of a token is read in; 0 reads its continuous logarithm.
    """

    slot_of: Tensor | None
    group: Tensor | None
    place: Tensor | None

    def __init__(
        self,
        count: int,
        width: int,
        components: int,
        *,
        slots: int = 0,
        group: Int[Tensor, "t"] | None = None,
        position: Float[Tensor, "t"] | None = None,
        slot_of: Int[Tensor, "f"] | None = None,
        bins: int = 0,
    ) -> None:
        super().__init__()
        self.identity = nn.Embedding(count, width)
        nn.init.normal_(self.identity.weight, std=0.02)
        self.project = nn.Linear(width if slots else components, width, bias=False)
        self.bins = bins
        self.amount = (
            nn.Embedding(bins + 1, width)
            if bins
            else nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        )
        self.norm = nn.LayerNorm(width)
        self.slot_table = nn.Parameter(torch.randn(slots, width) * 0.02) if slots else None
        self.register_buffer("slot_of", slot_of if slots else None)
        self.register_buffer("group", group)
        self.register_buffer("place", place_features(position) if position is not None else None)
        if group is not None and position is not None:
            self.group_table = nn.Embedding(int(group.max()) + 1, width)
            nn.init.normal_(self.group_table.weight, std=0.02)
            self.place_project = nn.Linear(2 * FREQUENCIES, width, bias=False)

    def forward(
        self,
        tokens: Tokens,
        table: Float[Tensor, "f k"],
        weight: Float[Tensor, "e"],
        seen: Bool[Tensor, "e"],
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Token vectors and which tokens hold at least one visible entry."""
        cells, columns = tokens.ids.shape
        use = seen & (tokens.token >= 0)
        token, feature = tokens.token[use], tokens.feature[use]
        if self.slot_table is not None and self.slot_of is not None:
            rows, factor = self.slot_table[self.slot_of[feature]], torch.ones_like(weight[use])
        else:
            rows, factor = lookup(table, feature), weight[use]
        summed = torch.zeros(cells * columns, rows.shape[1], dtype=rows.dtype, device=rows.device)
        summed = summed.index_add(0, token, rows * factor[:, None])
        amount = torch.zeros(cells * columns, dtype=rows.dtype, device=rows.device)
        amount = amount.index_add(0, token, tokens.value[use]).view(cells, columns)
        vectors = self.project(summed).view(cells, columns, -1) + self.identity(tokens.ids)
        vectors = vectors + self.amount(cell_bins(amount, self.bins) if self.bins else torch.log1p(amount)[..., None])
        if self.group is not None and self.place is not None:
            places = self.group_table(self.group) + self.place_project(self.place)
            vectors = vectors + F.embedding(tokens.ids, places)
        return self.norm(vectors), tokens.valid & (amount > 0)
