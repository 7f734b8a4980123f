"""The commands of words as the documentation gives them, on a tiny run: what they write, print and refuse."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.tiny_words import UNSEEN, told_cells, training_cells, write_ontology
from typer.testing import CliRunner

from syncyte.cli import app, main

TINY = ["--preset", "tiny", "--device", "cpu"]


def call(*words: object, code: int = 0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with cells, an ontology and a run that the command made; not to be changed."""
    folder = tmp_path_factory.mktemp("place")
    data = told_cells(300)
    training_cells(data).write_h5ad(folder / "cells.h5ad")
    data.write_h5ad(folder / "query.h5ad")
    write_ontology(folder)
    words = ["train", "scmmgpt", folder / "cells.h5ad", "--out", folder / "run", "--label-key", "cell_type"]
    done = call(*words, "--ontology", folder / "cl.obo", *TINY)
    (folder / "train.txt").write_text(done.output)
    return folder


# --- the commands of the documentation -------------------------------------------------------------------------------


def test_training_says_what_is_next_and_what_should_be_known(place):
    told = " ".join((place / "train.txt").read_text().split())
    assert "Without a term, known by their names alone" in told and "Next: syncyte generate" in told
    assert (place / "run/checkpoint.json").exists() and (place / "run/vocab/ontology.tsv.gz").exists()


def test_search(place, tmp_path):
    out = tmp_path / "hits.csv"
    query = "lymphocytes, not T cells"
    done = call("search", place / "run", query, place / "cells.h5ad", "--top", 20, "--out", out, "--device", "cpu")
    table = pd.read_csv(out)
    cells = anndata.read_h5ad(place / "cells.h5ad").obs
    assert list(table.columns) == ["cell", "score", "evidence"] and len(table) == 20
    assert set(cells.loc[table["cell"], "cell_type"]) == {"B"} and table["score"].is_monotonic_decreasing
    said = " ".join(done.output.split())
    assert "Read as: lymphocytes AND NOT T cells" in said and "(20 cells)" in said
    quiet = call("search", place / "run", query, place / "cells.h5ad", "--out", out, "--device", "cpu", "--quiet")
    assert quiet.output == "" and len(pd.read_csv(out)) > 100


def test_search_with_an_index_and_by_a_cell(place, tmp_path):
    index = tmp_path / "cells.index"
    tables = []
    for _ in range(2):
        out = tmp_path / "hits.csv"
        words = ["B cells or monocytes", place / "cells.h5ad", "--index", index, "--out", out, "--device", "cpu"]
        call("search", place / "run", *words)
        tables.append(pd.read_csv(out).set_index("cell")["score"])
    assert (index / "index.json").exists()
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-3)
    more = ["--mode", "vectors", "--nearest", "exact", "--index", index, "--out", out, "--device", "cpu"]
    call("search", place / "run", "B cells", place / "cells.h5ad", *more)
    assert len(pd.read_csv(out)) == 200
    name = anndata.read_h5ad(place / "cells.h5ad").obs_names[3]
    done = call("search", place / "run", f"cell:{name}", place / "cells.h5ad", "--out", out, "--device", "cpu")
    assert f"Cells like {name}" in done.output and name not in set(pd.read_csv(out)["cell"])
    call(
        "search", place / "run", "B cells", place / "query.h5ad", "--index", index, "--out", out, code=1
    )  # other cells


def test_annotate_without_a_reference(place, tmp_path):
    out = tmp_path / "typed.h5ad"
    done = call("annotate", place / "run", place / "query.h5ad", "--zero-shot", "--tissue", "blood", "--out", out)
    obs = anndata.read_h5ad(out).obs
    assert {"syncyte_type", "syncyte_type_id", "syncyte_confidence", "syncyte_type_coarser", "cell_type"} <= set(obs)
    assert "No marker of" in " ".join(done.output.split())
    types = tmp_path / "types.txt"
    types.write_text("natural killer cell\n")
    more = ["--candidates", types, "--by", "cluster", "--unseen-share", 0.5, "--out", out]
    call("annotate", place / "run", place / "query.h5ad", "--zero-shot", *more)
    obs = anndata.read_h5ad(out).obs
    assert set(obs["syncyte_type"][obs["cell_type"] == UNSEEN].astype(str)) == {"natural killer cell"}
    done = call("annotate", place / "run", place / "query.h5ad", "--zero-shot", "--candidates", "all", "--out", out)
    assert "All terms are candidates" in " ".join(done.output.split())


def test_describe(place, tmp_path):
    out = tmp_path / "described.h5ad"
    words = [place / "query.h5ad", "--by", "cluster", "--say", "tissue=blood", "--out", out]
    call("describe", place / "run", *words)
    read = anndata.read_h5ad(out)
    assert read.obs["syncyte_description"].astype(str).str.contains("from blood").all()
    assert read.obs["syncyte_description"].nunique() == read.obs["cluster"].nunique()
    evidence = read.uns["syncyte"]["describe_evidence"]
    assert len(evidence) == read.obs["cluster"].nunique()
    assert {"type", "probability", "alternatives", "speaker", "genes", "nearest"} <= set(evidence.columns)


def test_generate(place, tmp_path):
    out = tmp_path / "cd4.h5ad"
    text = "CD4 T cells stimulated with interferon beta"
    call("generate", place / "run", "--text", text, "--n", 15, "--out", out, "--device", "cpu")
    made = anndata.read_h5ad(out)
    assert made.shape == (15, 120) and set(made.obs["syncyte_text"]) == {text}
    near = tmp_path / "near.h5ad"
    done = call(
        "generate", place / "run", "--text", text, "--text", "B cells", "--n", 5, "--neighbours", 3, "--out", near
    )
    assert anndata.read_h5ad(near).n_obs == 10
    assert "Also conditioned on the 3 training cells nearest" in " ".join(done.output.split())


# --- help and exit codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["search", "describe", "annotate", "generate", "train"])
def test_help_has_examples(command):
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", call(command, "--help").output).split())
    assert "Examples" in told and f"syncyte {command}" in told
    assert {"search": "--index", "describe": "--say", "annotate": "--zero-shot", "generate": "--text"}.get(
        command, "--text-key"
    ) in told
    assert {"search": "--nearest", "annotate": "--unseen-share"}.get(command, "Usage") in told


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["search", "run", "", "cells.h5ad", "--out", "x.csv"], 2, "The search is empty"),
        (["search", "run", "😀", "cells.h5ad", "--out", "x.csv"], 2, "has no letters"),
        (["search", "run", "B cells", "cells.h5ad", "--out", "x.csv", "--top", "0"], 2, "--top"),
        (["search", "run", "B cells", "cells.h5ad", "--out", "x.csv", "--mode", "vector"], 2, "vector"),
        (["search", "run", "B cells", "cells.h5ad", "--out", "x.csv", "--nearest", "fais"], 2, "fais"),
        (["search", "run", "B cells", "cells.h5ad", "--out", "x.csv", "--nearest", "faiss"], 2, "of --index"),
        (["annotate", "run", "cells.h5ad", "--unseen-share", "0.1", "--out", "x.h5ad"], 2, "belongs to --zero-shot"),
        (["search", "run", "B cells", "none.h5ad", "--out", "x.csv"], 1, "none.h5ad"),
        (["search", "nowhere", "B cells", "cells.h5ad", "--out", "x.csv"], 1, "nowhere"),
        (["search", "run", "B cells", "cells.h5ad"], 2, "--out"),
        (["describe", "run", "cells.h5ad", "--say", "tissu=blood", "--out", "x.h5ad"], 2, "Did you mean 'tissue'"),
        (["annotate", "run", "cells.h5ad", "--candidates", "t.txt", "--out", "x.h5ad"], 2, "belong to --zero-shot"),
        (
            ["annotate", "run", "cells.h5ad", "--zero-shot", "--label-key", "cell_type", "--out", "x.h5ad"],
            2,
            "no --label-key",
        ),
        (["generate", "run", "--text", "", "--n", "2", "--out", "x.h5ad"], 2, "The search is empty"),
        (["generate", "run", "--text", "B cells", "--n", "0", "--out", "x.h5ad"], 2, "at least one cell is made"),
        (["train", "scmmgpt", "cells.h5ad", "--out", "new", "--preset", "tiny"], 2, "--label-key"),
        (["train", "scldm", "cells.h5ad", "--out", "new", "--ontology", "cl.obo"], 2, "knows no words"),
        (["train", "scmmgpt", "cells.h5ad", "--out", "new", "--label-key", "kind"], 1, "Unknown obs column 'kind'"),
    ],
)
def test_mistakes_end_with_a_sentence_and_a_code(place, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["syncyte", *words])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        main()
    told = " ".join(capsys.readouterr().err.split())
    assert left.value.code == code and says in told
    assert told.startswith(("error: ", "Usage: "))
    assert not list(place.glob("x.*")) and not (place / "new").exists()
