"""Pairs of allele and gene that stand out, looked at closely: every other gene, and what the same could be without DNA.

For each of the first pairs (smallest p of trans, then largest size) and its strongest group: the change of every other
gene with an interval and a test over donors; its p against the *same change of token put on other genes of like
expression*; how its ranking agrees (Spearman) with deleting the gene, hiding it, a random direction of the same
length, and co-expression; and a mutagenesis track of its start. Leaves out: sets of targets (``target_sets``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from syncyte.genome.gene_windows import SLOTS
from syncyte.genome.sequence import UNKNOWN, to_text
from syncyte.models.genes import GeneModel
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.target_sets import rankings
from syncyte.tasks.variant_effects import group_means
from syncyte.tasks.variant_tests import adjusted, empirical, over_donors
from syncyte.tasks.variant_tokens import Allele, SequenceSide, changed_tokens

MATCHED = 100  # genes of like expression that the same change is put on
LISTED = 200  # other genes listed for a pair
WAYS = ("delete", "mask", "random direction")


@dataclass(frozen=True)
class Detail:
    """Tables of one pair in one group: ``trans`` (a row for another gene) and ``facts`` (numbers of the pair)."""

    trans: pd.DataFrame
    facts: dict[str, float]


def look_closely(
    cells: NetworkCells,
    symbols: NDArray,
    gene: int,
    reference: torch.Tensor,
    alternate: torch.Tensor,
    group: str,
    *,
    seed: int = 0,
) -> Detail:
    """Everything about one pair in one group."""
    response = cells.respond(gene, alternate[None], reference, carried=True)
    spread = cells.model.spread.cpu().numpy()
    units = np.flatnonzero((cells.units["group"] == group).to_numpy())
    place = sorted(cells.units["group"].unique()).index(group)
    donors = over_donors(response.change[0, units].T, seed)
    change = group_means(cells, response.change)[0, place]
    matched, sizes = _on_others(cells, gene, alternate - reference, place, seed)
    scaled = change / spread
    own_size = float(np.sqrt(np.square(np.delete(scaled, gene)).mean()))
    scores = rankings(cells, gene, alternate, seed)
    frame = pd.DataFrame(
        {
            "other": symbols,
            "change": change,
            "in_sd": scaled,
            "low": donors["low"],
            "high": donors["high"],
            "donors": donors["donors"].astype(int),
            "donor_p": donors["p"],
            "shift": group_means(cells, response.shift)[0, place],
            "matched_genes_p": [empirical(abs(one), null) for one, null in zip(scaled, np.abs(matched).T)],
        }
    ).drop(index=gene)
    frame["donor_fdr"] = adjusted(frame["donor_p"].to_numpy())
    frame["rank"] = frame["in_sd"].abs().rank(ascending=False, method="first").astype(int)
    known = np.setdiff1d(np.flatnonzero(np.isfinite(change)), [gene])
    facts = {"size": own_size, "matched genes p": empirical(own_size, sizes), "matched genes": len(sizes)}
    ours = np.abs(scaled[known])
    for name in [*(f"{way}: change" for way in WAYS), "co-expression", "mean expression"]:
        facts[f"agrees with {name.removesuffix(': change')}"] = _agreement(ours, scores[name][known])
    return Detail(frame.sort_values("rank").head(LISTED), facts)


def _agreement(first: NDArray, second: NDArray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first, second).statistic)


def _on_others(
    cells: NetworkCells, gene: int, step: torch.Tensor, place: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The same change of token on genes of like expression: their changes ``(n, g)`` and sizes ``(n,)``."""
    level, spread = cells.model.level.cpu().numpy(), cells.model.spread.cpu().numpy()
    seen = np.diff(cells.presence.indptr)
    allowed = np.setdiff1d(np.flatnonzero(seen >= 10), [gene])
    order = allowed[np.argsort(np.abs(level[allowed] - level[gene]), kind="stable")][:MATCHED]
    changes, sizes = [], []
    for other in order:
        response = cells.respond(int(other), (cells.tokens[other] + step)[None], carried=True, shifts=False)
        change = group_means(cells, response.change)[0, place] / spread
        if np.isfinite(change).any():
            changes.append(change)
            changes[-1][other] = np.nan  # a gene is not moved by itself
            sizes.append(np.sqrt(np.nanmean(np.square(change))))
    empty = np.empty((0, len(level)), dtype=np.float32)
    return np.stack(changes) if changes else empty, np.array(sizes)


def mutagenesis(
    model: GeneModel, side: SequenceSide, gene: int, group: str, reach: int | None = None, near: int | None = None
) -> pd.DataFrame:
    """Every single change around a start of a gene.

    Parameters
    ----------
    reach
        Bases on either side of the start; the whole window by default.
    near
        Place whose nearest start is taken; the first one by default.

    Returns
    -------
    DataFrame
        ``chrom``, ``pos`` (1-based), ``ref``, ``alt``, ``distance`` (from the start, in the gene's direction),
        ``level_change`` (log1p of counts per 10,000) and ``track_change``.
    """
    links = side.windows.links
    own = links[((links["gene"] == gene) & (links["slot"] == SLOTS[0])).to_numpy()]["window"].to_numpy()
    if not len(own):
        return pd.DataFrame()
    anchors = side.windows.table["anchor"].to_numpy()[own]
    window = side.windows.table.iloc[own[0 if near is None else int(np.abs(anchors - near).argmin())]]
    low, high = int(window["start"]), int(window["end"])
    if reach is not None:
        low, high = max(low, int(window["anchor"]) - reach), min(high, int(window["anchor"]) + reach + 1)
    chrom = str(window["chrom"])
    bases = side.genome.fetch(chrom, low, high)
    rows = []
    for offset, base in enumerate(bases):
        if base != UNKNOWN:
            ref = to_text(bases[offset : offset + 1])
            rows += [(low + offset, ref, alt) for alt in "ACGT" if alt != ref]
    tokens = changed_tokens(model, side, [Allele(chrom, (change,)) for change in rows])
    mine = np.flatnonzero((tokens.table["gene"] == gene).to_numpy())
    chosen = [rows[place] for place in tokens.table["allele"].to_numpy()[mine]]
    step = (tokens.alternate - tokens.reference)[torch.from_numpy(mine)].cpu().numpy()
    tracks = tokens.tracks[mine]
    own_track = side.names.index(group) if group in side.names else None
    sign = -1 if window["strand"] == "-" else 1
    frame = pd.DataFrame(chosen, columns=["start", "ref", "alt"])
    frame.insert(0, "chrom", chrom)
    frame["pos"] = frame.pop("start") + 1
    frame["distance"] = (frame["pos"] - 1 - int(window["anchor"])) * sign
    frame["level_change"] = step[:, -1] * float(model.level_scale)
    if own_track is not None:
        frame["track_change"] = tracks[:, own_track]
    elif tracks.shape[1]:
        largest = np.abs(tracks).argmax(axis=1)
        frame["track_change"] = tracks[np.arange(len(tracks)), largest]
    return frame
