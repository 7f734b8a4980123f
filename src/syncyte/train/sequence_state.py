"""Where the training of a sequence tower stands, kept after every epoch, so that a killed training goes on.

A file is named after everything that decides the training: another input finds none. Leaves out: the loop
(``sequences``), runs of other models (``checkpoint``).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from syncyte.atomic import atomic_file


def digest_of(*parts: object) -> str:
    """Short name of arrays and settings."""
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        plain = isinstance(part, np.ndarray) and part.dtype.kind != "O"
        found.update(np.ascontiguousarray(part).tobytes() if plain else repr(part).encode())
    return found.hexdigest()


def keep_state(path: Path | None, rng: np.random.Generator, **state: Any) -> None:
    """Write the states of everything that has one (``state_dict``), numbers, and both random generators."""
    if path is None:
        return
    whole = {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in state.items()}
    whole |= {"numpy": json.dumps(rng.bit_generator.state), "torch": torch.random.get_rng_state()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        torch.save(whole, partial)


def kept_state(
    path: Path | None, rng: np.random.Generator, numbers: Collection[str] = (), /, **state: Any
) -> dict[str, Any] | None:
    """Bring everything given back to where it was, with both generators; the rest is returned.

    None, and nothing changed, where nothing was kept, it cannot be read, lacks one of ``numbers``, or does not fit what
    is given.
    """
    if path is None or not path.is_file():
        return None
    before = {name: copy.deepcopy(value.state_dict()) for name, value in state.items()}
    drawn, random = copy.deepcopy(rng.bit_generator.state), torch.random.get_rng_state()
    try:
        whole = torch.load(path, weights_only=True)
        parts = {name: whole.pop(name) for name in state}
        ours, theirs = json.loads(whole.pop("numpy")), whole.pop("torch")
        if not set(numbers) <= set(whole) or not all(_fits(value, parts[name]) for name, value in state.items()):
            return None
    except Exception:  # a damaged file fails in many ways: the training begins anew
        return None
    try:
        for name, value in state.items():
            value.load_state_dict(parts[name])
        rng.bit_generator.state = ours
        torch.random.set_rng_state(theirs)
    except Exception:  # what fitted by names and shapes may still be refused
        for name, value in state.items():
            value.load_state_dict(before[name])
        rng.bit_generator.state = drawn
        torch.random.set_rng_state(random)
        return None
    return whole


def _fits(value: Any, part: Any) -> bool:
    """Whether a kept state has the names, and its tensors the shapes, of what it is put into."""
    own = value.state_dict()
    if not isinstance(part, dict) or set(part) != set(own):
        return False
    if isinstance(value, torch.optim.Optimizer):  # a new one has no tensors of its own: those of its parameters count
        given = [one for group in value.param_groups for one in group["params"]]
        return all(
            tensor.shape == given[number].shape
            for number, held in part["state"].items()
            for tensor in held.values()
            if isinstance(tensor, torch.Tensor) and tensor.ndim
        )
    return all(
        isinstance(part[name], torch.Tensor) and part[name].shape == tensor.shape
        for name, tensor in own.items()
        if isinstance(tensor, torch.Tensor)
    )
