"""Cells as genes in the order of how far they stand out: rank-value tokens, as published gene transformers read them.

A gene's value is its count over the total of the cell, times 10,000, over the gene's median in the corpus that the
model was trained on (Theodoris et al. 2023); genes without a count say nothing, and the list is cut where the model has
no more places. Ties are told: of equal values the higher count comes first, of equal counts the gene that is first in
the vocabulary; so the same counts give the same list on any machine.
Leaves out: reading of vocabularies and medians (``genome.dictionaries``), special tokens, models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from syncyte.errors import DataError
from syncyte.genome.genes import strip_version

PER_CELL = 1e4
SHARE = 0.5  # of a column that must look like Ensembl ids for it to be taken as such


@dataclass(frozen=True)
class RankTokens:
    """Genes of cells, the most outstanding first.

    Attributes
    ----------
    genes
        ``(b, n)`` int64, column of the counts that stands at each place; -1 for padding. ``n`` is the length of the
        longest list.
    values
        ``(b, n)`` float32, the value it is ranked by; 0 for padding.
    valid
        ``(b, n)`` bool, false for padding, which is on the right.
    """

    genes: NDArray[np.int64]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]


def rank_tokens(
    counts: sp.csr_matrix, medians: NDArray[np.floating], most: int, totals: ArrayLike | None = None
) -> RankTokens:
    """Genes of every cell by falling value.

    Parameters
    ----------
    counts
        ``(b, g)`` raw counts, columns in the order of the vocabulary.
    medians
        ``(g,)`` medians of the genes; those that are no positive number are passed over.
    most
        Longest list.
    totals
        ``(b,)`` counts of each cell in all genes, where it has others than these columns; by default their sum. The
        order does not hang on it.

    Raises
    ------
    DataError
        If sizes do not fit, counts are negative or no numbers, or ``most`` is less than one.
    """
    counts = sp.csr_matrix(counts)
    medians = np.asarray(medians, dtype=np.float64)
    cells, width = counts.shape
    if medians.shape != (width,):
        raise DataError(f"Found counts of {width:,} genes and {medians.size:,} medians; one median a gene is needed.")
    if most < 1:
        raise DataError(f"A list of {most} genes was asked for; one gene is the least.")
    data = np.asarray(counts.data, dtype=np.float64)
    if len(data) and not (np.isfinite(data).all() and data.min() >= 0):
        raise DataError("Counts are negative or no numbers; ranks are made from raw counts. Name their layer.")
    total = np.asarray(counts.sum(axis=1)).ravel() if totals is None else np.asarray(totals, dtype=np.float64)
    if total.shape != (cells,):
        raise DataError(f"Found {cells:,} cells and {total.size:,} totals; one total a cell is needed.")
    cell = np.repeat(np.arange(cells), np.diff(counts.indptr))
    gene = np.asarray(counts.indices, dtype=np.int64)
    known = (data > 0) & (medians[gene] > 0) & np.isfinite(medians[gene])
    cell, gene, data = cell[known], gene[known], data[known]
    over = data / medians[gene]  # the total is the same for all genes of a cell: left out, it can make no tie
    order = np.lexsort((gene, -data, -over, cell))
    cell, gene, over = cell[order], gene[order], over[order]
    size = np.bincount(cell, minlength=cells)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(size) - size, size)
    kept = place < most
    cell, gene, over, place = cell[kept], gene[kept], over[kept], place[kept]
    shape = (cells, int(np.minimum(size, most).max(initial=0)))
    genes, values = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    genes[cell, place] = gene
    values[cell, place] = over * PER_CELL / np.maximum(total[cell], 1e-12)
    return RankTokens(genes, values, genes >= 0)


def ensembl_ids(var: pd.DataFrame) -> NDArray[np.str_] | None:
    """``(f,)`` Ensembl ids of features, from their names or the first column that holds such; None where none does."""
    for column in (pd.Series(var.index, dtype=object), *(var[key] for key in var.columns)):
        if pd.api.types.is_numeric_dtype(column) or not len(column):
            continue
        text = column.astype(str)
        if text.str.fullmatch(r"ENS[A-Z]*G\d{11}(\.\d+)?").mean() >= SHARE:
            return np.array([strip_version(name) for name in text], dtype=str)
    return None


def gene_columns(
    names: Sequence[str] | pd.Index,
    vocabulary: Sequence[str] | pd.Index,
    *,
    ids: Sequence[str] | NDArray[np.str_] | None = None,
    symbols: Mapping[str, str] | None = None,
) -> NDArray[np.int64]:
    """Place in a vocabulary of each gene of the data; -1 where it is not there.

    A gene is looked up by its Ensembl id, then by its name as it is written (a version is passed over), then by the id
    that ``symbols`` gives its name. Several genes may get one place; they are to be summed.

    Parameters
    ----------
    names
        ``(f,)`` names of the genes, symbols or Ensembl ids.
    vocabulary
        ``(g,)`` unique names, Ensembl ids or symbols.
    ids
        ``(f,)`` Ensembl ids of the same genes, where the data have them.
    symbols
        Ensembl id by symbol.
    """
    known = pd.Index(vocabulary, dtype=object)
    named = [strip_version(str(name)) for name in names]
    ways = [] if ids is None else [[strip_version(str(name)) for name in ids]]
    ways.append(named)
    if symbols:
        ways.append([symbols.get(name, "") for name in named])
    found = np.full(len(named), -1, dtype=np.int64)
    for way in ways:
        found = np.where(found >= 0, found, known.get_indexer(pd.Index(way, dtype=object)))
    return found
