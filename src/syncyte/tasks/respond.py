"""How given control cells would look under a perturbation: three ways behind one call.

- ``transport``: the code of each cell goes back to noise along the flow under its own condition and forth under the
  target's, so that what makes the cell itself is kept (inversion of the flow, as DDIM does it).
- ``flow``: new cells from noise under the target's condition, guided away from the control where asked.
- ``regression``: effects of all measured pairs of perturbation and context are one regression (``baselines.effects``),
  and the expected shares of each cell are moved by what it says of the asked pair, measured or not.

Effects are told between two predictions from the same cells and the same noise, one under the target and one under the
control, so that errors of the decoder cancel. Leaves out: files (``tasks.perturb``), scores (``compare_perturb``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from syncyte.baselines.effects import Effect, EffectModel, expected_log, share_for
from syncyte.baselines.groups import Groups
from syncyte.baselines.prediction import SCALE, column_means, log_cp10k
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.models.conditions import FEATURES, ConditionCoder
from syncyte.tasks.draw import BLOCK, Sampling, coder_of, draw_counts, draw_points, follow, generator_of
from syncyte.tasks.trained import Trained

METHODS = ("regression", "transport", "flow")
Target = tuple[str, ...]  # values of the key that are put on together


def parts_of(target: str | Target) -> Target:
    """``A+B`` as its parts."""
    return target if isinstance(target, tuple) else tuple(part.strip() for part in target.split("+"))


@dataclass(frozen=True)
class Book:
    """What a run knows of one attribute's effects.

    Attributes
    ----------
    key, control
        Attribute and its control value.
    groups
        Training groups by context and value.
    effects
        Regression over all of them.
    contexts
        Attributes that make the context.
    vectors
        Given feature vectors of values, where the flow was trained on as many features; else empty.
    """

    key: str
    control: str
    groups: Groups
    effects: EffectModel
    contexts: list[str]
    vectors: pd.DataFrame = field(default_factory=pd.DataFrame)

    def context_of(self, table: pd.DataFrame) -> NDArray[Any]:
        """Context of cells."""
        if not self.contexts:
            return np.full(len(table), "all")
        missing = pd.Series("", index=table.index)
        columns = [table[name].astype(str) if name in table.columns else missing for name in self.contexts]
        return pd.concat(columns, axis=1).agg(" | ".join, axis=1).to_numpy()

    def effect(self, target: Target, profile: NDArray[np.float64]) -> Effect:
        """Effect of a target in a context with this profile; combinations add."""
        found = [self.effects.effect(part, profile) for part in target]
        if len(found) == 1:
            return found[0]
        value = np.sum([one.value for one in found], axis=0)
        error = np.sqrt(np.sum([one.error**2 for one in found], axis=0))
        return Effect(value, error, sum(one.depth for one in found), min(one.measured for one in found))

    def words(self, target: Target) -> list[str]:
        """Where the effect of a target comes from, where that is not plain."""
        said = []
        for part in target:
            if part in self.effects.perturbations:
                continue
            features = part in self.effects.features.index
            weight = self.effects.over_perturbations.feature if features else 0.0
            if weight:
                said.append(f"{part} was never seen: its effect comes from features of perturbations.")
            elif features:
                said.append(
                    f"{part} was never seen, and features did not help to predict left-out perturbations: it gets "
                    "the mean effect of all."
                )
            else:
                said.append(f"{part} was never seen and has no features: it gets the mean effect of all perturbations.")
        return said


def open_book(
    trained: Trained,
    key: str,
    control: str,
    features: pd.DataFrame | None = None,
    contexts: Sequence[str] | None = None,
) -> Book:
    """Effects of an attribute from what the run keeps of its training cells.

    Raises
    ------
    DataError
        For an attribute or control value the run does not know, or one without any other value.
    """
    attributes = coder_of(trained).attributes
    if key not in attributes or not attributes[key].categorical:
        raise DataError(unknown("condition of this run", key, [n for n, one in attributes.items() if one.categorical]))
    if control not in attributes[key].levels:
        raise DataError(unknown(f"control value of {key!r}", control, attributes[key].levels))
    if "groups.means" not in trained.arrays:
        raise DataError(
            f"The run {trained.path} kept no group means (too many combinations of conditions). Train it with fewer "
            "--condition-keys to predict responses."
        )
    table = pd.DataFrame(trained.recipe["groups"]["values"]).astype(str)
    cells = np.asarray(trained.recipe["groups"]["cells"], dtype=np.int64)
    whole = Groups(table, cells, *(trained.arrays[f"groups.{name}"] for name in ("totals", "means", "variances")))
    others = [name for name in table.columns if name != key] if contexts is None else list(contexts)
    groups = whole.collapse(key, others)
    names, vectors = sorted(set(groups.table["perturbation"])), pd.DataFrame()
    trusted = features is not None
    if features is None:
        features = gene_features(trained, names)
    else:
        check_features(features, key, names)
        vectors = features if features.shape[1] == attributes[key].features else vectors
    effects = EffectModel(groups, control, features, trusted=trusted)
    if not effects.names:
        raise DataError(
            f"No training cell is perturbed beside control cells of the same {' and '.join(others) or 'kind'}: the run "
            f"knows {key!r} = {', '.join(names)}. Train on both."
        )
    return Book(key, control, groups, effects, others, vectors)


def check_features(features: pd.DataFrame, key: str, names: Sequence[str]) -> None:
    """Refuse a table of features that names none of the values with effects."""
    if not features.index.isin(names).any():
        raise DataError(
            f"The table of features names {', '.join(map(str, features.index[:3]))} ..., none of which is a known "
            f"value of {key!r} ({', '.join(names[:3])} ...). Its first column should hold these values."
        )


def gene_features(trained: Trained, names: Sequence[str]) -> pd.DataFrame:
    """Vectors of perturbed genes: their rows in the decoder, for every gene of the run where some targets are genes."""
    var = trained.vocabularies[trained.modalities[0]].index.astype(str)
    if sum(name in var for name in names) < 3:
        return pd.DataFrame()
    return pd.DataFrame(trained.model.decoder.table.detach().cpu().numpy(), index=var)


@dataclass(frozen=True)
class Response:
    """Predicted cells of one target.

    Attributes
    ----------
    counts
        ``(n, f)`` int32, one predicted cell a control cell.
    effect
        ``(n, f)``-mean of log1p CP10K under the target minus under the control, from the same cells and noise.
    error
        ``(f,)`` standard error of the effect, of the regression.
    words
        What should be known of it.
    """

    counts: sp.csr_matrix
    effect: NDArray[np.float64]
    error: NDArray[np.float64]
    words: list[str] = field(default_factory=list)


def predict_response(
    trained: Trained,
    book: Book,
    counts: sp.csr_matrix,
    points: NDArray[np.float32],
    table: pd.DataFrame,
    target: str | Target,
    method: str,
    how: Sampling,
    seed: int,
) -> Response:
    """Predict cells under a target from control cells.

    Parameters
    ----------
    counts, points
        ``(n, f)`` counts of the control cells, and ``(n, z + 1)`` their codes and log totals.
    table
        Their attributes.
    method
        One of ``METHODS``; a target that the flow was never told of is predicted by regression, and words say so.
    """
    if method not in METHODS:
        raise ConfigError(unknown("method", method, METHODS))
    parts, words = parts_of(target), []
    strange = [part for part in parts if part not in coder_of(trained).attributes[book.key].levels]
    if method != "regression" and not all(part in book.vectors.index for part in strange):
        words.append(f"{'+'.join(parts)} was never seen by the flow: predicted by regression instead.")
        method = "regression"
    elif method != "regression":
        words += [f"{part} was never seen: the flow is told its features." for part in strange]
    words += book.words(parts) if method == "regression" else []
    contexts, logs = book.context_of(table), log_cp10k(counts)
    effects = {}
    for context in np.unique(contexts):
        effects[context] = book.effect(parts, column_means(logs[contexts == context]))
    share = {context: float(np.mean(contexts == context)) for context in effects}
    error = np.sqrt(np.sum([share[context] * one.error**2 for context, one in effects.items()], axis=0))
    if method == "regression":
        made = _regressed(trained, points, contexts, effects, seed)
        change = np.sum([share[context] * one.value for context, one in effects.items()], axis=0)
        return Response(made, change, error, words)
    pair = []
    for under in (parts, (book.control,)):
        moved = _moved(trained, book, points, table, under, method, how, seed)
        blocks = [draw_counts(trained, moved[at : at + BLOCK], (seed, 5, at)) for at in range(0, len(moved), BLOCK)]
        pair.append(sp.vstack(blocks, format="csr"))
    return Response(pair[0], mean_logs(pair[0]) - mean_logs(pair[1]), error, words)


def mean_logs(counts: sp.csr_matrix) -> NDArray[np.float64]:
    """``(f,)`` mean log1p CP10K."""
    return column_means(log_cp10k(counts))


@torch.inference_mode()
def _regressed(
    trained: Trained, points: NDArray[np.float32], contexts: NDArray[Any], effects: dict[str, Effect], seed: int
) -> sp.csr_matrix:
    """Counts around the expected shares of each cell, moved so that means of log values change by the effects.

    The change is made to log1p of shares per 10,000, the same for all cells of a context, and found by asking at which
    share cells of the mean depth would have the wanted mean.
    """
    model, device = trained.model, trained.device
    dispersion = model.log_dispersion.exp().cpu().numpy().astype(np.float64)
    found, places = [], []
    for context, effect in effects.items():
        rows = np.flatnonzero(contexts == context)
        total = float(np.exp(points[rows, -1].astype(np.float64).mean()))
        blocks = [torch.from_numpy(points[some]).to(device) for some in np.array_split(rows, -(-len(rows) // BLOCK))]
        mean = np.mean([model.log_shares(some[:, :-1]).exp().mean(dim=0).cpu().numpy() for some in blocks], axis=0)
        before = expected_log(mean.astype(np.float64), total, dispersion)
        after = share_for(before + effect.value, total * np.exp(effect.depth), dispersion)
        shift = torch.from_numpy(np.log1p(SCALE * after) - np.log1p(SCALE * mean)).float().to(device)
        for number, some in enumerate(blocks):
            level = torch.log1p(SCALE * model.log_shares(some[:, :-1]).exp()) + shift
            share = torch.expm1(level).clamp_min(1e-9)
            log_share = (share / share.sum(dim=1, keepdim=True)).log()
            generator = generator_of(device, seed, 6, int(rows[0]), number)
            counts = model.draw(some[:, :-1], some[:, -1] + effect.depth, generator, log_share)
            found.append(sp.csr_matrix(counts.cpu().numpy().astype(np.int32)))
        places.append(rows)
    order = np.argsort(np.concatenate(places))
    return sp.vstack(found, format="csr")[order]


def _moved(
    trained: Trained,
    book: Book,
    points: NDArray[np.float32],
    table: pd.DataFrame,
    target: Target,
    method: str,
    how: Sampling,
    seed: int,
) -> NDArray[np.float32]:
    """Codes and log totals under a target: from noise, or carried over from the control cells."""
    model, device, coder = trained.model, trained.device, coder_of(trained)
    bare = table.drop(columns=[book.key], errors="ignore")
    start = coder.arrays(bare.assign(**{book.key: book.control}), strict=False)
    found = []
    for first in range(0, len(points), BLOCK):
        rows = slice(first, first + BLOCK)
        own = {name: values[rows] for name, values in start.items()}
        ends = []
        for part in target:
            other = _told(coder, book, bare.iloc[rows], part)
            if method == "flow":
                key = (seed, 4, first)
                control = own if how.kind == "referenced" else None
                ends.append(draw_points(trained, other, how, key, cells=len(points[rows]), control=control))
                continue
            state = model.flow.standardise(torch.from_numpy(np.ascontiguousarray(points[rows])).to(device))
            before = coder.tensors(own, device)
            noise = follow(model, state, before, Sampling(steps=how.steps), backward=True)
            moved = follow(model, noise, coder.tensors(other, device), how, control=before)
            ends.append(model.flow.restore(moved).cpu().numpy())
        if len(ends) == 1:
            found.append(ends[0])
            continue
        if method == "flow":
            key = (seed, 4, first)
            base = draw_points(trained, own, how, key, cells=len(points[rows]), control=own)
        else:
            base = points[rows]
        found.append(base + sum(end - base for end in ends))  # combinations add up in the space of codes
    return np.concatenate(found)


def _told(coder: ConditionCoder, book: Book, table: pd.DataFrame, part: str) -> dict[str, NDArray]:
    """What the flow is told of cells under a value; of one that it never saw, the features."""
    arrays = coder.arrays(table.assign(**{book.key: part}), strict=False)
    if part not in coder.attributes[book.key].levels:
        vector = book.vectors.loc[part].to_numpy(dtype=np.float32)
        arrays[book.key + FEATURES] = np.tile(vector, (len(table), 1))
    return arrays
