"""Opening a run of a gene network: what it needs, and what it says of another genome."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError, SyncyteError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import one_hot
from syncyte.tasks.gene_run import ENCODER, GeneRun, WithOutputs, hash_of, open_gene_run, with_outputs


def test_vectors_end_with_what_the_sequence_model_answers(dna_run: GeneRun):
    assert isinstance(dna_run.encoder, WithOutputs)
    inner = dna_run.encoder.encoder
    codes = np.random.default_rng(0).integers(0, 4, (3, inner.length)).astype(np.uint8)
    windows = torch.from_numpy(one_hot(codes))
    found = dna_run.encoder.embed(windows)
    assert found.shape == (3, inner.width + inner.tasks) == (3, dna_run.encoder.width)
    assert torch.equal(found[:, : inner.width], inner.embed(windows))
    assert torch.equal(found[:, inner.width :], inner.logits(windows))
    assert dna_run.encoder.fingerprint != inner.fingerprint
    assert with_outputs(dna_run.encoder) is dna_run.encoder


def test_symbols_are_names_where_the_run_knows_no_others(dna_run: GeneRun):
    assert list(dna_run.symbols[:2]) == ["TF1", "TF2"]
    assert dna_run.genes[0] == "TF1"
    assert dna_run.medians.shape == (150,)


def test_a_run_of_cells_is_none_of_genes(tiny_run):
    with pytest.raises(CapabilityError, match=r"clm_x run"):
        open_gene_run(tiny_run)


def test_a_genome_that_covers_a_part_is_told(dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    text = dna_files["genome.fa"].read_text().split(">")[1:3]
    (tmp_path / "part.fa").write_text("".join(f">{one}" for one in text))
    side, notes = dna_run.side(Genome.open(tmp_path / "part.fa"), None, True)
    assert len(notes) == 1
    assert "windows of the run lie outside the genome given" in notes[0]
    assert len(side.windows.table) == len(dna_run.windows.table)


def test_other_bases_are_told(dna_run: GeneRun, dna_files: dict[str, Path], tmp_path: Path):
    lines = dna_files["genome.fa"].read_text().splitlines()
    turned = [line if line[0] == ">" else line.translate(str.maketrans("ACGT", "CATG")) for line in lines]
    (tmp_path / "other.fa").write_text("\n".join(turned) + "\n")
    _, notes = dna_run.side(Genome.open(tmp_path / "other.fa"), None, True)
    assert any("have other bases than in training: another build?" in note for note in notes)


def test_a_run_without_windows_has_no_sequence_side(dna_run: GeneRun, dna_files: dict[str, Path]):
    bare = replace(dna_run, windows=None, encoder=None)
    with pytest.raises(CapabilityError, match="Train it with --fasta and --tss"):
        bare.side(Genome.open(dna_files["genome.fa"]), None, True)


def test_a_run_whose_sequence_model_is_gone_or_another_is_refused(dna_run: GeneRun, tmp_path: Path):
    copy = tmp_path / "RUN"
    shutil.copytree(dna_run.trained.path, copy)
    shutil.rmtree(copy / ENCODER)
    with pytest.raises(SyncyteError):
        open_gene_run(syncyte.load(copy, device="cpu"))
    (copy / ENCODER).mkdir()
    with pytest.raises(ConfigError, match="holds no sequence encoder"):
        open_gene_run(syncyte.load(copy, device="cpu"))
    trained = replace(dna_run.trained, recipe={**dna_run.trained.recipe})
    trained.recipe["encoder"] = {**trained.recipe["encoder"], "fingerprint": "other"}
    with pytest.raises(DataError, match="another one than the run"):
        open_gene_run(trained)


def test_hashes_are_those_of_bases(dna_run: GeneRun, dna_files: dict[str, Path]):
    codes = dna_run.windows.fetch(Genome.open(dna_files["genome.fa"]))
    assert np.array_equal([hash_of(one) for one in codes], dna_run.hashes)
    assert hash_of(codes[0]) != hash_of((codes[0] + 1) % 4)


def test_other_tasks_refuse_a_run_of_genes(dna_run: GeneRun, dna_files: dict[str, Path]):
    with pytest.raises(CapabilityError, match="bio_dta run, which cannot"):
        syncyte.embed(dna_run.trained, dna_files["cells.h5mu"], quiet=True)
