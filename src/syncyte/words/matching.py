"""What the clauses of a search mean among the classes at hand, and the score of every cell.

A clause is tried in this order: a term, and the classes at or below it; a term below a class (the class is coarser); a
term that shares terms below it with a class; the noun as a term, its classes ranked by how well their texts fit
the other words; texts of classes (BM25 of label, synonyms, definition and labels of ancestors); terms of the whole
ontology by their texts, and the classes most related to these. All but the first are guesses: their membership is
capped, and ``explain`` says so. Every class gets a membership from 0 to 1, and the probability of a clause is the
sum of class probabilities times memberships.

    score = P(any wanted clause) x product over unwanted clauses of (1 - P(clause))

Where unwanted clauses leave nothing of a wanted one, that one is read again without the first step: the name
meant more than the term it hit ("cytotoxic lymphocytes, not T cells").
Leaves out: reading the sentence (``query``), and where class probabilities come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError
from syncyte.words.normalise import key_of, normalise, usual_names
from syncyte.words.query import Clause, Query, described
from syncyte.words.terms import Terms, lineage
from syncyte.words.texts import Texts

How = Literal["term", "coarser", "overlap", "noun", "words", "related", "nothing"]
Matcher = Callable[[str], tuple[str, float] | None]  # term id and confidence of a name
Weights = NDArray[np.float64]

CAP = {"term": 1.0, "coarser": 0.8, "overlap": 0.8, "noun": 0.8, "words": 0.7, "related": 0.6, "nothing": 0.0}
SURE = 0.6  # confidence below which a matched term is not believed
FAINT = 0.5  # of the best class: fits below it do not count
ALIKE = 0.4  # least likeness of a class to a term it is taken for
NEAR = 5  # terms of the ontology a description may stand for


@dataclass(frozen=True)
class Meaning:
    """What a clause was taken for.

    Attributes
    ----------
    clause
        As it was read.
    how
        See the module.
    term
        Id of the term, where there is one.
    label
        Its name.
    weights
        ``(t,)`` membership of each class.
    """

    clause: Clause
    how: How
    term: str
    label: str
    weights: Weights


@dataclass(frozen=True)
class Resolved:
    """A search with the meaning of each clause, row by row as in the query."""

    query: Query
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    any_of: tuple[tuple[Meaning, ...], ...]
    none_of: tuple[Meaning, ...]
    notes: tuple[str, ...] = ()

    def explain(self) -> str:
        """Several lines for the person who asked: how the sentence was read and which classes each clause takes."""
        lines = [f"Read as: {self.query}"]
        for meaning in (*(item for row in self.any_of for item in row), *self.none_of):
            sign = "without" if any(meaning is one for one in self.none_of) else "wanted"
            taken = [f"{name} ({w:.2f})" for name, w in zip(self.labels, meaning.weights, strict=True) if w > 0]
            term = f" = {meaning.label} {meaning.term}" if meaning.term else ""
            lines.append(f"  {sign}: {meaning.clause}{term}; {_SAID[meaning.how]}: {', '.join(taken) or 'no class'}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


_SAID = {
    "term": "its classes",
    "coarser": "only a coarser class is there",
    "overlap": "classes that share types with it",
    "noun": "classes of the noun, by the fit of the other words",
    "words": "by the words of class texts",
    "related": "classes related to terms that fit",
    "nothing": "not understood",
}


class Names:
    """Terms by their names: a plain matcher, exact up to spelling and order of words (see ``normalise``).

    Labels come first, then names that data sets use, then synonyms.
    ``LabelMapper.match`` is a better one; any callable that gives a term and a confidence will do.
    """

    def __init__(self, terms: Terms) -> None:
        named: list[tuple[str, tuple[str, ...]]] = [(key, (term.label,)) for key, term in terms.items()]
        named += [(key, names) for key, _, names in usual_names() if key in terms]
        named += [(key, tuple(term.synonyms)) for key, term in terms.items()]
        self.known: dict[str, str] = {}
        for key, names in named:
            for name in names:
                self.known.setdefault(spelled(name), key)

    def __call__(self, text: str) -> tuple[str, float] | None:
        """Id and confidence 1, or None."""
        found = self.known.get(spelled(text))
        return None if found is None else (found, 1.0)


def spelled(text: str) -> str:
    """Spelling that names are compared in."""
    return key_of(normalise(text))


class Meanings:
    """Finds what clauses mean among classes.

    Parameters
    ----------
    classes
        Term ids (or names, where there is no ontology) in the order of the probabilities.
    terms
        The ontology; without it clauses are compared with the words of the labels alone.
    matcher
        Gives the term of a name; ``Names`` of the ontology by default.
    labels
        Names of the classes in the data.
    """

    def __init__(
        self,
        classes: Sequence[str],
        terms: Terms | None = None,
        matcher: Matcher | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.classes, self.terms = tuple(classes), terms
        if not self.classes:
            raise DataError("There is no class to search among; give class probabilities with their names.")
        self.labels = tuple((labels or {}).get(name, self._label(name)) for name in self.classes)
        self.matcher: Matcher = matcher or (Names(terms) if terms is not None else lambda text: None)
        self.lines = [set(lineage(name, terms)) for name in self.classes]
        own = [f"{label} {self._text(name)}" for name, label in zip(self.classes, self.labels, strict=True)]
        self.texts = Texts(own)

    def known(self, text: str) -> bool:
        """Whether the text as a whole is the name of a term."""
        found = self.matcher(text)
        return found is not None and found[1] >= 1.0  # spelled so: a likeness would swallow "not"

    def resolve(self, query: Query) -> Resolved:
        """Find the meaning of every clause.

        Raises
        ------
        DataError
            If no wanted clause fits any class.
        """
        none_of = [self.meaning(clause) for clause in query.none_of]
        any_of = [[self.meaning(clause) for clause in row] for row in query.any_of]
        notes, left = [], _rest(none_of, len(self.classes))
        for row in any_of:
            for place, item in enumerate(row):
                if item.weights.any() and not (item.weights * left).any():
                    other = self.meaning(item.clause, wide=True)
                    if (other.weights * left).any():
                        row[place] = other
                        notes.append(f"{item.clause}: what is unwanted left nothing of it, so it was read more widely.")
                    else:
                        notes.append(f"{item.clause}: what is unwanted leaves nothing of it.")
        for place, item in enumerate(none_of):
            if not item.weights.any():
                notes.append(f"{item.clause}: no class is like it, so nothing is left out for it.")
            own = np.array([name == item.term for name in self.classes], dtype=np.float64)
            if any_of and own.any() and not any((_row(row, len(own)) * left).any() for row in any_of):
                none_of[place] = replace(item, weights=own)
                notes.append(
                    f"{item.clause}: taken for the class of that name alone; with all below it nothing is left."
                )
        if any_of and not any(_row(row, len(self.classes)).any() for row in any_of):
            raise DataError(
                f"Nothing in the search ({query}) is like any of the classes: {', '.join(self.labels[:12])}. Use the "
                "name of a type, of a wider group, or words of its definition."
            )
        rows = tuple(tuple(row) for row in any_of)
        return Resolved(query, self.classes, self.labels, rows, tuple(none_of), tuple(notes))

    def meaning(self, clause: Clause, wide: bool = False) -> Meaning:
        """Meaning of a clause; ``wide`` skips the term of the whole clause."""
        if not wide:
            found = self._as_term(clause, clause.text)
            if found is not None:
                return found
        for found in (self._as_noun(clause), self._as_text(clause), self._as_related(clause)):
            if found is not None:
                return found
        return Meaning(clause, "nothing", "", "", np.zeros(len(self.classes)))

    def _as_term(self, clause: Clause, text: str) -> Meaning | None:
        match = self.matcher(text)
        if match is None or match[1] < SURE:
            return None
        term, label = match[0], self._label(match[0])
        below = np.array([term in line for line in self.lines], dtype=np.float64)
        if below.any():
            return Meaning(clause, "term", term, label, below)
        above = lineage(term, self.terms)
        distance = np.array([above.get(name, np.inf) for name in self.classes])
        if np.isfinite(distance).any():
            return Meaning(clause, "coarser", term, label, CAP["coarser"] * (distance == distance.min()))
        under = self._under.get(term, frozenset())
        shared = np.array([len(under & self._under.get(name, frozenset())) for name in self.classes], dtype=np.float64)
        if shared.any():
            return Meaning(clause, "overlap", term, label, CAP["overlap"] * _faded(shared))
        return None

    def _as_noun(self, clause: Clause) -> Meaning | None:
        """The noun as a term with classes below, these weighed by the other words.

        The noun is what stands before "that", or else the longest end of the clause that is a term.
        """
        before, after = described(clause.text)
        words = before.split()
        for start in range(0 if after else 1, len(words)):
            noun = self._as_term(clause, " ".join(words[start:]))
            if noun is None or noun.how != "term" or len(lineage(noun.term, self.terms)) == 1:
                continue  # the root of an ontology is no noun: everything is a cell
            fit = self.texts.fit(" ".join([*words[:start], after])) * (noun.weights > 0)
            if fit.any():
                return replace(noun, how="noun", weights=CAP["noun"] * _faded(fit))
        return None

    def _as_text(self, clause: Clause) -> Meaning | None:
        fit = self.texts.fit(clause.text)
        return Meaning(clause, "words", "", "", CAP["words"] * _faded(fit)) if fit.any() else None

    def _as_related(self, clause: Clause) -> Meaning | None:
        """Classes that share the rarest ancestors with the terms whose texts fit best."""
        if self.terms is None:
            return None
        keys, texts = self._every
        fit = texts.fit(clause.text)
        best = [place for place in np.argsort(-fit, kind="stable")[:NEAR] if fit[place] > FAINT * fit.max()]
        weights = np.zeros(len(self.classes))
        for place in best:
            line = set(lineage(keys[place], self.terms))
            own = self._rarity(line)
            for number, other in enumerate(self.lines):
                alike = self._rarity(line & other) / max(own, self._rarity(other), 1e-9)
                if alike >= ALIKE:
                    weights[number] = max(weights[number], alike * fit[place] / fit.max())
        if not weights.any():
            return None
        label = ", ".join(self._label(keys[place]) for place in best)
        return Meaning(clause, "related", "", label, CAP["related"] * (weights >= 0.9 * weights.max()) * weights)

    def _rarity(self, line: set[str]) -> float:
        """How special the rarest of some terms is, from 0 (everything is below it) to 1."""
        total = max(len(self._under), 2)
        return max((1 - np.log(max(len(self._under.get(key, ())), 1)) / np.log(total) for key in line), default=0.0)

    @cached_property
    def _under(self) -> dict[str, frozenset[str]]:
        """Ids at and below each term."""
        found: dict[str, set[str]] = {}
        for key in self.terms or ():
            for above in lineage(key, self.terms):
                found.setdefault(above, set()).add(key)
        return {key: frozenset(below) for key, below in found.items()}

    @cached_property
    def _every(self) -> tuple[tuple[str, ...], Texts]:
        keys = tuple(self.terms or ())
        return keys, Texts([self._text(key) for key in keys])

    def _label(self, key: str) -> str:
        known = self.terms.get(key) if self.terms is not None else None
        return known.label if known is not None else key

    def _text(self, key: str) -> str:
        known = self.terms.get(key) if self.terms is not None else None
        if known is None or self.terms is None:
            return ""
        above = (self.terms[name].label for name in known.ancestors if name in self.terms)
        return " ".join([known.label, *known.synonyms, known.definition, *above])


def score(resolved: Resolved, probabilities: ArrayLike) -> Weights:
    """Score cells.

    Parameters
    ----------
    resolved
        From ``Meanings.resolve``.
    probabilities
        ``(n, t)`` of the classes, rows sum to one.

    Returns
    -------
    ``(n,)`` from 0 to 1.
    """
    chance = np.asarray(probabilities, dtype=np.float64)
    size = len(resolved.classes)
    if chance.ndim != 2 or chance.shape[1] != size or not np.isfinite(chance).all():
        raise DataError(f"Probabilities have the shape {chance.shape}; finite ones of {size} classes are needed.")
    wanted = np.ones(len(chance))
    if resolved.any_of:
        wanted = chance @ np.max([_row(row, size) for row in resolved.any_of], axis=0)
    for item in resolved.none_of:
        wanted = wanted * (1 - np.clip(chance @ item.weights, 0, 1))
    return np.clip(wanted, 0.0, 1.0)


def _faded(fit: Weights) -> Weights:
    """Memberships from scores: 1 for the best class, nothing for those far behind."""
    share = fit / fit.max()
    return np.where(share >= FAINT, share, 0.0) ** 2


def _row(row: Sequence[Meaning], size: int) -> Weights:
    return np.prod([item.weights for item in row], axis=0) if row else np.ones(size)


def _rest(none_of: Sequence[Meaning], size: int) -> Weights:
    """What crisp unwanted clauses leave of each class."""
    return np.prod([1 - item.weights for item in none_of], axis=0) if none_of else np.ones(size)
