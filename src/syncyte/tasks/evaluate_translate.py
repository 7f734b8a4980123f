"""The translation part of an evaluation: which directions can be scored, on which cells, and what is said about them.

Leaves out: methods and scores (``compare_translate``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from syncyte.baselines.prediction import SCALE
from syncyte.data.cells import Cells
from syncyte.modalities import modalities
from syncyte.tasks.compare_translate import (
    Direction,
    activity_weights,
    beyond_start,
    compare_direction,
    fit_reference_start,
    kept_share,
    units_of,
)
from syncyte.tasks.work import FEWEST, Work, sample_cells, texts

MOST_BYTES = 4e9  # of one translated matrix in a temporary file


def evaluate_translation(work: Work, starts: pd.DataFrame | None) -> None:
    """Score every direction between two modalities that the held-out cells allow; ``starts`` bring gene activity."""
    names = [name for name in work.trained.modalities if name in work.held.modalities]
    pairs = np.logical_and.reduce([work.held.present(name) for name in names])
    if work.label_key is None:
        work.notes.append("No labels: nothing is scored within cell types, and no oracle knows the type.")
    if len(work.trained.modalities) < 2:
        work.notes.append(f"Translation is not scored: the run knows {work.trained.modalities[0]} only.")
        return
    if len(names) < 2 or int(pairs.sum()) < FEWEST:
        count = int(pairs.sum()) if len(names) > 1 else 0
        work.notes.append(
            f"Translation is not scored: {count} of {len(work.held):,} held-out cells have both "
            f"{' and '.join(work.trained.modalities)}, and what is predicted must have been measured."
        )
        return
    if any(name not in work.reference.modalities for name in names):
        work.notes.append("Translation is not scored: the reference lacks a modality, so there is no mean profile.")
        return
    held = _fitting(work, work.held.take(np.flatnonzero(pairs)), names)
    start = fit_reference_start(work.reference.only(names), work.batch_key, work.seed)
    for source in names:
        for target in names:
            if source != target and _on_the_scale(work, target):
                _direction(work, held, source, target, start, starts)


def _on_the_scale(work: Work, target: str) -> bool:
    """Whether predictions of the target are on the scale that scores and baselines of counts are written for."""
    total = work.trained.model.heads[target].per_cell
    fine = modalities[target].residual != "pearson" or total == SCALE
    if not fine:
        work.notes.append(
            f"Translation to {target} is not scored: it is predicted as log1p of counts per {total:,g} (0: as they "
            f"are), scores and baselines are of counts per {SCALE:,g}."
        )
    return fine


def _fitting(work: Work, held: Cells, names: list[str]) -> Cells:
    """Few enough paired cells for a dense prediction to fit the temporary file."""
    most = int(MOST_BYTES / 4 / max(len(work.trained.vocabularies[name]) for name in names))
    return sample_cells(held, max(most, FEWEST), work.seed, "paired held-out", work.notes)


def _direction(work: Work, held: Cells, source: str, target: str, start: Any, starts: pd.DataFrame | None) -> None:
    key, reference = f"translate {source} to {target}", work.reference
    paired = reference.take(np.flatnonzero(reference.present(source) & reference.present(target)))
    have = reference.take(np.flatnonzero(reference.present(target)))
    batches = pd.Series(texts(held, work.batch_key)) if work.batch_key else None
    units, words = units_of(batches, len(held), work.seed)
    vocabularies = work.trained.vocabularies
    genes = modalities[target].schema.feature_kind == "gene"
    activity = {}
    if genes and starts is not None:
        activity = activity_weights(vocabularies[source], vocabularies[target], starts)
    direction = Direction(
        source,
        target,
        {name: paired.counts(name) for name in (source, target)},
        {name: held.counts(name) for name in (source, target)},
        np.asarray(modalities[target].observed(have.counts(target)).mean(axis=0), dtype=np.float64).ravel(),
        units,
        work.labels_of(held),
        work.labels_of(paired),
        pd.Series(texts(paired, work.batch_key)) if work.batch_key else None,
        activity,
        work.most_features,
        work.peers,
    )
    found = compare_direction(work.trained, work.name, held, start, direction, seed=work.seed, say=work.say)
    work.tables[key], work.arrays[key] = found.table, found.arrays
    if len(found.reliability):
        work.tables[f"{key} reliability"] = found.reliability
    lines = [
        f"{len(held):,} held-out cells with both modalities, {len(paired):,} paired reference cells. The target is "
        f"never seen. Intervals of the first column are 95 % bootstraps over {words}; ups and downs that all methods "
        "share are taken out, so they tell methods apart.",
        beyond_start(found.table, work.name),
        kept_share(work.trained, target),
    ]
    if direction.kind == "open" and work.most_features == len(found.arrays["names"]):
        lines.append(f"Ranked were {work.most_features:,} of the regions seen often enough.")
    if genes and not activity:
        lines.append("Gene activity is not printed: no genes of a reference are at hand (--genome).")
    if start is None or "linear start" not in found.table.index:
        lines.append("Too few reference cells are paired for baselines that learn from pairs.")
    work.text[key] = " ".join(filter(None, lines))
    work.text |= {f"{key} {word}": said for word, said in found.words.items()}
