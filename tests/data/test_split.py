from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from syncyte.data.split import choose_validation, hold_out, split_random
from syncyte.errors import ConfigError, DataError


def _batches(**sizes: int) -> pd.Series:
    return pd.Series(np.repeat(list(sizes), list(sizes.values())), name="batch")


def test_hold_out_compares_as_text_and_keeps_cells_without_a_value_in_training():
    column = pd.Series([1, 2, 2, 3], name="batch", dtype="category")
    train, held = hold_out(column, ["2"])
    assert train.tolist() == [0, 3]
    assert held.tolist() == [1, 2]
    train, held = hold_out(pd.Series(["a", None, "b"], name="batch"), ["b"])
    assert train.tolist() == [0, 1]
    assert held.tolist() == [2]


def test_hold_out_names_the_nearest_value():
    with pytest.raises(DataError, match=r"value of 'batch' '09K'\. Did you mean '09A'"):
        hold_out(pd.Series(["09A", "10C"], name="batch"), ["09K"])
    with pytest.raises(DataError, match="none is left to train on"):
        hold_out(pd.Series(["a", "b"], name="batch"), ["a", "b"])


def test_validation_is_the_batch_nearest_in_size():
    batches = _batches(big=500, near=120, tiny=5, half=375)
    split = choose_validation(batches, len(batches))
    assert (split.kind, split.name) == ("batch", "near")
    assert split.validation.tolist() == np.flatnonzero(batches == "near").tolist()
    assert sorted([*split.train, *split.validation]) == list(range(1000))


@pytest.mark.parametrize("batches", [None, _batches(only=100), _batches(a=50, b=50), _batches(a=99, b=1)])
def test_without_a_fitting_batch_the_split_is_random_and_says_so(batches):
    split = choose_validation(batches, 100, seed=4)
    assert split.kind == "random"
    assert split.name == "random 10 of 100 cells (seed 4)"
    assert len(split.validation) == 10
    assert sorted([*split.train, *split.validation]) == list(range(100))


def test_ties_between_batches_do_not_depend_on_the_order_of_cells():
    batches = _batches(c=10, a=10, b=10, d=10, e=10)
    assert (
        choose_validation(batches, 50).name == choose_validation(batches[::-1].reset_index(drop=True), 50).name == "a"
    )


def test_random_split_is_seeded_and_never_empty():
    one, two = split_random(50, 0.2, 7), split_random(50, 0.2, 7)
    assert one.validation.tolist() == two.validation.tolist()
    assert one.validation.tolist() != split_random(50, 0.2, 8).validation.tolist()
    assert len(split_random(3, 0.01).validation) == 1
    assert len(split_random(3, 0.99).train) == 1
    with pytest.raises(ConfigError, match="fraction of 1 of 10 cells"):
        split_random(10, 1.0)
    with pytest.raises(ConfigError, match="at least 2 cells"):
        split_random(1, 0.5)
