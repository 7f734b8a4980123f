"""The cell model: linear paths of every modality, a zero-initialised residual on them, and heads.

``latent = blend of each visible modality's linear latents + residual``. The residual is a small network on the linear
latents and, where layers > 0, a multiway transformer over the tokens; its last layer starts at zero, so at step 0 the
model *is* the linear start. Capabilities: ``Encodes`` (``encode``) and ``Decodes`` (``decode``).
Knows no modality by name; leaves out what to hide (objectives) and how to fit the start (``baselines.start``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from syncyte.errors import CapabilityError
from syncyte.models.published import PublishedPatches
from syncyte.nn.embed import TokenEmbedder
from syncyte.nn.heads import MeanHead, RateHead
from syncyte.nn.linear_path import LinearPath
from syncyte.nn.region_head import RegionHead
from syncyte.nn.transformer import Multiway
from syncyte.types import Batch, Encoded, Tokens, Visible


@dataclass(frozen=True)
class CellSizes:
    """Sizes of the learned residual.

    ``hidden`` of the small network (0 leaves it out), token ``width`` with ``layers``, ``heads`` and ``mixer_layers``
    of the transformer (0 layers leave it out), ``dropout``.
    """

    hidden: int = 128
    layers: int = 0
    width: int = 64
    heads: int = 4
    mixer_layers: int = 1
    dropout: float = 0.3
    attention_dropout: float = 0.1


class CellModel(nn.Module):
    """Encoder and decoders of cells measured in one or more modalities.

    Parameters
    ----------
    paths
        Linear path of each modality.
    heads
        Head of each modality.
    components
        Width ``k`` of the latent space; each path's first ``k`` columns start it.
    embedders
        Token embedder of each modality (needed where ``sizes.layers`` > 0).
    batches
        Number of technical batches whose effect the decoders may explain (0 for none).
    published
        Network of the published layout that makes the latents of the one modality there is, instead of all the above.
    """

    capabilities = ("encodes", "decodes")
    paths: Mapping[str, LinearPath]
    heads: Mapping[str, MeanHead | RateHead | RegionHead]
    embedders: Mapping[str, TokenEmbedder]
    context_mean: Tensor
    context_sd: Tensor
    gate: Tensor

    def __init__(
        self,
        paths: Mapping[str, LinearPath],
        heads: Mapping[str, MeanHead | RateHead | RegionHead],
        components: int,
        sizes: CellSizes,
        *,
        embedders: Mapping[str, TokenEmbedder] | None = None,
        batches: int = 0,
        published: PublishedPatches | None = None,
    ) -> None:
        super().__init__()
        self.published = published
        self.names = tuple(paths)
        self.components, self.sizes = components, sizes
        self.paths = nn.ModuleDict(paths)  # type: ignore[assignment]
        self.heads = nn.ModuleDict(heads)  # type: ignore[assignment]
        self.register_buffer("context_mean", torch.zeros(len(self.names), 2))
        self.register_buffer("context_sd", torch.ones(len(self.names), 2))
        self.register_buffer("gate", torch.ones(len(self.names)))
        self.mixes = nn.ParameterDict({name: torch.eye(components) for name in self.names})
        self.blend = nn.Parameter(torch.zeros(len(self.names)))
        # private components stay out of the residual: with a few thousand cells it only fits their noise
        inputs = len(self.names) * (components + 3)
        self.residual = _residual_network(inputs, components, sizes) if sizes.hidden else None
        self.batch_effect = nn.Parameter(torch.zeros(batches, components)) if batches else None
        self.backbone: Multiway | None = None
        if sizes.layers and embedders is not None:
            self.embedders = nn.ModuleDict(embedders)  # type: ignore[assignment]
            self.cell_token = nn.Linear(inputs, sizes.width)
            self.backbone = Multiway(
                sizes.width,
                sizes.heads,
                sizes.layers,
                self.names,
                mixer_layers=sizes.mixer_layers,
                dropout=sizes.attention_dropout,
            )
            self.out = nn.Linear(sizes.width, components)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def encode(
        self, tokens: Mapping[str, Tokens], visible: Mapping[str, Visible], *, token_states: bool = False
    ) -> Encoded:
        """Latent state of cells from what is visible of them; ``token_states`` gives the states of all tokens too.

        A modality that is hidden as a whole contributes nothing: neither ids nor padding nor depth.
        """
        parts, raw, weights = {}, [], {}
        for name in self.names:
            parts[name], amounts, weight, seen = self.paths[name](tokens[name], visible[name])
            raw.append(torch.log(amounts.clamp_min(1)))
            weights[name] = (weight, seen)
        flags = torch.stack([visible[name].whole for name in self.names], dim=1).float()
        context = (torch.stack(raw, dim=1) - self.context_mean) / self.context_sd * flags[..., None]
        if self.published is not None:
            name = self.names[0]
            latent = self.published.embed(tokens[name], len(flags)) * flags
            return Encoded(latent, latent, context, {name: latent})
        share = flags * self.blend.exp()
        share = share / share.sum(dim=1, keepdim=True).clamp_min(1e-6)
        leading = {name: part[:, : self.components] for name, part in parts.items()}
        base = sum(share[:, i, None] * leading[name] for i, name in enumerate(self.names))
        latent = sum(share[:, i, None] * (leading[name] @ self.mixes[name]) for i, name in enumerate(self.names))
        features = torch.cat([*leading.values(), context.flatten(1), flags], dim=1)
        if self.residual is not None:
            latent = latent + self.residual(features)
        states = valid = None
        if self.backbone is not None:
            states, valid = self._attend(self.backbone, tokens, weights, features, flags, token_states)
            latent = latent + self.out(states[:, 0])
        return Encoded(latent, base, context, parts, states, valid)

    @property
    def state_width(self) -> int:
        """Width of the token states; 0 without attention."""
        return 0 if self.backbone is None else self.sizes.width

    def _attend(
        self,
        backbone: Multiway,
        tokens: Mapping[str, Tokens],
        weights: Mapping[str, tuple[Tensor, Tensor]],
        features: Tensor,
        flags: Tensor,
        token_states: bool,
    ) -> tuple[Tensor, Tensor]:
        embedded = {}
        for name in self.names:
            if bool(flags[:, self.names.index(name)].any()):
                embedded[name] = self.embedders[name](tokens[name], self.paths[name].table, *weights[name])
        return backbone(self.cell_token(features), embedded, flags.sum(dim=1) > 1, cell_only=not token_states)

    def decode(
        self, encoded: Encoded, target: str, batch: Int[Tensor, "b"] | None = None, *, gated: bool = True
    ) -> Any:
        """Raw prediction of one modality's head.

        Parameters
        ----------
        encoded
            From ``encode``.
        target
            Modality to predict.
        batch
            Codes of technical batches to predict for; None or -1 predicts free of batch effects.
        gated
            Apply the gate of this target, which shrinks the learned residual as far as held-out cells asked for.
        """
        state = self.state(encoded, target, gated=gated)
        if batch is not None and self.batch_effect is not None:
            known = (batch >= 0)[:, None]
            centred = self.batch_effect - self.batch_effect.mean(dim=0)
            state = state + torch.where(known, centred[batch.clamp_min(0)], torch.zeros_like(state))
        head = self.heads[target]
        if isinstance(head, RegionHead):
            return head(state, encoded.base, encoded.context, self.paths[target])
        return head(state, encoded.base, encoded.context)

    def state(self, encoded: Encoded, target: str, *, gated: bool = True) -> Float[Tensor, "b k"]:
        """State that the head of one modality reads, before technical batches."""
        gate = self.gate[self.names.index(target)] if gated else 1.0
        return encoded.base + gate * (encoded.latent - encoded.base)

    def linear_map(self, source: str, target: str) -> Float[Tensor, "s t"]:
        """Linear way from what the path of ``source`` sums up to the prediction of ``target``, as a ``(k, t)`` matrix.

        For cells of which the source alone is visible, near the mean of the latents (where their soft clipping has
        slope one), without the residual network and the depth context.
        """
        gate = self.gate[self.names.index(target)]
        mix, head = self.mixes[source], self.heads[target]
        own = torch.eye(len(mix), device=mix.device)
        everything = slice(None)
        rows = head.decoder(self.paths[target].table, everything).T if isinstance(head, RegionHead) else head.weight
        return (own + gate * (mix - own)) @ rows

    def profile_logits(self, state: Float[Tensor, "b k"], target: str, features: slice) -> Float[Tensor, "b s"]:
        """Logits of a few features in the profile that a head predicts for given states; its softmax is over all.

        Raises
        ------
        CapabilityError
            Where the head predicts values and no profile.
        """
        head = self.heads[target]
        if isinstance(head, RegionHead):
            return head.logits(state, self.paths[target], features)
        if isinstance(head, RateHead):
            return head.logits(state, features)
        raise CapabilityError(f"The head of {target!r} predicts values of single features and no profile over them.")

    def predict(self, encoded: Encoded, target: str, batch: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b f"]:
        """Expected observation of every feature of one modality."""
        return self.heads[target].expected(self.decode(encoded, target, batch))


def _residual_network(inputs: int, outputs: int, sizes: CellSizes) -> nn.Sequential:
    last = nn.Linear(sizes.hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(inputs, sizes.hidden),
        nn.GELU(),
        nn.Dropout(sizes.dropout),
        nn.Linear(sizes.hidden, sizes.hidden),
        nn.GELU(),
        nn.Dropout(sizes.dropout),
        last,
    )


def gated_latent(model: CellModel, encoded: Encoded) -> Float[Tensor, "b k"]:
    """Latent with the learned residual shrunk by the mean gate of the targets."""
    return encoded.base + model.gate.mean() * (encoded.latent - encoded.base)


def everything(batch: Batch) -> dict[str, Visible]:
    """All that was measured is visible."""
    return {name: Visible(present) for name, present in batch.present.items()}


def without(batch: Batch, target: str) -> dict[str, Visible]:
    """Everything but one modality."""
    return {
        name: Visible(torch.zeros_like(present) if name == target else present)
        for name, present in batch.present.items()
    }
