"""The file of counts opens in anndata and in syncyte, and equals the counts in memory."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd

import syncyte
from syncyte.data.read import open_cells
from syncyte.modalities import all_schemas
from syncyte.recipes.simulate_fragments import simulate_fragments


def test_file_and_memory_agree(peaks, tmp_path):
    path, out = tmp_path / "f.tsv.gz", tmp_path / "new" / "cells.h5ad"
    simulate_fragments(path, 30_000, cells=40, chrom_sizes=peaks.chrom_sizes)
    options = {"genome": peaks, "force": True, "quiet": True}
    memory, counts = syncyte.count_fragments(path, **options), syncyte.count_fragments(path, out=out, **options)
    assert counts.path == out
    assert [entry.name for entry in out.parent.iterdir()] == ["cells.h5ad"]
    written, kept = ad.read_h5ad(out), memory.adata
    assert (written.X != kept.X).nnz == 0
    assert written.X.dtype == np.int32
    pd.testing.assert_frame_equal(written.obs, kept.obs, check_names=False)
    pd.testing.assert_frame_equal(written.var, kept.var, check_names=False)
    said = written.uns["syncyte"]["fragments"]
    assert said["reference_hash"] == peaks.hash
    assert said["counts"] == written.X.sum() == counts.report["counts"]
    assert said["nonzero"] == written.X.nnz
    assert said["fragments_read"] == 30_000
    everything = [said[key] for key in said if key.startswith("fragments_") and key not in ("fragments_of_cells",)]
    assert all(number >= 0 for number in everything)
    backed = ad.read_h5ad(out, backed="r")
    assert (kept.X[5:9] != backed[5:9].to_memory().X).nnz == 0
    with h5py.File(out) as root:
        assert root["X/data"].compression is None


def test_the_file_is_read_as_cells(peaks, tmp_path):
    path, out = tmp_path / "f.tsv.gz", tmp_path / "cells.h5ad"
    simulate_fragments(path, 30_000, cells=40, chrom_sizes=peaks.chrom_sizes)
    counts = syncyte.count_fragments(path, genome=peaks.path, out=out, force=True, quiet=True)
    cells = open_cells(out, schemas=all_schemas())
    assert list(cells.modalities) == ["atac"]
    assert (cells.counts("atac") != counts.adata.X).nnz == 0
