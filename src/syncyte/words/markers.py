"""Which genes tell a cell type: the embedded table or a user's own, and scores of cells by it.

A score is the mean, over the markers a matrix has, of standardised ``log1p`` CP10K; mean and spread are those of the
data set at hand, which takes out what differs between laboratories but supposes that several types are present.
A type none of whose markers were measured scores 0 everywhere and is named: it says nothing, for or against.
Leaves out: markers learned from labelled cells (``baselines.classify``), and what is decided by scores (``zero_shot``).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.genewise import Blocks
from syncyte.baselines.prediction import column_means, log_cp10k
from syncyte.errors import DataError, GenomeError
from syncyte.genome.genes import map_genes
from syncyte.genome.reference import Reference

HIGHEST = 10.0  # of a standardised value: a gene seen in two cells must not rule
_GENES = ("genes", "markers", "gene", "marker")
_NAMES = ("label", "cell_type", "type", "name")


@dataclass(frozen=True)
class MarkerTable:
    """Markers by type.

    Attributes
    ----------
    genes
        Gene symbols by term id (by label, where a table has no ids).
    labels
        Label by the same key.
    sources, tissues
        Where each row comes from, and where such cells live; empty where a table does not say.
    """

    genes: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]
    sources: Mapping[str, str]
    tissues: Mapping[str, str] = field(default_factory=dict)

    def of(self, type_: str) -> tuple[str, ...]:
        """Markers of a key or, where it is none, of the label so spelled in any letter case; none where unknown."""
        if type_ in self.genes:
            return self.genes[type_]
        same = (key for key, label in self.labels.items() if label.lower() == type_.strip().lower())
        return self.genes.get(next(same, ""), ())


@dataclass(frozen=True)
class MarkerScores:
    """Scores of cells by markers.

    Attributes
    ----------
    values
        ``(n, t)`` mean standardised expression; 0 in the columns of ``missing`` types.
    terms
        The t asked terms.
    used
        Columns' names that counted, by term.
    missing
        Terms without a marker in the table, or none of whose markers vary in the matrix.
    mean, spread
        ``(f,)`` statistics of every column, to score few cells with those of many.
    warning
        One sentence about ``missing``; empty where nothing is.
    """

    values: NDArray[np.float64]
    terms: tuple[str, ...]
    used: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    warning: str = ""


def read_markers(path: str | os.PathLike[str] | None = None) -> MarkerTable:
    """Read a table of markers: the embedded one, or a tab- or comma-separated file.

    Parameters
    ----------
    path
        A file with a heading. ``genes`` (or ``markers``) holds symbols between blanks, commas or semicolons; ``id``
        and ``label`` (or ``cell_type``) say what they mark, one of the two is enough; ``source`` and ``tissue`` are
        optional. Rows of the same type are joined, so one gene a row is fine too.

    Raises
    ------
    DataError
        If the file cannot be read, a column is missing, or no row names a gene.
    """
    name = "the embedded marker table" if path is None else str(path)
    try:
        if path is None:
            text = (files("syncyte.words") / "markers.tsv").read_text(encoding="utf-8")
        else:
            text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The marker table {name} cannot be read as text ({error}). Check the path.") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ","))
    heading = {str(key).strip().lower(): key for key in (rows[0] if rows else ())}
    gene_column = next((heading[key] for key in _GENES if key in heading), None)
    name_column = next((heading[key] for key in _NAMES if key in heading), None)
    if gene_column is None or ("id" not in heading and name_column is None):
        found = ", ".join(heading) or "nothing"
        raise DataError(f"{name} is no marker table: found {found}; expected columns 'genes' and 'id' or 'label'.")
    genes: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    sources: dict[str, str] = {}
    tissues: dict[str, str] = {}
    for row in rows:
        label = (row.get(name_column or "") or "").strip()
        key = (row.get(heading.get("id", "")) or "").strip() or label
        listed = _symbols(row.get(gene_column) or "")
        if not key or not listed:
            continue
        genes.setdefault(key, []).extend(gene for gene in listed if gene not in genes.get(key, ()))
        labels.setdefault(key, label or key)
        sources.setdefault(key, (row.get(heading.get("source", "")) or "").strip())
        tissues.setdefault(key, (row.get(heading.get("tissue", "")) or "").strip())
    if not genes:
        raise DataError(f"{name} names no marker: every row lacks a type or genes.")
    return MarkerTable({key: tuple(listed) for key, listed in genes.items()}, labels, sources, tissues)


def score_markers(
    counts: sp.csr_matrix,
    genes: Iterable[str],
    terms: Sequence[str],
    table: MarkerTable | None = None,
    *,
    reference: Reference | None = None,
    like: MarkerScores | None = None,
) -> MarkerScores:
    """Score cells by the markers of each term.

    Parameters
    ----------
    counts
        ``(n, f)`` raw counts.
    genes
        ``(f,)`` names of the columns; symbols, or Ensembl ids with a reference.
    terms
        Keys or labels of the table; what it does not have scores 0.
    table
        None takes the embedded one.
    reference
        Resolves aliases and ids of both sides; without it everyday and retired names are known.
    like
        Scores whose mean and spread to use, for a few cells of the same data set.

    Raises
    ------
    DataError
        If names and columns do not fit in number, or there is no cell.
    """
    table = read_markers() if table is None else table
    names = [str(gene) for gene in genes]
    if len(names) != counts.shape[1] or counts.shape[0] == 0:
        raise DataError(
            f"Found counts of {counts.shape[0]:,} cells x {counts.shape[1]:,} columns and {len(names):,} gene names; "
            "at least one cell and one name a column are needed."
        )
    scaled = log_cp10k(counts)
    mean, spread = _moments([scaled]) if like is None else (like.mean, like.spread)
    if len(mean) != len(names):
        raise DataError(f"The other scores are of {len(mean):,} genes, these counts have {len(names):,}.")
    values, columns = np.zeros((counts.shape[0], len(terms))), scaled.tocsc()
    finder = _Finder(names, (gene for term in terms for gene in table.of(term)), reference)
    used, missing = {}, []
    for place, term in enumerate(terms):
        found = [column for column in finder.columns(table.of(term)) if spread[column] > 1e-6]
        used[term] = tuple(names[column] for column in found)
        if found:
            block = (columns[:, found].toarray() - mean[found]) / spread[found]
            values[:, place] = np.minimum(block, HIGHEST).mean(axis=1)
        else:
            missing.append(term)
    warning = _warning(missing, table)
    return MarkerScores(values, tuple(terms), used, tuple(missing), mean, spread, warning)


def score_marker_blocks(
    blocks: Blocks,
    genes: Iterable[str],
    terms: Sequence[str],
    table: MarkerTable | None = None,
    *,
    reference: Reference | None = None,
) -> MarkerScores:
    """``score_markers`` of counts that come in blocks of cells, twice over: for the statistics, then for scores.

    Memory is that of a block and of the scores.

    Raises
    ------
    DataError
        As ``score_markers``.
    """
    names = [str(gene) for gene in genes]
    mean, spread = _moments(log_cp10k(block) for block in blocks())
    like = MarkerScores(np.zeros((0, len(terms))), tuple(terms), {}, (), mean, spread)
    found = [score_markers(block, names, terms, table, reference=reference, like=like) for block in blocks()]
    if not found:
        raise DataError("There are no cells to score by markers; give one at least.")
    return replace(found[0], values=np.concatenate([scores.values for scores in found]))


def _moments(blocks: Iterable[sp.csr_matrix]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread of every column over all blocks; of no block none."""
    total, squares, cells = np.zeros(0), np.zeros(0), 0
    for block in blocks:
        sums = (column_means(block) * block.shape[0], column_means(block.multiply(block).tocsr()) * block.shape[0])
        total, squares = (sums[0], sums[1]) if not cells else (total + sums[0], squares + sums[1])
        cells += block.shape[0]
    mean = total / max(cells, 1)
    return mean, np.sqrt(np.maximum(squares / max(cells, 1) - mean**2, 0.0))


def known_names(gene: str) -> tuple[str, ...]:
    """The gene's own name, then what else it is or was called, as far as the package knows."""
    current = _retired().get(gene.upper(), gene)
    return tuple(dict.fromkeys([gene, current, *_other_names().get(current.upper(), ())]))


def _symbols(text: str) -> list[str]:
    return list(dict.fromkeys(text.replace(",", " ").replace(";", " ").replace("|", " ").split()))


class _Finder:
    """Columns of genes: by name, by the names known for it, and by what a reference takes both names for."""

    def __init__(self, names: Sequence[str], wanted: Iterable[str], reference: Reference | None) -> None:
        self.place: dict[str, int] = {}
        for column, name in enumerate(names):
            self.place.setdefault(name.upper(), column)
        self.meant = _meant(list(dict.fromkeys(wanted)), reference)
        self.by_gene: dict[str, int] = {}
        for name, gene in _meant(names, reference).items():
            self.by_gene.setdefault(gene, self.place[name.upper()])

    def columns(self, markers: Sequence[str]) -> list[int]:
        """Columns of the markers, each once; markers without one are left out."""
        found: list[int] = []
        for marker in markers:
            column = next(
                (self.place[name.upper()] for name in known_names(marker) if name.upper() in self.place), None
            )
            if column is None:
                column = self.by_gene.get(self.meant.get(marker, ""))
            if column is not None and column not in found:
                found.append(column)
        return found


def _meant(names: Sequence[str], reference: Reference | None) -> dict[str, str]:
    """Gene of the reference that each name means; names it does not know are left out."""
    if reference is None or not names:
        return {}
    try:
        mapped = map_genes(names, reference)
    except GenomeError:  # hardly one of these names is a gene of the reference
        return {}
    return {name: str(mapped.names[at]) for name, at in zip(names, mapped.target, strict=True) if at >= 0}


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    """Current and other name of genes, from the embedded table."""
    lines = (files("syncyte.genome") / "aliases.tsv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")
    return tuple((row["current"], alias) for row in rows for alias in row["alias"].split("|"))


@cache
def _retired() -> dict[str, str]:
    return {alias.upper(): current for current, alias in _pairs()}


@cache
def _other_names() -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for current, alias in _pairs():
        names.setdefault(current.upper(), []).append(alias)
    return {current: tuple(listed) for current, listed in names.items()}


def _warning(missing: Sequence[str], table: MarkerTable) -> str:
    if not missing:
        return ""
    shown = ", ".join(table.labels.get(term, term) for term in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return f"No marker of {shown}{more} was measured (or is known): markers say nothing about these types."
