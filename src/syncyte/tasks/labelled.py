"""The labelled side of annotation: which reference cells teach, and which of them judge.

Choices and calibration look at technical batches that are held out. Best are batches the model itself never saw: its
loadings were fitted to single training cells, whose latents look better than those of any new cell. Where the run names
its training batches this is known; where nothing unseen is in the reference, ``seen`` says so. Leaves out: learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import DataError

MOST_CELLS = 100_000  # reference cells learned from; more are drawn at random
FEW_LABELS = 1500  # cells below which every fold is held out in turn, and axes alone are the usual evidence
MOST_FOLDS, MOST_HELD, RANDOM_FOLDS, PARTS = 10, 3, 5, 3
PLACEHOLDERS = frozenset({"", "nan", "none", "na", "n/a", "unassigned"})


@dataclass(frozen=True, eq=False)
class Labelled:
    """Reference cells with labels, cut into folds.

    Attributes
    ----------
    cells
        Cells that have a label and every modality in use.
    codes
        ``(n,)`` int64, place of each label in ``classes``.
    classes
        Sorted names.
    folds
        ``(n,)`` int64; technical batches, or random parts with equal shares of the classes.
    parts
        ``(n,)`` int64; the folds, or where there are two only, random parts of each.
    large
        Folds with enough cells to judge by.
    held
        Folds that choices and calibration hold out in turn.
    seen
        Whether the model may have been fitted on the held cells.
    how
        Words for the report.
    """

    cells: Cells
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    folds: NDArray[np.int64]
    parts: NDArray[np.int64]
    large: tuple[int, ...]
    held: tuple[int, ...]
    seen: bool
    how: str

    def rows(self, fold: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cells outside and inside a fold."""
        inside = self.folds == fold
        return np.flatnonzero(~inside), np.flatnonzero(inside)


def clean_labels(cells: Cells, label_key: str, unclear: Sequence[str] = ()) -> NDArray[Any]:
    """``(n,)`` labels without blanks around them; ``""`` where there is none, or one that is no class."""
    column = cells.column(label_key)
    text = column.astype(str).str.strip()
    none = column.isna() | text.str.lower().isin(PLACEHOLDERS) | text.isin([str(name).strip() for name in unclear])
    return text.mask(none, "").to_numpy(dtype=object).astype(str)


def keep_labelled(reference: Cells, label_key: str, unclear: Sequence[str] = ()) -> tuple[Cells, dict[str, Any]]:
    """Cells with a usable label, and what was left out.

    Parameters
    ----------
    unclear
        Labels that are no class; their cells are not learned from.

    Raises
    ------
    DataError
        If the column is missing or fewer than two classes are left.
    """
    text = clean_labels(reference, label_key, unclear)
    missing = clean_labels(reference, label_key) == ""
    vague = (text == "") & ~missing
    keep = np.flatnonzero(text != "")
    classes = sorted(set(text[keep].tolist()))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "no label"
        raise DataError(
            f"The column {label_key!r} of the reference holds {found} in {len(reference):,} cells "
            f"({int(missing.sum()):,} without a label); at least two classes are needed. "
            "Name another column with label_key (--label-key) or give a reference with more cell types."
        )
    facts = {"cells": len(keep), "without_label": int(missing.sum()), "unclear": int(vague.sum())}
    return reference.take(keep), facts


def label_reference(cells: Cells, label_key: str, batch_key: str | None, recipe: dict[str, Any], seed: int) -> Labelled:
    """Cut labelled cells into folds and say which are held out.

    Parameters
    ----------
    batch_key
        Column of the technical batch; the run's own is looked for where None.
    recipe
        Facts of the run: which technical batches trained it.
    """
    rng = np.random.default_rng(seed)
    if len(cells) > MOST_CELLS:
        cells = cells.take(np.sort(rng.choice(len(cells), MOST_CELLS, replace=False)))
    classes, codes = np.unique(cells.column(label_key).astype(str).str.strip().to_numpy(), return_inverse=True)
    trained_by = recipe.get("batch_key")
    key = batch_key or (trained_by if trained_by in cells.obs.columns else None)
    unseen = _unseen(cells, trained_by, _known_batches(recipe))
    folds, names = _batch_folds(cells.column(key), rng) if key else (codes, [])
    shared = set(codes[folds == 0]) & set(codes[folds == 1]) if len(names) == 2 else set()
    if len(names) < 2 or (len(names) == 2 and len(shared) < len(classes)):
        folds, names = _random_folds(codes, rng), []
    parts = folds if len(names) != 2 else folds * PARTS + _random_folds(codes, rng, PARTS)
    groups = [np.flatnonzero(folds == fold) for fold in range(int(folds.max()) + 1)]
    enough = min(30, len(cells) // 20)
    large = tuple(fold for fold, rows in enumerate(groups) if len(rows) >= enough)
    new = [fold for fold in large if unseen[groups[fold]].all()]
    most = MOST_HELD if len(cells) >= FEW_LABELS else len(large)  # few cells must all help to choose
    held = tuple(sorted(rng.permutation(new or large)[:most].tolist()))
    kind = f"technical batches of {key!r}: {', '.join(names[fold] for fold in held)}" if names else "random parts"
    how = f"{kind} ({'not ' if new else ''}seen when the model was trained)"
    return Labelled(cells, codes.astype(np.int64), tuple(classes), folds, parts, large, held, not new, how)


def _known_batches(recipe: dict[str, Any]) -> list[str]:
    """Technical batches the model was fitted on: those held out of training too, where its start was fitted to them."""
    split = recipe.get("split", {})
    whole = recipe.get("config", {}).get("start", {}).get("cells") == "all" and split.get("kind") == "batch"
    held = split.get("validation_batches") or split.get("validation", "").split(", ")
    return [*(recipe.get("batches") or []), *(held if whole else [])]


def _unseen(cells: Cells, key: str | None, batches: Sequence[str]) -> NDArray[np.bool_]:
    """Cells the model cannot have been fitted on: from another data set, or from a batch that was held out."""
    if key is None:
        return np.zeros(len(cells), dtype=bool)
    if key not in cells.obs.columns:  # cells of the training data would bring its column along
        return np.ones(len(cells), dtype=bool)
    return ~cells.column(key).astype(str).isin(list(batches)).to_numpy()


def _batch_folds(column: pd.Series, rng: np.random.Generator) -> tuple[NDArray[np.int64], list[str]]:
    """One fold a technical batch, or several where there are many; cells without one are a batch of their own."""
    codes, values = pd.factorize(column.astype(str).where(column.notna(), ""), sort=True)
    if len(values) <= MOST_FOLDS:
        return codes.astype(np.int64), [str(value) for value in values]
    groups = np.array_split(rng.permutation(len(values)), MOST_FOLDS)
    place = np.empty(len(values), dtype=np.int64)
    for number, group in enumerate(groups):
        place[group] = number
    return place[codes], [", ".join(sorted(str(values[index]) for index in group)) for group in groups]


def _random_folds(codes: NDArray[np.int64], rng: np.random.Generator, count: int = RANDOM_FOLDS) -> NDArray[np.int64]:
    """Random folds with equal shares of the classes."""
    order = np.lexsort((rng.random(len(codes)), codes))
    folds = np.empty(len(codes), dtype=np.int64)
    folds[order] = np.arange(len(codes)) % min(count, len(codes))
    return folds
