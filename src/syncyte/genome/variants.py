"""Variants as changes of a genome: one row for each alternate allele, what it changes, and whether it can be scored.

A change is ``(start, ref, alt)``: the bases ``ref`` from ``start`` (0-based) are replaced by ``alt``. Alleles are upper
case and trimmed, so an insertion has an empty ``ref`` (its bases come before the base at ``start``) and a deletion an
empty ``alt``; both are moved as far left as the genome allows. The deletion or tandem duplication of a symbolic allele
with exact ends gets its bases from the genome.

A row that cannot be scored is refused, with a reason ``what it is: particulars``; it is never guessed.

Leaves out reading files (``vcf``), the rules for one allele (``normalise``) and putting changes into windows
(``haplotypes``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from syncyte.errors import GenomeError, unknown
from syncyte.genome.coordinates import chromosome_name
from syncyte.genome.fasta import Genome
from syncyte.genome.normalise import resolve

COLUMNS = ["variant", "record", "chrom", "start", "ref", "alt", "kind", "status", "reason"]
MISSING, ABSENT = -1, -2  # of a genotype: not called; no second copy of the chromosome
_SHOWN = 20  # letters of an allele in the name of a variant


@dataclass(frozen=True, eq=False)
class Variants:
    """Alternate alleles of a file, in its order.

    Attributes
    ----------
    table
        ``(n, 9)``: ``variant`` (unique name), ``record`` (line of the file), ``chrom``, ``start`` (int64, 0-based),
        ``ref``, ``alt`` (trimmed, upper case), ``kind`` (``snv``, ``mnv``, ``insertion``, ``deletion``, ``indel``,
        ``duplication``, or of refused ones ``symbolic``, ``breakend``, ``none``), ``status`` (``ok``, ``refused``) and
        ``reason`` (empty where ok). Edits have kinds of their own.
    samples
        Names of the samples.
    genotypes
        int8 ``(n, samples, 2)``: 1 where a chromosome copy carries the row's allele, 0 where it carries another, -1 not
        called, -2 no second copy. None without samples.
    phased
        bool ``(n, samples)``: the order of the two copies is known, or does not matter. None without samples.
    phase_set
        int64 ``(n, samples)``: only calls of one set have a common order; 0 where the file names none.
    notes
        What a reader should know of all of them.
    """

    table: pd.DataFrame
    samples: tuple[str, ...] = ()
    genotypes: np.ndarray | None = None
    phased: np.ndarray | None = None
    phase_set: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def usable(self) -> np.ndarray:
        """Numbers of the rows that can be scored: int64 ``(m,)``."""
        return np.flatnonzero(self.table["status"].to_numpy() == "ok")

    def counts(self) -> dict[str, int]:
        """How many rows are ``ok``, and how many were refused for what, most frequent first."""
        rows = zip(self.table["status"], self.table["reason"])
        return dict(
            Counter("ok" if state == "ok" else reason.partition(":")[0] for state, reason in rows).most_common()
        )

    def change(self, row: int) -> tuple[int, str, str]:
        """The change ``(start, ref, alt)`` of a row.

        Raises
        ------
        GenomeError
            If the row was refused; with its reason.
        """
        found = self.table.iloc[row]
        if found["status"] != "ok":
            raise GenomeError(f"{found['variant']} cannot be scored, {found['reason']}. Leave it out.")
        return int(found["start"]), str(found["ref"]), str(found["alt"])

    def take(self, rows: np.ndarray | Sequence[int]) -> Variants:
        """The rows of these numbers, or where a mask is true."""
        rows = np.asarray(rows)
        calls, phased, sets = (
            None if part is None else part[rows] for part in (self.genotypes, self.phased, self.phase_set)
        )
        return Variants(self.table.iloc[rows].reset_index(drop=True), self.samples, calls, phased, sets, self.notes)

    def sample(self, name: str) -> int:
        """Number of a sample.

        Raises
        ------
        GenomeError
            If there is none of that name.
        """
        if name not in self.samples:
            raise GenomeError(f"{unknown('sample', name, self.samples)}")
        return self.samples.index(name)


@dataclass
class Records:
    """Lines of a file before their alleles are looked at; ``calls`` are numbers into ``alleles`` and ``ordered``."""

    line: list[int] = field(default_factory=list)
    chrom: list[str] = field(default_factory=list)
    pos: list[int] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    ref: list[str] = field(default_factory=list)
    alt: list[str] = field(default_factory=list)
    info: dict[int, str] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    calls: list[np.ndarray] = field(default_factory=list)
    sets: list[np.ndarray] = field(default_factory=list)
    alleles: list[tuple[int, int]] = field(default_factory=list)
    ordered: list[bool] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, line: int, chrom: str, pos: int, name: str, ref: str, alt: str) -> None:
        """Add one line; ``pos`` is 1-based."""
        for column, value in zip(
            (self.line, self.chrom, self.pos, self.name, self.ref, self.alt), (line, chrom, pos, name, ref, alt)
        ):
            column.append(value)  # type: ignore[attr-defined]


def make_variants(records: Records, genome: Genome | None) -> Variants:
    """Split, check, trim and left-align the alleles of records, and lay out their genotypes by rows."""
    spelled: dict[str, str] = {}
    rows: list[tuple] = []
    source: list[int] = []
    number: list[int] = []
    columns = zip(records.line, records.chrom, records.pos, records.name, records.ref, records.alt)
    for at, (line, given, pos, name, ref, alts) in enumerate(columns):
        chrom = spelled.get(given) or spelled.setdefault(given, chromosome_name(given))
        several = alts.split(",")
        for count, alt in enumerate(several, 1):
            allele = resolve(genome, chrom, pos, ref, alt, records.info.get(at, ""), count - 1)
            own = f"{chrom}:{pos}:{_short(ref)}>{_short(alt)}"
            named = own if name in (".", "") else f"{name}:{_short(ref)}>{_short(alt)}" if len(several) > 1 else name
            rows.append((named, line, chrom, *allele))
            source.append(at)
            number.append(count)
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"record": np.int64, "start": np.int64})
    _refuse_repeated(table)
    _make_unique(table)
    notes = [*records.notes, *_notes(table, genome)]
    return _with_genotypes(table, records, np.array(source, np.int64), np.array(number, np.int8), tuple(notes))


def _short(allele: str) -> str:
    return allele if len(allele) <= _SHOWN else f"{allele[: _SHOWN // 2]}..{len(allele)}"


def _refuse_repeated(table: pd.DataFrame) -> None:
    """Refuse a change that an earlier row makes already."""
    key = ["chrom", "start", "ref", "alt"]
    usable = table[table["status"] == "ok"]
    again = usable.index[usable.duplicated(key)]
    if len(again):
        first = usable.drop_duplicates(key).set_index(key)["record"].to_dict()
        told = [
            f"repeated: line {first[place]} makes the same change"
            for place in zip(*(table.loc[again, name] for name in key))
        ]
        table.loc[again, "status"] = "refused"
        table.loc[again, "reason"] = told


def _make_unique(table: pd.DataFrame) -> None:
    """Tell rows of one name apart by their alleles, then by their number."""
    twice = table["variant"].duplicated(keep=False)
    if twice.any():
        rows = table.loc[twice]
        place = rows["chrom"] + ":" + (rows["start"] + 1).astype(str)
        alleles = rows["ref"].map(_short) + ">" + rows["alt"].map(_short)
        bare = rows["variant"].str.contains(">", regex=False)
        table.loc[twice, "variant"] = rows["variant"].where(bare, rows["variant"] + ":" + place + ":" + alleles)
    count = table.groupby("variant", sort=False).cumcount()
    table.loc[count > 0, "variant"] += "#" + (count[count > 0] + 1).astype(str)


def _notes(table: pd.DataFrame, genome: Genome | None) -> list[str]:
    if genome is None:
        return ["No genome was given: reference alleles were not checked and indels not left-aligned."]
    differ = int(table["reason"].str.startswith("reference differs").sum())
    looked = differ + int((table["status"] == "ok").sum())
    if differ < 3 or differ < 0.05 * looked:
        return []
    return [
        f"{differ:,} of {looked:,} reference alleles differ from the genome: the variants may belong to another build."
    ]


def _with_genotypes(
    table: pd.DataFrame, records: Records, source: np.ndarray, number: np.ndarray, notes: tuple[str, ...]
) -> Variants:
    if not records.samples:
        return Variants(table, notes=notes)
    width = len(records.samples)
    calls = np.stack(records.calls) if records.calls else np.zeros((0, width), np.int32)
    alleles = np.array(records.alleles or [(MISSING, MISSING)], dtype=np.int8)[calls[source]]
    genotypes = np.where(alleles < 0, alleles, alleles == number[:, None, None]).astype(np.int8)
    phased = np.array(records.ordered or [True])[calls[source]]
    sets = np.stack(records.sets)[source] if records.sets else np.zeros((len(table), width), np.int64)
    return Variants(table, records.samples, genotypes, phased, sets, notes)


def variants_of(rows: Sequence[Mapping[str, object]], notes: Sequence[str] = ()) -> Variants:
    """Variants of rows made elsewhere (edits, drawn ones), with unique names.

    Parameters
    ----------
    rows
        Each with the keys of ``Variants.table``.
    """
    table = pd.DataFrame(list(rows), columns=COLUMNS).astype({"record": np.int64, "start": np.int64})
    _make_unique(table)
    return Variants(table, notes=tuple(notes))
