from __future__ import annotations

import numpy as np
import pytest

from syncyte.errors import DataError
from syncyte.metrics.bootstrap import bootstrap_interval


def test_interval_covers_and_shrinks_with_units():
    rng = np.random.default_rng(0)
    few = bootstrap_interval(rng.normal(1, 1, 8), np.random.default_rng(1))
    many = bootstrap_interval(rng.normal(1, 1, 400), np.random.default_rng(1))
    assert many.low < 1 < many.high and many.low < many.mean < many.high
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_mapping_weights_and_seed():
    scores = {"a": 1.0, "b": 2.0, "c": float("nan")}
    found = bootstrap_interval(scores, np.random.default_rng(0), weights=[3, 1, 100])
    assert found.mean == pytest.approx(1.25) and found.units == 2
    assert found == bootstrap_interval(scores, np.random.default_rng(0), weights=[3, 1, 100])


def test_one_unit_is_a_point_and_none_an_error():
    found = bootstrap_interval([0.3], np.random.default_rng(0))
    assert (found.low, found.mean, found.high) == (0.3, 0.3, 0.3)
    with pytest.raises(DataError, match="No unit has a finite score"):
        bootstrap_interval([float("nan")], np.random.default_rng(0))
