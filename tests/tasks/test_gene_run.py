"""Opening a run of a gene network: what it needs, and what it says of another genome."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError, SyncyteError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import one_hot
from syncyte.recipes.train_dna import _worse
from syncyte.tasks.gene_run import ENCODER, WORSE, GeneRun, WithOutputs, hash_of, open_gene_run, with_outputs


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


class Edited:
    """A genome in which the middle base of the first windows of a run is another one."""

    def __init__(self, run: GeneRun, genome: Genome, windows: int) -> None:
        rows = run.windows.table.iloc[:windows]
        self.places = set(zip(rows["chrom"], ((rows["start"] + rows["end"]) // 2).tolist()))
        self.genome, self.covers, self.spans = genome, genome.covers, genome.spans

    def fetch(self, chrom: str, start: int, end: int) -> np.ndarray:
        codes = self.genome.fetch(chrom, start, end).copy()
        for name, place in self.places:
            if name == chrom and start <= place < end:
                codes[place - start] = (codes[place - start] + 1) % 4
        return codes


@pytest.mark.parametrize(("edited", "refused"), [(0, False), (1, False), (20, False), (60, True), (150, True)])
def test_few_windows_may_differ_and_many_are_another_genome(
    edited: int, refused: bool, dna_run: GeneRun, dna_files: dict[str, Path]
):
    genome = cast(Any, Edited(dna_run, Genome.open(dna_files["genome.fa"]), edited))
    _, notes = dna_run.side(genome, None, True)
    assert any("have other bases than in training: another build?" in note for note in notes) == (edited > 0)
    dna_run.check_genome(genome, force=True)
    if not refused:
        dna_run.check_genome(genome)
        return
    with pytest.raises(DataError, match=r"of 150 windows looked at have other bases.*at most 20%.*--force"):
        dna_run.check_genome(genome)


def test_notes_of_the_training_are_handed_on(dna_run: GeneRun):
    assert dna_run.training_notes() == []
    worse = "Hidden genes are predicted worse from adapted tokens than from static ones (loss 0.4 and 0.3): so."
    recipe = {**dna_run.trained.recipe, "covered": 6, "notes": ["something else", worse]}
    run = replace(dna_run, trained=replace(dna_run.trained, recipe=recipe))
    few, other = run.training_notes()
    assert "6 genes with a window: so few cannot teach an adapter much" in few
    assert other == worse
    told = {"masked loss adapted": 0.4, "masked loss static": 0.3}
    assert all(WORSE in note for note in _worse(told)), "the training says it in these words"


def test_a_run_without_windows_has_no_sequence_side(dna_run: GeneRun, dna_files: dict[str, Path]):
    bare = replace(dna_run, windows=None, encoder=None)
    with pytest.raises(CapabilityError, match="Train it with --fasta and --tss"):
        bare.side(Genome.open(dna_files["genome.fa"]), None, True)
    with pytest.raises(CapabilityError, match="Train it with --fasta and --tss"):
        bare.check_genome(Genome.open(dna_files["genome.fa"]))


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
