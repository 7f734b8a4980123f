"""What variants do: from alleles to genes (cis), through cells to other genes (trans), with nulls, as tables.

One row for every allele, gene and group of cells, and one for every allele that touches no window, no expressed gene,
or could not be read, which says so. What such models cannot do yet is said on every output (``LIMITS``).

Leaves out: reading files (``variation``), details of single pairs (``variant_detail``), sets of targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from syncyte.data.cells import Cells
from syncyte.errors import DataError
from syncyte.genome.fasta import Genome
from syncyte.genome.variants import Variants
from syncyte.tasks.gene_run import GeneRun
from syncyte.tasks.network_cells import FEWEST as FEWEST_CELLS
from syncyte.tasks.network_cells import NetworkCells
from syncyte.tasks.result import Result
from syncyte.tasks.variant_effects import NAMED, Effects, pair_effects
from syncyte.tasks.variant_nulls import Null, random_effects, tested_pairs
from syncyte.tasks.variant_people import diploid_tokens
from syncyte.tasks.variant_tests import adjusted, empirical, over_donors
from syncyte.tasks.variant_tokens import SequenceSide, Tokens, alleles_of, changed_tokens

LIMITS = (
    "For research use only. Sequence models explain differences between genes better than between people and often "
    "miss the sign of a variant's effect; enhancers beyond the windows, coding sequence and splicing are not seen. A "
    "shift of an embedding is not a change of expression."
)
NO_WINDOW = "in no window of a gene that the run knows (expressed in its cells, start in its genome)"
SAME = "leaves every window as it was"
MOST_GROUPS = 200
SHOWN = 5  # genes named in a row


@dataclass(frozen=True)
class VariantEffects:
    """Outcome of the task.

    Attributes
    ----------
    effects
        The table; see ``docs/variants``.
    tables
        Further tables by name (details, targets, tracks).
    metrics
        Numbers of the whole call.
    notes
        What a reader should know.
    provenance
        Run, settings, hashes.
    variants, tokens, numbers, null, likes, cells
        What the tables were made from; ``likes`` are the draws that each pair is compared with.
    """

    effects: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    metrics: dict[str, Any]
    notes: list[str]
    provenance: dict[str, Any]
    variants: Variants
    tokens: Tokens
    numbers: Effects
    null: Null | None
    likes: list[NDArray[np.int64]]
    cells: NetworkCells
    side: SequenceSide
    over_groups: NDArray[np.float64]
    people: pd.Index

    def result(self) -> Result:
        """Tables as they go into the ``uns`` of the cells."""
        tables: dict[str, pd.DataFrame] = {"effects": self.effects}
        tables |= {key: self.tables[key] for key in ("trans", "pairs") if key in self.tables}
        ready: dict[str, pd.DataFrame] = {}
        for name, table in tables.items():
            text = [column for column in table if table[column].dtype == object]
            ready[name] = table.assign(**{column: table[column].fillna("").astype(str) for column in text})
        return Result("variants", self.people, uns=ready, provenance=self.provenance, metrics=self.metrics)

    @property
    def names(self) -> list[str]:
        """Name of each allele that was looked at."""
        return self.variants.table["variant"].to_numpy()[self.variants.usable].tolist()


def variant_effects(
    run: GeneRun,
    variants: Variants,
    genome: Genome,
    cells: Cells,
    *,
    group: str | None,
    donor: str | None,
    sample: str | None = None,
    nulls: int = 200,
    shifts: bool = True,
    each: int | None = None,
    cache: Path | None = None,
    keep: Path | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> VariantEffects:
    """Score the alleles of ``variants`` in cells.

    Parameters
    ----------
    group, donor
        Columns of the cells; one group and one donor without.
    sample
        Score the haplotypes of this sample, gene by gene, instead of each allele by itself.
    nulls
        Random variants that each one is compared with; 0 for none.
    shifts
        Compare contextual embeddings too.
    each
        Cells of a donor in a group that a gene is followed in at most.
    cache, keep
        Folders of encoded sequences and of finished blocks; None keeps nothing.

    Raises
    ------
    DataError
        If no cell has a group, or the cells lack the genes of the run.
    """
    side, notes = run.side(genome, cache, quiet)
    network, more = network_cells(run, cells, group, donor, each, seed)
    notes += [*more, *variants.notes]
    if sample is None:
        tokens = changed_tokens(run.model, side, alleles_of(variants))
    else:
        variants, tokens, said = diploid_tokens(run.model, side, variants, sample, seed)
        notes, nulls = [*notes, *said], 0
    how: dict[str, Any] = {"keep": keep, "quiet": quiet}
    numbers = pair_effects(network, tokens, shifts=shifts, **how)
    tested = tested_pairs(variants, tokens, numbers, side)
    null = random_effects(run.model, side, network, variants, tested, each=nulls, seed=seed, **how)
    likes = [] if null is None else null.likes(variants, tokens.table, genome)
    whole = over_groups(tokens, numbers, null, likes)
    parts = (variants, tokens, numbers, null, likes, network, side, whole, cells.names)
    found = VariantEffects(pd.DataFrame(), {}, {}, notes, {}, *parts)
    found = replace(found, effects=_table(run, found))
    notes += _compared(found, nulls) if null is not None else []
    return replace(found, metrics=_metrics(found))


def _compared(found: VariantEffects, nulls: int) -> list[str]:
    """What to say of comparisons with random variants: what has none, and how small a rate can come out."""
    table, notes = found.effects, []
    made = table[table["status"] == "scored"]
    bare = made[made["null_draws"] == 0]
    whole = bare.groupby("variant")["group"].nunique() == len(found.numbers.groups)
    if whole.any():
        notes.append(
            f"{int(whole.sum()):,} alleles have no random variants, so no p: they change more bases than a window "
            "holds, or no place in the genome is like theirs."
        )
    some = bare[~bare["variant"].map(whole).to_numpy(dtype=bool)]
    if len(some):
        notes.append(
            f"{len(some):,} rows have no p in their group: no gene that a random variant fell at is expressed in "
            f"{FEWEST_CELLS} cells of it."
        )
    p = made["cis_p"].dropna()
    lowest = p.min() * len(p) / max(int((p == p.min()).sum()), 1) if len(p) else 0.0
    if lowest > 0.05:
        notes.append(
            f"{len(p):,} tests with {nulls:,} random variants each: no cis_fdr below {min(lowest, 1):.2g} came out. "
            "cis_fdr_all makes one test of a pair instead of one of each group; more --nulls reach smaller p."
        )
    return notes


def own_sizes(numbers: Effects) -> NDArray[np.float64]:
    """Mean size of the change of the gene's own value over all units, ``(p,)``."""
    known = np.isfinite(numbers.own)
    total = np.where(known, np.abs(numbers.own), 0).sum(axis=1, dtype=np.float64)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def over_groups(
    tokens: Tokens, numbers: Effects, null: Null | None, likes: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Empirical p of each pair's mean change over all groups, against its random variants; NaN without any."""
    found = np.full(len(tokens.table), np.nan)
    if null is None:
        return found
    own, drawn, weight = own_sizes(numbers), own_sizes(null.effects), tokens.table["weight"].to_numpy()
    for row, draws in enumerate(likes):
        found[row] = empirical(own[row], null.scaled(drawn, draws, weight[row]))
    return found


def network_cells(
    run: GeneRun, cells: Cells, group: str | None, donor: str | None, each: int | None, seed: int
) -> tuple[NetworkCells, list[str]]:
    """Cells of the run's genes by group and donor, and what should be known of them."""
    aligned = run.align(cells)
    groups = aligned.column(group) if group else pd.Series("all", index=aligned.names)
    donors = aligned.column(donor) if donor else pd.Series("all", index=aligned.names)
    if not groups.notna().any():
        raise DataError(f"No cell has a value in {group!r}. Give a column of groups that is filled.")
    known = int((groups.notna() & donors.notna()).sum())
    if not known:
        raise DataError(f"No cell has a donor in {donor!r} and a group. Give a column of donors that is filled.")
    if groups.nunique() > MOST_GROUPS:
        raise DataError(
            f"{group!r} has {groups.nunique():,} values; at most {MOST_GROUPS} groups. Give labels of cells."
        )
    network = NetworkCells(run.model, aligned, groups, donors, run.medians, seed=seed, each=each)
    notes = []
    lost = int((~run.genes.isin(cells.part(run.model.spec.modality).features)).sum())
    if lost:
        notes.append(f"{lost:,} of the run's {len(run.genes):,} genes are not in the cells: read as never expressed.")
    if len(set(network.units["donor"])) == 1:
        notes.append(
            "One donor: numbers are descriptive only, no test over donors was made"
            + ("." if donor else " (--donor names the column of donors).")
        )
    if known < len(aligned):
        keys = " or ".join(repr(key) for key in (group, donor) if key)
        notes.append(f"{len(aligned) - known:,} of {len(aligned):,} cells have no value in {keys} and are left out.")
    drawn = len(network.unit)
    if drawn < known:
        notes.append(f"{drawn:,} of {known:,} cells were drawn (1,000 of a donor in a group at most).")
    return network, notes


def _table(run: GeneRun, scored: VariantEffects) -> pd.DataFrame:
    """Effects, a row for each pair and group, and a row for what has none."""
    parts = [_group_rows(run, scored, place) for place in range(len(scored.numbers.groups))]
    found = pd.concat(parts, ignore_index=True) if len(scored.tokens.table) else pd.DataFrame()
    silent = _silent(scored.variants, scored.tokens)
    if len(found):
        for column in ("cis_p", "donor_p", "trans_p"):
            made = found["status"] == "scored"
            found[column.replace("_p", "_fdr")] = adjusted(np.where(made, found[column], np.nan))
        found = found.sort_values(["record", "gene", "group"], kind="stable")
    table = pd.concat([found, silent], ignore_index=True) if len(silent) else found
    if not len(table):
        return pd.DataFrame(columns=list(COLUMNS))
    order = [name for name in COLUMNS if name in table] + [name for name in table if name not in COLUMNS]
    keys = [name for name in ("record", "variant", "gene", "group") if name in table]
    return table[order].sort_values(keys, kind="stable", ignore_index=True)


COLUMNS = (
    *("variant", "chrom", "pos", "ref", "alt", "kind", "record", "status", "reason"),
    *("gene", "gene_id", "tss_distance", "slot", "group", "cells", "donors"),
    *("cis_value", "cis_low", "cis_high", "donor_p", "donor_fdr", "cis_p", "cis_fdr", "cis_p_all", "cis_fdr_all"),
    *("token_shift", "level_change", "track_change"),
    *("trans_size", "trans_p", "trans_fdr", "trans_token", "trans_turn", "rise", "fall"),
    *("null_draws", "warnings"),
)


def _named(variants: Variants, rows: NDArray[np.int64]) -> pd.DataFrame:
    table = variants.table.iloc[rows].reset_index(drop=True)
    frame = table[["variant", "chrom", "ref", "alt", "kind", "record"]]
    return frame.assign(pos=table["start"] + 1, ref=table["ref"].replace("", "-"), alt=table["alt"].replace("", "-"))


def _silent(variants: Variants, tokens: Tokens) -> pd.DataFrame:
    """Rows of alleles that were refused or fall into no window."""
    usable = variants.usable
    untouched = usable[~tokens.touched] if len(usable) else usable
    refused = np.setdiff1d(np.arange(len(variants)), usable)
    first = _named(variants, refused).assign(status="refused", reason=variants.table["reason"].to_numpy()[refused])
    return pd.concat([first, _named(variants, untouched).assign(status="no effect", reason=NO_WINDOW)])


def _group_rows(run: GeneRun, scored: VariantEffects, place: int) -> pd.DataFrame:
    """Rows of all pairs in one group."""
    variants, tokens, numbers = scored.variants, scored.tokens, scored.numbers
    group = numbers.groups[place]
    units = np.flatnonzero((scored.cells.units["group"] == group).to_numpy())
    pairs = tokens.table
    gene = pairs["gene"].to_numpy()
    rows = variants.usable[pairs["allele"].to_numpy()]
    own = over_donors(numbers.own[:, units])
    size = numbers.size[:, place]
    lost = ~np.isfinite(size)
    same = pairs["windows"].to_numpy() == 0
    reason = np.where(same, SAME, np.where(lost, f"gene expressed in too few cells of {group}", ""))
    var = run.trained.vocabularies[run.model.spec.modality]
    shift = (tokens.alternate - tokens.reference).cpu().numpy()
    track = _tracks(tokens, scored.side, group)
    frame = _named(variants, rows).assign(
        status=np.where(same | lost, "no effect", "scored"),
        reason=reason,
        gene=run.symbols[gene],
        gene_id=var["gene_id"].to_numpy()[gene] if "gene_id" in var else run.genes.to_numpy()[gene],
        tss_distance=pairs["tss_distance"].to_numpy(),
        slot=pairs["slot"].to_numpy(),
        group=group,
        cells=numbers.cells[:, units].sum(axis=1),
        donors=own["donors"].astype(int),
        cis_value=own["mean"],
        cis_low=own["low"],
        cis_high=own["high"],
        donor_p=own["p"],
        token_shift=np.linalg.norm(shift, axis=1),
        level_change=shift[:, -1] * float(run.model.level_scale),
        track_change=track,
        trans_size=size,
        trans_token=numbers.token[:, place],
        trans_turn=numbers.turn[:, place],
        rise=_names(run, numbers, place, 0),
        fall=_names(run, numbers, place, NAMED),
        warnings=np.where(pairs["tss_deleted"], "transcription start deleted", ""),
    )
    whole = {"cis_p_all": scored.over_groups, "cis_fdr_all": adjusted(scored.over_groups)}
    return frame.assign(**whole, **_against(scored, rows, units, place))


def _tracks(tokens: Tokens, side: SequenceSide, group: str) -> NDArray[np.float32]:
    """Change of the sequence model's own output for a group; of the largest where it has none of that name."""
    if group in side.names:
        return tokens.tracks[:, side.names.index(group)]
    if not tokens.tracks.shape[1]:
        return np.full(len(tokens.tracks), np.nan, dtype=np.float32)
    largest = np.abs(tokens.tracks).argmax(axis=1)
    return tokens.tracks[np.arange(len(largest)), largest]


def _names(run: GeneRun, numbers: Effects, place: int, begin: int) -> list[str]:
    symbols = run.symbols
    sign = 1 if begin == 0 else -1
    found = []
    for genes, change in zip(
        numbers.top[:, place, begin : begin + SHOWN], numbers.top_change[:, place, begin : begin + SHOWN]
    ):
        found.append(" ".join(str(symbols[one]) for one, by in zip(genes, change) if one >= 0 and by * sign > 0))
    return found


def _against(scored: VariantEffects, rows: NDArray[np.int64], units: NDArray[np.int64], place: int) -> dict[str, Any]:
    """Empirical p of own and other genes' changes against random variants."""
    blank, null, numbers = np.full(len(rows), np.nan), scored.null, scored.numbers
    if null is None:
        return {"cis_p": blank, "trans_p": blank, "null_draws": 0}
    own_null = np.abs(over_donors(null.effects.own[:, units], draws=1)["mean"])
    own = np.abs(over_donors(numbers.own[:, units], draws=1)["mean"])
    cis, trans, count = blank.copy(), blank.copy(), np.zeros(len(rows), dtype=int)
    weight = scored.tokens.table["weight"].to_numpy()
    for row, draws in enumerate(scored.likes):
        cis[row] = empirical(own[row], null.scaled(own_null, draws, weight[row]))
        trans[row] = empirical(numbers.size[row, place], null.scaled(null.effects.size[:, place], draws, weight[row]))
        count[row] = int(np.isfinite(own_null[draws]).sum())
    return {"cis_p": cis, "trans_p": trans, "null_draws": count}


def _metrics(scored_all: VariantEffects) -> dict[str, Any]:
    """Counts of the whole call."""
    table, tokens, null = scored_all.effects, scored_all.tokens, scored_all.null
    variants, groups = scored_all.variants, scored_all.numbers.groups
    scored = table[table["status"] == "scored"] if "status" in table else table
    found: dict[str, Any] = {"alleles": len(variants), **{f"alleles {k}": v for k, v in variants.counts().items()}}
    found |= {
        "alleles in a window": int(tokens.touched.sum()),
        "alleles scored": int(scored["variant"].nunique()) if len(scored) else 0,
        "genes touched": int(tokens.table["gene"].nunique()),
        "pairs of allele and gene": len(tokens.table),
        "groups": len(groups),
    }
    if null is not None:
        found["random variants"] = len(null.draws)
        found |= {f"matched: {level}": count for level, count in null.relaxed.items()}
    return found
