"""Names of genes that a run with DNA keeps: ids and symbols that the cells lack come from the starts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.tiny_dna import SILENT, train_dna

import syncyte
from syncyte.recipes.simulate_regulation import Regulation
from syncyte.recipes.train_dna import _kept

STARTS = pd.DataFrame(
    {"gene_id": ["ENSG1", "ENSG1", "ENSG2", "N3", "ENSG9"], "symbol": ["A", "A", "B", "N3", "Z"], "tss": range(5)}
)


@pytest.mark.parametrize(
    ("index", "ids", "expected"),
    [
        (["A", "B", "C"], None, ["ENSG1", "ENSG2", ""]),
        (["A", "B", "C"], ["", "OWN", "ENSG3"], ["ENSG1", "OWN", "ENSG3"]),
        (["N3", "C"], None, None),
        (["N3", "C"], ["", ""], None),
        (["ENSG1", "ENSG5", "B"], None, ["ENSG1", "ENSG5", "ENSG2"]),
    ],
    ids=["none", "some", "starts without ids", "nobody has ids", "named by id"],
)
def test_ids_that_cells_lack_are_those_of_the_starts(index: list[str], ids: list[str] | None, expected):
    var = pd.DataFrame(index=index) if ids is None else pd.DataFrame({"gene_id": ids}, index=index)
    found = _kept(var, STARTS)
    assert found.index.tolist() == index
    assert (found["gene_id"].tolist() if "gene_id" in found else None) == expected


def test_without_starts_names_are_those_of_the_cells():
    assert list(_kept(pd.DataFrame(index=["A", "B"]), None)) == []
    assert _kept(pd.DataFrame({"gene_id": ["x", "y"]}, index=["A", "B"]), None)["gene_id"].tolist() == ["x", "y"]


def test_effects_name_the_ids_of_the_starts(
    dna_world: Regulation, dna_files: dict[str, Path], dna_vcf: Path, tmp_path: Path
):
    cells = dna_world.cells["rna"].copy()
    cells.obs, cells.var = dna_world.cells.obs.copy(), pd.DataFrame(index=cells.var_names)
    ids = {name: f"ENSG{number:011d}" for number, name in enumerate(dna_world.tss["symbol"], 1)}
    starts = dna_world.tss.assign(gene_id=[f"{ids[name]}.3" for name in dna_world.tss["symbol"]])
    starts.to_csv(tmp_path / "tss.tsv", sep="\t", index=False)
    run = train_dna(dna_files, tmp_path / "RUN", data=cells, tss=tmp_path / "tss.tsv")
    again = syncyte.load(tmp_path / "RUN", device="cpu")
    assert again.vocabularies["rna"]["gene_id"].to_dict() == {name: ids[name] for name in run.vocabularies["rna"].index}
    asked = {"vcf": dna_vcf, "fasta": dna_files["genome.fa"], "cells": cells, "group": "cell_type", "nulls": 0}
    found = syncyte.variants(again, out=tmp_path / "O", close=0, **asked, **SILENT)
    rows = found.effects[found.effects["gene"].isin(list(ids))]
    assert len(rows)
    assert (rows["gene_id"] == rows["gene"].map(ids)).all()
