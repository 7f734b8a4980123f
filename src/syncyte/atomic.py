"""Files and folders that appear under their final name whole or not at all.

Everything is written to a hidden sibling ``.NAME.tmp-HOST-PID-xxxxxxxx`` (the suffix of the name is repeated, because
some writers choose a format by it), flushed to disk, then renamed. A killed process leaves only such siblings; the next
call for the same name on the same machine removes them once their process is gone.

Leaves out: locks between writers of one name (the last rename wins), and formats.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from syncyte.errors import DataError, DiskFullError, SyncyteError

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname()) or "host"
_live: set[str] = set()  # names this process is writing now: process numbers repeat, in containers at every start


@contextmanager
def atomic_file(path: str | os.PathLike[str], room: int = 0) -> Iterator[Path]:
    """Context whose value is a temporary path; on success the file written there replaces ``path`` in one step.

    Missing parent folders are made. A symbolic link stays and its target is replaced. On any exception, the
    interruption by the user included, the temporary file is removed and an older ``path`` is untouched. ``room`` are
    bytes that will be written for sure: a disk that lacks them is refused at once.

    Raises
    ------
    DataError
        If the place cannot be written, is a folder, or the disk is full.
    """
    final = _final(path)
    if final.is_dir():
        raise DataError(f"Cannot write the file {final}: a folder of that name exists. Choose another name.")
    with _temporary(final) as tmp:
        with _said(final):
            tmp.touch()
            tmp.unlink()
        check_room(final, room)
        yield tmp
        if not tmp.is_file():
            raise DataError(f"Nothing was written for {final}; the file was left as it was.")
        with _said(final):
            _sync(tmp)
            os.replace(tmp, final)  # noqa: PTH105
            _sync(final.parent)


def check_room(path: str | os.PathLike[str], room: int) -> None:
    """Refuse what the disk has no room for: some writers (HDF5) take the process down when it runs out."""
    final = _final(path)
    with _said(final):
        if room > shutil.disk_usage(final.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def atomic_dir(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Context whose value is a temporary folder; on success it takes the name ``path``.

    An existing empty folder is filled. With ``overwrite`` an existing folder is renamed away, the new one renamed in,
    then the old one removed; a process killed between the two renames leaves the old folder under a hidden name, and
    the next call for the same name puts it back first.

    Raises
    ------
    DataError
        If ``path`` holds files and ``overwrite`` is false, is a file, cannot be written, or the disk is full.
    """
    final = _final(path)
    with _temporary(final) as tmp:
        _refuse_existing(final, overwrite)
        with _said(final):
            tmp.mkdir()
        yield tmp
        with _said(final):
            for folder, _, files in os.walk(tmp):
                for name in files:
                    _sync(Path(folder, name))
                _sync(Path(folder))
            _refuse_existing(final, overwrite)
            _swap(tmp, final)
            _sync(final.parent)


def _final(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(Path(path).expanduser()))


def _refuse_existing(final: Path, overwrite: bool) -> None:
    if final.exists() and not final.is_dir():
        raise DataError(f"Cannot write the folder {final}: a file of that name exists. Choose another name.")
    if not overwrite and final.is_dir() and any(final.iterdir()):
        raise DataError(f"{final} exists and is not empty. Choose another name, or pass overwrite (--overwrite).")


@contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """Name of a temporary sibling of ``final``, gone when the context ends."""
    with _said(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _clean(final)
    tmp = _sibling(final, "tmp")
    _live.add(tmp.name)
    try:
        with _said(final, only_full=True):
            yield tmp
    finally:
        _remove(tmp)
        _live.discard(tmp.name)


def _sibling(final: Path, kind: str) -> Path:
    return final.with_name(f".{final.name}.{kind}-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{final.suffix}")


def _swap(tmp: Path, final: Path) -> None:
    if not (final.is_dir() and any(final.iterdir())):
        os.replace(tmp, final)  # noqa: PTH105
        return
    old = _sibling(final, "old")
    _live.add(old.name)
    try:
        final.rename(old)
        try:
            tmp.rename(final)
        except OSError:
            old.rename(final)
            raise
        _remove(old)
    finally:
        _live.discard(old.name)


def _clean(final: Path) -> None:
    """Remove what dead processes of this machine left for this name; put a renamed-away folder back."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.(tmp|old)-{_HOST}-(\d+)-[0-9a-f]{{8}}{re.escape(final.suffix)}")
    for entry in list(final.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if match is None or entry.name in _live or _running(int(match[2])):
            continue
        if match[1] == "old" and not final.exists():
            entry.rename(final)
        else:
            _remove(entry)


def _running(pid: int) -> bool:
    """Whether another process has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _said(final: Path, only_full: bool = False) -> Iterator[None]:
    """Turn a failure of the operating system into a sentence that names the output."""
    try:
        yield
    except SyncyteError:
        raise
    except Exception as error:
        # HDF5, zarr and safetensors wrap the system's error, some without its number or as an error of their own
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise DiskFullError(
                f"The disk is full while writing {final} ({_free(final)} free). Nothing was left under that name; "
                "free some space or choose another place."
            ) from error
        if only_full or not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise DataError(f"Cannot write {final}: {reason}. Choose a place you may write to.") from error


def _free(final: Path) -> str:
    try:
        return f"{shutil.disk_usage(final.parent).free / 1e6:,.0f} MB"
    except OSError:
        return "unknown"
