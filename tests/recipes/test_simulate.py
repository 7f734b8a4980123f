"""Simulated cells: same arguments same bytes, and the truth that comes with them is really in the counts."""

from __future__ import annotations

import hashlib
import time

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from syncyte.errors import ConfigError
from syncyte.genome.symbols import CHROM_SIZES, known_genes
from syncyte.recipes.simulate import simulate
from syncyte.recipes.simulate_world import TYPES


@pytest.fixture(scope="module")
def cells() -> mudata.MuData:
    return simulate(1500, seed=3)


@pytest.fixture(scope="module")
def rates(cells) -> np.ndarray:
    """Log expression of every gene, cells x genes (small enough to be dense here)."""
    counts = cells["rna"].X
    scaled = sp.diags(1e4 / np.asarray(counts.sum(1)).ravel()) @ counts
    return np.log1p(scaled.toarray())


def digest(data: mudata.MuData) -> str:
    total = hashlib.sha256()
    for mod in data.mod.values():
        for array in (mod.X.data, mod.X.indices, mod.X.indptr):
            total.update(array.tobytes())
        total.update("".join(mod.var_names).encode() + "".join(mod.obs_names).encode())
    total.update(data.obs.to_csv().encode() + data.obsm["truth_state"].tobytes())
    return total.hexdigest()


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0) + 1e-12)


def within(values: np.ndarray, labels: pd.Series) -> np.ndarray:
    return values - pd.DataFrame(values).groupby(labels.to_numpy(), observed=True).transform("mean").to_numpy()


def test_same_arguments_same_bytes():
    assert digest(simulate(150, seed=5, paired=0.5)) == digest(simulate(150, seed=5, paired=0.5))
    assert digest(simulate(150, seed=5)) != digest(simulate(150, seed=6))


def test_global_random_state_is_neither_used_nor_moved():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = digest(simulate(50))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert digest(simulate(50)) == first


def test_counts_are_raw_integers_in_rows(cells):
    assert cells["rna"].shape == (1500, 500)
    assert cells["atac"].shape == (1500, 6000)
    for mod in cells.mod.values():
        assert mod.X.format == "csr" and mod.X.dtype == np.int32
        assert mod.X.has_canonical_format
        assert mod.X.data.min() > 0
        assert (mod.X.getnnz(1) > 0).all()
    assert cells["atac"].X.nnz < 0.3 * np.prod(cells["atac"].shape)


def test_speed_of_the_default_size():
    start = time.process_time()
    simulate()
    assert time.process_time() - start < 6  # about 1 s of CPU on one core; room for a slow machine


def test_names_and_places_are_plausible(cells):
    genes, regions = cells["rna"].var, cells["atac"].var
    known = known_genes()
    assert genes.index.is_unique and genes.index.isin(known.index).all()
    assert (genes["tss"] == known["tss"].loc[genes.index]).all()
    size = regions["chrom"].map(CHROM_SIZES)
    assert (regions["start"] > 0).all() and (regions["end"] < size).all()
    assert (regions["end"] - regions["start"]).between(300, 900).all()
    assert list(regions.index) == [
        f"{c}:{s}-{e}" for c, s, e in zip(regions["chrom"], regions["start"], regions["end"])
    ]
    order = regions["chrom"].map({name: rank for rank, name in enumerate(CHROM_SIZES)})
    assert order.is_monotonic_increasing
    same = order.diff() == 0
    assert (regions["start"] > regions["end"].shift())[same].all()
    links = cells.uns["truth"]["links"].set_index("region")
    distance = links["distance"].abs()
    assert (distance[regions.loc[links.index, "kind"] == "promoter"] < 5000).mean() > 0.98
    assert distance.between(0, 120_000).mean() > 0.98


def test_labels_tree_and_depth(cells):
    obs = cells.obs
    assert set(obs["cell_type"]) == set(list(TYPES)[:8])
    assert set(obs["batch"]) == {"batch_1", "batch_2", "batch_3"}
    assert pd.crosstab(obs["cell_type"], obs["batch"]).to_numpy().min() > 5
    assert obs["pseudotime"].between(0, 1).all()
    assert obs["pseudotime"][obs["cell_type"] == "HSC"].max() < obs["pseudotime"][obs["cell_type"] == "CD8 T"].min()
    for mod, wanted in (("rna", 2000), ("atac", 1500)):
        total = np.asarray(cells[mod].X.sum(1)).ravel()
        assert abs(np.median(total) / wanted - 1) < 0.1
        assert 0.3 < np.log(total).std() < 0.6
        assert np.corrcoef(np.log(total), np.log(obs[f"true_depth_{mod}"]))[0, 1] > 0.7
    assert np.corrcoef(np.log(obs["true_depth_rna"]), np.log(obs["true_depth_atac"]))[0, 1] > 0.3


def test_markers_are_high_where_they_should_be(cells, rates):
    markers = cells.uns["truth"]["markers"]
    types = cells.obs["cell_type"].to_numpy()
    for name in list(TYPES)[:8]:
        chosen = cells["rna"].var_names.isin(markers["gene"][markers["programme"] == name])
        assert chosen.sum() >= 10
        difference = rates[types == name][:, chosen].mean(0) - rates[types != name][:, chosen].mean(0)
        assert (difference > 0).mean() > 0.85, name


def test_state_explains_genes(cells, rates):
    state = cells.obsm["truth_state"]
    names = cells.uns["truth"]["programmes"]["programme"]
    assert state.shape == (1500, len(names))
    cycle = int(np.flatnonzero(names == "S phase")[0])
    marks = (cells["rna"].var["programme"] == "S phase").to_numpy()
    signal = within(rates[:, marks].mean(1)[:, None], cells.obs["cell_type"])[:, 0]
    assert np.corrcoef(signal, within(state[:, [cycle]], cells.obs["cell_type"])[:, 0])[0, 1] > 0.3


def test_linked_regions_follow_their_gene_within_types(cells, rates):
    regions, types = cells["atac"].var, cells.obs["cell_type"]
    opened = (cells["atac"].X > 0).astype(np.float32)
    usual = np.asarray(opened.mean(0)).ravel()
    linked = np.flatnonzero((regions["link_weight"] > 0.4) & (usual > 0.05))
    gene = cells["rna"].var_names.get_indexer(regions["linked_gene"].iloc[linked])
    values = within(rates[:, gene], types)
    true = correlate(within(opened[:, linked].toarray(), types), values)
    plain = np.flatnonzero((regions["linked_gene"] == "") & (usual > 0.05))[: len(linked)]
    other = correlate(within(opened[:, plain].toarray(), types), values[:, : len(plain)])
    assert true.mean() > 0.05 > 5 * abs(other.mean())
    repressing = np.flatnonzero((regions["link_weight"] < -0.4) & (usual > 0.05))
    gene = cells["rna"].var_names.get_indexer(regions["linked_gene"].iloc[repressing])
    assert correlate(within(opened[:, repressing].toarray(), types), within(rates[:, gene], types)).mean() < -0.02


def test_links_agree_with_region_table(cells):
    links, regions = cells.uns["truth"]["links"], cells["atac"].var
    assert (regions["linked_gene"] != "").sum() == len(links) == 1500
    assert (regions.loc[links["region"], "linked_gene"].to_numpy() == links["gene"]).all()
    assert ((regions["link_weight"] != 0) == (regions["linked_gene"] != "")).all()
    assert (links["weight"] < 0).any() and (links["weight"] > 0).mean() > 0.8


def batch_share(data: mudata.MuData) -> float:
    """Largest share of a principal component (of ten) that technical batch explains."""
    from sklearn.decomposition import TruncatedSVD

    counts = data["rna"].X.astype(float)
    scaled = sp.diags(1e4 / np.asarray(counts.sum(1)).ravel()) @ counts
    components = TruncatedSVD(11, random_state=0).fit_transform(scaled.log1p())
    labels = data["rna"].obs["batch"].to_numpy()
    groups = pd.DataFrame(components).groupby(labels).transform("mean").to_numpy()
    return float((groups.var(0) / components.var(0)).max())


def test_batch_effect_shows_and_can_be_switched_off(cells):
    assert batch_share(cells) > 0.4
    assert batch_share(simulate(600, seed=3, batch_effect=0, regions=300)) < 0.05


def test_translation_and_annotation_are_neither_trivial_nor_impossible(cells, rates):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.linear_model import LogisticRegression, Ridge

    train = np.arange(1500) % 4 != 0
    opened = (cells["atac"].X > 0).astype(np.float32)
    scaled = sp.diags(1 / np.sqrt(opened.getnnz(1))) @ opened
    latent = TruncatedSVD(30, random_state=0).fit(scaled[train]).transform(scaled)
    predicted = Ridge(0.1).fit(latent[train], rates[train]).predict(latent[~train])
    assert 0.2 < correlate(predicted, rates[~train]).mean() < 0.5

    types = cells.obs["cell_type"].to_numpy()
    centred = rates - rates[train].mean(0)
    axes = np.linalg.svd(centred[train], full_matrices=False)[2][:30]
    scores = centred @ axes.T
    scores /= scores[:, 0].std()
    accuracy = LogisticRegression(max_iter=300).fit(scores[train], types[train]).score(scores[~train], types[~train])
    assert 0.86 < accuracy < 0.985


def test_paired_share_only_takes_modalities_away():
    full, mosaic = simulate(200, seed=4), simulate(200, seed=4, paired=0.3)
    rna, atac = set(mosaic["rna"].obs_names), set(mosaic["atac"].obs_names)
    assert len(rna & atac) == 60 and len(rna) == len(atac) == 130 and mosaic.n_obs == 200
    assert np.array_equal(mosaic["atac"].X.toarray(), full["atac"][mosaic["atac"].obs_names].X.toarray())
    assert mosaic.obs["batch"].notna().all()
    place = full.obs_names.get_indexer(mosaic.obs_names)
    assert np.array_equal(mosaic.obsm["truth_state"], full.obsm["truth_state"][place])
    assert (mosaic["rna"].obs["cell_type"] == full.obs["cell_type"].loc[mosaic["rna"].obs_names]).all()
    assert not set(simulate(20, paired=0)["rna"].obs_names) & set(simulate(20, paired=0)["atac"].obs_names)


def test_one_world_gives_new_cells_of_the_same_biology():
    first, second = simulate(60, seed=1, world=9), simulate(60, seed=2, world=9)
    for name in ("rna", "atac"):
        assert list(first[name].var_names) == list(second[name].var_names)
        assert np.array_equal(first[name].varm["truth_loadings"], second[name].varm["truth_loadings"])
        assert np.array_equal(first[name].varm["truth_batch"], second[name].varm["truth_batch"])
    assert digest(first) != digest(second)


def test_file_keeps_everything(tmp_path):
    cells = simulate(40, genes=60, regions=200, paired=0.5, types=12)
    cells.write(tmp_path / "cells.h5mu")
    back = mudata.read_h5mu(tmp_path / "cells.h5mu")
    assert isinstance(back["rna"], AnnData)
    assert (back["atac"].X != cells["atac"].X).nnz == 0 and back["atac"].X.dtype == np.int32
    assert set(back.uns["truth"]) == {"programmes", "markers", "links", "settings"}
    assert back.uns["truth"]["settings"]["paired"] == 0.5
    assert back.obs["cell_type"].astype(str).tolist() == cells.obs["cell_type"].astype(str).tolist()


def test_more_genes_than_known_are_invented():
    genes = simulate(20, genes=1500, regions=2000)["rna"].var
    assert len(genes) == 1500 and genes.index.is_unique and genes["gene_ids"].is_unique
    assert genes.index.str.fullmatch(r"SIM\d{5}").sum() == 1500 - len(known_genes())
    assert genes["tss"].between(0, genes["chrom"].map(CHROM_SIZES)).all()


def test_few_genes_still_serve_every_type():
    genes = simulate(20, genes=60, regions=100, types=4)["rna"].var
    assert set(list(TYPES)[:4]) <= set(genes["programme"])


@pytest.mark.parametrize(
    "wrong", [{"n": 2}, {"types": 1}, {"types": 13}, {"paired": 1.5}, {"ambient": -1}, {"seed": -1}]
)
def test_impossible_arguments_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ConfigError, match=f"{name} is {value}; it must lie between"):
        simulate(**wrong)
