"""Attributes of cells: codes, numbers, vectors, what is unknown, and how often combinations occur."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from syncyte.errors import DataError
from syncyte.models.conditions import (
    FEW_LEVELS,
    Attribute,
    ConditionCoder,
    Shares,
    as_text,
    describe_attributes,
    feature_rows,
    is_number,
)
from syncyte.types import json_ready

TYPE = Attribute(name="type", levels=["B", "NK", "T"])
DOSE = Attribute(name="dose", mean=10.0, sd=4.0)
GENE = Attribute(name="gene", levels=["ctrl", "g1", "g2"], features=2)
VECTORS = pd.DataFrame([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], index=["g1", "ctrl", "g9"], columns=["a", "b"])


def obs(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"type": rng.choice(["B", "NK", "T"], n), "gene": rng.choice(["ctrl", "g1", "g2"], n)})
    return table.assign(dose=rng.normal(10, 4, n)).set_index(pd.Index([f"c{i}" for i in range(n)]))


# --- what training says ----------------------------------------------------------------------------------------------


def test_which_columns_are_numbers():
    few = pd.Series(np.arange(100) % FEW_LEVELS)
    assert not is_number(few) and is_number(pd.Series(np.arange(FEW_LEVELS + 1))) and is_number(few.astype(float))
    for labels in (few.astype(float).astype("category"), few > 3, few.astype(str), few.astype(object)):
        assert not is_number(labels)


def test_labels_as_text_keep_what_is_missing_apart():
    assert as_text(pd.Series(["a", None, np.nan, 3])).tolist() == ["a", "", "", "3"]
    assert as_text(pd.Series(pd.Categorical([1, None, 2]))).tolist() == ["1", "", "2"]


def test_attributes_are_those_of_training_cells():
    table = obs()
    table.loc["c0", "type"], table.loc["c1", "type"], table.loc["c0", "dose"] = "only here", None, 1e6
    train = np.arange(1, 60)
    kind, gene, dose = describe_attributes(table, ["type", "gene", "dose"], train, {"gene": VECTORS})
    assert kind == TYPE and gene == GENE and not dose.categorical
    assert dose.mean == pytest.approx(table["dose"].iloc[1:].mean())
    assert dose.sd == pytest.approx(table["dose"].iloc[1:].std())


def test_columns_that_can_teach_nothing_are_refused():
    table = obs().assign(flat=1.5, empty=None, once=[2.0] + [np.nan] * 59)
    train = np.arange(60)
    with pytest.raises(DataError, match="'flat' is the same number in all training cells"):
        describe_attributes(table, ["flat"], train)
    with pytest.raises(DataError, match="'once' is the same number"):
        describe_attributes(table, ["once"], train)
    with pytest.raises(DataError, match="'dose' is a number, and --features describes labels"):
        describe_attributes(table, ["dose"], train, {"dose": VECTORS})
    with pytest.raises(DataError, match="No training cell has a value in 'empty'"):
        describe_attributes(table, ["empty"], train)
    with pytest.raises(DataError, match=r"names x, y \.\.\., none of which is a value of 'gene' \(ctrl, g1, g2 "):
        describe_attributes(table, ["gene"], train, {"gene": pd.DataFrame({"a": [1.0, 2.0]}, index=["x", "y"])})


# --- tables to tensors -----------------------------------------------------------------------------------------------


@pytest.fixture
def coder() -> ConditionCoder:
    return ConditionCoder([TYPE, DOSE, GENE], feature_rows([TYPE, DOSE, GENE], {"gene": VECTORS}))


def test_codes_numbers_and_nulls(coder):
    table = pd.DataFrame({"type": ["T", "", None, "B"], "dose": [14.0, 10.0, np.nan, 2.0]})
    found = coder.arrays(table)
    assert found["type"].tolist() == [3, 0, 0, 1] and found["type"].dtype == np.int64
    assert found["dose"].shape == (4, 1) and found["dose"].dtype == np.float32
    np.testing.assert_array_equal(found["dose"][:, 0], [1.0, 0.0, np.nan, -2.0])
    assert found["gene"].tolist() == [0, 0, 0, 0]  # a column that is not there says nothing
    nothing = coder.arrays(pd.DataFrame(index=range(3)))
    assert (nothing["type"] == 0).all() and np.isnan(nothing["dose"]).all() and nothing["dose"].shape == (3, 1)
    assert nothing["dose"].dtype == np.float32 and nothing["type"].dtype == np.int64


def test_unknown_labels_are_named_beside_what_exists(coder):
    table = pd.DataFrame({"type": ["T", "NKT"]})
    with pytest.raises(DataError, match=r"Unknown value of 'type' 'NKT'\. Did you mean 'NK'\? Known: B, NK, T\."):
        coder.arrays(table)
    assert coder.arrays(table, strict=False)["type"].tolist() == [3, 0]


def test_words_for_numbers_are_refused(coder):
    """What is missing says nothing, numbers may be written as text, and where it is not strict a word says nothing."""
    table = pd.DataFrame({"dose": ["14", None, "high", ""]})
    with pytest.raises(DataError, match=r"^'dose' is a number in this run; found 'high'\.$"):
        coder.arrays(table)
    np.testing.assert_array_equal(coder.arrays(table, strict=False)["dose"][:, 0], [1.0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(coder.arrays(table.drop(index=2))["dose"][:, 0], [1.0, np.nan, np.nan])
    labels = pd.DataFrame({"dose": pd.Categorical([14, 2])})
    np.testing.assert_array_equal(coder.arrays(labels)["dose"][:, 0], [1.0, -2.0])


def test_categorical_columns_read_as_their_labels(coder):
    table = pd.DataFrame({"type": pd.Categorical(["T", None, "B"], categories=["T", "B", "unused"])})
    assert coder.arrays(table)["type"].tolist() == [3, 0, 1]


def test_feature_vectors_are_looked_up_by_code(coder):
    assert coder.categories == {"type": 3, "gene": 3} and coder.vectors == {"dose": 1, "gene.features": 2}
    arrays = coder.arrays(pd.DataFrame({"gene": ["g1", "ctrl", "g2", ""], "type": "B", "dose": 10.0}))
    found = coder.tensors(arrays)
    assert set(found) == {"type", "dose", "gene", "gene.features"}
    wanted = [[1.0, 2.0], [3.0, 4.0], [np.nan] * 2, [np.nan] * 2]  # g2 has none, and nothing has none
    np.testing.assert_array_equal(found["gene.features"].numpy(), np.array(wanted, dtype=np.float32))
    other = torch.ones(4, 2)
    assert torch.equal(coder.tensors({**arrays, "gene.features": other})["gene.features"], other)  # those given stay


# --- how often combinations occur ------------------------------------------------------------------------------------


@pytest.fixture
def shares() -> Shares:
    """60 B in x, 30 B in y, 10 T in x."""
    table = pd.DataFrame({"type": ["B"] * 90 + ["T"] * 10, "batch": ["x"] * 60 + ["y"] * 30 + ["x"] * 10})
    levels = {"type": ["B", "T"], "batch": ["x", "y"]}
    return Shares.of(table, [Attribute(name=name, levels=found) for name, found in levels.items()], 0)


def test_shares_are_counted(shares):
    assert shares.table.to_numpy().tolist() == [["B", "x"], ["B", "y"], ["T", "x"]]
    assert shares.counts.tolist() == [60, 30, 10]


@pytest.mark.parametrize("n", [1, 7, 50, 333])
def test_draws_have_the_shares_up_to_rounding(shares, n):
    drawn = shares.draw(n, {}, np.random.default_rng(0))
    assert len(drawn) == n and drawn.index.tolist() == list(range(n))
    found = drawn.value_counts().reindex([("B", "x"), ("B", "y"), ("T", "x")], fill_value=0).to_numpy()
    assert (np.abs(found - n * shares.counts / 100) < 1).all()
    again = shares.draw(n, {}, np.random.default_rng(0))
    pd.testing.assert_frame_equal(drawn, again)


def test_draws_come_in_random_order(shares):
    drawn = shares.draw(100, {}, np.random.default_rng(1))["batch"]
    assert (drawn != drawn.shift()).sum() > 20


def test_what_is_given_decides_the_rest(shares):
    rng = np.random.default_rng(0)
    given = shares.draw(90, {"type": "B"}, rng)
    assert (given["type"] == "B").all() and (given["batch"] == "x").sum() == 60
    assert (shares.draw(20, {"batch": "y"}, rng)["type"] == "B").all()
    unseen = shares.draw(10, {"type": "T", "batch": "y"}, rng)
    assert (unseen["type"] == "T").all() and (unseen["batch"] == "y").all()
    pd.testing.assert_index_equal(given.columns, pd.Index(["type", "batch"]))


def test_a_number_that_no_cell_had_leaves_the_labels_in_force():
    """The rest is drawn beside the labels that are given, whatever number stands beside them."""
    table = pd.DataFrame({"type": ["B"] * 50 + ["T"] * 50, "batch": ["x"] * 50 + ["y"] * 50})
    table["dose"] = np.random.default_rng(0).normal(size=100)
    kinds = [Attribute(name="type", levels=["B", "T"]), Attribute(name="batch", levels=["x", "y"])]
    shares = Shares.of(table, [*kinds, Attribute(name="dose")], 0)
    drawn = shares.draw(40, {"type": "T", "dose": 0.123}, np.random.default_rng(0))
    assert (drawn["dose"] == 0.123).all() and (drawn["batch"] == "y").all()


def test_numbers_are_drawn_as_cells_had_them():
    table = obs(200)
    attributes = describe_attributes(table, ["type", "dose"], np.arange(200))
    shares = Shares.of(table, attributes, 0)
    assert shares.counts.sum() == 200
    drawn = shares.draw(200, {}, np.random.default_rng(0))
    joined = drawn.merge(table[["type", "dose"]], on=["type", "dose"])
    assert len(joined) == 200 and drawn["dose"].is_unique


def test_shares_survive_json():
    table = obs(50)
    table.loc["c3", "dose"], table.loc["c4", "type"] = np.nan, None
    attributes = describe_attributes(table, ["type", "dose"], np.arange(50))
    shares = Shares.of(table, attributes, 0)
    again = Shares.read(json.loads(json.dumps(json_ready(shares.plain()), allow_nan=False)))
    pd.testing.assert_frame_equal(again.table, shares.table)
    assert again.counts.dtype == shares.counts.dtype and (again.counts == shares.counts).all()
    one, two = (some.draw(30, {"type": "B"}, np.random.default_rng(2)) for some in (shares, again))
    pd.testing.assert_frame_equal(one, two)


def test_a_run_without_attributes_draws_bare_rows():
    shares = Shares.of(obs(), [], 0)
    assert shares.draw(5, {}, np.random.default_rng(0)).shape == (5, 0)
    again = Shares.read(json.loads(json.dumps(shares.plain())))
    assert again.draw(5, {}, np.random.default_rng(0)).shape == (5, 0)
