"""Adapter from one vector of a token (whatever it was made of) to the space that a model's tokens live in.

Dynamic token adaptation (Zhao et al., arXiv 2504.13049): the token of a gene is computed from a vector of it instead of
being looked up. Here a ridge regression onto the static tokens is the start, a small network (zero at first) is added
to it, and a gate says how far the static token is replaced. Where a token stands and how far another vector moves it
are two things: the gate decides the first, and a move is the adapter's whole step. Else a gate that trusts the static
table would make every change small. While the adapter learns, it stands in for half of the tokens, drawn anew at every
step; the gate is set afterwards, on cells held out. Knows neither sequences nor cells. Widths, the gate and the start
are our choice: the published text does not state them.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

AdapterMode = Literal["residual", "replace", "static"]
GATE = 0.5  # share of the adapted token at first, in mode residual
TAUGHT = 0.5  # share of tokens that are the adapted ones alone in a step of training


class TokenAdapter(nn.Module):
    """Adapted tokens of given vectors.

    Parameters
    ----------
    inputs, width
        Lengths of a vector and of a token.
    hidden
        Width of the network added to the linear start; 0 leaves it out.
    mode
        ``residual`` (a gate between static and adapted token), ``replace`` (the adapted one alone, as in the
        publication) or ``static`` (the baseline: vectors are ignored).
    match
        Bring adapted tokens to the mean length of the static ones.
    """

    mean: Tensor
    scale: Tensor
    factor: Tensor
    gate: Tensor

    def __init__(
        self, inputs: int, width: int, *, hidden: int, mode: AdapterMode, match: bool, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.mode, self.match = mode, match
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("factor", torch.ones(()))
        self.linear = nn.Linear(inputs, width)
        self.network: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.network = nn.Sequential(
                nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), last
            )
        self.register_buffer("gate", torch.zeros(()))
        self.set_share(GATE)

    def set_share(self, share: float) -> None:
        """Set the gate."""
        with torch.no_grad():
            self.gate.fill_(math.log(share / (1 - share)))

    @property
    def share(self) -> Tensor:
        """Share of the adapted token: 1 in mode ``replace``, 0 in ``static``, the gate otherwise."""
        fixed = {"replace": 1.0, "static": 0.0}
        return torch.full_like(self.gate, fixed[self.mode]) if self.mode in fixed else self.gate.sigmoid()

    def forward(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n w"]:
        """Adapted tokens, not yet mixed with static ones."""
        scaled = (vectors - self.mean) / self.scale
        adapted = self.linear(scaled)
        if self.network is not None:
            adapted = adapted + self.network(scaled)
        return adapted * self.factor

    def tokens(
        self, static: Float[Tensor, "n w"], vectors: Float[Tensor, "n d"], covered: Bool[Tensor, "n"] | None = None
    ) -> Float[Tensor, "n w"]:
        """Tokens that the model reads: a mixture of both, the static one where there is no vector (``covered``)."""
        if self.mode == "static":
            return static
        share = self.share
        if self.training and self.mode == "residual":
            share = (torch.rand(len(static), 1, device=static.device) < TAUGHT).to(static)
        mixed = torch.lerp(static, self(vectors), share)
        return mixed if covered is None else torch.where(covered[:, None], mixed, static)

    def moved(self, before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> Float[Tensor, "n w"]:
        """How far another vector moves a token; nowhere in mode ``static``."""
        step = self(after) - self(before)
        return torch.zeros_like(step) if self.mode == "static" else step


PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 1e4, 1e5)
WEIGHTS = (0.0, 0.1, 0.3, 1.0)


def fit_adapter(
    adapter: TokenAdapter,
    vectors: NDArray[np.float32],
    tokens: NDArray[np.float32],
    groups: NDArray,
    blocks: NDArray[np.int64],
) -> dict[str, Any]:
    """Start the adapter by ridge regression of static tokens on vectors.

    The penalty, and how much each block of a vector counts beside the others, are chosen on groups left out: a few
    outputs of a model may say more than hundreds of its features, and one penalty for both would drown them.

    Parameters
    ----------
    vectors, tokens
        ``(n, d)`` and ``(n, w)`` of what has both.
    groups
        ``(n,)`` what is left out together (chromosomes).
    blocks
        ``(d,)`` block of every number of a vector.

    Returns
    -------
    dict
        ``penalty``, ``weights`` (of the blocks, in order), ``scale (d,)`` that numbers were divided by.
    """
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    y = tokens.astype(np.float64)
    names = np.unique(blocks)
    chosen = dict.fromkeys(names.tolist(), 1.0)
    best, penalty = _left_out((vectors - mean) / spread, y, groups)
    for _ in range(2):
        for name in names if len(names) > 1 else ():
            for weight in WEIGHTS:
                tried = {**chosen, name: weight}
                if tried == chosen or not any(tried.values()):
                    continue
                loss, at = _left_out((vectors - mean) / spread * _by_block(tried, blocks), y, groups)
                if loss < best * (1 - 1e-4):
                    best, penalty, chosen = loss, at, tried
    scale = (spread / np.maximum(_by_block(chosen, blocks), 1e-9)).astype(np.float32)
    weights = _ridges((vectors - mean) / scale, y - y.mean(axis=0), (penalty,))[penalty]
    with torch.no_grad():
        adapter.mean.copy_(torch.from_numpy(mean))
        adapter.scale.copy_(torch.from_numpy(scale))
        adapter.linear.weight.copy_(torch.from_numpy(weights.T.astype(np.float32)))
        adapter.linear.bias.copy_(torch.from_numpy(y.mean(axis=0).astype(np.float32)))
        if adapter.match:  # a number fixed here: a token must not depend on which others are computed beside it
            adapted = adapter(torch.from_numpy(vectors)).numpy()
            adapter.factor.fill_(float(np.linalg.norm(y, axis=1).mean() / np.linalg.norm(adapted, axis=1).mean()))
    return {"penalty": penalty, "weights": [chosen[name] for name in names.tolist()], "scale": scale}


def _by_block(weights: dict[int, float], blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([weights[block] for block in blocks.tolist()])


def _left_out(x: NDArray, y: NDArray, groups: NDArray) -> tuple[float, float]:
    """Smallest squared error in groups left out, and the penalty that gives it."""
    losses = dict.fromkeys(PENALTIES, 0.0)
    names = np.random.default_rng(0).permutation(np.unique(groups))
    for part in np.array_split(names, min(5, len(names))):
        held = np.isin(groups, part)
        middle = y[~held].mean(axis=0)
        for penalty, weights in _ridges(x[~held], y[~held] - middle, PENALTIES).items():
            losses[penalty] += float(((x[held] @ weights + middle - y[held]) ** 2).sum())
    best = min(losses, key=losses.__getitem__)
    return losses[best], best


def _ridges(
    x: NDArray[np.float64], y: NDArray[np.float64], penalties: tuple[float, ...]
) -> dict[float, NDArray[np.float64]]:
    gram, right = x.T @ x, x.T @ y
    return {penalty: np.linalg.solve(gram + penalty * np.eye(len(gram)), right).astype(float) for penalty in penalties}
