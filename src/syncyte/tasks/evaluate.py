"""Evaluate: every task of a run on held-out cells, beside the baselines fitted on the reference.

Nothing is tuned on the held-out cells. What cannot be scored (no labels, no pairs, one technical batch) is said in the
text of the evaluation. Large data are scored on a seeded sample, which is said too. Leaves out: the pages (``report``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.baselines.prediction import SCALE
from syncyte.data.cells import Cells
from syncyte.errors import DataError, unknown
from syncyte.modalities import modalities
from syncyte.tasks.compare_annotate import compare_annotation
from syncyte.tasks.compare_embed import compare_embeddings, compare_integration, compare_pairs, stack_cells
from syncyte.tasks.compare_translate import (
    Direction,
    activity_weights,
    beyond_start,
    compare_direction,
    fit_reference_start,
    kept_share,
    units_of,
)
from syncyte.tasks.labelled import clean_labels
from syncyte.tasks.plot import umap_coordinates
from syncyte.tasks.region_tables import score_regions
from syncyte.tasks.result import STEM, Evaluation
from syncyte.tasks.trained import Trained

MOST_CELLS = 10_000  # of the held-out cells in any table
MOST_REFERENCE = 50_000
MOST_BYTES = 4e9  # of one translated matrix in a temporary file
MOST_FEATURES = 2_000
FEWEST = 20
PEERS = {"MultiVI, scVI and scANVI": "scvi", "CellTypist": "celltypist"}
TASKS = ("translate", "annotate", "embed", "integrate", "regions")


@dataclass
class Work:
    """What is evaluated, and what was found so far.

    ``held`` and ``reference`` are aligned; ``labels`` and ``batches`` are of the held-out cells, missing ones ``""``.
    """

    trained: Trained
    name: str
    held: Cells
    reference: Cells
    batch_key: str | None
    label_key: str | None
    seed: int
    say: Callable[[str], None]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    most_features: int | None = None
    unclear: tuple[str, ...] = ()
    peers: bool = False
    genes: pd.DataFrame | None = None

    def labels_of(self, cells: Cells) -> NDArray[Any] | None:
        """Labels of some cells, ``""`` where missing or unclear; None without a label column."""
        return None if self.label_key is None else clean_labels(cells, self.label_key, self.unclear)


def evaluate_cells(
    trained: Trained,
    cells: Cells,
    reference: Cells,
    *,
    batch_key: str | None = None,
    label_key: str | None = None,
    unclear: Sequence[str] = (),
    starts: pd.DataFrame | None = None,
    genes: pd.DataFrame | None = None,
    tasks: Sequence[str] = TASKS,
    most_features: int | None = MOST_FEATURES,
    peers: bool = False,
    seed: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Score a run on held-out cells; see ``syncyte.evaluate``.

    Parameters
    ----------
    trained, cells
        The run, and held-out cells to be scored.
    reference
        The cells it was trained on; baselines are fitted on them.
    batch_key, label_key
        Columns of technical batch and cell type. A column the run was trained with may be absent.
    unclear
        Labels that mean no class (doublets, unassigned): their cells count as cells without a label.
    starts, genes
        Transcription starts of the run's genes, see ``compare_translate.gene_starts``, and all genes of a reference.
    tasks
        What is scored, any of ``TASKS``.
    most_features
        How many open regions are ranked (evenly spread over those seen often enough); None for all.
    peers
        Also train MultiVI, scVI, scANVI and CellTypist, where they are installed: minutes to hours.

    Raises
    ------
    DataError
        Where a column does not exist, or too few cells are left to score.
    """
    notes: list[str] = []
    held, known = _new_cells(cells, reference, notes), reference
    held, known = trained.align(_sample(held, MOST_CELLS, seed, "held-out", notes)), trained.align(known)
    known = _sample(known, MOST_REFERENCE, seed, "reference", notes)
    batch_key = _key(trained, "batch_key", batch_key, held, known, notes)
    label_key = _key(trained, "label_key", label_key, held, known, notes)
    name = f"{STEM} {trained.recipe['config']['preset']}"
    say = (lambda text: None) if quiet else (lambda text: print(f"evaluate: {text}", flush=True))
    work = Work(trained, name, held, known, batch_key, label_key, seed, say, notes=notes, most_features=most_features)
    work.unclear, work.peers, work.genes = tuple(map(str, unclear)), peers, genes
    _note_peers(work)
    _note_unclear(work)
    scorers: dict[str, Callable[[Work], None]] = {"annotate": _annotate, "embed": _embed, "integrate": _integrate}
    scorers |= {"translate": partial(_translate, starts=starts), "regions": partial(score_regions, starts=starts)}
    for task in tasks:
        scorers[task](work)
    settings = {"batch_key": batch_key, "label_key": label_key, "unclear": list(work.unclear), "tasks": list(tasks)}
    return _finish(work, trained.provenance(cells, seed=seed, **settings))


def _finish(work: Work, provenance: dict[str, Any]) -> Evaluation:
    """Add curves, headings and facts."""
    trained = work.trained
    curves = trained.path / "metrics.csv"
    if curves.is_file():
        work.tables["training"] = pd.read_csv(curves)
    work.text |= {
        "title": f"Evaluation of {trained.recipe['config']['name']} ({trained.recipe['config']['preset']})",
        "subtitle": f"{len(work.held):,} held-out cells, baselines fitted on {len(work.reference):,} reference cells",
        "notes": "\n\n".join(work.notes),
    }
    facts = {"cells": f"{len(work.held):,}", "reference": f"{len(work.reference):,} cells", "seed": work.seed}
    facts |= {"device": str(trained.device), "training": trained.recipe.get("split", {})}
    return Evaluation(work.tables, work.arrays, work.text, {**provenance, **facts}, work.name)


def _new_cells(cells: Cells, reference: Cells, notes: list[str]) -> Cells:
    """Cells whose names are not in the reference, unless all are: then they are kept with a warning."""
    seen = cells.names.isin(reference.names)
    count = int(seen.sum())
    if count == 0:
        return cells
    if count > len(cells) - FEWEST:
        notes.append(
            f"WARNING: {count:,} of {len(cells):,} cells to score carry names that are in the reference too, so these "
            "are not held-out numbers. Score cells that neither the model nor the baselines were fitted on."
        )
        return cells
    notes.append(f"{count:,} cells are in the reference as well (same name) and are not scored.")
    return cells.take(~seen)


def _sample(cells: Cells, most: int, seed: int, what: str, notes: list[str]) -> Cells:
    if len(cells) < FEWEST:
        raise DataError(f"There are {len(cells)} {what} cells; at least {FEWEST} are needed to score anything.")
    if len(cells) <= most:
        return cells
    notes.append(f"Of {len(cells):,} {what} cells a random {most:,} are used (seed {seed}).")
    return cells.take(np.sort(np.random.default_rng(seed).choice(len(cells), most, replace=False)))


def _key(trained: Trained, what: str, key: str | None, held: Cells, known: Cells, notes: list[str]) -> str | None:
    """A column both sides have. One that came from the run itself may be absent."""
    if key is None:
        return None
    for cells, side in ((held, "held-out"), (known, "reference")):
        if key not in cells.obs.columns:
            if key != trained.recipe.get(what):
                raise DataError(unknown(f"obs column of the {side} cells", key, cells.obs.columns))
            notes.append(f"The {side} cells have no column {key!r} ({what} of the run): what needs it is left out.")
            return None
    return key


def _note_unclear(work: Work) -> None:
    labels = work.labels_of(work.held)
    if work.unclear and work.label_key is not None and labels is not None:
        count = int(((labels == "") & (_texts(work.held, work.label_key) != "")).sum())
        work.notes.append(f"{count:,} of {len(labels):,} held-out cells have an unclear label: as good as none.")


def _note_peers(work: Work) -> None:
    """Say which trained peers stand in the tables, or why not."""
    missing = [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]
    if not work.peers:
        work.notes.append("Trained peers (MultiVI, scVI, scANVI, CellTypist) were not asked for (--peers).")
    elif missing:
        work.notes.append(f"Not installed, so left out: {', '.join(missing)} (pip install 'syncyte[bench]').")


def _translate(work: Work, starts: pd.DataFrame | None) -> None:
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
    return _sample(held, max(most, FEWEST), work.seed, "paired held-out", work.notes)


def _direction(work: Work, held: Cells, source: str, target: str, start: Any, starts: pd.DataFrame | None) -> None:
    key, reference = f"translate {source} to {target}", work.reference
    paired = reference.take(np.flatnonzero(reference.present(source) & reference.present(target)))
    have = reference.take(np.flatnonzero(reference.present(target)))
    batches = pd.Series(_texts(held, work.batch_key)) if work.batch_key else None
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
        pd.Series(_texts(paired, work.batch_key)) if work.batch_key else None,
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


def _annotate(work: Work) -> None:
    labels = work.labels_of(work.held)
    if labels is None or work.label_key is None:
        work.notes.append("Annotation is not scored: there is no label column (--label-key).")
        return
    known = work.labels_of(work.reference)
    assert known is not None
    if len(set(known) - {""}) < 2 or int((labels != "").sum()) < FEWEST:
        work.notes.append(
            f"Annotation is not scored: {work.label_key!r} holds fewer than two classes, or few cells are labelled."
        )
        return
    held, reference = (
        replace(cells, obs=cells.obs.assign(**{work.label_key: said})).take(said != "")
        for cells, said in ((work.held, labels), (work.reference, known))
    )
    if not any(name in reference.modalities for name in held.modalities):
        work.notes.append("Annotation is not scored: held-out cells and reference share no modality.")
        return
    found = compare_annotation(
        work.trained,
        work.name,
        held,
        reference,
        work.label_key,
        batch_key=work.batch_key,
        peers=work.peers,
        seed=work.seed,
        say=work.say,
    )
    work.tables["annotate"], work.arrays["annotate"], work.text["annotate"] = found.table, found.arrays, found.text


def _embed(work: Work) -> None:
    labels = work.labels_of(work.held)
    table, own = compare_embeddings(
        work.trained, work.name, work.held, work.reference, labels, seed=work.seed, say=work.say
    )
    work.tables["embed"] = table
    work.text["embed"] = "Baselines are fitted on the reference and applied to the held-out cells. " + (
        "Depth r is the largest correlation of an axis with log depth; depth can be biology, so it is not judged."
    )
    if labels is None:
        work.text["embed"] += " No labels: agreement with cell types is not scored."
    work.arrays["umap"] = _umap(work, work.held, own)
    start = fit_reference_start(work.reference, work.batch_key, work.seed) if len(work.held.modalities) == 2 else None
    pairs = compare_pairs(work.trained, work.name, work.held, start, labels, work.seed)
    if pairs is not None:
        work.tables["embed pairs"] = pairs
        work.text["embed"] += " Pairs: each side of a cell embedded alone; FOSCTTM is 0.5 by chance."


def _integrate(work: Work) -> None:
    if work.batch_key is None or work.label_key is None:
        work.notes.append(
            "Integration is not scored: it needs technical batches and labels (--batch-key, --label-key)."
        )
        return
    cells, said = work.held, "held-out cells"
    if len(set(_texts(cells, work.batch_key))) < 2:
        fresh = work.reference.take(np.flatnonzero(~work.reference.names.isin(cells.names)))
        few = np.random.default_rng(work.seed).permutation(len(fresh))[: len(cells)]
        cells = stack_cells(cells, fresh.take(np.sort(few)))
        said = "held-out cells (one technical batch) beside as many of the reference"
    labels = work.labels_of(cells)
    assert labels is not None
    cells, labels = cells.take(labels != ""), labels[labels != ""]
    if len(set(_texts(cells, work.batch_key))) < 2 or len(set(labels)) < 2:
        work.notes.append("Integration is not scored: one technical batch, or one cell type, is all there is.")
        return
    table, own, notes = compare_integration(
        work.trained,
        work.name,
        cells,
        work.reference,
        work.batch_key,
        labels,
        peers=work.peers,
        seed=work.seed,
        say=work.say,
    )
    work.tables["integrate"] = table
    work.text["integrate"] = " ".join([f"{len(cells):,} {said}; overall = 0.6 bio + 0.4 batch.", *notes])
    work.arrays["umap integrated"] = _umap(work, cells, own)


def _umap(work: Work, cells: Cells, embedding: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    work.say("UMAP")
    rows, spots = umap_coordinates(embedding, work.seed)
    found: dict[str, NDArray[Any]] = {"coordinates": spots}
    for name, key in (("label", work.label_key), ("batch", work.batch_key)):
        if key is not None:
            found[name] = _texts(cells, key)[rows]
    return found


def _texts(cells: Cells, key: str) -> NDArray[Any]:
    """A column as text, ``""`` where missing."""
    column = cells.column(key)
    return column.astype(str).where(column.notna(), "").to_numpy(dtype=object).astype(str)
