"""How near the two sides of the same cells lie, each embedded alone, beside linear methods and ridge regression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.baselines.match import RidgeMatch
from syncyte.baselines.space import Space
from syncyte.baselines.start import LinearStart
from syncyte.data.cells import Cells
from syncyte.data.split import choose_validation
from syncyte.metrics.pairs import score_pairs
from syncyte.modalities import modalities
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.trained import Trained

AXES = 50
MOST_PAIRS = 5_000
TUNE_CELLS = 1000
FEWEST = 50
Sides = tuple[NDArray[Any], NDArray[Any]]


def compare_pairs(
    trained: Trained,
    name: str,
    held: Cells,
    reference: Cells,
    start: LinearStart | None,
    labels: NDArray[Any] | None,
    *,
    batch_key: str | None = None,
    seed: int = 0,
) -> pd.DataFrame | None:
    """Scores of ``score_pairs`` by method; None where no two modalities are paired.

    Parameters
    ----------
    held, reference
        Aligned cells: those scored, and those that ridge regression learns from.
    start
        Linear start fitted on the reference; None leaves its row out.
    labels
        ``(n,)`` cell types of the held-out cells, for label transfer.
    batch_key
        Technical batches of the reference; one of them chooses the penalty of ridge regression.
    seed
        Of what is drawn: cells where there are many, axes, cells that choose.
    """
    names = held.modalities
    paired = paired_rows(held)
    if len(names) != 2 or len(paired) < FEWEST:
        return None
    if len(paired) > MOST_PAIRS:
        paired = np.sort(np.random.default_rng(seed).choice(paired, MOST_PAIRS, replace=False))
    cells = held.take(paired)
    kinds = None if labels is None else labels[paired]
    first, second = (embed_cells(trained, cells.only([mod])).obsm["X_syncyte"] for mod in names)
    rows = {name: score_pairs(first, second, kinds)}
    if start is not None:
        first, second = (
            start.latent(mod, cells.counts(mod)) * start.encoders[mod].strength[: start.components] for mod in names
        )
        rows["linear start"] = score_pairs(first, second, kinds)
    for method, sides in _ridges(cells, reference, batch_key, seed):
        rows[method] = score_pairs(*sides, kinds)
    return pd.DataFrame(rows).T.rename_axis("method")


def paired_rows(cells: Cells) -> NDArray[np.int64]:
    """Cells in which every modality is measured."""
    return np.flatnonzero(np.logical_and.reduce([cells.present(mod) for mod in cells.modalities]))


def _ridges(cells: Cells, reference: Cells, batch_key: str | None, seed: int) -> Iterator[tuple[str, Sides]]:
    """Both directions of ridge regression, where the reference has pairs to learn from."""
    names = cells.modalities
    if any(mod not in reference.modalities for mod in names):
        return
    known = reference.only(names)
    known = known.take(paired_rows(known))
    if len(known) < FEWEST:
        return
    batches = known.column(batch_key) if batch_key is not None and batch_key in known.obs else None
    chosen = choose_validation(batches, len(known), seed=seed).validation
    rows = np.sort(np.random.default_rng(seed).permutation(chosen)[:TUNE_CELLS])
    counts = {mod: known.counts(mod) for mod in names}
    for source, target in (names, names[::-1]):
        spaces = [Space(modalities[mod].residual, AXES, seed) for mod in (source, target)]
        match = RidgeMatch(spaces[0], spaces[1])
        match.tuned(counts[source], counts[target], rows, lambda a, b: score_pairs(a, b, tops=())["foscttm"])
        yield (
            f"ridge, {source} to {target}",
            (match.transform(cells.counts(source)), match.place(cells.counts(target))),
        )
