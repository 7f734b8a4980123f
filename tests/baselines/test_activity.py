from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from syncyte.baselines.activity import GeneActivity, region_gene_weights
from syncyte.errors import DataError

STARTS = pd.DataFrame(
    {
        "gene": ["PLUS", "MINUS", "TWO", "TWO", "FAR"],
        "chrom": ["chr1", "chr1", "chr2", "chr2", "chr3"],
        "position": [10_000, 10_000, 50_000, 60_000, 1_000],
        "strand": ["+", "-", "+", "+", "+"],
    }
)
GENES = pd.Index(["TWO", "MINUS", "PLUS", "FAR", "NOWHERE"])
REGIONS = pd.DataFrame(
    {
        "chrom": ["chr1", "chr1", "chr2", "chr2", "chr9"],
        "start": [8_400, 11_400, 59_900, 300_000, 100],
        "end": [8_600, 11_600, 60_100, 300_200, 300],
    }
)  # middles: 1,500 before and after the first start, on the second, too far, no gene


def test_promoter_reaches_against_the_direction_of_the_gene():
    weights = region_gene_weights(REGIONS, STARTS, GENES, "promoter").toarray()
    table = pd.DataFrame(weights, columns=GENES)
    assert table["PLUS"].tolist() == [1, 0, 0, 0, 0]
    assert table["MINUS"].tolist() == [0, 1, 0, 0, 0]
    assert table["TWO"].tolist() == [0, 0, 1, 0, 0]
    assert table[["FAR", "NOWHERE"]].to_numpy().sum() == 0


def test_distance_decays_to_the_nearest_start():
    table = pd.DataFrame(region_gene_weights(REGIONS, STARTS, GENES, "distance").toarray(), columns=GENES)
    assert table["PLUS"].tolist() == pytest.approx([np.exp(-0.3), np.exp(-0.3), 0, 0, 0])
    assert table["TWO"].tolist() == pytest.approx([0, 0, 1, 0, 0])


def test_expression_follows_its_promoter():
    rng = np.random.default_rng(0)
    regions = sp.csr_matrix((rng.random((400, 5)) < 0.4).astype(np.float32))
    on = regions.toarray()
    counts = np.zeros((400, 5))
    counts[:, 2] = rng.poisson(1 + 4 * on[:, 0])
    counts[:, 1] = rng.poisson(1 + 4 * on[:, 1])
    counts[:, 4] = 20
    genes = sp.csr_matrix(counts.astype(np.float32))
    model = GeneActivity(region_gene_weights(REGIONS, STARTS, GENES, "promoter")).fit(regions[:300], genes[:300])
    prediction = model.predict(regions[300:])
    assert prediction.shape == (100, 5)
    block = prediction(np.arange(5))
    truth = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[300:]
    assert np.corrcoef(block[:, 2], truth[:, 2])[0, 1] > 0.4
    assert np.allclose(block[:, 3], 0) and np.ptp(block[:, 4]) == 0
    assert block[:, 4].mean() == pytest.approx(truth[:, 4].mean(), rel=0.05)
    assert np.isfinite(model.predict(sp.csr_matrix((2, 5), dtype=np.float32))(np.arange(5))).all()


def test_names_of_another_kind_are_explained():
    with pytest.raises(DataError, match=r"None of the 1 genes \(ENSG1 ...\).*PLUS, MINUS.*GTF"):
        region_gene_weights(REGIONS, STARTS, pd.Index(["ENSG1"]), "promoter")
