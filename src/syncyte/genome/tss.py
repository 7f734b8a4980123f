"""Transcription starts, several a gene where a file has them, and the windows of sequence around them.

A start is the position of one base, 0-based. From files it is read so:

- GTF: first base of each ``transcript`` in its own direction (of each ``gene`` where there are no transcripts).
- BED: the middle base of the interval. An even width has two middle bases; the downstream one is the start, which is
  where tools that write ``TSS +- 250`` have it on both strands. An interval of no width (``11869 11869``) is a 1-based
  position written twice. Where widths differ and some are above 5 kb, or one line alone is, they are whole genes, read
  by their first base. A first line of names (``chrom``, ``start``, ``end``, ...) is passed over.
- Tables: a column ``tss`` is 0-based, as syncyte writes it; BioMart's own column and ``start`` and ``end`` are 1-based,
  end included.

In a window of ``length`` bases the start stands at place ``length // 2``, counted in the gene's direction.

Leaves out choosing among the starts of a gene, and gene models beyond their starts (``tables``).
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError
from syncyte.genome.coordinates import region_table
from syncyte.genome.fasta import Genome
from syncyte.genome.genes import strip_version
from syncyte.genome.sequence import reverse_complement
from syncyte.genome.tables import opened

TSS_COLUMNS = ["gene_id", "symbol", "chrom", "tss", "strand", "tss_id"]
_WIDE = 5000  # bp; with wider intervals, of different widths, a file lists genes
_ATTRIBUTE = re.compile(r'(?:^|[;\s])(gene_id|gene_name|transcript_id)[ =]"?([^";]*)')
_GENE_ID, _TRANSCRIPT_ID = r"ENS[A-Z]*G\d{11}.*", r"ENS[A-Z]*T\d{11}.*"
_STRANDS = {"1": "+", "-1": "-", "+1": "+"}
_BED_HEAD = (  # names of the first three columns of a BED file that names them
    {"chrom", "chr", "chromosome", "seqname", "seqnames"},
    {"start", "chromstart", "chrom_start", "chrstart"},
    {"end", "stop", "chromend", "chrom_end", "chrend"},
)
_NAMES = {
    "gene_id": ("gene_id", "ensembl_id", "ensembl_gene_id", "ensembl", "ensgene", "gene stable id"),
    "symbol": ("symbol", "gene", "gene_name", "gene_symbol", "gene name", "name"),
    "chrom": ("chrom", "chr", "#chr", "#chrom", "chromosome", "chromosome/scaffold name"),
    "tss": ("tss",),
    "tss1": ("transcription start site (tss)", "transcription_start_site"),
    "start": ("start", "gene start (bp)", "transcript start (bp)"),
    "end": ("end", "gene end (bp)", "transcript end (bp)"),
    "strand": ("strand",),
    "tss_id": ("tss_id", "transcript_id", "ensembl_transcript_id", "transcript stable id"),
}


def read_tss(path: str | Path) -> pd.DataFrame:
    """Transcription starts of a GTF, BED file or table, plain or gzip (how: see the module).

    Parameters
    ----------
    path
        File; told apart by content.

    Returns
    -------
    DataFrame
        ``gene_id`` (without version), ``symbol``, ``chrom`` (categorical), ``tss`` (int64, 0-based), ``strand`` (``+``,
        ``-``), ``tss_id`` (unique). One row for each start of a gene: transcripts that share one are one row, named
        after the first. Rows in genome order.

    Raises
    ------
    GenomeError
        If the file is damaged, has no strands or no genes; the first faulty line is named.
    """
    path = Path(path).expanduser()
    with opened(path) as stream:
        head = [line.decode("utf-8", "replace") for line in stream.readlines(1 << 16)]
    lines = [line for line in head if not _passed(line)]
    names = _bed_names(lines[0]) if lines else []
    lines = lines[bool(names) :]
    if not lines:
        raise GenomeError(f"{path} is empty. Expected a GTF, a BED file or a table of transcription starts.")
    field = lines[0].rstrip("\r\n").split("\t")
    if len(field) == 9 and field[6] in "+-." and field[3].isdigit():
        table = _of_gtf(path)
    elif len(field) >= 3 and field[1].strip().isdigit() and field[2].strip().isdigit():
        table = _of_bed(path, names)
    else:
        table = _of_table(path)
    return _starts(table, path)


def _passed(line: str) -> bool:
    """Whether a line of a BED file says nothing of a place."""
    return not line.strip() or line.startswith(("#", "track", "browser"))


def _bed_names(line: str) -> list[str]:
    """Names of the columns of a BED file where a line gives them; a table with a column of starts is none."""
    names = [name.strip().lower() for name in line.lstrip("\ufeff#").split("\t")]
    fits = len(names) >= 3 and all(name in known for name, known in zip(names, _BED_HEAD))
    return names if fits and not set(names) & {*_NAMES["tss"], *_NAMES["tss1"]} else []


def windows(table: pd.DataFrame, length: int) -> pd.DataFrame:
    """Windows around starts: the table with ``start`` and ``end`` (int64, 0-based half-open, may be below 0).

    Parameters
    ----------
    table
        ``(n, ...)`` with ``chrom``, ``tss`` and ``strand``.
    length
        Bases of a window; the start stands at ``length // 2`` of it in the gene's direction.
    """
    if length < 1:
        raise GenomeError(f"Windows of {length} bases were asked for; expected at least 1.")
    tss = table["tss"].to_numpy(dtype=np.int64)
    minus = (table["strand"] == "-").to_numpy()
    start = np.where(minus, tss + 1 + length // 2 - length, tss - length // 2)
    return table.assign(start=start, end=start + length)


def covered(genome: Genome, table: pd.DataFrame, length: int) -> np.ndarray:
    """Which windows lie wholly in the genome: bool ``(n,)``."""
    frame = windows(table, length)
    rows = zip(frame["chrom"].astype(str), frame["start"].tolist(), frame["end"].tolist())
    return np.array([genome.covers(*row) for row in rows], dtype=bool)


def fetch_windows(genome: Genome, table: pd.DataFrame, length: int) -> np.ndarray:
    """Codes uint8 ``(n, length)`` of the windows of starts, each in its gene's direction.

    Bases outside the genome's spans are unknown; ask ``covered`` first where that matters.

    Raises
    ------
    GenomeError
        If the genome has no sequence of a chromosome.
    """
    frame = windows(table, length)
    codes = np.empty((len(frame), length), dtype=np.uint8)
    rows = zip(frame["chrom"].astype(str), frame["start"].tolist(), frame["end"].tolist())
    for place, (chrom, start, end) in enumerate(rows):
        codes[place] = genome.fetch(chrom, start, end)
    minus = np.flatnonzero(frame["strand"] == "-")
    codes[minus] = reverse_complement(codes[minus])
    return codes


def _of_gtf(path: Path) -> pd.DataFrame:
    rows: dict[str, list[tuple]] = {"transcript": [], "gene": []}
    with opened(path) as stream:
        for number, line in enumerate(stream, 1):
            if not (b"\ttranscript\t" in line or b"\tgene\t" in line) or line.startswith(b"#"):
                continue
            field = line.decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
            found = dict(reversed(_ATTRIBUTE.findall(field[8]))) if len(field) == 9 else {}
            if "gene_id" not in found or not (field[3].isdigit() and field[4].isdigit()) or field[6] not in ("+", "-"):
                raise GenomeError(
                    f"{path} line {number} is malformed: {line[:80]!r}. A GTF line has 9 tab-separated columns, whole "
                    'numbers as start and end, a strand + or -, and an attribute gene_id "...".'
                )
            tss = int(field[3]) - 1 if field[6] == "+" else int(field[4]) - 1
            names = found["gene_id"], found.get("gene_name", ""), found.get("transcript_id", "")
            rows[field[2]].append((*names, field[0], tss, field[6]))
    columns = ["gene_id", "symbol", "tss_id", "chrom", "tss", "strand"]
    return pd.DataFrame(rows["transcript"] or rows["gene"], columns=columns)


def _of_bed(path: Path, names: list[str]) -> pd.DataFrame:
    table, first_line = _frame(path, "\t", header=False)
    start, end = _whole(path, table[1], first_line), _whole(path, table[2], first_line)
    found = pd.DataFrame({"chrom": table[0], "symbol": "", "gene_id": "", "tss_id": ""})
    for name in table.columns[3:]:
        column = table[name].fillna("")
        if column.str.fullmatch(_GENE_ID).mean() > 0.5:
            found["gene_id"] = column
        elif column.str.fullmatch(_TRANSCRIPT_ID).mean() > 0.5:
            found["tss_id"] = column
        elif column.isin(["+", "-"]).all():
            found["strand"] = column
        elif (found["symbol"] == "").all() and column.str.fullmatch(r"[-+.\d]*").mean() < 0.5:
            found["symbol"] = column
    for key in ("gene_id", "symbol", "tss_id", "strand"):  # what a line of names says goes before what columns hold
        place = next((names.index(name) for name in _NAMES[key] if name in names), -1)
        if place in table.columns:
            found[key] = table[place].fillna("").str.strip().replace(_STRANDS if key == "strand" else {})
    if "strand" not in found:
        raise GenomeError(
            f"{path} has no column of strands (+ or - in each line), and sequence is read in the gene's direction. Add "
            "one: BED has it as the sixth column."
        )
    width = end - start
    if (width < 0).any():
        at = int(np.argmax(width < 0))
        raise GenomeError(f"{path} line {at + first_line} is reversed: start {start[at]}, end {end[at]}.")
    minus = (found["strand"] == "-").to_numpy()
    genes = width.max() > _WIDE and (len(width) == 1 or np.mean(width == np.median(width)) < 0.9)
    plus, back = (start, end - 1) if genes else (start + width // 2, start + (width - 1) // 2)
    point = np.where(minus, back, plus)
    return found.assign(tss=np.where(width == 0, start - 1, point))


def _of_table(path: Path) -> pd.DataFrame:
    with opened(path) as stream:
        head = stream.readline().decode("utf-8", errors="replace")
    table, first_line = _frame(path, "\t" if "\t" in head else ",", header=True)
    lower = {str(name).strip().lower(): name for name in reversed(table.columns)}
    chosen = {key: next((lower[name] for name in names if name in lower), None) for key, names in _NAMES.items()}
    place = [key for key in ("tss", "tss1") if chosen[key] is not None][:1]
    if not place and chosen["start"] is not None and chosen["end"] is not None:
        place = ["start", "end"]
    missing = [key for key in ("chrom", "strand") if chosen[key] is None] + ([] if place else ["tss"])
    if missing or (chosen["gene_id"] is None and chosen["symbol"] is None):
        raise GenomeError(
            f"{path} has no column for {', '.join(missing or ['gene_id'])}; it has "
            f"{', '.join(map(str, table.columns[:12]))}. Name the columns gene_id, symbol, chrom, tss "
            "(0-based), strand."
        )
    text = {key: "" if chosen[key] is None else table[chosen[key]].fillna("").str.strip() for key in chosen}
    found = pd.DataFrame({key: text[key] for key in ("gene_id", "symbol", "chrom", "strand", "tss_id")})
    found["strand"] = found["strand"].replace(_STRANDS)
    numbers = [_whole(path, table[chosen[key]], first_line) for key in place]
    if len(numbers) == 2:
        return found.assign(tss=np.where(found["strand"] == "-", numbers[1], numbers[0]) - 1)
    return found.assign(tss=numbers[0] - (place[0] == "tss1"))


def _frame(path: Path, sep: str, header: bool) -> tuple[pd.DataFrame, int]:
    """Columns of text, and the line of the first row; comment lines may stand before it."""
    with opened(path) as stream:
        text = stream.read().decode("utf-8", errors="replace")
    skip = 0
    for line in io.StringIO(text):
        if line.strip() and (header or not (_passed(line) or _bed_names(line))):
            break
        skip += 1
    how = {"sep": sep, "dtype": str, "keep_default_na": False, "na_values": [], "skip_blank_lines": False}
    try:
        table = pd.read_csv(io.StringIO(text), skiprows=skip, header=0 if header else None, **how)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise GenomeError(f"{path} is no table of tab- or comma-separated columns: {error}.") from error
    return table, skip + 1 + header


def _whole(path: Path, column: pd.Series, first_line: int) -> np.ndarray:
    """A column as whole numbers; the first line where it is none is named."""
    number = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    bad = ~np.isfinite(number) | (number < 0) | (number % 1 != 0)
    if bad.any():
        at = int(np.argmax(bad))
        raise GenomeError(
            f"{path} line {at + first_line} is malformed: {column.iloc[at]!r} is no position. Expected whole numbers."
        )
    return number.astype(np.int64)


def _starts(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One row for each start of a gene, with unified names and unique ids."""
    gene = table["gene_id"].map(strip_version).to_numpy(dtype=object)
    symbol = table["symbol"].to_numpy(dtype=object)
    gene = np.where(gene == "", symbol, gene)
    tss = table["tss"].to_numpy(dtype=np.int64)
    bad = (gene == "") | ~table["strand"].isin(["+", "-"]).to_numpy() | (tss < 0)
    if not len(table) or bad.any():
        row = table.iloc[int(np.argmax(bad))].to_dict() if len(table) else "no row"
        raise GenomeError(
            f"{path}: {int(bad.sum()) if len(table) else 'all'} of {len(table):,} rows are no transcription start, "
            f"first {row}. Expected the name of a gene, a strand + or - and a position."
        )
    place = region_table(table["chrom"].astype(str), tss, tss + 1)
    starts = pd.DataFrame({"gene_id": gene, "symbol": np.where(symbol == "", gene, symbol), "chrom": place["chrom"]})
    starts = starts.assign(tss=tss, strand=table["strand"].to_numpy(dtype=object), tss_id=table["tss_id"].to_numpy())
    starts = starts.drop_duplicates(["gene_id", "chrom", "tss", "strand"], ignore_index=True)
    own = starts["gene_id"] + "@" + starts["chrom"].astype(str) + ":" + starts["tss"].astype(str)
    name = starts["tss_id"].map(strip_version)
    name = name.where(name != "", own)
    starts["tss_id"] = name.where(~name.duplicated(keep=False), name + "@" + starts["chrom"].astype(str))
    starts["tss_id"] = starts["tss_id"].where(~starts["tss_id"].duplicated(keep=False), own + starts["strand"])
    return starts[TSS_COLUMNS].sort_values(["chrom", "tss", "gene_id", "strand"], ignore_index=True)
