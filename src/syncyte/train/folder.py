"""The RUN folder: what lies in it, and who may write into it.

::

    RUN/  run.json                   the mark: this folder belongs to syncyte
          state/                     while training: what a resumed run needs (``state``)
          speaker/                   a language model's learned part (``recipes.word_speaker``), where one was taught
          encoder/                   an encoder of cells that does not learn (``tasks.encoders``), where one was given
          codes.npy  given*.npy      while training: codes of the cells, and what the encoder makes of them
          metrics.csv  tensorboard/  curves (``logs``)
          model.safetensors  recipe.json  vocab/NAME.tsv.gz  preprocessing.safetensors
          card.json  metrics.json  README.md
          checkpoint.json            fingerprints of the files above, written last: a finished run

Left out: the content of the files.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from syncyte.atomic import atomic_file
from syncyte.errors import CheckpointError, ConfigError
from syncyte.train.distributed import Alone, Worker
from syncyte.train.logs import CURVES, EVENTS
from syncyte.train.state import drop_state

CHECKPOINT_FORMAT = 1
MARK, MANIFEST, LOCK = "run.json", "checkpoint.json", ".lock"
WEIGHTS, RECIPE, PREPROCESSING, VOCABULARIES = "model.safetensors", "recipe.json", "preprocessing.safetensors", "vocab"
CARD, METRICS, README = "card.json", "metrics.json", "README.md"
SPEAKER = "speaker"  # what a language model has learned to say, where a recipe teaches one
ENCODER = "encoder"  # another encoder of cells, which does not learn, where one was given
CODES = "codes.npy"  # while training: codes of the cells, where a recipe stores them
GIVEN, GIVEN_STATES = "given.npy", "given_states.npy"  # while training: what the encoder makes of the cells


@dataclass
class RunFolder:
    """A RUN folder that this process may train into; a context manager that lets go of it.

    Attributes
    ----------
    path
        The folder.
    finished
        It holds a finished checkpoint: nothing is left to do.
    """

    path: Path
    finished: bool
    _lock: Any = field(default=None, repr=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()


def is_finished(run: Path) -> bool:
    """Whether the folder holds a finished checkpoint."""
    return (run / MANIFEST).exists()


def prepare_run(
    out: str | os.PathLike[str], *, resume: bool = False, overwrite: bool = False, worker: Worker | None = None
) -> RunFolder:
    """Make, take up or replace a RUN folder, and lock it.

    Parameters
    ----------
    out
        Folder; parents are made.
    resume
        Take up an existing run; a new one is begun where there is none.
    overwrite
        Replace an existing run: what training wrote is removed, other files in the folder stay. A folder that is no
        run of syncyte is never touched.
    worker
        With several processes, only the first one acts; all get its outcome.

    Raises
    ------
    CheckpointError
        If the folder exists and neither option says what to do, belongs to something else, is being trained into by
        another process, or cannot be written.
    ConfigError
        For both options at once.
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    worker = worker or Alone()
    folder, problem = None, None
    if worker.rank == 0:
        try:
            folder = _prepare(Path(out).expanduser(), resume, overwrite)
        except CheckpointError as error:
            problem = str(error)
        except OSError as error:
            problem = f"Cannot write the RUN folder {out}: {error.strerror or error}. Choose a place you may write to."
    problem, finished = worker.gather((problem, folder is not None and folder.finished))[0]
    if problem is not None:
        raise CheckpointError(problem)
    return folder or RunFolder(Path(out).expanduser(), finished)


def _prepare(out: Path, resume: bool, overwrite: bool) -> RunFolder:
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file; a RUN is a folder. Choose another name for --out.")
    finished = is_finished(out)
    if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        if not ((out / MARK).exists() or finished):
            raise CheckpointError(
                f"{out} exists and is not a run of syncyte, so it is left alone. Choose another name for --out."
            )
        if not (resume or overwrite):
            raise CheckpointError(
                f"{out} holds {'a finished' if finished else 'an unfinished'} run. Add --resume to go on with it, "
                "--overwrite to replace it, or choose another name for --out."
            )
        if resume and finished:
            return RunFolder(out, finished=True)
    out.mkdir(parents=True, exist_ok=True)
    lock = _lock(out)
    try:
        if overwrite:
            _clear(out)
        if not (out / MARK).exists():
            with atomic_file(out / MARK) as tmp:
                tmp.write_text(
                    json.dumps({"format": CHECKPOINT_FORMAT, "syncyte": package_version()}), encoding="utf-8"
                )
    except BaseException:
        lock.release()
        raise
    return RunFolder(out, finished=False, _lock=lock)


def _clear(run: Path) -> None:
    """Remove what training wrote; the marks of completeness go first, the mark of ownership stays."""
    (run / MANIFEST).unlink(missing_ok=True)
    drop_state(run)
    for name in (EVENTS, VOCABULARIES, SPEAKER, ENCODER):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in (WEIGHTS, RECIPE, PREPROCESSING, CARD, METRICS, README, CURVES, CODES, GIVEN, GIVEN_STATES):
        (run / name).unlink(missing_ok=True)


def _lock(run: Path) -> Any:
    """Take the lock, which the system takes back when this process ends, however it ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"Another process is training into {run}. Wait for it, stop it, or choose another name for --out."
        ) from None
    return lock


def package_version() -> str:
    """Version of syncyte."""
    from importlib.metadata import version

    return version("syncyte")
