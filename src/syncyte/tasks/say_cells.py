"""Cells from texts: the flow of a run of words under the vector of a sentence, and nothing else.

What a sentence denies or says of fields that training never spoke of is settled first (``words.said_fields``).
No cell of training is looked at, so other cells of reference change nothing and another text does. With ``neighbours``
paths begin half-way at the codes of the training cells nearest to the text: such cells are also conditioned on real
ones, and the result says so.
Leaves out: cells from labels (``plans``), how texts are read (``nn.language``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from syncyte.errors import ConfigError
from syncyte.models.language import SAID
from syncyte.tasks.draw import Sampling, coder_of, draw_points, follow, generator_of
from syncyte.tasks.plans import FLOW, Plan
from syncyte.tasks.trained import Trained
from syncyte.tasks.word_run import WordRun
from syncyte.words.captions import with_article
from syncyte.words.matching import Names
from syncyte.words.query import parse_query
from syncyte.words.said_fields import OWN, settle_fields

UNLIKE = 0.5  # cosine to every text of training below which a text is strange to the run
HALF = 0.5  # time at which paths from neighbours begin
MOST_NEIGHBOURS = 1_000


def plan_said(trained: Trained, texts: Sequence[str], n: int, how: Sampling, seed: int, *, neighbours: int = 0) -> Plan:
    """``n`` cells of each text.

    Raises
    ------
    ConfigError
        For a text that says nothing, a run without words, or a number of neighbours out of range.
    """
    run = WordRun(trained, "generate cells from text")
    if n < 1:
        raise ConfigError(f"n is {n}; at least one cell is made.")
    if not 0 <= neighbours <= MOST_NEIGHBOURS:
        raise ConfigError(f"neighbours is {neighbours}; expected 0 (from the text alone) to {MOST_NEIGHBOURS:,}.")
    read, notes = settle_texts(run, texts)
    notes += [note for text in read for note in check_text(run, text)]
    vectors = run.texts(read)
    obs = pd.DataFrame({"syncyte_text": np.repeat(np.array(texts, dtype=object), n)})
    obs.index = pd.Index([f"generated_{number}" for number in range(len(obs))])
    near = _neighbours(trained, vectors, neighbours) if neighbours else None

    def points(first: int, last: int) -> NDArray[np.float32]:
        which = np.arange(first, last) // n
        arrays = {**coder_of(trained).arrays(obs.iloc[first:last]), SAID: vectors[which]}
        if near is not None:
            return _from_neighbours(trained, arrays, near[which], how, (seed, FLOW, first))
        return draw_points(trained, arrays, how, (seed, FLOW, 0, first), cells=last - first)

    facts = {
        "mode": "said",
        "texts": list(texts),
        "read_as": read,
        "neighbours": neighbours,
        "sampling": how.model_dump(),
    }
    if neighbours:
        notes.append(f"Also conditioned on the {neighbours:,} training cells nearest to the text: not from text alone.")
    return Plan(obs, points, {**facts, "evaluations": how.evaluations, "notes": notes})


def settle_texts(run: WordRun, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts in the words the run was trained on, as far as conditions and other fields go, and notes."""
    names, labels = Names(run.terms), {label.lower() for label in run.labels}
    spoken = [*run.labels, *dict.fromkeys(run.facts["groups"].get(OWN, ()))]

    def known(text: str) -> bool:
        return text.lower() in labels or names(text) is not None

    read, notes = [], []
    for text in texts:
        parse_query(text)  # refuses what says nothing
        settled, said = settle_fields(text, run.facts["values"], spoken, known)
        read.append(settled)
        notes += said
    return read, notes


def check_text(run: WordRun, text: str) -> list[str]:
    """Refuse texts that say nothing, and say what the run will not understand."""
    query = parse_query(text)
    notes = []
    if query.none_of:
        notes.append(f"{text!r}: what a text excludes is not understood when cells are generated; say what they are.")
    labels = [run.name(run.term(label)) for label in run.labels]
    known = run.texts([*(f"{with_article('A ', label)}{label}." for label in labels), *run.labels])
    likeness = known @ run.texts([text])[0]
    best = int(likeness.argmax())
    if likeness[best] < UNLIKE:
        near = [*labels, *run.labels][best]
        notes.append(
            f"{text!r} is unlike every text of training (nearest: {near}, {likeness[best]:.2f}): cells may be anything."
        )
    return notes


def _neighbours(trained: Trained, vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """``(t, k, c)`` codes of the training cells nearest to each text."""
    arrays = trained.arrays
    scores = vectors @ arrays["reference.vectors"].astype(np.float32).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return arrays["reference.codes"][rows]


def _from_neighbours(
    trained: Trained, arrays: dict[str, Any], near: NDArray[np.float32], how: Sampling, key: tuple[int, ...]
) -> NDArray[np.float32]:
    """Ends of paths that begin half-way at one of some codes."""
    model, device = trained.model, trained.device
    condition = coder_of(trained).tensors(arrays, device)
    chosen = np.random.default_rng(list(key)).integers(near.shape[1], size=len(near))
    data = model.flow.standardise(torch.from_numpy(near[np.arange(len(near)), chosen]).to(device))
    noise = torch.randn(data.shape, generator=generator_of(device, *key), device=device)
    state = (1 - HALF) * noise + HALF * data
    return model.flow.restore(follow(model, state, condition, how, start=HALF)).cpu().numpy()
