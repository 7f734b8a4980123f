"""A small human annotation with the troubles of a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from syncyte.genome.reference import Reference, build_reference

# id, symbol, chromosome, start, end (1-based, end included), strand, biotype
GENES = [
    ("ENSG00000141510.17", "TP53", "17", 7661779, 7687550, "-", "protein_coding"),
    ("ENSG00000203747.11", "FCGR3A", "1", 161541759, 161550737, "-", "protein_coding"),
    ("ENSG00000204628.12", "RACK1", "5", 181236897, 181248096, "-", "protein_coding"),
    ("ENSG00000237491.10", "LINC01409", "1", 778747, 810065, "+", "lncRNA"),
    ("ENSG00000238009.6", "AL627309.1", "1", 89295, 133723, "-", "lncRNA"),
    ("ENSG00000015479.20", "MATR3", "5", 139293674, 139331677, "+", "protein_coding"),
    ("ENSG00000280987.4", "MATR3", "5", 139273752, 139331671, "+", "protein_coding"),
    ("ENSG00000206503.13", "HLA-A", "6", 29941260, 29949572, "+", "protein_coding"),
    ("ENSG00000206505.9", "HLA-A", "CHR_HSCHR6_MHC_QBL_CTG1", 29930625, 29999286, "+", "protein_coding"),
    ("ENSG00000198727.2", "MT-CYB", "MT", 14747, 15887, "+", "protein_coding"),
    ("ENSG00000169299.14", "PGM2", "4", 37826660, 37862937, "+", "protein_coding"),
    ("ENSG00000079739.17", "PGM1", "1", 63593411, 63660245, "+", "protein_coding"),
    ("ENSG00000182378.15_PAR_Y", "PLCXD1", "Y", 276356, 303356, "+", "protein_coding"),
    ("ENSG00000182378.15", "PLCXD1", "X", 276356, 303356, "+", "protein_coding"),
    ("ENSG00000287000.1", "", "X", 5000, 6000, "+", "lncRNA"),
]


def gtf_line(gene_id: str, symbol: str, chrom: str, start: int, end: int, strand: str, biotype: str) -> str:
    name = f' gene_name "{symbol}";' if symbol else ""
    tail = f'gene_id "{gene_id}";{name} gene_type "{biotype}"; level 2;'
    return f"{chrom}\tHAVANA\tgene\t{start}\t{end}\t.\t{strand}\t.\t{tail}\n"


@pytest.fixture(scope="session")
def gtf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("annotation") / "genes.gtf"
    lines = ["#!genome-build GRCh38\n"]
    for gene in GENES:
        lines += [gtf_line(*gene), gtf_line(*gene).replace("\tgene\t", "\ttranscript\t")]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def aliases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names") / "aliases.tsv"
    path.write_text("LFS1\tTP53\nAMBI\tPGM1\nAMBI\tPGM2\nOLDM\tENSG00000198727\nGONE\tNOSUCHGENE\n")
    return path


@pytest.fixture(scope="session")
def human(gtf: Path, aliases: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return build_reference(tmp_path_factory.mktemp("refs") / "hg38", gtf=gtf, aliases=aliases, name="hg38")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return make
