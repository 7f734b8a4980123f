"""Open chromatin of human bone marrow on a reference of a million bins: embedding, annotation, what pretraining gains.

    syncyte reference build --bins 2500 --chrom-sizes hg38.chrom.sizes --out bins
    syncyte data harmonise granja.h5ad --reference bins --chain GRCh37_to_GRCh38.chain.gz --out store
    OMP_NUM_THREADS=1 python benchmarks/access_granja.py store [--preset lite] [--label-key cell_type] [--out FILE]

Embedding: fitted on all cells, no labels; NMI and ARI by Leiden at the best and at a fixed resolution, and the
largest correlation of an axis with log depth. Annotation: five folds of cells, stratified; the model and the linear
spaces are fitted on all cells of the other four folds (no labels), classifiers on all of their labels or on a tenth.
*From scratch* is the same model fitted on the labelled tenth alone. Predictions of all folds are pooled; intervals are
paired bootstraps over cells. ``--batches KEY`` makes folds of whole technical batches instead.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, train_test_split

from syncyte.baselines.classify import LogisticClassifier, NeighborClassifier
from syncyte.baselines.space import Space
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.embedding import depth_correlation, score_embedding
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.annotate import annotate_cells
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.trained import Trained, load_trained

AXES, FOLDS, FEW, DRAWS = 50, 5, 0.1, 1000
Embeddings = dict[str, np.ndarray]


def trained_on(cells: Cells, preset: str, settings: list[str], folder: Path) -> Trained:
    config = configure("clm_access", preset, settings)
    return load_trained(train_recipe(config, cells, folder, overwrite=True, quiet=True), "cpu")


def linear(fitted: Cells, cells: Cells, axes: int) -> Embeddings:
    """Spaces of the baselines, fitted on some cells and applied to others."""
    known, seen = fitted.counts("atac"), cells.counts("atac")
    lsi = Space("tfidf", axes, 0).fit(known).transform(seen)
    return {"LSI": lsi, "LSI without first axis": lsi[:, 1:],
            "PCA of depth residuals": Space("depth", axes, 0).fit(known).transform(seen),
            "spectral": Space("spectral", axes, 0).fit(known).transform(seen)}  # fmt: skip


def embedding_table(cells: Cells, given: argparse.Namespace, folder: Path) -> list[str]:
    labels = cells.column(given.label_key).astype(str).to_numpy()
    depth = np.asarray(cells.counts("atac").sum(axis=1)).ravel()
    model = trained_on(cells, given.preset, given.set, folder / "all")
    found = {f"clm_access {given.preset}": embed_cells(model, cells).obsm["X_syncyte"]}
    for axes in (15, 30, 50):
        found |= {f"{name}, {axes} axes": values for name, values in linear(cells, cells, axes).items()}
    lines = [
        "| embedding | NMI | ARI | NMI fixed | ARI fixed | silhouette | depth r |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in found.items():
        scores = score_embedding(values, labels=labels, seed=0)
        strongest = np.abs(depth_correlation(values, depth)).max()
        keys = ("nmi", "ari", "nmi_fixed", "ari_fixed", "asw_label")
        shown = " | ".join(f"{scores[key]:.3f}" for key in keys)
        lines.append(f"| {name} | {shown} | {strongest:.3f} |")
        print(lines[-1], flush=True)
    return lines


def classified(spaces: dict[str, tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Labels by classifiers on each space: its labelled cells and its new cells."""
    found = {}
    inner, choose = train_test_split(np.arange(len(labels)), test_size=0.25, random_state=0)
    for name, (known, new) in spaces.items():
        for balanced in (False, True):
            tried = LogisticClassifier(balanced).tuned(known[inner], labels[inner], known[choose], labels[choose])
            model = LogisticClassifier(balanced, tried.strength).fit(known, labels)
            words = "balanced" if balanced else "plain"
            found[f"logistic regression, {words}, {name}"] = np.asarray(model.classes)[model.predict(new).argmax(1)]
        nearest = NeighborClassifier().fit(known, labels)
        found[f"kNN, {name}"] = np.asarray(nearest.classes)[nearest.predict(new).argmax(1)]
    return found


def folds_of(cells: Cells, labels: np.ndarray, given: argparse.Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    if given.batches:
        batch = cells.column(given.batches).astype(str).to_numpy()
        return [(np.flatnonzero(batch != name), np.flatnonzero(batch == name)) for name in np.unique(batch)]
    return list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels))


def few_labels(labels: np.ndarray, seed: int) -> np.ndarray:
    """A tenth of the labels of every class, at least three of each (two where there are no more)."""
    rng, rows = np.random.default_rng(seed), []
    for name in np.unique(labels):
        own = np.flatnonzero(labels == name)
        rows.append(rng.choice(own, min(len(own), max(3, round(FEW * len(own)))), replace=False))
    return np.sort(np.concatenate(rows))


def annotation_tables(cells: Cells, given: argparse.Namespace, folder: Path) -> list[str]:
    labels = cells.column(given.label_key).astype(str).to_numpy()
    predicted: dict[str, dict[str, np.ndarray]] = {"all labels": {}, "a tenth of the labels": {}}
    ours = f"clm_access {given.preset}"
    for number, (learn, test) in enumerate(folds_of(cells, labels, given)):
        known, new = cells.take(learn), cells.take(test)
        model = trained_on(known, given.preset, given.set, folder / "fold")
        few = few_labels(labels[learn], number)
        spaces = {name: values for name, values in linear(known, known, AXES).items() if name != "spectral"}
        there = linear(known, new, AXES)
        for case, rows in (("all labels", np.arange(len(learn))), ("a tenth of the labels", few)):
            some = known.take(rows)
            found = classified({name: (spaces[name][rows], there[name]) for name in spaces}, labels[learn][rows])
            result = annotate_cells(model, new, some, given.label_key, seed=0, quiet=True)
            found[ours] = np.asarray(result.obs[f"syncyte_{given.label_key}"]).astype(str)
            if case != "all labels":
                scratch = trained_on(some, given.preset, given.set, folder / "scratch")
                result = annotate_cells(scratch, new, some, given.label_key, seed=0, quiet=True)
                found[f"{ours}, from scratch"] = np.asarray(result.obs[f"syncyte_{given.label_key}"]).astype(str)
            for name, values in found.items():
                predicted[case].setdefault(name, np.full(len(labels), "", dtype=object))[test] = values
            print(f"fold {number}, {case}: " + ", ".join(
                f"{name} {f1_score(labels[test], values, average='macro', zero_division=0):.3f}"
                for name, values in found.items()), flush=True)  # fmt: skip
    lines = []
    for case, found in predicted.items():
        lines += ["", f"Annotation with {case}:", "", *score_table(labels, found, ours)]
    return lines


def score_table(labels: np.ndarray, found: dict[str, np.ndarray | list[np.ndarray]], ours: str) -> list[str]:
    """Scores, and the margin of the model over each method with its interval over cells.

    A method may have several predictions of the same cells (draws of the labels): means over them, drawn cells are the
    same in all.
    """
    codes = {name: i for i, name in enumerate(np.unique(labels))}
    truth = np.array([codes[name] for name in labels])
    coded = {
        name: [
            np.array([codes.get(str(v), -1) for v in one]) for one in (given if isinstance(given, list) else [given])
        ]
        for name, given in found.items()
    }
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(truth), len(truth)) for _ in range(DRAWS)]

    def macro(some: list[np.ndarray], rows: np.ndarray) -> float:
        scores, real = [], np.bincount(truth[rows], minlength=len(codes))
        for values in some:
            hit = np.bincount(truth[rows][values[rows] == truth[rows]], minlength=len(codes))
            said = np.bincount(values[rows][values[rows] >= 0], minlength=len(codes))
            scores.append((2 * hit / np.maximum(real + said, 1))[real > 0].mean())
        return float(np.mean(scores))

    every = np.arange(len(truth))
    own = np.array([macro(coded[ours], rows) for rows in draws])
    lines = ["| method | accuracy | macro-F1 | margin of the model in macro-F1 |", "|---|---|---|---|"]
    for name in sorted(coded, key=lambda key: -macro(coded[key], every)):
        margin = own - np.array([macro(coded[name], rows) for rows in draws])
        low, high = np.quantile(margin, [0.025, 0.975])
        gap = macro(coded[ours], every) - macro(coded[name], every)
        words = "" if name == ours else f"{gap:+.3f} ({low:+.3f} to {high:+.3f})"
        accuracy = np.mean([(values == truth).mean() for values in coded[name]])
        lines.append(f"| {name} | {accuracy:.3f} | {macro(coded[name], every):.3f} | {words} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--batches", help="column of technical batches, each of which is a fold")
    parser.add_argument("--unclear", default="", help="label whose cells are left out")
    parser.add_argument("--skip-embedding", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    cells = open_cells(given.data, schemas=all_schemas()).only(["atac"])
    if given.unclear:
        cells = cells.take(np.flatnonzero(cells.column(given.label_key).astype(str).to_numpy() != given.unclear))
    lines = [
        f"`{shlex.join(['python', *sys.argv])}`",
        "",
        f"{len(cells):,} cells, {len(cells.part('atac').var):,} regions.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        if not given.skip_embedding:
            lines += embedding_table(cells, given, Path(folder))
        lines += annotation_tables(cells, given, Path(folder))
    print("\n".join(lines))
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
