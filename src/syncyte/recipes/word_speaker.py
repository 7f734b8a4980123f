"""Teach a language model from a folder to speak of the cells of a run, and keep what it learned in the RUN folder.

The cells and the bridge do not change; projection and low-rank updates learn (``models.pretrained_language``) what the
run's own speaker learns: values of a cell, then a sentence with marks for what is filled in.
Leaves out: use (``tasks.describe``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from syncyte.data.load import predict_batches
from syncyte.meter import Meter
from syncyte.models.pretrained_language import LanguageModel
from syncyte.objectives.words import Seen, words_of
from syncyte.recipes.train_sets import Built
from syncyte.recipes.word_texts import Lexis, spoken_texts
from syncyte.train.folder import SPEAKER

RATE, BATCH, WORDINGS = 3e-4, 16, 24
MOST_CELLS = 20_000


def teach(
    built: Built,
    lexis: Lexis,
    group: NDArray[np.int64],
    run: Path,
    *,
    seen: Seen | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Train and write ``RUN/speaker``; ``seen`` is what another encoder makes of the cells.

    Raises
    ------
    DataError, ConfigError
        Where the folder of the language model lacks files, or holds another kind of model.
    """
    config = built.config.words
    assert config is not None
    words, device = words_of(built.model), next(built.model.parameters()).device
    model = LanguageModel(config.speaker, words.sizes.width).to(device)
    rng = np.random.default_rng([seed, 5])
    rows = built.split.train[group[built.split.train] >= 0]
    rows = np.sort(rng.permutation(rows)[:MOST_CELLS])
    states, texts = _states(built, rows, seen), spoken_texts(lexis, WORDINGS, config.drop, seed)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
    model.train()
    with Meter("teaching to speak", "steps", quiet) as meter:
        for step in range(config.speaker_steps):
            some = rng.integers(len(rows), size=BATCH)
            chosen = [texts[int(group[rows[place]]) * WORDINGS + int(rng.integers(WORDINGS))] for place in some]
            loss, _ = model.loss(states[some].to(device), chosen)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            meter.advance(step + 1, config.speaker_steps, step + 1)
    model.eval().save(run / SPEAKER, overwrite=True)


@torch.no_grad()
def _states(built: Built, rows: NDArray[np.int64], seen: Seen | None) -> torch.Tensor:
    """``(n, q, w)`` what the queries of the bridge have read of some cells."""
    model, name = built.model, built.spec.modality
    device = next(model.parameters()).device
    model.eval()
    found = []
    for batch in predict_batches(built.cells.take(rows), {name: built.tokenizer}, 512):
        given = None if seen is None else seen.read(rows[batch.rows.cpu().numpy()], device)
        found.append(model.show(batch.to(device).tokens[name], given)[0].cpu())
    return torch.cat(found)
