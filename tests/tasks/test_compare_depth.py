"""Depth tables on a toy whose first axis is depth, and thinning by the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tests.baselines.paired import simulate

from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.report.base import Section
from syncyte.report.build import report_from_evaluation
from syncyte.tasks.compare_depth import axis_table, compare_depth, thin_cells, thin_counts
from syncyte.tasks.compare_embed import Method, depths, fitted_spaces
from syncyte.tasks.result import Evaluation

PAIRED = simulate(240)
MOD = "atac"


def cells(rows: slice) -> Cells:
    counts = PAIRED.regions[rows]
    names = pd.Index([f"c{number}" for number in range(counts.shape[0])])
    part = Part(MemoryRows(counts), np.arange(counts.shape[0]), pd.DataFrame(index=range(counts.shape[1])))
    return Cells(pd.DataFrame(index=names), {MOD: part})


@pytest.fixture(scope="module")
def compared():
    patch = pytest.MonkeyPatch()
    patch.setattr("syncyte.metrics.embedding.leiden_agreement", lambda near, labels, seed: {"nmi": 0.5, "ari": 0.4})
    reference, held = cells(slice(0, 140)), cells(slice(140, 240))
    methods = {"syncyte toy": Method(lambda some: np.log1p(depths(some, MOD))[:, None].astype(np.float32), [MOD])}
    methods |= fitted_spaces(reference, [MOD], 0)
    found = {name: how.embed(held) for name, how in methods.items()}
    labels = PAIRED.types[140:].astype(object)
    labels[:5] = ""
    done = compare_depth(methods, found, held, labels, seed=1), held, methods, found
    patch.undo()
    return done


def test_every_axis_is_named_with_the_strongest(compared):
    (tables, text), _, methods, found = compared
    table = tables["depth"]
    assert list(table.index) == list(methods) == list(found)
    assert table.loc["syncyte toy", "depth_r"] == pytest.approx(1) and table.loc["syncyte toy", "axis"] == 1
    assert table.loc["syncyte toy", "depth_r2"] == pytest.approx(1)
    assert table.loc["syncyte toy", "depth_r_in_type"] == pytest.approx(1)
    assert np.isnan(table.loc["syncyte toy", "r_2"]) and np.isfinite(table.loc["LSI (atac)", "r_30"])
    assert table.loc["LSI (atac)", "depth_r"] > table.loc["LSI without its first axis (atac)", "depth_r"]
    axes = table.filter(like="r_").filter(regex=r"^r_\d+$")
    assert np.allclose(axes.abs().max(axis=1), table["depth_r"])
    assert "R2" in text and "Equal depth" in text


def test_scores_at_equal_and_full_depth_stand_side_by_side(compared):
    (tables, _), _, methods, _ = compared
    equal = tables["depth equal"]
    assert list(equal.index) == list(methods)
    plain = [name for name in equal if not name.endswith(("_low", "_high"))]
    assert plain == ["nmi_equal", "nmi_full", "ari_equal", "ari_full", "depth_r_equal", "depth_r_full"]
    assert equal["nmi_equal_low"].to_numpy() == pytest.approx(0.5) == equal["nmi_equal_high"].to_numpy()
    assert equal.loc["syncyte toy", "depth_r_equal"] < 0.5 < equal.loc["syncyte toy", "depth_r_full"]


def test_thinned_cells_are_equally_deep_and_repeatable(compared):
    _, held, _, _ = compared
    total = {MOD: depths(held, MOD)}
    thinned = thin_cells(held, total, 0.25, 3)
    assert thinned.depth[MOD] == int(np.quantile(total[MOD], 0.25))
    assert (total[MOD][thinned.rows] >= thinned.depth[MOD]).all() and len(thinned.rows) < len(held)
    assert (held.names[thinned.rows] == thinned.cells.names).all()
    now, before = depths(thinned.cells, MOD), total[MOD][thinned.rows]
    assert (now <= before).all() and now.mean() == pytest.approx(thinned.depth[MOD], rel=0.1)
    again, other = (thin_cells(held, total, 0.25, seed).cells.counts(MOD) for seed in (3, 4))
    assert (again != thinned.cells.counts(MOD)).nnz == 0 and (other != again).nnz > 0
    assert np.array_equal(depths(held, MOD), total[MOD])  # what was handed in is untouched


def test_counts_are_drawn_one_by_one():
    counts = sp.csr_matrix(np.array([[100, 300, 0], [0, 0, 0], [3, 0, 2]], dtype=np.float32))
    thin = thin_counts(counts, 40, np.random.default_rng(0)).toarray()
    assert (thin <= counts.toarray()).all() and 20 < thin[0].sum() < 60
    assert thin[1].sum() == 0 and thin[2].tolist() == [3, 0, 2]


def test_without_labels_or_whole_modalities_less_is_said(compared):
    (_, _), held, methods, found = compared
    tables, _ = compare_depth(methods, found, held, None)
    assert set(tables["depth equal"]) == {"depth_r_equal", "depth_r_full"}
    assert "depth_r_in_type" not in tables["depth"]
    assert compare_depth({"syncyte toy": Method(lambda some: np.zeros((len(some), 1)), [])}, {}, held, None) == ({}, "")
    both = {"joint": Method(lambda some: found["LSI (atac)"], ["one", "two"])}
    two = {"one": depths(held, MOD), "two": depths(held, MOD)}
    assert list(axis_table(both, {"joint": found["LSI (atac)"]}, two).index) == [
        "joint, depth of one",
        "joint, depth of two",
    ]


def test_the_report_draws_it(compared):
    (tables, text), _, _, _ = compared
    sections = report_from_evaluation(Evaluation(tables, text={"depth": text}, model="syncyte toy")).sections
    depth: Section = next(section for section in sections if section.title == "Depth")
    assert len(depth.tables) == len(depth.figures) == 2 and depth.verdicts and "axes" in depth.data
    assert not any(section.title == "Depth equal" for section in sections)
