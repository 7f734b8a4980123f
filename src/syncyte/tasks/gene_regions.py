"""Regions of predicted genes: whose opening moves the prediction of a gene most, by the linear map of the model.

Loadings of regions, latents and decoder of genes are multiplied block by block; regions x genes is never held. Opening
one region in a cell of mean depth changes the predicted value of a gene by ``effect``. Ranked is by ``moved``, the
effect times how much the region's opening varies: single openings of the rarest regions have the largest effects and
the noisiest loadings (mouse cortex: 23 of 2,930 regions within 500 kb of their gene by effect, 41 by what moves, 3.9 by
chance). The residual network is left out, and so is what openings do to the depth. A map of few components cannot tell
a gene's own enhancer from regions that merely follow the same cell types, so the count near is printed beside chance.
Leaves out: types (``tasks.regions``), causes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.errors import CapabilityError, ConfigError
from syncyte.genome.nearest import middles
from syncyte.genome.regions import parse_regions
from syncyte.tasks.regions import Listed, modality_of, need_regions, places
from syncyte.tasks.trained import Trained
from syncyte.tasks.translate import choose_features

GENES = 50  # genes listed where none are named
COUNTED = 300  # and genes whose regions are counted against chance
REACH = 500_000  # bp around a transcription start in which a region counts as near
DEALS = 200  # times that lists are dealt to other genes
NO_PLACES = "No distances: give a reference that has genes (--genome; make one with syncyte reference build --gtf)."
ENTRIES = 1 << 24  # of regions x genes at once


def gene_regions(
    trained: Trained,
    genes_of_interest: Sequence[str] | None = None,
    top: int = 10,
    *,
    starts: pd.DataFrame | None = None,
    seed: int = 0,
) -> Listed:
    """List the regions whose opening moves the prediction of each gene most, up or down.

    Parameters
    ----------
    trained
        A run with regions and genes.
    genes_of_interest
        Names of predicted genes; by default the ``GENES`` whose prediction varies most (norm of the decoder). Counts
        against chance are then over the first ``COUNTED`` of them.
    top
        Regions a gene.
    starts
        Transcription starts of the run's genes (``compare_translate.gene_starts``); None leaves distances out.

    Returns
    -------
    Listed
        Table with ``gene``, ``rank``, ``region``, ``chrom``, ``start``, ``end``, ``effect`` (change of the predicted
        value, in the unit of the gene's head, for one opening), ``moved`` (the effect times the standard deviation of
        the opening at mean depth), and with starts ``distance`` (bp from transcription start to the region's middle,
        negative upstream; missing on other chromosomes) and ``near`` (within ``REACH``).

    Raises
    ------
    CapabilityError, DataError
        Where the run lacks regions or genes, or does not know a gene that is asked for.
    """
    source, target = need_regions(trained), modality_of(trained, "gene")
    if target is None:
        raise CapabilityError(
            f"The run {trained.path} knows {' and '.join(trained.modalities)} and predicts no genes, so regions have "
            "nothing to move. Train on cells that have RNA too, or leave the genes (--genes) out."
        )
    if top < 1:
        raise ConfigError(f"{top} regions a gene were asked for; give at least 1 (--top).")
    columns, decoder = _chosen(trained, source, target, genes_of_interest, COUNTED if starts is not None else GENES)
    effects, moved, rows = _strongest(trained, source, decoder, top)
    table = pd.DataFrame(
        {
            "gene": np.repeat(trained.vocabularies[target].index.to_numpy()[columns], rows.shape[1]),
            "rank": np.tile(np.arange(1, rows.shape[1] + 1), len(columns)),
            **places(trained.vocabularies[source], rows.ravel()),
            "effect": effects.ravel(),
            "moved": moved.ravel(),
        }
    )
    if starts is None:
        return Listed(table, (NO_PLACES,))
    table, place = _with_distances(table, starts)
    regions = parse_regions(trained.vocabularies[source].index, trained.vocabularies[source])
    shown = table if genes_of_interest is not None else table[: GENES * rows.shape[1]]
    return Listed(shown, (enrichment(table, place, regions, seed),))


@torch.inference_mode()
def _chosen(
    trained: Trained, source: str, target: str, names: Sequence[str] | None, most: int
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Columns of the genes to list (named, or ``most`` with the largest decoders), and their ``(k, g)`` decoders."""
    decoder = trained.model.linear_map(source, target)
    columns = np.argsort(-decoder.norm(dim=0).cpu().numpy(), kind="stable")[:most].astype(np.int64)
    if names is not None:
        asked, _ = choose_features(trained, target, list(dict.fromkeys(names)))
        assert asked is not None
        columns = asked
    return columns, decoder[:, torch.from_numpy(columns).to(decoder.device)]


@torch.inference_mode()
def _strongest(
    trained: Trained, source: str, decoder: torch.Tensor, top: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """``(g, top)`` effects and moves with their sign, largest moves first, and the regions that have them."""
    model = trained.model
    path, index = model.paths[source], model.names.index(source)
    depth = float(model.context_mean[index, 0].exp())
    chance = -torch.expm1(-depth * path.share)  # that any of the cell's openings falls on the region
    step, spread = path.step(depth)[:, None], torch.sqrt(chance * (1 - chance))[:, None]
    loadings = path.table[:, : model.components]
    effects, moves, rows = [], [], []
    for block in decoder.split(max(1, ENTRIES // len(loadings)), dim=1):
        effect = loadings @ block * step
        chosen = (effect * spread).abs().topk(min(top, len(effect)), dim=0).indices
        effect = effect.gather(0, chosen)
        effects.append(effect.T.cpu().numpy())
        moves.append((effect * spread[chosen, 0]).T.cpu().numpy())
        rows.append(chosen.T.cpu().numpy())
    return np.concatenate(effects), np.concatenate(moves), np.concatenate(rows)


def _with_distances(table: pd.DataFrame, starts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add distances to the gene of each row, and give the start of each row's gene."""
    known = starts.drop_duplicates("gene").set_index("gene")
    place = known.reindex(table["gene"]).reset_index(drop=True)
    gap = middles(table) - place["position"].to_numpy(dtype=float)
    same = place["chrom"].astype(str).to_numpy() == table["chrom"].to_numpy()
    distance = np.where(same, np.where(place["strand"] == "-", -gap, gap), np.nan)
    return table.assign(distance=distance, near=np.abs(distance) <= REACH), place


def enrichment(table: pd.DataFrame, place: pd.DataFrame, regions: pd.DataFrame, seed: int) -> str:
    """Say how many listed regions lie near their gene, how many random regions would, and the lists of other genes.

    Parameters
    ----------
    table
        From ``gene_regions``, with ``near``.
    place
        ``chrom`` and ``position`` of the gene of each row; missing where the reference lacks it.
    regions
        ``(r, 3)`` all regions of the run.
    """
    has = place["position"].notna().to_numpy()
    table, place = table[has].reset_index(drop=True), place[has].reset_index(drop=True)
    if not len(table):
        return "The reference knows the places of none of these genes, so no distances are counted."
    number, names = pd.factorize(table["gene"])
    first = np.unique(number, return_index=True)[1]
    chrom, position = place["chrom"].astype(str).to_numpy()[first], place["position"].to_numpy(dtype=float)[first]
    middle, chrom_of = middles(regions), regions["chrom"].astype(str).to_numpy()
    order = np.argsort(middle, kind="stable")
    lined = {name: middle[order][chrom_of[order] == name] for name in np.unique(chrom)}
    around = [
        np.searchsorted(lined.get(name, middle[:0]), [spot - REACH, spot + REACH + 1])
        for name, spot in zip(chrom, position)
    ]
    expected = float((np.diff(around, axis=1)[:, 0] / len(regions) * np.bincount(number)).sum())
    found, rng, own = int(table["near"].sum()), np.random.default_rng(seed), middles(table)
    dealt = []
    for _ in range(DEALS if len(names) > 1 else 0):
        other = rng.permutation(len(names))[number]
        near = (chrom[other] == table["chrom"].to_numpy()) & (np.abs(own - position[other]) <= REACH)
        dealt.append(int(near.sum()))
    ratio = f"{found / expected:.1f} times" if expected else "no ratio"
    text = (
        f"Of {len(table):,} listed regions of {len(names):,} genes with a known place, {found:,} lie within "
        f"{REACH // 1000} kb of their gene; {expected:.{1 if expected >= 1 else 3}f} would if they were drawn at "
        f"random ({ratio})."
    )
    if dealt:
        low, high = np.quantile(dealt, [0.05, 0.95])
        verdict = "more than that" if found > high else "no more than that"
        text += f" Lists dealt to other genes of the table reach {low:.0f} to {high:.0f} (9 in 10 deals): {verdict}."
    return text
