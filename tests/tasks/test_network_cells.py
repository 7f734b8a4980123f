"""The way of a changed token through cells: exactly nothing where nothing changes, and one answer by either way."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from tests.tiny import cells_of
from tests.tiny_dna import counted, moved, network_of

from syncyte.baselines.amounts import BINS, PER_CELL, amounts
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.network_cells import EACH, FEWEST, SHIFTED, NetworkCells, Response, _Places

GENE = 1  # a factor, in nearly all cells
PARTS = ("own", "change", "shift")


@pytest.fixture(scope="module")
def network(dna_run: GeneRun, dna_world: Regulation) -> NetworkCells:
    return network_of(dna_run, dna_world)


@pytest.fixture(scope="module")
def deep(dna_deep_run: GeneRun, dna_world: Regulation) -> NetworkCells:
    assert dna_deep_run.model.read_out.weight.abs().max() > 0, "attention says nothing"
    return network_of(dna_deep_run, dna_world)


@pytest.fixture(params=["sum", "again", "attention"])
def way(request: pytest.FixtureRequest) -> tuple[NetworkCells, dict]:
    """The two ways of reading cells, and a network that has only one."""
    found = request.getfixturevalue("deep" if request.param == "attention" else "network")
    return found, {"again": True} if request.param == "again" else {}


def tokens(network: NetworkCells, gene: int = GENE, size: float = 1.0) -> torch.Tensor:
    turned = torch.randn(2, network.tokens.shape[1], generator=torch.Generator().manual_seed(0))
    return network.tokens[gene] + size * turned


def assert_nothing(response: Response):
    for name in PARTS:
        values = getattr(response, name)
        assert np.isfinite(values).all()
        assert not values.any(), f"{name} is not exactly zero"


HOW = pytest.mark.parametrize("how", [{}, {"kept": True}, {"carried": True}], ids=["both", "token", "value"])


@HOW
def test_summing_again_is_reading_again(network: NetworkCells, how: dict):
    fast = network.respond(GENE, tokens(network), **how)
    slow = network.respond(GENE, tokens(network), **how, again=True)
    for name in PARTS:
        first, second = getattr(fast, name), getattr(slow, name)
        assert np.abs(second).max() > 1e-4
        assert first == pytest.approx(second, rel=1e-3, abs=1e-5), name
    assert np.array_equal(fast.cells, slow.cells)


def test_it_is_so_from_another_reference_too(network: NetworkCells):
    first, second = tokens(network)
    fast, slow = (network.respond(GENE, second[None], first, again=again) for again in (False, True))
    for name in PARTS:
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), rel=1e-3, abs=1e-5), name


@HOW
def test_the_own_token_changes_nothing(way: tuple[NetworkCells, dict], how: dict):
    network, options = way
    assert_nothing(network.respond(GENE, network.tokens[[GENE, GENE]], **how, **options))


@HOW
def test_setting_a_token_back_leaves_nothing(way: tuple[NetworkCells, dict], how: dict):
    network, options = way
    changed = tokens(network)[0]
    assert np.abs(network.respond(GENE, changed[None], **how, **options).change).max() > 0
    assert_nothing(network.respond(GENE, changed[None], changed, **how, **options))


def test_value_and_token_act_together(network: NetworkCells):
    """Both parts leave out only the product of both changes, which is small where the changes are."""
    small = tokens(network, size=0.02)
    both, token, value = (network.respond(GENE, small, **how).change for how in ({}, {"kept": True}, {"carried": True}))
    assert np.abs(both - token - value).max() < 0.2 * np.abs(both).max()
    assert np.abs(token).max() > 0
    assert np.abs(value).max() > 0


def test_there_and_back_are_mirror_images_where_the_value_is_kept(way: tuple[NetworkCells, dict]):
    network, options = way
    one, other = network.tokens[GENE], tokens(network)[0]
    there = network.respond(GENE, other[None], one, kept=True, **options)
    back = network.respond(GENE, one[None], other, kept=True, **options)
    exact = not options and network.model.backbone is None  # one product against its negative
    assert there.change == pytest.approx(-back.change, rel=0 if exact else 1e-5, abs=0 if exact else 1e-5)
    assert there.shift == pytest.approx(back.shift, rel=1e-3, abs=1e-5)
    assert there.own == pytest.approx(-back.own, abs=1e-5)


@pytest.mark.parametrize("how", [{}, {"carried": True}])
def test_there_and_back_are_mirror_images_where_the_value_moves(way: tuple[NetworkCells, dict], how: dict):
    network, options = way
    one, other = network.tokens[GENE], tokens(network)[0]
    there = network.respond(GENE, other[None], one, **how, **options)
    back = network.respond(GENE, one[None], other, **how, **options)
    assert np.abs(there.change).max() > 0
    assert there.own == pytest.approx(-back.own, abs=1e-6)
    assert there.change == pytest.approx(-back.change, rel=1e-5, abs=1e-6)
    assert there.shift == pytest.approx(back.shift, rel=1e-3, abs=1e-5)


def test_the_gene_itself_is_not_among_the_others(way: tuple[NetworkCells, dict]):
    network, options = way
    found = network.respond(GENE, tokens(network), **options)
    assert not found.change[:, :, GENE].any()
    assert not found.shift[:, :, GENE].any()
    assert np.abs(found.own).min() > 0


def test_a_removed_gene_is_not_among_the_others(way: tuple[NetworkCells, dict]):
    network, _ = way
    for how in ("delete", "mask"):
        found = network.without(GENE, how)
        assert not found.own.any()
        assert not found.change[:, :, GENE].any()
        assert np.abs(found.change).max() > 0
    with_counts, hidden = (network.without(GENE, how).change for how in ("delete", "mask"))
    assert not np.allclose(with_counts, hidden)


def test_the_mean_of_cells_by_hand(network: NetworkCells, dna_run: GeneRun):
    model, token = network.model, tokens(network)[0]
    found = network.respond(GENE, token[None], kept=True)
    unit = 4
    rows = network.expressing(GENE)
    rows = rows[network.unit[rows] == unit]
    amount = torch.from_numpy(network.amount[rows].toarray())
    table = network.tokens.clone()
    table[GENE] = token
    asked = torch.arange(model.spec.features)
    with torch.no_grad():
        before = model.context(model.read(amount, network.tokens), network.tokens, asked, network.head)[0]
        after = model.context(model.read(amount, table), network.tokens, asked, network.head)[0]
    expected = ((after - before) * model.spread).mean(dim=0).numpy()
    expected[GENE] = 0
    assert found.change[0, unit] == pytest.approx(expected, abs=1e-5)
    assert found.cells[unit] == len(rows)


def test_a_reply_does_not_depend_on_what_else_is_asked(way: tuple[NetworkCells, dict]):
    network, options = way
    both = network.respond(GENE, tokens(network), **options)
    alone = network.respond(GENE, tokens(network)[1:], **options)
    for name in PARTS:
        assert getattr(both, name)[1] == pytest.approx(getattr(alone, name)[0], rel=1e-3, abs=1e-6), name


def test_without_shifts_they_are_missing(network: NetworkCells):
    found = network.respond(GENE, tokens(network), shifts=False)
    others = np.delete(found.shift, GENE, axis=2)
    assert np.isnan(others).all()
    assert np.array_equal(found.change, network.respond(GENE, tokens(network)).change)


def test_only_cells_that_express_the_gene_are_read(dna_run: GeneRun, dna_world: Regulation):
    seen = (counted(cells_of(dna_world.cells)) > 0).toarray().mean(axis=0)
    gene = int(np.abs(seen - 0.6).argmin())
    world = dna_world.cells.copy()
    counts = world["rna"].X.tolil()
    silent = np.flatnonzero(world["rna"].X[:, gene].toarray().ravel() == 0)
    assert 20 < len(silent) < 380
    counts[silent] = 3 * counts[silent[::-1]]  # other cells altogether, and still without the gene
    world["rna"].X = sp.csr_matrix(counts)
    first, second = (
        NetworkCells(
            dna_run.model,
            dna_run.align(cells_of(data)),
            pd.Series(dna_world.cells.obs["cell_type"]),
            pd.Series(dna_world.cells.obs["donor"]),
            dna_run.medians,
        ).respond(gene, moved(dna_run, gene)[None])
        for data in (dna_world.cells, world)
    )
    for name in PARTS:
        assert np.allclose(getattr(first, name), getattr(second, name), equal_nan=True, atol=1e-6), name


def test_units_are_donors_in_groups_and_few_cells_say_nothing(dna_run: GeneRun, dna_world: Regulation):
    cells = dna_run.align(cells_of(dna_world.cells))
    groups = pd.Series(np.where(np.arange(400) < 2, "rare", "common"), index=cells.names)
    donors = dna_world.cells.obs["donor"].astype(object).where(np.arange(400) != 5, None)
    network = NetworkCells(dna_run.model, cells, groups, donors, dna_run.medians)
    assert len(network.unit) == 399, "a cell without a donor takes no part"
    found = network.respond(GENE, moved(dna_run, GENE)[None])
    few = found.cells < FEWEST
    assert set(network.units["group"][few]) == {"rare"}
    for name in PARTS:
        values = getattr(found, name)
        assert np.isnan(values[:, few]).all()
        assert np.isfinite(values[:, ~few]).all()


def test_no_more_cells_are_followed_than_asked_for(dna_run: GeneRun, dna_world: Regulation, network: NetworkCells):
    assert (np.bincount(network.unit[network.expressing(GENE)]) <= EACH).all()
    few = network_of(dna_run, dna_world, each=5)
    rows = few.expressing(GENE)
    assert (np.bincount(few.unit[rows]) == 5).all()
    assert set(rows) <= set(network.expressing(GENE))
    assert SHIFTED > 5
    assert few.fingerprint != network.fingerprint
    assert network_of(dna_run, dna_world).fingerprint == network.fingerprint
    assert network_of(dna_run, dna_world, seed=1).fingerprint != network.fingerprint


def test_other_counts_and_weights_have_another_fingerprint(dna_run: GeneRun, dna_world: Regulation):
    network = network_of(dna_run, dna_world)
    other = dna_world.cells.copy()
    other["rna"].X = other["rna"].X[:, ::-1].tocsr()  # the same depth in every cell
    cells = dna_run.align(cells_of(other))
    told = (cells.obs["cell_type"], cells.obs["donor"])
    assert NetworkCells(dna_run.model, cells, *told, dna_run.medians).fingerprint != network.fingerprint
    model = copy.deepcopy(dna_run.model)
    model.spread *= 2
    assert network_of(replace(dna_run, model=model), dna_world).fingerprint != network.fingerprint


def stepped(kind: str, own: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Counts with a gene in 40 cells, its values, their changes, and the steps of its amount."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 2.0, 30), (40, 30)).astype(np.float64)
    gene, medians = 4, rng.uniform(0.5, 4, 30)
    rows = np.flatnonzero(counts[:, gene] > 0)
    total = counts.sum(axis=1)
    now = np.log1p(counts[rows, gene] / total[rows] * PER_CELL).astype(np.float32)
    if own is None:
        own = rng.normal(0, 1.5, (3, len(rows))).astype(np.float32)
        own[0, ::2] = 0
        own[1] = -now - 1  # below nothing
    own = np.broadcast_to(own, (len(own), len(rows))).astype(np.float32)
    step = _Places(sp.csr_matrix(counts), kind, medians).step(gene, rows, now, own, total)
    before = amounts(sp.csr_matrix(counts), kind, medians, total=total).toarray()[rows, gene]
    after = np.empty_like(step)
    for number, change in enumerate(own):
        other = counts.copy()
        other[rows, gene] = np.expm1(np.maximum(now + change, 0)) * total[rows] / PER_CELL
        other[rows[change == 0], gene] = counts[rows[change == 0], gene]
        after[number] = amounts(sp.csr_matrix(other), kind, medians, total=total).toarray()[rows, gene]
    return counts[rows], own, before, after, step


@pytest.mark.parametrize("kind", ["rank", "bins", "log"])
def test_a_moved_value_has_about_the_amount_it_would_have(kind: str):
    counts, _, before, after, step = stepped(kind)
    many = (counts > 0).sum(axis=1)
    equals = np.array([np.unique(row[row > 0], return_counts=True)[1].max() for row in counts])
    near = {"log": 1e-5, "rank": (1 + equals) / 2 / many, "bins": (1 + equals) / 2 / many + 1 / BINS}[kind]
    assert (np.abs(step - (after - before)) <= near).all()
    assert not step[0, ::2].any()
    if kind == "rank":
        assert step[1] == pytest.approx(-before, abs=1e-6)


@pytest.mark.parametrize("kind", ["rank", "bins"])
def test_a_small_change_is_a_small_step(kind: str):
    *_, step = stepped(kind, np.linspace(-0.5, 0.5, 2001)[:, None])
    assert (np.diff(step, axis=0) >= -1e-6).all()
    few = np.diff(step[800:1200], axis=0)
    assert few.max() < 0.01 and (step[1200] > step[800]).all()
    assert not step[1000].any()
