"""The baselines on real paired cells, held to what they reached when they were built (a batch not used for scoring)."""

from __future__ import annotations

import numpy as np
import pytest

from syncyte.baselines.linear import SvdRidge
from syncyte.baselines.mean import MeanProfile, MeanTimesDepth
from syncyte.baselines.space import Space
from syncyte.metrics.openness import score_open
from syncyte.metrics.prediction import score_values


@pytest.fixture(scope="module")
def cortex(real):
    import mudata

    cells = mudata.read_h5mu(real("snareseq_mouse_cortex/cortex.h5mu"))
    batch = cells["rna"].obs["batch"].astype(str).to_numpy()
    train = np.flatnonzero(~np.isin(batch, ["09A", "09C", "09J"]))
    test = np.flatnonzero(batch == "09A")
    genes, regions = cells["rna"].X.tocsr(), cells["atac"].X.tocsr()
    return genes[train], regions[train], genes[test], regions[test]


def test_regions_from_genes(cortex):
    genes, regions, new_genes, truth = cortex
    null = MeanProfile("open").fit(genes, regions).mean
    flat = score_open(MeanTimesDepth("open").fit(genes, regions).predict(new_genes), truth, null).summary
    ridge = score_open(SvdRidge(Space("log_cp10k"), "open").fit(genes, regions).predict(new_genes), truth, null).summary
    assert flat["auroc"] == pytest.approx(0.591, abs=0.005) and flat["auroc_profile"] == pytest.approx(0.669, abs=0.005)
    assert ridge["auroc"] == pytest.approx(0.627, abs=0.005) and ridge["d2"] == pytest.approx(0.0172, abs=0.002)
    assert ridge["auroc_profile"] == pytest.approx(0.688, abs=0.005)


def test_genes_from_regions(cortex):
    genes, regions, truth, new_regions = cortex
    null = MeanProfile("values").fit(regions, genes).mean
    found = {}
    for scaling in ("tfidf", "depth"):
        model = SvdRidge(Space(scaling), "values").fit(regions, genes)
        found[scaling] = score_values(model.predict(new_regions), truth, null).summary["r"]
    assert found["tfidf"] == pytest.approx(0.101, abs=0.006)
    assert found["depth"] == pytest.approx(0.158, abs=0.006)
