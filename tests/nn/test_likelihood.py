"""Likelihoods against scipy, and their samples against their means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from syncyte.nn.likelihood import likelihoods, multinomial_log_prob, negative_binomial, soft_link, zero_inflated

COUNTS = torch.tensor([0.0, 1, 2, 7, 40])
RATES = torch.tensor([0.01, 0.5, 3.0, 20.0])
GRID = torch.meshgrid(COUNTS, RATES, indexing="ij")


def against(got: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got.numpy(), expected, rtol=5e-6, atol=1e-6)


def test_poisson():
    target, rate = GRID
    against(likelihoods["poisson"].log_prob(target, rate), stats.poisson.logpmf(target.numpy(), rate.double().numpy()))


@pytest.mark.parametrize("theta", [None, 0.5, 4.0])
def test_negative_binomial(theta):
    target, rate = (part.double().numpy() for part in GRID)
    size = theta or 10.0
    given = None if theta is None else torch.tensor(theta)
    got = likelihoods["nb"].log_prob(*GRID, given)
    np.testing.assert_allclose(
        got.numpy(), stats.nbinom.logpmf(target, size, size / (size + rate)), rtol=1e-5, atol=2e-5
    )


def exact(counts, log_mean, log_dispersion):
    size, mean = np.exp(log_dispersion), np.exp(log_mean)
    return stats.nbinom.logpmf(counts, size, size / (size + mean))


def test_negative_binomial_in_logs_is_exact_and_keeps_tiny_means():
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (40, 30)) * (rng.random((40, 30)) < 0.3) * rng.integers(1, 300, (40, 30))
    level, spread = rng.normal(0, 3, (40, 30)), rng.normal(1, 1.5, 30)
    got = negative_binomial(*(torch.tensor(part, dtype=torch.float64) for part in (counts, level, spread)))
    np.testing.assert_allclose(got.numpy(), exact(counts, level, spread), rtol=1e-8, atol=1e-8)
    tiny = torch.tensor([-30.0], requires_grad=True)
    value = negative_binomial(torch.ones(1), tiny, torch.tensor([2.0]))
    value.backward()
    assert value.item() == pytest.approx(-30, abs=1e-4) and tiny.grad.item() == pytest.approx(1, abs=1e-4)
    huge = negative_binomial(torch.zeros(1), torch.tensor([60.0]), torch.tensor([0.0]))
    assert huge.item() == pytest.approx(-60, abs=1e-3)


def test_zero_inflation_only_adds_zeros():
    counts = torch.arange(200.0, dtype=torch.float64)
    level, spread, logit = (torch.tensor(value, dtype=torch.float64) for value in (1.3, 0.4, -0.7))
    plain = negative_binomial(counts, level.expand(200), spread).exp()
    inflated = zero_inflated(counts, level.expand(200), spread, logit).exp()
    share = 1 / (1 + np.exp(0.7))
    np.testing.assert_allclose(inflated[0], share + (1 - share) * plain[0], rtol=1e-10)
    np.testing.assert_allclose(inflated[1:], (1 - share) * plain[1:], rtol=1e-10)
    assert inflated.sum().item() == pytest.approx(1, abs=1e-8)


def test_bernoulli():
    target, rate = (torch.tensor([[0.0], [1.0], [3.0]]), RATES)
    opened = 1 - np.exp(-rate.double().numpy())
    got = likelihoods["bernoulli"].log_prob(target, rate.expand(3, 4))
    against(got, stats.bernoulli.logpmf((target > 0).numpy(), opened))
    against(likelihoods["bernoulli"].mean(rate), opened)


def test_gaussian_up_to_its_constant():
    target, mean = GRID
    expected = stats.norm.logpdf(target.numpy(), mean.double().numpy()) + 0.5 * np.log(2 * np.pi)
    against(likelihoods["gaussian"].log_prob(target, mean), expected)


def test_no_rate_gives_no_infinity():
    for name in ("poisson", "nb", "bernoulli"):
        value = torch.zeros(3, requires_grad=True)
        out = likelihoods[name].log_prob(torch.tensor([0.0, 1.0, 5.0]), value)
        out.sum().backward()
        assert torch.isfinite(out).all() and torch.isfinite(value.grad).all()


@pytest.mark.parametrize("name", ["gaussian", "poisson", "nb", "bernoulli"])
def test_samples_have_the_mean(name):
    rate = torch.tensor([0.2, 1.0, 4.0]).repeat(20_000, 1)
    draw = likelihoods[name].sample(rate, torch.Generator().manual_seed(0))
    again = likelihoods[name].sample(rate, torch.Generator().manual_seed(0))
    assert torch.equal(draw, again)
    error = draw.std(dim=0) / len(rate) ** 0.5
    assert ((draw.mean(dim=0) - likelihoods[name].mean(rate)[0]).abs() < 4.5 * error).all()


def test_nb_samples_are_overdispersed():
    rate = torch.full((50_000,), 5.0)
    draw = likelihoods["nb"].sample(rate, torch.Generator().manual_seed(1), torch.tensor(2.0))
    assert draw.var().item() == pytest.approx(5 + 25 / 2, rel=0.05)


def test_soft_link():
    got = soft_link(torch.tensor([-3.0, -1.0, 0.0, 1.0, 100.0]))
    np.testing.assert_allclose(got, [-3, -1, 0, np.log(2), np.log(101)], rtol=1e-6)
    score = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    soft_link(score).sum().backward()
    assert torch.isfinite(score.grad).all() and (score.grad > 0).all()


def test_the_profile_is_a_multinomial():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[2.0, 0, 1, 0, 3], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    cell, feature = counts.nonzero(as_tuple=True)
    got = multinomial_log_prob(logits, cell, feature, counts[cell, feature])
    share = torch.softmax(logits.double(), dim=1).numpy()
    for row in range(3):
        n = counts[row].numpy()
        direct = stats.multinomial.logpmf(n, int(n.sum()), share[row])
        orders = stats.multinomial.logpmf(n, int(n.sum()), np.full(5, 0.2)) - n.sum() * np.log(0.2)
        assert got[cell == row].sum().item() == pytest.approx(direct - orders, abs=1e-5)
