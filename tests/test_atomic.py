"""Whole or nothing: files and folders under their final names."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from syncyte import atomic
from syncyte.atomic import atomic_dir, atomic_file
from syncyte.errors import DataError, DiskFullError


def hidden(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def test_file_appears_whole_and_replaces(tmp_path):
    out = tmp_path / "new" / "result.h5ad"
    for text in ("one", "two"):
        with atomic_file(out) as tmp:
            assert tmp.suffix == ".h5ad" and tmp.parent == out.parent
            tmp.write_text(text)
            assert not out.exists() or out.read_text() == "one"
        assert out.read_text() == text
    assert hidden(out.parent) == []


def test_file_failure_keeps_the_old(tmp_path):
    out = tmp_path / "a.txt"
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(out) as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert out.read_text() == "old" and hidden(tmp_path) == []


def test_file_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with atomic_file(tmp_path / "link.txt") as tmp:
        tmp.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_folder_appears_whole(tmp_path):
    out = tmp_path / "ref"
    with atomic_dir(out) as tmp:
        (tmp / "deep").mkdir()
        (tmp / "deep" / "a").write_text("a")
        assert not out.exists()
    assert (out / "deep" / "a").read_text() == "a" and hidden(tmp_path) == []


def test_folder_refuses_to_replace_unless_told(tmp_path):
    out = tmp_path / "ref"
    out.mkdir()
    with atomic_dir(out) as tmp:
        (tmp / "a").write_text("1")
    with pytest.raises(DataError, match=r"exists and is not empty.*overwrite"), atomic_dir(out):
        pass
    with pytest.raises(RuntimeError), atomic_dir(out, overwrite=True) as tmp:
        raise RuntimeError
    assert (out / "a").read_text() == "1"
    with atomic_dir(out, overwrite=True) as tmp:
        (tmp / "b").write_text("2")
    assert [entry.name for entry in out.iterdir()] == ["b"] and hidden(tmp_path) == []


def test_disk_full_is_said(tmp_path):
    with pytest.raises(DataError, match=r"disk is full while writing .*a\.bin"), atomic_file(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DataError, match="disk is full"), atomic_dir(tmp_path / "d"):
        raise OSError("Can't write data (error message = 'No space left on device')")
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_of_the_body_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.bin"):
        Path(tmp_path / "missing").read_text()


def test_unwritable_places_are_said(tmp_path):
    (tmp_path / "plain").write_text("")
    for place in (tmp_path / "plain" / "x.txt", Path("/proc/no/x.txt")):
        with pytest.raises(DataError, match=f"Cannot write {place}"), atomic_file(place):
            pass
        with pytest.raises(DataError, match=f"Cannot write {place}"), atomic_dir(place):
            pass
    with pytest.raises(DataError, match="a file of that name"), atomic_dir(tmp_path / "plain"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="a folder of that name"), atomic_file(tmp_path / "folder"):
        pass
    with pytest.raises(DataError, match="Nothing was written"), atomic_file(tmp_path / "never"):
        pass


def test_killed_writers_are_cleaned_up(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from syncyte.atomic import atomic_dir, atomic_file\n"
        "with atomic_file(sys.argv[1] + '/a.txt') as f, atomic_dir(sys.argv[1] + '/d') as d:\n"
        "    f.write_text('half'); (d / 'x').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 2 and len(list(tmp_path.iterdir())) == 2
    with atomic_file(tmp_path / "a.txt") as tmp:
        tmp.write_text("whole")
        with atomic_file(tmp_path / "a.txt") as second:  # a live sibling is left alone
            second.write_text("also whole")
        assert tmp.exists()
    with atomic_dir(tmp_path / "d"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt", "d"]


def test_folder_renamed_away_by_a_killed_writer_comes_back(tmp_path):
    out = tmp_path / "ref"
    with atomic_dir(out) as tmp:
        (tmp / "a").write_text("1")
        name = tmp.name.replace(".tmp-", ".old-").replace(f"-{os.getpid()}-", "-999999999-")
    out.rename(tmp_path / name)
    with pytest.raises(DataError, match="exists"), atomic_dir(out):
        pass
    assert (out / "a").read_text() == "1" and hidden(tmp_path) == []


def test_a_disk_without_the_room_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match="disk is full"), atomic_file(tmp_path / "a", room=2000):
        pytest.fail("nothing may be written")
    with atomic_file(tmp_path / "b", room=500) as tmp:
        tmp.write_text("fits")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_library_that_says_the_disk_is_full_in_its_own_error(tmp_path):
    with pytest.raises(DiskFullError, match="disk is full"), atomic_file(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="own"), atomic_file(tmp_path / "a"):
        raise RuntimeError("an error of its own")
    assert not list(tmp_path.iterdir())
