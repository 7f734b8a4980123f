"""Several processes on one piece of work: the first leads, the others compute what it hands out.

The first process runs a task as it would alone. Where the task passes over many cells it *deals* the pass: minibatch
``i`` is computed by process ``i % world`` and the blocks come back to the first in order, one at a time, so that memory
does not grow with the number of cells. Whatever else a task does (fits, files, words) happens in the first alone, while
the others wait. In the end all have the result. An error anywhere becomes the error of the first process; a process
that dies closes its connections, which ends the others.
Messages go over a gloo group of their own, beside whatever carries gradients. Leaves out: what is computed (``tasks``).
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from syncyte.errors import Dismissed, SyncyteError
from syncyte.train.distributed import Worker

T = TypeVar("T")
Perform = Callable[[Any, int, int], Iterator[Any]]
PATIENCE = timedelta(days=30)  # a fit of the first process may take long; a death is noticed by its closed connection


class Crew:
    """The processes of one job, seen from one of them.

    Parameters
    ----------
    worker
        This process.
    """

    def __init__(self, worker: Worker) -> None:
        self.rank, self.world = worker.rank, worker.world
        self._group = _group()
        self._left: dict[int, int] = {}  # blocks still to come in the present pass, by process

    def agree(self, problem: Exception | None) -> None:
        """Go on where no process has a problem; else the first raises it and the others stop."""
        problems: list[Any] = [None] * self.world
        dist.all_gather_object(problems, _portable(problem), group=self._group)
        found = next((error for error in problems if error is not None), None)
        if found is not None:
            raise found if self.rank == 0 else Dismissed

    def lead(self, work: Callable[[], T]) -> T:
        """Run the whole work in the first process; every other one must be serving."""
        try:
            result = work()
        except BaseException:
            with suppress(RuntimeError):  # of a process that is gone: the error at hand says more
                self._end_pass()
                self._tell(("stop", None))
            raise
        self._end_pass()
        self._tell(("done", result))
        return result

    def deal(self, job: Any, count: int, own: Iterator[T]) -> Iterator[T]:
        """Blocks of a pass in order, in the first process.

        Parameters
        ----------
        job
            What the others compute: pickled and handed to their ``perform``.
        count
            Number of minibatches.
        own
            Blocks of the first process, those of minibatch 0, ``world``, ``2 world``, ...
        """
        self._end_pass()
        self._tell(("pass", (job, count)))
        left = self._left = {rank: len(range(rank, count, self.world)) for rank in range(1, self.world)}
        for number in range(count):
            rank = number % self.world
            if rank == 0:
                yield next(own)
                continue
            if self._left is not left:
                raise RuntimeError("A pass over cells was continued after another one had begun.")
            left[rank] -= 1
            fine, block = self._take(rank)
            if not fine:
                left[rank] = 0
                raise block
            yield block

    def serve(self, perform: Perform) -> Any:
        """Compute what the first process deals until it is done; its result.

        Parameters
        ----------
        perform
            ``(job, rank, world) -> blocks`` of the minibatches of this process.

        Raises
        ------
        Dismissed
            If the first process failed or is gone.
        """
        try:
            while True:
                said: list[Any] = [None]
                dist.broadcast_object_list(said, src=0, group=self._group)
                word, content = said[0]
                if word == "done":
                    return content
                if word == "stop":
                    raise Dismissed
                self._serve_pass(perform, *content)
        except RuntimeError as error:  # of the connection: errors of the computation were sent to the first process
            raise Dismissed from error

    def _serve_pass(self, perform: Perform, job: Any, count: int) -> None:
        blocks: Iterator[Any] | None = None
        for _ in range(self.rank, count, self.world):
            block: Any = None
            failure: Exception | None = None
            try:
                blocks = perform(job, self.rank, self.world) if blocks is None else blocks
                block = next(blocks)
            except Exception as error:
                failure = error
            if not self._asked():
                return
            dist.send_object_list([failure is None, block if failure is None else _portable(failure)], 0, self._group)
            if failure is not None:
                return

    def _tell(self, message: tuple[str, Any]) -> None:
        dist.broadcast_object_list([message], src=0, group=self._group)

    def _end_pass(self) -> None:
        """Call off what is left of a pass, where it was not taken to its end."""
        left, self._left = self._left, {}
        for rank, blocks in left.items():
            if blocks:
                self._ask(rank, False)

    def _take(self, rank: int) -> list[Any]:
        answer: list[Any] = [None, None]
        try:
            self._ask(rank, True)
            dist.recv_object_list(answer, rank, self._group)
        except RuntimeError as error:
            raise SyncyteError(
                f"Process {rank} of {self.world} is gone ({error}). It was killed, perhaps for want of memory: "
                "look for its own message, and start again with fewer processes."
            ) from error
        return answer

    def _ask(self, rank: int, more: bool) -> None:
        dist.send(torch.tensor([int(more)]), rank, self._group)

    def _asked(self) -> bool:
        wanted = torch.zeros(1, dtype=torch.int64)
        dist.recv(wanted, 0, self._group)
        return bool(wanted.item())


@functools.cache
def _group() -> Any:
    """The connections, made once a process."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _portable(error: Exception | None) -> Exception | None:
    """An error that another process can raise: ours as they are, a defect with its traceback in the text."""
    if error is None or isinstance(error, SyncyteError):
        return error
    return RuntimeError("In another process:\n" + "".join(traceback.format_exception(error)))
