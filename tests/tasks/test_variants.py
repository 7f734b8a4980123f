"""The table of effects: every number of a row traced back to what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.tiny import cells_of
from tests.tiny_dna import write_vcf

from syncyte.errors import DataError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import to_text
from syncyte.genome.variants import Variants, variants_of
from syncyte.genome.vcf import read_variants
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variant_nulls import pair_classes
from syncyte.tasks.variants import COLUMNS, SHOWN, VariantEffects, variant_effects


@pytest.fixture(scope="module")
def genome(dna_files: dict[str, Path]) -> Genome:
    return Genome.open(dna_files["genome.fa"])


@pytest.fixture(scope="module")
def given(dna_world: Regulation, genome: Genome, tmp_path_factory: pytest.TempPathFactory) -> Variants:
    return read_variants(write_vcf(dna_world, tmp_path_factory.mktemp("vcf") / "all.vcf"), genome)


@pytest.fixture(scope="module")
def ask(dna_run: GeneRun, dna_world: Regulation, genome: Genome, given: Variants) -> Any:
    cells = cells_of(dna_world.cells)

    def answer(**options: Any) -> VariantEffects:
        chosen = {"group": "cell_type", "donor": "donor", "nulls": 8, **options}
        return variant_effects(dna_run, chosen.pop("variants", given), genome, cells, **chosen)

    return answer


@pytest.fixture(scope="module")
def found(ask: Any) -> VariantEffects:
    return ask()


def scored(found: VariantEffects) -> Any:
    """Rows with an effect, each with the place of its pair and of its group."""
    names = found.names
    table = found.effects[found.effects["status"] == "scored"]
    pairs = {
        (names[row.allele], row.gene): place for place, row in enumerate(found.tokens.table.itertuples(index=False))
    }
    return table, pairs


def places(found: VariantEffects, run: GeneRun) -> list[tuple[Any, int, int]]:
    table, pairs = scored(found)
    index = {symbol: place for place, symbol in enumerate(run.symbols)}
    return [
        (row, pairs[row.variant, index[row.gene]], found.numbers.groups.index(row.group))
        for row in table.itertuples(index=False)
    ]


def test_columns_come_in_the_order_that_is_documented(found: VariantEffects):
    assert list(found.effects.columns) == list(COLUMNS)
    assert found.effects["record"].is_monotonic_increasing


def test_own_values_are_means_over_donors(found: VariantEffects, dna_run: GeneRun):
    for row, pair, place in places(found, dna_run):
        units = np.flatnonzero(found.cells.units["group"] == row.group)
        own = found.numbers.own[pair, units]
        assert row.cis_value == pytest.approx(own.mean(), rel=1e-5)
        assert row.donor_p == pytest.approx(stats.ttest_1samp(own.astype(float), 0).pvalue, rel=1e-3)
        assert row.cells == found.numbers.cells[pair, units].sum()
        assert row.trans_size == found.numbers.size[pair, place]


def test_p_against_random_variants_by_hand(found: VariantEffects, given: Variants, dna_run: GeneRun):
    null = found.null
    assert null is not None
    kinds = pair_classes(given, found.tokens.table, found.side.genome)
    weights = null.tokens.table["weight"].to_numpy()
    for row, pair, place in places(found, dna_run):
        own = np.flatnonzero(null.draws["class"] == kinds[pair])
        factor = found.tokens.table["weight"].iloc[pair] / weights[:, None]
        gap = np.abs(np.arcsinh(null.draws["for_distance"].to_numpy()[own] / 50) - np.arcsinh(row.tss_distance / 50))
        own = own[gap == gap.min()]
        sizes = (null.effects.size * factor)[own, place]
        assert row.trans_p == pytest.approx((1 + (sizes >= row.trans_size).sum()) / (1 + np.isfinite(sizes).sum()))
        units = np.flatnonzero(found.cells.units["group"] == row.group)
        values = np.abs(np.nanmean((null.effects.own * factor)[own][:, units], axis=1))
        assert row.cis_p == pytest.approx((1 + (values >= abs(row.cis_value)).sum()) / (1 + len(values)))
        whole = np.nanmean(np.abs((null.effects.own * factor)[own]), axis=1)
        mine = np.nanmean(np.abs(found.numbers.own[pair]))
        assert row.cis_p_all == pytest.approx((1 + (whole >= mine).sum()) / (1 + len(whole)))
        assert row.null_draws == len(values)
        assert pair < len(found.tokens.table)


def test_false_discovery_is_over_all_rows_scored(found: VariantEffects):
    table, _ = scored(found)
    for name in ("cis", "trans", "donor"):
        expected = stats.false_discovery_control(table[f"{name}_p"])
        assert table[f"{name}_fdr"].to_numpy() == pytest.approx(expected)
    pairs = table.drop_duplicates(["variant", "gene"])  # one test of a pair, whatever the groups
    expected = stats.false_discovery_control(pairs["cis_p_all"])
    assert pairs["cis_fdr_all"].to_numpy() == pytest.approx(expected)


def test_genes_that_rise_and_fall_are_named(found: VariantEffects, dna_run: GeneRun):
    row, pair, place = places(found, dna_run)[0]
    gene = found.tokens.table["gene"].iloc[pair]
    given = (gene, found.tokens.alternate[[pair]], found.tokens.reference[pair])
    response = found.cells.respond(*given, carried=True)
    change = response.change[0, 3 * place : 3 * place + 3].mean(axis=0) / found.cells.model.spread.numpy()
    order = np.argsort(-change, kind="stable")
    assert row.rise.split() == [dna_run.symbols[one] for one in order[:SHOWN] if change[one] > 0]
    assert set(row.fall.split()) == {dna_run.symbols[one] for one in order[-SHOWN:] if change[one] < 0}
    assert row.gene not in row.rise.split() + row.fall.split()


def test_tracks_are_those_of_the_group(found: VariantEffects, dna_run: GeneRun):
    for row, pair, _ in places(found, dna_run):
        assert row.track_change == found.tokens.tracks[pair, found.side.names.index(row.group)]


def test_levels_are_in_the_unit_of_values(found: VariantEffects, dna_run: GeneRun):
    for row, pair, _ in places(found, dna_run):
        before, after = (dna_run.model.split(one[pair])[1] for one in (found.tokens.reference, found.tokens.alternate))
        assert row.level_change == pytest.approx(float(after - before), rel=1e-2, abs=1e-5)


def test_counts_add_up(found: VariantEffects, given: Variants):
    metrics = found.metrics
    assert metrics["alleles"] == len(given) == 10
    assert metrics["alleles ok"] == len(given.usable) == 6
    assert metrics["alleles in a window"] == 5
    assert metrics["alleles scored"] == 4
    refused = [value for key, value in metrics.items() if key in ("alleles not covered", "alleles reference differs")]
    assert sum(refused) + metrics["alleles symbolic allele"] == 4
    assert metrics["random variants"] == sum(value for key, value in metrics.items() if key.startswith("matched: "))
    assert metrics["random variants"] == 4 * 8


def test_the_same_seed_gives_the_same_table(found: VariantEffects, ask: Any):
    assert ask().effects.equals(found.effects)
    other = ask(seed=1).effects
    assert not other["trans_p"].equals(found.effects["trans_p"])


def test_an_allele_is_scored_as_if_it_were_alone(found: VariantEffects, ask: Any, given: Variants):
    alone = ask(variants=given.take([0]), nulls=0).effects
    among = found.effects[found.effects["variant"] == "near"]
    for name in ("cis_value", "trans_size", "donor_p", "level_change"):
        assert alone[name].to_numpy() == pytest.approx(among[name].to_numpy(), rel=1e-3), name


def test_nothing_but_refused_alleles_is_a_table_of_reasons(ask: Any, given: Variants):
    refused = np.flatnonzero(given.table["status"] == "refused")
    found = ask(variants=given.take(refused))
    assert found.effects["status"].tolist() == ["refused"] * 4
    assert found.metrics["alleles scored"] == 0
    assert found.null is None


def test_cells_of_no_group_are_refused(dna_run: GeneRun, dna_world: Regulation, genome: Genome, given: Variants):
    data = dna_world.cells["rna"].copy()
    data.obs = dna_world.cells.obs.assign(blank=np.nan)
    with pytest.raises(DataError, match="blank"):
        variant_effects(dna_run, given, genome, cells_of(data), group="blank", donor=None)


def test_more_cells_than_are_drawn_are_told(ask: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("syncyte.tasks.network_cells.POOL", 20)
    found = ask(nulls=0)
    assert any(note.startswith("180 of 400 cells were drawn") for note in found.notes)


def test_the_order_of_the_file_changes_nothing(found: VariantEffects, ask: Any, given: Variants):
    turned = ask(variants=given.take(np.arange(len(given))[::-1])).effects
    keys = ["variant", "gene", "group"]
    numbers = ["cis_p", "cis_p_all", "trans_p", "null_draws"]
    first, second = (table.sort_values(keys, ignore_index=True)[[*keys, *numbers]] for table in (found.effects, turned))
    assert first["cis_p"].notna().any()
    pd.testing.assert_frame_equal(first, second)


def test_a_change_longer_than_a_window_has_no_p_and_stops_nobody(
    ask: Any, given: Variants, dna_world: Regulation, dna_run: GeneRun, genome: Genome
):
    start = dna_world.tss.set_index("symbol").loc["TF1"]
    begin, length = int(start["tss"]) - 100, dna_run.windows.length + 1
    ref = to_text(genome.fetch(start["chrom"], begin, begin + length))
    row = {"variant": "long", "record": 99, "chrom": start["chrom"], "start": begin, "ref": ref, "alt": ""}
    long = {**row, "kind": "deletion", "status": "ok", "reason": ""}
    found = ask(variants=variants_of([*given.table.to_dict("records"), long]))
    own = found.effects[found.effects["variant"] == "long"]
    assert (own["status"] == "scored").any()
    assert own.loc[own["status"] == "scored", "cis_p"].isna().all()
    assert found.effects["cis_p"].notna().any()
    assert any("1 alleles have no random variants, so no p" in note for note in found.notes)


def test_cells_without_a_donor_are_told_or_refused(
    dna_run: GeneRun, dna_world: Regulation, genome: Genome, given: Variants
):
    data = dna_world.cells["rna"].copy()
    donor = dna_world.cells.obs["donor"].astype(object)
    data.obs = dna_world.cells.obs.assign(some=donor.where(donor != "donor_1"), blank=np.nan)
    lost = int((donor == "donor_1").sum())
    options = {"group": "cell_type", "nulls": 0, "shifts": False}
    found = variant_effects(dna_run, given, genome, cells_of(data), donor="some", **options)
    assert any(f"{lost} of {len(data)} cells have no value in 'cell_type' or 'some'" in note for note in found.notes)
    with pytest.raises(DataError, match="No cell has a donor in 'blank'"):
        variant_effects(dna_run, given, genome, cells_of(data), donor="blank", **options)
