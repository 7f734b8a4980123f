"""Gene network: a cell is a set of genes with amounts, and every gene is predicted from the others by their tokens.

A token says where a gene stands: ``k`` coordinates and a level. ``lite`` reads a cell as the sum of its amounts times
coordinates and predicts a gene by its own coordinates against that sum, which is ``baselines.gene_space`` inside the
network. With layers, a transformer over the most expressed genes is added to it, asked by every gene through one cross
attention; its last layer starts at zero. Tokens come from a table, or through an adapter from a vector of each gene.

Capability ``adapts``: tokens may be replaced by the caller (``moved``, ``read``, ``predict``). Knows no modality by
name. Leaves out: fitting the start, what to hide (``objectives.genes``), how amounts are made (``baselines.amounts``).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syncyte.config import Config
from syncyte.models.adapter import AdapterMode, TokenAdapter
from syncyte.nn.transformer import Multiway


class GeneSizes(Config):
    """Sizes of a gene network.

    ``components`` coordinates of a token; ``layers`` (0: none), ``width`` and ``heads`` of the transformer over the
    ``tokens`` most expressed genes; ``hidden`` of the adapter's network; ``tied`` reads a gene's token in the output
    too, instead of a table of its own.
    """

    components: int = 64
    layers: int = 0
    width: int = 64
    heads: int = 4
    tokens: int = 192
    dropout: float = 0.1
    hidden: int = 128
    tied: bool = True


class GeneSpec(Config):
    """All that builds a gene network again. ``inputs`` is the length of a gene's vector, 0 without an adapter."""

    modality: str
    features: int
    encoding: Literal["rank", "bins", "log"]
    sizes: GeneSizes
    inputs: int = 0
    mode: AdapterMode = "residual"
    match: bool = False
    lora: int = 0
    per_cell: float = 1e4


class Read(NamedTuple):
    """A cell as the network sees it.

    ``total (b, k)`` sum over visible genes, ``amount (b, g)`` standardised amounts (0 where hidden), and of the
    transformer ``states (b, n, d)``, ``ids (b, n)`` and ``valid``, or None.
    """

    total: Tensor
    amount: Tensor
    states: Tensor | None = None
    ids: Tensor | None = None
    valid: Tensor | None = None


class GeneModel(nn.Module):
    """Network of genes; see the module."""

    capabilities = ("adapts",)
    mean: Tensor
    sd: Tensor
    level: Tensor
    spread: Tensor
    level_mean: Tensor
    level_scale: Tensor
    vectors: Tensor
    covered: Tensor

    def __init__(self, spec: GeneSpec) -> None:
        super().__init__()
        self.spec, self.names = spec, (spec.modality,)
        sizes, genes = spec.sizes, spec.features
        for name, value in (("mean", 0.0), ("sd", 1.0), ("level", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((genes,), value))
        self.register_buffer("level_mean", torch.zeros(()))
        self.register_buffer("level_scale", torch.ones(()))
        self.table = nn.Parameter(torch.randn(genes, sizes.components) * 0.02)
        self.mix = nn.Parameter(torch.ones(sizes.components))
        self.output = None if sizes.tied else nn.Parameter(torch.zeros(genes, sizes.components))
        self.adapter: TokenAdapter | None = None
        if spec.inputs:
            self.adapter = TokenAdapter(
                spec.inputs, sizes.components + 1, hidden=sizes.hidden, mode=spec.mode, match=spec.match
            )
            self.register_buffer("vectors", torch.zeros(genes, spec.inputs))
            self.register_buffer("covered", torch.zeros(genes, dtype=torch.bool))
        self.backbone: Multiway | None = None
        if sizes.layers:
            self.project = nn.Linear(sizes.components + 1, sizes.width)
            self.amount = nn.Sequential(nn.Linear(1, sizes.width), nn.SiLU(), nn.Linear(sizes.width, sizes.width))
            self.norm = nn.LayerNorm(sizes.width)
            self.cell = nn.Linear(sizes.components, sizes.width)
            self.backbone = Multiway(sizes.width, sizes.heads, sizes.layers, self.names, mixer_layers=0, dropout=0.1)
            self.query, self.key = nn.Linear(sizes.components, sizes.width), nn.Linear(sizes.width, sizes.width)
            self.read_out = nn.Linear(sizes.components, sizes.width)
            nn.init.zeros_(self.read_out.weight)
            nn.init.zeros_(self.read_out.bias)
            if spec.lora:
                self.add_lora(spec.lora)

    def add_lora(self, rank: int) -> None:
        """Put LoRA layers (Hu et al. 2022) that begin at zero into the attention and experts of the transformer."""
        from peft import LoraConfig, inject_adapter_in_model

        assert self.backbone is not None
        target = r".*(query|key_value|outward|experts\.\w+\.[03])"
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target), self.backbone)
        self.spec = self.spec.model_copy(update={"lora": rank})

    def static(self) -> Float[Tensor, "g w"]:
        """Static tokens: coordinates, brought to unit scale over genes, and the standardised level."""
        level = (self.level - self.level_mean) / self.level_scale
        return torch.cat([self.table * self.table.shape[0] ** 0.5, level[:, None]], dim=1)

    def tokens(self) -> Float[Tensor, "g w"]:
        """Tokens of all genes: static ones, or through the adapter where there is one."""
        static = self.static()
        return static if self.adapter is None else self.adapter.tokens(static, self.vectors, self.covered)

    def moved(self, before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> Float[Tensor, "n w"]:
        """How far tokens move when the vectors of their genes change."""
        assert self.adapter is not None
        return self.adapter.moved(before, after)

    def split(self, tokens: Float[Tensor, "... w"]) -> tuple[Tensor, Tensor]:
        """Coordinates and level (log1p of counts per ``per_cell``) of tokens."""
        coordinates = tokens[..., :-1] / self.table.shape[0] ** 0.5
        return coordinates, tokens[..., -1] * self.level_scale + self.level_mean

    def standardised(
        self, amounts: Float[Tensor, "b g"], hidden: Bool[Tensor, "b g"] | None = None
    ) -> Float[Tensor, "b g"]:
        """Amounts over training cells' mean and spread; a hidden gene is at its mean."""
        scaled = (amounts - self.mean) / self.sd
        return scaled if hidden is None else scaled.masked_fill(hidden, 0.0)

    def read(
        self, amounts: Float[Tensor, "b g"], tokens: Float[Tensor, "g w"], hidden: Bool[Tensor, "b g"] | None = None
    ) -> Read:
        """Read cells by the tokens of their genes; what is hidden is seen neither by value nor by presence."""
        scaled = self.standardised(amounts, hidden)
        total = scaled @ self.split(tokens)[0]
        if self.backbone is None:
            return Read(total, scaled)
        seen = amounts if hidden is None else amounts.masked_fill(hidden, 0.0)
        ids, valid, states = self._attend(seen, scaled, total, tokens)
        return Read(total, scaled, states, ids, valid)

    def _attend(
        self, seen: Tensor, scaled: Tensor, total: Tensor, tokens: Tensor
    ) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"], Float[Tensor, "b n d"]]:
        assert self.backbone is not None
        value, ids = seen.topk(min(self.spec.sizes.tokens, seen.shape[1]), dim=1)
        valid = value > 0
        embedded = self.project(tokens)[ids] + self.amount(scaled.gather(1, ids)[..., None])
        paired = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
        states, _ = self.backbone(self.cell(total), {self.names[0]: (self.norm(embedded), valid)}, paired)
        return ids, valid, states[:, 1:]

    def head(self, tokens: Float[Tensor, "g w"]) -> Float[Tensor, "g k"]:
        """Coordinates that predictions of genes read: of their tokens where tied, a table of their own where not."""
        return self.split(tokens)[0] if self.output is None else self.output

    def context(
        self, read: Read, tokens: Float[Tensor, "j w"], genes: Int[Tensor, "j"], head: Float[Tensor, "j k"]
    ) -> tuple[Float[Tensor, "b j"], Float[Tensor, "b j e"]]:
        """What the other genes of a cell say of some genes: in standard deviations, and as contextual embedding.

        The embedding's leading ``k`` numbers sum up to the linear part of the prediction; the others are what attention
        brought. A gene's own amount is taken out of the sum and its own token is not attended to.
        """
        own = self.split(tokens)[0]
        others = read.total[:, None] - read.amount[:, genes, None] * own
        parts = others * self.mix * head
        found = parts.sum(dim=2)
        if read.states is None or read.ids is None or read.valid is None:
            return found, parts
        weights = self.query(head) @ self.key(read.states).transpose(1, 2) / self.spec.sizes.width**0.5  # b j n
        shut = ~read.valid[:, None] | (read.ids[:, None] == genes[:, None])
        weights = weights.masked_fill(shut, -1e4).softmax(dim=2)
        brought = weights @ read.states
        found = found + (brought * self.read_out(head)).sum(dim=2)
        return found, torch.cat([parts, brought], dim=2)

    def predict(
        self,
        read: Read,
        tokens: Float[Tensor, "g w"],
        genes: Int[Tensor, "j"],
    ) -> Float[Tensor, "b j"]:
        """Expected log1p of counts per ``per_cell`` of some genes from the other genes of each cell."""
        chosen = tokens[genes]
        head = self.split(chosen)[0] if self.output is None else self.output[genes]
        found, _ = self.context(read, chosen, genes, head)
        return self.split(chosen)[1] + self.spread[genes] * found
