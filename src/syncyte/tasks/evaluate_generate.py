"""Evaluate generation: the tables, pictures and words of a set model's generated cells.

Leaves out: the numbers (``compare_generate``) and the drawing (``report``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from syncyte.baselines.prediction import column_means, log_cp10k
from syncyte.errors import ConfigError, DataError, unknown
from syncyte.metrics.distribution import score_sets
from syncyte.models.conditions import as_text
from syncyte.tasks.compare_generate import FLOOR, REAL, Comparison, Ground, compare_generation
from syncyte.tasks.compare_perturb import compare_responses
from syncyte.tasks.draw import Sampling, coder_of
from syncyte.tasks.generators import flow_cells
from syncyte.tasks.plot import umap_coordinates
from syncyte.tasks.work import Work

RESPONSES = (
    "Units are perturbations in contexts. Predictions start from one part of the held-out control cells, measured "
    "shifts are taken against the other. 'Delta (reference)' is told from the mean response of the training cells."
)
CHOSEN = ["energy", "mmd2", "one_nn", "recall", "precision", "harmonic", "w2", "frechet", "variance_ratio"]
COPIED = ["memorisation_ratio", "copies"]
DOSES = (0.0, 1.0, 1.5, 2.0, 3.0)
MARKERS = 6
DIVERSITY = ("precision", "recall", "variance_ratio", "energy", "one_nn")


def score_generation(work: Work) -> None:
    """Fill in what generation is worth."""
    labels = None
    if work.label_key is not None:
        known, new = work.labels_of(work.reference), work.labels_of(work.held)
        assert known is not None and new is not None
        labels = {"reference": known, "held": new} if (known != "").any() and (new != "").any() else None
    found = compare_generation(
        work.trained,
        work.name,
        work.held,
        work.reference,
        labels,
        label_key=work.label_key,
        peers=work.peers,
        seed=work.seed,
        say=work.say,
    )
    work.tables["generate"] = found.table[CHOSEN + COPIED]
    rest = [name for name in found.table.columns if name not in CHOSEN + COPIED]
    work.tables["generate counts"] = found.table[rest]
    if found.utility is not None:
        work.tables["generate utility"] = found.utility
    work.arrays["generate"] = _pictures(work, found)
    work.arrays["umap generated"] = _umap(work, found)
    work.tables["generate guidance"] = _doses(work, found)
    work.text["generate"] = " ".join([_words(found), *found.notes])


def _words(found: Comparison) -> str:
    best = found.table.drop(index=[FLOOR])
    narrow = best.index[best["recall"] < found.table.loc[FLOOR, "recall"] - 0.2]
    words = (
        f"Equal numbers of cells with equal labels, in principal components of log counts of the training cells; means "
        f"of several draws. The row {FLOOR!r} is what other held-out cells score: no generator can honestly do better. "
        "1-NN accuracy is 0.5 where generated cells cannot be told from real ones. A memorisation ratio well below 1, "
        "or copies, mean that training cells are handed out again."
    )
    if len(narrow):
        words += f" Low recall means that kinds of cells are missing: {', '.join(map(str, narrow))}."
    return words


def _pictures(work: Work, found: Comparison) -> dict[str, np.ndarray]:
    """Genes real against generated, and the counts of the genes that tell labels apart best."""
    genes = found.genes
    arrays = {name: genes[name].to_numpy() for name in genes.columns}
    real, made = found.counts[REAL], found.counts[work.name]
    spread = _between(real, found.labels)
    top = np.argsort(-spread)[:MARKERS]
    arrays["names"] = genes.index.to_numpy()[top].astype(str)
    arrays["labels"] = found.labels
    for name, counts in (("marker_real", real), ("marker_made", made)):
        total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        arrays[name] = np.log1p(counts[:, top].toarray() * 1e4 / total[:, None])
    return arrays


def _between(counts: sp.csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Variance of label means of log values over all of the variance, by gene; 0 for genes hardly seen."""
    logs = log_cp10k(counts)
    whole = column_means(logs)
    total = column_means(logs.multiply(logs).tocsr()) - whole**2
    between = np.zeros_like(whole)
    for label in np.unique(labels):
        rows = labels == label
        between += rows.mean() * (column_means(logs[rows]) - whole) ** 2
    return np.where(whole > 0.1, between / np.maximum(total, 1e-9), 0.0)


def _umap(work: Work, found: Comparison) -> dict[str, np.ndarray]:
    """Real and generated cells in one picture."""
    work.say("UMAP of real and generated cells")
    points = np.concatenate([found.points[REAL], found.points[work.name]]).astype(np.float32)
    source = np.repeat(["real", "generated"], [len(found.points[REAL]), len(found.points[work.name])])
    rows, spots = umap_coordinates(points, work.seed)
    return {"coordinates": spots, "label": np.tile(found.labels, 2)[rows], "source": source[rows]}


def _doses(work: Work, found: Comparison) -> pd.DataFrame:
    """What guidance costs in diversity: scores by weight, on the first draw."""
    table, rows = found.asked, {}
    for weight in DOSES:
        counts = flow_cells(work.trained, table, Sampling(guidance=weight), work.seed)
        scores = score_sets(found.points[REAL], found.ground.place(counts))
        rows[f"{weight:g}"] = {key: scores[key] for key in DIVERSITY}
    return pd.DataFrame(rows).T.rename_axis("guidance")


def score_perturbation(work: Work, asked: str | None = None) -> None:
    """Fill in what predicted responses are worth, where ``KEY=CONTROL`` says which are meant."""
    if not asked:
        names = [name for name, one in coder_of(work.trained).attributes.items() if one.categorical]
        if len(names) > 1:
            work.notes.append(f"Responses are not scored: say --perturbation KEY=CONTROL (KEY: {', '.join(names)}).")
        return
    key, separator, control = asked.partition("=")
    if not separator:
        raise ConfigError(f"--perturbation {asked}: expected KEY=CONTROL, such as condition=ctrl.")
    if key not in work.held.obs.columns:
        raise DataError(unknown("obs column of the held-out cells", key, work.held.obs.columns))
    assert work.given is not None
    # control cells may be of the training: the measured shift is taken against others than those predicted from
    fresh = work.given.names.isin(work.held.names) | (as_text(work.given.obs[key]) == control).to_numpy()
    held = work.trained.align(work.given.take(np.flatnonzero(fresh)))
    ground = Ground.fit(work.reference.counts(work.trained.modalities[0]), work.seed)
    try:
        found = compare_responses(
            work.trained, work.name, held, key, control, ground=ground, seed=work.seed, say=work.say
        )
    except DataError as error:  # the rest of the evaluation stands
        work.notes.append(f"WARNING: responses are not scored. {error}")
        return
    work.tables["perturb"] = found.table
    work.tables["perturb intervals"] = found.intervals
    units = found.units.set_index(["method", "context", "perturbation"]).index.map(lambda key: ", ".join(map(str, key)))
    work.tables["perturb units"] = found.units[["pearson_delta", "pearson_delta_reference"]].set_index(units)
    work.arrays["perturb"] = found.scatter
    work.text["perturb"] = " ".join([RESPONSES, *found.notes])
