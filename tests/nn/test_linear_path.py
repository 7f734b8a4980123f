"""The linear path in torch equals the linear start in numpy, and hidden features leave no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import linear_start, seen, tensors, world

from syncyte.baselines.closed_form import level_features as numpy_features
from syncyte.baselines.prediction import log_values as numpy_values
from syncyte.modalities import Layout, Tokenizer
from syncyte.nn.heads import level_features, level_width, log_values
from syncyte.nn.linear_path import LinearPath
from syncyte.types import Visible


def path_of(encoder) -> LinearPath:
    residual = encoder.residual
    arrays = {"share": residual.share, "nodes": residual.nodes, "zero": residual.zero, "center": encoder.center}
    given = {name: torch.from_numpy(value) for name, value in arrays.items()}
    path = LinearPath(pearson=residual.kind == "pearson", table=torch.from_numpy(encoder.table), **given)
    path.scale.copy_(torch.from_numpy(residual.scale))
    return path


@pytest.fixture(scope="module", params=["rna", "atac"])
def case(request):
    start, counts = linear_start(world(60))
    encoder, block = start.encoders[request.param], counts[request.param]
    block = block.copy()
    block.data[: block.indptr[1]] = 0  # a cell without counts
    block.eliminate_zeros()
    width = block.shape[1]
    tokenizer = Tokenizer(Layout(np.arange(width), width, width), encoder.residual.share.astype(np.float32))
    return encoder, block, tensors(tokenizer, block), path_of(encoder)


def test_latents_and_amounts_equal_numpy(case):
    encoder, block, tokens, path = case
    latent, amounts, weight, flags = path(tokens, seen(block.shape[0]))
    np.testing.assert_allclose(latent.detach(), encoder.latents(block), atol=2e-4)
    assert path.components == encoder.table.shape[1] and flags.all() and len(weight) == block.nnz
    depth = encoder.residual.depth(block)
    np.testing.assert_allclose(amounts[:, 0], depth, rtol=1e-6)
    other = np.diff(block.indptr) if path.pearson else np.asarray(block.sum(axis=1)).ravel()
    np.testing.assert_allclose(amounts[:, 1], other, rtol=1e-6)


def test_without_gradients_the_kept_projection_gives_the_same(case):
    _, block, tokens, path = case
    whole, _, _, _ = path(tokens, seen(block.shape[0]))
    with torch.no_grad():
        first, _, _, _ = path(tokens, seen(block.shape[0]))
        path.table.mul_(2)
        doubled, _, _, _ = path(tokens, seen(block.shape[0]))
        path.table.mul_(0.5)
        back, _, _, _ = path(tokens, seen(block.shape[0]))
    assert torch.equal(first, whole) and torch.equal(back, first)
    assert not torch.allclose(doubled, first)


def test_hidden_features_leave_the_formula_on_the_others(case):
    """Depth is what the visible counts say over the visible share; hidden columns enter nothing else."""
    encoder, block, tokens, path = case
    size, width = block.shape
    visible = torch.rand(size, width, generator=torch.Generator().manual_seed(0)) > 0.3
    latent, amounts, weight, flags = path(tokens, seen(size, visible))
    kept = visible.numpy().astype(float)
    x = block.toarray().astype(float) * kept
    x = x if path.pearson else (x > 0).astype(float)
    depth = x.sum(axis=1)
    full = depth / (kept @ encoder.residual.share)
    rows = encoder.residual.coordinates(full) @ encoder.residual.zero.astype(float)
    exact = np.stack([encoder.residual._value(x[i], np.full(width, full[i]), np.arange(width)) for i in range(size)])
    rows = np.where(x > 0, exact, rows)
    raw = ((rows - encoder.center) * kept) @ encoder.table
    np.testing.assert_allclose(latent.detach(), 3 * np.tanh(raw / 3), atol=5e-4)
    np.testing.assert_allclose(amounts[:, 0], depth, rtol=1e-6)
    assert torch.equal(flags, visible[tokens.cell, tokens.feature])
    assert (weight[~flags] == 0).all()


def test_hidden_values_leave_no_trace(case):
    _, block, tokens, path = case
    visible = torch.rand(block.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    hidden = ~visible[tokens.cell, tokens.feature]
    noisy = tokens.value + hidden * torch.randint(1, 50, tokens.value.shape).float()
    other = type(tokens)(tokens.feature, noisy, tokens.cell, tokens.token, tokens.ids, tokens.valid)
    for one, two in zip(
        path(tokens, seen(block.shape[0], visible)), path(other, seen(block.shape[0], visible)), strict=True
    ):
        assert torch.equal(one, two)


def test_a_modality_not_seen_gives_zeros(case):
    _, block, tokens, path = case
    flags = torch.arange(block.shape[0]) % 2 == 0
    latent, amounts, weight, used = path(tokens, Visible(flags))
    assert (latent[~flags] == 0).all() and (amounts[~flags] == 0).all()
    assert (weight[~flags[tokens.cell]] == 0).all() and torch.equal(used, flags[tokens.cell])
    alone, _, _, _ = path(tokens, seen(block.shape[0]))
    assert torch.equal(latent[flags], alone[flags])


def test_reduced_precision_does_not_reach_the_linear_path(case):
    _, block, tokens, path = case
    with torch.no_grad():
        plain, _, _, _ = path(tokens, seen(block.shape[0]))
    visible = torch.ones(block.shape, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        reduced, _, _, _ = path(tokens, seen(block.shape[0]))
        hidden, _, _, _ = path(tokens, seen(block.shape[0], visible))
    np.testing.assert_allclose(reduced.detach(), plain, atol=1e-4)
    np.testing.assert_allclose(hidden.detach(), plain, atol=1e-3)


def test_level_features_equal_numpy_for_one_modality_and_grow_by_blocks():
    rng = torch.Generator().manual_seed(0)
    state, context = torch.randn(4, 3, generator=rng), torch.randn(4, 2, 2, generator=rng)
    one = level_features(state, context[:, :1])
    np.testing.assert_allclose(one, numpy_features(state.numpy(), context[:, 0].numpy()), rtol=1e-6)
    assert one.shape[1] == level_width(3, 1) and level_features(state, context).shape[1] == level_width(3, 2) == 19


def test_values_are_log1p_of_counts_at_a_common_total(case):
    _, block, tokens, _ = case
    dense = block.toarray()
    for per_cell, truth in ((1e4, dense * 1e4 / np.maximum(dense.sum(1, keepdims=True), 1)), (0.0, dense)):
        got = log_values(tokens, *block.shape, per_cell)
        np.testing.assert_allclose(got, np.log1p(truth), rtol=1e-5)
        np.testing.assert_allclose(got, numpy_values(block, per_cell).toarray(), rtol=1e-5)
