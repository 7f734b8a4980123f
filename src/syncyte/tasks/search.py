"""Search: cells that a sentence asks for, cells like a given one, and types that a given cell is like.

By ``terms`` a sentence is read into clauses, wanted and unwanted, every clause is taken for classes of the run, and
cells are ranked by their probability; ``explain`` says what was read. By ``vectors`` cells are ranked by their likeness
to the whole sentence in the space of cells and texts: for what no class stands for, and deaf to negation.
What searches need of the cells can be kept in an index folder, so that the next search reads no counts: it is known
again by the names of the cells and the run.
Leaves out: how sentences are read (``words.query``, ``words.matching``), how vectors are searched (``data.vectors``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.atomic import atomic_dir, atomic_file
from syncyte.data.cells import Cells
from syncyte.data.vectors import VectorIndex
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.tasks.trained import Trained
from syncyte.tasks.word_run import Asked, WordRun
from syncyte.words.map import LabelMapper
from syncyte.words.matching import Meanings, Names, Resolved, score
from syncyte.words.query import COMMON, parse_query

Mode = Literal["terms", "vectors"]
CELL = "cell:"
LISTED = 5  # names that are nearest to a cell
_VALUE = (
    r"(?:(?:\b(?:that|which|who)\s+(?:were|are|was|is)|\b(?:from|in|under|after))\s+)?"
    r"(?:(?P<neg>\bnot\s+|\bun-?|\bnon-?)|\b){}\b"
)
VECTORS, CHANCES, STAMP = "vectors", "chances.npy", "index.json"


@dataclass(frozen=True)
class Found:
    """Cells that were found, best first.

    Attributes
    ----------
    table
        ``cell``, ``score`` (0 to 1; by terms a probability), ``evidence``.
    explain
        How the search was read, for the person who asked.
    notes
        What should be known besides.
    """

    table: pd.DataFrame
    explain: str
    notes: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the table as CSV: the whole file or none."""
        with atomic_file(path) as tmp:
            self.table.to_csv(tmp, index=False)


@dataclass(frozen=True)
class Wish:
    """A value of a field that is wanted, or not."""

    field: str
    value: str
    wanted: bool


@dataclass(frozen=True)
class Library:
    """What searches read of cells: names, probabilities of classes ``(n, c)`` and of other fields, vectors."""

    names: NDArray[Any]
    chances: NDArray[np.floating]
    vectors: VectorIndex | NDArray[np.float32]
    notes: tuple[str, ...] = ()
    fields: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)

    def nearest(self, query: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines of the nearest cells."""
        if isinstance(self.vectors, VectorIndex):
            found, cosines = self.vectors.search(query[None], top)
            return found[0], cosines[0]
        scores = self.vectors @ query
        rows = np.lexsort((np.arange(len(scores)), -scores))[:top]
        return rows, scores[rows]

    def vector(self, row: int) -> NDArray[np.float32]:
        """Vector of one cell."""
        every = self.vectors.vectors if isinstance(self.vectors, VectorIndex) else self.vectors
        return np.asarray(every[row], dtype=np.float32)


def search_cells(
    trained: Trained,
    query: str,
    cells: Cells,
    *,
    top: int = 200,
    mode: str = "terms",
    index: Path | None = None,
    batch_size: int | None = None,
) -> Found:
    """Search; see ``syncyte.search``."""
    run = WordRun(trained, "search by words")
    if mode not in get_args(Mode):
        raise ConfigError(unknown("mode of search", mode, get_args(Mode)))
    if top < 1:
        raise ConfigError(f"top is {top}; at least one cell is asked for.")
    if query.startswith(CELL):
        library = read_library(run, cells, index, batch_size)
        return like_cell(run, library, query.removeprefix(CELL).strip(), top)
    if mode == "vectors":
        vector = sentence_vector(run, query)
        library = read_library(run, cells, index, batch_size)
        return by_vector(run, library, query, vector, top)
    rest, wishes = split_fields(run, query)
    resolved = resolve(run, rest) if rest or not wishes else None
    return by_terms(run, read_library(run, cells, index, batch_size), resolved, top, wishes)


def resolve(run: WordRun, query: str) -> Resolved:
    """What a sentence asks for among the classes of the run."""
    terms = run.terms
    names = {run.term(label): label for label in run.labels}
    exact = Names(terms)
    mapper = LabelMapper(run.ontology)

    def matcher(text: str) -> tuple[str, float] | None:
        """The term of a name: as it is spelled first, then what the label mapper takes it for."""
        for label in run.labels:
            if text.strip().lower() == label.lower():
                return run.term(label), 1.0
        return exact(text) or mapper.match(text)

    meanings = Meanings(run.classes, terms, matcher=matcher, labels=names)
    return meanings.resolve(parse_query(query, meanings.known))


def split_fields(run: WordRun, query: str) -> tuple[str, tuple[Wish, ...]]:
    """What a sentence says of fields other than the type, and the rest of it; empty where nothing is left.

    A value is found where it is written as the data have it, "not", "un" or "non" before it turn it round.
    """
    wishes, rest = [], query
    for name, told in run.facts["classifiers"].items():
        for value in sorted(told["classes"], key=len, reverse=True) if name != "type" else ():
            found = re.search(_VALUE.format(re.escape(value)), rest, re.IGNORECASE)
            if found is not None:
                wishes.append(Wish(name, value, found["neg"] is None))
                rest = f"{rest[: found.start()]} {rest[found.end() :]}"
    if not wishes:
        return query, ()
    rest = re.sub(r"^[\s,;]*(?:and|or|but)?\b|[\s,;]*\b(?:and|or|but)?[\s,;]*$", "", rest).strip()
    more = any(word not in COMMON for word in re.findall(r"[a-z0-9]+", rest.lower()))
    return (rest if more else ""), tuple(wishes)


def by_terms(run: WordRun, library: Library, resolved: Resolved | None, top: int, wishes: Sequence[Wish] = ()) -> Found:
    """Cells by the probability of what is asked for; without ``resolved`` of any type."""
    chances = np.asarray(library.chances, dtype=np.float64)
    scores = np.ones(len(chances)) if resolved is None else score(resolved, chances)
    lines = ["Read as: all cells"] if resolved is None else [resolved.explain()]
    for wish in wishes:
        column = run.facts["classifiers"][wish.field]["classes"].index(wish.value)
        own = np.asarray(library.fields[wish.field][:, column], dtype=np.float64)
        scores = scores * (own if wish.wanted else 1 - own)
        lines.append(f"  {'wanted' if wish.wanted else 'without'}: {wish.field} = {wish.value}, by its classifier")
    rows = np.lexsort((np.arange(len(scores)), -scores))[:top]
    rows = rows[scores[rows] > 0]
    evidence = [_likely(run, library.chances[row]) for row in rows]
    table = pd.DataFrame({"cell": library.names[rows], "score": np.round(scores[rows], 4), "evidence": evidence})
    return Found(table, "\n".join(lines), (*library.notes, *(() if resolved is None else resolved.notes)))


def by_vector(run: WordRun, library: Library, query: str, vector: NDArray[np.float32], top: int) -> Found:
    """Cells nearest to a sentence."""
    rows, scores = library.nearest(vector, min(top, len(library.names)))
    evidence = [
        f"likeness to the sentence {value:.3f}; {_likely(run, library.chances[r])}" for r, value in zip(rows, scores)
    ]
    table = pd.DataFrame({"cell": library.names[rows], "score": np.round((1 + scores) / 2, 4), "evidence": evidence})
    note = "By vectors a sentence is compared as a whole: what it excludes is not understood (mode terms does)."
    return Found(table, f"Compared as a whole: {query}", (*library.notes, note))


def like_cell(run: WordRun, library: Library, name: str, top: int) -> Found:
    """Cells nearest to one of the data, itself left out."""
    place = np.flatnonzero(library.names == name)
    if not len(place):
        raise DataError(unknown("cell", name, library.names[:1000]))
    rows, scores = library.nearest(library.vector(int(place[0])), min(top + 1, len(library.names)))
    kept = rows != place[0]
    rows, scores = rows[kept][:top], scores[kept][:top]
    evidence = [f"likeness to {name} {value:.3f}; {_likely(run, library.chances[r])}" for r, value in zip(rows, scores)]
    table = pd.DataFrame({"cell": library.names[rows], "score": np.round((1 + scores) / 2, 4), "evidence": evidence})
    lines = [
        f"Cells like {name}, which is {_likely(run, library.chances[place[0]])}",
        f"  nearest names: {nearest_texts(run, library.vector(int(place[0])))}",
    ]
    return Found(table, "\n".join(lines), library.notes)


def nearest_texts(run: WordRun, vector: NDArray[np.float32]) -> str:
    """Types whose names lie nearest to a cell: those of training and those of the marker table."""
    keys = list(dict.fromkeys([*run.classes, *(key for key in run.markers.genes if key in run.terms)]))
    names = [run.name(key) for key in keys]
    scores = run.texts(names) @ vector
    best = np.argsort(-scores, kind="stable")[:LISTED]
    return "; ".join(f"{names[place]} {scores[place]:.2f}" for place in best)


def sentence_vector(run: WordRun, query: str) -> NDArray[np.float32]:
    """Vector of a sentence, checked as any search is."""
    parse_query(query)
    return run.texts([query])[0]


def read_library(run: WordRun, cells: Cells, index: Path | None, batch_size: int | None) -> Library:
    """What is to be searched: from an index folder that fits the cells, or read from the counts (and kept there)."""
    if index is None:
        return _read(run, cells, batch_size)
    stamp = _stamp(run, cells)
    if (index / STAMP).is_file():
        try:
            found = json.loads((index / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"The index {index} cannot be read ({error}). Remove the folder.") from error
        if found != stamp:
            raise DataError(
                f"The index {index} was made for other cells or by another run (it has {found.get('cells')} cells, "
                f"these are {len(cells)}). Name another folder, or remove it."
            )
        vectors = VectorIndex.open(index / VECTORS)
        chances = np.load(index / CHANCES, mmap_mode="r", allow_pickle=False)
        others = [name for name in run.facts["classifiers"] if name != "type"]
        fields = {name: np.load(index / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in others}
        return Library(np.asarray(vectors.names), chances, vectors, fields=fields)
    if index.exists() and any(index.iterdir()):
        raise DataError(f"{index} exists and is no index of cells, so it is left alone. Name another folder.")
    library = _read(run, cells, batch_size)
    with atomic_dir(index) as tmp:
        VectorIndex.build(iter([np.asarray(library.vectors)]), list(library.names), tmp / VECTORS)
        np.save(tmp / CHANCES, library.chances.astype(np.float16), allow_pickle=False)
        for name, values in library.fields.items():
            np.save(tmp / f"{name}.npy", values.astype(np.float16), allow_pickle=False)
        (tmp / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    return library


def _read(run: WordRun, cells: Cells, batch_size: int | None) -> Library:
    asked = run.ask(cells)
    have = asked.cells.present(run.modality)
    if not have.all():  # nothing is known of the others, not even what they are not
        asked = replace(asked, cells=asked.cells.take(np.flatnonzero(have)))
    vectors = unit_vectors(run, asked, batch_size)
    fields = {name: run.chances(asked, name) for name in run.facts["classifiers"] if name != "type"}
    return Library(asked.cells.names.astype(str).to_numpy(), run.chances(asked), vectors, asked.notes, fields)


def unit_vectors(run: WordRun, asked: Asked, batch_size: int | None = None) -> NDArray[np.float32]:
    """``(n, d)`` one vector a cell, of length one: the mean over the queries of the bridge."""
    mean = run.vectors(asked, batch_size).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def _stamp(run: WordRun, cells: Cells) -> dict[str, Any]:
    names = hashlib.sha256("\n".join(cells.names.astype(str)).encode()).hexdigest()[:32]
    return {"run": run.trained.recipe.get("fingerprint", ""), "cells": len(cells), "names": names}


def _likely(run: WordRun, chance: NDArray[np.floating]) -> str:
    """The likeliest types of a cell."""
    best = np.argsort(-np.asarray(chance, dtype=np.float64), kind="stable")[:2]
    return ", ".join(f"{run.labels[place]} {float(chance[place]):.2f}" for place in best if chance[place] > 0.005)
