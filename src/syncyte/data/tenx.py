"""10x Genomics matrices: ``.h5`` (one matrix group, or one group a genome as of Cell Ranger 2) and mtx folders.

The ``.h5`` matrix is feature-major, so its compressed columns are the rows of cells and stay on disk as they are. An
mtx folder is text and comes into memory. Names of genes are their symbols, with the id in ``var["gene_ids"]``.
Leaves out: splitting the feature types of a multiome file (``data.assign``) and fragments.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from syncyte.data.backed import CsrRows, Handle, canonical, check_dtype, open_root, reading
from syncyte.data.cells import MemoryRows, Rows
from syncyte.data.counts import Slot
from syncyte.data.sources import MATRIX, Table
from syncyte.errors import DataError


def open_h5(path: Path, key: str | None) -> Table:
    """Table over a 10x ``.h5`` file; the counts stay on disk.

    Raises
    ------
    DataError
        If it holds several genomes (Cell Ranger 2), or its parts disagree.
    """
    with open_root(path, "hdf5") as root:
        name = "matrix" if "matrix" in root else _genome(root, path)
        group = root[name]
        var = _h5_features(group)
        obs = pd.DataFrame(index=pd.Index(_text(group["barcodes"])))
    handle = Handle(str(path), name, "hdf5")
    slot = Slot("X", partial(_rows, handle, f"{path.name}, matrix,"), var, handle)
    return Table(path.name, obs, var, (slot,), key)


def _h5_features(group: Any) -> pd.DataFrame:
    features = group.get("features")
    if features is None:
        return pd.DataFrame({"gene_ids": _text(group["genes"])}, index=pd.Index(_text(group["gene_names"])))
    var = pd.DataFrame({"gene_ids": _text(features["id"])}, index=pd.Index(_text(features["name"])))
    for column, stored in (("feature_types", "feature_type"), ("genome", "genome"), ("interval", "interval")):
        if stored in features:
            var[column] = _text(features[stored])
    return var


def _genome(root: Any, path: Path) -> str:
    genomes = [name for name in root if "barcodes" in root[name]]
    if len(genomes) > 1:
        raise DataError(
            f"{path} holds {len(genomes)} genomes ({', '.join(genomes)}). Take one: "
            f'scanpy.read_10x_h5("{path.name}", genome="{genomes[0]}").write_h5ad("{path.stem}.h5ad")'
        )
    return str(genomes[0])


def _text(dataset: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]]


def _rows(handle: Handle, label: str) -> Rows:
    group = handle.node()
    with reading(handle.path):
        features, cells = (int(size) for size in group["shape"][:])
        check_dtype(group["data"].dtype, label)
        indptr = np.asarray(group["indptr"][:], dtype=np.int64)
    if len(indptr) != cells + 1 or indptr[-1] != group["data"].shape[0]:
        raise DataError(f"{label} is damaged: its column pointers do not fit its values. Copy or download it again.")
    return CsrRows(handle, (cells, features), indptr)


def open_mtx(path: Path, key: str | None) -> Table:
    """Table of an mtx folder (or of the matrix file in it): ``matrix.mtx``, ``barcodes.tsv``, ``features.tsv``.

    Any of them may be gzip-compressed and carry a common prefix; ``genes.tsv`` and ``peaks.bed`` name features too.

    Raises
    ------
    DataError
        If a file is missing or the sizes do not agree.
    """
    matrix = _matrix_file(path)
    folder, prefix = matrix.parent, matrix.name.removesuffix(".gz").removesuffix(MATRIX)
    barcodes = _beside(folder, prefix, "barcodes.tsv")
    features = _beside(folder, prefix, "features.tsv", "genes.tsv", "peaks.bed")
    var = _features(features)
    obs = pd.DataFrame(index=pd.Index(_columns(barcodes)[0]))
    rows = MemoryRows(_read_mtx(matrix, len(obs), len(var)))
    return Table(path.name, obs, var, (Slot("X", lambda: rows, var),), key)


def _matrix_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(entry for entry in path.iterdir() if entry.name.removesuffix(".gz").endswith(MATRIX))
    if len(found) > 1:
        listed = ", ".join(entry.name for entry in found)
        raise DataError(f"The folder {path} holds {len(found)} matrices ({listed}). Give the path of one of them.")
    return found[0]


def _beside(folder: Path, prefix: str, *names: str) -> Path:
    for name in names:
        for start in dict.fromkeys((prefix, "")):
            for end in ("", ".gz"):
                if (folder / f"{start}{name}{end}").is_file():
                    return folder / f"{start}{name}{end}"
    raise DataError(
        f"The folder {folder} has a matrix but no {prefix}{' or '.join(names)} (.gz). Put it beside the matrix; "
        "without it the rows and columns have no names."
    )


def _columns(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", header=None, dtype=str, comment="#", keep_default_na=False, quoting=3)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty; it should name one cell or feature a line.") from None


def _features(path: Path) -> pd.DataFrame:
    table = _columns(path)
    if path.name.removesuffix(".gz").endswith("peaks.bed"):
        if table.shape[1] < 3:
            raise DataError(f"{path} has {table.shape[1]} columns; a BED file has at least chromosome, start and end.")
        var = table.iloc[:, :3].set_axis(["chrom", "start", "end"], axis=1)
        return var.set_axis(pd.Index(var["chrom"] + ":" + var["start"] + "-" + var["end"]), axis=0)
    names = table[1] if table.shape[1] > 1 else table[0]
    var = pd.DataFrame({"gene_ids": table[0].to_numpy()}, index=pd.Index(names))
    if table.shape[1] > 2:
        var["feature_types"] = table[2].to_numpy()
    return var


def _read_mtx(path: Path, cells: int, features: int) -> Any:
    from scipy.io import mmread

    try:
        matrix = mmread(path)
    except (ValueError, OSError, EOFError, OverflowError) as error:
        raise DataError(
            f"{path} is no whole Matrix Market file ({error}). Compare its size with the original and copy it again."
        ) from error
    check_dtype(matrix.dtype, f"{path}")
    if matrix.shape == (features, cells):
        return canonical(sp.csr_matrix(matrix.T))
    if matrix.shape == (cells, features):
        return canonical(sp.csr_matrix(matrix))
    raise DataError(
        f"{path} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, beside it are {features:,} features and {cells:,} "
        "barcodes. The files come from different runs, or one is cut short: copy all three again."
    )
