"""Sets to a fixed number of latent tokens and back: cross-attention that learned or given queries ask.

``Pool`` reads any number of tokens, in any order, into ``M`` latents; ``Unpool`` answers for any features that are
asked for, each by its own query. Both are made of ``AskBlock``: queries attend to a set, then go through a gated
feed-forward layer, each with a residual on the query (the multi-head cross-attention block of scLDM, Palla et al. 2025;
induced set attention, Lee et al. 2019). ``MergeValues`` joins who a token is with what was counted there.

Guarantees, each a test: the latents do not change with the order of tokens or with padding; an answer does not hang on
what else is asked; an empty set gives what the queries say by themselves; with ``zero=True`` a block begins as the
identity on its queries.
Trap: gene vector *times* count, then LayerNorm over it, is blind to the counts, which only scale the vector; values are
put beside the vector instead. Leaves out: likelihoods and what the tokens are.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class GatedLayer(nn.Module):
    """``W3 (silu(W1 x) * W2 x)`` (SwiGLU, Shazeer 2020); ``zero`` lets it begin at zero."""

    def __init__(self, width: int, *, zero: bool = False) -> None:
        super().__init__()
        inner = 4 * -(-2 * width // 3)
        self.inward = nn.Linear(width, 2 * inner)
        self.outward = nn.Linear(inner, width)
        if zero:
            nn.init.zeros_(self.outward.weight)
            nn.init.zeros_(self.outward.bias)

    def forward(self, states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Apply it to the last axis."""
        gate, value = self.inward(states).chunk(2, dim=-1)
        return self.outward(F.silu(gate) * value)


class CrossAttention(nn.Module):
    """Queries attend to a set of tokens.

    Parameters
    ----------
    width, heads
        Width of queries and tokens, and number of heads, which divides it.
    zero
        Let the output begin at zero.
    """

    def __init__(self, width: int, heads: int, *, zero: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.outward = nn.Linear(width, width, bias=False)  # an empty set adds nothing
        if zero:
            nn.init.zeros_(self.outward.weight)

    def forward(
        self, queries: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b q d"]:
        """What each query gathers from the valid tokens of its cell (None: all); zero where there are none."""
        cells, asked, width = queries.shape
        query = self.query(queries).view(cells, asked, self.heads, -1).transpose(1, 2)
        shaped = self.key_value(tokens).view(cells, -1, 2, self.heads, width // self.heads)
        key, value = shaped.permute(2, 0, 3, 1, 4)
        if valid is None:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            some = valid.any(dim=1)
            mask = (valid | ~some[:, None])[:, None, None, :]  # a row without any key would be NaN
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask) * some[:, None, None, None]
        return self.outward(mixed.transpose(1, 2).reshape(cells, asked, width))


class AskBlock(nn.Module):
    """``u = q + attention(LN q, LN x)``, then ``u + gated(LN u)``.

    Parameters
    ----------
    width, heads
        Sizes.
    zero
        Begin as the identity on the queries, so that the block is a residual that is learned only where it helps.
    """

    def __init__(self, width: int, heads: int, *, zero: bool = False) -> None:
        super().__init__()
        self.before_query, self.before_tokens = nn.LayerNorm(width), nn.LayerNorm(width)
        self.before_layer = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads, zero=zero)
        self.layer = GatedLayer(width, zero=zero)

    def forward(
        self, queries: Float[Tensor, "b q d"], tokens: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b q d"]:
        """Updated queries. With the queries as tokens this is a layer of self-attention."""
        asked = queries + self.attention(self.before_query(queries), self.before_tokens(tokens), valid)
        return asked + self.layer(self.before_layer(asked))


class Pool(nn.Module):
    """A set of tokens as ``latents`` vectors.

    Parameters
    ----------
    latents
        Number ``M`` of learned queries.
    width, heads
        Sizes.
    layers
        Layers of self-attention among the latents after they have read the set.
    zero
        Let all blocks begin as the identity: the latents are then the queries, plus what ``forward`` is given.
    """

    def __init__(self, latents: int, width: int, heads: int, *, layers: int = 0, zero: bool = False) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(latents, width) / width**0.5)
        self.read = AskBlock(width, heads, zero=zero)
        self.mix = nn.ModuleList(AskBlock(width, heads, zero=zero) for _ in range(layers))

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        valid: Bool[Tensor, "b n"] | None = None,
        start: Float[Tensor, "b m d"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Latents; ``start`` is added to the queries (a cheaper summary of the same set, which the blocks refine)."""
        states = self.queries.expand(len(tokens), -1, -1)
        states = states if start is None else states + start
        states = self.read(states, tokens, valid)
        for block in self.mix:
            states = block(states, states)
        return states


class Unpool(nn.Module):
    """Answers for any asked features, from latents.

    Parameters
    ----------
    width, heads
        Sizes.
    layers
        Layers of self-attention among the latents before they are asked.
    zero
        Let all blocks begin as the identity: the answers are then the queries.
    """

    def __init__(self, width: int, heads: int, *, layers: int = 0, zero: bool = False) -> None:
        super().__init__()
        self.mix = nn.ModuleList(AskBlock(width, heads, zero=zero) for _ in range(layers))
        self.answer = AskBlock(width, heads, zero=zero)

    def forward(
        self, latents: Float[Tensor, "b m d"], queries: Float[Tensor, "q d"] | Float[Tensor, "b q d"]
    ) -> Float[Tensor, "b q d"]:
        """One state for every query, none of which sees another; queries without a cell axis are asked of all."""
        for block in self.mix:
            latents = block(latents, latents)
        asked = queries.expand(len(latents), -1, -1) if queries.ndim == 2 else queries
        return self.answer(asked, latents)


class MergeValues(nn.Module):
    """Token of a feature and its value: ``W [vector ; value]``, the value not lost to later normalisation.

    Parameters
    ----------
    width
        Of the feature's vector and of the token.
    values
        Numbers that describe what was measured (such as log count, and log count per 10,000).
    """

    def __init__(self, width: int, values: int = 1) -> None:
        super().__init__()
        self.merge = nn.Linear(width + values, width)

    def forward(self, vectors: Float[Tensor, "b n d"], values: Float[Tensor, "b n v"]) -> Float[Tensor, "b n d"]:
        """Tokens."""
        return self.merge(torch.cat([vectors, values], dim=-1))
