"""What a stopped training needs to go on: tensors and a place. A kill at any moment leaves one that loads.

``RUN/state/state.json`` names the tensor file it belongs to and is replaced in one step; it is the mark of
completeness. The tensors go to a new file first, the older one is removed last. Left out: random number state
(every step seeds its own, see ``stage``) and the position of loaders (a pure function of epoch and step).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from syncyte.atomic import atomic_file
from syncyte.errors import CheckpointError

STATE_FORMAT = 1
MEND = "Start anew with --overwrite."


@dataclass
class Place:
    """Where training stands.

    Attributes
    ----------
    stage, step, offset
        Stage number, optimiser steps done in it, and those done in the stages before.
    precision, halvings
        What was settled for this stage: ``32`` or ``bf16``, and how often the minibatch was halved.
    validated
        Step of the last validation round, -1 before the first.
    start, best, best_step, bad_rounds
        Validation total at step 0 and at its best, the step of the best, and rounds since without improvement.
    skipped, streak, good_lr
        Steps skipped for a non-finite loss, how many of them in a row, and the learning rate of the last good step.
    cpu_seconds, wall_seconds
        Time spent in the whole training up to here.
    metrics_bytes
        Length of ``metrics.csv`` at this place.
    done
        Reports of the stages that are over.
    """

    stage: int = 0
    step: int = 0
    offset: int = 0
    precision: str = ""
    halvings: int = 0
    validated: int = -1
    start: float | None = None
    best: float | None = None
    best_step: int = 0
    bad_rounds: int = 0
    skipped: int = 0
    streak: int = 0
    good_lr: float | None = None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    metrics_bytes: int = 0
    done: list[dict[str, Any]] = field(default_factory=list)

    def next_stage(self) -> Place:
        """Place at the start of the stage after this one."""
        return Place(
            stage=self.stage + 1,
            offset=self.offset + self.step,
            cpu_seconds=self.cpu_seconds,
            wall_seconds=self.wall_seconds,
            metrics_bytes=self.metrics_bytes,
            done=self.done,
        )


def sha256(path: Path) -> str:
    """Fingerprint of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def save_state(run: Path, place: Place, tensors: Mapping[str, torch.Tensor], plan: Mapping[str, Any]) -> None:
    """Replace the saved state of a run; the previous one stays loadable until the new one is complete.

    Parameters
    ----------
    run
        RUN folder.
    place
        Where training stands.
    tensors
        Weights, best weights, averages and optimiser moments by name; copied to the CPU.
    plan
        What must be the same for a resumed run to be the same run (JSON).
    """
    from safetensors.torch import save_file

    folder = run / "state"
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(folder.glob("tensors-*.safetensors"))
    number = max((int(path.stem.rpartition("-")[2]) for path in old), default=0) + 1
    target = folder / f"tensors-{number:06d}.safetensors"
    with atomic_file(target) as tmp:
        # tensors that share memory are refused by the format, so every one is a copy
        save_file({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, tmp)
        digest = sha256(tmp)
    record = {"format": STATE_FORMAT, "tensors": target.name, "sha256": digest, "place": asdict(place), "plan": plan}
    with atomic_file(folder / "state.json") as tmp:
        tmp.write_text(json.dumps(record, indent=1), encoding="utf-8")
    for path in old:
        path.unlink(missing_ok=True)


def load_state(run: Path, plan: Mapping[str, Any]) -> tuple[Place, dict[str, torch.Tensor]] | None:
    """Read place and tensors (on the CPU) of a run, or None where nothing was saved yet.

    Raises
    ------
    CheckpointError
        If the state is damaged, of another version, or of a run with other settings.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = run / "state" / "state.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, tensors, digest = record["format"], path.with_name(record["tensors"]), record["sha256"]
        place = Place(**record["place"]) if found == STATE_FORMAT else Place()
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). {MEND}") from None
    if found != STATE_FORMAT:
        raise CheckpointError(f"{path} has format {found!r}; this syncyte resumes format {STATE_FORMAT}. {MEND}")
    _same_plan(record["plan"], json.loads(json.dumps(plan)))
    if not tensors.exists() or sha256(tensors) != digest:
        state = "damaged" if tensors.exists() else "missing"
        raise CheckpointError(f"{tensors} is {state}; training cannot go on from it. {MEND}")
    try:
        return place, load_file(tensors)
    except SafetensorError as error:
        raise CheckpointError(f"{tensors} cannot be read ({error}). {MEND}") from None


def drop_state(run: Path) -> None:
    """Remove the saved state; its mark of completeness goes first."""
    (run / "state" / "state.json").unlink(missing_ok=True)
    shutil.rmtree(run / "state", ignore_errors=True)


def _same_plan(saved: Any, asked: Any, path: str = "") -> None:
    """Refuse to resume with other settings, naming the first that differs."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        for key in dict.fromkeys([*saved, *asked]):
            _same_plan(saved.get(key), asked.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(saved, list) and isinstance(asked, list) and len(saved) == len(asked):
        for number, (left, right) in enumerate(zip(saved, asked, strict=True)):
            _same_plan(left, right, f"{path}[{number}]")
    elif saved != asked:
        raise CheckpointError(
            f"The run was started with {path} = {saved!r}; now it is {asked!r}. Resume with the settings of the start, "
            "or start anew with --overwrite."
        )
