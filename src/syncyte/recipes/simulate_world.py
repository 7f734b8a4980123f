"""The world behind simulated cells: lineage tree, programmes, genes, regions and how they hang together.

Everything here is the same in every cell of a simulation; ``simulate.py`` draws cells and counts from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from syncyte.errors import ConfigError
from syncyte.genome.symbols import CHROM_SIZES, known_genes

# Cell types in the order in which `types` takes them: the programme they branch from and their share of cells.
TYPES = {
    "HSC": ("", 0.10),
    "CD14 Mono": ("Myeloid", 0.20),
    "B": ("Lymphoid", 0.14),
    "CD4 T": ("T", 0.19),
    "NK": ("T_NK", 0.10),
    "Erythroid": ("", 0.10),
    "CD8 T": ("T", 0.12),
    "DC": ("Myeloid", 0.06),
    "Plasma": ("B", 0.04),
    "GMP": ("Myeloid", 0.05),
    "Megakaryocyte": ("", 0.04),
    "pDC": ("DC", 0.03),
}
# Branches that cells pass through on the way to a type, and what they branch from.
_BRANCHES = {"Myeloid": "", "Lymphoid": "", "T_NK": "Lymphoid", "T": "T_NK"}
CYCLE = ("S phase", "G2M phase")
RESPONSES = ("Interferon", "Stress")
HIDDEN = tuple(f"Hidden {number}" for number in range(1, 6))


@dataclass(frozen=True, slots=True)
class World:
    """What is the same in every cell: features, their loadings on ``k`` programmes, and batch effects.

    ``base (f,)``, ``loadings (f, k)``, ``batch (batches, f)`` by modality; ``links (r, g)`` signed weights.
    """

    programmes: tuple[str, ...]
    features: dict[str, pd.DataFrame]
    base: dict[str, np.ndarray]
    loadings: dict[str, np.ndarray]
    batch: dict[str, np.ndarray]
    dispersion: np.ndarray
    links: sp.csr_matrix


def list_programmes(types: int) -> tuple[str, ...]:
    """Names of all programmes: lineage ones first (root, branches, types), then cell programmes."""
    leaves = list(TYPES)[:types]
    branches = [name for name in _BRANCHES if any(name in path_to(leaf) for leaf in leaves)]
    return (*dict.fromkeys([leaves[0], *branches, *leaves]), *CYCLE, *RESPONSES, *HIDDEN)


def path_to(name: str) -> list[str]:
    """Programmes switched on from below the root down to a type; empty for the root itself."""
    if name == next(iter(TYPES)):
        return []
    parent = TYPES[name][0] if name in TYPES else _BRANCHES[name]
    return [*(path_to(parent) if parent else []), name]


def make_world(settings: dict[str, Any], seed: int) -> World:
    """Features, loadings, batch effects and links."""
    rng = np.random.default_rng([seed, 0])
    programmes = list_programmes(settings["types"])
    genes = _choose_genes(settings["genes"], programmes, rng)
    regions = _place_regions(genes, settings["regions"], rng)
    g, r = len(genes), len(regions)
    strength, effect, batches = settings["signal"], settings["batch_effect"], settings["batches"]

    housekeeping = (genes["known_for"] == "Housekeeping").to_numpy()
    own = np.equal.outer(genes["programme"].to_numpy(), np.array(programmes, dtype=object))
    sparse = (rng.random((g, len(programmes))) < 0.08) * rng.normal(0, 0.5, (g, len(programmes)))
    loadings = strength * (
        own * rng.normal(1.25, 0.35, g)[:, None] + sparse * np.where(housekeeping, 0.3, 1.0)[:, None]
    )
    base = rng.normal(0, 1.1, g) + 1.2 * housekeeping - 0.5 * own.any(1)

    linked = genes.index.get_indexer(regions["linked_gene"])  # -1 where none
    rows = np.flatnonzero(linked >= 0)
    weights = regions["link_weight"].to_numpy()
    links = sp.csr_matrix((weights[rows], (rows, linked[rows])), shape=(r, g))
    active = (linked < 0) & (rng.random(r) < 0.65)  # the other unlinked regions are the same in every cell
    several = (rng.random((r, len(programmes))) < 0.12) * rng.normal(0, 1.6, (r, len(programmes)))
    follow = np.sign(weights)[:, None] * loadings[linked] * rng.normal(1.2, 0.3, r)[:, None]
    region_loadings = np.where((linked >= 0)[:, None], follow + 0.5 * strength * several, 0.0)
    region_loadings[active] = strength * several[active]
    promoter = (regions["kind"] == "promoter").to_numpy()
    region_base = rng.normal(-2.2, 1.0, r) + 1.8 * promoter
    return World(
        programmes=programmes,
        features={"rna": genes, "atac": regions},
        base={"rna": base, "atac": region_base},
        loadings={"rna": loadings, "atac": region_loadings},
        batch={"rna": rng.normal(0, 0.3 * effect, (batches, g)), "atac": rng.normal(0, 0.35 * effect, (batches, r))},
        dispersion=rng.lognormal(np.log(4.0), 0.4, g),
        links=links,
    )


def _choose_genes(count: int, programmes: tuple[str, ...], rng: np.random.Generator) -> pd.DataFrame:
    """Take ``count`` genes in genome order, in turn from every kind, so that few genes still serve all programmes."""
    table = known_genes()
    table["programme"] = table["known_for"].where(table["known_for"].isin(programmes), "")
    turn = table.groupby(table["programme"].where(table["programme"] != "", table["known_for"])).cumcount()
    foreign = (table["programme"] == "") & ~table["known_for"].isin(["Housekeeping", "Other"])
    table = table.iloc[np.lexsort((np.arange(len(table)), turn, foreign))[:count]]
    if count > len(table):
        extra = count - len(table)
        chrom, tss = _scatter(extra, rng)
        names = [f"SIM{number:05d}" for number in range(1, extra + 1)]
        invented = pd.DataFrame(
            {
                "gene_ids": [f"SIMG{number:011d}" for number in range(1, extra + 1)],
                "chrom": chrom,
                "tss": tss,
                "strand": rng.choice(["+", "-"], extra),
                "known_for": "Other",
                "programme": "",
            },
            index=names,
        )
        table = pd.concat([table, invented])
    # Hidden programmes have no genes known for them: unattached genes serve them.
    free = np.flatnonzero((table["programme"] == "") & (table["known_for"] != "Housekeeping"))
    hidden = np.array(HIDDEN, dtype=object)[rng.integers(0, len(HIDDEN), len(free))]
    table.iloc[free, table.columns.get_loc("programme")] = np.where(rng.random(len(free)) < 0.8, hidden, "")
    order = np.lexsort((table["tss"], _chrom_rank(table["chrom"])))
    return table.iloc[order].rename_axis(None)


def _place_regions(genes: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Lay ``count`` regions of 300-900 bases around genes: promoters, linked and unlinked ones nearby, far ones."""
    g = len(genes)
    promoters = min(g, count // 2)
    linked = min(2 * g, (count - promoters) // 2)
    near = int(0.3 * (count - promoters - linked))
    far = count - promoters - linked - near
    gene = np.concatenate([rng.permutation(g)[:promoters], rng.integers(0, g, count - promoters)])
    reach = np.exp(rng.uniform(np.log(2e3), np.log(1e5), count))
    reach[count - far :] = np.exp(rng.uniform(np.log(2e5), np.log(5e6), far))
    offset = (reach * rng.choice([-1.0, 1.0], count)).astype(np.int64)
    offset[:promoters] = rng.normal(0, 100, promoters).astype(np.int64)
    width = rng.integers(300, 901, count)

    chrom = genes["chrom"].to_numpy()[gene]
    size = pd.Series(chrom).map(CHROM_SIZES).to_numpy()
    tss = genes["tss"].to_numpy()[gene]
    centre = np.where((tss + offset < 10_000) | (tss + offset > size - 10_000), tss - offset, tss + offset)
    start = np.clip(centre, 1000, size - 1000) - width // 2
    sign = np.where(rng.random(count) < 0.85, 1.0, -1.0)
    sign[:promoters] = 1.0
    is_linked = np.arange(count) < promoters + linked
    table = pd.DataFrame(
        {
            "chrom": chrom,
            "start": start,
            "end": start + width,
            "kind": np.repeat(["promoter", "distal", "far"], [promoters, linked + near, far]),
            "linked_gene": np.where(is_linked, genes.index.to_numpy()[gene], ""),
            "link_weight": is_linked * sign * np.abs(rng.normal(0.6, 0.15, count)),
        }
    )
    table = table.iloc[np.lexsort((start, _chrom_rank(table["chrom"])))].reset_index(drop=True)
    for _, rows in table.groupby("chrom", sort=False).indices.items():
        _push_apart(table, rows)
    if (table["end"] > table["chrom"].map(CHROM_SIZES)).any():
        raise ConfigError(
            f"simulate: {count} regions do not fit around {g} genes; ask for fewer regions or more genes."
        )
    names = table["chrom"] + ":" + table["start"].astype(str) + "-" + table["end"].astype(str)
    return table.set_index(pd.Index(names))


def _push_apart(table: pd.DataFrame, rows: np.ndarray) -> None:
    """Shift sorted regions of one chromosome to the right, in place, until none overlaps the one before it."""
    start, width = table["start"].to_numpy()[rows], (table["end"] - table["start"]).to_numpy()[rows]
    room = np.concatenate([[0], np.cumsum(width[:-1] + 50)])
    moved = np.maximum.accumulate(start - room) + room
    table.loc[rows, "start"], table.loc[rows, "end"] = moved, moved + width


def _scatter(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random places on the chromosomes, by length, away from their ends."""
    sizes = np.array(list(CHROM_SIZES.values()))
    chrom = rng.choice(len(sizes), count, p=sizes / sizes.sum())
    return np.array(list(CHROM_SIZES))[chrom], rng.integers(2_000_000, sizes[chrom] - 2_000_000)


def _chrom_rank(chrom: pd.Series) -> np.ndarray:
    return chrom.map({name: rank for rank, name in enumerate(CHROM_SIZES)}).to_numpy()


def truth_tables(world: World, settings: dict[str, Any]) -> dict[str, Any]:
    """Tables of what a model should find."""
    genes, regions = world.features["rna"], world.features["atac"]
    names = np.array(world.programmes, dtype=object)
    cell = [*CYCLE, *RESPONSES, *HIDDEN]
    parents = {**{name: parent for name, (parent, _) in TYPES.items()}, **_BRANCHES}
    marks = genes[genes["programme"] != ""]
    position = pd.Index(names).get_indexer(marks["programme"])
    strength = world.loadings["rna"][genes.index.get_indexer(marks.index), position]
    linked = regions[regions["linked_gene"] != ""]
    tss = genes["tss"].loc[linked["linked_gene"]].to_numpy()
    return {
        "programmes": pd.DataFrame(
            {
                "programme": names,
                "kind": np.where(np.isin(names, cell), "cell", "lineage"),
                "parent": [parents.get(name, "") for name in names],
            }
        ),
        "markers": pd.DataFrame(
            {"gene": marks.index.to_numpy(), "programme": marks["programme"].to_numpy(), "loading": strength}
        ),
        "links": pd.DataFrame(
            {
                "gene": linked["linked_gene"].to_numpy(),
                "region": linked.index.to_numpy(),
                "weight": settings["link"] * linked["link_weight"].to_numpy(),
                "distance": (linked["start"] + linked["end"]).to_numpy() // 2 - tss,
            }
        ),
        "settings": settings,
    }
