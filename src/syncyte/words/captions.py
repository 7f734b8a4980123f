"""Texts about cells from what is known of them, in many wordings, and back again.

A caption is a few sentences filled with plain values; the values stay beside it as slots. Fields are left out at random
so that whoever learns from captions cannot lean on one of them. ``parse_caption`` reads the slots back from
a text; ``write_captions`` checks that it does, and falls back to a wording of bare fields where a value contains words
of the pattern. Genes are named as expressed only where they were given as expressed; label, synonyms and definition are
quoted as the ontology has them.

Values are any text: nothing in them is evaluated, and line breaks and control characters become blanks. Whoever shows
captions in a page must escape them, as with any text.
Leaves out: where facts come from, and texts written by a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Self

import numpy as np

from syncyte.errors import ConfigError, DataError, unknown
from syncyte.words.terms import Terms

Slots = Mapping[str, str | tuple[str, ...]]

SLOTS = ("type", "synonyms", "definition", "ancestors", "markers", "tissue", "disease", "stage", "condition")
LISTS = ("synonyms", "ancestors", "markers")  # slots with several values
LISTED = 3  # values of a list that a caption names
UNKNOWN = "cell"  # how a cell without a type is called
_FIELD = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) $")
_AN = re.compile(r"\b[Aa]n ")
_A_TYPE = re.compile(r"\b([Aa]) \{type\}")
_SOUNDS = re.compile(r"[aeio]|u(?!ni(?![mn])|r[eio]|t[eio]|s[eu])", re.IGNORECASE)  # how words that take "an" begin
_SOUNDS_NOT = re.compile(r"eu|one\b|once\b|ewe", re.IGNORECASE)
_SPELLED = re.compile(
    r"(?:[AEFHILMNORSX]|(?=[FHLMNRSX])[B-DF-HJ-NP-TV-Z]{2,})(?![^\W\d_])"
)  # letter by letter: an NK cell
_CONTROL = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")

# Bare fields; values lose the bar, so it can always be read back.
BARE = ("type", "synonyms", "ancestors", "markers", "tissue", "disease", "stage", "condition", "definition")


@dataclass(frozen=True)
class Caption:
    """A text and what it says."""

    text: str
    slots: Slots = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What is known of a cell or of all cells of a label.

    Attributes
    ----------
    type
        Term id, or a name; empty where it is not known.
    expressed
        Genes seen in the cell (or in most cells of the label); only these are ever named.
    tissue, disease, stage, condition
        As the data have them; empty where they do not.
    """

    type: str = ""
    expressed: tuple[str, ...] = ()
    tissue: str = ""
    disease: str = ""
    stage: str = ""
    condition: str = ""


def write_captions(
    facts: Iterable[Facts],
    *,
    terms: Terms | None = None,
    markers: Mapping[str, Sequence[str]] | None = None,
    drop: float = 0.3,
    wording: int | None = None,
    seed: int = 0,
) -> list[Caption]:
    """Write a caption for each cell or label.

    Parameters
    ----------
    facts
        One for each caption.
    terms
        The ontology; without it a caption has no synonyms, definition and ancestors.
    markers
        Markers by type (``markers.MarkerTable.genes``): named first among the expressed genes. Without it, or where a
        type has none, no gene is named.
    drop
        Chance that a field is left out; the type never is.
    wording
        Number of a wording; None draws one for each caption.
    seed
        The same seed gives the same captions.
    """
    if not 0 <= drop < 1:
        raise ConfigError(f"drop is {drop}; it is a chance from 0 to below 1.")
    if wording is not None and not 0 <= wording < len(wordings()):
        raise ConfigError(f"There is no wording {wording}; they are numbered 0 to {len(wordings()) - 1}.")
    rng = np.random.default_rng(seed)
    return [_written(_slots(item, terms, markers or {}, drop, rng), wording, rng) for item in facts]


def with_article(before: str, value: str) -> str:
    """Words before a value, "an" for a last "a" where the value sounds so: an erythrocyte, an NK cell, a B cell."""
    spelled = _SPELLED.match(value)
    sounds = bool(_SOUNDS.match(value)) and not _SOUNDS_NOT.match(value)
    return _ARTICLE.sub(r"\1n ", before) if spelled or sounds else before


def parse_caption(text: str) -> dict[str, str | tuple[str, ...]]:
    """Read the slots that a caption states; none where the text is none of the known wordings.

    A whole wording is looked for first; failing that, single sentences, in which values end at a full stop.
    """
    clean = plain(text)
    bare = _parse_bare(clean)
    if bare is not None:
        return bare
    an = _AN.search(clean) is not None
    for sentences in _read_as(an):
        whole = _parse_wording(clean, sentences)
        if whole is not None:
            return _values(whole)
    found: dict[str, str] = {}
    for pattern in _loose(an):
        for match in pattern.finditer(clean):
            for key, value in match.groupdict().items():
                found.setdefault(key, value)
    return _values(found)


def plain(text: object) -> str:
    """Any value as one line without control characters."""
    return _CONTROL.sub(" ", str(text)).strip()


def facts_of(columns: Mapping[str, Sequence[object]], expressed: Sequence[Sequence[str]] | None = None) -> list[Facts]:
    """Facts of cells from columns of their metadata, by the names of the fields; missing values become empty.

    Raises
    ------
    ConfigError
        For a column that is no field.
    DataError
        If the columns differ in length.
    """
    fields = ("type", "tissue", "disease", "stage", "condition")
    for name in columns:
        if name not in fields:
            raise ConfigError(unknown("field of a caption", name, fields))
    sizes = {name: len(values) for name, values in columns.items()}
    if expressed is not None:
        sizes["expressed"] = len(expressed)
    if len(set(sizes.values())) > 1:
        raise DataError(f"Columns of captions differ in length: {sizes}. Give one value a cell in each.")
    count = next(iter(sizes.values()), 0)
    return [
        Facts(
            **{name: "" if _missing(values[row]) else plain(values[row]) for name, values in columns.items()},
            expressed=() if expressed is None else tuple(map(str, expressed[row])),
        )
        for row in range(count)
    ]


def _missing(value: object) -> bool:
    return value is None or value != value or str(value).strip().lower() in {"", "nan", "none", "<na>"}


def _slots(
    item: Facts, terms: Terms | None, markers: Mapping[str, Sequence[str]], drop: float, rng: np.random.Generator
) -> dict[str, str | tuple[str, ...]]:
    term = terms.get(item.type) if terms is not None else None
    every: dict[str, str | tuple[str, ...]] = {"type": term.label if term is not None else item.type}
    if term is not None and terms is not None:
        every["synonyms"] = tuple(term.synonyms)
        every["definition"] = term.definition
        near = sorted(term.ancestors, key=lambda key: (term.ancestors[key], key))
        every["ancestors"] = tuple(terms[key].label for key in near if key in terms)
    seen = set(item.expressed)
    every["markers"] = tuple(gene for gene in markers.get(item.type, ()) if gene in seen)
    every |= {name: getattr(item, name) for name in ("tissue", "disease", "stage", "condition")}
    kept: dict[str, str | tuple[str, ...]] = {}
    for name in SLOTS:
        value, stays = every.get(name, ""), rng.random() >= drop
        clean = _several(value, rng) if isinstance(value, tuple) else plain(value)
        if clean and (stays or name == "type"):
            kept[name] = clean
    return kept


def _several(values: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """A few values in their order; such with the separator in them are left out."""
    fine = [clean for value in values if (clean := plain(value)) and "; " not in clean]
    if len(fine) > LISTED:
        fine = [fine[place] for place in sorted(rng.choice(len(fine), LISTED, replace=False))]
    return tuple(fine)


def _written(slots: dict[str, str | tuple[str, ...]], wording: int | None, rng: np.random.Generator) -> Caption:
    order = [wording] if wording is not None else list(rng.permutation(len(wordings()))[:3])
    for number in order:
        sentences = [text for text in wordings()[number] if all(name in slots for name in _FIELD.findall(text))]
        said = {name: slots[name] for text in sentences for name in _FIELD.findall(text)}
        text = " ".join(_filled(sentence, slots) for sentence in sentences)
        if text and parse_caption(text) == said and ("type" not in slots or "type" in said):
            return Caption(text, said)
    kept = {name: _without_bar(slots[name]) for name in BARE if name in slots}
    said = {name: value for name, value in kept.items() if value}
    text = " | ".join(f"{name}: {_shown(value)}" for name, value in said.items())
    return Caption(text or f"A {UNKNOWN} of which nothing is known.", said)


def _filled(sentence: str, slots: Slots) -> str:
    """Values put in the places of their fields; they are never read as patterns themselves."""
    parts = _FIELD.split(sentence)
    for place in range(1, len(parts), 2):
        parts[place] = _shown(slots[parts[place]])
        parts[place - 1] = with_article(parts[place - 1], parts[place])
    return "".join(parts)


def _shown(value: str | tuple[str, ...]) -> str:
    return "; ".join(value) if isinstance(value, tuple) else value


def _without_bar(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if isinstance(value, tuple):
        return tuple(clean for item in value if (clean := plain(item.replace("|", "/"))))
    return plain(value.replace("|", "/"))


def _values(found: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    ordered = {name: found[name].strip() for name in SLOTS if name in found}
    return {name: tuple(text.split("; ")) if name in LISTS else text for name, text in ordered.items() if text}


def _parse_bare(text: str) -> dict[str, str | tuple[str, ...]] | None:
    """Fields of the bare wording; None where the text is not of it."""
    found, last = {}, -1
    for part in text.split(" | "):
        name, colon, value = part.partition(": ")
        if not colon or name not in BARE or BARE.index(name) <= last:
            return None
        found[name], last = value, BARE.index(name)
    return _values(found)


@dataclass(frozen=True)
class _Sentence:
    """Fixed words and fields in turn: ``words[0] field words[1] field words[2]``."""

    words: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        parts = _FIELD.split(text)
        return cls(tuple(parts[::2]), tuple(parts[1::2]))

    def read(self, text: str) -> dict[str, str] | None:
        """Values of the fields where the whole text is this sentence."""
        if not text.startswith(self.words[0]) or not text.endswith(self.words[-1]):
            return None
        rest, found = text[len(self.words[0]) : len(text) - len(self.words[-1])], {}
        for name, word in zip(self.fields[:-1], self.words[1:-1], strict=True):
            found[name], word, rest = rest.partition(word)
            if not word:
                return None
        found[self.fields[-1]] = rest
        return found if all(found.values()) else None


@cache
def wordings() -> tuple[tuple[str, ...], ...]:
    """The known wordings, each a row of sentences with fields in braces."""
    text = (files("syncyte.words") / "wordings.txt").read_text(encoding="utf-8")
    blocks = [[line for line in block.splitlines() if not line.startswith("#")] for block in text.split("\n\n")]
    return tuple(tuple(block) for block in blocks if block)


@cache
def _read_as(an: bool) -> tuple[tuple[_Sentence, ...], ...]:
    """Every wording; with ``an`` each again, "an" before the type where it has "a"."""
    ways = [(one, tuple(map(_with_an, one))) if an else (one,) for one in wordings()]
    return tuple(tuple(map(_Sentence.of, wording)) for way in ways for wording in dict.fromkeys(way))


def _with_an(sentence: str) -> str:
    return _A_TYPE.sub(r"\1n {type}", sentence)


def _parse_wording(text: str, sentences: Sequence[_Sentence]) -> dict[str, str] | None:
    """Slots of a text that is this wording, whatever sentences it lacks; a sentence ends where a later one begins."""
    found: dict[str, str] = {}
    start, place = 0, next((k for k, item in enumerate(sentences) if text.startswith(item.words[0])), None)
    while place is not None:
        item, following, end = sentences[place], None, len(text)
        for later in range(place + 1, len(sentences)):
            mark = f"{item.words[-1]} {sentences[later].words[0]}"
            at = text.find(mark, start + len(item.words[0]), end + len(mark))
            if at >= 0 and at + len(item.words[-1]) < end:
                following, end = later, at + len(item.words[-1])
        values = item.read(text[start:end])
        if values is None:
            return None
        found |= values
        start, place = end + 1, following
    return found or None


@cache
def _loose(an: bool) -> tuple[re.Pattern[str], ...]:
    """Single sentences, those with most fixed words first; a value ends before a full stop."""
    known = [text for wording in wordings() for text in wording]
    every = sorted({*known, *(map(_with_an, known) if an else ())}, key=lambda text: (-len(text), text))
    made = []
    for text in every:
        parts = _FIELD.split(text)
        body = "".join(f"(?P<{part}>[^.]+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts))
        made.append(re.compile(r"(?:^|(?<=\. ))" + body + ("" if text.endswith(".") else r"(?=\.|$)")))
    return tuple(made)
