"""Peers of open regions as rows: fitted on the reference, or on the scored cells with their batches; else a note."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from tests.tasks.test_compare_depth import MOD, PAIRED, cells

from syncyte.baselines.deep_atac import PeakVi, PoissonVi
from syncyte.errors import MissingExtraError
from syncyte.tasks import compare_embed
from syncyte.tasks.compare_embed import fitted_peers, integrating_peers


class QuickPeak(PeakVi):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(2, seed=seed)


class QuickPoisson(PoissonVi):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(2, seed=seed)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(compare_embed, "PEERS", {"pearson": (), "depth": (QuickPeak, QuickPoisson)})


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def test_a_missing_package_is_a_note(quick):
    notes: list[str] = []
    found = fitted_peers(cells(slice(0, 140)), [MOD], 0, lambda text: None, notes)
    assert len([name for name in found if "VI" in name]) == (2 if installed("scvi") else 0)
    assert any("SnapATAC2" in name for name in found) == installed("snapatac2")
    told = " ".join(notes)
    assert ("PeakVI is left out" in told) != installed("scvi")
    assert ("SnapATAC2 is left out" in told) != installed("snapatac2")


def test_peers_embed_held_out_cells(quick):
    pytest.importorskip("scvi")
    notes: list[str] = []
    found = fitted_peers(cells(slice(0, 140)), [MOD], 0, lambda text: None, notes)
    held = cells(slice(140, 240))
    for how in found.values():
        points = how.embed(held)
        assert len(points) == 100 and np.isfinite(points).all() and how.reads == [MOD]
    assert f"PeakVI ({MOD}): 2 epochs." in notes


def test_peers_integrate_with_the_batch(quick):
    batches = np.where(np.arange(240) % 2 == 0, "first", "second")
    methods = integrating_peers(PAIRED.regions, "depth", batches, 0)
    assert list(methods) == ["PeakVI", "PoissonVI", "SnapATAC2"]
    for name, fit in methods.items():
        if installed("snapatac2" if name == "SnapATAC2" else "scvi"):
            points, epochs = fit()
            assert len(points) == 240 and np.isfinite(points).all() and epochs == (0 if name == "SnapATAC2" else 2)
        else:
            with pytest.raises(MissingExtraError, match="syncyte\\[bench\\]"):
                fit()
    assert list(integrating_peers(PAIRED.genes, "pearson", batches, 0)) == ["scVI"]
