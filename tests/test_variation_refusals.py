"""What ``syncyte.variants`` refuses, each in a sentence and with nothing half written."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.tiny import train_tiny
from tests.tiny_dna import finished

from syncyte.errors import CapabilityError, ConfigError, DataError, GenomeError, SyncyteError
from syncyte.recipes.dna_order import read_offset, read_vectors
from syncyte.recipes.simulate_regulation import Regulation


def test_a_file_cut_short_leaves_nothing(ask_variants, dna_vcf: Path, tmp_path: Path):
    packed = gzip.compress(dna_vcf.read_bytes())
    (tmp_path / "cut.vcf.gz").write_bytes(packed[: len(packed) - 20])
    with pytest.raises(GenomeError, match="cut short"):
        ask_variants(tmp_path / "O", vcf=tmp_path / "cut.vcf.gz")
    assert finished(tmp_path / "O") == []


@pytest.mark.parametrize("options", [{"group": "empty"}, {"group": "absent"}, {"donor": "absent"}])
def test_columns_that_say_nothing_are_refused(options: dict, ask_variants, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.assign(empty=None)
    with pytest.raises(SyncyteError, match=next(iter(options.values()))):
        ask_variants(tmp_path / "O", cells=cells, **options)
    assert finished(tmp_path / "O") == []


def test_a_genome_of_another_kind_is_refused(ask_variants, tmp_path: Path):
    (tmp_path / "genome.fa").write_text(">chrZ\n" + "ACGT" * 3000 + "\n")
    with pytest.raises(DataError, match=r"covers chrZ:0-12,000 and none of the"):
        ask_variants(tmp_path / "O", fasta=tmp_path / "genome.fa")
    assert finished(tmp_path / "O") == []


def test_another_build_is_refused_unless_it_is_meant(ask_variants, dna_world: Regulation, tmp_path: Path):
    bases = np.random.default_rng(5).choice(list("ACGT"), 69_000)
    (tmp_path / "genome.fa").write_text("".join(f">{name}\n{''.join(bases)}\n" for name in dna_world.sequences))
    options = {"fasta": tmp_path / "genome.fa", "nulls": 0, "close": 0}
    with pytest.raises(DataError, match=r"150 of 150 windows looked at have other bases than in training.*--force"):
        ask_variants(tmp_path / "O", **options)
    assert finished(tmp_path / "O") == []
    found = ask_variants(tmp_path / "O", force=True, **options)
    assert any("other bases than in training: another build?" in note for note in found.notes)
    assert any("reference alleles differ" in note for note in found.notes)


def test_cells_without_the_genes_are_refused(ask_variants, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.var_names = [f"OTHER{number}" for number in range(cells.n_vars)]
    cells.var = cells.var[[]]
    cells.obs = dna_world.cells.obs.copy()
    with pytest.raises(SyncyteError):
        ask_variants(tmp_path / "O", cells=cells)
    assert finished(tmp_path / "O") == []


def test_a_run_of_another_recipe_is_refused(ask_variants, tiny_data, tmp_path: Path):
    run = train_tiny(tiny_data, tmp_path / "RUN")
    with pytest.raises(CapabilityError, match="clm_x"):
        ask_variants(tmp_path / "O", run=run)
    assert finished(tmp_path / "O") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vcf": None}, "Nothing to score"),
        ({"sample": "nobody"}, "nobody"),
        ({"vcf": None, "edits": "chr1:5=what"}, "is no edit"),
        ({"vcf": None, "edits": "chr1:100-120=delete", "sample": "phased"}, "edits in a call of their own"),
    ],
    ids=["nothing", "unknown sample", "no edit", "sample of edits"],
)
def test_questions_that_cannot_be_asked(options: dict, words: str, ask_variants, tmp_path: Path):
    with pytest.raises(SyncyteError, match=words):
        ask_variants(tmp_path / "O", **options)
    assert finished(tmp_path / "O") == []


def test_a_file_in_the_place_of_the_folder(ask_variants, tmp_path: Path):
    (tmp_path / "O").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        ask_variants(tmp_path / "O")
    assert (tmp_path / "O").read_text() == "mine"


def test_missing_targets_are_told_before_anything_is_scored(
    ask_variants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("syncyte.tasks.variants.variant_effects", lambda *given, **more: pytest.fail("scored"))
    with pytest.raises(SyncyteError, match=r"none\.tsv does not exist"):
        ask_variants(tmp_path / "O", targets=tmp_path / "none.tsv")


def test_vectors_may_be_a_frame():
    table = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert read_vectors(table).dtypes.tolist() == [np.float32]
    with pytest.raises(DataError, match="numbers"):
        read_vectors(table.assign(b="c"))
    with pytest.raises(DataError):
        read_vectors(table[[]])


def test_config_errors_are_no_data_errors(ask_variants, tmp_path: Path):
    with pytest.raises(ConfigError):
        ask_variants(tmp_path / "O", vcf=None)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ((), None),
        (7, 7),
        ("1,000", 1000),
        (["32000000"], 32_000_000),
        (["a.fa=5", "b/c.fa.gz=7"], {"a.fa": 5, "c.fa.gz": 7}),
        ({"a.fa": 5}, {"a.fa": 5}),
    ],
)
def test_offsets_are_numbers_alone_or_by_file(given, wanted):
    assert read_offset(given) == wanted


@pytest.mark.parametrize("given", ["here", ["a.fa=x"], ["a.fa="]])
def test_offsets_that_are_no_numbers_are_refused(given):
    with pytest.raises(ConfigError, match="give a whole number, or FILE=N"):
        read_offset(given)
