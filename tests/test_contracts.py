"""Contracts over the registries: every modality, objective and recipe keeps them, and so would a new one."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from mudata import MuData
from tests.models.test_cell import LIKELIHOOD, built
from tests.tiny import batch_of, cells_of, linear_start, world

import syncyte
import syncyte.recipes
from syncyte.baselines.prediction import log_values
from syncyte.baselines.residual import Kind
from syncyte.baselines.start import fit_start
from syncyte.data.read import open_cells
from syncyte.data.split import Split
from syncyte.modalities import Layout, Tokenizer, all_schemas, modalities
from syncyte.models.assemble import CellSpec, describe_start, empty_model, fill_from_start
from syncyte.models.cell import CellModel, everything, without
from syncyte.models.conditions import ConditionCoder, Shares, describe_attributes
from syncyte.models.genes import GeneSpec
from syncyte.nn.likelihood import likelihoods
from syncyte.objectives.genes import MaskedGenes
from syncyte.objectives.masked import Augmented, MaskedShare, MaskedWhole, objectives
from syncyte.objectives.sets import CountElbo
from syncyte.recipes.base import assemble, recipes
from syncyte.recipes.train import configure
from syncyte.recipes.train_dna import fitting_sizes
from syncyte.recipes.train_genes import GeneReader, GeneRecipe, learn_medians, start_network
from syncyte.recipes.train_sets import SetRecipe, assemble_sets
from syncyte.tasks.translate import predictions, source_cells
from syncyte.types import Batch, Loss, Schema

VOCABULARY = {
    "gene": pd.DataFrame(index=[f"GENE{i}" for i in range(30)]),
    "region": pd.DataFrame(index=[f"chr{1 + i % 3}:{1000 * i}-{1000 * i + 500}" for i in range(30)]),
    "other": pd.DataFrame(index=[f"X{i}" for i in range(30)]),
}
PRESETS = [(name, preset) for name, recipe in recipes.items() for preset in recipe.presets]


# --- modalities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(modalities))
def test_modality(name):
    modality = modalities[name]
    schema = modality.schema
    assert schema.name == name and name in schema.keys and all(key == key.lower() for key in schema.keys)
    assert schema in all_schemas() and modality.residual in ("pearson", "depth") and modality.unit
    assert modality.likelihoods and all(kind == "profile" or kind in likelihoods for kind in modality.likelihoods)
    var = VOCABULARY[schema.feature_kind]
    layout = modality.layout(var, tokens=4, groups=5)
    assert len(layout.token_of) == 30 and set(layout.token_of) == set(range(layout.count)) and layout.most == 4
    rng = np.random.default_rng(0)
    counts = sp.random(6, 30, 0.4, format="csr", random_state=rng, dtype=np.float32)
    counts.data[:] = rng.integers(1, 5, counts.nnz)
    tokens = Tokenizer(layout, np.full(30, 1 / 30, dtype=np.float32))(counts)
    assert tokens["ids"].shape[1] <= 4 and len(tokens["value"]) == counts.nnz
    seen = modality.observed(counts)
    assert (seen.indices == counts.indices).all() and (seen.data > 0).all()


def test_schemas_do_not_collide():
    keys = [key for schema in all_schemas() for key in schema.keys]
    types = [kind for schema in all_schemas() for kind in schema.feature_types]
    assert len(keys) == len(set(keys)) and len(types) == len(set(types))


# --- objectives ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case():
    data = world(50)
    start, counts = linear_start(data, mode="cross")
    return (*built(start, counts, data), counts)


def make(name: str) -> torch.nn.Module:
    given: dict[str, dict[str, Any]] = {
        "masked_share": {"modality": "rna", "ratio": 0.3, "alone": 0.5},
        "masked_whole": {"targets": ("rna", "atac")},
    }
    return objectives[name](**given[name], augmented=Augmented({"rna": 0.3}, {"rna": 0.3}))


@pytest.mark.parametrize("name", list(objectives))
@pytest.mark.parametrize("training", [True, False])
def test_objective(case, name, training):
    """Finite, repeatable from its generator alone, with a gradient, and parts that say what they average over."""
    model, batch, *_ = case
    objective = make(name)
    losses: list[Loss] = []
    for seed in (0, 0, 1):
        model.train(training)
        torch.manual_seed(0)
        losses.append(objective(model, batch, torch.Generator().manual_seed(seed)))
    model.eval()
    first, again, other = losses
    assert torch.isfinite(first.total) and first.total.requires_grad and torch.equal(first.total, again.total)
    assert training is False or not torch.equal(first.total, other.total)
    assert set(first.parts) == set(first.counts) and first.parts
    assert all(not part.requires_grad and torch.isfinite(part) for part in first.parts.values())
    assert all(count > 0 for count in first.counts.values())
    assert torch.equal(first.scaled(2.0).total, 2 * first.total)


# --- recipes ---------------------------------------------------------------------------------------------------------


def set_preset(config: SetRecipe, data: MuData) -> None:
    """Its model starts at the mean shares and at no velocity, and its first objective gives a loss."""
    cells = cells_of(data).only(["rna"])
    split = Split(np.arange(0, 200), np.arange(200, 240), "random", "x")
    attributes = describe_attributes(cells.obs, ["cell_type"], split.train)
    coder, shares = ConditionCoder(attributes), Shares.of(cells.obs, attributes, 0)
    built = assemble_sets(config, cells, split, coder, shares, [], 0)
    batch = batch_of({"rna": built.tokenizer}, {"rna": cells.counts("rna", np.arange(3))})
    with torch.no_grad():
        share = built.model.eval().log_shares(torch.zeros(1, built.model.components)).exp()[0].numpy()
        assert np.corrcoef(np.log(share), np.log(built.tokenizer.share))[0, 1] > 0.9
        condition = coder.tensors(coder.arrays(cells.obs.iloc[:3]))
        state = torch.randn(3, built.model.flow.coordinates)
        assert not built.model.flow(state, torch.rand(3), condition).any()
        loss = CountElbo("rna")(built.model, batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss.total) and set(loss.parts) == {"reconstruction", "kl"}


def gene_preset(config: GeneRecipe, data: MuData) -> None:
    """Its network starts at the closed form, whatever its layers, and its objective gives a loss."""
    cells = cells_of(data).only(["rna"])
    rows = np.arange(200)
    medians = learn_medians(cells, "rna", rows, cells.part("rna").var)
    sizes = fitting_sizes(config.sizes, 200, len(medians), [])
    spec = GeneSpec(modality="rna", features=len(medians), encoding=config.encoding, sizes=sizes)
    model = start_network(spec, cells, rows, medians, 0).eval()
    reader = GeneReader(cells, "rna", config.encoding, medians, spec.per_cell)
    amounts, _ = reader(rows[:4])
    with torch.no_grad():
        tokens = model.tokens()
        read, genes = model.read(amounts, tokens), torch.arange(5)
        place, level = model.split(tokens[:5])
        others = read.total[:, None] - read.amount[:, :5, None] * place
        closed = level + model.spread[:5] * (others * model.mix * place).sum(dim=2)
        assert torch.allclose(model.predict(read, tokens, genes), closed, atol=1e-4)
        objective = MaskedGenes(reader, ratio=config.ratio, asked=config.asked)
        loss = objective(model, Batch({}, {}, {}, torch.arange(8)), torch.Generator().manual_seed(0))
    assert torch.isfinite(loss.total) and set(loss.parts) == {"masked"}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_preset(tiny_data, name, preset):
    """Its configuration survives JSON, its model predicts as the linear model, and its objectives give losses."""
    recipe, config = recipes[name], configure(name, preset)
    assert type(config).parse(config.model_dump(mode="json")) == config and config.preset == preset
    if isinstance(config, GeneRecipe):
        return gene_preset(config, tiny_data)
    if recipe.parts is None:
        return set_preset(config, tiny_data)
    cells = cells_of(tiny_data).only(("atac",) if config.sizes.published else recipe.modalities)
    split = Split(np.arange(0, 200), np.arange(200, 240), "random", "x")
    assembled = assemble(config, cells, split, "batch", 0)
    model = assembled.model.eval()
    attends = config.sizes.layers > 0 and not config.sizes.published
    assert (model.backbone is not None) == attends and assembled.spec.layers == config.sizes.layers
    for part, tokenizer in assembled.tokenizers.items():
        assert tokenizer.layout.most == config.tokens[part] and tokenizer.layout.slots == config.slots.get(part, 0)
    counts = {part: cells.counts(part, np.arange(3)) for part in cells.modalities}
    batch = batch_of(assembled.tokenizers, counts)
    if not config.sizes.published:  # which has no linear start
        source, target = recipe.modalities
        with torch.no_grad():
            predicted = model.predict(model.encode(batch.tokens, without(batch, target)), target).numpy()
        expected = assembled.start.predict(source, target, counts[source])
        # a decoder tied to the table is the linear one to a few percent
        tolerance = {"rtol": 0.1, "atol": 0.02} if config.tied else {"rtol": 5e-3, "atol": 5e-4}
        np.testing.assert_allclose(predicted, expected, **tolerance)
    found = recipe.parts.objectives(config, tuple(cells.modalities))
    wanted = {key for stage in config.stages.values() for key in stage.objectives}
    assert wanted <= set(found) and set(recipe.parts.needs(config)) == {stage.name for stage in config.stages.values()}
    with torch.no_grad():
        for key in wanted:
            assert torch.isfinite(found[key](model, batch, torch.Generator().manual_seed(0)).total)


@pytest.mark.parametrize("name", list(recipes))
def test_smallest_preset_trains_and_serves_its_tasks(name, tiny_data, tiny_run):
    if name != tiny_run.recipe["config"]["name"]:
        pytest.skip("trained by its own tests")
    tasks = set(recipes[name].tasks)
    assert tasks <= set(dir(syncyte)) and {"embed", "translate"} <= tasks
    assert np.isfinite(syncyte.embed(tiny_run, tiny_data).obsm["X_syncyte"]).all()


# --- a further modality is one file ----------------------------------------------------------------------------------


class Protein:
    """Antibody counts; all that the house should need to know of them."""

    schema = Schema("protein", "other", ("Antibody Capture",), ("protein", "adt"))
    residual: Kind = "pearson"
    likelihoods: tuple[str, ...] = ("gaussian", "nb", "poisson")
    per_cell = 0.0
    unit = "expected log1p counts"

    def layout(self, var: pd.DataFrame, *, tokens: int, groups: int, slots: int = 0) -> Layout:
        return Layout(np.arange(len(var)), len(var), tokens)

    def observed(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        return log_values(counts, self.per_cell)


@pytest.fixture
def protein():
    modalities.add("protein")(Protein())
    yield modalities["protein"]
    del modalities._items["protein"]


def with_protein(n: int = 200) -> MuData:
    """Proteins follow sums of genes; names are not genes."""
    data = world(n)
    rng = np.random.default_rng(0)
    mixing = (rng.random((80, 12)) < 0.1) * rng.gamma(1.0, 1.0, (80, 12))
    rate = np.asarray(data["rna"].X @ mixing) * 0.3 + 1
    adt = anndata.AnnData(sp.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=data["rna"].obs[[]])
    adt.var_names = [f"CD{i}_TotalA" for i in range(12)]
    adt.var["feature_types"] = "Antibody Capture"
    return MuData({**{name: data[name] for name in data.mod}, "adt": adt})


def test_a_new_modality_is_read_by_name(protein, tmp_path):
    data = with_protein(40)
    cells = open_cells(data, schemas=all_schemas())
    assert "protein" in cells.modalities and list(cells.part("protein").var.index) == list(data["adt"].var_names)
    data.write(tmp_path / "cells.h5mu")
    again = cells_of(tmp_path / "cells.h5mu")
    assert (again.counts("protein") != cells.counts("protein")).nnz == 0
    alone = data["adt"].copy()
    assert cells_of(alone).modalities == ("protein",)


def three(data: MuData) -> tuple[CellModel, Any, dict, dict]:
    cells = cells_of(data).only(["rna", "atac", "protein"])
    counts = {name: cells.counts(name) for name in cells.modalities}
    present = {name: cells.present(name) for name in cells.modalities}
    kinds = {name: modalities[name].residual for name in cells.modalities}
    totals = {name: modalities[name].per_cell for name in cells.modalities}
    start = fit_start(counts, present, kinds, shared=6, private=6, per_cell=totals)
    layouts = {name: modalities[name].layout(cells.part(name).var, tokens=16, groups=8) for name in cells.modalities}
    spec = describe_start(start, {**LIKELIHOOD, "protein": "gaussian"}, hidden=16, layers=1, width=16, heads=2)
    torch.manual_seed(0)
    model = fill_from_start(empty_model(spec, layouts), start)
    shares = {name: start.encoders[name].residual.share.astype(np.float32) for name in counts}
    return model, start, {name: Tokenizer(layouts[name], shares[name]) for name in counts}, counts


def test_a_new_modality_trains_and_is_translated_to_by_name(protein):
    data = with_protein()
    model, _, tokenizers, counts = three(data)
    batch = batch_of(tokenizers, counts)
    plain = Augmented({}, {})
    found = [
        MaskedShare("protein", ratio=0.3, alone=0.3, augmented=plain),
        MaskedWhole(("rna", "atac", "protein"), augmented=plain),
    ]
    optimizer = torch.optim.AdamW(
        [p for n, p in model.named_parameters() if not n.startswith(("paths", "heads"))], 1e-3
    )
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(5):
        optimizer.zero_grad()
        torch.stack([objective(model, batch, generator).total for objective in found]).sum().backward()
        optimizer.step()
    model.eval()
    truth = protein.observed(counts["protein"]).toarray()
    for shown in (("rna",), ("atac",), ("rna", "atac")):
        given = batch_of(tokenizers, {name: counts[name] for name in shown})
        with torch.no_grad():
            predicted = model.predict(model.encode(given.tokens, everything(given)), "protein").numpy()
        assert predicted.shape == truth.shape and (predicted >= 0).all()
        np.testing.assert_allclose(predicted.mean(axis=0), truth.mean(axis=0), atol=0.15)  # on its own scale
        r = [np.corrcoef(predicted[:, j], truth[:, j])[0, 1] for j in range(12)]
        assert np.mean(r) > 0.1, shown
    noise = {**counts, "protein": sp.csr_matrix(np.random.default_rng(1).poisson(9, truth.shape).astype(np.float32))}
    with torch.no_grad():
        one, two = (
            model.predict(model.encode(given.tokens, without(given, "protein")), "protein")
            for given in (batch, batch_of(tokenizers, noise))
        )
    assert torch.equal(one, two)


def test_a_new_modality_passes_through_the_task(protein, tiny_run):
    """``translate`` knows it by name as soon as the model does."""
    data = with_protein()
    model, start, tokenizers, _ = three(data)
    vocabularies = {name: cells_of(data).part(name).var for name in model.names}
    run = replace(tiny_run, model=model.eval(), tokenizers=tokenizers, vocabularies=vocabularies)
    cells = source_cells(run, cells_of(data), "atac", "protein")
    blocks = list(predictions(run, cells, "protein"))
    assert np.concatenate(blocks).shape == (200, 12)
    result = syncyte.translate(run, data, source="rna", target="protein")
    expected = start.predict("rna", "protein", cells_of(data).counts("rna"))
    np.testing.assert_allclose(result.layers["syncyte_from_rna"].values, expected, rtol=2e-3, atol=2e-4)
    data = data.copy()
    result.write(data)
    assert "syncyte_from_rna" in data["adt"].layers


def test_the_scale_of_a_modality_is_stored_with_its_model(protein):
    model, start, _, _ = three(with_protein())
    totals = {name: head.per_cell for name, head in model.heads.items()}
    assert totals == {"rna": 1e4, "atac": 0.0, "protein": 0.0}
    spec = describe_start(start, {**LIKELIHOOD, "protein": "nb"})
    again = CellSpec.parse(json.loads(spec.model_dump_json()))
    assert again.modalities["protein"].per_cell == 0.0 and again == spec
    old = spec.model_dump()
    for shape in old["modalities"].values():
        del shape["per_cell"]
    assert CellSpec.parse(old).modalities["rna"].per_cell == 1e4  # runs from before it was stored


def test_schemas_are_tried_in_an_order_that_imports_do_not_change(protein):
    assert [schema.name for schema in all_schemas()] == ["atac", "rna", "protein"]
    second = replace(protein.schema, name="another", feature_kind="gene")
    modalities.add("another")(SimpleNamespace(schema=second))
    try:
        assert [schema.name for schema in all_schemas()] == ["atac", "rna", "another", "protein"]
        assert cells_of(world(20)["rna"]).modalities == ("rna",)  # genes stay RNA, whoever else measures genes
    finally:
        del modalities._items["another"]


def test_a_new_modality_beside_a_trained_model_is_ignored(protein, tiny_run):
    data = with_protein(60)
    known = MuData({name: data[name].copy() for name in ("rna", "atac")})
    np.testing.assert_array_equal(
        syncyte.embed(tiny_run, data).obsm["X_syncyte"], syncyte.embed(tiny_run, known).obsm["X_syncyte"]
    )
