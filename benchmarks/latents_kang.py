"""Cell types of donors never seen, from codes that never saw a label: set autoencoder, PCA, scVI.

    python benchmarks/latents_kang.py KANG_8DONORS.h5ad --runs RUNS [--preset lite] [--peers] [--out FILE.md]

Each donor is held out in turn; everything is fitted on the others, without their labels, and a plain and a balanced
logistic regression, and 15 nearest neighbours, learn types from the codes. Penalties are chosen on one training donor.
Scores are means over donors. ``--peers`` adds scVI, trained to its own stop, with as many latents.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from generate import split
from sklearn.metrics import f1_score

import syncyte.recipes  # noqa: F401 - registers the recipes
from syncyte.baselines.classify import LogisticClassifier, NeighborClassifier
from syncyte.baselines.space import Space
from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.metrics.bootstrap import bootstrap_interval
from syncyte.modalities import all_schemas
from syncyte.recipes.train import configure, train_recipe
from syncyte.tasks.trained import Trained, load_trained

KEY, DONOR = "cell_type", "donor"
Codes = tuple[np.ndarray, np.ndarray]  # of training cells and of held-out cells


def main() -> None:
    """Fit, classify, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cells = open_cells(options.data, schemas=all_schemas())
    found = []
    for donor in sorted(cells.obs[DONOR].astype(str).unique()):
        test = split(cells, KEY, f"{DONOR}={donor}", 0)
        train, held = cells.take(~test), cells.take(test)
        spaces: dict[str, Codes] = {}
        for preset in options.preset or ["lite"]:
            trained = trained_on(train, preset, options.runs / f"latents_{preset}_{donor}")
            spaces[f"set autoencoder {preset}, {trained.model.components}"] = (
                codes(trained, train),
                codes(trained, held),
            )
        known, new = train.counts("rna"), held.counts("rna")
        for axes in (16, 50):
            pca = Space("log_cp10k", axes, 0).fit(known)
            spaces[f"PCA, {axes}"] = pca.transform(known), pca.transform(new)
        if options.peers:
            from syncyte.baselines.deep_generate import ScviGenerator

            model = ScviGenerator().fit(known)
            spaces["scVI, 10"] = model.latents(known), model.latents(new)
        truth = held.obs[KEY].astype(str).to_numpy()
        for name, score in classified(spaces, train, truth).items():
            found.append({"method": name, "donor": donor, **score})
        own = pd.DataFrame(found)
        print(own[own["donor"] == donor].round(3).to_string(), flush=True)
    text = summarise(pd.DataFrame(found))
    print(text)
    if options.out:
        options.out.write_text(text)


def trained_on(train: Cells, preset: str, run: Path) -> Trained:
    """A run whose autoencoder alone is trained; labels are never named to it."""
    config = configure("scldm", preset, ["stages.flow.epochs=0"])
    return load_trained(train_recipe(config, train, run, resume=True, quiet=True), "cpu")


def codes(trained: Trained, cells: Cells) -> np.ndarray:
    """Posterior means."""
    from syncyte.tasks.embed import embed_cells

    return np.asarray(embed_cells(trained, cells).obsm["X_syncyte"])


def classified(spaces: dict[str, Codes], train: Cells, truth: np.ndarray) -> dict[str, dict[str, float]]:
    """Accuracy and macro-F1 by classifier and space; the donor with most cells chooses penalties."""
    labels, donors = (train.obs[key].astype(str).to_numpy() for key in (KEY, DONOR))
    names, count = np.unique(donors, return_counts=True)
    choose = donors == names[count.argmax()]
    scores = {}
    for name, (known, new) in spaces.items():
        middle, spread = known.mean(axis=0), known.std(axis=0).mean()  # one scale for all axes
        known, new = (known - middle) / spread, (new - middle) / spread
        models = {"kNN": NeighborClassifier().fit(known, labels)}
        for balanced in (False, True):
            tried = LogisticClassifier(balanced)
            tried.tuned(known[~choose], labels[~choose], known[choose], labels[choose])
            words = "logistic, balanced" if balanced else "logistic"
            models[words] = LogisticClassifier(balanced, tried.strength).fit(known, labels)
        for words, model in models.items():
            said = np.asarray(model.classes)[model.predict(new).argmax(axis=1)]
            f1 = f1_score(truth, said, labels=np.unique(truth), average="macro", zero_division=0)
            scores[f"{name}: {words}"] = {"accuracy": float((said == truth).mean()), "macro_f1": float(f1)}
    return scores


def summarise(table: pd.DataFrame) -> str:
    """Means over donors with intervals, in Markdown."""
    lines = [f"\n{table['donor'].nunique()} donors, each held out in turn\n"]
    lines += ["| codes: classifier | accuracy | macro-F1 |", "|---|---|---|"]
    for method, own in table.groupby("method", sort=False):
        shown = []
        for score in ("accuracy", "macro_f1"):
            interval = bootstrap_interval(own[score].to_numpy(), np.random.default_rng(0))
            shown.append(f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})")
        lines.append(f"| {method} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
