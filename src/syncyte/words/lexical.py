"""Names against names by their letters and words: every name of a term is a row, and a term scores by its best row.

Three scores: cosine of character n-grams (2 to 5, TF-IDF), F1 of words weighted by rarity, and cosine of the words of
the definition, a field of its own because it would drown the names. One index serves the candidates, the features of
the re-ranker (``rerank``) and the names that evidence quotes.
Leaves out: meanings (``characters``) and decisions (``map``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.errors import DataError
from syncyte.words.normalise import key_of, normalise, singular
from syncyte.words.terms import Terms

Scores = NDArray[np.float32]

DEFINITION = 0.4  # weight of the definition beside a name
NGRAMS = (2, 5)
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Name:
    """One row of the index: a name as written and in one spelling, its term, and where it comes from."""

    written: str
    spelled: str
    term: int
    kind: str


class Lexicon:
    """Index over the names of terms.

    Parameters
    ----------
    terms
        What can be answered with.
    extra
        More names, ``(id, name, kind)``; those of ids that are not in ``terms`` are left out.
    """

    def __init__(self, terms: Terms, extra: Iterable[tuple[str, str, str]] = ()) -> None:
        self.ids = tuple(terms)
        self.at = {key: place for place, key in enumerate(self.ids)}
        self.terms = terms
        rows: dict[tuple[int, str], Name] = {}
        listed = [(key, terms[key].label, "label") for key in self.ids]
        listed += [(key, name, "synonym") for key in self.ids for name in terms[key].synonyms]
        listed += [row for row in extra if row[0] in self.at]
        for key, written, kind in listed:
            spelled = normalise(written)
            if spelled:
                rows.setdefault((self.at[key], spelled), Name(written, spelled, self.at[key], kind))
        if not rows:
            raise DataError("No names to map to: the ontology or list holds none with a Latin letter.")
        self.names = tuple(sorted(rows.values(), key=lambda name: name.term))
        self.term_of = np.array([name.term for name in self.names])

    @cached_property
    def exact(self) -> dict[str, tuple[int, ...]]:
        """Rows of the index by the order-free key of their name; labels first, then synonyms, then other names."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            found.setdefault(key_of(name.spelled), []).append(row)
        rank = {"label": 0, "synonym": 1}
        return {
            key: tuple(sorted(rows, key=lambda row: rank.get(self.names[row].kind, 2))) for key, rows in found.items()
        }

    @cached_property
    def _characters(self) -> tuple[Any, sp.csc_matrix]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        reader = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, dtype=np.float32, lowercase=False)
        return reader, reader.fit_transform([name.spelled for name in self.names]).T.tocsc()

    @cached_property
    def _tokens(self) -> tuple[dict[str, int], NDArray[np.float32], sp.csr_matrix, NDArray[np.float32]]:
        """Vocabulary, rarity of its words, words of the names (binary times rarity), and the sum of each name."""
        words = sorted({word for name in self.names for word in name.spelled.split()})
        vocabulary = {word: place for place, word in enumerate(words)}
        rows = _binary([name.spelled.split() for name in self.names], vocabulary)
        seen = np.asarray(rows.sum(axis=0)).ravel()
        rarity = (1.0 + np.log((1.0 + len(self.names)) / (1.0 + seen))).astype(np.float32)
        weighted = sp.csr_matrix(rows @ sp.diags(rarity))
        return vocabulary, rarity, weighted, np.asarray(weighted.sum(axis=1)).ravel()

    @property
    def rarity(self) -> Mapping[str, float]:
        """Weight of each word of the names."""
        vocabulary, rarity, _, _ = self._tokens
        return {word: float(rarity[place]) for word, place in vocabulary.items()}

    @cached_property
    def _definitions(self) -> tuple[Any, sp.csc_matrix] | None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [" ".join(_definition_words(self.terms[key].definition)) for key in self.ids]
        if not any(texts):
            return None
        reader = TfidfVectorizer(analyzer=str.split, dtype=np.float32, sublinear_tf=True)
        return reader, reader.fit_transform(texts).T.tocsc()

    def by_characters(self, spelled: Sequence[str]) -> Scores:
        """``(q, rows)`` cosine of character n-grams of normalised names and every row."""
        reader, columns = self._characters
        return (reader.transform(spelled) @ columns).toarray()

    def by_words(self, spelled: Sequence[str]) -> tuple[Scores, Scores, Scores]:
        """``(q, rows)`` F1 of words, share of the query's words in the row, share of the row's words in the query."""
        vocabulary, rarity, weighted, size = self._tokens
        rarest = float(rarity.max())
        lists = [list(dict.fromkeys(name.split())) for name in spelled]
        shared = (_binary(lists, vocabulary) @ weighted.T).toarray()
        own = [
            sum(float(rarity[vocabulary[word]]) if word in vocabulary else rarest for word in words) for words in lists
        ]
        asked = np.maximum(np.array(own, dtype=np.float32), 1e-6)[:, None]
        return 2 * shared / (asked + size[None]), shared / asked, shared / np.maximum(size[None], 1e-6)

    def by_definition(self, spelled: Sequence[str]) -> Scores:
        """``(q, terms)`` cosine of words and the definition."""
        if self._definitions is None:
            return np.zeros((len(spelled), len(self.ids)), dtype=np.float32)
        reader, columns = self._definitions
        return (reader.transform(spelled) @ columns).toarray()

    def best_row(self, scores: Scores) -> Scores:
        """``(q, terms)`` best of the rows of each term; -1 for a term without a name that can be read."""
        starts = np.flatnonzero(np.r_[True, np.diff(self.term_of) > 0])
        found = np.full((len(scores), len(self.ids)), -1.0, dtype=np.float32)
        found[:, self.term_of[starts]] = np.maximum.reduceat(scores, starts, axis=1)
        return found


def score_terms(lexicon: Lexicon, spelled: Sequence[str]) -> Scores:
    """``(q, terms)`` the three scores summed: what can be done without any training."""
    names = lexicon.by_characters(spelled) + lexicon.by_words(spelled)[0]
    return lexicon.best_row(names) + DEFINITION * lexicon.by_definition(spelled)


def _binary(lists: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> sp.csr_matrix:
    places = [sorted({vocabulary[word] for word in words if word in vocabulary}) for words in lists]
    ends = np.cumsum([0, *map(len, places)])
    flat = np.array([place for row in places for place in row], dtype=np.int64)
    return sp.csr_matrix((np.ones(len(flat), dtype=np.float32), flat, ends), shape=(len(lists), len(vocabulary)))


def _definition_words(text: str) -> list[str]:
    return [singular(word) for word in _WORD.findall(text.lower())]
