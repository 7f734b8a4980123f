"""Top regions of cell types: what the model calls specific for a type, and whether the raw counts agree.

The mean state of a type's cells goes through the head of the region modality, which gives the type's profile: the share
of each region in all openings, free of depth and technical batch. Regions are ranked by the profile over the mean
profile of the other types; beside it stands what the given cells show by themselves. Regions come in blocks and cells
in minibatches, so neither cells x regions nor labels x regions is ever held.

============================  ======================================================================================
``label``, ``rank``           from 1
``region``                    and its ``chrom``, ``start``, ``end``
``score``                     log2 of the predicted profile over the mean of the other labels, ``FLOOR`` on both sides
``observed``                  the same of the given cells' openings, other labels pooled
``open_in``, ``open_out``     share of the label's, and of all other labelled cells in which the region is open
``cells_open``                number of the label's cells in which it is open
``gene``, ``distance``        nearest transcription start, bp from it to the region's middle, negative upstream
``promoter``                  2 kb before to 500 bp after that start
``next_gene``                 second nearest, with ``next_distance``
============================  ======================================================================================

Leaves out: which regions speak for a gene (``tasks.gene_regions``), tests of difference, motifs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from syncyte.baselines.activity import AFTER, BEFORE
from syncyte.data.cells import Cells
from syncyte.errors import CapabilityError, ConfigError, DataError
from syncyte.genome.nearest import nearest_starts
from syncyte.genome.regions import parse_regions, region_table
from syncyte.modalities import modalities
from syncyte.models.cell import everything
from syncyte.tasks.labelled import clean_labels
from syncyte.tasks.trained import Trained
from syncyte.types import Batch

BLOCK = 1 << 16  # regions scored at once
CELLS = 1024  # whose openings are counted at once
FLOOR = 1.0  # added to both sides of a ratio, in units of the mean region: what is hardly ever open does not win
FEW = 20  # cells of a label below which its list is called a rough guide
MOST_LABELS = 500
NO_GENES = "No nearest genes: give a reference that has genes (--genome; make one with syncyte reference build --gtf)."


@dataclass(frozen=True)
class Listed:
    """A table of regions, and what a reader should know of it."""

    table: pd.DataFrame
    notes: tuple[str, ...] = ()


def modality_of(trained: Trained, kind: str) -> str | None:
    """First modality of a run whose features are of a kind (``region``, ``gene``); None where it has none."""
    return next((name for name in trained.modalities if modalities[name].schema.feature_kind == kind), None)


def need_regions(trained: Trained) -> str:
    """Name of the region modality of a run, or an error that says what the run knows."""
    name = modality_of(trained, "region")
    if name is None:
        raise CapabilityError(
            f"The run {trained.path} knows {' and '.join(trained.modalities)}, whose features are not regions of a "
            "genome. Train on cells that have open chromatin."
        )
    if trained.model.published is not None:
        raise CapabilityError(
            f"The run {trained.path} has the published layout, which scores slots of hidden patches and predicts no "
            "profile over regions. Ask a run of another preset."
        )
    return name


def top_regions(
    trained: Trained,
    cells: Cells,
    label_key: str,
    genes: pd.DataFrame | None = None,
    top: int = 20,
    *,
    unclear: Sequence[str] = (),
    batch_size: int | None = None,
) -> Listed:
    """Rank regions by how specific the model calls them for each label.

    Parameters
    ----------
    trained
        A run with a modality of regions.
    cells
        Cells with labels, measured in any modality of the run.
    label_key
        Column of the cell type.
    genes
        Genes of a reference (``Reference.genes``); None leaves the columns of genes out.
    top
        Regions a label.
    unclear
        Labels that mean no class; their cells are left out.

    Returns
    -------
    Listed
        Table with the columns the module describes, best first within a label; those of genes only with ``genes``.

    Raises
    ------
    CapabilityError
        Where the run has no regions.
    DataError
        Where the column does not exist or holds fewer than two labels.
    """
    name = need_regions(trained)
    if top < 1:
        raise ConfigError(f"{top} regions a label were asked for; give at least 1 (--top).")
    kept, classes, codes = _labelled(cells, label_key, unclear)
    kept, sizes = trained.align(kept), np.bincount(codes)
    scores, columns = _best(trained, name, _mean_states(trained, kept, name, codes, len(classes), batch_size), top)
    table = pd.DataFrame(
        {
            "label": np.repeat(classes, columns.shape[1]),
            "rank": np.tile(np.arange(1, columns.shape[1] + 1), len(classes)),
            **places(trained.vocabularies[name], columns.ravel()),
            "score": scores.ravel(),
        }
    )
    notes = [] if genes is not None else [NO_GENES]
    if small := [f"{label} ({size})" for label, size in zip(classes, sizes) if size < FEW]:
        notes.append(f"Fewer than {FEW} cells, so a rough guide only: {', '.join(small)}.")
    table = table.assign(**_observed(kept, name, codes, columns))
    notes.append(agreement(table, name))
    return Listed(table if genes is None else with_genes(table, genes), tuple(notes))


def _labelled(cells: Cells, label_key: str, unclear: Sequence[str]) -> tuple[Cells, NDArray[Any], NDArray[np.int64]]:
    """Cells that have a label, the sorted labels, and the place of each cell's among them."""
    labels = clean_labels(cells, label_key, unclear)
    classes, codes = np.unique(labels[labels != ""], return_inverse=True)
    if not 2 <= len(classes) <= MOST_LABELS:
        raise DataError(
            f"The column {label_key!r} holds {len(classes):,} labels in {len(cells):,} cells; specific regions need 2 "
            f"to {MOST_LABELS} (what is open in one and not in the others). Name another column (--label-key)."
        )
    return cells.take(labels != ""), classes, codes


def places(var: pd.DataFrame, columns: NDArray[np.int64]) -> dict[str, Any]:
    """Names and coordinates of some regions of a vocabulary."""
    chosen = var.iloc[columns]
    where = parse_regions(chosen.index, chosen)
    return {
        "region": chosen.index.to_numpy(),
        "chrom": where["chrom"].astype(str).to_numpy(),
        "start": where["start"].to_numpy(),
        "end": where["end"].to_numpy(),
    }


def with_genes(table: pd.DataFrame, genes: pd.DataFrame) -> pd.DataFrame:
    """Add the two nearest genes, protein-coding ones where the reference says which these are."""
    coding = genes[genes["biotype"] == "protein_coding"] if "biotype" in genes else genes[:0]
    genes = coding if len(coding) else genes
    spots = region_table(table["chrom"].to_numpy(dtype=object), table["start"].to_numpy(), table["end"].to_numpy())
    row, distance = nearest_starts(spots, genes, 2)
    names = np.append(genes["name"].to_numpy(dtype=object), "")[row]
    near = (distance[:, 0] >= -BEFORE) & (distance[:, 0] <= AFTER)
    return table.assign(
        gene=names[:, 0],
        distance=distance[:, 0],
        promoter=near,
        next_gene=names[:, 1],
        next_distance=distance[:, 1],
    )


def agreement(table: pd.DataFrame, name: str) -> str:
    """Say whether the given cells open the regions as the model claims, over all lists together."""
    if table["open_in"].isna().all():
        return f"The cells were not measured in {name}, so nothing stands beside the model's claim."
    by_label = table.groupby("label", sort=False)[["open_in", "open_out"]].mean()
    more = int((by_label["open_in"] > by_label["open_out"]).sum())
    return (
        f"In the given cells the listed regions are open in {table['open_in'].mean():.2%} of the cells of their label "
        f"and in {table['open_out'].mean():.2%} of the others, means of the lists; more open inside in {more} of "
        f"{len(by_label)} labels."
    )


def _mean_states(
    trained: Trained, cells: Cells, name: str, codes: NDArray[np.int64], count: int, batch_size: int | None
) -> torch.Tensor:
    """``(count, k)`` mean state of the cells of each label, as the head of a modality reads it."""
    sums, first = None, 0
    for block in trained.each(cells, partial(_states, name=name), batch_size):
        if sums is None:
            sums = np.zeros((count, block.shape[1]))
        np.add.at(sums, codes[first : first + len(block)], block)
        first += len(block)
    assert sums is not None
    means = sums / np.bincount(codes, minlength=count)[:, None]
    return torch.from_numpy(means.astype(np.float32)).to(trained.device)


def _states(trained: Trained, batch: Batch, *, name: str) -> NDArray[np.float32]:
    encoded = trained.model.encode(batch.tokens, everything(batch))
    return trained.model.state(encoded, name).float().cpu().numpy()


@torch.inference_mode()
def _best(trained: Trained, name: str, states: torch.Tensor, top: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``(c, top)`` highest scores of each label and the columns that have them, best first."""
    model, width = trained.model, len(trained.vocabularies[name])
    blocks = [slice(first, min(first + BLOCK, width)) for first in range(0, width, BLOCK)]
    total = torch.full((len(states), 1), -torch.inf, device=states.device)
    for block in blocks:
        total = torch.logaddexp(total, model.profile_logits(states, name, block).logsumexp(dim=1, keepdim=True))
    scores = torch.empty(len(states), 0, device=states.device)
    columns = torch.empty(len(states), 0, dtype=torch.long, device=states.device)
    for block in blocks:
        profile = (model.profile_logits(states, name, block) - total).exp() * width  # 1 is the mean region
        others = (profile.sum(dim=0, keepdim=True) - profile) / (len(profile) - 1)
        ratio = torch.log2((profile + FLOOR) / (others + FLOOR))
        places = torch.arange(block.start, block.stop, device=states.device).expand_as(ratio)
        scores, columns = torch.cat([scores, ratio], dim=1), torch.cat([columns, places], dim=1)
        scores, chosen = scores.topk(min(top, scores.shape[1]), dim=1)
        columns = columns.gather(1, chosen)
    return scores.cpu().numpy(), columns.cpu().numpy()


def _observed(cells: Cells, name: str, codes: NDArray[np.int64], columns: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Openings of the chosen regions inside and outside their label, by passes over cells that have the modality."""
    count, wanted = len(columns), np.unique(columns)
    opened, total, measured = np.zeros((count, len(wanted))), np.zeros(count), np.zeros(count)
    for rows, block in cells.blocks(name, size=CELLS) if name in cells.modalities else ():
        ones = sp.csr_matrix((np.ones(len(block.data), np.float32), block.indices, block.indptr), shape=block.shape)
        member = sp.csr_matrix((np.ones(len(rows)), (codes[rows], np.arange(len(rows)))), shape=(count, len(rows)))
        opened += (member @ ones[:, wanted]).toarray()
        total += member @ np.diff(block.indptr)
        measured += np.bincount(codes[rows], minlength=count)
    own = np.repeat(np.arange(count), columns.shape[1])
    place = np.searchsorted(wanted, columns.ravel())
    inside, outside = opened[own, place], opened.sum(axis=0)[place] - opened[own, place]
    width = cells.part(name).rows.shape[1] if name in cells.modalities else 1
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where a label has no measured cell
        share_in, share_out = inside / total[own] * width, outside / (total.sum() - total[own]) * width
        return {
            "observed": np.log2((share_in + FLOOR) / (share_out + FLOOR)),
            "open_in": inside / measured[own],
            "open_out": outside / (measured.sum() - measured[own]),
            "cells_open": inside.astype(np.int64),
        }
