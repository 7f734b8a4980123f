"""Many files into one store: a task a file through any executor, what is done already is not done again.

A task (``parts.make_part``) writes its part into the work folder ``OUT.parts`` beside the store, whole or not at all,
with a stamp: size and time of the file, hash of the reference and of the chain file, options. A second call makes what
is missing or whose stamp differs. When all parts are there they are joined, streaming, into the shuffled store; the
names of cells with few open regions go to ``OUT.few_regions.tsv``. Parts are kept, so that a later call with further
files is cheap; the folder may be deleted once the store is written.

A file that fails does not stop the others. In the end its error is told and no store is written, unless failed files
are to be skipped. Executors are anything with ``submit`` whose futures have ``add_done_callback`` and ``result``: those
of ``concurrent.futures``, or a ``dask.distributed`` client whose workers see the same paths. Leaves out what a task
does and how parts are joined (``join``).
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from syncyte.atomic import atomic_file
from syncyte.data.join import few_regions, join_parts
from syncyte.data.manifest import read_manifest
from syncyte.data.parts import Job, make_part, read_report
from syncyte.data.place import How
from syncyte.data.regroup import available
from syncyte.data.store import is_store, write_store
from syncyte.errors import DataError, SyncyteError
from syncyte.genome.contents import digest
from syncyte.genome.overlap import check_rule
from syncyte.genome.reference import Reference
from syncyte.types import Schema

Told = Callable[[str, int, int, str], None]  # stage ("files", "store"), done, of, what was done


class Executor(Protocol):
    """What runs tasks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Future of ``fn(*args)``."""
        ...


@dataclass(frozen=True)
class Options:
    """How files are harmonised (beside how peaks are placed).

    Attributes
    ----------
    modality, layer
        As in ``open_cells``.
    skip_failed
        Write the store of the files that did not fail.
    overwrite
        Replace what stands at the place of the store.
    seed, shard_cells, compact
        Of the store.
    """

    modality: str | None = None
    layer: str | None = None
    skip_failed: bool = False
    overwrite: bool = False
    seed: int = 0
    shard_cells: int = 16384
    compact: bool = True


@dataclass(frozen=True)
class Gathered:
    """What became of the files.

    Attributes
    ----------
    path
        The store.
    report
        Its report.
    made, kept
        Parts made in this call, and found from an earlier one.
    failed
        Error of each file that was skipped.
    few
        Cells with few open regions, and the file of their names (None without any).
    """

    path: Path
    report: dict[str, Any]
    made: int
    kept: int
    failed: dict[str, str] = field(default_factory=dict)
    few: Path | None = None


def gather(
    files: Sequence[Path],
    *,
    schemas: Sequence[Schema],
    reference: Path,
    out: Path,
    how: How,
    options: Options,
    executor: Executor | None = None,
    workers: int = 1,
    told: Told | None = None,
) -> Gathered:
    """Put every file on the reference and join them in a store (how: see the module).

    Raises
    ------
    DataError
        If files fail and are not to be skipped, none is left, or ``out`` holds something else.
    """
    told = told or (lambda stage, done, total, what: None)
    check_rule(how.rule)
    opened = Reference.load(reference)
    jobs = make_jobs(files, schemas, opened, out, how, options, 1 if executor or workers > 1 else available())
    if (done := _finished(out, _made_of(jobs, options))) is not None:
        return Gathered(out, done, 0, len(jobs), few=_few_of(out))
    before = options.skip_failed and is_store(out)  # perhaps of the very files that do not fail: known after a trial
    if not before:
        _check_out(out, options.overwrite)
    found = {job.source: read_report(Path(job.folder), job.stamp) for job in jobs}
    todo = [job for job in jobs if found[job.source] is None]
    failed: dict[str, str] = {}
    for source, report, error in _run(todo, executor, workers, told, len(jobs)):
        found[source] = report
        if error:
            failed[source] = error
    if failed and not (options.skip_failed and len(failed) < len(jobs)):
        raise DataError(_failures(failed, len(jobs), out))
    good = [job for job in jobs if found[job.source] is not None]
    ours = _made_of(good, options)
    if before:
        if (done := _finished(out, ours)) is not None:
            return Gathered(out, done, 0, len(good), failed, _few_of(out))
        _check_out(out, options.overwrite)
    cells = join_parts([Path(job.folder) for job in good], [found[job.source] or {} for job in good], opened)
    settings = {"rule": how.rule, "chain": None if how.chain is None else how.chain.name, "forced": how.force}
    cells.report.update(harmonise={**settings, "made_of": ours, "failed": failed})
    on_regions = [name for name, part in cells.parts.items() if "few_regions" in cells.report[name]]
    few = _write_few(cells, on_regions, out)
    write_store(
        cells,
        out,
        seed=options.seed,
        shard_cells=options.shard_cells,
        overwrite=options.overwrite,
        compact=options.compact,
        progress=lambda step, steps: told("store", step, steps, ""),
    )
    return Gathered(out, cells.report, len(todo) - len(failed), len(jobs) - len(todo), failed, few)


def make_jobs(
    files: Sequence[Path],
    schemas: Sequence[Schema],
    reference: Reference,
    out: Path,
    how: How,
    options: Options,
    threads: int,
) -> list[Job]:
    """One job a file."""
    paths = [Path(os.path.realpath(path)) for path in files]
    if not paths:
        raise DataError("No files were given. Name at least one file of cells.")
    twice = [path.name for number, path in enumerate(paths) if path in paths[:number]]
    if twice:
        raise DataError(f"{', '.join(twice[:5])} given more than once. Name each file once.")
    call = secrets.token_hex(8)
    chain = None if how.chain is None else _chain_hash(how.chain)
    settings = {"rule": how.rule, "force": how.force, "modality": options.modality, "layer": options.layer}
    jobs = []
    for path in paths:
        stamp = {"file": _stamp(path), "reference": reference.hash, "chain": chain, **settings}
        folder = work_folder(out) / f"{path.name.partition('.')[0]}-{_digest(str(path))[:10]}"
        named = (str(path), str(folder), str(reference.path.resolve()), stamp, tuple(schemas), how)
        jobs.append(Job(*named, options.modality, options.layer, threads, call))
    return jobs


def _chain_hash(path: Path) -> str:
    try:
        return digest(path)
    except OSError as error:
        raise DataError(
            f"The chain file {path} cannot be read ({error.strerror or error}). Check --chain; a chain is a UCSC file "
            "that lifts one genome build onto another."
        ) from error


def work_folder(out: Path) -> Path:
    """Where the parts of a store lie."""
    return out.with_name(f"{out.name}.parts")


def _made_of(jobs: Sequence[Job], options: Options) -> str:
    """Fingerprint of all that decides a store."""
    return _digest(
        [[job.source, dict(job.stamp)] for job in jobs] + [options.seed, options.shard_cells, options.compact]
    )


def _few_of(out: Path) -> Path | None:
    return _few_path(out) if _few_path(out).is_file() else None


def _few_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.few_regions.tsv")


def _stamp(path: Path) -> dict[str, Any]:
    """Size and time of a file, or of everything in a folder; empty where there is nothing."""
    if path.is_dir():
        inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
        facts = [[entry.relative_to(path).as_posix(), *_stamp(entry).values()] for entry in inside]
        return {"bytes": sum(entry[1] for entry in facts), "changed": _digest(facts)}
    if not path.exists():
        return {}
    status = path.stat()
    return {"bytes": status.st_size, "changed": status.st_mtime_ns}


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _finished(out: Path, ours: str) -> dict[str, Any] | None:
    """Report of the store where it was made of the very same; else None."""
    if not is_store(out):
        return None
    try:
        report = read_manifest(out).report
    except DataError:
        return None
    return report if report.get("harmonise", {}).get("made_of") == ours else None


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it."""
    if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
        other = "a store of other files or options" if is_store(out) else "something else"
        raise DataError(f"{out} exists and holds {other}. Choose another name, or pass overwrite (--overwrite).")


def _write_few(cells: Any, modalities: Sequence[str], out: Path) -> Path | None:
    """Names of cells with few open regions beside the store, before it, so that a store is never without them."""
    table = few_regions(cells, modalities)
    path = _few_path(out)
    if not len(table):
        path.unlink(missing_ok=True)
        return None
    with atomic_file(path) as tmp:
        table.to_csv(tmp, sep="\t", index=False)
    return path


def _failures(failed: Mapping[str, str], files: int, out: Path) -> str:
    listed = "\n".join(f"  {Path(source).name}: {error}" for source, error in failed.items())
    kept = f"The parts of the other files are kept in {work_folder(out)}. " if len(failed) < files else ""
    return (
        f"{len(failed):,} of {files:,} files failed, so no store was written:\n{listed}\n{kept}Mend the files and call "
        "again (only what is missing is done), or pass skip_failed (--skip-failed) to go on without them."
    )


def attempt(job: Job) -> tuple[dict[str, Any] | None, str]:
    """Make a part; its report, or what went wrong, in a form that travels between processes."""
    try:
        return make_part(job), ""
    except SyncyteError as error:
        return None, str(error)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def _run(jobs: Sequence[Job], executor: Executor | None, workers: int, told: Told, files: int) -> Any:
    """Source, report and error of each job, as they come."""
    total = sum(max(1, job.stamp["file"].get("bytes", 1)) for job in jobs)
    done, number = 0, files - len(jobs)
    for job, report, error in _outcomes(list(jobs), executor, workers):
        done, number = done + max(1, job.stamp["file"].get("bytes", 1)), number + 1
        what = f"failed: {error}" if error else f"{report['cells']:,} cells"
        told("files", done, total, f"{number:,} of {files:,} files, {Path(job.source).name}: {what}")
        yield job.source, report, error


def _outcomes(jobs: list[Job], executor: Executor | None, workers: int) -> Any:
    if executor is not None:
        yield from _collect(executor, jobs)
        return
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, *attempt(job)
        return
    while jobs:
        broken: list[Job] = []
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            for job, report, error in _collect(pool, jobs):
                if error is BROKEN:
                    broken.append(job)
                else:
                    yield job, report, error
        if broken and workers == 1:  # the first that broke a pool of one was the one at work
            first = min(broken, key=jobs.index)
            yield first, None, "the process that read it was killed, for lack of memory perhaps"
            broken.remove(first)
        jobs, workers = broken, 1


BROKEN = "the pool of processes broke"


def _collect(executor: Executor, jobs: Sequence[Job]) -> Any:
    """Outcomes of submitted jobs, in the order they end."""
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    futures: list[Any] = []
    for number, job in enumerate(jobs):
        try:
            future = executor.submit(attempt, job)
        except BrokenExecutor:
            futures.append(None)
            ended.put(number)
            continue
        futures.append(future)
        future.add_done_callback(lambda _, number=number: ended.put(number))
    for _ in jobs:
        number = ended.get()
        future, futures[number] = futures[number], None
        try:
            report, error = (None, BROKEN) if future is None else future.result()
        except BrokenExecutor:
            report, error = None, BROKEN
        except Exception as failure:  # the scheduler's own: a lost worker, a cancelled task
            report, error = None, f"{type(failure).__name__}: {failure}"
        yield jobs[number], report, error
