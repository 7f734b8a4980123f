"""A genome of a few bases in a FASTA file, blocked gzip, and the plainest way to change a string."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import to_codes


def genome_of(folder: Path, **sequences: str) -> Genome:
    """A genome of named sequences: ``genome_of(tmp_path, chr1="ACGT")``."""
    path = folder / "genome.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in sequences.items()))
    return Genome.open(path, cache=folder / "cache")


def bgzip(data: bytes) -> bytes:
    """Blocked gzip of 64 kb blocks, by the format's description."""
    out = b""
    for at in [*range(0, len(data), 60_000), len(data)]:
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        piece = data[at : at + 60_000]
        body = packer.compress(piece) + packer.flush()
        size = len(body) + 25
        out += b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", size) + body
        out += struct.pack("<II", zlib.crc32(piece), len(piece))
    return out


class Held:
    """Bases by place, of one string that starts at 0; unknown outside."""

    def __init__(self, text: str) -> None:
        self.text = text

    def fetch(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Codes of a place."""
        return to_codes("".join(self.text[at] if 0 <= at < len(self.text) else "N" for at in range(start, end)))


def put_in(text: str, changes: list[tuple[int, str, str]]) -> str:
    """The whole string with changes made from right to left."""
    for start, ref, alt in sorted(changes, reverse=True):
        assert text[start : start + len(ref)] == ref
        text = text[:start] + alt + text[start + len(ref) :]
    return text
