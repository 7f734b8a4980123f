"""``generate``, ``perturb``, the keys of ``train scldm``, options of several values, and tables of features."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import syncyte
from syncyte import cli
from syncyte.cli import app, spread
from syncyte.errors import ConfigError, DataError
from syncyte.files import read_features

# --- options of several values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--condition-keys a", "--condition-keys a"),
        ("--condition-keys a b c", "--condition-keys a --condition-keys b --condition-keys c"),
        ("--condition-keys a b --out R D", "--condition-keys a --condition-keys b --out R D"),
        ("--condition-keys a b -h", "--condition-keys a --condition-keys b -h"),
        ("--condition-keys a --condition-keys b c", "--condition-keys a --condition-keys b --condition-keys c"),
        ("--out R --set a=b c", "--out R --set a=b c"),
        ("train scldm D --condition-keys", "train scldm D --condition-keys"),
        ("", ""),
    ],
)
def test_values_are_repeated_to_the_next_option(words, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spread(words.split()) == wanted.split()


def test_a_file_ends_the_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.h5ad").touch()
    Path("batch").touch()
    words = ["scldm", "--condition-keys", "batch", "donor", "train.h5ad", "more"]
    # the first value is one, whatever lies in the folder
    assert spread(words) == [*words[:3], "--condition-keys", *words[3:]]


def test_data_are_told_from_folders_named_like_a_column(tmp_path, monkeypatch):
    """A file, a store or a folder of 10x is data; any other folder is a word."""
    monkeypatch.chdir(tmp_path)
    Path("cells.h5ad").touch()
    signs = {"store": "manifest.json", "tenx": "matrix.mtx.gz", "old": "matrix.mtx", "new.zarr": "zarr.json"}
    for folder, sign in {**signs, "older.zarr": ".zgroup", "batch": "notes.txt"}.items():
        Path(folder).mkdir()
        Path(folder, sign).touch()
    Path("donor").mkdir()
    for word in ("cells.h5ad", *signs, "older.zarr"):
        assert cli._is_data(word)
        keys = ["--condition-keys", "batch", "--condition-keys", "donor"]
        assert spread(["--condition-keys", "batch", "donor", word, "more"]) == [*keys, word, "more"]
    assert not any(map(cli._is_data, ("batch", "donor", "nowhere", "")))


# --- commands hand on what they were given ---------------------------------------------------------------------------


class Answer:
    """What a stand-in of a verb gives back."""

    def __init__(self, **facts) -> None:
        self.facts = facts
        self.recipe = {"notes": ["a note of training"]}

    def can(self, capability: str) -> bool:
        return capability == "generates"


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for the verbs, and what they were called with."""
    made: list[tuple[str, dict]] = []
    api = ModuleType("syncyte.api")

    def verb(name: str, answer):
        def record(**keywords):
            made.append((name, keywords))
            return answer

        return record

    facts = {"cells": 5000, "evaluations": 16, "notes": ["a note of the plan"]}
    api.generate, api.train = verb("generate", Answer(**facts)), verb("train", Answer())
    api.perturb = verb("perturb", Answer(notes=["a note of the response"]))
    monkeypatch.setitem(sys.modules, "syncyte.api", api)
    monkeypatch.setitem(vars(syncyte), "api", api)
    return made


def run(*words: str):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


LEAST = {
    "run": Path("RUN"),
    "out": Path("O.h5ad"),
    "n": 1000,
    "where": (),
    "mode": "new",
    "cells": None,
    "between": (),
    "stops": 5,
    "key": None,
    "least": None,
    "steps": 8,
    "guidance": 1.0,
    "reference": (),
    "settings": (),
    "depth": "flow",
    "features": None,
    "text": (),
    "neighbours": 0,
    "modality": None,
    "genome": None,
    "layer": None,
    "force": False,
    "device": "auto",
    "seed": 0,
    "quiet": False,
}


def test_generate_with_the_least(calls):
    done = run("generate", "RUN", "--out", "O.h5ad")
    assert calls == [("generate", LEAST)] and type(calls[0][1]["mode"]) is str
    assert done.stdout == "Wrote O.h5ad (5,000 cells, 16 evaluations a cell)\n"
    assert done.stderr == "note: a note of the plan\n"


def test_generate_with_everything(calls):
    words = (
        "generate RUN --out O.h5ad --n 7 --where type=B --where donor=1 --mode augment --cells A --cells B "
        "--between a=b --between a=c --stops 3 --key type --least 9 --steps 4 --guidance 1.5 --reference type=NK "
        "--set kind=referenced --set solver=euler --depth 5000 --features F --device cpu --seed 3 --quiet --force"
    )
    done = run(*words.split())
    changed = {
        "n": 7,
        "where": ("type=B", "donor=1"),
        "mode": "augment",
        "cells": [Path("A"), Path("B")],
        "between": ("a=b", "a=c"),
        "stops": 3,
        "key": "type",
        "least": 9,
        "steps": 4,
        "guidance": 1.5,
        "reference": ("type=NK",),
        "settings": ("kind=referenced", "solver=euler"),
        "depth": "5000",
        "features": Path("F"),
        "device": "cpu",
        "seed": 3,
        "quiet": True,
        "force": True,
    }
    assert calls == [("generate", {**LEAST, **changed})]
    assert done.output == ""


def test_one_file_of_cells_is_a_path(calls):
    run("generate", "RUN", "--mode", "denoise", "--cells", "A.h5ad", "--out", "O.h5ad")
    assert calls[0][1]["cells"] == Path("A.h5ad")


@pytest.mark.parametrize(
    "words", ["--mode other", "--steps 0", "--guidance -1", "--stops 1", "--least 0", "--seed -1", "--n many"]
)
def test_impossible_options_are_usage_errors(calls, words):
    done = CliRunner().invoke(app, ["generate", "RUN", "--out", "O", *words.split()])
    assert done.exit_code == 2 and words.split()[0] in done.output and not calls


def test_help_names_every_mode_and_shows_examples():
    text = run("generate", "--help").output
    for word in ("unconditional", "reconstruct", "denoise", "interpolate", "augment", "--where", "KEY=VALUE"):
        assert word in text
    assert text.count("syncyte generate run") == 6


def test_train_takes_one_or_several_keys(calls, monkeypatch):
    words = "train scldm D.h5ad --out RUN --label-key type --condition-keys donor dose --features donor=F.csv --quiet"
    run(*spread(words.split()))
    (_, given) = calls[0]
    assert (given["condition_keys"], given["features"], given["label_key"]) == (
        ("donor", "dose"),
        ("donor=F.csv",),
        "type",
    )
    assert given["recipe"] == "scldm" and given["data"] == Path("D.h5ad")
    monkeypatch.setattr(sys, "argv", ["syncyte", *words.split()])
    with pytest.raises(SystemExit) as done:  # through the entry point, which spreads by itself
        cli.main()
    assert done.value.code == 0 and calls[1] == calls[0]


def test_train_says_how_to_go_on(calls):
    done = run("train", "scldm", "D.h5ad", "--out", "RUN")
    assert done.stdout.splitlines()[1] == "Next: syncyte generate RUN --n 1000 --out OUT.h5ad"
    assert done.stderr == "note: a note of training\n"


def test_an_error_is_one_sentence_and_an_exit_code(tiny_sets_run, tmp_path, capfd, monkeypatch):
    out = tmp_path / "O.h5ad"
    for words, code, said in (
        ("--where cell_type=Bee", 1, "Unknown value of 'cell_type' 'Bee'. Did you mean 'B'?"),
        ("--where cell_type", 2, "expected KEY=VALUE"),
        ("--n 0", 2, "give the number of cells"),
        ("--mode denoise", 2, "name them with --cells FILE"),
    ):
        argv = ["syncyte", "generate", str(tiny_sets_run.path), "--out", str(out), "--device", "cpu", *words.split()]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as done:
            cli.main()
        caught = capfd.readouterr()
        assert done.value.code == code and caught.err.startswith("error: ") and said in caught.err
        assert "Traceback" not in caught.err and not out.exists()


def test_cells_are_written(tiny_sets_run, tmp_path):
    import anndata

    out = tmp_path / "O.h5ad"
    words = ["generate", str(tiny_sets_run.path), "--out", str(out), "--device", "cpu", "--n", "9"]
    done = run(*words, "--where", "cell_type=CD14 Mono", "--where", "batch=batch_2", "--depth", "500")
    assert done.stdout == f"Wrote {out} (9 cells, 16 evaluations a cell)\n"
    made = anndata.read_h5ad(out)
    assert made.shape == (9, 80) and (made.obs["cell_type"] == "CD14 Mono").all() and made.X.dtype == np.int32
    assert list(tmp_path.iterdir()) == [out]


# --- responses -------------------------------------------------------------------------------------------------------

ASKED = ("perturb", "RUN", "C.h5ad", "--key", "drug", "--control", "none", "--target", "d1", "--out", "O.h5ad")
LEAST_ASKED = {
    "run": Path("RUN"),
    "cells": Path("C.h5ad"),
    "key": "drug",
    "control": "none",
    "target": ("d1",),
    "out": Path("O.h5ad"),
    "method": "regression",
    "reference": None,
    "of": None,
    "steps": 8,
    "guidance": 1.0,
    "settings": (),
    "features": None,
    **{name: LEAST[name] for name in ("modality", "genome", "layer", "force", "device", "seed", "quiet")},
}


def test_perturb_with_the_least(calls):
    done = run(*ASKED)
    assert calls == [("perturb", LEAST_ASKED)] and type(calls[0][1]["method"]) is str
    assert done.stdout == "Wrote O.h5ad and O.effects.csv\n" and done.stderr == "note: a note of the response\n"


def test_perturb_with_everything(calls):
    words = (
        "--target d2+d3 --method transport --reference R1 --reference R2 --of atac --steps 4 --guidance 1.5 "
        "--set kind=referenced --features F.csv --device cpu --seed 3 --quiet"
    )
    done = run(*ASKED, *words.split())
    changed = {
        "target": ("d1", "d2+d3"),
        "method": "transport",
        "reference": [Path("R1"), Path("R2")],
        "of": "atac",
        "steps": 4,
        "guidance": 1.5,
        "settings": ("kind=referenced",),
        "features": Path("F.csv"),
        "device": "cpu",
        "seed": 3,
        "quiet": True,
    }
    assert calls == [("perturb", {**LEAST_ASKED, **changed})] and done.output == ""
    run(*ASKED, "--reference", "R.h5ad")
    assert calls[1][1]["reference"] == Path("R.h5ad")


def test_responses_are_written(tiny_treated_run, tmp_path, capfd, monkeypatch):
    import anndata
    from tests.treated import treated

    cells, out = tmp_path / "controls.h5ad", tmp_path / "O.h5ad"
    new = treated(each=2, seed=6)
    new.write_h5ad(cells)
    words = ["perturb", str(tiny_treated_run.path), str(cells), "--key", "drug", "--control", "none", "--out", str(out)]
    words += ["--device", "cpu", "--target"]
    done = run(*words, "d1", "--target", "d1+d7", "--method", "flow")
    assert done.stdout == f"Wrote {out} and {out.with_suffix('.effects.csv')}\n"
    assert done.stderr.splitlines() == [
        "note: 48 cells that are not drug=none are left out.",
        "note: d1+d7: d1+d7 was never seen by the flow: predicted by regression instead.",
        "note: d1+d7: d7 was never seen and has no features: it gets the mean effect of all perturbations.",
    ]
    made, real = anndata.read_h5ad(out), new[(new.obs["drug"] == "none").to_numpy()]
    assert made.shape == (72, 80) and made.X.dtype == np.int32 and (made.X[:24] != real.X).nnz == 0
    assert pd.read_csv(out.with_suffix(".effects.csv")).groupby("target").size().to_dict() == {"d1": 80, "d1+d7": 80}
    monkeypatch.setattr(sys, "argv", ["syncyte", *words, "none"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2 and capfd.readouterr().err == "error: --target none is the control: leave it out.\n"


# --- tables of features ----------------------------------------------------------------------------------------------


def test_tables_of_features_are_read(tmp_path):
    comma, tab = tmp_path / "a.csv", tmp_path / "b.tsv"
    comma.write_text("drug,x,y\n7,1,2\nnone,3,4.5\n")
    tab.write_text("gene\tx\nSTAT1\t1\n")
    found = read_features([f"drug={comma}", f"gene={tab}"])
    assert list(found) == ["drug", "gene"] and found["drug"].index.tolist() == ["7", "none"]
    np.testing.assert_array_equal(found["drug"].to_numpy(), np.array([[1, 2], [3, 4.5]], dtype=np.float32))
    assert set(found["drug"].dtypes) == {np.dtype(np.float32)} and found["gene"].shape == (1, 1)
    own = pd.DataFrame({"x": [1, 2]}, index=["a", "b"])
    assert read_features({"drug": own})["drug"].dtypes.tolist() == [np.float32] and own["x"].dtype == np.int64
    assert read_features([{"drug": own}, f"gene={tab}"])["gene"].index.tolist() == ["STAT1"]
    assert read_features(f"gene={tab}")["gene"].shape == (1, 1) and read_features(()) == {}


def test_tables_that_cannot_be_used_are_refused(tmp_path):
    def written(text: str) -> str:
        (tmp_path / "t.csv").write_text(text)
        return f"drug={tmp_path / 't.csv'}"

    with pytest.raises(ConfigError, match=r"--features drug: expected KEY=TABLE, a column of obs and a \.csv or \.tsv"):
        read_features(["drug"])
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere\.csv'"):
        read_features(["drug=nowhere.csv"])
    with pytest.raises(DataError, match="names repeat"):
        read_features([written("n,x\na,1\na,2\n")])
    with pytest.raises(DataError, match=r"columns \['y'\] are no numbers"):
        read_features([written("n,x,y\na,1,high\nb,2,low\n")])
    with pytest.raises(DataError, match="it is empty"):
        read_features([written("n,x\n")])
    with pytest.raises(DataError, match="it is empty"):
        read_features([written("n\na\n")])


def test_facts_are_told_only_where_there_are_any(capsys):
    from syncyte.cli.make import _tell

    _tell(SimpleNamespace(provenance={"notes": ["y"]}), Path("O"), False)
    _tell(SimpleNamespace(facts={"cells": 12}), Path("O"), False)
    _tell(SimpleNamespace(facts={"cells": 12, "notes": ["x"]}), Path("O"), True)
    assert capsys.readouterr() == ("Wrote O (expectations)\nWrote O (12 cells)\n", "note: y\n")
