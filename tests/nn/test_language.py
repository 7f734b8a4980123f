"""Networks of cells and words: padding says nothing, spelling counts at once, no place sees what follows it."""

from __future__ import annotations

import pytest
import torch

from syncyte.nn.language import PAD, Bridge, Matcher, Speaker, TextReader, likeness

B, L = 3, 7


def reader() -> TextReader:
    torch.manual_seed(0)
    return TextReader(30, 50, length=12, width=16, layers=2, heads=2, shared=24).double().eval()


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pieces, grams = torch.randint(1, 30, (B, L), generator=generator), torch.randint(1, 50, (B, 5), generator=generator)
    pieces[0, 4:] = PAD
    grams[0, 3:] = PAD
    return pieces, grams


def test_padding_does_not_change_a_text():
    model, (pieces, grams) = reader(), texts()
    wanted = model(pieces, grams)
    wider = torch.nn.functional.pad(pieces, (0, 3)), torch.nn.functional.pad(grams, (0, 4))
    assert torch.allclose(model(*wider), wanted, atol=1e-12)
    assert torch.allclose(model(pieces[:1, :4], grams[:1, :3]), wanted[:1], atol=1e-12)
    assert torch.allclose(wanted.norm(dim=1), torch.ones(B, dtype=torch.float64))


def test_a_text_without_anything_is_finite():
    empty = torch.zeros(2, 5, dtype=torch.long)
    assert reader()(empty, empty).isfinite().all()


def test_texts_that_share_grams_are_alike_before_anything_is_learned():
    model = reader()
    pieces = torch.randint(1, 30, (3, L), generator=torch.Generator().manual_seed(2))
    grams = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 9], [11, 12, 13, 14]])
    found = model(pieces, grams)
    assert found[0] @ found[1] > found[0] @ found[2]


def test_the_bridge_reads_a_set_of_valid_tokens():
    torch.manual_seed(0)
    bridge = Bridge(6, queries=4, width=16, heads=2, layers=1, shared=24).double().eval()
    tokens, valid = torch.randn(B, 9, 6, dtype=torch.float64), torch.ones(B, 9, dtype=torch.bool)
    valid[:, 7:] = False
    states, vectors = bridge(tokens, valid)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    other = torch.cat([tokens[:, order], 99 * torch.randn(B, 2, 6, dtype=torch.float64)], dim=1)
    again = bridge(other, valid)
    assert torch.allclose(again[0], states, atol=1e-10) and torch.allclose(again[1], vectors, atol=1e-10)
    assert states.shape == (B, 4, 16) and torch.allclose(vectors.norm(dim=2), torch.ones(B, 4, dtype=torch.float64))


def test_likeness_is_half_the_best_and_half_the_mean():
    cells = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    found = likeness(cells, torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    torch.testing.assert_close(found, torch.tensor([[0.5 * (1 + 0.5), 0.5 * (0.8 + 0.7)]]))


@pytest.mark.parametrize("place", range(1, L))
def test_no_place_sees_what_follows_it(place):
    torch.manual_seed(0)
    speaker = Speaker(20, length=L, inward=6, width=16, layers=2, heads=2).double().eval()
    prefix = torch.randn(2, 3, 6, dtype=torch.float64)
    pieces = torch.randint(1, 20, (2, L), generator=torch.Generator().manual_seed(4))
    other = pieces.clone()
    other[:, place:] = (other[:, place:] + 1) % 20
    first, second = speaker(prefix, pieces), speaker(prefix, other)
    assert torch.equal(first[:, :place], second[:, :place]) and not torch.allclose(first[:, place], second[:, place])
    assert not torch.allclose(speaker(prefix + 1, pieces)[:, 0], first[:, 0])  # the cell is seen from the first place


def test_the_matcher_reads_the_query_that_fits():
    torch.manual_seed(0)
    matcher = Matcher(8, 16).double().eval()
    text = torch.nn.functional.normalize(torch.randn(1, 8, dtype=torch.float64), dim=1)
    others = torch.nn.functional.normalize(torch.randn(1, 3, 8, dtype=torch.float64), dim=2)
    alone = matcher(text[:, None], text)
    among = matcher(torch.cat([20 * text[:, None], others], dim=1)[:, [2, 0, 1, 3]], text)
    assert alone.shape == (1,) and torch.isfinite(among).all()
    order = matcher(others, text), matcher(others[:, [2, 0, 1]], text)
    torch.testing.assert_close(*order)
