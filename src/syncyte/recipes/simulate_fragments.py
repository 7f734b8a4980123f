"""Simulated fragment files: what tests, benchmarks and tutorials of fragment counting run on.

Fragments lie at open sites (a share of them, normal around the site) or anywhere. Their lengths are a mixture of
nucleosome-free and mono-nucleosomal ones. Cells have log-normal depths; a further share of fragments comes from many
empty droplets with few fragments each. Read pairs per fragment (column 5) are geometric. The file is position-sorted
and bgzip-compressed, or plain where its name says so.

Leaves out: cell types, sequence bias of the transposase, duplicates.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numba
import numpy as np
from numpy.typing import NDArray

from syncyte.genome.symbols import CHROM_SIZES

BLOCK = 0xFF00  # bytes of text in a bgzip block
_LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)


def simulate_fragments(
    out: str | Path,
    n: int = 100_000,
    seed: int = 0,
    *,
    cells: int = 200,
    chrom_sizes: Mapping[str, int] = CHROM_SIZES,
    sites: Mapping[str, NDArray[np.int64]] | int = 50_000,
    at_sites: float = 0.5,
    empty: float = 0.03,
    suffix: str = "-1",
    level: int = 6,
) -> dict[str, Any]:
    """Write a fragment file. Same arguments, same file.

    Parameters
    ----------
    out
        File to write; ``.gz`` gives bgzip, anything else plain text.
    n, seed
        Fragments, and the seed of everything that is drawn.
    cells
        Barcodes with cells; their mean depth is about ``n / cells``.
    chrom_sizes
        Length in bp of each chromosome.
    sites, at_sites
        Centres of open sites by chromosome (bp), or how many to draw; the share of fragments at them.
    empty, suffix, level
        Share of fragments in barcodes without a cell, about five each; end of every barcode; level of compression.

    Returns
    -------
    dict
        ``barcodes`` of the cells, ``fragments`` of each of them (array), ``empty`` barcodes (number).
    """
    random = np.random.default_rng(seed)
    droplets = int(n * empty / 5)
    names = _barcodes(cells + droplets, random)
    depth = random.lognormal(0, 0.5, cells)
    depth = np.append(depth / depth.sum() * (1 - empty), np.full(droplets, empty / max(droplets, 1)))
    length = np.array(list(chrom_sizes.values()), dtype=np.int64)
    share = random.multinomial(n, length / length.sum())
    made = np.zeros(cells + droplets, dtype=np.int64)
    path = Path(out)
    with path.open("wb") as stream:
        writer = _Blocks(stream, level) if path.suffix == ".gz" else stream
        writer.write(b"# simulated\n")
        for number, (chrom, size) in enumerate(chrom_sizes.items()):
            start, end = _places(random, int(share[number]), size, _sites(sites, chrom, size, length.sum()), at_sites)
            cell = random.choice(len(depth), len(start), p=depth / depth.sum())
            made += np.bincount(cell, minlength=len(made))
            reads = np.minimum(random.geometric(0.6, len(start)), 9)
            for first in range(0, len(start), 1 << 20):
                part = slice(first, first + (1 << 20))
                columns = (start[part], end[part], names, cell[part], suffix.encode(), reads[part])
                writer.write(_lines(chrom.encode(), *columns).tobytes())
        if isinstance(writer, _Blocks):
            writer.finish()
    listed = [row.tobytes().decode() + suffix for row in names[:cells]]
    return {"barcodes": listed, "fragments": made[:cells], "empty": droplets}


def _barcodes(count: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """``(count, 16)`` letters, no two rows equal."""
    drawn = np.unique(random.integers(0, 1 << 32, int(count * 1.1) + 16))
    drawn = random.permutation(drawn)[:count]
    return _LETTERS[(drawn[:, None] >> np.arange(0, 32, 2)) & 3]


def _sites(sites: Mapping[str, NDArray[np.int64]] | int, chrom: str, size: int, genome: int) -> NDArray[np.int64]:
    if not isinstance(sites, int):
        return np.asarray(sites.get(chrom, np.empty(0)), dtype=np.int64)
    random = np.random.default_rng([size, sites])
    return random.integers(0, size, max(1, round(sites * size / genome)))


def _places(
    random: np.random.Generator, n: int, size: int, sites: NDArray[np.int64], at_sites: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of ``n`` fragments of a chromosome, sorted."""
    centre = random.integers(0, size, n)
    open_ = (random.random(n) < at_sites) & (len(sites) > 0)
    if len(sites):
        weight = random.lognormal(0, 1, len(sites))
        chosen = random.choice(sites, int(open_.sum()), p=weight / weight.sum())
        centre[open_] = chosen + random.normal(0, 120, len(chosen)).astype(np.int64)
    mono = random.random(n) < 0.3
    width = np.where(mono, random.normal(200, 20, n), 30 + random.gamma(2.0, 25.0, n)).astype(np.int64)
    width = np.clip(width, 20, min(600, size // 2))
    start = np.clip(centre - width // 2, 0, size - width)
    order = np.lexsort((start + width, start))
    return start[order], (start + width)[order]


@numba.njit(cache=True)
def _number(text: NDArray[np.uint8], at: int, value: int) -> int:
    """Write a whole number; the place after it."""
    size, rest = 1, value // 10
    while rest > 0:
        size, rest = size + 1, rest // 10
    for place in range(at + size - 1, at - 1, -1):
        text[place] = 48 + value % 10
        value //= 10
    return at + size


@numba.njit(cache=True)
def _fill(text, chrom, start, end, names, cell, suffix, reads):
    at = 0
    for row in range(len(start)):
        text[at : at + len(chrom)] = chrom
        at += len(chrom)
        text[at] = 9
        at = _number(text, at + 1, start[row])
        text[at] = 9
        at = _number(text, at + 1, end[row])
        text[at] = 9
        at += 1
        for letter in names[cell[row]]:
            text[at] = letter
            at += 1
        text[at : at + len(suffix)] = suffix
        at += len(suffix)
        text[at] = 9
        at = _number(text, at + 1, reads[row])
        text[at] = 10
        at += 1
    return at


def _lines(chrom: bytes, start, end, names, cell, suffix: bytes, reads) -> NDArray[np.uint8]:
    """Text of fragments."""
    text = np.empty(len(start) * (len(chrom) + len(suffix) + names.shape[1] + 45), dtype=np.uint8)
    spelled = [np.frombuffer(word, dtype=np.uint8) for word in (chrom, suffix)]
    return text[: _fill(text, spelled[0], start, end, names, cell, spelled[1], reads)]


class _Blocks:
    """Text into blocks of bgzip: gzip members of bounded size that say how long they are."""

    def __init__(self, stream: IO[bytes], level: int) -> None:
        self._stream, self._level, self._rest = stream, level, b""

    def write(self, text: bytes) -> None:
        """Take text; whole blocks go out."""
        text = self._rest + text
        whole = len(text) - len(text) % BLOCK
        for first in range(0, whole, BLOCK):
            self._block(text[first : first + BLOCK])
        self._rest = text[whole:]

    def finish(self) -> None:
        """Write what is left, and the empty block that ends a file."""
        if self._rest:
            self._block(self._rest)
        self._block(b"")

    def _block(self, text: bytes) -> None:
        packer = zlib.compressobj(self._level, zlib.DEFLATED, -15)
        body = packer.compress(text) + packer.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff\x06\x00BC\x02\x00" + struct.pack("<H", len(body) + 25)
        self._stream.write(head + body + struct.pack("<II", zlib.crc32(text), len(text)))
