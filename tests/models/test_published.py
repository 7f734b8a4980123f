"""The published layout: its size, its slots, no region lost, nothing hidden seen; and the preset that trains it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.nn.test_region_head import model_of
from tests.recipes.test_clm_access import train
from tests.tiny import world

import syncyte
from syncyte.errors import ConfigError
from syncyte.modalities.atac import patch_regions
from syncyte.models.published import EMPTY, PublishedPatches, PublishedSizes
from syncyte.recipes.train import configure

SMALL = ["sizes.width=16", "sizes.layers=1", "sizes.heads=2", "groups.atac=12", "slots.atac=40", "tokens.atac=12",
         "stages.atac.epochs=1", "stages.atac.batch_size=32", "stages.atac.lr=0.003", "stages.atac.warmup_steps=2",
         "start.private=6"]  # fmt: skip


def network(patches: int = 6, slots: int = 60, features: int = 300, **sizes) -> PublishedPatches:
    token_of = torch.from_numpy(patch_regions(np.zeros(features, dtype=np.int64), np.arange(features), patches))
    slot_of = torch.cat([torch.arange(int(n)) for n in torch.bincount(token_of)])
    return PublishedPatches(PublishedSizes(patches, slots, **sizes), token_of, slot_of, components=4)


def test_it_has_the_published_size():
    token_of = torch.arange(1998 * 2) // 2
    built = PublishedPatches(PublishedSizes(1998), token_of, torch.arange(1998 * 2) % 2)
    count = sum(parameter.numel() for parameter in built.parameters())
    assert count == pytest.approx(4.18e6, rel=0.02)  # what the released configuration counts to


def test_every_region_has_its_slot():
    _, batch, _, counts = model_of(tied=True, samples=64)
    built = network(width=8, layers=1, heads=2)
    values = built.dense(batch.tokens["atac"], len(batch))
    assert (values > 0).flatten(1).sum(dim=1).tolist() == np.diff(counts.indptr).tolist()
    assert (values == EMPTY).sum() == len(batch) * (6 * 60 - 300)


def test_nothing_of_hidden_patches_is_seen_and_the_rest_is():
    built = network(width=8, layers=1, heads=2).eval()
    values = torch.where(built.real, torch.randint(0, 2, (5, 6, 60)).float(), EMPTY)
    hidden = torch.tensor([True, False, False, False, True, False])
    other = values.clone()
    other[:, hidden] = 1 - other[:, hidden]
    with torch.no_grad():
        assert torch.equal(built(values, hidden), built(other, hidden))
        other[:, 1] = 1 - other[:, 1]
        assert not torch.allclose(built(values, hidden), built(other, hidden))
        total, count = built.loss(values, hidden)
    assert total > 0 and count == 5 * 100


def test_the_preset_trains_embeds_and_annotates(tmp_path):
    data = world(200)
    run = train(data["atac"].copy(), tmp_path / "RUN", preset="paper", settings=SMALL, modality="atac", batch_key=None)
    embedded = syncyte.embed(run, data).obsm["X_syncyte"]
    assert embedded.shape == (200, 6) and np.isfinite(embedded).all()
    assert embedded[:, 0].std() == pytest.approx(1, abs=0.3) and (np.diff(embedded.std(axis=0)) < 0.1).all()
    labels = syncyte.annotate(run, data, reference=data, label_key="cell_type").obs["syncyte_cell_type"]
    assert len(np.unique(labels)) > 1
    again = syncyte.embed(tmp_path / "RUN", data).obsm["X_syncyte"]
    np.testing.assert_allclose(again, embedded, atol=1e-5)


def test_the_preset_refuses_rna(tmp_path):
    with pytest.raises(ConfigError, match="reads ATAC alone; the cells have rna and atac"):
        train(world(100), tmp_path / "RUN", preset="paper", settings=SMALL)


def test_the_preset_has_the_published_numbers():
    config = configure("clm_access", "paper")
    assert (config.groups["atac"], config.slots["atac"], config.masking.ratio["atac"]) == (1998, 600, 0.15)
    assert config.stages["atac"].batch_size == 8 and list(config.stages) == ["atac"]
