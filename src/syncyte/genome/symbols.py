"""A small embedded table of real human genes, so that simulated cells carry real names and places.

Facts only: symbol, Ensembl id and transcription start on GRCh38 (hg38), and what blood biology knows the gene for.
Leaves out everything else about genes: users' files are named through a reference (``genome.reference``), never
through this table.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Lengths of the GRCh38 chromosomes in bases.
CHROM_SIZES = {
    "chr1": 248956422,
    "chr2": 242193529,
    "chr3": 198295559,
    "chr4": 190214555,
    "chr5": 181538259,
    "chr6": 170805979,
    "chr7": 159345973,
    "chr8": 145138636,
    "chr9": 138394717,
    "chr10": 133797422,
    "chr11": 135086622,
    "chr12": 133275309,
    "chr13": 114364328,
    "chr14": 107043718,
    "chr15": 101991189,
    "chr16": 90338345,
    "chr17": 83257441,
    "chr18": 80373285,
    "chr19": 58617616,
    "chr20": 64444167,
    "chr21": 46709983,
    "chr22": 50818468,
    "chrX": 156040895,
    "chrY": 57227415,
}


def known_genes() -> pd.DataFrame:
    """Embedded genes in genome order.

    Returns
    -------
    pandas.DataFrame
        Index ``symbol``; columns ``gene_ids`` (Ensembl, no version), ``chrom``, ``tss`` (0-based position of the first
        base of the main transcript), ``strand`` and ``known_for`` (a blood cell type, a cell programme,
        ``Housekeeping`` or ``Other``).
    """
    import pandas as pd

    lines = (files("syncyte.genome") / "symbols.tsv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t"))
    table = pd.DataFrame.from_records(rows).rename(columns={"ensembl": "gene_ids"}).set_index("symbol")
    return table.astype({"tss": "int64"})
