"""Set autoencoder on ATAC counts beside LSI of equal dimension: one half of a cell's counts told from the other half.

    python benchmarks/atac_codes.py CORTEX.h5mu --runs RUNS [--set likelihood=poisson] [--seeds 3] [--out FILE.md]

A random 30 % of the cells of each type are held out (or the cells of some batches). Their counts are thinned into two
halves: the first is encoded, the second is scored. Methods give a share of every region: the mean of training cells;
LSI's own reconstruction, undone to shares; LSI scores through ridge regression on shares of training cells, with the
penalty chosen on training cells; the autoencoder. Scores: nats a cell (Poisson, at the true total), average precision
over the regions of a cell, AUROC over the cells of a region.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from generate import split, to_markdown
from sklearn.metrics import average_precision_score, roc_auc_score

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.baselines.lsi import LSI
from syncyte.baselines.prediction import SCALE
from syncyte.data.cells import Cells, MemoryRows, Part
from syncyte.data.read import open_cells
from syncyte.metrics.realism import split_half
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.trained import Trained, load_trained

LEAST_CELLS = 20  # with a count, for a region to be ranked
PENALTIES = 10.0 ** np.arange(-2, 5)
FLOOR = 0.02  # share of the training mean in every prediction, so that none is zero


def main() -> None:
    """Split, train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--hold-out", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    tables = []
    for seed in range(options.seeds):
        test = split(cells, options.label_key, options.hold_out, seed)
        train, held = cells.take(~test), cells.take(test)
        settings = ["modality=atac", "stages.flow.epochs=0", *options.settings]
        config, begin = configure("scldm", options.preset, settings), time.process_time()
        run = options.runs / f"{options.data.parent.name}_atac_{options.preset}_{seed}"
        trained = load_trained(train_recipe(config, train, run, seed=seed, resume=True, quiet=True), "cpu")
        print(f"seed {seed}: {time.process_time() - begin:.0f} CPU s", flush=True)
        known = trained.align(train).counts("atac")
        held = trained.align(held)
        first, second = split_half(held.counts("atac"), np.random.default_rng(seed))
        axes = trained.model.components
        mean = np.asarray(known.sum(axis=0)).ravel() / known.sum()
        shares = {
            "training mean": np.broadcast_to(mean, second.shape),
            f"LSI, {axes} axes, undone": undone(LSI(axes, seed=seed).fit(known), first, mean),
            f"LSI, {axes} axes, ridge": ridge(LSI(axes, seed=seed).fit(known), known, first, mean),
            f"set autoencoder {options.preset}, {axes} latents": encoded(trained, held, first),
        }
        tables.append(pd.DataFrame({name: score(share, second) for name, share in shares.items()}).T)
        print(tables[-1].round(4).to_string(), flush=True)
    text = f"\n{options.seeds} seeds of the split, means\n\n{to_markdown(tables)}\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def undone(lsi: LSI, counts: sp.csr_matrix, mean: np.ndarray) -> np.ndarray:
    """Shares from the reconstruction of log TF-IDF."""
    values = lsi.transform(counts) @ lsi.loadings.T
    return floored(np.expm1(np.clip(values, 0, None)) / lsi.tfidf.weights / SCALE, mean)


def ridge(lsi: LSI, known: sp.csr_matrix, counts: sp.csr_matrix, mean: np.ndarray) -> np.ndarray:
    """Shares by linear regression on scores; the penalty is chosen on a fifth of the training cells."""
    x, depth = lsi.transform(known), np.asarray(known.sum(axis=1)).ravel()
    y = sp.diags(1 / np.maximum(depth, 1)) @ known
    inner = np.random.default_rng(0).random(len(x)) < 0.8
    first, second = split_half(known[~inner], np.random.default_rng(1))
    losses = []
    for penalty in PENALTIES:
        share = floored(solve(x[inner], y[inner], penalty, mean, lsi.transform(first)), mean)
        losses.append(score(share, second, ranked=False)["nats"])
    return floored(solve(x, y, PENALTIES[int(np.argmin(losses))], mean, lsi.transform(counts)), mean)


def solve(x: np.ndarray, y: sp.csr_matrix, penalty: float, mean: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Ridge regression of sparse shares about the mean."""
    middle = x.mean(axis=0)
    x = x - middle
    right = np.asarray((y.T @ x).T) - np.outer(x.sum(axis=0), mean)
    return mean + (new - middle) @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), right)


def floored(share: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Shares that are positive and add up to one."""
    share = np.clip(share, 0, None)
    total = share.sum(axis=1, keepdims=True)
    share = np.where(total > 0, share / np.maximum(total, 1e-12), mean)
    return (1 - FLOOR) * share + FLOOR * mean


@torch.inference_mode()
def encoded(trained: Trained, held: Cells, counts: sp.csr_matrix) -> np.ndarray:
    """Shares decoded from the codes of counts."""
    part = Part(MemoryRows(counts), np.arange(len(held)), held.part("atac").var)
    found = []
    for batch in trained.batches(replace(held, parts={"atac": part})):
        scores = trained.model.decoder(trained.model.encoder(batch.tokens["atac"])[0])[0]
        found.append(torch.softmax(scores.float(), dim=1).numpy())
    return np.concatenate(found)


def score(share: np.ndarray, counts: sp.csr_matrix, ranked: bool = True) -> dict[str, float]:
    """Nats a cell, and how well regions of a cell and cells of a region are ranked."""
    from scipy.special import gammaln

    depth = np.asarray(counts.sum(axis=1)).ravel()
    rows, columns, values = sp.find(counts)
    log = np.log(np.maximum(share[rows, columns], 1e-12) * depth[rows])
    found = {"nats": float((depth.sum() - (values * log).sum() + gammaln(values + 1).sum()) / len(depth))}
    if ranked:
        opened = (counts > 0).astype(np.int8)
        some = [row for row in range(len(depth)) if opened[row].nnz > 0][:500]
        precision = [average_precision_score(opened[[row]].toarray()[0], share[row]) for row in some]
        often = np.flatnonzero(opened.getnnz(axis=0) >= LEAST_CELLS)
        flags = opened[:, often].toarray()
        area = [roc_auc_score(flags[:, i], share[:, one]) for i, one in enumerate(often)]
        found |= {"AP of a cell": float(np.mean(precision)), "AUROC of a region": float(np.mean(area))}
    return found


if __name__ == "__main__":
    main()
