"""Places that are no peaks and have the GC content of peaks: what an encoder must tell from them by more than GC.

Leaves out models and scores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import UNKNOWN, gc_share

MOST_UNKNOWN = 0.1  # share of unknown bases of a window
TRIES = 60  # candidates for each window that is wanted
READ = 1_000_000  # bases that are read at once at most
GAP = 2_000  # bases between windows beyond which they are read apart


def matched_negatives(
    genome: Genome, peaks: pd.DataFrame, n: int | Mapping[str, int], seed: int, *, length: int = 600, margin: int = 200
) -> pd.DataFrame:
    """Windows without a peak, each of the GC content nearest to that of a peak.

    Parameters
    ----------
    genome
        Where they are cut from.
    peaks
        ``chrom``, ``start``, ``end`` of all peaks, those outside of the genome too.
    n
        How many. By chromosome: how many on each, of the GC content of its own peaks; a chromosome without peaks or
        free windows gets none.
    seed
        Of the draw.
    length
        Bases of a window; peaks are looked at in windows of the same length around their middle.
    margin
        Bases that must lie between a window and a peak.

    Returns
    -------
    pandas.DataFrame
        ``chrom``, ``start``, ``end``, ``gc``, at most ``n`` rows by place.

    Raises
    ------
    GenomeError
        If no peak or no window without one lies in the genome.
    """
    rng = np.random.default_rng(seed)
    whole = peak_windows(genome, peaks, length)
    if isinstance(n, Mapping):
        asked = [([chrom], whole[whole["chrom"] == chrom], count) for chrom, count in n.items()]
    else:
        asked = [(list(genome.spans), whole, n)]
    parts, told = [], 0
    for chroms, own, count in asked:
        wanted = window_gc(genome, own)
        told += len(wanted)
        if not len(wanted):
            continue
        free = _candidates(genome, peaks, chroms, count, rng, length, margin)
        if len(free):
            parts.append(free[nearest_gc(free["gc"].to_numpy(), np.resize(rng.permutation(wanted), count), rng)])
    if not told:
        raise GenomeError(
            "No peak lies whole in the genome given, so there is no GC content to match. Check the build."
        )
    if not parts:
        raise GenomeError(f"No window of {length} bases without a peak is in the genome given. Give more sequence.")
    return pd.concat(parts).sort_values(["chrom", "start"]).reset_index(drop=True)


def nearest_gc(gc: NDArray[np.float64], wanted: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of ``gc`` are taken when each of ``wanted``, in random order, takes the nearest one that is left.

    Of several that are equally near a random one is taken: the first would lie at the beginning of a chromosome.
    """
    order = np.lexsort((rng.random(len(gc)), gc))
    values, count = gc[order].tolist(), len(gc)
    # what is left at or above a place, and at or below it; a place is moved by one so that -1 has room
    above, below = list(range(count + 1)), list(range(count + 1))
    drawn = rng.permutation(wanted)[:count]
    firsts, coins = np.searchsorted(gc[order], drawn).tolist(), (rng.random(len(drawn)) < 0.5).tolist()
    taken = np.zeros(count, dtype=bool)
    for value, first, coin in zip(drawn.tolist(), firsts, coins):
        right, left = _left_over(above, first), _left_over(below, first) - 1
        up = values[right] - value if right < count else np.inf
        down = value - values[left] if left >= 0 else np.inf
        place = right if up < down or (up == down and coin) else left
        taken[order[place]] = True
        above[place], below[place + 1] = place + 1, place
    return taken


def _left_over(links: list[int], place: int) -> int:
    """Where the links from a place end; they are shortened on the way."""
    end = place
    while links[end] != end:
        end = links[end]
    while links[place] != end:
        links[place], place = end, links[place]
    return end


def peak_windows(genome: Genome, peaks: pd.DataFrame, length: int) -> pd.DataFrame:
    """Windows of ``length`` around the middle of the peaks that lie whole in the genome."""
    middle = (peaks["start"].to_numpy() + peaks["end"].to_numpy()) // 2
    table = pd.DataFrame({"chrom": peaks["chrom"].to_numpy(), "start": middle - length // 2})
    table["end"] = table["start"] + length
    spans = genome.spans
    bounds = [spans.get(chrom, (0, -1)) for chrom in table["chrom"]]
    low, high = (np.array([bound[side] for bound in bounds], dtype=np.int64) for side in (0, 1))
    return table[(table["start"] >= low) & (table["end"] <= high)].reset_index(drop=True)


def window_codes(genome: Genome, table: pd.DataFrame) -> np.ndarray:
    """Codes ``(n, length)`` of windows of one length."""
    rows = [genome.fetch(chrom, int(start), int(end)) for chrom, start, end in table[["chrom", "start", "end"]].values]
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.uint8)


def window_gc(genome: Genome, table: pd.DataFrame) -> np.ndarray:
    """GC share of windows; those without a known base are left out."""
    shares = gc_share(window_codes(genome, table)) if len(table) else np.zeros(0)
    return shares[np.isfinite(shares)]


def _candidates(
    genome: Genome,
    peaks: pd.DataFrame,
    chroms: list[str],
    n: int,
    rng: np.random.Generator,
    length: int,
    margin: int,
) -> pd.DataFrame:
    """Random windows of some chromosomes that touch neither a peak nor each other."""
    known = genome.spans
    spans = {chrom: known[chrom] for chrom in chroms if known[chrom][1] - known[chrom][0] >= length}
    total = sum(end - start for start, end in spans.values())
    parts = []
    for chrom, (start, end) in spans.items():
        slots = np.arange(start + int(rng.integers(0, length)), end - length + 1, length)
        own = peaks[peaks["chrom"] == chrom]
        left, right = np.sort(own["start"].to_numpy()) - margin, np.sort(own["end"].to_numpy()) + margin
        clear = np.searchsorted(left, slots + length, "left") == np.searchsorted(right, slots, "right")
        slots = slots[clear]
        most = -(-TRIES * n * (end - start) // max(total, 1))
        slots = np.sort(rng.permutation(slots)[:most])
        if len(slots):
            gc, unknown = _contents(genome, chrom, slots, length)
            table = pd.DataFrame({"chrom": chrom, "start": slots, "end": slots + length, "gc": gc})
            parts.append(table[unknown <= MOST_UNKNOWN])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["chrom", "start", "end", "gc"])


def _contents(
    genome: Genome, chrom: str, starts: NDArray[np.int64], length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of G and C, and of unknown bases, of windows in order; near ones are read together."""
    apart = (np.diff(starts) > length + GAP) | (np.diff(starts // READ) > 0)
    gc, unknown = [], []
    for group in np.split(starts, np.flatnonzero(apart) + 1):
        first = int(group[0])
        bases = genome.fetch(chrom, first, int(group[-1]) + length)
        codes = np.lib.stride_tricks.sliding_window_view(bases, length)[group - first]
        gc.append(gc_share(codes))
        unknown.append((codes == UNKNOWN).mean(axis=1))
    return np.concatenate(gc), np.concatenate(unknown)
