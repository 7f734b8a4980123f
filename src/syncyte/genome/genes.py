"""Genes by one name each: symbols, Ensembl ids, case, duplicates, aliases and retired names.

Leaves out how a reference comes to be (``reference``) and orthologues of other species.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError

if TYPE_CHECKING:
    from syncyte.genome.reference import Reference

_ENSEMBL = re.compile(r"(ENS[A-Z]*[GTP]\d{11})(\.\d+)?(_PAR_Y)?", re.IGNORECASE)
_WAYS = {
    "ensembl": "by Ensembl id",
    "exact": "exact",
    "case": "by letter case",
    "alias": "by alias",
    "suffix": "by the name before a suffix like -1",
}
_LISTED = 50


@dataclass(frozen=True)
class FeatureMap:
    """Which target feature each source feature becomes.

    Attributes
    ----------
    names
        ``(g,)`` unique names of the target features that at least one source feature reaches.
    target
        ``(f,)`` int64, position in ``names`` of each source feature, or -1 where it is dropped. Source features with
        the same target are to be summed.
    counts
        How many source features were mapped, by which way, and how many were lost.
    sentence
        The same in words, for the report.
    unmapped
        The first 50 dropped source names.
    """

    names: pd.Index
    target: np.ndarray
    counts: dict[str, int]
    sentence: str
    unmapped: tuple[str, ...] = ()


def strip_version(name: str) -> str:
    """Ensembl id without version (``ENSG00000141510.17`` -> ``ENSG00000141510``); every other name unchanged.

    Symbols such as ``AL627309.1`` keep their dot: in clone-based names the number is part of the name. The mark
    ``_PAR_Y`` of the second copy of a pseudo-autosomal gene goes too.
    """
    match = _ENSEMBL.fullmatch(name)
    return match[1].upper() if match else name


def canonical_names(genes: pd.DataFrame) -> pd.Series:
    """One unique name for each gene of a reference.

    The symbol; where several genes share a symbol, it belongs to the one on a whole chromosome (not on a patch or
    alternative contig), of those to a protein-coding one, of those to the oldest (lowest) Ensembl id. The others are
    called ``SYMBOL_ENSG...``, and a gene without a symbol by its id.

    Parameters
    ----------
    genes
        ``(g, ...)`` with ``gene_id`` (unique), ``symbol``, ``chrom`` and ``biotype``.
    """
    symbol = genes["symbol"].fillna("").astype(str)
    symbol = symbol.where(symbol != "", genes["gene_id"])
    rank = pd.DataFrame(
        {
            "symbol": symbol,
            "contig": ~genes["chrom"].astype(str).str.startswith("chr") | genes["chrom"].astype(str).str.contains("_"),
            "other": genes["biotype"] != "protein_coding",
            "gene_id": genes["gene_id"],
        }
    ).sort_values(["symbol", "contig", "other", "gene_id"])
    second = rank["symbol"].duplicated().reindex(genes.index)
    return symbol.where(~second, symbol + "_" + genes["gene_id"])


def map_genes(names: Iterable[str], reference: Reference | None = None, ids: Iterable[str] | None = None) -> FeatureMap:
    """Find the gene each column means.

    With a reference, each column is looked up by (1) Ensembl id, in ``ids`` or as its name, version ignored; (2) the
    exact name; (3) the name in any letter case; (4) an alias or retired name, exact, then in any letter case; (5) the
    name before a suffix ``-1`` or ``.1``, if that name is also a column (the mark of software that makes duplicates
    unique). Ways 3 and 4 count only where they point to one gene. Columns found in no way are dropped, never guessed.

    Without a reference, names are taken as they are; Ensembl ids lose their version where that makes no two different
    names equal.

    Parameters
    ----------
    names
        ``(f,)`` names of the columns: symbols, Ensembl ids, or both.
    reference
        A reference with genes; None, or one without genes, for names as they are.
    ids
        ``(f,)`` Ensembl ids of the same columns where the file has them; used with a reference only.

    Raises
    ------
    GenomeError
        If fewer than 1 % of the columns are genes of the reference.
    """
    column = np.array([str(name) for name in names], dtype=object)
    if reference is None or reference.genes is None:
        why = "no reference was given" if reference is None else f"the reference {reference.name!r} holds no genes"
        return _as_named(column, why)
    genes = reference.genes
    id_column = column if ids is None else np.array([str(name) for name in ids], dtype=object)
    row, way = _look_up(column, id_column, genes, reference.aliases)
    _by_suffix(column, row, way)
    mapped = int((row >= 0).sum())
    exact = int(np.isin(way, ["ensembl", "exact"]).sum())
    if len(column) and (mapped < max(0.01 * len(column), 1) or exact < 0.1 * mapped):
        _refuse_other_species(column, genes, mapped, exact, reference.name)
    reached = pd.unique(row[row >= 0])
    target = pd.Index(reached).get_indexer(row)
    target[row < 0] = -1
    counts = {"total": len(column), "mapped": mapped}
    counts |= {key: int((way == key).sum()) for key in (*_WAYS, "ambiguous", "unknown")}
    counts["merged"] = mapped - len(reached)
    return FeatureMap(
        names=pd.Index(genes["name"].to_numpy(dtype=object)[reached]),
        target=target.astype(np.int64),
        counts=counts,
        sentence=_sentence(counts),
        unmapped=tuple(column[row < 0][:_LISTED]),
    )


def transcription_starts(names: Iterable[str], reference: Reference) -> pd.DataFrame:
    """Where the transcription of named genes starts.

    Parameters
    ----------
    names
        Names as a model or a file has them; found as ``map_genes`` finds them.
    reference
        A reference with genes.

    Returns
    -------
    pandas.DataFrame
        ``gene`` (the name given), ``chrom``, ``position`` (0-based) and ``strand``; names not found have no row.
    """
    column = np.array([str(name) for name in names], dtype=object)
    if reference.genes is None:
        raise GenomeError(f"The reference {reference.name!r} holds no genes. Build it with --gtf.")
    found = map_genes(column, reference)
    known = np.flatnonzero(found.target >= 0)
    table = reference.genes.set_index("name").loc[found.names[found.target[known]]]
    columns = {"chrom": table["chrom"], "position": table["tss"], "strand": table["strand"]}
    return pd.DataFrame({"gene": column[known], **{key: item.to_numpy() for key, item in columns.items()}})


def _as_named(column: np.ndarray, why: str) -> FeatureMap:
    bare = np.array([strip_version(name) for name in column], dtype=object)
    meant = pd.DataFrame({"bare": bare, "name": column}).drop_duplicates()
    clash = meant.loc[meant["bare"].duplicated(keep=False), "bare"]
    taken = np.where(np.isin(bare.astype(str), clash.to_numpy(dtype=str)), column, bare)
    target, unique = pd.factorize(taken)
    counts = {"total": len(column), "mapped": len(column), "as_named": len(column), "merged": len(column) - len(unique)}
    sentence = f"{len(column):,} genes taken as named; {why}, so aliases and retired names were not looked up"
    return FeatureMap(pd.Index(unique, dtype=object), target.astype(np.int64), counts, sentence + _merged(counts))


def _look_up(
    column: np.ndarray, ids: np.ndarray, genes: pd.DataFrame, aliases: pd.DataFrame | None
) -> tuple[np.ndarray, np.ndarray]:
    """Row of ``genes`` for each column or -1, and the way it was found (``ambiguous``, ``unknown`` for -1)."""
    every = np.arange(len(genes))
    gene_id, name = (genes[key].to_numpy(dtype=object) for key in ("gene_id", "name"))
    upper = np.array([text.upper() for text in column], dtype=object)
    steps = [
        ("ensembl", np.array([strip_version(text) for text in ids], dtype=object), gene_id, every),
        ("exact", column, name, every),
        ("case", upper, np.array([text.upper() for text in name], dtype=object), every),
    ]
    if aliases is not None and len(aliases):
        alias = aliases["alias"].to_numpy(dtype=object)
        owner = pd.Index(gene_id).get_indexer(aliases["gene_id"])
        steps.append(("alias", column, alias[owner >= 0], owner[owner >= 0]))
        folded = np.array([text.upper() for text in alias[owner >= 0]], dtype=object)
        steps.append(("alias", upper, folded, owner[owner >= 0]))
    row = np.full(len(column), -1, dtype=np.int64)
    way = np.full(len(column), "unknown", dtype=object)
    for label, wanted, keys, rows in steps:
        pairs = pd.DataFrame({"key": keys, "row": rows}).drop_duplicates()
        several = pairs["key"].duplicated(keep=False)
        single = pairs[~several]
        todo = np.flatnonzero(row < 0)
        place = pd.Index(single["key"]).get_indexer(wanted[todo])
        found = todo[place >= 0]
        row[found] = single["row"].to_numpy()[place[place >= 0]]
        way[found] = label
        rest = todo[place < 0]
        way[rest[pd.Index(wanted[rest]).isin(pairs.loc[several, "key"])]] = "ambiguous"
    return row, way


def _by_suffix(column: np.ndarray, row: np.ndarray, way: np.ndarray) -> None:
    """Give ``TBCE-1`` the gene of ``TBCE`` where both are columns; fills ``row`` and ``way`` in place."""
    known = dict(zip(column[row >= 0], row[row >= 0]))
    for place in np.flatnonzero(row < 0):
        match = re.fullmatch(r"(.+)[-.]\d+", column[place])
        if match and match[1] in known:
            row[place], way[place] = known[match[1]], "suffix"


def _sentence(counts: dict[str, int]) -> str:
    found = ", ".join(f"{counts[key]:,} {words}" for key, words in _WAYS.items() if counts[key])
    sentence = f"{counts['mapped']:,} of {counts['total']:,} genes mapped: {found}"
    lost = ", ".join(f"{counts[key]:,} {key}" for key in ("unknown", "ambiguous") if counts[key])
    return sentence + (f"; dropped: {lost}" if lost else "") + _merged(counts)


def _merged(counts: dict[str, int]) -> str:
    return f"; {counts['merged']:,} columns summed into another of the same gene" if counts["merged"] else ""


def _refuse_other_species(column: np.ndarray, genes: pd.DataFrame, mapped: int, exact: int, reference: str) -> None:
    """Raise where nearly nothing is known, or only the letter case of another species' symbols made it so."""
    looks, expected = _species(column), _species(genes["gene_id"].to_numpy())
    other = looks is not None and expected is not None and looks[0] != expected[0]
    if mapped >= max(0.01 * len(column), 1) and not other:
        return
    hint = "Pass a reference of the same species and check that the names are genes."
    if looks and expected and other:
        hint = f"The data look like {looks[1]}, the reference like {expected[1]}: pass a reference of the same species."
    shown = ", ".join(map(repr, column[:3]))
    wanted = ", ".join(map(repr, genes["name"].head(3)))
    raise GenomeError(
        f"Only {exact:,} of {len(column):,} genes are known as written to the reference {reference!r}. Found {shown}; "
        f"expected names like {wanted} or Ensembl ids like {genes['gene_id'].iloc[0]}. {hint}"
    )


def _species(column: np.ndarray) -> tuple[str, str] | None:
    """Human or mouse, and by what: the prefix of Ensembl ids or the case of symbols; empty where neither says."""
    listed = [str(name) for name in column[:5000]]
    ids = [match[1].upper() for match in map(_ENSEMBL.fullmatch, listed) if match]
    if len(ids) > len(listed) / 2:
        species = {"ENSG": "human", "ENSMUSG": "mouse"}.get(ids[0][:-11], ids[0][:-11])
        return species, f"{species} genes (ids {ids[0][:-11]}...)"
    words = [name for name in listed if re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{2,}", name)]
    title = sum(word[0].isupper() and word[1:] == word[1:].lower() for word in words)
    upper = sum(word == word.upper() for word in words)
    if title > len(listed) / 2:
        return "mouse", "mouse genes (Title-case symbols)"
    return ("human", "human genes (upper-case symbols)") if upper > len(listed) / 2 else None
