"""The gene network: the closed form inside it, and that a hidden gene is not seen by its own prediction."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tests.tiny_dna import gene_model

from syncyte.baselines.gene_space import fit_gene_space

LAYERS = (0, 1)


def cells(b: int = 5, genes: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(b, genes, generator=generator)
    return values * (torch.rand(b, genes, generator=generator) < 0.7)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_hidden_gene_does_not_reach_its_own_prediction(layers: int, tied: bool):
    model, amounts, genes = gene_model(layers=layers, sizes={"tied": tied}), cells(), torch.arange(12)
    tokens = model.tokens()
    for gene in (0, 5, 11):
        hidden = torch.zeros(5, 12, dtype=torch.bool)
        hidden[:, gene] = True
        first = model.predict(model.read(amounts, tokens, hidden), tokens, genes)
        for noise in (0.0, 0.3, 9.0):  # absent, present, and the largest of all
            other = amounts.clone()
            other[:, gene] = noise
            assert torch.equal(first, model.predict(model.read(other, tokens, hidden), tokens, genes))


@pytest.mark.parametrize("layers", LAYERS)
def test_a_gene_that_is_seen_matters_to_others(layers: int):
    model, amounts = gene_model(layers=layers), cells()
    other = amounts.clone()
    other[:, 3] += 1
    tokens, asked = model.tokens(), torch.tensor([5])
    first, second = (model.predict(model.read(one, tokens), tokens, asked) for one in (amounts, other))
    assert (first != second).all()


def test_a_gene_is_predicted_from_the_others_alone():
    model, amounts = gene_model(), cells()
    other = amounts.clone()
    other[:, 3] += 2
    tokens, asked = model.tokens(), torch.tensor([3])
    first, second = (model.predict(model.read(one, tokens), tokens, asked) for one in (amounts, other))
    assert torch.allclose(first, second, atol=1e-5)


def test_it_is_the_closed_form():
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(size=(80, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(80, 12)), 0, None)
    space = fit_gene_space(sp.csr_matrix(values.astype(np.float32)), 4)
    model = gene_model()
    with torch.no_grad():
        for name, array in (("mean", space.mean), ("sd", space.sd), ("table", space.table), ("mix", space.mix)):
            getattr(model, name).copy_(torch.from_numpy(np.asarray(array, dtype=np.float32)))
        tokens = model.tokens()
        found = model.predict(model.read(torch.from_numpy(values).float(), tokens), tokens, torch.arange(12))
    a = (values - space.mean) / space.sd
    z = a @ space.table
    others = z[:, None] - a[:, :, None] * space.table
    expected = model.level.numpy() + model.spread.numpy() * (others * space.mix * space.table).sum(axis=2)
    assert found.numpy() == pytest.approx(expected, abs=1e-4)


def test_attention_starts_at_nothing():
    from syncyte.models.genes import GeneModel

    spec = gene_model(layers=1).spec
    torch.manual_seed(0)
    deep, amounts, asked = GeneModel(spec).eval(), cells(), torch.arange(12)
    plain = GeneModel(spec.model_copy(update={"sizes": spec.sizes.model_copy(update={"layers": 0})})).eval()
    plain.load_state_dict(deep.state_dict(), strict=False)
    tokens = deep.tokens()
    with torch.no_grad():
        found = [one.predict(one.read(amounts, tokens), tokens, asked) for one in (deep, plain)]
    assert torch.equal(*found)


@pytest.mark.parametrize("layers", LAYERS)
def test_the_embedding_sums_up_to_the_linear_part(layers: int):
    model, amounts, asked = gene_model(layers=layers), cells(), torch.tensor([1, 4])
    tokens = model.tokens()
    with torch.no_grad():
        read = model.read(amounts, tokens)
        found, context = model.context(read, tokens[asked], asked, model.head(tokens)[asked])
    linear = context[:, :, :4].sum(dim=2)
    if layers:
        assert context.shape == (5, 2, 4 + 8)
    else:
        assert torch.allclose(found, linear, atol=1e-6)


@pytest.mark.parametrize("layers", LAYERS)
def test_a_prediction_does_not_depend_on_what_else_is_asked(layers: int):
    model, amounts = gene_model(layers=layers), cells()
    tokens = model.tokens()
    read = model.read(amounts, tokens)
    every = model.predict(read, tokens, torch.arange(12))
    assert torch.allclose(every[:, [7, 2]], model.predict(read, tokens, torch.tensor([7, 2])), atol=1e-5)


def test_tokens_go_there_and_back():
    model = gene_model()
    place, level = model.split(model.tokens())
    assert torch.allclose(place, model.table, atol=1e-6)
    assert torch.allclose(level, model.level, atol=1e-6)


def test_a_vector_that_is_the_own_one_moves_nothing():
    model = gene_model(inputs=6)
    own = model.vectors[torch.tensor([2, 9])]
    assert not model.moved(own, own).any()
    assert model.moved(own, own + 1).any(dim=1).all()


def test_lora_begins_at_nothing_and_learns_alone():
    model, amounts, asked = gene_model(layers=1), cells(), torch.arange(12)
    tokens = model.tokens()
    with torch.no_grad():
        before = model.predict(model.read(amounts, tokens), tokens, asked)
        model.add_lora(2)
        model.eval()
        after = model.predict(model.read(amounts, tokens), tokens, asked)
    assert torch.allclose(before, after, atol=1e-6)
    assert model.spec.lora == 2
    assert [name for name, _ in model.named_parameters() if "lora_" in name]
