"""What models of cells and words learn: to tell which text is of a cell, and to speak it.

``Align`` is a symmetric contrastive loss in which every cell of a term is a positive of every text of it, and terms
near by in an ontology count in part (Khosla et al. 2020; Radford et al. 2021), or a sigmoid loss over pairs (Zhai et
al. 2023); the matcher learns beside it on the hardest wrong pairs. ``Speak`` scores sentences piece by piece, and
``Read`` brings texts of one term together, whatever the cells. Texts are drawn anew for every cell of every minibatch.
Leaves out: where texts come from (``words``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from syncyte.models.language import Words
from syncyte.models.sets import SetModel
from syncyte.nn.language import PAD, Given, likeness
from syncyte.types import Batch, Loss


@dataclass(frozen=True)
class Texts:
    """Texts of all cells.

    Attributes
    ----------
    group
        ``(cells,)`` which texts are a cell's; -1 where it has none.
    pieces, grams, spoken
        ``(groups, k, length)`` of ``k`` texts a group, for reading; and of sentences, for speaking.
    given
        ``(groups, k, s)`` vectors a sentence model has made of the texts; None without one.
    near
        ``(groups, groups)`` how far a text of one group is right for a cell of another: 1 for its own, 0 for most.
    """

    group: NDArray[np.int64]
    pieces: NDArray[np.int32]
    grams: NDArray[np.int32]
    spoken: NDArray[np.int32]
    near: NDArray[np.float32]
    given: NDArray[np.float16] | None = None

    def read(self, words: Words, groups: NDArray, which: NDArray, device: torch.device) -> Float[Tensor, "b d"]:
        """Vectors of texts by group and number."""
        pieces, grams = (take(table, groups, which, device) for table in (self.pieces, self.grams))
        given = None if self.given is None else torch.from_numpy(self.given[groups, which]).to(device).float()
        return words.read(pieces, grams, given)

    def draw(self, rows: NDArray[np.int64], generator: torch.Generator) -> tuple[NDArray, NDArray]:
        """Group of each cell, and which of its texts is drawn."""
        which = torch.randint(self.pieces.shape[1], (len(rows),), generator=generator, device=generator.device)
        return self.group[rows], which.cpu().numpy()


@dataclass(frozen=True)
class Seen:
    """What another encoder makes of all cells, on disk.

    Attributes
    ----------
    vector
        ``(cells, v)`` one vector each.
    states
        ``(cells, n, e)`` states of its tokens; None where it has none.
    count
        ``(cells,)`` how many of them a cell has, from the first one on.
    """

    vector: NDArray[np.float32]
    states: NDArray[np.float16] | None = None
    count: NDArray[np.int64] | None = None

    def read(self, rows: NDArray[np.int64], device: torch.device) -> Given:
        """Of some cells, as the model takes it."""
        vector = torch.from_numpy(np.asarray(self.vector[rows])).to(device)
        if self.states is None or self.count is None:
            return Given(vector)
        count = np.asarray(self.count[rows])
        longest = max(int(count.max(initial=0)), 1)
        states = torch.from_numpy(np.asarray(self.states[rows, :longest])).to(device).float()
        valid = torch.from_numpy(np.arange(longest) < count[:, None]).to(device)
        return Given(vector, states, valid)


@dataclass(frozen=True)
class Pairs:
    """Texts that say the same.

    Attributes
    ----------
    owner
        ``(texts,)`` what a text is of; ascending.
    pieces, grams, given
        ``(texts, length)``; vectors of a sentence model, where there is one.
    """

    owner: NDArray[np.int64]
    pieces: NDArray[np.int32]
    grams: NDArray[np.int32]
    given: NDArray[np.float16] | None = None

    def draw(self, count: int, generator: torch.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Two different texts of each of some owners, by number."""
        first = np.flatnonzero(np.append(True, np.diff(self.owner) > 0))
        size = np.diff(np.append(first, len(self.owner)))
        first, size = first[size > 1], size[size > 1]
        device = generator.device
        chosen = torch.randperm(len(first), generator=generator, device=device)[:count].cpu().numpy()
        chance = torch.rand((2, len(chosen)), generator=generator, device=device).cpu().numpy()
        one = np.floor(chance[0] * size[chosen]).astype(np.int64)
        step = 1 + np.floor(chance[1] * (size[chosen] - 1)).astype(np.int64)
        return first[chosen] + one, first[chosen] + (one + step) % size[chosen]


def take(table: NDArray[np.int32], groups: NDArray, which: NDArray, device: torch.device) -> Int[Tensor, "b l"]:
    """Texts by group and number, without columns that are padding alone."""
    found = torch.from_numpy(table[groups, which].astype(np.int64)).to(device)
    return found[:, : max(1, int((found != PAD).sum(dim=1).max()))] if len(found) else found


def words_of(model: SetModel) -> Words:
    """The part of a model that knows words."""
    if model.words is None:
        raise ValueError("This model has no part for words.")
    return model.words


@dataclass(frozen=True)
class Told:
    """The cells of a minibatch that have texts: what the bridge makes of them, and which text was drawn for each."""

    words: Words
    states: Float[Tensor, "b q w"]
    vectors: Float[Tensor, "b q d"]
    groups: NDArray[np.int64]
    which: NDArray[np.int64]


def tell(
    model: SetModel, batch: Batch, modality: str, texts: Texts, generator: torch.Generator, seen: Seen | None = None
) -> Told | None:
    """Draw a text for every cell that has any, and read the cells; None where no cell has."""
    words, rows = words_of(model), batch.rows.cpu().numpy()
    groups, which = texts.draw(rows, generator)
    known = np.flatnonzero(groups >= 0)
    if not len(known):
        return None
    states, valid = model.encoder.states(batch.tokens[modality])
    chosen = torch.from_numpy(known).to(states.device)
    given = None if seen is None else seen.read(rows[known], states.device)
    return Told(words, *words.show(states[chosen], valid[chosen], given), groups[known], which[known])


def nothing(words: Words, name: str) -> Loss:
    """Loss of a minibatch without texts."""
    zero = words.log_scale.new_zeros(())
    return Loss(words.log_scale * 0, {name: zero}, {name: zero})


class Align(nn.Module):
    """Cells and their texts to the same place.

    Parameters
    ----------
    modality
        Of the cells.
    texts
        Of all cells.
    sigmoid
        The loss over pairs, for small minibatches, instead of the one over rows and columns.
    match
        Weight of the matcher; 0 leaves it out.
    seen
        What another encoder makes of all cells; None without one.
    """

    def __init__(
        self, modality: str, texts: Texts, *, sigmoid: bool = False, match: float = 0.5, seen: Seen | None = None
    ) -> None:
        super().__init__()
        self.modality, self.texts, self.sigmoid, self.match, self.seen = modality, texts, sigmoid, match, seen

    def forward(self, model: SetModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Nats a cell."""
        told = tell(model, batch, self.modality, self.texts, generator, self.seen)
        if told is None:
            return nothing(words_of(model), "contrast")
        words, cells = told.words, told.vectors
        texts = self.texts.read(words, told.groups, told.which, cells.device)
        near = torch.from_numpy(self.texts.near[np.ix_(told.groups, told.groups)]).to(cells.device)
        scores = words.scores(cells, texts)
        loss = self._pairs(scores, near, words.offset) if self.sigmoid else contrast(scores, near)
        parts = {"contrast": loss.detach()}
        if self.match and len(cells) > 1:
            error = self._matched(words, cells, texts, near, generator)
            loss, parts = loss + self.match * error, {**parts, "match": error.detach()}
        return Loss(loss, parts, dict.fromkeys(parts, torch.tensor(float(len(cells)), device=cells.device)))

    def _pairs(self, scores: Tensor, near: Tensor, offset: Tensor) -> Tensor:
        """Sum over texts of the sigmoid loss."""
        return F.binary_cross_entropy_with_logits(scores + offset, near, reduction="sum") / max(len(scores), 1)

    def _matched(
        self, words: Words, cells: Tensor, texts: Tensor, near: Tensor, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Right pairs against the hardest wrong text of each cell and the hardest wrong cell of each text."""
        with torch.no_grad():
            alike = 10 * likeness(cells, texts) - 1e4 * (near > 0)
            wrong_text = hard(alike, generator)
            wrong_cell = hard(alike.T, generator)
        right = words.matcher(cells, texts)
        wrong = torch.cat([words.matcher(cells, texts[wrong_text]), words.matcher(cells[wrong_cell], texts)])
        some = torch.cat([near[torch.arange(len(near)), wrong_text], near[wrong_cell, torch.arange(len(near))]]) == 0
        false = F.softplus(wrong) * some  # a minibatch of one group has no wrong pair
        return F.softplus(-right).mean() + false.sum() / some.sum().clamp_min(1)


def contrast(scores: Float[Tensor, "b b"], near: Float[Tensor, "b b"]) -> Float[Tensor, ""]:
    """Cross-entropy of rows and of columns against the shares that ``near`` gives."""
    rows = near / near.sum(dim=1, keepdim=True)
    columns = near / near.sum(dim=0, keepdim=True)
    by_cell = -(rows * scores.log_softmax(dim=1)).sum(dim=1)
    by_text = -(columns * scores.log_softmax(dim=0)).sum(dim=0)
    return 0.5 * (by_cell.mean() + by_text.mean())


def hard(alike: Float[Tensor, "b t"], generator: torch.Generator) -> Int[Tensor, "b"]:
    """One column for each row, drawn by its softmax."""
    chance = alike.softmax(dim=1).to(generator.device)
    return torch.multinomial(chance, 1, generator=generator)[:, 0].to(alike.device)


class Speak(nn.Module):
    """Sentences of cells, from what the bridge's queries have read.

    Parameters
    ----------
    modality, texts, seen
        See ``Align``.
    every
        One cell of so many speaks in a step: a sentence says more than its match, and costs more.
    """

    def __init__(self, modality: str, texts: Texts, every: int = 4, seen: Seen | None = None) -> None:
        super().__init__()
        self.modality, self.texts, self.every, self.seen = modality, texts, every, seen

    def forward(self, model: SetModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Nats a piece."""
        told = tell(model, batch, self.modality, self.texts, generator, self.seen)
        if told is None:
            return nothing(words_of(model), "speak")
        some = slice(None, None, self.every)  # rows of a minibatch come in no order
        said = take(self.texts.spoken, told.groups[some], told.which[some], told.states.device)
        scores = told.words.speaker(told.states[some], said[:, :-1])
        target = said[:, 1:].masked_fill(said[:, 1:] == PAD, -100)
        count = (target != -100).sum().clamp_min(1)
        loss = F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum") / count
        return Loss(loss, {"speak": loss.detach()}, {"speak": count.float()})


class Read(nn.Module):
    """Texts of the same term to the same place, so that texts no cell has are placed too.

    Parameters
    ----------
    pairs
        Texts of many terms; with None there is nothing to learn.
    count
        Terms in a step.
    """

    def __init__(self, pairs: Pairs | None, count: int = 48) -> None:
        super().__init__()
        self.pairs, self.count = pairs, count

    def forward(self, model: SetModel, batch: Batch, generator: torch.Generator) -> Loss:
        """Nats a term."""
        del batch
        words = words_of(model)
        if self.pairs is None:
            return nothing(words, "read")
        device = words.log_scale.device
        sides = []
        for rows in self.pairs.draw(self.count, generator):
            pieces, grams = (
                take(table[None], np.zeros(len(rows), dtype=np.int64), rows, device)
                for table in (self.pairs.pieces, self.pairs.grams)
            )
            given = self.pairs.given
            sides.append(
                words.read(pieces, grams, None if given is None else torch.from_numpy(given[rows]).to(device).float())
            )
        scores = words.log_scale.exp().clamp_max(100.0) * sides[0] @ sides[1].T
        loss = contrast(scores, torch.eye(len(scores), device=device))
        count = torch.tensor(float(len(scores)), device=device)
        return Loss(loss, {"read": loss.detach()}, {"read": count})
