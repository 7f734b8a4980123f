"""Where the training of a sequence tower stands, kept after every epoch, so that a killed training goes on.

A file is named after everything that decides the training: another input finds none. Leaves out: the loop
(``sequences``), runs of other models (``checkpoint``).
"""

from __future__ import annotations

import hashlib
import json
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


def kept_state(path: Path | None, rng: np.random.Generator, **state: Any) -> dict[str, Any] | None:
    """Bring everything given back to where it was, with both generators; the rest is returned.

    None, and nothing changed, where nothing was kept or it cannot be read.
    """
    if path is None or not path.is_file():
        return None
    try:
        whole = torch.load(path, weights_only=True)
    except Exception:  # a damaged file fails in many ways: the training begins anew
        return None
    for name, value in state.items():
        value.load_state_dict(whole.pop(name))
    rng.bit_generator.state = json.loads(whole.pop("numpy"))
    torch.random.set_rng_state(whole.pop("torch"))
    return whole
