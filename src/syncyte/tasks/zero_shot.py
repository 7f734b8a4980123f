"""Type cells by words: types of training and types that no training cell had, each with a probability.

Candidates are the types of training and those asked for: names or ids, those of a tissue, or all that have a marker in
the data. What speaks for an unseen type are related types, its markers, and being unlike all that was seen
(``words.zero_shot``); what each is worth is learned by leaving out training types in turn. Answers are types, wider
terms where no type is sure enough, or nothing.
Traps. No open vocabulary: the right type must be among the candidates, and the result names them. One candidate more
costs all others probability, so few and likely ones are better than many.
Leaves out: labels from a reference (``annotate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.baselines.genewise import Blocks
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.genome.ontology import canonical_id
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained
from syncyte.tasks.word_run import Asked, WordRun
from syncyte.words import answer as answers
from syncyte.words.answer import NO_ANSWER, answer
from syncyte.words.labels import read_labels
from syncyte.words.map import LabelMapper
from syncyte.words.markers import score_marker_blocks
from syncyte.words.terms import term_vectors
from syncyte.words.zero_shot import ZeroShot

ALL = "all"
NEIGHBORS = 15
MOST_SHOWN = 300  # classes whose probabilities are written for every cell


def type_cells(
    trained: Trained,
    cells: Cells,
    *,
    candidates: str | Path | Sequence[str] | None = None,
    tissue: str | None = None,
    threshold: float = 0.5,
    by: str | None = None,
    smooth: bool = False,
    unseen_share: float = 0.5,
    seed: int = 0,
    batch_size: int | None = None,
) -> Result:
    """Type cells; see ``syncyte.zero_shot``."""
    del batch_size
    run = WordRun(trained, "type cells by words")
    if by is not None:
        cells.column(by)
        if smooth:
            raise ConfigError("--by answers clusters as one and --smooth mixes neighbours; give one of them.")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it is a probability between 0 and 1.")
    if not 0 < unseen_share < 1:
        raise ConfigError(f"unseen_share is {unseen_share}; it must lie between 0 and 1, for instance 0.5.")
    asked = run.ask(cells)
    have = np.flatnonzero(asked.cells.present(run.modality))
    if not len(have):
        raise DataError("There are no cells to type.")
    measured = replace(asked, cells=asked.cells.take(have))
    more, notes = find_candidates(run, candidates, tissue, asked)
    some, classes, told = class_chances(run, measured, more, unseen_share=unseen_share, seed=seed)
    notes = [*asked.notes, *notes, *told]
    if by is not None:
        some = smooth_clusters(some, cells.take(have), by)
    elif smooth:
        some = smooth_neighbors(run, measured, some)
    chance = np.zeros((len(cells), len(classes)))
    chance[have] = some
    settings = {"by": by, "smooth": smooth, "tissue": tissue, "unseen_share": unseen_share}
    return _result(run, cells, asked, chance, classes, threshold, notes, settings)


def find_candidates(
    run: WordRun, given: str | Path | Sequence[str] | None, tissue: str | None, asked: Asked
) -> tuple[list[str], list[str]]:
    """Terms that may be answers beside those of training, and notes.

    Raises
    ------
    ConfigError
        For a tissue that no marker of the run lives in, or names that mean nothing.
    """
    table = run.markers
    notes: list[str] = []
    if tissue is not None:
        known = sorted(set(table.tissues.values()) - {"", "many"})
        if tissue.strip().lower() not in known:
            raise ConfigError(unknown("tissue of the marker table", tissue, known))
        found = [key for key, row in table.tissues.items() if row in (tissue.strip().lower(), "many")]
        return [key for key in found if key not in run.classes], notes
    if given is None:
        genes = set(run.trained.vocabularies[run.modality].index[asked.measured].astype(str))
        usual = [key for key, genes_of in table.genes.items() if len(genes.intersection(genes_of)) >= 2]
        notes.append(
            f"Candidates: {len(run.classes)} types of training and all with markers in the data, {len(usual)} in all. "
            "Fewer are surer: name them with --candidates, or --tissue."
        )
        return [key for key in usual if key not in run.classes], notes
    if given == ALL:
        if run.ontology is None:
            raise ConfigError("--candidates all takes every term of an ontology, and this run was trained without one.")
        notes.append("All terms are candidates: open vocabulary is beyond what so few training types allow; check.")
        return [key for key in run.ontology.active if key not in run.classes], notes
    texts = read_labels(Path(given)) if isinstance(given, str | Path) else [str(name) for name in given]
    names = [run.name(canonical_id(text)) for text in texts]
    mapper = LabelMapper(run.ontology, names=[(label, "") for label in run.labels if run.term(label) == label])
    matches = mapper.map(names)
    none = [match.label for match in matches if match.how == "none"]
    if none:
        raise ConfigError(
            f"Candidates that mean no term: {', '.join(map(repr, none[:5]))}. Give ids or names of the Cell Ontology "
            "(syncyte ontology map shows what names mean)."
        )
    notes += [f"{m.label!r} is taken for the wider {m.term} ({m.id})." for m in matches if m.how == "coarser"]
    meant = dict.fromkeys(match.id or match.term for match in matches)
    return [key for key in meant if key not in run.classes and key not in run.labels], notes


def class_chances(
    run: WordRun, asked: Asked, more: Sequence[str], *, unseen_share: float, seed: int, kind: Any = "both"
) -> tuple[NDArray[np.float64], tuple[str, ...], list[str]]:
    """``(n, t)`` probabilities of the classes of training and of further ones, the classes, and notes.

    All cells must have been measured; their counts are read in blocks. Where there is nothing further the classifier of
    the run answers by itself.
    """
    own = tuple(dict.fromkeys(run.classes))
    classes = (*own, *(key for key in more if key not in own))
    notes: list[str] = []
    supervised = _merged(run.chances(asked), run.classes, own)
    if len(classes) == len(own):
        return supervised, own, ["All candidates are types of training."]
    terms = None if run.ontology is None else run.ontology.active
    labels = {key: run.name(key) for key in classes}
    vectors, missing = term_vectors(classes, terms, kind=kind, labels=labels, seed=seed)
    reference = run.trained.tables["reference"]
    types = np.array([run.term(label) for label in reference["type"].astype(str)])
    keys = list(run.markers.genes)
    places, blocks = run.trained.arrays["reference.places"], blocks_of(run, asked)
    stored = run.trained.arrays["reference.markers"].astype(np.float64)
    known = np.zeros((len(places), len(classes)))
    for column, key in enumerate(classes):
        if key in keys:
            known[:, column] = stored[:, keys.index(key)]
    genes = run.trained.vocabularies[run.modality].index.astype(str)
    scores = score_marker_blocks(blocks, genes, classes, run.markers)
    if scores.warning:
        notes.append(scores.warning)
    notes += [missing] if missing else []
    model = ZeroShot(classes, vectors, unseen_share=unseen_share, seed=seed).fit(places, types, known)
    chance = model.predict(run.space.transform_blocks(blocks), scores.values)
    seen = np.arange(len(own))
    total = chance[:, seen].sum(axis=1, keepdims=True)
    chance[:, seen] = total * supervised  # which of the seen ones is told better by all genes
    return chance, classes, notes


def _merged(chance: NDArray[np.float64], names: Sequence[str], classes: Sequence[str]) -> NDArray[np.float64]:
    """Columns added up by class: two labels may mean one term."""
    member = np.array([[name == key for key in classes] for name in names], dtype=np.float64)
    return chance @ member


def blocks_of(run: WordRun, asked: Asked) -> Blocks:
    """Counts of the measured cells, some at a time."""
    return lambda: (counts for _, counts in asked.cells.blocks(run.modality))


def smooth_clusters(chance: NDArray[np.float64], cells: Cells, by: str) -> NDArray[np.float64]:
    """One answer for all cells of a cluster."""
    return answers.smooth(chance, cells.column(by).astype(str).to_numpy(), 1.0)


def smooth_neighbors(run: WordRun, asked: Asked, chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the cell's own answer, half of the mean of its neighbours' in the space of the run."""
    from sklearn.neighbors import NearestNeighbors

    places = run.space.transform_blocks(blocks_of(run, asked))
    count = min(NEIGHBORS + 1, len(places))
    near = NearestNeighbors(n_neighbors=count).fit(places).kneighbors(places, return_distance=False)
    return 0.5 * chance + 0.5 * chance[near].mean(axis=1)


def _result(
    run: WordRun,
    cells: Cells,
    asked: Asked,
    chance: NDArray[np.float64],
    classes: Sequence[str],
    threshold: float,
    notes: list[str],
    settings: dict[str, Any],
) -> Result:
    have = asked.cells.present(run.modality)
    terms = None if run.ontology is None else run.ontology.active
    names = {key: run.name(key) for key in classes}
    found = answer(chance, classes, threshold=threshold, terms=terms, labels=names)
    label, term = np.where(have, found.labels, NO_ANSWER), np.where(have, found.terms, NO_ANSWER)
    obs: dict[str, Any] = {
        "syncyte_type": label.astype(str),
        "syncyte_type_id": term.astype(str),
        "syncyte_confidence": np.where(have, found.confidence, np.nan).astype(np.float32),
        "syncyte_type_coarser": (found.coarser & have).astype(bool),
    }
    own = set(run.classes)
    table = pd.DataFrame(
        {
            "type": [names[key] for key in classes],
            "trained_on": [key in own for key in classes],
            "cells": [int((term == key).sum()) for key in classes],
            "mean_probability": chance[have].mean(axis=0) if have.any() else np.zeros(len(classes)),
        },
        index=pd.Index(classes, name="id"),
    )
    facts = {"classes": list(classes), "threshold": threshold, "notes": notes, **settings}
    obsm = {"syncyte_type_probability": chance.astype(np.float32)} if len(classes) <= MOST_SHOWN else {}
    metrics = {
        "unknown": float((term == NO_ANSWER).mean()),
        "coarser": float(found.coarser.mean()),
        "unseen": float(np.isin(term, [key for key in classes if key not in own]).mean()),
    }
    return Result(
        "zero_shot",
        cells.names,
        obsm=obsm,
        obs=obs,
        uns={"classes": table},
        provenance=run.trained.provenance(asked.cells, **facts),
        metrics=metrics,
    )
