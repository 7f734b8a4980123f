"""``syncyte.variants`` from files to files: every allele answered, a killed call goes on, bad input leaves nothing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tiny_dna import finished, table_of

from syncyte.errors import DataError, GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.vcf import read_variants
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variants import COLUMNS, LIMITS, NO_WINDOW, SAME
from syncyte.train.state import sha256
from syncyte.variation import MARK

NAMED = ("effects.tsv", "ranked.tsv", "trans.tsv", "report.html", "manifest.json")  # in the documentation of the verb
ROOT = Path(__file__).resolve().parent.parent
TYPES = ("type_1", "type_2", "type_3")


# --- what is written --------------------------------------------------------------------------------------------------


def test_every_allele_of_the_file_has_its_rows(dna_answer, dna_vcf: Path, dna_files: dict[str, Path]):
    effects = table_of(dna_answer[1])
    given = read_variants(dna_vcf, Genome.open(dna_files["genome.fa"]))
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
def test_what_has_no_effect_says_why(dna_answer, variant: str, words: str):
    rows = table_of(dna_answer[1]).query("variant == @variant")
    assert len(rows) == (3 if variant == "edge" else 1)
    assert rows["reason"].str.contains(words, regex=False).all()
    assert rows[["cis_p", "trans_p", "trans_fdr", "cis_fdr"]].isna().all(axis=None)


def test_scored_rows_are_complete(dna_answer):
    effects = table_of(dna_answer[1])
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


def test_a_window_left_as_it_was_is_exactly_no_effect(dna_answer):
    rows = dna_answer[0].effects.query("variant == 'edge'")
    for name in ("cis_value", "token_shift", "level_change", "track_change", "trans_size", "trans_token", "trans_turn"):
        assert (rows[name] == 0).all(), name


def test_the_manifest_agrees_with_the_files(dna_answer):
    found, folder = dna_answer
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


def test_limits_are_said_everywhere(dna_answer):
    folder = dna_answer[1]
    for name in ("effects", "ranked", "trans", "pairs", "track", "targets"):
        assert (folder / f"{name}.tsv").read_text().startswith(f"# {LIMITS}\n")
    assert LIMITS in html.unescape((folder / "report.html").read_text())
    assert LIMITS in (folder / "report.json").read_text()


def test_what_the_training_found_is_said_with_the_answer(dna_answer, ask_variants, dna_run: GeneRun, tmp_path: Path):
    head = (dna_answer[1] / "effects.tsv").read_text().splitlines()[:4]
    assert head[1].startswith("# Sequence model: ")
    assert head[2] == "# Adapter: 150 genes with a window."
    assert head[3].startswith("variant\t")
    worse = "Hidden genes are predicted worse from adapted tokens than from static ones (loss 0.4 and 0.3)."
    recipe = {**dna_run.trained.recipe, "covered": 6, "notes": [worse]}
    found = ask_variants(tmp_path / "O", run=replace(dna_run.trained, recipe=recipe), nulls=0, close=0)
    assert "6 genes with a window: so few cannot teach an adapter much" in found.notes[0]
    assert found.notes[1] == worse
    for name in ("effects", "ranked"):
        head = (tmp_path / "O" / f"{name}.tsv").read_text().splitlines()
        assert head[2:5] == ["# Adapter: 6 genes with a window.", *(f"# {note}" for note in found.notes[:2])]
    assert "cannot teach an adapter much" in html.unescape((tmp_path / "O" / "report.html").read_text())
    manifest = json.loads((tmp_path / "O" / MARK).read_text())
    assert (manifest["genes with a window"], manifest["notes"]) == (6, found.notes)


def documented(heading: str) -> list[str]:
    """What stands in code marks in the first column of the table under a heading of the documentation."""
    text = (ROOT / "docs" / "variants.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in first for name in re.findall(r"`([^`]+)`", cell)]


def test_the_files_of_the_documentation_are_there(dna_answer):
    assert {"effects.tsv", *documented("What else is in the folder")} == set(finished(dna_answer[1]))


def test_every_column_is_documented(dna_answer):
    told = documented("Read effects.tsv")
    assert set(told) - {"*_fdr"} == set(COLUMNS) == set(table_of(dna_answer[1]).columns)


def test_cells_carry_the_tables_where_they_are_asked_to(ask_variants, tmp_path: Path):
    from mudata import read

    found = ask_variants(tmp_path / "O", cells_out=tmp_path / "cells.h5mu", nulls=0, close=0)
    kept = read(tmp_path / "cells.h5mu")
    assert kept.shape[0] == 400
    held = kept.uns["syncyte"]
    assert any(len(found.effects) == len(one) for one in _tables(held))


def _tables(held: Any) -> list[Any]:
    """Everything with a column of variants, however deep."""
    if isinstance(held, Mapping):
        return [table for one in held.values() for table in _tables(one)]
    return [held] if isinstance(held, pd.DataFrame) and "variant" in held else []


def test_ranked_rows_are_those_scored_by_p_and_size(dna_answer):
    ranked = table_of(dna_answer[1], "ranked")
    assert set(ranked["status"]) == {"scored"}
    assert ranked["trans_p"].is_monotonic_increasing
    for _, own in ranked.groupby("trans_p"):
        assert own["trans_size"].is_monotonic_decreasing


def test_the_first_pair_is_looked_at_closely(dna_answer):
    found, folder = dna_answer
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


def test_targets_of_all_factors_are_ranked(dna_answer):
    targets = table_of(dna_answer[1], "targets")
    assert set(targets["gene"]) == {"TF1", "TF2", "TF3", "TF4"}
    assert {"co-expression", "mean expression", "delete: change", "down: change"} <= set(targets["ranking"])
    assert set(targets.loc[targets["ranking"] == "sequence: change", "gene"]) == {"TF1", "TF2"}
    assert targets["auroc"].between(0, 1).all()


def test_a_finished_folder_is_not_written_over(dna_answer, ask_variants):
    before = (dna_answer[1] / "effects.tsv").stat().st_mtime_ns
    with pytest.raises(DataError, match=r"holds finished results.*--overwrite"):
        ask_variants(dna_answer[1])
    assert (dna_answer[1] / "effects.tsv").stat().st_mtime_ns == before


def test_overwriting_leaves_nothing_of_before(dna_answer, ask_variants, dna_files: dict[str, Path], tmp_path: Path):
    folder = tmp_path / "O"
    ask_variants(folder, targets=dna_files["targets.tsv"], nulls=0, vcf=None)
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(GenomeError):
        ask_variants(folder, vcf=tmp_path / "none.vcf", overwrite=True)
    assert (folder / MARK).exists(), "a call that fails takes nothing away"
    ask_variants(folder, nulls=0, close=0, overwrite=True)
    assert "targets.tsv" not in finished(folder)
    assert {"mine.txt", "effects.tsv", MARK} <= set(finished(folder))


# --- killed, and again ------------------------------------------------------------------------------------------------


def test_a_killed_call_goes_on_to_the_same_table(
    dna_answer, ask_variants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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
            ask_variants(folder)
    assert finished(folder) == []
    assert len(list((folder / ".work" / "cells").glob("*.npz"))) == 2
    again: list[int] = []
    monkeypatch.setattr(variant_effects, "_fill", lambda *given: (again.append(given[3]), fill(*given)))
    found = ask_variants(folder)
    own = len(set(found.tokens.table["gene"]))
    assert again[: own - 2] and not set(again[: own - 2]) & set(done), "finished genes are not followed again"
    assert (folder / "effects.tsv").read_bytes() == (dna_answer[1] / "effects.tsv").read_bytes()


def test_a_damaged_block_is_done_again(dna_answer, ask_variants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "O"
    with monkeypatch.context() as patch:
        patch.setattr("syncyte.report.variants.variant_report", lambda found: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask_variants(folder)
    kept = list((folder / ".work" / "cells").glob("*.npz"))
    assert kept
    assert finished(folder) == []
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ask_variants(folder)
    assert (folder / "effects.tsv").read_bytes() == (dna_answer[1] / "effects.tsv").read_bytes()


def test_a_lost_manifest_is_made_again(dna_answer, ask_variants, tmp_path: Path):
    folder = tmp_path / "O"
    ask_variants(folder, close=0)
    (folder / MARK).unlink()
    ask_variants(folder, close=0)
    assert (folder / MARK).exists()
    assert (folder / "effects.tsv").read_bytes() == (dna_answer[1] / "effects.tsv").read_bytes()
