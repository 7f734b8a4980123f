"""Cheap predictions of the mean response to a perturbation, which any model of responses must beat.

Everything is a mean of log1p CP10K over the cells of a group (context x perturbation). With ``m_c0`` the control mean
of context c and ``m_cp`` that of cells under p, an effect is ``d_cp = m_cp - m_c0``; a prediction is control mean plus
effect. The one to beat is, for a known perturbation in a new pair, the mean effect over contexts; for a new one the
mean of all effects; for a combination the sum of single effects (Ahlmann-Eltze et al. 2025, Nature Methods; Systema:
Vinas Torne et al. 2025, Nature Biotechnology).

All have one surface: ``fit(groups, means, control)``, ``predict(context, perturbation, control_mean)``, ``knows``. A
perturbation is a name, or several as a tuple. Groups count alike however many cells they have, but in ``Additive``.
Leaves out: cells (draw them around the mean) and scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from syncyte.baselines.prediction import log_cp10k
from syncyte.errors import ConfigError, DataError, unknown

Numbers = NDArray[np.float64]
Perturbation = str | tuple[str, ...]
Key = tuple[str, ...]
Features = pd.DataFrame | None
Genes = ArrayLike | None

ROWS = 4096  # cells whose values are summed at once
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


def fit_means(
    counts: sp.csr_matrix, contexts: Sequence[str], perturbations: Sequence[Perturbation]
) -> tuple[pd.DataFrame, Numbers, Numbers]:
    """Means and variances of log1p CP10K of every group of cells, in one pass over blocks of rows.

    Parameters
    ----------
    counts
        ``(n, g)`` sparse raw counts.
    contexts, perturbations
        ``(n,)`` labels of the cells; a tuple is a combination.

    Returns
    -------
    ``groups`` (``context``, ``perturbation``, ``cells``), sorted; their ``(groups, g)`` means and unbiased variances
    over cells (NaN for one cell).
    """
    places, kinds = (pd.Series(list(column), dtype=object) for column in (contexts, perturbations))
    if not len(places) == len(kinds) == counts.shape[0] or places.isna().any() or kinds.isna().any():
        raise DataError(
            f"Each of {counts.shape[0]:,} cells needs a context and a perturbation; found {places.count():,} and "
            f"{kinds.count():,} labels that are not missing. Leave out the cells without labels."
        )
    names = ["\x1f".join(_key(one)) for one in kinds]
    labels = pd.DataFrame({"context": places.astype(str), "perturbation": kinds, "name": names})
    grouped = labels.groupby(["context", "name"], sort=True)
    codes, groups = grouped.ngroup().to_numpy(), grouped["perturbation"].agg(["first", "size"]).reset_index()
    sums, squares = np.zeros((2, len(groups), counts.shape[1]))
    matrix = sp.csr_matrix(counts)
    for start in range(0, len(codes), ROWS):
        block = log_cp10k(matrix[start : start + ROWS]).astype(np.float64)
        own = codes[start : start + ROWS]
        member = sp.csr_matrix((np.ones(len(own)), (own, np.arange(len(own)))), (len(groups), len(own)))
        for total, values in ((sums, block), (squares, block.power(2))):
            part = (member @ values).tocoo()
            total[part.row, part.col] += part.data
    cells = groups["size"].to_numpy()[:, None]
    means = sums / cells
    spread = np.maximum(squares - cells * means**2, 0.0) / np.where(cells > 1, cells - 1, np.nan)
    return groups.drop(columns="name").set_axis(["context", "perturbation", "cells"], axis=1), means, spread


class ResponseBaseline(ABC):
    """What the predictors share; each says how it learns and what effect it predicts.

    ``rule``: what becomes of a combination that is not known itself: asked for as it is, or sum or mean of its parts.
    ``strict``: unknown perturbations are refused, not guessed.

    Fitted: ``starts``, control mean by context; ``pairs``, row by context and perturbation of ``centroids`` and
    ``effects`` ``(n, g)``; ``mean_effects`` by perturbation over contexts; ``typical``, the mean of all effects.
    """

    name: str
    rule: ClassVar[Literal["own", "sum", "mean"]] = "own"
    strict: ClassVar[bool] = False

    def fit(self, groups: pd.DataFrame, means: ArrayLike, control: str) -> Self:
        """Learn from ``means`` ``(groups, g)`` of ``groups`` (``context``, ``perturbation``, ``cells``).

        Every context needs a group with the ``control`` label, and one group must be perturbed.
        """
        if not {"context", "perturbation", "cells"} <= set(groups):
            raise DataError(f"Groups need the columns context, perturbation and cells; found {list(groups)}.")
        values, self.control = np.asarray(means, dtype=np.float64), (control,)
        pairs = list(zip(groups["context"].astype(str), map(_key, groups["perturbation"])))
        if values.shape[:1] != (len(pairs),) or len(set(pairs)) != len(pairs) or not np.isfinite(values).all():
            raise DataError(
                f"Each group needs one row of finite means and must occur once; found {len(pairs)} groups, "
                f"{len(set(pairs))} different, and means of the shape {values.shape}. Make both with fit_means."
            )
        self.starts = {place: row for (place, key), row in zip(pairs, values) if key == self.control}
        chosen = [i for i, (_, key) in enumerate(pairs) if key != self.control]
        bare = sorted({pairs[i][0] for i in chosen} - set(self.starts))
        if bare or not chosen:
            raise DataError(
                f"Effects are differences from cells labelled {control!r}: {len(chosen)} groups are perturbed, and "
                f"their contexts {bare} have no such cells. Give both, or leave these contexts out."
            )
        self.pairs = {pairs[i]: row for row, i in enumerate(chosen)}
        self.centroids = values[chosen]
        self.effects = self.centroids - np.stack([self.starts[place] for place, _ in self.pairs])
        rows: dict[Key, list[int]] = {}
        for (_, key), row in self.pairs.items():
            rows.setdefault(key, []).append(row)
        self.mean_effects = {key: self.effects[own].mean(axis=0) for key, own in rows.items()}
        self.typical, self.cells = self.effects.mean(axis=0), dict(zip(pairs, groups["cells"].astype(float)))
        self.known = self._learn()
        return self

    def knows(self, perturbation: Perturbation) -> bool:
        """Whether anything of this perturbation was learned, so that it is not answered by an average over others."""
        key = _key(perturbation)
        return key in self.known or (self.rule != "own" and all((part,) in self.known for part in key))

    def predict(self, context: str, perturbation: Perturbation, control_mean: ArrayLike | None = None) -> Numbers:
        """Mean log1p CP10K of perturbed cells, ``(g,)``.

        Parameters
        ----------
        context, perturbation
            Where, and a name or a tuple of several.
        control_mean
            ``(g,)`` control mean to start from, which a context without training cells needs; that of training else.

        Raises
        ------
        DataError
            For a context without control mean, and for an unknown perturbation where the class is strict.
        """
        key, start = _key(perturbation), self.starts.get(context) if control_mean is None else control_mean
        if start is None:
            raise DataError(f"{unknown('context', context, self.starts)} For a new one pass its control_mean.")
        start = np.array(start, dtype=np.float64)
        if start.shape != self.typical.shape:
            raise DataError(f"The control mean must be {self.typical.shape}, as in training; found {start.shape}.")
        if key == self.control:
            return start
        if self.strict and not self.knows(perturbation):
            raise DataError(unknown("perturbation", "+".join(key), map("+".join, self.known)))
        parts = [key] if key in self.known or self.rule == "own" else [(part,) for part in key]
        effects = [self._effect(context, part, start) for part in parts]
        return start + (np.mean(effects, axis=0) if self.rule == "mean" else np.sum(effects, axis=0))

    @abstractmethod
    def _learn(self) -> set[Key]:
        """Learn, and return which perturbations are known."""

    @abstractmethod
    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        """Difference from the control mean ``start``."""


class NoChange(ResponseBaseline):
    """The control mean: what a model must beat to claim any effect."""

    name = "no_change"

    def _learn(self) -> set[Key]:
        return set()

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        return np.zeros_like(start)


class PerturbedMean(ResponseBaseline):
    """Mean of the centroids of perturbed cells, whatever the perturbation: over all contexts, or of the own context.

    ``by_context``: a context without perturbed cells gets its control mean and the mean of all effects.
    """

    def __init__(self, by_context: bool = False) -> None:
        self.by_context = by_context
        self.name = "perturbed_mean_of_context" if by_context else "perturbed_mean"

    def _learn(self) -> set[Key]:
        return set()

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        rows = [row for (place, _), row in self.pairs.items() if not self.by_context or place == context]
        return self.centroids[rows].mean(axis=0) - start if rows else self.typical


class MeanAcrossContexts(ResponseBaseline):
    """Control mean plus mean effect of the perturbation over training contexts; an unknown one gets that of all."""

    name = "mean_across_contexts"

    def _learn(self) -> set[Key]:
        return set(self.mean_effects)

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        return self.mean_effects.get(key, self.typical)


class Additive(ResponseBaseline):
    """``d_cp = a + u_c + w_p`` by ridge on u and w, effects weighted by precision; an unseen context has ``u = 0``.

    A combination that was not trained on gets the sum of the effects of its parts.
    """

    name, rule, strict = "additive", "sum", True

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = penalty

    def _learn(self) -> set[Key]:
        names = dict.fromkeys([*(place for place, _ in self.pairs), *self.mean_effects])
        self.place = {name: 1 + i for i, name in enumerate(names)}
        columns = np.ravel([[0, self.place[context], self.place[key]] for context, key in self.pairs])
        rows = np.repeat(np.arange(len(self.pairs)), 3)
        design = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(self.pairs), 1 + len(names)))
        noise = [1 / self.cells[pair] + 1 / self.cells[pair[0], self.control] for pair in self.pairs]
        weighted = design.T.multiply(len(noise) / np.sum(1 / np.array(noise)) / np.array(noise)).tocsr()
        ridge = np.diag(np.r_[1e-9, np.full(len(names), self.penalty)])
        self.terms = np.linalg.solve((weighted @ design).toarray() + ridge, weighted @ self.effects)
        return set(self.mean_effects)

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        own = self.terms[self.place[context]] if context in self.place else 0.0
        return self.terms[0] + own + self.terms[self.place[key]]


class AdditiveCombination(ResponseBaseline):
    """Control mean plus the single effects of all parts: of the own context where trained, else over contexts."""

    name, rule, strict = "additive_combination", "sum", True

    def _learn(self) -> set[Key]:
        return {key for key in self.mean_effects if len(key) == 1}

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        row = self.pairs.get((context, key))
        return self.mean_effects[key] if row is None else self.effects[row]


class MatchingMean(ResponseBaseline):
    """Mean of the centroids of the parts of a combination (Systema); an unseen part counts as the mean of all effects.

    The centroid of a part that its context was not trained with is the control mean plus its effect over contexts.
    """

    name, rule = "matching_mean", "mean"

    def _learn(self) -> set[Key]:
        return {key for key in self.mean_effects if len(key) == 1}

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        row = self.pairs.get((context, key))
        return self.mean_effects.get(key, self.typical) if row is None else self.centroids[row] - start


class Bilinear(ResponseBaseline):
    """``effect = b + A K f_p`` by ridge on both sides (Ahlmann-Eltze et al. 2025); singles only, combinations add.

    ``A`` holds ``width`` leading components of genes over training profiles, ``f`` features (columns) of perturbations
    (index); the best come from another data set. Without any, a perturbation that is among the ``genes`` has the row of
    its gene in ``A``. Controls count as one more perturbation without features or effect, as in the released code.
    """

    name, rule, strict = "bilinear", "sum", True

    def __init__(self, features: Features = None, genes: Genes = None, width: int = 10, penalty: float = 0.1) -> None:
        if features is None and genes is None:
            raise ConfigError("The bilinear baseline needs features of perturbations or names of genes; found neither.")
        self.features, self.genes, self.width, self.penalty = features, genes, width, penalty

    def _learn(self) -> set[Key]:
        levels = np.stack([*self.mean_effects.values(), np.zeros_like(self.typical)])
        levels += np.mean(list(self.starts.values()), axis=0)
        levels -= levels.mean(axis=1, keepdims=True)
        vectors = np.linalg.eigh(levels @ levels.T)[1][:, ::-1]
        genes = levels.T @ vectors[:, : self.width]
        table = pd.DataFrame(genes, index=np.asarray(self.genes)) if self.features is None else self.features
        self.embedded, known, wanted = _embedded(table, self.mean_effects)
        known, wanted = (np.vstack([part, np.zeros(part.shape[1])]).T for part in (known, wanted))
        self.centre = wanted.mean(axis=1)
        left = np.linalg.solve(genes.T @ genes + self.penalty * np.eye(genes.shape[1]), genes.T)
        right = np.linalg.solve(known @ known.T + self.penalty * np.eye(len(known)), known)
        self.slope = genes @ (left @ (wanted - self.centre[:, None]) @ right.T)
        return set(self.embedded)

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        return self.centre + self.slope @ self.embedded[key]


class NearestPerturbation(ResponseBaseline):
    """Mean effect of ``neighbours`` training perturbations nearest in standardised ``features``; combinations add."""

    name, rule, strict = "nearest", "sum", True

    def __init__(self, features: pd.DataFrame, neighbours: int = 1) -> None:
        self.features, self.neighbours = features, neighbours

    def _learn(self) -> set[Key]:
        self.embedded, self.points, self.wanted = _embedded(self.features, self.mean_effects, standard=True)
        return set(self.embedded)

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        distances = ((self.points - self.embedded[key]) ** 2).sum(axis=1)
        return self.wanted[np.argsort(distances, kind="stable")[: self.neighbours]].mean(axis=0)


class KernelRidge(ResponseBaseline):
    """Gaussian kernel ridge on standardised ``features``, penalty by leave-one-out error; combinations add.

    The kernel is as wide as the median distance of training perturbations.
    """

    name, rule, strict = "kernel_ridge", "sum", True

    def __init__(self, features: pd.DataFrame) -> None:
        self.features = features

    def _learn(self) -> set[Key]:
        self.embedded, self.points, wanted = _embedded(self.features, self.mean_effects, standard=True)
        squares = cdist(self.points, self.points, "sqeuclidean")
        self.width = max(float(np.median(squares[~np.eye(len(squares), dtype=bool)])), 1e-12)
        self.centre, best = wanted.mean(axis=0), np.inf
        values, vectors = np.linalg.eigh(np.exp(-squares / (2 * self.width)))
        for penalty in PENALTIES:
            inverse = (vectors / (np.maximum(values, 0.0) + penalty)) @ vectors.T
            dual = inverse @ (wanted - self.centre)
            error = float(np.sum((dual / np.diag(inverse)[:, None]) ** 2))  # of each effect, predicted without it
            if error < best:
                best, self.penalty, self.dual = error, penalty, dual
        return set(self.embedded)

    def _effect(self, context: str, key: Key, start: Numbers) -> Numbers:
        squares = ((self.points - self.embedded[key]) ** 2).sum(axis=1)
        return self.centre + np.exp(-squares / (2 * self.width)) @ self.dual


def baselines(
    groups: pd.DataFrame, control: str, wanted: Iterable[Perturbation], features: Features = None, genes: Genes = None
) -> list[ResponseBaseline]:
    """List unfitted predictors that can answer all of the ``wanted`` perturbations after a fit on ``groups``.

    Additive fits come with two contexts or more, rules for combinations with combinations, and what uses ``features``
    (or, for ``Bilinear``, gene names) where these cover everything wanted and two single training perturbations.
    """
    seen = {_key(one) for one in groups["perturbation"]} - {(control,)}
    keys = {_key(one) for one in wanted} - {(control,)}
    parts, several = {(part,) for key in keys for part in key}, len(set(groups["context"])) > 1
    chosen: list[ResponseBaseline] = [NoChange(), PerturbedMean()]
    chosen += [PerturbedMean(by_context=True)] * several + [MeanAcrossContexts()]
    if several and all(key in seen or all((part,) in seen for part in key) for key in keys):
        chosen.append(Additive())
    if any(len(key) > 1 for key in keys):
        chosen += [AdditiveCombination()] * (parts <= seen) + [MatchingMean()]
    names = genes if features is None else features.index
    described: set[Key] = set() if names is None else {(str(name),) for name in np.asarray(names)}
    if parts <= described and len(seen & described) > 1:
        chosen.append(Bilinear(features, genes))
        chosen += [] if features is None else [NearestPerturbation(features), KernelRidge(features)]
    return chosen


def _key(perturbation: Perturbation) -> Key:
    """Names of the parts, sorted: order does not matter."""
    return tuple(sorted(map(str, perturbation))) if isinstance(perturbation, tuple) else (str(perturbation),)


def _embedded(
    features: pd.DataFrame, effects: dict[Key, Numbers], standard: bool = False
) -> tuple[dict[Key, Numbers], Numbers, Numbers]:
    """Features by perturbation, those of the training perturbations that have any, and the effects of these.

    ``standard``: mean 0 and variance 1 over the perturbations of training.
    """
    values = features.to_numpy(np.float64)
    table: dict[Key, Numbers] = {(str(name),): row for name, row in zip(features.index, values)}
    keys = [key for key in effects if key in table]
    if len(keys) < 2 or len(table) < len(values) or not np.isfinite(values).all():
        raise DataError(
            f"Features need one finite row a perturbation, and rows of two single training perturbations; found "
            f"{len(values)} rows, {len(table)} names, {len(keys)} of them in {sorted(map('+'.join, effects))[:10]}."
        )
    points = np.stack([table[key] for key in keys])
    if standard:
        middle, spread = points.mean(axis=0), np.where(points.std(axis=0) > 1e-12, points.std(axis=0), 1.0)
        table, points = {key: (row - middle) / spread for key, row in table.items()}, (points - middle) / spread
    return table, points, np.stack([effects[key] for key in keys])
