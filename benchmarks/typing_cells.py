"""Cell types of donors and laboratories never seen: a classifier on all genes beside cheap ones.

    python benchmarks/typing_cells.py --kang kang/rna.h5ad --pbmc pbmc3k/rna.h5ad [--dev]

Held-out donors 101 and 107; pbmc3k from kang, and back. A run has the genes of its training set, whatever the asked
cells have. ``--dev`` scores donors 1244 and 1039 with 1015 and 1256 for training: settings were chosen there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
from cell_terms import SAME
from sklearn.metrics import f1_score

from syncyte.baselines.classify import LogisticClassifier, MajorityClassifier, NeighborClassifier
from syncyte.baselines.genewise import GeneClassifier, _error
from syncyte.baselines.own_space import OwnSpace
from syncyte.baselines.space import Space

DEV = (("1015", "1256"), ("1244", "1039"))
TEST = (("1015", "1256", "1244", "1039"), ("101", "107"))


def main() -> None:
    """Fit, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kang", type=Path, required=True)
    parser.add_argument("--pbmc", type=Path, required=True)
    parser.add_argument("--dev", action="store_true")
    options = parser.parse_args()
    kang, pbmc = ad.read_h5ad(options.kang), ad.read_h5ad(options.pbmc)
    donor, ours = kang.obs["donor"].astype(str).to_numpy(), kang.obs["cell_type"].astype(str).to_numpy()
    theirs = pbmc.obs["cell_type"].astype(str).to_numpy()
    same = dict(SAME) | {name: name for name in set(ours)}
    known, held = (np.isin(donor, names) for names in (DEV if options.dev else TEST))
    one, two = sp.csr_matrix(kang.X), sp.csr_matrix(pbmc.X)
    tests = [("held-out donors", one[known], ours[known], one[held], ours[held], None, donor[known])]
    if not options.dev:
        tests.append(("kang to pbmc3k", one, ours, *moved(two, pbmc.var_names, kang.var_names, theirs), donor))
        tests.append(("pbmc3k to kang", two, theirs, *moved(one, kang.var_names, pbmc.var_names, ours), None))
    for title, x, y, asked, truth, measured, groups in tests:
        print(f"\n{title}: {x.shape[0]:,} cells to learn from, {asked.shape[0]:,} scored\n")
        print("| method | accuracy | macro F1 | calibration error | CPU s |\n|---|---|---|---|---|")
        for name, chance, classes, seconds in methods(x, y, asked, measured, groups):
            names = sorted({same[label] for label in classes} | {same[label] for label in truth})
            folded = np.zeros((len(chance), len(names)))
            for column, label in enumerate(classes):
                folded[:, names.index(same[label])] += chance[:, column]
            right = np.array([names.index(same[label]) for label in truth])
            guess = folded.argmax(axis=1)
            f1 = f1_score(right, guess, average="macro", labels=np.unique(right))
            print(
                f"| {name} | {(guess == right).mean():.4f} | {f1:.4f} | {_error(folded, right):.4f} | {seconds:.0f} |",
                flush=True,
            )


def moved(counts, own, wanted, labels):
    """Counts in other columns, their labels, and which columns were measured."""
    at = wanted.get_indexer(own)
    keep = at >= 0
    table = sp.csr_matrix((np.ones(keep.sum()), (np.flatnonzero(keep), at[keep])), shape=(len(own), len(wanted)))
    return sp.csr_matrix(counts @ table), labels, np.asarray(wanted.isin(own))


def methods(x, y, asked, measured, groups):
    """Name, probabilities, classes and CPU seconds of each method."""
    begin = time.process_time()
    model = GeneClassifier().fit(x, y, groups=groups)
    yield "all genes, own statistics", model.predict(asked, measured), model.classes, time.process_time() - begin
    heat, model.temperature = model.temperature, 1.0
    yield f"the same, not calibrated (temperature {heat:.2f})", model.predict(asked, measured), model.classes, 0.0
    for balance in (0.0, 1.0):
        other = GeneClassifier(balance).fit(x, y, groups=groups)
        yield f"the same, balance {balance:g}", other.predict(asked, measured), other.classes, 0.0
    for name, space in (("PCA 50", Space("pearson", 50)), ("PCA 50, own statistics", OwnSpace(50))):
        axes = space.fit(x).transform(x)
        for balanced in (False, True):
            begin = time.process_time()
            regression = LogisticClassifier(balanced).fit(axes, y)
            label = f"{name}, logistic regression" + (", balanced" if balanced else "")
            yield label, regression.predict(space.transform(asked)), regression.classes, time.process_time() - begin
        if name == "PCA 50":
            near = NeighborClassifier().fit(axes, y)
            yield f"{name}, 15 neighbours", near.predict(space.transform(asked)), near.classes, 0.0
    most = MajorityClassifier().fit(x, y)
    yield "commonest type", most.predict(asked), most.classes, 0.0


if __name__ == "__main__":
    main()
