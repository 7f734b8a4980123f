"""Processes that share a pass: blocks in order, one result for all, and nobody is left waiting after an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from tests.processes import join, start

from syncyte.errors import DataError, Dismissed, SyncyteError
from syncyte.train.crew import Crew

BLOCKS = 11


def perform(job: str, rank: int, world: int):
    for number in range(rank, BLOCKS, world):
        if job == "broken" and number == 4:  # of the second process of three
            raise DataError("the fifth block is bad")
        if job == "defect" and number == 5:
            raise ZeroDivisionError("a slip")
        if job == "killed" and number == 7:
            os._exit(9)
        yield {"number": number, "rank": rank}


def work_of(crew: Crew, job: str):
    def dealt(job: str = "fine") -> Any:
        return crew.deal(job, BLOCKS, perform(job, 0, crew.world))

    def work() -> Any:
        first = list(dealt())
        if job == "left early":
            blocks = dealt()
            next(blocks), next(blocks)
            return [first, list(dealt())]
        if job == "mixed":
            blocks = dealt()
            next(blocks), next(dealt())
            return list(blocks)
        if job == "leader fails":
            for block in dealt():
                if block["number"] == 3:
                    raise DataError("no room for the fourth block")
        if job == "empty":
            return list(crew.deal("fine", 0, iter(())))
        return [first, list(dealt(job))]

    return work


def main(folder: Path, job: str, rank: int, world: int) -> None:
    """One of the processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    crew = Crew(SimpleNamespace(rank=rank, world=world))
    said: dict[str, Any] = {}
    try:
        crew.agree(DataError("no run here") if job == "unready" and rank == 1 else None)
        said["result"] = crew.lead(work_of(crew, job)) if rank == 0 else crew.serve(perform)
    except (SyncyteError, RuntimeError) as error:
        said["error"] = [type(error).__name__, str(error)]
    (folder / f"{rank}.json").write_text(json.dumps(said))


def run(folder: Path, job: str, world: int = 3) -> list[dict[str, Any]]:
    join([start(main, folder, job, rank, world) for rank in range(world)], 60)
    found = [folder / f"{rank}.json" for rank in range(world)]
    return [json.loads(path.read_text()) if path.exists() else {} for path in found]


ALL = [{"number": number, "rank": number % 3} for number in range(BLOCKS)]


@pytest.mark.parametrize("job", ["fine", "left early"])
def test_blocks_come_in_order_and_all_get_the_result(tmp_path, job):
    assert run(tmp_path, job) == [{"result": [ALL, ALL]}] * 3


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        ("broken", "DataError", "the fifth block is bad"),
        ("defect", "RuntimeError", "ZeroDivisionError: a slip"),
        ("leader fails", "DataError", "no room for the fourth block"),
        ("unready", "DataError", "no run here"),
        ("killed", "SyncyteError", "Process 1 of 3 is gone"),
        ("mixed", "RuntimeError", "after another one had begun"),
    ],
)
def test_an_error_anywhere_is_the_error_of_the_first(tmp_path, job, kind, words):
    first, *others = run(tmp_path, job)
    assert first["error"][0] == kind and words in first["error"][1]
    for rank, other in enumerate(others, 1):
        assert other == {} if (job, rank) == ("killed", 1) else other["error"][0] == Dismissed.__name__


def test_nothing_to_do(tmp_path):
    assert run(tmp_path, "empty", world=2) == [{"result": []}] * 2
