"""Each column finds its gene, or is said to be lost."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from syncyte.errors import GenomeError
from syncyte.genome.genes import canonical_names, map_genes, strip_version, transcription_starts
from syncyte.genome.reference import build_reference


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("ENSG00000141510.17", "ENSG00000141510"),
        ("ENSG00000141510", "ENSG00000141510"),
        ("ensg00000141510.3", "ENSG00000141510"),
        ("ENSMUSG00000059552.8", "ENSMUSG00000059552"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378"),
        ("AL627309.1", "AL627309.1"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        ("ENSA", "ENSA"),
        ("NKX2.5", "NKX2.5"),
    ],
)
def test_strip_version(name, bare):
    assert strip_version(name) == bare


def test_each_way_to_a_gene(human):
    names = ["TP53", "ENSG00000203747.99", "gnb2l1", "rack1", "LFS1", "CD16", "AMBI", "nothing", "AL627309.1", "MT-CYB"]
    found = map_genes(names, human)
    assert found.names.tolist() == ["TP53", "FCGR3A", "RACK1", "AL627309.1", "MT-CYB"]
    assert found.target.tolist() == [0, 1, 2, 2, 0, 1, -1, -1, 3, 4]
    assert found.target.dtype == np.int64
    counts = {key: found.counts[key] for key in ("ensembl", "exact", "case", "alias", "suffix", "ambiguous", "unknown")}
    assert counts == {"ensembl": 1, "exact": 3, "case": 1, "alias": 3, "suffix": 0, "ambiguous": 1, "unknown": 1}
    assert found.counts["merged"] == 3 and found.unmapped == ("AMBI", "nothing")
    assert found.sentence == (
        "8 of 10 genes mapped: 1 by Ensembl id, 3 exact, 1 by letter case, 3 by alias; dropped: 1 unknown, "
        "1 ambiguous; 3 columns summed into another of the same gene"
    )


def test_ids_of_the_file_go_before_names(human):
    found = map_genes(["wrong name", "TP53"], human, ids=["ENSG00000204628.1", "not an id"])
    assert found.names.tolist() == ["RACK1", "TP53"] and found.counts["ensembl"] == 1


def test_marks_of_made_unique_names_are_understood(human):
    found = map_genes(["TP53", "TP53-1", "TP53.2", "RACK1-1"], human)
    assert found.target.tolist() == [0, 0, 0, -1] and found.counts["suffix"] == 2


def test_shared_symbols_have_one_owner(human):
    genes = human.genes.set_index("gene_id")["name"]
    assert genes["ENSG00000015479"] == "MATR3" and genes["ENSG00000280987"] == "MATR3_ENSG00000280987"
    assert genes["ENSG00000206503"] == "HLA-A" and genes["ENSG00000206505"] == "HLA-A_ENSG00000206505"
    assert genes["ENSG00000287000"] == "ENSG00000287000" and genes.is_unique
    both = map_genes(["MATR3", "ENSG00000280987"], human)
    assert both.names.tolist() == ["MATR3", "MATR3_ENSG00000280987"]


def test_a_coding_gene_owns_the_symbol():
    table = {"gene_id": ["ENSG1", "ENSG2"], "symbol": "X", "chrom": "chr1", "biotype": ["lncRNA", "protein_coding"]}
    assert canonical_names(pd.DataFrame(table)).tolist() == ["X_ENSG1", "X"]


def test_retired_names_work_both_ways(gtf, tmp_path):
    old = tmp_path / "old.gtf"
    old.write_text(gtf.read_text().replace('"RACK1"', '"GNB2L1"'))
    found = map_genes(["RACK1", "TP53"], build_reference(tmp_path / "old", gtf=old))
    assert found.names.tolist() == ["GNB2L1", "TP53"] and found.counts["alias"] == 1


def test_without_a_reference_names_are_taken():
    found = map_genes(["TP53", "ENSG00000203747.3", "tp53", "TP53", "AL627309.1"])
    assert found.names.tolist() == ["TP53", "ENSG00000203747", "tp53", "AL627309.1"]
    assert found.target.tolist() == [0, 1, 2, 0, 3]
    assert "no reference was given" in found.sentence and "1 columns summed" in found.sentence


def test_versions_stay_where_they_tell_columns_apart():
    found = map_genes(["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", "ENSG00000203747.3"])
    assert found.names.tolist() == ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", "ENSG00000203747"]


def test_a_reference_without_genes_says_so(tmp_path):
    sizes = tmp_path / "sizes"
    sizes.write_text("chr1\t1000\n")
    found = map_genes(["TP53"], build_reference(tmp_path / "bins", chrom_sizes=sizes))
    assert found.names.tolist() == ["TP53"] and "'bins' holds no genes" in found.sentence


def test_nothing_known_is_refused(human):
    with pytest.raises(GenomeError, match=r"Only 0 of 500 genes .*Found 'X0'.*expected names like"):
        map_genes([f"X{i}" for i in range(500)], human)
    assert map_genes([], human).counts["mapped"] == 0


def test_another_species_is_refused_and_named(human):
    with pytest.raises(GenomeError, match=r"look like mouse genes \(ids ENSMUSG.*reference like human genes"):
        map_genes([f"ENSMUSG{i:011d}" for i in range(500)], human)
    # by letter case alone these would map
    with pytest.raises(GenomeError, match=r"mouse genes \(Title-case symbols\)"):
        map_genes(["Rack1", "Pgm1", "Pgm2", "Matr3", "Gfap"], human)
    assert map_genes(["rack1", "pgm1"], human).counts["case"] == 2  # lower case is only untidy


def test_many_names_are_quick(human):
    names = [f"G{i}" for i in range(60_000)] + ["TP53"] * 1000
    start = time.process_time()
    found = map_genes(names, human)
    assert time.process_time() - start < 3 and found.counts["mapped"] == 1000 and len(found.unmapped) == 50


def test_real_blood_against_a_real_annotation(real, tmp_path):
    import anndata as ad

    reference = build_reference(tmp_path / "hg38", genes=real("reference/annotables_grch38.csv.gz"))
    counts = map_genes(ad.read_h5ad(real("pbmc3k/rna.h5ad"), backed="r").var_names, reference).counts
    assert counts["total"] == 13_714 and counts["mapped"] > 11_500 and counts["alias"] > 60  # named on hg19
    var = ad.read_h5ad(real("kang_pbmc_8donors_control/rna.h5ad"), backed="r").var
    assert map_genes(var.index, reference, ids=var["gene_id"]).counts["mapped"] == len(var)
    with pytest.raises(GenomeError, match="mouse genes"):
        import mudata

        map_genes(mudata.read_h5mu(real("snareseq_mouse_cortex/cortex.h5mu"))["rna"].var_names, reference)


def test_the_embedded_names_are_sound(real):
    from importlib.resources import files

    lines = (files("syncyte.genome") / "aliases.tsv").read_text(encoding="utf-8").splitlines()
    table = pd.DataFrame([line.split("\t") for line in lines[2:]], columns=["current", "alias"])
    alias = table["alias"].str.split("|").explode().str.upper()
    assert lines[0].startswith("#") and table["current"].is_unique and alias.is_unique
    known = set(pd.read_csv(real("reference/annotables_grch38.csv.gz"), usecols=["symbol"])["symbol"].dropna())
    assert set(table["current"]) <= known and not known & set(alias)


def test_starts_are_found_as_genes_are(human):
    found = transcription_starts(["tp53", "ENSG00000237491", "NOSUCH", "LFS1", "HLA-A"], human)
    assert found["gene"].tolist() == ["tp53", "ENSG00000237491", "LFS1", "HLA-A"]
    assert found["position"].tolist() == [7_687_549, 778_746, 7_687_549, 29_941_259]
    assert found["strand"].tolist() == ["-", "+", "-", "+"] and found["chrom"].iloc[0] == "chr17"
