"""Set objectives: they fall, warm up, thin and drop in training alone, and read samples of codes made once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import tensors

from syncyte.modalities import Layout, Tokenizer
from syncyte.models.conditions import Attribute, ConditionCoder
from syncyte.models.latent_flow import FlowSizes
from syncyte.models.sets import SetModel, SetSizes, SetSpec
from syncyte.objectives.sets import DEPTH_NOISE, Codes, CountElbo, FlowMatching, dense_counts
from syncyte.types import Batch

CELLS, LATENTS = 240, 4
TYPE = Attribute(name="type", levels=["a", "b", "c"])
NUMBER = Attribute(name="dose", mean=0.0, sd=1.0)


@pytest.fixture
def model() -> SetModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = SetSizes(latents=LATENTS, hidden=16, dropout=0.0)
        spec = SetSpec(
            modality="rna", features=80, sizes=sizes, flow=FlowSizes(width=16, layers=1), attributes=[TYPE, NUMBER]
        )
        return SetModel(spec)


@pytest.fixture(scope="module")
def batch(tiny_data) -> Batch:
    layout = Layout(np.arange(80), 80, 10**6)
    found = tensors(Tokenizer(layout, np.full(80, 1 / 80, dtype=np.float32)), tiny_data["rna"].X.astype(np.float32))
    return Batch({"rna": found}, {"rna": torch.ones(CELLS, dtype=torch.bool)}, {}, torch.arange(CELLS))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(module: torch.nn.Module, model: SetModel, batch: Batch, steps: int, lr: float = 1e-2) -> tuple[float, float]:
    """Losses in evaluation before and after a few steps."""
    optimizer, found = torch.optim.Adam(model.parameters(), lr), []
    for turn in range(2):
        module.eval(), model.eval()
        with torch.no_grad():
            found.append(float(module(model, batch, generator(99)).total))
        module.train(), model.train()
        for step in range(steps if not turn else 0):
            optimizer.zero_grad()
            module(model, batch, generator(step)).total.backward()
            optimizer.step()
    return found[0], found[1]


# --- the evidence bound ----------------------------------------------------------------------------------------------


def test_counts_as_a_matrix(batch, tiny_data):
    np.testing.assert_array_equal(dense_counts(batch.tokens["rna"], 80).numpy(), tiny_data["rna"].X.toarray())


@pytest.mark.parametrize(("kl", "noise"), [(1.0, 0.0), (0.0, 0.1)])
def test_the_bound_falls(model, batch, kl, noise):
    before, after = train(CountElbo("rna", kl=kl, noise=noise), model, batch, 25)
    assert after < before - 5


def test_parts_add_up_and_are_per_cell(model, batch):
    objective = CountElbo("rna", kl=0.5).eval()
    loss = objective(model, batch, generator())
    assert set(loss.parts) == {"reconstruction", "kl"} and all(int(count) == CELLS for count in loss.counts.values())
    assert float(loss.total.detach()) == pytest.approx(float(loss.parts["reconstruction"] + 0.5 * loss.parts["kl"]))
    mean, log_sd, total = model.encoder(batch.tokens["rna"])
    posterior = torch.distributions.Normal(mean, log_sd.exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    assert float(loss.parts["kl"]) == pytest.approx(float(kl.detach()), rel=1e-5)
    exact = -model.log_prob(mean, dense_counts(batch.tokens["rna"], 80), total.log()).mean()
    assert float(loss.parts["reconstruction"]) == pytest.approx(float(exact.detach()), rel=1e-5)


def weight(objective: CountElbo, model: SetModel, batch: Batch) -> float:
    loss = objective(model, batch, generator())
    return float((loss.total.detach() - loss.parts["reconstruction"]) / loss.parts["kl"])


def test_the_divergence_warms_up_and_a_resumed_run_knows_how_far_it_came(model, batch):
    objective = CountElbo("rna", kl=0.8, warmup=4)
    assert [weight(objective, model, batch) for _ in range(3)] == pytest.approx([0.0, 0.2, 0.4], abs=1e-4)
    assert weight(objective.eval(), model, batch) == pytest.approx(0.8, abs=1e-4)  # counts fully, and is not counted
    resumed = CountElbo("rna", kl=0.8, warmup=4)
    resumed.load_state_dict(objective.state_dict())
    assert [weight(resumed, model, batch) for _ in range(3)] == pytest.approx([0.6, 0.8, 0.8], abs=1e-4)


def test_the_encoder_sees_a_thinned_cell_in_training_alone(model, batch, monkeypatch):
    shown, scored = [], []
    monkeypatch.setattr(model.encoder, "forward", _spied(model.encoder.forward, shown, 0))
    monkeypatch.setattr(model, "log_prob", _spied(model.log_prob, scored, 1))
    whole = batch.tokens["rna"]
    for training in (True, False):
        objective = CountElbo("rna", thinning=0.5).train(training)
        objective(model, batch, generator())
    thin, full = shown
    assert torch.equal(full.value, whole.value) and (thin.value <= whole.value).all()
    assert torch.equal(thin.value, thin.value.round())
    kept = dense_counts(thin, 80).sum(dim=1) / dense_counts(whole, 80).sum(dim=1)
    assert 0.45 < kept.min() < 0.6 and 0.9 < kept.max() <= 1 and abs(float(kept.mean()) - 0.75) < 0.05
    for counts in scored:  # the loss stands for the whole cell
        assert torch.equal(counts, dense_counts(whole, 80))
    CountElbo("rna", thinning=0.0)(model, batch, generator())
    assert torch.equal(shown[-1].value, whole.value)


def _spied(real, seen: list, position: int):
    def spy(*given):
        seen.append(given[position])
        return real(*given)

    return spy


def test_codes_are_sampled_in_training_alone(model, batch):
    def totals(training: bool, **how) -> set[float]:
        objective = CountElbo("rna", thinning=0.0, **how).train(training)
        return {float(objective(model, batch, generator(seed)).parts["reconstruction"]) for seed in range(3)}

    assert len(totals(True)) == 3 and len(totals(False)) == 1
    assert len(totals(True, kl=0.0)) == 1 and len(totals(True, kl=0.0, noise=0.3)) == 3


def test_some_features_are_decoded_in_training_alone(model, batch, monkeypatch):
    asked, counts = [], []
    monkeypatch.setattr(model, "log_prob", _spied(_spied(model.log_prob, asked, 3), counts, 1))
    objective = CountElbo("rna", thinning=0.0, kl=0.0, some=20)
    for seed in range(2):
        loss = objective(model, batch, generator(seed))
    objective.eval()(model, batch, generator())
    assert [None if one is None else len(set(one.tolist())) for one in asked] == [20, 20, None]
    assert not torch.equal(asked[0], asked[1]) and counts[0].shape == (CELLS, 20)
    own = -model.log_prob(
        model.encoder(batch.tokens["rna"])[0], counts[1], counts[1].sum(dim=1).clamp_min(1).log(), asked[1]
    )
    assert float(loss.total.detach()) == pytest.approx(
        float(80 / 20 * own.mean().detach()), rel=1e-4
    )  # stands for all features


# --- the flow --------------------------------------------------------------------------------------------------------


def stored(spread: float = 0.0, n: int = CELLS) -> Codes:
    """Codes with types apart along the first latent; all have the same spread and log total 6."""
    rng = np.random.default_rng(0)
    kind = rng.integers(1, 4, n)
    mean = rng.normal(0, 0.1, (n, LATENTS))
    mean[:, 0] += 2.0 * kind
    log_sd = np.full((n, LATENTS), np.log(max(spread, 1e-6)))
    values = np.concatenate([mean, log_sd, np.full((n, 1), 6.0)], axis=1).astype(np.float32)
    conditions = {"type": kind, "dose": np.full((n, 1), 0.5, dtype=np.float32)}
    return Codes(values, conditions, ConditionCoder([TYPE, NUMBER]))


def rows(values) -> Batch:
    return Batch({}, {}, {}, torch.as_tensor(values))


def test_points_are_posterior_samples_with_a_little_noise_of_depth():
    codes = stored(spread=0.7)
    some = np.full(20_000, 5)
    points = codes.points(some, generator(), DEPTH_NOISE).numpy()
    np.testing.assert_allclose(points[:, :-1].mean(axis=0), codes.values[5, :LATENTS], atol=0.03)
    np.testing.assert_allclose(points[:, :-1].std(axis=0), 0.7, atol=0.02)
    assert abs(points[:, -1].mean() - 6.0) < 0.005 and abs(points[:, -1].std() - DEPTH_NOISE) < 0.002


def told(model: SetModel, objective: FlowMatching, batch: Batch, monkeypatch) -> list[dict[str, torch.Tensor]]:
    """Conditions that the velocity was asked under, by call."""
    seen: list[dict[str, torch.Tensor]] = []
    real = model.flow.forward

    def spy(state, time, condition):
        seen.append({name: values.clone() for name, values in condition.items()})
        return real(state, time, condition)

    monkeypatch.setattr(model.flow, "forward", spy)
    objective(model, batch, generator())
    return seen


def test_attributes_are_dropped_in_training_alone(model, monkeypatch):
    codes, batch = stored(), rows(np.arange(CELLS))
    for each, every, share in ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.3, 0.2, 0.44), (0.0, 0.0, 0.0)):
        objective = FlowMatching(lambda _: codes, each=each, every=every)
        (whole,) = told(model, objective.eval(), batch, monkeypatch)
        assert torch.equal(whole["type"], torch.from_numpy(codes.conditions["type"])) and (whole["dose"] == 0.5).all()
        (some,) = told(model, objective.train(), batch, monkeypatch)
        for gone in (some["type"] == 0, some["dose"].isnan()[:, 0]):
            assert abs(float(gone.float().mean()) - share) < 0.1 * (0 < share < 1) + 1e-9
    assert (codes.conditions["dose"] == 0.5).all() and (codes.conditions["type"] > 0).all()  # the store is not touched


def test_each_cell_has_its_own_attributes(model, monkeypatch):
    codes, chosen = stored(), np.array([7, 3, 200, 3])
    objective = FlowMatching(lambda _: codes).eval()
    (seen,) = told(model, objective, rows(chosen), monkeypatch)
    assert seen["type"].tolist() == codes.conditions["type"][chosen].tolist()


def test_codes_are_made_once_with_the_model_as_it_is(model):
    calls = []

    def make(given: SetModel) -> Codes:
        calls.append(given)
        return stored()

    objective = FlowMatching(make)
    assert not calls  # not before the first minibatch: the stage before must have ended
    for seed in range(3):
        objective(model, rows(np.arange(10)), generator(seed))
    assert calls == [model]


def test_the_error_of_an_untrained_flow_is_that_of_zero(model):
    """Velocities of standardised coordinates have variance two: one of the data, one of the noise."""
    codes = stored(spread=1.0)
    model.flow.mean.copy_(torch.tensor([4.0, 0, 0, 0, 6.0]))
    model.flow.sd.copy_(torch.tensor([(1.63**2 + 1) ** 0.5, 1, 1, 1, DEPTH_NOISE]))
    many = rows(np.random.default_rng(0).integers(0, CELLS, 20_000))
    loss = FlowMatching(lambda _: codes).eval()(model, many, generator())
    assert float(loss.total.detach()) == pytest.approx(2.0, abs=0.06) and int(loss.counts["velocity"]) == 20_000


def test_the_velocity_is_learned(model):
    codes = stored(spread=0.2)
    model.flow.mean.copy_(torch.tensor([4.0, 0, 0, 0, 6.0]))
    model.flow.sd.copy_(torch.tensor([1.7, 0.25, 0.25, 0.25, DEPTH_NOISE]))
    before, after = train(FlowMatching(lambda _: codes), model, rows(np.arange(CELLS)), 60)
    assert after < 0.8 * before


def test_a_model_that_knows_no_attribute_learns_too():
    spec = SetSpec(modality="rna", features=10, sizes=SetSizes(latents=LATENTS, hidden=8), flow=FlowSizes(width=8))
    codes = Codes(stored().values, {}, ConditionCoder([]))
    loss = FlowMatching(lambda _: codes)(SetModel(spec), rows(np.arange(9)), generator())
    assert loss.total.isfinite() and not loss.parts["velocity"].requires_grad
