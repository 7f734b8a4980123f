"""The page on what variants do: figures of the numbers given, limits, and words where there is nothing to show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from syncyte.report.variants import (
    NAMED,
    enrichment_figure,
    scored_rows,
    target_figure,
    track_figure,
    variant_report,
    volcano,
)
from syncyte.report.write import as_numbers, render
from syncyte.tasks.variants import COLUMNS, LIMITS


def effects(rows: int = 20, groups: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(index=range(rows), columns=list(COLUMNS))
    table["variant"] = [f"v{row // groups}" for row in range(rows)]
    table["gene"], table["status"] = "G", "scored"
    table["group"] = [f"type {row % groups}" for row in range(rows)]
    for name in ("cis_value", "trans_size", "tss_distance"):
        table[name] = rng.normal(size=rows)
    for name in ("cis_p", "trans_p", "trans_fdr"):
        table[name] = rng.uniform(0.01, 1, rows)
    return table


def answer(table: pd.DataFrame, encoder: dict | None = None, **tables: pd.DataFrame) -> SimpleNamespace:
    provenance = {"sequence model": encoder or {}, "run": "RUN"}
    return SimpleNamespace(
        effects=table, tables=tables, metrics={"alleles": 3}, notes=["One donor: said"], provenance=provenance
    )


def trans() -> pd.DataFrame:
    table = pd.DataFrame({"other": list("abc"), "change": [0.3, -0.2, 0.1], "in_sd": [3.0, -2, 1], "rank": [1, 2, 3]})
    return table.assign(variant="v1", gene="G", group="type 0")


def targets() -> pd.DataFrame:
    table = pd.DataFrame({"ranking": ["sequence: change", "co-expression"] * 2, "auroc": [0.7, 0.6, 0.8, 0.5]})
    table = table.assign(gene=["TF1", "TF1", "TF2", "TF2"], set="targets")
    return table.assign(auprc=0.3, in_first_50=2, gene=["A", "A", "B", "B"], found_at_10=0.2, found_at_50=0.5)


def track() -> pd.DataFrame:
    place = np.repeat(np.arange(-5, 6), 3)
    change = np.tile([-1.0, 0, 2], 11)
    return pd.DataFrame({"distance": place, "level_change": change, "gene": "G", "group": "type 0"})


def test_the_page_has_all_parts_and_the_limits_last_but_the_facts():
    pairs = pd.DataFrame({"variant": ["v1"], "gene": ["G"], "group": ["type 0"], "size": [0.1]})
    found = answer(effects(), {"verdict": "beats GC content", "source": "regions"}, trans=trans(), pairs=pairs)
    found.tables.update(targets=targets(), track=track())
    report = variant_report(found)
    titles = ["Summary", "Effects", "Other genes (trans)", "Known targets", "Mutagenesis"]
    assert [section.title for section in report.sections] == [
        *titles,
        "Sequence model and adapter",
        "What this cannot say",
        "Provenance",
    ]
    page = render(report)
    assert "One donor: said" in page
    assert page.count("<img") + page.count("<svg") >= 4
    numbers = as_numbers(report)
    assert LIMITS in str(numbers)


@pytest.mark.parametrize(
    ("encoder", "outcome", "words"),
    [
        ({"own": True, "verdict": "beats GC content and short words"}, "ahead", "beats GC"),
        ({"own": True, "verdict": "beats GC content, not k-mers"}, "behind", "not k-mers"),
        ({"own": True, "verdict": "does not beat GC content"}, "behind", "does not beat GC content"),
        ({"own": False, "verdict": "not trained here"}, "alone", "not trained here"),
        ({"own": True, "verdict": "beats GC content", "weak": True}, "ahead", "which is weak"),
    ],
)
def test_the_summary_says_what_the_sequence_model_is_worth(encoder: dict, outcome: str, words: str):
    summary = variant_report(answer(effects(), encoder)).sections[0]
    assert summary.verdicts[0].outcome == outcome
    assert words in " ".join(summary.text)


@pytest.mark.parametrize("table", [pd.DataFrame(columns=list(COLUMNS)), effects().assign(status="refused")])
def test_nothing_scored_is_said(table: pd.DataFrame):
    report = variant_report(answer(table))
    assert "No allele changes the token" in render(report)
    assert len(scored_rows(answer(table))) == 0


def test_rows_are_ranked_by_p_then_size():
    table = effects(6).assign(trans_p=[0.5, 0.1, 0.1, np.nan, 0.5, 0.9], trans_size=[1, 2, 3, 9, 5, 1])
    assert scored_rows(answer(table)).index.tolist() == [2, 1, 4, 0, 5, 3]


def test_a_volcano_shows_every_row_and_names_few():
    table = effects(60, 3)
    axes = volcano(table).axes[0]
    assert sum(len(one.get_offsets()) for one in axes.collections) == 60
    assert len(axes.texts) == NAMED
    heights = np.concatenate([one.get_offsets()[:, 1] for one in axes.collections])
    assert sorted(heights) == pytest.approx(sorted(-np.log10(table["cis_p"])))
    flat = volcano(effects(4).assign(cis_p=np.nan)).axes[0]
    assert all((one.get_offsets()[:, 1] == 0).all() for one in flat.collections)


def test_target_figure_shows_each_list():
    axes = target_figure(targets()).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["co-expression", "sequence: change"]
    shown = np.concatenate([one.get_offsets()[:, 0] for one in axes.collections])
    assert {0.7, 0.8, 0.6, 0.5} <= {round(float(value), 6) for value in shown}


def test_enrichment_figure_has_a_line_a_ranking_of_changes():
    table = pd.concat([targets(), targets().assign(ranking="sequence: shift")], ignore_index=True)
    for place, step in enumerate((10, 50)):
        table[f"found_at_{step}"] = 0.2 + 0.3 * place + 0.1 * (table["gene"] == "B")
    axes = enrichment_figure(table).axes[0]
    assert {line.get_label() for line in axes.lines} == {"sequence: change", "co-expression"}
    assert axes.lines[0].get_xdata().tolist() == [10, 50]
    assert axes.lines[0].get_ydata() == pytest.approx([0.25, 0.55])


def test_track_figure_shows_gain_and_loss():
    axes = track_figure(track()).axes[0]
    gain, loss = (one.get_paths()[0].get_extents() for one in axes.collections[:2])
    assert (gain.y0, gain.y1) == (0, 2)
    assert (loss.y0, loss.y1) == (-1, 0)
