"""``syncyte.variants`` from files to files: every allele answered, a killed call goes on, bad input leaves nothing."""

from __future__ import annotations

import gzip
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tiny import train_tiny
from tests.tiny_dna import SILENT, write_vcf

import syncyte
from syncyte.errors import CapabilityError, ConfigError, DataError, GenomeError, SyncyteError
from syncyte.genome.fasta import Genome
from syncyte.genome.vcf import read_variants
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variants import LIMITS, NO_WINDOW, SAME, VariantEffects
from syncyte.train.state import sha256
from syncyte.variation import MARK, read_vectors

NAMED = ("effects.tsv", "ranked.tsv", "trans.tsv", "report.html", "manifest.json")  # in the documentation of the verb
TYPES = ("type_1", "type_2", "type_3")


@pytest.fixture(scope="module")
def vcf(dna_world: Regulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vcf(dna_world, tmp_path_factory.mktemp("vcf") / "all.vcf")


@pytest.fixture(scope="module")
def call(dna_run: GeneRun, dna_files: dict[str, Path], vcf: Path) -> Any:
    """The verb with the tiny world's files; all may be changed."""

    def answer(out: Path, **options: Any) -> VariantEffects:
        chosen = {"fasta": dna_files["genome.fa"], "cells": dna_files["cells.h5mu"], "vcf": vcf, "nulls": 6, "close": 1}
        chosen |= {"group": "cell_type", "donor": "donor", **SILENT, **options}
        return syncyte.variants(chosen.pop("run", dna_run.trained), out=out, **chosen)

    return answer


@pytest.fixture(scope="module")
def full(
    call: Any, dna_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[VariantEffects, Path]:
    """One call with all there is, and its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("answers") / "EFFECTS"
    return call(folder, targets=dna_files["targets.tsv"]), folder


def table_of(folder: Path, name: str = "effects") -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.tsv", sep="\t", comment="#")


def finished(folder: Path) -> list[str]:
    """Results in a folder, whole or half."""
    return [path.name for path in folder.glob("*") if path.name != ".work"] if folder.exists() else []


# --- what is written --------------------------------------------------------------------------------------------------


def test_every_allele_of_the_file_has_its_rows(full, vcf: Path, dna_files: dict[str, Path]):
    effects = table_of(full[1])
    given = read_variants(vcf, Genome.open(dna_files["genome.fa"]))
    assert set(effects["variant"]) == set(given.table["variant"])
    assert len(given) == 10
    status = effects.drop_duplicates("variant").set_index("variant")["status"].to_dict()
    scored = [name for name, one in status.items() if one == "scored"]
    assert [name.partition(":")[0] for name in scored] == ["near", "two", "two", "gone"]
    assert {name for name, one in status.items() if one == "refused"} == {"wrong", "symbol", "beyond", "elsewhere"}
    assert {name for name, one in status.items() if one == "no effect"} == {"edge", "desert"}


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("wrong", "reference differs"),
        ("symbol", "symbolic allele"),
        ("beyond", "not covered"),
        ("elsewhere", "no sequence of chr20"),
        ("desert", NO_WINDOW),
        ("edge", SAME),
    ],
)
def test_what_has_no_effect_says_why(full, variant: str, words: str):
    rows = table_of(full[1]).query("variant == @variant")
    assert len(rows) == (3 if variant == "edge" else 1)
    assert rows["reason"].str.contains(words, regex=False).all()
    assert rows[["cis_p", "trans_p", "trans_fdr", "cis_fdr"]].isna().all(axis=None)


def test_scored_rows_are_complete(full):
    effects = table_of(full[1])
    scored = effects[effects["status"] == "scored"]
    assert (scored.groupby(["variant", "gene"])["group"].agg(tuple) == TYPES).all()
    numbers = ["cis_value", "cis_low", "cis_high", "cis_p", "cis_fdr", "donor_p", "donor_fdr", "trans_size", "trans_p"]
    numbers += ["trans_fdr", "trans_token", "trans_turn", "token_shift", "level_change", "track_change"]
    assert np.isfinite(scored[numbers]).all(axis=None)
    assert (scored["donors"] == 3).all()
    assert (scored["null_draws"] >= 6).all()
    assert (scored["trans_p"] >= 1 / (1 + scored["null_draws"])).all()
    assert ((scored["cis_low"] <= scored["cis_value"]) & (scored["cis_value"] <= scored["cis_high"])).all()
    assert (scored["trans_size"] > 0).all()
    gone = effects[effects["variant"] == "gone"]
    assert set(gone.loc[gone["slot"].str.contains("start", na=False), "warnings"]) == {"transcription start deleted"}


def test_a_window_left_as_it_was_is_exactly_no_effect(full):
    rows = full[0].effects.query("variant == 'edge'")
    for name in ("cis_value", "token_shift", "level_change", "track_change", "trans_size", "trans_token", "trans_turn"):
        assert (rows[name] == 0).all(), name


def test_the_manifest_agrees_with_the_files(full):
    found, folder = full
    manifest = json.loads((folder / MARK).read_text())
    for name, hashed in manifest["files"].items():
        assert sha256(folder / name) == hashed
    assert {*manifest["files"], MARK} == set(finished(folder))
    assert set(NAMED) <= set(finished(folder))
    assert manifest["limits"] == LIMITS
    assert manifest["metrics"]["alleles"] == 10
    assert manifest["notes"] == found.notes
    assert manifest["vcf sha256"]
    assert manifest["genome spans"]["chr1"][0] == 0
    assert not list((folder / ".work").glob("cells/*")), "finished work is not kept"


def test_limits_are_said_everywhere(full):
    folder = full[1]
    for name in ("effects", "ranked", "trans", "pairs", "track", "targets"):
        assert (folder / f"{name}.tsv").read_text().startswith(f"# {LIMITS}\n")
    assert LIMITS in html.unescape((folder / "report.html").read_text())
    assert LIMITS in (folder / "report.json").read_text()


def test_ranked_rows_are_those_scored_by_p_and_size(full):
    ranked = table_of(full[1], "ranked")
    assert set(ranked["status"]) == {"scored"}
    assert ranked["trans_p"].is_monotonic_increasing
    for _, own in ranked.groupby("trans_p"):
        assert own["trans_size"].is_monotonic_decreasing


def test_the_first_pair_is_looked_at_closely(full):
    found, folder = full
    first = table_of(folder, "ranked").iloc[0]
    trans, pairs, track = (table_of(folder, name) for name in ("trans", "pairs", "track"))
    for table in (trans, pairs):
        assert table[["variant", "gene", "group"]].drop_duplicates().to_numpy().tolist() == [
            [first["variant"], first["gene"], first["group"]]
        ]
    assert first["gene"] not in set(trans["other"])
    assert trans["in_sd"].abs().is_monotonic_decreasing
    assert trans["rank"].tolist() == list(range(1, len(trans) + 1))
    assert pairs["size"].iloc[0] == pytest.approx(first["trans_size"], rel=1e-3)
    assert 0 < pairs["matched genes p"].iloc[0] <= 1
    assert set(track["gene"]) == {first["gene"]}
    assert (track.groupby("pos")["alt"].nunique() == 3).all()
    assert not (track["ref"] == track["alt"]).any()
    assert found.metrics["random variants"] >= 6


def test_targets_of_all_factors_are_ranked(full):
    targets = table_of(full[1], "targets")
    assert set(targets["gene"]) == {"TF1", "TF2", "TF3", "TF4"}
    assert {"co-expression", "mean expression", "delete: change", "down: change"} <= set(targets["ranking"])
    assert set(targets.loc[targets["ranking"] == "sequence: change", "gene"]) == {"TF1", "TF2"}
    assert targets["auroc"].between(0, 1).all()


def test_a_finished_folder_is_not_written_over(full, call):
    before = (full[1] / "effects.tsv").stat().st_mtime_ns
    with pytest.raises(DataError, match=r"holds finished results.*--overwrite"):
        call(full[1])
    assert (full[1] / "effects.tsv").stat().st_mtime_ns == before


def test_overwriting_leaves_nothing_of_before(full, call, dna_files: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "O"
    call(folder, targets=dna_files["targets.tsv"], nulls=0, vcf=None)
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(GenomeError):
        call(folder, vcf=tmp_path / "none.vcf", overwrite=True)
    assert (folder / MARK).exists(), "a call that fails takes nothing away"
    call(folder, nulls=0, close=0, overwrite=True)
    assert "targets.tsv" not in finished(folder)
    assert {"mine.txt", "effects.tsv", MARK} <= set(finished(folder))


# --- killed, and again ------------------------------------------------------------------------------------------------


def test_a_killed_call_goes_on_to_the_same_table(full, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from syncyte.tasks import variant_effects

    monkeypatch.setattr(variant_effects, "BLOCK", 1)
    done, fill = [], variant_effects._fill

    def killed(*given: Any):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(given[3])
        fill(*given)

    folder = tmp_path / "O"
    with monkeypatch.context() as patch:
        patch.setattr(variant_effects, "_fill", killed)
        with pytest.raises(KeyboardInterrupt):
            call(folder)
    assert finished(folder) == []
    assert len(list((folder / ".work" / "cells").glob("*.npz"))) == 2
    again: list[int] = []
    monkeypatch.setattr(variant_effects, "_fill", lambda *given: (again.append(given[3]), fill(*given)))
    found = call(folder)
    own = len(set(found.tokens.table["gene"]))
    assert again[: own - 2] and not set(again[: own - 2]) & set(done), "finished genes are not followed again"
    assert (folder / "effects.tsv").read_bytes() == (full[1] / "effects.tsv").read_bytes()


def test_a_damaged_block_is_done_again(full, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "O"
    with monkeypatch.context() as patch:
        patch.setattr("syncyte.report.variants.variant_report", lambda found: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(folder)
    kept = list((folder / ".work" / "cells").glob("*.npz"))
    assert kept
    assert finished(folder) == []
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    call(folder)
    assert (folder / "effects.tsv").read_bytes() == (full[1] / "effects.tsv").read_bytes()


def test_a_lost_manifest_is_made_again(full, call, tmp_path: Path):
    folder = tmp_path / "O"
    call(folder, close=0)
    (folder / MARK).unlink()
    call(folder, close=0)
    assert (folder / MARK).exists()
    assert (folder / "effects.tsv").read_bytes() == (full[1] / "effects.tsv").read_bytes()


# --- other questions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["phased", "unphased"])
def test_both_haplotypes_of_a_person(sample: str, call, tmp_path: Path):
    found = call(tmp_path / "O", sample=sample, close=0)
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


def test_haplotypes_by_hand(full, call, dna_run: GeneRun, tmp_path: Path):
    """Phased, each copy of TF1's start holds one of the changes: the token is the mean of those with one."""
    factor = list(dna_run.symbols).index("TF1")

    def step(found: VariantEffects, allele: int) -> np.ndarray:
        table = found.tokens.table
        row = np.flatnonzero((table["allele"] == allele) & (table["gene"] == factor))[0]
        return (found.tokens.alternate[row] - found.tokens.reference[row]).numpy()

    person, alone, names = call(tmp_path / "O", sample="phased", close=0), full[0], full[0].names
    two = next(name for name in names if name.startswith("two"))  # the first of both is carried
    place = list(person.tokens.table["gene"]).index(factor)
    steps = [step(alone, names.index(name)) for name in ("near", two)]
    assert step(person, place) == pytest.approx((steps[0] + steps[1]) / 2, abs=1e-5)


def test_edits_as_text_and_as_a_file(call, dna_world: Regulation, tmp_path: Path):
    start = dna_world.tss.set_index("symbol").loc["TF1"]
    text = f"{start['chrom']}:{start['tss'] - 50}-{start['tss'] + 50}=shuffle"
    found = call(tmp_path / "O", vcf=None, edits=text, nulls=0, close=0)
    assert set(found.effects["kind"]) == {"shuffle"}
    assert (found.effects.query("gene == 'TF1'")["status"] == "scored").all()
    assert json.loads((tmp_path / "O" / MARK).read_text())["edits"] == text
    (tmp_path / "edits.txt").write_text(text + "\n")
    again = call(tmp_path / "P", vcf=None, edits=tmp_path / "edits.txt", nulls=0, close=0)
    assert again.effects["trans_size"].tolist() == found.effects["trans_size"].tolist()


def test_edits_stand_beside_variants(call, vcf: Path, tmp_path: Path):
    found = call(tmp_path / "O", edits="chr1:100-120=delete", nulls=0, close=0)
    assert {"near", "chr1:100-120=delete"} <= set(found.effects["variant"])


def test_targets_alone_are_an_answer(call, dna_files: dict[str, Path], tmp_path: Path):
    found = call(tmp_path / "O", vcf=None, targets=dna_files["targets.tsv"])
    assert len(found.effects) == 0
    assert set(found.tables["targets"]["gene"]) == {"TF1", "TF2", "TF3", "TF4"}
    assert set(NAMED) - {"trans.tsv"} <= set(finished(tmp_path / "O"))
    assert list(table_of(tmp_path / "O").columns)[:5] == ["variant", "chrom", "pos", "ref", "alt"]


def test_without_random_variants_there_is_no_p_against_them(full, call, tmp_path: Path):
    found = call(tmp_path / "O", nulls=0, close=0)
    assert found.effects[["cis_p", "trans_p", "cis_fdr", "trans_fdr"]].isna().all(axis=None)
    assert found.null is None
    same = ["variant", "gene", "group", "cis_value", "trans_size", "donor_p"]
    assert found.effects[same].equals(full[0].effects[same])


def test_without_shifts_turns_are_missing(full, call, tmp_path: Path):
    found = call(tmp_path / "O", shifts=False, close=0)
    assert found.effects["trans_turn"].isna().all()
    assert found.effects["trans_p"].equals(full[0].effects["trans_p"])


@pytest.mark.parametrize("donor", [None, "one"])
def test_one_donor_is_descriptive_only(donor: str | None, call, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.assign(one="only")
    found = call(tmp_path / "O", cells=cells, donor=donor, close=0)
    assert any("descriptive only" in note for note in found.notes)
    assert "descriptive only" in (tmp_path / "O" / "report.html").read_text()
    scored = found.effects[found.effects["status"] == "scored"]
    assert scored[["donor_p", "donor_fdr", "cis_low", "cis_high"]].isna().all(axis=None)
    assert np.isfinite(scored["cis_value"]).all()


def test_without_groups_all_cells_are_one(call, tmp_path: Path):
    found = call(tmp_path / "O", group=None, nulls=0, close=0)
    assert set(found.effects.loc[found.effects["status"] == "scored", "group"]) == {"all"}


def test_a_rare_group_says_that_its_cells_are_too_few(call, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.assign(kind=np.where(np.arange(400) < 2, "rare", "common"))
    effects = call(tmp_path / "O", cells=cells, group="kind", nulls=0, close=0).effects
    rare = effects[(effects["group"] == "rare") & (effects["variant"] == "near")]
    assert (rare["status"] == "no effect").all()
    assert rare["reason"].str.contains("too few cells of rare").all()


def test_three_cells_are_too_few_for_anything(call, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"][:3].copy()
    cells.obs = dna_world.cells.obs.iloc[:3].copy()
    found = call(tmp_path / "O", cells=cells)
    rows = found.effects[found.effects["variant"] == "near"]
    assert rows["reason"].str.contains("too few cells").all()
    assert "scored" not in set(found.effects["status"])
    assert found.null is None


def test_genes_that_the_cells_lack_are_told(call, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"][:, :40].copy()
    cells.obs = dna_world.cells.obs.copy()
    found = call(tmp_path / "O", cells=cells, nulls=0, close=0)
    assert any("110 of the run's 150 genes are not in the cells" in note for note in found.notes)


def test_names_of_chromosomes_and_letters_may_differ(full, call, dna_files: dict[str, Path], vcf: Path, tmp_path: Path):
    lines = dna_files["genome.fa"].read_text().splitlines()
    (tmp_path / "g.fa").write_text("\n".join(one.replace("chr", "") if one[0] == ">" else one.lower() for one in lines))
    (tmp_path / "v.vcf").write_text(vcf.read_text().replace("\nchr", "\n"))
    found = call(tmp_path / "O", vcf=tmp_path / "v.vcf", fasta=tmp_path / "g.fa", nulls=0, close=0)
    assert found.effects["trans_size"].equals(full[0].effects["trans_size"])


def test_a_table_of_changes_is_read_as_a_vcf_is(full, call, vcf: Path, tmp_path: Path):
    near = next(line.split("\t") for line in vcf.read_text().splitlines() if "\tnear\t" in line)
    table = pd.DataFrame([dict(zip(["chrom", "pos", "ref", "alt"], [near[0], near[1], near[3], near[4]]))])
    table.to_csv(tmp_path / "changes.csv", index=False)
    found = call(tmp_path / "O", vcf=tmp_path / "changes.csv", nulls=0, close=0)
    expected = full[0].effects.query("variant == 'near'")["trans_size"]
    assert found.effects["trans_size"].to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4)


def test_an_attending_run_answers_too(call, dna_deep_run: GeneRun, tmp_path: Path):
    found = call(tmp_path / "O", run=dna_deep_run.trained.path, nulls=0, close=0)
    assert (found.effects["status"] == "scored").sum() >= 12


def test_a_packed_file_and_a_run_by_path_give_the_same(full, call, vcf: Path, dna_run: GeneRun, tmp_path: Path):
    packed = tmp_path / "all.vcf.gz"
    packed.write_bytes(gzip.compress(vcf.read_bytes()))
    call(tmp_path / "O", vcf=packed, run=str(dna_run.trained.path))
    assert (tmp_path / "O" / "effects.tsv").read_bytes() == (full[1] / "effects.tsv").read_bytes()


# --- hostile input ----------------------------------------------------------------------------------------------------


def test_a_file_cut_short_leaves_nothing(call, vcf: Path, tmp_path: Path):
    packed = gzip.compress(vcf.read_bytes())
    (tmp_path / "cut.vcf.gz").write_bytes(packed[: len(packed) - 20])
    with pytest.raises(GenomeError, match="cut short"):
        call(tmp_path / "O", vcf=tmp_path / "cut.vcf.gz")
    assert finished(tmp_path / "O") == []


@pytest.mark.parametrize("options", [{"group": "empty"}, {"group": "absent"}, {"donor": "absent"}])
def test_columns_that_say_nothing_are_refused(options: dict, call, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.obs = dna_world.cells.obs.assign(empty=None)
    with pytest.raises(SyncyteError, match=next(iter(options.values()))):
        call(tmp_path / "O", cells=cells, **options)
    assert finished(tmp_path / "O") == []


def test_a_genome_of_another_kind_is_refused(call, tmp_path: Path):
    (tmp_path / "genome.fa").write_text(">chrZ\n" + "ACGT" * 3000 + "\n")
    with pytest.raises(DataError, match=r"covers chrZ:0-12,000 and none of the"):
        call(tmp_path / "O", fasta=tmp_path / "genome.fa")
    assert finished(tmp_path / "O") == []


def test_another_build_is_told(call, dna_world: Regulation, tmp_path: Path):
    bases = np.random.default_rng(5).choice(list("ACGT"), 69_000)
    (tmp_path / "genome.fa").write_text("".join(f">{name}\n{''.join(bases)}\n" for name in dna_world.sequences))
    found = call(tmp_path / "O", fasta=tmp_path / "genome.fa", nulls=0, close=0)
    assert any("other bases than in training: another build?" in note for note in found.notes)
    assert any("reference alleles differ" in note for note in found.notes)


def test_cells_without_the_genes_are_refused(call, dna_world: Regulation, tmp_path: Path):
    cells = dna_world.cells["rna"].copy()
    cells.var_names = [f"OTHER{number}" for number in range(cells.n_vars)]
    cells.var = cells.var[[]]
    cells.obs = dna_world.cells.obs.copy()
    with pytest.raises(SyncyteError):
        call(tmp_path / "O", cells=cells)
    assert finished(tmp_path / "O") == []


def test_a_run_of_another_recipe_is_refused(call, tiny_data, tmp_path: Path):
    run = train_tiny(tiny_data, tmp_path / "RUN")
    with pytest.raises(CapabilityError, match="clm_x"):
        call(tmp_path / "O", run=run)
    assert finished(tmp_path / "O") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vcf": None}, "Nothing to score"),
        ({"sample": "nobody"}, "nobody"),
        ({"vcf": None, "edits": "chr1:5=what"}, "is no edit"),
        ({"vcf": None, "edits": "chr1:100-120=delete", "sample": "phased"}, "no genotypes"),
    ],
    ids=["nothing", "unknown sample", "no edit", "sample of edits"],
)
def test_questions_that_cannot_be_asked(options: dict, words: str, call, tmp_path: Path):
    with pytest.raises(SyncyteError, match=words):
        call(tmp_path / "O", **options)
    assert finished(tmp_path / "O") == []


def test_a_file_in_the_place_of_the_folder(call, tmp_path: Path):
    (tmp_path / "O").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        call(tmp_path / "O")
    assert (tmp_path / "O").read_text() == "mine"


def test_missing_targets_are_told_before_anything_is_scored(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("syncyte.tasks.variants.variant_effects", lambda *given, **more: pytest.fail("scored"))
    with pytest.raises(SyncyteError, match=r"none\.tsv does not exist"):
        call(tmp_path / "O", targets=tmp_path / "none.tsv")


def test_vectors_may_be_a_frame():
    table = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    assert read_vectors(table).dtypes.tolist() == [np.float32]
    with pytest.raises(DataError, match="numbers"):
        read_vectors(table.assign(b="c"))
    with pytest.raises(DataError):
        read_vectors(table[[]])


def test_config_errors_are_no_data_errors(call, tmp_path: Path):
    with pytest.raises(ConfigError):
        call(tmp_path / "O", vcf=None)
