"""Annotation beside its baselines: the same labelled reference, the same held-out cells, the same modalities.

Baselines stand on spaces of the reference: PCA of Pearson residuals for counts; LSI, LSI without its first axis and the
spectral embedding for open regions; side by side where cells have both. Logistic regression is printed plain and
class-balanced, its strength chosen on a held-out part of the reference. Leaves out: how the model learns labels
(``tasks.annotate``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from syncyte.baselines.classify import (
    CellTypist,
    LogisticClassifier,
    MajorityClassifier,
    MarkerScores,
    NeighborClassifier,
)
from syncyte.baselines.deep import ScAnvi
from syncyte.baselines.residual import Kind
from syncyte.baselines.space import Scaling, Space
from syncyte.data.cells import Cells
from syncyte.data.split import choose_validation
from syncyte.errors import MissingExtraError
from syncyte.metrics.annotation import AnnotationScores, score_annotation
from syncyte.modalities import modalities
from syncyte.tasks.compare_translate import units_of, with_intervals
from syncyte.tasks.trained import Trained

COLUMNS = ("accuracy", "macro_f1", "balanced_accuracy", "ece")
SPACES: dict[Kind, tuple[tuple[Scaling, str], ...]] = {
    "pearson": (("pearson", "PCA of Pearson residuals"),),
    "depth": (("tfidf", "LSI"), ("tfidf_rest", "LSI without its first axis"), ("spectral", "spectral embedding")),
}
AXES = 50


class Classifier(Protocol):
    """What the baselines have in common."""

    classes: Any

    def predict(self, x: Any) -> NDArray[np.float64]:
        """Probabilities ``(n, c)``."""
        ...


@dataclass(frozen=True)
class Annotated:
    """Table of methods, what the figures of the model need, and what the methods read."""

    table: pd.DataFrame
    arrays: dict[str, NDArray[Any]]
    text: str


def compare_annotation(
    trained: Trained,
    name: str,
    held: Cells,
    reference: Cells,
    label_key: str,
    *,
    batch_key: str | None = None,
    peers: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Annotated:
    """Score the model and every baseline on labelled held-out cells.

    Parameters
    ----------
    trained, name
        The model and the name of its row.
    held, reference
        Aligned cells, all of them labelled.
    batch_key
        Technical batches of the reference, for choices.
    peers
        Also train scANVI and CellTypist on the counts, where they are installed.
    """
    from syncyte.tasks.annotate import annotate_cells

    names = shared_modalities(held, reference)
    held, reference = _with_all(held, names), _with_all(reference, names)
    truth = held.column(label_key).astype(str).to_numpy()
    say(f"annotate: {name}")
    result = annotate_cells(trained, held, reference, label_key, batch_key=batch_key, seed=seed, quiet=True)
    predicted = np.asarray(result.obs[f"syncyte_{label_key}"]).astype(str)
    confidence = np.asarray(result.obs["syncyte_confidence"], dtype=np.float64)
    scored, right = {name: score_labels(truth, predicted, confidence)}, {name: predicted == truth}
    fitted = _fitted(held, reference, label_key, batch_key, seed)
    fitted |= _peers(held, reference, label_key, seed, say) if peers else {}
    for baseline, (x, model) in fitted.items():
        say(f"annotate: {baseline}")
        chance = model.predict(x)
        scored[baseline] = score_annotation(truth, chance, list(model.classes))
        right[baseline] = np.asarray(model.classes)[chance.argmax(axis=1)] == truth
    table = pd.DataFrame({key: scores.summary for key, scores in scored.items()}).T[list(COLUMNS)]
    units, words = units_of(held.column(batch_key) if batch_key else None, len(held), seed)
    shares = {key: np.bincount(units, hits) / np.bincount(units) for key, hits in right.items()}
    table = with_intervals(table, shares, units, seed)
    known = set(reference.column(label_key).astype(str))
    unseen = sorted(set(truth) - known)
    text = f"Read: {' + '.join(names)}; {len(held):,} cells scored, learned from {len(reference):,}. "
    text += f"Intervals of accuracy: bootstrap over {words}, ups and downs that all methods share taken out."
    if unseen:
        text += f" {len(unseen)} held-out labels are not in the reference and cannot be right: {', '.join(unseen[:5])}."
    arrays = {"truth": truth, "predicted": predicted, "confidence": confidence}
    return Annotated(table.rename_axis("method"), arrays, text)


def score_labels(truth: ArrayLike, predicted: NDArray[Any], confidence: NDArray[np.float64]) -> AnnotationScores:
    """Scores of labels with a confidence; the other classes get nothing, so ``log_loss`` has no meaning here."""
    classes, codes = np.unique(predicted, return_inverse=True)
    chance = np.zeros((len(codes), len(classes)))
    chance[np.arange(len(codes)), codes] = np.maximum(np.nan_to_num(confidence), 1e-6)
    return score_annotation(truth, chance, list(classes))


def shared_modalities(held: Cells, reference: Cells) -> tuple[str, ...]:
    """Modalities that all held-out cells and the reference have, else the one most held-out cells have."""
    common = [name for name in held.modalities if name in reference.modalities]
    whole = [name for name in common if held.present(name).all()]
    return tuple(whole) or tuple(sorted(common, key=lambda name: -int(held.present(name).sum()))[:1])


def _with_all(cells: Cells, names: Sequence[str]) -> Cells:
    """Cells that have every one of the modalities, and nothing else in them."""
    have = np.logical_and.reduce([cells.present(name) for name in names])
    return cells.only(names).take(np.flatnonzero(have))


def _fitted(
    held: Cells, reference: Cells, label_key: str, batch_key: str | None, seed: int
) -> dict[str, tuple[Any, Classifier]]:
    """Fitted baselines by name, each with what it predicts from."""
    labels = reference.column(label_key).astype(str).to_numpy()
    spaces, markers = _spaces(held, reference, seed), {}
    for name in reference.modalities:
        if modalities[name].residual == "pearson":
            marked = MarkerScores().fit(reference.counts(name), labels)
            markers["marker scores"] = (held.counts(name), marked)
    split = choose_validation(reference.column(batch_key) if batch_key else None, len(reference), seed=seed)
    found: dict[str, tuple[Any, Classifier]] = {}
    for where, (old, fresh) in spaces.items():
        for balanced, kind_of in ((False, "plain"), (True, "balanced")):
            trial = LogisticClassifier(balanced).tuned(
                old[split.train], labels[split.train], old[split.validation], labels[split.validation]
            )
            model = LogisticClassifier(balanced, trial.strength).fit(old, labels)
            found[f"logistic regression, {kind_of}, {where}"] = (fresh, model)
        found[f"kNN-15, {where}"] = (fresh, NeighborClassifier().fit(old, labels))
    first = next(iter(spaces.values()))
    return {**found, **markers, "majority class": (first[1], MajorityClassifier().fit(first[0], labels))}


def _spaces(held: Cells, reference: Cells, seed: int) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Axes of the reference and of the held-out cells, every space of one modality beside every one of the others."""
    none = np.zeros((len(reference), 0), np.float32), np.zeros((len(held), 0), np.float32)
    found = {"": none}
    for name in reference.modalities:
        x, seen = reference.counts(name), held.counts(name)
        more = {}
        for scaling, words in SPACES[modalities[name].residual]:
            space = Space(scaling, AXES, seed)
            more[words] = (space.fit_transform(x), space.transform(seen))
        found = {
            " + ".join(filter(None, (before, words))): (np.hstack([left[0], old]), np.hstack([left[1], new]))
            for before, left in found.items()
            for words, (old, new) in more.items()
        }
    return found


def _peers(
    held: Cells, reference: Cells, label_key: str, seed: int, say: Callable[[str], None]
) -> dict[str, tuple[Any, Classifier]]:
    """Trained peers that read counts, by name; those that are not installed are said and left out."""
    labels = reference.column(label_key).astype(str).to_numpy()
    found: dict[str, tuple[Any, Classifier]] = {}
    for name in reference.modalities:
        if modalities[name].residual != "pearson":
            continue
        for words, peer in (("scANVI", ScAnvi(seed=seed)), ("CellTypist", CellTypist())):
            try:
                say(f"annotate: {words} is trained")
                found[f"{words} ({name})"] = (held.counts(name), peer.fit(reference.counts(name), labels))
            except MissingExtraError as error:
                say(f"annotate: left out. {error}")
    return found
