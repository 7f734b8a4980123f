"""Fragment files as blocks of whole lines, inflated in a thread of their own.

Plain text, gzip, and bgzip (gzip in many members) are told apart by their first bytes; an index is not needed. Python
waits for no lock while ISA-L inflates, so a reader and a parser keep two cores busy.

Leaves out: remote files, and parsing (``parse``).
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from syncyte.data.fragments.parse import PAD
from syncyte.errors import DataError

try:
    from isal.igzip import IGzipFile as GzipFile
    from isal.isal_zlib import error as InflateError
except ImportError:  # no wheel for this machine: the same, inflated three times slower
    from gzip import GzipFile  # type: ignore[assignment]
    from zlib import error as InflateError  # type: ignore[assignment]

FAULTS: Any = (EOFError, zlib.error, InflateError, gzip.BadGzipFile)
BLOCK = 1 << 22  # bytes of text
AHEAD = 2  # blocks that wait for the parser


@dataclass(frozen=True)
class Block:
    """Whole lines: ``text[:stop]`` ends with a line end, ``PAD`` bytes follow; ``read`` bytes of the file so far."""

    text: NDArray[np.uint8]
    stop: int
    read: int


def check_file(path: Path) -> int:
    """Size of a fragment file in bytes; what cannot be one is refused."""
    if not path.exists():
        raise DataError(f"The fragment file {path} does not exist. Check the path.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name the fragment file in it (fragments.tsv.gz).")
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not head:
        raise DataError(f"{path} is empty (0 bytes). Copy or make it again.")
    if path.suffix in (".gz", ".bgz") and head[:2] != b"\x1f\x8b":
        raise DataError(f"{path} is named {path.suffix} but is not gzip. Rename it, or copy it again.")
    return path.stat().st_size


def blocks(path: Path) -> Iterator[Block]:
    """Blocks of a file in order; a block's text is valid until the next one is asked for.

    Raises
    ------
    DataError
        If the file is damaged, cut short or cannot be read.
    """
    queue: Queue[Block | Exception | None] = Queue(AHEAD)
    stopped = threading.Event()
    thread = threading.Thread(target=_produce, args=(path, queue, stopped), daemon=True, name="inflate")
    thread.start()
    try:
        while True:
            item = _next(queue, thread)
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def _next(queue: Queue[Block | Exception | None], thread: threading.Thread) -> Block | Exception | None:
    while True:
        try:
            return queue.get(timeout=1.0)
        except Empty:
            if not thread.is_alive() and queue.empty():
                return DataError("Reading the fragment file ended without a word. Try again.")


def _produce(path: Path, queue: Queue[Block | Exception | None], stopped: threading.Event) -> None:
    def put(item: Block | Exception | None) -> bool:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    last: Exception | None = None
    try:
        for block in _lines(path):
            if not put(block):
                return
    except FAULTS as error:
        last = DataError(f"{path} is damaged or cut short ({error}). Copy or download it again.")
    except OSError as error:
        last = DataError(f"{path} cannot be read: {error.strerror or error}.")
    except Exception as error:  # a defect: the other thread shows it
        last = error
    put(last)


def _lines(path: Path) -> Iterator[Block]:
    """Blocks that end at line ends; what is behind the last one goes to the front of the next."""
    # those that wait, one that cannot enter the queue yet, one that is parsed
    pool = [np.empty(BLOCK + PAD, dtype=np.uint8) for _ in range(AHEAD + 2)]
    rest, number = np.empty(0, dtype=np.uint8), 0
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = cast(IO[bytes], GzipFile(fileobj=raw) if packed else raw)
        while True:
            text = pool[number % len(pool)]
            if len(rest) * 2 > len(text):  # a line of megabytes: no fragment, but the parser says so
                text = np.empty(2 * len(rest) + BLOCK, dtype=np.uint8)
            text[: len(rest)] = rest
            filled, ended = _fill(stream, text, len(rest))
            if ended and filled and text[filled - 1] != 10:
                text[filled] = 10
                filled += 1
            stop = filled if ended else _line_end(text, filled)
            rest = text[stop:filled].copy()
            text[filled : filled + PAD] = 10
            if stop:
                yield Block(text, stop, raw.tell())
                number += 1
            if ended:
                return


def _fill(stream: IO[bytes], text: NDArray[np.uint8], filled: int) -> tuple[int, bool]:
    """Bytes of the file behind what is there; how far, and whether the file ended."""
    room = memoryview(cast(Any, text))[: len(text) - PAD]
    while filled < len(room):
        got = stream.readinto(room[filled:])  # type: ignore[attr-defined]
        if not got:
            return filled, True
        filled += got
    return filled, False


def _line_end(text: NDArray[np.uint8], filled: int) -> int:
    """Place behind the last line end, 0 for none."""
    size = 4096
    while True:
        low = max(0, filled - size)
        found = np.flatnonzero(text[low:filled] == 10)
        if len(found):
            return low + int(found[-1]) + 1
        if low == 0:
            return 0
        size *= 16
