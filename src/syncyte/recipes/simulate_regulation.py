"""Simulated genome that regulates its cells: motifs in promoters, transcription factors, targets, all known.

How it comes about:

1. *Genome*: genes on ``chr1`` ... ``chr10``, one every ``SPACING`` bases, in isochores of different GC content. A
   promoter (``REACH`` bases on either side of the start) holds a site of an *opener* motif and sites of *driver*
   motifs, one for each programme of the cells; a *control* motif is planted everywhere and does nothing.
2. *Factors*: some genes are transcription factors. Each has two driver sites of one programme, a *binding* motif of its
   own, and ``targets`` genes whose promoters hold sites of it.
3. *Cells*: programmes differ between types and, less, between cells and donors. Log rates follow the programmes by the
   driver sites; those of a factor have noise of their own in every cell, which its targets inherit and genes that
   merely share its drivers do not. That is what tells a target from a gene of the same types of cells.
4. *Chromatin*: a promoter is open with a probability that driver sites raise in the types where their programme is on
   and lower where it is off; half as many regions between genes have an opener alone.

Leaves out: introns, coding sequence, enhancers that act at a distance, loops in the network, linkage of variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import expit

from syncyte.atomic import atomic_file
from syncyte.errors import ConfigError

if TYPE_CHECKING:
    from mudata import MuData

SPACING, REACH, MOTIF = 4_000, 150, 9  # bases
CHROMOSOMES = 10
BLOCK = 1_000  # cells that are dense at a time
LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)


@dataclass(frozen=True)
class Regulation:
    """A simulated genome with its cells.

    Attributes
    ----------
    cells
        MuData with raw counts of genes and of regions; ``obs`` has ``cell_type`` and ``donor``.
    sequences
        Codes (A, C, G, T as 0 to 3) of each chromosome.
    tss
        ``gene_id``, ``symbol``, ``chrom``, ``tss``, ``strand`` of each gene.
    peaks
        ``chrom``, ``start``, ``end`` of each region.
    sites
        Planted motifs of promoters: ``gene``, ``motif``, ``kind`` (opener, driver, binding, control), ``chrom``,
        ``start``, ``end``, ``strand``.
    targets
        True pairs: ``factor``, ``target``.
    motifs
        Consensus of each motif.
    profile
        Activity of each programme in each cell type: what a driver site does to a promoter there.
    """

    cells: MuData
    sequences: dict[str, NDArray[np.uint8]]
    tss: pd.DataFrame
    peaks: pd.DataFrame
    sites: pd.DataFrame
    targets: pd.DataFrame
    motifs: dict[str, str]
    profile: pd.DataFrame


def simulate_regulation(
    n: int = 3000,
    seed: int = 0,
    *,
    genes: int = 2400,
    factors: int = 24,
    targets: int = 30,
    programmes: int = 8,
    types: int = 6,
    donors: int = 4,
    depth: float = 2500.0,
    noise: float = 0.5,
    strength: float = 0.35,
) -> Regulation:
    """Simulate a genome and cells that it regulates. Same arguments, same everything.

    Parameters
    ----------
    n, seed
        Cells, and the seed.
    genes, factors, targets
        Genes, how many of them are transcription factors, and targets of each factor.
    programmes, types, donors
        Programmes of the cells (a driver motif each), cell types, and donors, who differ a little.
    depth
        Median counts of RNA in a cell.
    noise
        Standard deviation of a factor's own log rate between cells of a type.
    strength
        Log rate of a target for one log rate of its factor, at one site.

    Raises
    ------
    ConfigError
        Fewer genes than factors and targets need.
    """
    if genes < factors + 2 * targets or programmes < 1 or types < 2 or donors < 1 or n < 2 * types:
        raise ConfigError(
            f"simulate_regulation: {genes} genes, {factors} factors with {targets} targets, {programmes} programmes, "
            f"{types} types, {donors} donors, {n} cells do not go together: give more genes and cells."
        )
    rng = np.random.default_rng([seed, 7])
    names = np.array([f"TF{g + 1}" if g < factors else f"GENE{g + 1:05d}" for g in range(genes)])
    driven, bound = _network(rng, genes, factors, targets, programmes)
    tss = _places(rng, names)
    motifs = _motifs(rng, programmes, factors)
    peaks = _peaks(tss, rng)
    sequences, sites = _sequences(rng, tss, peaks.iloc[len(tss) :], driven, bound, motifs)
    profile = rng.normal(0, 0.7, (types, programmes))
    cells = _cells(rng, n, names, driven, bound, tss, peaks, profile, donors, depth, noise, strength)
    pairs = [(names[t], names[j]) for t in range(factors) for j in np.flatnonzero(bound[:, t])]
    table = pd.DataFrame(
        profile,
        index=[f"type_{code + 1}" for code in range(types)],
        columns=[f"driver_{code + 1}" for code in range(programmes)],
    )
    truth = pd.DataFrame(pairs, columns=["factor", "target"])
    return Regulation(cells, sequences, tss, peaks, sites, truth, motifs, table)


def _network(
    rng: np.random.Generator, genes: int, factors: int, targets: int, programmes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of driver sites ``(g, programmes)`` and of binding sites ``(g, factors)`` in each promoter."""
    driven = np.zeros((genes, programmes), dtype=np.int64)
    for gene in range(factors, genes):
        chosen = rng.choice(programmes, rng.integers(0, min(3, programmes + 1)), replace=False)
        driven[gene, chosen] = rng.integers(1, 3, len(chosen))
    driven[np.arange(factors), np.arange(factors) % programmes] = 2
    bound = np.zeros((genes, factors), dtype=np.int64)
    for factor in range(factors):
        chosen = rng.choice(np.arange(factors, genes), targets, replace=False)
        bound[chosen, factor] = rng.integers(1, 3, targets)
    return driven, bound


def _places(rng: np.random.Generator, names: NDArray[Any]) -> pd.DataFrame:
    """Starts of transcription, in an order that puts factors on all chromosomes."""
    each = -(-len(names) // CHROMOSOMES)
    order = rng.permutation(len(names))
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return pd.DataFrame(
        {
            "gene_id": [f"SIMG{number:011d}" for number in range(1, len(names) + 1)],
            "symbol": names,
            "chrom": [f"chr{1 + spot // each}" for spot in place],
            "tss": (place % each + 1) * SPACING + rng.integers(-200, 200, len(names)),
            "strand": rng.choice(["+", "-"], len(names)),
        }
    )


def _motifs(rng: np.random.Generator, programmes: int, factors: int) -> dict[str, str]:
    """Consensus sequences that differ in at least four places, on either strand."""
    chosen: list[NDArray[np.uint8]] = []
    while len(chosen) < programmes + factors + 2:
        new = rng.integers(0, 4, MOTIF).astype(np.uint8)
        if all(((new != old).sum() >= 4) and ((3 - new[::-1] != old).sum() >= 4) for old in chosen):
            chosen.append(new)
    kinds = [f"driver_{s + 1}" for s in range(programmes)] + [f"binding_{t + 1}" for t in range(factors)]
    kinds += ["control", "opener"]
    return {kind: LETTERS[motif].tobytes().decode() for kind, motif in zip(kinds, chosen)}


def _sequences(
    rng: np.random.Generator,
    tss: pd.DataFrame,
    far: pd.DataFrame,
    driven: NDArray[np.int64],
    bound: NDArray[np.int64],
    motifs: Mapping[str, str],
) -> tuple[dict[str, NDArray[np.uint8]], pd.DataFrame]:
    """Random bases with the sites written into promoters, and where they are."""
    sequences = {}
    for chrom, rows in tss.groupby("chrom", sort=False).indices.items():
        length = int(tss["tss"].to_numpy()[rows].max()) + 2 * SPACING
        gc = np.repeat(rng.beta(20, 26, length // 1_000 + 1), 1_000)[:length]  # isochores of a kilobase
        strong, second = rng.random(length) < gc, rng.random(length) < 0.5
        sequences[str(chrom)] = np.where(strong, np.where(second, 1, 2), np.where(second, 0, 3)).astype(np.uint8)
    codes = {name: np.searchsorted(LETTERS, np.frombuffer(text.encode(), np.uint8)) for name, text in motifs.items()}
    rows = []
    slots = np.arange(-REACH, REACH - MOTIF, MOTIF + 3)  # places in a promoter, so that sites never overlap
    for gene, (symbol, chrom, start) in enumerate(tss[["symbol", "chrom", "tss"]].itertuples(index=False)):
        wanted = [f"driver_{s + 1}" for s, count in enumerate(driven[gene]) for _ in range(count)]
        wanted += [f"binding_{t + 1}" for t, count in enumerate(bound[gene]) for _ in range(count)]
        wanted += ["opener", *["control"] * int(rng.integers(0, 3) if gene >= bound.shape[1] else 2)]
        for name, slot in zip(wanted, rng.permutation(slots)):
            site = codes[name].copy()
            if rng.random() < 0.3 and not name.startswith("binding"):  # real sites are seldom perfect
                site[rng.integers(MOTIF)] = rng.integers(4)
            turned = bool(rng.random() < 0.5)
            begin = int(start + slot)
            sequences[chrom][begin : begin + MOTIF] = 3 - site[::-1] if turned else site
            kind = name.split("_")[0]
            rows.append((symbol, name, kind, chrom, begin, begin + MOTIF, "-" if turned else "+"))
    for chrom, start in far[["chrom", "start"]].itertuples(index=False):
        begin = int(start) + 250 + int(rng.integers(-REACH, REACH - MOTIF))
        sequences[chrom][begin : begin + MOTIF] = codes["opener"]
    for chrom, starts in tss.groupby("chrom", sort=False)["tss"]:
        # between promoters as often as in them: what is only there would tell a promoter, and so seem to act
        for begin in np.arange(500, len(sequences[str(chrom)]) - 500, 2 * REACH) + rng.integers(0, 200):
            if np.abs(starts.to_numpy() - begin).min() > 2 * REACH:
                sequences[str(chrom)][begin : begin + MOTIF] = codes["control"]
    columns = ["gene", "motif", "kind", "chrom", "start", "end", "strand"]
    return sequences, pd.DataFrame(rows, columns=columns)


def _peaks(tss: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A region around every start, and one between neighbours."""
    near = pd.DataFrame({"chrom": tss["chrom"], "start": tss["tss"] - 250, "end": tss["tss"] + 250})
    far = near.assign(start=near["start"] + SPACING // 2, end=near["end"] + SPACING // 2)
    keep = np.sort(rng.permutation(len(far))[: len(far) // 2])
    return pd.concat([near, far.iloc[keep]], ignore_index=True)


def _cells(
    rng: np.random.Generator,
    n: int,
    names: NDArray[Any],
    driven: NDArray[np.int64],
    bound: NDArray[np.int64],
    tss: pd.DataFrame,
    peaks: pd.DataFrame,
    profile: NDArray[np.float64],
    donors: int,
    depth: float,
    noise: float,
    strength: float,
) -> MuData:
    import mudata
    from anndata import AnnData

    genes, factors = bound.shape
    types, programmes = profile.shape
    kind, donor = rng.integers(0, types, n), rng.integers(0, donors, n)
    mood = rng.normal(0, 0.15, (donors, programmes))
    activity = profile[kind] + mood[donor] + rng.normal(0, 0.25, (n, programmes))
    base = rng.normal(0, 1.1, genes) + 0.25 * driven.sum(axis=1)
    base[:factors] = rng.normal(1.2, 0.4, factors)
    own = rng.normal(0, noise, (n, factors))
    total = depth * np.exp(rng.normal(0, 0.3, n))
    openness = -1.2 + 0.4 * driven.sum(axis=1) + 1.2 * (profile @ driven.T)  # types x genes
    opened = np.concatenate([expit(openness), np.full((types, len(peaks) - genes), expit(-1.2))], axis=1)
    rna, atac = [], []
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        acting = 0.5 * activity[rows] @ driven[:factors].T + own[rows]
        log = base + 0.5 * activity[rows] @ driven.T
        log[:, :factors] += own[rows]
        log += strength * acting @ bound.T
        rate = np.exp(log)
        rate *= total[rows, None] / rate.sum(axis=1, keepdims=True)
        rna.append(sp.csr_matrix(rng.poisson(rate * rng.gamma(4.0, 0.25, rate.shape)).astype(np.int32)))
        hits = rng.random((len(rate), opened.shape[1])) < opened[kind[rows]]
        atac.append(sp.csr_matrix((hits * rng.poisson(1.5, hits.shape)).astype(np.int32)))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type_{code + 1}" for code in kind]),
            "donor": pd.Categorical([f"donor_{code + 1}" for code in donor]),
        },
        index=[f"cell_{number:06d}" for number in range(1, n + 1)],
    )
    places = peaks["chrom"] + ":" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)
    var = {
        "rna": pd.DataFrame({"gene_ids": tss["gene_id"].to_numpy(), "feature_types": "Gene Expression"}, index=names),
        "atac": pd.DataFrame({"feature_types": "Peaks"}, index=places.to_numpy()),
    }
    stacked = {"rna": rna, "atac": atac}
    parts = {name: AnnData(sp.vstack(stacked[name], format="csr"), obs=obs.copy(), var=var[name]) for name in var}
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData(parts)
    data.obs = obs
    return data


def write_regulation(world: Regulation, folder: str | Path) -> dict[str, Path]:
    """Write genome, starts, regions, cells and truth as files that the commands read; their paths by name.

    ``genome.fa``, ``tss.bed`` (width 1, gene id, symbol, strand), ``peaks.bed``, ``cells.h5mu``, ``targets.tsv``,
    ``sites.tsv`` and ``profile.tsv``; ``variants.vcf`` changes five bases of every driver and control site of the
    factors.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = world.tss["tss"].to_numpy()
    bed = world.tss.assign(start=start, end=start + 1, score=0)
    texts = {
        "genome.fa": "".join(f">{name}\n{_folded(codes)}" for name, codes in world.sequences.items()),
        "tss.bed": bed[["chrom", "start", "end", "symbol", "score", "strand", "gene_id"]].to_csv(
            sep="\t", header=False, index=False
        ),
        "peaks.bed": world.peaks.sort_values(["chrom", "start"]).to_csv(sep="\t", header=False, index=False),
        "targets.tsv": world.targets.to_csv(sep="\t", index=False),
        "sites.tsv": world.sites.to_csv(sep="\t", index=False),
        "profile.tsv": world.profile.to_csv(sep="\t"),
        "variants.vcf": site_variants(world),
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as path:
            path.write_text(text)
    with atomic_file(folder / "cells.h5mu") as path:
        world.cells.write(path)
    return {name: folder / name for name in [*texts, "cells.h5mu"]}


def _folded(codes: NDArray[np.uint8], width: int = 60) -> str:
    text = LETTERS[codes].tobytes().decode()
    return "".join(f"{text[begin : begin + width]}\n" for begin in range(0, len(text), width))


def site_variants(world: Regulation) -> str:
    """VCF that replaces five bases of each driver and control site of a factor."""
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    chosen = world.sites[world.sites["gene"].str.startswith("TF") & world.sites["kind"].isin(["driver", "control"])]
    for number, site in enumerate(chosen.itertuples(index=False)):
        begin = site.start + 2
        old = world.sequences[site.chrom][begin : begin + 5]
        new = (old + 2) % 4  # another base in every place, of the other strength in none: A-G, C-T
        ref, alt = (LETTERS[codes].tobytes().decode() for codes in (old, new))
        lines.append(f"{site.chrom}\t{begin + 1}\t{site.gene}_{site.kind}_{number}\t{ref}\t{alt}\t.\tPASS\t.")
    return "\n".join(lines) + "\n"
