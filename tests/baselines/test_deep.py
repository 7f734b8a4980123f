from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines.classify import CellTypist
from syncyte.baselines.deep import MultiVI, ScAnvi, scvi_embedding
from syncyte.baselines.integrate import harmony_embedding
from syncyte.errors import MissingExtraError


def pairs(cells: int = 160) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, cells)
    genes = rng.poisson(np.where(np.arange(30) % 2 == kind[:, None], 3.0, 0.5))
    regions = rng.binomial(1, np.where(np.arange(60) % 2 == kind[:, None], 0.4, 0.05))
    return sp.csr_matrix(genes.astype(np.float32)), sp.csr_matrix(regions.astype(np.float32))


def missing(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return True
    return False


@pytest.mark.skipif(not missing("scvi"), reason="scvi-tools is installed")
def test_missing_scvi_names_the_extra():
    genes, regions = pairs(20)
    with pytest.raises(MissingExtraError, match=r"scvi-tools.*pip install 'syncyte\[bench\]'"):
        scvi_embedding(genes, np.zeros(20))
    with pytest.raises(MissingExtraError, match="MultiVI"):
        MultiVI("open").fit(genes, regions)


@pytest.mark.skipif(not missing("celltypist"), reason="celltypist is installed")
def test_missing_celltypist_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"celltypist.*pip install 'syncyte\[bench\]'"):
        CellTypist().fit(pairs(20)[0], ["a", "b"] * 10)


@pytest.mark.skipif(not missing("harmonypy"), reason="harmonypy is installed")
def test_missing_harmony_names_the_extra():
    with pytest.raises(MissingExtraError, match="harmonypy"):
        harmony_embedding(np.zeros((4, 2)), ["a", "b", "a", "b"])


def test_harmony_brings_shifted_batches_together():
    pytest.importorskip("harmonypy")
    rng = np.random.default_rng(0)
    batch = np.repeat(["a", "b"], 150)
    points = rng.normal(size=(300, 5)) + 3.0 * (batch == "b")[:, None]
    points[:, 0] += 6.0 * (np.arange(300) % 3)
    mended = harmony_embedding(points, batch)
    assert mended.shape == points.shape
    before, after = (np.linalg.norm(x[:150].mean(0) - x[150:].mean(0)) for x in (points, mended))
    assert after < 0.4 * before


def test_scvi_returns_an_embedding_and_its_epochs():
    pytest.importorskip("scvi")
    genes, _ = pairs()
    found = scvi_embedding(genes, np.arange(160) % 2, epochs=2)
    assert found.embedding.shape[0] == 160 and np.isfinite(found.embedding).all()
    assert found.epochs == 2


@pytest.mark.parametrize("target", ["open", "values"])
def test_multivi_translates_without_seeing_the_target(target):
    pytest.importorskip("scvi")
    genes, regions = pairs()
    source, other = (genes, regions) if target == "open" else (regions, genes)
    model = MultiVI(target, epochs=3).fit(source[:120], other[:120])
    assert 1 <= model.epochs <= 3
    found = model.predict(source[120:])
    assert found.shape == (40, other.shape[1])
    block = found(np.arange(0, other.shape[1], 2))
    assert block.shape == (40, other.shape[1] // 2) and np.isfinite(block).all() and (block >= 0).all()
    if target == "open":
        assert (block < 1).all()
        assert 0.3 < found(np.arange(60)).sum() / other[120:].sum() < 3


@pytest.mark.parametrize(("package", "peer"), [("scvi", lambda: ScAnvi(epochs=30)), ("celltypist", CellTypist)])
def test_peers_type_new_cells(package, peer):
    pytest.importorskip(package)
    genes, _ = pairs(200)
    labels = np.where((genes[:, ::2].sum(axis=1) > genes[:, 1::2].sum(axis=1)).A1, "even", "odd")
    model = peer().fit(genes[:150], labels[:150])
    chance = model.predict(genes[150:])
    assert chance.shape == (50, 2)
    np.testing.assert_allclose(chance.sum(axis=1), 1, atol=1e-4)
    assert (np.asarray(model.classes)[chance.argmax(axis=1)] == labels[150:]).mean() > 0.9
