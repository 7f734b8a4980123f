"""What a set model remembers of its training cells: totals and sums by attributes.

Leaves out: what a model of words remembers (``word_memory``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from syncyte.baselines.groups import Groups
from syncyte.baselines.library import LibraryModel
from syncyte.baselines.prediction import depth_of
from syncyte.models.conditions import as_text

if TYPE_CHECKING:
    from syncyte.recipes.train_sets import Built

MOST_CELLS = 50_000  # that totals are taken from


def fit_library(built: Built, seed: int) -> dict[str, Any]:
    """Table of totals by categorical attributes, of training cells."""
    rows = np.sort(np.random.default_rng(seed).permutation(built.split.train)[:MOST_CELLS])
    totals = [depth_of(counts) for _, counts in built.cells.blocks(built.spec.modality, rows)]
    names = [name for name, one in built.coder.attributes.items() if one.categorical]
    table = pd.DataFrame({name: as_text(built.cells.obs[name].iloc[rows]) for name in names})
    table.index = pd.RangeIndex(len(rows))
    return LibraryModel.fit(np.log(np.maximum(np.concatenate(totals), 1)), table).to_dict()


def fit_groups(built: Built) -> Groups | None:
    """Sums of training cells by combination of categorical attributes; None without any, or with too many."""
    names = [name for name, one in built.coder.attributes.items() if one.categorical]
    if not names:
        return None
    labels = pd.DataFrame({name: as_text(built.cells.obs[name]).to_numpy() for name in names})
    rows = built.split.train
    blocks = ((np.searchsorted(rows, block), counts) for block, counts in built.cells.blocks(built.spec.modality, rows))
    return Groups.fit(blocks, labels.iloc[rows].reset_index(drop=True))
