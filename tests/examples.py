"""Small files in every input format, written from simulated cells."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from mudata import MuData

from syncyte.recipes.simulate import simulate


def small_cells(n: int = 120, seed: int = 0, **options) -> MuData:
    """A quick simulation: 4 types, 2 technical batches, 80 genes, 300 regions."""
    return simulate(n, seed, **{"types": 4, "batches": 2, "genes": 80, "regions": 300, "depth_atac": 300.0} | options)


def write_examples(folder: Path, cells: MuData | None = None) -> dict[str, Path]:
    """Write the cells as ``rna.h5ad``, ``atac.h5ad``, ``cells.h5mu``, ``cells.zarr``, 10x ``.h5`` and an mtx folder.

    The 10x files hold the cells that have both modalities.
    """
    cells = small_cells() if cells is None else cells
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "rna": folder / "rna.h5ad",
        "atac": folder / "atac.h5ad",
        "h5mu": folder / "cells.h5mu",
        "zarr": folder / "cells.zarr",
        "tenx": folder / "filtered_feature_bc_matrix.h5",
        "mtx": folder / "filtered_feature_bc_matrix",
    }
    cells["rna"].copy().write_h5ad(paths["rna"])
    cells["atac"].copy().write_h5ad(paths["atac"])
    cells.write(paths["h5mu"])
    cells.write_zarr(paths["zarr"])
    write_tenx(paths["tenx"], cells)
    write_mtx(paths["mtx"], cells)
    return paths


def joint_counts(cells: MuData) -> tuple[sp.csr_matrix, list[str], pd.DataFrame]:
    """Counts of paired cells over all features, barcodes, and features as 10x files list them."""
    both = [name for name in cells["rna"].obs_names if name in cells["atac"].obs_names]
    rna, atac = cells["rna"][both], cells["atac"][both]
    features = pd.DataFrame(
        {
            "id": [*rna.var["gene_ids"], *atac.var_names],
            "name": [*rna.var_names, *atac.var_names],
            "feature_type": [*rna.var["feature_types"], *atac.var["feature_types"]],
            "interval": [
                *(f"{chrom}:{tss}-{tss + 1}" for chrom, tss in zip(rna.var["chrom"], rna.var["tss"])),
                *atac.var_names,
            ],
        }
    )
    return sp.hstack([rna.X, atac.X], format="csr"), [f"{name}-1" for name in both], features


def write_tenx(path: Path, cells: MuData) -> None:
    """Cell Ranger's feature-barcode matrix, version 3."""
    counts, barcodes, features = joint_counts(cells)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        group["shape"] = np.array(counts.shape[::-1], dtype=np.int32)
        listed = group.create_group("features")
        for column in features:
            listed[column] = np.array(features[column], dtype="S")
        listed["genome"] = np.array(["GRCh38"] * len(features), dtype="S")
        listed["_all_tag_keys"] = np.array(["genome", "interval"], dtype="S")


def write_mtx(folder: Path, cells: MuData) -> None:
    """Cell Ranger's folder of ``matrix.mtx.gz``, ``barcodes.tsv.gz`` and ``features.tsv.gz``."""
    counts, barcodes, features = joint_counts(cells)
    folder.mkdir(parents=True, exist_ok=True)
    matrix = io.BytesIO()
    scipy.io.mmwrite(matrix, counts.T.tocoo(), field="integer")
    chrom, place = features["interval"].str.split(":", expand=True).T.to_numpy()
    start, end = pd.Series(place).str.split("-", expand=True).T.to_numpy()
    columns = [features["id"], features["name"], features["feature_type"], chrom, start, end]
    lines = "".join("\t".join(row) + "\n" for row in zip(*columns))
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress(matrix.getvalue(), mtime=0))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress(("\n".join(barcodes) + "\n").encode(), mtime=0))
    (folder / "features.tsv.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
