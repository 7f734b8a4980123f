"""The 50 terms that a spelling may mean, and what speaks for each: numbers that ``rerank`` learns to weigh.

Everything is computed from the index at hand, so that a synonym left out of it is left out of every number too; how
many names a term has is no feature, because it tells which term lost one.
Leaves out: learning (``rerank``) and deciding (``map``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from syncyte.words.characters import CharacterVectors
from syncyte.words.lexical import DEFINITION, Lexicon, Scores

SHORTLIST = 50
ENCODED = 2.0  # weight of the encoder's cosine in choosing candidates
_SPECIES = ("human", "mouse", "primate", "zebrafish", "sensu")
_SIGNED = re.compile(r"(\w+) (positive|negative|bright|dim|high|low|intermediate)\b")
_OPPOSITE = {"positive": 1, "bright": 1, "high": 1, "dim": 1, "intermediate": 1, "low": 1, "negative": -1}

FEATURES = (
    "characters", "words", "definition", "encoder", "total",
    "characters_gap", "words_gap", "definition_gap", "encoder_gap", "total_gap",
    "characters_rank", "words_rank", "encoder_rank", "total_rank",
    "asked_covered", "name_covered", "label_characters", "label_words", "label_encoder",
    "digits_differ", "signs_agree", "signs_clash", "markers_missing", "markers_added",
    "longer", "last_word", "first_word", "pairs_of_words", "initials", "missing_rarity", "added_rarity",
    "species", "below", "depth", "in_ancestors", "in_descendants", "best_ancestor_gap", "best_descendant_gap",
    "asked_words", "asked_letters", "asked_unknown", "name_is_label",
)  # fmt: skip


@dataclass(frozen=True)
class Shortlist:
    """Candidates of one spelling.

    Attributes
    ----------
    terms
        ``(k,)`` places in ``Lexicon.ids``, best total first.
    rows
        ``(k,)`` the name of each that fits best, a row of the index.
    features
        ``(k, len(FEATURES))`` float32.
    total
        ``(k,)`` weighted sum of the scores.
    """

    terms: NDArray[np.int64]
    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    total: Scores


class Candidates:
    """Makes shortlists.

    Parameters
    ----------
    lexicon
        The index.
    encoder
        Trained network, or None for letters and words alone.
    """

    def __init__(self, lexicon: Lexicon, encoder: CharacterVectors | None = None) -> None:
        self.lexicon, self.encoder = lexicon, encoder
        self._start = np.searchsorted(lexicon.term_of, np.arange(len(lexicon.ids)))
        self._end = np.searchsorted(lexicon.term_of, np.arange(len(lexicon.ids)), side="right")
        label = {
            lexicon.names[row].term: row for row in range(len(lexicon.names)) if lexicon.names[row].kind == "label"
        }
        self._label = np.array([label.get(place, -1) for place in range(len(lexicon.ids))])
        self._rarity = lexicon.rarity
        self._rarest = max(self._rarity.values())

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        assert self.encoder is not None
        return self.encoder.encode([name.spelled for name in self.lexicon.names])

    @cached_property
    def above(self) -> list[dict[int, int]]:
        """Places of ancestors of each term."""
        at = self.lexicon.at
        return [
            {at[up]: far for up, far in self.lexicon.terms[key].ancestors.items() if up in at}
            for key in self.lexicon.ids
        ]

    @cached_property
    def below(self) -> NDArray[np.float32]:
        """Logarithm of one more than the number of terms below each."""
        counts = np.zeros(len(self.lexicon.ids))
        for above in self.above:
            counts[list(above)] += 1
        return np.log1p(counts).astype(np.float32)

    def find(self, spelled: Sequence[str], batch: int = 128) -> list[Shortlist]:
        """Shortlist of each normalised name."""
        found: list[Shortlist] = []
        for start in range(0, len(spelled), batch):
            found += self._find(list(spelled[start : start + batch]))
        return found

    def _find(self, spelled: list[str]) -> list[Shortlist]:
        lexicon = self.lexicon
        letters = lexicon.by_characters(spelled)
        words, asked_covered, name_covered = lexicon.by_words(spelled)
        defined = lexicon.by_definition(spelled)
        if self.encoder is not None:
            encoded = self.encoder.encode(spelled) @ self._vectors.T
        else:
            encoded = np.zeros_like(letters)
        best = [lexicon.best_row(scores) for scores in (letters, words, encoded)]
        names = letters + words + ENCODED * encoded
        total = lexicon.best_row(names) + DEFINITION * defined
        size = min(SHORTLIST, total.shape[1])
        lists = []
        for row, name in enumerate(spelled):
            terms = np.argpartition(-total[row], size - 1)[:size]
            terms = terms[np.lexsort((terms, -total[row, terms]))]
            rows = np.array(
                [
                    self._start[t] + int(names[row, self._start[t] : self._end[t]].argmax())
                    if self._end[t] > self._start[t]
                    else 0
                    for t in terms
                ]
            )
            label = np.where(self._label[terms] >= 0, self._label[terms], rows)
            columns = {
                "characters": best[0][row, terms],
                "words": best[1][row, terms],
                "definition": defined[row, terms],
                "encoder": best[2][row, terms],
                "total": total[row, terms],
                "asked_covered": asked_covered[row, rows],
                "name_covered": name_covered[row, rows],
                "label_characters": letters[row, label],
                "label_words": words[row, label],
                "label_encoder": encoded[row, label],
            }
            features = self._features(name, terms, rows, columns)
            lists.append(Shortlist(terms.astype(np.int64), rows.astype(np.int64), features, total[row, terms]))
        return lists

    def _best_name(self, scores: Scores, term: int) -> int:
        """Row of the term's name that scores best; the first row of all where it has none."""
        start, end = self._start[term], self._end[term]
        return int(start + scores[start:end].argmax()) if end > start else 0

    def _features(
        self, name: str, terms: NDArray[np.int64], rows: NDArray[np.int64], columns: dict[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        values: dict[str, NDArray | Sequence[float]] = dict(columns)
        for key in ("characters", "words", "definition", "encoder", "total"):
            values[f"{key}_gap"] = columns[key].max() - columns[key]
        for key in ("characters", "words", "encoder", "total"):
            values[f"{key}_rank"] = np.log1p((columns[key][None] > columns[key][:, None] + 1e-6).sum(axis=1))
        described = [self._compared(name, self.lexicon.names[row].spelled) for row in rows]
        for key in described[0]:
            values[key] = [item[key] for item in described]
        labels = [self.lexicon.terms[self.lexicon.ids[term]].label.lower() for term in terms]
        values["species"] = [float(any(mark in label for mark in _SPECIES)) for label in labels]
        values["below"] = self.below[terms]
        values["depth"] = [math.log1p(max(self.above[term].values(), default=0)) for term in terms]
        values |= self._kin(terms, columns["total"])
        words = name.split()
        values["asked_words"] = np.full(len(terms), len(words))
        values["asked_letters"] = np.full(len(terms), math.log1p(len(name)))
        unknown = sum(word not in self._rarity for word in words) / max(len(words), 1)
        values["asked_unknown"] = np.full(len(terms), unknown)
        values["name_is_label"] = [float(self.lexicon.names[row].kind == "label") for row in rows]
        return np.stack([np.asarray(values[key], dtype=np.float32) for key in FEATURES], axis=1)

    def _kin(self, terms: NDArray[np.int64], total: Scores) -> dict[str, NDArray[np.float64]]:
        """How many relatives of each candidate are candidates too, and by how much the best of them is ahead."""
        place = {int(term): rank for rank, term in enumerate(terms)}
        up: list[list[int]] = [[place[item] for item in self.above[term] if item in place] for term in terms]
        down: list[list[int]] = [[] for _ in terms]
        for rank, above in enumerate(up):
            for other in above:
                down[other].append(rank)

        def ahead(kin: list[list[int]]) -> NDArray[np.float64]:
            best = [max((float(total[other]) for other in others), default=-1.0) for others in kin]
            return np.array([other - float(own) if other > -1 else -2.0 for other, own in zip(best, total)])

        return {
            "in_ancestors": np.array([float(len(others)) for others in up]),
            "in_descendants": np.array([math.log1p(len(others)) for others in down]),
            "best_ancestor_gap": ahead(up),
            "best_descendant_gap": ahead(down),
        }

    def _compared(self, asked: str, name: str) -> dict[str, float]:
        """What two normalised names share and do not, word for word."""
        one, two = asked.split(), name.split()
        first, second = set(one), set(two)
        digits = {word for word in first if any(map(str.isdigit, word))}
        others = {word for word in second if any(map(str.isdigit, word))}
        signs, wanted = dict(_SIGNED.findall(asked)), dict(_SIGNED.findall(name))
        shared = signs.keys() & wanted.keys()
        clash = sum(_OPPOSITE[signs[key]] != _OPPOSITE[wanted[key]] for key in shared)
        pairs, other_pairs = set(pairwise(one)), set(pairwise(two))
        return {
            "digits_differ": float(len(digits ^ others)),
            "signs_agree": float(len(shared) - clash),
            "signs_clash": float(clash),
            "markers_missing": float(len(signs.keys() - wanted.keys())),
            "markers_added": float(len(wanted.keys() - signs.keys())),
            "longer": float(len(two) - len(one)),
            "last_word": float(bool(one) and bool(two) and one[-1] == two[-1]),
            "first_word": float(bool(one) and bool(two) and one[0] == two[0]),
            "pairs_of_words": len(pairs & other_pairs) / max(len(pairs | other_pairs), 1),
            "initials": _initials(one, two),
            "missing_rarity": sum(self._rarity.get(word, self._rarest) for word in first - second),
            "added_rarity": sum(self._rarity.get(word, self._rarest) for word in second - first),
        }


def _initials(asked: Sequence[str], name: Sequence[str]) -> float:
    """Whether a short word that is asked for is spelled by first letters of the name, in order."""
    letters = "".join(word[0] for word in name)
    short = [word for word in asked if 2 <= len(word) <= 5 and word not in name]
    return float(any(word.strip("'") in letters for word in short))
