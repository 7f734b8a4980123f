"""What random variants do: the effects that a variant's own are measured against.

Variants alike share random draws. Alike are those of one class: kind, length up to a power of two, transition or
transversion, whether they touch a CpG, GC content around, and whether they reach their gene through peaks alone. Up to
``KINDS`` of all, spread over classes and distances, are matched by ``each`` draws of their own, and every variant is
compared with the draws of the one of its class at the most similar distance; with few variants each has its own.

A draw is followed through the gene in whose window it fell, in the same cells. Windows of a gene count by their weight:
a tenth of a gene's peaks moves it a tenth as far as a start. What is tested is the variant and not its distance, so
that draws lie in windows of like weight, and what weights still differ by is taken out of their effects in proportion.

Leaves out: drawing itself (``genome.matched``) and p-values (``variant_tests``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import SLOTS
from syncyte.genome.matched import Background, around, background, matched_variants
from syncyte.genome.variants import Variants
from syncyte.models.genes import GeneModel
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.variant_effects import Effects, pair_effects
from syncyte.tasks.variant_tokens import SequenceSide, Tokens, alleles_of, changed_tokens

KINDS = 48  # variants that have draws of their own, of all classes together, where there are more
PEAKS = (50, 2_000)  # fewest and most pairs of gene and peak, those nearest in weight, that are drawn from
IN_PEAKS = " in peaks"  # end of the class of what reaches its gene through peaks alone
TRANSITIONS = ("AG", "GA", "CT", "TC")
GC_EDGES = (0.4, 0.55)  # of the content around a variant, between classes


@dataclass(frozen=True)
class Null:
    """Random variants of all classes.

    Attributes
    ----------
    draws
        One row each: ``class``, ``like`` (row of the tested variant it was drawn for), ``for_distance`` (of that one),
        ``distance``, ``level``.
    tokens, effects
        Of the pair of each draw and its gene, in the same order.
    relaxed
        How many were drawn at each level of matching.
    """

    draws: pd.DataFrame
    tokens: Tokens
    effects: Effects
    relaxed: dict[str, int]

    def likes(self, variants: Variants, pairs: pd.DataFrame, genome: Genome) -> list[NDArray[np.int64]]:
        """Draws for each pair of allele and gene."""
        return self.of(pair_classes(variants, pairs, genome), pairs["tss_distance"].to_numpy())

    def of(self, kinds: NDArray, distances: NDArray) -> list[NDArray[np.int64]]:
        """Draws by class and distance: those made for the variant of the class at the most similar distance."""
        made = np.arcsinh(self.draws["for_distance"].to_numpy(dtype=np.float64) / 50)
        by_class = {kind: np.asarray(rows) for kind, rows in self.draws.groupby("class").indices.items()}
        none = np.empty(0, dtype=np.int64)
        known: dict[tuple[str, float], NDArray[np.int64]] = {}
        found = []
        for kind, distance in zip(kinds.tolist(), np.arcsinh(np.asarray(distances, dtype=np.float64) / 50).tolist()):
            own = by_class.get(kind, none)
            if len(own) and (kind, distance) not in known:
                gap = np.abs(made[own] - distance)
                known[kind, distance] = own[gap == gap.min()]
            found.append(known.get((kind, distance), none))
        return found

    def scaled(self, values: NDArray, draws: NDArray[np.int64], weight: float) -> NDArray[np.float64]:
        """Effects of draws as they would be in windows of another weight."""
        theirs = self.tokens.table["weight"].to_numpy(dtype=np.float64)[draws]
        return values[draws] * (weight / np.maximum(theirs, 1e-12))


def classes(variants: Variants, rows: NDArray[np.int64]) -> NDArray:
    """Class of each variant: its kind, and the power of two that its longer allele reaches."""
    table = variants.table.iloc[rows]
    longest = np.maximum(table["ref"].str.len(), table["alt"].str.len()).to_numpy()
    power = np.floor(np.log2(np.maximum(longest, 1))).astype(int)
    kinds = table["kind"].astype(str).to_numpy()
    return np.array([f"{kind} {2**two}" for kind, two in zip(kinds, power)], dtype=object)


def pair_classes(variants: Variants, pairs: pd.DataFrame, genome: Genome) -> NDArray:
    """Class of each pair of allele and gene, with what is around the allele and how it reaches the gene."""
    allele = pairs["allele"].to_numpy()
    if not len(allele):
        return np.empty(0, dtype=object)
    used, place = np.unique(allele, return_inverse=True)
    rows = variants.usable[used]
    near = np.array([_near(variants, int(row), genome) for row in rows], dtype=object)
    return (classes(variants, rows) + near)[place] + np.where(_far(pairs), IN_PEAKS, "").astype(object)


def _near(variants: Variants, row: int, genome: Genome) -> str:
    """Transition or transversion, CpG, and GC content around."""
    start, ref, alt = variants.change(row)
    kind, chrom = (str(variants.table[name].iloc[row]) for name in ("kind", "chrom"))
    gc, cpg = around(genome, chrom, start, len(alt) if kind == "duplication" else len(ref))
    exchange = (" transition" if ref + alt in TRANSITIONS else " transversion") if kind == "snv" else ""
    return f"{exchange}{' CpG' if cpg else ''} GC {int(np.searchsorted(GC_EDGES, gc)) + 1}"


def _far(pairs: pd.DataFrame) -> NDArray[np.bool_]:
    return (pairs["slot"] == SLOTS[1]).to_numpy()


def changed_bases(variants: Variants, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bases that each variant changes; one that changes more than a window holds has no random variants."""
    table = variants.table.iloc[rows]
    twice = (table["kind"] == "duplication").to_numpy()
    lengths = (table[name].str.len().to_numpy(dtype=np.int64) for name in ("alt", "ref"))
    return np.where(twice, *lengths)


def random_effects(
    model: GeneModel,
    side: SequenceSide,
    cells: NetworkCells,
    variants: Variants,
    tested: pd.DataFrame,
    *,
    each: int,
    seed: int,
    quiet: bool,
    keep: Path | None = None,
) -> Null | None:
    """Effects of random variants for the tested ones; None where nothing can be drawn.

    Parameters
    ----------
    tested
        One row a tested variant: ``row`` (of ``variants``), ``class``, ``far`` (through peaks alone), ``distance``,
        ``weight``, ``tss`` (or middle of the peak), ``strand``.
    each
        Draws for one variant.
    keep
        Folder for finished blocks; None keeps nothing.
    """
    tested = tested[changed_bases(variants, tested["row"].to_numpy()) <= side.windows.length]
    if each < 1 or not len(tested):
        return None
    sources: dict[int, Background | None] = {}
    parts, drawn = [], []
    relaxed: dict[str, int] = {}
    for one in _chosen(tested).itertuples(index=False):  # the variant decides what is drawn, not its place in the file
        apart = round(float(np.log2(max(one.weight, 1e-9)))) if one.far else 1
        if apart not in sources:
            table = _peaks(side, cells, one.weight) if one.far else _starts(side, cells)
            sources[apart] = background(side.genome, table, side.windows.length) if len(table) else None
        source = sources[apart]
        if source is None:
            continue
        found = matched_variants(source, variants, int(one.row), int(one.tss), str(one.strand), n=each, seed=seed)
        gene = source.table["gene"].to_numpy()[found.draws["window"].to_numpy()]
        rows = found.draws.assign(gene=gene, for_distance=one.distance, like=one.row)
        parts.append(rows.assign(**{"class": one[tested.columns.get_loc("class")]}))
        drawn.append(found.variants)
        for level, count in found.relaxed.items():
            relaxed[level] = relaxed.get(level, 0) + count
    if not parts:
        return None
    draws = pd.concat(parts, ignore_index=True)
    alleles = [allele for part in drawn for allele in alleles_of(part)]
    tokens = changed_tokens(model, side, alleles)
    at = tokens.table["allele"].to_numpy()
    own = tokens.table["gene"].to_numpy() == draws["gene"].to_numpy()[at]
    own &= _far(tokens.table) == draws["class"].str.endswith(IN_PEAKS).to_numpy()[at]  # some peaks lie on a start
    kept = _only(tokens, np.flatnonzero(own))
    effects = pair_effects(cells, kept, keep=keep, shifts=False, alone=False, quiet=quiet)
    return Null(draws.iloc[kept.table["allele"]].reset_index(drop=True), kept, effects, relaxed)


def tested_pairs(variants: Variants, tokens: Tokens, numbers: Effects, side: SequenceSide) -> pd.DataFrame:
    """Variants that do something, each with the gene whose start is nearest; through peaks alone a row by itself."""
    table = tokens.table.assign(far=_far(tokens.table))
    some = (table["windows"].to_numpy() > 0) & np.isfinite(numbers.size).any(axis=1)
    frame = table[some]
    frame = frame.assign(gap=frame["tss_distance"].abs()).sort_values(["allele", "gap"], kind="stable")
    frame = frame.drop_duplicates(["allele", "far"])
    rows = variants.usable[frame["allele"].to_numpy()]
    begin = variants.table["start"].to_numpy()[rows]
    far = frame["far"].to_numpy()
    place = np.empty(len(frame), dtype=np.int64)
    for slot, own in zip(SLOTS, (~far, far)):
        place[own] = _nearest(side, slot, frame["gene"].to_numpy()[own], begin[own])
    windows = side.windows.table.iloc[place]
    found = pd.DataFrame(
        {
            "row": rows,
            "class": pair_classes(variants, frame, side.genome),
            "weight": frame["weight"].to_numpy(),
            "far": far,
            "distance": frame["tss_distance"].to_numpy(),
            "tss": windows["anchor"].to_numpy(),
            "strand": windows["strand"].to_numpy(),
        }
    )
    named = variants.table.iloc[rows][["chrom", "start", "ref", "alt"]].reset_index(drop=True)
    order = named.assign(far=far).sort_values([*named, "far"]).index  # whatever the order of the file
    return found.iloc[order].reset_index(drop=True)


def _nearest(side: SequenceSide, slot: str, genes: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Window in a slot of each gene that is nearest to a place."""
    links = side.windows.links[(side.windows.links["slot"] == slot).to_numpy()]
    anchors = side.windows.table["anchor"].to_numpy()
    own = {int(gene): some.to_numpy() for gene, some in links[links["gene"].isin(genes)].groupby("gene")["window"]}
    near = [own[gene][np.abs(anchors[own[gene]] - place).argmin()] for gene, place in zip(genes.tolist(), places)]
    return np.array(near, dtype=np.int64)


def _only(tokens: Tokens, rows: NDArray[np.int64]) -> Tokens:
    table = tokens.table.iloc[rows].reset_index(drop=True)
    return Tokens(table, tokens.reference[rows], tokens.alternate[rows], tokens.tracks[rows], tokens.touched)


def _links(side: SequenceSide, cells: NetworkCells, slot: str) -> pd.DataFrame:
    """Links in a slot of genes that are expressed in enough cells to be followed."""
    links = side.windows.links[(side.windows.links["slot"] == slot).to_numpy()]
    seen = np.diff(cells.presence.indptr)
    return links[seen[links["gene"].to_numpy()] >= cells.presence.shape[0] * 0.02]


def _placed(side: SequenceSide, links: pd.DataFrame) -> pd.DataFrame:
    table = side.windows.table.iloc[links["window"].to_numpy()]
    frame = table[["chrom", "strand"]].assign(tss=table["anchor"], gene=links["gene"].to_numpy())
    return frame.reset_index(drop=True)


def _starts(side: SequenceSide, cells: NetworkCells) -> pd.DataFrame:
    """Starts of genes to draw from."""
    return _placed(side, _links(side, cells, SLOTS[0]))


def _peaks(side: SequenceSide, cells: NetworkCells, weight: float) -> pd.DataFrame:
    """Peaks of genes to draw from: those that count for their gene about as much."""
    links = _links(side, cells, SLOTS[1])
    apart = np.abs(np.log(np.maximum(links["weight"].to_numpy(), 1e-12) / max(weight, 1e-12)))
    most = int(np.clip((apart < np.log(1.5)).sum(), *PEAKS))
    return _placed(side, links.iloc[np.sort(np.argsort(apart, kind="stable")[:most])])


def _chosen(tested: pd.DataFrame) -> pd.DataFrame:
    """Variants that are drawn for: all where they are few, else of each class some spread over the distances."""
    if len(tested) <= KINDS:
        return tested
    kinds = tested["class"].value_counts()
    each = max(1, KINDS // len(kinds))
    parts = []
    for kind in kinds.index:
        own = tested[tested["class"] == kind].sort_values("distance", kind="stable")
        places = np.unique(np.linspace(0, len(own) - 1, min(each, len(own)) + 2).round().astype(int)[1:-1])
        parts.append(own.iloc[places])
    return pd.concat(parts, ignore_index=True)
