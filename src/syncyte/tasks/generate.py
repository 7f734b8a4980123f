"""Generate cells: new ones for any combination of attributes, and cells like given ones.

``new`` follows the flow from noise; attributes that are not asked for are drawn in training shares beside those that
are, never left to the null condition, which is worse. ``reconstruct`` draws from the posterior of given cells,
``interpolate`` walks between two conditions with shared noise, ``augment`` fills up rare labels. Counts come out as
sparse integers over every feature the run knows. ``denoise`` gives expectations instead, which are not cells.
Leaves out: responses of given cells (``tasks.perturb``), scoring (``tasks.compare_generate``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.library import LibraryModel
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.tasks.blocks import gather_blocks, write_blocks
from syncyte.tasks.draw import (
    BLOCK,
    Sampling,
    coder_of,
    draw_counts,
    encode_points,
    expected_counts,
)
from syncyte.tasks.plans import COUNTS, LABELS, Plan, plan_augment, plan_between, plan_new, plan_reconstruct, read_where
from syncyte.tasks.result import Layer, Result
from syncyte.tasks.say_cells import plan_said
from syncyte.tasks.trained import Trained
from syncyte.tasks.translate import MOST_BYTES, choose_features
from syncyte.tasks.write import PredictionWriter
from syncyte.types import json_ready

MODES = ("new", "unconditional", "reconstruct", "denoise", "interpolate", "augment")


@dataclass(frozen=True)
class Generated:
    """Cells that were made.

    Attributes
    ----------
    obs
        Attributes of each.
    path
        Where they were written; None where they are in ``counts``.
    counts
        ``(n, f)`` int32 counts; None where they were written.
    var
        Features.
    facts
        Settings, evaluations of the velocity, notes; JSON-ready.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    counts: sp.csr_matrix | None
    path: Path | None
    facts: dict[str, Any] = field(default_factory=dict)

    def adata(self) -> Any:
        """The cells as an AnnData (read from the file where they were written)."""
        import anndata

        if self.counts is None:
            return anndata.read_h5ad(self.path)
        uns = {"syncyte": {"generate": json.dumps(json_ready(self.facts))}}
        return anndata.AnnData(self.counts, obs=self.obs, var=self.var, uns=uns)

    def table(self) -> pd.DataFrame:
        """Attributes of each cell."""
        return self.obs


@dataclass(frozen=True)
class Request:
    """What is asked of ``syncyte.generate``."""

    n: int = 1000
    where: Sequence[str] | Mapping[str, Any] = ()
    mode: str = "new"
    between: Sequence[Any] = ()
    stops: int = 5
    key: str | None = None
    least: int | None = None
    reference: Sequence[str] | Mapping[str, Any] = ()
    depth: str | float = "flow"
    features: str | Path | Sequence[str] | None = None
    seed: int = 0
    text: str | Sequence[str] = ()
    neighbours: int = 0


def make_cells(
    trained: Trained,
    request: Request,
    given: Cells | None,
    how: Mapping[str, Any],
    *,
    out: Path | None = None,
    quiet: bool = False,
) -> Generated | Result:
    """Do what is asked; see ``syncyte.generate``. ``how`` holds steps, guidance and further settings of the sampler."""
    trained.need_capability("generates", "generate cells")
    if request.mode not in MODES:
        raise ConfigError(unknown("mode", request.mode, MODES))
    sampling = read_sampling(**how)
    if given is None and request.mode in ("reconstruct", "denoise", "augment"):
        raise ConfigError(f"Mode {request.mode!r} starts from given cells: name them with --cells FILE.")
    notes: list[str] = []
    if given is not None and trained.modalities[0] in given.modalities:
        have = given.present(trained.modalities[0])
        if not have.all():
            notes.append(f"{int((~have).sum()):,} given cells have no {trained.modalities[0]} and are left out.")
            given = given.take(np.flatnonzero(have))
    if request.mode == "denoise":
        assert given is not None
        wanted = Path(request.features) if isinstance(request.features, str) else request.features
        return denoise_cells(trained, given, out=out, features=wanted, seed=request.seed, notes=notes)
    plan = _plan(trained, request, given, sampling)
    plan.facts["notes"].extend(notes)
    return draw_plan(trained, plan, request.depth, seed=request.seed, out=out, quiet=quiet)


def read_sampling(steps: int, guidance: float, settings: Sequence[str]) -> Sampling:
    """Settings of the sampler."""
    return Sampling.parse({"steps": steps, "guidance": guidance}).override(settings)


def _plan(trained: Trained, asked: Request, given: Cells | None, how: Sampling) -> Plan:
    """What a mode makes."""
    if isinstance(asked.text, str) or len(asked.text):
        return _said(trained, asked, how)
    attributes = coder_of(trained).attributes
    where, reference = read_where(asked.where, attributes), read_where(asked.reference, attributes)
    if asked.mode == "reconstruct":
        assert given is not None
        return plan_reconstruct(trained, given, asked.seed)
    if asked.mode == "augment":
        assert given is not None
        key = asked.key or trained.recipe.get("label_key")
        if key is None:
            raise ConfigError("Say which label is filled up with --key; the run was trained without a label key.")
        return plan_augment(trained, given, key, asked.least, how, asked.seed)
    if asked.mode == "interpolate":
        ends = [read_where(one, attributes) for one in asked.between]
        return plan_between(trained, asked.n, ends, asked.stops, how, asked.seed)
    nothing = asked.mode == "unconditional"
    return plan_new(trained, asked.n, where, how, asked.seed, reference=reference or None, unconditional=nothing)


def _said(trained: Trained, asked: Request, how: Sampling) -> Plan:
    """Cells of texts."""
    if asked.mode != "new" or asked.where:
        raise ConfigError("--text says all that is said of the cells: leave out --where and --mode.")
    texts = [asked.text] if isinstance(asked.text, str) else list(asked.text)
    return plan_said(trained, texts, asked.n, how, asked.seed, neighbours=asked.neighbours)


def log_totals(trained: Trained, depth: str | float, obs: pd.DataFrame, seed: int) -> NDArray[np.float32] | None:
    """``(n,)`` log totals that cells are given; None where they are generated with the cell.

    Raises
    ------
    ConfigError
        For anything but ``flow``, ``attributes`` and a number above 0.
    """
    if depth == "flow":
        return None
    if depth == "attributes":
        model = LibraryModel.from_dict(trained.recipe["library"])
        known = [name for name in model.effects if name in obs.columns]
        return model.sample(obs[known], np.random.default_rng([seed, LABELS, 1])).astype(np.float32)
    try:
        total = float(depth)
    except ValueError:
        total = 0.0
    if not total > 0:
        raise ConfigError(
            f"--depth {depth}: give 'flow' (generated with the cell), 'attributes' (as training cells with the same "
            "attributes have it), or the total count of every cell, above 0."
        )
    return np.full(len(obs), np.log(total), dtype=np.float32)


def draw_plan(
    trained: Trained,
    plan: Plan,
    depth: str | float = "flow",
    *,
    seed: int = 0,
    out: Path | None = None,
    quiet: bool = False,
) -> Generated:
    """Draw the counts of a plan, into a file where one is named."""
    name = trained.modalities[0]
    var = trained.vocabularies[name]
    before = 0 if plan.given is None else len(plan.given)
    totals = log_totals(trained, depth, plan.obs.iloc[before:], seed)

    def make(first: int, last: int) -> sp.csr_matrix:
        if plan.given is not None and first < before:
            real = plan.given.counts(name, np.arange(first, min(last, before)))
            return real if last <= before else sp.vstack([real, make(before, last)], format="csr")
        points = plan.points(first - before, last - before)
        if totals is not None:
            points = np.concatenate([points[:, :-1], totals[first - before : last - before, None]], axis=1)
        return draw_counts(trained, points, (seed, COUNTS, first))

    facts = {**plan.facts, "seed": seed, "depth": depth, "cells": len(plan.obs)}
    stamp = {"run": trained.recipe.get("fingerprint", ""), **facts}
    if out is None:
        return Generated(plan.obs, var, gather_blocks(len(plan.obs), make, BLOCK), None, facts)
    record = {**trained.provenance(plan.given, seed=seed), **facts}
    uns = {"syncyte": {"generate": json.dumps(json_ready(record), default=str)}}
    taken = write_blocks(out, plan.obs, var, make, size=BLOCK, stamp=stamp, uns=uns, quiet=quiet)
    return Generated(plan.obs, var, None, out, {**facts, "blocks_taken_up": taken})


def denoise_cells(
    trained: Trained,
    cells: Cells,
    *,
    out: Path | None = None,
    features: Path | Sequence[str] | None = None,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Result:
    """Expected counts of given cells at their own totals: smoother than cells, and no substitute for them.

    Parameters
    ----------
    out
        ``.h5ad`` whose X are the expectations; else they are a layer of the result.
    features
        Names, or a file of names, to restrict them to.
    """
    name = trained.modalities[0]
    columns, var = choose_features(trained, name, features)
    aligned = trained.align(cells)
    size = 4.0 * len(cells) * len(var)
    if size > MOST_BYTES:
        raise DataError(
            f"Expectations of {len(cells):,} cells x {len(var):,} features take {size / 1e9:.1f} GB. Restrict with "
            "--features FILE, or give fewer cells."
        )
    points = encode_points(trained, aligned)
    provenance = trained.provenance(aligned, seed=seed, mode="denoise", unit="expected counts at the total of the cell")
    provenance["notes"] = list(notes)
    blocks = (expected_counts(trained, points[first : first + BLOCK], columns) for first in range(0, len(cells), BLOCK))
    if out is None:
        layer = Layer(np.concatenate(list(blocks)), var.index, name)
        return Result("denoise", cells.names, layers={"syncyte_denoised": layer}, provenance=provenance)
    uns = {"syncyte": {"denoise": json.dumps(json_ready(provenance), default=str)}}
    with PredictionWriter(Path(out), cells.obs, var, uns=uns) as writer:
        for block in blocks:
            writer.append(block)
    return Result("denoise", cells.names, provenance=provenance)
