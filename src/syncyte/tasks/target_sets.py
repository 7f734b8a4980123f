"""Do the genes that a changed gene moves most hold its known targets? Beside what needs no model of sequence.

For a gene with a list of targets, all other genes are ranked by the size of their change, in standard deviations of
each gene, under

- *sequence*: the gene's own value moved as an allele moves it (where one was scored); all zero, so that nothing is
  ranked, where the allele moves it no further than random variants do,
- *sequence, token alone*: the allele's token with the value kept, as the publication has it,
- *down*: the gene's own value lowered by one standard deviation (a directed shift),
- *delete* and *mask*: the gene taken out of the cell, or hidden, as adapter-free models are asked,
- *random direction*: the token moved at random as far as the allele moved it (its own length without one),
- *co-expression*: absolute Pearson correlation of log values over all cells, the ranking to beat, and the same within
  groups of cells,
- *mean expression*: curated targets are well-expressed genes.

Each ranking is scored against controls of like expression (AUROC, AUPRC, with intervals over resampled targets, and p
against random sets of like expression), and by the targets among its first 50 (hypergeometric), as the publication has
it. Leaves out: where lists come from; direct and indirect targets are lists of their own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from syncyte.errors import DataError
from syncyte.genome.tables import opened
from syncyte.tasks.network_cells import NetworkCells, Response
from syncyte.tasks.variant_effects import group_means

FIRST = 50
STEPS = (10, 20, 50, 100, 200, 500, 1_000)  # places of the enrichment curve
CONTROLS = 10  # genes of like expression for each target
FEWEST = 3  # targets that a list must have among the genes of the run
DRAWS = 1_000


def read_targets(path: object) -> pd.DataFrame:
    """Table of pairs: ``gene``, ``target`` and, where given, ``set`` (say direct and indirect).

    The first two columns of a table with or without names (TRRUST's has none) are the gene and its target; a column
    ``set`` or ``kind`` tells lists apart.

    Raises
    ------
    DataError
        If the file is no table of two columns or more.
    GenomeError
        If it is missing or damaged.
    """
    with opened(Path(str(path)).expanduser()) as stream:
        text = stream.read().decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    separator = next((one for one in "\t,;" if lines and one in lines[0]), r"\s+")
    try:
        table = pd.read_csv(io.StringIO("\n".join(lines)), sep=separator, engine="python", header=None, dtype=str)
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table of genes and targets: {error}.") from error
    if table.shape[1] < 2 or not len(table):
        raise DataError(f"{path} has {table.shape[1]} column. Expected a gene, its target, and maybe the set it is in.")
    first = table.iloc[0].str.lower().fillna("")
    named = first.iloc[1] in ("target", "target_gene", "targets", "gene")
    kind = next((place for place, name in enumerate(first) if named and name in ("set", "kind")), None)
    rows = table.iloc[1:] if named else table
    found = pd.DataFrame({"gene": rows[0], "target": rows[1], "set": "targets" if kind is None else rows[kind]})
    return found.dropna(subset=["gene", "target"]).drop_duplicates(ignore_index=True)


def rankings(
    cells: NetworkCells, gene: int, alternate: torch.Tensor | None, seed: int = 0, beyond: bool = True
) -> dict[str, NDArray]:
    """Score ``(g,)`` of every other gene under each way; NaN for the gene itself and where nothing is known.

    Parameters
    ----------
    alternate
        Token that an allele gives to the gene; None where there is none.
    beyond
        The allele moves the gene's value further than random variants do.
    """
    model, token = cells.model, cells.tokens[gene]
    generator = torch.Generator().manual_seed(seed)
    lowered = token.clone()
    lowered[-1] -= model.spread[gene] / model.level_scale
    direction = torch.randn(token.shape, generator=generator).to(token)
    length = token.norm() if alternate is None else (alternate - token).norm()
    turned = token + direction * (length / direction.norm())
    ways: dict[str, Response] = {}
    if alternate is not None:
        ways["sequence"] = cells.respond(gene, alternate[None], carried=True)
        ways["sequence, token alone"] = cells.respond(gene, alternate[None], kept=True)
    ways["down"] = cells.respond(gene, lowered[None], carried=True)
    ways["delete"], ways["mask"] = cells.without(gene, "delete"), cells.without(gene, "mask")
    ways["random direction"] = cells.respond(gene, turned[None])
    scores = {}
    spread = model.spread.cpu().numpy()
    for name, response in ways.items():
        kept = 1.0 if beyond or not name.startswith("sequence") else 0.0
        scores[f"{name}: change"] = kept * np.abs(_over_groups(cells, response.change) / spread)
        scores[f"{name}: shift"] = kept * _over_groups(cells, response.shift)
    scores |= co_expression(cells, gene)
    scores["mean expression"] = model.level.cpu().numpy().copy()
    for score in scores.values():
        score[gene] = np.nan
    return scores


def _over_groups(cells: NetworkCells, values: NDArray[np.float32]) -> NDArray[np.float64]:
    means = group_means(cells, values)[0].astype(np.float64)
    known = np.isfinite(means)
    return np.where(known, means, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def co_expression(cells: NetworkCells, gene: int) -> dict[str, NDArray[np.float64]]:
    """Absolute correlation of a gene's log values with all others', over all cells and within groups."""
    values = cells.values.tocsr().astype(np.float64)
    group = cells.units["group"].astype("category").cat.codes.to_numpy()[cells.unit]
    found = {"co-expression": np.abs(_correlation(values, gene))}
    inside, weight = np.zeros(values.shape[1]), 0
    for code in np.unique(group):
        rows = np.flatnonzero(group == code)
        if len(rows) >= 20:
            inside += len(rows) * np.nan_to_num(_correlation(values[rows], gene))
            weight += len(rows)
    found["co-expression within groups"] = np.abs(inside / max(weight, 1))
    return found


def _correlation(values: object, gene: int) -> NDArray[np.float64]:
    matrix = values
    own = matrix[:, [gene]].toarray().ravel()  # type: ignore[index]
    mean = np.asarray(matrix.mean(axis=0)).ravel()  # type: ignore[attr-defined]
    square = np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel()  # type: ignore[attr-defined]
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    cross = np.asarray(matrix.T @ (own - own.mean())).ravel() / len(own)  # type: ignore[attr-defined]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((spread > 0) & (own.std() > 0), cross / (spread * own.std()), 0.0)


def controls_of(level: NDArray, targets: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Genes among ``allowed`` whose expression is nearest to that of the targets, ``CONTROLS`` for each."""
    order = allowed[np.argsort(level[allowed], kind="stable")]
    found: set[int] = set()
    for place in np.searchsorted(level[order], level[targets]):
        low = max(0, min(place - CONTROLS // 2, len(order) - CONTROLS))
        found.update(order[low : low + CONTROLS].tolist())
    return np.array(sorted(found), dtype=np.int64)


def score_targets(
    scores: Mapping[str, NDArray], level: NDArray, gene: int, targets: NDArray[np.int64], seed: int = 0
) -> pd.DataFrame:
    """One row a ranking: ``auroc``, its interval and ``p``, ``auprc`` beside its chance, and what the first 50 hold.

    Parameters
    ----------
    scores
        From ``rankings``.
    level
        ``(g,)`` mean expression.
    targets
        Positions; the gene itself is passed over.
    """
    targets = np.setdiff1d(targets, [gene])
    others = np.setdiff1d(np.flatnonzero(level > 0), np.append(targets, gene))
    controls = controls_of(level, targets, others)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(targets), (DRAWS, len(targets)))
    rows = []
    for name, score in scores.items():
        known = np.isfinite(score)
        hit, miss = score[targets], score[controls]
        if not known[targets].all() or not known[controls].all():
            continue
        wins = _wins(hit, miss)
        low, high = np.quantile(wins[drawn].mean(axis=1), (0.025, 0.975))
        truth = np.append(np.ones(len(hit)), np.zeros(len(miss)))
        values = np.append(hit, miss)
        rows.append(
            {
                "ranking": name,
                "auroc": roc_auc_score(truth, values),
                "auroc_low": low,
                "auroc_high": high,
                "p": _against_sets(score, level, targets, others, wins.mean(), controls, rng),
                "auprc": average_precision_score(truth, values),
                "auprc_chance": len(hit) / len(truth),
                **_first(score, targets, np.append(others, targets)),
                **_curve(score, targets, np.append(others, targets)),
                "targets": len(hit),
                "controls": len(miss),
            }
        )
    return pd.DataFrame(rows)


def _wins(hit: NDArray, miss: NDArray) -> NDArray[np.float64]:
    """Share of controls that each target is ranked above; a tie is half a win."""
    ordered = np.sort(miss)
    return (np.searchsorted(ordered, hit, "left") + np.searchsorted(ordered, hit, "right")) / (2 * len(miss))


def _against_sets(
    score: NDArray,
    level: NDArray,
    targets: NDArray[np.int64],
    others: NDArray[np.int64],
    observed: float,
    controls: NDArray[np.int64],
    rng: np.random.Generator,
) -> float:
    """Share of random sets of like expression that are ranked as high as the targets."""
    order = others[np.argsort(level[others], kind="stable")]
    place = np.searchsorted(level[order], level[targets])
    near = np.clip(place[None] + rng.integers(-15, 16, (DRAWS, len(targets))), 0, len(order) - 1)
    miss = np.sort(score[controls])
    drawn = score[order[near]]
    share = (np.searchsorted(miss, drawn, "left") + np.searchsorted(miss, drawn, "right")) / (2 * len(miss))
    return float((1 + (share.mean(axis=1) >= observed).sum()) / (1 + DRAWS))


def _first(score: NDArray, targets: NDArray[np.int64], universe: NDArray[np.int64]) -> dict[str, float]:
    """Targets among the first 50 and the chance of so many."""
    # ties are broken at random, so that a ranking that says nothing finds what chance finds
    order = np.lexsort((np.random.default_rng(0).random(len(universe)), -score[universe]))
    ranked = universe[order][:FIRST]
    hits = int(np.isin(ranked, targets).sum())
    chance = stats.hypergeom.sf(hits - 1, len(universe), len(targets), len(ranked))
    return {
        "in_first_50": hits,
        "expected_in_first_50": len(ranked) * len(targets) / len(universe),
        "p_first_50": chance,
    }


def _curve(score: NDArray, targets: NDArray[np.int64], universe: NDArray[np.int64]) -> dict[str, float]:
    """Share of the targets among the first genes, at several numbers of them; ties are broken at random."""
    order = np.lexsort((np.random.default_rng(0).random(len(universe)), -score[universe]))
    hits = np.isin(universe[order], targets).cumsum() / len(targets)
    return {f"found_at_{step}": float(hits[min(step, len(hits)) - 1]) for step in STEPS}


def all_targets(
    cells: NetworkCells,
    names: NDArray,
    pairs: pd.DataFrame,
    alternates: Mapping[int, Sequence[tuple[str, torch.Tensor, bool]]],
    seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:
    """Score all lists of targets; the table and what was passed over.

    Parameters
    ----------
    names
        ``(g,)`` symbols of the genes.
    pairs
        From ``read_targets``.
    alternates
        By gene, alleles that change its token: name, token, and whether it moves the gene beyond random variants.
    """
    place = pd.Series(np.arange(len(names)), index=pd.Index(names).str.upper()).groupby(level=0).first()
    pairs = pairs.assign(source=pairs["gene"].str.upper().map(place), hit=pairs["target"].str.upper().map(place))
    level = cells.model.level.cpu().numpy()
    parts, notes, bare = [], [], []
    for gene_name, own in pairs.groupby("gene", sort=False):
        source = own["source"].iloc[0]
        if not np.isfinite(source) or int(np.isfinite(own["hit"]).sum()) < FEWEST:
            continue
        gene = int(source)
        if len(cells.expressing(gene)) < 10:
            notes.append(f"{gene_name}: expressed in too few of the cells given.")
            continue
        alleles = alternates.get(gene, ())
        if not alleles:
            bare.append(str(gene_name))
        for number, (name, alternate, beyond) in enumerate(alleles or [("", None, False)]):
            scores = rankings(cells, gene, alternate, seed, beyond)
            if number:  # what does not hang on the allele was scored with the first one
                scores = {way: score for way, score in scores.items() if way.startswith("sequence")}
            for kind, some in own.groupby("set", sort=False):
                hits = some["hit"].dropna().astype(int).unique()
                hits = hits[(level[hits] > 0) & (hits != gene)]
                if len(hits) >= FEWEST:
                    table = score_targets(scores, level, gene, hits, seed)
                    on = table["ranking"].str.startswith("sequence")
                    table = table.assign(gene=gene_name, set=kind, allele=on.map({True: name, False: ""}))
                    parts.append(table.assign(beyond_random=on.map({True: beyond, False: None})))
    if bare:
        some = ", ".join(bare[:5]) + (" ..." if len(bare) > 5 else "")
        notes.append(
            f"{len(bare):,} genes with targets have no allele that changes their token, so no sequence edit ({some}): "
            "give variants or edits in their windows, and a FASTA that covers them."
        )
    if not parts:
        return pd.DataFrame(), [*notes, "No list of targets has three genes of the run, and its own gene among them."]
    table = pd.concat(parts, ignore_index=True)
    lead = ["gene", "set", "allele", "ranking"]
    return table[[*lead, *[name for name in table if name not in lead]]], notes
