"""Plots of fragment quality."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from syncyte.data.fragments.cells import FragmentCounts
from syncyte.report.fragments import plot_fragments, write_plots


def made(cells: int, columns: list[str]) -> FragmentCounts:
    random = np.random.default_rng(0)
    obs = pd.DataFrame({name: random.random(cells) for name in columns})
    obs["fragments"] = random.integers(100, 1000, cells)
    return FragmentCounts(obs, np.sort(random.integers(0, 1000, 500))[::-1], {}, None, None, pd.DataFrame())


@pytest.mark.parametrize("cells", [1, 100])
@pytest.mark.parametrize("columns", [["nucleosome_signal"], ["tss_enrichment", "frip", "duplicate_share"]])
def test_one_panel_a_measure(cells: int, columns: list[str]):
    figure = plot_fragments(made(cells, columns))
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == 2 + len(columns) + ("tss_enrichment" in columns)
    assert shown[0].get_xlabel() == "rank of the barcode"


def test_measures_without_a_number():
    counts = made(5, ["nucleosome_signal"])
    counts.obs["nucleosome_signal"] = np.nan
    counts.obs["fragments"] = 0
    axes = plot_fragments(counts).axes
    assert not any(axis.patches for axis in axes)  # histograms without bars, and without an invented median
    assert all("median" not in axis.get_xlabel() for axis in axes)


def test_written(tmp_path):
    path = write_plots(made(20, ["frip"]), tmp_path / "plots")
    assert path.read_bytes()[:4] == b"\x89PNG"
