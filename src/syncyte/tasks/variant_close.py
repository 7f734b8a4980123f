"""Tables of the pairs that stand out: other genes, numbers of the pair, mutagenesis; strongest alleles of genes.

Leaves out: the numbers themselves (``variant_detail``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.variant_detail import look_closely, mutagenesis
from syncyte.tasks.variant_tests import adjusted
from syncyte.tasks.variants import VariantEffects, own_sizes

STRONGEST = 4  # alleles of a gene whose ranking of targets is tested
BEYOND = 0.05  # false discovery rate among a gene's alleles up to which one is taken to do something
REACH = 300  # bases on either side of a start in a track


def close_tables(run: GeneRun, found: VariantEffects, close: int, tracked: int, seed: int) -> dict[str, pd.DataFrame]:
    """``trans``, ``pairs`` and ``track`` of the first pairs by p and size; nothing where none was scored."""
    if not len(found.effects) or "gene" not in found.effects or close < 1:
        return {}
    scored = found.effects[found.effects["status"] == "scored"]
    ranked = scored.sort_values(["trans_p", "trans_size"], ascending=[True, False], na_position="last")
    first = ranked.drop_duplicates(["variant", "gene"]).head(close)
    if not len(first):
        return {}
    place = _pair_places(run, found)
    trans, pairs, tracks = [], [], []
    genes: set[int] = set()
    for row in first.itertuples():
        pair = place[(row.variant, row.gene)]
        gene = int(found.tokens.table["gene"].iloc[pair])
        before, after = found.tokens.reference[pair], found.tokens.alternate[pair]
        detail = look_closely(found.cells, run.symbols, gene, before, after, row.group, seed=seed)
        names = {"variant": row.variant, "gene": row.gene, "group": row.group}
        trans.append(detail.trans.assign(**names))
        pairs.append({**names, **detail.facts})
        if gene not in genes and len(genes) < tracked:
            track = mutagenesis(run.model, found.side, gene, row.group, REACH, near=int(row.pos) - 1)
            genes.add(gene)
            if len(track):
                tracks.append(track.assign(gene=row.gene, group=row.group))
    table = pd.concat(trans, ignore_index=True)
    lead = ["variant", "gene", "group", "rank", "other"]
    tables = {"trans": table[[*lead, *[name for name in table if name not in lead]]], "pairs": pd.DataFrame(pairs)}
    return {**tables, "track": pd.concat(tracks, ignore_index=True)} if tracks else tables


def _pair_places(run: GeneRun, found: VariantEffects) -> dict[tuple[str, str], int]:
    names = found.names
    genes = run.symbols[found.tokens.table["gene"].to_numpy()]
    own = [names[allele] for allele in found.tokens.table["allele"]]
    return {pair: place for place, pair in enumerate(zip(own, genes))}


def strongest_alleles(found: VariantEffects, most: int = STRONGEST) -> dict[int, list[tuple[str, torch.Tensor, bool]]]:
    """For each gene the alleles that move it most: name, token, and whether it is moved beyond random variants."""
    own = own_sizes(found.numbers)
    p = found.over_groups
    places: dict[int, list[int]] = {}
    for place in np.argsort(-np.nan_to_num(own), kind="stable"):
        if np.isfinite(own[place]) and own[place] > 0:
            places.setdefault(int(found.tokens.table["gene"].iloc[place]), []).append(int(place))
    allele, names = found.tokens.table["allele"].to_numpy(), found.names
    kept = {}
    for gene, some in places.items():
        fdr = adjusted(p[some])  # the largest of many alleles is large by chance
        beyond = (fdr <= BEYOND).tolist()
        kept[gene] = [(names[allele[one]], found.tokens.alternate[one], far) for one, far in zip(some, beyond)][:most]
    return kept
