"""From an evaluation to one page that loads nothing, and its JSON twin."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from syncyte.errors import DataError
from syncyte.report import sections
from syncyte.report.base import Report, Section, Verdict
from syncyte.report.build import report_from_evaluation
from syncyte.report.plots import baseline_bars, umap
from syncyte.report.write import embed_figure, render, write_report
from syncyte.tasks.result import Evaluation

RNG = np.random.default_rng(0)
EVIL = "<script>alert('x')</script> & \"co\""


class Page(HTMLParser):
    """Tags, their attributes and the text of a page; notes what is left open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes what was not open"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def make_evaluation():
    index = ["syncyte", "ridge", "kNN", "type mean (oracle)"]
    table = pd.DataFrame({"r": [0.16, 0.14, 0.08, 0.2], "skill": [0.01, 0.02, 0, np.nan]}, index=index)
    labels = RNG.choice(["T cell", "B cell", EVIL], 90)
    guess = np.where(RNG.random(90) < 0.8, labels, "T cell")
    curves = [
        (step, step / 10, "rna", split, "total", 1 / (step + 1), 2.0 * step, 1.0 * step)
        for step in range(5)
        for split in ("train", "validation")
    ]
    names = ["step", "epoch", "stage", "split", "name", "value", "cpu_seconds", "wall_seconds"]
    reliability = pd.DataFrame({"predicted": [0.001, 0.4], "observed": [0.002, 0.3], "entries": [50, 5]})
    return Evaluation(
        tables={
            "embed": pd.DataFrame({"NMI": [0.5, 0.6]}, index=["syncyte", "PCA"]),
            "annotate": pd.DataFrame({"accuracy": [0.9, 0.8]}, index=["syncyte", "logistic"]),
            "translate atac to rna": table,
            "translate rna to atac": table.rename(columns={"r": "auroc"}),
            "translate rna to atac reliability": reliability,
            "translate rna to atac batches": pd.DataFrame({"observed": [1.0]}, index=["b1"]),
            "training": pd.DataFrame(curves, columns=names),
            "few pairs": pd.DataFrame({"r": [0.1]}, index=["all cells"]),
        },
        arrays={
            "umap": {"coordinates": RNG.normal(size=(90, 2)), "label": labels, "batch": RNG.choice(["1", "2"], 90)},
            "annotate": {"truth": labels, "predicted": guess, "confidence": RNG.random(90)},
            "translate atac to rna": {
                "per_feature": RNG.normal(size=30),
                "per_feature_baseline": RNG.normal(size=30),
                "names": np.array([f"G{number}" for number in range(30)]),
            },
        },
        text={"title": EVIL, "annotate": "Class 'Mis' is left out.", "summary": "Looked at once."},
        provenance={
            "recipe": "clm_x",
            "seed": 0,
            "coverage": {
                "cells": 90,
                "paired": 80,
                "features": {
                    "rna": "18 of 20 genes: 17 exact, 1 by alias",
                    "atac": {"sentence": "5 peaks as they are"},
                },
                "rna": {"counts": "found in X", "cells": 90, "slots": {}},
                "align_rna": {"features": 20, "found": 18},
                "sources": [{"path": "a.h5mu", "kind": "h5mu"}],
                "notes": ["No reference was given."],
            },
            "settings": {"stages": ["rna", "both"], "rate": 0.001},
        },
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    html, twin = write_report(report_from_evaluation(make_evaluation()), tmp_path_factory.mktemp("report") / "deep")
    assert (html.name, twin.name) == ("report.html", "report.json") and len(list(html.parent.iterdir())) == 2
    return html.read_text(encoding="utf-8"), json.loads(twin.read_text(encoding="utf-8"))


def test_page_is_whole_and_escaped(page):
    parsed = Page(page[0])
    assert parsed.open == [] and "script" not in {tag for tag, _ in parsed.tags}
    assert any(EVIL in words for words in parsed.words)
    titles = [words for words in parsed.words if words in ("Summary", "UMAP", "Embedding", "Annotation", "Provenance")]
    assert titles == ["Summary", "UMAP", "Embedding", "Annotation", "Provenance"] * 2  # contents and headings


def test_page_needs_nothing_else(page):
    for tag, attributes in Page(page[0]).tags:
        for key in ("src", "href"):
            if key in attributes:
                assert attributes[key].startswith(("data:image/", "#")), (tag, attributes[key][:60])
    assert not re.search(r"url\(|@import|https?://", page[0])
    anchors = {attributes["href"][1:] for _, attributes in Page(page[0]).tags if "href" in attributes}
    assert anchors == {attributes["id"] for tag, attributes in Page(page[0]).tags if tag == "section"}


def test_page_says_who_wins(page):
    words = " ".join(Page(page[0]).words)
    assert "Embedding. NMI: the baseline PCA wins with 0.600; syncyte reaches 0.500, 0.100 behind." in words
    assert "behind a baseline in 1 (skill)" in words and "Looked at once." in words
    assert "18 of 20 genes: 17 exact, 1 by alias" in words and "5 peaks as they are" in words
    assert "Counts of rna: found in X" in words and "settings.stages" in words and "rna, both" in words


def test_twin_has_every_number(page):
    parts = {part["title"]: part for part in page[1]["sections"]}
    assert list(parts)[:2] == ["Summary", "UMAP"] and list(parts)[-2:] == ["Coverage", "Provenance"]
    rna = parts["Translate atac to rna"]
    table = rna["tables"]["Translate atac to rna: methods and metrics"]
    assert table["columns"] == ["r", "skill"] and table["data"][0] == [0.16, 0.01] and table["data"][3][1] is None
    assert len(rna["data"]["per_feature"]) == 30 and rna["verdicts"][0]["outcome"] == "ahead"
    assert "Translate rna to atac" in parts and parts["Translate rna to atac"]["data"]["reliability"]["entries"] == [
        50,
        5,
    ]
    assert "translate rna to atac batches" in parts["Translate rna to atac"]["tables"] and "Few pairs" in parts
    assert len(parts["Training"]["data"]["curves"]["step"]) == 10
    assert parts["Training"]["metrics"] == {"steps": 4, "CPU seconds": "8", "wall seconds": "4"}
    assert parts["Annotation"]["metrics"]["calibration error"] > 0
    assert parts["Provenance"]["data"]["settings"]["rate"] == 0.001


def test_empty_evaluation_still_makes_a_page(tmp_path):
    html, twin = write_report(report_from_evaluation(Evaluation({})), tmp_path)
    assert "syncyte evaluation" in html.read_text() and json.loads(twin.read_text())["sections"] == []


def test_missing_parts_are_left_out(tmp_path):
    only = Evaluation(
        {
            "annotate": pd.DataFrame({"accuracy": [0.9]}, index=["syncyte"]),
            "odd": pd.DataFrame({"x": [1]}, index=["a"]),
        },
        arrays={
            "translate atac to rna": {"per_feature": np.array([0.1, np.nan])},
            "annotate": {"truth": np.array(["a"])},
        },
    )
    titles = [section.title for section in report_from_evaluation(only).sections]
    assert titles == ["Summary", "Annotation", "Translate atac to rna", "Odd"]
    write_report(report_from_evaluation(only), tmp_path)


def test_plain_report(tmp_path):
    long = pd.DataFrame({"x": range(300), "when": pd.Timestamp("2024-01-01")})
    section = Section(
        "One",
        "First.\n\nSecond.",
        tables={"many rows": long},
        metrics={"cells": 12345},
        verdicts=[Verdict("so", "alone")],
    )
    write_report(Report("T", [section], facts={"seed": "1"}), tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "12,345" in html and "<p>Second.</p>" in html and "many rows (300 rows)" in html.lower()
    assert "100 of 300 rows are only in report.json" in html
    twin = json.loads((tmp_path / "report.json").read_text())
    assert len(twin["sections"][0]["tables"]["many rows"]["data"]) == 300
    write_report(Report("Again", []), tmp_path)
    assert "Again" in (tmp_path / "report.html").read_text()


def test_unwritable_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write_report(Report("T", []), tmp_path / "file")


def test_figures_are_pixels_only_where_needed():
    few = embed_figure(baseline_bars(pd.DataFrame({"r": [1.0, 2.0]}, index=["a", "b"]), "r"))
    assert few.startswith("data:image/svg+xml;base64,")
    same = embed_figure(baseline_bars(pd.DataFrame({"r": [1.0, 2.0]}, index=["a", "b"]), "r"))
    assert few == same and b"<svg" in base64.b64decode(few.partition(",")[2])
    many = embed_figure(umap(RNG.normal(size=(5000, 2)), RNG.choice(list("abcdefgh"), 5000)))
    assert many.startswith("data:image/png;base64,") and len(many) < 250_000


def test_training_reads_the_file_of_a_run(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,stage,split,name,value\n0,0,rna,train,total,2\n1,0.1,rna,validation,total,1\n")
    section = sections.training(path)
    assert section.tables["Stages"].loc["rna", "best held-out loss"] == 1 and section.metrics == {"steps": 1}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"lacks the columns epoch, name"):
        sections.training(path)
    with pytest.raises(DataError, match="Cannot read the training curves"):
        sections.training(tmp_path / "none.csv")
    assert (
        "No step"
        in sections.training(pd.DataFrame(columns=["step", "epoch", "stage", "split", "name", "value"])).text[1]
    )


def test_classes():
    truth, predicted = np.array(list("aaab")), np.array(list("abbc"))
    table = sections.per_class(truth, predicted)
    assert list(table.index) == ["a", "b"] and table.loc["a", "recall"] == pytest.approx(1 / 3)
    assert table.loc["a", "mostly mistaken for"] == "b (2)" and table.loc["b", "mostly mistaken for"] == "c (1)"
    one = sections.per_class(np.array(["a"]), np.array(["a"]))
    assert one.loc["a", "mostly mistaken for"] == "" and one.loc["a", "F1"] == 1


def test_coverage_bears_anything():
    assert sections.coverage({}).tables == {}
    section = sections.coverage({"features": {"x": "said"}, "x": 3, "notes": []})
    assert "said" in section.paragraphs
    render(Report("t", [section]))
