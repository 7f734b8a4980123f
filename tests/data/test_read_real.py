"""Real files of every kind through the front door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest
import scipy.sparse as sp
from tests.data.made import SCHEMAS, opened

from syncyte.data.convert import convert
from syncyte.data.describe import describe_cells
from syncyte.data.read import read
from syncyte.errors import GenomeError

Real = Callable[[str], Path]
PLACES = np.array([0, 5, 3, 77, 78, 79, 300])


def agrees(cells, key: str, truth: sp.spmatrix) -> None:
    assert (cells.counts(key, PLACES) != sp.csr_matrix(truth[PLACES])).nnz == 0
    assert sum(block.sum() for _, block in cells.blocks(key)) == truth.sum()


@pytest.mark.parametrize(
    "name", ["muon_multiome_tiny/pbmc_tiny.h5mu", "neurips_bmmc_multiome_a/bmmc.h5mu", "snareseq_h1_hesc/h1.h5mu"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_paired_files(real: Real, name: str, tmp_path: Path):
    path = real(name)
    truth, cells = mudata.read_h5mu(path), opened(path)
    assert cells.report["paired"] == truth.n_obs and list(cells.names) == list(truth.obs_names)
    for key in ("rna", "atac"):
        assert list(cells.parts[key].features) == list(truth[key].var_names)
        agrees(cells, key, truth[key].X)
    back = opened(convert(cells, tmp_path / "back.zarr"))
    for key in ("rna", "atac"):
        agrees(back, key, truth[key].X)
    assert "cells with" not in describe_cells(cells) and f"{truth.n_obs:,} with rna and atac" in describe_cells(cells)


@pytest.mark.parametrize("name", ["kang_pbmc_8donors_control/rna.h5ad", "pbmc3k/rna.h5ad", "kang_pbmc_ifnb/rna.h5ad"])
def test_rna_alone(real: Real, name: str):
    path = real(name)
    truth, cells = ad.read_h5ad(path), opened(path)
    assert cells.modalities == ("rna",) and cells.report["rna"]["depth_zero"] == 0
    agrees(cells, "rna", truth.X)
    assert list(cells.obs.columns) == list(truth.obs.columns)


def test_atac_alone_is_known_by_its_regions(real: Real):
    path = real("granja_bmmc_scatac/atac.h5ad")
    cells = opened(path)
    assert cells.modalities == ("atac",)
    agrees(cells, "atac", ad.read_h5ad(path).X)


def test_cortex_by_batch(real: Real):
    path = real("snareseq_mouse_cortex/cortex.h5mu")
    cells = opened(path)
    assert len(cells) == 7768 and cells.obs["batch"].nunique() == len(cells.obs["batch"].cat.categories) == 9
    assert cells.obs["cell_type"].nunique() == 15
    truth = mudata.read_h5mu(path)
    for key in ("rna", "atac"):
        agrees(cells, key, truth[key].X)
    found = read(cells.take(cells.obs["batch"] == "09A"), schemas=SCHEMAS)
    assert found["atac"].shape == (int((truth.obs["batch"] == "09A").sum()), 25_734)


def test_two_real_files_of_one_modality(real: Real):
    cells = opened([real("kang_pbmc_2donors_ifnb/rna.h5ad"), real("pbmc3k/rna.h5ad")])
    assert len(cells) == 1556 + 2638
    assert "in every table" in cells.report["features"]["rna"]


@pytest.fixture(scope="module")
def hg38(real: Real, tmp_path_factory: pytest.TempPathFactory):
    from syncyte.genome.reference import build_reference

    return build_reference(
        tmp_path_factory.mktemp("hg38") / "built",
        genes=real("reference/hg38_GENCODE24_TSS.Basic.bed.gz"),
        chrom_sizes=real("reference/hg38.chrom.sizes"),
        name="hg38",
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_genes_and_peaks_of_the_right_build(real: Real, hg38):
    cells = opened(real("neurips_bmmc_multiome_a/bmmc.h5mu"), reference=hg38)
    counts = cells.report["rna"]["mapping"]["bmmc.h5mu['rna']"]
    assert counts["mapped"] > 0.98 * counts["total"]
    assert cells.report["atac"]["build"]["bmmc.h5mu['atac']"]["verdict"] == "fits"


def test_peaks_of_hg19_are_refused_by_a_reference_of_hg38(real: Real, hg38):
    path = real("granja_bmmc_scatac/atac.h5ad")
    with pytest.raises(GenomeError, match=r"atac\.h5ad: Peaks do not fit the genome build of the reference 'hg38'"):
        opened(path, reference=hg38)
    cells = opened(path, reference=hg38, force=True)
    assert any("do not fit the genome build" in note for note in cells.report["notes"])
