"""Embedding and integration beside their baselines: types apart, technical batches mixed, depth kept out.

Baselines are fitted on the reference and applied to the held-out cells, as the model is; Harmony, which knows no new
cells, is fitted on the cells it is scored on, like the model's integration. Leaves out scVI (``benchmarks``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.baselines.deep import scvi_embedding
from syncyte.baselines.integrate import harmony_embedding
from syncyte.baselines.residual import Kind
from syncyte.baselines.space import Scaling, Space
from syncyte.baselines.start import LinearStart
from syncyte.data.cells import Cells, Part, StackedRows
from syncyte.errors import MissingExtraError
from syncyte.metrics.embedding import depth_correlation, score_embedding
from syncyte.metrics.pairs import score_pairs
from syncyte.modalities import modalities
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.trained import Trained

EMBED_COLUMNS = ("bio", "nmi", "ari", "asw_label", "clisi", "graph_connectivity", "depth_r")
INTEGRATE_COLUMNS = (
    *("overall", "bio", "batch", "nmi", "ari", "asw_label", "clisi", "asw_batch", "ilisi", "graph_connectivity"),
    "isolated_labels",
)
SPACES: dict[Kind, tuple[tuple[Scaling, str], ...]] = {
    "pearson": (("log_cp10k", "PCA"), ("pearson", "PCA of Pearson residuals")),
    "depth": (("tfidf", "LSI"),),
}
AXES = 30
MOST_PAIRS = 5_000

Embedding = NDArray[np.float32]
Say = Callable[[str], None]


def compare_embeddings(
    trained: Trained,
    name: str,
    held: Cells,
    reference: Cells,
    labels: NDArray[Any] | None,
    *,
    seed: int = 0,
    say: Say = lambda text: None,
) -> tuple[pd.DataFrame, Embedding]:
    """Table of methods, and the embedding of the model.

    Parameters
    ----------
    held, reference
        Aligned cells. Embeddings of one modality alone are scored where all held-out cells have it.
    labels
        ``(n,)`` cell types; without them only the correlation with depth is scored.
    """
    whole = [mod for mod in held.modalities if held.present(mod).all()]
    depth = {mod: depths(held, mod) for mod in whole}
    own: Embedding = embed_cells(trained, held, seed=seed).obsm["X_syncyte"]
    found: dict[str, tuple[Embedding, Sequence[str]]] = {name: (own, whole)}
    if len(held.modalities) > 1:
        for mod in whole:
            found[f"{name}, {mod} alone"] = (embed_cells(trained, held.only([mod])).obsm["X_syncyte"], [mod])
    found |= baseline_spaces(held, reference, whole, seed)
    rows = {}
    for method, (embedding, read) in found.items():
        say(f"embed: {method}")
        scores = score_embedding(embedding, labels=labels, seed=seed)
        strongest = [np.abs(depth_correlation(embedding, depth[mod])).max() for mod in read]
        scores["depth_r"] = float(max(strongest, default=np.nan))
        rows[method] = scores
    return _table(rows, EMBED_COLUMNS), own


def baseline_spaces(
    held: Cells, reference: Cells, names: Sequence[str], seed: int
) -> dict[str, tuple[Embedding, Sequence[str]]]:
    """Linear spaces of the reference that hold the cells, by name, with the modality each reads."""
    found: dict[str, tuple[Embedding, Sequence[str]]] = {}
    for mod in names:
        if mod not in reference.modalities:
            continue
        counts, seen = reference.take(reference.present(mod)).counts(mod), held.counts(mod)
        for scaling, words in SPACES[modalities[mod].residual]:
            space = Space(scaling, AXES, seed).fit(counts)
            found[f"{words} ({mod})"] = (space.transform(seen), [mod])
    return found


def compare_integration(
    trained: Trained,
    name: str,
    cells: Cells,
    reference: Cells,
    batch_key: str,
    labels: NDArray[Any],
    *,
    peers: bool = False,
    seed: int = 0,
    say: Say = lambda text: None,
) -> tuple[pd.DataFrame, Embedding, list[str]]:
    """Table of methods on cells of several technical batches, the model's integrated embedding, and notes.

    ``peers`` trains scVI on counts too, where it is installed.
    """
    from syncyte.tasks.integrate import integrate_cells

    notes: list[str] = []
    batches = cells.column(batch_key).astype(str).to_numpy()
    say(f"integrate: {name}")
    own: Embedding = integrate_cells(trained, cells, batch_key=batch_key, seed=seed, quiet=True).obsm[
        "X_syncyte_integrated"
    ]
    found: dict[str, Embedding] = {name: own, f"{name}, not integrated": embed_cells(trained, cells).obsm["X_syncyte"]}
    whole = [mod for mod in cells.modalities if cells.present(mod).all()]
    for method, (embedding, _) in baseline_spaces(cells, reference, whole, seed).items():
        found[method] = embedding
        try:
            say(f"integrate: Harmony on {method}")
            found[f"Harmony on {method}"] = harmony_embedding(embedding, batches, seed)
        except MissingExtraError as error:
            notes.append(f"Harmony is left out: {error}")
    for mod in whole if peers else []:
        if modalities[mod].residual == "pearson":
            try:
                say(f"integrate: scVI ({mod}) is trained")
                found[f"scVI ({mod})"] = scvi_embedding(cells.counts(mod), batches, seed=seed).embedding
            except MissingExtraError as error:
                notes.append(f"scVI is left out: {error}")
    rows = {key: score_embedding(values, labels=labels, batches=batches, seed=seed) for key, values in found.items()}
    return _table(rows, INTEGRATE_COLUMNS), own, list(dict.fromkeys(notes))


def compare_pairs(
    trained: Trained, name: str, held: Cells, start: LinearStart | None, labels: NDArray[Any] | None, seed: int
) -> pd.DataFrame | None:
    """How near the two sides of the same cells lie, each seen alone; None where no two modalities are paired."""
    names = held.modalities
    paired = np.flatnonzero(np.logical_and.reduce([held.present(mod) for mod in names]))
    if len(names) != 2 or len(paired) < 50:
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
    return pd.DataFrame(rows).T.rename_axis("method")


def depths(cells: Cells, modality: str) -> NDArray[np.float64]:
    """``(n,)`` total count of every cell, read in blocks."""
    total = np.zeros(len(cells))
    for rows, block in cells.blocks(modality):
        total[rows] = np.asarray(block.sum(axis=1)).ravel()
    return total


def stack_cells(first: Cells, second: Cells) -> Cells:
    """Cells one below the other, both with the same features; modalities and columns both have."""
    shared = [column for column in first.obs.columns if column in second.obs.columns]
    parts = {}
    for name in first.modalities:
        if name not in second.modalities:
            continue
        a, b = first.part(name), second.part(name)
        below = np.where(b.index >= 0, b.index + a.rows.shape[0], -1)
        parts[name] = Part(StackedRows((a.rows, b.rows)), np.concatenate([a.index, below]), a.var)
    obs = pd.concat([first.obs[shared].astype(object), second.obs[shared].astype(object)])
    return replace(first, obs=obs, parts=parts)


def _table(rows: dict[str, dict[str, float]], columns: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows).T.rename_axis("method")
    return table[[column for column in columns if column in table]]
