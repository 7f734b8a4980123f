"""Every command hands its options to the verb of its name, unchanged and under the verb's own names."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

import syncyte
from syncyte.cli import app

COMMON = {
    "modality": None,
    "genome": None,
    "layer": None,
    "force": False,
    "device": "auto",
    "seed": 0,
    "quiet": False,
}
TASK = {**COMMON, "batch_size": None}
DNA = ("fasta", "offset", "tss", "peaks", "atac", "dna_encoder", "gene_features", "gene_medians", "backbone")
VERBS = ("train", "embed", "integrate", "annotate", "translate", "top_regions", "generate", "perturb", "evaluate")


class Answer(dict):
    """What a stand-in returns: a report, or a result with a summary."""

    summary = "3 cells"

    def can(self, capability: str) -> bool:
        return capability == "encodes"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict]]:
    """Stand-ins for the verbs that write down how they were called."""
    made: list[tuple[str, dict]] = []
    api = ModuleType("syncyte.api")

    def verb(name: str):
        def record(*arguments, **keywords):
            made.append((name, {**dict(enumerate(arguments)), **keywords}))
            answer = Answer({"summary": "3 cells", "cells": 3})
            answer.notes, answer.files = [], lambda path: [path]
            answer.recipe = {"notes": []}
            answer.provenance = {"integrate": {"notes": []}, "settings": {"notes": []}}
            answer.explain, answer.table, answer.matches = "Read as: B cells", [], []
            answer.counts = lambda: dict.fromkeys(("same", "close", "coarser", "none"), 0)
            answer.metrics = {"alleles": 4, "alleles in a window": 3, "alleles scored": 2, "groups": 1}
            return answer

        return record

    for name in (
        "train",
        "embed",
        "integrate",
        "annotate",
        "translate",
        "top_regions",
        "evaluate",
        "generate",
        "perturb",
        "search",
        "describe",
        "map_labels",
        "variants",
    ):
        setattr(api, name, verb(name))
    for name in ("inspect_data", "write_store", "convert", "harmonise", "count_fragments"):
        setattr(api, name, verb(name))
    monkeypatch.setitem(sys.modules, "syncyte.api", api)
    monkeypatch.setitem(vars(syncyte), "api", api)
    monkeypatch.setitem(vars(syncyte), "demo", verb("demo"))
    return made


def run(*words: str) -> str:
    """Output of a command that must succeed."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_train_with_everything(calls):
    words = (
        "train clm_x A.h5mu B.h5mu --out RUN --preset lite --batch-key batch --label-key cell_type --validation 09A "
        "--validation 09B --set a.b=c --set d=1 --resume --device cpu --seed 7 --quiet --genome hg38 --force"
    )
    assert run(*words.split()) == ""
    assert calls == [
        (
            "train",
            {
                **COMMON,
                "recipe": "clm_x",
                "data": [Path("A.h5mu"), Path("B.h5mu")],
                "out": Path("RUN"),
                "preset": "lite",
                "batch_key": "batch",
                "label_key": "cell_type",
                "condition_keys": (),
                "features": (),
                "text_key": None,
                "ontology": None,
                "markers": None,
                "encoder": None,
                **dict.fromkeys(DNA),
                "validation": ["09A", "09B"],
                "settings": ("a.b=c", "d=1"),
                "resume": True,
                "overwrite": False,
                "device": "cpu",
                "seed": 7,
                "quiet": True,
                "genome": Path("hg38"),
                "force": True,
            },
        )
    ]


def test_train_with_the_least(calls):
    out = run("train", "clm_x", "A.h5mu", "--out", "RUN")
    assert out.splitlines() == ["Wrote RUN", "Next: syncyte embed RUN DATA --out OUT.h5mu"]
    (_, given) = calls[0]
    assert given["data"] == Path("A.h5mu")
    assert (given["preset"], given["validation"], given["settings"]) == ("small", None, ())
    assert (given["batch_key"], given["label_key"], given["resume"]) == (None, None, False)


TASKS = {
    "embed RUN D.h5mu --out O.h5mu": {"run": Path("RUN"), "data": Path("D.h5mu"), "key_added": None},
    "integrate RUN D.h5mu --batch-key batch --out O.h5mu": {
        "run": Path("RUN"),
        "data": Path("D.h5mu"),
        "batch_key": "batch",
        "key_added": None,
    },
    "annotate RUN Q.h5mu --reference R.h5mu --label-key cell_type --out O.h5mu": {
        "run": Path("RUN"),
        "query": Path("Q.h5mu"),
        "reference": Path("R.h5mu"),
        "label_key": "cell_type",
        "zero_shot": False,
        "candidates": None,
        "tissue": None,
        "by": None,
        "smooth": False,
        "unseen_share": None,
        "method": "auto",
        "threshold": None,
        "unclear": (),
        "batch_key": None,
        "key_added": None,
    },
    "translate RUN D.h5mu --from rna --to atac --out O.h5mu": {
        "run": Path("RUN"),
        "data": Path("D.h5mu"),
        "source": "rna",
        "target": "atac",
        "features": None,
        "min_prob": None,
        "key_added": None,
    },
    "evaluate RUN D.h5mu --reference R.h5mu --out O.h5mu": {
        "run": Path("RUN"),
        "data": Path("D.h5mu"),
        "reference": Path("R.h5mu"),
        "batch_key": None,
        "label_key": None,
        "unclear": (),
        "peers": False,
        "perturbation": None,
    },
}


@pytest.mark.parametrize("line", TASKS)
def test_tasks(line: str, calls):
    assert "O.h5mu" in run(*line.split())
    assert calls == [(line.split()[0], {**TASK, **TASKS[line], "out": Path("O.h5mu")})]


def test_options_of_single_tasks(calls):
    lines = (
        "evaluate RUN D.h5mu --reference A --genome hg38 --unclear doublet --unclear ? --out R",
        "translate RUN D.h5mu --from atac --to rna --out P.h5ad --features F.txt --min-prob 0.05",
        "annotate RUN Q.h5mu --reference A --reference B --label-key t --method lora --threshold 0.7 --out O",
    )
    for line in lines:
        run(*line.split())
    (_, evaluated), (_, translated), (_, annotated) = calls
    assert (evaluated["genome"], evaluated["unclear"]) == (Path("hg38"), ("doublet", "?"))
    assert (translated["features"], translated["min_prob"]) == (Path("F.txt"), 0.05)
    assert (annotated["method"], annotated["threshold"]) == ("lora", 0.7)
    assert annotated["reference"] == [Path("A"), Path("B")]


def test_regions(calls):
    least = "regions RUN D.h5mu --label-key t --out T.csv"
    assert run(*least.split()) == "Wrote T.csv\n"
    words = "regions RUN D.h5mu --label-key t --out T.csv --genes CD8A --genes CD4 --top 5 --genome hg38 --unclear ?"
    run(*words.split())
    given = {**TASK, "run": Path("RUN"), "data": Path("D.h5mu"), "label_key": "t", "out": Path("T.csv")}
    given |= {"genes": None, "top": 20, "unclear": ()}
    other = {"genes": ["CD8A", "CD4"], "top": 5, "genome": Path("hg38"), "unclear": ("?",)}
    assert calls == [("top_regions", given), ("top_regions", {**given, **other})]


def test_train_on_dna(calls):
    words = (
        "train bio_dta A.h5mu --out RUN --fasta A.fa --fasta B.fa --offset A.fa=5 --tss T --peaks P --atac O --quiet"
    )
    run(*words.split(), *["--dna-encoder", "E", "--gene-features", "F", "--gene-medians", "M", "--backbone", "R"])
    given = {"fasta": [Path("A.fa"), Path("B.fa")], "offset": ["A.fa=5"], "tss": Path("T"), "peaks": Path("P")}
    given |= {"atac": Path("O"), "dna_encoder": Path("E"), "gene_features": Path("F"), "gene_medians": Path("M")}
    given |= {"backbone": Path("R")}
    assert {name: calls[0][1][name] for name in DNA} == given
    assert set(given) == set(DNA)


def test_variants(calls):
    told = "4 alleles, 3 in a window of a gene, 2 scored in 1 group(s).\nWrote O/effects.tsv and O/report.html\n"
    assert run(*["variants", "RUN", "--vcf", "V", "--fasta", "G.fa", "--cells", "D.h5mu", "--out", "O"]) == told
    words = "variants RUN --edits chr1:1-2=delete --fasta A --fasta B --cells D --out O --sample S --offset 7 --group g"
    more = "--donor d --targets T --nulls 9 --each 5 --close 0 --no-shifts --cache C --overwrite --seed 2"
    assert run(*words.split(), *more.split(), "--cells-out", "U", "--quiet") == ""
    least = {**COMMON, "run": Path("RUN"), "fasta": Path("G.fa"), "cells": Path("D.h5mu"), "out": Path("O")}
    least |= {"vcf": Path("V"), "edits": None, "sample": None, "offset": None, "group": None, "donor": None}
    least |= {"targets": None, "nulls": 200, "each": None, "close": 10, "shifts": True, "cache": None}
    least |= {"overwrite": False, "cells_out": None}
    most = {"vcf": None, "edits": "chr1:1-2=delete", "fasta": [Path("A"), Path("B")], "cells": Path("D")}
    most |= {"sample": "S", "offset": ["7"], "group": "g", "donor": "d", "targets": Path("T"), "nulls": 9, "each": 5}
    most |= {
        "close": 0,
        "shifts": False,
        "cache": Path("C"),
        "overwrite": True,
        "seed": 2,
        "cells_out": Path("U"),
        "quiet": True,
    }
    assert calls == [("variants", least), ("variants", {**least, **most})]


def test_data_commands(calls):
    assert run("data", "inspect", "A.h5mu") == "3 cells\n"
    assert '"cells": 3' in run("data", "inspect", "A.h5mu", "B.h5ad", "--json")
    run("data", "store", "A.h5mu", "--out", "S", "--shard-cells", "100", "--seed", "3", "--overwrite")
    run("data", "convert", "A.h5", "--out", "A.h5ad", "--quiet")
    reading = {name: COMMON[name] for name in ("modality", "genome", "layer", "force", "quiet")}
    one = {"data": Path("A.h5mu"), "out": Path("S"), **reading}
    assert calls == [
        ("inspect_data", {"data": Path("A.h5mu"), **reading}),
        ("inspect_data", {"data": [Path("A.h5mu"), Path("B.h5ad")], **reading}),
        ("write_store", {**one, "shard_cells": 100, "compact": False, "seed": 3, "overwrite": True}),
        ("convert", {"data": Path("A.h5"), "out": Path("A.h5ad"), **reading, "quiet": True}),
    ]


def test_harmonise(calls, monkeypatch):
    monkeypatch.setattr("syncyte.cli.data._told", lambda done: ["told"])
    assert run(*["data", "harmonise", "A.h5ad", "B.h5ad", "--reference", "R", "--out", "S"]) == "told\n"
    words = "data harmonise A.h5ad --reference R --out S --chain C --rule any --workers 3 --skip-failed --force --quiet"
    assert run(*words.split(), "--plain") == ""
    given = {name: COMMON[name] for name in ("modality", "layer", "force", "seed", "quiet")}
    given |= {"reference": Path("R"), "out": Path("S"), "chain": None, "rule": "largest", "workers": 1}
    given |= {"skip_failed": False, "shard_cells": 16384, "compact": True, "overwrite": False}
    other = {"chain": Path("C"), "rule": "any", "workers": 3, "skip_failed": True, "force": True, "quiet": True}
    other |= {"compact": False}
    assert calls == [
        ("harmonise", {**given, "files": [Path("A.h5ad"), Path("B.h5ad")]}),
        ("harmonise", {**given, **other, "files": Path("A.h5ad")}),
    ]


def test_fragments(calls):
    assert run("data", "fragments", "F.tsv.gz", "--reference", "R", "--out", "O.h5ad") == "3 cells\nWrote O.h5ad\n"
    words = "data fragments F.tsv --genome R --out O.h5ad --barcodes B --min-fragments 5 --rule overlap --shift 4 -5"
    assert run(*words.split(), "--peaks", "P", "--plots", "D", "--force", "--quiet") == ""
    least = {"barcodes": None, "min_fragments": None, "rule": "ends", "shift": (0, 0), "peaks": None, "plots": None}
    least |= {"fragments": Path("F.tsv.gz"), "genome": Path("R"), "out": Path("O.h5ad"), "force": False, "quiet": False}
    most = {"barcodes": Path("B"), "min_fragments": 5, "rule": "overlap", "shift": (4, -5), "peaks": Path("P")}
    most |= {"fragments": Path("F.tsv"), "plots": Path("D"), "force": True, "quiet": True}
    assert calls == [("count_fragments", least), ("count_fragments", {**least, **most})]


def test_demo(calls):
    run("demo")
    run("demo", "--data", "A.h5mu", "--out", "mine", "--seed", "2", "--device", "cpu", "--quiet")
    assert calls == [
        ("demo", {0: None, "out": Path("demo"), "seed": 0, "device": "auto", "quiet": False}),
        ("demo", {0: Path("A.h5mu"), "out": Path("mine"), "seed": 2, "device": "cpu", "quiet": True}),
    ]


def every_command() -> dict[str, object]:
    """Callback of every command by its full name."""
    found = {command.name: command.callback for command in app.registered_commands}
    for group in app.registered_groups:
        found |= {
            f"{group.name} {command.name}": command.callback for command in group.typer_instance.registered_commands
        }
    return found


@pytest.mark.parametrize("name", every_command())
def test_every_command_takes_the_common_options_and_shows_an_example(name: str):
    parameters = inspect.signature(every_command()[name]).parameters
    assert {"quiet", "seed", "device"} <= set(parameters)
    text = run(*name.split(), "--help")
    assert f"Examples:\n    syncyte {name}" in text.replace("\n\n  Examples", "\nExamples")
    assert "\b" not in text


TUPLES = (
    *("settings", "out", "unclear", "condition_keys", "features", "where", "between", "reference", "target", "text"),
    "force_slots",
)


def test_the_signatures_are_those_of_the_verbs():
    """The command line and Python bear the same names and defaults."""
    from syncyte import api

    names = {name: name for name in (*VERBS[:5], *VERBS[6:], "search", "describe", "variants")}
    names["top_regions"] = "regions"
    for name, full in (names | {"harmonise": "data harmonise", "count_fragments": "data fragments"}).items():
        verb = inspect.signature(getattr(api, name)).parameters
        command = inspect.signature(every_command()[full]).parameters
        command = {key: value for key, value in command.items() if key != "device" or key in verb}
        if name == "count_fragments":  # where nothing is drawn, the common options are taken and not handed on
            command = {key: value for key, value in command.items() if key != "seed"}
        assert set(command) <= set(verb), name
        for key, parameter in command.items():
            if parameter.default is not inspect.Parameter.empty and key not in TUPLES:
                assert verb[key].default == parameter.default, f"{name} {key}"


def test_documented_command_lines_are_valid(calls, monkeypatch):
    """Every command line in the README and the documentation is accepted as it stands."""
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setattr("syncyte.cli.doctor.examine_torch", lambda: {"error": "not asked here"})
    monkeypatch.setattr("syncyte.cli.data._told", lambda done: [])
    checked = 0
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        blocks = "\n".join(re.findall(r"^```console\n(.*?)^```", path.read_text(), re.M | re.S))
        for line in re.findall(r"^syncyte (.+)$", blocks, re.M):
            words = shlex.split(line, comments=True)
            if words[0] in ("reference", "doctor"):
                words.append("--help")
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, f"{path.name}: syncyte {line}\n{done.output}"
            checked += 1
    assert checked > 10


def test_app_is_plain_text():
    assert isinstance(app, typer.Typer)
    assert app.pretty_exceptions_enable is False


def test_notes_and_warnings_are_said_in_words(capsys, monkeypatch):
    from syncyte import cli
    from syncyte.cli import options

    options.note(["one technical batch"], quiet=False)
    options.note(["unheard"], quiet=True)
    monkeypatch.setattr(cli, "app", lambda words: warnings.warn("48 cells are empty", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main()
    assert capsys.readouterr().err == "note: one technical batch\nwarning: 48 cells are empty\n"
