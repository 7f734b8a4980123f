"""The commands in two processes give what they give in one, to the last bit; the first alone writes and speaks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import anndata
import mudata
import numpy as np
import pytest
from tests.processes import start_crew
from tests.tiny import world

from syncyte.cli import main as command_line
from syncyte.report import write
from syncyte.tasks import evaluate

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "embed": "embed RUN cells.h5mu --out embed.h5mu --batch-size 16",
    "integrate": "integrate RUN cells.h5mu --batch-key batch --out integrate.h5mu --batch-size 16",
    "annotate": "annotate RUN cells.h5mu --reference known.h5mu --label-key cell_type --out annotate.h5mu --quiet",
    "dense": "translate RUN cells.h5mu --from rna --to atac --out dense.h5ad --batch-size 16",
    "sparse": "translate RUN cells.h5mu --from atac --to rna --min-prob 0.5 --out sparse.h5ad --batch-size 7",
    "evaluate": "evaluate RUN cells.h5mu --reference known.h5mu --out report --label-key cell_type",
    "no such key": "integrate RUN cells.h5mu --batch-key bacth --out never.h5mu",
    "no place": "translate RUN cells.h5mu --from rna --to atac --out never.csv",
    "no run": "embed nothing cells.h5mu --out never.h5mu",
    "again": "embed RUN cells.h5mu --out again.h5mu --batch-size 16 --quiet",
}


def say_all(folder: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code and what was printed by every command, one after the other in one process."""
    os.chdir(folder)
    told = {}
    for name, line in COMMANDS.items():
        sys.argv = ["syncyte", *shlex.split(line), "--device", "cpu"]
        out, error, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                command_line()
            except SystemExit as left:
                code = int(left.code or 0)
        told[name] = (code, out.getvalue(), error.getvalue())
    return told


def main(folder: Path) -> None:
    """One of the processes; UMAP, which compiles for long, and figures have their own tests."""
    evaluate.umap_coordinates = lambda values, seed: (np.arange(len(values)), values[:, :2])
    write.embed_figure = lambda figure: "data:,"
    rank = os.environ.get("RANK", "0")
    (folder / f"told-{rank}.json").write_text(json.dumps(say_all(folder)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_run) -> dict[int, Path]:
    """Outputs of one process and of two, and what each process printed."""
    made = {}
    for processes in (1, 2):
        folder = made[processes] = tmp_path_factory.mktemp(f"of{processes}")
        (folder / "RUN").symlink_to(tiny_run.path)
        world(101, seed=4).write(folder / "cells.h5mu")
        world(160, seed=5).write(folder / "known.h5mu")
        start_crew(folder, processes, main, folder)
    return made


def told(folder: Path, rank: int) -> dict[str, list]:
    return json.loads((folder / f"told-{rank}.json").read_text())


@pytest.mark.slow
def test_two_processes_write_what_one_writes(folders):
    for name in ("embed", "integrate", "annotate", "again"):
        one, two = (mudata.read_h5mu(folders[count] / f"{name}.h5mu") for count in (1, 2))
        slots = [key for key in one.obsm if "syncyte" in key]
        assert slots and slots == [key for key in two.obsm if "syncyte" in key]
        for key in slots:
            np.testing.assert_array_equal(one.obsm[key], two.obsm[key])
        for key in (key for key in one.obs if "syncyte" in key):
            assert one.obs[key].equals(two.obs[key])
        assert list(one.obs_names) == list(two.obs_names)
    for name in ("dense", "sparse"):
        one, two = (anndata.read_h5ad(folders[count] / f"{name}.h5ad") for count in (1, 2))
        assert list(one.obs_names) == list(two.obs_names) and type(one.X) is type(two.X)
        assert (abs(one.X - two.X)).max() == 0 and one.X.sum() > 0
    tables = [json.loads((folders[count] / "report" / "report.json").read_text()) for count in (1, 2)]
    assert values(tables[0]) == values(tables[1]) and len(values(tables[0])) > 100


def values(report) -> list[float]:
    """Every number of the tables and figures of a report."""
    if isinstance(report, dict):
        return [
            number for key, item in report.items() if key not in ("provenance", "training") for number in values(item)
        ]
    if isinstance(report, list):
        return [number for item in report for number in values(item)]
    return [report] if isinstance(report, float) else []


@pytest.mark.slow
def test_the_first_process_alone_speaks(folders):
    alone, first, second = told(folders[1], 0), told(folders[2], 0), told(folders[2], 1)
    assert first == alone
    assert {name: code for name, (code, _, _) in first.items() if code} == {
        "no such key": 1,
        "no place": 1,
        "no run": 1,
    }
    assert "bacth" in first["no such key"][2] and "Wrote embed.h5mu" in first["embed"][1]
    assert all(answer == [0, "", ""] for answer in second.values())
    assert not list(folders[2].glob("never*"))


@pytest.mark.slow
def test_the_command_as_it_is_typed(folders):
    folder = folders[2]
    launcher = "-m torch.distributed.run --nproc-per-node=2 --standalone"
    line = "-m syncyte embed RUN cells.h5mu --out typed.h5mu --device cpu --batch-size 16"
    command = [sys.executable, *launcher.split(), *line.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stdout) == (0, "Wrote typed.h5mu\n"), done.stderr
    typed, alone = mudata.read_h5mu(folder / "typed.h5mu"), mudata.read_h5mu(folders[1] / "embed.h5mu")
    np.testing.assert_array_equal(typed.obsm["X_syncyte"], alone.obsm["X_syncyte"])
