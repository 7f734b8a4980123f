"""Terms of an ontology (cell types, tissues, stages): names, definitions, ancestors, and what became of retired ids.

A term's ancestors are known with their distance, so that relations need no reasoner. Retired terms stay in the table,
to be replaced by what they say; nothing else ever answers with one.
Leaves out: how files are read (``ontology_files``), relations other than "is a", and spellings nobody wrote down
(``words.map``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from syncyte.errors import GenomeError, nearest

_ID = re.compile(r"(?:.*[/#])?([A-Za-z][A-Za-z0-9]*)[:_](\w+)")
_SHOWN = 3


@dataclass(frozen=True)
class Term:
    """One term.

    Attributes
    ----------
    id, label
        ``CL:0000084`` and ``T cell``.
    synonyms
        Other names that mean the same or something narrower, without the label.
    definition
        Text, or empty.
    ancestors
        Steps up to each term above this one, by id; the term itself is left out.
    retired, replaced_by
        Whether the id is no longer in use, and which id took its place (empty where none did).
    """

    id: str
    label: str
    synonyms: tuple[str, ...] = ()
    definition: str = ""
    ancestors: Mapping[str, int] = field(default_factory=dict)
    retired: bool = False
    replaced_by: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Label and synonyms."""
        return (self.label, *self.synonyms)


@dataclass(frozen=True)
class Ontology:
    """Terms by id, retired ones too.

    Attributes
    ----------
    name
        For people: the name of the file.
    terms
        Every term by id.
    prefix
        Part of the ids of its own terms before the colon, ``CL``: files often bring terms of other ontologies along.
        Left empty, the most frequent one.
    """

    name: str
    terms: Mapping[str, Term]
    prefix: str = ""

    def __post_init__(self) -> None:
        if not any(key.startswith(f"{self.prefix}:") for key in self.terms):
            counts = Counter(key.partition(":")[0] for key in self.terms)
            object.__setattr__(self, "prefix", max(counts, key=counts.__getitem__, default=""))

    def __len__(self) -> int:
        return len(self.active)

    def __iter__(self) -> Iterator[str]:
        return iter(self.active)

    def __contains__(self, id_or_name: object) -> bool:
        return isinstance(id_or_name, str) and self.find(id_or_name) is not None

    def __getitem__(self, id_or_name: str) -> Term:
        """Term in use of an id or name; a retired id gives the term that replaced it.

        Raises
        ------
        GenomeError
            Naming the nearest term.
        """
        found = self.find(id_or_name)
        if found is None:
            raise GenomeError(self._unknown(id_or_name))
        return found

    @cached_property
    def active(self) -> dict[str, Term]:
        """Terms in use, of this ontology alone (see ``prefix``), in the order of the file."""
        own = f"{self.prefix}:"
        return {key: term for key, term in self.terms.items() if not term.retired and key.startswith(own)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything names and relations say; equal content in another file format gives the same."""
        digest = sha256()
        for key, term in sorted(self.active.items()):
            above = ",".join(f"{other}={far}" for other, far in sorted(term.ancestors.items()))
            digest.update("\x1f".join([key, *term.names, term.definition, above, "\x1e"]).encode())
        return digest.hexdigest()

    def find(self, id_or_name: str) -> Term | None:
        """Term in use of an id, label or synonym in any letter case, or None; names of several terms find none."""
        key = self.resolve(canonical_id(id_or_name))
        if key is not None:
            return self.terms[key]
        owners = self._owners.get(_folded(id_or_name), ())
        return self.terms[owners[0]] if len(owners) == 1 else None

    def resolve(self, id_: str) -> str | None:
        """Id in use for an id: itself, or what replaced it (over several steps); None where nothing is in use."""
        seen: set[str] = set()
        key = canonical_id(id_)
        while key in self.terms and key not in seen:
            if not self.terms[key].retired:
                return key
            seen.add(key)
            key = self.terms[key].replaced_by
        return None

    def descendants(self, id_or_name: str) -> dict[str, int]:
        """Steps down to every term below, by id, nearest first."""
        below = self._below.get(self[id_or_name].id, {})
        return dict(sorted(below.items(), key=lambda item: (item[1], item[0])))

    def is_under(self, lower: str, upper: str) -> bool:
        """Whether ``lower`` is ``upper`` or below it."""
        below, above = self[lower], self[upper]
        return below.id == above.id or above.id in below.ancestors

    def common_ancestor(self, first: str, second: str) -> str | None:
        """Id of the term at or above both with the fewest steps in all; of equals the one with fewest terms below."""
        one, two = self._lineage(first), self._lineage(second)
        shared = [key for key in one if key in two and key in self.terms]
        size = {key: len(self._below.get(key, ())) for key in shared}
        return min(shared, key=lambda key: (one[key] + two[key], size[key], key), default=None)

    def distance(self, first: str, second: str) -> int | None:
        """Steps between two terms by way of their closest common ancestor; None where they share none."""
        shared = self.common_ancestor(first, second)
        if shared is None:
            return None
        return self._lineage(first)[shared] + self._lineage(second)[shared]

    def subset(self, ids: Iterable[str] | Path) -> Ontology:
        """Ontology of the listed terms alone; distances between them stay as they are.

        Parameters
        ----------
        ids
            Ids or names, or a file with an id at the start of its lines (others, such as headers, are skipped).

        Raises
        ------
        GenomeError
            If an id or name is unknown, or none is left. Retired ids are replaced; those without replacement are
            skipped.
        """
        listed = read_ids(ids) if isinstance(ids, Path) else list(ids)
        kept: dict[str, Term] = {}
        for name in listed:
            key = self.resolve(name)
            if key is None and canonical_id(name) in self.terms:
                continue
            term = self.terms[key] if key is not None else self[name]
            kept[term.id] = term
        if not kept:
            raise GenomeError(f"No term is left of {self.name} with the {len(listed)} asked for. Check the list.")
        inner = {
            key: replace(term, ancestors={up: far for up, far in term.ancestors.items() if up in kept})
            for key, term in kept.items()
        }
        retired = {key: term for key, term in self.terms.items() if term.retired}
        return Ontology(f"{len(kept):,} terms of {self.name}", inner | retired, self.prefix)

    def without(self, names: Iterable[tuple[str, str]]) -> Ontology:
        """Ontology that lacks some synonyms, given as pairs of id and synonym: for measuring what is found without."""
        gone: dict[str, set[str]] = {}
        for key, name in names:
            gone.setdefault(key, set()).add(name)
        left = {
            key: replace(term, synonyms=tuple(name for name in term.synonyms if name not in gone[key]))
            if key in gone
            else term
            for key, term in self.terms.items()
        }
        return Ontology(self.name, left, self.prefix)

    @cached_property
    def _owners(self) -> dict[str, tuple[str, ...]]:
        """Ids by folded name: of the terms with that label or, where there is none, of those with that synonym."""
        labels: dict[str, list[str]] = {}
        others: dict[str, list[str]] = {}
        for key, term in self.active.items():
            labels.setdefault(_folded(term.label), []).append(key)
            for name in term.synonyms:
                others.setdefault(_folded(name), []).append(key)
        return {name: tuple(dict.fromkeys(keys)) for name, keys in (others | labels).items()}

    @cached_property
    def _below(self) -> dict[str, dict[str, int]]:
        below: dict[str, dict[str, int]] = {}
        for key, term in self.active.items():
            for above, far in term.ancestors.items():
                below.setdefault(above, {})[key] = far
        return below

    def _lineage(self, id_or_name: str) -> dict[str, int]:
        term = self[id_or_name]
        return {term.id: 0, **term.ancestors}

    def _unknown(self, asked: str) -> str:
        key = canonical_id(asked)
        if key in self.terms:
            return f"{key} ({self.terms[key].label}) is retired and {self.name} names no replacement. Choose another."
        several = self._owners.get(_folded(asked), ())
        if several:
            meant = ", ".join(f"{item} ({self.terms[item].label})" for item in several[:_SHOWN])
            return f"{asked!r} names {len(several)} terms of {self.name}: {meant}. Use the id."
        if _ID.fullmatch(asked.strip()) and not re.search(r"\s", asked.strip()):
            close = nearest(key, self.active, _SHOWN)
            shown = ", ".join(f"{item} ({self.terms[item].label})" for item in close)
        else:
            close = nearest(asked[:200], self._owners, _SHOWN)
            owners = [self._owners[item][0] for item in close]
            shown = ", ".join(f"{item} ({self.terms[item].label})" for item in dict.fromkeys(owners))
        hint = f" Nearest: {shown}." if shown else ""
        return f"{asked[:80]!r} is no id or name of the {len(self):,} terms of {self.name}.{hint}"


def canonical_id(text: str) -> str:
    """``CL:0000084`` from itself, ``CL_0000084`` or a web address that ends so; other text unchanged but for blanks."""
    bare = text.strip()
    match = _ID.fullmatch(bare)
    return f"{match[1]}:{match[2]}" if match and (":" not in bare or "/" in bare or bare.count(":") == 1) else bare


def read_ids(path: Path) -> list[str]:
    """Ids that start the lines of a text file (first field of a table, too); lines without one are skipped.

    Raises
    ------
    GenomeError
        If the file cannot be read or holds no id.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise GenomeError(f"{path} cannot be read: {error.strerror or error}.") from error
    first = (re.split(r"[\t,; ]", line.strip())[0].strip("\"'") for line in lines)
    found = [canonical_id(item) for item in first if re.fullmatch(r"(?:\S*[/#])?[A-Za-z]\w*[:_]\d+", item)]
    if not found:
        raise GenomeError(f"{path} has no line that starts with an id like CL:0000084. List one id a line.")
    return list(dict.fromkeys(found))


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
