"""Annotation of two held-out technical batches of mouse cortex beside logistic regression.

    python benchmarks/annotate_cortex.py RUN [--data cortex.h5mu] [--held 09C,09J] [--method auto] [--seeds 0]

RUN is a trained folder, or a preset (``small``, ``lite``) that is trained first into a temporary folder on the batches
that are not held out, 09A choosing. The unclear class is never scored; tables are printed with it left out of the
reference (``unclear``) and with it as a class of its own, for syncyte and the baselines alike. Baselines take their
penalty from batch 09A.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from syncyte.baselines.classify import LogisticClassifier
from syncyte.baselines.space import Space
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.annotation import AnnotationScores, score_annotation
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.annotate import annotate_cells
from syncyte.tasks.trained import Trained, load_trained

KEY, BATCH, UNCLEAR, CHOOSE = "cell_type", "batch", "Mis", "09A"
BARS = {"rna": (0.918, 0.856), "atac": (0.794, 0.631), "rna + atac": (0.922, 0.860)}
INPUTS = (("rna",), ("atac",), ("rna", "atac"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="trained folder, or a preset to train")
    parser.add_argument("--data", type=Path, default=Path("cortex.h5mu"))
    parser.add_argument("--held", default="09C,09J", help="batches scored")
    parser.add_argument("--never", default="", help="batches neither scored nor learned from")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    batch = cells.column(BATCH).astype(str)
    held = batch.isin(options.held.split(",")).to_numpy()
    never = batch.isin(options.never.split(",")).to_numpy()
    query, reference = cells.take(held & ~never), cells.take(~held & ~never)
    with tempfile.TemporaryDirectory() as folder:
        trained = load_trained(trained_run(options.run, reference, Path(folder)))
        print(f"Run {options.run}; method {options.method}; {len(query):,} cells of {options.held}.\n")
        for unclear in ((UNCLEAR,), ()):
            print(f"{UNCLEAR} {'left out of' if unclear else 'a class of'} the reference, never scored:\n")
            print("| input | method | accuracy | macro-F1 | ECE | log loss | CPU s | bar |")
            print("|---|---|---|---|---|---|---|---|")
            for names in INPUTS:
                for seed in map(int, options.seeds.split(",")):
                    ours(trained, query, reference, names, unclear, options.method, seed)
                baselines(query, reference, names, unclear)
            print(flush=True)


def trained_run(run: str, reference: Cells, folder: Path) -> Path:
    """The given run, or a new one of the given preset."""
    if Path(run).is_dir():
        return Path(run)
    return train_recipe(
        configure("clm_x", run), reference, folder / "run", batch_key=BATCH, validation=CHOOSE, device="cpu", quiet=True
    )


def ours(
    trained: Trained,
    query: Cells,
    reference: Cells,
    names: tuple[str, ...],
    unclear: tuple[str, ...],
    method: str,
    seed: int,
) -> None:
    started = time.process_time()
    result = annotate_cells(
        trained, query.only(names), reference, KEY, method=method, batch_key=BATCH, unclear=unclear, seed=seed
    )
    seconds = time.process_time() - started
    settings = result.provenance["settings"]
    chance = result.obsm[f"syncyte_{KEY}_probability"]
    scores = score_annotation(truth_of(query), chance, settings["classes"], exclude=[UNCLEAR])
    group = settings["groups"][0]
    row(names, f"syncyte, {group['chosen']}, seed {seed}", scores, seconds)
    words = f"{group['details']}; temperature {group['temperature']:.2f}; held out: {group['held_out']}"
    print(f"|  | *{words}* | | | | | | |")


def baselines(query: Cells, reference: Cells, names: tuple[str, ...], unclear: tuple[str, ...]) -> None:
    labels = truth_of(reference)
    keep = ~np.isin(labels, unclear)
    labels, chooses = labels[keep], (reference.column(BATCH).astype(str) == CHOOSE).to_numpy()[keep]
    for word, scalings in spaces(names):
        started = time.process_time()
        known, asked = [], []
        for name, scaling in zip(names, scalings, strict=True):
            counts = reference.counts(name)[keep]
            space = Space(scaling, 50).fit(counts)  # type: ignore[arg-type]
            known.append(space.transform(counts))
            asked.append(space.transform(query.counts(name)))
        x, new = np.hstack(known), np.hstack(asked)
        shared = time.process_time() - started
        for balanced in (False, True):
            started = time.process_time()
            model = LogisticClassifier(balanced)
            if chooses.any():
                model.tuned(x[~chooses], labels[~chooses], x[chooses], labels[chooses])
            model = LogisticClassifier(balanced, model.strength).fit(x, labels)
            scores = score_annotation(truth_of(query), model.predict(new), list(model.classes), exclude=[UNCLEAR])
            kind = "balanced" if balanced else "plain"
            row(names, f"logistic regression, {kind}, {word}", scores, shared + time.process_time() - started)


def spaces(names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Linear spaces that the baselines stand on."""
    usual = {"rna": ("pearson", "PCA-50 of Pearson residuals"), "atac": ("tfidf", "LSI-50")}
    yield " + ".join(usual[name][1] for name in names), tuple(usual[name][0] for name in names)
    if "atac" in names:
        fair = {**usual, "atac": ("depth", "PCA-50 of depth-scaled residuals")}
        yield " + ".join(fair[name][1] for name in names), tuple(fair[name][0] for name in names)


def truth_of(cells: Cells) -> np.ndarray:
    return pd.Series(cells.column(KEY)).astype(str).to_numpy()


def row(names: tuple[str, ...], method: str, scores: AnnotationScores, seconds: float) -> None:
    found, bar = scores.summary, BARS[" + ".join(names)]
    print(
        f"| {' + '.join(names)} | {method} | {found['accuracy']:.3f} | {found['macro_f1']:.3f} | {found['ece']:.3f} | "
        f"{found['log_loss']:.3f} | {seconds:.0f} | {bar[0]:.3f} / {bar[1]:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
