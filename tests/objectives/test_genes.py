"""Masked genes: the loss counted by hand, and blind to what it hides."""

from __future__ import annotations

import pytest
import torch
from tests.tiny_dna import gene_model

from syncyte.objectives.genes import MaskedGenes
from syncyte.types import Batch

AMOUNTS = torch.rand(6, 12, generator=torch.Generator().manual_seed(1))


def batch() -> Batch:
    return Batch({}, {}, {}, torch.arange(6))


def source(amounts: torch.Tensor):
    return lambda rows: (amounts[rows], 2 * AMOUNTS[rows])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize("layers", [0, 1])
def test_the_loss_by_hand(layers: int):
    model = gene_model(layers=layers)
    loss = MaskedGenes(source(AMOUNTS), ratio=0.3, asked=7)(model, batch(), generator())
    drawing = generator()
    drawn = torch.randperm(12, generator=drawing)[:7]
    hidden = torch.rand(6, 12, generator=drawing) < 0.3
    tokens = model.tokens()
    predicted = model.predict(model.read(AMOUNTS, tokens, hidden), tokens, torch.arange(12))
    errors = [
        ((predicted[cell, gene] - 2 * AMOUNTS[cell, gene]) / model.spread[gene]).square()
        for cell in range(6)
        for gene in drawn.tolist()
        if hidden[cell, gene]
    ]
    assert loss.total.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert loss.counts["masked"] == len(errors)


@pytest.mark.parametrize("layers", [0, 1])
def test_what_is_hidden_is_not_read(layers: int):
    model = gene_model(layers=layers)
    drawing = generator()
    torch.randperm(12, generator=drawing)
    hidden = torch.rand(6, 12, generator=drawing) < 0.3
    other = torch.where(hidden, torch.full_like(AMOUNTS, 7.0), AMOUNTS)
    first, second = (
        MaskedGenes(source(one), ratio=0.3, asked=12)(model, batch(), generator()).total for one in (AMOUNTS, other)
    )
    assert torch.equal(first, second)


def test_nothing_hidden_is_no_loss():
    loss = MaskedGenes(source(AMOUNTS), ratio=0.0, asked=12)(gene_model(), batch(), generator())
    assert loss.total == 0
    assert loss.counts["masked"] == 0
