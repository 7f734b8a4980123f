"""Cells out of a scan: who is one, checks that the file fits the reference, and what comes back.

Leaves out: the pass over the file (``count``), how counts are written (``write``), and plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.data.fragments import parse as loop
from syncyte.data.fragments.barcodes import LEAST, cell_threshold
from syncyte.data.fragments.count import Advance, Counting, Scan, scan_fragments, spelled
from syncyte.data.fragments.quality import enrichment, quality
from syncyte.data.fragments.target import Target
from syncyte.data.fragments.write import CountsFile, counts_file
from syncyte.errors import DataError, GenomeError
from syncyte.genome.coordinates import chromosome_name, region_names

if TYPE_CHECKING:
    from anndata import AnnData

WRONG_TSS, ENOUGH = (
    1.2,
    5_000,
)  # enrichment of all cells together below which the build is wrong; flank insertions needed


@dataclass(frozen=True)
class FragmentCounts:
    """What came of a fragment file.

    Attributes
    ----------
    obs
        ``(n, ...)`` quality of each cell (``quality``).
    ranked
        ``(b,)`` fragments of every barcode of the file, most first; of the listed ones where a list was given.
    report
        What was done and counted: it stands in ``uns["syncyte"]`` of the counts.
    path
        The file written, or None.
    matrix
        ``(n, r)`` CSR of int32, or None where a file was written.
    regions
        ``(r, 3)`` table of the columns.
    """

    obs: pd.DataFrame
    ranked: NDArray[np.int64]
    report: dict[str, Any]
    path: Path | None
    matrix: sp.csr_matrix | None
    regions: pd.DataFrame

    @property
    def adata(self) -> AnnData:
        """The counts with everything known of cells and regions, in memory."""
        import anndata

        if self.matrix is None:
            return anndata.read_h5ad(str(self.path))
        return anndata.AnnData(
            self.matrix,
            obs=self.obs,
            var=self.regions.set_axis(region_names(self.regions)),
            uns={"syncyte": {"fragments": self.report}},
        )

    @property
    def summary(self) -> str:
        """Some lines for people."""
        said = self.report
        lines = [
            f"{said['fragments_read']:,} fragments read, {said['fragments_of_cells']:,} of them in "
            f"{said['cells']:,} cells",
            f"{said['counts']:,} counts in {said['nonzero']:,} places of {said['cells']:,} cells x {said['regions']:,} "
            f"regions ({said['rule']})",
            said["cells_rule"],
        ]
        median = self.obs.median(numeric_only=True)
        lines.append("medians: " + ", ".join(f"{name} {value:,.3g}" for name, value in median.items()))
        return "\n".join([*lines, *said["notes"]])


def count_file(
    path: Path,
    target: Target,
    how: Counting,
    out: Path | None,
    *,
    min_fragments: int | None = None,
    force: bool = False,
    advance: Advance | None = None,
) -> FragmentCounts:
    """Count a fragment file, into ``out`` or into memory; the parameters are those of the two steps."""
    with nullcontext() if out is None else counts_file(out, target.table) as file:
        scan = scan_fragments(path, target, how, None if out is None else out.parent, advance)
        return finish(scan, how, min_fragments=min_fragments, force=force, file=file)


def finish(
    scan: Scan,
    how: Counting,
    *,
    min_fragments: int | None,
    force: bool,
    file: CountsFile | None,
) -> FragmentCounts:
    """Choose the cells of a scan and write their counts.

    Parameters
    ----------
    scan
        Closed in any case.
    how
        As given to the scan.
    min_fragments
        Least fragments of a cell; None takes the listed ones, or finds a threshold (``barcodes``).
    force
        Go on where the file seems to be of another genome build.
    file
        Where the counts go, or None to keep them in memory.
    """
    listed = how.barcodes
    try:
        fits = check_build(scan, force)
        stats = scan.table.stats[: scan.barcodes]
        ids, rule = _cells(scan, stats[:, 0], listed, min_fragments)
        names = spelled(scan, ids, listed)
        if listed is None:
            order = np.argsort(np.array(names))
            ids, names = ids[order], [names[place] for place in order.tolist()]
        obs = quality(stats[ids], names, len(scan.target.weights) > 0, bool(scan.target.peaks_of))
        report = _report(scan, how, stats[ids], rule, fits)
        ranked = np.sort(stats[:, 0])[::-1]
        matrix, rows = None, scan.runs.blocks(ids, scan.barcodes)
        if file is None:
            matrix = _matrix(rows, (len(ids), len(scan.target.table)))
            report |= {"counts": int(matrix.data.sum(dtype=np.int64)), "nonzero": int(matrix.nnz)}
        else:
            report |= file.write_rows(rows, len(ids))
            file.write_tables(obs, report)
        return FragmentCounts(obs, ranked, report, None if file is None else file.path, matrix, scan.target.table)
    finally:
        scan.runs.close()


def _cells(
    scan: Scan, fragments: NDArray[np.int64], listed: Sequence[str] | None, least: int | None
) -> tuple[NDArray[np.int64], str]:
    """Ids of the cells and the rule, in words."""
    if listed is not None:
        found = int((fragments > 0).sum())
        if not found:
            first = ", ".join(listed[:3])
            raise DataError(
                f"None of the {len(listed):,} barcodes of the list is in {scan.path} (the list begins "
                f"{first}; the file "
                f"has {_seen(scan.path)}). Give the list of this sample; of a multiome, the ATAC barcodes."
            )
        kept = np.flatnonzero(fragments >= (least or 0))
        said = f"{found:,} of the {len(listed):,} listed barcodes are in the file"
        said += f"; those with at least {least:,} fragments are kept" if least else "; all listed ones are kept"
    else:
        threshold, said = (
            (least, f"barcodes with at least {least:,} fragments are cells") if least else cell_threshold(fragments)
        )
        kept = np.flatnonzero(fragments >= threshold)
    if not len(kept):
        most = int(fragments.max(initial=0))
        raise DataError(
            f"No barcode of {scan.path} has enough fragments to be a cell: the fullest has {most:,}, needed are "
            f"{least or LEAST:,}. Lower min_fragments (--min-fragments), or check that the reference fits."
        )
    return kept, said


def _seen(path: Path) -> str:
    from syncyte.data.fragments.read import blocks

    text = next(iter(blocks(path))).text[:4096].tobytes().decode("utf-8", errors="replace")
    rows = [line.split("\t") for line in text.split("\n")[:-1] if not line.startswith("#")]
    return ", ".join([row[3] for row in rows if len(row) > 3][:3])


def check_build(scan: Scan, force: bool) -> str:
    """Tell whether the fragments lie on the reference's genome build.

    Against it speak: more than half of the fragments on chromosomes the reference lacks; more than 0.1 % (and 2) that
    end beyond their chromosome; no more insertions at transcription starts than 2 kb away, over all barcodes, where
    there are enough to tell.

    Raises
    ------
    GenomeError
        On a contradiction, unless forced.
    """
    read, lost, beyond = (int(scan.tally[key]) for key in (loop.READ, loop.UNKNOWN, loop.BEYOND))
    stats = scan.table.stats[: scan.barcodes].sum(axis=0)
    centre, flank = (int(stats[loop.COLUMNS.index(name)]) for name in ("centre", "flank"))
    said = f"{scan.path} does not fit the genome build of the reference {scan.target.name!r}:"
    wrong = ""
    if lost > 0.5 * read:
        lacking = [name for name in scan.chroms[1:] if chromosome_name(name) not in scan.target.chroms]
        wrong = f"{lost / read:.1%} of its fragments are on chromosomes it lacks, such as {', '.join(lacking[:3])}"
    elif beyond >= 2 and beyond > 0.001 * (read - lost):
        wrong = f"{beyond:,} fragments ({beyond / (read - lost):.2%}) end beyond the end of their chromosome"
    elif flank >= ENOUGH and enrichment(np.array(centre), np.array(flank)) < WRONG_TSS:
        wrong = (
            f"insertions are {enrichment(np.array(centre), np.array(flank)):.2f} times as dense at "
            "transcription starts as "
            "2 kb away, and several times would be expected"
        )
    if wrong and not force:
        raise GenomeError(
            f"{said} {wrong}. Use a reference of the build the reads were aligned to. If you know that they fit, pass "
            "force=True (--force)."
        )
    return wrong


def _report(scan: Scan, how: Counting, stats: NDArray[np.int64], rule: str, wrong: str) -> dict[str, Any]:
    """What was done, for ``uns``: plain values that any file format holds."""
    target, tally = scan.target, scan.tally
    other = {name: chromosome_name(name) for name in scan.chroms[1:] if name not in target.chroms}
    mapped = {name: to for name, to in other.items() if to in target.chroms}
    notes = list(scan.notes)
    if mapped:
        name, to = next(iter(mapped.items()))
        notes.append(f"{len(mapped)} chromosomes are spelled otherwise in the file ({name} is {to}); taken as the same")
    if lost := int(tally[loop.UNKNOWN]):
        lacking = [name for name in other if name not in mapped]
        notes.append(f"{lost:,} fragments on chromosomes the reference lacks ({', '.join(lacking[:3])}) were left out")
    if beyond := int(tally[loop.BEYOND]):
        notes.append(f"{beyond:,} fragments that end beyond their chromosome were left out")
    if wrong:
        notes.append(f"forced although {wrong}")
    return {
        "source": scan.path.name,
        "syncyte": version("syncyte"),
        "reference": target.name,
        "reference_hash": target.hash,
        "rule": how.rule,
        "shift": np.array(how.shift, dtype=np.int64),
        "peaks": target.peaks_of,
        "cells_rule": rule,
        "fragments_read": int(tally[loop.READ]),
        "fragments_on_unknown_chromosomes": int(tally[loop.UNKNOWN]),
        "fragments_beyond_ends": int(tally[loop.BEYOND]),
        "fragments_of_unlisted_barcodes": int(tally[loop.UNLISTED]),
        "fragments_outside_regions": int(tally[loop.READ] - tally[1:].sum()),
        "fragments_of_cells": int(stats[:, 0].sum() + stats[:, 4].sum()),
        "barcodes": scan.barcodes,
        "cells": len(stats),
        "regions": len(target.table),
        "notes": notes,
    }


def _matrix(rows: Iterator[tuple[NDArray, NDArray, NDArray]], shape: tuple[int, int]) -> sp.csr_matrix:
    lengths, columns, counts = zip(*rows)
    indptr = np.append(0, np.cumsum(np.concatenate(lengths)))
    return sp.csr_matrix((np.concatenate(counts), np.concatenate(columns), indptr), shape=shape)
