"""The simulated genome: the same from the same seed, sites where the table says, files that the package reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.tiny import cells_of
from tests.tiny_dna import SHAPE, regulation

from syncyte.errors import ConfigError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import reverse_complement, to_text
from syncyte.genome.tables import read_bed
from syncyte.genome.tss import read_tss
from syncyte.genome.vcf import read_variants
from syncyte.recipes.simulate_regulation import MOTIF, REACH, Regulation
from syncyte.tasks.target_sets import read_targets


def site_text(world: Regulation, site: object) -> str:
    codes = world.sequences[site.chrom][site.start : site.end]
    return to_text(reverse_complement(codes) if site.strand == "-" else codes)


def test_the_same_seed_gives_the_same_world(dna_world: Regulation):
    other, third = regulation(), regulation(seed=1)
    for name, codes in dna_world.sequences.items():
        assert np.array_equal(codes, other.sequences[name])
    for name in ("tss", "peaks", "sites", "targets"):
        assert getattr(dna_world, name).equals(getattr(other, name))
    for name in ("rna", "atac"):
        assert (dna_world.cells[name].X != other.cells[name].X).nnz == 0
    assert dna_world.profile.equals(other.profile)
    assert dna_world.motifs == other.motifs != third.motifs
    assert not dna_world.tss.equals(third.tss)


def test_binding_sites_read_as_their_motif(dna_world: Regulation):
    sites = dna_world.sites
    binding = sites[sites["kind"] == "binding"]
    assert len(binding) >= SHAPE["factors"] * SHAPE["targets"]
    assert set(binding["strand"]) == {"+", "-"}
    for site in binding.itertuples():
        assert site_text(dna_world, site) == dna_world.motifs[site.motif]


def test_other_sites_differ_in_one_base_at_most(dna_world: Regulation):
    rest = dna_world.sites[dna_world.sites["kind"] != "binding"]
    differ = [
        sum(a != b for a, b in zip(site_text(dna_world, site), dna_world.motifs[site.motif]))
        for site in rest.itertuples()
    ]
    assert set(differ) == {0, 1}
    assert set(dna_world.sites["kind"]) == {"opener", "driver", "binding", "control"}
    openers = dna_world.sites[dna_world.sites["kind"] == "opener"]
    assert openers["gene"].tolist() == dna_world.tss["symbol"].tolist(), "each promoter has one"


def test_sites_lie_in_promoters_and_do_not_overlap(dna_world: Regulation):
    start = dna_world.tss.set_index("symbol")["tss"].reindex(dna_world.sites["gene"]).to_numpy()
    assert (np.abs(dna_world.sites["start"] - start) <= REACH).all()
    assert (dna_world.sites["end"] - dna_world.sites["start"] == MOTIF).all()
    for _, own in dna_world.sites.groupby("chrom"):
        ordered = own.sort_values("start")
        assert (ordered["start"].to_numpy()[1:] >= ordered["end"].to_numpy()[:-1]).all()


def test_targets_are_the_genes_that_hold_sites(dna_world: Regulation):
    sites = dna_world.sites[dna_world.sites["kind"] == "binding"]
    bound = {("TF" + motif.removeprefix("binding_"), gene) for gene, motif in zip(sites["gene"], sites["motif"])}
    assert bound == set(dna_world.targets.itertuples(index=False, name=None))
    assert (dna_world.targets.groupby("factor").size() == SHAPE["targets"]).all()
    assert not dna_world.targets["target"].str.startswith("TF").any()


def test_cells_have_types_donors_and_whole_counts(dna_world: Regulation):
    cells = dna_world.cells
    assert cells.obs["cell_type"].nunique() == SHAPE["types"]
    assert cells.obs["donor"].nunique() == SHAPE["donors"]
    assert cells["rna"].shape == (400, SHAPE["genes"])
    assert cells["atac"].shape == (400, SHAPE["genes"] + SHAPE["genes"] // 2)
    assert cells["rna"].X.dtype == np.int32
    assert set(cells_of(cells).modalities) == {"rna", "atac"}
    assert 1500 < np.median(cells["rna"].X.toarray().sum(axis=1)) < 3500


def test_drivers_open_promoters_where_their_programme_is_on():
    world = regulation(2_000)
    assert world.profile.shape == (SHAPE["types"], SHAPE["programmes"])
    drivers = world.sites[world.sites["kind"] == "driver"]
    sites = pd.crosstab(drivers["gene"], drivers["motif"]).reindex(
        world.tss["symbol"], columns=world.profile.columns, fill_value=0
    )
    opened = world.cells["atac"].X[:, : SHAPE["genes"]].toarray() > 0
    kinds = world.cells.obs["cell_type"].to_numpy()
    share = np.stack([opened[kinds == kind].mean(axis=0) for kind in world.profile.index])
    expected = world.profile.to_numpy() @ sites.to_numpy().T
    inside = [np.corrcoef(one, other)[0, 1] for one, other in zip(share, expected)]
    assert np.mean(inside) > 0.7


def test_targets_follow_their_factor(dna_world: Regulation):
    counts = dna_world.cells["rna"].X.toarray()
    values = pd.DataFrame(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4), columns=dna_world.tss["symbol"])
    inside = values.groupby(dna_world.cells.obs["cell_type"].to_numpy()).transform(lambda one: one - one.mean())
    gaps = []
    for factor, own in dna_world.targets.groupby("factor"):
        related = inside.corrwith(inside[factor])
        others = related.index.difference([*own["target"], factor])
        gaps.append(related[own["target"]].mean() - related[others].mean())
    assert np.mean(gaps) > 0.05


def test_files_are_read_by_the_packages_own_readers(dna_world: Regulation, dna_files: dict[str, Path]):
    genome = Genome.open(dna_files["genome.fa"])
    for name, codes in dna_world.sequences.items():
        assert genome.spans[name] == (0, len(codes))
        assert np.array_equal(genome.fetch(name, 0, len(codes)), codes)
    starts = read_tss(dna_files["tss.bed"]).set_index("symbol")
    expected = dna_world.tss.set_index("symbol").loc[starts.index]
    for name in ("tss", "strand"):
        assert starts[name].tolist() == expected[name].tolist()
    assert starts["chrom"].astype(str).tolist() == expected["chrom"].tolist()
    peaks = read_bed(dna_files["peaks.bed"])
    assert len(peaks) == len(dna_world.peaks)
    pairs = read_targets(dna_files["targets.tsv"])
    assert pairs[["gene", "target"]].to_numpy().tolist() == dna_world.targets.to_numpy().tolist()
    assert len(cells_of(dna_files["cells.h5mu"])) == 400


def test_variants_break_sites_of_factors(dna_world: Regulation, dna_files: dict[str, Path]):
    genome = Genome.open(dna_files["genome.fa"])
    found = read_variants(dna_files["variants.vcf"], genome)
    sites = dna_world.sites
    asked = sites[sites["gene"].str.startswith("TF") & sites["kind"].isin(["driver", "control"])]
    assert found.counts() == {"ok": len(asked)}
    for row, site in zip(found.table.itertuples(), asked.itertuples()):
        assert row.variant.startswith(f"{site.gene}_{site.kind}")
        assert site.start <= row.start < row.start + len(row.ref) <= site.end
        assert all(old != new for old, new in zip(row.ref, row.alt))


@pytest.mark.parametrize("wrong", [{"genes": 20}, {"types": 1}, {"programmes": 0}, {"n": 3}, {"donors": 0}])
def test_a_world_that_cannot_be_is_refused(wrong: dict[str, int]):
    with pytest.raises(ConfigError, match="do not go together"):
        regulation(**wrong)
