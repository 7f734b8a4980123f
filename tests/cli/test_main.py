"""The command as a process: quick help, exit codes, one readable paragraph for an error."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest

from syncyte import cli
from syncyte.errors import ConfigError, DataError, MissingExtraError


def syncyte(*words: str, code: str = "") -> subprocess.CompletedProcess:
    """Run the command in a process of its own, with some code before it."""
    program = f"import sys; sys.argv = ['syncyte', *{list(words)!r}]\n{code}\nfrom syncyte.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_help_is_quick_and_light():
    seen = "import atexit; atexit.register(lambda: print('LOADED', *{name.partition('.')[0] for name in sys.modules}))"
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = syncyte("--help", code=seen)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: syncyte")
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "typer" in loaded
    assert not loaded & {"torch", "anndata", "mudata", "scanpy", "pandas", "numpy", "scipy", "lightning", "pydantic"}
    assert best < 0.5, f"syncyte --help took {best:.2f} CPU seconds"


def test_version_and_module():
    by_name, by_module = (
        syncyte("--version"),
        subprocess.run([sys.executable, "-m", "syncyte", "--version"], capture_output=True, text=True),
    )
    assert by_name.stdout == by_module.stdout
    assert by_name.stdout.startswith("syncyte 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bake",), "No such command 'bake'"),
        (("embed", "RUN", "DATA"), "Missing option '--out'"),
        (("embed", "RUN"), "Missing argument 'DATA'"),
        (("integrate", "RUN", "DATA", "--out", "O"), "Missing option '--batch-key'"),
        (("translate", "RUN", "DATA", "--out", "O", "--to", "atac"), "Missing option '--from'"),
        (
            ("translate", "RUN", "D", "--out", "O", "--from", "a", "--to", "b", "--min-prob", "2"),
            "'--min-prob'",
        ),
        (("annotate", "RUN", "Q", "--reference", "R", "--label-key", "t", "--out", "O", "--method", "best"), "'best'"),
        (("train", "clm_x", "D", "--out", "R", "--seed", "-1"), "'--seed'"),
        (("data", "store", "D", "--out", "S", "--shard-cells", "0"), "'--shard-cells'"),
    ],
)
def test_usage_errors_leave_with_2(words: tuple[str, ...], said: str):
    done = syncyte(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def app(words: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("3 of 5 values are negative. Raw counts are needed."), 1, "3 of 5 values are negative. Raw counts"),
        (ConfigError("Unknown setting 'with'. Did you mean 'width'?"), 2, "Unknown setting 'with'."),
        (MissingExtraError("harmonypy", "bench", "Harmony"), 1, "pip install 'syncyte[bench]'"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/out.h5mu"), 1, "No space left on device (/x/out.h5mu)"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "Permission denied (/x)"),
    ],
)
def test_errors_are_one_paragraph(error, code, said, monkeypatch, capsys):
    assert raising(error, monkeypatch) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_a_defect_keeps_its_traceback():
    done = syncyte(
        "--help", code="import syncyte.cli\ndef app(words): raise ValueError('a defect')\nsyncyte.cli.app = app"
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a defect" in done.stderr


def test_interruption_leaves_with_130(monkeypatch, capsys):
    assert raising(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_no_error():
    program = "from syncyte.cli import main; import sys; sys.argv = ['syncyte', '--help']; main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""
