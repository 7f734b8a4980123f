"""Imports go down only, and names of modalities and systems stay in their rooms; read off the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "syncyte"
FILES = sorted(SOURCE.rglob("*.py"))

# Top to bottom. Rooms on one line do not import each other.
LAYERS = (
    {"cli"},
    {"walkthrough"},
    {"api"},
    {"generation", "places", "asking", "variation"},
    {"files"},
    {"report"},
    {"recipes"},
    {"tasks"},
    {"train"},
    {"objectives"},
    {"models"},
    {"modalities"},
    {"words"},
    {"data", "nn", "metrics", "baselines"},
    {"genome"},
    {"types", "config", "atomic", "meter"},
    {"errors"},
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
ROOT_FILES = {"__init__", "__main__"}  # the door: it may point anywhere, and only the command line may use it

MODALITIES = {"rna", "atac", "text", "dna"}
MODALITY_ROOMS = {"modalities", "recipes", "cli", "report", "api"}
SYSTEMS = {"clm_x", "clm_access", "scmmgpt", "scldm", "bio_dta", "unified"}
SYSTEM_ROOMS = {"recipes", "cli", "report", "api", "walkthrough"}
TORCH = {"torch", "lightning", "pytorch_lightning", "peft", "safetensors"}


def room_of(module: str) -> str:
    """Folder or top-level file of a dotted module of the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    parts = ("syncyte", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full module name of everything a file imports, wherever in the file."""
    package = ("syncyte", *path.relative_to(SOURCE).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base == "syncyte":  # from syncyte import api: the room is the name
                yield from ((node.lineno, f"syncyte.{name.name}") for name in node.names)
            else:
                yield node.lineno, base


def literals(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_every_room_has_a_place():
    rooms = {room_of(module_of(path)) for path in FILES} - ROOT_FILES
    assert rooms <= set(LEVEL), f"rooms without a layer: {sorted(rooms - set(LEVEL))}"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_imports_go_down(path: Path):
    own = room_of(module_of(path))
    if own in ROOT_FILES:
        return
    wrong = []
    for line, module in imported(path):
        if module.split(".")[0] != "syncyte":
            continue
        other = room_of(module)
        if other not in LEVEL:
            fine = own == "cli"
        else:
            fine = other == own or LEVEL[other] > LEVEL[own]
        if not fine:
            wrong.append(f"line {line}: {own} imports {module}")
    assert not wrong, wrong


@pytest.mark.parametrize("room", ["genome", "data"])
def test_no_torch_below_the_loader(room: str):
    allowed = {SOURCE / "data" / "load.py"}
    wrong = [
        f"{path.relative_to(SOURCE)}:{line} imports {module}"
        for path in FILES
        if room_of(module_of(path)) == room and path not in allowed
        for line, module in imported(path)
        if module.split(".")[0] in TORCH
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("names", "rooms"), [(MODALITIES, MODALITY_ROOMS), (SYSTEMS, SYSTEM_ROOMS)], ids=["modalities", "systems"]
)
def test_names_stay_in_their_rooms(names: set[str], rooms: set[str]):
    wrong = [
        f"{path.relative_to(SOURCE)}:{line} says {value!r}"
        for path in FILES
        if room_of(module_of(path)) not in rooms
        for line, value in literals(path)
        if value.lower() in names
    ]
    assert not wrong, wrong
