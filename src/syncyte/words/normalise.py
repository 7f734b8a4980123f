"""One spelling for names of cell types: the same function reads the names of an ontology and what a user wrote.

In order: letters (Greek ones by name), signs ("CD4+", "CD16-", "CD56bright") as words, words of letters and digits,
singular, Roman numerals after "type" and the like, table of spellings (``spellings.tsv``: abbreviations as whole words,
other spellings, genes of surface proteins), then what people leave out: "T" is a T cell, "CD4" alone a T cell, a CD4 or
CD8 T cell alpha-beta, a marker without a sign positive.
Leaves out: choosing among terms (``map``). Nothing here knows an ontology.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from importlib.resources import files

LONGEST = 300  # characters that are read of a name; no real one is longer

_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa", "λ": "lambda", "φ": "phi",
}  # fmt: skip
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—−⁻﹣－"), "-") | dict.fromkeys(map(ord, "′’`´ʹ"), "'")
_SIGNS = ("positive", "negative", "bright", "dim", "high", "low", "intermediate", "hi", "lo", "int", "pos", "neg")
_STUCK = re.compile(rf"\b(cd\d+[a-z]?|ig[adegm]\d?|[a-z]+\d+[a-z]?)({'|'.join(_SIGNS)})(?=\b|cd\d)")
_MINUS = re.compile(
    r"(?<![a-z0-9])(?!pre-|pro-|non-|post-|anti-|semi-)([a-z0-9]+)-(?=$|[\s,;/)(]|cd\d+[a-z]?(?:[+-]|bright|dim|high|low))"
)
_CAMEL = re.compile(r"(?<=[a-z]{3})(?=[A-Z])|(?<=CD\d)(?=[A-Z][a-z]{2})|(?<=CD\d\d)(?=[A-Z][a-z]{2})")
_WORD = re.compile(r"[a-z0-9]+'*")
_ROMAN = {
    "i": "1",
    "ii": "2",
    "iii": "3",
    "iv": "4",
    "v": "5",
    "vi": "6",
    "vii": "7",
    "viii": "8",
    "ix": "9",
    "x": "10",
}
_COUNTED = {"type", "class", "group", "layer", "stage", "phase", "grade", "lamina"}
_KEEP = {"cns", "pns", "plus", "minus", "lens", "basis", "axis", "pancreas", "homo", "sapiens", "mus", "ros", "gas"}
_MARKER = re.compile(r"cd\d+[a-z]?")
_STATE = {
    "naive", "memory", "effector", "central", "activated", "resting", "cytotoxic", "exhausted", "cycling", "regulatory",
    "positive", "negative", "high", "low", "bright", "dim", "intermediate", "terminally", "differentiated", "early",
    "late", "tissue", "resident", "immature", "mature", "transitional", "switched", "unswitched", "class", "stem",
}  # fmt: skip
_SMALL = {"of", "the", "in", "a", "an", "and", "with", "from", "cell"}
_REPEATED = {"cell", "positive", "negative", "monocyte"}
_LATIN = re.compile(r"[a-z]")


@cache
def spellings() -> dict[str, tuple[str, ...]]:
    """Words that a written word stands for."""
    lines = (files("syncyte.words") / "spellings.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line and not line.startswith(("#", "kind\t")))
    return {written: tuple(means.split()) for kind, written, means in rows if kind != "none"}


@cache
def usual_names() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Id, label and other names of the types that data sets of blood, marrow and islets name."""
    lines = (files("syncyte.words") / "cell_names.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith(("#", "id\t"))]
    return tuple((key, label, tuple(n.strip() for n in names.split(";") if n.strip())) for key, label, names in rows)


@cache
def no_types() -> frozenset[str]:
    """Words that say a label names no type: unassigned, doublet, cluster."""
    lines = (files("syncyte.words") / "spellings.tsv").read_text(encoding="utf-8").splitlines()
    return frozenset(line.split("\t")[1] for line in lines if line.startswith("none\t"))


@lru_cache(maxsize=200_000)
def normalise(text: str) -> str:
    """Name in one spelling: lower-case words of Latin letters and digits, with blanks between; empty where none."""
    words = _words(text)
    words = _counted(words)
    table = spellings()
    words = [part for word in map(singular, words) for part in table.get(word, (word,))]
    words = _kinds(words)
    words = _heads(words)
    words = _signed(words)
    return " ".join(_once(words))


@lru_cache(maxsize=200_000)
def key_of(name: str) -> str:
    """What is equal for two normalised names that differ in the order of words and in small words alone.

    A sign stays with its marker: "CD4 positive CD8 negative" is not "CD4 negative CD8 positive".
    """
    bound: list[str] = []
    for word in name.split():
        if word in _SIGNS and bound:
            bound[-1] += f"_{word}"
        elif word not in _SMALL:
            bound.append(word)
    return " ".join(sorted(bound)) if bound else name


def singular(word: str) -> str:
    """Word without the s of the plural."""
    bare = word.rstrip("'")
    if len(bare) < 4 or bare in _KEEP or not bare.endswith("s") or bare.endswith(("ss", "us", "is", "ous")):
        return word
    if bare.endswith("ies") and len(bare) > 4:
        return bare[:-3] + "y"
    return bare[:-1]


def bare_words(name: str) -> list[str]:
    """Words of a normalised name without markers and their signs, for a coarser reading."""
    words = name.split()
    marker = [bool(re.fullmatch(r"cd\d+[a-z]?|[a-z]+\d+[a-z0-9]*|ig[adegm]", word)) for word in words]
    sign = [word in _SIGNS and place > 0 and marker[place - 1] for place, word in enumerate(words)]
    return [word for word, first, second in zip(words, marker, sign) if not (first or second)]


def _words(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text[:LONGEST]).translate(_DASHES).replace("_", " ")
    text = unicodedata.normalize("NFKD", _CAMEL.sub(" ", text)).lower()
    text = "".join(mark for mark in text if not unicodedata.combining(mark))
    text = re.sub(r"(?<=[\dα-ω])(?=[α-ω])|(?<=[α-ω])(?=[\da-z])", " ", text)
    for letter, name in _GREEK.items():
        text = text.replace(letter, f" {name} ")
    text = _MINUS.sub(r"\1 negative ", re.sub(r"-ve\b|\(-\)", " negative ", text))
    text = re.sub(r"\+ve\b|\(\+\)|\+", " positive ", text)
    text = re.sub(r"\b(cd[48])t(?=\b|reg)", r"\1 t", _STUCK.sub(r"\1 \2 ", text))
    text = re.sub(r"\bnon[- ](?=[a-z]{3})", "non", text)
    text = re.sub(r"(?<=[a-z])'s\b", "s", text)
    text = re.sub(r"\bhaem", "hem", re.sub(r"aemi", "emi", text))
    text = re.sub(r"\bhomo sapiens\b|\bhsap\b", "human", re.sub(r"\bmus musculus\b|\bmmus\b", "mouse", text))
    return _WORD.findall(text) if _LATIN.search(text) else []


def _counted(words: list[str]) -> list[str]:
    """Roman numerals as numbers after a word that is counted."""
    before = ["", *words]
    return [_ROMAN.get(word, word) if singular(last) in _COUNTED else word for last, word in zip(before, words)]


def _kinds(words: list[str]) -> list[str]:
    """Spellings of several words: NK T, T reg, T and B lymphocytes; "thymus-derived" is said of no other naive cell."""
    text = f" {' '.join(words)} "
    text = text.replace(" natural killer cell t ", " nkt ").replace(" natural killer t ", " nkt ")
    text = text.replace(" thymus derived ", " ").replace(" t regulatory cell ", " regulatory t cell ")
    text = re.sub(r" (t|b|nkt|killer) lymphocyte(?= )", r" \1 cell", text)
    text = re.sub(r" (\w+) lymphocyte (\d+)(?= )", r" \1 cell \2", text)
    text = re.sub(r" hematopoietic stem (?:and )?progenitor cell ", " hematopoietic progenitor cell ", text)
    return text.split()


def _heads(words: list[str]) -> list[str]:
    """The noun where people leave it out: T or B as the last word or before a state; CD4 and CD8 alone are T cells."""
    found: list[str] = []
    for place, word in enumerate(words):
        after = words[place + 1] if place + 1 < len(words) else ""
        found.append(word)
        if word in ("t", "b", "nkt") and (not after or after in _STATE or _MARKER.fullmatch(after)):
            found.append("cell")
    rest = [word for word in found if word not in _STATE and not _MARKER.fullmatch(word) and not word.isdigit()]
    if not rest and any(word in ("cd4", "cd8") for word in found):
        found += ["t", "cell"]
    return found


def _signed(words: list[str]) -> list[str]:
    """Markers get a sign, and CD4 or CD8 T cells their receptor."""
    found: list[str] = []
    for place, word in enumerate(words):
        after = words[place + 1] if place + 1 < len(words) else ""
        found.append(word)
        if _MARKER.fullmatch(word) and after not in _SIGNS and after not in ("alpha", "beta", "single", "double"):
            found.append("positive")
    text = f" {' '.join(found)} "
    plain = not re.search(r" (alpha|gamma|delta|thymocyte|nkt|double) ", text)
    if plain and " t cell " in text and re.search(r" cd[48] positive ", text):
        text = text.replace(" t cell ", " alpha beta t cell ", 1)
    return text.split()


def _once(words: list[str]) -> list[str]:
    """Words without a repetition of the one before: "NK cell" became "natural killer cell cell"."""
    return [word for last, word in zip(["", *words], words) if word != last or word not in _REPEATED]
