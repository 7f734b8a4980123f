"""Tables of a million rows: looked up with sparse gradients, so that a step costs what its minibatch touches.

Leaves out: how touched rows are stepped (``train.rows``).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

MARK = "by_rows"  # attribute of a parameter that is trained by touched rows


def mark_rows(parameter: nn.Parameter) -> None:
    """Say that a table is to be trained by touched rows."""
    setattr(parameter, MARK, True)


def by_rows(parameter: Tensor) -> bool:
    """Whether a parameter is trained by touched rows."""
    return bool(getattr(parameter, MARK, False))


def sparse_gradient(table: Tensor) -> bool:
    """Whether lookups should give sparse gradients: not among several processes, whose reducer wants dense ones."""
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return alone and by_rows(table) and table.requires_grad


def lookup(table: Float[Tensor, "f k"], index: Int[Tensor, "e"]) -> Float[Tensor, "e k"]:
    """Rows of a table by number."""
    return F.embedding(index, table, sparse=sparse_gradient(table))
