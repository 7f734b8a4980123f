from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from syncyte.baselines.deep_atac import PeakVi, PoissonVi, ends_counted, snapatac_embedding
from syncyte.errors import MissingExtraError


def regions(cells: int = 160) -> tuple[sp.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, cells)
    rate = np.where(np.arange(60) % 2 == kind[:, None], 0.8, 0.08)
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32)), kind


def missing(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return True
    return False


@pytest.mark.skipif(not missing("scvi"), reason="scvi-tools is installed")
@pytest.mark.parametrize("peer", [PeakVi, PoissonVi])
def test_missing_scvi_names_the_extra(peer):
    with pytest.raises(MissingExtraError, match=rf"{peer.words}.*scvi-tools.*pip install 'syncyte\[bench\]'"):
        peer().fit(regions(20)[0])


@pytest.mark.skipif(not missing("snapatac2"), reason="snapatac2 is installed")
def test_missing_snapatac_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"SnapATAC2.*pip install 'syncyte\[bench\]'"):
        snapatac_embedding(regions(20)[0])


def test_ends_of_fragments_are_told_from_fragments():
    fragments, _ = regions()
    assert not ends_counted(fragments)
    ends = fragments * 2
    assert ends_counted(ends)
    model = PoissonVi()
    model.halved = True
    assert np.array_equal(model._values(ends).toarray(), fragments.toarray())
    assert PeakVi()._values(ends).max() == 1


@pytest.mark.parametrize("peer", [PeakVi, PoissonVi])
def test_peers_embed_new_cells_and_count_their_epochs(peer):
    pytest.importorskip("scvi")
    counts, _ = regions()
    model = peer(epochs=2, early_stopping=False).fit(counts[:120])
    found = model.transform(counts[120:])
    assert model.epochs == 2 and len(found) == 40 and found.dtype == np.float32 and np.isfinite(found).all()
    batches = np.arange(120) % 2
    mixed = peer(epochs=3).fit(counts[:120], batches)
    assert 1 <= mixed.epochs <= 3 and len(mixed.transform(counts[:120], batches)) == 120


def test_snapatac_embeds_and_bears_empty_cells():
    pytest.importorskip("snapatac2")
    counts, kind = regions()
    counts = sp.vstack([counts, sp.csr_matrix((1, 60), dtype=np.float32)], format="csr")
    found = snapatac_embedding(counts, 5)
    assert found.shape == (161, 5) and np.isfinite(found).all() and (found[-1] == 0).all()
    apart = [abs(found[:160][kind == 0, axis].mean() - found[:160][kind == 1, axis].mean()) for axis in range(2)]
    assert max(apart) > 3 * found[:160, apart.index(max(apart))].std() / np.sqrt(160)
