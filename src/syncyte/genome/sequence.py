"""Sequence as numbers: A 0, C 1, G 2, T 3, unknown 4, one byte a base.

Letters are read in either case, ``U`` is ``T``, and the letters for several bases (IUPAC: ``R``, ``Y``, ``N``, ...) are
unknown. All functions on codes take and give ``uint8`` arrays and leave their input as it was.

Leaves out where sequence comes from (``fasta``) and what happens to it (``haplotypes``, ``edits``).
"""

from __future__ import annotations

import hashlib

import numpy as np

from syncyte.errors import GenomeError

UNKNOWN = 4
LETTERS = "ACGTN"
_SEVERAL = "NRYSWKMBDHV.-"
_REFUSED = 255
_CODE = np.full(256, _REFUSED, dtype=np.uint8)
for _letter in _SEVERAL:
    _CODE[[ord(_letter), ord(_letter.lower())]] = UNKNOWN
for _number, _letter in enumerate("ACGT"):
    _CODE[[ord(_letter), ord(_letter.lower())]] = _number
_CODE[[ord("U"), ord("u")]] = 3
_LETTER = np.frombuffer(LETTERS.encode(), dtype=np.uint8)
_COMPLEMENT = np.array([3, 2, 1, 0, UNKNOWN], dtype=np.uint8)
_COLUMNS = np.concatenate([np.eye(4, dtype=np.float32), np.zeros((1, 4), dtype=np.float32)])


def to_codes(text: str | bytes) -> np.ndarray:
    """Codes ``(L,)`` of a sequence in letters.

    Raises
    ------
    GenomeError
        At the first letter that means no nucleotide.
    """
    raw = text if isinstance(text, bytes | bytearray | memoryview) else text.encode("utf-8", errors="replace")
    codes = _CODE[np.frombuffer(raw, dtype=np.uint8)]
    if codes.size and codes.max() == _REFUSED:
        at = int(np.argmax(codes == _REFUSED))
        raise GenomeError(
            f"{chr(raw[at])!r} at position {at + 1:,} of {len(raw):,} is no letter of DNA. Expected A, C, G, T, N or a "
            "IUPAC letter; is this a sequence of nucleotides?"
        )
    return codes


def to_text(codes: np.ndarray) -> str:
    """Letters ``ACGTN`` of codes ``(L,)``."""
    return _LETTER[np.asarray(codes, dtype=np.uint8)].tobytes().decode("ascii")


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """The other strand of ``(..., L)``, read in its own direction."""
    return _COMPLEMENT[np.asarray(codes, dtype=np.uint8)[..., ::-1]]


def one_hot(codes: np.ndarray) -> np.ndarray:
    """Indicators float32 ``(..., 4, L)`` of codes ``(..., L)``; an unknown base has zeros in all four rows."""
    return np.ascontiguousarray(np.moveaxis(_COLUMNS[np.asarray(codes, dtype=np.uint8)], -1, -2))


def gc_share(codes: np.ndarray) -> np.ndarray:
    """Share of G and C among the known bases of ``(..., L)``: float64 ``(...)``, NaN where none is known."""
    codes = np.asarray(codes, dtype=np.uint8)
    strong = ((codes == 1) | (codes == 2)).sum(axis=-1)
    return _share(strong, (codes < UNKNOWN).sum(axis=-1))


def cpg_share(codes: np.ndarray) -> np.ndarray:
    """Share of CG among the pairs of known neighbours of ``(..., L)``: float64 ``(...)``, NaN where there are none."""
    codes = np.asarray(codes, dtype=np.uint8)
    first, second = codes[..., :-1], codes[..., 1:]
    hits = ((first == 1) & (second == 2)).sum(axis=-1)
    return _share(hits, ((first < UNKNOWN) & (second < UNKNOWN)).sum(axis=-1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def dinucleotide_shuffle(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random sequence with the same first and last base and the same count of each pair of neighbours.

    Every sequence that keeps them is equally likely: a random walk over all pairs as edges of a graph (Altschul and
    Erickson 1985), whose last exits are drawn as a uniform spanning tree. Unknown bases count as a fifth letter.

    Parameters
    ----------
    codes
        ``(L,)``.
    rng
        Source of randomness.
    """
    codes = np.asarray(codes, dtype=np.uint8)
    if len(codes) < 4:
        return codes.copy()
    exits = [codes[1:][codes[:-1] == base] for base in range(5)]
    last = _last_exits(exits, int(codes[-1]), rng)
    queues = []
    for base, targets in enumerate(exits):
        if base in last:
            spare = np.delete(targets, np.flatnonzero(targets == last[base])[0])
            queues.append([*rng.permutation(spare).tolist(), last[base]])
        else:
            queues.append(rng.permutation(targets).tolist())
    walk = bytearray([codes[0]])
    steps = [iter(queue) for queue in queues]
    here = int(codes[0])
    for _ in range(len(codes) - 1):
        here = next(steps[here])
        walk.append(here)
    return np.frombuffer(bytes(walk), dtype=np.uint8).copy()


def _last_exits(exits: list[np.ndarray], end: int, rng: np.random.Generator) -> dict[int, int]:
    """Last exit of every base that is left but the end: a spanning tree towards it, by loop-erased random walks."""
    last: dict[int, int] = {}
    done = {end}
    for base in range(5):
        here = base
        while len(exits[here]) and here not in done:
            last[here] = int(exits[here][rng.integers(len(exits[here]))])
            here = last[here]
        here = base
        while len(exits[here]) and here not in done:
            done.add(here)
            here = last[here]
    last.pop(end, None)
    return last


def content_hash(codes: np.ndarray, *more: str) -> str:
    """Hash (32 hexadecimal digits) of codes of any shape and of further words, the same on every machine."""
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    words = [str(codes.shape), *more]
    head = "".join(f"{len(word)}:{word}" for word in words).encode("utf-8")
    return hashlib.blake2b(head + b"|" + codes.tobytes(), digest_size=16).hexdigest()
