"""Annotate: cell types of query cells from a labelled reference, with a confidence that was calibrated.

Query cells are taken in groups by what was measured in them; each group learns from reference cells that have the
same, so that a cell is never judged by a modality it lacks. Classes come from the reference alone, and labels of the
query are never read. ``auto`` compares the frozen probe, the fine-tuned model and the mean of both by their log loss on
a held-out batch that the model was not trained on, and takes the probe where the reference has none.
Trap: a class that no reference cell has cannot be found; its cells get a wrong label, at best with little confidence.
Leaves out: scoring (``tasks.evaluate``), zero-shot labels from words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.tasks.calibrate import cross_calibration_error, fit_temperature, log_loss, temper
from syncyte.tasks.finetune import finetune
from syncyte.tasks.labelled import Labelled, keep_labelled, label_reference
from syncyte.tasks.probe import Probe, Profiles, read_evidence
from syncyte.tasks.result import Result
from syncyte.tasks.trained import Trained

Method = Literal["auto", "probe", "lora", "full"]
UNASSIGNED = "unassigned"
GAIN = 0.98  # auto leaves the probe only for a log loss below this share of the probe's
FEW = 3  # classes with fewer reference cells are noted


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way of annotating: held-out cells of the reference, their probabilities, and those of the query."""

    rows: NDArray[np.int64]
    chance: NDArray[np.float64]
    query: Callable[[], NDArray[np.float64]]
    words: str


@dataclass(frozen=True, eq=False)
class Annotation:
    """Calibrated probabilities of one group of query cells, and how they came about."""

    chance: NDArray[np.float64]
    facts: dict[str, Any]


def annotate_cells(
    trained: Trained,
    query: Cells,
    reference: Cells,
    label_key: str,
    *,
    method: str = "auto",
    threshold: float | None = None,
    batch_key: str | None = None,
    unclear: Sequence[str] = (),
    seed: int = 0,
    quiet: bool = True,
    batch_size: int | None = None,
) -> Result:
    """Label query cells; see ``syncyte.annotate``.

    Parameters
    ----------
    method
        ``probe``, ``lora``, ``full``, or ``auto`` for what held-out cells of the reference prefer.
    threshold
        Cells less sure than this get the label ``unassigned``; their best guess stays in ``syncyte_<label key>_best``.
    batch_key
        Technical batch of reference cells; the run's own is used where the reference has it.
    unclear
        Labels of the reference that mean no class (doublets, low quality); their cells are not learned from.

    Returns
    -------
    Result
        ``obs``: label and ``syncyte_confidence``; ``obsm["syncyte_<label key>_probability"]``: one column a class, in
        the order of ``provenance["settings"]["classes"]``. Query cells that share no modality with the reference are
        ``unassigned`` with confidence NaN.

    Raises
    ------
    DataError
        Unknown label column, fewer than two classes, no modality in common.
    ConfigError
        Unknown method, or a threshold outside [0, 1].
    """
    _check_options(method, threshold)
    labelled, left_out = keep_labelled(reference, label_key, unclear)
    if batch_key is not None:
        labelled.column(batch_key)
    names = _common(trained, query, labelled)
    old, new = trained.align(labelled, only=names), trained.align(query, only=names)
    counts = labelled.column(label_key).astype(str).str.strip().value_counts().sort_index()
    classes = tuple(counts.index)
    how = (label_key, batch_key, method, seed, batch_size, not quiet)
    chance, groups = _annotate_groups(trained, new, old, classes, *how)
    settings = {"method": method, "label_key": label_key, "threshold": threshold, "seed": seed}
    facts = {
        "classes": list(classes),
        "reference": {**left_out, "few": [name for name in classes if counts[name] < FEW]},
        "query_cells_in_reference": int(query.names.isin(reference.names).sum()),
        "groups": groups,
    }
    told = trained.provenance(new, **settings, **facts)
    return _result(query.names, label_key, classes, counts, chance, threshold, told)


def _check_options(method: str, threshold: float | None) -> None:
    if method not in get_args(Method):
        raise ConfigError(unknown("annotation method", method, get_args(Method)))
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; it is a confidence between 0 and 1.")


def _annotate_groups(
    trained: Trained,
    new: Cells,
    old: Cells,
    classes: Sequence[str],
    label_key: str,
    batch_key: str | None,
    method: str,
    seed: int,
    batch_size: int | None,
    show: bool,
) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
    """Chances ``(cells, classes)``, each group of cells annotated by the modalities it has, and facts of each group."""
    chance = np.full((len(new), len(classes)), np.nan)
    groups = []
    for using, rows in _groups(new, old):
        together = np.logical_and.reduce([old.present(name) for name in using])
        part = label_reference(old.only(using).take(together), label_key, batch_key, trained.recipe, seed)
        found = _annotate(trained, part, new.only(using).take(rows), method, seed, batch_size, show)
        chance[rows] = 0.0  # classes that no reference cell of this group has
        chance[np.ix_(rows, pd.Index(classes).get_indexer(pd.Index(part.classes)))] = found.chance
        groups.append({"modalities": list(using), "query_cells": len(rows), **found.facts})
    return chance, groups


def _common(trained: Trained, query: Cells, reference: Cells) -> tuple[str, ...]:
    """Modalities that the model knows and both sides have."""
    trained.need_capability("encodes", "annotate cells")
    names = tuple(name for name in trained.modalities if query.present(name).any() and reference.present(name).any())
    if not names:
        raise DataError(
            f"The query has {' and '.join(query.modalities) or 'no modality'}, the labelled reference "
            f"{' and '.join(reference.modalities) or 'none'}, the run knows {' and '.join(trained.modalities)}: "
            "nothing is common to all three. Give a reference measured in a modality of the query."
        )
    return names


def _groups(query: Cells, reference: Cells) -> list[tuple[tuple[str, ...], NDArray[np.int64]]]:
    """Modalities to use and query rows, for every combination that was measured in query cells.

    All modalities of a cell are used where at least half as many reference cells have them together as have the
    commonest of them; else that one alone.
    """
    names = query.modalities
    flags = np.stack([query.present(name) for name in names], axis=1)
    merged: dict[tuple[str, ...], list[NDArray[np.int64]]] = {}
    for pattern in np.unique(flags, axis=0):
        using = tuple(name for name, flag in zip(names, pattern, strict=True) if flag)
        if not using:
            continue
        single = {name: int(reference.present(name).sum()) for name in using}
        together = int(np.logical_and.reduce([reference.present(name) for name in using]).sum())
        best = max(single, key=lambda name: single[name])
        chosen = using if together >= 0.5 * single[best] else (best,)
        merged.setdefault(chosen, []).append(np.flatnonzero((flags == pattern).all(axis=1)))
    return [(using, np.sort(np.concatenate(rows))) for using, rows in merged.items()]


def _annotate(
    trained: Trained, part: Labelled, query: Cells, method: str, seed: int, batch_size: int | None, loud: bool
) -> Annotation:
    """Probabilities of query cells that all have the modalities of the reference."""
    if len(part.classes) < 2:
        raise DataError(
            f"Reference cells with {' and '.join(query.modalities)} have only the label {part.classes[0]!r}; "
            "at least two classes are needed. Give a reference that labels more of them."
        )
    found: dict[str, Candidate] = {}
    if method in ("auto", "probe"):
        _say(f"annotate: probe on {' + '.join(query.modalities)}", loud)
        found["probe"] = _probe(trained, part, query, batch_size)
    if method in ("lora", "full"):
        trained.need_capability("decodes", "be fine-tuned for labels (--method probe reads its codes)")
    if method in ("lora", "full") or (method == "auto" and not part.seen and trained.can("decodes")):
        adapter: Literal["full", "lora"] = "lora" if method == "lora" else "full"
        _say(f"annotate: fine-tuning ({adapter})", loud)
        found[adapter] = _finetuned(trained, part, query, adapter, seed, batch_size)
    losses = {}
    if "probe" in found and "full" in found:
        found["probe and full"] = _mean(found["probe"], found["full"])
        common = found["full"].rows
        losses = {name: _loss(candidate, part, common) for name, candidate in found.items()}
        best = min(losses, key=lambda name: losses[name])
        chosen = best if losses[best] < GAIN * losses["probe"] else "probe"
    else:
        chosen = next(iter(found))
    candidate = found[chosen]
    truth, folds = part.codes[candidate.rows], part.folds[candidate.rows]
    temperature = fit_temperature(candidate.chance, truth)
    facts = {
        "chosen": chosen,
        "why": _why(chosen, losses, method, part.seen),
        "details": candidate.words,
        "held_out": part.how,
        "held_out_cells": len(truth),
        "held_out_log_loss": {name: round(value, 4) for name, value in losses.items()},
        "held_out_accuracy": float((candidate.chance.argmax(axis=1) == truth).mean()),
        "held_out_recall": _recall(candidate.chance, truth, part.classes),
        "temperature": temperature,
        "calibration_error": cross_calibration_error(candidate.chance, truth, folds, seed),
        "reference_cells": len(part.codes),
    }
    return Annotation(temper(candidate.query(), temperature), facts)


def _probe(trained: Trained, part: Labelled, query: Cells, batch_size: int | None) -> Candidate:
    profiles = Profiles(trained, part)
    probe = Probe(part, read_evidence(trained, profiles, part.cells, private=part.seen, batch_size=batch_size))
    choice = probe.choose()

    def predict() -> NDArray[np.float64]:
        evidence = read_evidence(trained, profiles, query, private=part.seen, batch_size=batch_size)
        return probe.predict(choice, evidence)

    return Candidate(*probe.held_out(choice), predict, choice.words())


def _finetuned(
    trained: Trained,
    part: Labelled,
    query: Cells,
    adapter: Literal["full", "lora"],
    seed: int,
    batch_size: int | None,
) -> Candidate:
    train, held = part.rows(part.held[0])
    chance = finetune(trained, part, train, part.cells.take(held), adapter, seed=seed, batch_size=batch_size)

    def predict() -> NDArray[np.float64]:
        rows = np.arange(len(part.codes))
        return finetune(trained, part, rows, query, adapter, seed=seed, batch_size=batch_size)

    return Candidate(held, chance, predict, "")


def _mean(first: Candidate, second: Candidate) -> Candidate:
    """Mean of two candidates, over the held-out cells that both predicted."""
    shared = np.intersect1d(first.rows, second.rows)

    def of(candidate: Candidate) -> NDArray[np.float64]:
        return candidate.chance[pd.Index(candidate.rows).get_indexer(shared)]

    return Candidate(
        shared,
        (of(first) + of(second)) / 2,
        lambda: (first.query() + second.query()) / 2,
        f"mean of both; probe: {first.words}",
    )


def _loss(candidate: Candidate, part: Labelled, rows: NDArray[np.int64]) -> float:
    """Log loss on some held-out cells at the temperature that suits them."""
    chance = candidate.chance[pd.Index(candidate.rows).get_indexer(rows)]
    truth = part.codes[rows]
    return log_loss(temper(chance, fit_temperature(chance, truth)), truth)


def _recall(chance: NDArray[np.float64], truth: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """Share of held-out cells of each class that are found: a class near zero is perhaps none (see ``unclear``)."""
    right = chance.argmax(axis=1) == truth
    return {classes[code]: round(float(right[truth == code].mean()), 3) for code in np.unique(truth)}


def _why(chosen: str, losses: dict[str, float], method: str, seen: bool) -> str:
    if method != "auto":
        return "asked for"
    if seen:
        return (
            "the model was trained on all of the reference, or may have been, so no held-out cell can judge "
            "fine-tuning; the probe needs none (profiles are made without the cell's own fold)"
        )
    listed = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
    return f"held-out log loss: {listed}; {chosen} is taken (the probe unless another is {1 - GAIN:.0%} better)"


def _say(text: str, loud: bool) -> None:
    if loud:
        print(text, file=sys.stderr, flush=True)


def _result(
    names: pd.Index,
    label_key: str,
    classes: tuple[str, ...],
    counts: pd.Series,
    chance: NDArray[np.float64],
    threshold: float | None,
    provenance: dict[str, Any],
) -> Result:
    known = ~np.isnan(chance).any(axis=1)
    confidence = np.where(known, np.nan_to_num(chance).max(axis=1), np.nan)
    best = np.array([*classes, UNASSIGNED])[np.where(known, np.nan_to_num(chance).argmax(axis=1), len(classes))]
    sure = np.array(known if threshold is None else known & (np.nan_to_num(confidence) >= threshold))
    label = np.where(sure, best, UNASSIGNED)
    stem = f"syncyte_{label_key}"
    obs: dict[str, Any] = {stem: label, "syncyte_confidence": confidence.astype(np.float32)}
    if threshold is not None:
        obs[f"{stem}_best"] = best
    table = pd.DataFrame(
        {"reference_cells": counts.to_numpy(), "query_cells": [int((label == name).sum()) for name in classes]},
        index=pd.Index(classes, name="class"),
    )
    groups = provenance["settings"]["groups"]
    metrics = {
        "unassigned": float((~sure).mean()) if len(sure) else 0.0,
        "confidence": float(np.nanmean(confidence)) if known.any() else 0.0,
        "calibration_error": max(group["calibration_error"] for group in groups),
    }
    probability = {f"{stem}_probability": chance.astype(np.float32)}
    return Result(
        "annotate", names, obsm=probability, obs=obs, uns={"classes": table}, provenance=provenance, metrics=metrics
    )
