"""Processes of their own for a tenth of a second each: forked from a clean one that has imported the package already.

The clean one is started once by each test process and shares nothing with it, so neither models nor threads of earlier
tests are carried over. Use a subprocess where the start of Python, an import or the launcher is what is tested.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import create_server
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.tiny", "syncyte.api", "syncyte.cli", "anndata", "mudata", "lightning.fabric"])


def start(
    target: Callable[..., object], *given: object, log: Path | None = None, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Begin ``target(*given)``, a function of a test module; ``log`` takes what it prints."""
    process = CONTEXT.Process(target=_perform, args=(target, given, log, environment or {}))
    process.start()
    return process


def start_crew(folder: Path, world: int, target: Callable[..., object], *given: object) -> None:
    """Run ``target(*given)`` in ``world`` processes that know of each other as those of ``torchrun`` do, if several."""
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    logs = [folder / f"log-{rank}" for rank in range(world)]
    processes = []
    for rank, log in enumerate(logs):
        own = {key: str(value) for key, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        processes.append(start(target, *given, log=log, environment=own if world > 1 else {}))
    codes = join(processes, 240)
    assert codes == [0] * world, "\n".join([str(codes), *(log.read_text()[-3000:] for log in logs)])


def join(processes: list[BaseProcess], seconds: float) -> list[int | None]:
    """Exit codes, once all have ended; those that hang are killed."""
    try:
        for process in processes:
            process.join(seconds)
    finally:
        for process in processes:
            process.kill()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _perform(
    target: Callable[..., object], given: tuple[Any, ...], log: Path | None, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    if log is not None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
    try:
        target(*given)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
