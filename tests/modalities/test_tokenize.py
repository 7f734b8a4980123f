"""Counts to tokens: every entry is there, patches follow the genome, and the most informative tokens stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tensors

from syncyte.errors import ConfigError
from syncyte.modalities import Layout, Tokenizer, all_schemas, embedder, modalities
from syncyte.modalities.atac import patch_regions


def genome(regions: int = 120, seed: int = 0) -> pd.DataFrame:
    """Regions on four chromosomes, shuffled."""
    rng = np.random.default_rng(seed)
    chrom = rng.choice(["chr1", "chr2", "chr10", "chrX"], regions, p=[0.5, 0.3, 0.15, 0.05])
    start = rng.integers(0, 10**8, regions)
    return pd.DataFrame(index=[f"{c}:{s}-{s + 400}" for c, s in zip(chrom, start, strict=True)])


def plain(width: int, most: int = 10**6) -> Tokenizer:
    return Tokenizer(Layout(np.arange(width), width, most), np.full(width, 1 / width, dtype=np.float32))


def check(tokenizer: Tokenizer, counts: sp.csr_matrix) -> dict[str, np.ndarray]:
    """Properties that hold for all tokens."""
    tokens, layout = tokenizer(counts), tokenizer.layout
    rebuilt = sp.csr_matrix((tokens["value"], (tokens["cell"], tokens["feature"])), shape=counts.shape)
    assert (rebuilt != counts).nnz == 0 and len(tokens["value"]) == counts.nnz
    assert (np.diff(tokens["cell"]) >= 0).all()
    assert {key: array.dtype for key, array in tokens.items()} == {
        "feature": np.int64, "value": np.float32, "cell": np.int64, "token": np.int64, "ids": np.int64, "valid": bool,
    }  # fmt: skip
    placed = tokens["token"] >= 0
    row, column = np.divmod(tokens["token"][placed], max(tokens["ids"].shape[1], 1))
    np.testing.assert_array_equal(row, tokens["cell"][placed])
    assert tokens["valid"][row, column].all()
    np.testing.assert_array_equal(tokens["ids"][row, column], layout.token_of[tokens["feature"][placed]])
    held = np.zeros_like(tokens["valid"])
    held[row, column] = True
    np.testing.assert_array_equal(held, tokens["valid"])  # no valid token without an entry
    for cell in range(counts.shape[0]):
        ids = tokens["ids"][cell][tokens["valid"][cell]]
        wanted = set(layout.token_of[counts[[cell]].indices])
        assert len(ids) == len(set(ids)) == min(len(wanted), layout.most) and set(ids) <= wanted
    return tokens


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 30), st.integers(1, 8), st.integers(1, 12))
def test_all_entries_and_all_tokens(seed, cells, features, patches, most):
    rng = np.random.default_rng(seed)
    counts = sp.random(cells, features, rng.random(), format="csr", random_state=rng, dtype=np.float32)
    counts.data[:] = rng.integers(1, 9, counts.nnz)
    groups, patch_of = np.unique(rng.integers(0, patches, features), return_inverse=True)
    share = rng.random(features).astype(np.float32) + 1e-3
    check(Tokenizer(Layout(patch_of, len(groups), most), share), counts)
    check(Tokenizer(Layout(np.arange(features), features, most), share), counts)


def test_tokens_of_two_cells_by_hand():
    counts = sp.csr_matrix(np.array([[0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 5]], dtype=np.float32))
    tokens = Tokenizer(Layout(np.array([0, 0, 1, 1]), 2, 5), np.full(4, 0.25, dtype=np.float32))(counts)
    assert tokens["feature"].tolist() == [1, 3, 0, 3] and tokens["cell"].tolist() == [0, 0, 2, 2]
    assert tokens["ids"].tolist() == [[0, 1], [0, 0], [0, 1]]
    assert tokens["valid"].tolist() == [[True, True], [False, False], [True, True]]
    assert tokens["token"].tolist() == [0, 1, 4, 5]


def test_an_empty_minibatch_has_no_columns():
    tokens = plain(4)(sp.csr_matrix((3, 4), dtype=np.float32))
    assert tokens["ids"].shape == tokens["valid"].shape == (3, 0) and len(tokens["token"]) == 0


def test_the_most_informative_tokens_stay():
    """What is far above its expectation outweighs what is merely frequent."""
    share = np.array([0.9, 0.04, 0.03, 0.02, 0.01], dtype=np.float32)
    counts = sp.csr_matrix(np.array([[5, 1, 1, 1, 1], [90, 1, 1, 0, 0]], dtype=np.float32))
    tokens = check(Tokenizer(Layout(np.arange(5), 5, 2), share), counts)
    assert tokens["ids"].tolist() == [[3, 4], [0, 2]]
    assert tokens["token"].tolist() == [-1, -1, -1, 0, 1, 2, -1, 3]


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_patches(seed, wanted):
    """No region lost, no patch empty, equal sizes and genome order within a chromosome."""
    rng = np.random.default_rng(seed)
    chrom = rng.integers(0, 4, rng.integers(1, 100))
    chrom = np.unique(chrom, return_inverse=True)[1]
    start = rng.integers(0, 10**6, len(chrom))
    patch = patch_regions(chrom, start, wanted)
    count = patch.max() + 1
    assert patch.min() == 0 and (np.bincount(patch) > 0).all()
    assert abs(count - min(wanted, len(chrom))) <= len(np.unique(chrom))
    order = np.lexsort((start, chrom))
    steps = np.diff(patch[order])
    assert ((steps == 0) | (steps == 1)).all()
    for code in np.unique(chrom):
        sizes = np.bincount(patch[chrom == code])
        sizes = sizes[sizes > 0]
        assert sizes.max() - sizes.min() <= 1
        assert len(np.intersect1d(patch[chrom == code], patch[chrom != code])) == 0


def test_atac_layout_follows_the_genome():
    var = genome()
    layout = modalities["atac"].layout(var, tokens=50, groups=12)
    assert layout.most == 50 and layout.slot_of is None and layout.slots == 0
    assert layout.group.shape == layout.position.shape == (layout.count,)
    assert layout.position.min() >= 0 and layout.position.max() <= 1
    chrom = pd.Series(var.index).str.partition(":")[0].to_numpy()
    for patch in range(layout.count):
        assert len(set(chrom[layout.token_of == patch])) == 1
    assert len({(c, layout.group[p]) for c, p in zip(chrom, layout.token_of, strict=True)}) == 4
    start = pd.Series(var.index).str.extract(r":(\d+)-")[0].astype(int).to_numpy()
    middle = [start[layout.token_of == patch].mean() / start.max() for patch in range(layout.count)]
    np.testing.assert_allclose(layout.position, middle, rtol=1e-5)


def test_slots_give_each_region_its_place():
    var = genome()
    layout = modalities["atac"].layout(var, tokens=50, groups=6, slots=100)
    places = set(zip(layout.token_of, layout.slot_of, strict=True))
    assert len(places) == len(var) and layout.slots == 100
    for patch in range(layout.count):
        members = np.flatnonzero(layout.token_of == patch)
        start = pd.Series(var.index[members]).str.extract(r":(\d+)-")[0].astype(int).to_numpy()
        np.testing.assert_array_equal(layout.slot_of[members[np.argsort(start)]], np.arange(len(members)))
    few = modalities["atac"].layout(var, tokens=50, groups=6, slots=3)
    assert few.slot_of.max() == 2


def test_slot_embedding_is_a_dense_linear_layer_over_slots():
    layout = modalities["atac"].layout(genome(), tokens=50, groups=6, slots=40)
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix((rng.random((4, 120)) < 0.3).astype(np.float32))
    tokens = tensors(Tokenizer(layout, np.full(120, 1 / 120, dtype=np.float32)), counts)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = embedder(layout, 8, components=5)
    table, weight = torch.randn(120, 5), torch.randn(len(tokens.value))
    vectors, valid = module(tokens, table, weight, torch.ones_like(tokens.value, dtype=torch.bool))
    dense = torch.zeros(4, layout.count, 40)
    dense[tokens.cell, torch.as_tensor(layout.token_of)[tokens.feature], module.slot_of[tokens.feature]] = 1
    linear = dense @ module.slot_table @ module.project.weight.T
    amount = module.amount(torch.log1p(dense.sum(dim=2, keepdim=True)))
    identity = module.identity.weight + module.group_table(module.group) + module.place_project(module.place)
    expected = module.norm(linear + amount + identity)
    for cell in range(4):
        torch.testing.assert_close(vectors[cell][valid[cell]], expected[cell][tokens.ids[cell][valid[cell]]])


def test_token_vectors_by_hand():
    """Weighted sum of table rows, identity and amount; hidden entries take their token with them."""
    layout = Layout(np.array([0, 0, 1, 2]), 3, 9)
    tokens = tensors(
        Tokenizer(layout, np.full(4, 0.25, dtype=np.float32)), sp.csr_matrix([[1.0, 4, 0, 2]], dtype=np.float32)
    )
    module = embedder(layout, 6, components=2)
    table, weight = torch.randn(4, 2), torch.tensor([0.5, -1.0, 2.0])
    vectors, valid = module(tokens, table, weight, torch.tensor([True, True, False]))
    first = (
        module.project(0.5 * table[0] - table[1])
        + module.identity.weight[0]
        + module.amount(torch.log(torch.tensor([6.0])))
    )
    torch.testing.assert_close(vectors[0, 0], module.norm(first))
    assert valid.tolist() == [[True, False]]


def test_registered_modalities_answer():
    assert {"rna", "atac"} <= {schema.name for schema in all_schemas()}
    counts = sp.csr_matrix(np.array([[1, 0, 3], [0, 0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(modalities["atac"].observed(counts).toarray(), [[1, 0, 1], [0, 0, 0]])
    expected = [[np.log1p(2500), 0, np.log1p(7500)], [0, 0, 0]]
    np.testing.assert_allclose(modalities["rna"].observed(counts).toarray(), expected, rtol=1e-6)
    layout = modalities["rna"].layout(pd.DataFrame(index=list("abc")), tokens=2, groups=9)
    assert (layout.count, layout.most, layout.group, layout.slots) == (3, 2, None, 0)
    with pytest.raises(ConfigError, match=r"Unknown modality 'rnaa'\. Did you mean 'rna'"):
        modalities["rnaa"]
