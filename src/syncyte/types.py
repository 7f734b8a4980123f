"""Shared vocabulary: what a modality is called in files, and what a minibatch is made of.

Shape alphabet, used everywhere: ``b`` cells, ``n`` tokens, ``d`` width, ``g`` genes, ``r`` regions, ``f`` features of
any modality, ``e`` ragged entries of a minibatch, ``k`` latent components, ``m`` interpolation nodes, ``c`` classes.

Leaves out everything that computes: this file may be imported by any layer and imports none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Schema:
    """How one modality looks in users' files. The data layer knows modalities only through this.

    Attributes
    ----------
    name
        Canonical name, also the key in MuData (``rna``, ``atac``).
    feature_kind
        ``gene``, ``region`` or ``other``: which harmoniser names its features.
    feature_types
        Values of ``var["feature_types"]`` in 10x files that mean this modality.
    keys
        Lower-case MuData keys and ``--modality`` spellings that mean it.
    rank
        Lower ones are tried first where several would take a table; equal ones in the order of their names.
    """

    name: str
    feature_kind: Literal["gene", "region", "other"]
    feature_types: tuple[str, ...]
    keys: tuple[str, ...]
    rank: int = 10


@dataclass(frozen=True, slots=True)
class Tokens:
    """One modality's view of a minibatch; ragged over measured features, padded over tokens.

    A token is a gene, a patch of regions, ...; an *entry* is one measured (non-zero) feature of one cell. A token may
    hold many entries (a patch holds the open regions in it); entries that got no token still feed the linear path.

    Attributes
    ----------
    feature
        ``(e,)`` int64, column of the modality's vocabulary.
    value
        ``(e,)`` float32, raw count.
    cell
        ``(e,)`` int64, row of the entry in the minibatch, ascending.
    token
        ``(e,)`` int64, position ``row * n + column`` of the entry's token, or -1.
    ids
        ``(b, n)`` int64, which gene or patch each token is.
    valid
        ``(b, n)`` bool, false for padding.
    """

    feature: torch.Tensor
    value: torch.Tensor
    cell: torch.Tensor
    token: torch.Tensor
    ids: torch.Tensor
    valid: torch.Tensor

    def to(self, device: torch.device | str) -> Tokens:
        """Copy on another device."""
        return Tokens(**{item.name: getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)})


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step consumes.

    Attributes
    ----------
    tokens
        By modality. Every modality of the model is there; absent ones have no entries and no valid token.
    present
        By modality, ``(b,)`` bool: measured in this cell.
    covariates
        By name, ``(b,)`` int64 codes; -1 = unknown.
    rows
        ``(b,)`` int64, row of each cell in the data it was read from.
    """

    tokens: dict[str, Tokens]
    present: dict[str, torch.Tensor]
    covariates: dict[str, torch.Tensor]
    rows: torch.Tensor

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """Copy on another device."""
        return Batch(
            tokens={name: tokens.to(device) for name, tokens in self.tokens.items()},
            present={name: flag.to(device) for name, flag in self.present.items()},
            covariates={name: codes.to(device) for name, codes in self.covariates.items()},
            rows=self.rows.to(device),
        )


@dataclass(frozen=True, slots=True)
class Visible:
    """What of one modality the model may see.

    Attributes
    ----------
    whole
        ``(b,)`` bool: false hides the modality altogether (its depth, ids and padding too).
    features
        ``(b, f)`` bool or None: false hides single features; their entries are dropped and their share of the zero
        background is taken out, so neither value nor presence is seen.
    entries, share
        The same where a flag for each feature would be too much (a million regions): ``(e,)`` bool, which entries are
        seen, and ``(b, t)``, which share of the features of each token (patch) is visible. Which closed regions are
        hidden is then known in number only; the shares say all of it that the zero background can tell.
    """

    whole: torch.Tensor
    features: torch.Tensor | None = None
    entries: torch.Tensor | None = None
    share: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder gives back.

    Attributes
    ----------
    latent
        ``(b, k)`` cell state, the input of every head.
    base
        ``(b, k)`` the same without the learned residual: what the linear start alone would give.
    context
        ``(b, m, 2)`` standardised log depth and log richness of each modality, zero where not seen.
    parts
        By modality, ``(b, k_m)`` linear latents of that modality alone (zeros where not seen).
    states
        ``(b, n, d)`` token states of the backbone, the cell token first (and alone, unless all were asked for); None
        where the preset has no attention.
    valid
        ``(b, n)`` bool beside ``states``.
    """

    latent: torch.Tensor
    base: torch.Tensor
    context: torch.Tensor
    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    states: torch.Tensor | None = None
    valid: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """Total to minimise, its named parts, and how many valid entries each part averages over.

    ``parts`` are detached means; ``counts`` make averages over minibatches and data-parallel ranks exact.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]
    counts: dict[str, torch.Tensor]

    def scaled(self, weight: float) -> Loss:
        """The same loss with its total multiplied."""
        return replace(self, total=self.total * weight)


def json_ready(value: Any) -> Any:
    """Plain JSON value from numpy scalars, arrays, paths and nested containers (NaN becomes null)."""
    import math
    from pathlib import Path

    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_ready(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
