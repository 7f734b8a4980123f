"""The letter encoder gives unit vectors that ignore padding."""

from __future__ import annotations

import torch

from syncyte.nn.characters import CharacterEncoder, contrast


def test_padding_changes_nothing():
    torch.manual_seed(0)
    network = CharacterEncoder(10, 12, width=16, out=8).eval()
    short = torch.tensor([[1, 2, 3]])
    long = torch.tensor([[1, 2, 3, 0, 0, 0, 0]])
    assert torch.allclose(network(short), network(long), atol=1e-5)
    assert torch.allclose(network(short).norm(dim=1), torch.ones(1), atol=1e-5)


def test_nothing_to_read_gives_numbers():
    network = CharacterEncoder(10, 12, width=16, out=8).eval()
    assert torch.isfinite(network(torch.zeros(2, 4, dtype=torch.long))).all()


def test_contrast_by_hand():
    one = torch.eye(2)
    same = torch.zeros(2, 2, dtype=torch.bool)
    expected = torch.log(1 + torch.exp(torch.tensor(-1.0)))
    assert torch.allclose(contrast(one, one, torch.tensor(0.0), same), expected)
    same[0, 1] = same[1, 0] = True
    assert contrast(one, one, torch.tensor(0.0), same) < 1e-6
