"""The door of the package: light to import, every module importable, every verb where it is said to be."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import syncyte

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "syncyte"
HEAVY = {
    "torch",
    "anndata",
    "mudata",
    "scanpy",
    "pandas",
    "numpy",
    "scipy",
    "sklearn",
    "lightning",
    "matplotlib",
    "h5py",
}
VERBS = [
    "read",
    "count_fragments",
    "train",
    "load",
    "embed",
    "integrate",
    "annotate",
    "translate",
    "evaluate",
    "demo",
    "simulate",
]
MODULES = sorted(
    ".".join(["syncyte", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.stem != "__main__"
)


def loaded_by(code: str) -> set[str]:
    """Top-level modules loaded in a fresh process after some code."""
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light():
    assert not loaded_by("import syncyte; dir(syncyte); syncyte.__version__") & HEAVY


@pytest.mark.parametrize("room", ["genome", "data"])
def test_lower_rooms_never_load_torch(room: str):
    mine = [module for module in MODULES if module.startswith(f"syncyte.{room}") and module != "syncyte.data.load"]
    assert "torch" not in loaded_by(f"import {', '.join(mine)}")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str):
    assert importlib.import_module(module).__name__ == module


def test_version_is_that_of_pyproject():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert syncyte.__version__ == declared


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_found(verb: str):
    assert verb in dir(syncyte)
    assert callable(getattr(syncyte, verb))


def test_a_verb_is_not_hidden_by_the_folder_of_its_name():
    importlib.import_module("syncyte.train.plan")
    assert callable(syncyte.train)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'bake'"):
        syncyte.bake  # noqa: B018


def test_tests_run_on_one_thread():
    import torch

    assert torch.get_num_threads() == 1


def test_tests_have_no_network():
    import socket

    with pytest.raises(PermissionError, match="may not use the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(PermissionError, match="may not use the network"):
        socket.getaddrinfo("example.org", 443)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
