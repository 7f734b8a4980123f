"""Cells and words scored: types, wordings of the same question, and retrieval, on cells with true labels.

Every way a run tells types stands beside cheap classifiers on principal components of the reference. Texts of a class
are captions of its term in all wordings, the mean of their vectors (prompt ensembling, Radford et al. 2021); the table
of prompts shows what the choice of one wording does. Nothing here reads the true labels but the scores.
Traps. Two labels of one term have the same texts, and the text head cannot tell them. Where many cells are relevant a
first hit is easy: read recall beside its chance.
Leaves out: sentences, cells from texts, and searches (``compare_said``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from syncyte.baselines.classify import LogisticClassifier, MajorityClassifier, NeighborClassifier
from syncyte.baselines.space import Space
from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.metrics.annotation import score_annotation
from syncyte.metrics.text import recall_at, reciprocal_rank
from syncyte.tasks.labelled import clean_labels
from syncyte.tasks.search_index import unit_vectors
from syncyte.tasks.speak import cell_states, value_chances
from syncyte.tasks.trained import Trained
from syncyte.tasks.word_run import Asked, WordRun
from syncyte.words.captions import Facts, wordings, write_captions

COLUMNS = ("accuracy", "macro_f1", "balanced_accuracy", "log_loss", "ece")
MATCHED = 5  # classes of each cell that the matcher ranks again
AXES = 50
AT = (1, 5, 10)
MOST_QUERIES = 2_000  # cells of a retrieval
MOST_WORDINGS = 4  # of the texts of all terms, thousands of texts each
FEWEST = 20  # held-out cells with labels
Values = NDArray[np.float64]


@dataclass(frozen=True)
class WordTest:
    """Held-out cells with true labels, the reference, and a run.

    Attributes
    ----------
    run, asked
        The run, and the held-out cells in its features.
    held, reference
        Held-out cells as given, and aligned cells of the reference.
    truth, known
        Classes of both; a class is a label after ``same``.
    name
        Row of the run.
    same
        Class of each label, for labels of two data sets that say the same in different words.
    seed
        Of whatever is drawn.
    notes
        What should be known of the test.
    """

    run: WordRun
    asked: Asked
    held: Cells
    reference: Cells
    truth: NDArray[np.str_]
    known: NDArray[np.str_]
    name: str
    same: Mapping[str, str]
    seed: int
    notes: list[str] = field(default_factory=list)

    @cached_property
    def own(self) -> tuple[str, ...]:
        """Class of each label of the run."""
        return tuple(self.same.get(label, label) for label in self.run.labels)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Classes the run tells apart."""
        return tuple(dict.fromkeys(self.own))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Terms of the run."""
        return tuple(dict.fromkeys(self.run.classes))

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """``(n, q, d)`` held-out cells in the space of texts."""
        return self.run.vectors(self.asked)

    @cached_property
    def states(self) -> NDArray[np.float32]:
        """``(n, q, w)`` what the speaker sees of them."""
        return cell_states(self.run, self.asked)

    @cached_property
    def counts(self) -> sp.csr_matrix:
        """Of the held-out cells."""
        return self.run.counts(self.asked)

    @cached_property
    def reference_counts(self) -> sp.csr_matrix:
        """Of the reference."""
        return self.reference.counts(self.run.modality)

    def fold(self, chance: Values, names: Sequence[str]) -> Values:
        """``(n, c)`` probabilities of columns that bear classes, added up by class."""
        member = np.array([[name == key for key in self.classes] for name in names], dtype=np.float64)
        return chance @ member

    def relevant(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """``(n, t)`` whether a term is that of a cell."""
        meant: dict[str, set[str]] = {}
        for term, name in zip(self.run.classes, self.own, strict=True):
            meant.setdefault(term, set()).add(name)
        return np.array([[name in meant.get(key, ()) for key in keys] for name in self.truth], dtype=bool)


def prepare_test(
    trained: Trained,
    held: Cells,
    reference: Cells,
    label_key: str,
    *,
    same: Mapping[str, str] | None = None,
    unclear: Sequence[str] = (),
    seed: int = 0,
    name: str = "syncyte",
) -> WordTest:
    """Cells that have the modality of the run and a label, on both sides.

    Raises
    ------
    ConfigError
        If the run knows no words.
    DataError
        If few held-out cells have a label, or the reference has fewer than two classes.
    """
    run = WordRun(trained, "score words")
    same = dict(same or {})
    sides = []
    for cells in (held, reference):
        labels = clean_labels(cells, label_key, unclear)
        rows = np.flatnonzero((labels != "") & trained.align(cells).present(run.modality))
        sides.append((cells.take(rows), np.array([same.get(label, label) for label in labels[rows]], dtype=str)))
    (held, truth), (reference, known) = sides
    if len(truth) < FEWEST or len(set(known)) < 2:
        raise DataError(
            f"Found {len(truth)} held-out cells with a label in {label_key!r} and {len(set(known))} classes in the "
            f"reference; {FEWEST} cells and two classes are needed to score words."
        )
    test = WordTest(run, run.ask(held), held, trained.align(reference), truth, known, name, same, seed)
    test.notes.extend(test.asked.notes)
    strange = sorted(set(truth) - set(test.classes))
    if strange:
        count = int(np.isin(truth, strange).sum())
        test.notes.append(
            f"{count:,} held-out cells have a label that the run does not know ({', '.join(strange[:5])}): they count "
            "as wrong in typing and are left out where texts are retrieved."
        )
    return test


def class_texts(run: WordRun, keys: Sequence[str], wording: int | None) -> list[str]:
    """A caption of each term in a wording; its bare name with None."""
    if wording is None:
        return [run.name(key) for key in keys]
    facts = [Facts(type=key if key in run.terms else run.name(key)) for key in keys]
    return [caption.text for caption in write_captions(facts, terms=run.terms, drop=0.0, wording=wording)]


def wordings_of(run: WordRun, keys: Sequence[str]) -> dict[int, list[str]]:
    """Captions of terms by wording, each but once: those that need more than a type all fall back on bare fields."""
    found: dict[int, list[str]] = {}
    for number in range(len(wordings())):
        texts = class_texts(run, keys, number)
        if texts not in found.values():
            found[number] = texts
    return found


def class_vectors(run: WordRun, keys: Sequence[str], most: int | None = None) -> NDArray[np.float32]:
    """``(t, d)`` mean over all different wordings (over the first ``most``) of the vector of a term, of length one."""
    total = np.sum([run.texts(texts) for texts in list(wordings_of(run, keys).values())[:most]], axis=0)
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def text_chances(test: WordTest, texts: NDArray[np.float32]) -> Values:
    """``(n, t)`` softmax of the likeness to texts at the scale the run has learned."""
    scale = float(test.run.trained.model.words.log_scale.detach().exp().clamp_max(100.0))
    return softmax(scale * test.run.likeness(test.vectors, texts).astype(np.float64), axis=1)


@torch.inference_mode()
def matched_chances(test: WordTest, chance: Values, texts: NDArray[np.float32]) -> Values:
    """The matcher deals out anew what the likeliest texts of each cell have together; the others keep theirs."""
    device, matcher = test.run.trained.device, test.run.trained.model.words.matcher
    count = min(MATCHED, chance.shape[1])
    best = np.argsort(-chance, axis=1, kind="stable")[:, :count]
    odds = np.empty(best.shape)
    cells, said = torch.from_numpy(test.vectors).to(device), torch.from_numpy(texts).to(device)
    for place in range(count):
        odds[:, place] = matcher(cells, said[torch.from_numpy(best[:, place].copy()).to(device)]).double().cpu().numpy()
    again, rows = chance.copy(), np.arange(len(chance))[:, None]
    again[rows, best] = chance[rows, best].sum(axis=1, keepdims=True) * softmax(odds, axis=1)
    return again


class NearestCentroid:
    """Classes by the distance to their means: Gaussians of one spherical spread, every class alike likely."""

    def fit(self, x: NDArray[np.floating], labels: NDArray[Any]) -> Self:
        """Learn from ``(n, d)`` training cells."""
        self.classes, codes = np.unique(labels, return_inverse=True)
        self.centers = np.stack([x[codes == code].mean(axis=0) for code in range(len(self.classes))])
        self.spread = max(float(((x - self.centers[codes]) ** 2).mean()), 1e-12)
        return self

    def predict(self, x: NDArray[np.floating]) -> Values:
        """Probabilities ``(n, c)``."""
        squares = ((x[:, None] - self.centers[None]) ** 2).sum(axis=2)
        return softmax(-squares / (2 * self.spread), axis=1)


def type_chances(test: WordTest) -> dict[str, Values]:
    """By way of telling types the probabilities ``(n, c)`` of the classes of the run; the truth is not looked at."""
    run, name = test.run, test.name
    texts = class_vectors(run, test.keys)
    first = {run.classes[place]: place for place in reversed(range(len(run.classes)))}
    names = [test.own[first[key]] for key in test.keys]  # a term of two classes stands for the first
    likely = text_chances(test, texts)
    spoken = value_chances(run, test.states, "type", [run.name(key) for key in test.keys])
    return {
        name: test.fold(run.chances(test.asked), test.own),
        f"{name}, text head": test.fold(likely, names),
        f"{name}, text head, matcher": test.fold(matched_chances(test, likely, texts), names),
        f"{name}, speaker": test.fold(spoken, names),
    }


def baseline_chances(test: WordTest) -> dict[str, tuple[Values, list[str]]]:
    """Probabilities and classes of cheap classifiers of the reference."""
    space = Space("pearson", AXES, test.seed)
    old, new = space.fit_transform(test.reference_counts), space.transform(test.counts)
    models: dict[str, Any] = {
        "logistic regression, plain": LogisticClassifier(False),
        "logistic regression, balanced": LogisticClassifier(True),
        "nearest centroid": NearestCentroid(),
        "15-NN": NeighborClassifier(15),
        "majority class": MajorityClassifier(),
    }
    found = {}
    for name, model in models.items():
        fitted = model.fit(old, test.known)
        found[name] = (np.asarray(fitted.predict(new), dtype=np.float64), [str(one) for one in fitted.classes])
    return found


def compare_typing(test: WordTest) -> pd.DataFrame:
    """Accuracy, macro-F1, balanced recall, log loss and calibration error (15 bins), one row a method."""
    every = {name: (chance, list(test.classes)) for name, chance in type_chances(test).items()}
    rows = {
        name: score_annotation(test.truth, chance, names).summary
        for name, (chance, names) in {**every, **baseline_chances(test)}.items()
    }
    return pd.DataFrame(rows).T[list(COLUMNS)].astype(float).rename_axis("method")


def compare_prompts(test: WordTest) -> pd.DataFrame:
    """Text head under each wording of the class texts, under bare names and their mean; then the spread of wordings.

    The last row is the difference between the best and the worst wording, bare names left out.
    """
    first = dict(zip(reversed(test.run.classes), reversed(test.own), strict=True))
    names = [first[key] for key in test.keys]
    rows = {}
    for number, text in wordings_of(test.run, test.keys).items():
        rows[f"wording {number}: {_shown(text[0])}"] = _head(test, test.run.texts(text), names)
    table = pd.DataFrame(rows).T
    spread = table.max() - table.min()
    bare = class_texts(test.run, test.keys, None)
    table.loc[f"bare name: {_shown(bare[0])}"] = _head(test, test.run.texts(bare), names)
    table.loc["mean of all wordings"] = _head(test, class_vectors(test.run, test.keys), names)
    table.loc["best minus worst wording"] = spread
    return table.astype(float).rename_axis("class texts")


def _head(test: WordTest, texts: NDArray[np.float32], names: Sequence[str]) -> pd.Series:
    chance = test.fold(text_chances(test, texts), names)
    return pd.Series(score_annotation(test.truth, chance, list(test.classes)).summary)[["accuracy", "macro_f1"]]


def _shown(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()}..."


def compare_retrieval(test: WordTest) -> pd.DataFrame:
    """First hit of a relevant candidate, by direction: same term is relevant; beside it what chance would reach.

    Columns ``recall_at_k`` (share of queries with a relevant candidate among the first k), ``mrr`` (mean of one over
    the rank of the first), the same by ``chance``, and how many ``queries`` and ``candidates`` there are. Queries with
    nothing to find are left out.
    """
    rng = np.random.default_rng([test.seed, 11])
    rows = np.sort(rng.permutation(len(test.truth))[:MOST_QUERIES])
    right = test.relevant(test.keys)[rows]
    vectors = test.vectors[rows]
    scores = test.run.likeness(vectors, class_vectors(test.run, test.keys))
    found = {
        f"cell to text, {len(test.keys)} types of the run": first_hits(scores, right),
        "text to cell": first_hits(scores.T, right.T),
        "cell to cell": _cells(test, rows),
    }
    if test.run.ontology is not None:
        every = list(test.run.ontology.active)
        scores = test.run.likeness(vectors, class_vectors(test.run, every, MOST_WORDINGS))
        found[f"cell to text, all {len(every):,} terms"] = first_hits(scores, test.relevant(every)[rows])
    return pd.DataFrame(found).T.astype(float).rename_axis("direction")


def _cells(test: WordTest, rows: NDArray[np.int64]) -> dict[str, float]:
    unit = unit_vectors(test.run, test.asked)[rows].astype(np.float64)
    scores = unit @ unit.T
    truth = test.truth[rows]
    right = truth[:, None] == truth[None]
    np.fill_diagonal(right, False)
    keep = ~np.eye(len(rows), dtype=bool)  # a cell is no answer to itself
    shape = (len(rows), len(rows) - 1)
    return first_hits(scores[keep].reshape(shape), right[keep].reshape(shape))


def first_hits(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Recall at a few ranks and mean reciprocal rank of the first relevant candidate, and what chance reaches.

    Parameters
    ----------
    scores, relevant
        ``(q, c)``; rows without a relevant candidate are no queries.
    """
    asked = relevant.any(axis=1)
    scores, relevant = np.asarray(scores, dtype=np.float64)[asked], relevant[asked]
    names = [*(f"recall_at_{k}" for k in AT), "mrr", *(f"chance_at_{k}" for k in AT), "chance_mrr"]
    if not len(scores):
        return {**dict.fromkeys(names, float("nan")), "queries": 0.0, "candidates": float(scores.shape[1])}
    right = np.where(relevant, scores, -np.inf).argmax(axis=1)
    rest = relevant.copy()
    rest[np.arange(len(right)), right] = False
    alone = np.where(rest, -np.inf, scores)  # only the first hit counts
    size, counts = scores.shape[1], relevant.sum(axis=1)
    chance = np.mean([_chance(size, int(count)) for count in counts], axis=0)
    values = [*(recall_at(alone, right, k) for k in AT), reciprocal_rank(alone, right), *chance]
    return {**dict(zip(names, map(float, values), strict=True)), "queries": float(len(scores)), "candidates": size}


def _chance(size: int, good: int) -> Values:
    """Chances of a hit among the first k, and mean reciprocal rank, when ``good`` of ``size`` lie in random order."""
    place = np.arange(size - good + 1)
    later = np.concatenate([[1.0], np.cumprod((size - good - place[:-1]) / (size - place[:-1]))])  # first hit after
    at = np.append(later, 0.0)
    hits = 1.0 - at[np.minimum(AT, len(place))]
    return np.append(hits, float(((at[:-1] - at[1:]) / (place + 1)).sum()))
