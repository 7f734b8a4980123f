"""What a sequence model learns from: windows, places without a region, targets by group, and what is held out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.genome.held import genome_of
from tests.tiny import cells_of
from tests.tiny_dna import counted

from syncyte.errors import DataError
from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import gene_windows, match_starts
from syncyte.genome.sequence import gc_share, reverse_complement
from syncyte.recipes.dna_targets import (
    FEWEST,
    STRETCHES,
    choose_parts,
    expression_examples,
    group_expression,
    group_openness,
    region_examples,
    split_parts,
)
from syncyte.recipes.simulate_regulation import Regulation


def places(n: int, seed: int, chroms: tuple[str, ...] = ("chr1", "chr2", "chr3")) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    start = rng.integers(100, 59_800, n)
    return pd.DataFrame({"chrom": rng.choice(chroms, n), "start": start, "end": start + 60})


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Genome:
    rng = np.random.default_rng(0)
    shares = {"chr1": 0.3, "chr2": 0.5, "chr3": 0.7}
    texts = {
        name: "".join(rng.choice(list("ACGT"), 60_000, p=[(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]))
        for name, gc in shares.items()
    }
    return genome_of(tmp_path_factory.mktemp("genome"), **texts)


def test_regions_stand_beside_as_many_places_without(genome: Genome):
    peaks = places(80, 1)
    found = region_examples(genome, peaks, 60, None, ("region",), 0)
    assert found.task == "binary"
    assert found.targets.sum() == 80
    assert len(found.targets) - 80 == 80
    middle = (peaks["start"] + peaks["end"]) // 2
    for row in (0, 40, 79):
        chrom, place = peaks["chrom"].iloc[row], int(middle.iloc[row])
        assert np.array_equal(found.codes[row], genome.fetch(chrom, place - 30, place + 30))
    assert set(found.parts) == {"chr1", "chr2", "chr3"}


def test_no_chromosome_tells_regions_from_places_without(genome: Genome):
    names = ("chr1", "chr2", "chr3")
    peaks = pd.concat([places(n, seed, (name,)) for seed, (n, name) in enumerate(zip((60, 8, 90), names))])
    found = region_examples(genome, peaks.reset_index(drop=True), 60, None, ("region",), 0)
    label, share = found.targets[:, 0], gc_share(found.codes)
    for name in names:
        own = found.parts == name
        assert label[own].mean() == 0.5, name
        hit, miss = share[own & (label == 1)], share[own & (label == 0)]
        assert hit.mean() == pytest.approx(miss.mean(), abs=0.02), name


def test_a_chromosome_full_of_regions_gets_no_places_without(genome: Genome):
    full = pd.DataFrame({"chrom": "chr2", "start": np.arange(0, 60_000, 300), "end": np.arange(0, 60_000, 300) + 200})
    peaks = pd.concat([places(70, 1, ("chr1", "chr3")), full], ignore_index=True)
    found = region_examples(genome, peaks, 60, None, ("region",), 0)
    label = found.targets[:, 0]
    assert label[found.parts == "chr2"].all()
    assert (label == 0).sum() == 70


def test_places_without_a_region_are_of_like_gc_content(genome: Genome):
    peaks = places(80, 1, ("chr3",))
    found = region_examples(genome, peaks, 60, None, ("region",), 0)
    share = gc_share(found.codes)
    hit, miss = share[found.targets[:, 0] == 1], share[found.targets[:, 0] == 0]
    assert abs(hit.mean() - miss.mean()) < 0.05
    again = region_examples(genome, peaks, 60, None, ("region",), 0)
    assert np.array_equal(found.codes, again.codes)


def test_openness_is_given_to_regions_and_zero_to_others(genome: Genome):
    peaks = places(70, 2)
    openness = np.random.default_rng(0).uniform(1, 2, (70, 3)).astype(np.float32)
    found = region_examples(genome, peaks, 60, openness, ("a", "b", "c"), 0)
    assert found.task == "count"
    assert np.array_equal(found.targets[:70], openness)
    assert not found.targets[70:].any()


def test_regions_outside_the_genome_keep_targets_in_step(genome: Genome):
    peaks = pd.concat(
        [pd.DataFrame({"chrom": ["chr9", "chr1"], "start": [5, 59_990], "end": [65, 60_050]}), places(70, 2)]
    )
    openness = np.arange(72, dtype=np.float32)[:, None]
    found = region_examples(genome, peaks.reset_index(drop=True), 60, openness, ("a",), 0)
    assert np.array_equal(found.targets[:70, 0], np.arange(2, 72))


def test_too_few_regions_are_refused(genome: Genome):
    with pytest.raises(DataError, match=rf"{FEWEST - 1} of 100 regions lie in the genome"):
        peaks = places(FEWEST - 1, 0)
        away = peaks.head(1).assign(chrom="chr9")
        region_examples(genome, pd.concat([peaks, *[away] * 41], ignore_index=True), 60, None, ("region",), 0)


def test_parts_are_chromosomes_or_stretches():
    chrom = np.array(["chr1", "chr2", "chr3", "chr1"], dtype=object)
    parts, notes = split_parts(chrom, np.arange(4))
    assert parts.tolist() == chrom.tolist()
    assert notes == []
    place = np.random.default_rng(0).permutation(100)
    parts, notes = split_parts(np.array(["chr1"] * 100, dtype=object), place)
    assert "stretches were held out" in notes[0]
    assert len(np.unique(parts.astype(str))) == STRETCHES
    for name in np.unique(parts.astype(str)):
        own = place[parts == name]
        assert np.ptp(own) == len(own) - 1, "a stretch is not of one piece"


def test_chosen_parts_leave_some_to_train_on():
    many = np.repeat([f"chr{number}" for number in range(1, 23)], 10)
    assert choose_parts(many, 0) == (["chr10"], ["chr8", "chr9"])
    for names in (("a", "b", "c"), tuple("abcdefgh")):
        for seed in range(5):
            valid, test = choose_parts(np.repeat(names, 10), seed)
            assert valid
            assert test
            assert not set(valid) & set(test)
            assert set(names) - set(valid) - set(test), "nothing is left to train on"


def test_unequal_parts_are_divided_as_near_as_can_be():
    slices = np.repeat(["chr22", "chr1", "chr9"], [22, 228, 130])
    for seed in range(10):
        assert choose_parts(slices, seed) == (["chr22"], ["chr9"]), "most rows must train"
    sizes = dict(zip("abcdefghij", (400, 250, 120, 60, 50, 40, 30, 20, 20, 10)))
    rows, chosen = np.repeat(list(sizes), list(sizes.values())), set()
    for seed in range(10):
        valid, test = choose_parts(rows, seed)
        assert choose_parts(rows, seed) == (valid, test)
        assert sum(sizes[name] for name in test) / 1000 == pytest.approx(0.2, abs=0.07)
        assert sum(sizes[name] for name in valid) / 1000 == pytest.approx(0.1, abs=0.07)
        chosen.add((*valid, "|", *test))
    assert len(chosen) > 1, "the seed is the draw"
    assert choose_parts(np.repeat(["a", "b"], 5), 0)[1] == []
    assert choose_parts(np.repeat("a", 5), 0) == ([], [])


def test_expression_of_windows_around_starts(genome: Genome):
    names = pd.Index(["A", "B", "C"])
    table = pd.DataFrame(
        [("A", "chr1", 500, "+"), ("B", "chr2", 900, "-"), ("A", "chr3", 700, "+")],
        columns=["symbol", "chrom", "tss", "strand"],
    )
    table = table.assign(gene_id=table["symbol"], tss_id=["a", "b", "c"])
    windows = gene_windows(genome, match_starts(table, pd.DataFrame(index=names)), names, 60)
    values = np.array([[1.0, 2], [3, 4], [5, 6]], dtype=np.float32)
    found = expression_examples(genome, windows, values, ("x", "y"))
    assert found.weak
    assert "which is weak" in found.notes[-1]
    rows = {tuple(row) for row in found.targets}
    assert rows == {(1, 2), (3, 4)}, "a gene without a window is no example"
    own = int(np.flatnonzero(found.targets[:, 0] == 3)[0])
    window = windows.table[windows.table["strand"] == "-"].iloc[0]
    expected = reverse_complement(genome.fetch("chr2", int(window["start"]), int(window["end"])))
    assert np.array_equal(found.codes[own], expected)


def test_means_of_groups_by_hand(dna_world: Regulation):
    cells = cells_of(dna_world.cells)
    groups = pd.Series(dna_world.cells.obs["cell_type"].astype(object).to_numpy(), index=cells.names)
    groups.iloc[:10] = None
    rows = np.arange(300)
    found, names = group_openness(cells, "atac", groups, rows)
    assert names == ("type_1", "type_2", "type_3")
    counts = counted(cells, "atac").toarray()[:300]
    known = groups.to_numpy()[:300]
    for column, name in enumerate(names):
        share = (counts[known == name] > 0).mean(axis=0)
        assert found[:, column] == pytest.approx(share / share.mean(), rel=1e-4)
    values, _ = group_expression(cells, "rna", groups, rows, 1e4)
    own = counted(cells).toarray()[:300]
    log = np.log1p(own / own.sum(axis=1, keepdims=True) * 1e4)
    assert values[:, 1] == pytest.approx(np.expm1(log[known == "type_2"].mean(axis=0)), rel=1e-4)


def test_a_group_without_training_cells_is_no_target(dna_world: Regulation):
    cells = cells_of(dna_world.cells)
    groups = cells.obs["cell_type"].astype(str)
    rows = np.flatnonzero(groups.to_numpy() != "type_2")
    assert group_openness(cells, "atac", groups, rows)[1] == ("type_1", "type_3")
