from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.examples import small_cells

from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.errors import DataError
from syncyte.metrics.embedding import silhouette_label
from syncyte.modalities import all_schemas
from syncyte.objectives.adversary import BatchAdversary, reverse
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.integrate import SLOT, batch_mixing, encoder_views, integrate_cells, technical_groups
from syncyte.tasks.mixture import correct_mixture
from syncyte.tasks.recode import recode
from syncyte.tasks.trained import Trained, load_trained


@pytest.fixture(scope="module")
def cells() -> Cells:
    return open_cells(small_cells(240, seed=3, batch_effect=2.0), schemas=all_schemas())


@pytest.fixture(scope="module")
def trained(cells: Cells, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run: Path = tmp_path_factory.mktemp("integrate") / "run"
    sets = ["sizes.layers=0", "stages.rna.epochs=0", "stages.atac.epochs=0"]
    train_recipe(configure("clm_x", "tiny", sets), cells, run, batch_key="batch", quiet=True)
    return load_trained(run, "cpu")


def shifted(rng: np.random.Generator, n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three types, two batches with a shift of their own in each type, and types in unequal shares."""
    codes = rng.integers(0, 2, n)
    kinds = np.where(codes == 0, rng.choice(3, n, p=[0.6, 0.3, 0.1]), rng.choice(3, n, p=[0.2, 0.3, 0.5]))
    centers = np.eye(3) @ np.eye(3, 8) * 6
    shifts = rng.normal(0, 0.8, (3, 8))
    return centers[kinds] + codes[:, None] * shifts[kinds] + rng.normal(0, 0.5, (n, 8)), codes, kinds


def test_the_mixture_takes_out_shifts_and_keeps_types() -> None:
    points, codes, kinds = shifted(np.random.default_rng(0))
    corrected = correct_mixture(points, codes, seed=1)
    assert batch_mixing(points, codes) < 0.3
    assert batch_mixing(corrected.points, codes) > 0.5
    assert silhouette_label(corrected.points, kinds) > silhouette_label(points, kinds)
    np.testing.assert_allclose(corrected.members.sum(axis=1), 1, atol=1e-5)
    again = correct_mixture(points, codes, seed=1)
    np.testing.assert_array_equal(corrected.points, again.points)


def test_the_mixture_leaves_unknown_batches_and_single_batches() -> None:
    points, codes, _ = shifted(np.random.default_rng(0), 300)
    some = codes.copy()
    some[:50] = -1
    corrected = correct_mixture(points, some, seed=0)
    np.testing.assert_allclose(corrected.points[:50], points[:50], atol=1e-5)
    assert np.abs(corrected.points[50:] - points[50:]).max() > 0.1
    single = correct_mixture(points, np.zeros(300, dtype=np.int64))
    np.testing.assert_array_equal(single.points, points.astype(np.float32))
    assert single.rounds == 0


@pytest.mark.parametrize("kept", [("rna",), ("atac",), ("rna", "atac")])
def test_any_modality_is_integrated(trained: Trained, cells: Cells, kept: tuple[str, ...]) -> None:
    some = cells.only(kept)
    result = integrate_cells(trained, some, batch_key="batch", decoder=True)
    points = result.obsm[SLOT]
    assert points.shape == (len(cells), 16) and points.dtype == np.float32 and np.isfinite(points).all()
    assert list(result.cells) == list(cells.names)
    assert result.metrics["mixing_after"] > result.metrics["mixing_before"]
    done = result.provenance["integrate"]
    assert done["groups"] == 2 and done["decoder"]["steps"] > 0 and "adversary" not in done["decoder"]
    again = integrate_cells(trained, some, batch_key="batch", decoder=True)
    np.testing.assert_array_equal(points, again.obsm[SLOT])


def test_labels_are_not_read(trained: Trained, cells: Cells) -> None:
    bare = replace(cells, obs=cells.obs[["batch"]])
    with_labels = integrate_cells(trained, cells, batch_key="batch").obsm[SLOT]
    np.testing.assert_array_equal(with_labels, integrate_cells(trained, bare, batch_key="batch").obsm[SLOT])


def test_few_cells_go_without_a_decoder(trained: Trained, cells: Cells) -> None:
    result = integrate_cells(trained, cells, batch_key="batch")
    assert "decoder" not in result.provenance["integrate"]
    assert any("without a decoder" in note for note in result.provenance["integrate"]["notes"])


def test_one_batch_gives_the_embedding_and_says_so(trained: Trained, cells: Cells) -> None:
    from syncyte.tasks.embed import embed_cells

    one = cells.take(cells.obs["batch"].to_numpy() == cells.obs["batch"].iloc[0])
    result = integrate_cells(trained, one, batch_key="batch", decoder=True)
    np.testing.assert_array_equal(result.obsm[SLOT], embed_cells(trained, one).obsm["X_syncyte"])
    assert "nothing to mix" in result.provenance["integrate"]["notes"][0]
    assert result.metrics == {"mixing_before": None, "mixing_after": None}


def test_cells_of_unknown_batch_are_kept(trained: Trained, cells: Cells) -> None:
    obs = cells.obs.copy()
    obs["lane"] = obs["batch"].astype(object)
    obs.iloc[:20, obs.columns.get_loc("lane")] = np.nan
    result = integrate_cells(trained, replace(cells, obs=obs), batch_key="lane", decoder=True)
    assert np.isfinite(result.obsm[SLOT]).all()
    assert "20 cells have no 'lane'" in result.provenance["integrate"]["notes"][0]


def test_mosaic_cells_count_what_was_measured_as_part_of_the_batch(trained: Trained, cells: Cells) -> None:
    rna, atac = (cells.parts[name] for name in ("rna", "atac"))
    index_rna, index_atac = rna.index.copy(), atac.index.copy()
    index_rna[:80] = -1
    index_atac[160:] = -1
    mosaic = replace(cells, parts={"rna": replace(rna, index=index_rna), "atac": replace(atac, index=index_atac)})
    codes, names = pd.factorize(mosaic.obs["batch"].astype(str), sort=True)
    codes[0] = -1
    groups, notes = technical_groups(trained, mosaic, codes.astype(np.int64), names, "batch")
    assert groups[0] == -1 and groups.max() == 5 and len(notes) == 2
    views = encoder_views(trained, trained.align(mosaic))
    assert views.shape[:2] == (3, 240)
    assert views[0].isfinite().all() and views[1, :80].isnan().all() and views[2, 160:].isnan().all()
    torch.testing.assert_close(views[1, 160:], views[0, 160:])
    result = integrate_cells(trained, mosaic, batch_key="batch", decoder=True)
    assert np.isfinite(result.obsm[SLOT]).all()


def test_the_adversary_is_in_the_loss(trained: Trained, cells: Cells) -> None:
    codes = pd.factorize(cells.obs["batch"], sort=True)[0].astype(np.int64)
    views = encoder_views(trained, trained.align(cells))
    given = (trained.align(cells), views, codes, frozenset({"rna"}), torch.device("cpu"))
    without = recode(*given, epochs=4)
    against = recode(*given, epochs=4, adversary=5.0)
    assert against.facts["adversary"] > 0
    assert np.abs(against.code - without.code).max() > 1e-3


def test_reversal_turns_the_gradient() -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    (reverse(values, 0.5) * torch.tensor([3.0, 4.0])).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([-1.5, -2.0]))
    code = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    judge = BatchAdversary(4, 2)
    judge(code, torch.tensor([0, 1, -1, 0, 1, -1]), 1.0).backward()
    assert code.grad is not None and (code.grad[[2, 5]] == 0).all() and (code.grad[[0, 1]] != 0).any()
    assert judge(code, torch.full((6,), -1), 1.0).item() == 0


def test_an_unknown_batch_column_is_named(trained: Trained, cells: Cells) -> None:
    with pytest.raises(DataError, match="batch"):
        integrate_cells(trained, cells, batch_key="batc")
