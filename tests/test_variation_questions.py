"""Other questions to ``syncyte.variants``: people, edits, targets, fewer numbers, other spellings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.tiny_dna import finished, table_of

from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variants import VariantEffects
from syncyte.variation import MARK

NAMED = ("effects.tsv", "ranked.tsv", "trans.tsv", "report.html", "manifest.json")  # in the documentation of the verb


@pytest.mark.parametrize("sample", ["phased", "unphased"])
def test_both_haplotypes_of_a_person(sample: str, ask_variants, tmp_path: Path):
    found = ask_variants(tmp_path / "O", sample=sample, close=0)
    effects = found.effects
    assert f"{sample}:TF1" in set(effects["variant"])
    assert set(effects["kind"]) == {"haplotypes"}
    rows = effects[effects["gene"] == "TF1"]
    assert rows["alt"].str.startswith("2 alleles").all()
    assert (rows["trans_size"] > 0).all()
    assert effects["cis_p"].isna().all()
    said = " ".join(found.notes)
    assert f"{sample} carries 4 of the alleles given" in said
    assert "1 carried alleles cannot be scored" in said
    assert "p against chance are not given" in said
    assert ("phase unknown" in said) == (sample == "unphased")


def test_haplotypes_by_hand(dna_answer, ask_variants, dna_run: GeneRun, tmp_path: Path):
    """Phased, each copy of TF1's start holds one of the changes: the token is the mean of those with one."""
    factor = list(dna_run.symbols).index("TF1")

    def step(found: VariantEffects, allele: int) -> np.ndarray:
        table = found.tokens.table
        row = np.flatnonzero((table["allele"] == allele) & (table["gene"] == factor))[0]
        return (found.tokens.alternate[row] - found.tokens.reference[row]).numpy()

    person, alone, names = ask_variants(tmp_path / "O", sample="phased", close=0), dna_answer[0], dna_answer[0].names
    two = next(name for name in names if name.startswith("two"))  # the first of both is carried
    place = list(person.tokens.table["gene"]).index(factor)
    steps = [step(alone, names.index(name)) for name in ("near", two)]
    assert step(person, place) == pytest.approx((steps[0] + steps[1]) / 2, abs=1e-5)


def test_edits_as_text_and_as_a_file(ask_variants, dna_world: Regulation, tmp_path: Path):
    start = dna_world.tss.set_index("symbol").loc["TF1"]
    text = f"{start['chrom']}:{start['tss'] - 50}-{start['tss'] + 50}=shuffle"
    found = ask_variants(tmp_path / "O", vcf=None, edits=text, nulls=0, close=0)
    assert set(found.effects["kind"]) == {"shuffle"}
    assert (found.effects.query("gene == 'TF1'")["status"] == "scored").all()
    assert json.loads((tmp_path / "O" / MARK).read_text())["edits"] == text
    (tmp_path / "edits.txt").write_text(text + "\n")
    again = ask_variants(tmp_path / "P", vcf=None, edits=tmp_path / "edits.txt", nulls=0, close=0)
    assert again.effects["trans_size"].tolist() == found.effects["trans_size"].tolist()


def test_edits_stand_beside_variants(ask_variants, dna_vcf: Path, tmp_path: Path):
    found = ask_variants(tmp_path / "O", edits="chr1:100-120=delete", nulls=0, close=0)
    assert {"near", "chr1:100-120=delete"} <= set(found.effects["variant"])


def test_targets_alone_are_an_answer(ask_variants, dna_files: dict[str, Path], tmp_path: Path):
    found = ask_variants(tmp_path / "O", vcf=None, targets=dna_files["targets.tsv"])
    assert len(found.effects) == 0
    assert set(found.tables["targets"]["gene"]) == {"TF1", "TF2", "TF3", "TF4"}
    assert set(NAMED) - {"trans.tsv"} <= set(finished(tmp_path / "O"))
    assert list(table_of(tmp_path / "O").columns)[:5] == ["variant", "chrom", "pos", "ref", "alt"]


def test_without_random_variants_there_is_no_p_against_them(dna_answer, ask_variants, tmp_path: Path):
    found = ask_variants(tmp_path / "O", nulls=0, close=0)
    assert found.effects[["cis_p", "trans_p", "cis_fdr", "trans_fdr"]].isna().all(axis=None)
    assert found.null is None
    same = ["variant", "gene", "group", "cis_value", "trans_size", "donor_p"]
    assert found.effects[same].equals(dna_answer[0].effects[same])


def test_without_shifts_turns_are_missing(dna_answer, ask_variants, tmp_path: Path):
    found = ask_variants(tmp_path / "O", shifts=False, close=0)
    assert found.effects["trans_turn"].isna().all()
    assert found.effects["trans_p"].equals(dna_answer[0].effects["trans_p"])


@pytest.mark.parametrize("donor", [None, "one"])
def test_one_donor_is_descriptive_only(donor: str | None, ask_variants, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.assign(one="only")
    found = ask_variants(tmp_path / "O", cells=cells, donor=donor, close=0)
    assert any("descriptive only" in note for note in found.notes)
    assert "descriptive only" in (tmp_path / "O" / "report.html").read_text()
    scored = found.effects[found.effects["status"] == "scored"]
    assert scored[["donor_p", "donor_fdr", "cis_low", "cis_high"]].isna().all(axis=None)
    assert np.isfinite(scored["cis_value"]).all()


def test_without_groups_all_cells_are_one(ask_variants, tmp_path: Path):
    found = ask_variants(tmp_path / "O", group=None, nulls=0, close=0)
    assert set(found.effects.loc[found.effects["status"] == "scored", "group"]) == {"all"}


def test_a_rare_group_says_that_its_cells_are_too_few(ask_variants, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.assign(kind=np.where(np.arange(400) < 2, "rare", "common"))
    effects = ask_variants(tmp_path / "O", cells=cells, group="kind", nulls=0, close=0).effects
    rare = effects[(effects["group"] == "rare") & (effects["variant"] == "near")]
    assert (rare["status"] == "no effect").all()
    assert rare["reason"].str.contains("too few cells of rare").all()


def test_three_cells_are_too_few_for_anything(ask_variants, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"][:3].copy()
    cells.obs = dna_world.cells.obs.iloc[:3].copy()
    found = ask_variants(tmp_path / "O", cells=cells)
    rows = found.effects[found.effects["variant"] == "near"]
    assert rows["reason"].str.contains("too few cells").all()
    assert "scored" not in set(found.effects["status"])
    assert found.null is None


def test_genes_that_the_cells_lack_are_told(ask_variants, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"][:, :40].copy()
    cells.obs = dna_world.cells.obs.copy()
    found = ask_variants(tmp_path / "O", cells=cells, nulls=0, close=0)
    assert any("110 of the run's 150 genes are not in the cells" in note for note in found.notes)


def test_names_of_chromosomes_and_letters_may_differ(
    dna_answer, ask_variants, dna_files: dict[str, Path], dna_vcf: Path, tmp_path: Path
):
    lines = dna_files["genome.fa"].read_text().splitlines()
    (tmp_path / "g.fa").write_text("\n".join(one.replace("chr", "") if one[0] == ">" else one.lower() for one in lines))
    (tmp_path / "v.vcf").write_text(dna_vcf.read_text().replace("\nchr", "\n"))
    found = ask_variants(tmp_path / "O", vcf=tmp_path / "v.vcf", fasta=tmp_path / "g.fa", nulls=0, close=0)
    assert found.effects["trans_size"].equals(dna_answer[0].effects["trans_size"])


def test_a_table_of_changes_is_read_as_a_vcf_is(dna_answer, ask_variants, dna_vcf: Path, tmp_path: Path):
    near = next(line.split("\t") for line in dna_vcf.read_text().splitlines() if "\tnear\t" in line)
    table = pd.DataFrame([dict(zip(["chrom", "pos", "ref", "alt"], [near[0], near[1], near[3], near[4]]))])
    table.to_csv(tmp_path / "changes.csv", index=False)
    found = ask_variants(tmp_path / "O", vcf=tmp_path / "changes.csv", nulls=0, close=0)
    expected = dna_answer[0].effects.query("variant == 'near'")["trans_size"]
    assert found.effects["trans_size"].to_numpy() == pytest.approx(
        expected.to_numpy(), rel=1e-3
    )  # a small step of a token of 32 bits


def test_an_attending_run_answers_too(ask_variants, dna_deep_run: GeneRun, tmp_path: Path):
    found = ask_variants(tmp_path / "O", run=dna_deep_run.trained.path, nulls=0, close=0)
    assert (found.effects["status"] == "scored").sum() >= 12


def test_a_packed_file_and_a_run_by_path_give_the_same(
    dna_answer, ask_variants, dna_vcf: Path, dna_run: GeneRun, tmp_path: Path
):
    packed = tmp_path / "all.vcf.gz"
    packed.write_bytes(gzip.compress(dna_vcf.read_bytes()))
    ask_variants(tmp_path / "O", vcf=packed, run=str(dna_run.trained.path))
    assert (tmp_path / "O" / "effects.tsv").read_bytes() == (dna_answer[1] / "effects.tsv").read_bytes()
