"""One training phase from its first step to its best weights.

The loop is explicit so that it can stop and go on at any minibatch: everything random is seeded anew for each step from
(seed, stage, step, process), the schedule is a function of the step, and all the rest is in ``Place`` and tensors. Left
out: the order of stages and what is on disk before and after (``loop``).
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from syncyte.errors import DataError, SyncyteError
from syncyte.train.distributed import Worker, choose_precision
from syncyte.train.logs import Clock, Curves, Tally
from syncyte.train.minibatch import Feed, halved, out_of_memory, step_generator
from syncyte.train.optim import Average, load_optimizer, lr_factor, make_optimizer, optimizer_tensors, set_lr
from syncyte.train.plan import MakeLoader, StageConfig, StageModule, Work
from syncyte.train.progress import Interrupt, Progress
from syncyte.train.rows import clip_gradients
from syncyte.train.state import Place, save_state

MAX_STREAK = 20  # non-finite losses in a row
LOGGED_STEPS = 2000  # training rows of a stage in the curves, at most
TRAIN, VALIDATION = 0, 1

T = TypeVar("T")


class Stopped(Exception):
    """The person asked to stop; the last step is complete."""


@dataclass(frozen=True)
class StageReport:
    """How a stage went.

    Attributes
    ----------
    name
        Stage.
    steps, epochs
        Length in optimiser steps and in passes over the training cells.
    start, best, best_step
        Validation total at step 0, the lowest one and its step; None without validation cells.
    improved
        Whether validation fell below its start; if not, the stage left the weights as they were at its start.
    stopped_early
        Whether patience ended it.
    skipped
        Steps skipped for a non-finite loss.
    batch_size, accumulate, precision
        As used at the end (a minibatch is halved when memory runs out).
    cpu_seconds, wall_seconds
        Time spent.
    """

    name: str
    steps: int
    epochs: float
    start: float | None
    best: float | None
    best_step: int
    improved: bool
    stopped_early: bool
    skipped: int
    batch_size: int
    accumulate: int
    precision: str
    cpu_seconds: float
    wall_seconds: float


@dataclass
class Session:
    """What the stages of one training share."""

    run: Path
    worker: Worker
    make_loader: MakeLoader
    weights: Callable[[], dict[str, torch.Tensor]]
    plan: dict[str, Any]
    seed: int
    save_every: float
    progress: Progress
    interrupt: Interrupt = field(default_factory=Interrupt)
    clock: Clock = field(default_factory=Clock)
    curves: Curves = field(default_factory=lambda: Curves(None, Clock()))
    saved: float = field(default_factory=time.monotonic)

    def save(self, place: Place, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the state; only the first process does."""
        self.saved = time.monotonic()
        if self.worker.rank == 0:
            place.metrics_bytes = self.curves.sync()
            place.cpu_seconds, place.wall_seconds = self.clock.cpu, self.clock.wall
            save_state(self.run, place, {**self.weights(), **tensors}, self.plan)


class StageRun:
    """The loop of one stage; see ``run``.

    Parameters
    ----------
    session
        What the stages share.
    stage
        Configuration.
    module
        Model and objectives.
    parameters
        Those that learn, by public name.
    place
        Where the stage starts or goes on; kept up to date.
    tensors
        Saved tensors when going on, else empty.
    """

    def __init__(
        self,
        session: Session,
        stage: StageConfig,
        module: StageModule,
        parameters: Mapping[str, nn.Parameter],
        place: Place,
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        self.session, self.worker = session, session.worker
        self.module, self.parameters, self.place = module, parameters, place
        self.stage = stage
        for _ in range(place.halvings):
            self.stage = halved(self.stage)
        self.wrapped = self.worker.setup(module)
        place.precision = place.precision or choose_precision(stage.precision, module, self.worker)
        self.optimizer = make_optimizer(parameters, stage)
        load_optimizer(self.optimizer, parameters, _under(tensors, "optim/"))
        self.average = Average(parameters, stage.ema) if stage.ema else None
        if self.average is not None and place.step:
            self.average.load(_under(tensors, "ema/"))
        self.best = _under(tensors, "best/")
        self._load()

    def _load(self) -> None:
        """Make the loaders, and what follows from their length."""
        stage, worker = self.stage, self.worker
        train = self.session.make_loader(stage, "train", worker.rank, worker.world)
        lengths = set(worker.gather(len(train) if train is not None else 0))
        if train is None or lengths == {0}:
            raise DataError(f"Stage {stage.name!r} has no training minibatch. Use more cells or a smaller batch_size.")
        if len(lengths) > 1:
            raise DataError(f"Processes have unequal numbers of minibatches: {sorted(lengths)}; they must be the same.")
        self.feed = Feed(train, stage.accumulate)
        self.validation = self.session.make_loader(stage, "validation", worker.rank, worker.world)
        self.validates = any(worker.gather(self.validation is not None and len(self.validation) > 0))
        self.total = max(1, round(stage.epochs * self.feed.steps))
        self.every = max(1, round(stage.validate_every * self.feed.steps))
        self.log_every = math.ceil(self.total / LOGGED_STEPS)
        self.session.progress.begin(self.place.stage, self.place.step, self.total)

    def run(self) -> StageReport:
        """Train to the end of the stage and leave its best weights in the module.

        Raises
        ------
        Stopped
            When asked to; the state is saved.
        SyncyteError
            After 20 non-finite losses in a row, or when one cell does not fit into memory.
        """
        self.module.train()
        try:
            while True:
                self._validate_if_due()
                patience = self.stage.patience
                stopped_early = 0 < patience <= self.place.bad_rounds and self.place.step < self.total
                if stopped_early or self.place.step >= self.total:
                    break
                stop = self._retry(self._step)
                self._save_if_due()
                if stop:
                    raise Stopped
        except Stopped:
            self.session.save(self.place, self.tensors())
            raise
        self._finish()
        return self._report(stopped_early)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Collect what a resumed stage needs beside the weights."""
        parts = {"best/": self.best, "optim/": optimizer_tensors(self.optimizer, self.parameters)}
        if self.average is not None:
            parts["ema/"] = self.average.shadow
        return {prefix + name: tensor for prefix, items in parts.items() for name, tensor in items.items()}

    def _random(self, purpose: int, step: int) -> torch.Generator:
        key = (self.session.seed, self.place.stage, step, self.worker.rank, purpose)
        return step_generator(key, self.worker.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.place.precision == "bf16")

    def _step(self) -> bool:
        """One optimiser step; whether any process was asked to stop."""
        stage, place, worker = self.stage, self.place, self.worker
        lr = stage.lr * lr_factor(stage, place.step, self.total)
        set_lr(self.optimizer, lr)
        group = self.feed.at(place.step)
        cells = sum(len(batch) for batch in group)
        generator = self._random(TRAIN, place.step)
        logged = place.step % self.log_every == 0 or place.step + 1 == self.total
        tally = Tally(self.module.weights)
        loss = torch.zeros((), device=worker.device)
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(group):
            work = Work(batch.to(worker.device), generator)
            with worker.accumulating(self.wrapped, more=number + 1 < len(group)):
                with self._autocast():
                    total = self.wrapped(work) * (len(batch) / cells)
                worker.backward(total)
            loss += total.detach()
            if logged:
                tally.add(work.losses)
        norm = clip_gradients(self.parameters.values(), stage.clip)
        shown, length = torch.stack([loss, norm.to(loss)]).tolist()
        bad = not (math.isfinite(shown) and math.isfinite(length))
        # all processes must take the same turn, else their weights part or they wait for each other for ever
        flags = torch.tensor([float(bad), float(self.session.interrupt.asked)], device=worker.device)
        bad, stop = (flag > 0 for flag in worker.sum(flags).tolist())
        self._update(bad, lr)
        if logged:
            self._log("train", {**tally.means(worker), "lr": lr, "gradient_norm": length})
        self.session.progress.advance(place.step, cells * worker.world, shown)
        return stop

    def _update(self, bad: bool, lr: float) -> None:
        """Change the weights, or skip a step without a usable gradient."""
        place = self.place
        if not bad:
            self.optimizer.step()
            if self.average is not None:
                self.average.update(place.step)
            place.streak, place.good_lr = 0, lr
        place.step += 1
        if not bad:
            return
        place.skipped += 1
        place.streak += 1
        if place.streak >= MAX_STREAK:
            name = self.stage.name
            good = "no step before was good" if place.good_lr is None else f"last good one at {place.good_lr:.3g}"
            raise SyncyteError(
                f"Stage {name!r}, step {place.step}: the loss or its gradient was not finite {MAX_STREAK} times in a "
                f"row at a learning rate of {lr:.3g} ({good}). Lower stages.{name}.lr or stages.{name}.clip, or use "
                f"stages.{name}.precision=32, and start anew with --overwrite."
            )

    def _validate_if_due(self) -> None:
        place = self.place
        due = place.step % self.every == 0 or place.step == self.total
        if not (self.validates and due) or place.validated == place.step:
            return
        self.module.eval()
        with self.average.applied() if self.average is not None else nullcontext():
            means = self._retry(self._validation)
            place.validated = place.step
            total = means["total"]
            if place.step == 0:
                place.start = total
            if math.isfinite(total) and (place.best is None or total < place.best):
                place.best, place.best_step, place.bad_rounds = total, place.step, 0
                self.best = self._snapshot() if self.stage.keep == "best" else {}
            else:
                place.bad_rounds += 1
        self.module.train()
        self._log("validation", means)

    @torch.no_grad()
    def _validation(self) -> dict[str, float]:
        tally = Tally(self.module.weights)
        batches = self.validation.epoch(0) if self.validation is not None else ()
        for number, batch in enumerate(batches):
            if self.session.interrupt.asked and self.worker.world == 1:
                raise Stopped
            work = Work(batch.to(self.worker.device), self._random(VALIDATION, number))
            with self._autocast():
                self.module(work)
            tally.add(work.losses)
        return tally.means(self.worker)

    def _snapshot(self) -> dict[str, torch.Tensor]:
        """Copy, on the CPU, of everything of the module that this stage can change."""
        frozen = {name for name, parameter in self.module.named_parameters() if not parameter.requires_grad}
        state = self.module.state_dict()
        return {name: state[name].detach().to("cpu", copy=True) for name in state if name not in frozen}

    def _finish(self) -> None:
        """Leave the best weights in the module; without them the average, or the last ones."""
        if self.best:
            own = self.module.state_dict()
            with torch.no_grad():
                for name, tensor in self.best.items():
                    own[name].copy_(tensor)
        elif self.average is not None:
            self.average.settle()
        self.module.eval()

    def _report(self, stopped_early: bool) -> StageReport:
        place, clock = self.place, self.session.clock
        improved = place.best is not None and place.best_step > 0
        if place.best is not None and not improved and self.stage.keep == "best":
            self.session.progress.say(
                f"stage {self.stage.name}: validation never fell below its start ({place.best:.5g}); the weights of "
                "the start are kept."
            )
        return StageReport(
            name=self.stage.name,
            steps=place.step,
            epochs=place.step / self.feed.steps,
            start=place.start,
            best=place.best,
            best_step=place.best_step,
            improved=improved,
            stopped_early=stopped_early,
            skipped=place.skipped,
            batch_size=self.stage.batch_size,
            accumulate=self.stage.accumulate,
            precision=place.precision,
            cpu_seconds=clock.cpu - sum(report["cpu_seconds"] for report in place.done),
            wall_seconds=clock.wall - sum(report["wall_seconds"] for report in place.done),
        )

    def _log(self, split: str, values: Mapping[str, float]) -> None:
        place = self.place
        epoch = place.step / self.feed.steps
        self.session.curves.write(place.offset + place.step, epoch, self.stage.name, split, values)

    def _save_if_due(self) -> None:
        spent = time.monotonic() - self.session.saved
        epoch_end = self.place.step % self.feed.steps == 0
        # the end of an epoch is a good moment, but tiny epochs must not spend their time on the disk
        if spent >= self.session.save_every * (0.1 if epoch_end else 1.0):
            self.session.save(self.place, self.tensors())

    def _retry(self, work: Callable[[], T]) -> T:
        """Return the result of ``work``, with the minibatch halved as often as memory runs out in it."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0] or "out of memory"
            self._halve(reason)  # outside of the handler, whose traceback keeps the activations alive

    def _halve(self, reason: str) -> None:
        stage = self.stage
        if stage.batch_size == 1:
            raise SyncyteError(
                f"Stage {stage.name!r}: out of memory with a single cell in the minibatch ({reason}). Use a smaller "
                "preset, fewer features, or a machine with more memory."
            )
        if self.worker.world > 1:
            raise SyncyteError(
                f"Stage {stage.name!r}: out of memory in process {self.worker.rank} of {self.worker.world} ({reason}). "
                f"Set stages.{stage.name}.batch_size={stage.batch_size // 2} and "
                f"stages.{stage.name}.accumulate={stage.accumulate * 2}; minibatches are halved by themselves only in "
                "a single process."
            )
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.worker.device.type == "cuda":
            torch.cuda.empty_cache()
        self.stage = halved(stage)
        self.place.halvings += 1
        self._load()
        self.session.progress.say(
            f"stage {stage.name}, step {self.place.step}: out of memory. Going on with minibatches of "
            f"{self.stage.batch_size} instead of {stage.batch_size} cells, {self.stage.accumulate} to a step.",
            warning=True,
        )


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
