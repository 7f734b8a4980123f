"""Which windows of sequence speak for a gene, with which weight; and which windows a variant falls into.

A gene is read from two *slots*: its transcription starts (the mean over them), and the peaks around these, weighted by
``exp(-distance / decay)`` up to ``reach`` bases (our choice). Windows have one length, stand in the gene's direction
for starts and on the forward strand for peaks, and must lie wholly in the genome; a gene none of whose starts does has
no window and is counted. Two genes may share a peak, and one window serves both.

Leaves out: bases (``fasta``), vectors (models), and what a variant does to a window (``haplotypes``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import reverse_complement
from syncyte.genome.tss import covered, windows

SLOTS = ("start", "peaks")
MATCHES = ("gene_id", "symbol")


@dataclass(frozen=True)
class GeneWindows:
    """Windows and the genes they speak for.

    Attributes
    ----------
    table
        ``chrom``, ``start``, ``end``, ``strand``, ``anchor`` (genomic position that stays in place when bases are
        inserted or deleted), ``kind`` (``start`` or ``peak``), ``name``.
    links
        ``gene`` (position among ``genes``), ``window`` (row of ``table``), ``slot``, ``weight`` (sums to 1 over a slot
        of a gene), ``distance`` (of the window's anchor from the gene's nearest start, in the gene's direction).
    genes
        Names of all genes asked for.
    length
        Bases of a window.
    """

    table: pd.DataFrame
    links: pd.DataFrame
    genes: pd.Index
    length: int

    def covered(self) -> NDArray[np.bool_]:
        """``(g,)`` whether a gene has a window around a start."""
        found = np.zeros(len(self.genes), dtype=bool)
        found[self.links["gene"].to_numpy()[(self.links["slot"] == SLOTS[0]).to_numpy()]] = True
        return found

    def gather(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors ``(g, slots * d)`` of all genes from those of all windows ``(w, d)``; zeros for an empty slot."""
        found = np.zeros((len(self.genes), len(SLOTS), values.shape[1]), dtype=np.float32)
        gene, window, weight = (self.links[name].to_numpy() for name in ("gene", "window", "weight"))
        np.add.at(found, (gene, self.slot_codes()), values[window] * weight[:, None].astype(np.float32))
        return found.reshape(len(self.genes), -1)

    def fetch(self, genome: Genome) -> NDArray[np.uint8]:
        """Bases ``(w, length)`` of all windows, in the direction that each is read in."""
        found = np.empty((len(self.table), self.length), dtype=np.uint8)
        rows = self.table[["chrom", "start", "end", "strand"]].itertuples(index=False)
        for place, (chrom, start, end, strand) in enumerate(rows):
            codes = genome.fetch(chrom, start, end)
            found[place] = reverse_complement(codes) if strand == "-" else codes
        return found

    def used(self, left_out: int) -> NDArray[np.int64]:
        """Windows that speak for some gene in another slot than ``left_out``."""
        return np.unique(self.links["window"].to_numpy()[self.slot_codes() != left_out])

    def without(self, slot: int) -> GeneWindows:
        """The same without a slot."""
        links = self.links[self.slot_codes() != slot].reset_index(drop=True)
        return _used(GeneWindows(self.table, links, self.genes, self.length))

    def slot_codes(self) -> NDArray[np.int64]:
        """Slot of every link as its number."""
        return self.links["slot"].map({name: code for code, name in enumerate(SLOTS)}).to_numpy(dtype=np.int64)


def match_starts(starts: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Starts of the genes asked for, with ``gene`` (row of ``genes``); by Ensembl id first, then by symbol.

    Parameters
    ----------
    starts
        From ``read_tss``.
    genes
        Index: names of genes; a column ``gene_id`` is used where there is one.
    """
    names = pd.Index(genes.index.astype(str))
    ids = genes["gene_id"].astype(str).str.split(".").str[0] if "gene_id" in genes else pd.Series(names)
    place = pd.Series(np.arange(len(names)), index=ids.to_numpy()).groupby(level=0).first().drop("", errors="ignore")
    found = starts["gene_id"].astype(str).map(place)
    by_name = pd.Series(np.arange(len(names)), index=names).groupby(level=0).first()
    for column in MATCHES:
        found = found.fillna(starts[column].astype(str).map(by_name))
    return starts[found.notna()].assign(gene=found.dropna().astype(np.int64))


def gene_windows(
    genome: Genome,
    starts: pd.DataFrame,
    genes: pd.Index,
    length: int,
    *,
    peaks: pd.DataFrame | None = None,
    reach: int = 100_000,
    decay: float = 10_000.0,
) -> GeneWindows:
    """Windows of genes in the genome.

    Parameters
    ----------
    starts
        From ``match_starts``.
    genes
        All genes, covered or not.
    length
        Bases of a window.
    peaks
        Regions with ``chrom``, ``start``, ``end``; None for starts alone.
    """
    starts = starts[covered(genome, starts, length)] if len(starts) else starts
    near = windows(starts, length)
    first = near.assign(anchor=near["tss"], kind="start", name=near["tss_id"].astype(str))
    count = starts.groupby("gene")["tss"].transform("size").to_numpy() if len(starts) else np.empty(0)
    links = [_links(starts["gene"].to_numpy(), np.arange(len(starts)), SLOTS[0], 1 / count, np.zeros(len(starts)))]
    tables = [first]
    if peaks is not None and len(starts):
        middle = ((peaks["start"] + peaks["end"]) // 2).to_numpy(dtype=np.int64)
        placed = peaks[["chrom"]].assign(tss=middle, strand="+", chrom=peaks["chrom"].astype(str))
        inside = covered(genome, placed, length)
        placed = windows(placed[inside], length)
        names = placed["chrom"] + ":" + placed["start"].astype(str) + "-" + placed["end"].astype(str)
        tables.append(placed.assign(anchor=placed["tss"], kind="peak", name=names))
        links.append(_near(starts, placed, len(first), reach, decay))
    columns = ["chrom", "start", "end", "strand", "anchor", "kind", "name"]
    table = pd.concat([part[columns].assign(chrom=part["chrom"].astype(str)) for part in tables], ignore_index=True)
    return _used(GeneWindows(table, pd.concat(links, ignore_index=True), genes, length))


def _links(gene: NDArray, window: NDArray, slot: str, weight: NDArray, distance: NDArray) -> pd.DataFrame:
    frame = {"gene": gene, "window": window, "slot": slot, "weight": weight, "distance": distance}
    return pd.DataFrame(frame).astype({"gene": np.int64, "window": np.int64, "weight": float, "distance": np.int64})


def _near(starts: pd.DataFrame, placed: pd.DataFrame, shift: int, reach: int, decay: float) -> pd.DataFrame:
    """Peaks within reach of the nearest start of each gene, weighted by distance."""
    rows = []
    chroms = {name: np.flatnonzero((placed["chrom"] == name).to_numpy()) for name in placed["chrom"].unique()}
    middle, sign = placed["tss"].to_numpy(), np.where(starts["strand"] == "-", -1, 1)
    for gene, chrom, tss, turn in zip(starts["gene"], starts["chrom"].astype(str), starts["tss"], sign):
        own = chroms.get(chrom, np.empty(0, dtype=np.int64))
        order = own[np.argsort(middle[own], kind="stable")]
        low, high = np.searchsorted(middle[order], [tss - reach, tss + reach + 1])
        hits = order[low:high]
        rows.append((np.full(len(hits), gene), hits + shift, (middle[hits] - tss) * turn))
    gene, window, distance = (np.concatenate(parts) for parts in zip(*rows))
    frame = _links(gene, window, SLOTS[1], np.exp(-np.abs(distance) / decay), distance)
    frame = frame.iloc[np.argsort(np.abs(distance), kind="stable")].drop_duplicates(["gene", "window"])
    frame["weight"] /= frame.groupby("gene")["weight"].transform("sum").clip(lower=1e-12)
    return frame.sort_values(["gene", "window"], ignore_index=True)


def _used(found: GeneWindows) -> GeneWindows:
    """Only windows that speak for some gene."""
    used = np.unique(found.links["window"])
    place = np.full(len(found.table), -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    links = found.links.assign(window=place[found.links["window"]])
    return GeneWindows(found.table.iloc[used].reset_index(drop=True), links, found.genes, found.length)


def hit_windows(table: pd.DataFrame, chrom: NDArray, start: NDArray, end: NDArray) -> tuple[NDArray, NDArray]:
    """Pairs (row of the places asked for, row of ``table``) that share a base; windows must have one length.

    Parameters
    ----------
    chrom, start, end
        ``(n,)`` of the places asked for, half-open; an empty one (``start == end``) touches what holds its base.
    """
    rows, hits = [], []
    chrom, end = np.asarray(chrom, dtype=object), np.maximum(end, np.asarray(start) + 1)
    for name in pd.unique(chrom):
        own = np.flatnonzero((table["chrom"] == name).to_numpy())
        asked = np.flatnonzero(chrom == name)
        if not len(own):
            continue
        own = own[np.argsort(table["start"].to_numpy()[own], kind="stable")]
        first = np.searchsorted(table["end"].to_numpy()[own], np.asarray(start)[asked], side="right")
        last = np.searchsorted(table["start"].to_numpy()[own], end[asked], side="left")
        many = np.maximum(last - first, 0)
        rows.append(np.repeat(asked, many))
        offset = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        hits.append(own[np.repeat(first, many) + offset])
    if not rows:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate(rows), np.concatenate(hits)
