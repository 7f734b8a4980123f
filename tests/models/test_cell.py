"""The cell model: at its start it is the linear model, and it learns beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import batch_of, linear_start, world

from syncyte.errors import CheckpointError, ConfigError
from syncyte.modalities import Tokenizer
from syncyte.models.assemble import CellSpec, describe_start, empty_model, fill_from_start
from syncyte.models.cell import everything, without
from syncyte.recipes.base import forget_start, layouts_of
from syncyte.recipes.train import configure
from syncyte.train.checkpoint import load_weights
from syncyte.types import Visible

LIKELIHOOD = {"rna": "gaussian", "atac": "profile"}


def built(start, counts, data, likelihood=LIKELIHOOD, **sizes):
    """Model filled from a start, and all cells as one minibatch."""
    config = configure("clm_x", "tiny")
    layouts = layouts_of(config, {name: data[name].var for name in counts})
    chosen = {**config.sizes.model_dump(), **sizes}
    spec = describe_start(start, {name: likelihood[name] for name in counts}, **chosen)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fill_from_start(empty_model(spec, layouts), start).eval()
    tokenizers = {
        name: Tokenizer(layouts[name], start.encoders[name].residual.share.astype(np.float32)) for name in counts
    }
    return model, batch_of(tokenizers, counts), tokenizers


@pytest.fixture(scope="module")
def case():
    data = world(80)
    start, counts = linear_start(data, mode="cross")
    return (start, counts, data, *built(start, counts, data))


@torch.no_grad()
def predicted(model, batch, target):
    return model.predict(model.encode(batch.tokens, without(batch, target)), target).numpy()


@pytest.mark.parametrize(("source", "target"), [("rna", "atac"), ("atac", "rna")])
@pytest.mark.parametrize("mode", ["cross", "bridge", "separate"])
def test_the_start_predicts_as_the_linear_model(source, target, mode):
    data = world(80)
    start, counts = linear_start(data, mode=mode)
    if mode == "separate":
        source = start.source[target]
    model, _, tokenizers = built(start, counts, data)
    batch = batch_of(tokenizers, {source: counts[source]})
    with torch.no_grad():
        encoded = model.encode(batch.tokens, everything(batch))
        got = model.predict(encoded, target).numpy()
    np.testing.assert_allclose(encoded.latent, start.latent(source, counts[source]), atol=2e-4)
    assert torch.equal(encoded.latent, encoded.base)
    np.testing.assert_allclose(got, start.predict(source, target, counts[source]), rtol=2e-3, atol=2e-4)


def test_context_equals_the_start_and_is_zero_where_unseen(case):
    start, counts, _, model, batch, _ = case
    with torch.no_grad():
        context = model.encode(batch.tokens, everything(batch)).context
        hidden = model.encode(batch.tokens, without(batch, "atac")).context
    for index, name in enumerate(model.names):
        np.testing.assert_allclose(context[:, index], start.encoders[name].context(counts[name]), atol=1e-3)
    assert torch.equal(hidden[:, 0], context[:, 0]) and (hidden[:, 1] == 0).all()


def test_several_modalities_blend(case):
    _, _, _, model, batch, _ = case
    with torch.no_grad():
        both = model.encode(batch.tokens, everything(batch))
        parts = [both.parts[name][:, : model.components] for name in model.names]
        torch.testing.assert_close(both.latent, (parts[0] + parts[1]) / 2)
        assert both.states.shape[0] == len(batch) and both.valid[:, 0].all()
        model.blend[0] = np.log(3.0)
        try:
            torch.testing.assert_close(
                model.encode(batch.tokens, everything(batch)).latent, (3 * parts[0] + parts[1]) / 4
            )
        finally:
            model.blend[0] = 0


def test_nothing_seen_is_finite(case):
    _, _, _, model, batch, _ = case
    nothing = {name: Visible(torch.zeros(len(batch), dtype=torch.bool)) for name in model.names}
    with torch.no_grad():
        encoded = model.encode(batch.tokens, nothing)
        assert torch.isfinite(encoded.latent).all() and (encoded.base == 0).all()
        for name in model.names:
            assert torch.isfinite(model.predict(encoded, name)).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "nb", "poisson"])
@pytest.mark.parametrize("opened", ["profile", "bernoulli", "poisson"])
def test_every_likelihood_gives_a_loss_that_reaches_the_residual(case, likelihood, opened):
    start, counts, data, _, _, _ = case
    model, batch, _ = built(start, counts, data, {"rna": likelihood, "atac": opened})
    for target in model.names:
        encoded = model.encode(batch.tokens, without(batch, target))
        loss = model.heads[target].loss(
            model.decode(encoded, target), batch.tokens[target], batch.present[target], None
        )
        assert torch.isfinite(loss.total) and set(loss.parts) == set(loss.counts)
        model.zero_grad()
        loss.total.backward()
        reached = model.out.weight.grad is not None and bool(model.out.weight.grad.abs().sum() > 0)
        flat = target == "rna" and likelihood != "gaussian"  # the profile of counts starts without loadings
        assert reached != flat or model.heads[target].weight.grad.abs().sum() > 0
        predicted = model.predict(encoded, target)
        assert torch.isfinite(predicted).all() and (predicted >= 0).all()


def test_the_gate_shrinks_the_residual_and_training_ignores_it(case):
    start, counts, data, _, _, _ = case
    model, batch, _ = built(start, counts, data)
    with torch.no_grad():
        model.out.bias.add_(0.5)
        encoded = model.encode(batch.tokens, without(batch, "rna"))
        model.gate[0] = 0.0
        shut, raw = model.decode(encoded, "rna"), model.decode(encoded, "rna", gated=False)
        model.gate[0] = 1.0
        torch.testing.assert_close(model.decode(encoded, "rna"), raw)
    assert not torch.allclose(shut, raw)
    expected = np.maximum(shut.numpy(), 0)
    np.testing.assert_allclose(expected, start.predict("atac", "rna", counts["atac"]), rtol=2e-3, atol=2e-4)


def test_batch_effects_are_centred_and_optional(case):
    start, counts, data, _, _, _ = case
    model, batch, _ = built(start, counts, data, batches=3)
    with torch.no_grad():
        encoded = model.encode(batch.tokens, without(batch, "rna"))
        plain = model.decode(encoded, "rna")
        torch.testing.assert_close(model.decode(encoded, "rna", torch.zeros(len(batch), dtype=torch.long)), plain)
        model.batch_effect.copy_(torch.randn(3, model.components))
        assert torch.equal(model.decode(encoded, "rna", torch.full((len(batch),), -1)), plain)
        every = [model.decode(encoded, "rna", torch.full((len(batch),), code)) for code in range(3)]
        assert not torch.allclose(every[0], every[1])
        torch.testing.assert_close(torch.stack(every).mean(dim=0), plain, rtol=1e-4, atol=1e-4)


def test_the_start_is_forgotten_only_where_asked(case):
    start, counts, data, _, batch, _ = case
    model, _, _ = built(start, counts, data)
    before = predicted(model, batch, "rna")
    bias = model.heads["rna"].bias.clone()
    forget_start(model, 0)
    assert torch.equal(model.heads["rna"].bias, bias)
    assert not np.allclose(predicted(model, batch, "rna"), before)


def test_a_model_is_rebuilt_from_its_description_strictly(case, tmp_path):
    start, _, data, model, batch, _ = case
    config = configure("clm_x", "tiny")
    layouts = layouts_of(config, {name: data[name].var for name in model.names})
    spec = describe_start(start, LIKELIHOOD, **config.sizes.model_dump())
    again = CellSpec.parse(spec.model_dump(mode="json"))
    assert again == spec
    other = empty_model(again, layouts).eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights(other, weights, tmp_path)
    np.testing.assert_array_equal(predicted(other, batch, "rna"), predicted(model, batch, "rna"))
    short = {name: tensor for name, tensor in weights.items() if name != "out.weight"}
    with pytest.raises(CheckpointError, match=r"out\.weight"):
        load_weights(empty_model(again, layouts), short, tmp_path)
    with pytest.raises(CheckpointError, match="extra"):
        load_weights(empty_model(again, layouts), {**weights, "extra": torch.zeros(1)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"out\.weight"):
        load_weights(empty_model(again, layouts), {**weights, "out.weight": torch.zeros(3, 3)}, tmp_path)
    with pytest.raises(ConfigError, match="components"):
        CellSpec.parse({**spec.model_dump(), "component": 3})
