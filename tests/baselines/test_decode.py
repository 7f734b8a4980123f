"""Decoders of the start: their shapes, what is held out to choose them by, and the way through the target's latents."""

from __future__ import annotations

import numpy as np
import pytest

from syncyte.baselines.decode import Shape, fit_decoder, fit_profile, pairs_of
from syncyte.baselines.start import fit_start
from syncyte.baselines.tune import POWERS, choose_shape, hold_out
from syncyte.modalities import modalities
from syncyte.recipes.simulate import simulate


def _counts(depth, n=900, **options):
    data = simulate(n, 3, world=1, genes=120, regions=900, depth_rna=depth, depth_atac=depth, **options)
    kinds = {name: modalities[name].residual for name in ("rna", "atac")}
    counts = {name: data[name].X.astype(np.float32).tocsr() for name in kinds}
    return counts, {name: np.ones(n, dtype=bool) for name in kinds}, kinds, data.obs["batch"].astype(str).to_numpy()


def test_whole_groups_are_held_out():
    groups = np.array(list("aaabbbcccc") * 10)
    rows = np.arange(100)
    learned, held = hold_out(rows, groups, np.random.default_rng(0))
    assert set(groups[learned]).isdisjoint(groups[held]) and 0.2 <= len(held) / 100 <= 0.6
    assert sorted([*learned, *held]) == rows.tolist()


@pytest.mark.parametrize("groups", [None, np.array(["a"] * 100), np.array(["a"] * 95 + ["b"] * 5)])
def test_random_rows_where_groups_do_not_serve(groups):
    learned, held = hold_out(np.arange(100), groups, np.random.default_rng(1))
    assert len(np.intersect1d(learned, held)) == 0
    assert len(learned) + len(held) == 100 and len(held) >= 5


def test_prior_scales_components():
    strength = np.array([1.0, 0.25], dtype=np.float32)
    assert np.allclose(Shape(0.5, 2.0).prior(strength), [2.0, 1.0])


def test_deep_cells_are_shrunken_less_than_shallow_ones():
    chosen = {}
    for depth in (60, 6000):
        counts, present, kinds, batch = _counts(depth, batch_effect=0.0)
        start = fit_start(counts, present, kinds, shared=12, private=10, groups=batch)
        shape = start.shapes["rna"]
        chosen[depth] = shape.factor * 0.2**shape.power  # what is left of a component of a fifth of the strength
    assert chosen[6000] > chosen[60]


def test_tuned_start_is_not_worse_on_cells_it_has_not_seen():
    counts, present, kinds, batch = _counts(3000, n=1200)
    learn, new = np.flatnonzero(batch != "batch_3"), np.flatnonzero(batch == "batch_3")
    part = ({m: counts[m][learn] for m in counts}, {m: present[m][learn] for m in counts}, kinds)
    truth = np.asarray(modalities["rna"].observed(counts["rna"][new]).todense())
    error = {}
    for tune in (False, True):
        start = fit_start(*part, shared=12, private=10, groups=batch[learn], tune=tune)
        error[tune] = np.square(truth - start.predict("atac", "rna", counts["atac"][new])).mean()
    assert error[True] < 1.01 * error[False]


@pytest.mark.parametrize("target", ["rna", "atac"])
def test_through_is_a_blend_of_both_ways(target):
    counts, present, kinds, _ = _counts(800, n=400)
    source = {"rna": "atac", "atac": "rna"}[target]
    start = fit_start(counts, present, kinds, shared=6, private=6, tune=False)
    every = np.arange(400)
    pairs = pairs_of(target, source, counts, every, every, start.encoders, 6)
    ends = (start.encoders[source], start.encoders[target])
    base = fit_decoder(pairs, *ends, Shape(through=0.0))
    weight = {share: fit_profile(pairs, *ends, Shape(through=share), base).weight for share in (0.0, 0.5, 1.0)}
    assert np.allclose(weight[0.5], (weight[0.0] + weight[1.0]) / 2, atol=1e-5)
    assert not np.allclose(weight[0.0], weight[1.0], atol=1e-3)


def test_choice_is_from_the_ladder_and_repeats():
    counts, present, kinds, _ = _counts(800, n=400)
    start = fit_start(counts, present, kinds, shared=6, private=6, tune=False)
    known, new = np.arange(300), np.arange(300, 400)
    pairs = [pairs_of("atac", "rna", counts, rows, rows, start.encoders, 6) for rows in (known, new)]
    shapes = [choose_shape(*pairs, start.encoders["rna"], start.encoders["atac"]) for _ in range(2)]
    assert shapes[0] == shapes[1] and shapes[0].power in POWERS["depth"]


def test_batches_are_held_out_whole_whatever_comes_first():
    for sizes in ((30, 70), (5, 90, 5), (10, 80, 10), (48, 52)):
        groups = np.repeat([f"b{number}" for number in range(len(sizes))], np.array(sizes) * 2)
        for seed in range(20):
            learned, held = hold_out(np.arange(len(groups)), groups, np.random.default_rng(seed))
            assert set(groups[learned]).isdisjoint(groups[held]) and 0 < len(held) <= 0.6 * len(groups)
