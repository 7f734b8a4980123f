"""What the speaker of a run says: how likely it finds values, and sentences with marks for what is filled in.

Leaves out: evidence and filling in (``describe``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.nn.language import Speaker
from syncyte.tasks.word_run import Asked, WordRun
from syncyte.words.pieces import BEGIN, END, PAD
from syncyte.words.spoken import FIELDS, SAY, tidy, write_value

AT_ONCE = 256  # sequences
LONGEST = 80  # pieces of a sentence


def cell_states(run: WordRun, asked: Asked, batch_size: int | None = None) -> NDArray[np.float32]:
    """``(n, q, w)`` what the queries of the bridge have read of each cell: all the speaker sees of it."""
    return run.states(asked, batch_size)


def value_chances(
    run: WordRun, states: NDArray[np.float32], name: str, values: Sequence[str], before: Sequence[str] = ()
) -> NDArray[np.float64]:
    """``(n, v)`` probabilities the speaker gives values of a field, among these.

    Parameters
    ----------
    before
        ``(n,)`` what is said before, see ``spoken_before``; nothing by default.
    """
    after = [f"<{other}>" for other in FIELDS[FIELDS.index(name) + 1 :] if run.facts["values"].get(other)]
    close = after[0] if after else SAY
    scores = np.empty((len(states), len(values)))
    for column, value in enumerate(values):
        for first in range(0, len(states), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            heads = list(before[some]) if len(before) else [""] * len(states[some])
            scores[some, column] = _log_likelihood(run, states[some], heads, f"{write_value(name, value)} {close}")
    scores -= scores.max(axis=1, keepdims=True)
    chance = np.exp(scores)
    return chance / chance.sum(axis=1, keepdims=True)


def spoken_before(values: Mapping[str, str]) -> str:
    """Values in the order they are said in."""
    return " ".join(write_value(name, values[name]) for name in FIELDS if values.get(name))


@torch.inference_mode()
def _log_likelihood(run: WordRun, states: NDArray[np.float32], heads: Sequence[str], tail: str) -> NDArray[np.float64]:
    """Log-probability of the pieces of ``tail`` after each head."""
    speaker, device = run.trained.model.words.speaker, run.trained.device
    rows, starts = [], []
    for head in heads:
        own = _ids(run, head)
        rows.append([BEGIN, *own, *_ids(run, f"{head} {tail}".strip())[len(own) :]])
        starts.append(len(own))
    width = min(max(map(len, rows)), speaker.length)
    table = torch.full((len(rows), width), PAD, device=device)
    for at, row in enumerate(rows):
        table[at, : min(len(row), width)] = torch.tensor(row[:width], device=device)
    scores = speaker(torch.from_numpy(states).to(device), table[:, :-1]).log_softmax(dim=2)
    each = scores.gather(2, table[:, 1:, None])[..., 0]
    place = torch.arange(width - 1, device=device)
    counted = (table[:, 1:] != PAD) & (place >= torch.tensor(starts, device=device)[:, None])
    return (each * counted).sum(dim=1).double().cpu().numpy()


@torch.inference_mode()
def sentences(run: WordRun, states: NDArray[np.float32], before: Sequence[str]) -> list[str]:
    """The likeliest sentence of each cell after the values that were said, with marks in place of values."""
    speaker, device = run.trained.model.words.speaker, run.trained.device
    found = []
    for first in range(0, len(states), AT_ONCE):
        seen = torch.from_numpy(states[first : first + AT_ONCE]).to(device)
        heads = [[BEGIN, *_ids(run, f"{head} {SAY}")] for head in before[first : first + AT_ONCE]]
        found += _continue(speaker, seen, heads, run)
    return found


def _continue(speaker: Speaker, seen: torch.Tensor, heads: Sequence[Sequence[int]], run: WordRun) -> list[str]:
    """Greedy continuation of rows that are all as long as the longest head at least."""
    rows = [list(head) for head in heads]
    done = [False] * len(rows)
    most = min(speaker.length, max(map(len, rows)) + LONGEST)
    while not all(done) and max(map(len, rows)) < most:
        width = max(map(len, rows))
        table = torch.full((len(rows), width), PAD, device=seen.device)
        for place, row in enumerate(rows):
            table[place, : len(row)] = torch.tensor(row, device=seen.device)
        scores = speaker(seen, table)
        last = torch.tensor([len(row) - 1 for row in rows], device=seen.device)
        following = scores[torch.arange(len(rows), device=seen.device), last].argmax(dim=1).tolist()
        for place, piece in enumerate(following):
            if not done[place]:
                rows[place].append(int(piece))
                done[place] = piece in (END, PAD)
    return [tidy(run.pieces.decode(row[len(head) :])) for row, head in zip(rows, heads, strict=True)]


def _ids(run: WordRun, text: str) -> list[int]:
    if not text:
        return []
    row = run.pieces.encode([text], 4 * LONGEST)[0]
    return [int(piece) for piece in row if piece != PAD]
