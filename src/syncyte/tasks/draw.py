"""Draw latent coordinates from a trained flow under guidance, and counts from coordinates.

All randomness comes from a seed and the number of a block of cells, so that a block is the same whoever makes it and
when. The same seed under other conditions shares the noise: the cells are then counterfactuals of each other, cell by
cell. Leaves out: which conditions are asked for (``tasks.generate``, ``tasks.perturb``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from syncyte.config import Config
from syncyte.data.cells import Cells
from syncyte.errors import ConfigError, unknown
from syncyte.models.conditions import FEATURES, ConditionCoder
from syncyte.models.sets import SetModel, SetSpec
from syncyte.nn.flow import (
    EVALUATIONS,
    Solver,
    Term,
    additive,
    chain,
    guided,
    joint,
    referenced,
    solve,
    time_grid,
)
from syncyte.tasks.trained import Trained
from syncyte.types import Batch

BLOCK = 1_000  # cells drawn together: fixed, for the noise of a cell hangs on its block
TOGETHER = 125  # cells of a block that a transformer takes at once, on a CPU
ENTRIES = 20_000_000  # cells x features made at once
MOST_LOG_TOTAL = 16.0  # nine million counts: a cell beyond is a slip of the flow
Conditions = dict[str, Tensor]


class Sampling(Config):
    """How a flow is followed.

    Attributes
    ----------
    steps, solver, shift
        Steps, scheme and warping of time, see ``nn.flow``; eight steps of Heun were as good as a hundred.
    guidance
        Weight; 1 follows the condition as it was learned and costs one evaluation, above 1 sharpens and narrows.
    kind
        What is led away from: ``joint``, cells of which nothing is said; ``additive``, the same with each attribute by
        itself and all differences added up; ``chain``, cells of which all but one ``attribute`` is said;
        ``referenced``, cells of a reference condition, such as controls.
    attribute
        The one that ``chain`` sharpens; the last of the run by default.
    begin, end
        Times between which guidance acts.
    rescale
        How far the spread of guided velocities is brought back, 0 to 1.
    """

    steps: Annotated[int, Field(ge=1)] = 8
    solver: Solver = "heun"
    shift: Annotated[float, Field(gt=0)] = 1.0
    guidance: Annotated[float, Field(ge=0)] = 1.0
    kind: Literal["joint", "additive", "chain", "referenced"] = "joint"
    attribute: str = ""
    begin: Annotated[float, Field(ge=0, le=1)] = 0.0
    end: Annotated[float, Field(ge=0, le=1)] = 1.0
    rescale: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def evaluations(self) -> int:
        """Velocities asked for along one path (each over one or, guided, several conditions)."""
        return self.steps * EVALUATIONS[self.solver]


def generator_of(device: torch.device, *key: int) -> torch.Generator:
    """Generator whose numbers hang on all of the key."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


def coder_of(trained: Trained) -> ConditionCoder:
    """What the run knows of attributes."""
    spec: SetSpec = trained.model.spec
    features = {one.name: trained.arrays[f"features.{one.name}"] for one in spec.attributes if one.features}
    return ConditionCoder(spec.attributes, features)


def terms_of(condition: Conditions, null: Conditions, control: Conditions | None, how: Sampling) -> list[Term]:
    """Guided sum that the settings ask for.

    Raises
    ------
    ConfigError
        For ``referenced`` guidance without a reference.
    """
    if how.guidance == 1 and how.kind != "additive":
        return [Term(1.0, condition)]
    if how.kind == "referenced":
        if control is None:
            raise ConfigError(
                "Guidance of kind 'referenced' needs a reference condition (--reference KEY=VALUE), or another kind."
            )
        return referenced(condition, control, how.guidance)
    if how.kind == "joint":
        return joint(condition, null, how.guidance)
    groups = attribute_groups(condition)
    if how.kind == "additive":
        return additive(condition, null, dict.fromkeys(groups.values(), how.guidance))
    last = how.attribute or next(reversed(groups))
    if last not in groups:
        raise ConfigError(unknown("attribute of this run", last, groups))
    rest = [names for name, names in groups.items() if name != last]
    return chain(condition, null, [*rest, groups[last]], [*([1.0] * len(rest)), how.guidance])


def attribute_groups(condition: Conditions) -> dict[str, tuple[str, ...]]:
    """Conditions by attribute: a category and its feature vector are one."""
    groups: dict[str, tuple[str, ...]] = {}
    for name in condition:
        stem = name.removesuffix(FEATURES)
        groups[stem] = (*groups.get(stem, ()), name)
    return groups


@torch.inference_mode()
def follow(
    model: SetModel,
    state: Tensor,
    condition: Conditions,
    how: Sampling,
    *,
    control: Conditions | None = None,
    backward: bool = False,
    start: float = 0.0,
) -> Tensor:
    """End of the path from ``state`` (standardised): data from noise, or noise from data ``backward``.

    ``start`` is the time at which ``state`` lies on the way to data.
    """
    if model.flow.tokens and state.device.type == "cpu" and len(state) > TOGETHER:
        parts = []
        for first in range(0, len(state), TOGETHER):
            some = slice(first, first + TOGETHER)
            known = {name: values[some] for name, values in condition.items()}
            other = None if control is None else {name: values[some] for name, values in control.items()}
            parts.append(follow(model, state[some], known, how, control=other, backward=backward, start=start))
        return torch.cat(parts)
    null = model.flow.conditions.nothing(len(state), state.device)
    condition = {**null, **condition}  # what is not given is not said
    control = None if control is None else {**null, **control}
    terms = terms_of(condition, null, control, how)
    field = guided(model.flow, terms, condition, interval=(how.begin, how.end), rescale=how.rescale)
    times = start + (1 - start) * time_grid(how.steps, how.shift)
    return solve(field, state, times.flip(0) if backward else times, how.solver)


def draw_points(
    trained: Trained,
    arrays: Mapping[str, NDArray],
    how: Sampling,
    key: tuple[int, ...],
    *,
    cells: int,
    control: Mapping[str, NDArray] | None = None,
) -> NDArray[np.float32]:
    """``(cells, z + 1)`` codes and log totals of new cells with given attributes (see ``ConditionCoder.arrays``).

    Parameters
    ----------
    key
        Of the noise: seed, block, ...
    control
        Attributes of the reference, for ``referenced`` guidance.
    """
    model, device = trained.model, trained.device
    coder = coder_of(trained)
    condition = coder.tensors(arrays, device)
    other = None if control is None else coder.tensors(control, device)
    noise = torch.randn(cells, model.flow.coordinates, generator=generator_of(device, *key), device=device)
    return model.flow.restore(follow(model, noise, condition, how, control=other)).cpu().numpy()


@torch.inference_mode()
def draw_counts(trained: Trained, points: NDArray[np.float32], key: tuple[int, ...]) -> sp.csr_matrix:
    """``(n, f)`` int32 counts of cells with the given codes and log totals."""
    model, device = trained.model, trained.device
    generator = generator_of(device, *key)
    blocks = []
    for rows in np.array_split(np.arange(len(points)), max(1, -(-len(points) * model.spec.features // ENTRIES))):
        some = torch.from_numpy(np.ascontiguousarray(points[rows])).to(device)
        counts = model.draw(some[:, :-1], some[:, -1].clamp_max(MOST_LOG_TOTAL), generator).cpu().numpy()
        blocks.append(sp.csr_matrix(counts.astype(np.int32)))
    return sp.vstack(blocks, format="csr")


@torch.inference_mode()
def expected_counts(
    trained: Trained, points: NDArray[np.float32], features: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """``(n, f)`` expected counts of cells with the given codes and log totals."""
    model, device = trained.model, trained.device
    columns = None if features is None else torch.from_numpy(features).to(device)
    some = torch.from_numpy(np.ascontiguousarray(points)).to(device)
    share = model.log_shares(some[:, :-1], columns)
    return (share + some[:, -1:]).exp().cpu().numpy()


def encode_points(trained: Trained, cells: Cells, key: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    """``(n, z + 1)`` codes and log totals of aligned cells: posterior samples with a ``key``, else means."""
    found = np.empty((len(cells), trained.model.components + 1), dtype=np.float32)
    first = 0
    for block in trained.each(cells, partial(_encode, key=key)):
        found[first : first + len(block)] = block
        first += len(block)
    return found


def _encode(trained: Trained, batch: Batch, *, key: tuple[int, ...] | None) -> NDArray[np.float32]:
    model = trained.model
    mean, log_sd, total = model.encoder(batch.tokens[model.names[0]])
    if key is not None:
        generator = generator_of(trained.device, *key, int(batch.rows[0]))
        mean = mean + log_sd.exp() * torch.randn(mean.shape, generator=generator, device=trained.device)
    return torch.cat([mean, total.clamp_min(1).log()[:, None]], dim=1).cpu().numpy()
