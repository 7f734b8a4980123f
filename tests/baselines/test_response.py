"""Predictors of mean responses against formulae written out, and on worlds where the right answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from syncyte.baselines import response as module
from syncyte.baselines.response import (
    Additive,
    AdditiveCombination,
    Bilinear,
    KernelRidge,
    MatchingMean,
    MeanAcrossContexts,
    NearestPerturbation,
    NoChange,
    PerturbedMean,
    baselines,
    fit_means,
)
from syncyte.errors import ConfigError, DataError

GENES = 12
RNG = np.random.default_rng(0)
START = {"a": RNG.gamma(1, 1, GENES), "b": RNG.gamma(1, 1, GENES), "c": RNG.gamma(1, 1, GENES)}
PAIRS = [("a", "p"), ("a", "q"), ("a", ("p", "r")), ("b", "p"), ("b", "r")]
EFFECT = {pair: RNG.normal(0, 1, GENES) for pair in PAIRS}
CELLS = [50, 20, 80, 30, 60, 40, 10, 25]


def training() -> tuple[pd.DataFrame, np.ndarray]:
    rows = [(context, "ctrl") for context in START] + PAIRS
    means = np.stack([START[context] + EFFECT.get((context, name), 0) for context, name in rows])
    context, name = zip(*rows)
    return pd.DataFrame({"context": context, "perturbation": name, "cells": CELLS}), means


def fitted(model):
    return model.fit(*training(), "ctrl")


def test_means_of_groups_are_those_of_dense_log_values(monkeypatch):
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.5, (60, 7))
    counts[3] = 0
    contexts, names = rng.choice(["x", "y"], 60), [["ctrl", "p", ("q", "p")][i] for i in rng.integers(0, 3, 60)]
    names[:2] = [("p", "q"), ("q", "p")]  # order does not matter
    contexts[5], names[5] = "z", "ctrl"
    monkeypatch.setattr(module, "ROWS", 13)
    groups, means, variances = fit_means(sp.csr_matrix(counts), list(contexts), names)
    total = counts.sum(axis=1, keepdims=True)
    values = np.log1p(1e4 * counts / np.where(total > 0, total, 1))
    keys = [tuple(sorted(one)) if isinstance(one, tuple) else (one,) for one in names]
    assert list(groups.columns) == ["context", "perturbation", "cells"] and groups["cells"].sum() == 60
    assert len(groups) == 7 and means.shape == variances.shape == (7, 7)
    for i, row in groups.iterrows():
        one = row["perturbation"]
        key = tuple(sorted(one)) if isinstance(one, tuple) else (one,)
        own = [j for j in range(60) if contexts[j] == row["context"] and keys[j] == key]
        assert len(own) == row["cells"]
        np.testing.assert_allclose(means[i], values[own].mean(axis=0), rtol=1e-5)
        if len(own) > 1:
            np.testing.assert_allclose(variances[i], values[own].var(axis=0, ddof=1), rtol=1e-4)
    assert np.isnan(variances[groups["cells"] == 1]).all()
    again = NoChange().fit(groups, means, "ctrl")
    np.testing.assert_array_equal(again.predict("z", "p"), means[(groups["context"] == "z").to_numpy()][0])
    with pytest.raises(DataError, match="found 59 and 60 labels"):
        fit_means(sp.csr_matrix(counts), [*contexts[:-1], None], names)
    with pytest.raises(DataError, match="60 cells"):
        fit_means(sp.csr_matrix(counts), contexts, names[:5])


def test_no_change_and_the_mean_of_perturbed_cells():
    mean = np.mean([START[c] + e for (c, _), e in EFFECT.items()], axis=0)
    np.testing.assert_array_equal(fitted(NoChange()).predict("a", "anything"), START["a"])
    np.testing.assert_allclose(fitted(PerturbedMean()).predict("c", "anything"), mean)
    own = fitted(PerturbedMean(by_context=True))
    np.testing.assert_allclose(own.predict("b", "q"), START["b"] + (EFFECT["b", "p"] + EFFECT["b", "r"]) / 2)
    np.testing.assert_allclose(own.predict("c", "q"), START["c"] + np.mean(list(EFFECT.values()), axis=0))


def test_mean_across_contexts():
    model = fitted(MeanAcrossContexts())
    np.testing.assert_allclose(model.predict("c", "p"), START["c"] + (EFFECT["a", "p"] + EFFECT["b", "p"]) / 2)
    np.testing.assert_allclose(model.predict("b", ("r", "p")), START["b"] + EFFECT["a", ("p", "r")])
    typical = np.mean(list(EFFECT.values()), axis=0)
    np.testing.assert_allclose(model.predict("a", "new"), START["a"] + typical)
    assert model.knows("p") and model.knows(("r", "p")) and not model.knows("new") and not model.knows(("p", "q"))


def test_a_new_context_starts_from_the_mean_it_is_given():
    elsewhere = np.full(GENES, 2.0)
    for model in (MeanAcrossContexts(), Additive(), AdditiveCombination(), NoChange()):
        fitted(model)
        np.testing.assert_array_equal(model.predict("new", "ctrl", control_mean=elsewhere), elsewhere)
        moved = model.predict("new", "p", control_mean=elsewhere + 1) - model.predict("new", "p", elsewhere)
        np.testing.assert_allclose(moved, 1.0)
        with pytest.raises(DataError, match=r"Unknown context 'new'.*control_mean"):
            model.predict("new", "p")
        with pytest.raises(DataError, match=r"\(12,\)"):
            model.predict("a", "p", control_mean=np.zeros(3))
    np.testing.assert_array_equal(elsewhere, 2.0)


def test_additive_is_its_normal_equations():
    model, (groups, _) = fitted(Additive(penalty=0.7)), training()
    cells = {(row.context, row.perturbation): row.cells for row in groups.itertuples()}
    weights = np.array([1 / (1 / cells[pair] + 1 / cells[pair[0], "ctrl"]) for pair in PAIRS])
    weights /= weights.mean()
    columns = ["a", "b", "p", "q", ("p", "r"), "r"]
    design = np.array([[1.0, *(column in pair for column in columns)] for pair in PAIRS])
    gram = design.T @ (weights[:, None] * design) + np.diag([0, *[0.7] * 6])
    terms = np.linalg.solve(gram, design.T @ (weights[:, None] * np.stack(list(EFFECT.values()))))
    np.testing.assert_allclose(model.predict("b", "q"), START["b"] + terms[0] + terms[2] + terms[4], rtol=1e-5)
    np.testing.assert_allclose(model.predict("c", "q"), START["c"] + terms[0] + terms[4], rtol=1e-5)
    parts = 2 * (terms[0] + terms[2]) + terms[4] + terms[6]  # a combination adds two whole effects
    np.testing.assert_allclose(model.predict("b", ("q", "r")), START["b"] + parts, rtol=1e-5)
    with pytest.raises(DataError, match=r"Unknown perturbation 'pp'. Did you mean 'p'"):
        model.predict("a", "pp")


def test_additive_finds_an_additive_world():
    rng = np.random.default_rng(2)
    u, w = rng.normal(0, 1, (4, GENES)), rng.normal(0, 1, (9, GENES))
    rows = [(f"c{i}", "ctrl", np.zeros(GENES)) for i in range(4)]
    rows += [(f"c{i}", f"p{j}", u[i] + w[j]) for i in range(4) for j in range(9) if (i, j) not in ((3, 8), (2, 5))]
    context, name, means = zip(*rows)
    groups = pd.DataFrame({"context": context, "perturbation": name, "cells": 30})
    error = {}
    for model in (Additive(penalty=1e-6), MeanAcrossContexts(), PerturbedMean(by_context=True)):
        model.fit(groups, np.stack(means), "ctrl")
        error[model.name] = np.abs(model.predict("c3", "p8") - u[3] - w[8]).max()
    assert error["additive"] < 1e-4 < 0.1 < min(error["mean_across_contexts"], error["perturbed_mean_of_context"])


def test_combinations_add_or_average():
    model = fitted(AdditiveCombination())
    np.testing.assert_allclose(model.predict("a", ("q", "p")), START["a"] + EFFECT["a", "p"] + EFFECT["a", "q"])
    np.testing.assert_allclose(model.predict("b", ("p", "q")), START["b"] + EFFECT["b", "p"] + EFFECT["a", "q"])
    np.testing.assert_allclose(model.predict("b", ("p", "r")), START["b"] + EFFECT["b", "p"] + EFFECT["b", "r"])
    assert model.knows(("q", "r")) and not model.knows(("q", "new"))
    with pytest.raises(DataError, match=r"Unknown perturbation 'new\+p'.*Known: p, q, r"):
        model.predict("a", ("p", "new"))
    match = fitted(MatchingMean())
    wanted = START["a"] + (EFFECT["a", "p"] + EFFECT["a", "q"]) / 2
    np.testing.assert_allclose(match.predict("a", ("p", "q")), wanted)
    typical = np.mean(list(EFFECT.values()), axis=0)
    np.testing.assert_allclose(match.predict("b", ("new", "p")), START["b"] + (EFFECT["b", "p"] + typical) / 2)
    assert not match.knows(("new", "p"))
    # centroids of training do not move with the start, effects do
    given = match.predict("a", ("p", "q"), control_mean=START["a"] + 5)
    np.testing.assert_allclose(given, wanted)


def world(noise: float = 0.0) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]:
    """40 perturbations whose effects are linear in three features; the last ten are not trained on."""
    rng = np.random.default_rng(3)
    features, loads = rng.normal(0, 1, (40, 3)), rng.normal(0, 1, (3, 30))
    effects = 0.3 + features @ loads
    start = rng.gamma(1, 1, 30)
    names = ["ctrl", *(f"p{i}" for i in range(30))]
    means = start + np.concatenate([np.zeros((1, 30)), effects[:30] + noise * rng.normal(0, 1, (30, 30))])
    groups = pd.DataFrame({"context": "only", "perturbation": names, "cells": 50})
    return groups, means, pd.DataFrame(features, index=[f"p{i}" for i in range(40)]), start + effects


@pytest.mark.parametrize("kind", [Bilinear, NearestPerturbation, KernelRidge])
def test_features_foretell_new_perturbations(kind):
    groups, means, features, truth = world(noise=0.2)
    model = kind(features).fit(groups, means, "ctrl")
    guess = np.stack([model.predict("only", f"p{i}") for i in range(30, 40)])
    average = MeanAcrossContexts().fit(groups, means, "ctrl").predict("only", "p35")
    share = {"bilinear": 0.1, "nearest": 0.9, "kernel_ridge": 0.5}[model.name]
    assert ((guess - truth[30:]) ** 2).mean() < share * ((average - truth[30:]) ** 2).mean()
    assert model.knows("p35") and model.knows(("p35", "p1")) and not model.knows("elsewhere")
    pair = model.predict("only", ("p35", "p1")) - means[0]
    parts = model.predict("only", "p35") + model.predict("only", "p1") - 2 * means[0]
    np.testing.assert_allclose(pair, parts)
    with pytest.raises(DataError, match="Unknown perturbation"):
        model.predict("only", "elsewhere")
    with pytest.raises(DataError, match="two single training perturbations"):
        kind(features.iloc[30:]).fit(groups, means, "ctrl")
    with pytest.raises(DataError, match="finite row"):
        kind(features.where(features > 0)).fit(groups, means, "ctrl")


def test_features_that_say_nothing_give_the_average():
    groups, means, features, _ = world(noise=0.2)
    noise = pd.DataFrame(np.random.default_rng(0).normal(0, 1, features.shape), index=features.index)
    model = KernelRidge(noise).fit(groups, means, "ctrl")
    average = MeanAcrossContexts().fit(groups, means, "ctrl").predict("only", "p35")
    moved = np.std(model.predict("only", "p35") - average)
    assert model.penalty >= 10 and moved < 0.2 * np.std(means[1:] - average)


def test_kernel_ridge_is_its_formula():
    groups, means, features, _ = world()
    model = KernelRidge(features).fit(groups, means, "ctrl")
    known = features.iloc[:30]
    points = ((features - known.mean()) / known.std(ddof=0)).to_numpy()
    squares = ((points[:, None] - points[None, :30]) ** 2).sum(axis=2)
    kernel = np.exp(-squares / (2 * np.median(squares[:30][~np.eye(30, dtype=bool)])))
    effects = means[1:] - means[0]
    dual = np.linalg.solve(kernel[:30] + model.penalty * np.eye(30), effects - effects.mean(axis=0))
    np.testing.assert_allclose(model.predict("only", "p33") - means[0], effects.mean(axis=0) + kernel[33] @ dual)
    left_out = []
    for i in range(30):
        rest = np.setdiff1d(np.arange(30), i)
        part = kernel[np.ix_(rest, rest)] + model.penalty * np.eye(29)
        made = kernel[i, rest] @ np.linalg.solve(part, (effects - effects.mean(axis=0))[rest])
        left_out.append(((effects[i] - effects.mean(axis=0) - made) ** 2).sum())
    inverse = np.linalg.inv(kernel[:30] + model.penalty * np.eye(30))
    np.testing.assert_allclose(((dual / np.diag(inverse)[:, None]) ** 2).sum(axis=1), left_out)


def test_the_nearest_is_the_nearest():
    groups, means, features, _ = world()
    model = NearestPerturbation(features, neighbours=3).fit(groups, means, "ctrl")
    known = features.iloc[:30]
    distance = (((features.loc["p33"] - known) / known.std(ddof=0)) ** 2).sum(axis=1)
    np.testing.assert_allclose(model.predict("only", "p33"), means[1:][np.argsort(distance)[:3]].mean(axis=0))
    np.testing.assert_allclose(NearestPerturbation(features).fit(groups, means, "ctrl").predict("only", "p4"), means[5])


def test_bilinear_is_the_published_formula():
    groups, means, features, _ = world(noise=0.5)
    model = Bilinear(features, width=4, penalty=0.3).fit(groups, means, "ctrl")
    y = np.vstack([means[1:] - means[0], np.zeros(30)]).T
    x = np.vstack([means[1:], means[0]]).T
    left, sizes, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    a, b = (left * sizes)[:, :4], np.vstack([features.iloc[:30], np.zeros(3)]).T
    centre = y.mean(axis=1, keepdims=True)
    k = np.linalg.solve(a.T @ a + 0.3 * np.eye(4), a.T @ (y - centre) @ b.T) @ np.linalg.inv(b @ b.T + 0.3 * np.eye(3))
    wanted = means[0] + centre[:, 0] + a @ k @ features.loc["p36"].to_numpy()
    np.testing.assert_allclose(model.predict("only", "p36"), wanted)


def test_genes_embed_their_own_perturbations():
    groups, means, _, _ = world(noise=0.2)
    genes = [f"p{i}" for i in range(10, 40)]
    model = Bilinear(genes=genes).fit(groups, means, "ctrl")
    assert model.knows("p35") and not model.knows("p3") and np.isfinite(model.predict("only", "p35")).all()
    with pytest.raises(DataError, match="Unknown perturbation 'p3'"):
        model.predict("only", "p3")
    with pytest.raises(ConfigError, match="found neither"):
        Bilinear()


def test_what_fits_a_situation():
    groups, means, features, _ = world()

    def names(*given, **more):
        return [model.name for model in baselines(*given, **more)]

    cheap = ["no_change", "perturbed_mean", "mean_across_contexts"]
    assert names(groups, "ctrl", ["p1", "p35"]) == cheap
    assert names(groups, "ctrl", ["p35"], features=features) == [*cheap, "bilinear", "nearest", "kernel_ridge"]
    assert names(groups, "ctrl", ["p35", "else"], features=features) == cheap
    assert names(groups, "ctrl", ["p15"], genes=["p15", "p2", "p3"]) == [*cheap, "bilinear"]
    assert names(groups, "ctrl", [("p1", "p2")]) == [*cheap, "additive_combination", "matching_mean"]
    assert names(groups, "ctrl", [("p1", "p39")]) == [*cheap, "matching_mean"]
    wide = [*cheap[:2], "perturbed_mean_of_context", cheap[2]]
    several, means = training()
    assert names(several, "ctrl", ["p", "q"]) == [*wide, "additive"]
    assert names(several, "ctrl", ["p", "new"]) == wide
    wanted = [("a", "q"), ("b", ("p", "q"))]
    for model in baselines(several, "ctrl", [name for _, name in wanted]):
        model.fit(several, means, "ctrl")
        assert all(np.isfinite(model.predict(*pair)).all() for pair in wanted)


def test_tables_that_do_not_fit_are_refused():
    groups, means = training()
    with pytest.raises(DataError, match=r"\['b'\] have no such cells"):
        NoChange().fit(groups.drop(index=1), np.delete(means, 1, axis=0), "ctrl")
    with pytest.raises(DataError, match="0 groups are perturbed"):
        NoChange().fit(groups[:3], means[:3], "ctrl")
    with pytest.raises(DataError, match="occur once"):
        NoChange().fit(pd.concat([groups, groups]), np.vstack([means, means]), "ctrl")
    with pytest.raises(DataError, match="finite means"):
        NoChange().fit(groups, means[:4], "ctrl")
    with pytest.raises(DataError, match="columns context, perturbation and cells"):
        NoChange().fit(groups.drop(columns="cells"), means, "ctrl")
