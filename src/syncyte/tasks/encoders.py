"""Encoders of cells that do not learn: an earlier run, or a published gene transformer, read beside another run's own.

Both give one vector a cell and, where they have attention, the states of its tokens. Of longer lists the first state
and means of neighbouring ones are kept, so that no cell has more than ``most``; lists within it are kept whole.
An encoder is copied into the folder of the run that reads it (``keep``), which stays complete by itself.
Leaves out: what is learned from them (``objectives.words``), where they are stored (``recipes.word_encoder``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir
from syncyte.baselines.encode import axis_widths
from syncyte.data.cells import BLOCK, Cells, MappedRows
from syncyte.data.rank_tokens import ensembl_ids, gene_columns
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.modalities import all_schemas
from syncyte.models.cell import everything, gated_latent
from syncyte.models.pretrained_cells import GeneTransformer, is_gene_transformer
from syncyte.tasks.trained import MINIBATCH, Trained, load_trained
from syncyte.train.folder import MANIFEST, MARK
from syncyte.types import Batch

FEW = 0.5  # share of an encoder's features below which the data are said to lack them


@dataclass(frozen=True)
class Reading:
    """What an encoder makes of some cells.

    Attributes
    ----------
    vector
        ``(n, v)`` float32.
    states, count
        ``(n, m, e)`` float16 states of tokens and ``(n,)`` how many there are; None where it has none.
    """

    vector: NDArray[np.float32]
    states: NDArray[np.float16] | None = None
    count: NDArray[np.int64] | None = None


class CellEncoder(Protocol):
    """What reads cells.

    Attributes
    ----------
    name, fingerprint
        What it is called, and a short word for what it does.
    modalities
        What it can read, of which a cell may lack some.
    width, states
        Widths of its vectors, and of its states (0: none).
    blocks
        Widths of the parts of a vector whose axes share one scale.
    """

    name: str
    fingerprint: str
    modalities: tuple[str, ...]
    width: int
    states: int
    blocks: tuple[int, ...]

    def align(self, cells: Cells) -> tuple[Cells, list[str]]:
        """Cells in its features, and what should be known of them."""
        ...

    def read(self, cells: Cells, most: int, size: int = MINIBATCH) -> Iterator[Reading]:
        """What it makes of aligned cells, ``size`` at a time, in order, with at most ``most`` states each."""
        ...

    def to(self, device: torch.device) -> CellEncoder:
        """The same on a device."""
        ...

    def keep(self, folder: Path) -> None:
        """Write all that it is read from into a folder."""
        ...


def open_encoder(place: Any, device: str = "auto") -> CellEncoder:
    """The encoder of a RUN folder, of a folder of a published gene transformer, or of a run that is loaded.

    Raises
    ------
    ConfigError
        If it is neither.
    CapabilityError
        If the run cannot encode cells.
    """
    if isinstance(place, Trained):
        return RunEncoder(place)
    folder = Path(place).expanduser()
    if (folder / MANIFEST).exists() or (folder / MARK).exists():
        return RunEncoder(load_trained(folder, device))
    if is_gene_transformer(folder):
        return GeneEncoder(GeneTransformer(folder, device="cpu" if device == "auto" else device))
    state = "there is no such folder" if not folder.is_dir() else "it has neither checkpoint.json nor a dictionary"
    raise ConfigError(
        f"{place} is no encoder of cells: {state}. Give the folder that syncyte train wrote, or one of a published "
        "gene transformer, with config.json, model.safetensors, token_dictionary.json and gene_median.json."
    )


class RunEncoder:
    """An earlier run: its latents with the scale of an embedding, each modality's own axes, its token states.

    Parameters
    ----------
    trained
        The run.
    """

    def __init__(self, trained: Trained) -> None:
        if not trained.can("encodes"):
            raise CapabilityError(
                f"The run {trained.path} is a {trained.recipe['config']['name']} run, which does not encode cells. "
                "Give a run that embeds them: syncyte train --help says which recipes do."
            )
        self.trained, self.name = replace(trained, crew=None), trained.path.name
        self.fingerprint: str = trained.recipe.get("fingerprint", "")
        self.modalities = trained.modalities
        self.states = int(getattr(trained.model, "state_width", 0))
        own = tuple(len(trained.strengths[name]) for name in _axes(trained))
        self.blocks: tuple[int, ...] = (len(trained.axes["embedding.scale"]), *own)
        self.width = sum(self.blocks)

    def align(self, cells: Cells) -> tuple[Cells, list[str]]:
        """Cells in the features of the run."""
        aligned = self.trained.align(cells)
        lacking = [name for name in self.modalities if name not in aligned.modalities]
        notes = []
        if lacking:
            notes.append(
                f"The encoder {self.name} reads {' and '.join(self.modalities)}; the cells have no "
                f"{' and no '.join(lacking)}, which it does without."
            )
        for name in aligned.modalities:
            features = self.trained.vocabularies[name].index
            found = int(features.isin(cells.part(name).features).sum())
            if found < FEW * len(features):
                notes.append(
                    f"The data have {found:,} of the {len(features):,} {name} features of the encoder {self.name}: "
                    "what it makes of the cells is less sure."
                )
        return aligned, notes

    def read(self, cells: Cells, most: int, size: int = MINIBATCH) -> Iterator[Reading]:
        """Latents, axes and states."""
        return self.trained.each(cells, partial(_encoded, most=most), size)

    def to(self, device: torch.device) -> RunEncoder:
        """The same on a device."""
        self.trained.model.to(device)
        return RunEncoder(replace(self.trained, device=device))

    def keep(self, folder: Path) -> None:
        """Copy the files of its checkpoint."""
        files = json.loads((self.trained.path / MANIFEST).read_text(encoding="utf-8"))["files"]
        _copy(self.trained.path, [self.trained.path / name for name in (*files, MANIFEST)], folder)


def _encoded(trained: Trained, batch: Batch, *, most: int) -> Reading:
    model: Any = trained.model
    encoded = model.encode(batch.tokens, everything(batch), token_states=True)
    latent = gated_latent(model, encoded).float().cpu().numpy() * trained.axes["embedding.scale"]
    parts = [latent.astype(np.float32)]
    for name in _axes(trained):
        width = axis_widths(trained.strengths[name])
        parts.append(encoded.parts[name].float().cpu().numpy() * (width / max(float(width.max()), 1e-6)))
    vector = np.concatenate(parts, axis=1).astype(np.float32)
    if encoded.states is None:
        return Reading(vector)
    return Reading(vector, *gather(encoded.states.float().cpu().numpy(), encoded.valid.cpu().numpy(), most))


def _axes(trained: Trained) -> list[str]:
    """Modalities with axes of their own; codes of a set model and of the published layout have no order."""
    published = getattr(trained.model, "published", None) is not None
    return [] if published else [name for name in trained.modalities if name in trained.strengths]


class GeneEncoder:
    """A published gene transformer: the mean state of a cell's genes, and the states.

    Parameters
    ----------
    model
        The transformer.
    """

    def __init__(self, model: GeneTransformer) -> None:
        self.model, self.name, self.fingerprint = model, model.name, model.fingerprint
        genes = next(schema.name for schema in all_schemas() if schema.feature_kind == "gene")
        self.modalities: tuple[str, ...] = (genes,)
        self.width = self.states = model.width
        self.blocks: tuple[int, ...] = (1,) * model.width

    def align(self, cells: Cells) -> tuple[Cells, list[str]]:
        """Cells in the genes of the model, found by Ensembl id, name or symbol.

        Raises
        ------
        DataError
            If the cells have no genes, or none that the model knows.
        """
        (name,) = self.modalities
        part = cells.part(name)
        known = self.model.vocabulary
        target = gene_columns(part.features, known, ids=ensembl_ids(part.var), symbols=self.model.symbols)
        found = len(np.unique(target[target >= 0]))
        if not found:
            raise DataError(
                f"None of the {len(part.features):,} genes is among the {len(known):,} of the encoder {self.name} "
                f"(data: {', '.join(map(str, part.features[:3]))} ...; encoder: {', '.join(known[:3])} ...). Give "
                "cells with Ensembl ids in a column of var, or a gene_name_id.json beside the model."
            )
        notes = []
        if found < FEW * len(part.features):
            notes.append(
                f"{found:,} of the {len(part.features):,} genes of the data are known to the encoder {self.name}; it "
                "reads these alone."
            )
        mapped = replace(part, rows=MappedRows(part.rows, target, len(known)), var=pd.DataFrame(index=known))
        return replace(cells, parts={name: mapped}), notes

    def read(self, cells: Cells, most: int, size: int = MINIBATCH) -> Iterator[Reading]:
        """Means and states."""
        (name,) = self.modalities
        waiting: list[Reading] = []
        for first in range(0, len(cells), BLOCK):
            counts = cells.counts(name, np.arange(first, min(first + BLOCK, len(cells))))
            for states, genes in self.model.states(counts):
                weight = genes[..., None].astype(np.float32)
                mean = (states * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
                waiting.append(Reading(mean.astype(np.float32), *gather(states, genes, most)))
                if sum(len(one.vector) for one in waiting) >= size:
                    joined = _joined(waiting)
                    yield _some(joined, slice(None, size))
                    waiting = [_some(joined, slice(size, None))]
        if sum(len(one.vector) for one in waiting):
            yield _joined(waiting)

    def to(self, device: torch.device) -> GeneEncoder:
        """The same on a device."""
        self.model.to(device)
        return self

    def keep(self, folder: Path) -> None:
        """Copy configuration, weights, dictionaries and table of names."""
        _copy(self.model.folder, self.model.files, folder)


def gather(
    states: NDArray[np.float32], valid: NDArray[np.bool_], most: int
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """``(n, m, e)`` states of each cell from the left, no more than ``most`` (0: all), and ``(n,)`` how many.

    Where there are more, the first one is kept and the others are averaged in runs of neighbours of equal length.
    """
    size = valid.sum(axis=1)
    kept = size if not most else np.minimum(size, most)
    rank = np.cumsum(valid, axis=1) - 1
    many = (size > kept)[:, None]
    runs = 1 + (rank - 1) * np.maximum(kept[:, None] - 1, 1) // np.maximum(size[:, None] - 1, 1)
    place = np.where(many, np.where(rank == 0, 0, np.minimum(runs, np.maximum(kept[:, None] - 1, 0))), rank)
    row, column = np.nonzero(valid)
    cells, longest, width = states.shape
    shape = (cells, int(kept.max(initial=0)))
    target = row * shape[1] + place[row, column]
    parts = np.bincount(target, minlength=cells * shape[1])
    share = (1.0 / parts[target]).astype(np.float32)
    mean = sp.csr_matrix((share, (target, row * longest + column)), shape=(cells * shape[1], cells * longest))
    found = np.clip(mean @ states.reshape(-1, width), -6e4, 6e4)  # within what half precision holds
    return found.reshape(*shape, width).astype(np.float16), kept.astype(np.int64)


def _joined(readings: list[Reading]) -> Reading:
    if len(readings) == 1:
        return readings[0]
    longest = max(one.states.shape[1] for one in readings if one.states is not None)
    padded = [
        np.pad(one.states, ((0, 0), (0, longest - one.states.shape[1]), (0, 0)))
        for one in readings
        if one.states is not None
    ]
    counts = [one.count for one in readings if one.count is not None]
    return Reading(np.concatenate([one.vector for one in readings]), np.concatenate(padded), np.concatenate(counts))


def _some(reading: Reading, rows: slice) -> Reading:
    return Reading(
        reading.vector[rows],
        None if reading.states is None else reading.states[rows],
        None if reading.count is None else reading.count[rows],
    )


def _copy(home: Path, files: list[Path], folder: Path) -> None:
    """Copy files to where they lie below another folder: all or none, in place of what was there."""
    with atomic_dir(folder, overwrite=True) as tmp:
        for path in files:
            target = tmp / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
