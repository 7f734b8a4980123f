"""Simulated paired cells with known truth: what tests, the demo and tutorials run on.

Blood cells along a lineage tree, with real gene symbols and plausible hg38 regions. How a cell comes about:

1. *State*: activity of every programme. Lineage programmes switch on along the path from the root to the cell's type,
   the last one only as far as the cell has come (pseudotime); cell programmes (cycle, interferon, stress, hidden ones)
   vary inside every type.
2. *Chromatin*: region ``j`` of cell ``i`` is open with probability ``sigmoid(base_j + state_i . loadings_j + batch)``.
3. *RNA*: log rate of gene ``g`` is ``base_g + state_i . loadings_g + batch + sum_j w_jg (open_ij - p_ij)`` over the
   regions linked to it, so the two modalities share the state *and* single-cell events. Rates are scaled to the cell's
   depth; counts are negative binomial.
4. *Fragments*: the cell's ATAC depth is spread evenly over its open regions; counts are Poisson.

Depth is log-normal per cell, correlated between modalities, and shifted by technical batch; ambient material is mixed
in. Leaves out: doublets, sequence, gene-to-gene regulation, donors.

What comes with the counts, so that a test can ask whether a model found it:

- ``obs``: ``cell_type``, ``batch`` (technical), ``lineage`` (the branch the type comes from), ``pseudotime`` (0-1 along
  the cell's path), ``true_depth_rna`` and ``true_depth_atac`` (expected totals); ``obsm["truth_state"]`` (cells x
  programmes).
- In each modality ``varm["truth_loadings"]`` (features x programmes) and ``varm["truth_batch"]`` (features x technical
  batches), both log rate or log odds; ``rna.var["programme"]`` (what the gene marks), ``atac.var["linked_gene"]``,
  ``["link_weight"]`` and ``["kind"]`` (promoter, distal, far).
- ``uns["truth"]``: tables ``programmes`` (in the order of the columns above), ``markers``, ``links``; ``settings``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import expit

from syncyte.errors import ConfigError
from syncyte.recipes.simulate_world import CYCLE, HIDDEN, RESPONSES, TYPES, World, make_world, path_to, truth_tables

if TYPE_CHECKING:
    from mudata import MuData

_CYCLING = {"HSC": 0.35, "Erythroid": 0.5, "GMP": 0.5, "Plasma": 0.3}  # share of cells in cycle; 0.12 elsewhere
_ELEMENTS = 1 << 22  # entries of the largest dense block; bounds memory whatever the number of cells


def simulate(
    n: int = 3000,
    seed: int = 0,
    *,
    types: int = 8,
    batches: int = 3,
    genes: int = 500,
    regions: int = 6000,
    paired: float = 1.0,
    depth_rna: float = 2000.0,
    depth_atac: float = 1500.0,
    batch_effect: float = 1.0,
    signal: float = 1.0,
    link: float = 1.0,
    ambient: float = 0.03,
    world: int | None = None,
) -> MuData:
    """Simulate cells measured by RNA and ATAC together. Same arguments, same counts.

    Parameters
    ----------
    n, seed
        Cells, and the seed of everything that is drawn. Memory grows with the non-zero counts only.
    types, batches
        Cell types, 2 to 12 (names and tree in ``TYPES``), and technical batches ``batch_1`` ... .
    genes, regions
        Features. Up to the size of the embedded table genes are real ones, beyond that invented (``SIM00001`` ...).
    paired
        Share of cells with both modalities; the others keep one, half of them RNA and half ATAC.
    depth_rna, depth_atac
        Median counts and fragments of a cell.
    batch_effect
        Scale of per-feature and depth effects of technical batch; 0 for none.
    signal, link
        Scale of the programmes' effect on features, and of the direct effect of a region's opening on its gene.
    ambient
        Share of counts that come from the technical batch's average profile.
    world
        Seed of genes, regions, programmes and batch effects; ``seed`` if None. The same world with another seed gives
        new cells of the same biology.

    Returns
    -------
    mudata.MuData
        ``rna`` and ``atac`` with raw counts (CSR int32), and the truth (see the module).

    Raises
    ------
    ConfigError
        An argument is out of range.
    """
    settings = {key: value for key, value in locals().items() if value is not None}
    _check(settings)
    world_seed = seed if world is None else world
    truth = make_world(settings, world_seed)
    obs, state = _make_cells(settings, truth.programmes, np.random.default_rng([world_seed, 1]), seed)
    counts = [sp.vstack(parts, format="csr") for parts in zip(*_draw(truth, obs, state, settings))]
    return _assemble(truth, obs, state, dict(zip(("rna", "atac"), counts)), settings)


def _check(settings: dict[str, Any]) -> None:
    """Refuse impossible arguments."""
    ranges = {
        "n": (10, np.inf),
        "seed": (0, np.inf),
        "types": (2, len(TYPES)),
        "batches": (1, np.inf),
        "genes": (20, np.inf),
        "regions": (20, np.inf),
        "paired": (0, 1),
        "depth_rna": (1, np.inf),
        "depth_atac": (1, np.inf),
        "batch_effect": (0, np.inf),
        "signal": (0, np.inf),
        "link": (0, np.inf),
        "ambient": (0, 1),
        "world": (0, np.inf),
    }
    for name, value in settings.items():
        low, high = ranges[name]
        if not low <= value <= high:
            raise ConfigError(f"simulate: {name} is {value}; it must lie between {low} and {high}.")


def _make_cells(
    settings: dict[str, Any], programmes: tuple[str, ...], world: np.random.Generator, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels and expected depth of every cell, and ``(n, k)`` float32 activity of every programme."""
    n, batches, effect = settings["n"], settings["batches"], settings["batch_effect"]
    rng = np.random.default_rng([seed, 2])
    names = list(TYPES)[: settings["types"]]
    share = np.array([TYPES[name][1] for name in names])
    mix = world.dirichlet(40 * share / share.sum(), batches) * 0.8 + 0.2 * share / share.sum()
    shift = world.normal(0, 0.25 * effect, (batches, 2))
    batch = rng.integers(0, batches, n)
    kind = (rng.random(n)[:, None] > np.cumsum(mix, 1)[batch, :-1]).sum(1)

    column = {name: position for position, name in enumerate(programmes)}
    state = np.zeros((n, len(programmes)))
    reached = rng.beta(1.8, 1.2, n)  # how far along its last branch
    pseudotime = 0.15 * (1 - reached)
    cycling = np.empty(n)
    for code, name in enumerate(names):
        rows, path = np.flatnonzero(kind == code), path_to(name)
        if path:
            for step in path[:-1]:
                state[rows, column[step]] = 1.0
            state[rows, column[path[-1]]] = reached[rows]
            pseudotime[rows] = (len(path) - 1 + reached[rows]) / len(path)
        cycling[rows] = rng.random(len(rows)) < _CYCLING.get(name, 0.12)
    state[:, column[names[0]]] = (1 - pseudotime) ** 2
    lineage = column[CYCLE[0]]
    state[:, :lineage] += rng.normal(0, 0.1, (n, lineage))
    angle = rng.uniform(0, 2 * np.pi, n)
    state[:, column[CYCLE[0]]] = 1.2 * cycling * np.maximum(0, np.sin(angle))
    # G2M follows S, with a little overlap.
    state[:, column[CYCLE[1]]] = 1.2 * cycling * np.maximum(0, np.sin(angle - 2))
    for name in RESPONSES:
        state[:, column[name]] = np.minimum(rng.exponential(0.45, n), 2.0)
    state[:, column[HIDDEN[0]] :] = rng.normal(0, 0.6, (n, len(HIDDEN)))

    size = rng.normal(0, 0.25, n)  # big cells give more of both
    depth = np.exp(size[:, None] + rng.normal(0, 0.25, (n, 2)) + shift[batch] - shift.mean(0))
    parents = [TYPES[name][0] or names[0] for name in names]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(kind, names),
            "batch": pd.Categorical.from_codes(batch, [f"batch_{number}" for number in range(1, batches + 1)]),
            "lineage": pd.Categorical(np.array(parents)[kind]),
            "pseudotime": pseudotime,
            "true_depth_rna": settings["depth_rna"] * depth[:, 0],
            "true_depth_atac": settings["depth_atac"] * depth[:, 1],
        },
        index=[f"cell_{number:06d}" for number in range(1, n + 1)],
    )
    return obs, state.astype(np.float32)


def _draw(
    world: World, obs: pd.DataFrame, state: np.ndarray, settings: dict[str, Any]
) -> Iterator[tuple[sp.csr_matrix, sp.csr_matrix]]:
    """RNA and ATAC counts of consecutive blocks of cells; dense only within a block."""
    base, loadings, shift = (
        {name: values.astype(np.float32) for name, values in part.items()}
        for part in (world.base, world.loadings, world.batch)
    )
    ambient = settings["ambient"]
    average = _softmax(base["rna"] + shift["rna"] + state.mean(0) @ loadings["rna"].T)
    linked = np.flatnonzero(np.diff(world.links.indptr))
    links = (settings["link"] * world.links[linked]).astype(np.float32).T.tocsr()
    batch = obs["batch"].cat.codes.to_numpy()
    depth_rna, depth_atac = obs["true_depth_rna"].to_numpy(), obs["true_depth_atac"].to_numpy()
    r = len(base["atac"])
    block = max(1, min(4096, _ELEMENTS // r))
    for number, start in enumerate(range(0, len(obs), block)):
        rng = np.random.default_rng([settings["seed"], 3, number])
        rows = slice(start, start + block)
        chance = expit(state[rows] @ loadings["atac"].T + (base["atac"] + shift["atac"])[batch[rows]])
        opened = rng.random(chance.shape, dtype=np.float32) < chance

        event = (links @ (opened[:, linked] - chance[:, linked]).T).T
        rate = _softmax(base["rna"] + shift["rna"][batch[rows]] + state[rows] @ loadings["rna"].T + event)
        expected = ((1 - ambient) * rate + ambient * average[batch[rows]]) * depth_rna[rows, None]
        expected *= rng.gamma(world.dispersion, 1 / world.dispersion, rate.shape)
        rna = sp.csr_matrix(rng.poisson(expected).astype(np.int32))
        yield rna, _fragments(opened, depth_atac[rows], ambient, rng)


def _fragments(opened: np.ndarray, depth: np.ndarray, ambient: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Fragment counts: ``depth`` spread over a cell's open regions, and an ambient share over all regions."""
    n, r = opened.shape
    cell, region = np.nonzero(opened)
    per_region = (1 - ambient) * depth / np.maximum(opened.sum(1), 1)
    stray = rng.poisson(ambient * depth)
    count = np.concatenate([rng.poisson(per_region[cell]), np.ones(stray.sum(), np.int64)]).astype(np.int32)
    where = (
        np.concatenate([cell, np.repeat(np.arange(n), stray)]),
        np.concatenate([region, rng.integers(0, r, stray.sum())]),
    )
    kept = count > 0
    matrix = sp.csr_matrix((count[kept], (where[0][kept], where[1][kept])), shape=(n, r), dtype=np.int32)
    matrix.sum_duplicates()
    return matrix


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def _assemble(
    world: World, obs: pd.DataFrame, state: np.ndarray, counts: dict[str, sp.csr_matrix], settings: dict[str, Any]
) -> MuData:
    """MuData with truth; with ``paired`` below 1 each modality keeps its own cells."""
    import mudata
    from anndata import AnnData

    n = len(obs)
    order = np.random.default_rng([settings["seed"], 4]).permutation(n)
    single = order[round(settings["paired"] * n) :]
    lacking = {"atac": single[: len(single) // 2], "rna": single[len(single) // 2 :]}
    mods = {}
    for name, matrix in counts.items():
        rows = np.setdiff1d(np.arange(n), lacking[name])
        var = world.features[name].assign(feature_types={"rna": "Gene Expression", "atac": "Peaks"}[name])
        mods[name] = AnnData(matrix[rows], obs=obs[["cell_type", "batch"]].iloc[rows].copy(), var=var)
        mods[name].varm["truth_loadings"] = world.loadings[name].astype(np.float32)
        mods[name].varm["truth_batch"] = world.batch[name].T.astype(np.float32)
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData(mods)
    place = obs.index.get_indexer(data.obs_names)
    data.obs = obs.iloc[place]
    data.obsm["truth_state"] = state[place]
    data.uns["truth"] = truth_tables(world, settings)
    return data
