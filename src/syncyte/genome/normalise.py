"""One alternate allele as a change of the genome: checked, trimmed, left-aligned; or refused with a reason.

Steps: what cannot be a change of known bases is refused (no alternate, ``*``, breakends, symbolic alleles other than a
deletion or tandem duplication with exact ends, letters other than A, C, G, T); the reference allele is compared with
the genome; common ends are taken off, the last bases first; a pure insertion or deletion moves left while the base
before it equals its last base (Tan, Abecasis and Kang 2015).

Leaves out genotypes and files.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from syncyte.genome.fasta import Genome
from syncyte.genome.sequence import to_text

LONGEST = 2_000_000  # bases of a symbolic deletion or duplication
_BASES = re.compile("[ACGT]+")
_LETTERS = re.compile("[A-Z]+")
_EXACT = (None, "0,0", "0", ".", "")
_SINGLE = re.compile(r"(\.[A-Za-z]+|[A-Za-z]+\.)")


class Allele(NamedTuple):
    """Columns ``start`` to ``reason`` of a variant's row."""

    start: int
    ref: str
    alt: str
    kind: str
    status: str = "ok"
    reason: str = ""


def resolve(genome: Genome | None, chrom: str, pos: int, ref: str, alt: str, info: str = "", which: int = 0) -> Allele:
    """The change that an allele of a VCF line means.

    Parameters
    ----------
    genome
        To check against; None leaves out the comparison and the left alignment.
    chrom
        Name in the spelling of ``coordinates``.
    pos, ref, alt
        1-based position, reference allele, one alternate allele.
    info
        INFO column, for symbolic alleles.
    which
        Number of the allele among the line's alternates, from 0.
    """
    ref, alt = ref.upper(), alt if alt.startswith("<") else alt.upper()
    kind = _odd_kind(alt)
    start = max(pos - 1, 0)
    if kind is not None and alt[:5].upper() not in ("<DEL>", "<DEL:", "<DUP>", "<DUP:"):
        return Allele(start, ref, alt, kind, "refused", _odd_reason(alt))
    if pos < 1:
        reason = f"before the first base: the position is {pos}, expected 1 or more"
        return Allele(start, ref, alt, kind or kind_of(ref, alt), "refused", reason)
    if kind is not None:
        return _structural(genome, chrom, pos, ref, alt, info, which)
    reason = _letters(ref, alt)
    if not reason and genome is not None:
        reason = check_reference(genome, chrom, start, ref)
    if not reason and ref == alt:
        reason = f"no change: both alleles are {_told(ref)}"
    if reason:
        return Allele(start, ref, alt, kind_of(ref, alt), "refused", reason)
    return aligned(genome, chrom, *trim(start, ref, alt))


def trim(start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Take off the bases that both alleles end with, then those they begin with."""
    tail = 0
    while tail < min(len(ref), len(alt)) and ref[-1 - tail] == alt[-1 - tail]:
        tail += 1
    ref, alt = ref[: len(ref) - tail], alt[: len(alt) - tail]
    head = 0
    while head < min(len(ref), len(alt)) and ref[head] == alt[head]:
        head += 1
    return start + head, ref[head:], alt[head:]


def aligned(genome: Genome | None, chrom: str, start: int, ref: str, alt: str) -> Allele:
    """A trimmed change, moved left where it is a pure insertion or deletion."""
    kind = kind_of(ref, alt)
    if genome is None or kind not in ("insertion", "deletion"):
        return Allele(start, ref, alt, kind)
    bases = ref or alt
    by = _moves(genome, chrom, start, bases)
    turn = by % len(bases)
    bases = bases[len(bases) - turn :] + bases[: len(bases) - turn]
    return Allele(start - by, bases if ref else "", bases if alt else "", kind)


def _moves(genome: Genome, chrom: str, start: int, bases: str) -> int:
    """How many bases to the left the same insertion or deletion can be written."""
    low = genome.spans[chrom][0]
    by, step = 0, 64
    while start - by > low:
        before = to_text(genome.fetch(chrom, max(start - by - step, low), start - by))[::-1]
        for letter in before:
            if letter != bases[len(bases) - 1 - by % len(bases)]:
                return by
            by += 1
        step = min(step * 4, 65_536)
    return by


def kind_of(ref: str, alt: str) -> str:
    """Kind of a change of bases, after trimming."""
    _, ref, alt = trim(0, ref, alt)
    if not ref and not alt:
        return "none"
    if len(ref) == len(alt):
        return "snv" if len(ref) == 1 else "mnv"
    return "insertion" if not ref else "deletion" if not alt else "indel"


def check_reference(genome: Genome, chrom: str, start: int, ref: str) -> str:
    """Why a reference allele does not fit the genome, or an empty string."""
    end = start + len(ref)
    reason = check_covered(genome, chrom, start, end)
    if reason:
        return reason
    found = to_text(genome.fetch(chrom, start, end))
    if found == ref:
        return ""
    at = next(place for place in range(len(ref)) if ref[place] != found[place])
    where = f" (first at base {at + 1})" if len(ref) > 1 else ""
    return f"reference differs: the genome has {_told(found)}, the file says {_told(ref)}{where} at {chrom}:{start + 1}"


def check_covered(genome: Genome, chrom: str, start: int, end: int) -> str:
    """Why a place is not in the genome, or an empty string."""
    if genome.covers(chrom, start, end):
        return ""
    if chrom not in genome.spans:
        return f"not covered: the genome has no sequence of {chrom}"
    low, high = genome.spans[chrom]
    return f"not covered: the genome has {chrom}:{low}-{high}, the change lies at {chrom}:{start}-{end}"


def _letters(ref: str, alt: str) -> str:
    for name, allele in (("reference", ref), ("alternate", alt)):
        if not _BASES.fullmatch(allele):
            what = "ambiguous bases" if _LETTERS.fullmatch(allele) else "no bases"
            return f"{what}: the {name} allele {_told(allele)!r} is not made of A, C, G, T"
    return ""


def _told(allele: str) -> str:
    return allele if len(allele) <= 20 else f"{allele[:10]}.. ({len(allele):,} bases)"


def _odd_kind(alt: str) -> str | None:
    """Kind of an alternate that is no sequence, or None."""
    if "[" in alt or "]" in alt or _SINGLE.fullmatch(alt):
        return "breakend"
    if alt in ("", ".", "<*>", "<NON_REF>", "<X>"):
        return "none"
    return "symbolic" if alt == "*" or alt.startswith("<") else None


def _odd_reason(alt: str) -> str:
    kind = _odd_kind(alt)
    if kind == "breakend":
        return f"breakend: {_told(alt)} joins another place of the genome"
    if kind == "none":
        return "no alternate: the line says only that the reference was seen"
    if alt == "*":
        return "spanning deletion: * stands for a deletion that another line describes"
    if alt.upper().startswith("<INS"):
        return f"symbolic allele: {alt} names an insertion without its bases"
    return f"symbolic allele: {alt} has no sequence that could be scored"


def _structural(genome: Genome | None, chrom: str, pos: int, ref: str, alt: str, info: str, which: int) -> Allele:
    """A symbolic deletion or tandem duplication of the bases after ``pos``, if its ends are exact."""
    said = dict(item.partition("=")[::2] for item in info.split(";") if item)
    reason, end = _exact_end(said, pos, which)
    if not reason and genome is None:
        reason = f"symbolic allele: the bases of {alt} come from the genome, and none was given"
    if not reason and genome is not None:
        first = check_reference(genome, chrom, pos - 1, ref) if _BASES.fullmatch(ref) else ""
        reason = first or check_covered(genome, chrom, pos, end)
    if reason or genome is None:
        return Allele(pos, ref, alt, "symbolic", "refused", reason)
    bases = to_text(genome.fetch(chrom, pos, end))
    if "N" in bases:
        return Allele(
            pos, ref, alt, "symbolic", "refused", f"unknown bases: the genome has N inside {chrom}:{pos}-{end}"
        )
    if alt.upper().startswith("<DEL"):
        return aligned(genome, chrom, pos, bases, "")
    return aligned(genome, chrom, pos, "", bases)._replace(kind="duplication")


def _exact_end(said: dict[str, str], pos: int, which: int) -> tuple[str, int]:
    """End (0-based, excluded) of a structural variant, or why it has none that is exact."""
    if "IMPRECISE" in said or any(_pick(said.get(key), which) not in _EXACT for key in ("CIPOS", "CIEND")):
        return "imprecise ends: the line gives a range for where the variant begins or ends", pos
    numbers = {key: _pick_one(said.get(key), which) for key in ("END", "SVLEN")}
    ends = [numbers["END"], None if numbers["SVLEN"] is None else pos + abs(numbers["SVLEN"])]
    known = [end for end in ends if end is not None]
    if not known:
        return "no end: a symbolic allele needs END or SVLEN in the INFO column", pos
    if len(set(known)) > 1:
        return f"two ends: END says {known[0]}, POS and SVLEN say {known[1]}", pos
    if known[0] <= pos:
        return f"no length: the end {known[0]} is not after the position {pos}", pos
    if known[0] - pos > LONGEST:
        return f"too long: {known[0] - pos:,} bases, at most {LONGEST:,} are scored", pos
    return "", known[0]


def _pick(text: str | None, which: int) -> str | None:
    """The pair of numbers of one allele; a line with several alleles lists two numbers for each."""
    if text is None:
        return None
    listed = text.split(",")
    own = listed[2 * which : 2 * which + 2]
    return ",".join(own if len(own) == 2 else listed)


def _pick_one(text: str | None, which: int) -> int | None:
    if text is None:
        return None
    listed = text.split(",")
    own = listed[which] if which < len(listed) else listed[0]
    return int(own) if re.fullmatch(r"[+-]?\d+", own) else None
