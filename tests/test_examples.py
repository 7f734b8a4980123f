"""The example files that other tests read are what they claim to be."""

from __future__ import annotations

import anndata as ad
import mudata
import numpy as np
import scanpy as sc
from tests.examples import joint_counts, small_cells, write_examples


def test_examples_open_with_the_usual_readers(tmp_path):
    cells = small_cells(paired=0.8)
    paths = write_examples(tmp_path, cells)
    counts, barcodes, features = joint_counts(cells)
    assert ad.read_h5ad(paths["rna"]).shape == cells["rna"].shape
    assert ad.read_h5ad(paths["atac"]).shape == cells["atac"].shape
    assert mudata.read_h5mu(paths["h5mu"]).n_obs == mudata.read_zarr(paths["zarr"]).n_obs == 120
    for table in (
        sc.read_10x_h5(paths["tenx"], gex_only=False),
        sc.read_10x_mtx(paths["mtx"], gex_only=False),
    ):
        assert table.shape == (96, 380)
        assert list(table.obs_names) == barcodes
        assert list(table.var["feature_types"]) == list(features["feature_type"])
        assert (counts != table.X).nnz == 0
    assert np.asarray(counts.sum(1)).min() > 0
