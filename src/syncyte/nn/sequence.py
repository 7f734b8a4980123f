"""A small network that reads DNA: a start in closed form, and towers of convolutions on top of it.

The start (``baselines.spectrum``) is part of the network as tables: words with gaps, their axes, and a Gaussian kernel
regression on the axes. Each tower reads motifs (one wide layer, max pooling, a few narrow layers with dilation,
global pooling) on both strands through the same weights and averages them; its head begins at zero, so an untrained
network says what the start says. A gate holds how much of either is kept. An unknown base is four zeros.
Leaves out: losses and training.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.config import Config
from syncyte.genome.words import canonical_words, word_columns

LEAST = 24  # places a tower keeps before it stops pooling


class SequenceSizes(Config):
    """Shape of a network.

    ``length`` bases in, ``tasks`` answers out; ``filters`` motifs of ``kernel`` bases, maxima over ``pool`` bases,
    ``blocks`` further layers of ``inner`` channels; ``members`` towers that give ``channels`` numbers each, beside
    ``kept`` of the ``axes`` of words of ``k`` bases with ``informative`` that count and ``centres`` landmarks.
    """

    length: int = Field(ge=20)
    tasks: int = Field(1, ge=1)
    filters: int = Field(64, ge=4)
    kernel: int = Field(19, ge=3)
    pool: int = Field(8, ge=1)
    inner: int = Field(48, ge=4)
    blocks: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    members: int = Field(3, ge=0)
    channels: int = Field(16, ge=1)
    k: int = Field(7, ge=1, le=8)
    informative: int = Field(5, ge=1, le=8)
    axes: int = Field(512, ge=0)
    centres: int = Field(2500, ge=0)
    gamma: float = Field(2.0, gt=0)
    kept: int = Field(16, ge=0)
    task: Literal["binary", "count"] = "binary"

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.members * self.channels + min(self.kept, self.axes)


class SpectrumStart(nn.Module):
    """The closed form as tables: words to axes, axes to answers. Nothing of it learns by gradients."""

    table: Tensor
    middle: Tensor
    centres: Tensor
    weights: Tensor
    bias: Tensor
    columns: Tensor

    def __init__(self, sizes: SequenceSizes) -> None:
        super().__init__()
        self.k, self.gamma = sizes.k, sizes.gamma
        self.words = len(canonical_words(sizes.k))
        self.register_buffer("table", torch.zeros(self.words, sizes.axes))
        self.register_buffer("middle", torch.zeros(sizes.axes))
        self.register_buffer("centres", torch.zeros(sizes.centres, sizes.axes))
        self.register_buffer("weights", torch.zeros(sizes.centres, sizes.tasks))
        self.register_buffer("bias", torch.zeros(sizes.tasks))
        self.register_buffer("columns", torch.tensor(word_columns(sizes.k)), persistent=False)

    def axes(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b a"]:
        """Axes of length one; zeros where a sequence has no word."""
        words, known = self.places(onehot)
        counts = torch.zeros(len(onehot), self.words, device=onehot.device)
        counts.scatter_add_(1, words, known.to(counts.dtype))
        total = counts.sum(dim=1, keepdim=True)
        axes = counts @ self.table / total.clamp_min(1.0) - self.middle
        return torch.where(total > 0, F.normalize(axes, dim=1, eps=1e-12), torch.zeros_like(axes))

    def places(self, onehot: Float[Tensor, "b 4 l"]) -> tuple[Int[Tensor, "b p"], Tensor]:
        """Column of the word that begins at each base, and whether all of it is known."""
        base, known = onehot.argmax(dim=1), onehot.sum(dim=1) > 0.5
        words = torch.zeros_like(base[:, : base.shape[1] - self.k + 1])
        whole = torch.ones_like(words, dtype=torch.bool)
        for place in range(self.k):
            words = words * 4 + base[:, place : place + words.shape[1]]
            whole &= known[:, place : place + words.shape[1]]
        return self.columns[words], whole

    def answers(self, axes: Float[Tensor, "b a"]) -> Float[Tensor, "b t"]:
        """Logits, or logarithms of one more than the count."""
        return torch.exp(self.gamma * (axes @ self.centres.T - 1.0)) @ self.weights + self.bias


class SequenceTower(nn.Module):
    """Convolutions from bases to a short vector, and a head of zeros on it."""

    def __init__(self, sizes: SequenceSizes) -> None:
        super().__init__()
        self.pool = sizes.pool
        self.motifs = nn.Conv1d(4, sizes.filters, sizes.kernel, padding=sizes.kernel // 2, bias=False)
        self.motif_norm = nn.BatchNorm1d(sizes.filters)
        self.drop = nn.Dropout1d(sizes.dropout)
        places = -(-sizes.length // sizes.pool)
        layers, norms, self.shrink = [], [], []
        for block in range(sizes.blocks):
            size, step = (5, 1) if block == 0 else (3, 2)
            entering = sizes.filters if block == 0 else sizes.inner
            layers.append(nn.Conv1d(entering, sizes.inner, size, padding=step * (size // 2), dilation=step))
            norms.append(nn.BatchNorm1d(sizes.inner))
            self.shrink.append(places >= 2 * LEAST)
            places = places // 2 if self.shrink[-1] else places
        self.layers, self.norms = nn.ModuleList(layers), nn.ModuleList(norms)
        self.squeeze = nn.Linear(sizes.filters + 2 * sizes.inner, sizes.channels)
        self.last_drop = nn.Dropout(min(1.5 * sizes.dropout, 0.9))
        self.head = nn.Linear(sizes.channels, sizes.tasks)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def strand(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b c"]:
        """Vector of the strand as it is."""
        h = F.max_pool1d(self.motifs(onehot), self.pool, ceil_mode=True)  # first, since all else costs less after it
        h = F.relu(self.motif_norm(h))
        strongest = h.amax(dim=2)
        h = self.drop(h)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms)):
            z = F.gelu(norm(layer(h)))
            h = z if number == 0 else h + z
            h = F.max_pool1d(h, 2) if self.shrink[number] else h
        pooled = torch.cat([strongest, h.amax(dim=2), h.mean(dim=2)], dim=1)
        return F.gelu(self.squeeze(self.last_drop(pooled)))

    def forward(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b c"]:
        """Mean of the vectors of both strands."""
        return (self.strand(onehot) + self.strand(onehot.flip(1, 2))) / 2


class SequenceNet(nn.Module):
    """Windows to embeddings and answers.

    Parameters
    ----------
    sizes
        Its shape.
    """

    def __init__(self, sizes: SequenceSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.start = SpectrumStart(sizes)
        self.towers = nn.ModuleList(SequenceTower(sizes) for _ in range(sizes.members))
        self.gate: Tensor
        self.register_buffer("gate", torch.tensor([[1.0], [1.0], [0.0]]).repeat(1, sizes.tasks))

    @property
    def head(self) -> nn.ModuleList:
        """The heads of the towers; the answer is the mean of theirs on top of the start."""
        return nn.ModuleList(tower.head for tower in self.each())

    def each(self) -> list[SequenceTower]:
        """The towers."""
        return [tower for tower in self.towers if isinstance(tower, SequenceTower)]

    def forward(self, onehot: Float[Tensor, "b 4 l"]) -> Float[Tensor, "b d"]:
        """Embeddings: vectors of all towers, then leading axes of words."""
        return self.both(onehot)[0]

    def both(self, onehot: Float[Tensor, "b 4 l"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b t"]]:
        """Embeddings and answers."""
        axes = self.start.axes(onehot)
        answers = self.gate[0] * self.start.answers(axes) + self.gate[2]
        vectors = [tower(onehot) for tower in self.towers]
        for tower, vector in zip(self.each(), vectors):
            answers = answers + self.gate[1] * tower.head(vector) / len(self.towers)
        kept = axes[:, : self.sizes.kept] * self.sizes.axes**0.5  # axes are of length one over all of them
        return torch.cat([*vectors, kept], dim=1), answers
