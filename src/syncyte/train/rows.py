"""Steps and norms of tables that are trained by touched rows.

A row-wise Adagrad (one number a row instead of two moments a weight; Duchi et al. 2011 for the idea) leaves the other
rows as they are. Steps are relative to the size of the table's entries, so one learning rate serves all tables. Left
out: weight decay and running averages, which would touch every row, and clipping, to which Adagrad is blind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from syncyte.nn.rows import by_rows


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW for ordinary parameters, row-wise Adagrad for those marked by ``nn.rows.mark_rows``."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if by_rows(parameter) and parameter.grad is not None:
                    self._step_rows(parameter, group["lr"])
                    parameter.grad = None  # AdamW passes over it
        return super().step(closure)

    def _step_rows(self, table: Tensor, lr: float) -> None:
        state = self.state[table]
        if not state:
            state["row_sum"] = torch.zeros(len(table), device=table.device)
            state["row_size"] = table.square().mean().sqrt().clamp_min(1e-12)
        grad = table.grad
        assert grad is not None
        if grad.is_sparse:
            grad = grad.coalesce()
            rows, values = grad.indices()[0], grad.values()
        else:
            rows = grad.any(dim=1).nonzero()[:, 0]
            values = grad[rows]
        total = state["row_sum"].index_add_(0, rows, values.square().mean(dim=1))[rows]
        step = values * (lr * state["row_size"] / total.sqrt().clamp_min(1e-12))[:, None]
        table.index_add_(0, rows, step, alpha=-1.0)


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Clip the joint norm of ordinary gradients, and give the norm of all of them (not finite if any is not)."""
    ordinary: list[nn.Parameter] = []
    rows: list[nn.Parameter] = []
    for parameter in parameters:
        (rows if by_rows(parameter) and parameter.grad is not None else ordinary).append(parameter)
    norm = nn.utils.clip_grad_norm_(ordinary, most or math.inf)
    for parameter in rows:
        grad = parameter.grad
        assert grad is not None
        values = grad.coalesce().values() if grad.is_sparse else grad
        norm = torch.hypot(norm, values.norm().to(norm))
    return norm
