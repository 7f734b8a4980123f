"""Log total counts by attributes: truth is found, small groups are drawn to the rest, nothing unknown is guessed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from syncyte.baselines.library import LibraryModel, between_variance
from syncyte.errors import DataError

DONORS, TYPES = 10, 6


def world(n: int, seed: int = 0, *, crossed: float = 0.15) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Log totals, their true means, and donor and type; the sd is 0.2 in the first type, 0.6 in the others."""
    rng = np.random.default_rng(seed)
    donor, kind = rng.integers(0, DONORS, n), rng.choice(TYPES, n, p=[0.3, 0.3, 0.2, 0.15, 0.03, 0.02])
    mean = 8 + rng.normal(0, 0.3, DONORS)[donor] + rng.normal(0, 0.5, TYPES)[kind]
    mean = mean + rng.normal(0, crossed, (DONORS, TYPES))[donor, kind]
    table = pd.DataFrame({"donor": [f"d{i}" for i in donor], "type": [f"t{i}" for i in kind]})
    return mean + np.where(kind == 0, 0.2, 0.6) * rng.standard_normal(n), mean, table


def test_means_and_spreads_come_near_the_truth():
    y, mean, table = world(8000)
    model = LibraryModel.fit(y, table)
    raw = pd.Series(y).groupby([table["donor"], table["type"]]).transform("mean").to_numpy()
    error, plain = (np.sqrt(((found - mean) ** 2).mean()) for found in (model.mean(table), raw))
    assert error < 0.07 and error <= plain
    spread = model.sd(pd.DataFrame({"donor": ["d0", "d0"], "type": ["t0", "t1"]}))
    np.testing.assert_allclose(spread, [0.2, 0.6], rtol=0.08)
    drawn = model.sample(table, np.random.default_rng(1))
    for kind in ("t0", "t1"):
        here = (table["type"] == kind).to_numpy()
        assert drawn[here].mean() == pytest.approx(y[here].mean(), abs=0.05)
        assert drawn[here].std() == pytest.approx(y[here].std(), rel=0.06)


def test_pooling_beats_both_extremes_where_cells_are_few():
    """Against means of combinations and against the grand mean, over many small data sets."""
    errors = []
    for seed in range(12):
        y, mean, table = world(150, seed)
        model = LibraryModel.fit(y, table)
        raw = pd.Series(y).groupby([table["donor"], table["type"]]).transform("mean").to_numpy()
        errors.append([((found - mean) ** 2).mean() for found in (model.mean(table), raw, np.full(150, y.mean()))])
    pooled, plain, grand = np.mean(errors, axis=0)
    assert pooled < 0.8 * plain and pooled < 0.5 * grand


def test_labels_that_mean_nothing_have_no_effect():
    rng = np.random.default_rng(3)
    y = rng.standard_normal(400)
    table = pd.DataFrame({"a": rng.integers(0, 8, 400).astype(str), "b": rng.integers(0, 5, 400).astype(str)})
    model = LibraryModel.fit(y, table)
    raw = pd.Series(y).groupby([table["a"], table["b"]]).transform("mean")
    assert model.mean(table).std() < 0.4 * raw.std()
    assert model.sd(table).std() < 0.1


def test_one_attribute_is_the_textbook_shrinkage():
    rng = np.random.default_rng(1)
    cells = np.array([3, 10, 40, 400])
    level = np.repeat(np.arange(4), cells)
    y = np.array([1.0, -1.0, 0.5, 0.0])[level] + rng.standard_normal(len(level))
    model = LibraryModel.fit(y, pd.DataFrame({"x": level.astype(str)}))
    raw = np.array([y[level == code].mean() for code in range(4)])
    noise = sum(((y[level == code] - raw[code]) ** 2).sum() for code in range(4)) / (len(y) - 4) / cells
    between = between_variance(raw, noise, 3)
    middle = np.average(raw, weights=1 / (between + noise))
    wanted = middle + between / (between + noise) * (raw - middle)
    found = model.mean(pd.DataFrame({"x": list("0123")}))
    # one constant apart: shrunken effects are counted from the mean over cells
    np.testing.assert_allclose(found - wanted, (found - wanted)[0], atol=1e-9)
    assert abs((found - wanted)[0]) < 0.02 and not model.deviations
    assert abs(found[0] - middle) < abs(raw[0] - middle)


def test_variance_between_noisy_values():
    rng = np.random.default_rng(0)
    noise = rng.uniform(0.1, 1.0, 400)
    values = rng.normal(0, 1.5, 400) + np.sqrt(noise) * rng.standard_normal(400)
    assert between_variance(values, noise, 399) == pytest.approx(1.5**2, rel=0.15)
    assert between_variance(np.sqrt(noise) * 0.5, noise, 399) == 0.0
    assert between_variance(np.zeros(3), np.zeros(3) + 1e-9, 0) == 0.0


def test_an_unseen_combination_is_the_sum_of_main_effects():
    y, mean, table = world(8000)
    kept = ~((table["donor"] == "d3") & (table["type"] == "t1")).to_numpy()
    model = LibraryModel.fit(y[kept], table[kept])
    asked = pd.DataFrame({"donor": ["d3", "d3"], "type": ["t1", "t0"]})
    found = model.mean(asked)
    place = {name: one.levels for name, one in model.effects.items()}
    donor = model.effects["donor"].mean[place["donor"].index("d3")]
    kind = model.effects["type"].mean[place["type"].index("t1")]
    assert found[0] == pytest.approx(model.grand + donor + kind, abs=1e-12)
    assert found[0] == pytest.approx(mean[~kept][0], abs=0.45)  # main effects cannot know the deviation
    assert found[1] == pytest.approx(mean[((table["donor"] == "d3") & (table["type"] == "t0")).to_numpy()][0], abs=0.1)


def test_missing_values_give_the_grand_mean_and_the_spread_of_all():
    y, _, table = world(8000)
    model = LibraryModel.fit(y, table)
    empty = pd.DataFrame({"donor": ["", np.nan], "type": ["", None]})
    for asked in (empty, empty[["type"]], empty[[]]):
        np.testing.assert_allclose(model.mean(asked), y.mean(), atol=1e-9)
    many = pd.DataFrame({"donor": [""] * 4000})
    drawn = model.sample(many, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(y.std(), rel=0.1)
    half = table.copy()
    half.loc[::2, "donor"] = ""
    again = LibraryModel.fit(y, half)
    assert again.mean(empty)[0] == pytest.approx(y.mean(), abs=1e-9)
    np.testing.assert_allclose(again.mean(table), model.mean(table), atol=0.25)


def test_no_attribute_one_level_or_one_cell_a_combination_still_work():
    y, _, table = world(500)
    rng = np.random.default_rng(0)
    plain = LibraryModel.fit(y, table[[]])
    assert plain.sample(table[[]], rng).std() == pytest.approx(y.std(), rel=0.15)
    single = LibraryModel.fit(y, pd.DataFrame({"a": ["same"] * 500}))
    np.testing.assert_allclose(single.mean(pd.DataFrame({"a": ["same"]})), y.mean())
    alone = LibraryModel.fit(y, pd.DataFrame({"cell": [f"c{i}" for i in range(500)]}))
    assert np.isfinite(alone.sample(pd.DataFrame({"cell": ["c1", ""]}), rng)).all()
    one = LibraryModel.fit([8.0], pd.DataFrame({"a": ["x"]}))
    np.testing.assert_allclose(one.sample(pd.DataFrame({"a": ["x", ""]}), rng), 8.0, atol=1e-3)
    void = LibraryModel.fit(y, pd.DataFrame({"a": [""] * 500}))
    np.testing.assert_allclose(void.mean(pd.DataFrame({"a": [""]})), y.mean())
    with pytest.raises(DataError, match="Unknown value of 'a' 'x'"):
        void.mean(pd.DataFrame({"a": ["x"]}))


def test_draws_follow_the_shape_of_the_residuals():
    rng = np.random.default_rng(0)
    y = -rng.exponential(1.0, 5000)  # a long tail of shallow cells
    table = pd.DataFrame({"a": ["x"] * 5000})
    drawn = LibraryModel.fit(y, table).sample(table, rng)
    lopsided = lambda v: (((v - v.mean()) / v.std()) ** 3).mean()  # noqa: E731
    assert lopsided(drawn) < -1.2 and drawn.max() < 0.1


def test_it_survives_json_and_draws_by_seed():
    y, _, table = world(600)
    model = LibraryModel.fit(y, table)
    again = LibraryModel.from_dict(json.loads(json.dumps(model.to_dict())))
    np.testing.assert_array_equal(again.mean(table), model.mean(table))
    np.testing.assert_array_equal(again.sd(table), model.sd(table))
    draws = [m.sample(table, np.random.default_rng(seed)) for m, seed in ((model, 0), (again, 0), (model, 1))]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    order = np.random.default_rng(0).permutation(600)
    np.testing.assert_allclose(LibraryModel.fit(y[order], table.iloc[order]).mean(table), model.mean(table), atol=1e-6)


def test_what_cannot_be_used_is_said():
    y, _, table = world(60)
    model = LibraryModel.fit(y, table)
    with pytest.raises(DataError, match=r"Unknown value of 'donor' 'd33'. Did you mean 'd3'\?"):
        model.mean(pd.DataFrame({"donor": ["d33"]}))
    with pytest.raises(DataError, match=r"Unknown attribute 'doner'. Did you mean 'donor'\?"):
        model.sample(pd.DataFrame({"doner": ["d3"]}), np.random.default_rng(0))
    with pytest.raises(DataError, match="59 rows of attributes"):
        LibraryModel.fit(y, table.iloc[:59])
    with pytest.raises(DataError, match="1 log total counts are not finite"):
        LibraryModel.fit(np.append(y[:59], -np.inf), table)
    with pytest.raises(DataError, match=r"'dose' holds real numbers.*pandas.cut"):
        LibraryModel.fit(y, pd.DataFrame({"dose": np.linspace(0, 1, 60)}))
