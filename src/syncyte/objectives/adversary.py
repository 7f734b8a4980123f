"""An adversary that reads technical batches off a code, and the code's reward for fooling it.

One loss trains both: a gradient-reversal layer (Ganin & Lempitsky, ICML 2015) hands the encoder the adversary's
gradient with its sign turned. Leaves out: scheduling of its weight, which belongs to whoever trains.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, weight: float) -> Tensor:
        context.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.weight * gradient, None


def reverse(values: Tensor, weight: float = 1.0) -> Tensor:
    """The values themselves; their gradient comes back times ``-weight``."""
    return _Reverse.apply(values, weight)


class BatchAdversary(nn.Module):
    """Classifier of technical batches on a reversed code.

    Parameters
    ----------
    code
        Width of the code.
    batches
        Number of technical batches.
    """

    def __init__(self, code: int, batches: int, hidden: int = 64) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, batches))

    def forward(self, code: Float[Tensor, "b z"], codes: Int[Tensor, "b"], weight: float) -> Tensor:
        """Mean cross-entropy over cells of known batch; the encoder feels it reversed, times ``weight``."""
        known = codes >= 0
        if not bool(known.any()):
            return code.sum() * 0.0
        return F.cross_entropy(self.classifier(reverse(code[known], weight)), codes[known])
