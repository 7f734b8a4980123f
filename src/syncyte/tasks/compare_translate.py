"""Translation beside its baselines: one table a direction, on held-out cells that have both modalities.

Every method sees the same source counts of the same cells; baselines are fitted on the paired cells of the reference,
ridge penalties chosen on a part of it. Predictions are made in blocks of cells and kept in a temporary file, so that
scores can read them by feature.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from syncyte.baselines.activity import GeneActivity, region_gene_weights
from syncyte.baselines.deep import MultiVI
from syncyte.baselines.linear import SvdRidge
from syncyte.baselines.mean import MeanProfile, MeanTimesDepth, TypeMean, true_depth
from syncyte.baselines.neighbors import NeighborTransfer
from syncyte.baselines.prediction import Target, target_matrix
from syncyte.baselines.residual import Kind
from syncyte.baselines.space import Scaling, Space
from syncyte.baselines.start import LinearStart, fit_start
from syncyte.data.cells import Cells
from syncyte.data.split import choose_validation
from syncyte.genome.genes import transcription_starts
from syncyte.genome.reference import Reference
from syncyte.genome.regions import parse_regions
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.metrics.openness import bernoulli_deviance, score_open
from syncyte.metrics.prediction import Columns, Scores, score_values
from syncyte.metrics.ranking import rank_columns
from syncyte.modalities import modalities
from syncyte.tasks.trained import Trained
from syncyte.tasks.translate import predictions, source_cells

COLUMNS: dict[Target, tuple[str, ...]] = {
    "values": ("r", "r_in_type", "skill", "cell_r", "r_given_depth", "slope"),
    "open": (
        *("auroc", "auroc_profile", "d2", "brier_skill", "auprc", "auroc_in_type", "auroc_like_depth"),
        *("level_r", "level_ratio", "ece"),
    ),
}
PLAIN: dict[Kind, Scaling] = {"pearson": "log_cp10k", "depth": "tfidf"}
LOG_NAME: dict[Kind, str] = {"pearson": "log CP10K", "depth": "log TF-IDF"}
FEWEST_PAIRS = 20
FOLDS = 10
ROWS = 512
TUNE_CELLS = 1000


@dataclass(frozen=True)
class Direction:
    """One direction of translation on fixed cells.

    ``train`` and ``held`` hold counts by modality of paired cells; ``null`` is the mean of the target over the
    reference, ``labels`` and ``units`` are of the held-out cells, ``train_labels`` and ``train_batches`` of the
    reference, ``activity`` are weights of regions for genes by name of the form, ``most`` is how many
    open features are ranked (None for all), ``peers`` adds MultiVI.
    """

    source: str
    target: str
    train: Mapping[str, sp.csr_matrix]
    held: Mapping[str, sp.csr_matrix]
    null: NDArray[np.float64]
    units: NDArray[np.int64]
    labels: NDArray[Any] | None = None
    train_labels: NDArray[Any] | None = None
    train_batches: pd.Series | None = None
    activity: Mapping[str, sp.csc_matrix] = field(default_factory=dict)
    most: int | None = None
    peers: bool = False

    @property
    def kind(self) -> Target:
        """Kind of the target."""
        return "open" if modalities[self.target].residual == "depth" else "values"


@dataclass
class Compared:
    """Table of methods, what of the model goes into figures, and words for these."""

    table: pd.DataFrame
    arrays: dict[str, NDArray[Any]]
    reliability: pd.DataFrame
    words: dict[str, str]


def held_columns(blocks: Iterable[NDArray[np.float32]], shape: tuple[int, int]) -> Columns:
    """Predictions that come in blocks of cells, as a function of columns; they lie in a file without a name."""
    with tempfile.TemporaryFile(prefix="syncyte-") as file:
        matrix = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
    first = 0
    for block in blocks:
        matrix[first : first + len(block)] = block
        first += len(block)
    return lambda columns: np.asarray(matrix[:, columns])


def compare_direction(
    trained: Trained,
    name: str,
    held: Cells,
    start: LinearStart | None,
    direction: Direction,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Compared:
    """Score the model and every baseline in one direction.

    Parameters
    ----------
    trained, name
        The model and the name of its row.
    held
        The cells of ``direction.held``, aligned.
    start
        Linear start fitted on the reference; None leaves its row out.
    """
    source, target = direction.source, direction.target
    alone = source_cells(trained, held, source, target)
    shape = direction.held[target].shape
    scored = {name: _scored(held_columns(predictions(trained, alone, target), shape), direction)}
    linear = held_columns(predictions(trained, alone, target, residual=False), shape)
    scored[f"{name}, residual off"] = _scored(linear, direction)
    for method, predict in _methods(direction, start, seed).items():
        say(f"{source} to {target}: {method}")
        scored[method] = _scored(predict(), direction)
    table = pd.DataFrame({key: scores.summary for key, (scores, _) in scored.items()}).T.rename_axis("method")
    table = table[[column for column in COLUMNS[direction.kind] if column in table]]
    table = with_intervals(table, {key: units for key, (_, units) in scored.items()}, direction.units, seed)
    metric = table.columns[0]
    others = table[metric][[not key.startswith(name) and "oracle" not in key for key in table.index]]
    best = str(others.idxmax()) if others.notna().any() else ""
    own = scored[name][0]
    arrays: dict[str, NDArray[Any]] = {
        "per_feature": own.features[metric].to_numpy(),
        "names": trained.vocabularies[target].index.to_numpy()[_columns_of(own)],
    }
    if f"{metric}_in_type" in own.features:
        arrays["per_feature_within"] = own.features[f"{metric}_in_type"].to_numpy()
    if best:
        arrays["per_feature_baseline"] = scored[best][0].features[metric].to_numpy()
    words = {"measure": f"{'r' if metric == 'r' else 'AUROC'} over cells", "baseline": best}
    return Compared(table, arrays, own.reliability, words)


def fit_reference_start(reference: Cells, batch_key: str | None, seed: int) -> LinearStart | None:
    """Fit the linear start on reference cells, or give None where too few of them are paired to translate."""
    names = reference.modalities
    counts = {name: reference.counts(name) for name in names}
    present = {name: reference.present(name) for name in names}
    if int(np.logical_and.reduce(list(present.values())).sum()) < FEWEST_PAIRS:
        return None
    groups = None if batch_key is None else reference.column(batch_key).astype(str).to_numpy()
    kinds = {name: modalities[name].residual for name in names}
    totals = {name: modalities[name].per_cell for name in names}
    start = fit_start(counts, present, kinds, seed=seed, groups=groups, per_cell=totals)
    return start if all(start.source[name] != name for name in names) else None


def gene_starts(trained: Trained, reference: Reference) -> pd.DataFrame | None:
    """Transcription starts of the genes the run knows: ``gene``, ``chrom``, ``position``, ``strand``.

    None where the reference holds no genes or the run knows none of them.
    """
    if reference.genes is None:
        return None
    kinds = {name: modalities[name].schema.feature_kind for name in trained.modalities}
    tables = [
        transcription_starts(trained.vocabularies[name].index, reference)
        for name, kind in kinds.items()
        if kind == "gene"
    ]
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return found if len(found) else None


def activity_weights(source: pd.DataFrame, target: pd.DataFrame, starts: pd.DataFrame) -> dict[str, sp.csc_matrix]:
    """Weights of the regions in table ``source`` for the genes in table ``target``, by name of the form."""
    regions = parse_regions(source.index, source)
    forms: tuple[Literal["promoter", "distance"], ...] = ("promoter", "distance")
    return {form: region_gene_weights(regions, starts, target.index, form) for form in forms}


def units_of(batches: pd.Series | None, cells: int, seed: int) -> tuple[NDArray[np.int64], str]:
    """Codes of the units that intervals resample, and what they are."""
    if batches is not None and len(batches.unique()) > 1:
        codes, names = pd.factorize(batches.astype(str))
        rough = " (so few that intervals are a rough guide)" if len(names) < 6 else ""
        return codes.astype(np.int64), f"{len(names)} technical batches{rough}"
    count = min(FOLDS, max(cells // 20, 1))
    codes = np.random.default_rng(seed).permutation(np.arange(cells) % count)
    return codes.astype(np.int64), f"{count} random groups of cells (there is one technical batch only)"


def beyond_start(table: pd.DataFrame, name: str) -> str:
    """Say what the learned residual adds to the linear path in the first columns, and whether a baseline wins."""
    change = table.loc[name] - table.loc[f"{name}, residual off"]
    gains = ", ".join(f"{column} {change[column]:+.4f}" for column in table.columns[:4])
    headline = table.columns[0]
    judged = table[headline][["oracle" not in str(method) for method in table.index]]
    best = str(judged.idxmax())
    wins = "" if best.startswith(name) else f" By {headline} the baseline {best!r} wins."
    return f"What the learned residual adds to the linear path it starts from: {gains}.{wins}"


def kept_share(trained: Trained, target: str) -> str:
    """Say how much of the learned residual the gate of a target lets through."""
    gate = trained.recipe.get("gates", {}).get(target)
    return "" if gate is None else f"Gate {gate:g}: the share of the learned residual that is kept, by held-out cells."


def _methods(direction: Direction, start: LinearStart | None, seed: int) -> dict[str, Callable[[], Columns]]:
    """Baselines by name; each predicts when called, so that no two predictions are held at once."""
    source, target, kind = direction.source, direction.target, direction.kind
    x, y, seen = direction.train[source], direction.train[target], direction.held[source]
    residual = modalities[source].residual
    plain = PLAIN[residual]
    found: dict[str, Callable[[], Columns]] = {"mean profile": lambda: MeanProfile(kind).fit(x, y).predict(seen)}
    if x.shape[0] < FEWEST_PAIRS:
        return found
    found |= {
        "mean x depth": lambda: MeanTimesDepth(kind).fit(x, y).predict(seen),
        "kNN-50": lambda: NeighborTransfer(Space(plain, seed=seed), kind, 50).fit(x, y).predict(seen),
        f"SVD -> ridge, {LOG_NAME[residual]}": lambda: _ridge(direction, plain, seed).predict(seen),
        f"SVD -> ridge, {residual} residuals": lambda: _ridge(direction, residual, seed).predict(seen),
    }
    if start is not None:
        blocks = (start.predict(source, target, seen[i : i + ROWS]) for i in range(0, seen.shape[0], ROWS))
        found["linear start"] = lambda: held_columns(blocks, (seen.shape[0], y.shape[1]))
    for form, weights in direction.activity.items():
        found[f"gene activity, {form}"] = partial(_activity, weights, x, y, seen)
    if direction.peers and importlib.util.find_spec("scvi") is not None:
        found["MultiVI"] = lambda: MultiVI(kind, seed=seed).fit(x, y).predict(seen)
    labels, known = direction.labels, direction.train_labels
    if labels is not None and known is not None:
        found["oracle: cell-type mean"] = lambda: TypeMean(kind).fit(x, y, known).predict(seen, labels)
        if kind == "open":
            depth = true_depth(direction.held[target])
            found["oracle: cell-type mean x true depth"] = lambda: (
                TypeMean(kind).fit(x, y, known).predict(seen, labels, depth)
            )
    return found


def _activity(weights: sp.csc_matrix, x: sp.csr_matrix, y: sp.csr_matrix, seen: sp.csr_matrix) -> Columns:
    return GeneActivity(weights).fit(x, y).predict(seen)


def _ridge(direction: Direction, scaling: Scaling, seed: int) -> SvdRidge:
    """Ridge with the penalty that predicts a held-out part of the reference best."""
    x, y = direction.train[direction.source], direction.train[direction.target]
    split = choose_validation(direction.train_batches, x.shape[0], seed=seed)
    rows = np.random.default_rng(seed).permutation(split.validation)[:TUNE_CELLS]
    truth = target_matrix(y[rows], direction.kind).tocsc()

    def score(predict: Columns) -> float:
        total = 0.0
        for part in np.array_split(np.arange(truth.shape[1]), max(1, truth.shape[1] // 2000)):
            guess, block = predict(part), truth[:, part]
            if direction.kind == "open":
                total += float(bernoulli_deviance(guess, block).sum())
            else:
                total += float(np.square(block.toarray() - guess).sum())
        return -total

    trial = SvdRidge(Space(scaling, seed=seed), direction.kind).fit(x[split.train], y[split.train])
    penalty = trial.tuned(x[rows], score).penalty
    return SvdRidge(Space(scaling, seed=seed), direction.kind, penalty).fit(x, y)


def _scored(predict: Columns, direction: Direction) -> tuple[Scores, NDArray[np.float64]]:
    """Scores of one prediction, and its headline in every unit."""
    counts = direction.held[direction.target]
    if direction.kind == "open":
        scores = score_open(predict, counts, direction.null, types=direction.labels, most=direction.most)
    else:
        scores = score_values(predict, counts, direction.null, types=direction.labels)
    return scores, _by_unit(predict, target_matrix(counts, direction.kind), _columns_of(scores), direction)


def _columns_of(scores: Scores) -> NDArray[np.int64]:
    """Positions of the scored features."""
    return scores.features.get("column", pd.Series(dtype=np.int64)).to_numpy(dtype=np.int64)


def _by_unit(
    predict: Columns, truth: sp.csr_matrix, columns: NDArray[np.int64], direction: Direction
) -> NDArray[np.float64]:
    """Headline of the scored features inside every unit of cells."""
    count = int(direction.units.max(initial=-1)) + 1
    sums, known = np.zeros(count), np.zeros(count)
    by_column = truth.tocsc()
    for part in np.array_split(columns, max(1, len(columns) // 1000)):
        if not len(part):
            continue
        guess, block = predict(part), by_column[:, part].tocsr()
        for unit in range(count):
            rows = direction.units == unit
            some = block[rows].tocsc()
            values = rank_columns(guess[rows], some)[0] if direction.kind == "open" else _pearson(guess[rows], some)
            sums[unit] += np.nansum(values)
            known[unit] += np.isfinite(values).sum()
    return np.where(known > 0, sums / np.maximum(known, 1), np.nan)


def _pearson(guess: NDArray[np.floating], truth: sp.csc_matrix) -> NDArray[np.float64]:
    """Pearson's r of every column; NaN where the truth, 0 where the prediction does not vary."""
    left, right = truth.toarray().astype(np.float64), np.asarray(guess, dtype=np.float64)
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    length = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
    r = np.divide((left * right).sum(axis=0), length, out=np.zeros(len(length)), where=length > 1e-9)
    return np.where((left**2).sum(axis=0) > 1e-12, r, np.nan)


def with_intervals(
    table: pd.DataFrame, by_unit: Mapping[str, NDArray[np.float64]], units: NDArray[np.int64], seed: int
) -> pd.DataFrame:
    """Add the interval of the first column, ups and downs that methods share taken out: it speaks about differences."""
    metric, sizes = table.columns[0], np.bincount(units).astype(np.float64)
    judged = [values for key, values in by_unit.items() if "oracle" not in key]
    shared = np.mean(judged, axis=0)
    if len(sizes) < 2 or not np.isfinite(shared).any():
        return table
    ends = {}
    for key, values in by_unit.items():
        moved = values - shared if len(judged) > 1 else values
        found = bootstrap_interval(moved, np.random.default_rng(seed), weights=sizes)
        ends[key] = table.loc[key, metric] + np.array([found.low, found.high]) - found.mean
    low, high = np.array([ends[key] for key in table.index]).T
    return table.assign(**{f"{metric}_low": low, f"{metric}_high": high})
