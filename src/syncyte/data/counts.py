"""Raw counts: which matrix of a table holds them, and proof that it does.

Candidates are tried in the order ``layers["counts"]``, ``raw.X``, ``X``. A matrix counts as raw when its stored values
are whole, finite and not negative. Matrices in memory are tested whole; of those on disk the first, middle and last
cells are tested here and every cell when it is read (``CheckedRows``). Nothing is undone by guessing: a normalised
matrix is refused with the line that mends it.
Leaves out: where matrices come from (``data.sources``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.backed import CsrRows, Handle, storage_advice
from syncyte.data.cells import BLOCK, MemoryRows, Rows
from syncyte.errors import DataError, unknown

PROBE = 512  # cells looked at in each of three places of a matrix on disk
WHOLE = 1e-3  # how far a value may be from a whole number; restored counts carry such errors
PIECE = 2**24  # stored values tested at once
PASS_CELLS = 200_000  # up to this many cells of a matrix without row pointers are read to count the empty ones


@dataclass(frozen=True)
class Slot:
    """A matrix of a table, opened only when it is looked at."""

    name: str
    open: Callable[[], Rows]
    var: pd.DataFrame
    handle: Handle | None = None


@dataclass(frozen=True)
class Counts:
    """The chosen matrix and what is known about it."""

    slot: str
    rows: Rows
    var: pd.DataFrame
    sentence: str
    empty: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Finding:
    """What the stored values of a matrix are. ``problem`` is empty where they are counts."""

    problem: str
    largest: float
    binary: bool
    exact: bool
    looked: int


@dataclass(frozen=True)
class CheckedRows:
    """Counts on disk, tested as they are read: the probe at opening sees only part of them."""

    rows: Rows
    label: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.shape

    def read(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        """Rows in the order asked for; an error names the first value that is no count."""
        block = self.rows.read(rows)
        flaw = _flaw(block)
        if flaw:
            where, column, value = flaw
            raise DataError(
                f"{self.label} holds {value:g} at cell {int(rows[where])}, feature {column} (counted from 0); raw "
                "counts are whole and not negative. The cells looked at when the file was opened were fine, so the "
                "matrix is mixed or damaged: write it again from the raw counts."
            )
        np.rint(block.data, out=block.data)
        return block


def find_counts(slots: Sequence[Slot], names: pd.Index, label: str, layer: str | None = None) -> Counts:
    """Choose the matrix with the raw counts.

    Parameters
    ----------
    slots
        Every matrix of the table, in order of trust; layers other than ``counts`` come last and are only taken by name.
    names
        Cell names, for messages.
    label
        How messages name the table.
    layer
        ``X``, ``raw``, or the name of a layer; None chooses.

    Raises
    ------
    DataError
        If no candidate holds raw counts; the message says what each holds and which line mends it.
    """
    candidates = _candidates(slots, label, layer)
    seen: list[tuple[Slot, _Finding]] = []
    for slot in candidates:
        rows = slot.open()
        _check_shape(rows, slot, names, label)
        finding = _inspect(rows, names, slot.var.index)
        if not finding.problem:
            return _counts(slot, rows, finding, label, seen)
        seen.append((slot, finding))
    raise DataError(_refusal(seen, slots, names, label))


def _candidates(slots: Sequence[Slot], label: str, layer: str | None) -> list[Slot]:
    if layer is None:
        chosen = [slot for slot in slots if slot.name in ("layers['counts']", "raw.X", "X")]
        if not chosen:
            listed = ", ".join(slot.name for slot in slots) or "no matrix at all"
            raise DataError(
                f"{label} has no X, raw.X or layers['counts'] (found: {listed}). Name one with layer (--layer)."
            )
        return chosen
    wanted = {"X": "X", "raw": "raw.X", "raw.X": "raw.X"}.get(layer, f"layers[{layer!r}]")
    chosen = [slot for slot in slots if slot.name == wanted]
    chosen = chosen or [slot for slot in slots if slot.name == f"layers[{layer!r}]"]  # a layer that is named raw
    if not chosen:
        raise DataError(f"{label}: {unknown('layer', layer, [layer_name(slot.name) for slot in slots])}")
    return chosen


def layer_name(slot: str) -> str:
    """Name a slot as the user would for ``layer``: ``counts`` for ``layers['counts']``, ``raw`` for ``raw.X``."""
    return slot.removesuffix(".X").removeprefix("layers['").removesuffix("']")


def _check_shape(rows: Rows, slot: Slot, names: pd.Index, label: str) -> None:
    if rows.shape != (len(names), len(slot.var)):
        raise DataError(
            f"{label}: {slot.name} is {rows.shape[0]:,} x {rows.shape[1]:,}, its tables name {len(names):,} cells and "
            f"{len(slot.var):,} features. The file is damaged or was written by hand: write it again with anndata."
        )
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        what = "cells" if rows.shape[0] == 0 else "features"
        raise DataError(
            f"{label} has no {what} ({rows.shape[0]:,} x {rows.shape[1]:,}). Check the filters that made it."
        )


def _counts(slot: Slot, rows: Rows, finding: _Finding, label: str, seen: list[tuple[Slot, _Finding]]) -> Counts:
    kind = "open or closed only" if finding.binary else f"whole numbers, largest seen {finding.largest:,.0f}"
    cells = rows.shape[0]
    how = (
        "every cell tested"
        if finding.looked == cells
        else f"{finding.looked:,} of {cells:,} cells tested, the rest as read"
    )
    notes = [f"{label}: {other.name} was passed over, {found.problem}." for other, found in seen]
    if not finding.exact:
        notes.append(f"{label}: {slot.name} is whole only up to {WHOLE:g}; values were rounded.")
    if slot.handle is not None and (advice := storage_advice(slot.handle)):
        notes.append(f"{label}: {slot.name} {advice}.")
    empty = empty_cells(rows)
    if isinstance(rows, MemoryRows):
        rows = rows if finding.exact else MemoryRows(_rounded(rows.matrix))
    else:
        rows = CheckedRows(rows, f"{label}, {slot.name},")
    return Counts(slot.name, rows, slot.var, f"raw counts in {slot.name}: {kind} ({how})", empty, tuple(notes))


def _rounded(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix = sp.csr_matrix((np.rint(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
    matrix.eliminate_zeros()
    return matrix


def empty_cells(rows: Rows) -> int | None:
    """Cells without any count; None where only a full pass over a large matrix would tell."""
    if isinstance(rows, MemoryRows):
        return int((np.diff(rows.matrix.indptr) == 0).sum())
    if isinstance(rows, CsrRows):
        return int((rows.lengths == 0).sum())
    if rows.shape[0] > PASS_CELLS:
        return None
    starts = range(0, rows.shape[0], BLOCK)
    blocks = (rows.read(np.arange(start, min(start + BLOCK, rows.shape[0]))) for start in starts)
    return sum(int((np.diff(block.indptr) == 0).sum()) for block in blocks)


def _inspect(rows: Rows, names: pd.Index, features: pd.Index) -> _Finding:
    """Test all values of a matrix in memory, those of three blocks of cells otherwise."""
    n = rows.shape[0]
    if isinstance(rows, MemoryRows):
        looked, block = np.arange(n), rows.matrix
    else:
        starts = sorted({0, max(0, (n - PROBE) // 2), max(0, n - PROBE)})
        looked = np.unique(np.concatenate([np.arange(start, min(start + PROBE, n)) for start in starts]))
        block = rows.read(looked)
    flaw = _flaw(block)
    largest = float(block.data.max()) if block.nnz else 0.0
    if flaw:
        place = f"at cell {names[looked[flaw[0]]]!r}, feature {features[flaw[1]]!r}"
        return _Finding(_problem(block, flaw[2], place), largest, False, True, len(looked))
    if block.nnz == 0 and (len(looked) == n or empty_cells(rows) == n):
        return _Finding("all values are zero", 0.0, False, True, len(looked))
    exact = all(np.array_equal(piece, np.rint(piece)) for piece in _pieces(block.data))
    return _Finding("", largest, bool(block.nnz) and largest == 1 and block.data.min() == 1, exact, len(looked))


def _pieces(values: NDArray) -> list[NDArray]:
    return [values[start : start + PIECE] for start in range(0, len(values), PIECE)]


def _flaw(block: sp.csr_matrix) -> tuple[int, int, float] | None:
    """Row, column and value of what is no count, if anything: NaN or infinity first, then negative, then broken."""
    tests: tuple[Callable[[NDArray], NDArray], ...] = (
        lambda x: ~np.isfinite(x),
        lambda x: x < 0,
        lambda x: np.abs(x - np.rint(x)) > WHOLE,
    )
    for test in tests:
        for number, piece in enumerate(_pieces(block.data)):
            with np.errstate(invalid="ignore"):
                bad = np.flatnonzero(test(piece))
            if len(bad):
                at = number * PIECE + int(bad[0])
                row = int(np.searchsorted(block.indptr, at, side="right")) - 1
                return row, int(block.indices[at]), float(block.data[at])
    return None


def _problem(block: sp.csr_matrix, value: float, place: str) -> str:
    """Say in words what a matrix holds instead of counts."""
    if not np.isfinite(value):
        return f"it holds {'NaN' if np.isnan(value) else 'infinity'} {place}"
    whole = float(np.mean(np.abs(block.data - np.rint(block.data)) <= WHOLE))
    largest = float(block.data.max())
    if value < 0:
        kind = "negative counts" if whole == 1 else "scaled or centred values, not counts"
        return f"it holds {kind}: {value:g} {place}"
    found = f"{value:.4g} {place}, largest {largest:.4g}"
    sums = np.asarray(block.sum(axis=1)).ravel()
    sums = sums[sums > 0]
    if len(sums) > 1 and np.ptp(sums) < 1e-3 * sums.mean():
        return f"it looks normalised by depth (every cell sums to {sums.mean():,.0f}): {found}"
    if largest < 20 and whole < 0.5:
        return f"it looks log-normalised: {found}"
    return f"it holds values that are not whole ({1 - whole:.0%} of them): {found}"


def _refusal(seen: list[tuple[Slot, _Finding]], slots: Sequence[Slot], names: pd.Index, label: str) -> str:
    found = "; ".join(f"{slot.name}: {finding.problem}" for slot, finding in seen)
    if all(finding.problem == "all values are zero" for _, finding in seen):
        return (
            f"{label} holds nothing but zeros ({found}). Check the step that wrote it; there is nothing to learn from."
        )
    tried = {slot.name for slot, _ in seen}
    good = []
    for slot in slots:
        if slot.name not in tried:
            rows = slot.open()
            if rows.shape == (len(names), len(slot.var)) and not _inspect(rows, names, slot.var.index).problem:
                good.append(layer_name(slot.name))
    head = f"No raw counts in {label}. {found}. Raw counts (whole, finite, not negative) are needed."
    if good:
        return f"{head} {good[0]!r} does hold whole numbers: pass layer={good[0]!r} (--layer {good[0]})."
    if all("NaN" in finding.problem or "infinity" in finding.problem for _, finding in seen):
        return (
            f"{head} If missing means zero: adata.X = scipy.sparse.csr_matrix(adata.X); "
            "adata.X.data[~numpy.isfinite(adata.X.data)] = 0  # then try again"
        )
    return (
        f"{head} Put the matrix from before normalisation beside it and save again: "
        'adata.layers["counts"] = raw_counts  # then try again'
    )
