"""The best linear model of a modality as a path inside the network.

Computes the same residuals as ``baselines.residual.Residual`` and projects them on a table of loadings, in torch and
differentiable in the table, from ragged entries: sparse corrections through one embedding bag, the zeros through a
product with ``m`` interpolation nodes. Hidden features are taken out of the entries *and* of the zeros.
Leaves out: fitting (``baselines.start``), anything learned beyond the table.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.rows import by_rows, sparse_gradient
from syncyte.types import Tokens, Visible

BLOCK = 65_536  # features summed at once


def segment_sum(values: Float[Tensor, "e"], segment: Int[Tensor, "e"], count: int) -> Float[Tensor, "b"]:
    """Sum of ragged values by row."""
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, segment, values)


class TokenSums(nn.Module):
    """Weighted sums of table rows over the features of each token.

    Parameters
    ----------
    token_of
        ``(f,)`` token of each feature.
    """

    token_of: Tensor

    def __init__(self, token_of: Int[Tensor, "f"]) -> None:
        super().__init__()
        self.count = int(token_of.max()) + 1
        self.register_buffer("token_of", token_of.int(), persistent=False)  # follows from the vocabulary

    def forward(self, weight: Float[Tensor, "f"], table: Float[Tensor, "f k"] | None) -> Float[Tensor, "t k"]:
        """Sums over features of ``weight * table`` (of ``weight`` alone without a table), in blocks of features."""
        out = torch.zeros(self.count, 1 if table is None else table.shape[1], device=weight.device)
        for first in range(0, len(weight), BLOCK):
            part = slice(first, first + BLOCK)
            rows = weight[part, None] if table is None else weight[part, None] * table[part]
            out.index_add_(0, self.token_of[part], rows)
        return out


class LinearPath(nn.Module):
    """Residual scaling, projection, standardising and soft clipping of one modality.

    Parameters
    ----------
    pearson
        Pearson residuals of counts, else depth-scaled residuals of open or closed.
    share, nodes, zero, center
        ``(f,)``, ``(m,)``, ``(m, f)``, ``(f,)`` of the fitted residual.
    table
        ``(f, k)`` loadings, already divided by the standard deviation of the training latents.
    clip
        Latents become ``clip * tanh(z / clip)``: rare cells lie 10 to 15 standard deviations out.
    theta, bound, floor
        Constants of the residual (overdispersion, clipping, least depth).
    token_of
        ``(f,)`` token (patch) of each feature, or None. With it features may be hidden by share of a token
        (``Visible.share``); not for Pearson residuals, whose zeros are no multiples of one another.
    """

    share: Tensor
    nodes: Tensor
    zero: Tensor
    center: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        pearson: bool,
        share: Tensor,
        nodes: Tensor,
        zero: Tensor,
        center: Tensor,
        table: Tensor,
        clip: float = 3.0,
        theta: float = 10.0,
        bound: float = 8.0,
        floor: float = 20.0,
        token_of: Int[Tensor, "f"] | None = None,
    ) -> None:
        super().__init__()
        self.pearson, self.clip, self.theta, self.bound, self.floor = pearson, clip, theta, bound, floor
        self.table = nn.Parameter(table.float().clone())
        for name, value in (("share", share), ("nodes", nodes), ("zero", zero), ("center", center)):
            self.register_buffer(name, value.float().clone())
        self.register_buffer("scale", torch.sqrt(self.share + 0.3 * self.share.mean()))
        self._cached: tuple[int, Tensor, Tensor] | None = None
        self._tokens: tuple[tuple[int, torch.device], Tensor, Tensor, Tensor] | None = None
        self.members = None if token_of is None or pearson else TokenSums(token_of)

    @property
    def components(self) -> int:
        """Number of latents."""
        return int(self.table.shape[1])

    def entries(
        self, tokens: Tokens, visible: Visible
    ) -> tuple[Float[Tensor, "e"], Float[Tensor, "b"], Bool[Tensor, "e"]]:
        """Weight of each entry (0 where unseen), visible depth of each cell, and which entries are seen."""
        seen = visible.whole[tokens.cell] & (tokens.value > 0)
        if visible.features is not None:
            seen = seen & visible.features[tokens.cell, tokens.feature]
        if visible.entries is not None:
            seen = seen & visible.entries
        value = tokens.value if self.pearson else torch.ones_like(tokens.value)
        value = torch.where(seen, value, torch.zeros_like(value))
        depth = segment_sum(value, tokens.cell, visible.whole.shape[0])
        full = self._full_depth(depth, visible)
        left, share = self._coordinates(full)
        flat = left[tokens.cell] * self.zero.shape[1] + tokens.feature
        table = self.zero.reshape(-1)
        part = share[tokens.cell]
        background = (1 - part) * table[flat] + part * table[flat + self.zero.shape[1]]
        weight = self._residual(value, full[tokens.cell], tokens.feature) - background
        return torch.where(seen, weight, torch.zeros_like(weight)), depth, seen

    def forward(
        self, tokens: Tokens, visible: Visible
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b 2"], Float[Tensor, "e"], Bool[Tensor, "e"]]:
        """Latents (zero where the modality is not seen), visible depth and richness, entry weights, entries seen.

        Always in full precision: under bf16 the linear model would lose what the residual is there to add.
        """
        with torch.autocast(self.table.device.type, enabled=False):
            return self._exact(tokens, visible)

    def _exact(self, tokens: Tokens, visible: Visible) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = visible.whole.shape[0]
        weight, depth, seen = self.entries(tokens, visible)
        starts = torch.searchsorted(tokens.cell, torch.arange(count, device=tokens.cell.device))
        sparse = sparse_gradient(self.table)
        latent = F.embedding_bag(
            tokens.feature, self.table, starts, mode="sum", per_sample_weights=weight, sparse=sparse
        )
        latent = latent + self._background(self._full_depth(depth, visible), visible)
        latent = self.clip * torch.tanh(latent / self.clip)
        other = torch.where(seen, torch.ones_like(weight) if self.pearson else tokens.value, torch.zeros_like(weight))
        richness = segment_sum(other, tokens.cell, count)
        amounts = torch.stack([depth, richness], dim=1)
        if visible.share is not None:  # the depth is an offset of what is hidden, so it is that of the whole cell
            amounts = amounts / self._visible_share(visible)[:, None]
        return latent * visible.whole[:, None], amounts, weight, seen

    def step(self, depth: float) -> Float[Tensor, "f"]:
        """What a count of 1 in place of 0 adds to the residual of each feature, in a cell of one depth."""
        one, feature = torch.ones_like(self.share), torch.arange(len(self.share), device=self.share.device)
        depths = one * depth
        return self._residual(one, depths, feature) - self._residual(one * 0, depths, feature)

    def _full_depth(self, depth: Float[Tensor, "b"], visible: Visible) -> Float[Tensor, "b"]:
        """Depth the cell would have if the hidden features followed the null model."""
        if visible.share is not None:
            return depth / self._visible_share(visible)
        if visible.features is None:
            return depth
        return depth / (visible.features.to(depth.dtype) @ self.share).clamp_min(1e-6)

    def _background(self, depth: Float[Tensor, "b"], visible: Visible) -> Float[Tensor, "b k"]:
        left, share = self._coordinates(depth)
        if visible.share is not None:
            zero, center, _ = self._by_token()
            level = self.zero[:, 0] / self.zero[-1, 0]  # zeros at all depths are multiples of those at the last node
            rows = ((1 - share) * level[left] + share * level[left + 1])[:, None] * (visible.share @ zero)
            return rows - visible.share @ center
        if visible.features is None:
            nodes, center = self._projected()
            rows = (1 - share)[:, None] * nodes[left] + share[:, None] * nodes[left + 1]
            return rows - center
        rows = (1 - share)[:, None] * self.zero[left] + share[:, None] * self.zero[left + 1] - self.center
        return (rows * visible.features) @ self.table

    def _projected(self) -> tuple[Tensor, Tensor]:
        """Nodes and centre in latent space; kept while the table does not change."""
        version = self.table._version
        if torch.is_grad_enabled() and self.table.requires_grad and not by_rows(self.table):
            return self.zero @ self.table, self.center @ self.table
        if self._cached is None or self._cached[0] != version or self._cached[1].device != self.table.device:
            with torch.no_grad():
                self._cached = (version, self.zero @ self.table, self.center @ self.table)
        return self._cached[1], self._cached[2]

    def _visible_share(self, visible: Visible) -> Float[Tensor, "b"]:
        """Share of the expected depth that lies in visible features."""
        assert visible.share is not None
        return (visible.share @ self._by_token()[2]).clamp_min(1e-6)

    @torch.no_grad()
    def _by_token(self) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros at the last node and centre in latent space, and share, each summed over the features of a token.

        No gradient goes to the table through the background: a step would have to touch every feature.
        """
        if self.members is None:
            raise ValueError(
                "Features can be hidden by share only where the path knows their tokens and is not pearson."
            )
        key = (self.table._version, self.table.device)
        if self._tokens is None or self._tokens[0] != key:
            sums = [self.members(values, self.table.detach()) for values in (self.zero[-1], self.center)]
            self._tokens = (key, sums[0], sums[1], self.members(self.share, None)[:, 0])
        return self._tokens[1:]

    def _coordinates(self, depth: Float[Tensor, "b"]) -> tuple[Int[Tensor, "b"], Float[Tensor, "b"]]:
        knots, root = self.nodes.sqrt(), depth.sqrt()
        left = (torch.searchsorted(knots, root, right=True) - 1).clamp(0, len(knots) - 2)
        return left, (root - knots[left]) / (knots[left + 1] - knots[left])

    def _residual(
        self, value: Float[Tensor, "e"], depth: Float[Tensor, "e"], feature: Int[Tensor, "e"]
    ) -> Float[Tensor, "e"]:
        mean = depth * self.share[feature]
        if self.pearson:
            scaled = (value - mean) / (mean + mean**2 / self.theta).clamp_min(1e-12).sqrt()
            return scaled.clamp(-self.bound, self.bound)
        return (value - mean) / depth.clamp_min(self.floor).sqrt() / self.scale[feature]
