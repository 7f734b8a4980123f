"""Effects of perturbations in contexts: one regression over all measured pairs, for pairs that were never measured.

An effect is the change of mean log1p CP10K against the control cells of the same context. Effects of all pairs are one
Gaussian process whose covariance is shared by all features: a product of how alike two perturbations are (the same, or
alike in their features, beside what all have in common) and how alike two contexts are (their control profiles, beside
what all have in common). So the effect in a new cell type leans on the types that look like it, and that of a new gene
on genes with like features. How far is chosen by leaving out contexts, or perturbations, of the training cells. Seen
perturbations differ in strength, so weak ones are drawn to zero and strong ones are not. Noise is that of the measured
means; that of a control mean is shared by all effects told against it. The plain mean over contexts is the case in
which nothing is alike.
Leaves out: cells (``tasks.respond``), simpler rules (``response``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.baselines.groups import Groups

BASE = 10.0  # variance of what contexts share, in units of what is particular: a nearly free mean
CONTEXT = (0.0, 0.3, 1.0, 3.0, 10.0)  # weight of like control profiles
COMMON = (0.0, 0.3, 1.0, 3.0)  # weight of what all perturbations share
FEATURE = (0.0, 1.0, 3.0)  # weight of like features
TRUST = 0.1  # share of the error by which left-out perturbations must speak against features that a user gave
TRUSTED = (3.0, 10.0, 0.0)  # the same weight of these, the first where nothing can be left out
FAINTEST = 0.1  # strength of a perturbation at least, in units of its noise
MOST_PAIRS = 1_500  # that weights are chosen on
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """Change of mean log1p CP10K.

    Attributes
    ----------
    value, error
        ``(f,)`` and its standard error.
    depth
        Change of the mean log total.
    measured
        Number of contexts that some part of it was measured in; 0 for a perturbation that was never seen.
    """

    value: Numbers
    error: Numbers
    depth: float
    measured: int


@dataclass(frozen=True)
class Weights:
    """Of like contexts, of what perturbations share, and of like features."""

    context: float
    common: float
    feature: float


class EffectModel:
    """Effects of one attribute, see the module.

    Parameters
    ----------
    groups
        Collapsed groups: columns ``context`` and ``perturbation``.
    control
        Value that effects are told against.
    features
        Feature vectors by perturbation, seen or not; empty for none.
    profiles
        What contexts are compared by, a vector each; by default their control means.
    trusted
        Whether like features mean like effects unless left-out perturbations clearly speak against it: few screens
        have effects enough to prove what is known of their targets.
    """

    def __init__(
        self,
        groups: Groups,
        control: str,
        features: pd.DataFrame,
        profiles: Mapping[str, Numbers] | None = None,
        *,
        trusted: bool = False,
    ) -> None:
        table, means = groups.table, groups.means.astype(np.float64)
        noise = groups.variances.astype(np.float64) / np.maximum(groups.cells - 1, 1)[:, None]
        base = {row.context: i for i, row in enumerate(table.itertuples()) if row.perturbation == control}
        pairs = [
            (i, base[row.context])
            for i, row in enumerate(table.itertuples())
            if row.perturbation != control and row.context in base
        ]
        self.features = features
        self.weights: tuple[float, ...] = TRUSTED if trusted else FEATURE
        self.trust = TRUST if trusted else 0.0
        self.profiles = {context: means[i] for context, i in base.items()} if profiles is None else dict(profiles)
        self.perturbations = [str(table["perturbation"].iloc[i]) for i, _ in pairs]
        self.contexts = [str(table["context"].iloc[i]) for i, _ in pairs]
        self.values = np.stack([means[i] - means[j] for i, j in pairs]) if pairs else np.zeros((0, means.shape[1]))
        self.noise = np.array([(noise[i] + noise[j]).mean() for i, j in pairs])
        self.gene_noise = np.stack([noise[i] + noise[j] for i, j in pairs]) if pairs else self.values
        control_noise = np.array([noise[j].mean() for _, j in pairs])
        together = np.array(self.contexts)[:, None] == np.array(self.contexts)[None]
        self.noises = np.where(together, control_noise[:, None], 0.0)
        np.fill_diagonal(self.noises, self.noise)
        self.depths = np.array([float(groups.totals[i] - groups.totals[j]) for i, j in pairs])
        if not pairs:
            return
        known = np.stack(list(self.profiles.values()))
        self.middle = known.mean(axis=0)
        self.size = max(float(((known - self.middle) ** 2).sum(axis=1).mean()), 1e-9)
        signal = max(float((self.values**2).mean() - self.noise.mean()), 0.05 * float(self.noise.mean()), 1e-8)
        self.signal = signal / (BASE + 1)
        powers = np.maximum((self.values**2).mean(axis=1) - self.noise, FAINTEST * self.noise)
        strengths = pd.Series(powers).groupby(np.array(self.perturbations)).transform("mean").to_numpy()
        self.strengths = np.sqrt(np.maximum(strengths, 1e-8) / signal)
        several = len(set(self.perturbations)) > 1
        if not several or self.features.index.isin(self.names).sum() < 2:
            self.weights = (0.0,)  # nothing to be alike
        plain = Weights(0.0, float(several), self.weights[0])
        self.over_perturbations = self._choose(np.array(self.perturbations), plain, COMMON[1:])
        # with hardly a context to leave out, what perturbations share is still known
        self.over_contexts = self._choose(self._folds(self.contexts), replace(self.over_perturbations, context=0.0))

    @property
    def names(self) -> list[str]:
        """Perturbations with an effect."""
        return sorted(set(self.perturbations))

    def effect(self, name: str, profile: Numbers) -> Effect:
        """Effect of a perturbation, seen or not, in a context with this profile (the mean of its control cells)."""
        seen = name in self.perturbations
        weights = self.over_contexts if seen else self.over_perturbations
        cross, own = self._cross(name, profile, weights)
        kernel = self._kernel(weights)
        if seen:  # how strong one is that was never seen is not known
            power = self.strengths[self.perturbations.index(name)]
            kernel, cross, own = (
                kernel * np.outer(self.strengths, self.strengths),
                cross * self.strengths * power,
                own * power**2,
            )
        inverse = np.linalg.inv(kernel + self.noises)
        gain = cross @ inverse
        scale = self.gene_noise.mean(axis=0) / max(self.noise.mean(), 1e-12)  # features differ in how noisy they are
        variance = max(own - float(gain @ cross), 1e-12)
        measured = len({c for c, p in zip(self.contexts, self.perturbations, strict=True) if p == name})
        return Effect(
            gain @ self.values, np.sqrt(variance * np.maximum(scale, 0.05)), float(gain @ self.depths), measured
        )

    def _folds(self, contexts: Sequence[str]) -> NDArray[np.str_]:
        """Contexts that are left out together: those of one first label (all donors of a type)."""
        first = np.array([context.split(" | ")[0] for context in contexts])
        return first if len(set(first)) > 1 else np.array(contexts)

    def _choose(self, folds: NDArray[np.str_], plain: Weights, common: Sequence[float] = COMMON) -> Weights:
        """Weights whose predictions of left-out folds err least; ``plain`` ones with fewer than three folds.

        Something is always ``common`` where a perturbation is left out: the mean effect is all there is to say of it.
        """
        several = len(set(self.perturbations)) > 1
        rows = np.arange(len(self.values))
        if len(set(folds)) < 3:
            return plain
        if len(rows) > MOST_PAIRS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_PAIRS, replace=False))
        choices = [Weights(*one) for one in product(CONTEXT, common if several else (0.0,), self.weights)]
        losses = [self._loss(choice, folds, rows) * (1 - self.trust * bool(choice.feature)) for choice in choices]
        best = int(np.argmin(losses))
        return choices[best] if np.isfinite(losses[best]) else plain

    def _loss(self, weights: Weights, folds: NDArray[np.str_], rows: NDArray[np.int64]) -> float:
        """Squared error of left-out folds, in closed form from the inverse of the whole."""
        inverse = np.linalg.inv((self._kernel(weights) + self.noises)[np.ix_(rows, rows)])
        solved, loss = inverse @ self.values[rows], 0.0
        for fold in np.unique(folds[rows]):
            own = np.flatnonzero(folds[rows] == fold)
            error = np.linalg.solve(inverse[np.ix_(own, own)], solved[own])
            loss += float((error**2).sum())
        return loss

    def _kernel(self, weights: Weights) -> Numbers:
        profiles = np.stack([self.profiles[context] for context in self.contexts])
        contexts = BASE + weights.context * self._alike(profiles, profiles)
        return self.signal * contexts * self._same(self.perturbations, self.perturbations, weights)

    def _cross(self, name: str, profile: Numbers, weights: Weights) -> tuple[Numbers, float]:
        """Covariance of a new effect with all measured ones, and its variance."""
        profiles = np.stack([self.profiles[one] for one in self.contexts])
        alike = self._alike(profile[None], profiles)[0]
        own = BASE + weights.context * float(self._alike(profile[None], profile[None])[0, 0])
        same = self._same([name], self.perturbations, weights)[0]
        return self.signal * (BASE + weights.context * alike) * same, self.signal * own * float(
            self._same([name], [name], weights)[0, 0]
        )

    def _alike(self, first: Numbers, second: Numbers) -> Numbers:
        return (first - self.middle) @ (second - self.middle).T / self.size

    def _same(self, first: Sequence[str], second: Sequence[str], weights: Weights) -> Numbers:
        same = (np.array(first)[:, None] == np.array(second)[None]).astype(np.float64) + weights.common
        if weights.feature:
            same = same + weights.feature * self._features(first) @ self._features(second).T
        return same

    def _features(self, names: Sequence[str]) -> Numbers:
        """Standardised features over the root of their number; zero for a perturbation without any."""
        known = [name for name in self.names if name in self.features.index]
        x = self.features.loc[known].to_numpy(dtype=np.float64)
        middle, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
        found = np.zeros((len(names), x.shape[1]))
        for row, name in enumerate(names):
            if name in self.features.index:
                found[row] = (self.features.loc[name].to_numpy(dtype=np.float64) - middle) / spread
        return found / np.sqrt(x.shape[1])


def expected_log(share: Numbers, total: float, dispersion: Numbers, most: int = 30) -> Numbers:
    """``(f,)`` mean of ``log1p(10,000 x / n)`` for negative binomial counts of cells with total ``n``.

    Summed over counts up to ``most``; beyond, or where the mean is above a third of it, by the mean and its curvature.
    """
    from scipy.special import gammaln

    mean, scale = np.maximum(share * total, 1e-12), 1e4 / total
    variance = mean + mean**2 / dispersion
    smooth = np.log1p(scale * mean) - 0.5 * variance * (scale / (1 + scale * mean)) ** 2
    few = np.flatnonzero(mean < most / 3)
    x = np.arange(most + 1)[:, None]
    m, d = mean[few], dispersion[few]
    log_p = gammaln(x + d) - gammaln(d) - gammaln(x + 1) + d * np.log(d / (d + m)) + x * np.log(m / (d + m))
    chance = np.exp(log_p)
    exact = (chance * np.log1p(scale * x)).sum(axis=0) + (1 - chance.sum(axis=0)).clip(0) * np.log1p(scale * most)
    smooth[few] = exact
    return smooth


def share_for(level: Numbers, total: float, dispersion: Numbers) -> Numbers:
    """``(f,)`` share at which ``expected_log`` has the asked levels, by bisection; 0 where a level is not above 0."""
    low, high = np.full(len(level), -25.0), np.zeros(len(level))
    for _ in range(40):
        middle = (low + high) / 2
        above = expected_log(np.exp(middle), total, dispersion) > level
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(level > 0, np.exp((low + high) / 2), 0.0)
