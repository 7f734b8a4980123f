"""Names of tensors in other people's files, made into those of a model, by a small table of patterns.

A row is *ours* and *theirs*; ``*`` stands for one part of a name (no dot), ``**`` for any run of parts, and what they
stand for in *theirs* is filled into *ours* in order::

    encoder.layer.*.attention.self.query.weight     layers.*.q_proj.weight
    **                                              backbone.**

The table is ``rename.tsv`` (two columns, tab between them, ``#`` before remarks) or ``rename.json`` (ours to theirs) in
the folder of the model. Prefixes that are common and old spellings are known without one.
Leaves out: reading weights (``pretrained_cells``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from syncyte.errors import DataError
from syncyte.models.pretrained_folder import read_json

TABLES = ("rename.tsv", "rename.json")
USUAL = (
    ("**", "bert.**"),
    ("**", "roberta.**"),
    ("**", "model.**"),
    ("**", "module.**"),
    ("**.weight", "bert.**.gamma"),
    ("**.bias", "bert.**.beta"),
    ("**.weight", "**.gamma"),
    ("**.bias", "**.beta"),
)
_STAR = re.compile(r"\*\*|\*")


def read_renames(folder: Path) -> list[tuple[str, str]]:
    """Rows (ours, theirs) of the table in a folder; none where it has no table.

    Raises
    ------
    DataError
        If there are two tables, or a row has no two columns with the same stars.
    """
    found = [name for name in TABLES if (folder / name).is_file()]
    if not found:
        return []
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(found)}; one table says how tensors are called. Remove one.")
    place = folder / found[0]
    if place.suffix == ".json":
        rows: list[tuple[str, ...]] = [(str(ours), str(theirs)) for ours, theirs in read_json(place).items()]
    else:
        lines = [line.partition("#")[0].rstrip() for line in place.read_text(encoding="utf-8").splitlines()]
        rows = [tuple(part.strip() for part in line.split("\t")) for line in lines if line.strip()]
        rows = rows[1:] if rows and rows[0] == ("ours", "theirs") else rows
    table = []
    for row in rows:
        if len(row) != 2 or not all(row) or _STAR.findall(row[0]) != _STAR.findall(row[1]):
            raise DataError(
                f"{place}: {' | '.join(row)} is no row of names; expected ours and theirs, with a tab between them and "
                "the same stars (* for one part of a name, ** for several) in the same order."
            )
        table.append((row[0], row[1]))
    return table


def rename(names: Iterable[str], table: Iterable[tuple[str, str]], wanted: Collection[str]) -> dict[str, str]:
    """New name of each tensor.

    Parameters
    ----------
    names
        As they are in the file.
    table
        Rows (ours, theirs), the first that fits counts.
    wanted
        Names that the model has: the usual rows are taken only where they lead to one.

    Raises
    ------
    DataError
        If two tensors get one name of the model.
    """
    wanted, rows = set(wanted), [(ours, _pattern(theirs)) for ours, theirs in table]
    usual = [(ours, _pattern(theirs)) for ours, theirs in USUAL]
    found: dict[str, str] = {}
    for name in names:
        new = next((_fill(ours, match.groups()) for ours, theirs in rows if (match := theirs.fullmatch(name))), name)
        if new not in wanted:
            ways = (_fill(ours, match.groups()) for ours, theirs in usual if (match := theirs.fullmatch(new)))
            new = next((way for way in ways if way in wanted), new)
        found[name] = new
    seen: dict[str, str] = {}
    for old, new in found.items():
        if new in wanted and new in seen:
            raise DataError(f"The tensors {seen[new]} and {old} would both be called {new}: mend the table of names.")
        seen[new] = old
    return found


def _pattern(theirs: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", theirs)
    return re.compile("".join({"*": r"([^.]+)", "**": r"(.+)"}.get(part, re.escape(part)) for part in parts))


def _fill(ours: str, values: Iterable[str]) -> str:
    given = iter(values)
    return _STAR.sub(lambda _: next(given), ours)
