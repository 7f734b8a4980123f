"""A small network that learns from an ontology's own names which spellings mean the same.

Both sides of a pair go through one encoder: two names of a term, or a name and the start of its definition; words are
dropped, moved and cut as people do when they write labels. Half of each minibatch are relatives of the rest (ancestors
and terms with a common parent), which must be told apart. Trained in minutes on one core; the mean of the weights over
the last steps is kept.
Leaves out: the network itself (``nn.characters``) and what its likeness is good for (``rerank``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.nn.characters import CharacterEncoder, contrast
from syncyte.words.normalise import normalise
from syncyte.words.terms import Terms, words_of

LETTERS = " abcdefghijklmnopqrstuvwxyz0123456789'"
LENGTH = 48
PAIRS = 192
STEPS = 700
RATE = 2e-3
_SMALL = {"of", "the", "a", "an", "and", "or", "that", "is", "in", "with", "to", "by"}

Advance = Callable[[int, int, int], None]


class CharacterVectors:
    """Encoder of normalised names, trained or restored.

    Parameters
    ----------
    network
        In evaluation mode.
    """

    def __init__(self, network: CharacterEncoder) -> None:
        self.network = network.eval()

    @torch.no_grad()
    def encode(self, spelled: Sequence[str], batch: int = 512) -> NDArray[np.float32]:
        """``(q, d)`` vectors of unit length."""
        order = sorted(range(len(spelled)), key=lambda place: len(spelled[place]))
        found = np.zeros((len(spelled), self.network.out.out_features), dtype=np.float32)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            found[rows] = self.network(to_ids([spelled[row] for row in rows])).numpy()
        return found

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Weights by name, to be stored."""
        return {key: value.numpy() for key, value in self.network.state_dict().items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[np.float32]]) -> CharacterVectors:
        """Encoder from stored weights."""
        network = CharacterEncoder(len(LETTERS) + 1, LENGTH)
        network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()})
        return cls(network)


def to_ids(texts: Sequence[str]) -> torch.Tensor:
    """``(b, n)`` numbers of letters, 0 for padding; n is that of the longest text, 48 at most."""
    at = {letter: place + 1 for place, letter in enumerate(LETTERS)}
    rows = [[at[letter] for letter in text if letter in at][:LENGTH] for text in texts]
    size = max(1, *map(len, rows)) if rows else 1
    return torch.tensor([row + [0] * (size - len(row)) for row in rows], dtype=torch.long).view(len(rows), size)


def train_characters(
    terms: Terms, *, steps: int = STEPS, seed: int = 0, advance: Advance | None = None
) -> CharacterVectors:
    """Train the encoder on the names and definitions of terms.

    Parameters
    ----------
    terms
        Those whose names may be seen: synonyms that train or test anything else have to be left out.
    steps, seed
        Length, and the seed of weights, pairs and spellings.
    advance
        Told of progress: done, total, pairs seen.
    """
    pairs = _Pairs(terms, np.random.default_rng(seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _fit(pairs, steps, advance)
    return CharacterVectors(network)


def _fit(pairs: _Pairs, steps: int, advance: Advance | None) -> CharacterEncoder:
    network = CharacterEncoder(len(LETTERS) + 1, LENGTH).train()
    mean = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    shape = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, max(steps, 2), pct_start=0.1)
    for step in range(steps):
        terms, first, second = pairs.draw(PAIRS)
        ids = to_ids([*first, *second])
        vectors = network(ids)
        numbers = torch.from_numpy(terms)
        same = (numbers[:, None] == numbers[None]) & ~torch.eye(len(terms), dtype=torch.bool)
        loss = contrast(vectors[: len(terms)], vectors[len(terms) :], network.log_scale, same)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        shape.step()
        keep = min(0.99, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            mean[key].lerp_(value, 1 - keep)
        if advance is not None:
            advance(step + 1, steps, (step + 1) * PAIRS)
    network.load_state_dict(mean)
    return network


class _Pairs:
    """Draws pairs of texts that mean the same term, in groups of relatives."""

    def __init__(self, terms: Terms, rng: np.random.Generator) -> None:
        self.rng = rng
        self.ids = list(terms)
        at = {key: place for place, key in enumerate(self.ids)}
        self.names = [
            [name for name in map(normalise, dict.fromkeys([terms[key].label, *terms[key].synonyms])) if name]
            for key in self.ids
        ]
        self.definitions = [
            [word for word in words_of(terms[key].definition) if word not in _SMALL][:14] for key in self.ids
        ]
        parents = [[at[up] for up, far in terms[key].ancestors.items() if far == 1 and up in at] for key in self.ids]
        children: dict[int, list[int]] = {}
        for low, ups in enumerate(parents):
            for up in ups:
                children.setdefault(up, []).append(low)
        self.parents, self.children = parents, children
        self.usable = np.array([place for place, names in enumerate(self.names) if names])
        weight = np.array([1.0 + 0.5 * min(len(self.names[place]) - 1, 4) for place in self.usable])
        self.weight = weight / weight.sum()

    def draw(self, count: int) -> tuple[NDArray[np.int64], list[str], list[str]]:
        """Term numbers, and two texts of each."""
        size = min(count, len(self.usable))
        seeds = self.rng.choice(self.usable, size=max(size // 2, 1), replace=False, p=self.weight)
        chosen = dict.fromkeys(int(place) for place in seeds)
        for place in seeds:
            relative = self._relative(int(place))
            if relative is not None and len(chosen) < size:
                chosen[relative] = None
        numbers = np.array(list(chosen), dtype=np.int64)
        texts = [self._two(place) for place in chosen]
        return numbers, [pair[0] for pair in texts], [pair[1] for pair in texts]

    def _relative(self, place: int) -> int | None:
        parents = self.parents[place]
        if not parents:
            return None
        parent = int(self.rng.choice(parents))
        options = [parent] if self.rng.random() < 0.35 else [low for low in self.children[parent] if low != place]
        options = [other for other in options if self.names[other]]
        return int(self.rng.choice(options)) if options else None

    def _two(self, place: int) -> tuple[str, str]:
        names = self.names[place]
        first = names[int(self.rng.integers(len(names)))]
        draw = self.rng.random()
        if draw < 0.2 and len(self.definitions[place]) > 3:
            words = self.definitions[place]
            start = int(self.rng.integers(max(len(words) - 6, 1)))
            return self._changed(first), " ".join(words[start : start + 7])
        others = [name for name in names if name != first]
        if others and draw < 0.85:
            second = others[int(self.rng.integers(len(others)))]
            return (self._changed(first), second) if self.rng.random() < 0.5 else (first, self._changed(second))
        return self._changed(first, hard=True), first

    def _changed(self, name: str, hard: bool = False) -> str:
        """Name as somebody in a hurry writes it."""
        rng, words = self.rng, name.split()
        if len(words) > 2 and rng.random() < (0.35 if hard else 0.15):
            words.pop(int(rng.integers(len(words))))
        if len(words) > 1 and rng.random() < (0.4 if hard else 0.2):
            rng.shuffle(words)
        if len(words) > 1 and words[-1] == "cell" and rng.random() < 0.3:
            words.pop()
        for place, word in enumerate(words):
            draw = rng.random() * (1.0 if hard else 2.0)
            if len(word) > 5 and draw < 0.12:
                words[place] = word[: int(rng.integers(3, 7))]
            elif len(word) > 3 and draw < 0.18:
                cut = int(rng.integers(len(word)))
                words[place] = word[:cut] + word[cut + 1 :]
        if len(words) > 2 and rng.random() < (0.12 if hard else 0.04):
            size = int(rng.integers(2, len(words) + 1))
            words = ["".join(word[0] for word in words[:size]), *words[size:]]
        return " ".join(words)
