"""Searches and types without a label, asked of a trained run as a user asks it: by the verbs of the package.

    python benchmarks/words_asked.py search RUN --kang kang/rna.h5ad --pbmc pbmc3k/rna.h5ad
    python benchmarks/words_asked.py typing RUN --kang kang/rna.h5ad --pbmc pbmc3k/rna.h5ad
    python benchmarks/words_asked.py unseen FOLDER --kang ... --pbmc ... --ontology CL.json.zst [--run RUN]

The run was trained on kang without donors 101 and 107; asked are these donors, and pbmc3k. ``search`` takes the
sentences of ``search_cells.py``, by terms and by vectors. ``typing`` types all cells with further candidates
although every type was seen: what candidates cost. ``unseen`` trains a run without each type in turn, and without some
subtrees, and asks for all eight types. What ``annotate --zero-shot`` reads of a run is made after training and does not
depend on its networks, so these runs are of the preset ``tiny`` with the words' memory of ``lite``; with ``--run`` that
is checked against a run of ``lite``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from cell_terms import KANG, LABELS, SAME
from search_cells import LATER, QUERIES, table
from sklearn.metrics import roc_auc_score

import syncyte
from syncyte.errors import SyncyteError
from syncyte.metrics.text import precision_at
from syncyte.tasks.word_run import WordRun
from syncyte.words.terms import lineage

HELD = ("101", "107")
SUBTREES = (("CD4 T cells", "CD8 T cells"), ("CD14+ Monocytes", "FCGR3A+ Monocytes"))
NAMES = {"terms": "by terms", "vectors": "by vectors"}
CANDIDATES: dict[str, dict[str, Any]] = {
    "types of training": {"candidates": []},
    "and all usual in blood (--tissue blood)": {"tissue": "blood"},
    "and all with markers (the default)": {},
    "and all with markers, --unseen-share 0.05": {"unseen_share": 0.05},
}


def main() -> None:
    """Read the options and ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "typing", "unseen"))
    parser.add_argument("place", type=Path, help="a run; with 'unseen' a folder for runs")
    parser.add_argument("--kang", type=Path, default=Path("kang_pbmc_8donors_control/rna.h5ad"))
    parser.add_argument("--pbmc", type=Path, default=Path("pbmc3k/rna.h5ad"))
    parser.add_argument("--ontology", type=Path, default=Path("CL-ontology-v2026-03-26.json.zst"))
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    kang, pbmc = ad.read_h5ad(options.kang), ad.read_h5ad(options.pbmc)
    held = kang.obs["donor"].astype(str).isin(HELD).to_numpy()
    asked = [("donors 101 and 107", kang[held].copy()), ("pbmc3k", pbmc)]
    labels = [cells.obs["cell_type"].astype(str) for _, cells in asked]
    truths = [own.map(lambda name: SAME.get(name, name)).to_numpy() for own in labels]
    if options.what == "search":
        search(syncyte.load(options.place, device="cpu"), asked, truths)
    elif options.what == "typing":
        typing(syncyte.load(options.place, device="cpu"), asked, truths)
    else:
        unseen(kang[~held].copy(), options, asked, truths)


def search(run: Any, asked: list, truths: list) -> None:
    """Precision of the first cells of every sentence."""
    titles, columns, truth = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for (name, cells), right in zip(asked, truths, strict=True):
            for mode in NAMES:
                titles.append(f"{name}, {NAMES[mode]}")
                truth.append(right)
                place = Path(folder) / name.replace(" ", "_")
                columns.append([one(run, query, cells, right, mode, place) for query in (*QUERIES, *LATER)])
    table(QUERIES, titles, [column[: len(QUERIES)] for column in columns], truth, "0.92 / 0.90")
    print("\nWritten later, when the rules were final:\n")
    table(LATER, titles, [column[len(QUERIES) :] for column in columns], truth, "")


def one(run: Any, query: tuple, cells: Any, truth: np.ndarray, mode: str, index: Path) -> float:
    """Precision of as many cells as are right, 50 at most; a search that is refused has none."""
    good = np.isin(truth, query[1])
    try:
        found = syncyte.search(run, query[0], cells, top=len(cells), mode=mode, index=index, quiet=True)
    except SyncyteError:
        return 0.0
    rows = cells.obs_names.get_indexer(found.table["cell"])
    scores = np.full(len(cells), -1.0)
    scores[rows] = -np.arange(len(rows)) / len(rows)
    return precision_at(scores, good, min(50, int(good.sum())))


def typing(run: Any, asked: list, truths: list) -> None:
    """What further candidates cost where every cell is of a type of training."""
    terms = WordRun(run).terms
    columns = ("number", "accuracy", "balanced recall", "at or below", "unseen type", "wider term", "unknown")
    print(f"| cells | candidates | {' | '.join(columns)} |")
    print("|---" * 9 + "|")
    for (name, cells), truth in zip(asked, truths, strict=True):
        for title, how in CANDIDATES.items():
            made = syncyte.annotate(run, cells, zero_shot=True, quiet=True, **how)
            term = np.asarray(made.obs["syncyte_type_id"], dtype=str)
            right = term == np.array([KANG[label] for label in truth])
            below = [KANG[label] in lineage(one, terms) for one, label in zip(term, truth, strict=True)]
            balanced = np.mean([right[truth == label].mean() for label in np.unique(truth)])
            shares = [made.metrics[key] for key in ("unseen", "coarser", "unknown")]
            numbers = [right.mean(), balanced, np.mean(below), *shares]
            count = len(made.uns["classes"])
            print(f"| {name} | {title} | {count} | " + " | ".join(f"{x:.3f}" for x in numbers) + " |", flush=True)


def unseen(train: ad.AnnData, options: argparse.Namespace, asked: list, truths: list) -> None:
    """Each type, and some subtrees, left out of training."""
    if options.run is not None:
        small, lite = trained(train, (), options), syncyte.load(options.run, device="cpu")
        both = [typed(run, asked[0][1]) for run in (small, lite)]
        print(f"Largest difference of a probability from the run of lite: {np.abs(both[0] - both[1]).max():.1e}\n")
    print("| left out | unseen share | cells | U | S | HM | AUROC |\n|---|---|---|---|---|---|---|")
    means: dict[tuple[float, str], list[tuple[float, ...]]] = {}
    for left in (*((label,) for label in KANG), *SUBTREES):
        run = trained(train, left, options)
        for share in (0.5, 0.05):
            for (name, cells), truth in zip(asked, truths, strict=True):
                row = scored(typed(run, cells, share), truth, left)
                if len(left) == 1:
                    means.setdefault((share, name), []).append(row)
                show(", ".join(left), share, name, row)
    for (share, name), rows in means.items():
        show("**mean of single types**", share, name, tuple(np.mean(rows, axis=0)))


def show(title: str, share: float, name: str, row: tuple[float, ...]) -> None:
    print(f"| {title} | {share} | {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |", flush=True)


def trained(train: ad.AnnData, left: tuple[str, ...], options: argparse.Namespace) -> Any:
    """A run on cells of all other types; one that is there is taken up."""
    place = options.place / ("without_" + "_".join("".join(filter(str.isalnum, name)) for name in left))
    if (place / "checkpoint.json").exists():
        return syncyte.load(place, device="cpu")
    cells = train[~train.obs["cell_type"].isin(left).to_numpy()].copy()
    words = ["words.reference=6000"]
    keys = {"label_key": "cell_type", "batch_key": "donor", "ontology": options.ontology}
    return syncyte.train("scmmgpt", cells, out=place, preset="tiny", settings=words, device="cpu", quiet=True, **keys)


def typed(run: Any, cells: ad.AnnData, share: float = 0.5) -> np.ndarray:
    """``(n, 8)`` probabilities of the eight types, in their order."""
    made = syncyte.annotate(run, cells, zero_shot=True, candidates=list(LABELS), unseen_share=share, quiet=True)
    return made.obsm["syncyte_type_probability"][:, made.uns["classes"].index.get_indexer(list(LABELS))]


def scored(chance: np.ndarray, truth: np.ndarray, left: tuple[str, ...]) -> tuple[float, ...]:
    """Balanced recall of unseen and of seen types, harmonic mean, mean AUROC of the unseen ones."""
    names = np.array(list(LABELS.values()))
    guess = names[chance.argmax(axis=1)]
    recall = {name: (guess[truth == name] == name).mean() for name in names if (truth == name).any()}
    new = float(np.mean([recall[name] for name in left]))
    old = float(np.mean([value for name, value in recall.items() if name not in left]))
    auroc = np.mean([roc_auc_score(truth == name, chance[:, list(names).index(name)]) for name in left])
    return new, old, 2 * new * old / max(new + old, 1e-9), float(auroc)


if __name__ == "__main__":
    main()
