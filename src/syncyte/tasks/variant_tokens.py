"""From variants to tokens: which windows each one falls into, what they become, and which genes' tokens change how.

Every distinct sequence is encoded once, whatever the number of variants, genes and alleles it stands for; vectors of
REF and ALT windows come through the same cache. A gene's vector is a weighted mean over its windows, so that an allele
changes it by the weighted changes of the windows it falls into. An allele that leaves a window as it was changes
nothing, exactly. A deletion of the transcription start itself is scored with the bases behind it in its place, and
told.

Leaves out: reading variants (``genome.vcf``), cells (``network_cells``), tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.genome.fasta import Genome
from syncyte.genome.gene_windows import SLOTS, GeneWindows, hit_windows
from syncyte.genome.haplotypes import Change, alternate, anchor_deleted
from syncyte.genome.sequence import reverse_complement
from syncyte.genome.variants import Variants
from syncyte.models.genes import GeneModel

Vectors = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
TOKENS = 65_536  # rows of the adapter at a time


@dataclass(frozen=True)
class Allele:
    """Changes of one haplotype in one place: ``chrom`` and ``(start, ref, alt)`` of each."""

    chrom: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Tokens:
    """Genes whose token changes, a row for each pair of allele and gene.

    Attributes
    ----------
    table
        ``allele``, ``gene`` (positions), ``tss_distance`` (bases from the nearest start to the nearest base
        of the first change, in the gene's direction), ``windows`` (how many changed), ``slot`` (``start``,
        ``peaks`` or both), ``weight`` (of the windows it falls into, of starts where there are any), ``tss_deleted``.
    reference, alternate
        ``(p, w)`` tokens before and after.
    tracks
        ``(p, t)`` largest change of each output of the sequence model over the windows that changed.
    touched
        ``(a,)`` whether an allele falls into any window.
    """

    table: pd.DataFrame
    reference: torch.Tensor
    alternate: torch.Tensor
    tracks: NDArray[np.float32]
    touched: NDArray[np.bool_]


@dataclass
class SequenceSide:
    """Windows of genes in a genome, and what reads them.

    Attributes
    ----------
    windows
        Of the run.
    genome
        Opened.
    vectors
        Codes ``(n, L)`` to vectors ``(n, d)``, each row by itself.
    names
        ``(t,)`` what the last ``t`` numbers of a vector are: outputs of the sequence model, where it has any.
    """

    windows: GeneWindows
    genome: Genome
    vectors: Vectors
    names: tuple[str, ...]

    def codes(self, window: int, changes: Sequence[Change] = ()) -> NDArray[np.uint8]:
        """Bases of a window with changes put in, in the direction that it is read in."""
        chrom, start, end, strand, anchor = (
            self.windows.table[name].to_numpy()[window] for name in ("chrom", "start", "end", "strand", "anchor")
        )
        found = alternate(self.genome, chrom, int(start), int(end), int(anchor), changes, join=True)
        return reverse_complement(found) if strand == "-" else found


def alleles_of(variants: Variants) -> list[Allele]:
    """One allele a usable row."""
    chrom, start, ref, alt = (variants.table[name].to_numpy() for name in ("chrom", "start", "ref", "alt"))
    return [Allele(str(chrom[row]), ((int(start[row]), str(ref[row]), str(alt[row])),)) for row in variants.usable]


def changed_tokens(model: GeneModel, side: SequenceSide, alleles: Sequence[Allele]) -> Tokens:
    """Tokens that alleles give to genes; see the module."""
    allele, window = _hits(side.windows.table, alleles)
    codes, place = _distinct(side, alleles, allele, window)
    vectors = side.vectors(codes)
    before, after = place[:, 0], place[:, 1]
    step = vectors[after] - vectors[before]
    track = step[:, step.shape[1] - len(side.names) :]
    differs = before != after
    links = side.windows.links
    order = np.argsort(links["window"].to_numpy(), kind="stable")
    starts = np.searchsorted(links["window"].to_numpy()[order], np.arange(len(side.windows.table) + 1))
    many = np.diff(starts)[window]
    hit = np.repeat(np.arange(len(window)), many)
    link = order[np.repeat(starts[window], many) + _counting(many)]
    gene = links["gene"].to_numpy()[link]
    pairs, pair = np.unique(np.stack([allele[hit], gene], axis=1), axis=0, return_inverse=True)
    pair = pair.ravel()
    moved = np.zeros((len(pairs), len(SLOTS), step.shape[1]), dtype=np.float32)
    weight = links["weight"].to_numpy()[link].astype(np.float32)
    np.add.at(moved, (pair, side.windows.slot_codes()[link]), step[hit] * weight[:, None])
    tracks = np.zeros((len(pairs), track.shape[1]), dtype=np.float32)
    _largest(tracks, pair, track[hit])
    table = _pair_table(side, alleles, pairs, pair, link, window[hit], differs[hit])
    reference, alternate = _tokens(model, pairs[:, 1], moved.reshape(len(pairs), len(SLOTS) * step.shape[1]))
    touched = np.zeros(len(alleles), dtype=bool)
    touched[allele] = True
    return Tokens(table, reference, alternate, tracks, touched)


def _counting(many: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)


def _hits(table: pd.DataFrame, alleles: Sequence[Allele]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of allele and window that share a base, each once."""
    owner = np.repeat(np.arange(len(alleles)), [len(one.changes) for one in alleles])
    flat = [(one.chrom, start, start + len(ref)) for one in alleles for start, ref, _ in one.changes]
    if not flat:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    chrom, start, end = (np.array(part, dtype=kind) for part, kind in zip(zip(*flat), (object, np.int64, np.int64)))
    row, window = hit_windows(table, chrom, start, end)
    found = np.unique(np.stack([owner[row], window], axis=1), axis=0)
    return found[:, 0], found[:, 1]


def _distinct(
    side: SequenceSide, alleles: Sequence[Allele], allele: NDArray[np.int64], window: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Distinct sequences ``(n, L)``, and ``(h, 2)`` which of them each hit has before and after."""
    found: dict[bytes, int] = {}
    kept: list[NDArray[np.uint8]] = []

    def number(codes: NDArray[np.uint8]) -> int:
        key = codes.tobytes()
        if key not in found:
            found[key] = len(kept)
            kept.append(codes)
        return found[key]

    plain = {int(one): number(side.codes(int(one))) for one in np.unique(window)}
    place = np.empty((len(window), 2), dtype=np.int64)
    for row, (one, where) in enumerate(zip(allele, window)):
        place[row] = plain[int(where)], number(side.codes(int(where), alleles[one].changes))
    codes = np.stack(kept) if kept else np.empty((0, side.windows.length), dtype=np.uint8)
    return codes, place


def _largest(kept: NDArray[np.float32], row: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Keep, in place, the value of largest size that falls into each row and column."""
    order = np.argsort(row, kind="stable")
    for one in order:
        larger = np.abs(values[one]) > np.abs(kept[row[one]])
        kept[row[one]][larger] = values[one][larger]


def _pair_table(
    side: SequenceSide,
    alleles: Sequence[Allele],
    pairs: NDArray[np.int64],
    pair: NDArray[np.int64],
    link: NDArray[np.int64],
    window: NDArray[np.int64],
    differs: NDArray[np.bool_],
) -> pd.DataFrame:
    """What is known of each pair of allele and gene."""
    links, table = side.windows.links, side.windows.table
    places = [(one.changes[0][0], len(one.changes[0][1])) if one.changes else (0, 1) for one in alleles]
    first, size = np.array(places, dtype=np.int64).reshape(-1, 2)[pairs[pair, 0]].T
    anchor = table["anchor"].to_numpy()[window]
    sign = np.where(table["strand"].to_numpy()[window] == "-", -1, 1)
    start = (links["slot"] == SLOTS[0]).to_numpy()[link]
    distance = np.where(start, _apart(first - anchor, size, sign), links["distance"].to_numpy()[link])
    weight = links["weight"].to_numpy()[link]
    frame = pd.DataFrame({"pair": pair, "distance": distance, "start": start, "differs": differs, "weight": weight})
    frame["of_start"] = weight * start
    nearest = frame.assign(size=frame["distance"].abs() + ~frame["start"] * 10**9)
    nearest = nearest.sort_values(["pair", "size"]).drop_duplicates("pair")
    grouped = frame.groupby("pair")
    has = {"start": grouped["start"].any().to_numpy(), "peaks": (~frame["start"]).groupby(frame["pair"]).any()}
    slot = np.where(has["start"], np.where(has["peaks"], "start and peaks", "start"), "peaks")
    of_starts, of_all = (frame.groupby("pair")[name].sum().to_numpy() for name in ("of_start", "weight"))
    gone = [
        bool(near) and _deletes_start(side, alleles[one], int(gene)) for (one, gene), near in zip(pairs, has["start"])
    ]
    return pd.DataFrame(
        {
            "allele": pairs[:, 0],
            "gene": pairs[:, 1],
            "tss_distance": nearest["distance"].to_numpy() if len(pairs) else np.empty(0, dtype=np.int64),
            "windows": grouped["differs"].sum().to_numpy() if len(pairs) else np.empty(0, dtype=np.int64),
            "slot": slot if len(pairs) else np.empty(0, dtype=object),
            "weight": np.where(has["start"], of_starts, of_all) if len(pairs) else np.empty(0),
            "tss_deleted": np.array(gone, dtype=bool),
        }
    )


def _apart(begin: NDArray[np.int64], size: NDArray[np.int64], sign: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signed bases from a start to the nearest base of a change, 0 where it lies across; an insertion is before one."""
    low = np.where(sign < 0, -(begin + size - 1), begin)
    high = np.maximum(low, low + size - 1)
    return np.where(low > 0, low, np.minimum(high, 0))


def _deletes_start(side: SequenceSide, allele: Allele, gene: int) -> bool:
    """Whether an allele takes away the base of one of a gene's starts."""
    if all(len(ref) <= len(alt) for _, ref, alt in allele.changes):
        return False
    links = side.windows.links
    own = links["window"].to_numpy()[(links["gene"].to_numpy() == gene) & (links["slot"] == SLOTS[0]).to_numpy()]
    anchors = side.windows.table["anchor"].to_numpy()[own]
    return any(anchor_deleted(allele.changes, int(anchor)) for anchor in anchors)


@torch.no_grad()
def _tokens(
    model: GeneModel, genes: NDArray[np.int64], moved: NDArray[np.float32]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens before and after; equal bit for bit where nothing moved."""
    every = model.tokens()
    reference = every[torch.from_numpy(genes).to(every.device)]
    parts = []
    for begin in range(0, len(genes), TOKENS):
        at = torch.from_numpy(genes[begin : begin + TOKENS]).to(every.device)
        vectors = model.vectors[at]
        step = torch.from_numpy(moved[begin : begin + TOKENS]).to(vectors)
        change = model.moved(vectors, vectors + step)
        same = ~(step != 0).any(dim=1)
        parts.append(torch.where(same[:, None], torch.zeros_like(change), change))
    change = torch.cat(parts) if parts else torch.zeros_like(reference)
    return reference, reference + change
