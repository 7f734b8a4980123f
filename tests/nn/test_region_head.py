"""The head for very many regions: exact where it can be, unbiased where it samples, and cheap by touched rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import batch_of, linear_start, seen, tensors, world

from syncyte.baselines.closed_form import fit_tie
from syncyte.modalities import Tokenizer
from syncyte.models.assemble import describe_start, empty_model, fill_from_start
from syncyte.models.cell import everything
from syncyte.nn.linear_path import TokenSums
from syncyte.nn.region_head import RegionHead
from syncyte.nn.rows import by_rows, lookup
from syncyte.objectives.masked import Augmented
from syncyte.objectives.regions import MaskedRegions, hide_regions
from syncyte.recipes.base import layouts_of
from syncyte.recipes.train import configure
from syncyte.train.optim import load_optimizer, make_optimizer, optimizer_tensors
from syncyte.train.plan import StageConfig
from syncyte.train.rows import clip_gradients
from syncyte.types import Tokens, Visible


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(*, tied: bool, samples: int, likelihood: str = "profile"):
    """ATAC model, filled from a start, and all cells as one minibatch; ``samples`` of 0 takes the dense head."""
    data = world(60)
    start, counts = linear_start(data, mode="separate")
    start.encoders.pop("rna")
    start.decoders.pop("rna")
    counts = {"atac": counts["atac"]}
    layouts = layouts_of(configure("clm_access", "tiny"), {"atac": data["atac"].var})
    spec = describe_start(start, {"atac": likelihood}, {}, {"atac": samples}, tied, hidden=8, dropout=0.0)
    model = fill_from_start(empty_model(spec, layouts), start).eval()
    tokenizer = Tokenizer(layouts["atac"], start.encoders["atac"].residual.share.astype(np.float32))
    return model, batch_of({"atac": tokenizer}, counts), tokenizer, counts["atac"]


@pytest.mark.parametrize("likelihood", ["profile", "bernoulli"])
def test_free_rows_give_the_loss_and_the_probabilities_of_the_dense_head(likelihood):
    dense, batch, _, _ = model_of(tied=False, samples=0, likelihood=likelihood)
    model, _, _, _ = model_of(tied=False, samples=64, likelihood=likelihood)
    cells = torch.ones(len(batch), dtype=torch.bool)
    with torch.no_grad():
        encoded = model.encode(batch.tokens, everything(batch))
        torch.testing.assert_close(encoded.latent, dense.encode(batch.tokens, everything(batch)).latent)
        torch.testing.assert_close(model.predict(encoded, "atac"), dense.predict(encoded, "atac"), rtol=1e-4, atol=1e-6)
        got = model.heads["atac"].loss(model.decode(encoded, "atac"), batch.tokens["atac"], cells, None)
        want = dense.heads["atac"].loss(dense.decode(encoded, "atac"), batch.tokens["atac"], cells, None)
    if likelihood == "profile":
        for part in want.parts:
            torch.testing.assert_close(got.parts[part], want.parts[part], rtol=1e-4, atol=1e-5)
        return
    features = model.heads["atac"].bias.shape[0]
    per_opening = want.total * 100 / features * (len(batch) * features) / batch.tokens["atac"].value.numel()
    torch.testing.assert_close(got.total, per_opening, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["profile", "bernoulli", "poisson"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_sampled_loss_estimates_the_exact_one(likelihood, tied):
    model, batch, _, _ = model_of(tied=tied, samples=60, likelihood=likelihood)
    objective = MaskedRegions("atac", ratio=0.4, whole=0.5, augmented=Augmented({}, {}))
    dense = objective(model, batch, rng(3)).total.item()
    model.heads["atac"].most_dense = 0
    with torch.no_grad():
        exact = objective(model, batch, rng(3)).total.item()
        assert exact == pytest.approx(dense, rel=1e-4)
        model.train()
        drawn = [objective(model, batch, rng(3)).total.item() for _ in range(200)]
    error = np.std(drawn) / np.sqrt(len(drawn))
    # the log of an estimate errs by half its relative variance, which is small
    assert abs(np.mean(drawn) - exact) < 4 * error + 0.003 * abs(exact) and np.std(drawn) > 0


def test_features_without_loadings_are_summed_apart():
    model, batch, _, _ = model_of(tied=True, samples=60)
    objective = MaskedRegions("atac", ratio=0.4, whole=0.5, augmented=Augmented({}, {}))
    cells = torch.ones(len(batch), dtype=torch.bool)
    with torch.no_grad():
        model.paths["atac"].table[50:] = 0
    losses = {}
    for frozen in (False, True):
        for parameter in (model.paths["atac"].table, model.heads["atac"].bias):
            parameter.requires_grad_(not frozen)
        for dense in (0, 65_536):
            model.heads["atac"].most_dense = dense
            with torch.no_grad():
                encoded = model.encode(batch.tokens, everything(batch))
                plain = model.heads["atac"].loss(model.decode(encoded, "atac"), batch.tokens["atac"], cells, None)
                losses[frozen, dense] = torch.stack([objective(model, batch, rng(3)).total, plain.total])
                profile = model.heads["atac"].profile(model.decode(encoded, "atac"))
            torch.testing.assert_close(profile.sum(dim=1), torch.ones(len(batch)))
    for got in losses.values():
        torch.testing.assert_close(got, losses[False, 0], rtol=1e-4, atol=1e-4)


def test_a_tie_reproduces_a_decoder_that_is_one():
    generator = np.random.default_rng(0)
    table, mix = generator.normal(size=(500, 6)).astype(np.float32), generator.normal(size=(6, 4))
    share, spread = generator.dirichlet(np.ones(500)), np.array([4e4, 2e4, 1e4, 5e3])
    scale = np.sqrt(share + 0.3 * share.mean())
    weight = ((table @ mix) * scale[:, None] / (np.outer(share, spread) + 30)).T.astype(np.float32)
    np.testing.assert_allclose(fit_tie(weight, table, share, scale, spread), mix, atol=1e-3)


def test_hiding_by_share_equals_hiding_by_flag_where_whole_patches_go():
    model, batch, _, _ = model_of(tied=True, samples=64)
    tokens, path = batch.tokens["atac"], model.paths["atac"]
    token_of = path.members.token_of.long()
    gone = torch.rand(len(batch), path.members.count, generator=rng()) < 0.4
    flags = Visible(batch.present["atac"], ~gone[:, token_of])
    shares = Visible(batch.present["atac"], entries=~gone[tokens.cell, token_of[tokens.feature]], share=(~gone).float())
    with torch.no_grad():
        want, _, weight, entries = path(tokens, flags)
        got, amounts, weight_too, entries_too = path(tokens, shares)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weight_too, weight, rtol=1e-4, atol=1e-5)
    assert torch.equal(entries, entries_too)
    plain, depth, _, _ = path(tokens, seen(len(batch)))
    assert not torch.allclose(plain, got, atol=1e-2)
    assert (
        0.8 < (amounts[:, 0] / depth[:, 0]).mean() < 1.25
    )  # the depth is that of the whole cell, as far as one can tell


def test_nothing_of_a_hidden_region_reaches_the_state():
    model, batch, tokenizer, counts = model_of(tied=True, samples=64)
    path = model.paths["atac"]
    arguments = (path.members.token_of, path.members.count, batch.present["atac"])
    visible = hide_regions(batch.tokens["atac"], *arguments, rng(1), ratio=0.5, whole=0.5)
    noisy = counts.copy()
    hidden = (~visible.entries).numpy()
    noisy.data[hidden] = np.random.default_rng(0).integers(1, 50, hidden.sum())
    other = tensors(tokenizer, noisy)
    with torch.no_grad():
        for first, second in ((batch.tokens["atac"], other),):
            states = [model.encode({"atac": tokens}, {"atac": visible}).latent for tokens in (first, second)]
    assert 0.4 < hidden.mean() < 0.6 and torch.equal(*states)


def test_hidden_shares_are_as_asked():
    model, batch, _, _ = model_of(tied=True, samples=64)
    path = model.paths["atac"]
    arguments = (path.members.token_of, path.members.count, batch.present["atac"])
    for ratio, whole in ((0.3, 0.0), (0.3, 1.0), (0.5, 0.5)):
        visible = hide_regions(batch.tokens["atac"], *arguments, rng(2), ratio=ratio, whole=whole)
        assert abs((~visible.entries).float().mean().item() - ratio) < 0.06
        assert abs(1 - visible.share.mean().item() - ratio) < 0.06
        assert ((visible.share == 0) | (visible.share > 0.5)).all()


def test_hiding_by_share_needs_tokens():
    dense, batch, _, _ = model_of(tied=False, samples=0)
    visible = Visible(batch.present["atac"], entries=batch.tokens["atac"].value > 0, share=torch.ones(len(batch), 3))
    with pytest.raises(ValueError, match="knows their tokens"):
        dense.paths["atac"](batch.tokens["atac"], visible)


def test_sums_over_tokens():
    token_of = torch.tensor([0, 0, 2, 1])
    table = torch.arange(8.0).view(4, 2)
    sums = TokenSums(token_of)(torch.tensor([1.0, 2.0, 3.0, 4.0]), table)
    assert torch.equal(sums, torch.tensor([[4.0, 7.0], [24.0, 28.0], [12.0, 15.0]]))


def test_unknown_likelihoods_are_refused():
    with pytest.raises(ValueError, match="not 'nb'"):
        RegionHead(2, 10, 3, likelihood="nb", token_of=torch.zeros(10, dtype=torch.int64))


# --- training by touched rows ----------------------------------------------------------------------------------------


def some_cells(batch, count: int):
    tokens = batch.tokens["atac"]
    keep = tokens.cell < count
    cut = Tokens(*(part[keep] for part in (tokens.feature, tokens.value, tokens.cell, tokens.token)),
                 tokens.ids[:count], tokens.valid[:count])  # fmt: skip
    return type(batch)({"atac": cut}, {"atac": batch.present["atac"][:count]}, {}, batch.rows[:count])


def test_a_step_changes_the_touched_rows_of_the_table_alone():
    model, batch, _, _ = model_of(tied=True, samples=8)
    few = some_cells(batch, 2)
    model.heads["atac"].most_dense = 0
    objective = MaskedRegions("atac", ratio=0.5, whole=0.5, augmented=Augmented({}, {}))
    stage = StageConfig(name="atac", objectives={"regions": 1.0}, lr=0.01, weight_decay=0.1)
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(parameters, stage)
    before = model.paths["atac"].table.detach().clone()
    model.train()
    torch.manual_seed(0)
    objective(model, few, rng()).total.backward()
    assert model.paths["atac"].table.grad.is_sparse
    norm = clip_gradients(parameters.values(), 1.0)
    assert torch.isfinite(norm) and norm > 0
    optimizer.step()
    changed = (model.paths["atac"].table != before).any(dim=1)
    seen_regions = torch.unique(few.tokens["atac"].feature)
    assert changed[seen_regions].all() and changed.sum() <= len(seen_regions) + 8 < len(changed)


def test_rowwise_training_lowers_the_loss_and_its_state_comes_back():
    model, batch, _, _ = model_of(tied=True, samples=200)
    model.heads["atac"].most_dense = 0
    objective = MaskedRegions("atac", ratio=0.3, whole=0.5, augmented=Augmented({}, {}))
    stage = StageConfig(name="atac", objectives={"regions": 1.0}, lr=0.05)
    parameters = {name: value for name, value in model.named_parameters() if name.endswith("table")}
    assert parameters and all(by_rows(value) for value in parameters.values())
    optimizer = make_optimizer(parameters, stage)
    first = objective(model, batch, rng(9)).total.item()
    model.train()
    for step in range(10):
        objective(model, batch, rng(step)).total.backward()
        clip_gradients(parameters.values(), 1.0)
        optimizer.step()
        model.zero_grad()
    assert objective(model.eval(), batch, rng(9)).total.item() < first
    kept = {key: value.clone() for key, value in optimizer_tensors(optimizer, parameters).items()}
    again = make_optimizer(parameters, stage)
    load_optimizer(again, parameters, kept)
    for key, value in optimizer_tensors(again, parameters).items():
        assert torch.equal(value, kept[key])


def test_a_gradient_that_is_not_finite_is_noticed():
    table = torch.nn.Parameter(torch.ones(4, 2))
    table.by_rows = True
    (lookup(table, torch.tensor([1, 1])).sum() * float("nan")).backward()
    assert table.grad.is_sparse and not torch.isfinite(clip_gradients([table], 1.0))
