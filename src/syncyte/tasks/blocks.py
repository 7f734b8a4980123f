"""Rows made block by block, written so that a killed run goes on where it stopped.

Each finished block is a file in a hidden folder beside the output, stamped with everything the result hangs on. The
same command again finds the stamp, makes only what is missing, joins the blocks and removes the folder; another
command starts anew. Memory does not grow with the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from syncyte.atomic import atomic_file
from syncyte.meter import Meter
from syncyte.tasks.write import PredictionWriter
from syncyte.types import json_ready

STAMP = "stamp.json"
Make = Callable[[int, int], sp.csr_matrix]  # first and past-the-last row


def write_blocks(
    out: Path,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    make: Make,
    *,
    size: int,
    stamp: Mapping[str, Any],
    uns: Mapping[str, Any],
    quiet: bool = False,
) -> int:
    """Write ``(len(obs), len(var))`` sparse int32 counts; how many blocks were taken up from an earlier run.

    Parameters
    ----------
    make
        Gives the counts of rows ``first`` to ``last`` (exclusive); the same whenever asked.
    size
        Rows of a block.
    stamp
        What the result hangs on; blocks of another stamp are not used.
    """
    out = Path(out)
    folder = out.parent / f".{out.name}.blocks"
    text = json.dumps(json_ready({**stamp, "rows": len(obs), "size": size, "obs": table_digest(obs)}), sort_keys=True)
    found = _stamped(folder, text)
    starts = range(0, len(obs), size)
    taken = 0
    with Meter("generating", "cells", quiet) as meter:
        for first in starts:
            place, last = folder / f"{first}.npz", min(first + size, len(obs))
            if found and place.is_file():
                taken += 1
                continue
            block = sp.csr_matrix(make(first, last), dtype=np.int32)
            with atomic_file(place) as tmp, tmp.open("wb") as file:
                np.savez(file, data=block.data, indices=block.indices, indptr=block.indptr)
            meter.advance(last, len(obs), last)
    with PredictionWriter(out, obs, var, sparse=True, dtype=np.int32, uns=uns) as writer:
        for first in starts:
            with np.load(folder / f"{first}.npz", allow_pickle=False) as parts:
                shape = (len(parts["indptr"]) - 1, len(var))
                writer.append(sp.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape))
    shutil.rmtree(folder, ignore_errors=True)
    return taken


def gather_blocks(rows: int, make: Make, size: int) -> sp.csr_matrix:
    """The same counts in memory."""
    blocks = [sp.csr_matrix(make(first, min(first + size, rows)), dtype=np.int32) for first in range(0, rows, size)]
    return sp.vstack(blocks, format="csr")


def table_digest(table: pd.DataFrame) -> str:
    """Fingerprint of a table, its names included."""
    return hashlib.sha256(table.to_csv().encode()).hexdigest()[:16]


def _stamped(folder: Path, text: str) -> bool:
    """Whether the folder holds blocks of this stamp; any other folder is emptied and stamped."""
    place = folder / STAMP
    if place.is_file() and place.read_text(encoding="utf-8") == text:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_file(place) as tmp:
        tmp.write_text(text, encoding="utf-8")
    return False
