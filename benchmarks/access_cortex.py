"""CLM-Access on two held-out technical batches of mouse cortex: annotation, RNA prediction, pairing, integration.

    OMP_NUM_THREADS=1 python benchmarks/access_cortex.py cortex.h5mu --test 09C 09J --validation 09A [--preset small]
        [--peakvi] [--draws 5] [--out FILE]

The model is trained on both modalities of the other batches, without labels; the test batches are looked at once.
Annotation reads open chromatin alone, with all labels of the training cells and with a tenth of them (several draws,
scored together); *from scratch* is the same model trained on the labelled tenth alone. The unclear class is left out.
Classifiers of the linear spaces take their penalty from a quarter of the labelled cells. Integration is of the test
cells by their open chromatin; PeakVI is trained on these cells, with the technical batch as covariate, until its
held-out loss no longer falls.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from access_granja import classified, few_labels, linear, score_table
from sklearn.metrics import f1_score
from translate_cortex import markdown

from syncyte.baselines.deep_atac import PeakVi
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.embedding import score_embedding
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.annotate import annotate_cells
from syncyte.tasks.compare_embed import INTEGRATE_COLUMNS
from syncyte.tasks.evaluate import evaluate_cells
from syncyte.tasks.trained import Trained, load_trained

KEY, BATCH, UNCLEAR, AXES = "cell_type", "batch", "Mis", 50


def trained_on(cells: Cells, given: argparse.Namespace, folder: Path) -> Trained:
    """Model of the preset; a validation batch where the cells have enough of it, else a random tenth."""
    held = (cells.column(BATCH).astype(str) == given.validation).sum()
    validation = given.validation if held >= 50 else None
    config = configure("clm_access", given.preset, given.set)
    keys = {"batch_key": BATCH, "validation": validation, "overwrite": True, "quiet": True, "device": "cpu"}
    return load_trained(train_recipe(config, cells, folder, **keys), "cpu")


def annotation(model: Trained, held: Cells, known: Cells, given: argparse.Namespace, folder: Path) -> list[str]:
    """Tables with all labels and with a tenth of them; predictions of all draws are scored together."""
    labels, truth = (cells.column(KEY).astype(str).to_numpy() for cells in (known, held))
    seen, new = known.only(["atac"]), held.only(["atac"])
    spaces, there = linear(seen, seen, AXES), linear(seen, new, AXES)
    ours = f"clm_access {given.preset}"
    lines = []
    for case, draws in (("all labels", 1), ("a tenth of the labels", given.draws)):
        gathered: dict[str, list[np.ndarray]] = {}
        for draw in range(draws):
            rows = np.arange(len(labels)) if case == "all labels" else few_labels(labels, draw)
            found = classified({name: (spaces[name][rows], there[name]) for name in spaces}, labels[rows])
            models = {ours: model}
            if case != "all labels":
                models[f"{ours}, from scratch"] = trained_on(known.take(rows), given, folder / "scratch")
            for name, run in models.items():
                result = annotate_cells(run, new, seen.take(rows), KEY, batch_key=BATCH, seed=0, quiet=True)
                found[name] = np.asarray(result.obs[f"syncyte_{KEY}"]).astype(str)
            for name, values in found.items():
                gathered.setdefault(name, []).append(values)
            scores = {name: f1_score(truth, values, average="macro", zero_division=0) for name, values in found.items()}
            print(f"{case}, draw {draw}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
            sys.stdout.flush()
        lines += ["", f"Annotation with {case}, {draws} draws:", ""]
        lines += score_table(truth, gathered, ours)
    return lines


def tables(model: Trained, held: Cells, known: Cells) -> list[str]:
    """RNA prediction and pairing of both modalities; embedding and integration by open chromatin alone."""
    keys = {"batch_key": BATCH, "label_key": KEY, "unclear": (UNCLEAR,), "quiet": True, "most_features": None}
    both = evaluate_cells(model, held, known, tasks=("translate", "embed"), **keys)
    alone, fitted = held.only(["atac"]), known.only(["atac"])
    embedded = evaluate_cells(model, alone, fitted, tasks=("embed",), **keys)
    mixed = evaluate_cells(model, alone, fitted, tasks=("integrate",), **keys)
    found: dict[str, pd.DataFrame] = {
        "RNA from open chromatin": both.tables["translate atac to rna"],
        "Pairs, each side embedded alone": both.tables["embed pairs"],
        "Embedding of open chromatin, new cells": embedded.tables["embed"],
        "Integration of open chromatin": mixed.tables["integrate"],
    }
    lines = []
    for title, table in found.items():
        lines += ["", f"{title}:", "", markdown(table.dropna(axis=1, how="all"))]
    return [*lines, "", mixed.text["integrate"]]


def peakvi(held: Cells) -> list[str]:
    """Integration scores of PeakVI."""
    cells = held.take(np.flatnonzero(held.column(KEY).astype(str).to_numpy() != UNCLEAR))
    labels, batches = (cells.column(key).astype(str).to_numpy() for key in (KEY, BATCH))
    model = PeakVi().fit(cells.counts("atac"), batches)
    scores = score_embedding(model.transform(cells.counts("atac"), batches), labels=labels, batches=batches, seed=0)
    table = pd.DataFrame({f"PeakVI, {model.epochs} epochs": scores}).T.rename_axis("method")
    return ["", markdown(table[[column for column in INTEGRATE_COLUMNS if column in table]])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", nargs="+", required=True, help="batches that are scored")
    parser.add_argument("--leave-out", nargs="*", default=[], help="batches neither scored nor learned from")
    parser.add_argument("--validation", default="09A")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--peakvi", action="store_true", help="train PeakVI for the integration")
    parser.add_argument("--skip-annotation", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    cells = open_cells(given.data, schemas=all_schemas())
    batch = cells.column(BATCH).astype(str).to_numpy()
    test, never = np.isin(batch, given.test), np.isin(batch, given.leave_out)
    clear = cells.column(KEY).astype(str).to_numpy() != UNCLEAR
    lines = [f"`{shlex.join(['python', *sys.argv])}`", ""]
    with tempfile.TemporaryDirectory() as folder:
        learned = cells.take(np.flatnonzero(~test & ~never))
        model = trained_on(learned, given, Path(folder) / "run")
        lines += [f"{test.sum():,} cells of {', '.join(given.test)}; trained on {len(learned):,}.", ""]
        if not given.skip_annotation:
            held = cells.take(np.flatnonzero(test & clear))
            lines += annotation(model, held, cells.take(np.flatnonzero(~test & ~never & clear)), given, Path(folder))
            print("\n".join(lines), flush=True)
        held = cells.take(np.flatnonzero(test))
        lines += tables(model, held, learned)
        print("\n".join(lines), flush=True)
        lines += peakvi(held) if given.peakvi else []
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
