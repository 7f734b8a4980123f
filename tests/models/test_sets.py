"""Set models: order, padding, subsets, counts that are not lost, zero starts, exact likelihoods, honest draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats
from tests.tiny import tensors

from syncyte.modalities import Layout, Tokenizer
from syncyte.models import sets
from syncyte.models.latent_flow import FlowSizes, LatentFlow
from syncyte.models.sets import ALL_TOKENS, SetModel, SetSizes, SetSpec
from syncyte.recipes.train import configure
from syncyte.types import Tokens, Visible

FEATURES, CELLS = 40, 7
KINDS = {
    "sum": {},
    "queries": {"queries": 2, "width": 8, "heads": 2},
    "one query": {"queries": 1, "width": 8, "heads": 2, "layers": 2},
    "asked back": {"queries": 2, "width": 8, "heads": 2, "unpool": True},
}
TINY_FLOW = FlowSizes(width=8, layers=1)


def made(likelihood: str = "nb", *, features: int = FEATURES, fresh: bool = False, **sizes) -> SetModel:
    """A model in float64 whose weights are all far from where they begin, unless it is fresh."""
    whole = SetSizes(**{"latents": 4, "hidden": 16, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = SetSpec(modality="rna", features=features, likelihood=likelihood, sizes=whole, flow=TINY_FLOW)
        model = SetModel(spec)
        if not fresh:
            for parameter in model.parameters():
                parameter.data += 0.4 * torch.randn(parameter.shape)
        model.encoder.center.uniform_(0, 1)
        model.encoder.spread.uniform_(0.5, 2)
    return model.double().eval()


def disperse(model: SetModel, values: torch.Tensor) -> None:
    """Set the log dispersions."""
    model.decoder.log_dispersion.data = values


def cells(seed: int = 0, features: int = FEATURES) -> sp.csr_matrix:
    """Counts of a few cells, from few to many measured features; the last has none."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(6, (CELLS, features)) * (rng.random((CELLS, features)) < np.linspace(0.9, 0.2, CELLS)[:, None])
    counts[-1] = 0
    return sp.csr_matrix(counts.astype(np.float32))


def tokens_of(counts: sp.csr_matrix, most: int = ALL_TOKENS, patch: int = 1) -> Tokens:
    """Tokens in float64; of ``patch`` features each."""
    width = counts.shape[1]
    layout = Layout(np.arange(width) // patch, -(-width // patch), most)
    found = tensors(Tokenizer(layout, np.full(width, 1 / width, dtype=np.float32)), counts)
    return replace(found, value=found.value.double())


def otherwise(tokens: Tokens, more: int, seed: int = 3) -> Tokens:
    """The same cells: entries in another order, tokens in other columns among ``more`` columns of padding."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = tokens.ids.shape
    order = torch.argsort(tokens.cell + torch.rand(len(tokens.cell), generator=generator) * 0.9)
    place = torch.stack([torch.randperm(columns + more, generator=generator)[:columns] for _ in range(rows)])
    token = tokens.token[order]
    row, column = token // columns, token % columns
    moved = torch.where(token >= 0, row * (columns + more) + place[row, column], token)
    ids = torch.full((rows, columns + more), 17)
    valid = torch.zeros(rows, columns + more, dtype=torch.bool)
    ids.scatter_(1, place, tokens.ids)
    valid.scatter_(1, place, tokens.valid)
    return Tokens(tokens.feature[order], tokens.value[order], tokens.cell[order], moved, ids, valid)


def codes(model: SetModel, tokens: Tokens) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(model.encoder(tokens)[:2], dim=1)


def close(first: torch.Tensor, second: torch.Tensor, within: float = 1e-9) -> bool:
    return torch.allclose(first, second, atol=within, rtol=within)


# --- the encoder reads a set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "patch"), [(ALL_TOKENS, 1), (6, 1), (ALL_TOKENS, 5), (3, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_order_and_padding_do_not_change_the_code(kind, most, patch):
    model, tokens = made(**KINDS[kind]), tokens_of(cells(), most, patch)
    wanted = codes(model, tokens)
    for more in (0, 1, 60):
        assert close(codes(model, otherwise(tokens, more)), wanted)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2


def test_the_trained_run_reads_a_set_too(tiny_sets_run, tiny_data):
    """On learned weights in float32, whose attention is not what it was at first."""
    model, tokenizer = tiny_sets_run.model, tiny_sets_run.tokenizers["rna"]
    assert model.encoder.out.weight.abs().max() > 1e-3
    tokens = tensors(tokenizer, sp.csr_matrix(tiny_data["rna"].X[:40], dtype=np.float32))
    wanted = codes(model, tokens)
    assert close(codes(model, otherwise(tokens, 50)), wanted, 1e-4)
    assert wanted[:, :4].std(dim=0).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_read_without_its_neighbours(kind):
    model, counts = made(**KINDS[kind]), cells()
    together = codes(model, tokens_of(counts))
    for row in range(CELLS):
        assert close(codes(model, tokens_of(counts[[row]])), together[[row]])


@pytest.mark.parametrize("kind", KINDS)
def test_empty_cells_have_a_code_that_is_finite(kind):
    """Beside other cells, and where a minibatch holds nothing else."""
    model = made(**KINDS[kind])
    beside = codes(model, tokens_of(cells()))[-1]
    alone = codes(model, tokens_of(sp.csr_matrix((3, FEATURES), dtype=np.float32)))
    assert beside.isfinite().all() and close(alone, beside.expand(3, -1))


@pytest.mark.parametrize("kind", ["queries", "one query"])
def test_counts_are_not_lost_on_the_way_through_attention(kind):
    """With the sum silenced, other magnitudes of the same features and the same total still move the code."""
    model, counts = made(**KINDS[kind]), cells()[:-1]
    for layer in (model.encoder.mean, model.encoder.log_sd, model.encoder.start):
        layer.weight.data.zero_()
    scrambled = counts.copy()
    rng = np.random.default_rng(1)
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        scrambled.data[start:stop] = rng.permutation(counts.data[start:stop])
    first, second = codes(model, tokens_of(counts)), codes(model, tokens_of(scrambled))
    apart = (first[:, None] - first[None]).norm(dim=2).mean()
    assert (first - second).norm(dim=1).mean() > 0.05 * apart > 1e-4


def test_thinned_away_entries_are_as_if_not_there():
    """Entries whose value became zero leave no trace: neither as tokens nor in the sum."""
    model, counts = made(**KINDS["queries"]), cells()
    tokens = tokens_of(counts)
    gone = torch.rand(len(tokens.value), generator=torch.Generator().manual_seed(4)) < 0.4
    left = sp.csr_matrix((counts.data * ~gone.numpy(), counts.indices, counts.indptr), shape=counts.shape)
    left.eliminate_zeros()
    found = codes(model, replace(tokens, value=tokens.value.masked_fill(gone, 0)))
    assert close(found, codes(model, tokens_of(left))) and not close(found, codes(model, tokens), 1e-3)


def test_hidden_cells_say_nothing():
    model, tokens = made(**KINDS["queries"]), tokens_of(cells())
    whole = torch.arange(CELLS) != 1
    with torch.no_grad():
        found = model.encode({"rna": tokens}, {"rna": Visible(whole)})
        plain = model.encode({"rna": tokens}, {"rna": Visible(torch.ones(CELLS, dtype=torch.bool))})
    assert (found.latent[1] == 0).all() and (found.context[1] == 0).all()
    assert torch.equal(found.latent[whole], plain.latent[whole]) and plain.latent[1].abs().max() > 0.01
    assert found.latent.shape == (CELLS, 4) and found.context.shape == (CELLS, 1, 2)


# --- the decoder answers for features --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_hang_on_what_else_is_asked(kind, monkeypatch):
    model = made(features=150, **KINDS[kind])
    latent = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    some = torch.tensor([141, 2, 77, 5])
    with torch.no_grad():
        whole = model.log_shares(latent)
        assert close(whole.exp().sum(dim=1), torch.ones(5, dtype=torch.float64))
        assert close(model.log_shares(latent, some), whole[:, some])
        within = model.log_shares(latent, some, within=True)
        assert close(within, torch.log_softmax(whole[:, some], dim=1)) and not close(within, whole[:, some], 1e-2)
        monkeypatch.setattr(sets, "SLICE", 1)  # asked 64 at a time
        assert close(model.log_shares(latent), whole)


@pytest.mark.parametrize("preset", ["small", "base"])
def test_attention_begins_as_nothing(preset):
    """The presets with attention are at step 0 the model without it, and can leave that."""
    sizes = configure("scldm", preset).sizes.model_copy(update={"hidden": 16, "dropout": 0.0})
    bare = sizes.model_copy(update={"queries": 0, "unpool": False})
    lite, full = made(fresh=True, **bare.model_dump()), made(fresh=True, **sizes.model_dump())
    assert sizes.queries > 0 and configure("scldm", "lite").sizes.queries == 0
    for parameter in lite.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, dtype=torch.float64)
    missing, strange = full.load_state_dict(lite.state_dict(), strict=False)
    stem = ("table", "bias", "norm", "mean", "log_sd", "inward", "log_dispersion")
    assert not strange and missing and not any(name.split(".")[1] in stem for name in missing)
    tokens = tokens_of(cells())
    latent = torch.randn(5, sizes.latents, dtype=torch.float64)
    assert torch.equal(codes(full, tokens), codes(lite, tokens))
    assert torch.equal(full.decoder(latent)[0], lite.decoder(latent)[0])
    mean, _, total = full.encoder(tokens)
    (-full.log_prob(mean, torch.from_numpy(cells().toarray()).double(), total.clamp_min(1).log()).sum()).backward()
    ends = [full.encoder.out.weight, full.decoder.back.weight] + ([full.decoder.out.weight] if sizes.unpool else [])
    assert all(weight.grad.abs().sum() > 0 for weight in ends)


# --- likelihoods -----------------------------------------------------------------------------------------------------


def case(kind: str):
    """A model, codes, counts and log totals, and the shares and dispersions as the formulas want them."""
    model = made(kind, **KINDS["asked back"])
    disperse(model, torch.empty(FEATURES, dtype=torch.float64).uniform_(-1, 3))
    latent = torch.randn(CELLS, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counts = torch.from_numpy(cells().toarray()).double()
    total = counts.sum(dim=1).clamp_min(1)
    with torch.no_grad():
        share = model.log_shares(latent).exp().numpy()
        found = model.log_prob(latent, counts, total.log()).numpy()
    return model, latent, counts.numpy(), share, total.numpy()[:, None], found


def test_negative_binomial_is_that_of_scipy():
    model, _, counts, share, total, found = case("nb")
    theta = model.log_dispersion.exp().detach().numpy()
    wanted = stats.nbinom.logpmf(counts, theta, theta / (theta + share * total)).sum(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)  # shares are computed in float32


def test_zero_inflated_is_that_of_scipy():
    model, latent, counts, share, total, found = case("zinb")
    theta = model.log_dispersion.exp().detach().numpy()
    with torch.no_grad():
        lost = torch.sigmoid(model.decoder.zeros(model.decoder(latent)[1])).numpy()
    own = stats.nbinom.pmf(counts, theta, theta / (theta + share * total))
    wanted = np.log(np.where(counts > 0, 0, lost) + (1 - lost) * own).sum(axis=1)
    assert lost.std() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


def test_poisson_is_that_of_scipy():
    _, _, counts, share, total, found = case("poisson")
    np.testing.assert_allclose(found, stats.poisson.logpmf(counts, share * total).sum(axis=1), rtol=2e-6)


def test_gaussian_scores_log_counts():
    model, _, counts, share, total, found = case("gaussian")
    spread = model.decoder.log_dispersion.clamp(-3, 3).exp().detach().numpy()
    wanted = stats.norm.logpdf(np.log1p(counts * 1e4 / total), np.log1p(1e4 * share), spread).sum(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize("kind", ["nb", "zinb", "poisson", "gaussian"])
def test_some_features_are_scored_as_if_there_were_no_others(kind):
    """All of them are none in particular; their order is nothing; a subset has a total of its own, and shares of it."""
    model, latent, counts, _, total, found = case(kind)
    counts, log_total = torch.from_numpy(counts), torch.from_numpy(total[:, 0]).log()
    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(5))
    some = torch.tensor([31, 4, 0, 17, 22])
    own = counts[:, some].sum(dim=1).clamp_min(1).log()
    with torch.no_grad():
        whole = model.log_prob(latent, counts, log_total, torch.arange(FEATURES))
        mixed = model.log_prob(latent, counts[:, order], log_total, order)
        part = model.log_prob(latent, counts[:, some], own, some)
        turned = model.log_prob(latent, counts[:, some.flip(0)], own, some.flip(0))
        bias = model.decoder.bias.data.clone()
        model.decoder.bias.data -= 1e4  # the others are there, and have no share
        model.decoder.bias.data[some] = bias[some]
        lone = torch.zeros_like(counts)
        lone[:, some] = counts[:, some]
        alone = model.log_prob(latent, lone, own)
        model.decoder.bias.data = bias
        others = model.log_prob(latent, lone, own) - part
    assert close(whole, torch.from_numpy(found), 1e-6) and close(mixed, whole, 1e-6) and close(turned, part, 1e-6)
    assert others.abs().max() > 0.1  # which the others' zeros cost
    if kind in ("nb", "poisson"):  # zeros of features without a share cost nothing
        assert close(alone, part, 1e-5)


def test_dispersions_stay_within_their_limits():
    model = made()
    disperse(model, torch.linspace(-99, 99, FEATURES, dtype=torch.float64))
    assert model.log_dispersion.min() == -4 and model.log_dispersion.max() == 8


# --- draws -----------------------------------------------------------------------------------------------------------

N = 8_000


def drawn(kind: str, log_total: float = 6.5):
    """Many cells of one code, and its shares."""
    model = made(kind, **KINDS["queries"])
    disperse(model, torch.empty(FEATURES, dtype=torch.float64).uniform_(-0.5, 2.5))
    latent = torch.full((1, 4), 0.3, dtype=torch.float64)
    with torch.no_grad():
        share = model.log_shares(latent).exp().numpy()[0]
        hidden = model.decoder(latent)[1]
    given = latent.expand(N, -1), torch.full((N,), log_total, dtype=torch.float64)
    found, again = (model.draw(*given, torch.Generator().manual_seed(0)).numpy() for _ in range(2))
    assert np.array_equal(found, again) and (found >= 0).all() and np.array_equal(found, np.rint(found))
    return model, hidden, share, found


@pytest.mark.parametrize("kind", ["nb", "poisson"])
def test_draws_have_the_mean_and_the_dispersion(kind):
    model, _, share, found = drawn(kind)
    mean = share * np.exp(6.5)
    theta = model.log_dispersion.exp().detach().numpy() if kind == "nb" else np.inf
    variance = mean + mean**2 / theta
    assert (np.abs(found.mean(axis=0) - mean) < 5 * np.sqrt(variance / N) + 1e-9).all()
    seen = mean > 1
    assert seen.sum() > 5
    np.testing.assert_allclose(found.var(axis=0)[seen], variance[seen], rtol=0.25 if kind == "nb" else 0.1)


def test_draws_are_zero_as_often_as_the_inflation_says():
    model, hidden, share, found = drawn("zinb")
    theta = model.log_dispersion.exp().detach().numpy()
    lost = torch.sigmoid(model.decoder.zeros(hidden)).detach().numpy()[0]
    mean = share * np.exp(6.5)
    zeros = lost + (1 - lost) * (theta / (theta + mean)) ** theta
    np.testing.assert_allclose((found == 0).mean(axis=0), zeros, atol=5 * 0.5 / N**0.5)


def test_gaussian_draws_spread_around_log_shares():
    model, _, share, found = drawn("gaussian", log_total=15.0)
    logs = np.log1p(found * 1e4 / np.exp(15.0))
    spread = model.decoder.log_dispersion.clamp(-3, 3).exp().detach().numpy()
    wanted = np.log1p(1e4 * share)
    high = wanted > 4.5 * spread  # no value is cut off at zero
    assert high.sum() >= 2
    assert (np.abs(logs.mean(axis=0) - wanted)[high] < 5 * spread[high] / N**0.5 + 1e-3).all()
    np.testing.assert_allclose(logs.std(axis=0)[high], spread[high], rtol=0.05)


# --- the flow over codes ---------------------------------------------------------------------------------------------


def test_coordinates_are_laid_out_as_tokens_and_back():
    flow = LatentFlow(6, {"type": 2}, {}, FlowSizes(width=8, layers=1, tokens=3, heads=2))

    class Echo(torch.nn.Module):
        def forward(self, state, time, condition):
            assert state.shape == (4, 3, 3) and (state[:, 2, 1:] == 0).all()  # 7 coordinates and 2 of padding
            return state

    state = torch.randn(4, 7)
    assert torch.equal(flow(state, torch.rand(4), {"type": torch.ones(4, dtype=torch.long)}), torch.zeros(4, 7))
    flow.network = Echo()
    assert torch.equal(flow(state, torch.rand(4), {}), state)


def test_coordinates_are_standardised_and_back():
    flow = LatentFlow(3, {}, {}, TINY_FLOW)
    flow.mean.copy_(torch.tensor([1.0, 2.0, -1.0, 7.0]))
    flow.sd.copy_(torch.tensor([0.5, 2.0, 1.0, 0.1]))
    points = flow.mean + flow.sd * torch.tensor([[1.0, -1.0, 2.0, 0.0]])
    assert close(flow.standardise(points), torch.tensor([[1.0, -1.0, 2.0, 0.0]]), 1e-5)
    assert close(flow.restore(flow.standardise(points)), points, 1e-5)
