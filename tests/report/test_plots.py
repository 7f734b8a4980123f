"""Figures draw for one category and for many, and hold the numbers they are given."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from syncyte.report import plots
from syncyte.tasks.plot import PALETTE, natural, new_figure, scatter, scatter_numbers, styles, umap_coordinates

RNG = np.random.default_rng(0)


def drawn(figure):
    figure.canvas.draw()
    return figure


def texts(figure):
    from matplotlib.text import Text

    return [item.get_text() for item in figure.findobj(Text) if item.get_visible()]


@pytest.mark.parametrize("count", [1, 2, 8, 33, 130])
def test_umap_with_any_number_of_categories(count):
    names = [f"type {number}" for number in range(count)]
    figure = drawn(plots.umap(RNG.normal(size=(260, 2)), np.resize(names, 260)))
    legend = figure.axes[0].get_legend()
    found = [item.get_text() for item in legend.get_texts()] if legend else []
    assert found == (names if count <= 120 else [])


def test_categories_are_sorted_distinct_and_missing_is_grey():
    look = styles([f"c{number}" for number in range(60)] + [""])
    named = [look[name] for name in look if name]
    assert len(set(named)) == 60 and list(look)[:3] == ["c0", "c1", "c2"] and look[""][0] not in PALETTE
    assert sorted(["10", "9", "b2", "b10"], key=natural) == ["9", "10", "b2", "b10"]
    figure = new_figure()
    scatter(figure.subplots(), RNG.normal(size=(6, 2)), np.array(["a", None, np.nan, "b", "", "a"], dtype=object))
    assert [item.get_text() for item in drawn(figure).axes[0].get_legend().get_texts()] == ["a", "b", "(none)"]


def test_cells_by_number():
    figure = new_figure()
    scatter_numbers(figure.subplots(), RNG.normal(size=(6, 2)), [1.0, 2, 3, np.nan, 5, 6])
    assert len(drawn(figure).axes) == 2


@pytest.mark.slow
def test_umap_is_seeded_small_and_skips_missing():
    values = np.concatenate([RNG.normal(size=(60, 8)), RNG.normal(4, 1, size=(60, 8))]).astype(np.float32)
    values[5] = np.nan
    rows, spots = umap_coordinates(values, seed=1, max_cells=80)
    again = umap_coordinates(values, seed=1, max_cells=80)
    assert len(rows) == 80 and 5 not in rows and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(spots, again[1])
    first = rows < 60
    gap = np.linalg.norm(spots[first].mean(axis=0) - spots[~first].mean(axis=0))
    assert gap > 2 * spots[first].std(axis=0).max()
    assert umap_coordinates(values[:4], seed=0)[1].shape == (4, 2)
    assert umap_coordinates(values[:, :1], seed=0)[1].shape == (119, 2)


def test_agreement():
    model, other = RNG.normal(0.3, 0.1, 500), RNG.normal(0.2, 0.1, 500)
    other[0] = np.nan
    figure = drawn(plots.agreement_histogram({"syncyte": model, "ridge": other, "empty": [np.nan]}, "t", "r"))
    assert any(
        item.startswith(f"ridge (median {np.nanmedian(other):.3f}") for item in texts(figure)
    ) and "empty (no value)" in texts(figure)
    share = np.mean(model[1:] > other[1:])
    figure = drawn(plots.agreement_scatter(model, other, names=("syncyte", "ridge")))
    assert f"{share:.0%} of 499 features above the diagonal" in texts(figure)
    drawn(plots.agreement_scatter([np.nan], [1.0]))
    drawn(plots.agreement_histogram({}))


def test_confusion_counts_and_order():
    truth = np.array(["c2", "c10", "c2", "c2"])
    predicted = np.array(["c2", "c2", "", "other"])
    table = plots.confusion(truth, predicted)
    assert list(table.index) == ["c2", "c10"] and list(table.columns) == ["c2", "c10", "(none)", "other"]
    assert table.loc["c2"].tolist() == [1, 0, 1, 1] and table.loc["c10", "c2"] == 1
    assert "c2 (3)" in texts(drawn(plots.confusion_matrix(truth, predicted)))


@pytest.mark.parametrize("count", [1, 20, 60])
def test_confusion_of_any_size(count):
    names = np.array([f"type {number}" for number in range(count)])
    drawn(plots.confusion_matrix(np.repeat(names, 2), np.tile(names, 2)))


def test_reliability():
    truth, predicted = np.array(list("aabb")), np.array(list("abbb"))
    bins = plots.reliability_bins(truth, predicted, [0.95, 0.92, 1.0, np.nan])
    assert bins["entries"].tolist() == [3] and bins["observed"][0] == pytest.approx(2 / 3)
    assert bins["predicted"][0] == pytest.approx((0.95 + 0.92 + 1) / 3)
    assert drawn(plots.reliability(bins)).axes[0].get_xscale() == "linear"
    wide = pd.DataFrame({"predicted": [1e-5, 1e-3, 0.5], "observed": [0, 1e-3, 0.4], "entries": [9, 8, 7]})
    assert drawn(plots.reliability(wide)).axes[0].get_xscale() == "log"
    line = drawn(plots.abstention(truth, predicted, [0.9, 0.1, 0.8, 0.7])).axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [1, 1, 1, 0.75])


def test_training_curves():
    rows = [
        (step, 0.1 * step, stage, split, name, 1 / (step + 1))
        for stage, start in (("rna", 0), ("both", 5))
        for step in range(start, start + 5)
        for split in ("train", "validation")
        for name in ("masked", "total", "masked/nb")
    ]
    frame = pd.DataFrame(rows, columns=["step", "epoch", "stage", "split", "name", "value"])
    figure = drawn(plots.training_curves(frame))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["total", "masked"]
    assert {"train", "validation"} <= set(texts(figure))
    parts = drawn(plots.training_curves(frame[frame["name"] == "masked/nb"]))
    assert parts.axes[0].get_title(loc="left") == "masked/nb"


def test_bars():
    index = ["syncyte", "ridge", "true depth (oracle)", "none"]
    table = pd.DataFrame({"r": [0.5, 0.6, 0.9, np.nan], "r_low": [0.4, 0.5, 0.8, np.nan]}, index=index)
    figure = drawn(plots.baseline_bars(table.assign(r_high=table["r"] + 0.1), "r", "syncyte"))
    names = [item.get_text() for item in figure.axes[0].get_yticklabels()]
    assert names == ["none", "syncyte", "ridge", "true depth (oracle)"] and "–" in texts(figure)
    lower = drawn(plots.baseline_bars(pd.DataFrame({"ece": [0.1, 0.2]}, index=["a", "b"]), "ece"))
    assert [item.get_text() for item in lower.axes[0].get_yticklabels()] == ["b", "a"]
    drawn(plots.baseline_bars(pd.DataFrame({"r": [np.nan]}, index=["a"]), "r"))
    assert "90 of 100 (90.0%)" in texts(drawn(plots.coverage_bars({"rna": (90, 100), "atac": (0, 0)})))


def test_pyplot_stays_out():
    assert "plt" not in vars(plots) and not any(
        figure for figure in getattr(sys.modules.get("matplotlib.pyplot"), "get_fignums", list)()
    )
