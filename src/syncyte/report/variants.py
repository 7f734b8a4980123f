"""The page on what variants do: what was scored, what stands out, single pairs, known targets, and what it cannot say.

Leaves out: how any number is made (``tasks.variants``) and files (``report.write``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from syncyte.report.base import Report, Section, Verdict
from syncyte.tasks.plot import GRID, INK, MODEL, OTHER, PALETTE, dress, new_figure
from syncyte.tasks.variants import LIMITS, VariantEffects

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 12  # points of a volcano that get a name
RANKED = 50
WIDE = ("variant", "gene", "group", "tss_distance", "cis_value", "cis_p", "trans_size", "trans_p", "trans_fdr")
GOOD = "beats"


def variant_report(found: VariantEffects) -> Report:
    """Everything of a call as a page."""
    encoder = found.provenance.get("sequence model", {})
    sections = [_summary(found, encoder), _ranked(found)]
    sections += [_pairs(found)] if "trans" in found.tables else []
    sections += [_targets(found)] if "targets" in found.tables else []
    sections += [_track(found)] if "track" in found.tables else []
    sections.append(_models(found))
    sections.append(Section("What this cannot say", text=[LIMITS], verdicts=[Verdict(LIMITS, "alone")]))
    facts = {key: str(value) for key, value in found.provenance.items() if isinstance(value, str | int | float)}
    sections.append(Section("Provenance", tables={"Facts": pd.DataFrame({"value": facts})}))
    return Report("What variants do", sections, "cis: the gene itself; trans: the genes around it", facts)


def _summary(found: VariantEffects, encoder: dict[str, Any]) -> Section:
    verdict = str(encoder.get("verdict", "not trained here"))
    words = [f"Sequence model ({encoder.get('source', 'given')}): {verdict}."]
    if encoder.get("weak"):
        words.append("It learned expression from starts alone, which is weak: read effects as hints.")
    outcome = "ahead" if verdict.startswith(GOOD) and ", not " not in verdict else "behind"
    verdicts = [Verdict(words[0], outcome if encoder.get("own") else "alone")]  # type: ignore[arg-type]
    return Section("Summary", text=[*words, *found.notes], metrics=found.metrics, verdicts=verdicts)


def _models(found: VariantEffects) -> Section:
    """How good the sequence model and the adapter were on what they had not seen."""
    adapter = found.provenance.get("adapter", {})
    rows = {key: value for key, value in adapter.items() if isinstance(value, int | float)}
    text = (
        "Percentiles of the right gene among genes of chromosomes left out: 1 is always first, 0.5 is chance. Those "
        "that begin with 'unseen' are of chromosomes that the sequence model has not seen either: believe these. The "
        "share is how far static tokens are replaced."
    )
    encoder = found.provenance.get("sequence model", {})
    words = f"Sequence model: {encoder.get('verdict', 'not trained here')}, learned from {encoder.get('source', '?')}."
    return Section("Sequence model and adapter", text=[words, text], tables={"Adapter": pd.DataFrame({"value": rows})})


def scored_rows(found: VariantEffects) -> pd.DataFrame:
    """Rows with an effect, the least likely by chance and then the largest first."""
    table = found.effects
    if "gene" not in table:  # no allele falls into a window
        return table.head(0)
    scored = table[table["status"] == "scored"]
    return scored.sort_values(["trans_p", "trans_size"], ascending=[True, False], na_position="last")


def _ranked(found: VariantEffects) -> Section:
    scored = scored_rows(found)
    if not len(scored):
        return Section("Effects", text="No allele changes the token of a gene that these cells express.")
    strongest = scored.drop_duplicates(["variant", "gene"]).head(RANKED)
    table = strongest[[name for name in WIDE if name in strongest]].reset_index(drop=True)
    figures = {"Volcano: change of the gene's own value, and how many random variants do as much": volcano(scored)}
    text = "A row is the strongest group of a pair of allele and gene; effects.tsv has all."
    return Section("Effects", text=text, tables={"Strongest pairs": table}, figures=figures)


def volcano(scored: pd.DataFrame) -> Figure:
    """Own change against -log10 p of random variants, coloured by group, the strongest named."""
    figure = new_figure(7.0, 4.6)
    axes = figure.subplots()
    p = scored["cis_p"].fillna(1.0).clip(lower=1e-6)
    groups = sorted(scored["group"].unique())
    for place, group in enumerate(groups):
        own = (scored["group"] == group).to_numpy()
        colour = PALETTE[place % len(PALETTE)]
        axes.scatter(scored["cis_value"][own], -np.log10(p[own]), s=14, color=colour, label=group, alpha=0.7, lw=0)
    for row in scored.assign(y=-np.log10(p)).drop_duplicates(["variant", "gene"]).head(NAMED).itertuples():
        axes.annotate(f"{row.gene}", (row.cis_value, row.y), fontsize=7, color=INK, alpha=0.9)
    axes.axvline(0, color=GRID, lw=1)
    dress(axes, "Effects in cis", "change of own value, log1p of counts per 10,000", "-log10 p against random variants")
    if len(groups) > 1:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _pairs(found: VariantEffects) -> Section:
    trans = found.tables["trans"]
    tables = {"Pairs": found.tables["pairs"]}
    first = trans.drop_duplicates(["variant", "gene", "group"]).head(3)
    figures = {}
    for row in first.itertuples():
        own = trans[(trans["variant"] == row.variant) & (trans["gene"] == row.gene) & (trans["group"] == row.group)]
        tables[f"{row.variant} on {row.gene} in {row.group}"] = own.head(30).reset_index(drop=True)
        figures[f"{row.variant} on {row.gene}: the genes that move most"] = _bars(own.head(20))
    text = (
        "For each pair: its size against the same change of token on genes of like expression, and how its ranking of "
        "genes agrees with deleting or hiding the gene, a random direction, co-expression and mean expression."
    )
    return Section("Other genes (trans)", text=text, tables=tables, figures=figures)


def _bars(table: pd.DataFrame) -> Figure:
    figure = new_figure(6.4, 0.6 + 0.22 * len(table))
    axes = figure.subplots()
    ordered = table.iloc[::-1]
    colours = [MODEL if value > 0 else PALETTE[5] for value in ordered["change"]]
    axes.barh(ordered["other"].astype(str), ordered["change"], color=colours, height=0.7)
    dress(axes, "", "change, log1p of counts per 10,000", "", grid="x")
    return figure


def _targets(found: VariantEffects) -> Section:
    table = found.tables["targets"]
    mean = list_means(table, ["auroc", "auprc", "in_first_50"])
    figures = {
        "Targets among controls of like expression, by ranking": target_figure(table),
        "Enrichment: share of the targets among the first genes of all": enrichment_figure(table),
    }
    tables = {"Mean over lists": mean, "All lists": table[[n for n in table if not n.startswith("found_at_")]]}
    text = "Controls are genes of like expression. Co-expression is the ranking to beat; intervals resample targets."
    return Section("Known targets", text=text, tables=tables, figures=figures)


def list_means(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Mean over lists by ranking; the alleles of a gene are one list's, not as many."""
    return table.groupby(["ranking", "gene", "set"], sort=False)[columns].mean().groupby("ranking", sort=False).mean()


def target_figure(table: pd.DataFrame) -> Figure:
    """AUROC of every ranking, a point a list, with the mean."""
    names = list(dict.fromkeys(table["ranking"]))
    figure = new_figure(6.8, 0.8 + 0.3 * len(names))
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        values = table.loc[table["ranking"] == name, "auroc"].to_numpy()
        colour = MODEL if name.startswith("sequence") else OTHER
        axes.scatter(values, np.full(len(values), place), s=12, color=colour, alpha=0.5, lw=0)
        axes.scatter([values.mean()], [place], s=60, color=colour, marker="|", lw=2)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.axvline(0.5, color=GRID, lw=1)
    dress(axes, "", "AUROC", "", grid="x")
    return figure


def enrichment_figure(table: pd.DataFrame) -> Figure:
    """Mean share of the targets found among the first genes, a line a ranking by change or correlation."""
    figure = new_figure(6.8, 4.0)
    axes = figure.subplots()
    steps = [int(name.removeprefix("found_at_")) for name in table if name.startswith("found_at_")]
    mean = list_means(table, [f"found_at_{step}" for step in steps])
    mean = mean[[not name.endswith("shift") for name in mean.index]]
    for place, (name, row) in enumerate(mean.iterrows()):
        first = str(name).startswith("sequence: ")
        colour = MODEL if first else PALETTE[1 + place % (len(PALETTE) - 1)]
        axes.plot(steps, row.to_numpy(), label=str(name), color=colour, lw=2.2 if first else 1.2)
    axes.set_xscale("log")
    dress(axes, "", "first genes of the ranking", "share of the targets", grid="y")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _track(found: VariantEffects) -> Section:
    table = found.tables["track"]
    figures = {
        f"{gene} in {group}: every single change around its start": track_figure(own)
        for (gene, group), own in table.groupby(["gene", "group"], sort=False)
    }
    text = (
        "A point is one exchanged base: change of the gene's predicted level, the largest loss and gain at each place."
    )
    return Section("Mutagenesis", text=text, figures=figures, data={"track": table})


def track_figure(table: pd.DataFrame) -> Figure:
    """Largest gain and loss of the level at every place."""
    figure = new_figure(8.4, 2.8)
    axes = figure.subplots()
    grouped = table.groupby("distance")["level_change"]
    place = np.array(sorted(table["distance"].unique()))
    axes.fill_between(place, grouped.max().clip(lower=0).to_numpy(), color=MODEL, lw=0, step="mid")
    axes.fill_between(place, grouped.min().clip(upper=0).to_numpy(), color=PALETTE[5], lw=0, step="mid")
    axes.axvline(0, color=INK, lw=0.8)
    dress(axes, "", "bases from the start", "change of level", grid="y")
    return figure
