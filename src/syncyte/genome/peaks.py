"""One region set from the peaks of many data sets: fixed width, the best peak of each place.

The procedure of Corces et al. (Science 2018), which ArchR follows too. Every peak becomes ``width`` bp around its
summit (narrowPeak) or its middle. Its score becomes its rank among the peaks of its file, from just above 0 to 1, so
that files with scores of different kinds and numbers of peaks count alike. Then, over all files: the peak of the
highest score stays and every peak that overlaps it goes; the next best of those left stays, and so on. The result is
disjoint, all of one width, in genome order, and does not depend on the order of the files (equal scores: the lower
place first). Unlike merging, it makes no chains of peaks.

Scores: narrowPeak, the first of q-value, p-value and signal that is given; BED, its fifth column where it holds
different numbers; ``.h5ad``, the sum of the counts in X; else all peaks of a file are equal. Peaks on chromosomes
without a length and those that would leave their chromosome are left out, and counted in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import parse_regions, region_table, sort_regions
from syncyte.genome.tables import read_bed

STEP = 8_000_000  # stored values of an .h5ad looked at in one go


def regions_of_peaks(
    paths: Sequence[Path], width: int, sizes: Mapping[str, int] | None, notes: list[str]
) -> pd.DataFrame:
    """Regions of ``width`` bp from the peaks of all files (how: see the module).

    Parameters
    ----------
    paths
        narrowPeak, BED (plain or gzip) or ``.h5ad``; told apart by content.
    width
        In bp.
    sizes
        Lengths of chromosomes, or None.
    notes
        A sentence on what was left out is added.
    """
    from syncyte.genome.search import keep_best

    tables = [read_peaks(path, width) for path in paths]
    numbers = [np.concatenate([table[key].to_numpy() for table in tables]) for key in ("start", "end", "score")]
    pooled = region_table(np.concatenate([table["chrom"].astype(object) for table in tables]), *numbers[:2])
    pooled["score"] = numbers[2]
    inside = pooled["start"].to_numpy() >= 0
    if sizes:
        length = np.append(pooled["chrom"].cat.categories.map(sizes).to_numpy(float, na_value=-1), -1)
        inside &= pooled["end"].to_numpy() <= length[pooled["chrom"].cat.codes]
    pooled = pooled[inside]
    if not len(pooled):
        raise GenomeError(
            f"No peak of {', '.join(path.name for path in paths[:5])} lies whole on a chromosome of known length. "
            "Compare the chromosome names of peaks and sizes, or give a smaller width."
        )
    pooled = sort_regions(pooled)
    code, start, end = (
        np.ascontiguousarray(values, dtype=np.int64)
        for values in (pooled["chrom"].cat.codes, pooled["start"], pooled["end"])
    )
    order = np.argsort(-pooled["score"].to_numpy(), kind="stable")
    kept = pooled[keep_best(code, start, end, order)]
    lost = int((~inside).sum())
    notes.append(
        f"{len(inside):,} peaks of {len(paths):,} files became {len(kept):,} disjoint regions of {width} bp, the best "
        "peak of each place"
        + (f"; {lost:,} peaks off the known chromosomes or beyond their ends were left out" if lost else "")
    )
    kept = kept[["chrom", "start", "end"]].reset_index(drop=True)
    kept["chrom"] = kept["chrom"].cat.remove_unused_categories()
    return kept


def read_peaks(path: Path, width: int) -> pd.DataFrame:
    """Peaks of a file at one width: ``chrom``, ``start``, ``end``, ``score`` (rank in the file, above 0 to 1)."""
    import h5py

    if path.is_file() and h5py.is_hdf5(path):
        table, middle, score = _of_anndata(path)
    else:
        table, middle, score = _of_bed(path)
    start = middle - width // 2
    rank = pd.Series(score).rank(method="average").to_numpy() / max(len(score), 1)
    return pd.DataFrame({"chrom": table["chrom"], "start": start, "end": start + width, "score": rank})


def _of_bed(path: Path) -> tuple[pd.DataFrame, NDArray, NDArray]:
    table = read_bed(path, extra=(4, 6, 7, 8, 9, 10))
    middle = (table["start"] + table["end"]).to_numpy() // 2
    narrow = 9 in table and 10 not in table  # ten columns; a BED of blocks has twelve, and other things in them
    if narrow and (table[9] >= 0).all():  # the summit, counted from the start
        middle = (table["start"] + table[9]).to_numpy().astype(np.int64)
    columns = [key for key in ((8, 7, 6, 4) if narrow else (4,)) if key in table]
    scored = next((key for key in columns if table[key].notna().all() and np.ptp(table[key]) > 0), None)
    return table, middle, np.zeros(len(table)) if scored is None else table[scored].to_numpy(dtype=float)


def _of_anndata(path: Path) -> tuple[pd.DataFrame, NDArray, NDArray]:
    import anndata
    import h5py

    with h5py.File(path, "r") as file:
        if "var" not in file or "X" not in file:
            raise GenomeError(
                f"{path} has no var and X, so it is no .h5ad with peaks. Give an .h5ad, BED or narrowPeak."
            )
        var = anndata.io.read_elem(file["var"])
        try:
            table = parse_regions(var.index, var)
        except GenomeError as error:
            raise GenomeError(f"{path}: {error}") from error
        score = _column_sums(file["X"], len(var))
    return table, (table["start"] + table["end"]).to_numpy() // 2, score


def _column_sums(node: object, features: int) -> NDArray[np.float64]:
    """Sums of the columns of a stored matrix, read a piece at a time."""
    import h5py

    total = np.zeros(features)
    if isinstance(node, h5py.Dataset):
        for first in range(0, node.shape[0], max(1, STEP // features)):
            total += node[first : first + max(1, STEP // features)].sum(axis=0, dtype=np.float64)
        return total
    assert isinstance(node, h5py.Group)
    by_feature = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))).startswith("csc")
    indptr = node["indptr"][:] if by_feature else None
    for first in range(0, node["data"].shape[0], STEP):
        values = node["data"][first : first + STEP].astype(np.float64)
        if indptr is None:
            column = node["indices"][first : first + STEP]
        else:
            column = np.searchsorted(indptr, np.arange(first, first + len(values)), side="right") - 1
        total += np.bincount(column, weights=values, minlength=features)
    return total
