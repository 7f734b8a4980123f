"""Multiway transformer: attention shared by all modalities, one feed-forward expert per modality and a mixer.

Tokens lie in contiguous slices by modality, so an expert is applied to a slice and nothing is computed to be thrown
away. In the upper layers the tokens of cells seen in several modalities go through the mixer instead. Pre-norm,
own LayerNorm before each sublayer (BEiT-3, Wang et al. 2022, for the idea of experts beside shared attention).
Leaves out: positions (tokens carry them), cross-attention (``nn.resample``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syncyte.nn.attention import SelfAttention

MIXER = "mixer"


def feed_forward(width: int, factor: int, dropout: float) -> nn.Sequential:
    """Two linear layers with GELU between."""
    inner = factor * width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width))


class Block(nn.Module):
    """One layer: shared attention, then the experts of the routes.

    Parameters
    ----------
    width, heads
        Token width and number of heads.
    routes
        Names of the experts (the modalities).
    mixer
        Whether this layer has the mixer, which serves all tokens of cells seen in several modalities; the cell token
        takes its expert in every layer.
    """

    def __init__(
        self, width: int, heads: int, routes: Sequence[str], *, mixer: bool, factor: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.before_experts = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        names = [*routes, MIXER]
        self.mixes = mixer
        self.experts = nn.ModuleDict({name: feed_forward(width, factor, dropout) for name in names})
        self.dropout = nn.Dropout(dropout)
        if mixer:  # the mixer starts as the mean of the experts it takes over from
            self._average_into_mixer(routes)

    @torch.no_grad()
    def _average_into_mixer(self, routes: Sequence[str]) -> None:
        for name, parameter in self.experts[MIXER].named_parameters():
            sources: list[Tensor] = [self.experts[route].get_parameter(name) for route in routes]
            parameter.copy_(torch.stack(sources).mean(dim=0))

    def forward(
        self,
        states: Float[Tensor, "b n d"],
        valid: Bool[Tensor, "b n"],
        slices: Mapping[str, slice],
        mixed: Bool[Tensor, "b"],
        cell_only: bool = False,
    ) -> Float[Tensor, "b n d"]:
        """Apply the layer; ``slices`` gives each route's columns, ``mixed`` the cells seen in several modalities.

        With ``cell_only`` only the cell token is updated and returned, ``(b, 1, d)``: its expert is always the mixer.
        """
        if cell_only:
            cell = states[:, :1] + self.dropout(self.attention(self.before_attention(states), valid, queries=1))
            return cell + self.dropout(self.experts[MIXER](self.before_experts(cell)))
        states = states + self.dropout(self.attention(self.before_attention(states), valid))
        normed = self.before_experts(states)
        if self.mixes and bool(mixed.all()):
            return states + self.dropout(self.experts[MIXER](normed))
        update = self._routed(normed, slices)
        if self.mixes and bool(mixed.any()):
            rows = mixed.nonzero().squeeze(1)
            update = update.index_copy(0, rows, self.experts[MIXER](normed[rows]))
        return states + self.dropout(update)

    def _routed(self, normed: Tensor, slices: Mapping[str, slice]) -> Tensor:
        ordered = sorted(slices.items(), key=lambda item: item[1].start)
        return torch.cat([self.experts[route](normed[:, columns]) for route, columns in ordered], dim=1)


class Multiway(nn.Module):
    """Stack of blocks over ``[cell token | tokens of each modality]``.

    Parameters
    ----------
    width, heads, layers
        Sizes.
    routes
        Modalities, in the order of their slices.
    mixer_layers
        How many of the upper layers have the mixer.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        routes: Sequence[str],
        *,
        mixer_layers: int = 1,
        factor: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, routes, mixer=index >= layers - mixer_layers, factor=factor, dropout=dropout)
            for index in range(layers)
        )
        self.last = nn.LayerNorm(width)

    def forward(
        self,
        cell: Float[Tensor, "b d"],
        tokens: Mapping[str, tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]],
        mixed: Bool[Tensor, "b"],
        cell_only: bool = False,
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """States of all tokens (cell token first) and which are valid. The cell token takes the mixer's expert.

        With ``cell_only`` the last layer is computed for the cell token alone, which it gives unchanged.
        """
        states, valid, slices = [cell[:, None]], [torch.ones_like(mixed)[:, None]], {MIXER: slice(0, 1)}
        start = 1
        for route, (embedded, flags) in tokens.items():
            if embedded.shape[1] == 0:
                continue
            slices[route] = slice(start, start + embedded.shape[1])
            start += embedded.shape[1]
            states.append(embedded)
            valid.append(flags)
        joined, flags = torch.cat(states, dim=1), torch.cat(valid, dim=1)
        for index, block in enumerate(self.blocks):
            joined = block(joined, flags, slices, mixed, cell_only and index == len(self.blocks) - 1)
        return self.last(joined), flags[:, : joined.shape[1]]
