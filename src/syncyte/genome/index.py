"""The index of a region set: sorted disjoint starts and ends with the offsets of chromosomes, mapped from disk.

::

    index = reference.index                  # nothing is parsed; starts and ends are mapped from the file
    index.chroms, index.offset               # regions of chromosome c: offset[c] to offset[c + 1]
    index.start, index.end                   # (r,) int32, 0-based half-open, ascending within a chromosome
    low, high = index.touching(code, start, end)

Leaves out how counts move by it (``overlap``), and what the regions are called in files (``coordinates``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import chromosome_name, interval_keys


@dataclass(frozen=True, eq=False)
class RegionIndex:
    """Disjoint regions in genome order.

    Attributes
    ----------
    chroms
        Chromosomes, in the order of the regions.
    offset
        ``(chroms + 1,)`` int64: row of each chromosome's first region, and the number of regions.
    start, end
        ``(r,)`` int32 in bp, read-only.
    """

    chroms: tuple[str, ...]
    offset: NDArray[np.int64]
    start: NDArray[np.int32]
    end: NDArray[np.int32]

    @classmethod
    def of(cls, table: pd.DataFrame) -> RegionIndex:
        """Index of a table of regions.

        Raises
        ------
        GenomeError
            If the regions overlap or are not in genome order.
        """
        left, right = interval_keys(table)
        if np.any(left[1:] < right[:-1]):
            raise GenomeError(
                "Target regions overlap or are not in genome order; pass them through merge_overlaps first."
            )
        chroms = tuple(map(str, table["chrom"].cat.categories))
        start, end = (np.array(table[key], dtype=np.int32) for key in ("start", "end"))
        return cls(chroms, _offsets(table["chrom"].cat.codes.to_numpy(), len(chroms)), _locked(start), _locked(end))

    @classmethod
    def load(cls, path: Path, chroms: Iterable[str]) -> RegionIndex:
        """Index over a file written by ``save_regions``; only the chromosome codes are read."""
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        names = tuple(chroms)
        start, end = (_locked(np.ascontiguousarray(np.asarray(rows[:, column]))) for column in (1, 2))
        return cls(names, np.searchsorted(rows[:, 0], np.arange(len(names) + 1)).astype(np.int64), start, end)

    def __len__(self) -> int:
        return len(self.start)

    def codes(self, names: Iterable[object]) -> NDArray[np.int64]:
        """``(k,)`` number of each chromosome in this index whatever its spelling (``1``, ``chr1``), -1 for unknown."""
        place = {name: code for code, name in enumerate(self.chroms)}
        return np.fromiter((place.get(chromosome_name(str(name)), -1) for name in names), dtype=np.int64)

    def code_of(self, table: pd.DataFrame) -> NDArray[np.int64]:
        """``(f,)`` number in this index of the chromosome of each row of a table, -1 for unknown."""
        return np.append(self.codes(table["chrom"].cat.categories), -1)[table["chrom"].cat.codes]

    def touching(
        self, code: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows ``low`` to ``high`` (excluded) of the regions that share a base with each interval; equal where none.

        Parameters
        ----------
        code
            ``(f,)`` chromosome of each interval (``codes``), -1 for none.
        start, end
            ``(f,)`` in bp, 0-based half-open, in any order; genome order is fastest.
        """
        from syncyte.genome.search import touch

        low, high = np.empty(len(code), dtype=np.int64), np.empty(len(code), dtype=np.int64)
        places = [np.ascontiguousarray(values, dtype=np.int64) for values in (code, start, end)]
        key = (places[0] << 32) + places[1]
        if np.all(key[1:] >= key[:-1]):
            touch(*places, self.offset, self.start, self.end, low, high)
            return low, high
        order = np.argsort(key)
        found = self.touching(*(values[order] for values in places))
        low[order], high[order] = found
        return low, high

    def chrom_codes(self) -> NDArray[np.int64]:
        """``(r,)`` chromosome of each region."""
        return np.repeat(np.arange(len(self.chroms)), np.diff(self.offset))

    def table(self, rows: NDArray[np.int64] | slice = slice(None)) -> pd.DataFrame:
        """Table of the regions, or of some rows."""
        chrom = pd.Categorical.from_codes(self.chrom_codes()[rows], categories=list(self.chroms))
        return pd.DataFrame(
            {"chrom": chrom, "start": self.start[rows].astype(np.int64), "end": self.end[rows].astype(np.int64)}
        )

    def names(self, rows: NDArray[np.int64] | slice = slice(None)) -> pd.Index:
        """Names ``chr1:100-200`` of the regions, or of some rows."""
        chroms = np.array(self.chroms, dtype=object)[self.chrom_codes()[rows]]
        places = zip(chroms.tolist(), self.start[rows].tolist(), self.end[rows].tolist())
        return pd.Index([f"{chrom}:{start}-{end}" for chrom, start, end in places], dtype=object)


def save_regions(path: Path, table: pd.DataFrame) -> None:
    """Write regions as ``(r, 3)`` int32 (chromosome code, start, end), column after column, so that each maps whole."""
    columns = [table["chrom"].cat.codes, table["start"], table["end"]]
    np.save(path, np.asfortranarray(np.column_stack(columns).astype(np.int32)), allow_pickle=False)


def _offsets(codes: NDArray, chroms: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=chroms))]).astype(np.int64)


def _locked(values: NDArray) -> NDArray:
    values.flags.writeable = False
    return values
