"""Networks that predict a velocity from a noisy state, a time and conditions: over one vector, or over latent tokens.

Conditions are any set of attributes: categories (code 0 is *null*, nothing said), and vectors of features, numbers
among them (a row of NaN is null). Each becomes a vector; their sum and the time modulate every layer (adaptive
LayerNorm whose gates begin at zero, DiT, Peebles and Xie 2023). So an untrained network answers zero, whatever is
asked.
Leaves out: paths and guidance (``nn.flow``), and which attributes there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.nn.attention import SelfAttention

WAVES = 32  # sines of time, and as many cosines


class Conditions(nn.Module):
    """Attributes of cells as one vector.

    Parameters
    ----------
    width
        Of the vector.
    categories
        Number of categories of each categorical attribute, null not counted; codes are 1 to that number, 0 is null.
    vectors
        Width of each attribute that is a vector of features (1 for a number).
    """

    def __init__(self, width: int, categories: Mapping[str, int], vectors: Mapping[str, int] | None = None) -> None:
        super().__init__()
        # lists, not dicts: attributes are the user's words, and torch takes no dots and none of its own method names
        self.categories, self.vectors = tuple(categories), dict(vectors or {})
        self.tables = nn.ModuleList(nn.Embedding(count + 1, width) for count in categories.values())
        self.maps = nn.ModuleList(nn.Linear(size, width) for size in self.vectors.values())
        self.null = nn.Parameter(torch.zeros(len(self.vectors), width))
        for table in self.tables:
            nn.init.normal_(table.get_parameter("weight"), std=0.02)

    def forward(self, condition: Mapping[str, Tensor]) -> Float[Tensor, "b d"]:
        """Sum over the attributes; all have to be given, as null where nothing is said."""
        parts = [table(condition[name]) for name, table in zip(self.categories, self.tables, strict=True)]
        for name, linear, null in zip(self.vectors, self.maps, self.null, strict=True):
            given = condition[name]
            absent = given.isnan().all(dim=1, keepdim=True)
            parts.append(torch.where(absent, null, linear(given.nan_to_num())))
        return torch.stack(parts).sum(dim=0)

    def nothing(self, cells: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Null condition of as many cells."""
        codes = {name: torch.zeros(cells, dtype=torch.long, device=device) for name in self.categories}
        blank = {name: torch.full((cells, size), torch.nan, device=device) for name, size in self.vectors.items()}
        return codes | blank


def drop_conditions(
    condition: Mapping[str, Tensor], each: float, every: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Forget attributes in training: each by itself at one rate, all of a cell together at another.

    So every subset of attributes is learned, and guidance by any of them is one model's.
    """
    cells = len(next(iter(condition.values())))
    device = None if generator is None else generator.device
    gone = torch.rand(cells, generator=generator, device=device) < every
    found = {}
    for name, values in condition.items():
        null = (gone | (torch.rand(cells, generator=generator, device=device) < each)).to(values.device)
        blank = torch.nan if values.is_floating_point() else 0
        found[name] = values.masked_fill(null.view(-1, *[1] * (values.ndim - 1)), blank)
    return found


class TimeVector(nn.Module):
    """Time in [0, 1] as a vector, from sines of a thousand times it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """Apply it."""
        steps = torch.arange(WAVES, device=time.device, dtype=torch.float32) / WAVES
        angle = 1000 * time.float()[:, None] * torch.exp(-math.log(10_000) * steps)
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)
        return self.layers(waves)


class Modulation(nn.Module):
    """Shift, scale and gate of a layer from the condition, ``parts`` of them; all zero at first."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Float[Tensor, "b d"], axes: int) -> tuple[Tensor, ...]:
        """The parts, with room for ``axes`` axes between cells and width."""
        found = self.linear(F.silu(condition)).view(len(condition), *[1] * axes, -1)
        return found.chunk(self.parts, dim=-1)


class Layer(nn.Module):
    """Modulated feed-forward layer, after modulated self-attention where ``heads`` is not 0."""

    def __init__(self, width: int, heads: int, factor: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2 if heads else 1))
        self.attention = SelfAttention(width, heads) if heads else None
        inner = factor * width
        self.feed = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width))
        self.modulation = Modulation(width, 6 if heads else 3)

    def forward(self, states: Float[Tensor, "b *n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b *n d"]:
        """Apply it."""
        shift, scale, gate, *more = self.modulation(condition, states.ndim - 2)
        if self.attention is not None:
            valid = states.new_ones(states.shape[:2], dtype=torch.bool)
            states = states + gate * self.attention(self.norms[1](states) * (1 + scale) + shift, valid)
            shift, scale, gate = more
        return states + gate * self.feed(self.norms[0](states) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """Velocity of a latent vector ``(b, z)`` or of latent tokens ``(b, m, z)``.

    Parameters
    ----------
    latent
        Size ``z`` of the vector, or of each token.
    conditions
        Attributes, of width ``width``.
    width, layers
        Sizes.
    tokens, heads
        Number ``m`` of tokens and heads of attention among them; 0 tokens for a vector.
    """

    def __init__(
        self,
        latent: int,
        conditions: Conditions,
        width: int = 128,
        layers: int = 3,
        *,
        tokens: int = 0,
        heads: int = 0,
        factor: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conditions, self.time = conditions, TimeVector(width)
        self.inward = nn.Linear(latent, width)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.5) if tokens else None  # what tells tokens apart
        self.layers = nn.ModuleList(Layer(width, heads if tokens else 0, factor, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, 2)
        self.outward = nn.Linear(width, latent)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def forward(
        self,
        state: Float[Tensor, "b *n z"],
        time: Float[Tensor, "b"],
        condition: Mapping[str, Int[Tensor, "b"] | Tensor],
    ) -> Float[Tensor, "b *n z"]:
        """Velocity at a state; the form of ``nn.flow.Velocity``."""
        said = self.time(time)
        said = said + self.conditions(condition) if condition else said  # a model may know no attribute
        states = self.inward(state)
        states = states if self.place is None else states + self.place
        for layer in self.layers:
            states = layer(states, said)
        shift, scale = self.modulation(said, states.ndim - 2)
        return self.outward(self.norm(states) * (1 + scale) + shift)
