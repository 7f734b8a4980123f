"""What is known of the types of a run: columns that say something of cells, terms of labels, markers.

Leaves out: texts (``word_texts``), spellings and terms themselves (``words.map``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import column_means
from syncyte.config import Config
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError
from syncyte.genome.ontology import Ontology
from syncyte.models.conditions import as_text, is_number
from syncyte.words.map import LabelMapper, Match
from syncyte.words.markers import MarkerTable
from syncyte.words.trained import trained_for, without_training

COLUMNS = {  # by field of a caption: columns that data sets use for it
    "tissue": ("tissue", "tissue_general", "organ"),
    "disease": ("disease", "diagnosis"),
    "stage": ("development_stage", "stage"),
    "condition": ("condition", "stim", "stimulation", "treatment", "perturbation"),
}
AUTO, NONE = "auto", "none"
MOST_VALUES = 60  # of a field, for it to be said
OWN_MARKERS = 12  # most specific genes of a type, where no table knows it


class WordsConfig(Config):
    """What is learned of words.

    Attributes
    ----------
    shared, queries, width, heads, layers, deep, length, spoken, adapter
        See ``models.language.WordSizes``.
    pieces
        Size of the vocabulary of pieces.
    texts
        Texts of a group of cells.
    drop
        Chance that a field is left out of a text.
    softness
        Steps in the ontology over which a text fades from right to wrong; 0: only a cell's own are right.
    sigmoid
        The pairwise loss instead of the one over rows and columns.
    match
        Weight of the matcher; 0 leaves it out.
    reference
        Training cells that are remembered, to type others by and to be named as nearest.
    columns
        Column of each field: ``tissue``, ``disease``, ``stage``, ``condition``; ``auto`` goes by usual names, ``none``
        leaves a field out.
    reader
        Folder of a sentence model (or ``minilm``) that reads texts in place of the small transformer; not trained.
    speaker, speaker_steps
        Folder of a causal language model that learns to speak by low-rank updates, and for how many steps.
    states
        Most token states of a cell that are read of another encoder (``--encoder``); of more, neighbours are averaged.
    map
        Labels to terms by a model that is trained on the ontology once (``trained``), or by letters and words alone.
    """

    shared: int = 256
    queries: int = 8
    width: int = 64
    heads: int = 4
    layers: int = 1
    deep: int = 2
    length: int = 48
    spoken: int = 64
    adapter: int = 32
    pieces: int = 1_500
    texts: int = 64
    drop: float = 0.3
    softness: float = 1.0
    sigmoid: bool = False
    match: float = 0.5
    reference: int = 6_000
    columns: dict[str, str] = {name: AUTO for name in COLUMNS}
    reader: str = ""
    speaker: str = ""
    speaker_steps: int = 300
    states: int = 64
    map: Literal["trained", "fast"] = "trained"


@dataclass(frozen=True)
class Known:
    """What is known of types.

    Attributes
    ----------
    ontology
        None without one.
    markers
        Markers by term (or label); types of the data that no table knows have their most specific genes.
    matches
        What each label was taken for.
    """

    ontology: Ontology | None
    markers: MarkerTable
    matches: Mapping[str, Match]

    def term(self, label: str) -> str:
        """Id of a label's term; the label itself where it has none."""
        match = self.matches.get(label)
        return match.id if match is not None and match.id else label

    def name(self, term: str) -> str:
        """Name of a term of these labels."""
        if self.ontology is not None and term in self.ontology.active:
            return self.ontology.active[term].label
        return next((match.term for match in self.matches.values() if match.id == term), term)

    @property
    def terms(self) -> Mapping[str, Any] | None:
        """Terms in use of the ontology."""
        return None if self.ontology is None else self.ontology.active


def choose_columns(config: WordsConfig, obs: pd.DataFrame, label_key: str) -> dict[str, str]:
    """Column of each field that training can say something with.

    Raises
    ------
    ConfigError
        For a field that does not exist, or a column the cells lack.
    """
    strange = sorted(set(config.columns) - set(COLUMNS))
    if strange:
        raise ConfigError(f"words.columns.{strange[0]} is no field; fields are {', '.join(COLUMNS)}.")
    found = {"type": label_key}
    for name, usual in COLUMNS.items():
        column = config.columns.get(name, AUTO)
        named = column not in (AUTO, NONE, "")
        if named:
            if column not in obs.columns:
                raise ConfigError(f"words.columns.{name}={column!r}: the cells have no such column.")
        elif column == AUTO:
            column = next((one for one in usual if one in obs.columns), "")
        else:
            column = ""
        if column and column != label_key and not is_number(obs[column]):
            text = as_text(obs[column]).str.strip()
            if 1 <= text[text != ""].nunique() <= MOST_VALUES or named:
                found[name] = column
    return found


def map_types(
    labels: Sequence[str], ontology: Ontology | None, fast: bool, seed: int, quiet: bool
) -> tuple[dict[str, Match], list[str]]:
    """What labels of types mean, and what should be said of it."""
    models, note = without_training(), ""
    if ontology is not None and not fast:
        models, note = trained_for(ontology, seed=seed, quiet=quiet)
    mapper = LabelMapper(ontology, models=models)
    found = dict(zip(labels, mapper.map(labels), strict=True))
    notes = [note] if note else []
    if ontology is None:
        notes.append(
            "No ontology: types are known by their labels, the embedded names of blood and marrow and the marker "
            "table; synonyms, definitions and relations of types are not. Pass --ontology for them."
        )
    for label, match in found.items():
        if match.how == "coarser":
            notes.append(f"The label {label!r} is taken for the wider {match.term} ({match.id}).")
    none = [label for label, match in found.items() if not match.id]
    if none:
        notes.append(f"Without a term, known by their names alone: {', '.join(map(repr, none[:8]))}.")
    return found, notes


def with_own(
    markers: MarkerTable,
    own: Mapping[str, str],
    cells: Cells,
    name: str,
    types: NDArray[Any],
    train: NDArray[np.int64],
    seed: int,
) -> MarkerTable:
    """The table, with the most specific genes of the types it does not know."""
    lacking = {label: term for label, term in own.items() if not markers.of(term)}
    if not lacking:
        return markers
    rng = np.random.default_rng([seed, 3])
    rows = np.sort(rng.permutation(train)[:20_000])
    counts, labels = cells.counts(name, rows), types[rows]
    open_ = sp.csr_matrix(counts > 0)
    everywhere = column_means(open_)
    features = cells.part(name).var.index.astype(str)
    genes, names, sources = dict(markers.genes), dict(markers.labels), dict(markers.sources)
    for label, term in lacking.items():
        member = labels == label
        if not member.any():
            continue
        share = column_means(open_[member])
        best = np.argsort(-(share - everywhere), kind="stable")[:OWN_MARKERS]
        genes[term] = tuple(features[place] for place in best if share[place] > everywhere[place])
        names[term], sources[term] = label, "most specific genes of the training cells"
    return MarkerTable(genes, names, sources, markers.tissues)
