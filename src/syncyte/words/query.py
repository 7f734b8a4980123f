"""A search in plain language, read into clauses: any of these (all parts of one together), and none of those.

Rules, in order. A word of negation ("not", "except", "other than", "lacking", "neither ... nor") turns everything after
it negative, up to a "but" that is not followed by another negation. Commas, "or" and "and" make alternatives, for
people say "T cells and B cells" for both; "AND" in capitals, "&" and "that are also" join conditions on one cell.
Names with commas or "and" in them stay whole where the reader knows them. A clause without a noun borrows one:
"CD14 and CD16 monocytes", "monocytes, not CD14 positive". What stands after "that" or "which" is one clause.
Leaves out: what the clauses mean (``matching``); brackets are read as blanks; texts are English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncyte.errors import ConfigError, DataError

LONGEST = 500  # characters of a search
MOST = 24  # clauses

_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta"}
_LEAD = re.compile(
    r"^\W*(?:(?:please|find|show|give|get|fetch|search|look|looking|list|select|want|need|me|us|i|we|for|all|any|every|"
    r"the|some|only|just|a|an|of|kinds?|types?|like)\b[\s:,]*)+",
    re.IGNORECASE,
)
_TAIL = re.compile(r"[\s,]*\b(?:please|thanks|thank you)\W*$", re.IGNORECASE)
_ARTICLE = re.compile(
    r"^(?:(?:everything|anything|all|any|every|the|some|only|just|a|an|those|these|of|are|is|also|either|both)\b\s*)+",
    re.I,
)
_NOT = re.compile(
    r"\b(?:(?:but|and|or|is|are|that are|which are)\s+)?(?:not(?:\s+(?:the|any|including))?|excluding|"
    r"except(?:\s+for)?|excepting|without|other\s+than|apart\s+from|aside\s+from|besides|minus|lacking|(?:that|which)\s+lack|"
    r"negative\s+for|neither|nor|no|never)\b|\b(?:anything|everything|all|any\s+cells?)\s+but\b",
    re.IGNORECASE,
)
_BUT = re.compile(r"\b(?:but(?:\s+also|\s+yes)?|however)\b", re.IGNORECASE)
_BOTH = re.compile(r"\s+(?:AND)\s+|\s*&\s*|\b(?:that|which|who)\s+are\s+also\b|\b(?:and\s+are|and)\s+also\b")
_EITHER = re.compile(r"\s*[,;/]\s*(?:(?:or|and)\b)?|\b(?:as\s+well\s+as|together\s+with|or|and|plus)\b", re.IGNORECASE)
_THAT = re.compile(r"\b(?:that|which|who|involved\s+in|responsible\s+for|able\s+to|capable\s+of)\b", re.IGNORECASE)
_NOUN = re.compile(
    r"(?:cells?|\w*cytes?|\w*blasts?|\w*phages?|\w*phils?|platelets?|neurons?|progenitors?|precursors?|\w*glia|t-?regs?|"
    r"p?dcs?|cdc[12]|nks?|hscs?|monos?|keratinocytes?|cells?\s+types?|fibers?|pericytes?|plts?)$",
    re.IGNORECASE,
)
_QUALITY = re.compile(  # what is said of a cell, not a name of one
    r"^(?:(?:cd\d+\w*|[a-z0-9]+[+-]|positive|negative|high|low|bright|dim|hi|lo|naive|memory|effector|activated|resting|"
    r"mature|immature|classical|non-?classical|intermediate|regulatory|helper|cytotoxic|conventional|plasmacytoid|"
    r"inflammatory|resident|central|cycling|and)\s*)+$",
    re.IGNORECASE,
)
COMMON = frozenset(
    re.findall(
        r"\w+",
        """a an the of in on at to for from by with and or not no any all some that which who whose this these those it
        its is are was were be been being as such other than but if then so do does did can could may might will would
        should have has had i we you me us my our please find show give get look search want need cells cell type types
        kind kinds there here very more most many much what where when how make makes made found called""",
    )
)


@dataclass(frozen=True)
class Clause:
    """One name or description; ``borrowed`` is the noun taken from a neighbour."""

    words: str
    borrowed: str = ""

    @property
    def text(self) -> str:
        """Everything that is looked up."""
        return f"{self.words} {self.borrowed}".strip()

    def __str__(self) -> str:
        return f"{self.words} [{self.borrowed}]" if self.borrowed else self.words


@dataclass(frozen=True)
class Query:
    """Cells of any row of ``any_of`` (all clauses of the row at once) and of none of ``none_of``.

    Without ``any_of`` all cells are asked for.
    """

    any_of: tuple[tuple[Clause, ...], ...] = ()
    none_of: tuple[Clause, ...] = ()

    def __str__(self) -> str:
        rows = [" AND ".join(map(str, row)) for row in self.any_of]
        rows = [f"({row})" if " AND " in row and len(rows) > 1 else row for row in rows]
        wanted = " OR ".join(rows) or "all cells"
        if not self.none_of:
            return wanted
        wanted = f"({wanted})" if " OR " in wanted or " AND " in wanted else wanted
        return f"{wanted} AND " + " AND ".join(f"NOT {clause}" for clause in self.none_of)

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Every clause, the wanted ones first."""
        return (*(clause for row in self.any_of for clause in row), *self.none_of)


def parse_query(text: str, known: Callable[[str], bool] | None = None) -> Query:
    """Read a search.

    Parameters
    ----------
    text
        One sentence or list of names.
    known
        Whether a text is the name of something, so that "CD8-positive, alpha-beta T cell" is not cut in two.

    Raises
    ------
    ConfigError
        For an empty text, one of common words or signs only, or one in another script.
    DataError
        For a text that is too long.
    """
    clean = _checked(text)
    clean = _TAIL.sub("", _LEAD.sub("", clean)).strip(" .!?") or clean
    if known is not None and known(clean):
        return Query(((Clause(clean),),))
    rows: list[tuple[bool, list[str]]] = []
    for negative, segment in _segments(clean):
        for part in _alternatives(segment, known):
            wholes = [piece for piece in (_trimmed(one) for one in _BOTH.split(part)) if piece]
            if negative:
                rows += [(True, [piece]) for piece in wholes]
            elif wholes:
                rows.append((False, wholes))
    if not rows:
        raise ConfigError(
            f"{text!r} names nothing to look for. Say which cells, for instance 'B cells, not plasma cells'."
        )
    if len(rows) > MOST:
        raise DataError(f"The search has {len(rows)} clauses; at most {MOST} are read. Ask for fewer at a time.")
    clauses = _borrow([piece for _, row in rows for piece in row], known)
    wanted, banned, at = [], [], 0
    for negative, row in rows:
        own, at = tuple(clauses[at : at + len(row)]), at + len(row)
        if negative:
            banned.append(own[0])
        else:
            wanted.append(own)
    return Query(tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(banned)))


def described(text: str) -> tuple[str, str]:
    """What is named, and what is said of it after "that", "which" or the like."""
    first = _THAT.search(text)
    return (text[: first.start()].strip(), text[first.end() :].strip()) if first else (text, "")


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise ConfigError(f"A search is a text; found {type(text).__name__}.")
    if len(text) > LONGEST:
        raise DataError(
            f"The search has {len(text):,} characters; at most {LONGEST} are read. Name the cells in one sentence."
        )
    for letter, name in _GREEK.items():
        text = text.replace(letter, name).replace(letter.upper(), name)
    clean = unicodedata.normalize("NFKC", text)
    clean = "".join(" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in clean)
    clean = " ".join(re.sub(r"[()\[\]{}\"“”]", " ", clean).split())
    if not clean:
        raise ConfigError("The search is empty. Say which cells, for instance 'B cells, not plasma cells'.")
    letters = [sign for sign in clean if sign.isalpha()]
    latin = [sign for sign in letters if "LATIN" in unicodedata.name(sign, "")]
    if not letters:
        raise ConfigError(f"{text[:60]!r} has no letters. Say which cells in words, for instance 'B cells'.")
    if len(latin) <= len(letters) / 2:
        raise ConfigError(f"{text[:60]!r} is not in Latin letters; only English is read. For instance 'B cells'.")
    if all(word in COMMON for word in re.findall(r"[a-z0-9]+", clean.lower())):
        raise ConfigError(f"{text[:60]!r} has only common words. Name a type or what the cells do.")
    return clean


def _segments(text: str) -> list[tuple[bool, str]]:
    """Stretches of the sentence and whether they are negated."""
    marks = [(match.start(), match.end(), True) for match in _NOT.finditer(text)]
    taken = [(start, end) for start, end, _ in marks]
    for match in _BUT.finditer(text):
        if not any(start <= match.start() < end for start, end in taken):
            marks.append((match.start(), match.end(), False))
    marks.sort()
    found, negative, start = [], False, 0
    for begin, end, sign in marks:
        found.append((negative, text[start:begin]))
        negative, start = sign, end
    found.append((negative, text[start:]))
    return [(sign, part.strip(" ,;.")) for sign, part in found if part.strip(" ,;.")]


def _alternatives(segment: str, known: Callable[[str], bool] | None) -> list[str]:
    """Parts between commas, "or" and "and"; known names and descriptions with "that" stay whole."""
    if known is not None and known(_trimmed(segment)):
        return [segment]
    if _THAT.search(segment) and not _BOTH.search(segment):
        first = _THAT.search(segment)
        before = _EITHER.split(segment[: first.start()]) if first else [segment]
        if len(before) > 1 and first:
            return [*before[:-1], before[-1] + segment[first.start() :]]
        return [segment]
    kept = re.sub(r"\s+AND\s+|\s+and\s+also\b|\s+and\s+are\s+also\b", " & ", segment)
    parts, cuts = [], [match.span() for match in _EITHER.finditer(kept)]
    start = 0
    for place, (begin, end) in enumerate(cuts):
        if begin < start:
            continue
        stop = cuts[place + 1][0] if place + 1 < len(cuts) else len(kept)
        if known is not None and known(_trimmed(kept[start:stop])):
            continue  # the cut lies inside a name
        parts.append(kept[start:begin])
        start = end
    return [*parts, kept[start:]]


def _trimmed(piece: str) -> str:
    return _ARTICLE.sub("", piece.strip(" ,;.:!?")).strip(" ,;.:!?")


def _borrow(pieces: Sequence[str], known: Callable[[str], bool] | None) -> list[Clause]:
    """Give a noun to clauses without one: the next clause's, or else the one before's."""
    nouns = [_noun(piece) for piece in pieces]
    made = []
    for place, piece in enumerate(pieces):
        if nouns[place] or _THAT.search(piece) or (known is not None and known(piece)):
            made.append(Clause(piece))
            continue
        near = [*(nouns[place + 1 :]), *reversed(nouns[:place])]
        phrase = next((noun for noun in near if noun), None)
        if phrase is None:
            made.append(Clause(piece))
            continue
        word, whole = phrase
        made.append(Clause(piece, whole if _QUALITY.match(piece) else word))
    return made


def _noun(piece: str) -> tuple[str, str] | None:
    """The last word where it names cells, and the same with what kind of cell it is ("T cells")."""
    first = _THAT.search(piece)
    words = (piece[: first.start()] if first else piece).split()
    if not words or not _NOUN.match(words[-1]):
        return None
    kind = len(words) - 1
    if re.fullmatch(r"cells?", words[-1], re.I):
        while kind > 0 and not _QUALITY.match(words[kind - 1]):
            kind -= 1
    return words[-1], " ".join(words[kind:])
