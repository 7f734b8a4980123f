"""Places that are no peaks and have the GC content of peaks: what an encoder must tell from them by more than GC.

Leaves out models and scores.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError
from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import UNKNOWN, gc_share

BINS = 20  # of GC content
MOST_UNKNOWN = 0.1  # share of unknown bases of a window
TRIES = 60  # candidates for each window that is wanted


def matched_negatives(
    genome: Genome, peaks: pd.DataFrame, n: int, seed: int, *, length: int = 600, margin: int = 200
) -> pd.DataFrame:
    """Windows without a peak, as many in each bin of GC content as peaks have there.

    Parameters
    ----------
    genome
        Where they are cut from.
    peaks
        ``chrom``, ``start``, ``end`` of all peaks, those outside of the genome too.
    n
        How many.
    seed
        Of the draw.
    length
        Bases of a window; peaks are looked at in windows of the same length around their middle.
    margin
        Bases that must lie between a window and a peak.

    Returns
    -------
    pandas.DataFrame
        ``chrom``, ``start``, ``end``, ``gc``, at most ``n`` rows by place: bins without enough windows are filled
        from the nearest ones.

    Raises
    ------
    GenomeError
        If no peak or no window without one lies in the genome.
    """
    rng = np.random.default_rng(seed)
    wanted = window_gc(genome, peak_windows(genome, peaks, length))
    if not len(wanted):
        raise GenomeError(
            "No peak lies whole in the genome given, so there is no GC content to match. Check the build."
        )
    free = _candidates(genome, peaks, n, rng, length, margin)
    if free.empty:
        raise GenomeError(f"No window of {length} bases without a peak is in the genome given. Give more sequence.")
    edges = np.quantile(wanted, np.linspace(0, 1, BINS + 1)[1:-1])
    place, gc = np.searchsorted(edges, free["gc"].to_numpy()), free["gc"].to_numpy()
    taken = np.zeros(len(free), dtype=bool)
    for target in rng.permutation(np.resize(rng.permutation(wanted), n)):
        same = np.flatnonzero(~taken & (place == np.searchsorted(edges, target)))
        if not len(same):
            same = np.flatnonzero(~taken)
        if not len(same):
            break
        taken[same[np.abs(gc[same] - target).argmin()]] = True
    return free[taken].sort_values(["chrom", "start"]).reset_index(drop=True)


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
    genome: Genome, peaks: pd.DataFrame, n: int, rng: np.random.Generator, length: int, margin: int
) -> pd.DataFrame:
    """Random windows that touch neither a peak nor each other."""
    spans = {chrom: (start, end) for chrom, (start, end) in genome.spans.items() if end - start >= length}
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
        table = pd.DataFrame({"chrom": chrom, "start": slots, "end": slots + length})
        codes = window_codes(genome, table)
        if len(codes):
            good = (codes == UNKNOWN).mean(axis=1) <= MOST_UNKNOWN
            parts.append(table[good].assign(gc=gc_share(codes[good])))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["chrom", "start", "end", "gc"])
