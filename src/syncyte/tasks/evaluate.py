"""Evaluate: every task of a run on held-out cells, beside the baselines fitted on the reference.

Nothing is tuned on the held-out cells. What cannot be scored (no labels, no pairs, one technical batch) is said in the
text of the evaluation. Large data are scored on a seeded sample, which is said too. Leaves out: the pages (``report``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import DataError, unknown
from syncyte.tasks.compare_annotate import compare_annotation
from syncyte.tasks.compare_depth import compare_depth
from syncyte.tasks.compare_embed import compare_embeddings, compare_integration, stack_cells
from syncyte.tasks.compare_pairs import compare_pairs
from syncyte.tasks.compare_translate import fit_reference_start
from syncyte.tasks.evaluate_generate import score_generation, score_perturbation
from syncyte.tasks.evaluate_translate import evaluate_translation
from syncyte.tasks.evaluate_words import score_words
from syncyte.tasks.plot import umap_coordinates
from syncyte.tasks.region_tables import score_regions
from syncyte.tasks.result import STEM, Evaluation
from syncyte.tasks.trained import Trained
from syncyte.tasks.work import FEWEST, Work, sample_cells, texts

MOST_CELLS = 10_000  # of the held-out cells in any table
MOST_REFERENCE = 50_000
MOST_FEATURES = 2_000
PEERS = {
    "MultiVI, scVI, scANVI, PeakVI and PoissonVI": "scvi",
    "CellTypist": "celltypist",
    "SnapATAC2": "snapatac2",
}
PLACED = {"translate": evaluate_translation, "regions": score_regions}  # want places of genes
TASKS = ("translate", "annotate", "embed", "integrate", "regions", "generate", "perturb", "words")
NEEDS = {
    "translate": "decodes",
    "integrate": "decodes",
    "regions": "decodes",
    "generate": "generates",
    "perturb": "generates",
    "words": "matches",
}


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
    perturbation: str | None = None,
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
        Also train MultiVI, scVI, scANVI, CellTypist, PeakVI, PoissonVI, SnapATAC2, where installed: minutes to hours.
    """
    notes: list[str] = []
    held, known = _new_cells(cells, reference, notes), reference
    held, known = trained.align(sample_cells(held, MOST_CELLS, seed, "held-out", notes)), trained.align(known)
    known = sample_cells(known, MOST_REFERENCE, seed, "reference", notes)
    batch_key = _key(trained, "batch_key", batch_key, held, known, notes)
    label_key = _key(trained, "label_key", label_key, held, known, notes)
    name = f"{STEM} {trained.recipe['config']['preset']}"
    say = (lambda text: None) if quiet else (lambda text: print(f"evaluate: {text}", flush=True))
    work = Work(trained, name, held, known, batch_key, label_key, seed, say, notes=notes, most_features=most_features)
    work.unclear, work.peers, work.genes, work.given = tuple(map(str, unclear)), peers, genes, cells
    _note_peers(work)
    _note_unclear(work)
    scorers: dict[str, Callable[[Work], None]] = {"annotate": _annotate, "embed": _embed, "integrate": _integrate}
    scorers |= {task: partial(score, starts=starts) for task, score in PLACED.items()}
    scorers |= {"generate": score_generation, "perturb": partial(score_perturbation, asked=perturbation)}
    scorers["words"], tasks = score_words, _without_flow(work, tasks)
    for task in tasks:
        if trained.can(NEEDS.get(task, "encodes")):
            scorers[task](work)
    settings = {"batch_key": batch_key, "label_key": label_key, "unclear": list(work.unclear), "tasks": list(tasks)}
    return _finish(work, trained.provenance(cells, seed=seed, **settings))


def _without_flow(work: Work, tasks: Sequence[str]) -> Sequence[str]:
    """Of a run of words cells from texts are what is scored, unless generation is asked for by name."""
    if tuple(tasks) != TASKS or not work.trained.can("matches"):
        return tasks
    work.notes.append("Of generated cells only those from texts are scored; cells from labels stand beside them.")
    return [task for task in TASKS if task != "generate"]


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
        count = int(((labels == "") & (texts(work.held, work.label_key) != "")).sum())
        work.notes.append(f"{count:,} of {len(labels):,} held-out cells have an unclear label: as good as none.")


def _note_peers(work: Work) -> None:
    """Say which trained peers stand in the tables, or why not."""
    missing = [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]
    if not work.peers:
        work.notes.append(
            "Peers (MultiVI, scVI, scANVI, CellTypist, PeakVI, PoissonVI, SnapATAC2) were not asked for (--peers)."
        )
    elif missing:
        work.notes.append(f"Not installed, so left out: {', '.join(missing)} (pip install 'syncyte[bench]').")


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
    done = compare_embeddings(
        work.trained, work.name, work.held, work.reference, labels, peers=work.peers, seed=work.seed, say=work.say
    )
    work.tables["embed"] = done.table
    work.text["embed"] = "Baselines are fitted on the reference and applied to the held-out cells. " + (
        "Depth r is the largest correlation of an axis with log depth; depth can be biology, so it is not judged."
    )
    work.text["embed"] = " ".join([work.text["embed"], *done.notes])
    if labels is None:
        work.text["embed"] += " No labels: agreement with cell types is not scored."
    tables, words = compare_depth(done.methods, done.found, work.held, labels, seed=work.seed, say=work.say)
    work.tables |= tables
    work.text["depth"] = words
    work.arrays["umap"] = _umap(work, work.held, done.found[work.name])
    start = fit_reference_start(work.reference, work.batch_key, work.seed) if len(work.held.modalities) == 2 else None
    pairs = compare_pairs(
        work.trained, work.name, work.held, work.reference, start, labels, batch_key=work.batch_key, seed=work.seed
    )
    if pairs is not None:
        work.tables["embed pairs"] = pairs
        work.text["embed"] += " Pairs: each side of a cell embedded alone; FOSCTTM is 0.5 by chance. "
        work.text["embed"] += "Ridge regression predicts 50 components of one side from 50 of the other."


def _integrate(work: Work) -> None:
    if work.batch_key is None or work.label_key is None:
        work.notes.append(
            "Integration is not scored: it needs technical batches and labels (--batch-key, --label-key)."
        )
        return
    cells, said = work.held, "held-out cells"
    if len(set(texts(cells, work.batch_key))) < 2:
        fresh = work.reference.take(np.flatnonzero(~work.reference.names.isin(cells.names)))
        few = np.random.default_rng(work.seed).permutation(len(fresh))[: len(cells)]
        cells = stack_cells(cells, fresh.take(np.sort(few)))
        said = "held-out cells (one technical batch) beside as many of the reference"
    labels = work.labels_of(cells)
    assert labels is not None
    cells, labels = cells.take(labels != ""), labels[labels != ""]
    if len(set(texts(cells, work.batch_key))) < 2 or len(set(labels)) < 2:
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
            found[name] = texts(cells, key)[rows]
    return found
