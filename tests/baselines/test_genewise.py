"""Labels from all genes: the answer of scikit-learn on dense standardised data, and what own statistics are for."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from syncyte.baselines import genewise
from syncyte.baselines.genewise import FOLDS, HIGHEST, GeneClassifier, _error, _moments, _scaled
from syncyte.errors import DataError

CELLS, GENES = 360, 40


def draw(cells: int = CELLS, seed: int = 0, factor: np.ndarray | float = 1.0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Counts of three types, two of them rare, and a factor by which a laboratory catches genes."""
    world, rng = np.random.default_rng(5), np.random.default_rng(seed)
    rate = world.gamma(1.0, 3.0, (1, GENES)) * np.exp(world.normal(0, 0.55, (3, GENES)))
    kind = rng.choice(3, cells, p=[0.6, 0.25, 0.15])
    depth = np.exp(rng.normal(0, 0.3, (cells, 1)))
    counts = rng.poisson(rate[kind] * depth * factor).astype(np.float32)
    return sp.csr_matrix(counts), np.array(["B", "Mono", "T"])[kind]


@pytest.fixture(scope="module")
def fitted() -> GeneClassifier:
    """Not to be changed."""
    return GeneClassifier().fit(*draw())


def logs_by_hand(counts: sp.csr_matrix) -> np.ndarray:
    dense = counts.toarray().astype(float)
    return np.log1p(1e4 * dense / np.maximum(dense.sum(axis=1, keepdims=True), 1))


# --- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("balance", "weight"), [(1.0, "balanced"), (0.0, None)])
def test_it_is_the_regression_of_scikit_learn_on_standardised_logs(balance, weight, monkeypatch):
    monkeypatch.setattr(genewise, "OWN", 1e15)  # statistics of training alone
    counts, labels = draw()
    model = GeneClassifier(balance=balance, strength=0.02).fit(counts, labels)
    logs = logs_by_hand(counts)
    dense = np.minimum((logs - logs.mean(axis=0)) / logs.std(axis=0), HIGHEST)
    other = LogisticRegression(C=0.02, class_weight=weight, max_iter=5000, tol=1e-8).fit(dense, labels)
    model.temperature = 1.0
    assert list(model.classes) == list(other.classes_)
    np.testing.assert_allclose(model.predict(counts), other.predict_proba(dense), atol=1e-2)
    np.testing.assert_allclose(model.mean, logs.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.spread, logs.std(axis=0), rtol=1e-5)
    if balance:  # counts as they are weigh the rare types less
        rare = GeneClassifier(balance=0.0, strength=0.02).fit(counts, labels)
        assert rare.predict(counts)[:, 1:].sum() < model.predict(counts)[:, 1:].sum()


def test_temperature_spreads_the_same_logits(fitted):
    counts, _ = draw(50, 1)
    kept = fitted.temperature
    chance = fitted.predict(counts)
    hot = GeneClassifier.restore(fitted.arrays(), fitted.classes)
    hot.temperature = 2 * kept
    wanted = np.sqrt(chance) / np.sqrt(chance).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(hot.predict(counts), wanted, atol=1e-4)
    assert fitted.temperature == kept


def test_values_far_above_the_mean_are_cut():
    logs = sp.csr_matrix(np.array([[0.0, 5.0], [1.0, 2.0], [300.0, 0.0]]))
    mean, spread = np.array([2.0, 1.0]), np.array([1.0, 0.5])
    wanted = [[0, 10], [1, 4], [2 + HIGHEST, 0]]
    np.testing.assert_allclose(_scaled(logs, spread, mean).toarray(), wanted)
    np.testing.assert_allclose(_scaled(logs, np.array([1.0, 1e-5]), mean).toarray()[:, 1], 0)  # no spread, no word


def test_moments_by_hand():
    rows = [sp.csr_matrix(np.array([[1.0, 0.0]])), sp.csr_matrix(np.array([[3.0, 0.0], [2.0, 6.0]]))]
    mean, spread, count = _moments(rows)
    np.testing.assert_allclose(mean, [2, 2])
    np.testing.assert_allclose(spread, [np.sqrt(2 / 3), np.sqrt(8)])
    assert count == 3


def test_calibration_error_by_hand():
    chance = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    truth = np.array([0, 1, 0, 1])
    # 0.9 twice and half right: 2 x 0.4; 0.6 right: 0.4; 0.8 right: 0.2
    assert _error(chance, truth) == pytest.approx((0.8 + 0.4 + 0.2) / 4)


def test_probabilities_are_calibrated_on_cells_that_were_not_seen(fitted):
    counts, labels = draw(2000, 9)
    chance = fitted.predict(counts)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    assert (fitted.classes[chance.argmax(axis=1)] == labels).mean() > 0.9
    assert _error(chance, np.searchsorted(fitted.classes, labels)) < 0.06
    assert 0 <= fitted.calibration_error < 0.08
    assert genewise.TEMPERATURES[0] <= fitted.temperature <= genewise.TEMPERATURES[-1]


# --- whose statistics ------------------------------------------------------------------------------------------------


def test_own_statistics_undo_what_a_laboratory_does_to_each_gene(fitted):
    factor = np.exp(np.random.default_rng(2).normal(0, 1.5, GENES))
    counts, labels = draw(1000, 3, 2.0)
    shifted = draw(1000, 3, 2.0 * factor)[0]
    frozen = GeneClassifier.restore(fitted.arrays(), fitted.classes)
    own, alone = fitted.predict(shifted), np.vstack([frozen.predict(shifted[row]) for row in range(300)])
    truth = np.searchsorted(fitted.classes, labels)
    right = (own.argmax(axis=1) == truth).mean()
    assert right > 0.95 and right > (alone.argmax(axis=1) == truth[:300]).mean() + 0.05
    assert (own.argmax(axis=1) == fitted.predict(counts).argmax(axis=1)).mean() > 0.95


def test_a_single_cell_is_told_by_the_statistics_of_training(fitted):
    counts, _ = draw(1, 4)
    logs = logs_by_hand(counts)[0]
    plain = fitted.weights @ ((logs - fitted.mean) / fitted.spread) + fitted.bias
    nearly = np.exp(plain / fitted.temperature)
    assert abs(fitted.predict(counts)[0] - nearly / nearly.sum()).max() < 0.05


def test_cells_of_other_depth_are_the_same_cells(fitted):
    counts, _ = draw(80, 6)
    deep = sp.csr_matrix(counts * 7)
    np.testing.assert_allclose(fitted.predict(deep), fitted.predict(counts), rtol=1e-9)


# --- genes that were not measured ------------------------------------------------------------------------------------


def test_totals_are_those_of_the_measured_genes(fitted):
    counts, labels = draw(400, 7)
    measured = np.arange(GENES) % 3 != 0
    part = sp.csr_matrix(counts @ sp.diags(measured.astype(float)))
    chance = fitted.predict(part, measured)
    truth = np.searchsorted(fitted.classes, labels)
    assert (chance.argmax(axis=1) == truth).mean() > 0.85
    # totals are those of the measured genes over their share in training
    by_hand = part.toarray() / part.sum(axis=1).A1[:, None] * 1e4 * fitted.share[measured].sum()
    np.testing.assert_allclose(fitted._logs(part, measured).toarray(), np.log1p(by_hand), rtol=1e-9)


def test_no_measured_gene_leaves_the_bias(fitted):
    empty = sp.csr_matrix((4, GENES), dtype=np.float32)
    chance = fitted.predict(empty, np.zeros(GENES, dtype=bool))
    wanted = np.exp(fitted.bias / fitted.temperature)
    np.testing.assert_allclose(chance, np.tile(wanted / wanted.sum(), (4, 1)), rtol=1e-9)


def test_cells_without_counts_get_numbers(fitted):
    assert np.isfinite(fitted.predict(sp.csr_matrix((3, GENES), dtype=np.float32))).all()
    assert fitted.predict(sp.csr_matrix((0, GENES), dtype=np.float32)).shape == (0, 3)


# --- blocks, order, files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_blocks_make_no_difference(fitted, size):
    counts, _ = draw(150, 8)
    blocks = [counts[first : first + size] for first in range(0, 150, size)]
    np.testing.assert_allclose(fitted.predict_blocks(lambda: iter(blocks)), fitted.predict(counts), rtol=1e-8)


def test_order_makes_no_difference(fitted):
    counts, labels = draw(150, 8)
    order = np.random.default_rng(0).permutation(150)
    np.testing.assert_allclose(fitted.predict(counts[order]), fitted.predict(counts)[order], rtol=1e-8)
    again = GeneClassifier()
    again._calibrate = lambda *given: None  # folds are drawn by position
    plain = GeneClassifier()
    plain._calibrate = lambda *given: None
    first = again.fit(counts[order], labels[order]).predict(counts)
    np.testing.assert_allclose(first, plain.fit(counts, labels).predict(counts), atol=1e-3)


def test_arrays_hold_all_that_was_learned(fitted):
    arrays = fitted.arrays()
    assert {name: array.shape for name, array in arrays.items()} == {
        "weights": (3, GENES),
        "bias": (3,),
        "mean": (GENES,),
        "spread": (GENES,),
        "share": (GENES,),
        "middle": (3, GENES),
        "within": (3, GENES),
        "heat": (2,),
    }
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    again = GeneClassifier.restore(arrays, [str(name) for name in fitted.classes])
    counts, _ = draw(100, 8)
    np.testing.assert_allclose(again.predict(counts), fitted.predict(counts), atol=1e-5)
    assert again.calibration_error == pytest.approx(fitted.calibration_error)
    assert list(again.classes) == list(fitted.classes)


def test_same_cells_same_classifier(fitted):
    counts, labels = draw()
    before = counts.copy()
    again = GeneClassifier().fit(counts, labels)
    for name, array in again.arrays().items():
        np.testing.assert_array_equal(array, fitted.arrays()[name])
    assert (counts != before).nnz == 0  # the cells stay as they were


# --- folds -----------------------------------------------------------------------------------------------------------


def test_groups_are_left_out_whole():
    names = np.array(list("abababab") * 3)
    groups = np.repeat(["d1", "d2", "d3"], 8)
    fold = GeneClassifier()._folds(names, groups)
    assert len(set(fold)) == 3 and all(len(set(fold[groups == one])) == 1 for one in set(groups))
    many = np.array([f"d{number}" for number in range(12)])
    assert set(GeneClassifier()._folds(np.repeat("a", 12), many)) == set(range(FOLDS))
    alone = GeneClassifier()._folds(names, np.repeat("d1", 24))  # one group is none
    assert [int((alone[names == one] == part).sum()) for one in "ab" for part in range(FOLDS)] == [3, 3, 2, 2, 2] * 2


def test_groups_are_what_it_is_calibrated_on(monkeypatch):
    counts, labels = draw(120)
    groups = np.where(np.arange(120) < 70, "one", "two")
    seen = []
    real = GeneClassifier.predict

    def predict(self, counts, measured=None):
        seen.append(counts.shape[0])
        return real(self, counts, measured)

    monkeypatch.setattr(GeneClassifier, "predict", predict)
    GeneClassifier().fit(counts, labels, groups)
    assert sorted(seen) == [50, 70]
    seen.clear()
    GeneClassifier().fit(counts, labels)
    assert len(seen) == FOLDS and sum(seen) == 120


def test_a_label_of_one_group_alone_has_no_calibration_but_an_answer():
    counts, labels = draw(120)
    model = GeneClassifier().fit(counts, labels, groups=labels)
    assert np.isfinite(model.temperature) and np.allclose(model.predict(counts).sum(axis=1), 1)
    single = GeneClassifier().fit(counts, np.where(labels == "B", "B", "other"), groups=labels == "B")
    assert single.temperature == 1.0 and np.isnan(single.calibration_error)


def test_many_cells_are_thinned_by_label(monkeypatch):
    monkeypatch.setattr(genewise, "MOST_CELLS", 200)
    names = np.repeat(["a", "b", "c"], [900, 95, 5])
    rows = GeneClassifier()._some(names)
    assert {name: int((names[rows] == name).sum()) for name in "abc"} == {"a": 180, "b": 50, "c": 5}
    assert (np.diff(rows) > 0).all()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_learned_is_refused(fitted):
    counts, labels = draw(60)
    with pytest.raises(DataError, match=r"All cells have the label 'B'; two are needed at least\."):
        GeneClassifier().fit(counts, np.repeat("B", 60))
    with pytest.raises(DataError, match=r"No cell\."):
        GeneClassifier().fit(counts[:0], [])
    with pytest.raises(DataError, match=r"Found 60 cells, 59 labels .*one label a cell and raw counts are needed"):
        GeneClassifier().fit(counts, labels[:59])
    with pytest.raises(DataError, match=r"a least count of -2; one label a cell"):
        GeneClassifier().fit(sp.csr_matrix(np.array([[1.0, -2.0], [0.0, 3.0]])), ["a", "b"])
    with pytest.raises(DataError, match=r"The cells have 39 columns and 40 flags .*the classifier knows 40 genes"):
        fitted.predict(counts[:, :39])
    with pytest.raises(DataError, match=r"40 columns and 39 flags"):
        fitted.predict(counts, np.ones(39, dtype=bool))
