"""scVI as a generator: shapes, depths and losses where it is installed, and the sentence where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import nbinom

from syncyte.baselines.deep_generate import ScviGenerator, negative_log_likelihood
from syncyte.errors import DataError, MissingExtraError


def made(cells: int = 300, genes: int = 24) -> tuple[sp.csr_matrix, np.ndarray]:
    """Two types that share no gene beyond a background, and no depth."""
    rng = np.random.default_rng(0)
    kind = np.arange(cells) % 2
    mean = np.where(np.arange(genes) % 2 == kind[:, None], 4.0, 0.3) * np.where(kind, 2.0, 1.0)[:, None]
    counts = rng.poisson(mean * rng.gamma(20, 1 / 20, (cells, 1)))
    return sp.csr_matrix(counts.astype(np.float32)), np.where(kind, "odd", "even")


@pytest.fixture(scope="module")
def fitted():
    pytest.importorskip("scvi")
    counts, labels = made()
    return ScviGenerator(epochs=60, seed=1).fit(counts, labels), counts, labels


def test_without_scvi_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(MissingExtraError, match=r"scVI generator.*pip install 'syncyte\[bench\]'"):
        ScviGenerator().fit(made(20)[0])


def test_likelihood_is_that_of_scipy():
    rng = np.random.default_rng(0)
    mean, dispersion = rng.gamma(1.0, 2.0, (7, 5)), np.array([0.05, 0.5, 2.0, 10.0, 2000.0])
    counts = rng.poisson(mean)
    wanted = -nbinom.logpmf(counts, dispersion, dispersion / (dispersion + mean)).sum(axis=1)
    found = negative_log_likelihood(sp.csr_matrix(counts), mean, dispersion)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    mean[0, 0] = 0.0
    impossible, possible = np.eye(1, 5), np.array([[0, 1, 0, 0, 0]])
    assert negative_log_likelihood(sp.csr_matrix(impossible), mean[:1], dispersion)[0] == np.inf
    assert np.isfinite(negative_log_likelihood(sp.csr_matrix(possible), mean[:1], dispersion)[0])


def test_training_is_counted_and_latents_tell_types(fitted):
    model, counts, labels = fitted
    assert 1 <= model.epochs <= 60
    latents = model.latents(counts)
    assert latents.shape == (300, 10) and np.isfinite(latents).all()
    np.testing.assert_array_equal(latents, model.latents(counts))
    noisy = model.latents(counts, np.random.default_rng(0))
    assert np.abs(noisy - latents).max() > 0.01
    odd = labels == "odd"
    gap = np.abs(latents[odd].mean(axis=0) - latents[~odd].mean(axis=0)) / latents.std(axis=0)
    assert gap.max() > 1


def test_every_source_gives_counts_at_real_depths(fitted):
    model, counts, labels = fitted
    total = np.asarray(counts.sum(axis=1)).ravel()
    odd = labels == "odd"
    for draw in (
        lambda seed: model.posterior_predictive(counts, np.random.default_rng(seed)),
        lambda seed: model.per_type_gaussian(labels, np.random.default_rng(seed)),
        lambda seed: model.prior(300, np.random.default_rng(seed)),
    ):
        first, again, other = draw(0), draw(0), draw(1)
        assert first.shape == (300, 24) and first.dtype == np.int32 and sp.isspmatrix_csr(first)
        assert (first != again).nnz == 0 and (first != other).nnz > 0 and first.data.min() > 0
        assert 0.8 < first.sum() / counts.sum() < 1.2
    cells = model.per_type_gaussian(labels, np.random.default_rng(0)).toarray()
    assert cells[odd][:, 1::2].sum() > 3 * cells[odd][:, ::2].sum()
    assert cells[~odd].sum(axis=1).mean() == pytest.approx(total[~odd].mean(), rel=0.2)


def test_the_split_loss_rewards_the_right_cells(fitted):
    model, counts, _ = fitted
    rng = np.random.default_rng(0)
    half = counts.copy()
    half.data = rng.binomial(counts.data.astype(int), 0.5).astype(np.float32)
    half.eliminate_zeros()
    rest = sp.csr_matrix(counts - half)
    rest.eliminate_zeros()
    own, swapped = model.split_loss(half, rest), model.split_loss(half, rest[np.arange(300)[::-1]])
    assert np.isfinite(own) and own + 5 < swapped
    half = sp.csr_matrix(sp.diags((np.arange(300) > 0).astype(np.float32)) @ half)
    half.eliminate_zeros()
    assert model.split_loss(half, rest) > own  # an empty half foretells nothing


def test_errors_say_what_to_do(fitted):
    model, counts, _ = fitted
    with pytest.raises(DataError, match="24 features; found cells with 5"):
        model.latents(counts[:, :5])
    with pytest.raises(DataError, match="same cells"):
        model.split_loss(counts, counts[:5])
    with pytest.raises(DataError, match=r"Unknown label 'even ones'. Did you mean 'even'\?"):
        model.per_type_gaussian(["even ones"])
    plain = ScviGenerator(epochs=1).fit(counts[:40])
    assert plain.epochs == 1
    with pytest.raises(DataError, match="without labels"):
        plain.per_type_gaussian(["odd"])
