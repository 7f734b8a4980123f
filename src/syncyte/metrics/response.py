"""How well responses to perturbations were predicted, one row a unit (a perturbation in a context).

Profiles are means of log1p CP10K. A predicted effect is ``predicted - start``, a true one ``real - control``. Ranks are
among the units of one context, equal distances share theirs. Genes named by a perturbation are left out: their change
is known before.

=============================== ====== =========================================================================
score                           chance what it is
=============================== ====== =========================================================================
pearson_delta                          r of the effects; the shift that all perturbations share pays
pearson_delta_reference         0      r about the mean of training perturbations, which itself scores NaN
spearman_de, direction_match    0, 0.5 of the effects over really significant genes
effect_overlap                         really significant genes among as many largest predicted effects
de_overlap, _precision, _pr_auc        the same with predicted significance, as in cell-eval (``agreement``)
weighted_r2, _reference         < 0    of the true effect, weighted by real significance; about control, reference
pds_l1, pds_l2, pds_cosine      0.5    1 - rank / P of the own among P true effects; by chance (P + 1) / 2P
pds_centred                     0.5    the same by cosine, predictions and truths each about the mean of their own
centroid_accuracy               0.5    share of other real centroids farther than the own (Systema)
perturbench_rank                0.5    rank / P of the own among P predictions of one truth; 0 is best
mae, mse, weighted_mse                 of levels; ``mae_top`` on the 20, 50, 100 smallest real p values
=============================== ====== =========================================================================

Traps. Noise of control cells that both effects subtract correlates them: split the controls (``split_controls``), let
predictions start from one part and truth subtract another. What is about the control or about predicted cells can be
bought: ``pearson_delta`` and ``effect_overlap`` with the common shift, ``pds_l1`` and ``pds_l2`` with larger effects,
``pds_cosine`` with another start, ``de_*`` with larger effects or another spread. ``HEADLINE`` scores see predicted
means alone, without their start; ``pds_centred`` does not change with shift or scale either.
Leaves out: how effects are tested (``differential``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from syncyte.errors import DataError, unknown
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.metrics.differential import Differences, agreement, significance_weights
from syncyte.metrics.distribution import energy_distance, median_square, mmd2, wasserstein
from syncyte.metrics.ranking import check_finite

Numbers = NDArray[np.float64]
Perturbation = str | tuple[str, ...]

HEADLINE = ("pearson_delta_reference", "pds_centred", "weighted_r2_reference")
TOP = (20, 50, 100)
LOWER = ("mae", "mse", *(f"mae_top{k}" for k in TOP), "weighted_mse", "perturbench_rank")  # 0 is perfect
RANKED = ["pds_l1", "pds_l2", "pds_cosine", "pds_centred", "centroid_accuracy", "perturbench_rank"]
HIGHER = (  # 1 is perfect
    *("pearson_delta", "pearson_delta_reference", "spearman_de", "direction_match", "weighted_r2"),
    *("weighted_r2_reference", "effect_overlap", "de_overlap", "de_precision", "de_pr_auc", *RANKED[:5]),
)
STILL = 1e-6  # of the level: less than this is rounding, not an effect
TIE = 1e-9


def split_controls(rows: ArrayLike, rng: np.random.Generator, parts: int = 2) -> tuple[NDArray[np.int64], ...]:
    """Split the rows of control cells of one context at random, ``parts`` near-equal sorted sets apart from each other.

    Predictions start from the first, true effects subtract the second; a third is for a start that is itself compared.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if len(np.unique(rows)) != len(rows) or len(rows) < parts:
        raise DataError(
            f"Control cells cannot be split in {parts}: found {len(rows)} rows, {len(np.unique(rows))} different. "
            "Give every control cell of the context once."
        )
    return tuple(np.sort(part) for part in np.array_split(rng.permutation(rows), parts))


def check_controls(real: sp.spmatrix, predicted: sp.spmatrix) -> None:
    """Refuse a set of predicted cells whose control cells are not the real ones, bit for bit and in order.

    Effects are differences from controls, so altered ones move every score.
    """
    same = real.shape == predicted.shape and (sp.csr_matrix(real) != sp.csr_matrix(predicted)).nnz == 0
    if not same:
        raise DataError(
            f"The control cells beside the predictions {predicted.shape} are not the real ones {real.shape}. Copy the "
            "real control cells unchanged."
        )


def score_responses(
    predicted: ArrayLike,
    real: ArrayLike,
    control: ArrayLike,
    *,
    reference: ArrayLike,
    perturbations: Sequence[Perturbation],
    contexts: Sequence[str] | None = None,
    genes: ArrayLike | None = None,
    start: ArrayLike | None = None,
    differences: Differences | None = None,
    predicted_differences: Differences | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Score predicted mean profiles of perturbed cells.

    Parameters
    ----------
    predicted, real, control
        ``(p, g)`` mean log1p CP10K, one row a unit: the prediction, the measured cells, the control cells that are
        subtracted from the measured ones.
    reference
        ``(g,)`` mean of training perturbation centroids; ``(p, g)``, that of each unit's own context, where there is
        more than one (differences of contexts would count as effects otherwise).
    perturbations, contexts, genes
        ``(p,)``, ``(p,)``, ``(g,)`` names; a tuple is a combination. Without ``genes`` none is left out.
    start
        ``(p, g)`` mean of the control cells that the prediction began from; ``control`` by default, see the trap above.
    differences, predicted_differences
        Tests of real and of predicted cells, units and genes in the same order, best against different control cells.
        Without the first all that needs significant genes is NaN, without the second ``de_*`` alone.
    weights, alpha
        ``(p, g)`` weights from real cells alone (by default ``significance_weights`` of ``differences``), and the false
        discovery rate below which a gene is significant.

    Returns
    -------
    ``perturbation``, ``context``, ``significant`` (real number of genes) and the scores of the module. NaN where
    undefined: no variation, no significant gene, or a context of one unit (ranks).
    """
    arrays = _checked(predicted, real, control, reference, start)
    units, tests = _units(perturbations, contexts, len(arrays[0])), (differences, predicted_differences)
    known = None if genes is None else np.asarray(genes)
    if weights is None and differences is not None:
        weights = significance_weights(differences.statistic)
    share = None if weights is None else np.asarray(weights, dtype=np.float64)
    _check_fit(arrays[0].shape, known, share, *(None if test is None else test.fold for test in tests))
    targets = [np.flatnonzero(np.isin([] if known is None else known, one)) for one in perturbations]
    ranks = pd.DataFrame(np.nan, index=units.index, columns=RANKED)
    for own in units.groupby("context", sort=False).indices.values():
        if len(own) > 1:
            ranks.iloc[own] = _rank_scores([array[own] for array in arrays], [targets[i] for i in own])
    scores = pd.DataFrame(_unit_scores(arrays, targets, share, tests, alpha)).join(ranks)
    return units.join(scores.reindex(columns=["significant", *HIGHER, *LOWER]))


def summarise(
    table: pd.DataFrame,
    rng: np.random.Generator,
    baseline: pd.DataFrame | None = None,
    ceiling: pd.DataFrame | None = None,
    *,
    unit: str = "perturbation",
) -> pd.DataFrame:
    """Average ``score_responses`` over units, with intervals and skill, for all contexts and for each.

    Parameters
    ----------
    table, baseline, ceiling
        Scores of the model, of a cheap method, and of the other half of the real cells, for the same units. Without a
        ceiling a perfect score (1, or 0 for errors) stands for it.
    unit
        Column that is resampled: units that share it (one perturbation in many contexts) are drawn together.

    Returns
    -------
    One row a score and context (``all`` first): ``mean`` over finite units with ``low`` and ``high`` (95 %), ``units``,
    ``nan_rate``, the means of ``baseline`` and ``ceiling``, and ``skill = (model - baseline) / (ceiling - baseline)``
    over the units where all are finite. Its interval is that of the difference by unit, the gap to the ceiling held
    fixed; it is NaN where the ceiling is no better than the baseline.
    """
    if unit not in table.columns:
        raise DataError(unknown("column", unit, table.columns))
    others = {name: _aligned(table, other, name) for name, other in (("baseline", baseline), ("ceiling", ceiling))}
    where = {"all": np.ones(len(table), dtype=bool)}
    contexts = table["context"].unique()
    if len(contexts) > 1:
        where |= {str(context): (table["context"] == context).to_numpy() for context in contexts}
    rows = []
    for context, chosen in where.items():
        groups = table.loc[chosen, unit]
        for score in (*HIGHER, *LOWER):
            own = table.loc[chosen, score].to_numpy(np.float64)
            low, high = (
                None if frame is None else frame.loc[chosen, score].to_numpy(np.float64) for frame in others.values()
            )
            row = {"score": score, "context": context, **_interval(own, groups, rng, ("mean", "low", "high"))}
            row |= {"units": int(np.isfinite(own).sum()), "nan_rate": float(np.mean(~np.isfinite(own)))}
            rows.append(row | _skill(own, low, high, groups, rng, perfect=float(score in HIGHER)))
    return pd.DataFrame(rows)


def score_cells(
    real: ArrayLike, predicted: ArrayLike, rng: np.random.Generator, *, most: int = 1000, scale: float | None = None
) -> dict[str, float]:
    """Score predicted cells of one unit as a distribution, beside the floor of two halves of the real ones.

    Parameters
    ----------
    real, predicted
        ``(n, d)`` and ``(m, d)`` coordinates in a space fitted on training cells.
    most
        Cells of a set at most (an exact assignment is made).
    scale
        Median squared distance for the kernels of MMD; give one for all units that are averaged.

    Returns
    -------
    ``energy``, ``mmd2``, ``w2`` of as many predicted cells against half of the real ones, ``energy_floor``,
    ``mmd2_floor``, ``w2_floor`` of the other half against it, and ``cells``, the number in every set.
    """
    a, b = (np.asarray(points, dtype=np.float64) for points in (real, predicted))
    n = min(len(a) // 2, len(b), most)
    if n < 2:
        raise DataError(f"At least 4 real and 2 predicted cells are needed; found {len(a)} and {len(b)}.")
    order = rng.permutation(len(a))
    half, floor, made = a[order[:n]], a[order[n : 2 * n]], b[rng.permutation(len(b))[:n]]
    scale = median_square(a) if scale is None else scale
    scores: dict[str, float] = {}
    for suffix, other in (("", made), ("_floor", floor)):
        scores[f"energy{suffix}"] = energy_distance(half, other)
        scores[f"mmd2{suffix}"] = mmd2(half, other, scale=scale)
        scores[f"w2{suffix}"] = wasserstein(half, other)
    return scores | {"cells": float(n)}


def _checked(
    predicted: ArrayLike, real: ArrayLike, control: ArrayLike, reference: ArrayLike, start: ArrayLike | None
) -> list[Numbers]:
    """Predicted, real, control, reference and start as ``(p, g)`` float64."""
    given = (predicted, real, control, reference, control if start is None else start)
    arrays = [np.asarray(array, dtype=np.float64) for array in given]
    shape = arrays[0].shape
    if len(shape) != 2 or any(a.shape != shape for a in (*arrays[1:3], arrays[4])) or shape[1:] != arrays[3].shape[-1:]:
        raise DataError(
            "Predicted, real, control and start profiles must be (units, genes) alike, and the reference (genes,) or "
            f"(units, genes); found the shapes {', '.join(str(array.shape) for array in arrays)}."
        )
    for array in arrays:
        check_finite(array, "mean profiles")
    arrays[3] = np.broadcast_to(arrays[3], shape)
    return arrays


def _units(perturbations: Sequence[Perturbation], contexts: Sequence[str] | None, count: int) -> pd.DataFrame:
    """Names of the units, each of which may occur once."""
    names = ["+".join(sorted(one)) if isinstance(one, tuple) else str(one) for one in perturbations]
    places = ["all"] * count if contexts is None else [str(context) for context in contexts]
    if len(names) != count or len(places) != count:
        raise DataError(
            f"There are {count:,} profiles, {len(names):,} perturbations and {len(places):,} contexts; each profile "
            "needs one of both."
        )
    units = pd.DataFrame({"perturbation": names, "context": places})
    if units.duplicated().any():
        twice = units[units.duplicated()].iloc[0].tolist()
        raise DataError(f"The unit {twice} occurs more than once. Average its cells to one profile first.")
    return units


def _check_fit(shape: tuple[int, ...], genes: NDArray | None, *given: NDArray | None) -> None:
    """Names, weights and tests must be those of the profiles."""
    found = [each.shape for each in given if each is not None]
    if any(each != shape for each in found) or (genes is not None and genes.shape != shape[1:]):
        raise DataError(
            f"Gene names must be {shape[1:]} and weights and tests {shape}, as the profiles are; found "
            f"{None if genes is None else genes.shape} and {found}. Take all from the same genes and units."
        )


def _pearson(first: Numbers, second: Numbers, level: float) -> float:
    """Correlation over genes; NaN where a side varies by less than rounding at this level."""
    if len(first) < 3 or min(first.std(), second.std()) <= STILL * level:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _unit_scores(
    arrays: list[Numbers], targets: list[NDArray], weights: Numbers | None, tests: tuple[Any, Any], alpha: float
) -> Iterator[dict[str, float]]:
    """Correlations, errors and changed genes of each unit."""
    for i, drop in enumerate(targets):
        keep = np.setdiff1d(np.arange(arrays[0].shape[1]), drop)
        predicted, truth, control, reference, start = (array[i, keep] for array in arrays)
        tested, predicted_test = (None if test is None else test.of(i, keep) for test in tests)
        effect, error = truth - control, predicted - truth
        level = float(np.sqrt(np.mean(truth**2)))
        order = np.argsort(-np.abs(effect)) if tested is None else np.lexsort((-np.abs(tested.fold), tested.p_value))
        scores = {
            "pearson_delta": _pearson(predicted - start, effect, level),
            "pearson_delta_reference": _pearson(predicted - reference, truth - reference, level),
            "mae": float(np.abs(error).mean()),
            "mse": float(np.mean(error**2)),
            **{f"mae_top{k}": float(np.abs(error[order[:k]]).mean()) for k in TOP},
        }
        if weights is not None and weights[i, keep].sum() > 0:
            share = weights[i, keep] / weights[i, keep].sum()
            scores["weighted_mse"] = float(share @ error**2)
            for name, shift in (("weighted_r2", effect), ("weighted_r2_reference", truth - reference)):
                spread = float(share @ (shift - share @ shift) ** 2)
                scores[name] = 1 - scores["weighted_mse"] / spread if spread > (STILL * level) ** 2 else float("nan")
        if tested is not None:
            scores |= agreement(tested, effect, predicted - start, predicted_test, alpha=alpha)
        yield scores


def _rank_scores(arrays: list[Numbers], targets: list[NDArray[np.int64]]) -> Numbers:
    """Columns of ``RANKED`` among the units of one context."""
    predicted, truth, control, _, start = arrays
    count, level, middle = len(truth), np.sqrt(np.mean(truth**2)), truth.mean(axis=0)
    pairs = [(predicted - start, truth - control, kind) for kind in ("l1", "l2", "cosine")]
    pairs += [(predicted - predicted.mean(axis=0), truth - middle, "cosine")]
    moved = [np.where((made**2).mean(axis=1, keepdims=True) > (STILL * level) ** 2, made, 0.0) for made, _, _ in pairs]
    scores = [1 - _rank(_distances(made, true, targets, kind)) / count for made, (_, true, kind) in zip(moved, pairs)]
    guess, centre = predicted - middle, truth - middle  # levels are large, their differences small
    accuracy = 1 - _rank(_distances(guess, centre, targets, "l2")) / (count - 1)
    return np.column_stack([*scores, accuracy, _rank(_distances(centre, guess, targets, "l2")) / count])


def _distances(first: Numbers, second: Numbers, targets: list[NDArray[np.int64]], kind: str) -> Numbers:
    """``(p, q)`` distances (squared for l2), each row without the genes that its unit names."""
    rows = np.repeat(np.arange(len(targets)), [len(drop) for drop in targets])
    columns = np.concatenate(targets)
    near, far = first[rows, columns][:, None], second[:, columns].T

    def without(whole: Numbers, part: Numbers) -> Numbers:
        left = np.array(np.broadcast_to(whole, (len(first), len(second))))
        np.subtract.at(left, rows, part)
        return left

    if kind == "l1":
        return without(cdist(first, second, "cityblock"), np.abs(near - far))
    squares = (first**2).sum(axis=1)[:, None], (second**2).sum(axis=1)[None]
    dot, own, other = without(first @ second.T, near * far), without(squares[0], near**2), without(squares[1], far**2)
    if kind == "l2":
        return own + other - 2 * dot
    turned = (own > 1e-12 * squares[0]) & (other > 1e-12 * squares[1])  # no effect has no direction
    return np.where(turned, -dot / np.sqrt(np.where(turned, own * other, 1.0)), 0.0)


def _rank(distances: Numbers) -> Numbers:
    """How many others are nearer than the own, which is on the diagonal; equal ones count half."""
    own = np.diag(distances)[:, None]
    slack = TIE * np.abs(distances).max(axis=1, keepdims=True)
    nearer, same = distances < own - slack, np.abs(distances - own) <= slack
    return nearer.sum(axis=1) + (same.sum(axis=1) - 1) / 2


def _aligned(table: pd.DataFrame, other: pd.DataFrame | None, name: str) -> pd.DataFrame | None:
    """Rows of another table in the order of the units of this one."""
    if other is None:
        return None
    keys = ["perturbation", "context"]
    found = other.set_index(keys)
    wanted = pd.MultiIndex.from_frame(table[keys])
    if not found.index.is_unique or not wanted.isin(found.index).all():
        raise DataError(
            f"The {name} has not the same units: {int(wanted.isin(found.index).sum())} of {len(wanted)} are among its "
            f"{len(found)}. Score all methods on the same units."
        )
    return found.loc[wanted].reset_index()


def _interval(values: Numbers, groups: pd.Series, rng: np.random.Generator, names: tuple[str, ...]) -> dict[str, float]:
    """Mean of the finite values and its interval, by resampling whole groups of units."""
    known = np.isfinite(values)
    if not known.any():
        return dict.fromkeys(names, float("nan"))
    by_unit = pd.Series(values[known]).groupby(groups.to_numpy()[known], sort=False).agg(["mean", "size"])
    found = bootstrap_interval(by_unit["mean"], rng, weights=by_unit["size"])
    return dict(zip(names, (found.mean, found.low, found.high)))


def _skill(
    own: Numbers, low: Numbers | None, high: Numbers | None, groups: pd.Series, rng: np.random.Generator, perfect: float
) -> dict[str, float]:
    """Skill over the baseline by the gap to the ceiling, with its interval."""
    names = ("skill", "skill_low", "skill_high")
    if low is None:
        return dict.fromkeys(("baseline", "ceiling", *names), float("nan"))
    top = np.full(len(own), perfect) if high is None else high
    means = {
        name: float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
        for name, values in (("baseline", low), ("ceiling", top))
    }
    known = np.isfinite(own) & np.isfinite(low) & np.isfinite(top)
    gap = float((top - low)[known].mean()) if known.any() else 0.0
    if gap * (1 if perfect else -1) <= 0:
        return means | dict.fromkeys(names, float("nan"))
    return means | _interval(np.where(known, (own - low) / gap, np.nan), groups, rng, names)
