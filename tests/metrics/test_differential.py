"""Tests of genes against SciPy on dense values, fold changes against formulae, agreement against cell-eval."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from syncyte.errors import ConfigError, DataError
from syncyte.metrics import differential as module
from syncyte.metrics.differential import Differences, agreement, differential, significance_weights


def draw(seed: int = 0, cells: int = 90, genes: int = 60) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Counts with many ties, one gene that nobody has and one that everybody has; two masks and cells in neither."""
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(-0.5, 1.2, genes))
    group = np.arange(cells) < cells // 3
    change = np.where(np.arange(genes) < 15, np.exp(rng.normal(0, 0.9, genes)), 1.0)
    counts = rng.poisson(rates * np.where(group[:, None], change, 1.0))
    counts[:, -1], counts[:, -2] = 0, 5
    return sp.csr_matrix(counts), group, np.arange(cells) >= cells // 3 + 5


def logs(counts: sp.csr_matrix) -> np.ndarray:
    dense = counts.toarray().astype(float)
    return np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("seed", range(3))
def test_ranks_match_scipy(seed: int):
    counts, group, control = draw(seed)
    table, values = differential(counts, group, control), logs(counts)
    wanted = stats.mannwhitneyu(values[group], values[control], method="asymptotic", axis=0)
    p = np.where(np.isnan(wanted.pvalue), 1.0, wanted.pvalue)
    np.testing.assert_allclose(table["p_value"], p, rtol=1e-9, atol=1e-12)
    middle = group.sum() * control.sum() / 2
    assert (
        np.sign(table["statistic"]) == np.where(table["statistic"] == 0, 0, np.sign(wanted.statistic - middle))
    ).all()
    assert table["p_value"].iloc[-1] == 1.0


def test_ranks_of_equal_depths_are_full_of_ties():
    counts = sp.csr_matrix(np.random.default_rng(1).multinomial(30, [0.5, 0.3, 0.1, 0.06, 0.04], size=50))
    group = np.arange(50) < 20
    wanted = stats.mannwhitneyu(logs(counts)[group], logs(counts)[~group], method="asymptotic", axis=0).pvalue
    np.testing.assert_allclose(differential(counts, group, ~group)["p_value"], wanted, rtol=1e-9)


def test_welch_matches_scipy():
    counts, group, control = draw()
    table, values = differential(counts, group, control, test="welch"), logs(counts)
    wanted = stats.ttest_ind(values[group][:, :-1], values[control][:, :-1], equal_var=False)
    np.testing.assert_allclose(table["statistic"][:-1], wanted.statistic, rtol=1e-9)
    np.testing.assert_allclose(table["p_value"][:-1], wanted.pvalue, rtol=1e-8)
    assert table["statistic"].iloc[-1] == 0 and table["p_value"].iloc[-1] == 1


def test_fold_change_error_and_rate_are_their_formulae():
    counts, group, control = draw()
    table = differential(counts, group, control, pseudocount=0.5)
    rates = np.expm1(logs(counts))
    first, second = rates[group], rates[control]
    np.testing.assert_allclose(table["mean"], first.mean(axis=0))
    np.testing.assert_allclose(table["control_mean"], second.mean(axis=0))
    raised = first.mean(axis=0) + 0.5, second.mean(axis=0) + 0.5
    np.testing.assert_allclose(table["log2_fold_change"], np.log2(raised[0] / raised[1]), atol=1e-12)
    share = [part.var(axis=0, ddof=1) / len(part) / up**2 for part, up in zip((first, second), raised)]
    np.testing.assert_allclose(table["standard_error"], np.sqrt(sum(share)) / np.log(2), rtol=1e-9)
    ordered = np.sort(table["p_value"])
    stepped = np.minimum.accumulate((ordered * len(ordered) / np.arange(1, len(ordered) + 1))[::-1])[::-1]
    np.testing.assert_allclose(np.sort(table["fdr"]), np.minimum(stepped, 1))


def test_standard_error_is_the_spread_of_the_fold_change():
    rng = np.random.default_rng(3)
    folds, errors = [], []
    for _ in range(300):
        counts = sp.csr_matrix(np.column_stack([rng.poisson(3.0, 120), np.full(120, 1000)]))
        row = differential(counts, np.arange(120) < 50, np.arange(120) >= 50).iloc[0]
        folds.append(row["log2_fold_change"])
        errors.append(row["standard_error"])
    assert np.mean(errors) == pytest.approx(np.std(folds), rel=0.15)


def test_no_difference_gives_even_p_values():
    counts = sp.csr_matrix(np.random.default_rng(4).poisson(0.7, (200, 1500)))
    for test in ("ranks", "welch"):
        table = differential(counts, np.arange(200) < 70, np.arange(200) >= 70, test=test)
        assert abs((table["p_value"] < 0.1).mean() - 0.1) < 0.03 and (table["fdr"] < 0.05).sum() <= 2


def test_blocks_storage_and_scale_do_not_matter(monkeypatch):
    counts, group, control = draw()
    whole = differential(counts, group, control)
    values = sp.csr_matrix(logs(counts))
    pd.testing.assert_frame_equal(differential(values, group, control, logged=True), whole, rtol=1e-9)
    part = differential(counts[:, :20], group, control, totals=np.asarray(counts.sum(axis=1)).ravel())
    pd.testing.assert_frame_equal(part.drop(columns="fdr"), whole.iloc[:20].drop(columns="fdr"))
    double = sp.csr_matrix((np.tile(counts.data, 2) / 2, np.tile(counts.tocoo().coords, 2)), counts.shape)
    pd.testing.assert_frame_equal(differential(double, group, control), whole)
    monkeypatch.setattr(module, "ENTRIES", 150)
    pd.testing.assert_frame_equal(differential(counts, group, control), whole)
    assert len(list(module._gene_blocks(counts))) > 5
    order = np.random.default_rng(0).permutation(len(group))
    shuffled = differential(counts[order], group[order], control[order], genes=[f"g{i}" for i in range(60)])
    np.testing.assert_allclose(shuffled, whole, rtol=1e-9, atol=1e-12)
    assert shuffled.index[3] == "g3" and shuffled.index.name == "gene"


def test_what_cannot_be_tested_is_refused():
    counts, group, control = draw()
    with pytest.raises(DataError, match="both in the group and in the control"):
        differential(counts, group, np.ones_like(group))
    with pytest.raises(DataError, match="type bool"):
        differential(counts, np.flatnonzero(group), control)
    with pytest.raises(DataError, match="Two cells a side"):
        differential(counts, np.arange(90) == 0, control)
    with pytest.raises(DataError, match="logged=True"):
        differential(sp.csr_matrix(logs(counts)), group, control)
    with pytest.raises(DataError, match="Clip"):
        differential(counts * -1, group, control)
    with pytest.raises(DataError, match="gene names"):
        differential(counts, group, control, genes=["a"])
    with pytest.raises(ConfigError, match="Did you mean 'welch'"):
        differential(counts, group, control, test="welsh")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pseudocount"):
        differential(counts, group, control, pseudocount=0)


def test_weights_are_squared_statistics():
    weights = significance_weights([[-3.0, 1.0, 2.0, np.nan], [2.0, 2.0, 2.0, 2.0]])
    np.testing.assert_allclose(weights[0], np.array([9, 1, 4, 0]) / 14)
    np.testing.assert_allclose(weights[1], 0.25)


def sides(fold: list[float], fdr: list[float]) -> Differences:
    return Differences(*(np.array(values, dtype=float) for values in (fold, fdr, fdr, fold)))


def test_agreement_by_hand():
    real = sides([3, -2, 1, 0.5, 0.1, 0], [0.01, 0.01, 0.01, 0.2, 0.5, 1])
    made = sides([1, 2, 0.1, 5, 4, 0], [0.02, 0.01, 0.9, 0.001, 0.3, 1])
    scores = agreement(real, real.fold, made.fold, made)
    assert scores["significant"] == 3
    assert scores["spearman_de"] == pytest.approx(stats.spearmanr([3, -2, 1], [1, 2, 0.1]).statistic)
    assert scores["direction_match"] == pytest.approx(2 / 3)
    assert scores["effect_overlap"] == pytest.approx(1 / 3)  # 5, 4, 2 are the largest; only the last is real
    assert scores["de_overlap"] == pytest.approx(2 / 3)  # 5, 2, 1 among the called
    assert scores["de_precision"] == pytest.approx(2 / 3)
    # recall steps at ranks 2 and 3 of p, then at 5
    assert scores["de_pr_auc"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    nothing = agreement(real, real.fold, 0 * made.fold, sides([0] * 6, [1] * 6))
    assert (nothing["effect_overlap"], nothing["de_overlap"], nothing["de_precision"]) == (0, 0, 0)
    assert np.isnan(nothing["spearman_de"]) and nothing["de_pr_auc"] == pytest.approx(0.5)  # the share of real ones
    empty = agreement(sides([1, 2], [0.5, 0.9]), [1, 2], [1, 2])
    assert empty["significant"] == 0 and all(np.isnan(value) for name, value in empty.items() if name != "significant")


def test_stacked_tables_must_match():
    counts, group, control = draw()
    table = differential(counts, group, control)
    both = Differences.stack([table, table])
    assert both.fold.shape == (2, 60) and both.of(1, np.arange(3)).p_value.tolist() == table["p_value"][:3].tolist()
    with pytest.raises(DataError, match="same order"):
        Differences.stack([table, table.iloc[::-1]])


def test_agreement_is_that_of_cell_eval():
    pytest.importorskip("cell_eval")
    import polars as pl
    from cell_eval._types import initialize_de_comparison
    from cell_eval.metrics import _de

    counts, group, control = draw(5, cells=240)
    noisy, _, _ = draw(6, cells=240)
    tables = {"real": differential(counts, group, control), "pred": differential(counts + noisy, group, control)}
    frames = {
        side: pl.DataFrame(
            {
                "target": ["p"] * len(table),
                "feature": [f"g{i}" for i in range(len(table))],
                "log2_fold_change": table["log2_fold_change"].to_numpy(),
                "p_value": table["p_value"].to_numpy(),
                "fdr": table["fdr"].to_numpy(),
            }
        )
        for side, table in tables.items()
    }
    data = initialize_de_comparison(**frames)
    real, made = (Differences.stack([tables[side]]).of(0, np.arange(60)) for side in ("real", "pred"))
    own = agreement(real, real.fold, made.fold, made)
    assert own["significant"] > 3
    assert own["de_overlap"] == pytest.approx(_de.de_overlap_metric(data, k=None, metric="overlap")["p"])
    assert own["de_precision"] == pytest.approx(_de.de_overlap_metric(data, k=None, metric="precision")["p"])
    assert own["direction_match"] == pytest.approx(_de.DEDirectionMatch()(data)["p"])
    assert own["spearman_de"] == pytest.approx(_de.DESpearmanLFC()(data)["p"], abs=1e-6)
    rate = np.maximum(made.fdr, 1e-10)  # where cell-eval cuts
    by_rate = agreement(real, real.fold, made.fold, Differences(made.fold, rate, made.fdr, made.statistic))
    assert by_rate["de_pr_auc"] == pytest.approx(_de.compute_pr_auc(data)["p"], abs=1e-6)
