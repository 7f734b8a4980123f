"""What random variants do: the effects that a variant's own are measured against.

Variants alike (one class, lengths of one power of two) share random draws: up to ``KINDS`` of them, spread over the
distances to the start, are matched by ``each`` draws of their own, and every variant is compared with the draws of the
one it is most like. With so few variants that each can have its own, each has. A draw is followed through the gene in
whose window it fell, in the same cells. A variant that reaches a gene through its peaks alone is compared with draws in
peaks at a like distance from their genes, whose windows count as little as its own.

Leaves out: drawing itself (``genome.matched``) and p-values (``variant_tests``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.genome.gene_windows import SLOTS
from syncyte.genome.matched import Background, background, distance_bin, matched_variants
from syncyte.genome.variants import Variants
from syncyte.models.genes import GeneModel
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.variant_effects import Effects, pair_effects
from syncyte.tasks.variant_tokens import SequenceSide, Tokens, alleles_of, changed_tokens

KINDS = 16  # variants that have draws of their own, of all classes together, where there are more
PEAKS, FEWEST_PEAKS = 2_000, 50  # pairs of gene and peak that are drawn from at most; fewer at a distance: from all


@dataclass(frozen=True)
class Null:
    """Random variants of all classes.

    Attributes
    ----------
    draws
        One row each: ``class``, ``like`` (row of the tested variant it was drawn for), ``distance``, ``level``.
    tokens, effects
        Of the pair of each draw and its gene, in the same order.
    relaxed
        How many were drawn at each level of matching.
    """

    draws: pd.DataFrame
    tokens: Tokens
    effects: Effects
    relaxed: dict[str, int]

    def of(self, kind: str, distance: float) -> NDArray[np.int64]:
        """Draws for a variant: those made for the variant of its class at the most similar distance."""
        own = np.flatnonzero((self.draws["class"] == kind).to_numpy())
        if not len(own):
            return own
        for_distance = self.draws["for_distance"].to_numpy()[own]
        gap = np.abs(np.arcsinh(for_distance / 50) - np.arcsinh(distance / 50))
        return own[gap == gap.min()]


def classes(variants: Variants, rows: NDArray[np.int64]) -> NDArray:
    """Class of each variant: its kind, and the power of two that its longer allele reaches."""
    table = variants.table.iloc[rows]
    longest = np.maximum(table["ref"].str.len(), table["alt"].str.len()).to_numpy()
    power = np.floor(np.log2(np.maximum(longest, 1))).astype(int)
    kinds = table["kind"].astype(str).to_numpy()
    return np.array([f"{kind} {2**two}" for kind, two in zip(kinds, power)], dtype=object)


def pair_classes(variants: Variants, pairs: pd.DataFrame) -> NDArray:
    """Class of each pair of allele and gene: of the allele, and whether it reaches the gene through peaks alone."""
    found = classes(variants, variants.usable[pairs["allele"].to_numpy()])
    return found + np.where(_far(pairs), " in peaks", "").astype(object)


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
    shifts: bool,
    keep: Path | None = None,
) -> Null | None:
    """Effects of random variants for the tested ones; None where nothing can be drawn.

    Parameters
    ----------
    tested
        One row a tested variant: ``row`` (of ``variants``), ``class``, ``far`` (through peaks alone), ``distance``,
        ``tss`` (or middle of the peak), ``strand``.
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
        apart = int(distance_bin(np.array(one.distance))) if one.far else -1
        if apart not in sources:
            table = _peaks(side, cells, apart, seed) if one.far else _starts(side, cells)
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
    own = tokens.table["gene"].to_numpy() == draws["gene"].to_numpy()[tokens.table["allele"].to_numpy()]
    kept = _only(tokens, np.flatnonzero(own))
    effects = pair_effects(cells, kept, keep=keep, shifts=shifts, quiet=quiet)
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
            "class": pair_classes(variants, frame),
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


def _peaks(side: SequenceSide, cells: NetworkCells, apart: int, seed: int) -> pd.DataFrame:
    """Peaks of genes to draw from, at one bin of distances from the gene where there are enough."""
    links = _links(side, cells, SLOTS[1])
    same = links[distance_bin(links["distance"].to_numpy()) == apart]
    links = same if len(same) >= FEWEST_PEAKS else links
    chosen = np.random.default_rng([seed, apart]).permutation(len(links))[:PEAKS]
    return _placed(side, links.iloc[np.sort(chosen)])


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
