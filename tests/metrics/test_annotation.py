from __future__ import annotations

import numpy as np
import pytest

from syncyte.errors import DataError
from syncyte.metrics.annotation import abstention_curve, calibration_error, reliability_table, score_annotation


def test_agrees_with_sklearn():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss

    rng = np.random.default_rng(0)
    classes = ["a", "b", "c"]
    truth = rng.choice(classes, 200, p=[0.6, 0.3, 0.1])
    chance = rng.dirichlet(np.ones(3), 200) + 0.8 * (truth[:, None] == classes)
    chance /= chance.sum(axis=1, keepdims=True)
    found = np.array(classes)[chance.argmax(axis=1)]
    scores = score_annotation(truth, chance, classes)
    assert scores.summary["accuracy"] == pytest.approx(accuracy_score(truth, found))
    assert scores.summary["macro_f1"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert scores.summary["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, found))
    assert scores.summary["log_loss"] == pytest.approx(log_loss(truth, chance, labels=classes))
    assert scores.confusion.to_numpy().sum() == 200
    assert scores.confusion.loc["a", "a"] == ((truth == "a") & (found == "a")).sum()


def test_excluded_and_unknown_labels():
    chance = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    scores = score_annotation(["a", "b", "new", "bad"], chance, ["a", "b"], exclude=["bad"])
    assert scores.summary["cells"] == 3 and scores.summary["accuracy"] == pytest.approx(2 / 3)
    assert scores.summary["unseen"] == pytest.approx(1 / 3)
    assert scores.summary["log_loss"] == pytest.approx(-np.log([0.9, 0.8]).mean())
    row = scores.classes.set_index("class").loc["new"]
    assert row["recall"] == 0 and row["cells"] == 1 and row["predicted"] == 0


def test_calibration_by_hand():
    confidence, correct = [0.95, 0.95, 0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0, 1, 0]
    assert calibration_error(confidence, correct) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    table = reliability_table(confidence, correct)
    assert table["cells"].tolist() == [2, 4] and table["accuracy"].tolist() == [0.5, 0.75]


def test_calibrated_chances_have_a_small_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 20000)
    assert calibration_error(confidence, rng.random(20000) < confidence) < 0.015
    assert calibration_error(confidence, rng.random(20000) < confidence**2) > 0.1


def test_abstention_curve():
    confidence, correct = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1])
    curve = abstention_curve(confidence, correct)
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve["accuracy"].tolist() == pytest.approx([1, 1, 2 / 3, 0.75])
    assert curve["threshold"].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert len(abstention_curve(np.full(10, 0.5), np.arange(10) % 2)) == 1
    long = abstention_curve(np.random.default_rng(0).random(5000), np.ones(5000))
    assert len(long) <= 51 and long["coverage"].iloc[-1] == 1


def test_bad_input_is_explained():
    with pytest.raises(DataError, match=r"2 cells and 3 classes need \(2, 3\)"):
        score_annotation(["a", "b"], np.ones((2, 2)), ["a", "b", "c"])
    with pytest.raises(DataError, match="every true label is excluded"):
        score_annotation(["a"], np.ones((1, 1)), ["a"], exclude=["a"])
