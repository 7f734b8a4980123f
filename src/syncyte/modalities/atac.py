"""ATAC: a patch of consecutive regions is a token, its value the set of open regions in it.

Predictions are probabilities of being open. Patches hold equal numbers of regions within a chromosome, in genome
order; none is empty and no region is lost at an edge.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.residual import Kind
from syncyte.genome.regions import parse_regions
from syncyte.modalities.base import Layout, modalities
from syncyte.types import Schema


def patch_regions(chrom: NDArray[np.int64], start: NDArray[np.int64], patches: int) -> NDArray[np.int64]:
    """Patch of each region: ``patches`` in all (at least one a chromosome), equal in size within a chromosome.

    Parameters
    ----------
    chrom
        ``(r,)`` chromosome codes; patches are numbered in order of code.
    start
        ``(r,)`` region starts.
    patches
        Number wanted; chromosomes share them in proportion to their regions.
    """
    patch_of = np.empty(len(chrom), dtype=np.int64)
    size = max(1.0, len(chrom) / max(patches, 1))
    first = 0
    for code in np.unique(chrom):
        members = np.flatnonzero(chrom == code)
        members = members[np.argsort(start[members], kind="stable")]
        count = max(1, round(len(members) / size))
        patch_of[members] = first + (np.arange(len(members)) * count) // len(members)
        first += count
    return patch_of


class Atac:
    """Open chromatin by region."""

    schema = Schema("atac", "region", ("Peaks",), ("atac", "peaks", "chromatin", "accessibility"), rank=0)
    residual: Kind = "depth"
    likelihoods = ("profile", "bernoulli", "poisson")
    per_cell = 0.0  # openings are not brought to a total
    unit = "probability of being open"

    def layout(self, var: pd.DataFrame, *, tokens: int, groups: int, slots: int = 0) -> Layout:
        """Patches of regions, ``groups`` in all; ``slots`` > 0 gives the published slots (regions beyond share)."""
        places = parse_regions(var.index, var)
        chrom, _ = pd.factorize(places["chrom"], sort=True)
        start = places["start"].to_numpy(dtype=np.int64)
        patch_of = patch_regions(chrom.astype(np.int64), start, groups)
        count = int(patch_of.max()) + 1
        group = np.zeros(count, dtype=np.int64)
        group[patch_of] = chrom
        middle = np.bincount(patch_of, weights=start, minlength=count) / np.bincount(patch_of, minlength=count)
        position = (middle / max(float(start.max()), 1.0)).astype(np.float32)  # one scale for all chromosomes
        slot_of = None
        if slots:
            order = np.lexsort((start, patch_of))
            per_patch = np.bincount(patch_of, minlength=count)
            rank = np.arange(len(order)) - np.repeat(np.cumsum(per_patch) - per_patch, per_patch)
            slot_of = np.empty(len(order), dtype=np.int64)
            slot_of[order] = rank % slots
        return Layout(patch_of, count, tokens, group, position, slot_of, slots)

    def observed(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Ones where a region is open."""
        return sp.csr_matrix((np.ones_like(counts.data), counts.indices, counts.indptr), shape=counts.shape)


modalities.add("atac")(Atac())
