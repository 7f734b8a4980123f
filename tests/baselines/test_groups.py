"""Means and variances by combination of labels, against direct ones, and groups that are put together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from syncyte.baselines import groups as module
from syncyte.baselines.groups import Groups
from syncyte.baselines.prediction import log_cp10k


def cells(n: int = 90, seed: int = 0) -> tuple[sp.csr_matrix, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(1, 2, (n, 7))).astype(np.float32))
    levels = {"type": ["B", "T"], "donor": ["1", "2", ""], "drug": ["c", "x"]}
    return counts, pd.DataFrame({name: rng.choice(values, n) for name, values in levels.items()})


def fit(counts: sp.csr_matrix, labels: pd.DataFrame, size: int = 1000, **options) -> Groups:
    rows = np.arange(len(labels))
    blocks = ((rows[at : at + size], counts[at : at + size]) for at in range(0, len(rows), size))
    found = Groups.fit(blocks, labels, **options)
    assert found is not None
    return found


def direct(counts: sp.csr_matrix, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and variance of log values, and the mean log total, of some cells."""
    logs = log_cp10k(counts[rows]).toarray().astype(float)
    totals = np.asarray(counts[rows].sum(axis=1)).ravel()
    return logs.mean(axis=0), logs.var(axis=0), float(np.log(np.maximum(totals, 1)).mean())


def test_two_groups_by_hand():
    counts = sp.csr_matrix(np.array([[1, 3], [4, 0], [0, 2], [2, 2]], dtype=np.float32))
    found = fit(counts, pd.DataFrame({"drug": ["x", "c", "x", "x"]}))
    assert found.table["drug"].tolist() == ["c", "x"] and found.cells.tolist() == [1, 3]
    one, three, half, whole = np.log1p([2500.0, 7500.0, 5000.0, 10000.0])
    np.testing.assert_allclose(found.means, [[whole, 0], [(one + half) / 3, (three + whole + half) / 3]], rtol=1e-6)
    np.testing.assert_allclose(found.variances[0], 0, atol=1e-6)
    np.testing.assert_allclose(found.variances[1], [np.var([one, 0, half]), np.var([three, whole, half])], rtol=1e-5)
    np.testing.assert_allclose(found.totals, [np.log(4), np.log([4, 2, 4]).mean()], rtol=1e-6)
    assert found.means.dtype == found.variances.dtype == found.totals.dtype == np.float32


@pytest.mark.parametrize("size", [1, 13, 1000])
def test_groups_are_direct_means_whatever_the_blocks(size):
    counts, labels = cells()
    found = fit(counts, labels, size)
    assert found.cells.sum() == 90 and list(found.table.columns) == ["type", "donor", "drug"]
    assert len(found.table) == len(labels.drop_duplicates())
    assert (found.table["donor"] == "").any()  # missing is a label
    for row, (mean, variance, total) in enumerate(zip(found.means, found.variances, found.totals, strict=True)):
        rows = np.flatnonzero((labels == found.table.iloc[row]).all(axis=1))
        wanted = direct(counts, rows)
        assert found.cells[row] == len(rows)
        np.testing.assert_allclose(mean, wanted[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance, wanted[1], rtol=1e-4, atol=1e-4)
        assert total == pytest.approx(wanted[2], rel=1e-5)


def test_blocks_come_in_any_order():
    counts, labels = cells()
    order = np.random.default_rng(1).permutation(90)
    shuffled = Groups.fit(((rows, counts[rows]) for rows in np.array_split(order, 5)), labels)
    plain = fit(counts, labels)
    for name in ("cells", "totals", "means", "variances"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(plain, name), rtol=1e-5, atol=1e-5)


def test_other_values_can_be_averaged():
    counts, labels = cells()
    found = fit(counts, labels[["drug"]], observed=lambda block: (block > 0).astype(np.float32))
    for row, drug in enumerate(found.table["drug"]):
        share = (counts[np.flatnonzero(labels["drug"] == drug)] > 0).toarray().mean(axis=0)
        np.testing.assert_allclose(found.means[row], share, rtol=1e-6)
        np.testing.assert_allclose(found.variances[row], share * (1 - share), rtol=1e-5, atol=1e-7)


def test_too_many_groups_are_not_kept(monkeypatch):
    counts, labels = cells()
    size = len(labels.drop_duplicates()) * 7
    monkeypatch.setattr(module, "MOST_ENTRIES", size - 1)
    assert Groups.fit([(np.arange(90), counts)], labels) is None
    monkeypatch.setattr(module, "MOST_ENTRIES", size)
    assert Groups.fit([(np.arange(90), counts)], labels) is not None


@pytest.mark.parametrize("others", [["type"], ["type", "donor"], ["donor"], []])
def test_collapsed_groups_are_those_of_fewer_labels(others):
    """The same as if the cells had been summed up by these labels, weighted by their cells."""
    counts, labels = cells()
    found = fit(counts, labels).collapse("drug", others)
    assert list(found.table.columns) == ["context", "perturbation"] and found.cells.sum() == 90
    context = labels[others].agg(" | ".join, axis=1) if others else pd.Series("all", index=labels.index)
    assert set(found.table["context"]) == set(context)
    for row in range(len(found.cells)):
        own = found.table.iloc[row]
        rows = np.flatnonzero((context == own["context"]) & (labels["drug"] == own["perturbation"]))
        mean, variance, total = direct(counts, rows)
        assert found.cells[row] == len(rows)
        np.testing.assert_allclose(found.means[row], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.variances[row], variance, rtol=1e-4, atol=1e-4)
        assert found.totals[row] == pytest.approx(total, rel=1e-5)


def test_cells_without_the_label_are_in_no_collapsed_group():
    counts, labels = cells()
    labels.loc[:29, "drug"] = ""
    found = fit(counts, labels).collapse("drug", ["type"])
    assert found.cells.sum() == 60 and set(found.table["perturbation"]) == {"c", "x"}
    rows = np.flatnonzero((labels["drug"] == "x") & (labels["type"] == "B"))
    own = ((found.table["perturbation"] == "x") & (found.table["context"] == "B")).to_numpy()
    np.testing.assert_allclose(found.means[own][0], direct(counts, rows)[0], rtol=1e-5, atol=1e-6)
