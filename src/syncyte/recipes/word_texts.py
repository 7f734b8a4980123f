"""What a run knows of words: terms of its labels, texts of its cells, the vocabulary of pieces.

Cells are grouped by what their columns say of them (type, tissue, disease, stage, condition, a user's own text), and
every group gets many texts in different wordings with fields left out at random, so that nothing keys on one sentence.
What the speaker learns is a caption with marks in place of values, after the values: which value is said can then be
forced or checked, and no gene is named that a cell does not express.
Leaves out: losses (``objectives.words``), what is kept for typing (``word_memory``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.prediction import column_means
from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.genome.ontology import Ontology
from syncyte.models.conditions import as_text
from syncyte.models.pretrained import TextModel
from syncyte.objectives.words import Pairs, Texts
from syncyte.recipes.word_types import COLUMNS, Known, WordsConfig, choose_columns, map_types, with_own
from syncyte.words.captions import Caption, Facts, wordings, write_captions
from syncyte.words.markers import MarkerTable
from syncyte.words.pieces import MOST_LETTERS, Pieces, encode_grams
from syncyte.words.said_fields import OWN
from syncyte.words.spoken import FIELDS, MARKS, draw_slots, write_spoken

MOST_GROUPS, MOST_TEXTS = 3_000, 200_000  # groups of cells, and texts of all of them
OFTEN = 0.5  # share of a group's cells that express a gene for it to be named
SOME = 300  # cells of a group that are looked at
FAR = 4  # steps in the ontology from which a text is simply wrong


@dataclass(frozen=True)
class Lexis:
    """Words of a run.

    Attributes
    ----------
    columns
        Column by field, the type first.
    values
        Values of each field in training cells.
    known
        Terms of the labels, ontology, markers.
    pieces
        Vocabulary.
    groups
        One row a group: its values by field, and ``text`` where the user wrote one.
    group
        ``(cells,)`` group of each; -1 for cells without a type or of too rare a group.
    """

    columns: Mapping[str, str]
    values: Mapping[str, list[str]]
    known: Known
    pieces: Pieces
    groups: pd.DataFrame
    group: NDArray[np.int64]
    facts: tuple[Facts, ...] = field(repr=False)


def read_lexis(
    config: WordsConfig,
    cells: Cells,
    train: NDArray[np.int64],
    *,
    label_key: str,
    text_key: str | None,
    ontology: Ontology | None,
    markers: MarkerTable,
    seed: int,
    quiet: bool,
    notes: list[str],
) -> Lexis:
    """Read what training cells say of themselves; ``notes`` gets what the user should know."""
    columns = choose_columns(config, cells.obs, label_key)
    table = pd.DataFrame({name: _clean(cells.obs[column]) for name, column in columns.items()})
    if text_key is not None:
        table[OWN] = [text[:MOST_LETTERS] for text in _clean(cells.column(text_key))]
    values = {name: sorted(set(table[name].iloc[train]) - {""}) for name in columns}
    if len(values["type"]) < 2:
        raise DataError(
            f"{label_key!r} has {len(values['type'])} values in training cells; words need two types at least."
        )
    matches, said = map_types(values["type"], ontology, config.map == "fast", seed, quiet)
    notes += said
    groups, group = _grouped(table, train, notes)
    own = {label: matches[label].id or label for label in values["type"]}
    name = cells.modalities[0]
    markers = with_own(markers, own, cells, name, table["type"].to_numpy(), train, seed)
    known = Known(ontology, markers, matches)
    facts = _facts(groups, known, group, cells, name, train, seed)
    texts = [caption.text for caption in _captions(facts, known, 8, config.drop, seed)]
    texts += [] if text_key is None else list(groups[OWN])
    texts += [] if ontology is None else _ontology_texts(ontology)
    pieces = Pieces.learn(texts, config.pieces, MARKS)
    return Lexis(columns, values, known, pieces, groups, group, tuple(facts))


def write_texts(config: WordsConfig, lexis: Lexis, seed: int, reader: TextModel | None = None) -> Texts:
    """Texts of all groups as numbers."""
    count = max(4, min(config.texts, MOST_TEXTS // max(len(lexis.facts), 1)))
    captions = _captions(lexis.facts, lexis.known, count, config.drop, seed)
    read = [caption.text for caption in captions]
    if OWN in lexis.groups:
        for row, text in enumerate(lexis.groups[OWN]):
            for place in range(0, count, 2) if text else ():
                read[row * count + place] = text
    for row, label in enumerate(lexis.groups["type"]):  # the user's own spelling
        for place in range(1, count, 8):
            read[row * count + place] = label
    spoken = spoken_texts(lexis, count, config.drop, seed)
    shape = (len(lexis.facts), count, -1)
    types = [lexis.known.term(label) for label in lexis.groups["type"]]
    values = lexis.groups[[name for name in FIELDS if name in lexis.groups]]
    return Texts(
        lexis.group,
        lexis.pieces.encode(read, config.length).reshape(shape),
        encode_grams(read).reshape(shape),
        lexis.pieces.encode(spoken, config.spoken, closed=True).reshape(shape),
        _near(types, values, lexis.known.ontology, config.softness),
        None if reader is None else reader.encode(read).reshape(shape).astype(np.float16),
    )


def spoken_texts(lexis: Lexis, count: int, drop: float, seed: int) -> list[str]:
    """What is said of the cells of each group, ``count`` times in different words."""
    rng, found = np.random.default_rng([seed, 1]), []
    for facts in lexis.facts:
        full = _captions([facts], lexis.known, 1, 0.0, seed)[0].slots
        values = {name: str(full[name]) for name in FIELDS if name in full}
        more = [name for name in full if name not in FIELDS]
        found += [
            write_spoken(values, draw_slots(more, drop, rng), int(rng.integers(len(wordings())))) for _ in range(count)
        ]
    return found


def write_pairs(config: WordsConfig, lexis: Lexis, reader: TextModel | None = None) -> Pairs | None:
    """Names and definitions of all terms of the ontology as numbers; None without one."""
    if lexis.known.ontology is None:
        return None
    texts, owner = [], []
    for place, term in enumerate(lexis.known.ontology.active.values()):
        own = [*term.names[:6], *([term.definition, f"{term.label}: {term.definition}"] if term.definition else [])]
        texts += own
        owner += [place] * len(own)
    given = None if reader is None else reader.encode(texts).astype(np.float16)
    return Pairs(np.array(owner), lexis.pieces.encode(texts, config.length), encode_grams(texts), given)


def _clean(column: pd.Series) -> pd.Series:
    text = as_text(column).str.strip()
    return text.mask(text.str.lower().isin(["nan", "none", "na", "unknown", "unassigned"]), "").reset_index(drop=True)


def _grouped(table: pd.DataFrame, train: NDArray[np.int64], notes: list[str]) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Combinations of values in training cells, and which a cell has."""
    names = list(table.columns)
    counted = table.iloc[train][table["type"].iloc[train] != ""].groupby(names).size().sort_values(ascending=False)
    if len(counted) > MOST_GROUPS:
        notes.append(f"{len(counted):,} different descriptions of cells: the {MOST_GROUPS:,} commonest are learned.")
    groups = counted.index[:MOST_GROUPS].to_frame(index=False).sort_values(names).reset_index(drop=True)
    place = pd.MultiIndex.from_frame(groups).get_indexer(pd.MultiIndex.from_frame(table))
    return groups, place.astype(np.int64)


def _facts(
    groups: pd.DataFrame,
    known: Known,
    group: NDArray[np.int64],
    cells: Cells,
    name: str,
    train: NDArray[np.int64],
    seed: int,
) -> list[Facts]:
    """What is known of each group; of genes, which of its type's markers most of its cells express."""
    rng, training = np.random.default_rng([seed, 2]), np.zeros(len(group), dtype=bool)
    training[train] = True
    features, found = cells.part(name).var.index.astype(str), []
    for number, row in enumerate(groups.to_dict("records")):
        term = known.term(row["type"])
        rows = np.flatnonzero((group == number) & training)
        listed = [gene for gene in known.markers.of(term) if gene in features]
        expressed: tuple[str, ...] = ()
        if listed and len(rows):
            some = np.sort(rng.permutation(rows)[:SOME])
            share = column_means(sp.csr_matrix(cells.counts(name, some) > 0)[:, features.get_indexer(listed)])
            expressed = tuple(gene for gene, part in zip(listed, share, strict=True) if part >= OFTEN)
        said = {key: row.get(key, "") for key in COLUMNS}
        found.append(Facts(type=term, expressed=expressed, **said))
    return found


def _captions(facts: Sequence[Facts], known: Known, count: int, drop: float, seed: int) -> list[Caption]:
    """``count`` captions of each group, one after another; types the ontology lacks go by their names."""
    terms = None if known.ontology is None else known.ontology.active
    shown = [
        one if terms is not None and one.type in terms else replace(one, type=known.name(one.type)) for one in facts
    ]
    named = {new.type: known.markers.of(old.type) for new, old in zip(shown, facts, strict=True)}
    every = [one for one in shown for _ in range(count)]
    return write_captions(every, terms=terms, markers=named, drop=drop, seed=seed)


def _ontology_texts(ontology: Ontology) -> list[str]:
    return [text for term in ontology.active.values() for text in (*term.names, term.definition) if text]


def _near(
    types: Sequence[str], values: pd.DataFrame, ontology: Ontology | None, softness: float
) -> NDArray[np.float32]:
    """How far a text of one group is right for a cell of another."""
    unique = sorted(set(types))
    steps = np.array([[_steps(one, other, ontology) for other in unique] for one in unique])
    faded = np.exp(-steps / softness) * (steps < FAR) if softness else np.zeros(steps.shape)
    like = np.where(steps == 0, 1.0, faded)
    at = pd.Index(unique).get_indexer(types)
    near = like[np.ix_(at, at)]
    for name in values.columns.difference(["type"]):
        text = values[name].to_numpy(dtype=str)
        near = near * ((text[:, None] == text) | (text[:, None] == "") | (text == ""))
    return near.astype(np.float32)


def _steps(one: str, other: str, ontology: Ontology | None) -> float:
    if one == other:
        return 0.0
    if ontology is None or one not in ontology.active or other not in ontology.active:
        return np.inf
    found = ontology.distance(one, other)
    return np.inf if found is None else float(found)
