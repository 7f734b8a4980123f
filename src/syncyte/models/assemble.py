"""Assemble a cell model from a plain description, and fill it from a linear start.

The description (``CellSpec``) is JSON and lies in every checkpoint, so a model is rebuilt from it and its weights
loaded strictly: one path for new and for trained models.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.baselines.closed_form import fit_tie
from syncyte.baselines.decode import OPEN_SCALE, Decoder
from syncyte.baselines.start import LinearStart
from syncyte.config import Config
from syncyte.errors import ConfigError
from syncyte.modalities import Layout, embedder, modalities
from syncyte.models.cell import CellModel, CellSizes
from syncyte.models.published import PublishedPatches, PublishedSizes
from syncyte.nn.heads import MeanHead, RateHead, level_width
from syncyte.nn.linear_path import LinearPath
from syncyte.nn.region_head import RegionHead
from syncyte.nn.rows import mark_rows

Head = MeanHead | RateHead | RegionHead
PENALTY = 30.0  # of the ridge behind decoders of openings


class PathSpec(Config):
    """Shape of one modality.

    Features, linear components, interpolation nodes, likelihood of its head, value bins, and the total that counts of
    a cell are brought to where they are predicted as values (runs that do not say it used 10,000). ``samples`` > 0
    gives it the head for very many features, which draws so many in training; ``tied`` ties that head to the table.
    """

    features: int
    components: int
    nodes: int
    likelihood: str
    bins: int = 0
    per_cell: float = 10_000.0
    samples: int = 0
    tied: bool = False


class CellSpec(Config):
    """Shape of a whole cell model; ``published`` puts the published layout in the place of everything learned."""

    modalities: dict[str, PathSpec]
    components: int
    batches: int = 0
    hidden: int = 128
    layers: int = 0
    width: int = 64
    heads: int = 4
    mixer_layers: int = 1
    dropout: float = 0.3
    attention_dropout: float = 0.1
    published: bool = False


def describe_start(
    start: LinearStart,
    likelihood: Mapping[str, str],
    bins: Mapping[str, int] | None = None,
    samples: Mapping[str, int] | None = None,
    tied: bool = False,
    **sizes: object,
) -> CellSpec:
    """Description of the model that a start will fill."""
    paths = {
        name: {
            "features": encoder.table.shape[0],
            "components": encoder.table.shape[1],
            "nodes": len(encoder.residual.nodes),
            "likelihood": likelihood[name],
            "bins": (bins or {}).get(name, 0),
            "per_cell": encoder.per_cell,
            "samples": (samples or {}).get(name, 0),
            "tied": tied and bool((samples or {}).get(name, 0)),
        }
        for name, encoder in start.encoders.items()
    }
    return CellSpec.parse({"modalities": paths, "components": start.components, **sizes})


def empty_model(spec: CellSpec, layouts: Mapping[str, Layout]) -> CellModel:
    """A model of the right shape whose linear part is zero."""
    paths, heads, embedders = {}, {}, {}
    contexts = len(spec.modalities)
    for name, shape in spec.modalities.items():
        pearson = modalities[name].residual == "pearson"
        features = shape.features
        paths[name] = LinearPath(
            pearson=pearson,
            share=torch.full((features,), 1.0 / features),
            nodes=torch.arange(shape.nodes, dtype=torch.float32),
            zero=torch.zeros(shape.nodes, features),
            center=torch.zeros(features),
            table=torch.zeros(features, shape.components),
            token_of=torch.from_numpy(layouts[name].token_of) if shape.samples else None,
        )
        if shape.samples:
            mark_rows(paths[name].table)
        heads[name] = _empty_head(shape, spec.components, contexts, layouts[name], binary=not pearson)
        if spec.layers and not spec.published:
            embedders[name] = embedder(layouts[name], spec.width, shape.components, shape.bins)
    if spec.published:
        return _published(spec, layouts, paths, heads)
    sizes = CellSizes(
        spec.hidden, spec.layers, spec.width, spec.heads, spec.mixer_layers, spec.dropout, spec.attention_dropout
    )
    return CellModel(paths, heads, spec.components, sizes, embedders=embedders, batches=spec.batches)


def _published(
    spec: CellSpec, layouts: Mapping[str, Layout], paths: Mapping[str, LinearPath], heads: Mapping[str, Head]
) -> CellModel:
    """Model whose latents are those of the published layout."""
    (name,) = spec.modalities
    layout = layouts[name]
    if layout.slot_of is None:
        raise ConfigError("The published layout has slots: set slots.atac above 0.")
    sizes = PublishedSizes(layout.count, layout.slots, spec.width, spec.layers, spec.heads, spec.attention_dropout)
    token_of, slot_of = torch.from_numpy(layout.token_of), torch.from_numpy(layout.slot_of)
    network = PublishedPatches(sizes, token_of, slot_of, spec.components)
    return CellModel(paths, heads, spec.components, CellSizes(hidden=0), published=network)


def _empty_head(shape: PathSpec, components: int, contexts: int, layout: Layout, *, binary: bool) -> Head:
    if shape.likelihood == "gaussian":
        return MeanHead(
            torch.zeros(components, shape.features),
            torch.zeros(2 * contexts, shape.features),
            torch.zeros(shape.features),
            per_cell=shape.per_cell,
        )
    if shape.samples:
        return RegionHead(
            components,
            shape.features,
            level_width(components, contexts),
            likelihood=shape.likelihood,
            tied=shape.components if shape.tied else 0,
            samples=shape.samples,
            token_of=torch.from_numpy(layout.token_of),
        )
    return RateHead(
        torch.zeros(components, shape.features),
        torch.zeros(shape.features),
        torch.zeros(level_width(components, contexts)),
        torch.tensor(0.0),
        likelihood=shape.likelihood,
        binary=binary,
        per_cell=shape.per_cell,
    )


@torch.no_grad()
def fill_from_start(model: CellModel, start: LinearStart) -> CellModel:
    """Copy a linear start into a model of its shape, which then predicts exactly as the start does."""
    for index, name in enumerate(model.names):
        encoder, path = start.encoders[name], model.paths[name]
        path.table.copy_(torch.from_numpy(encoder.table))
        path.share.copy_(torch.from_numpy(encoder.residual.share))
        path.nodes.copy_(torch.from_numpy(encoder.residual.nodes))
        path.zero.copy_(torch.from_numpy(encoder.residual.zero))
        path.center.copy_(torch.from_numpy(encoder.center))
        path.scale.copy_(torch.from_numpy(encoder.residual.scale))
        model.context_mean[index] = torch.from_numpy(encoder.context_mean)
        model.context_sd[index] = torch.from_numpy(encoder.context_sd)
        _fill_head(model, start, name)
    return model


def _fill_head(model: CellModel, start: LinearStart, name: str) -> None:
    decoder, head, path = start.decoders[name], model.heads[name], model.paths[name]
    source = model.names.index(start.source[name])
    if isinstance(head, MeanHead):
        head.weight.copy_(torch.from_numpy(decoder.weight))
        head.bias.copy_(torch.from_numpy(decoder.bias))
        head.context.zero_()
        head.context[2 * source : 2 * source + 2] = torch.from_numpy(decoder.context)
        return
    if isinstance(head, RegionHead):
        _fill_regions(head, decoder, path, start.encoders[name].table)
    elif decoder.kind == "depth":
        head.weight.copy_(torch.from_numpy(decoder.weight))
        head.bias.copy_(torch.from_numpy(decoder.bias))
    else:  # counts through a rate head: the profile starts at the training shares
        head.weight.zero_()
        head.bias.copy_(torch.log(path.share))
    head.level_weight.copy_(_place_level(decoder.level, model.components, source, len(model.names)))
    head.level_bias.fill_(decoder.level_bias)


def _fill_regions(head: RegionHead, decoder: Decoder, path: LinearPath, table: NDArray[np.float32]) -> None:
    """Profile of a head for very many features: the closed-form decoder, or what a tie to the table makes of it."""
    head.bias.copy_(torch.from_numpy(decoder.bias))
    head.share.copy_(path.share)
    head.scale.copy_(path.scale)
    if head.rows is not None:
        head.rows.copy_(torch.from_numpy(decoder.weight.T))
        return
    spread = decoder.openings * np.square(OPEN_SCALE * decoder.prior.astype(np.float64))
    head.spread.copy_(torch.from_numpy(spread))
    head.penalty.fill_(PENALTY)
    share, scale = (part.numpy().astype(np.float64) for part in (path.share, path.scale))
    head.mix.copy_(torch.from_numpy(fit_tie(decoder.weight, table, share, scale, spread, PENALTY)))


def _place_level(level: NDArray[np.float32], components: int, source: int, contexts: int) -> torch.Tensor:
    """Weights fitted on one source's features, put where ``nn.heads.level_features`` has them for all modalities."""
    placed = torch.zeros(level_width(components, contexts))
    fitted = torch.from_numpy(level)
    placed[:components] = fitted[:components]
    at = components
    placed[at + 2 * source : at + 2 * source + 2] = fitted[at : at + 2]
    for offset in range(3):  # squares and product, each a block over modalities
        placed[at + 2 * contexts + offset * contexts + source] = fitted[at + 2 + offset]
    start = at + 5 * contexts + source * components
    placed[start : start + components] = fitted[at + 5 :]
    return placed
