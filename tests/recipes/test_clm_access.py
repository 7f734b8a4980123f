"""CLM-Access from cells to a run: regions by sample, RNA beside or not, tables that learn, resumption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import cells_of, train_tiny, world

import syncyte
from syncyte.errors import ConfigError
from syncyte.nn.region_head import Rates, RegionHead
from syncyte.recipes.base import _within
from syncyte.recipes.train import configure
from syncyte.tasks.trained import load_trained


@pytest.fixture(scope="module")
def data():
    return world(240)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("access") / "RUN")


def train(data, out, **options):
    chosen = {"preset": "tiny", "batch_key": "batch", "device": "cpu", "quiet": True, **options}
    return syncyte.train("clm_access", data, out=out, **chosen)


def test_a_run_translates_embeds_and_annotates(run, data):
    facts = run.recipe
    assert [stage["name"] for stage in facts["training"]["stages"]] == ["atac", "rna", "both"]
    assert isinstance(run.model.heads["atac"], RegionHead) and run.model.heads["atac"].rows is None
    assert syncyte.embed(run, data).obsm["X_syncyte"].shape == (240, 6)
    opened = syncyte.translate(run, data, source="rna", target="atac").layers["syncyte_from_rna"].values
    assert opened.shape == (240, 300) and (opened >= 0).all() and (opened <= 1).all()
    counts = data["atac"].X
    depth, expected = np.asarray((counts > 0).sum(axis=1)).ravel(), opened.sum(axis=1)
    assert np.corrcoef(depth, expected)[0, 1] > 0.2 and 0.8 < expected.mean() / depth.mean() < 1.25
    labels = syncyte.annotate(run, data, reference=data, label_key="cell_type").obs["syncyte_cell_type"]
    assert (np.asarray(labels) == data.obs["cell_type"].astype(str).to_numpy()).mean() > 0.8


def test_atac_alone_is_enough(data, tmp_path):
    alone = train(data["atac"].copy(), tmp_path / "RUN", modality="atac", batch_key=None)
    assert alone.modalities == ("atac",) and [s["name"] for s in alone.recipe["training"]["stages"]] == ["atac"]
    assert syncyte.embed(alone, data).obsm["X_syncyte"].shape == (240, 6)


@pytest.mark.slow
def test_cells_without_a_technical_batch_are_counted(data, tmp_path):
    cells = data["atac"].copy()
    cells.obs["lane"] = data.obs["batch"].astype(object).where(np.arange(len(cells.obs)) % 6 > 0, None).values
    run = train(cells, tmp_path / "RUN", modality="atac", batch_key="lane")
    missing = int(cells.obs["lane"].isna().sum())
    assert any(note.startswith(f"{missing:,} of {len(cells):,} cells have no 'lane'") for note in run.recipe["notes"])


def test_rna_alone_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="learns from open chromatin, and the cells have rna alone"):
        train(data["rna"].copy(), tmp_path / "RUN", modality="rna", batch_key=None)
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize("settings", [["tied=false"], ["likelihood.atac=poisson"], ["likelihood.atac=bernoulli"]])
def test_other_decoders_and_likelihoods_train(settings, data, tmp_path):
    run = train(data, tmp_path / "RUN", settings=settings)
    again = load_trained(tmp_path / "RUN", "cpu")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    opened = syncyte.translate(run, data, source="rna", target="atac").layers["syncyte_from_rna"].values
    assert 0.7 < opened.sum() / (data["atac"].X > 0).sum() < 1.4


def test_a_table_that_learns_is_kept_and_resumed_alike(data, tmp_path):
    settings = ["stages.atac.lr_factors={}", "stages.rna.epochs=0", "stages.both.epochs=0", "samples.atac=64"]
    start = train(data, tmp_path / "start", settings=[*settings, "stages.atac.lr=1e-12"])
    learned = train(data, tmp_path / "RUN", settings=[*settings, "stages.atac.lr=0.01"])
    again = train(data, tmp_path / "again", settings=[*settings, "stages.atac.lr=0.01"])
    before, after = (run.model.paths["atac"].table for run in (start, learned))
    assert not torch.allclose(before, after, rtol=1e-3) and torch.isfinite(after).all()
    assert torch.equal(after, again.model.paths["atac"].table)


def test_axes_are_freed_of_depth_and_noise_counts_less(data, tmp_path):
    given = {"modality": "atac", "batch_key": None}
    free = train(data["atac"].copy(), tmp_path / "free", **given)
    plain = train(
        data["atac"].copy(), tmp_path / "plain", settings=["embedding.depth=null", "embedding.floor=false"], **given
    )
    depth = np.log(np.asarray((data["atac"].X > 0).sum(axis=1)).ravel())
    left, before = (
        np.abs([np.corrcoef(axis, depth)[0, 1] for axis in syncyte.embed(run, data).obsm["X_syncyte"].T]).max()
        for run in (free, plain)
    )
    assert left < 0.1 < before
    scales = [run.axes["embedding.scale"] for run in (free, plain)]
    assert (np.diff(scales[0]) <= 0).all() and scales[0][-1] / scales[0][0] < 0.5 * scales[1][-1] / scales[1][0]


def test_the_start_takes_cells_up_to_its_entries(data):
    cells = cells_of(data)
    assert len(_within(cells, 10**9, 0)) == len(cells)
    many = cells.take(np.tile(np.arange(len(cells)), 20))
    per_cell = sum(cells.counts(name).nnz for name in cells.modalities) / len(cells)
    assert abs(len(_within(many, int(2000 * per_cell), 0)) - 2000) < 200


def test_validation_is_on_few_cells(data, tmp_path):
    run = train(data, tmp_path / "RUN", settings=["validation_cells=5", "stages.rna.epochs=0", "stages.both.epochs=0"])
    assert run.metrics["atac_validation_best"] > 0


def test_presets_are_named():
    for preset in ("tiny", "lite", "small"):
        config = configure("clm_access", preset)
        assert config.tied and config.samples["atac"] > 0 and "regions" in config.stages["atac"].objectives


def test_the_same_seed_gives_the_same_run(run, data, tmp_path):
    again = train(data, tmp_path / "RUN")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_clm_x_is_as_it_was(data, tmp_path):
    assert not isinstance(train_tiny(data, tmp_path / "RUN").model.heads["atac"], RegionHead)


def test_top_regions_come_from_its_profile_in_blocks(run, data):
    states = torch.randn(3, run.model.components, generator=torch.Generator().manual_seed(0))
    head, path = run.model.heads["atac"], run.model.paths["atac"]
    with torch.no_grad():
        parts = [run.model.profile_logits(states, "atac", slice(i, i + 100)) for i in range(0, 300, 100)]
        whole = head.profile(Rates(states, torch.zeros(3), path.table))
    torch.testing.assert_close(torch.cat(parts, dim=1).softmax(dim=1), whole, rtol=1e-4, atol=1e-7)
    table = syncyte.top_regions(run, data, label_key="cell_type", top=5).table()
    assert table["open_in"].mean() > 1.5 * table["open_out"].mean()
