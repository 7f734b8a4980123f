"""Readers of genome files: genes (GTF, BED, tables), regions (BED), chromosome sizes, aliases; plain or gzip.

Each reader checks what it reads and names the file and line of the first fault. Chromosomes get one spelling and
coordinates become 0-based half-open (see ``coordinates``).

Leaves out everything but genes in GTF files, everything but the place in BED files, and sequences.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import chromosome_name, genome_order, region_table
from syncyte.genome.genes import strip_version

GENE_COLUMNS = ["gene_id", "symbol", "chrom", "start", "end", "strand", "tss", "biotype"]
_ATTRIBUTE = re.compile(r'(?:^|[;\s])(gene_id|gene_name|gene_type|gene_biotype)[ =]"?([^";]*)')
_TABLE_COLUMNS = {
    "gene_id": ("gene_id", "ensgene", "ensembl", "ensembl_id", "ensembl_gene_id", "gene_ids", "gene stable id"),
    "symbol": ("symbol", "gene_name", "gene_symbol", "external_gene_name", "gene name", "name"),
    "chrom": ("chrom", "chr", "chromosome", "seqnames", "chromosome_name", "chromosome/scaffold name"),
    "start": ("start", "start_position", "gene start (bp)"),
    "end": ("end", "end_position", "gene end (bp)"),
    "strand": ("strand",),
    "biotype": ("biotype", "gene_type", "gene_biotype", "gene type"),
}
_CURRENT = ("ensembl_gene_id", "gene_id", "symbol", "current", "marker symbol")
_OTHER = ("alias", "alias_symbol", "prev_symbol", "previous", "retired", "marker synonyms (pipe-separated)")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Stream of a file's bytes, unpacked where it is gzip whatever its name; faults of the file as GenomeError."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if path.suffix == ".gz" and not packed:
                raise GenomeError(f"{path} is named .gz but is not gzip. Rename it, or fetch it again.")
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw) if packed else raw)
    except FileNotFoundError as error:
        raise GenomeError(f"{path} does not exist. Check the path.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise GenomeError(f"{path} is damaged or cut short ({error}). Fetch or copy it again.") from error
    except OSError as error:
        raise GenomeError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_gtf(path: Path) -> pd.DataFrame:
    """Genes of a GTF file (lines whose feature is ``gene``): columns ``GENE_COLUMNS``, one row per Ensembl id."""
    rows = []
    with opened(path) as stream:
        for number, line in enumerate(stream, 1):
            if b"\tgene\t" not in line or line.startswith(b"#"):
                continue
            field = line.decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
            found = dict(reversed(_ATTRIBUTE.findall(field[8]))) if len(field) == 9 else {}
            if "gene_id" not in found or not (field[3].isdigit() and field[4].isdigit()):
                raise GenomeError(
                    f"{path} line {number} is malformed: {line[:80]!r}. A GTF line has 9 tab-separated columns, whole "
                    'numbers as start and end, and an attribute gene_id "...".'
                )
            if int(field[3]) > int(field[4]):
                raise GenomeError(f"{path} line {number} is reversed: start {field[3]} is after end {field[4]}.")
            biotype = found.get("gene_type", found.get("gene_biotype", ""))
            rows.append((found["gene_id"], found.get("gene_name", ""), field[0], field[3], field[4], field[6], biotype))
    if not rows:
        raise GenomeError(f"{path} has no lines of genes (third column 'gene'). Is it a GTF of a gene annotation?")
    names = ["gene_id", "symbol", "chrom", "start", "end", "strand", "biotype"]
    table = pd.DataFrame(rows, columns=names).astype({"start": np.int64, "end": np.int64})
    table["start"] -= 1
    return _genes(table)


def read_gene_table(path: Path) -> pd.DataFrame:
    """Genes of a table: columns ``GENE_COLUMNS``, one row per gene.

    Either comma- or tab-separated with named columns as Ensembl, BioMart and GTF tables have them (1-based, end
    included), or a BED file (0-based half-open). In BED, the columns after the third are told apart by content:
    Ensembl gene ids, the strand, the symbol (mostly different values) and the biotype (few values). Rows of one width
    are windows around the transcription start, which is then their middle; several rows of a gene (its transcripts)
    become one, with the outermost start.
    """
    text = _text(path)
    first = next((line for line in text.splitlines() if line and not line.startswith("track")), "")
    if re.match(r"\S+\t\d+\t\d+", first) or first.startswith("#"):
        return _genes_of_bed(path, text)
    table = _frame(path, text, header=0, sep="," if first.count(",") > first.count("\t") else "\t")
    lower = {str(name).lower(): name for name in reversed(table.columns)}
    chosen = {
        key: next((lower[name] for name in names if name in lower), None) for key, names in _TABLE_COLUMNS.items()
    }
    missing = [key for key in ("gene_id", "chrom", "start", "end", "strand") if chosen[key] is None]
    if missing:
        raise GenomeError(
            f"{path} has no column for {', '.join(missing)}; it has {', '.join(map(str, table.columns[:12]))}. Name "
            "the columns gene_id, symbol, chrom, start, end, strand, biotype."
        )
    empty = pd.Series("", index=table.index)
    genes = pd.DataFrame({key: empty if name is None else table[name] for key, name in chosen.items()})
    genes["strand"] = genes["strand"].replace({"1": "+", "-1": "-"})
    genes["start"], genes["end"] = _numbers(path, genes["start"], genes["end"], first_line=2)
    genes["start"] -= 1
    return _genes(genes)


def _genes_of_bed(path: Path, text: str) -> pd.DataFrame:
    skip = _header_lines(text)
    table = _frame(path, text, header=None, sep="\t", skiprows=skip).apply(lambda column: column.str.strip())
    start, end = _numbers(path, table[1], table[2], first_line=skip + 1)
    genes = pd.DataFrame({"chrom": table[0], "start": start, "end": end, "symbol": "", "biotype": "", "strand": "+"})
    for name in table.columns[3:]:
        column = table[name]
        if column.str.fullmatch(r"ENS[A-Z]*G\d{11}.*").mean() > 0.5:
            genes["gene_id"] = column
        elif column.isin(["+", "-"]).all():
            genes["strand"] = column
        elif column.str.fullmatch(r"[-+.\d]*|ENS[A-Z]*T\d{11}.*").mean() < 0.5:
            genes["symbol" if column.nunique() > 0.1 * len(column) else "biotype"] = column
    if "gene_id" not in genes:
        raise GenomeError(f"{path} has no column of Ensembl gene ids (ENSG..., ENSMUSG...). Add one, or pass a GTF.")
    width = end - start
    if np.ptp(width) == 0:
        genes["start"] += width // 2
        genes["end"] = genes["start"] + 1
    genes["gene_id"] = genes["gene_id"].map(strip_version)
    grouped = genes.groupby("gene_id", sort=False)
    genes["start"], genes["end"] = grouped["start"].transform("min"), grouped["end"].transform("max")
    return _genes(genes)


def _genes(table: pd.DataFrame) -> pd.DataFrame:
    """Unify ids, chromosomes and starts; of rows with one id the first stays."""
    table = table.assign(gene_id=table["gene_id"].map(strip_version), symbol=table["symbol"].fillna("").astype(str))
    table = table.drop_duplicates("gene_id", ignore_index=True)
    if len(wrong := table[table["start"] > table["end"]]):
        raise GenomeError(f"{len(wrong):,} genes are reversed, first {wrong['gene_id'].iloc[0]}: start is after end.")
    place = region_table(table["chrom"].astype(str), table["start"].to_numpy(), table["end"].to_numpy())
    table = table.assign(**{name: place[name] for name in place})
    table["tss"] = np.where(table["strand"] == "-", table["end"] - 1, table["start"])
    return table[GENE_COLUMNS].sort_values(["chrom", "start", "end", "gene_id"], ignore_index=True)


def read_bed(path: Path, extra: Sequence[int] = ()) -> pd.DataFrame:
    """Regions of a BED file, in the file's order, with the column ``line`` (number in the file).

    ``extra`` are further columns to read as numbers, by position from 0; one the file lacks is left out, and what is no
    number in it (or is -1, which narrowPeak writes for nothing) is missing.
    """
    text = _text(path)
    skip = _header_lines(text)
    lines = text.split("\n", skip + 1)
    first = lines[skip].count("\t") + 1 if extra and len(lines) > skip else 3
    wanted = [0, 1, 2, *(column for column in extra if column < first)]
    table = _frame(path, text, header=None, sep="\t", skiprows=skip, usecols=wanted)
    start, end = _numbers(path, table[1], table[2], first_line=skip + 1)
    if len(wrong := np.flatnonzero(start >= end)):
        raise GenomeError(
            f"{path} line {wrong[0] + skip + 1} is empty or reversed: {start[wrong[0]]} to {end[wrong[0]]} "
            f"({len(wrong):,} such lines). BED intervals are 0-based half-open, start < end."
        )
    regions = region_table(table[0], start, end)
    regions["line"] = np.arange(len(regions)) + skip + 1
    for column in wanted[3:]:
        values = pd.to_numeric(table[column], errors="coerce")
        regions[column] = values.where(values != -1)
    return regions


def read_chrom_sizes(path: Path) -> dict[str, int]:
    """Lengths of chromosomes in genome order, from the first two columns (UCSC ``.chrom.sizes``, ``.fai``)."""
    sizes: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        field = line.split()
        if not field or line.startswith("#"):
            continue
        if len(field) < 2 or not field[1].isdigit() or int(field[1]) == 0:
            raise GenomeError(
                f"{path} line {number} is malformed: {line[:80]!r}. Expected a chromosome and its length."
            )
        name = chromosome_name(field[0])
        if sizes.setdefault(name, int(field[1])) != int(field[1]):
            raise GenomeError(f"{path} line {number} gives {name} a second length. Keep one line for each chromosome.")
    if not sizes:
        raise GenomeError(f"{path} holds no chromosomes. Expected lines of a chromosome and its length.")
    return {name: sizes[name] for name in sorted(sizes, key=genome_order)}


def read_aliases(path: Path) -> pd.DataFrame:
    """Pairs ``alias``, ``current`` (symbol or Ensembl id) of a table.

    Two columns without known names are alias and current name. Known are the tables of HGNC and MGI, where aliases
    and earlier symbols stand in one field with ``|`` between.
    """
    text = _text(path)
    first = text.split("\n", 1)[0]
    sep = "\t" if "\t" in first else ","
    lower = [name.strip().strip('"').lower() for name in first.split(sep)]
    current = [lower.index(name) for name in _CURRENT if name in lower]
    other = [lower.index(name) for name in _OTHER if name in lower] + current[1:]
    named = bool(current and set(other) - set(current))
    table = _frame(path, text, header=0 if named else None, sep=sep).fillna("")
    if not named and table.shape[1] != 2:
        raise GenomeError(
            f"{path} is no alias table: expected two columns, alias and current name, found {first[:80]!r}."
        )
    if not named:
        pairs = table.set_axis(["alias", "current"], axis=1)
    else:
        name = table.iloc[:, current].replace("", np.nan).bfill(axis=1).iloc[:, 0].fillna("")
        parts = [pd.DataFrame({"alias": table.iloc[:, place].str.split("|"), "current": name}) for place in other]
        pairs = pd.concat(parts).explode("alias")
    pairs = pairs.apply(lambda column: column.str.strip())
    useful = (pairs["alias"] != "") & (pairs["current"] != "") & (pairs["alias"] != pairs["current"])
    return pairs[useful].drop_duplicates(ignore_index=True)


def _text(path: Path) -> str:
    with opened(path) as stream:
        return stream.read().decode("utf-8", errors="replace")


def _header_lines(text: str) -> int:
    count = 0
    for line in io.StringIO(text):
        if line.strip() and not line.startswith(("#", "track", "browser")):
            break
        count += 1
    return count


def _frame(path: Path, text: str, **options: Any) -> pd.DataFrame:
    """Table of strings; a missing field is NaN."""
    try:
        return pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, na_values=[], skip_blank_lines=False, **options
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise GenomeError(f"{path} is no table of tab- or comma-separated columns: {error}.") from error


def _numbers(path: Path, start: pd.Series, end: pd.Series, first_line: int) -> tuple[np.ndarray, np.ndarray]:
    """Both columns as whole numbers; the first line where they are not is named."""
    given = [pd.to_numeric(column, errors="coerce").to_numpy(dtype=float) for column in (start, end)]
    bad = ~np.isfinite(given[0]) | ~np.isfinite(given[1]) | (given[0] < 0)
    bad |= (given[0] % 1 != 0) | (given[1] % 1 != 0)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise GenomeError(
            f"{path} line {at + first_line} is malformed: start {start.iloc[at]!r}, end {end.iloc[at]!r}. Expected "
            "chromosome, start and end as tab-separated columns, the last two whole numbers."
        )
    return given[0].astype(np.int64), given[1].astype(np.int64)
