"""Terms of the labels of two data sets of blood, and the ontology, for the benchmarks of words."""

from __future__ import annotations

import argparse
from pathlib import Path

from syncyte.genome.ontology import Term
from syncyte.genome.ontology_files import read_ontology

KANG = {
    "B cells": "CL:0000236",
    "CD14+ Monocytes": "CL:0001054",
    "CD4 T cells": "CL:0000624",
    "CD8 T cells": "CL:0000625",
    "Dendritic cells": "CL:0000451",
    "FCGR3A+ Monocytes": "CL:0000875",
    "Megakaryocytes": "CL:0000556",
    "NK cells": "CL:0000623",
}
LABELS = {term: label for label, term in KANG.items()}
SAME = {  # labels of pbmc3k as those of kang, for scoring between the two
    "B": "B cells",
    "CD14+ Mono": "CD14+ Monocytes",
    "CD8 T": "CD8 T cells",
    "DC": "Dendritic cells",
    "FCGR3A+ Mono": "FCGR3A+ Monocytes",
    "Memory CD4 T": "CD4 T cells",
    "NK": "NK cells",
    "Naive CD4 T": "CD4 T cells",
    "Platelet": "Megakaryocytes",
}
PBMC = {label: KANG[same] for label, same in SAME.items()}
PBMC_OWN = {**PBMC, "Memory CD4 T": "CL:0000897", "Naive CD4 T": "CL:0000895", "Platelet": "CL:0000233"}


def read_terms(path: Path) -> dict[str, Term]:
    """Terms in use of an ontology file."""
    return dict(read_ontology(path).active)


def arguments(words: str | None) -> argparse.ArgumentParser:
    """Where the two data sets and the ontology lie."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kang", type=Path, default=Path("kang_pbmc_8donors_control/rna.h5ad"))
    parser.add_argument("--pbmc", type=Path, default=Path("pbmc3k/rna.h5ad"))
    parser.add_argument("--ontology", type=Path, default=Path("CL-ontology-v2026-03-26.json.zst"))
    return parser
