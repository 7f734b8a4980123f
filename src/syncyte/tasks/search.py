"""Search: cells that a sentence asks for, cells like a given one, and types that a given cell is like.

By ``terms`` a sentence is read into clauses, wanted and unwanted, every clause is taken for classes of the run, and
cells are ranked by their probability; ``explain`` says what was read. By ``vectors`` cells are ranked by their likeness
to the whole sentence in the space of cells and texts: for what no class stands for, and deaf to negation.
Leaves out: how sentences are read (``words.query``, ``words.matching``), what is read of cells and kept in a folder
(``search_index``), how vectors are searched (``data.vectors``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.tasks.search_index import Library, check_nearest, read_library, sought
from syncyte.tasks.trained import Trained
from syncyte.tasks.word_run import WordRun
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
class Wanted:
    """What a sentence asks for: classes (None for any type), and values of other fields."""

    resolved: Resolved | None
    wishes: tuple[Wish, ...] = ()

    def explain(self) -> str:
        """How the sentence was read."""
        lines = ["Read as: all cells"] if self.resolved is None else [self.resolved.explain()]
        for wish in self.wishes:
            sign = "wanted" if wish.wanted else "without"
            lines.append(f"  {sign}: {wish.field} = {wish.value}, by its classifier")
        return "\n".join(lines)


def search_cells(
    trained: Trained,
    query: str,
    cells: Cells,
    *,
    top: int = 200,
    mode: str = "terms",
    index: Path | None = None,
    nearest: str = "auto",
    batch_size: int | None = None,
) -> Found:
    """Search; see ``syncyte.search``."""
    run = WordRun(trained, "search by words")
    if mode not in get_args(Mode):
        raise ConfigError(unknown("mode of search", mode, get_args(Mode)))
    if top < 1:
        raise ConfigError(f"top is {top}; at least one cell is asked for.")
    alike = query.startswith(CELL)
    check_nearest(nearest, index, alike or mode == "vectors")
    if alike:
        library = sought(read_library(run, cells, index, batch_size), nearest)
        return like_cell(run, library, query.removeprefix(CELL).strip(), top)
    if mode == "vectors":
        vector = sentence_vector(run, query)
        library = sought(read_library(run, cells, index, batch_size), nearest)
        return by_vector(run, library, query, vector, top)
    wanted = read_sentence(run, query)
    return by_terms(run, read_library(run, cells, index, batch_size), wanted, top)


def read_sentence(run: WordRun, query: str) -> Wanted:
    """What a sentence asks for, among the classes of the run and the values of its other fields."""
    rest, wishes = split_fields(run, query)
    return Wanted(resolve(run, rest) if rest or not wishes else None, wishes)


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


def term_scores(run: WordRun, library: Library, wanted: Wanted) -> NDArray[np.float64]:
    """``(n,)`` probability of what is asked for, 0 to 1."""
    chances = np.asarray(library.chances, dtype=np.float64)
    scores = np.ones(len(chances)) if wanted.resolved is None else score(wanted.resolved, chances)
    for wish in wanted.wishes:
        column = run.facts["classifiers"][wish.field]["classes"].index(wish.value)
        own = np.asarray(library.fields[wish.field][:, column], dtype=np.float64)
        scores = scores * (own if wish.wanted else 1 - own)
    return scores


def by_terms(run: WordRun, library: Library, wanted: Wanted, top: int) -> Found:
    """Cells by the probability of what is asked for."""
    scores = term_scores(run, library, wanted)
    rows = np.lexsort((np.arange(len(scores)), -scores))[:top]
    rows = rows[scores[rows] > 0]
    evidence = [_likely(run, library.chances[row]) for row in rows]
    table = pd.DataFrame({"cell": library.names[rows], "score": np.round(scores[rows], 4), "evidence": evidence})
    notes = () if wanted.resolved is None else wanted.resolved.notes
    return Found(table, wanted.explain(), (*library.notes, *notes))


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


def _likely(run: WordRun, chance: NDArray[np.floating]) -> str:
    """The likeliest types of a cell."""
    best = np.argsort(-np.asarray(chance, dtype=np.float64), kind="stable")[:2]
    return ", ".join(f"{run.labels[place]} {float(chance[place]):.2f}" for place in best if chance[place] > 0.005)
