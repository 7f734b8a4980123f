"""A genome, or slices of one, in FASTA files: fetched by place, in genome coordinates, 0-based half-open.

Files may be plain or packed (gzip, bgzip). A plain file is indexed once; a packed one is unpacked once into a folder of
the cache named by its content, because an index cannot reach into plain gzip. A bgzip file with its indexes ``.fai``
and ``.gzi`` beside it is read where it lies if Biopython is there. Chromosomes up to 16 million bases are held in
memory from their first use, longer ones are read piece by piece.

A slice knows where it starts: by its header (``>chr22:32000000-32300000``, 0-based, or ``>chr22:32000001-32300000``,
1-based; its length tells which), or by ``offset``.

Leaves out making FASTA files, and assemblies with several slices of one chromosome.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from syncyte.atomic import atomic_file
from syncyte.errors import GenomeError, unknown
from syncyte.genome.coordinates import chromosome_name, genome_order
from syncyte.genome.sequence import UNKNOWN, content_hash, to_codes
from syncyte.genome.tables import opened

HELD = 16_000_000  # bases of a chromosome that is kept in memory
_SAMPLES, _SAMPLE = 256, 4096  # of a longer one: pieces that its fingerprint reads, and their length
_PLACE = re.compile(r"(.+):([\d,]+)-([\d,]+)(?:\(\+\))?")
_BGZIP = b"\x1f\x8b\x08\x04"
_LAST = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

Paths = str | os.PathLike[str]


@dataclass(frozen=True)
class Part:
    """One sequence of a file: its name there, and the place on its chromosome that it covers."""

    path: Path
    index: Path
    name: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Genome:
    """Sequences by chromosome; open one with ``Genome.open``.

    Attributes
    ----------
    parts
        By chromosome, in genome order.
    """

    parts: Mapping[str, Part]
    _held: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    _readers: dict[Path, tuple[int, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls,
        path: Paths | Sequence[Paths],
        *,
        offset: int | Mapping[str, int] | None = None,
        cache: Paths | None = None,
    ) -> Genome:
        """Open one FASTA file or several that hold different chromosomes.

        Parameters
        ----------
        path
            File or files; plain, gzip or bgzip.
        offset
            0-based start of the slice in a file of one sequence; for several files by name (``chr22.fa.gz``) or path.
        cache
            Folder for indexes and unpacked files, instead of the user's cache.

        Raises
        ------
        GenomeError
            If a file is missing, damaged or no FASTA, a chromosome comes twice, or an offset does not fit.
        """
        files = [Path(item).expanduser() for item in ([path] if isinstance(path, str | os.PathLike) else path)]
        if not files:
            raise GenomeError("No FASTA file was given. Name at least one.")
        folder = _cache_folder() if cache is None else Path(cache).expanduser()
        parts: dict[str, Part] = {}
        for file, begin in zip(files, _offsets(files, offset)):
            for chrom, part in _parts(file, begin, folder).items():
                if chrom in parts:
                    raise GenomeError(
                        f"{chrom} comes twice, from {parts[chrom].name!r} of {parts[chrom].path.name} and from "
                        f"{part.name!r} of {file}. Keep one sequence for each chromosome."
                    )
                parts[chrom] = part
        return cls({chrom: parts[chrom] for chrom in sorted(parts, key=genome_order)})

    def __getstate__(self) -> dict[str, Any]:
        """State for another process: which files, not what is open or held."""
        return {"parts": self.parts, "_held": {}, "_readers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """Start and end of what is covered, by chromosome."""
        return {chrom: (part.start, part.end) for chrom, part in self.parts.items()}

    def covers(self, chrom: str, start: int, end: int) -> bool:
        """Whether all bases from ``start`` to ``end`` are in the files."""
        part = self._find(chrom)
        return part is not None and part.start <= start <= end <= part.end

    def fetch(self, chrom: str, start: int, end: int) -> np.ndarray:
        """Codes ``(end - start,)`` of a place; unknown bases where the files do not reach, below 0 too.

        Raises
        ------
        GenomeError
            If no sequence of the chromosome is in the files, or ``end`` is before ``start``.
        """
        part = self._find(chrom)
        if part is None:
            raise GenomeError(f"{unknown('chromosome', chrom, self.parts)} The FASTA has no sequence of it.")
        if end < start:
            raise GenomeError(f"{chrom}:{start}-{end} is reversed. Places are 0-based half-open, start before end.")
        low, high = max(start, part.start), min(end, part.end)
        if low == start < end == high:
            return self._read(part, low, high)
        codes = np.full(end - start, UNKNOWN, dtype=np.uint8)
        if low < high:
            codes[low - start : high - start] = self._read(part, low, high)
        return codes

    @cached_property
    def fingerprint(self) -> str:
        """Hash over names, spans and bases; of chromosomes above 16 million bases, over pieces spread along them."""
        digest = hashlib.blake2b(digest_size=16)
        for chrom, part in self.parts.items():
            length = part.end - part.start
            if length <= HELD:
                held = self._held.get(part.name)  # what is not held yet need not be: there may be thousands of contigs
                told = content_hash(self._decoded(part, 0, length) if held is None else held)
            else:
                begins = np.linspace(part.start, part.end - _SAMPLE, _SAMPLES).astype(np.int64).tolist()
                told = content_hash(np.stack([self._read(part, at, at + _SAMPLE) for at in begins]))
            digest.update(f"{chrom}:{part.start}-{part.end}={told};".encode())
        return digest.hexdigest()

    def _find(self, chrom: str) -> Part | None:
        return self.parts.get(chrom) or self.parts.get(chromosome_name(chrom))

    def _read(self, part: Part, low: int, high: int) -> np.ndarray:
        """Bases of a part, by places on the chromosome that lie inside it; a copy."""
        low, high = low - part.start, high - part.start
        length = part.end - part.start
        if length > HELD:
            return self._decoded(part, low, high)
        held = self._held.get(part.name)
        if held is None:
            held = self._held[part.name] = self._decoded(part, 0, length)
        return held[low:high].copy()

    def _decoded(self, part: Part, low: int, high: int) -> np.ndarray:
        process, reader = self._readers.get(part.path, (-1, None))
        if process != os.getpid():  # a forked process must not share the place in an open file
            reader = _reader(part.path, part.index)
            self._readers[part.path] = (os.getpid(), reader)
        text = str(reader[part.name][low:high]) if low < high else ""
        try:
            codes = to_codes(text)
        except GenomeError as error:
            raise GenomeError(f"{part.path}, sequence {part.name!r}: {error}") from error
        if len(codes) != high - low:
            raise GenomeError(
                f"{part.path}, sequence {part.name!r} has {len(codes):,} bases where its index promises "
                f"{high - low:,}. The file was changed after it was indexed: delete {part.index}."
            )
        return codes


def check_end(path: Path) -> None:
    """Refuse bgzip without its last, empty block: a file cut between two blocks unpacks without a fault."""
    with path.open("rb") as raw:
        head = raw.read(14)
        if head[:4] != _BGZIP or head[12:] != b"BC":
            return
        raw.seek(-min(len(_LAST), path.stat().st_size), 2)
        if raw.read() != _LAST:
            raise GenomeError(
                f"{path} is cut short: the block that ends a bgzip file is missing. Fetch or copy it again, or pack it "
                "again if it is whole."
            )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "syncyte" / "genomes"


def _offsets(files: list[Path], offset: int | Mapping[str, int] | None) -> list[int | None]:
    """Offset of each file, or None; one number is for one file, names must be those of files."""
    if offset is None or not isinstance(offset, Mapping):
        if offset is not None and len(files) > 1:
            raise GenomeError(
                f"One offset ({offset:,}) was given for {len(files)} files. Name the file of each: "
                f"{{'{files[0].name}': {offset}}}."
            )
        return [offset] * len(files)
    given = dict(offset)
    found = [given.pop(file.name, given.pop(str(file), None)) for file in files]
    if given:
        raise GenomeError(unknown("file with an offset", str(next(iter(given))), [file.name for file in files]))
    return found


def _parts(file: Path, offset: int | None, cache: Path) -> dict[str, Part]:
    """Sequences of a file by chromosome."""
    path, index = _indexed(file, cache)
    sizes = {str(name): int(line.rlen) for name, line in _reader(path, index, named=file).faidx.index.items()}
    if not sizes:
        raise GenomeError(f"{file} holds no sequences. Expected FASTA: lines '>name', then bases.")
    if offset is not None and (len(sizes) > 1 or offset < 0):
        raise GenomeError(
            f"{file} holds {len(sizes)} sequences and the offset is {offset:,}. An offset is for a file of one "
            "sequence and at least 0; several slices carry theirs in the headers, as >chr22:32000000-32300000."
        )
    parts: dict[str, Part] = {}
    for name, length in sizes.items():
        chrom, start = _placed(file, name, length, offset)
        if chrom in parts:
            raise GenomeError(
                f"{file} holds {chrom} twice, as {parts[chrom].name!r} and {name!r}. Keep one sequence for each "
                "chromosome."
            )
        parts[chrom] = Part(path, index, name, start, start + length)
    return parts


def _placed(file: Path, name: str, length: int, offset: int | None) -> tuple[str, int]:
    """Chromosome and start of a sequence, from its header or the offset given."""
    match = _PLACE.fullmatch(name)
    if match is None:
        return chromosome_name(name), offset or 0
    first, last = (int(match[group].replace(",", "")) for group in (2, 3))
    if last - first == length:
        start = first
    elif last - first + 1 == length and first > 0:
        start = first - 1
    else:
        raise GenomeError(
            f"{file}: the header {name!r} says {last - first:,} bases, the sequence has {length:,}. Write its start "
            "and end, 0-based half-open, or rename it and give its offset."
        )
    if offset is not None and offset != start:
        raise GenomeError(
            f"{file}: the header {name!r} says that it starts at {start:,}, the offset given is {offset:,}. Leave one "
            "out."
        )
    return chromosome_name(match[1]), start


def _indexed(file: Path, cache: Path) -> tuple[Path, Path]:
    """A file that pyfaidx reads by place, and its index: the file itself or an unpacked copy."""
    packed = _check_start(file)
    check_end(file)
    beside = file.with_name(file.name + ".fai")
    fresh = beside.is_file() and beside.stat().st_mtime >= file.stat().st_mtime
    if fresh and (not packed or _is_blocked(file)):
        return file, beside
    path = file
    if packed:
        path = cache / f"{_hash_of(file)}.fa"
        if not path.is_file():
            _unpack(file, path)
    state = path.stat()
    told = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}".encode()
    index = cache / f"{hashlib.blake2b(told, digest_size=16).hexdigest()}.fai"
    if not index.is_file():
        with atomic_file(index) as tmp:
            _reader(path, tmp, named=file)
    return path, index


def _check_start(file: Path) -> bool:
    """Whether a file is packed; refuse what does not begin as FASTA does."""
    with opened(file) as stream:
        head = stream.read(4096).lstrip()
    if head[:1] != b">":
        what = "is empty" if not head else f"begins with {head[:20].decode('utf-8', 'replace')!r}"
        raise GenomeError(f"{file} is no FASTA: it {what}. Expected a line '>name', then lines of bases.")
    with file.open("rb") as raw:
        return raw.read(2) == _BGZIP[:2]


def _is_blocked(file: Path) -> bool:
    """Whether a packed file is bgzip that pyfaidx can read by place: with its second index, and with Biopython."""
    with file.open("rb") as raw:
        blocked = raw.read(4) == _BGZIP and file.suffix.lower() in (".gz", ".bgz")
    return blocked and file.with_name(file.name + ".gzi").is_file() and importlib.util.find_spec("Bio") is not None


def _hash_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _unpack(file: Path, path: Path) -> None:
    with opened(file) as stream, atomic_file(path) as tmp, tmp.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)


def _reader(path: Path, index: Path, named: Path | None = None) -> Any:
    """Open a file through its index, which is made where it is missing."""
    import pyfaidx

    try:
        with warnings.catch_warnings():  # an index named by the state of its file is right, whatever the clocks say
            warnings.simplefilter("ignore", RuntimeWarning)
            return pyfaidx.Fasta(str(path), indexname=str(index), as_raw=True, rebuild=False)
    except (pyfaidx.FastaIndexingError, ValueError, KeyError, IndexError) as error:
        reason = str(error).strip().rstrip(".")
        raise GenomeError(
            f"{named or path} cannot be indexed: {reason}. Expected sequences of different names, all lines of one "
            "sequence equally long but the last."
        ) from error
    except OSError as error:
        raise GenomeError(f"{named or path} cannot be read: {error}.") from error
