"""A short text, read letter by letter, as one vector of unit length.

Letters with their place, a convolution that sees five of them at once, pre-norm attention layers, mean and maximum over
the letters that are there. Cosines of two such vectors are what is trained (contrast of pairs).
Leaves out: what the texts are (``words.characters``).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from syncyte.nn.attention import SelfAttention
from syncyte.nn.transformer import feed_forward


class Layer(nn.Module):
    """Attention and a feed-forward part, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention, self.before_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.forward_part = SelfAttention(width, heads), feed_forward(width, 2, 0.0)
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """States after the layer; letters that are padding are looked at by none."""
        states = states + self.drop(self.attention(self.before_attention(states), valid))
        return states + self.drop(self.forward_part(self.before_forward(states)))


class CharacterEncoder(nn.Module):
    """Texts as letters to vectors.

    Parameters
    ----------
    letters
        How many different letters there are, 0 (padding) included.
    length
        Letters that are read at most.
    width, layers, heads
        Sizes of the network.
    out
        Axes of the vectors.
    """

    def __init__(
        self,
        letters: int,
        length: int = 48,
        *,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
        out: int = 128,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, width, padding_idx=0), nn.Embedding(length, width)
        nn.init.normal_(self.letter.weight, std=0.5)
        nn.init.normal_(self.place.weight, std=0.1)
        self.near = nn.Conv1d(width, width, 5, padding=2)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.last, self.out = nn.LayerNorm(width), nn.Linear(2 * width, out)
        self.log_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """Vectors of unit length; a text without letters gives the vector of nothing, never NaN."""
        valid = ids > 0
        valid = valid | ((~valid.any(dim=1, keepdim=True)) & (torch.arange(ids.shape[1]) == 0))
        states = self.letter(ids) + self.place.weight[: ids.shape[1]]
        states = states * valid[..., None]
        states = states + functional.gelu(self.near(states.transpose(1, 2)).transpose(1, 2))
        for layer in self.layers:
            states = layer(states, valid)
        states = self.last(states)
        mean = (states * valid[..., None]).sum(dim=1) / valid.sum(dim=1, keepdim=True)
        peak = states.masked_fill(~valid[..., None], -1e4).amax(dim=1)
        return functional.normalize(self.out(torch.cat([mean, peak], dim=1)), dim=1)


def contrast(
    first: Float[Tensor, "b d"],
    second: Float[Tensor, "b d"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "b b"],
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of finding each text's partner among all of the minibatch.

    ``same`` marks pairs off the diagonal that mean the same and are therefore no wrong answers.
    """
    scores = (scale.clamp(max=4.6).exp() * first @ second.T).masked_fill(same, -1e4)
    wanted = torch.arange(len(first))
    return 0.5 * (functional.cross_entropy(scores, wanted) + functional.cross_entropy(scores.T, wanted))
