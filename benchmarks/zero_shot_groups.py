"""Cell types without a training label, several at once: subtrees of the ontology, and one of two sibling types.

    python benchmarks/zero_shot_groups.py --kang kang/rna.h5ad --pbmc pbmc3k/rna.h5ad --ontology CL.json.zst

Subtrees: of all eight types those at or below one term are left out together. Every term of the ontology with two or
more of the types below it is asked, as long as three types stay to learn from; terms with the same types
below are one, named by the most special. Near pairs: one of two siblings is left out and the other stays in training.
The tests, the candidates (all eight types) and the method are those of ``zero_shot.py``; here the axes and the
statistics of markers are learned without the cells of the types that are left out, so nothing has seen them.

Columns. U: balanced recall of the types left out; S: of the others; HM: harmonic mean of both; AUROC: of the
probability of each type left out against all other cells, their mean; within: balanced accuracy among the cells of the
types left out, told apart by their probabilities. Of near pairs S, HM and AUROC are among the cells of the two types.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cell_terms import LABELS, arguments, read_terms
from sklearn.metrics import roc_auc_score
from zero_shot import SEEDS, TYPES, Given, Side, predict, read_tests, sides

from syncyte.words.terms import Terms, lineage, term_vectors

PAIRS = (("CL:0000624", "CL:0000625"), ("CL:0001054", "CL:0000875"))  # CD4 and CD8 T cells; CD14 and CD16 monocytes
LEAST = 3  # types that stay in training
WAYS = (
    ("random text", "random", False),
    ("text", "both", False),
    ("random text + markers", "random", True),
    ("text + markers", "both", True),
)


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    terms = read_terms(options.ontology)
    vectors = {
        kind: [term_vectors(TYPES, terms, kind=kind, seed=seed)[0] for seed in range(SEEDS if kind == "random" else 1)]
        for kind in ("random", "both")
    }
    for title, train, test in read_tests(options.kang, options.pbmc, False):
        print(f"### {title}\n\n| left out | scores | U | S | HM | AUROC | within |\n|---|---|---|---|---|---|---|")
        means: dict[str, list[tuple[float, ...]]] = {}
        for name, left in subtrees(terms):
            known, asked = without(train, left), test
            one, other = sides(known, asked)
            for way, kind, marked in WAYS:
                found = [subtree(left, each, marked, one, other) for each in vectors[kind]]
                means.setdefault(way, []).append(shown(name, way, found))
        for way, rows in means.items():
            shown("**mean of subtrees**", way, rows)
        print("\n| left out (its sibling stays) | scores | U | S | HM | AUROC |\n|---|---|---|---|---|---|")
        for left, stays in (*PAIRS, *((b, a) for a, b in PAIRS)):
            one, other = sides(without(train, [left]), test)
            for way, kind, marked in WAYS:
                found = [pair(left, stays, each, marked, one, other) for each in vectors[kind]]
                shown(f"{LABELS[left]} ({LABELS[stays]})", way, found)
        print(flush=True)


def subtrees(terms: Terms) -> list[tuple[str, list[str]]]:
    """Terms by what they leave out: name with its types, and these; largest first."""
    below: dict[frozenset[str], str] = {}
    for key in {above for name in TYPES for above in lineage(name, terms)}:
        under = frozenset(name for name in TYPES if key in lineage(name, terms))
        if len(under) >= 2 and len(TYPES) - len(under) >= LEAST:
            best = below.get(under)
            if best is None or (len(lineage(key, terms)), best) > (len(lineage(best, terms)), key):
                below[under] = key
    order = sorted(below.items(), key=lambda item: (-len(item[0]), terms[item[1]].label))
    found = []
    for under, key in order:
        left = [name for name in TYPES if name in under]
        found.append((f"{terms[key].label}: {', '.join(LABELS[name] for name in left)}", left))
    return found


def without(given: Given, left: list[str]) -> Given:
    """Cells of all other types."""
    keep = ~np.isin(given.types, left)
    return replace(given, shared=given.shared[keep], types=given.types[keep], counts=given.counts[keep])


def subtree(left: list[str], vectors: np.ndarray, marked: bool, train: Side, test: Side) -> tuple[float, ...]:
    chance = predict((), TYPES, vectors, marked, train, test)
    truth, guess = test.types, np.array(TYPES)[chance.argmax(axis=1)]
    recall = {name: float((guess[truth == name] == name).mean()) for name in TYPES if (truth == name).any()}
    unseen = float(np.mean([recall[name] for name in left]))
    seen = float(np.mean([value for name, value in recall.items() if name not in left]))
    auroc = np.mean([roc_auc_score(truth == name, chance[:, TYPES.index(name)]) for name in left])
    own = np.isin(truth, left)
    among = np.array(left)[chance[own][:, [TYPES.index(name) for name in left]].argmax(axis=1)]
    within = np.mean([(among[truth[own] == name] == name).mean() for name in left])
    return unseen, seen, harmonic(unseen, seen), float(auroc), float(within)


def pair(left: str, stays: str, vectors: np.ndarray, marked: bool, train: Side, test: Side) -> tuple[float, ...]:
    chance = predict((), TYPES, vectors, marked, train, test)
    own = np.isin(test.types, [left, stays])
    truth, guess = test.types[own], np.array(TYPES)[chance[own].argmax(axis=1)]
    unseen, seen = (float((guess[truth == name] == name).mean()) for name in (left, stays))
    places = [TYPES.index(left), TYPES.index(stays)]
    odds = np.log(chance[own][:, places] + 1e-300) @ np.array([1.0, -1.0])
    return unseen, seen, harmonic(unseen, seen), float(roc_auc_score(truth == left, odds))


def harmonic(one: float, other: float) -> float:
    return 2 * one * other / max(one + other, 1e-9)


def shown(name: str, way: str, found: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Print the mean over seeds, or rows."""
    mean = np.mean(found, axis=0)
    print(f"| {name} | {way} | " + " | ".join(f"{value:.3f}" for value in mean) + " |", flush=True)
    return tuple(mean)


if __name__ == "__main__":
    main()
