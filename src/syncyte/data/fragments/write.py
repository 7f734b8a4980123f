"""The file of counts: CSR of int32 without compression, cheap to read by rows, with every region of the reference.

``var`` does not depend on the cells and is written before the fragments are read, which shows at once whether the place
can be written to. The file appears under its name only when it is whole.

Leaves out: what the counts are (``cells``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.errors import DataError
from syncyte.genome.intervals import compiled

CHUNK = 1 << 16  # counts in a chunk of the file
NAMES = 1 << 15  # names of regions spelled at once


class CountsFile:
    """An ``.h5ad`` in the making; see ``counts_file``."""

    def __init__(self, path: Path, root: h5py.File, regions: pd.DataFrame) -> None:
        self.path, self._root, self._columns = path, root, len(regions)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_var(root.create_group("var"), regions)

    def write_rows(self, blocks: Iterator[tuple[NDArray, NDArray, NDArray]], cells: int) -> dict[str, int]:
        """Write ``X`` from blocks of rows (``Runs.blocks``); the sum of counts and the places that hold one."""
        group = self._root.create_group("X")
        shape = np.array((cells, self._columns))
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        data, indices = (
            group.create_dataset(name, (0,), np.int32, maxshape=(None,), chunks=(CHUNK,))
            for name in ("data", "indices")
        )
        lengths, total, filled = [], 0, 0
        for length, columns, counts in blocks:
            for dataset, values in ((data, counts), (indices, columns)):
                dataset.resize((filled + len(values),))
                dataset[filled:] = values
            filled, total = filled + len(counts), total + int(counts.sum(dtype=np.int64))
            lengths.append(length)
        group.create_dataset("indptr", data=np.append(0, np.cumsum(np.concatenate(lengths))).astype(np.int64))
        return {"counts": total, "nonzero": filled}

    def write_tables(self, obs: pd.DataFrame, report: dict[str, Any]) -> None:
        """Write ``obs``, ``uns["syncyte"]["fragments"]`` and the rest of an AnnData."""
        import anndata
        from anndata.io import write_elem

        uns = {**report, "notes": np.array(report["notes"], dtype=object)}
        with anndata.settings.override(allow_write_nullable_strings=True):
            write_elem(self._root, "obs", obs)
            write_elem(self._root, "uns", {"syncyte": {"fragments": uns}})
        for key in ("layers", "obsm", "obsp", "varm", "varp"):
            write_elem(self._root, key, {})


@contextmanager
def counts_file(out: Path, regions: pd.DataFrame) -> Iterator[CountsFile]:
    """Context in which counts are written to ``out``; nothing stands under that name unless it ends well.

    Parameters
    ----------
    out
        ``.h5ad``; an existing file is replaced in the end.
    regions
        ``(r, 3)`` the columns of the counts.
    """
    if out.suffix != ".h5ad":
        raise DataError(
            f"Counts of fragments are written as .h5ad, and {out} is named otherwise. Name it {out.stem}.h5ad."
        )
    with atomic_file(out) as path, h5py.File(path, "w") as root:
        yield CountsFile(out, root, regions)


def _write_var(group: h5py.Group, regions: pd.DataFrame) -> None:
    """Table of regions, as anndata writes it, with few names in memory at a time."""
    from anndata.io import write_elem

    frame = {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "region"}
    group.attrs.update({**frame, "column-order": np.array(list(regions.columns), dtype=object)})
    for column in regions:
        write_elem(group, column, regions[column].array if column == "chrom" else regions[column].to_numpy())
    names = group.create_dataset("region", (len(regions),), h5py.string_dtype(), chunks=(min(NAMES, len(regions)),))
    names.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    chroms = regions["chrom"].cat.categories
    letters = np.frombuffer("".join(chroms).encode(), dtype=np.uint8)
    edges = np.append(0, np.cumsum([len(name.encode()) for name in chroms]))
    code, start, end = (np.asarray(part) for part in (regions["chrom"].cat.codes, regions["start"], regions["end"]))
    width = int(np.diff(edges).max()) + 2 * 10 + 2
    for first in range(0, len(regions), NAMES):
        text = np.zeros((min(NAMES, len(regions) - first), width), dtype=np.uint8)
        _spell(text, letters, edges, code[first:], start[first:], end[first:])
        names[first : first + len(text)] = text.view(f"S{width}").ravel()


@compiled
def _spell(text, letters, edges, code, start, end):
    """Names ``chr1:100-200``, one a row, as ``coordinates.region_names`` spells them; 20 times its speed."""
    for row in range(len(text)):
        at = 0
        for place in range(edges[code[row]], edges[code[row] + 1]):
            text[row, at] = letters[place]
            at += 1
        for mark, value in ((58, start[row]), (45, end[row])):
            text[row, at] = mark
            size, rest = 1, value // 10
            while rest > 0:
                size, rest = size + 1, rest // 10
            for place in range(at + size, at, -1):
                text[row, place] = 48 + value % 10
                value //= 10
            at += size + 1
