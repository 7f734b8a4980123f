"""Networks between cells and words: a reader of short texts, a bridge from cell tokens, a matcher, a speaker.

The reader adds up two views of a text: a small transformer over its pieces, and a bag of its words and runs of letters
(hashed), which makes names match by spelling from the first step. The bridge reads the tokens of a cell with learned
queries (Q-Former of Li et al. 2023, without its language model). The speaker is a causal transformer whose first
places are the cell. What another encoder makes of a cell can be read beside its tokens (``GivenReader``).
Knows no biology. Leaves out: tokenizers (``words``), losses (``objectives.words``), pretrained language models
(``models.pretrained``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.resample import AskBlock, GatedLayer, Pool

PAD = 0


class TextReader(nn.Module):
    """Short texts to one vector each.

    Parameters
    ----------
    pieces, grams
        Sizes of the two vocabularies; number 0 is padding in both.
    length
        Most pieces of a text.
    width, layers, heads
        Of the transformer.
    shared
        Width of the vector.
    sentence
        Width of vectors that another model has made of the texts, which are read in place of the pieces; 0 for none.
    """

    def __init__(
        self,
        pieces: int,
        grams: int,
        *,
        length: int,
        width: int,
        layers: int,
        heads: int,
        shared: int,
        sentence: int = 0,
    ) -> None:
        super().__init__()
        self.given = nn.Linear(sentence, shared) if sentence else None
        self.pieces = nn.Embedding(pieces, width, padding_idx=PAD)
        self.grams = nn.EmbeddingBag(grams, shared, mode="mean", padding_idx=PAD)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        nn.init.normal_(self.pieces.weight, std=0.02)
        nn.init.normal_(self.grams.weight, std=1.0)
        self.blocks = nn.ModuleList(AskBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(2 * width)
        self.out = nn.Linear(2 * width, shared)

    def forward(
        self, pieces: Int[Tensor, "b l"], grams: Int[Tensor, "b g"], given: Float[Tensor, "b s"] | None = None
    ) -> Float[Tensor, "b d"]:
        """Vectors of length one."""
        if self.given is not None:
            if given is None:
                raise ValueError("This reader takes the vectors of a sentence model.")
            return F.normalize(self.given(given) + self.grams(grams), dim=1)
        valid = pieces != PAD
        states = self.pieces(pieces) + self.place[: pieces.shape[1]]
        for block in self.blocks:
            states = block(states, states, valid)
        seen = valid[..., None].to(states.dtype)
        mean = (states * seen).sum(dim=1) / seen.sum(dim=1).clamp_min(1)
        most = states.masked_fill(~valid[..., None], -1e4).amax(dim=1) * valid.any(dim=1, keepdim=True)
        return F.normalize(self.out(self.norm(torch.cat([mean, most], dim=1))) + self.grams(grams), dim=1)


class Adapter(nn.Module):
    """A narrow residual layer, zero at first: what a frozen encoder learns of a new purpose (Houlsby et al. 2019)."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.inward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, narrow), nn.GELU())
        self.outward = nn.Linear(narrow, width, bias=False)
        nn.init.zeros_(self.outward.weight)

    def forward(self, states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Apply it."""
        return states + self.outward(self.inward(states))


@dataclass(frozen=True)
class Given:
    """What another encoder, which does not learn, makes of cells.

    Attributes
    ----------
    vector
        ``(b, v)`` one vector a cell.
    states, valid
        ``(b, n, e)`` states of its tokens and ``(b, n)`` which there are; None where it has no tokens.
    """

    vector: Tensor
    states: Tensor | None = None
    valid: Tensor | None = None


class GivenReader(nn.Module):
    """What another encoder makes of cells as a residual on the queries of a bridge; it begins at zero.

    Parameters
    ----------
    vector, states
        Widths of its vectors, and of its token states (0: it has none).
    queries, width, heads
        Of the bridge.
    narrow
        Width between the vector and the queries.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, vector: int, states: int, *, queries: int, width: int, heads: int, narrow: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(vector))
        self.register_buffer("scale", torch.ones(vector))
        self.shape = (queries, width)
        self.inward = nn.Sequential(nn.Linear(vector, narrow), nn.GELU(), nn.Dropout(dropout))
        self.outward = nn.Linear(narrow, queries * width)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)
        self.ask: AskBlock | None = None
        if states:
            self.tokens = nn.Sequential(nn.LayerNorm(states), nn.Linear(states, width))
            self.queries = nn.Parameter(torch.randn(queries, width) / width**0.5)
            self.ask = AskBlock(width, heads, zero=True)

    def standardise(self, vector: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Vectors on the scale of training cells; nothing stands far out."""
        return ((vector - self.mean) / self.scale).clamp(-8.0, 8.0)

    def forward(self, given: Given) -> Float[Tensor, "b q w"]:
        """What is added to the queries."""
        found = self.outward(self.inward(self.standardise(given.vector))).view(-1, *self.shape)
        if self.ask is None or given.states is None:
            return found
        asked = self.queries.expand(len(found), -1, -1)
        return found + self.ask(asked, self.tokens(given.states), given.valid) - asked


class Bridge(nn.Module):
    """Tokens of a cell to a few query vectors in the space of texts.

    Parameters
    ----------
    inward
        Width of the tokens.
    queries, width, heads, layers
        Learned queries, their width, and layers of self-attention among them.
    shared
        Width of the space.
    """

    def __init__(self, inward: int, *, queries: int, width: int, heads: int, layers: int, shared: int) -> None:
        super().__init__()
        self.inward = nn.Linear(inward, width)
        self.pool = Pool(queries, width, heads, layers=layers)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, shared)

    def forward(
        self,
        tokens: Float[Tensor, "b n e"],
        valid: Bool[Tensor, "b n"],
        start: Float[Tensor, "b q w"] | None = None,
    ) -> tuple[Float[Tensor, "b q w"], Float[Tensor, "b q d"]]:
        """States of the queries, and their vectors of length one; ``start`` is added to the queries first."""
        states = self.norm(self.pool(self.inward(tokens), valid, start))
        return states, F.normalize(self.out(states), dim=2)


def likeness(cells: Float[Tensor, "b q d"], texts: Float[Tensor, "t d"]) -> Float[Tensor, "b t"]:
    """Cosine of a cell and a text: half the best query's, half the mean of all."""
    each = torch.einsum("bqd,td->bqt", cells, texts)
    return 0.5 * (each.amax(dim=1) + each.mean(dim=1))


class Matcher(nn.Module):
    """Whether a text is of a cell, by reading both together; re-ranks what ``likeness`` found."""

    def __init__(self, shared: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4 * shared, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, cells: Float[Tensor, "b q d"], texts: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
        """Log odds of pairs."""
        weight = torch.einsum("bqd,bd->bq", cells, texts).mul(10).softmax(dim=1)
        chosen = torch.einsum("bq,bqd->bd", weight, cells)
        return self.layers(torch.cat([chosen, texts, chosen * texts, (chosen - texts).abs()], dim=1))[:, 0]


class CausalBlock(nn.Module):
    """A pre-norm layer in which a place sees itself and what is before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.middle = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joint, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layer = GatedLayer(width)

    def forward(self, states: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Apply it."""
        cells, places, width = states.shape
        shaped = self.joint(self.before(states)).view(cells, places, 3, self.heads, width // self.heads)
        query, key, value = shaped.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.outward(mixed.transpose(1, 2).reshape(cells, places, width))
        return states + self.layer(self.middle(states))


class Speaker(nn.Module):
    """Sentences of cells, piece by piece.

    Parameters
    ----------
    pieces, length
        Size of the vocabulary, and most pieces of a sentence.
    inward
        Width of the states of the cell that stand before the sentence.
    width, layers, heads
        Of the transformer.
    """

    def __init__(self, pieces: int, *, length: int, inward: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.length = length
        self.prefix = nn.Linear(inward, width)
        self.pieces = nn.Embedding(pieces, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        nn.init.normal_(self.pieces.weight, std=0.02)
        self.blocks = nn.ModuleList(CausalBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, prefix: Float[Tensor, "b q e"], pieces: Int[Tensor, "b l"]) -> Float[Tensor, "b l p"]:
        """Scores of the piece that follows each piece."""
        text = self.pieces(pieces) + self.place[: pieces.shape[1]]
        states = torch.cat([self.prefix(prefix), text], dim=1)
        for block in self.blocks:
            states = block(states)
        return F.linear(self.norm(states[:, prefix.shape[1] :]), self.pieces.weight)
