"""The leak test: a prediction is the same, bit for bit, whatever the data hold of the modality it predicts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mudata import MuData
from tests.tiny import cells_of

import syncyte
from syncyte.models.cell import without

DIRECTIONS = [("rna", "atac"), ("atac", "rna")]


def replaced(data: MuData, target: str, counts: np.ndarray | sp.csr_matrix) -> MuData:
    """The same cells with other counts of one modality."""
    changed = data[target].copy()
    changed.X = sp.csr_matrix(counts).astype(np.int32)
    mods = {name: (changed if name == target else data[name].copy()) for name in data.mod}
    return MuData(mods)


def versions(data: MuData, target: str) -> dict[str, MuData]:
    """Noise of the same size, much deeper, shallower, one feature for all, other cells', nothing at all, absent."""
    rng = np.random.default_rng(0)
    shape = data[target].shape
    one = np.zeros(shape)
    one[:, 0] = 1
    lone = np.zeros(shape)
    lone[0, :] = 99
    return {
        "noise": replaced(data, target, rng.poisson(1.0, shape)),
        "deep": replaced(data, target, rng.poisson(40.0, shape)),
        "shallow": replaced(data, target, rng.random(shape) < 0.02),
        "one feature": replaced(data, target, one),
        "one cell": replaced(data, target, lone),
        "other cells": replaced(data, target, data[target].X[rng.permutation(shape[0])]),
        "absent": MuData({name: data[name].copy() for name in data.mod if name != target}),
    }


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_translate_never_sees_its_target(tiny_run, tiny_data, source, target):
    layer = f"syncyte_from_{source}"
    truth = syncyte.translate(tiny_run, tiny_data, source=source, target=target).layers[layer].values
    for name, data in versions(tiny_data, target).items():
        got = syncyte.translate(tiny_run, data, source=source, target=target).layers[layer].values
        np.testing.assert_array_equal(got, truth, err_msg=name)
    shuffled = replaced(tiny_data, source, tiny_data[source].X[::-1])
    other = syncyte.translate(tiny_run, shuffled, source=source, target=target).layers[layer].values
    assert not np.array_equal(other, truth)  # the source does matter


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_a_hidden_modality_never_reaches_the_model(tiny_run, tiny_data, source, target):
    """Straight through the model: its tokens, their number and the depth are in the minibatch and leave no trace."""

    @torch.no_grad()
    def through(data) -> list[torch.Tensor]:
        cells = tiny_run.align(cells_of(data))
        out = []
        for batch in tiny_run.batches(cells, 100):
            encoded = tiny_run.model.encode(batch.tokens, without(batch, target))
            out += [encoded.latent, encoded.base, encoded.states[:, 0], tiny_run.model.predict(encoded, target)]
        return out

    truth = through(tiny_data)
    for name, data in versions(tiny_data, target).items():
        for one, other in zip(truth, through(data), strict=True):
            assert torch.equal(one, other), name


def test_the_model_does_read_both_where_both_are_shown(tiny_run, tiny_data):
    """The counterpart: the same noise does change an embedding, so the tests above can fail."""
    truth = syncyte.embed(tiny_run, tiny_data).obsm["X_syncyte"]
    for target in ("rna", "atac"):
        noise = versions(tiny_data, target)["noise"]
        assert not np.allclose(syncyte.embed(tiny_run, noise).obsm["X_syncyte"], truth, atol=1e-3)
