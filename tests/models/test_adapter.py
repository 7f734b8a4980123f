"""The adapter: what its modes do to a token, and that its start is chosen on groups it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from syncyte.models.adapter import PENALTIES, TokenAdapter, fit_adapter

MODES = ("residual", "replace", "static")


def adapter(mode: str = "residual", hidden: int = 0, match: bool = False, inputs: int = 5, width: int = 4):
    torch.manual_seed(0)
    return TokenAdapter(inputs, width, hidden=hidden, mode=mode, match=match).eval()


def pairs(n: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.randn(n, 5, generator=generator)


def planted(n: int = 200, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(3, 2, (n, 5)).astype(np.float32)
    tokens = vectors @ rng.normal(size=(5, 4)) + 1 + noise * rng.normal(size=(n, 4))
    return vectors, tokens.astype(np.float32), np.arange(n) % 7


def test_replace_takes_the_adapted_token_alone():
    static, vectors = pairs()
    model = adapter("replace", hidden=3)
    assert model.share == 1
    assert torch.equal(model.tokens(static, vectors), model(vectors))


def test_residual_mixes_both_by_a_gate():
    static, vectors = pairs()
    model = adapter("residual", hidden=3)
    assert model.share.item() == pytest.approx(0.5)
    assert torch.allclose(model.tokens(static, vectors), (static + model(vectors)) / 2, atol=1e-6)
    model.set_share(0.2)
    assert torch.allclose(model.tokens(static, vectors), static + 0.2 * (model(vectors) - static), atol=1e-6)


def test_while_it_learns_it_stands_in_for_half_of_the_tokens():
    static, vectors = pairs()
    model = adapter("residual").train()
    model.set_share(0.2)
    found = model.tokens(static, vectors)
    own = (found == static).all(dim=1)
    assert torch.equal(found[~own], model(vectors)[~own])
    assert 70 < int(own.sum()) < 130
    found.sum().backward()
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_a_move_does_not_hang_on_the_gate(share: float):
    _, vectors = pairs()
    model = adapter("residual", hidden=3)
    model.set_share(share)
    assert torch.equal(model.moved(vectors, vectors + 1), model(vectors + 1) - model(vectors))
    assert not model.moved(vectors, vectors).any()
    assert not adapter("static").moved(vectors, vectors + 1).any()


def test_static_does_not_look_at_vectors():
    static, vectors = pairs()
    model = adapter("static", hidden=3)
    assert model.share == 0
    assert model.tokens(static, vectors) is static
    assert torch.equal(model.tokens(static, vectors * torch.nan), static)


@pytest.mark.parametrize("mode", MODES)
def test_what_has_no_vector_stays_static_exactly(mode: str):
    static, vectors = pairs()
    covered = torch.arange(len(static)) % 3 == 0
    found = adapter(mode, hidden=3).tokens(static, vectors, covered)
    assert torch.equal(found[~covered], static[~covered])
    assert torch.equal(found[covered], static[covered]) == (mode == "static")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("match", [False, True])
def test_a_token_does_not_depend_on_its_company(mode: str, match: bool):
    vectors, tokens, groups = planted()
    model = adapter(mode, hidden=3, match=match)
    fit_adapter(model, vectors, tokens, groups, np.zeros(5, dtype=int))
    static, given = torch.from_numpy(tokens), torch.from_numpy(vectors)
    together = model.tokens(static, given)
    alone = torch.cat([model.tokens(static[[row]], given[[row]]) for row in (0, 7, 100)])
    assert torch.allclose(together[[0, 7, 100]], alone, atol=1e-5)


def test_the_network_adds_nothing_at_first():
    vectors = pairs()[1]
    model = adapter("replace", hidden=6)
    assert torch.equal(model(vectors), model.linear(vectors))
    assert model.network is not None
    model(vectors).square().sum().backward()
    assert model.network[-1].weight.grad.abs().sum() > 0, "a network of zeros must be able to leave them"
    assert adapter(hidden=0).network is None


def test_a_planted_map_is_found():
    vectors, tokens, groups = planted()
    model = adapter("replace")
    found = fit_adapter(model, vectors, tokens, groups, np.zeros(5, dtype=int))
    assert found["penalty"] == PENALTIES[0]
    fresh, truth, _ = planted(seed=0, noise=0.0)
    error = (model(torch.from_numpy(fresh)).detach().numpy() - truth) / truth.std()
    assert np.sqrt(np.square(error).mean()) < 0.05
    assert found["scale"] == pytest.approx(vectors.std(axis=0), rel=1e-3)


def test_noise_asks_for_the_largest_penalty():
    rng = np.random.default_rng(0)
    vectors, tokens = rng.normal(size=(60, 40)).astype(np.float32), rng.normal(size=(60, 4)).astype(np.float32)
    found = fit_adapter(adapter(inputs=40), vectors, tokens, np.arange(60) % 5, np.zeros(40, dtype=int))
    assert found["penalty"] == PENALTIES[-1]


def test_what_only_names_the_group_is_worth_nothing():
    # a vector that says which chromosome a gene is on predicts it within the chromosome and nowhere else
    rng = np.random.default_rng(0)
    groups = np.arange(200) % 10
    own = rng.normal(size=(10, 4))
    vectors = (np.eye(10)[groups] + 0.01 * rng.normal(size=(200, 10))).astype(np.float32)
    tokens = own[groups].astype(np.float32)
    by_group = fit_adapter(adapter(inputs=10), vectors, tokens, groups, np.zeros(10, dtype=int))
    at_random = fit_adapter(adapter(inputs=10), vectors, tokens, rng.permutation(200), np.zeros(10, dtype=int))
    assert by_group["penalty"] == PENALTIES[-1]
    assert at_random["penalty"] == PENALTIES[0]


def test_a_block_of_noise_is_weighed_down():
    vectors, tokens, groups = planted(80, noise=0.5)
    noise = np.random.default_rng(5).normal(size=(80, 60)).astype(np.float32)
    both, blocks = np.concatenate([noise, vectors], axis=1), np.repeat([0, 1], [60, 5])
    model = adapter("replace", inputs=65)
    found = fit_adapter(model, both, tokens, groups, blocks)
    assert found["weights"][0] < found["weights"][1] == 1
    other = both.copy()
    other[:, :60] = 0
    change = (model(torch.from_numpy(both)) - model(torch.from_numpy(other))).detach().numpy()
    assert np.abs(change).max() < 0.3 * tokens.std()


def test_matched_tokens_are_as_long_as_static_ones():
    vectors, tokens, groups = planted(noise=3.0)
    model = adapter("replace", hidden=3, match=True)
    fit_adapter(model, vectors, tokens, groups, np.zeros(5, dtype=int))
    adapted = model(torch.from_numpy(vectors)).detach().numpy()
    assert np.linalg.norm(adapted, axis=1).mean() == pytest.approx(np.linalg.norm(tokens, axis=1).mean(), rel=1e-5)
    plain = adapter("replace", hidden=3)
    fit_adapter(plain, vectors, tokens, groups, np.zeros(5, dtype=int))
    assert plain.factor == 1
