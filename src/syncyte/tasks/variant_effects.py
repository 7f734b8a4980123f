"""Effects of changed tokens in cells: numbers for each pair of allele and gene, in every group of cells.

The cells that express a gene are read once for all alleles that change its token. What is kept of a pair is its change
of the gene's own value in every donor (cis); of all other genes the size of the change that the moved value brings
(root mean square, in standard deviations of each gene) and the genes that rise and fall most (trans); and what the new
token alone does with the value kept: size, and mean turn of the fifty contextual embeddings that turn most. On
simulated networks the moved value finds a factor's targets, and the token alone hardly does.
Blocks of pairs can be kept on disk, so that a killed run goes on. Leaves out: tests (``variant_tests``).
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from syncyte.atomic import atomic_file
from syncyte.meter import Meter
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.variant_tokens import Tokens

TURNED = 50  # genes whose turn is averaged, as the publication looks at fifty
NAMED = 10  # genes named in either direction
BLOCK = 256  # genes whose pairs are kept together on disk
ENTRIES = 20_000_000  # changes by allele, unit and gene that are held at a time
FIELDS = ("own", "size", "token", "turn", "top", "top_change", "cells")


@dataclass(frozen=True)
class Effects:
    """Numbers by pair ``p``, unit ``u`` (donor in a group) and group ``q``.

    Attributes
    ----------
    own
        ``(p, u)`` change of the gene's own predicted value.
    size, token
        ``(p, q)`` root mean square change of the other genes by the moved value, and by the token alone, in standard
        deviations.
    turn
        ``(p, q)`` mean 1 - cosine of the embeddings that turn most.
    top, top_change
        ``(p, q, 2 * NAMED)`` genes that rise most, then those that fall most, and by how much; -1 where there is none.
    cells
        ``(p, u)`` cells followed.
    groups
        ``(q,)`` names.
    """

    own: NDArray[np.float32]
    size: NDArray[np.float32]
    token: NDArray[np.float32]
    turn: NDArray[np.float32]
    top: NDArray[np.int32]
    top_change: NDArray[np.float32]
    cells: NDArray[np.int32]
    groups: tuple[str, ...]


def group_means(cells: NetworkCells, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the donors of each group, ``(v, u, ...)`` to ``(v, q, ...)``; NaN where no donor has a number."""
    code = cells.units["group"].astype("category").cat.codes.to_numpy()
    found = np.full((values.shape[0], code.max() + 1, *values.shape[2:]), np.nan, dtype=np.float32)
    for group in range(code.max() + 1):
        part = values[:, code == group]
        known = np.isfinite(part)
        count = known.sum(axis=1)
        total = np.where(known, part, 0).sum(axis=1)
        found[:, group] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def pair_effects(
    cells: NetworkCells,
    tokens: Tokens,
    *,
    keep: Path | None = None,
    shifts: bool = True,
    alone: bool = True,
    quiet: bool = True,
) -> Effects:
    """Effects of all pairs.

    Parameters
    ----------
    keep
        Folder for finished blocks; None keeps nothing.
    shifts
        Compare contextual embeddings too.
    alone
        Follow the token alone too; without, ``token`` and ``turn`` are NaN.
    """
    genes = tokens.table["gene"].to_numpy(dtype=np.int64)
    groups = tuple(sorted(cells.units["group"].unique()))
    found = _empty(len(genes), len(cells.units), groups)
    order = np.argsort(genes, kind="stable")
    distinct, starts = np.unique(genes[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    most = max(1, ENTRIES // (len(cells.units) * cells.model.spec.features))
    with Meter("cells", "genes", quiet) as meter:
        for begin in range(0, len(distinct), BLOCK):
            chosen = slice(begin, min(begin + BLOCK, len(distinct)))
            rows = order[starts[chosen][0] : ends[chosen][-1]]
            path = None if keep is None else keep / f"{_key(cells, tokens, rows, (shifts, alone))}.npz"
            if path is None or not _load(path, found, rows):
                for gene, first, last in zip(distinct[chosen], starts[chosen], ends[chosen]):
                    for low in range(first, last, most):
                        _fill(found, cells, tokens, int(gene), order[low : min(low + most, last)], shifts, alone)
                if path is not None:
                    _save(path, found, rows)
            meter.advance(chosen.stop, len(distinct), chosen.stop)
    return found


def _empty(pairs: int, units: int, groups: tuple[str, ...]) -> Effects:
    def missing(*shape: int) -> NDArray[np.float32]:
        return np.full((pairs, *shape), np.nan, dtype=np.float32)

    q = len(groups)
    top = np.full((pairs, q, 2 * NAMED), -1, dtype=np.int32)
    cells = np.zeros((pairs, units), dtype=np.int32)
    return Effects(missing(units), missing(q), missing(q), missing(q), top, missing(q, 2 * NAMED), cells, groups)


def _fill(
    found: Effects, cells: NetworkCells, tokens: Tokens, gene: int, rows: NDArray[np.int64], shifts: bool, alone: bool
) -> None:
    """Put the numbers of the pairs of one gene into place."""
    before, after = tokens.reference[rows[0]], tokens.alternate[rows]
    response = cells.respond(gene, after, before, carried=True, shifts=False)
    found.own[rows], found.cells[rows] = response.own, response.cells
    spread = cells.model.spread.cpu().numpy()
    change = group_means(cells, response.change) / spread
    others = max(change.shape[2] - 1, 1)
    found.size[rows] = np.sqrt(np.square(change).sum(axis=2) / others)
    if alone:
        kept = cells.respond(gene, after, before, kept=True, shifts=shifts)
        found.token[rows] = np.sqrt(np.square(group_means(cells, kept.change) / spread).sum(axis=2) / others)
        turn = group_means(cells, kept.shift)
        most = min(TURNED, turn.shape[2])
        found.turn[rows] = np.partition(turn, -most, axis=2)[:, :, -most:].mean(axis=2)
    named = min(NAMED, change.shape[2] // 2)
    ranked = np.argsort(-change, axis=2, kind="stable")
    top = np.concatenate([ranked[:, :, :named], ranked[:, :, ::-1][:, :, :named]], axis=2)
    values = np.take_along_axis(change * spread, top, axis=2)
    columns = np.concatenate([np.arange(named), NAMED + np.arange(named)])
    some = np.isfinite(values) & (values != 0)
    found.top[rows[:, None, None], np.arange(top.shape[1])[:, None], columns] = np.where(some, top, -1)
    found.top_change[rows[:, None, None], np.arange(top.shape[1])[:, None], columns] = np.where(some, values, np.nan)


def _key(cells: NetworkCells, tokens: Tokens, rows: NDArray[np.int64], how: object) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(cells.fingerprint.encode() + str(how).encode())
    digest.update(tokens.table["gene"].to_numpy(dtype=np.int64)[rows].tobytes())
    for part in (tokens.reference, tokens.alternate):
        digest.update(part[rows].cpu().numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, found: Effects, rows: NDArray[np.int64]) -> bool:
    """Fill in a block that was finished before; a damaged one is done again."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            parts = {name: kept[name] for name in FIELDS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return False
    if any(part.shape != getattr(found, name)[rows].shape for name, part in parts.items()):
        return False
    for name, part in parts.items():
        getattr(found, name)[rows] = part
    return True


def _save(path: Path, found: Effects, rows: NDArray[np.int64]) -> None:
    with atomic_file(path) as tmp, tmp.open("wb") as stream:
        np.savez(stream, **{name: getattr(found, name)[rows] for name in FIELDS})
