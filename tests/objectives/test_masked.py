"""Masked objectives: what is hidden is never seen, and every cell teaches what it can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.test_cell import built
from tests.tiny import batch_of, linear_start, world

from syncyte.models.cell import everything
from syncyte.objectives.masked import Augmented, MaskedShare, MaskedWhole, augment, objectives
from syncyte.types import Batch, Tokens, Visible

PLAIN = Augmented({}, {})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def case():
    data = world(60)
    start, counts = linear_start(data, mode="cross")
    model, batch, tokenizers = built(start, counts, data)
    with torch.no_grad():  # a residual that does something
        for parameter in (model.out.weight, model.residual[-1].weight):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng(5)))
    return model, batch, tokenizers, counts


def replaced(tokens: Tokens, value: torch.Tensor) -> Tokens:
    return Tokens(tokens.feature, value, tokens.cell, tokens.token, tokens.ids, tokens.valid)


def test_registered():
    assert set(objectives) == {"masked_share", "masked_whole"}


def test_augmentation_drops_and_thins(case):
    tokens = case[1].tokens["rna"]
    assert augment(tokens, rng(), 0.0, 0.0) is tokens
    thinned = augment(tokens, rng(), 0.0, 0.5).value
    assert (thinned <= tokens.value).all() and (thinned == thinned.round()).all()
    assert 0.6 < (thinned.sum() / tokens.value.sum()).item() < 0.9
    dropped = augment(tokens, rng(), 0.4, 0.0).value
    kept = dropped > 0
    assert torch.equal(dropped[kept], tokens.value[kept]) and 0.7 < kept.float().mean() < 0.9
    assert torch.equal(augment(tokens, rng(3), 0.4, 0.5).value, augment(tokens, rng(3), 0.4, 0.5).value)
    batch = case[1]
    same = Augmented({"rna": 0.5}, {})(batch, rng(), False)
    assert same is batch.tokens
    assert torch.equal(Augmented({"rna": 0.5}, {})(batch, rng(), True)["atac"].value, batch.tokens["atac"].value)


def test_dropped_entries_equal_absent_ones(case):
    """An entry of value 0 is as if it had never been there, in the linear path and in the transformer."""
    model, batch, tokenizers, counts = case
    value = batch.tokens["rna"].value.clone()
    value[::3] = 0
    thin = counts["rna"].copy()
    thin.data[::3] = 0
    thin.eliminate_zeros()
    with torch.no_grad():
        one = model.encode({**batch.tokens, "rna": replaced(batch.tokens["rna"], value)}, everything(batch))
        fresh = batch_of(tokenizers, {**counts, "rna": thin})
        two = model.encode(fresh.tokens, everything(fresh))
    few = np.diff(counts["rna"].indptr) <= tokenizers["rna"].layout.most  # others may keep other tokens
    torch.testing.assert_close(one.base, two.base, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.latent[few], two.latent[few], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["rna", "atac"])
def test_hidden_values_do_not_change_the_prediction(case, name):
    model, batch, _, _ = case
    tokens = batch.tokens[name]
    width = model.paths[name].table.shape[0]
    shown = torch.rand(len(batch), width, generator=rng()) > 0.4
    hidden = ~shown[tokens.cell, tokens.feature]
    noisy = replaced(tokens, torch.where(hidden, torch.randint(1, 99, tokens.value.shape).float(), tokens.value))
    gone = replaced(tokens, tokens.value.masked_fill(hidden, 0))
    visible = {**everything(batch), name: Visible(batch.present[name], shown)}
    with torch.no_grad():
        outs = [model.encode({**batch.tokens, name: given}, visible) for given in (tokens, noisy, gone)]
        for target in model.names:
            first, *others = (model.predict(out, target) for out in outs)
            assert all(torch.equal(first, other) for other in others)
        assert not torch.equal(outs[0].latent, model.encode(batch.tokens, everything(batch)).latent)


def test_share_scores_hidden_features_of_the_cells_that_have_them(case):
    model, batch, _, _ = case
    present = {**batch.present, "rna": torch.arange(len(batch)) < 40}
    batch = Batch(batch.tokens, present, batch.covariates, batch.rows)
    objective = MaskedShare("rna", ratio=0.25, alone=1.0, augmented=PLAIN)
    model.eval()
    loss = objective(model, batch, rng())
    assert set(loss.parts) == set(loss.counts) == {"share_rna_mse"}
    width = model.paths["rna"].table.shape[0]
    hidden = torch.rand(len(batch), width, generator=rng()) < 0.25
    assert loss.counts["share_rna_mse"] == hidden[:40].sum()
    visible = {"rna": Visible(present["rna"], ~hidden), "atac": Visible(torch.zeros(len(batch), dtype=torch.bool))}
    predicted = model.decode(model.encode(batch.tokens, visible), "rna", gated=False)
    dense = torch.zeros(len(batch), width)
    tokens = batch.tokens["rna"]
    dense[tokens.cell, tokens.feature] = tokens.value
    target = torch.log1p(dense * 1e4 / dense.sum(dim=1, keepdim=True))
    error = ((predicted - target)[:40][hidden[:40]] ** 2).mean()
    torch.testing.assert_close(loss.total, error)


def test_whole_hides_the_target_and_skips_unpaired_cells(case):
    model, batch, _, _ = case
    objective = MaskedWhole(("rna", "atac"), augmented=PLAIN)
    present = {"rna": torch.arange(len(batch)) < 40, "atac": torch.arange(len(batch)) >= 20}
    model.eval()
    before = objective(model, Batch(batch.tokens, present, batch.covariates, batch.rows), rng())
    assert set(before.parts) == {"to_rna_mse", "to_atac_profile", "to_atac_level"}
    assert before.counts["to_rna_mse"] == 20 * model.paths["rna"].table.shape[0]
    unpaired = ~(present["rna"] & present["atac"])
    noisy = {
        name: replaced(tokens, torch.where(unpaired[tokens.cell], tokens.value + 7, tokens.value))
        for name, tokens in batch.tokens.items()
    }
    after = objective(model, Batch(noisy, present, batch.covariates, batch.rows), rng())
    assert torch.equal(before.total, after.total)


def test_whole_draws_a_direction_for_each_cell_in_training(case):
    model, batch, _, _ = case
    objective = MaskedWhole(("rna", "atac"), augmented=PLAIN)
    model.train()
    loss = objective(model, batch, rng())
    model.eval()
    cells = loss.counts["to_rna_mse"] / model.paths["rna"].table.shape[0]
    draw = torch.randint(2, (len(batch),), generator=rng())
    assert cells == (draw == 0).sum() and loss.counts["to_atac_level"] == (draw == 1).sum()


def test_whole_of_cells_without_pairs_is_zero_with_a_gradient(case):
    model, batch, _, _ = case
    alone = {"rna": torch.ones(len(batch), dtype=torch.bool), "atac": torch.zeros(len(batch), dtype=torch.bool)}
    model.train()
    loss = MaskedWhole(("rna", "atac"), augmented=PLAIN)(
        model, Batch(batch.tokens, alone, batch.covariates, batch.rows), rng()
    )
    model.eval()
    assert loss.total == 0 and loss.parts == {} and loss.total.requires_grad


@pytest.mark.parametrize("name", ["rna", "atac"])
def test_unpaired_cells_teach(name):
    data = world(60)
    start, counts = linear_start(data, mode="cross")
    model, _, tokenizers = built(start, counts, data, layers=2)
    with torch.no_grad():
        model.out.weight.copy_(torch.randn(model.out.weight.shape, generator=rng()))
    alone = batch_of(tokenizers, {name: counts[name]})
    model.train().zero_grad()
    loss = MaskedShare(name, ratio=0.3, alone=0.5, augmented=PLAIN)(model, alone, rng())
    loss.total.backward()
    grads = {part: value.grad for part, value in model.named_parameters() if value.grad is not None}
    reached = {part for part, grad in grads.items() if grad.abs().sum() > 0}
    assert {"out.weight", f"mixes.{name}", f"paths.{name}.table", f"heads.{name}.weight"} <= reached
    assert any(part.startswith("backbone.blocks.0.attention") for part in reached)
    assert any(part.startswith(f"backbone.blocks.0.experts.{name}") for part in reached)
    other = {"rna": "atac", "atac": "rna"}[name]
    assert not any(part.startswith((f"heads.{other}", f"backbone.blocks.0.experts.{other}")) for part in reached)


def test_randomness_lives_where_the_generator_does(case, monkeypatch):
    """A generator of an accelerator refuses to draw into CPU tensors: every draw names the generator's device."""
    model, batch, _, _ = case
    places = []
    for draw in ("rand", "randint"):
        real = getattr(torch, draw)

        def spy(*arguments, real=real, **keywords):
            if "generator" in keywords:
                places.append(keywords.get("device"))
            return real(*arguments, **keywords)

        monkeypatch.setattr(torch, draw, spy)
    loud = Augmented({"rna": 0.2}, {"rna": 0.2})
    model.train()
    MaskedShare("rna", ratio=0.3, alone=0.5, augmented=loud)(model, batch, rng())
    MaskedWhole(("rna", "atac"), augmented=loud)(model, batch, rng())
    model.eval()
    assert places and all(place == torch.device("cpu") for place in places)
