"""Files, functions and inheritance stay small, and nothing unsafe, unfinished or silent gets in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "syncyte"
FILES = sorted(SOURCE.rglob("*.py"))
EVERYWHERE = [*FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

FILE_LINES = 400
FUNCTION_LINES = 60
FREE_BASES = {"syncyte.config.Config", "syncyte.errors.SyncyteError"}  # roots of the two allowed hierarchies
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def dotted(node: ast.expr) -> str:
    """``torch.load`` from its syntax; an empty string where it is not a plain dotted name."""
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def test_files_are_short():
    long = {name(path): n for path in EVERYWHERE if (n := len(path.read_text().splitlines())) > FILE_LINES}
    assert not long, f"files over {FILE_LINES} lines: {long}"


def test_functions_are_short():
    long = {}
    for path in EVERYWHERE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{name(path)}:{node.name}"] = lines
    assert not long, f"functions over {FUNCTION_LINES} lines: {long}"


def test_modules_say_what_they_are():
    silent = [name(path) for path in FILES if path.read_text().strip() and not ast.get_docstring(tree(path))]
    assert not silent, f"modules without a docstring: {silent}"


def classes() -> dict[str, list[str]]:
    """Full name of each class of the package, with the full names of its bases where they can be told."""
    found = {}
    for path in FILES:
        module = ".".join(["syncyte", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        known = {}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                known |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
            elif isinstance(node, ast.ClassDef):
                known[node.name] = f"{module}.{node.name}"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                found[f"{module}.{node.name}"] = [known.get(base, base) for base in map(dotted, node.bases)]
    return found


def depth(full: str, found: dict[str, list[str]]) -> int:
    """Steps of inheritance inside the package; outside bases and the two free roots count nothing."""
    own = [base for base in found[full] if base in found and base not in FREE_BASES]
    return max((1 + depth(base, found) for base in own), default=0)


def test_inheritance_is_shallow():
    found = classes()
    deep = {full: found[full] for full in found if depth(full, found) > 1}
    assert not deep, f"classes more than one step from their interface: {deep}"


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield f"{name(path)}:{node.lineno}", dotted(node.func), node


def truth(call: ast.Call, keyword: str) -> bool:
    return any(
        item.arg == keyword and isinstance(item.value, ast.Constant) and item.value.value is True
        for item in call.keywords
    )


def test_nothing_unpickles():
    wrong = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            modules = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{name(path)}:{node.lineno} {m}" for m in modules if m.split(".")[0] in PICKLES]
        for place, called, call in calls(path):
            if called == "torch.load" and not truth(call, "weights_only"):
                wrong.append(f"{place} torch.load without weights_only=True")
            if truth(call, "allow_pickle"):
                wrong.append(f"{place} allow_pickle=True")
            if called in {"eval", "exec"}:
                wrong.append(f"{place} {called}")
            if called.endswith("read_pickle"):
                wrong.append(f"{place} {called}")
    assert not wrong, wrong


def test_no_error_is_swallowed():
    wrong = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    wrong.append(f"{name(path)}:{node.lineno} bare except")
                elif all(isinstance(item, ast.Pass) for item in node.body):
                    wrong.append(f"{name(path)}:{node.lineno} except: pass")
    assert not wrong, wrong


def test_nothing_is_left_unfinished():
    wrong = []
    for path in FILES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if any(mark in line for mark in ("TODO", "FIXME", "XXX", "NotImplementedError")):
                wrong.append(f"{name(path)}:{number}")
    assert not wrong, wrong


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_no_room_for_leftovers(folder: str):
    words = {"utils", "util", "helpers", "helper", "misc", "common", "manager"}
    wrong = [name(path) for path in EVERYWHERE if path.stem in words and name(path).startswith(folder)]
    assert not wrong, wrong
