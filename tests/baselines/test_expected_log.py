"""Means of log values under count noise, and the effect regression leans on contexts that look alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from syncyte.baselines.effects import EffectModel, expected_log, share_for
from syncyte.baselines.groups import Groups


@pytest.mark.parametrize("total", [300.0, 3000.0])
def test_expected_log_is_the_mean_over_counts(total):
    rng = np.random.default_rng(0)
    share, dispersion = np.array([1e-5, 1e-3, 1e-2, 0.1]), np.array([1.0, 5.0, 10.0, 50.0])
    mean = share * total
    counts = rng.poisson(rng.gamma(dispersion, mean / dispersion, (200_000, 4)))
    np.testing.assert_allclose(
        expected_log(share, total, dispersion), np.log1p(1e4 * counts / total).mean(axis=0), rtol=0.03, atol=2e-3
    )


def test_a_share_is_found_for_its_level():
    share, dispersion = np.geomspace(1e-5, 0.2, 20), np.full(20, 8.0)
    level = expected_log(share, 800.0, dispersion)
    np.testing.assert_allclose(share_for(level, 800.0, dispersion), share, rtol=1e-3)
    assert share_for(np.array([0.0, -1.0]), 800.0, dispersion[:2]).tolist() == [0.0, 0.0]


def test_a_new_context_leans_on_those_like_it():
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1], 5)
    profiles, changes = rng.gamma(1.0, 1.0, (2, 200)), rng.normal(size=(2, 200)) * (rng.random(200) < 0.3)
    control = profiles[kinds] + 0.05 * rng.normal(size=(10, 200))
    treated = control + changes[kinds] + 0.05 * rng.normal(size=(10, 200))
    table = pd.DataFrame(
        {"context": [f"c{i}" for i in range(10)] * 2, "perturbation": ["control"] * 10 + ["drug"] * 10}
    )
    kept = (table["context"] != "c9").to_numpy()
    groups = Groups(
        table[kept].reset_index(drop=True),
        np.full(kept.sum(), 100),
        np.zeros(kept.sum(), dtype=np.float32),
        np.vstack([control, treated])[kept].astype(np.float32),
        np.full((kept.sum(), 200), 0.25, dtype=np.float32),
    )
    model = EffectModel(groups, "control", pd.DataFrame())
    found = model.effect("drug", control[9]).value
    plain = (treated - control)[:9].mean(axis=0)
    assert np.mean((found - changes[1]) ** 2) < 0.2 * np.mean((plain - changes[1]) ** 2)
    assert model.over_contexts.context > 0
