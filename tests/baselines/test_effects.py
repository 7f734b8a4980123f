"""The regression of effects: formulae by hand, known effects found, honest weights, errors that are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from syncyte.baselines.effects import BASE, COMMON, CONTEXT, Effect, EffectModel, Weights
from syncyte.baselines.groups import Groups

NONE = pd.DataFrame()


def groups_of(
    levels: dict[tuple[str, str], np.ndarray], *, cells: int = 101, variance: float = 0.25, totals: dict | None = None
) -> Groups:
    """Groups with given means by context and perturbation."""
    table = pd.DataFrame(list(levels), columns=["context", "perturbation"])
    means = np.stack(list(levels.values())).astype(np.float32)
    depths = np.array([(totals or {}).get(pair, 7.0) for pair in levels], dtype=np.float32)
    return Groups(table, np.full(len(means), cells), depths, means, np.full(means.shape, variance, dtype=np.float32))


def drawn(
    contexts: int, perturbations: int, *, noise: float = 0.05, own: float = 0.0, shared: float = 0.0, genes: int = 150
) -> tuple[Groups, np.ndarray, np.ndarray]:
    """Groups, their ``(c, g)`` control means and ``(c, p, g)`` true effects: of each, what contexts add, in common."""
    rng = np.random.default_rng(0)
    start = rng.gamma(1, 1, (contexts, genes))
    truth = rng.normal(size=(1, perturbations, genes)) + own * rng.normal(size=(contexts, perturbations, genes))
    truth = truth + shared * rng.normal(size=genes)
    levels = {}
    for c in range(contexts):
        levels[f"c{c}", "ctrl"] = start[c] + noise * rng.normal(size=genes)
        for p in range(perturbations):
            levels[f"c{c}", f"p{p}"] = start[c] + truth[c, p] + noise * rng.normal(size=genes)
    return groups_of(levels, variance=100 * noise**2), start, truth


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_one_pair_is_shrunken_by_its_noise():
    """With one effect there is nothing to lean on: what is expected of one over that and its noise."""
    start, shift = np.array([1.0, 2.0, 0.5, 0.0]), np.array([0.8, -0.6, 0.0, 1.2])
    model = EffectModel(groups_of({("a", "c"): start, ("a", "x"): start + shift}), "c", NONE)
    found = model.effect("x", start)
    noise = 2 * 0.25 / 100
    own = (np.mean(shift**2) - noise) * BASE / (BASE + 1)
    np.testing.assert_allclose(found.value, shift * own / (own + noise), rtol=1e-5)
    np.testing.assert_allclose(found.error, np.sqrt(own * noise / (own + noise)), rtol=1e-4)
    assert found.measured == 1 and isinstance(found, Effect) and model.names == ["x"]


def test_the_regression_is_its_formula():
    """Covariances written out: what pairs share, how noise of controls is shared, and the gain of a new context."""
    groups, start, _ = drawn(4, 3, own=0.3, shared=0.5)
    model = EffectModel(groups, "ctrl", NONE)
    pairs = [(c, p) for c in range(4) for p in range(3)]
    rows = {pair: i for i, pair in enumerate(zip(groups.table["context"], groups.table["perturbation"], strict=True))}
    means = groups.means.astype(float)
    control = np.stack([means[rows[f"c{c}", "ctrl"]] for c in range(4)])
    y = np.stack([means[rows[f"c{c}", f"p{p}"]] - control[c] for c, p in pairs])
    np.testing.assert_allclose(model.values, y, rtol=1e-6)
    weights = model.over_contexts
    middle = control.mean(axis=0)
    size = ((control - middle) ** 2).sum(axis=1).mean()
    profile = start[1] * 0.5 + 1

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return BASE + weights.context * float((a - middle) @ (b - middle)) / size

    noise = 2 * 100 * 0.05**2 / 100
    signal = (y**2).mean() - noise
    power = np.array([np.mean([(y[3 * c + p] ** 2).mean() - noise for c in range(4)]) for p in range(3)])
    strength = np.sqrt(power / signal)
    kernel, cross = np.zeros((12, 12)), np.zeros(12)
    for i, (c, p) in enumerate(pairs):
        cross[i] = alike(profile, control[c]) * ((p == 1) + weights.common) * strength[p] * strength[1]
        for j, (d, q) in enumerate(pairs):
            kernel[i, j] = alike(control[c], control[d]) * ((p == q) + weights.common) * strength[p] * strength[q]
    shared = np.kron(np.eye(4), np.ones((3, 3))) * noise / 2 + np.eye(12) * noise / 2
    whole = signal / (BASE + 1) * kernel + shared
    wanted = signal / (BASE + 1) * cross @ np.linalg.solve(whole, y)
    np.testing.assert_allclose(model.effect("p1", profile).value, wanted, rtol=1e-4, atol=1e-6)


def test_depth_changes_as_in_training():
    start = np.linspace(0, 2, 6)
    levels = {("a", "c"): start, ("a", "x"): start + 1, ("b", "c"): start, ("b", "x"): start + 1}
    totals = {("a", "c"): 7.0, ("a", "x"): 7.5, ("b", "c"): 6.0, ("b", "x"): 6.5}
    model = EffectModel(groups_of(levels, totals=totals), "c", NONE)
    assert model.depths.tolist() == [0.5, 0.5]
    assert model.effect("x", start).depth == pytest.approx(0.5, rel=0.02) and model.effect("x", start).measured == 2


def test_contexts_without_controls_are_left_out():
    start = np.ones(5)
    levels = {("a", "c"): start, ("a", "x"): start + 1, ("b", "x"): start + 50, ("c", "c"): start + 3}
    model = EffectModel(groups_of(levels), "c", NONE)
    assert model.contexts == ["a"] and np.abs(model.effect("x", start).value - 1).max() < 0.05
    assert set(model.profiles) == {"a", "c"}
    alone = EffectModel(groups_of({("a", "c"): start, ("b", "x"): start}), "c", NONE)
    assert alone.names == [] and alone.values.shape == (0, 5)


# --- known effects ---------------------------------------------------------------------------------------------------


def test_measured_effects_are_found():
    groups, start, truth = drawn(4, 5, noise=0.1)
    model = EffectModel(groups, "ctrl", NONE)
    for c, p in ((0, 0), (3, 4)):
        plain = np.stack(model.values)[[i for i, name in enumerate(model.perturbations) if name == f"p{p}"]]
        found = model.effect(f"p{p}", start[c])
        errors = [np.mean((one - truth[0, p]) ** 2) for one in (found.value, plain[c], plain.mean(axis=0))]
        assert errors[0] < 0.5 * errors[1]  # contexts are pooled,
        assert errors[0] < 1.1 * errors[2]  # no worse than where it is known that all are the same
        assert found.measured == 4


def test_errors_are_as_large_as_the_slips():
    """Of the model's own kind of truth: over many genes, slips are of the size of the errors."""
    groups, start, truth = drawn(5, 4, noise=0.2, genes=400)
    model = EffectModel(groups, "ctrl", NONE)
    found = model.effect("p2", start[2])
    assert 0.6 < np.std((found.value - truth[2, 2]) / found.error) < 1.6
    fewer = EffectModel(drawn(2, 4, noise=0.2, genes=400)[0], "ctrl", NONE)
    assert (fewer.effect("p2", start[1]).error > found.error).mean() > 0.9
    unseen = model.effect("p9", start[2])
    assert (unseen.error > found.error).all() and unseen.measured == 0


def test_noisy_genes_have_larger_errors():
    groups, start, _ = drawn(4, 3)
    variances = groups.variances.copy()
    variances[:, :10] *= 25
    found = EffectModel(replace(groups, variances=variances), "ctrl", NONE).effect("p1", start[0])
    np.testing.assert_allclose(found.error[:10] / found.error[-1], 5, rtol=1e-4)


def test_weak_perturbations_are_drawn_to_zero_and_strong_ones_are_not():
    rng = np.random.default_rng(1)
    start, strong = rng.gamma(1, 1, (3, 300)), rng.normal(size=300)
    levels = {}
    for c in range(3):
        levels[f"c{c}", "ctrl"] = start[c] + 0.1 * rng.normal(size=300)
        levels[f"c{c}", "strong"] = start[c] + strong + 0.1 * rng.normal(size=300)
        levels[f"c{c}", "none"] = start[c] + 0.1 * rng.normal(size=300)
    model = EffectModel(groups_of(levels, variance=1.0), "ctrl", NONE)
    assert model.strengths[model.perturbations.index("none")] < 0.2 < 1 < model.strengths[0]
    shifts = np.stack([model.values[i] for i, name in enumerate(model.perturbations) if name == "none"]).mean(axis=0)
    weak = model.effect("none", start[0]).value
    assert np.mean(weak**2) < 0.7 * np.mean(shifts**2)
    found = model.effect("strong", start[0]).value
    assert found @ strong / (strong @ strong) == pytest.approx(1, abs=0.03)


def test_the_unseen_gets_what_all_have_in_common():
    groups, start, truth = drawn(3, 6, shared=2.0)
    model = EffectModel(groups, "ctrl", NONE)
    found, mean = model.effect("new", start[0]).value, truth.mean(axis=(0, 1))
    assert np.corrcoef(found, mean)[0, 1] > 0.98 and 0.85 < found @ mean / (mean @ mean) < 1.05
    assert model.over_perturbations.common in COMMON[1:]  # something is always common, or nothing could be said
    apart = EffectModel(drawn(3, 6)[0], "ctrl", NONE)
    assert apart.over_perturbations.common > 0 and np.abs(apart.effect("new", start[0]).value).mean() > 0


# --- features --------------------------------------------------------------------------------------------------------


def described(width: int = 2, perturbations: int = 8) -> tuple[Groups, pd.DataFrame, np.ndarray, np.ndarray]:
    """Effects that are linear in features; of one more perturbation only these are known."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(perturbations + 1, width))
    effects = features @ rng.normal(size=(width, 120))
    levels = {}
    start = rng.gamma(1, 1, (3, 120))
    for c in range(3):
        levels[f"c{c}", "ctrl"] = start[c]
        for p in range(perturbations):
            levels[f"c{c}", f"p{p}"] = start[c] + effects[p] + 0.05 * rng.normal(size=120)
    table = pd.DataFrame(features, index=[f"p{p}" for p in range(perturbations + 1)])
    return groups_of(levels), table, start, effects


def test_features_foretell_a_perturbation_that_was_never_seen():
    groups, table, start, effects = described()
    model, bare = EffectModel(groups, "ctrl", table), EffectModel(groups, "ctrl", NONE)
    found, without = (one.effect("p8", start[1]).value for one in (model, bare))
    assert model.over_perturbations.feature > 0 and bare.over_perturbations.feature == 0
    assert np.mean((found - effects[8]) ** 2) < 0.2 * np.mean((without - effects[8]) ** 2)
    np.testing.assert_array_equal(without, bare.effect("p99", start[1]).value)


def test_features_that_say_nothing_do_little_harm():
    groups, table, start, effects = described(perturbations=24)
    bare = np.mean((EffectModel(groups, "ctrl", NONE).effect("p24", start[0]).value - effects[24]) ** 2)
    none = 0
    for seed in range(5):
        noise = pd.DataFrame(np.random.default_rng(seed).normal(size=table.shape), index=table.index)
        model = EffectModel(groups, "ctrl", noise)
        none += model.over_perturbations.feature == 0
        assert np.mean((model.effect("p24", start[0]).value - effects[24]) ** 2) < 1.5 * bare
    assert none >= 3  # chance makes one of them look useful now and then


@pytest.mark.parametrize(("against", "trusted", "used"), [(1.05, True, 3), (1.2, True, 0), (1.05, False, 0)])
def test_features_that_are_given_are_believed_until_evidence_is_clear(monkeypatch, against, trusted, used):
    """Left-out perturbations err more with features, by little or by much."""
    monkeypatch.setattr(EffectModel, "_loss", lambda self, weights, folds, rows: against if weights.feature else 1.0)
    groups, table, _, _ = described()
    assert EffectModel(groups, "ctrl", table, trusted=trusted).over_perturbations.feature == used


def test_given_features_serve_where_nothing_can_be_left_out():
    rng = np.random.default_rng(0)
    start, effect = rng.gamma(1, 1, 120), rng.normal(size=(2, 120))
    levels = {("c", "ctrl"): start, ("c", "p0"): start + effect[0], ("c", "p1"): start + effect[1]}
    table = pd.DataFrame({"own": [1.0, 0.0, 1.0]}, index=["p0", "p1", "p2"])
    for trusted, least in ((False, 0.0), (True, 0.3)):
        found = EffectModel(groups_of(levels, variance=0.05), "ctrl", table, trusted=trusted).effect("p2", start).value
        fits = [np.corrcoef(found, one)[0, 1] for one in effect]
        assert fits[0] - fits[1] >= least


@pytest.mark.filterwarnings("error")
def test_features_of_other_things_are_none():
    groups, table, start, _ = described()
    strange = EffectModel(groups, "ctrl", table.rename(index=lambda name: f"x{name}"))
    bare = EffectModel(groups, "ctrl", NONE)
    assert strange.over_perturbations == bare.over_perturbations and strange.over_contexts == bare.over_contexts
    np.testing.assert_array_equal(strange.effect("p1", start[0]).value, bare.effect("p1", start[0]).value)


def test_the_scale_of_features_does_not_matter():
    groups, table, start, _ = described()
    one, other = EffectModel(groups, "ctrl", table), EffectModel(groups, "ctrl", table * [1000.0, 0.001] + 5)
    np.testing.assert_allclose(one.effect("p8", start[0]).value, other.effect("p8", start[0]).value, rtol=1e-5)


# --- weights are chosen by honest predictions ------------------------------------------------------------------------


def left_out(model: EffectModel, groups: Groups, weights: Weights, folds: np.ndarray) -> float:
    """Squared error of predictions, each fold by a solution that never saw it."""
    kernel = model._kernel(weights)
    loss = 0.0
    for fold in np.unique(folds):
        own, rest = folds == fold, folds != fold
        solved = np.linalg.solve(kernel[np.ix_(rest, rest)] + model.noises[np.ix_(rest, rest)], model.values[rest])
        cross = kernel[np.ix_(own, rest)] + model.noises[np.ix_(own, rest)]
        loss += float(((model.values[own] - cross @ solved) ** 2).sum())
    return loss


@pytest.mark.parametrize("by", ["contexts", "perturbations"])
@pytest.mark.parametrize("weights", [Weights(0.0, 1.0, 0.0), Weights(3.0, 0.3, 1.0)])
def test_the_closed_form_is_leaving_out(by, weights):
    """The loss from one inverse is that of predictions whose own fold was taken away."""
    groups, table, _, _ = described()
    model = EffectModel(groups, "ctrl", table)
    folds = np.array(getattr(model, by))
    found = model._loss(weights, folds, np.arange(len(folds)))
    assert found == pytest.approx(left_out(model, groups, weights, folds), rel=1e-6)


@pytest.mark.parametrize("by", ["contexts", "perturbations"])
def test_what_is_left_out_does_not_help_itself(by):
    """Another effect of one fold changes the errors of that fold by as much, and its prediction not at all."""
    groups, table, _, _ = described()
    model = EffectModel(groups, "ctrl", table)
    folds, weights = np.array(getattr(model, by)), Weights(1.0, 1.0, 1.0)
    own = folds == folds[0]
    inverse = np.linalg.inv(model._kernel(weights) + model.noises)

    def predicted(values: np.ndarray) -> np.ndarray:
        return values[own] - np.linalg.solve(inverse[np.ix_(own, own)], (inverse @ values)[own])

    changed = model.values.copy()
    changed[own] += 7.0
    np.testing.assert_allclose(predicted(changed), predicted(model.values), atol=1e-6)


def test_weights_of_least_error_are_taken():
    groups, table, _, _ = described()
    model = EffectModel(groups, "ctrl", table)
    folds = np.array(model.perturbations)
    choices = [Weights(c, s, f) for c in CONTEXT for s in COMMON[1:] for f in (0.0, 1.0, 3.0)]
    losses = [left_out(model, groups, one, folds) for one in choices]
    assert model.over_perturbations == choices[int(np.argmin(losses))]


def test_contexts_of_one_type_are_left_out_together():
    """All donors of a type, or the other donors of it would give it away."""
    groups, _, _ = drawn(6, 2)
    names = dict(zip([f"c{i}" for i in range(6)], [f"{kind} | {d}" for kind in "ABC" for d in "12"], strict=True))
    table = groups.table.assign(context=groups.table["context"].map(names))
    model = EffectModel(replace(groups, table=table), "ctrl", NONE)
    assert set(model._folds(model.contexts)) == {"A", "B", "C"}
    assert set(model._folds(["A | 1", "A | 2"])) == {"A | 1", "A | 2"}  # one type only: then by donor


def test_with_fewer_than_three_contexts_nothing_is_chosen():
    groups, start, _ = drawn(2, 1)
    model = EffectModel(groups, "ctrl", NONE)
    assert model.over_contexts == Weights(0.0, 0.0, 0.0) == model.over_perturbations
    assert np.isfinite(model.effect("p0", start[0]).value).all()


def test_contexts_can_be_compared_by_other_profiles():
    """Vectors that tell kinds apart where control means do not."""
    rng = np.random.default_rng(0)
    kinds, change = np.repeat([0, 1], 4), rng.normal(size=(2, 100))
    levels, start = {}, rng.gamma(1, 1, 100)
    for c, kind in enumerate(kinds):
        levels[f"c{c}", "ctrl"] = start + 0.02 * rng.normal(size=100)
        levels[f"c{c}", "x"] = start + change[kind] + 0.02 * rng.normal(size=100)
    profiles = {f"c{c}": np.array([1.0, 0.0]) if kind else np.array([0.0, 1.0]) for c, kind in enumerate(kinds)}
    told = EffectModel(groups_of(levels), "ctrl", NONE, profiles)
    for kind, profile in enumerate((np.array([0.0, 1.0]), np.array([1.0, 0.0]))):
        found = told.effect("x", profile).value
        assert np.mean((found - change[kind]) ** 2) < 0.2 * np.mean((change.mean(axis=0) - change[kind]) ** 2)
