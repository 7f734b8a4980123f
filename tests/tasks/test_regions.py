"""Top regions of types and regions of genes: known truth of the simulator, raw counts beside claims, words, files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from tests.tiny import cells_of, train_tiny, world

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.genome.coordinates import region_table
from syncyte.genome.nearest import nearest_starts
from syncyte.genome.reference import Reference, build_reference
from syncyte.tasks import gene_regions as genes_module
from syncyte.tasks import regions as module
from syncyte.tasks.compare_translate import gene_starts
from syncyte.tasks.gene_regions import gene_regions
from syncyte.tasks.regions import top_regions
from syncyte.types import Encoded

MARKED = 17  # column of the region that is made open in one type only


@pytest.fixture(scope="module")
def marked() -> MuData:
    """Simulated cells in which one region is open in every cell of the second type and in no other."""
    data = world(300, link=2.0)
    inside = (data.obs["cell_type"] == data.obs["cell_type"].cat.categories[1]).to_numpy()
    counts = data["atac"].X.tolil()
    counts[:, MARKED] = inside[:, None].astype(np.int32)
    data["atac"].X = counts.tocsr()
    return data


@pytest.fixture(scope="module")
def run(marked, tmp_path_factory):
    return train_tiny(marked, tmp_path_factory.mktemp("regions") / "RUN", label_key="cell_type")


@pytest.fixture(scope="module")
def book(tmp_path_factory, marked) -> Reference:
    """A reference folder that holds the simulated genes."""
    folder = tmp_path_factory.mktemp("genome")
    var = marked["rna"].var
    forward = var["strand"].astype(str).to_numpy() == "+"
    table = pd.DataFrame({"gene_id": var["gene_ids"], "symbol": var.index, "chrom": var["chrom"]})
    table["start"] = np.where(forward, var["tss"] + 1, var["tss"] - 998)
    table["end"] = np.where(forward, var["tss"] + 1000, var["tss"] + 1)
    table.assign(strand=var["strand"], biotype="protein_coding").to_csv(folder / "genes.csv", index=False)
    return build_reference(folder / "ref", genes=folder / "genes.csv", name="simulated")


def test_a_region_of_one_type_only_tops_its_list(run, marked):
    found = top_regions(run, cells_of(marked), "cell_type", top=5)
    name, kind = marked["atac"].var_names[MARKED], marked.obs["cell_type"].cat.categories[1]
    first = found.table[found.table["rank"] == 1].set_index("label")
    assert first.loc[kind, "region"] == name and (first["region"] == name).sum() == 1
    row = first.loc[kind]
    assert row["open_in"] == 1 and row["open_out"] == 0 and row["observed"] > 1 and row["score"] > 1
    assert row["cells_open"] == (marked.obs["cell_type"] == kind).sum()
    assert (found.table.groupby("label")["score"].diff().dropna() <= 0).all() and "gene" not in found.table
    assert any("--genome" in note for note in found.notes) and any("open in" in note for note in found.notes)


def test_shares_are_those_of_the_counts(run, marked):
    table = top_regions(run, cells_of(marked), "cell_type", top=3).table
    opened = pd.DataFrame(marked["atac"].X.toarray() > 0, marked["atac"].obs_names, marked["atac"].var_names)
    labels = marked.obs["cell_type"].loc[opened.index].astype(str).to_numpy()
    for row in table.itertuples():
        inside = labels == row.label
        assert row.open_in == pytest.approx(opened.loc[inside, row.region].mean())
        assert row.open_out == pytest.approx(opened.loc[~inside, row.region].mean())
        assert row.cells_open == opened.loc[inside, row.region].sum()
    places = table["chrom"] + ":" + table["start"].astype(str) + "-" + table["end"].astype(str)
    assert list(places) == list(table["region"])


def test_blocks_change_nothing(run, marked, monkeypatch):
    whole = top_regions(run, cells_of(marked), "cell_type", top=7).table
    monkeypatch.setattr(module, "BLOCK", 32)
    monkeypatch.setattr(genes_module, "ENTRIES", 1000)
    parts = top_regions(run, cells_of(marked), "cell_type", top=7, batch_size=50).table
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-4)
    assert len(gene_regions(run, top=4).table) == 200


def test_cells_without_openings_are_listed_with_nothing_beside_the_claim(run, marked):
    found = top_regions(run, cells_of(marked).only(["rna"]), "cell_type", top=2)
    assert found.table["score"].notna().all() and found.table["open_in"].isna().all()
    assert any("not measured" in note for note in found.notes)


def test_nearest_genes_have_signs_and_promoters(run, marked, book):
    table = top_regions(run, cells_of(marked), "cell_type", book.genes, top=10).table
    var = marked["rna"].var
    for row in table.itertuples():
        near = var[var["chrom"].astype(str) == row.chrom]
        middle = (row.start + row.end) // 2
        sign = np.where(near["strand"] == "-", -1, 1)
        gap = pd.Series((middle - near["tss"].to_numpy()) * sign, near.index)
        assert abs(row.distance) == gap.abs().min() and row.distance == gap[row.gene]
        assert row.promoter == (-2000 <= row.distance <= 500)
        assert row.next_gene == "" or abs(row.next_distance) >= abs(row.distance)


def test_nearest_starts_by_hand():
    regions = region_table(["chr1", "chr1", "chr2", "chr3"], np.array([90, 400, 0, 5]), np.array([110, 420, 20, 15]))
    starts = pd.DataFrame({"chrom": ["chr1", "chr1", "chr2"], "tss": [300, 130, 60], "strand": ["-", "+", "-"]})
    row, distance = nearest_starts(regions, starts, 2)
    np.testing.assert_array_equal(row, [[1, 0], [0, 1], [2, -1], [-1, -1]])
    np.testing.assert_array_equal(distance, [[-30, 200], [-110, 280], [50, np.nan], [np.nan, np.nan]])


def test_linked_regions_rank_above_chance(run, marked, book):
    starts = gene_starts(run, book)
    every = gene_regions(run, list(run.vocabularies["rna"].index), top=300, starts=starts).table
    assert len(every) == 80 * 300 and (every.groupby("gene")["moved"].apply(lambda v: v.abs().diff().max()) <= 0).all()
    places = every.set_index(["gene", "region"])["rank"]
    links = marked.uns["truth"]["links"]
    strong = links[links["weight"] > 0]
    ranks = places.reindex(pd.MultiIndex.from_frame(strong[["gene", "region"]])).dropna()
    assert len(ranks) > 50 and ranks.mean() < 150 - 3 * 300 / np.sqrt(12 * len(ranks))
    near = links.set_index(["gene", "region"])["distance"]
    known = every.set_index(["gene", "region"])["distance"].reindex(near.index)
    assert (known.abs() == near.abs())[known.notna()].mean() > 0.99


def test_counts_against_chance_are_said(run, book):
    found = gene_regions(run, top=5, starts=gene_starts(run, book), seed=1)
    (note,) = found.notes
    assert "within 500 kb" in note and "at random" in note and "9 in 10 deals" in note
    assert found.table["gene"].nunique() == 50 and set(found.table["near"]) <= {True, False}
    same = gene_regions(run, top=5, starts=gene_starts(run, book), seed=1)
    assert same.notes == found.notes


def test_the_verb_writes_two_tables(run, marked, book, tmp_path):
    out = tmp_path / "regions.csv"
    found = syncyte.top_regions(
        run, marked, label_key="cell_type", genome=book.path, genes="TNFRSF4", top=4, out=out, force=True
    )
    types, genes = pd.read_csv(out), pd.read_csv(tmp_path / "regions.genes.csv")
    assert len(types) == 16 and list(types["region"]) == list(found.table()["region"])
    assert list(types.columns[:11]) == [
        *("label", "rank", "region", "chrom", "start", "end", "score", "observed", "open_in", "open_out", "cells_open")
    ]
    assert set(genes["gene"]) == {"TNFRSF4"} and len(genes) == 2 and {"distance", "near", "effect"} <= set(genes)
    assert found.provenance["settings"]["top"] == 4 and found.files(out)[1].name == "regions.genes.csv"


def test_refusals_say_what_to_do(run, marked, tmp_path):
    cells = cells_of(marked)
    with pytest.raises(DataError, match="specific regions need 2"):
        top_regions(run, cells, "cell_type", unclear=marked.obs["cell_type"].cat.categories[1:])
    with pytest.raises(DataError, match=r"not in the model's 80 rna features \(NOGENE\)"):
        gene_regions(run, ["NOGENE"])
    with pytest.raises(ConfigError, match=r"\.csv"):
        syncyte.top_regions(run, marked, label_key="cell_type", out=tmp_path / "table.tsv")
    with pytest.raises(ConfigError, match="at least 1"):
        top_regions(run, cells, "cell_type", top=0)


@pytest.mark.parametrize(("kept", "words"), [("rna", "not regions"), ("atac", "predicts no genes")])
def test_runs_that_lack_a_side(kept, words, tmp_path):
    data = world(120)
    alone = data[kept].copy()
    lacking = train_tiny(alone, tmp_path / "RUN", modality=kept)
    with pytest.raises(CapabilityError, match=words):
        syncyte.top_regions(lacking, alone, label_key="cell_type", genes=["TNFRSF4"], modality=kept)
    if kept == "atac":
        found = syncyte.top_regions(lacking, alone, label_key="cell_type", modality=kept, top=2)
        assert found.genes is None and len(found.types) == 8


def test_the_linear_map_is_the_models_own_way(run):
    model = run.model
    leading = torch.randn(4, model.components, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(4, 2, 2)

    def predicted(part: torch.Tensor) -> torch.Tensor:
        """What the head says where the source alone is seen and the residual network is silent."""
        return model.decode(Encoded(part @ model.mixes["atac"], part, context, {}, None, None), "rna")

    with torch.no_grad():
        moved = predicted(leading) - predicted(torch.zeros_like(leading))
        torch.testing.assert_close(moved, leading @ model.linear_map("atac", "rna"), rtol=1e-4, atol=1e-5)
        path, depth = model.paths["atac"], 100.0
        expected = 1 / depth**0.5 / path.scale
        torch.testing.assert_close(path.step(depth), expected, rtol=1e-3, atol=1e-4)
