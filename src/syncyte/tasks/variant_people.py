"""A person's variants together: both haplotypes of every gene, and the token that is their mean.

For each gene, all of the person's changes in its windows are put in, by haplotype; phased genotypes give two, unphased
ones the mean over the ways they may lie (``genome.haplotypes``), which is said. The gene's token is the mean over
haplotypes: an approximation, since the network reads one token for both copies.

Leaves out: single alleles (``variant_tokens``), and random variants, which have no haplotypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from syncyte.errors import GenomeError
from syncyte.genome.gene_windows import hit_windows
from syncyte.genome.haplotypes import Haplotypes, haplotypes
from syncyte.genome.variants import ABSENT, MISSING, Variants, variants_of
from syncyte.models.genes import GeneModel
from syncyte.tasks.variant_tokens import Allele, SequenceSide, Tokens, changed_tokens

SHOWN = 5  # genes named in a note


def diploid_tokens(
    model: GeneModel, side: SequenceSide, variants: Variants, sample: str, seed: int = 0
) -> tuple[Variants, Tokens, list[str]]:
    """One row for each gene that a person's variants touch, with the token of both haplotypes; and notes.

    Raises
    ------
    GenomeError
        If the variants have no genotypes or no such sample.
    """
    if variants.genotypes is None:
        raise GenomeError("The variants have no genotypes, so nobody's haplotypes: leave out --sample, or give a VCF.")
    column = variants.sample(sample)
    carried = np.flatnonzero((variants.genotypes[:, column] == 1).any(axis=1))
    usable = np.intersect1d(carried, variants.usable)
    by_gene = _rows_by_gene(side, variants, usable)
    genes = sorted(by_gene)
    people = [haplotypes(variants, by_gene[gene], sample, seed) for gene in genes]
    alleles, owner = [], []
    for place, (gene, one) in enumerate(zip(genes, people)):
        chrom = str(variants.table["chrom"].iloc[by_gene[gene][0]])
        for number, changes in enumerate(one.changes):
            if changes:
                alleles.append(Allele(chrom, changes))
                owner.append((place, gene, float(one.weights[number])))
    single = changed_tokens(model, side, alleles)
    tokens = _mean_tokens(model, genes, owner, single)
    names = side.windows.genes
    table = variants_of(
        [_row(sample, variants, by_gene[gene], one, str(names[gene])) for gene, one in zip(genes, people)]
    )
    left = {row: reason for one in people for row, reason in one.left_out.items()}
    unphased = sum(not one.phased for one in people)
    notes = [f"{sample} carries {len(carried):,} of the alleles given; {len(genes):,} genes have one in a window."]
    notes += _not_called(side, variants, sample)
    if unphased:
        notes.append(f"{unphased:,} genes: phase unknown, tokens are means over the ways that changes may lie.")
    if len(carried) > len(usable):
        notes.append(f"{len(carried) - len(usable):,} carried alleles cannot be scored and are in no haplotype.")
    for row, reason in list(left.items())[:10]:
        notes.append(f"{variants.table['variant'].iloc[row]} is left out of a haplotype, {reason}.")
    notes.append("Haplotypes are scored without random variants: p against chance are not given.")
    return table, tokens, notes


def _not_called(side: SequenceSide, variants: Variants, sample: str) -> list[str]:
    """What must be said where a genotype of the person is missing in a window."""
    assert variants.genotypes is not None
    calls = variants.genotypes[:, variants.sample(sample)]
    by_gene = _rows_by_gene(
        side, variants, np.intersect1d(np.flatnonzero((calls == MISSING).any(axis=1)), variants.usable)
    )
    if not by_gene:
        return []
    rows = {row for own in by_gene.values() for row in own}
    genes = sorted(by_gene, key=lambda gene: (-len(by_gene[gene]), gene))
    some = ", ".join(str(side.windows.genes[gene]) for gene in genes[:SHOWN]) + (" ..." if len(genes) > SHOWN else "")
    return [
        f"{len(rows):,} alleles in windows of {len(genes):,} genes ({some}) have a missing genotype in {sample} (such "
        "as ./.) and are taken as reference there."
    ]


def _rows_by_gene(side: SequenceSide, variants: Variants, rows: np.ndarray) -> dict[int, list[int]]:
    table = variants.table.iloc[rows]
    start = table["start"].to_numpy()
    end = start + table["ref"].str.len().to_numpy()
    hit, window = hit_windows(side.windows.table, table["chrom"].astype(str).to_numpy(), start, end)
    links = side.windows.links.groupby("window")["gene"].agg(list)
    found: dict[int, set[int]] = {}
    for row, where in zip(hit, window):
        for gene in links.get(int(where), []):
            found.setdefault(int(gene), set()).add(int(rows[row]))
    return {gene: sorted(own) for gene, own in found.items()}


def _mean_tokens(model: GeneModel, genes: list[int], owner: list[tuple[int, int, float]], single: Tokens) -> Tokens:
    """Tokens of genes: the reference plus the weighted changes of their haplotypes."""
    every = model.tokens().detach()
    at = torch.tensor(genes, dtype=torch.long, device=every.device)
    reference = every[at] if genes else every[:0]
    change = torch.zeros_like(reference)
    tracks = np.zeros((len(genes), single.tracks.shape[1]), dtype=np.float32)
    facts: dict[int, dict[str, Any]] = {}
    step = single.alternate - single.reference
    for pair, row in enumerate(single.table.itertuples(index=False)):
        place, gene, weight = owner[row.allele]
        if row.gene != gene:
            continue
        change[place] += weight * step[pair]
        tracks[place] += weight * single.tracks[pair]
        facts.setdefault(place, row._asdict())
        for most in ("windows", "weight"):
            facts[place][most] = max(facts[place][most], getattr(row, most))
        facts[place]["tss_deleted"] |= row.tss_deleted
    blank = {"tss_distance": 0, "windows": 0, "slot": "", "weight": 0.0, "tss_deleted": False}
    table = pd.DataFrame(
        [{**blank, **facts.get(place, {}), "allele": place, "gene": gene} for place, gene in enumerate(genes)],
        columns=list(single.table.columns),
    )
    touched = np.ones(len(genes), dtype=bool)
    return Tokens(table, reference, reference + change, tracks, touched)


def _row(sample: str, variants: Variants, rows: list[int], one: Haplotypes, gene: str) -> dict[str, object]:
    first = variants.table.iloc[rows[0]]
    return {
        "variant": f"{sample}:{gene}",
        "record": int(first["record"]),
        "chrom": str(first["chrom"]),
        "start": int(first["start"]),
        "ref": "",
        "alt": _told(sample, variants, rows, one),
        "kind": "haplotypes",
        "status": "ok",
        "reason": "",
    }


def _told(sample: str, variants: Variants, rows: list[int], one: Haplotypes) -> str:
    """How many alleles a gene has, on which copies, and what is known of their phase."""
    assert variants.genotypes is not None and variants.phased is not None
    column = variants.sample(sample)
    calls, ordered = variants.genotypes[rows, column], variants.phased[rows, column]
    only = (calls[:, 0] == 1) & (calls[:, 1] == ABSENT)
    both = (calls == 1).all(axis=1)
    single = ~only & ~both
    counts = ((both, "on both copies"), (single, "on one copy"), (only, "on the only copy"))
    text = ", ".join(f"{int(which.sum()):,} {where}" for which, where in counts if which.any())
    if not one.phased and (together := int((single & ordered).sum())):
        text += f" ({together:,} of these phased: a block of them counts as one change)"
    return f"{len(rows):,} allele{'s' * (len(rows) != 1)}: {text}; {one.how}"
