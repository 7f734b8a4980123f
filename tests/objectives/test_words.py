"""Objectives of cells and words: positives in parts, wrong pairs that are wrong, nothing learned from cells untold."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from tests.tiny import tensors

from syncyte.modalities import Layout, Tokenizer
from syncyte.models.language import WordSizes
from syncyte.models.sets import SetModel, SetSizes, SetSpec
from syncyte.nn.language import PAD
from syncyte.objectives.words import Align, Speak, Texts, contrast, take
from syncyte.types import Batch

FEATURES, CELLS, GROUPS = 20, 24, 3
SIZES = WordSizes(pieces=40, grams=60, length=8, spoken=9, shared=16, queries=2, width=8, heads=2, layers=1, deep=1)


def model(queries: int = 2) -> SetModel:
    torch.manual_seed(0)
    sizes = SetSizes(latents=4, hidden=16, queries=queries, width=8, heads=2)
    return SetModel(SetSpec(modality="rna", features=FEATURES, sizes=sizes, words=SIZES))


def told(group: np.ndarray) -> Texts:
    """Each group has pieces and grams of its own."""
    rng = np.random.default_rng(0)
    low = 3 + 12 * np.arange(GROUPS)[:, None, None]
    pieces = (low + rng.integers(0, 12, (GROUPS, 4, 8))).astype(np.int32)
    pieces[:, ::2, 6:] = PAD
    grams = (1 + 19 * np.arange(GROUPS)[:, None, None] + rng.integers(0, 19, (GROUPS, 4, 5))).astype(np.int32)
    spoken = np.concatenate([np.ones((GROUPS, 4, 1), np.int32), pieces], axis=2)
    return Texts(group, pieces, grams, spoken, np.eye(GROUPS, dtype=np.float32))


def minibatch(group: np.ndarray) -> Batch:
    """Cells of a group have counts of its own features."""
    rng = np.random.default_rng(1)
    rate = np.full((CELLS, FEATURES), 0.3)
    for row, one in enumerate(group):
        rate[row, 6 * max(one, 0) : 6 * max(one, 0) + 6] = 6
    counts = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    layout = Layout(np.arange(FEATURES), FEATURES, 1 << 30)
    tokens = tensors(Tokenizer(layout, np.full(FEATURES, 1 / FEATURES, dtype=np.float32)), counts)
    return Batch({"rna": tokens}, {}, {}, torch.arange(CELLS))


GROUP = np.arange(CELLS) % GROUPS


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_contrast_by_hand():
    scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]])
    near = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    rows = [-(0.5 * scores.log_softmax(1)[0, [0, 2]]).sum(), -scores.log_softmax(1)[1, 1]]
    rows.append(-(0.5 * scores.log_softmax(1)[2, [0, 2]]).sum())
    columns = [-(0.5 * scores.log_softmax(0)[[0, 2], 0]).sum(), -scores.log_softmax(0)[1, 1]]
    columns.append(-(0.5 * scores.log_softmax(0)[[0, 2], 2]).sum())
    wanted = 0.5 * (torch.stack(rows).mean() + torch.stack(columns).mean())
    torch.testing.assert_close(contrast(scores, near), wanted)


def test_texts_are_cut_to_the_longest():
    texts = told(GROUP)
    assert take(texts.pieces, np.array([0, 1]), np.array([0, 2]), torch.device("cpu")).shape == (2, 6)
    assert take(texts.pieces, np.array([0, 1]), np.array([0, 1]), torch.device("cpu")).shape == (2, 8)


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("queries", [0, 2])
def test_alignment_is_learned(sigmoid, queries):
    trained, batch = model(queries), minibatch(GROUP)
    align = Align("rna", told(GROUP), sigmoid=sigmoid)
    optimiser, rng = torch.optim.Adam(trained.parameters(), lr=1e-2), generator()
    first = align(trained, batch, rng)
    for _ in range(60):
        loss = align(trained, batch, rng)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert set(loss.parts) == {"contrast", "match"} and loss.parts["match"] < 0.7 * first.parts["match"]
    assert loss.parts["contrast"] < first.parts["contrast"] - 0.3
    texts, words = told(GROUP), trained.words
    cells = words.show(*trained.encoder.states(batch.tokens["rna"]))[1]
    read = words.read(torch.from_numpy(texts.pieces[:, 1]).long(), torch.from_numpy(texts.grams[:, 1]).long())
    assert (words.scores(cells, read).argmax(dim=1).numpy() == GROUP).mean() > 0.9


def test_cells_without_a_text_teach_nothing():
    group = np.where(np.arange(CELLS) < 12, GROUP, -1)
    trained, batch = model(), minibatch(GROUP)
    found = Align("rna", told(group))(trained, batch, generator())
    assert all(count == 12 for count in found.counts.values())
    nobody = Align("rna", told(np.full(CELLS, -1)))(trained, batch, generator())
    assert nobody.parts.keys() == {"contrast"} and nobody.total == 0 == nobody.counts["contrast"]
    assert Speak("rna", told(np.full(CELLS, -1)))(trained, batch, generator()).total == 0


def test_one_group_alone_has_no_wrong_pair():
    group = np.zeros(CELLS, dtype=np.int64)
    found = Align("rna", told(group))(model(), minibatch(group), generator())
    assert torch.isfinite(found.total)


def test_speaking_is_learned_and_padding_is_not_scored():
    trained, batch, rng = model(), minibatch(GROUP), generator()
    speak = Speak("rna", told(GROUP), every=1)
    first = speak(trained, batch, rng)
    optimiser = torch.optim.Adam(trained.parameters(), lr=1e-2)
    for _ in range(60):
        loss = speak(trained, batch, rng)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert loss.parts["speak"] < first.parts["speak"] - 0.7
    drawn = told(GROUP).draw(np.arange(CELLS), generator())
    assert int(speak(trained, batch, generator()).counts["speak"]) == (told(GROUP).pieces[drawn] != PAD).sum()


def test_a_model_without_words_says_so():
    bare = SetModel(SetSpec(modality="rna", features=FEATURES, sizes=SetSizes(latents=4, hidden=16)))
    assert bare.capabilities == ("encodes", "generates") and model().capabilities[2:] == ("matches", "speaks")
    with pytest.raises(ValueError, match="no part for words"):
        Align("rna", told(GROUP))(bare, minibatch(GROUP), generator())
