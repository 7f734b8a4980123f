"""Responses by a cell model: expected values of each control cell under a perturbation, in any modality it decodes.

Effects are regressed as in ``respond``, on perturbed cells that are given as a reference, but contexts are compared by
the mean of their control cells in the run's latent space. A cell's prediction is what the run decodes of the cell,
moved by the effect of its context. These are expectations and no counts; control rows hold their measured values.
Leaves out: counts of predicted cells, which need a model that generates (``perturb``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.baselines.effects import Effect, EffectModel
from syncyte.baselines.groups import Groups
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError
from syncyte.modalities import modalities
from syncyte.models.cell import everything
from syncyte.models.conditions import as_text
from syncyte.tasks.embed import latents
from syncyte.tasks.perturb import Perturbed, check_targets, control_rows, effect_table
from syncyte.tasks.respond import Book, check_features, parts_of
from syncyte.tasks.trained import Trained
from syncyte.tasks.translate import MOST_BYTES
from syncyte.tasks.write import PredictionWriter
from syncyte.types import Batch, json_ready


def open_reference(
    trained: Trained,
    reference: Cells,
    name: str,
    key: str,
    control: str,
    contexts: Sequence[str],
    features: pd.DataFrame,
) -> Book:
    """Effects of an attribute in one modality, from perturbed and control cells."""
    known = trained.align(reference, only=(name,))
    known = known.take(known.present(name))
    labels = pd.DataFrame({column: as_text(known.column(column)).to_numpy() for column in [*contexts, key]})
    groups = Groups.fit(known.blocks(name), labels, modalities[name].observed)
    if groups is None:
        raise DataError("The reference has too many combinations of contexts and perturbations. Give fewer.")
    groups = groups.collapse(key, list(contexts))
    if not features.empty:
        check_features(features, key, sorted(set(groups.table["perturbation"])))
    context = labels[list(contexts)].agg(" | ".join, axis=1) if contexts else pd.Series("all", index=labels.index)
    states = latents(trained, known)
    is_control = (labels[key] == control).to_numpy()
    profiles = {
        str(one): states[is_control & (context == one).to_numpy()].mean(axis=0).astype(np.float64)
        for one in context[is_control].unique()
    }
    effects = EffectModel(groups, control, features, profiles, trusted=True)
    if not effects.names:
        raise DataError(
            f"The reference has no cell that is perturbed beside control cells ({key}={control}) of the same context. "
            f"It holds {key!r} = {', '.join(sorted(set(labels[key]))[:20])}."
        )
    return Book(key, control, groups, effects, list(contexts))


def perturb_expected(
    trained: Trained,
    cells: Cells,
    reference: Cells | None,
    *,
    key: str,
    control: str,
    targets: Sequence[str],
    of: str | None = None,
    features: pd.DataFrame | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> Perturbed:
    """Predict expected values of control cells under targets; see ``syncyte.perturb``."""
    trained.need_capability("decodes", "predict responses")
    if reference is None:
        raise ConfigError("This run keeps no perturbed cells: name them, with their controls, with --reference DATA.")
    if out is None:
        raise ConfigError("Expected values are written to a file: give --out FILE.h5ad.")
    name = of or next(one for one in trained.modalities if one in reference.modalities)
    trained.need(name)
    label = str(trained.recipe.get("label_key"))
    contexts = [label] if label in cells.obs.columns and label in reference.obs.columns else []
    table = pd.DataFrame() if features is None else features
    book = open_reference(trained, reference, name, key, control, contexts, table)
    check_targets(book, targets)
    rows, notes = control_rows(cells, key, control)
    some = trained.align(cells.take(rows))
    size = 4.0 * len(some) * len(trained.vocabularies[name]) * (len(targets) + 1)
    if size > MOST_BYTES:
        raise DataError(f"Predictions of {len(some):,} cells take {size / 1e9:.1f} GB: give fewer cells or targets.")
    base = np.concatenate(list(trained.each(some, partial(_decoded, name=name))))
    where, states = book.context_of(some.obs), latents(trained, some)
    parts, tables = [], []
    for target in targets:
        effects = {
            one: book.effect(parts_of(target), states[where == one].mean(axis=0).astype(np.float64))
            for one in np.unique(where)
        }
        parts.append(_moved(base, where, effects, 1.0 if modalities[name].residual == "depth" else np.inf))
        tables.append(_table(target, where, effects, trained.vocabularies[name].index.astype(str)))
        notes += [f"{target}: {words}" for words in book.words(parts_of(target))]
    obs = _obs(some, key, control, targets)
    effects_table = pd.concat(tables)
    facts: dict[str, Any] = {"key": key, "control": control, "targets": list(targets), "modality": name}
    facts |= {"unit": modalities[name].unit, "contexts": contexts, "notes": notes, "cells": len(some), "seed": seed}
    var = trained.vocabularies[name]
    record = json.dumps(json_ready({**trained.provenance(some, seed=seed), **facts}), default=str)
    uns = {"syncyte": {"perturb": record, "perturb_effects": effects_table}}
    with PredictionWriter(out, obs, var, uns=uns) as writer:
        writer.append(modalities[name].observed(some.counts(name)).toarray() if name in some.parts else base)
        for block in parts:
            writer.append(block)
    with atomic_file(out.with_suffix(".effects.csv")) as tmp:
        effects_table.to_csv(tmp, index=False)
    return Perturbed(obs, var, effects_table, None, out, facts)


def _decoded(trained: Trained, batch: Batch, *, name: str) -> NDArray[np.float32]:
    """What the run expects of each cell in a modality, all that was measured being visible."""
    return trained.model.predict(trained.model.encode(batch.tokens, everything(batch)), name).float().cpu().numpy()


def _moved(
    base: NDArray[np.float32], where: NDArray[Any], effects: dict[str, Effect], most: float
) -> NDArray[np.float32]:
    moved = base.copy()
    for context, effect in effects.items():
        moved[where == context] += effect.value.astype(np.float32)
    return np.clip(moved, 0.0, most)


def _table(target: str, where: NDArray[Any], effects: dict[str, Effect], genes: pd.Index) -> pd.DataFrame:
    share = {context: float(np.mean(where == context)) for context in effects}
    value = np.sum([share[context] * one.value for context, one in effects.items()], axis=0)
    error = np.sqrt(np.sum([share[context] * one.error**2 for context, one in effects.items()], axis=0))
    return effect_table(target, value, error, genes)


def _obs(cells: Cells, key: str, control: str, targets: Sequence[str]) -> pd.DataFrame:
    parts = [cells.obs.assign(**{key: control, "syncyte_predicted": False, "syncyte_from": ""})]
    for target in targets:
        made = cells.obs.assign(**{key: target, "syncyte_predicted": True, "syncyte_from": cells.names.astype(str)})
        parts.append(made.set_axis(pd.Index([f"{name}_{target}" for name in cells.names])))
    table = pd.concat(parts)
    return table.assign(**{key: pd.Categorical(table[key].astype(str))})
