"""Perturb: predicted cells, effects and hits of targets, from given control cells.

The control cells go into the output as they are, count by count, so that whoever scores the prediction subtracts the
measured ones. Effects carry a sign and a standard error, which is that of the regression over training cells: it
knows nothing of how the flow errs. Leaves out: the prediction itself (``respond``), scores (``compare_perturb``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.models.conditions import as_text
from syncyte.tasks.draw import Sampling, encode_points
from syncyte.tasks.respond import Book, Response, open_book, parts_of, predict_response
from syncyte.tasks.trained import Trained
from syncyte.tasks.write import PredictionWriter
from syncyte.types import json_ready

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 2  # control cells
TOP = 20  # hits shown


@dataclass(frozen=True)
class Perturbed:
    """Predicted cells of some targets.

    Attributes
    ----------
    obs
        Control cells, then predicted ones of each target: their attributes, ``syncyte_predicted``, ``syncyte_from``.
    effects
        One row a target and gene, strongest first within a target: ``effect`` (mean log1p CP10K, target minus control),
        ``error``, ``z``, ``rank``, and the ``sign`` where ``z`` is beyond 2.
    path
        Where cells were written; None where they are in ``counts``.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    effects: pd.DataFrame
    counts: sp.csr_matrix | None
    path: Path | None
    facts: dict[str, Any] = field(default_factory=dict)

    def adata(self) -> Any:
        """The cells as an AnnData (read from the file where they were written)."""
        import anndata

        if self.counts is None:
            return anndata.read_h5ad(self.path)
        uns = {"syncyte": {"perturb": json.dumps(json_ready(self.facts), default=str), "perturb_effects": self.effects}}
        return anndata.AnnData(self.counts, obs=self.obs, var=self.var, uns=uns)

    def table(self) -> pd.DataFrame:
        """Effects, strongest first within each target."""
        return self.effects

    def plot(self, top: int = TOP) -> Figure:
        """Strongest effects of each target with their errors."""
        from syncyte.tasks.plot import plot_effects

        return plot_effects(self.effects, top)


def control_rows(cells: Cells, key: str, control: str) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of control cells.

    Raises
    ------
    DataError
        Where none has the control value; the values that exist are named.
    """
    if key not in cells.obs.columns:
        return np.arange(len(cells)), [f"The cells have no column {key!r}: all of them are taken for controls."]
    values = as_text(cells.obs[key])
    rows = np.flatnonzero((values == control).to_numpy())
    if len(rows) < FEWEST:
        found = sorted(set(values) - {""})
        why = f"At least {FEWEST} are needed." if len(rows) else unknown(f"value of {key!r}", control, found)
        raise DataError(f"{len(rows)} of {len(cells):,} cells are controls. {why}")
    left = len(cells) - len(rows)
    return rows, [f"{left:,} cells that are not {key}={control} are left out."] if left else []


def perturb_cells(
    trained: Trained,
    cells: Cells,
    *,
    key: str,
    control: str,
    targets: Sequence[str],
    method: str = "regression",
    how: Sampling | None = None,
    features: pd.DataFrame | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> Perturbed:
    """Predict how control cells respond to targets; see ``syncyte.perturb``."""
    trained.need_capability("generates", "predict responses")
    book = open_book(trained, key, control, features)
    check_targets(book, targets)
    rows, notes = control_rows(cells, key, control)
    some = trained.align(cells.take(rows))
    notes += _lacking(book, some.obs)
    name = trained.modalities[0]
    real = some.counts(name)
    lost = cells.take(rows).counts(name).sum() - real.sum() if name in cells.modalities else 0
    if lost:
        notes.append(f"{lost:,.0f} counts of the controls, of features that the run does not know, are not written.")
    points = encode_points(trained, some, (seed, 3))
    responses = {}
    for target in targets:
        responses[target] = predict_response(
            trained, book, real, points, some.obs, target, method, how or Sampling(), seed
        )
        notes += [f"{target}: {words}" for words in responses[target].words]
    obs = _table(some.obs, some.names, key, control, responses)
    genes = trained.vocabularies[name].index.astype(str)
    effects = pd.concat([effect_table(target, one.effect, one.error, genes) for target, one in responses.items()])
    facts: dict[str, Any] = {"key": key, "control": control, "targets": list(targets), "method": method, "notes": notes}
    facts |= {"sampling": (how or Sampling()).model_dump(), "cells": len(rows), "seed": seed}
    var = trained.vocabularies[name]
    blocks = [real.astype(np.int32), *(one.counts for one in responses.values())]
    if out is None:
        return Perturbed(obs, var, effects, sp.vstack(blocks, format="csr"), None, facts)
    record = json.dumps(json_ready({**trained.provenance(some, seed=seed), **facts}), default=str)
    uns = {"syncyte": {"perturb": record, "perturb_effects": effects}}
    with PredictionWriter(out, obs, var, sparse=True, dtype=np.int32, uns=uns) as writer:
        for block in blocks:
            writer.append(block)
    with atomic_file(out.with_suffix(".effects.csv")) as tmp:
        effects.to_csv(tmp, index=False)
    return Perturbed(obs, var, effects, None, out, facts)


def check_targets(book: Book, targets: Sequence[str]) -> None:
    """Refuse targets that are the control or given twice, and combinations with such parts or empty ones."""
    known = f"Trained on: {', '.join(book.effects.names[:20])}."
    if not targets:
        raise ConfigError(
            f"Name what is to be done to the cells with --target, a value of {book.key!r} or several as A+B. {known}"
        )
    twice = [target for target in targets if list(targets).count(target) > 1]
    if twice or book.control in targets:
        raise ConfigError(
            f"--target {(twice or [book.control])[0]} is {'given twice' if twice else 'the control'}: leave it out."
        )
    for target in targets:
        parts = parts_of(target)
        if "" in parts or book.control in parts or len(set(parts)) < len(parts):
            raise ConfigError(
                f"--target {target!r}: give a value of {book.key!r}, or several joined by '+', none of them empty, the "
                f"control or repeated. {known}"
            )


def _lacking(book: Book, obs: pd.DataFrame) -> list[str]:
    """What is not said of the cells although the run would know it."""
    lost = [name for name in book.contexts if name not in obs.columns]
    return [f"The cells have no column {name!r}: nothing is said of it." for name in lost]


def _table(obs: pd.DataFrame, names: pd.Index, key: str, control: str, responses: dict[str, Response]) -> pd.DataFrame:
    """Table of control cells and of predicted ones, which are named after what they came from."""
    given = obs.assign(**{key: control, "syncyte_predicted": False, "syncyte_from": ""})
    parts = [given]
    for target in responses:
        made = obs.assign(**{key: target, "syncyte_predicted": True, "syncyte_from": names.astype(str)})
        parts.append(made.set_axis(pd.Index([f"{name}_{target}" for name in names])))
    table = pd.concat(parts)
    return table.assign(**{key: pd.Categorical(table[key].astype(str))})


def effect_table(target: str, value: NDArray[np.float64], error: NDArray[np.float64], genes: pd.Index) -> pd.DataFrame:
    """Effects of one target by feature, strongest evidence first."""
    error = error + 1e-6
    z = value / error
    table = pd.DataFrame({"target": target, "gene": np.asarray(genes), "effect": value, "error": error, "z": z})
    table["sign"] = np.where(np.abs(z) > 2, np.sign(value), 0).astype(int)
    table = table.iloc[np.argsort(-np.abs(z), kind="stable")].reset_index(drop=True)
    return table.assign(rank=np.arange(1, len(table) + 1))
