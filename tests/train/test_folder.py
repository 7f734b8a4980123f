"""RUN folders: made, taken up, replaced, locked, and never taken from anybody else."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from syncyte.errors import CheckpointError, ConfigError
from syncyte.train.folder import prepare_run


def finished(run):
    with prepare_run(run):
        (run / "checkpoint.json").write_text("{}")
        (run / "model.safetensors").write_text("old")
        (run / "vocab").mkdir()
        (run / "notes.txt").write_text("the user's own")


def unfinished(run):
    with prepare_run(run):
        (run / "metrics.csv").write_text("old")
        (run / "state").mkdir()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_new_folder_is_made(tmp_path, options):
    (tmp_path / "empty").mkdir()
    for run in (tmp_path / "a/b", tmp_path / "empty"):
        with prepare_run(run, **options) as folder:
            assert folder.path == run and not folder.finished and (run / "run.json").exists()


@pytest.mark.parametrize(("make", "state"), [(finished, "a finished run"), (unfinished, "an unfinished run")])
def test_an_existing_run_needs_a_word(tmp_path, make, state):
    make(tmp_path / "RUN")
    with pytest.raises(CheckpointError, match=rf"holds {state}\. Add --resume .* --overwrite"):
        prepare_run(tmp_path / "RUN")


def test_resume_takes_it_up_and_a_finished_one_is_left_alone(tmp_path):
    unfinished(tmp_path / "a")
    with prepare_run(tmp_path / "a", resume=True) as folder:
        assert not folder.finished and (tmp_path / "a/metrics.csv").read_text() == "old"
    finished(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*")}
    with prepare_run(tmp_path / "b", resume=True) as folder:
        assert folder.finished
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*")} == before


def test_overwrite_removes_what_training_wrote_and_nothing_else(tmp_path):
    finished(tmp_path)
    unfinished_names = {"run.json", "notes.txt"}
    with prepare_run(tmp_path, overwrite=True) as folder:
        assert not folder.finished
        assert {path.name for path in tmp_path.iterdir() if path.name != ".lock"} == unfinished_names


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_is_no_run_is_never_touched(tmp_path, options):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a run of syncyte, so it is left alone"):
        prepare_run(tmp_path, **options)
    with pytest.raises(CheckpointError, match="is a file"):
        prepare_run(tmp_path / "thesis.txt", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_both_options_are_a_contradiction(tmp_path):
    with pytest.raises(ConfigError, match="give one of them"):
        prepare_run(tmp_path / "RUN", resume=True, overwrite=True)


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Cannot write the RUN folder .*/file/RUN"):
        prepare_run(tmp_path / "file/RUN")


def hold(run, ready):
    with prepare_run(run, resume=True):
        ready.set()
        signal.pause()


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_two_processes_never_train_into_one_run(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold, args=(tmp_path / "RUN", ready))
    other.start()
    assert ready.wait(30)
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(CheckpointError, match="Another process is training into"):
            prepare_run(tmp_path / "RUN", **options)
    other.kill()  # the lock of a dead process is free
    other.join()
    with prepare_run(tmp_path / "RUN", resume=True):
        pass
    with prepare_run(tmp_path / "RUN", overwrite=True):
        pass
