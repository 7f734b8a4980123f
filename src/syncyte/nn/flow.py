"""Flow matching on a linear path: times, targets, guidance and solvers. Tensors only; the network is the caller's.

A network ``v(z, t, condition)`` learns the velocity ``data - noise`` at ``z = (1 - t) noise + t data`` (Lipman et al.
2023; Liu et al. 2023); integrating it from noise at 0 to 1 makes data. Guidance of every kind is a weighted sum of
velocities under different conditions whose weights add up to one (``Term``), so one function serves all: conditions
that count are run as one larger minibatch, those of weight zero are not run.

Traps: guidance above 1 narrows what is made (print its diversity beside it); a solver's step is several evaluations.
Leaves out: what a condition means (``nn.denoise``), and moving averages of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from syncyte.errors import ConfigError, unknown

Condition = Mapping[str, Tensor]  # by attribute, one row a cell
Names = str | tuple[str, ...]  # conditions that say one attribute
Velocity = Callable[[Tensor, Tensor, Condition], Tensor]
Field = Callable[[Tensor, Tensor], Tensor]  # of a state and the time of every cell
Solver = Literal["euler", "midpoint", "heun"]
EVALUATIONS: dict[Solver, int] = {"euler": 1, "midpoint": 2, "heun": 2}


@dataclass(frozen=True)
class Term:
    """One velocity of a guided sum."""

    weight: float
    condition: Condition


def stratified_times(count: int, generator: torch.Generator | None = None) -> Float[Tensor, "b"]:
    """One time from each of ``count`` equal pieces of [0, 1], in random order: less noise than independent draws."""
    device = None if generator is None else generator.device
    order = torch.randperm(count, generator=generator, device=device)
    return (order + torch.rand(count, generator=generator, device=device)) / count


def path(noise: Float[Tensor, "b *d"], data: Float[Tensor, "b *d"], time: Float[Tensor, "b"]) -> tuple[Tensor, Tensor]:
    """State at ``time``, and the velocity there."""
    t = time.view(-1, *[1] * (data.ndim - 1))
    return (1 - t) * noise + t * data, data - noise


def ends(
    state: Float[Tensor, "b *d"], velocity: Float[Tensor, "b *d"], time: Float[Tensor, "b"]
) -> tuple[Tensor, Tensor]:
    """Noise and data that a velocity at a state points back and forward to."""
    t = time.view(-1, *[1] * (state.ndim - 1))
    return state - t * velocity, state + (1 - t) * velocity


def time_grid(steps: int, shift: float = 1.0) -> Float[Tensor, "s"]:
    """``steps + 1`` times from 0 to 1, ``t' = s t / (1 + (s - 1) t)``.

    A shift below 1 makes the steps near the noise small, above 1 those near the data.
    """
    if steps < 1 or shift <= 0:
        raise ConfigError(f"A path needs at least one step and a shift above 0; found {steps} steps, shift {shift:g}.")
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).float()


def solve(field: Field, start: Float[Tensor, "b *d"], times: Float[Tensor, "s"], solver: Solver = "heun") -> Tensor:
    """State at the last of the times, from ``start`` at the first.

    Parameters
    ----------
    field
        Velocity at a state and the time of each cell.
    solver
        ``euler`` (first order), ``midpoint`` or ``heun`` (second); ``EVALUATIONS`` says how often a step asks.
    """
    if solver not in EVALUATIONS:
        raise ConfigError(unknown("solver", solver, tuple(EVALUATIONS)))
    state = start
    for begin, end in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        step = end - begin
        first = field(state, state.new_full((len(state),), begin))
        if solver == "euler":
            state = state + step * first
        elif solver == "midpoint":
            half = state.new_full((len(state),), begin + step / 2)
            state = state + step * field(state + step / 2 * first, half)
        else:
            second = field(state + step * first, state.new_full((len(state),), end))
            state = state + step / 2 * (first + second)
    return state


def joint(condition: Condition, null: Condition, weight: float) -> list[Term]:
    """``v_0 + w (v_y - v_0)``, all attributes together (Ho and Salimans 2022)."""
    return [Term(weight, condition), Term(1 - weight, null)]


def additive(condition: Condition, null: Condition, weights: Mapping[Names, float]) -> list[Term]:
    """``v_0 + sum_j w_j (v_j - v_0)``: one attribute (of one or several conditions) at a time."""
    alone = [Term(weight, _said(condition, null, [names])) for names, weight in weights.items()]
    return [*alone, Term(1 - sum(weights.values()), null)]


def chain(condition: Condition, null: Condition, order: Sequence[Names], weights: Sequence[float]) -> list[Term]:
    """``v_0 + w_1 (v_a - v_0) + w_2 (v_ab - v_a) + ...``: attributes in turn, such as context, perturbation."""
    steps = [_said(condition, null, order[:number]) for number in range(len(order) + 1)]
    heights = [1.0, *weights, 0.0]
    return [Term(heights[n] - heights[n + 1], given) for n, given in enumerate(steps)]


def _said(condition: Condition, null: Condition, order: Sequence[Names]) -> dict[str, Tensor]:
    """The null condition with some attributes said."""
    names = [name for one in order for name in ((one,) if isinstance(one, str) else one)]
    return {**null, **{name: condition[name] for name in names}}


def referenced(condition: Condition, control: Condition, weight: float) -> list[Term]:
    """``v_c + w (v_p - v_c)``: away from control cells of the same context."""
    return [Term(weight, condition), Term(1 - weight, control)]


def guided(
    velocity: Velocity,
    terms: Sequence[Term],
    plain: Condition,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Field:
    """Velocity field of a weighted sum of conditions.

    Parameters
    ----------
    terms
        Weights add up to one. Terms of weight zero are not run; the others are run as one minibatch.
    plain
        Condition whose velocity alone counts outside the ``interval`` of times (Kynkaanniemi et al. 2024).
    rescale
        Share by which the spread of each cell's guided velocity is brought back to that of the plain one, 0 to 1
        (Lin et al. 2024).
    """
    total = sum(term.weight for term in terms)
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"The weights of guidance add up to {total:g}, and should to 1.")
    kept = [term for term in terms if abs(term.weight) > 1e-12]

    def field(state: Tensor, time: Tensor) -> Tensor:
        """Guided velocity; all cells of a call stand at the same time."""
        if not interval[0] <= float(time[0]) <= interval[1]:
            return velocity(state, time, plain)
        found = _together(velocity, [term.condition for term in kept], state, time)
        sum_ = sum(term.weight * part for term, part in zip(kept, found, strict=True))
        assert isinstance(sum_, Tensor)
        if rescale == 0 or len(kept) == 1:
            return sum_
        usual = next((part for term, part in zip(kept, found, strict=True) if term.condition is plain), None)
        usual = velocity(state, time, plain) if usual is None else usual
        axes = tuple(range(1, sum_.ndim))
        ratio = usual.std(dim=axes, keepdim=True) / sum_.std(dim=axes, keepdim=True).clamp_min(1e-12)
        return sum_ * (rescale * ratio + 1 - rescale)

    return field


def _together(velocity: Velocity, conditions: Sequence[Condition], state: Tensor, time: Tensor) -> tuple[Tensor, ...]:
    """Velocities under several conditions, from one call."""
    count = len(conditions)
    if count == 1:
        return (velocity(state, time, conditions[0]),)
    given = {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}
    return velocity(state.repeat(count, *[1] * (state.ndim - 1)), time.repeat(count), given).chunk(count)
