"""Variants from files: VCF plain or gzip, BCF, and tables with the columns chrom, pos, ref, alt.

VCF is read by an own reader, which keeps places, alleles and genotypes (GT, and PS for phase sets). BCF needs one of
two optional packages, cyvcf2 or pysam; they give lines of VCF, which the same reader takes. ``##fileformat`` without a
line ``#CHROM`` is enough for a file without samples.

Leaves out every other column, and looking up by place: files are read from their beginning to their end.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from syncyte.errors import GenomeError, MissingExtraError, unknown
from syncyte.genome.fasta import Genome, check_end
from syncyte.genome.tables import opened
from syncyte.genome.variants import ABSENT, MISSING, Records, Variants, make_variants

_PLACE = re.compile(r"-?[0-9]{1,15}")  # one before the first base is refused later, by itself
READERS = ("own", "cyvcf2", "pysam")
_TABLE = {
    "chrom": ("chrom", "chr", "chromosome", "#chrom", "#chr"),
    "pos": ("pos", "position", "bp"),
    "ref": ("ref", "reference", "ref_allele"),
    "alt": ("alt", "alternate", "alt_allele"),
    "id": ("id", "variant", "variant_id", "rsid", "name"),
}


def read_variants(
    path: str | Path,
    genome: Genome | None = None,
    *,
    samples: Sequence[str] | None = None,
    reader: str | None = None,
) -> Variants:
    """Read the variants of a file, one row for each alternate allele.

    Parameters
    ----------
    path
        ``.vcf``, ``.vcf.gz``, ``.bcf``, or a table (tab or comma) with chrom, pos (1-based), ref, alt and perhaps id;
        told apart by content.
    genome
        Checks reference alleles and left-aligns; without it neither is done, which the notes say.
    samples
        Names of the samples whose genotypes are kept; all by default.
    reader
        ``own``, ``cyvcf2`` or ``pysam``; by default the own one, and for BCF the first of the others that is installed.

    Returns
    -------
    Variants
        Rows that cannot be scored are refused, each with its reason (``Variants.counts``).

    Raises
    ------
    GenomeError
        If the file is missing, cut, binary, empty or malformed, with the line; or a sample is not in it.
    MissingExtraError
        If the file is BCF and no package reads it.
    """
    path = Path(path).expanduser()
    kind = _kind_of(path)
    if reader is not None and reader not in READERS:
        raise GenomeError(unknown("reader of variants", reader, READERS))
    if kind == "table":
        return make_variants(_read_table(path), genome)
    if kind == "bcf" or reader in ("cyvcf2", "pysam"):
        return make_variants(_read_lines(path, _foreign_lines(path, reader, kind), samples), genome)
    with _own_lines(path) as lines:
        return make_variants(_read_lines(path, lines, samples), genome)


def _kind_of(path: Path) -> str:
    """``vcf``, ``bcf`` or ``table``; other files are refused."""
    with opened(path) as stream:
        head = stream.read(1 << 16)
    check_end(path)
    if head.startswith(b"BCF\x02"):
        return "bcf"
    if not head.strip():
        raise GenomeError(f"{path} is empty. Expected variants: VCF, or a table with columns chrom, pos, ref, alt.")
    if b"\0" in head:
        raise GenomeError(f"{path} is binary, and neither gzip nor BCF. Expected variants as text: VCF or a table.")
    first = head.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    if first.startswith("##") or first.upper().startswith("#CHROM\tPOS\tID\tREF\tALT"):
        return "vcf"
    names = [name.strip().strip('"').lower() for name in first.replace("\t", ",").split(",")]
    if all(set(names) & set(_TABLE[key]) for key in ("chrom", "pos", "ref", "alt")):
        return "table"
    raise GenomeError(
        f"{path} line 1 is no header: {first[:80]!r}. A VCF begins with ##fileformat=VCFv4.x; a table names its "
        "columns chrom, pos, ref, alt in its first line, with tabs or commas between."
    )


@contextmanager
def _own_lines(path: Path) -> Iterator[Iterator[tuple[int, str]]]:
    with opened(path) as stream:
        yield ((number, line.decode("utf-8", "replace")) for number, line in enumerate(stream, 1))


def _foreign_lines(path: Path, reader: str | None, kind: str) -> Iterator[tuple[int, str]]:
    """Lines of VCF from cyvcf2 or pysam; a record is numbered from 1."""
    known = [name for name in ("cyvcf2", "pysam") if importlib.util.find_spec(name) is not None]
    name = (known or ["cyvcf2"])[0] if reader in (None, "own") else str(reader)
    if name not in known:
        raise MissingExtraError(name, "vcf", f"Reading {path.name} ({kind.upper()})")
    source = _cyvcf2(path) if name == "cyvcf2" else _pysam(path)
    while True:
        try:
            line = next(source, None)
        except Exception as error:  # cyvcf2 raises a bare Exception
            raise GenomeError(
                f"{path} cannot be read by {name}: {error}. Is it a whole {kind.upper()} file?"
            ) from error
        if line is None:
            return
        yield line


def _cyvcf2(path: Path) -> Iterator[tuple[int, str]]:
    import cyvcf2

    file = cyvcf2.VCF(str(path))
    yield from ((0, line) for line in file.raw_header.splitlines() if line)
    yield from ((number, str(record)) for number, record in enumerate(file, 1))


def _pysam(path: Path) -> Iterator[tuple[int, str]]:
    import pysam

    with pysam.VariantFile(str(path)) as file:
        yield from ((0, line) for line in str(file.header).splitlines() if line)
        yield from ((number, str(record)) for number, record in enumerate(file, 1))


def _read_lines(path: Path, lines: Iterator[tuple[int, str]], wanted: Sequence[str] | None) -> Records:
    """Records of lines of VCF."""
    records = Records()
    columns: list[int] = []
    width, named, calls = 0, False, _Calls(records)
    for number, text in lines:
        if text.startswith("##"):
            continue
        field = text.rstrip("\r\n").split("\t")
        if text.startswith("#"):
            columns, width, named = _header(path, number, field, records, wanted), len(field), True
            continue
        if not text.strip():
            continue
        if not width:
            width = len(field)
            if width > 8:
                raise GenomeError(
                    f"{path} line {number} has {width} columns and no header names them. Put back the line that begins "
                    "with #CHROM, which names the samples."
                )
        if len(field) != width or width < 5:
            raise GenomeError(
                f"{path} line {number} has {len(field)} columns, expected {width if width >= 5 else 'at least 5'}: "
                f"{text[:80]!r}. Columns of VCF have one tab between them; is the file cut short?"
            )
        _add(path, number, field, records)
        if columns:
            calls.add(path, number, field[8], [field[column] for column in columns])
    if not records.line and not named:
        raise GenomeError(f"{path} holds no variants, and no line #CHROM. Is the file cut short?")
    records.alleles, records.ordered = calls.alleles, calls.ordered
    return records


def _header(path: Path, number: int, field: list[str], records: Records, wanted: Sequence[str] | None) -> list[int]:
    """Columns of the samples that are kept; their names go into the records."""
    if [name.upper() for name in field[:5]] != ["#CHROM", "POS", "ID", "REF", "ALT"]:
        raise GenomeError(
            f"{path} line {number} is no header of VCF: {chr(9).join(field)[:80]!r}. Expected #CHROM, POS, ID, REF, "
            "ALT, QUAL, FILTER, INFO with tabs between."
        )
    found = field[9:]
    if len(set(found)) < len(found):
        raise GenomeError(f"{path} line {number} names a sample twice. Rename one of them.")
    if wanted is not None:
        missing = [name for name in wanted if name not in found]
        if missing:
            raise GenomeError(f"{path}: {unknown('sample', missing[0], found)}")
    records.samples = tuple(found if wanted is None else wanted)
    return [9 + found.index(name) for name in records.samples]


def _add(path: Path, number: int, field: list[str], records: Records) -> None:
    chrom, pos, name, ref, alt = field[:5]
    if not (chrom and _PLACE.fullmatch(pos) and ref and alt):
        raise GenomeError(
            f"{path} line {number} is malformed: chromosome {chrom!r}, position {pos!r}, alleles {ref[:20]!r} and "
            f"{alt[:20]!r}. Expected a name, a whole number and two alleles."
        )
    if "<" in alt and len(field) > 7:
        records.info[len(records.line)] = field[7]
    records.add(number, chrom, int(pos), name, ref, alt)


class _Calls:
    """Genotypes of lines as numbers of distinct calls, so that each text is taken apart once."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.known: dict[str, int] = {}
        self.alleles: list[tuple[int, int]] = []
        self.ordered: list[bool] = []
        self.some_sets = False

    def add(self, path: Path, number: int, names: str, given: list[str]) -> None:
        """Take in the calls of one line: the names of their fields and a text for each sample."""
        keys = names.split(":")
        width = len(given)
        if "GT" not in keys:
            texts = ["."] * width
        elif len(keys) == 1:
            texts = given
        else:
            place = keys.index("GT")
            parts = [text.split(":") for text in given]
            texts = [part[place] if place < len(part) else "." for part in parts]
        row = [self._number(path, number, text) for text in texts]
        self.records.calls.append(np.array(row, dtype=np.int32))
        self.records.sets.append(_sets(keys, given))

    def _number(self, path: Path, line: int, text: str) -> int:
        found = self.known.get(text)
        if found is not None:
            return found
        bare = text.lstrip("|/")
        part = bare.replace("|", "/").split("/")
        if not all(item == "." or (item.isascii() and item.isdigit()) for item in part):
            raise GenomeError(f"{path} line {line} has the genotype {text!r}. Expected such as 0/1, 0|1, 1 or ./.")
        number = [MISSING if item == "." else min(int(item), 127) for item in part]
        if len(number) == 1:
            number.append(ABSENT if number[0] != MISSING else MISSING)
        if len(number) > 2:
            number = [MISSING, MISSING]
            note = "Genotypes with more than two copies are taken as not called."
            if note not in self.records.notes:
                self.records.notes.append(note)
        self.alleles.append((number[0], number[1]))
        self.ordered.append("|" in bare or len(part) == 1 or number[0] == number[1])
        self.known[text] = len(self.known)
        return self.known[text]


def _sets(keys: list[str], given: list[str]) -> np.ndarray:
    """Phase sets of the calls of a line, 0 where none is named."""
    sets = np.zeros(len(given), dtype=np.int64)
    if "PS" in keys:
        place = keys.index("PS")
        for column, text in enumerate(given):
            part = text.split(":")
            if place < len(part) and part[place].isascii() and part[place].isdigit():
                sets[column] = int(part[place])
    return sets


def _read_table(path: Path) -> Records:
    """Records of a table with named columns."""
    records = Records()
    chosen: dict[str, int] = {}
    sep, width = "\t", 0
    with _own_lines(path) as lines:
        for number, text in lines:
            bare = text.lstrip("\ufeff").rstrip("\r\n")
            if not bare.strip():
                continue
            if not chosen:
                sep = "\t" if "\t" in bare else ","
                names = [name.strip().strip('"').lower() for name in bare.split(sep)]
                chosen = {
                    key: names.index(name) for key, like in _TABLE.items() for name in like[::-1] if name in names
                }
                width = len(names)
                continue
            field = [item.strip().strip('"') for item in bare.split(sep)]
            if len(field) != width:
                raise GenomeError(
                    f"{path} line {number} has {len(field)} columns, the header {width}: {bare[:80]!r}. Give every "
                    "line the same columns."
                )
            name = field[chosen["id"]] if "id" in chosen else "."
            row: list[Any] = [
                field[chosen["chrom"]],
                field[chosen["pos"]],
                name,
                field[chosen["ref"]],
                field[chosen["alt"]],
            ]
            _add(path, number, row, records)
    if not records.line:
        raise GenomeError(f"{path} holds no variants, only a header. Give one line for each.")
    return records
