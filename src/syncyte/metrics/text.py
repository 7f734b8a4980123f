"""How good words about cells are: terms on the ontology, ranked lists, statements, and likeness of texts.

Terms are scored on sets of ancestors, so that a near miss counts more than a far one (Kiritchenko et al. 2005). Ranked
lists share credit between equal scores: otherwise whoever comes first in a file wins. Statements are compared slot by
slot. BLEU-4 (Papineni et al. 2002, of one sentence or of all together) and ROUGE-L (Lin 2004) say how alike the words
are.

Trap: captions share most of their words whatever they say, so BLEU and ROUGE are high for wrong captions too. Print
them beside slot accuracy and beside a caption made from the predicted label.
Leaves out: reading slots from texts (``words.captions``), distances of embedded texts (``mmd2`` of ``distribution``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import ConfigError, DataError

_WORD = re.compile(r"\w+(?:[-'.]\w+)*")
ORDER = 4  # longest run of words of BLEU
_NAMED = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*")

Value = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HierarchyScores:
    """Means over cells of precision, recall and their harmonic mean on sets of ancestors."""

    precision: float
    recall: float
    f1: float


def hierarchy_scores(
    truth: Sequence[str], found: Sequence[str], lines: Mapping[str, Collection[str]], *, root: Collection[str] = ()
) -> HierarchyScores:
    """Score terms by their ancestors.

    Parameters
    ----------
    truth, found
        ``(n,)`` terms; what is not in ``lines`` (an abstention too) has no ancestors and shares nothing but itself.
    lines
        Each term's ancestors, the term itself included or not.
    root
        Terms that are left out of the sets, for every cell has them.
    """
    if len(truth) != len(found) or not len(truth):
        raise DataError(f"Found {len(truth):,} true and {len(found):,} predicted terms; equally many, at least one.")
    pairs, count = np.zeros(3), Counter(zip(map(str, truth), map(str, found), strict=True))
    for (own, other), cells in count.items():
        first, second = ({key, *lines.get(key, ())} - set(root) for key in (own, other))
        shared = len(first & second)
        precision, recall = shared / max(len(second), 1), shared / max(len(first), 1)
        harmonic = 2 * precision * recall / (precision + recall) if shared else 0.0
        pairs += cells * np.array([precision, recall, harmonic])
    mean = pairs / len(truth)
    return HierarchyScores(*map(float, mean))


def ranks_of(scores: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many candidates beat the right one of each query, and how many others are level with it.

    Parameters
    ----------
    scores
        ``(q, c)``, higher is better.
    right
        ``(q,)`` column of the right candidate.
    """
    table, place = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.int64)
    if table.ndim != 2 or place.shape != table.shape[:1] or not table.size or np.isnan(table).any():
        raise DataError(f"Scores of the shape {table.shape} for {len(place)} queries; a row each, without NaN.")
    if place.min() < 0 or place.max() >= table.shape[1]:
        raise DataError(f"Right candidates must be columns 0 to {table.shape[1] - 1}.")
    own = table[np.arange(len(place)), place][:, None]
    return (table > own).sum(axis=1), (table == own).sum(axis=1) - 1


def recall_at(scores: ArrayLike, right: ArrayLike, k: int) -> float:
    """Share of queries with the right candidate among the first k; among equals, the chance that it is."""
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1.")
    above, level = ranks_of(scores, right)
    return float(np.clip((k - above) / (level + 1), 0.0, 1.0).mean())


def reciprocal_rank(scores: ArrayLike, right: ArrayLike) -> float:
    """Mean of one over the rank of the right candidate; among equals, over all orders of them."""
    above, level = ranks_of(scores, right)
    return float(np.mean([np.mean(1.0 / np.arange(a + 1, a + b + 2)) for a, b in zip(above, level, strict=True)]))


def precision_at(scores: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """Share of relevant ones among the k best, for one query; equal scores at the border count by their share.

    Parameters
    ----------
    scores, relevant
        ``(n,)``; with fewer than k candidates, all are taken.
    """
    values, good = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if values.ndim != 1 or values.shape != good.shape or not len(values) or np.isnan(values).any():
        raise DataError(f"Found scores of the shape {values.shape} and relevance of {good.shape}; one each, no NaN.")
    if k < 1:
        raise ConfigError(f"k is {k}; it must be at least 1.")
    k = min(k, len(values))
    border = np.sort(values)[-k]
    above, level = values > border, values == border
    hits = good[above].sum() + (k - above.sum()) * good[level].mean()
    return float(hits / k)


@dataclass(frozen=True, slots=True)
class StatementScores:
    """Statements of texts beside the truth.

    Attributes
    ----------
    accuracy
        Right values over the values of the truth; for a slot of several, its F1.
    contradictions
        Share of texts with a value that the truth has otherwise. Silence is no contradiction.
    slots
        Accuracy of each slot.
    """

    accuracy: float
    contradictions: float
    slots: dict[str, float]


def statement_scores(truth: Sequence[Mapping[str, Value]], found: Sequence[Mapping[str, Value]]) -> StatementScores:
    """Compare slots; letter case and blanks at the ends are ignored, and what the truth does not say is not judged."""
    if len(truth) != len(found) or not len(truth):
        raise DataError(f"Found {len(truth):,} true and {len(found):,} written texts; equally many, at least one.")
    credit: dict[str, list[float]] = {}
    against = 0
    for own, other in zip(truth, found, strict=True):
        wrong = False
        for name, value in own.items():
            right, said = _set(value), _set(other.get(name, ()))
            shared = len(right & said)
            credit.setdefault(name, []).append(2 * shared / max(len(right) + len(said), 1))
            wrong |= bool(said - right) if isinstance(value, tuple) else bool(said) and said != right
        against += wrong
    values = [part for parts in credit.values() for part in parts]
    accuracy = float(np.mean(values)) if values else float("nan")
    return StatementScores(accuracy, against / len(truth), {name: float(np.mean(p)) for name, p in credit.items()})


def hallucinated_genes(text: str, known: Collection[str], expressed: Collection[str]) -> tuple[str, ...]:
    """Genes that a text names although they are not expressed.

    Parameters
    ----------
    known
        Symbols that count as genes, in their usual letter case; words such as "CAT" or "WAS" are genes only so.
    expressed
        Symbols seen in the cell.
    """
    seen, genes = set(expressed), set(known)
    named = dict.fromkeys(word for word in _NAMED.findall(text) if word in genes)
    return tuple(word for word in named if word not in seen)


def bleu(references: Sequence[str], texts: Sequence[str]) -> float:
    """BLEU-4 of texts, one reference each, counted over all together; 0 where no run of four words is shared.

    Words are compared in lower case, without punctuation. Texts shorter than four words lower it, for they have no
    such run.
    """
    if len(references) != len(texts) or not texts:
        raise DataError(f"Found {len(references):,} references and {len(texts):,} texts; equally many, at least one.")
    shared, total, long, short = np.zeros(ORDER), np.zeros(ORDER), 0, 0
    for reference, text in zip(references, texts, strict=True):
        right, said = _words(reference), _words(text)
        long, short = long + len(right), short + len(said)
        for order in range(1, ORDER + 1):
            first, second = _runs(right, order), _runs(said, order)
            shared[order - 1] += sum((first & second).values())
            total[order - 1] += sum(second.values())
    if not shared.all():
        return 0.0
    brevity = min(0.0, 1.0 - long / short)
    return float(np.exp(brevity + np.log(shared / total).mean()))


def rouge_l(references: Sequence[str], texts: Sequence[str]) -> float:
    """Mean over texts of the F1 of the longest common subsequence of words, with one reference each."""
    if len(references) != len(texts) or not texts:
        raise DataError(f"Found {len(references):,} references and {len(texts):,} texts; equally many, at least one.")
    scores = []
    for reference, text in zip(references, texts, strict=True):
        right, said = _words(reference), _words(text)
        scores.append(2 * _common(right, said) / max(len(right) + len(said), 1))
    return float(np.mean(scores))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for place, other in enumerate(second, 1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def _set(value: Value) -> set[str]:
    values = value if isinstance(value, tuple) else (value,)
    return {clean for item in values if (clean := item.strip().lower())}
