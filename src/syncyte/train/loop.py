"""Training from first to last stage: ``fit``.

``fit`` changes the model and the objectives in place, keeps the curves and a resumable state in the RUN folder, and
returns a report; writing the checkpoint is ``checkpoint.save_checkpoint``, called by whoever knows the recipe.
A resumed run takes the same minibatches and random numbers as an undisturbed one; on a CPU its losses agree bit for
bit.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from syncyte.errors import CheckpointError
from syncyte.train.distributed import Worker, start_worker
from syncyte.train.folder import is_finished
from syncyte.train.logs import EVENTS, Clock, Curves
from syncyte.train.optim import only_trainable
from syncyte.train.plan import MakeLoader, StageConfig, StageModule, check_stages
from syncyte.train.progress import Progress, Show
from syncyte.train.stage import Session, StageReport, StageRun, Stopped
from syncyte.train.state import Place, drop_state, load_state

Objectives = Mapping[str, Mapping[str, nn.Module]]


@dataclass(frozen=True)
class FitReport:
    """What ``fit`` did.

    Attributes
    ----------
    finished
        The run was finished before; nothing was done and the model is as it was handed in: load the checkpoint.
    resumed
        Training went on from a saved state.
    stages
        One report for each stage that was active, those before an interruption included.
    cpu_seconds, wall_seconds
        Time of the whole training, in this process.
    """

    finished: bool
    resumed: bool
    stages: tuple[StageReport, ...]
    cpu_seconds: float
    wall_seconds: float


def fit(
    model: nn.Module,
    stages: Sequence[StageConfig],
    *,
    run: Path,
    make_loader: MakeLoader,
    objectives: Objectives,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    quiet: bool = False,
    on_stage_end: Callable[[StageReport], None] | None = None,
    save_every_seconds: float = 30.0,
    worker: Worker | None = None,
) -> FitReport:
    """Train a model through its stages.

    Parameters
    ----------
    model
        Trained in place; left on the worker's device, in evaluation mode, with the best weights of the last stage.
    stages
        The plan; stages that are switched off are passed over.
    run
        RUN folder (see ``folder.prepare_run``).
    make_loader, device
        See ``plan.MakeLoader`` and ``distributed.start_worker``.
    objectives
        By stage name and objective name; changed in place where they own parameters.
    seed
        Of everything random here, 0 or more.
    resume
        Go on from the saved state of ``run``; where there is none, start anew.
    quiet
        Show warnings only.
    on_stage_end
        Called in every process after a stage, with its report.
    save_every_seconds
        Interval at which the state is saved; a tenth of it at the end of an epoch; always at the end of a stage.
    worker
        The process, where the caller has started it already.

    Raises
    ------
    KeyboardInterrupt
        After SIGINT or SIGTERM: the step is finished and the state is saved.
    ConfigError, CheckpointError, DataError, SyncyteError
        A plan that cannot run, a state that does not fit, missing cells, losses that are not finite, no memory.
    """
    run = Path(run)
    if resume and is_finished(run):
        return FitReport(finished=True, resumed=False, stages=(), cpu_seconds=0.0, wall_seconds=0.0)
    check_stages(stages, objectives, [name for name, _ in model.named_parameters()])
    worker = worker or start_worker(device)
    show: Show = "nothing" if worker.rank else "warnings" if quiet else "all"
    progress = Progress(_lengths(stages, make_loader, worker), show)
    plan = {"seed": seed, "processes": worker.world, "stages": [stage.model_dump(mode="json") for stage in stages]}
    weights = partial(_weights, model, objectives)
    session = Session(run, worker, make_loader, weights, plan, seed, save_every_seconds, progress)
    return _train(session, model, stages, objectives, resume, on_stage_end)


def _train(
    session: Session,
    model: nn.Module,
    stages: Sequence[StageConfig],
    objectives: Objectives,
    resume: bool,
    on_stage_end: Callable[[StageReport], None] | None,
) -> FitReport:
    """Run the stages from where the state says, with signals and random numbers under control."""
    worker = session.worker
    place, tensors = _start(session, model, objectives, resume)
    clock = session.clock = Clock(place.cpu_seconds, place.wall_seconds)
    step = place.offset + place.step
    session.curves = Curves(session.run if worker.rank == 0 else None, clock, place.metrics_bytes, step)
    devices = [worker.device] if worker.device.type == "cuda" else []
    resumed = bool(tensors)
    try:
        with torch.random.fork_rng(devices=devices), session.interrupt, session.progress:
            place = _run_stages(session, model, stages, objectives, place, tensors, on_stage_end)
    finally:
        session.curves.close()
    if session.interrupt.asked:  # came after the last step
        raise KeyboardInterrupt(f"Stopped after the last stage; write the checkpoint of {session.run} with --resume.")
    model.eval()
    return FitReport(False, resumed, tuple(StageReport(**report) for report in place.done), clock.cpu, clock.wall)


def _run_stages(
    session: Session,
    model: nn.Module,
    stages: Sequence[StageConfig],
    objectives: Objectives,
    place: Place,
    tensors: Mapping[str, torch.Tensor],
    on_stage_end: Callable[[StageReport], None] | None,
) -> Place:
    """Run what is left of the stages; the place behind the last one."""
    while place.stage < len(stages):
        stage = stages[place.stage]
        if not stage.active:
            place = place.next_stage()
            continue
        module = StageModule(model, objectives[stage.name], stage.objectives)
        with only_trainable(module, stage) as parameters:
            runner = StageRun(session, stage, module, parameters, place, tensors)
            try:
                report = runner.run()
            except Stopped:
                raise KeyboardInterrupt(
                    f"Stopped in stage {stage.name!r} after step {place.step}; everything up to there is kept in "
                    f"{session.run}. Go on with the same command and --resume."
                ) from None
        if on_stage_end is not None:
            on_stage_end(report)
        place.done.append(asdict(report))
        place, tensors = place.next_stage(), {}
        session.save(place, {})
        session.worker.barrier()
    return place


def _start(
    session: Session, model: nn.Module, objectives: Objectives, resume: bool
) -> tuple[Place, dict[str, torch.Tensor]]:
    """Place and tensors to go on from, with the weights loaded; the beginning where nothing was saved."""
    run, worker = session.run, session.worker
    state = load_state(run, session.plan) if resume else None
    worker.barrier()  # nobody may replace the state before all have read it
    if state is None:
        if worker.rank == 0:
            run.mkdir(parents=True, exist_ok=True)
            drop_state(run)
            shutil.rmtree(run / EVENTS, ignore_errors=True)
        return Place(), {}
    place, tensors = state
    for prefix, module in _modules(model, objectives).items():
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"The state saved in {run} does not fit the model: {error}. Resume with the model that was being "
                "trained, or start anew with --overwrite."
            ) from None
    return place, tensors


def _modules(model: nn.Module, objectives: Objectives) -> dict[str, nn.Module]:
    owned = {
        f"objectives/{stage}/{name}/": objective
        for stage, items in objectives.items()
        for name, objective in items.items()
    }
    return {"model/": model, **owned}


def _weights(model: nn.Module, objectives: Objectives) -> dict[str, torch.Tensor]:
    modules = _modules(model, objectives)
    return {prefix + name: tensor for prefix, module in modules.items() for name, tensor in module.state_dict().items()}


def _lengths(stages: Sequence[StageConfig], make_loader: MakeLoader, worker: Worker) -> list[tuple[str, int]]:
    """Optimiser steps of every stage, for the time left."""
    lengths = []
    for stage in stages:
        loader = make_loader(stage, "train", worker.rank, worker.world) if stage.active else None
        steps = math.ceil(len(loader) / stage.accumulate) if loader is not None else 0
        lengths.append((stage.name, max(1, round(stage.epochs * steps)) if loader is not None else 0))
    return lengths
