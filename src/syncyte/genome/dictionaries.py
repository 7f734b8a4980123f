"""Dictionaries that published models come with: numbers of genes, medians of genes, ids of symbols.

They are JSON, or pickles of a plain dictionary. A pickle is a program; here none is run. Its steps are read one by one
(``pickletools`` only takes them apart) and those that build dictionaries of text and numbers are carried out by hand,
numpy's numbers among them; any other step is refused, and the sentence says how to make a JSON file of it.
Leaves out: what the numbers mean, finding the files (models).
"""

from __future__ import annotations

import json
import math
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from syncyte.errors import GenomeError

PICKLED = {".pkl", ".pickle"}
_MARK = object()
_VALUES = {  # steps that put their argument on the stack
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BINSTRING", "SHORT_BINSTRING", "STRING",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_KINDS = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def read_dictionary(path: str | Path) -> dict[str, Any]:
    """A dictionary of text to text or numbers.

    Parameters
    ----------
    path
        ``.json``, ``.pkl`` or ``.pickle``.

    Raises
    ------
    GenomeError
        If the file is not there, cannot be read, or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise GenomeError(f"There is no dictionary {path}. Name a JSON file, or the pickle it was published as.")
    content = path.read_bytes()
    if path.suffix.lower() in PICKLED:
        found = _unpickled(content, path)
    else:
        try:
            found = json.loads(content)
        except ValueError as error:
            raise GenomeError(f"{path} is no JSON ({error}). Copy the file again.") from error
    if not isinstance(found, dict) or not found:
        kind = "an empty dictionary" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise GenomeError(f"{path} holds {kind}; a dictionary by the name of the gene is needed.")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            raise GenomeError(
                f"{path} holds {key!r}: {str(value)[:60]!r}; names are text, and what they stand for is text or a "
                "number. Name another file."
            )
    return found


def read_token_numbers(path: str | Path) -> dict[str, int]:
    """Number of each token, special ones such as ``<pad>`` among them.

    Raises
    ------
    GenomeError
        As ``read_dictionary``, and for numbers that are not whole, negative, or given twice.
    """
    found = read_dictionary(path)
    strange = [
        key
        for key, value in found.items()
        if isinstance(value, str) or not math.isfinite(value) or value != int(value) or value < 0
    ]
    if strange:
        raise GenomeError(f"{path}: {strange[0]!r} has the number {found[strange[0]]!r}; whole numbers from 0 count.")
    numbers = {key: int(value) for key, value in found.items()}
    if len(set(numbers.values())) < len(numbers):
        raise GenomeError(f"{path} gives {len(numbers):,} tokens {len(set(numbers.values())):,} numbers; each has one.")
    return numbers


def read_medians(path: str | Path) -> dict[str, float]:
    """Median of each gene; genes whose median is no positive number are left out.

    Raises
    ------
    GenomeError
        As ``read_dictionary``, and where no gene is left.
    """
    found = read_dictionary(path)
    numbers = {key: float(value) for key, value in found.items() if not isinstance(value, str)}
    kept = {key: value for key, value in numbers.items() if math.isfinite(value) and value > 0}
    if not kept:
        raise GenomeError(f"{path} has no gene with a positive median. Name the file of medians by gene.")
    return kept


def read_symbols(path: str | Path) -> dict[str, str]:
    """Ensembl id of each symbol.

    Raises
    ------
    GenomeError
        As ``read_dictionary``, and where ids are no text.
    """
    found = read_dictionary(path)
    strange = [key for key, value in found.items() if not isinstance(value, str)]
    if strange:
        raise GenomeError(f"{path}: {strange[0]!r} stands for {found[strange[0]]!r}, which is no Ensembl id.")
    return found


class _Dtype:
    """A type of numbers as a pickle builds it."""

    def __init__(self, kind: str) -> None:
        self.kind, self.order = kind.lstrip("<>=|"), ">" if kind.startswith(">") else "<"

    def build(self, state: Any) -> None:
        """Take up the byte order, which pickles say later."""
        if not isinstance(state, tuple) or len(state) < 3 or any(item is not None for item in state[2:5]):
            raise ValueError("a type of numbers with fields")
        self.order = ">" if state[1] == ">" else "<"

    def number(self, content: bytes) -> Any:
        """A number of this type."""
        if self.kind not in _KINDS:
            raise ValueError(f"a number of type {self.kind!r}")
        values = np.frombuffer(content, dtype=self.order + self.kind)
        if len(values) != 1:
            raise ValueError("a list in place of a number")
        return values[0].item()


def _dtype(kind: str, *_: Any) -> _Dtype:
    return _Dtype(str(kind))


def _scalar(kind: _Dtype, content: bytes) -> Any:
    if not isinstance(kind, _Dtype) or not isinstance(content, bytes):
        raise ValueError("a number without a type")
    return kind.number(content)


def _encoded(text: str, how: str) -> bytes:
    if how != "latin1" or not isinstance(text, str):
        raise ValueError("text in an unknown code")
    return text.encode("latin1")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


_NAMED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): _ordered,
}


def _unpickled(content: bytes, path: Path) -> Any:
    """What a pickle of plain values builds."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name == "STOP":
                break
            _step(code.name, argument, stack, memo)
        (found,) = stack
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise GenomeError(
            f"{path} is no pickle of a plain dictionary ({error}); nothing else is opened, since pickles can run code. "
            f"If you trust it, write it as {path.stem}.json with the program that it comes from."
        ) from error
    return found


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One step of a pickle; what is not known here is refused."""
    if name in _IGNORED:
        return
    if name in _VALUES:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_DICT", "DICT"):
        stack.append(_pairs(_to_mark(stack)) if name == "DICT" else {})
    elif name == "EMPTY_TUPLE":
        stack.append(())
    elif name == "TUPLE":
        stack.append(tuple(_to_mark(stack)))
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
    elif name in ("SETITEM", "SETITEMS"):
        items = _to_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        stack[-1].update(_pairs(items))
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in _PUTS:
        memo[int(argument)] = stack[-1]
    elif name in _GETS:
        stack.append(memo[int(argument)])
    else:
        _call(name, argument, stack)


def _call(name: str, argument: Any, stack: list[Any]) -> None:
    """Steps that name something or call it: types and numbers of numpy alone."""
    if name in ("GLOBAL", "STACK_GLOBAL"):
        place = tuple(argument.split(" ", 1)) if name == "GLOBAL" else (stack.pop(-2), stack.pop())
        if place not in _NAMED:
            raise ValueError(f"it names {'.'.join(map(str, place))}")
        stack.append(_NAMED[place])
    elif name == "REDUCE":
        given, called = stack.pop(), stack.pop()
        if not any(called is known for known in _NAMED.values()) or not isinstance(given, tuple):
            raise ValueError("it calls what it did not name")
        stack.append(called(*given))
    elif name == "BUILD":
        state = stack.pop()
        if not isinstance(stack[-1], _Dtype):
            raise ValueError("it fills an object")
        stack[-1].build(state)
    else:
        raise ValueError(f"it holds the step {name}")


def _to_mark(stack: list[Any]) -> list[Any]:
    """Everything above the last mark, which goes."""
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise IndexError("a mark is missing")
    found = stack[place + 1 :]
    del stack[place:]
    return found


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))
