"""Embedding and integration beside their baselines: types apart, technical batches mixed, depth kept out.

Baselines are fitted on the reference and applied to the held-out cells, as the model is; Harmony, which knows no new
cells, is fitted on the cells it is scored on, like the model's integration. Every method is a function of cells, so
that it can be asked again about other cells (``compare_depth``). Leaves out pairs
(``compare_pairs``) and MultiVI (``compare_translate``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.deep import scvi_embedding
from syncyte.baselines.deep_atac import PeakVi, PoissonVi, load_snapatac, snapatac_embedding
from syncyte.baselines.integrate import harmony_embedding
from syncyte.baselines.residual import Kind
from syncyte.baselines.space import Scaling, Space
from syncyte.data.cells import Cells, Part, StackedRows
from syncyte.errors import MissingExtraError
from syncyte.metrics.embedding import depth_correlation, score_embedding
from syncyte.modalities import modalities
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.trained import Trained

EMBED_COLUMNS = (
    *("bio", "nmi", "ari", "nmi_fixed", "ari_fixed", "asw_label", "clisi", "graph_connectivity", "depth_r"),
)
INTEGRATE_COLUMNS = (
    *("overall", "bio", "batch", "nmi", "ari", "asw_label", "clisi", "asw_batch", "ilisi", "graph_connectivity"),
    "isolated_labels",
)
SPACES: dict[Kind, tuple[tuple[Scaling, str], ...]] = {
    "pearson": (("log_cp10k", "PCA"), ("pearson", "PCA of Pearson residuals")),
    "depth": (
        ("tfidf", "LSI"),
        ("tfidf_rest", "LSI without its first axis"),
        ("depth", "PCA of depth residuals"),
        ("spectral", "spectral embedding"),
    ),
}
PEERS: dict[Kind, tuple[type[PeakVi], ...]] = {"pearson": (), "depth": (PeakVi, PoissonVi)}
AXES = 30

Embedding = NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Method:
    """A fitted method: aligned cells to their embedding, and the modalities it reads."""

    embed: Callable[[Cells], Embedding]
    reads: Sequence[str]


@dataclass(frozen=True)
class Embedded:
    """Table of methods, the methods, what each gave for the held-out cells (the model's under its name), and notes."""

    table: pd.DataFrame
    methods: Mapping[str, Method]
    found: Mapping[str, Embedding]
    notes: list[str] = field(default_factory=list)


def compare_embeddings(
    trained: Trained,
    name: str,
    held: Cells,
    reference: Cells,
    labels: NDArray[Any] | None,
    *,
    peers: bool = False,
    seed: int = 0,
    say: Say = lambda text: None,
) -> Embedded:
    """Embed the held-out cells by the model and by every baseline, and score it.

    Parameters
    ----------
    held, reference
        Aligned cells. Embeddings of one modality alone are scored where all held-out cells have it.
    labels
        ``(n,)`` cell types, ``""`` where a cell has none: such a cell counts in the correlation with depth only.
        Without labels nothing else is scored.
    peers
        Also train PeakVI and PoissonVI on open regions, and run SnapATAC2, where they are installed.
    """
    whole = [mod for mod in held.modalities if held.present(mod).all()]
    depth = {mod: depths(held, mod) for mod in whole}
    notes: list[str] = []
    methods = model_methods(trained, name, held.modalities, whole, seed) | fitted_spaces(reference, whole, seed)
    methods |= fitted_peers(reference, whole, seed, say, notes) if peers else {}
    known = None if labels is None else np.flatnonzero(labels != "")
    rows, found = {}, {}
    for method, how in methods.items():
        say(f"embed: {method}")
        found[method] = how.embed(held)
        scores: dict[str, float] = {}
        if labels is not None and known is not None and len(known):
            scores = score_embedding(found[method][known], labels=labels[known], seed=seed)
        strongest = [np.abs(depth_correlation(found[method], depth[mod])).max(initial=0.0) for mod in how.reads]
        scores["depth_r"] = float(max(strongest, default=np.nan))
        rows[method] = scores
    return Embedded(_table(rows, EMBED_COLUMNS), methods, found, notes)


def model_methods(
    trained: Trained, name: str, every: Sequence[str], whole: Sequence[str], seed: int
) -> dict[str, Method]:
    """Give the model, and the model that sees one modality of several alone."""
    found = {name: Method(lambda cells: embed_cells(trained, cells, seed=seed).obsm["X_syncyte"], whole)}
    for mod in whole if len(every) > 1 else []:
        found[f"{name}, {mod} alone"] = Method(partial(_alone, trained, mod), [mod])
    return found


def _alone(trained: Trained, mod: str, cells: Cells) -> Embedding:
    return embed_cells(trained, cells.only([mod])).obsm["X_syncyte"]


def fitted_spaces(reference: Cells, names: Sequence[str], seed: int) -> dict[str, Method]:
    """Spaces of the reference, by name, for each of the modalities."""
    found: dict[str, Method] = {}
    for mod in names:
        if mod not in reference.modalities:
            continue
        counts = reference.take(reference.present(mod)).counts(mod)
        for scaling, words in SPACES[modalities[mod].residual]:
            space = Space(scaling, AXES, seed).fit(counts)
            found[f"{words} ({mod})"] = Method(partial(_transformed, space, mod), [mod])
    return found


def _transformed(model: Space | PeakVi, mod: str, cells: Cells) -> Embedding:
    return model.transform(cells.counts(mod))


def fitted_peers(reference: Cells, names: Sequence[str], seed: int, say: Say, notes: list[str]) -> dict[str, Method]:
    """Peers of open regions, trained on the reference without a batch covariate: batches of new cells are unknown.

    SnapATAC2 places only cells it is fitted on, so it sees the cells to be scored, and its name says so.
    """
    found: dict[str, Method] = {}
    for mod in names:
        kind = modalities[mod].residual
        if mod not in reference.modalities or not PEERS[kind]:
            continue
        counts = reference.take(reference.present(mod)).counts(mod)
        for peer in PEERS[kind]:
            try:
                say(f"embed: {peer.words} ({mod}) is trained")
                model = peer(seed=seed).fit(counts)
            except MissingExtraError as error:
                notes.append(f"{peer.words} is left out: {error}")
                continue
            notes.append(f"{peer.words} ({mod}): {model.epochs} epochs.")
            found[f"{peer.words} ({mod})"] = Method(partial(_transformed, model, mod), [mod])
        try:
            load_snapatac()
            found[f"SnapATAC2, fitted on the scored cells too ({mod})"] = Method(
                partial(_together, counts, mod, seed), [mod]
            )
        except MissingExtraError as error:
            notes.append(f"SnapATAC2 is left out: {error}")
    return found


def _together(counts: sp.csr_matrix, mod: str, seed: int, cells: Cells) -> Embedding:
    """SnapATAC2 of known cells and these, of which these are given back."""
    both = sp.vstack([counts, cells.counts(mod)], format="csr")
    return snapatac_embedding(both, AXES, seed)[counts.shape[0] :]


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

    ``peers`` also trains scVI on counts, PeakVI and PoissonVI on open regions, with the batch as covariate, and runs
    SnapATAC2, which knows no batches; where they are installed.
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
    spaces = {method: how.embed(cells) for method, how in fitted_spaces(reference, whole, seed).items()}
    found |= spaces
    try:
        for method, embedding in spaces.items():
            found[f"Harmony on {method}"] = harmony_embedding(embedding, batches, seed)
            say(f"integrate: Harmony on {method}")
    except MissingExtraError as error:
        notes.append(f"Harmony is left out: {error}")
    for mod in whole if peers else []:
        for words, fit in integrating_peers(cells.counts(mod), modalities[mod].residual, batches, seed).items():
            try:
                say(f"integrate: {words} ({mod}) is trained")
                found[f"{words} ({mod})"], epochs = fit()
                notes.append(f"{words} ({mod}): {epochs} epochs." if epochs else "")
            except MissingExtraError as error:
                notes.append(f"{words} is left out: {error}")
    rows = {key: score_embedding(values, labels=labels, batches=batches, seed=seed) for key, values in found.items()}
    return _table(rows, INTEGRATE_COLUMNS), own, list(dict.fromkeys(filter(None, notes)))


def integrating_peers(
    counts: sp.csr_matrix, kind: Kind, batches: NDArray[Any], seed: int
) -> dict[str, Callable[[], tuple[Embedding, int]]]:
    """Peers by name; each embeds these cells when called, and says how many epochs that took (0: none)."""

    def scvi() -> tuple[Embedding, int]:
        found = scvi_embedding(counts, batches, seed=seed)
        return found.embedding, found.epochs

    def trained(peer: type[PeakVi]) -> tuple[Embedding, int]:
        model = peer(seed=seed).fit(counts, batches)
        return model.transform(counts, batches), model.epochs

    if kind == "pearson":
        return {"scVI": scvi}
    found: dict[str, Callable[[], tuple[Embedding, int]]] = {peer.words: partial(trained, peer) for peer in PEERS[kind]}
    return {**found, "SnapATAC2": lambda: (snapatac_embedding(counts, AXES, seed), 0)}


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
