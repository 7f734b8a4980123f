"""The reference commands hand their files to the genome layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from syncyte.cli import app

reference = pytest.importorskip("syncyte.genome.reference")


def test_build(monkeypatch):
    made = []
    monkeypatch.setattr(reference, "build_reference", lambda *given, **named: made.append((given, named)))
    words = "reference build --gtf G --bins 5000 --chrom-sizes S --aliases A --name hg38 --out R --overwrite"
    done = CliRunner().invoke(app, words.split(), catch_exceptions=False)
    assert done.output.splitlines()[0] == "Wrote R"
    files = {
        "gtf": Path("G"),
        "genes": None,
        "regions": None,
        "chrom_sizes": Path("S"),
        "aliases": Path("A"),
        "chain": None,
    }
    assert made == [
        ((Path("R"),), {**files, "bins": 5000, "peaks": (), "width": 501, "name": "hg38", "overwrite": True})
    ]


def test_build_from_peaks(monkeypatch):
    made = []
    monkeypatch.setattr(reference, "build_reference", lambda *given, **named: made.append(named))
    words = "reference build --peaks A --peaks B --width 301 --chrom-sizes S --out R"
    CliRunner().invoke(app, words.split(), catch_exceptions=False)
    assert (made[0]["peaks"], made[0]["width"]) == ([Path("A"), Path("B")], 301)


def test_download(monkeypatch):
    made = []
    monkeypatch.setattr(reference, "download_reference", lambda *given, **named: made.append((given, named)))
    CliRunner().invoke(app, ["reference", "download", "hg38", "--out", "R"], catch_exceptions=False)
    assert made == [(("hg38", Path("R")), {"overwrite": False})]


def test_list_names_every_source():
    done = CliRunner().invoke(app, ["reference", "list"], catch_exceptions=False)
    assert reference.SOURCES
    for name in reference.SOURCES:
        assert name in done.output
