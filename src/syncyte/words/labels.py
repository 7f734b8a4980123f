"""Files of label mapping: labels in, a user's own names in, the table of answers out.

Leaves out: what labels mean (``map``).
"""

from __future__ import annotations

import csv
from pathlib import Path

from syncyte.atomic import atomic_file
from syncyte.errors import DataError
from syncyte.genome.ontology import canonical_id
from syncyte.words.map import LabelMap


def read_labels(path: Path) -> list[str]:
    """Labels of a text file, one a line, each once, in order; blank lines are skipped.

    Raises
    ------
    DataError
        If the file is missing, holds no label, or is no text.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    labels = list(dict.fromkeys(line for line in lines if line))
    if not labels:
        raise DataError(f"{path} holds no label. Write one label a line.")
    return labels


def read_names(path: Path) -> list[tuple[str, str]]:
    """A user's own names: lines of a name alone, or of a name and an id behind a tab, or behind a last comma.

    Raises
    ------
    DataError
        If the file is missing, holds no name, or is no text.
    """
    found: list[tuple[str, str]] = []
    for line in _text(path).splitlines():
        name, _, last = line.strip().rpartition("\t" if "\t" in line else ",")
        key = canonical_id(last.strip().strip('"'))
        if name and ":" in key and " " not in key:
            found.append((name.strip().strip('"'), key))
        elif line.strip() and not line.startswith("#"):
            found.append((line.strip().strip('"'), ""))
    if not found:
        raise DataError(f"{path} holds no name. Write a name a line, and the id it means behind a comma or tab.")
    return found


def write_map(found: LabelMap, path: Path) -> None:
    """Write the answers as CSV: the whole file or none."""
    with atomic_file(path) as tmp:
        found.table().to_csv(tmp, index=False, quoting=csv.QUOTE_MINIMAL)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error.reason}). Write labels as text, one a line.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
    if "\x00" in text:
        raise DataError(f"{path} is no text. Write labels as text, one a line.")
    return text
