"""Short texts compared by their words: BM25 on word stems, with a few groups of words that say the same of a cell.

Leaves out: what is compared (``matching``), and any learned likeness of words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.words.normalise import singular
from syncyte.words.query import COMMON
from syncyte.words.terms import words_of

K1, B = 1.2, 0.75
_ALIKE = (  # words that say the same of a cell
    ("cytotoxic", "kill", "cytolytic", "cytolysis", "lyse"),
    ("antibody", "immunoglobulin"),
    ("clot", "coagulation", "thrombosis", "hemostasis"),
    ("engulf", "ingest", "phagocyte", "phagocytosis", "phagocytic", "eat"),
    ("secrete", "produce", "release", "secretion", "production"),
    ("virus", "viral"),
    ("nerve", "neuron", "neural"),
    ("fat", "adipose", "lipid"),
)
_SAME = {word: group for group in _ALIKE for word in group}


class Texts:
    """BM25 of short texts (Robertson and Zaragoza 2009), on word stems."""

    def __init__(self, texts: Sequence[str]) -> None:
        stems = [[stem(word) for word in words_of(text)] for text in texts]
        self.place = {word: at for at, word in enumerate(sorted({word for words in stems for word in words}))}
        rows = np.repeat(np.arange(len(stems)), [len(words) for words in stems])
        columns = np.array([self.place[word] for words in stems for word in words], dtype=np.int64)
        count = sp.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(stems), len(self.place)))
        count.sum_duplicates()
        seen, size = np.bincount(count.indices, minlength=len(self.place)), np.asarray(count.sum(axis=1)).ravel()
        rarity = np.log1p((len(stems) - seen + 0.5) / (seen + 0.5))
        length = 1 - B + B * size / max(float(size.mean()), 1.0)
        own = np.repeat(length, np.diff(count.indptr))
        count.data = rarity[count.indices] * count.data * (K1 + 1) / (count.data + K1 * own)
        self.values = count.tocsc()

    def fit(self, text: str) -> NDArray[np.float64]:
        """``(texts,)`` scores; common words count nothing, and of words that say the same the best one counts."""
        total = np.zeros(self.values.shape[0])
        for word in dict.fromkeys(words_of(text)):
            if word in COMMON:
                continue
            alike = _SAME.get(singular(word), _SAME.get(stem(word), (word,)))
            places = [self.place[stem(one)] for one in {word, *alike} if stem(one) in self.place]
            if places:
                total += self.values[:, places].toarray().max(axis=1)
        return total


def stem(word: str) -> str:
    """A word without its usual endings."""
    word = singular(word)
    for ending in ("ing", "ers", "er", "ed", "es"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word
