"""Quality of cells from their fragments: the columns of ``obs``, each with its formula.

``fragments``
    Fragments on the reference's chromosomes without the mitochondrion. One line of the file is one fragment.
``mitochondrial_share``
    Fragments on chrM, of all on known chromosomes.
``duplicate_share``
    1 - fragments / read pairs, the read pairs being the sum of column 5; NaN where a line lacks it.
``nucleosome_signal``
    Mono-nucleosomal fragments (147 to 293 bp) over nucleosome-free ones (below 147 bp); NaN without the latter.
``tss_enrichment``
    Insertions within 50 bp of a transcription start, per base (101), over those 1,901 to 2,000 bp away on either side,
    per base (200). One insertion is added to the flanks, so that shallow cells have a number; places near several
    starts count for each. Starts are those of genes, one each.
``frip``
    Share of fragments that overlap a peak by at least one base.

Leaves out: thresholds. Which cells are good is the user's choice.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.fragments.parse import COLUMNS
from syncyte.genome.intervals import CENTRE, FLANK


def quality(stats: NDArray[np.int64], names: list[str], tss: bool, peaks: bool) -> pd.DataFrame:
    """Columns of ``obs``.

    Parameters
    ----------
    stats
        ``(n, 8)`` numbers of each cell, ``parse.COLUMNS``.
    names
        ``(n,)`` barcodes.
    tss, peaks
        Whether transcription starts and peaks were known.

    Returns
    -------
    DataFrame
        ``(n, 4 to 6)``, in the order of ``names``.
    """
    known = pd.DataFrame(stats, columns=list(COLUMNS), index=pd.Index(names, name="barcode"))
    everything = known["fragments"] + known["mitochondrial"]
    found = pd.DataFrame(
        {
            "fragments": known["fragments"],
            "mitochondrial_share": _share(known["mitochondrial"], everything),
            "duplicate_share": 1 - _share(everything, known["reads"]),
            "nucleosome_signal": _share(known["mono"], known["free"]),
        }
    )
    if tss:
        found["tss_enrichment"] = enrichment(known["centre"].to_numpy(), known["flank"].to_numpy())
    if peaks:
        found["frip"] = _share(known["in_peaks"], known["fragments"])
    return found


def enrichment(centre: NDArray, flank: NDArray) -> NDArray[np.float64]:
    """Enrichment at transcription starts from insertions at centres and flanks (formula: see the module)."""
    return (centre / (2 * CENTRE + 1)) / ((flank + 1) / (2 * (FLANK[1] - FLANK[0])))


def _share(part: pd.Series, whole: pd.Series) -> pd.Series:
    return part / whole.where(whole > 0)
