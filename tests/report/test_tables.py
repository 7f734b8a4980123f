"""Numbers as text, the best value, and honest sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from syncyte.errors import DataError
from syncyte.report.base import Verdict
from syncyte.report.measures import measure
from syncyte.report.tables import baselines, judge, judged_columns, layout, metric_columns, number, overview, verdict


def methods(**columns):
    index = ["syncyte", "syncyte without attention", "ridge", "kNN", "type mean (oracle)"]
    return pd.DataFrame(columns, index=index)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (np.int64(5), "5"),
        (0.71304, "0.713"),
        (-0.0264, "−0.0264"),
        (1.0, "1.000"),
        (12.34, "12.3"),
        (98765.4, "98,765"),
        (0.00001, "1.0e-05"),
        (-0.00001, "−1.0e-05"),
        (float("nan"), "–"),
        (None, "–"),
        (True, "yes"),
        ("text", "text"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_no_negative_zero():
    assert number(-0.0001, 2) == "0.00"


def test_verdict_when_the_model_wins():
    table = methods(r=[0.163, 0.15, 0.144, 0.081, 0.9])
    assert verdict(table, "r", "syncyte") == (
        "Per-feature r: syncyte (0.163) is ahead of the best baseline, ridge (0.144), by 0.019."
    )
    assert judge(table, "r", "syncyte").outcome == "ahead"


def test_what_looks_alike_is_level():
    table = methods(r=[0.6176, 0.99, 0.6181, 0.081, 0.9])
    assert judge(table, "r", "syncyte") == Verdict(
        "Per-feature r: syncyte and the best baseline, ridge, are level at 0.618.", "level"
    )


def test_correlation_with_depth_is_not_judged():
    table = methods(r=[0.5, 0.5, 0.4, 0.1, 1], depth_r=[0.1, 0.2, 0.9, 0.3, 0.5])
    assert "depth_r" not in judged_columns(table) and "depth" not in overview(table, "syncyte").lower()


def test_verdict_when_baselines_win():
    table = methods(r=[0.08, 0.99, 0.144, 0.081, 0.9])
    said = verdict(table, "r", "syncyte")
    assert said.startswith("Per-feature r: the baseline ridge wins with 0.144; syncyte reaches 0.080, 0.064 behind.")
    assert said.endswith("2 of 2 baselines are better.")
    assert judge(table, "r", "syncyte").outcome == "behind"


def test_lower_may_be_better():
    table = methods(ece=[0.03, 0.1, 0.05, 0.02, 0.0])
    assert "kNN wins with 0.020" in verdict(table, "ece", "syncyte")
    assert judge(table, "ece", "syncyte", higher_is_better=True).outcome == "behind"
    assert "ridge wins" in verdict(table, "ece", "syncyte", higher_is_better=True)


def test_level_and_alone():
    assert judge(methods(r=[0.5, 0, 0.5, 0.1, 1]), "r", "syncyte").outcome == "level"
    wide = methods(r=[0.50, 0, 0.48, 0.1, 1], r_low=[0.4, 0, 0.4, 0, 1], r_high=[0.6, 0, 0.6, 0, 1])
    assert judge(wide, "r", "syncyte").outcome == "level"
    assert "0.400 to 0.600) holds that value, so the two cannot be told apart" in verdict(wide, "r", "syncyte")
    sure = wide.assign(r_low=[0.49, 0, 0.4, 0, 1])
    assert judge(sure, "r", "syncyte").outcome == "ahead"
    alone = methods(r=[0.5, 0.4, np.nan, np.nan, 1])
    assert (
        judge(alone, "r", "syncyte").text
        == "Per-feature r: syncyte reaches 0.500; there is no baseline to compare with."
    )
    assert "has no value" in verdict(methods(r=[np.nan, 0, 1, 1, 1]), "r", "syncyte")


def test_rows_that_are_not_baselines():
    assert list(baselines(methods(r=[1, 1, 1, 1, 1]), "syncyte").index) == ["ridge", "kNN"]
    with pytest.raises(DataError, match="Unknown model row 'scvi'"):
        verdict(methods(r=[1, 1, 1, 1, 1]), "r", "scvi")
    with pytest.raises(DataError, match="Unknown metric 'rr'"):
        verdict(methods(r=[1, 1, 1, 1, 1]), "rr", "syncyte")


def test_overview_names_what_is_lost():
    table = methods(
        r=[0.5, 0, 0.4, 0.1, 1], skill=[0.1, 0, 0.2, 0, 1], ece=[0.01, 0, 0.2, 0.1, 0], slope=[1, 1, 1, 1, 1]
    )
    assert overview(table, "syncyte") == (
        "Of 3 judged metrics the model is ahead of every baseline in 2; behind a baseline in 1 (skill)."
    )
    assert "all 2 judged" in overview(table[["r", "ece"]], "syncyte")
    assert overview(table[["r"]], "syncyte") == ""


def test_best_is_marked_oracles_are_not():
    table = methods(r=[0.5, 0.2, 0.5, np.nan, 0.9], ece=[0.2, 0.1, 0.3, 0.3, 0.0], n=[10, 10, 10, 10, 10])
    header, rows = layout(table, "syncyte", compare=True)
    assert header == ["", "per-feature r", "calibration error", "n"]
    assert [[cell.best for cell in row.cells] for row in rows] == [
        [True, False, False],
        [False, True, False],
        [True, False, False],
        [False, False, False],
        [False, False, False],
    ]
    assert [row.role for row in rows] == ["model", "", "", "", "oracle"]
    assert rows[3].cells[0].text == "–" and rows[0].cells[2].text == "10"


def test_intervals_stand_below_their_metric():
    table = methods(r=[0.5, 0, 0.4, 0.1, 1.0], r_low=[0.45, 0, 0.3, np.nan, 1], r_high=[0.55, 0, 0.5, 0.2, 1])
    assert metric_columns(table) == ["r"] == judged_columns(table)
    _, rows = layout(table, "syncyte", compare=True)
    assert rows[0].cells[0].note == "0.450 to 0.550" and rows[3].cells[0].note == ""


def test_plain_tables_keep_every_column():
    table = pd.DataFrame({"first_step": [0, 1], "x": [0.5, 1.0]}, index=pd.Index(["a", "b"], name="stage"))
    header, rows = layout(table)
    assert header == ["stage", "first step", "x"] and rows[1].name == "b" and not rows[0].cells[0].best


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("accuracy", True),
        ("macro-F1", True),
        ("Brier skill", True),
        ("brier", False),
        ("validation loss", False),
        ("skill in deviance", True),
        ("RMSE", False),
        ("epochs", None),
        ("slope", None),
        ("cells", None),
        ("ASW batch", True),
        ("mean Pearson", True),
    ],
)
def test_directions(name, better):
    assert measure(name).higher_is_better is better
