"""Which of the candidates is meant, and how sure that is: one probability over the whole list.

Candidates of a spelling, and "none of them", compete in a softmax. Margins start at half of a linear fit, which few
spellings suffice for, and boosted trees correct them (gradient boosting of the cross-entropy with Newton leaves). Each
of five ensembles leaves a fifth of the spellings out; on these, slope and level of the margins are fitted, for trees
are too sure of what they have seen. Trees are kept as plain arrays: nothing that is stored can run.
Leaves out: what the numbers are (``candidates``), and what is done with the probability (``map``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from syncyte.words.candidates import FEATURES, Shortlist

ENSEMBLES = 5
TREES = 120
RATE = 0.08
LEAVES = 12
LEAST = 20  # candidates in a leaf
SHRINK = 2.0  # added to the curvature of a leaf: few candidates move it little
QUERIES = 0.8  # share of the spellings that a tree sees
CUT, PRECISE = 0.7, 0.975  # a score, and the share of answers above it that are to be right
PENALTY = 10.0  # on the squared weights of the linear part
LINEAR = 0.5  # share of the linear margins that trees start from
START = -1.0  # their level: one of 50 candidates is meant at most

_WEIGHTS = {
    "level": -2.21, "characters": 4.14, "words": 2.61, "definition": 2.15, "characters_gap": -1.13, "words_gap": 0.28,
    "asked_covered": -1.08, "name_covered": -1.57, "label_words": 2.37, "digits_differ": -0.8, "signs_clash": -2.04,
    "markers_missing": 0.11, "markers_added": -0.11, "last_word": -0.63, "pairs_of_words": 1.67, "species": 0.41,
    "below": -0.11, "best_ancestor_gap": 0.52, "total_rank": -0.8,
}  # fmt: skip

Values = NDArray[np.float64]
Advance = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Trees:
    """Ensembles as arrays.

    Attributes
    ----------
    feature, threshold, left, right, value
        ``(nodes,)`` of all trees one after another; a leaf has feature -1. Children are places in the same arrays.
    root
        ``(trees,)`` places of the first nodes.
    ensembles
        How many ensembles the trees are divided into, equally.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    root: NDArray[np.int32]
    ensembles: int

    def margins(self, features: NDArray[np.float32]) -> Values:
        """``(ensembles, k)`` sums over the trees of each ensemble."""
        node = np.repeat(self.root[:, None], len(features), axis=1)
        column = np.arange(len(features))[None]
        while True:
            asked = self.feature[node]
            inner = asked >= 0
            if not inner.any():
                break
            value = features[column, np.maximum(asked, 0)]
            step = np.where(value <= self.threshold[node], self.left[node], self.right[node])
            node = np.where(inner, step, node)
        return self.value[node].astype(np.float64).reshape(self.ensembles, -1, len(features)).sum(axis=1)

    def arrays(self) -> dict[str, NDArray]:
        """Arrays by name, to be stored."""
        names = ("feature", "threshold", "left", "right", "value", "root")
        return {name: getattr(self, name) for name in names} | {"ensembles": np.array([self.ensembles], dtype=np.int32)}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray]) -> Trees:
        """Trees from stored arrays; refuses what points outside itself.

        Raises
        ------
        ValueError
            Where a node is not in the arrays, or comes before the one that names it.
        """
        found = cls(**{key: arrays[key] for key in ("feature", "threshold", "left", "right", "value", "root")},
                    ensembles=int(arrays["ensembles"][0]))  # fmt: skip
        inner = np.flatnonzero(found.feature >= 0)
        children = np.stack([found.left[inner], found.right[inner]])
        size = len(found.feature)
        fine = bool((children > inner).all() and (children < size).all() and (found.feature < len(FEATURES)).all())
        if not fine or (found.root < 0).any() or (found.root >= size).any() or len(found.root) % found.ensembles:
            raise ValueError("the trees are damaged")
        return found


@dataclass(frozen=True)
class Reranker:
    """Probabilities over a shortlist.

    Attributes
    ----------
    weights
        ``(1 + features,)`` level and weight of each feature of the linear part.
    trees
        Ensembles on top of it; None for the linear part alone.
    slope, level
        Calibration: margins are multiplied and shifted by these.
    power
        Scores are probabilities raised to this, so that above 0.7 some 95 of 100 are right.
    """

    weights: Values
    trees: Trees | None = None
    slope: float = 1.0
    level: float = 0.0
    power: float = 1.0

    def probabilities(self, shortlist: Shortlist) -> Values:
        """``(k,)`` chance that each candidate is meant; the rest up to 1 is that none is."""
        margins = _linear(self.weights, shortlist.features)[None]
        if self.trees is not None:
            margins = LINEAR * margins + START + self.trees.margins(shortlist.features)
        one = np.zeros(margins.shape[1], dtype=np.int64)
        return np.mean([_softmax(self.slope * row + self.level, one, 1) for row in margins], axis=0)

    def arrays(self) -> dict[str, NDArray]:
        """Arrays by name, to be stored."""
        found = {} if self.trees is None else self.trees.arrays()
        return found | {"weights": self.weights, "calibration": np.array([self.slope, self.level, self.power])}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray]) -> Reranker:
        """Re-ranker from stored arrays."""
        weights, (slope, level, power) = np.asarray(arrays["weights"], dtype=np.float64), arrays["calibration"]
        if weights.shape != (1 + len(FEATURES),):
            raise ValueError("the weights are of other features")
        return cls(
            weights, Trees.restore(arrays) if "root" in arrays else None, float(slope), float(level), float(power)
        )


def untrained() -> Reranker:
    """Linear weights fitted once on synonyms of the Cell Ontology, without an encoder: for use at once."""
    weights = np.zeros(1 + len(FEATURES))
    weights[0] = _WEIGHTS["level"]
    for place, name in enumerate(FEATURES):
        weights[1 + place] = _WEIGHTS.get(name, 0.0)
    return Reranker(weights, power=1.3)


def train_reranker(
    lists: Sequence[Shortlist], truths: Sequence[int], *, seed: int = 0, advance: Advance | None = None
) -> Reranker:
    """Learn from spellings whose term is known.

    Parameters
    ----------
    lists
        Shortlists of spellings that neither the index nor the encoder has seen.
    truths
        Place of the right term in ``Lexicon.ids``; -1 for a spelling that names none.
    seed
        Of the shares of spellings that trees see.
    advance
        Told of progress: done, total, trees.
    """
    features = np.concatenate([item.features for item in lists])
    group = np.repeat(np.arange(len(lists)), [len(item.terms) for item in lists])
    right = np.concatenate([item.terms == truth for item, truth in zip(lists, truths)]).astype(np.float64)
    weights = _fit_linear(features, group, right, len(lists))
    start = LINEAR * _linear(weights, features) + START
    fold = np.random.default_rng([seed, ENSEMBLES]).permutation(len(lists)) % ENSEMBLES
    unseen = np.zeros(len(features))
    grown: list[tuple] = []
    for ensemble in range(ENSEMBLES):
        rng = np.random.default_rng([seed, ensemble])
        margin = start.copy()
        for tree in range(TREES):
            chance = _softmax(margin, group, len(lists))
            seen = ((rng.random(len(lists)) < QUERIES) & (fold != ensemble))[group]
            arrays, leaf = _grow(features, right - chance, chance * (1 - chance), seen, rng)
            margin += arrays[4][leaf]
            grown.append(arrays)
            if advance is not None:
                done = ensemble * TREES + tree + 1
                advance(done, ENSEMBLES * TREES, done)
        left_out = (fold == ensemble)[group]
        unseen[left_out] = margin[left_out]
    slope, level = _calibrated(unseen, group, right, len(lists))
    power = _cautious(_softmax(slope * unseen + level, group, len(lists)), group, right, len(lists))
    return Reranker(weights, _joined(grown, ENSEMBLES), slope, level, power)


def _linear(weights: Values, features: NDArray[np.float32]) -> Values:
    return weights[0] + features.astype(np.float64) @ weights[1:]


def _fit_linear(features: NDArray[np.float32], group: NDArray[np.int64], right: Values, groups: int) -> Values:
    """Listwise logistic regression with a penalty on the weights of standardised features."""
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64) + 1e-6
    values = (features - mean) / spread
    found = _minimise(values, group, right, groups, PENALTY, np.array([-4.0, *np.zeros(values.shape[1])]))
    weights = found[1:] / spread
    return np.array([found[0] - float(mean @ weights), *weights])


def _calibrated(margin: Values, group: NDArray[np.int64], right: Values, groups: int) -> tuple[float, float]:
    found = _minimise(margin[:, None], group, right, groups, 0.0, np.array([0.0, 1.0]))
    return float(np.clip(found[1], 0.2, 2.0)), float(np.clip(found[0], -5.0, 5.0))


def _cautious(chance: Values, group: NDArray[np.int64], right: Values, groups: int) -> float:
    """Power that moves the lowest probability above which enough answers are right to ``CUT``."""
    order = np.lexsort((-chance, group))
    first = order[np.r_[True, np.diff(group[order]) > 0]]
    first = first[np.argsort(-chance[first])]
    share = np.cumsum(right[first]) / np.arange(1, groups + 1)
    enough = np.flatnonzero(share >= PRECISE)
    lowest = float(chance[first[enough[-1]]]) if len(enough) else 0.95
    return float(np.clip(np.log(CUT) / np.log(np.clip(lowest, CUT, 0.95)), 1.0, 6.0))


def _minimise(
    values: Values, group: NDArray[np.int64], right: Values, groups: int, penalty: float, start: Values
) -> Values:
    """Level and weights of the largest likelihood of what is right, or of none where nothing is."""
    from scipy.optimize import minimize

    none = np.bincount(group, right, groups) == 0

    def loss(weights: Values) -> tuple[float, Values]:
        chance = _softmax(weights[0] + values @ weights[1:], group, groups)
        rest = np.clip(1.0 - np.bincount(group, chance, groups), 1e-12, 1.0)
        found = np.log(np.maximum(chance[right > 0], 1e-12)).sum() + np.log(rest[none]).sum()
        push = right - chance
        slope = np.array([push.sum(), *(values.T @ push - penalty * weights[1:])])
        return float(0.5 * penalty * weights[1:] @ weights[1:] - found), -slope

    return minimize(loss, start, jac=True, method="L-BFGS-B").x


def _softmax(margin: Values, group: NDArray[np.int64], groups: int) -> Values:
    """Chance of each candidate beside the others of its list and a "none" whose margin is 0."""
    top = np.zeros(groups)
    np.maximum.at(top, group, margin)
    raised = np.exp(margin - top[group])
    total = np.bincount(group, raised, groups) + np.exp(-top)
    return raised / total[group]


def _grow(
    features: NDArray[np.float32], slope: Values, bend: Values, seen: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[tuple, NDArray[np.int64]]:
    """One tree fitted to the slopes; its arrays, and the leaf of every candidate."""
    from sklearn.tree import DecisionTreeRegressor

    fitted = DecisionTreeRegressor(
        max_leaf_nodes=LEAVES, min_samples_leaf=LEAST, max_features=0.5, random_state=int(rng.integers(2**31))
    ).fit(features[seen], slope[seen])
    tree = fitted.tree_
    leaf = tree.apply(features)
    push = np.bincount(leaf[seen], slope[seen], tree.node_count)
    curve = np.bincount(leaf[seen], bend[seen], tree.node_count)
    value = RATE * np.clip(push / (curve + SHRINK), -4.0, 4.0)
    feature = np.where(tree.children_left < 0, -1, tree.feature)
    return (feature, tree.threshold, tree.children_left, tree.children_right, value), leaf


def _joined(grown: Sequence[tuple], ensembles: int) -> Trees:
    """Trees one after another, children counted from the start of all."""
    root = np.cumsum([0, *(len(arrays[0]) for arrays in grown)])[:-1]
    shift = np.repeat(root, [len(arrays[0]) for arrays in grown])
    feature, threshold, left, right, value = (np.concatenate([arrays[part] for arrays in grown]) for part in range(5))
    inner = feature >= 0
    return Trees(
        feature=feature.astype(np.int32),
        threshold=_below(threshold),
        left=np.where(inner, left + shift, -1).astype(np.int32),
        right=np.where(inner, right + shift, -1).astype(np.int32),
        value=value.astype(np.float32),
        root=root.astype(np.int32),
        ensembles=ensembles,
    )


def _below(threshold: Values) -> NDArray[np.float32]:
    """Thresholds in single precision, never above what they were: features are single precision as well."""
    single = threshold.astype(np.float32)
    return np.where(single > threshold, np.nextafter(single, np.float32(-np.inf)), single).astype(np.float32)
