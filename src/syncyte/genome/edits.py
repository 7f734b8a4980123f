"""Edits made at the desk: regions deleted, shuffled, replaced or cleared of a motif, as rows of ``Variants``.

An edit in text is ``chr22:100-200=shuffle``, 0-based half-open. What may stand behind the sign:

- ``delete``: the bases go.
- ``shuffle``: the same pairs of neighbours in another order (``sequence.dinucleotide_shuffle``).
- ``random``: other bases, each drawn with the region's own shares.
- ``replace:ACGT``: these bases instead, of any length; ``chr22:100-100=replace:ACGT`` inserts them.
- ``motif:WGATAR``: each place that fits the IUPAC motif on either strand gets its bases in another order, so that none
  in the region fits.

What is random depends on the seed and the edit's text alone, so a list may be extended without changing what was there.

Leaves out scoring, which takes edits as it takes variants.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from syncyte.errors import GenomeError, unknown
from syncyte.genome.coordinates import chromosome_name
from syncyte.genome.fasta import Genome
from syncyte.genome.normalise import check_covered, trim
from syncyte.genome.sequence import UNKNOWN, dinucleotide_shuffle, reverse_complement, to_codes, to_text
from syncyte.genome.tables import opened
from syncyte.genome.variants import Variants, variants_of

EDITS = ("delete", "shuffle", "random", "replace", "motif")
LONGEST = 2_000_000
_TEXT = re.compile(
    r"\s*(?P<chrom>.+):(?P<start>[\d,]+)-(?P<end>[\d,]+)\s*=\s*(?P<edit>\w+)\s*(?::\s*(?P<bases>\w+)\s*)?"
)
_MEANT = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
_TRIES = 200


def parse_edits(texts: str | Sequence[str], genome: Genome, *, seed: int = 0) -> Variants:
    """Edits in text form as variants, one row each.

    Parameters
    ----------
    texts
        One edit, several with ``;`` between, or a list of them (see the module).
    genome
        Gives the bases that are there.
    seed
        Of what is random.

    Returns
    -------
    Variants
        ``kind`` is the edit's name. Edits of places that the genome does not cover, that have no known bases, or that
        would change nothing are refused with a reason.

    Raises
    ------
    GenomeError
        If a text is no edit.
    """
    listed = texts.split(";") if isinstance(texts, str) else list(texts)
    rows = []
    for number, text in enumerate((text for text in listed if text.strip()), 1):
        match = _TEXT.fullmatch(text)
        if match is None:
            raise GenomeError(
                f"{text.strip()!r} is no edit. Expected such as chr22:100-200=shuffle; edits are "
                f"{', '.join(EDITS)}, with bases as in replace:ACGT or motif:WGATAR."
            )
        start, end = (int(match[key].replace(",", "") or -1) for key in ("start", "end"))
        told = f"edit {text.strip()!r}"
        rows.append(
            _row(genome, number, match["chrom"], start, end, match["edit"], match["bases"] or "", "", seed, told)
        )
    return variants_of(rows)


def read_edits(path: str | Path, genome: Genome, *, seed: int = 0) -> Variants:
    """Edits of a file as variants: a table, or one edit in text form on each line.

    A table (tabs or commas) names its columns ``chrom``, ``start``, ``end`` (0-based half-open), ``edit`` and, where
    some edit needs bases, ``sequence``; ``id`` gives names.
    Returns and raises as ``parse_edits``, with the line of the file.
    """
    path = Path(path).expanduser()
    rows = []
    for line, field in _fields(path):
        told = f"{path} line {line}"
        try:
            start, end = int(field["start"]), int(field["end"])
        except ValueError as error:
            raise GenomeError(
                f"{told} has start {field['start']!r} and end {field['end']!r}. Expected whole numbers."
            ) from error
        bases = field.get("sequence", "")
        rows.append(
            _row(genome, line, field["chrom"], start, end, field["edit"], bases, field.get("id", ""), seed, told)
        )
    if not rows:
        raise GenomeError(f"{path} holds no edits. Expected lines such as chr22:100-200=shuffle, or a table.")
    return variants_of(rows)


def _fields(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a file of edits with their columns by name."""
    names: list[str] = []
    with opened(path) as stream:
        for number, raw in enumerate(stream, 1):
            text = raw.decode("utf-8", "replace").lstrip("\ufeff").strip("\r\n")
            if not text.strip() or text.startswith("#"):
                continue
            match = _TEXT.fullmatch(text)
            if match is not None and not names:
                place = {key: match[key].replace(",", "") for key in ("start", "end")}
                yield (
                    number,
                    {"chrom": match["chrom"], "edit": match["edit"], "sequence": match["bases"] or "", **place},
                )
                continue
            parts = [part.strip().strip('"') for part in text.split("\t" if "\t" in text else ",")]
            if not names:
                names = [part.lower() for part in parts]
                if not {"chrom", "start", "end", "edit"} <= set(names):
                    raise GenomeError(
                        f"{path} line {number} is neither an edit nor a header: {text[:80]!r}. Expected such as "
                        "chr22:100-200=shuffle, or the columns chrom, start, end, edit and perhaps sequence and id."
                    )
            elif len(parts) != len(names):
                raise GenomeError(
                    f"{path} line {number} has {len(parts)} columns, the header {len(names)}: {text[:80]!r}. Give "
                    "every line the same columns."
                )
            else:
                yield number, dict(zip(names, parts))


def _row(
    genome: Genome, line: int, chrom: str, start: int, end: int, edit: str, bases: str, name: str, seed: int, told: str
) -> dict[str, object]:
    """Row of ``Variants`` for one edit; faults of its text are errors, faults of its place reasons."""
    edit, bases, chrom = edit.lower(), bases.upper(), chromosome_name(chrom.strip())
    _check_text(start, end, edit, bases, told)
    place = f"{chrom}:{start}-{end}"
    own = f"{place}={edit}" + (f":{bases if len(bases) <= 20 else f'{bases[:10]}..{len(bases)}'}" if bases else "")
    row: dict[str, object] = {
        "variant": name or own,
        "record": line,
        "chrom": chrom,
        "start": start,
        "ref": "",
        "alt": "",
    }
    row |= {"kind": edit, "status": "refused"}
    reason = check_covered(genome, chrom, start, end)
    if not reason and end - start > LONGEST:
        reason = f"too long: {end - start:,} bases, at most {LONGEST:,} are edited"
    if reason:
        return row | {"reason": reason}
    codes = genome.fetch(chrom, start, end)
    if (codes == UNKNOWN).any():
        return row | {"reason": f"unknown bases: the genome has N inside {place}"}
    seeds = hashlib.blake2b(f"{seed}|{place}={edit}:{bases}".encode(), digest_size=16).digest()
    made = _edited(codes, edit, bases, np.random.default_rng(int.from_bytes(seeds, "little")))
    if isinstance(made, str):
        return row | {"reason": made}
    first, ref, alt = trim(start, to_text(codes), to_text(made))
    if not ref and not alt:
        return row | {"reason": f"no change: {edit} leaves {place} as it is"}
    return row | {"start": first, "ref": ref, "alt": alt, "status": "ok", "reason": ""}


def _check_text(start: int, end: int, edit: str, bases: str, told: str) -> None:
    if edit not in EDITS:
        raise GenomeError(f"{told}: {unknown('edit', edit, EDITS)}")
    if not 0 <= start <= end or (start == end and edit != "replace"):
        raise GenomeError(f"{told} has the place {start}-{end}. Places are 0-based half-open, start before end.")
    if (edit in ("replace", "motif")) != bool(bases):
        need = (
            "needs bases, as in replace:ACGT or motif:WGATAR"
            if not bases
            else f"takes no bases, and {bases} were given"
        )
        raise GenomeError(f"{told}: {edit} {need}.")
    wrong = set(bases) - set("ACGT" if edit == "replace" else _MEANT)
    if wrong:
        letters = "A, C, G, T" if edit == "replace" else "IUPAC letters"
        raise GenomeError(f"{told}: {bases[:40]!r} holds {sorted(wrong)[0]!r}. Expected {letters}.")


def _edited(codes: np.ndarray, edit: str, bases: str, rng: np.random.Generator) -> np.ndarray | str:
    """The region after an edit, or a reason why there is none."""
    if edit == "delete":
        return codes[:0]
    if edit == "replace":
        return to_codes(bases)
    if edit == "random":
        return rng.permutation(codes) if len(codes) < 2 else rng.choice(codes, len(codes))
    if edit == "shuffle":
        return dinucleotide_shuffle(codes, rng)
    return scramble_motif(codes, bases, rng)


def motif_places(codes: np.ndarray, motif: str) -> np.ndarray:
    """Where an IUPAC motif begins in codes ``(L,)``, read on either strand: bool ``(L,)``."""
    size = len(motif)
    found = np.zeros(len(codes), dtype=bool)
    if size == 0 or size > len(codes):
        return found
    allowed = np.zeros((size, 5), dtype=bool)
    for place, letter in enumerate(motif.upper()):
        allowed[place, to_codes(_MEANT[letter])] = True
    views = np.lib.stride_tricks.sliding_window_view(codes, size)
    for strand in (views, reverse_complement(views)):
        found[: len(views)] |= allowed[np.arange(size), strand].all(axis=1)
    return found


def scramble_motif(codes: np.ndarray, motif: str, rng: np.random.Generator) -> np.ndarray | str:
    """Codes ``(L,)`` in which no place fits a motif, bases outside its places unchanged; or the reason why not.

    Each place that fits gets its bases in another order that makes the motif nowhere anew, together with its
    surroundings; where no order does, other bases.
    """
    places = np.flatnonzero(motif_places(codes, motif)).tolist()
    if not places:
        return f"no motif: {motif} does not occur in the region on either strand"
    codes, size = codes.copy(), len(motif)
    for number, place in enumerate(places):
        low, later = max(place - size + 1, 0), set(places[number + 1 :])
        around = codes[low : place + 2 * size - 1].copy()
        for attempt in range(_TRIES):
            found = np.flatnonzero(motif_places(around, motif)) + low
            if not set(found.tolist()) - later:
                break
            part = around[place - low : place - low + size]
            part[:] = rng.permutation(part) if attempt < _TRIES // 2 else rng.integers(0, 4, size)
        codes[low : place + 2 * size - 1] = around
    if motif_places(codes, motif).any():
        return f"motif everywhere: no other bases at its places are free of {motif}"
    return codes
