"""A trained run of words, ready to be asked: what cells are, what texts mean, where both lie.

Cells are given as opened; every question puts them into the features of the run first. Probabilities of types come
from a classifier on all genes that takes the statistics of genes from the data at hand (``baselines.genewise``), which
is better across laboratories than the places of cells among texts; these rank what no training label covers.
Where the run has an encoder beside its own, that one reads the same cells, and has a say in both.
Leaves out: what is made of the answers (``search``, ``describe``, ``zero_shot``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from syncyte.baselines.genewise import GeneClassifier
from syncyte.baselines.own_space import OwnSpace
from syncyte.baselines.second import SecondOpinion
from syncyte.data.cells import Cells
from syncyte.errors import CheckpointError, ConfigError, unknown
from syncyte.genome.ontology import Ontology, Term
from syncyte.genome.ontology_files import ontology_of
from syncyte.models.pretrained import TextModel, open_text_model
from syncyte.nn.language import likeness
from syncyte.objectives.words import Seen
from syncyte.tasks.encoders import CellEncoder, open_encoder
from syncyte.tasks.trained import MINIBATCH, Trained
from syncyte.train.folder import ENCODER
from syncyte.types import Batch
from syncyte.words.markers import MarkerTable
from syncyte.words.pieces import Pieces, encode_grams

AT_ONCE = 256  # texts


@dataclass(frozen=True)
class Beside:
    """The same cells, or more, in the features of another encoder."""

    encoder: CellEncoder
    cells: Cells
    most: int

    def read(self, names: pd.Index, size: int = MINIBATCH) -> Iterator[Seen]:
        """What it makes of the named cells, some at a time."""
        cells = self.cells if self.cells.names.equals(names) else self.cells.take(self.cells.names.get_indexer(names))
        for one in self.encoder.read(cells, self.most, size):
            yield Seen(one.vector, one.states, one.count)

    def vectors(self, names: pd.Index) -> NDArray[np.float32]:
        """``(n, v)`` one vector for each named cell."""
        return self._every[self.cells.names.get_indexer(names)]

    @cached_property
    def _every(self) -> NDArray[np.float32]:
        found = [one.vector for one in self.read(self.cells.names)]
        return np.concatenate(found) if found else np.zeros((0, self.encoder.width), dtype=np.float32)


@dataclass(frozen=True)
class Asked:
    """Cells in the features of a run, and which of these the data measured."""

    cells: Cells
    measured: NDArray[np.bool_]
    notes: tuple[str, ...] = field(default=())
    beside: Beside | None = None


class WordRun:
    """What a run of words knows.

    Parameters
    ----------
    trained
        A run that ``matches``.
    task
        What it is needed for, for the error where it cannot.
    """

    def __init__(self, trained: Trained, task: str = "match cells and words") -> None:
        trained.need_capability("matches", task)
        self.trained, self.facts = trained, trained.recipe["words"]
        self.modality = trained.modalities[0]
        self.labels: tuple[str, ...] = tuple(self.facts["classifiers"]["type"]["classes"])
        self.classes = tuple(self.term(label) for label in self.labels)

    @cached_property
    def ontology(self) -> Ontology | None:
        """The ontology the run was trained with."""
        told = self.facts["ontology"]
        return None if told is None else ontology_of(self.trained.tables["ontology"], told["name"], told["prefix"])

    @cached_property
    def terms(self) -> Mapping[str, Term]:
        """Terms in use; without an ontology those of the labels, of which nothing but the name is known."""
        if self.ontology is not None:
            return self.ontology.active
        return {key: Term(key, self.name(key)) for key in self.classes}

    @cached_property
    def markers(self) -> MarkerTable:
        """Markers by term."""
        table = self.facts["markers"]
        return MarkerTable(
            {key: tuple(row["genes"]) for key, row in table.items()},
            {key: row["label"] for key, row in table.items()},
            {key: row["source"] for key, row in table.items()},
            {key: row["tissue"] for key, row in table.items()},
        )

    @cached_property
    def pieces(self) -> Pieces:
        """Vocabulary of texts."""
        return Pieces(self.facts["pieces"])

    @cached_property
    def reader(self) -> TextModel | None:
        """The sentence model the run was trained with, from where it lay then; None for the run's own reader."""
        place = self.trained.recipe["config"]["words"].get("reader", "")
        return open_text_model(place) if place else None

    @cached_property
    def encoder(self) -> CellEncoder | None:
        """The encoder the run was trained beside; None where there was none."""
        told = self.facts.get("encoder")
        if told is None:
            return None
        place = self.trained.path / ENCODER
        if not place.is_dir():
            raise CheckpointError(f"{place} is missing, without which this run reads no cell. Copy the whole folder.")
        found = open_encoder(place, str(self.trained.device)).to(self.trained.device)
        if found.fingerprint != told["fingerprint"]:
            raise CheckpointError(f"{place} is not the encoder this run was trained with. Copy the whole folder again.")
        return found

    @cached_property
    def space(self) -> OwnSpace:
        """Axes in which unseen types are told."""
        return OwnSpace.restore(self._arrays("space."))

    def classifier(self, name: str) -> GeneClassifier:
        """The classifier of a field."""
        if name not in self.facts["classifiers"]:
            raise ConfigError(unknown("field that this run tells apart", name, self.facts["classifiers"]))
        classes = self.facts["classifiers"][name]["classes"]
        return GeneClassifier.restore(self._arrays(f"classifier.{name}."), classes)

    def term(self, label: str) -> str:
        """Id of a training label; the label itself where it has none."""
        return self.facts["matches"].get(label, {}).get("id") or label

    def name(self, key: str) -> str:
        """Name of a term or label."""
        if self.ontology is not None and key in self.ontology.active:
            return self.ontology.active[key].label
        for label, match in self.facts["matches"].items():
            if match["id"] == key:
                return str(match["term"] or label)
        return self.markers.labels.get(key, key)

    def ask(self, cells: Cells) -> Asked:
        """Cells in the features of the run."""
        aligned = self.trained.align(cells)
        have = aligned.present(self.modality)
        notes = []
        if not have.all():
            notes.append(f"{int((~have).sum()):,} of {len(cells):,} cells have no {self.modality} and get no answer.")
        vocabulary = self.trained.vocabularies[self.modality].index
        measured = np.asarray(vocabulary.isin(cells.part(self.modality).features))
        if measured.mean() < 0.5:
            notes.append(
                f"The data have {int(measured.sum()):,} of the {len(measured):,} genes of the run: answers are less "
                "sure."
            )
        beside = None
        if self.encoder is not None:
            theirs, said = self.encoder.align(cells)
            beside = Beside(self.encoder, theirs, self.facts["encoder"]["states"])
            notes += said
        return Asked(aligned, measured, tuple(notes), beside)

    def chances(self, asked: Asked, name: str = "type") -> NDArray[np.float64]:
        """``(n, c)`` probabilities of the values of a field, calibrated on training cells; 0 without any counts."""
        model, have = self.classifier(name), asked.cells.present(self.modality)
        chance = model.predict_blocks(lambda: (c for _, c in asked.cells.blocks(self.modality)), asked.measured)
        arrays = self._arrays(f"second.{name}.")
        if asked.beside is not None and arrays:
            vectors = torch.from_numpy(asked.beside.vectors(asked.cells.names[have])).to(self.trained.device)
            vectors = self.trained.model.words.given.standardise(vectors)
            chance = SecondOpinion.restore(arrays).mix(chance, vectors.cpu().numpy())
        if have.all():
            return chance
        found = np.zeros((len(have), chance.shape[1]))
        found[have] = chance
        return found

    def counts(self, asked: Asked) -> sp.csr_matrix:
        """Counts of the cells."""
        return asked.cells.counts(self.modality)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(t, d)`` vectors of texts, of length one."""
        words, device = self.trained.model.words, self.trained.device
        found = []
        with torch.inference_mode():
            for first in range(0, len(texts), AT_ONCE):
                some = list(texts[first : first + AT_ONCE])
                numbers = self.pieces.encode(some, words.sizes.length), encode_grams(some)
                given = None if self.reader is None else torch.from_numpy(self.reader.encode(some)).to(device)
                found.append(words.read(*(torch.from_numpy(x.astype(np.int64)).to(device) for x in numbers), given))
        return torch.cat(found).cpu().numpy()

    def vectors(self, asked: Asked, batch_size: int | None = None) -> NDArray[np.float32]:
        """``(n, q, d)`` vectors of cells, one for each query of the bridge."""
        words = self.trained.model.words
        shape = (len(asked.cells), words.sizes.queries, words.sizes.shared)
        return self._filled(shape, asked, 1, batch_size)

    def states(self, asked: Asked, batch_size: int | None = None) -> NDArray[np.float32]:
        """``(n, q, w)`` what the queries of the bridge have read of each cell: all the speaker sees of it."""
        sizes = self.trained.model.words.sizes
        return self._filled((len(asked.cells), sizes.queries, sizes.width), asked, 0, batch_size)

    def _filled(self, shape: tuple[int, ...], asked: Asked, which: int, batch_size: int | None) -> NDArray[np.float32]:
        """States of the bridge (0) or vectors (1) of all cells."""
        found, first = np.empty(shape, dtype=np.float32), 0
        if asked.beside is None:
            blocks = self.trained.each(asked.cells, partial(_shown, which=which), batch_size)
        else:
            blocks = self._beside(asked.cells, asked.beside, which, batch_size or MINIBATCH)
        for block in blocks:
            found[first : first + len(block)] = block
            first += len(block)
        return found

    @torch.inference_mode()
    def _beside(self, cells: Cells, beside: Beside, which: int, size: int) -> Iterator[NDArray[np.float32]]:
        """The same where another encoder reads the cells too: both go through them side by side."""
        for batch, seen in zip(self.trained.batches(cells, size), beside.read(cells.names, size), strict=True):
            given = seen.read(np.arange(len(batch)), self.trained.device)
            yield self.trained.model.show(batch.tokens[self.modality], given)[which].float().cpu().numpy()

    def likeness(self, vectors: NDArray[np.float32], texts: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(n, t)`` likeness of cells and texts, -1 to 1."""
        with torch.inference_mode():
            blocks = [
                likeness(torch.from_numpy(vectors[first : first + 4096]), torch.from_numpy(texts))
                for first in range(0, len(vectors), 4096)
            ]
        return torch.cat(blocks).numpy()

    def _arrays(self, start: str) -> dict[str, NDArray[Any]]:
        arrays = self.trained.arrays
        return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}


def _shown(trained: Trained, batch: Batch, *, which: int) -> NDArray[np.float32]:
    return trained.model.show(batch.tokens[trained.modalities[0]])[which].float().cpu().numpy()
