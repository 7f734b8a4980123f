"""Free-text labels of cells to terms: the same name, a close one, a coarser one, or no answer, each with its evidence.

In order: labels without a letter or that say "unknown" get no answer; a name that is the same but for spelling and
order of words; the re-ranked candidates, where one is sure enough; the name without the markers that no name has, or a
term under which enough of the probability lies, flagged as coarser; else no answer, with the nearest name beside it.
Works on an ontology, on the embedded names of blood and marrow, and on a user's own names, alone or together.
Leaves out: training (``trained``) and files (``genome.ontology_files``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal

import numpy as np

from syncyte.errors import ConfigError
from syncyte.genome.ontology import Ontology, Term, canonical_id
from syncyte.words.candidates import Candidates, Shortlist
from syncyte.words.lexical import Lexicon
from syncyte.words.markers import read_markers
from syncyte.words.normalise import LONGEST, bare_words, key_of, no_types, normalise, usual_names
from syncyte.words.trained import Models, without_training

if TYPE_CHECKING:
    import pandas as pd

How = Literal["same", "close", "coarser", "none"]

CUT = 0.5
GENERAL = 0.1  # share of all terms below a term that says too little to be a coarser answer
FEW = 3.0  # terms below a term that are never too many
BARE = 0.6  # score of a name that is the same once markers are taken off
_FRONT = re.compile(r"^\s*(?:c|cluster)?[\s_#]*\d{1,3}[\s_.:)-]+(?=[^\W\d])", re.IGNORECASE)
_BACK = re.compile(r"(?<=[^\W_])[_.:-]+\d{1,3}\s*$")
_BRACKETS = re.compile(r"\s*[(\[{][^()\[\]{}]*[)\]}]")
_KINDS = {"label": "the label", "synonym": "the synonym", "usual": "the usual name", "yours": "your name"}
_SAME = {"label": 0.99, "synonym": 0.97, "usual": 0.95, "yours": 0.99}


@dataclass(frozen=True)
class Match:
    """What a label means.

    Attributes
    ----------
    label
        As given.
    id, term
        Term and its label; empty without an answer. Of a user's own name without an id, the name alone.
    score
        Chance that the answer is right, on the cautious side; without an answer that of the nearest term.
    how
        ``same``, ``close``, ``coarser`` or ``none``.
    evidence
        Why, in words.
    """

    label: str
    id: str
    term: str
    score: float
    how: How
    evidence: str


@dataclass(frozen=True)
class LabelMap:
    """Answers in the order of the labels, and what a user should know of how they came about."""

    matches: tuple[Match, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """Columns ``label``, ``term_id``, ``term``, ``score``, ``evidence``."""
        import pandas as pd

        columns = ("label", "term_id", "term", "score", "evidence")
        rows = [(item.label, item.id, item.term, round(item.score, 3), item.evidence) for item in self.matches]
        return pd.DataFrame.from_records(rows, columns=list(columns))

    def counts(self) -> dict[How, int]:
        """How many labels were answered in which way."""
        found: dict[How, int] = {"same": 0, "close": 0, "coarser": 0, "none": 0}
        for item in self.matches:
            found[item.how] += 1
        return found


class LabelMapper:
    """Maps labels to the terms of an ontology, the embedded names, and a user's own.

    Parameters
    ----------
    ontology
        Terms to answer with; None for the embedded names alone.
    names
        A user's own names and the ids they mean (empty where they mean none; such a name is an answer of its own,
        unless it is a name of a term).
    models
        What was trained for the ontology; by default letters and words with fixed weights.
    cut
        Score from which an answer is given.
    usual
        Whether the embedded names are used.
    among
        Ids that may be answers, own names besides; None for all. A label that means another term gets the closest of
        these above it, or no answer: the whole ontology is still what labels are compared with.
    """

    def __init__(
        self,
        ontology: Ontology | None = None,
        *,
        names: Iterable[tuple[str, str]] = (),
        models: Models | None = None,
        cut: float = CUT,
        usual: bool = True,
        among: Iterable[str] | None = None,
    ) -> None:
        check_cut(cut)
        self.cut = cut
        self.notes: list[str] = []
        self.terms: dict[str, Term] = dict(ontology.active) if ontology is not None else {}
        extra = self._embedded(ontology) if usual else []
        extra += self._own(names, ontology)
        self.models = models or without_training()
        self.among = None if among is None else set(among)
        self.lexicon = Lexicon(self.terms, extra)
        self.candidates = Candidates(self.lexicon, self.models.encoder)
        if ontology is None:
            self.notes.append(
                f"No ontology: answers come from {len(self.terms)} embedded types and your own names. Relations "
                "of types are not known, and types of other tissues have no answer. Pass --ontology for all cell types."
            )

    def map(self, labels: Sequence[str]) -> list[Match]:
        """What each label means, in the order given."""
        found: dict[str, Match] = {}
        open_: list[str] = []
        for label in dict.fromkeys(labels):
            answer = self._unreadable(label) or self._same(label)
            if answer is None:
                open_.append(label)
            else:
                found[label] = answer
        for label, shortlist in zip(open_, self.candidates.find([normalise(label) for label in open_])):
            found[label] = self._chosen(label, shortlist)
        return [found[label] for label in labels]

    def match(self, name: str) -> tuple[str, float] | None:
        """Id and score of what a name means, or None without an answer; coarser answers count."""
        answer = self.map([name])[0]
        return None if answer.how == "none" or not answer.id else (answer.id, answer.score)

    def ranked(self, label: str) -> list[tuple[str, float]]:
        """All candidates of a label with their scores, best first: a term whose name is the same leads."""
        same = self._rows(normalise(label))
        spelled = normalise(label)
        if not spelled:
            return []
        shortlist = self.candidates.find([spelled])[0]
        chance = self._scores(shortlist)
        order = np.argsort(-chance, kind="stable")
        ranked = [(self.lexicon.ids[shortlist.terms[place]], float(chance[place])) for place in order]
        if same is None:
            return ranked
        first = self.lexicon.ids[self.lexicon.names[same].term]
        return [(first, _SAME[self.lexicon.names[same].kind]), *(item for item in ranked if item[0] != first)]

    def _embedded(self, ontology: Ontology | None) -> list[tuple[str, str, str]]:
        """Names of the embedded tables; without an ontology their rows are terms as well."""
        rows = [*usual_names(), *((key, label, ()) for key, label in read_markers().labels.items())]
        names: list[tuple[str, str, str]] = []
        for key, label, others in rows:
            term = key if ontology is None else ontology.resolve(key)
            if term is None or (ontology is not None and term not in self.terms):
                continue
            self.terms.setdefault(term, Term(term, label))
            names += [(term, name, "usual") for name in others]
        return names

    def _own(self, names: Iterable[tuple[str, str]], ontology: Ontology | None) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        for name, id_ in names:
            key = canonical_id(id_)
            if key and ontology is not None:
                key = ontology.resolve(key) or ontology[key].id
            elif not key and ontology is not None and (known := ontology.find(name)) is not None:
                key = known.id
            key = key or f"own:{name}"
            self.terms.setdefault(key, Term(key, name))
            found.append((key, name, "yours"))
        return found

    def _unreadable(self, label: str) -> Match | None:
        if len(label) > LONGEST:
            why = f"{len(label):,} characters are no name; {LONGEST} are read at most"
        elif not (spelled := normalise(label)):
            why = "it has no Latin letter to read"
        elif said := no_types().intersection(spelled.split()):
            return None if self._rows(spelled) is not None else _none(label, 0.0, f"it says {sorted(said)[0]!r}")
        else:
            return None
        return _none(label, 0.0, why)

    def _rows(self, spelled: str) -> int | None:
        """Row of the index whose name is the same, if it means one term.

        Own names come first, then labels, the embedded names and synonyms. A letter alone is no name ("N" is not the
        N cell); T and B have become cells by now.
        """
        key = key_of(spelled)
        if len(key) == 1 and "cell" not in spelled.split():
            return None
        rows = self.lexicon.exact.get(key, ())
        names = [self.lexicon.names[row] for row in rows]
        for kind in ("yours", "label", "usual", "synonym"):
            of_kind = [row for row, name in zip(rows, names) if name.kind == kind]
            if of_kind:
                meant = {self.lexicon.names[row].term for row in of_kind}
                return of_kind[0] if len(meant) == 1 else None
        return None

    def _same(self, label: str) -> Match | None:
        """The name as it is, or without a number of a cluster or what stands in brackets."""
        bare = _BACK.sub("", _FRONT.sub("", label))
        forms = {_BRACKETS.sub("", bare): ", without number and brackets", bare: ", without its number", label: ""}
        for form, less in reversed(forms.items()):
            row = self._rows(normalise(form)) if form.strip() else None
            if row is not None:
                name = self.lexicon.names[row]
                evidence = f"{_KINDS[name.kind]} {name.written!r}"
                score = _SAME[name.kind] - (0.04 if less else 0.0)
                return self._answer(label, name.term, score, "same", f"same as {evidence}{less}")
        return None

    def _chosen(self, label: str, shortlist: Shortlist) -> Match:
        chance = self._scores(shortlist)
        order = np.argsort(-chance, kind="stable")
        best = int(order[0])
        name = self.lexicon.names[shortlist.rows[best]]
        near = f"nearest name {name.written!r}"
        if len(order) > 1:
            second = self.lexicon.terms[self.lexicon.ids[shortlist.terms[order[1]]]].label
            near += f"; next: {second} {chance[order[1]]:.2f}"
        akin = self.models.encoder is not None or _akin(normalise(label), name.spelled)
        if chance[best] >= self.cut and akin:
            return self._answer(label, int(shortlist.terms[best]), float(chance[best]), "close", near)
        coarser = self._without_markers(label) or (self._above(label, shortlist) if akin else None)
        if coarser is not None:
            return coarser
        closest = self.lexicon.terms[self.lexicon.ids[shortlist.terms[best]]].label
        return _none(label, float(chance[best]), f"nearest: {closest} ({near})")

    def _scores(self, shortlist: Shortlist) -> np.ndarray:
        return self.models.reranker.probabilities(shortlist) ** self.models.reranker.power

    def _without_markers(self, label: str) -> Match | None:
        """The name that is left when markers are taken off, if some name is just that."""
        spelled = normalise(label)
        left = " ".join(bare_words(spelled))
        if self.cut > BARE or left == spelled or not left:
            return None
        row = self._rows(left)
        if row is None or self._too_general(self.lexicon.names[row].term):
            return None
        name = self.lexicon.names[row]
        return self._answer(label, name.term, BARE, "coarser", f"coarser: same as {name.written!r} without markers")

    def _above(self, label: str, shortlist: Shortlist) -> Match | None:
        """The most special term that enough of the probability lies under."""
        chance = self.models.reranker.probabilities(shortlist)
        under: dict[int, float] = {}
        for place, part in zip(shortlist.terms, chance):
            for above in (int(place), *self.candidates.above[place]):
                under[above] = under.get(above, 0.0) + float(part)
        power = self.models.reranker.power
        sure = [term for term, part in under.items() if part**power >= self.cut and self._may(term)]
        if not sure:
            return None
        term = min(sure, key=lambda item: (self.candidates.below[item], -under[item], item))
        order = np.argsort(-chance, kind="stable")[:3]
        parts = ", ".join(
            f"{self.lexicon.terms[self.lexicon.ids[shortlist.terms[place]]].label} {chance[place]:.2f}"
            for place in order
        )
        return self._answer(
            label, term, under[term] ** power, "coarser", f"coarser: one of these, not sure which: {parts}"
        )

    def _too_general(self, term: int) -> bool:
        return bool(self.candidates.below[term] > np.log1p(max(GENERAL * len(self.lexicon.ids), FEW)))

    def _asked(self, term: int) -> bool:
        key = self.lexicon.ids[term]
        return self.among is None or key in self.among or key.startswith("own:")

    def _may(self, term: int) -> bool:
        return self._asked(term) and not self._too_general(term)

    def _answer(self, label: str, term: int, score: float, how: How, evidence: str) -> Match:
        """The answer or, where it is not among the terms asked for, the closest of these above it."""
        if not self._asked(term):
            meant = self.lexicon.terms[self.lexicon.ids[term]].label
            above = [(far, up) for up, far in self.candidates.above[term].items() if self._may(up)]
            if not above:
                return _none(label, score, f"it means {meant}, which is not among the terms asked for ({evidence})")
            term, how, evidence = (
                min(above)[1],
                "coarser",
                f"coarser: the closest term asked for above {meant} ({evidence})",
            )
        key = self.lexicon.ids[term]
        return Match(label, "" if key.startswith("own:") else key, self.terms[key].label, score, how, evidence)


def _akin(asked: str, name: str) -> bool:
    """Whether two normalised names share a word that says something, or nearly all letters.

    The fixed weights look at how far the best candidate is ahead, and among few terms one always is.
    """
    shared = set(asked.split()) & set(name.split()) - {"cell", "positive", "negative", "of", "the", "type", "human"}
    return bool(shared) or SequenceMatcher(None, asked, name).ratio() > 0.8


def check_cut(cut: float) -> None:
    """Refuse a cut that is no score."""
    if not 0 < cut < 1:
        raise ConfigError(f"cut is {cut}; expected a score between 0 and 1, such as {CUT}.")


def _none(label: str, score: float, why: str) -> Match:
    return Match(label, "", "", score, "none", f"no answer: {why}")
