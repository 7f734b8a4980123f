"""The command line: thin commands that read options, call a verb of the package and turn errors into sentences.

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted. An error that syncyte raises on purpose is one paragraph on
standard error; anything else is a defect and keeps its traceback. Leaves out science, and imports nothing slow at the
top: torch, anndata and their like load inside the commands, so ``syncyte --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import data, demo, dna, doctor, make, ontology, options, reference, tasks, train, words
from syncyte.errors import DiskFullError, Dismissed, SyncyteError

# Faults of the machine, not of syncyte: full disk, quota, no permission, read-only or too-long path.
MACHINE_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}

SEVERAL = {"--condition-keys"}  # options that take one or several values

app = typer.Typer(
    name="syncyte",
    help="""From RNA, ATAC or both of the same cells to an embedding, integrated batches, cell types with confidence,
    and each modality predicted from the other.

    \b
    Start here:
      syncyte doctor                     is everything in place?
      syncyte demo                       the whole way on simulated cells, offline, in minutes
      syncyte demo --data FILE           the same on your own file

    \b
    The way of your own data:
      syncyte data inspect FILE          what was found in it
      syncyte train clm_x FILE --out RUN --batch-key batch --label-key cell_type
      syncyte embed RUN FILE --out OUT.h5mu
    """,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: quick to start, and brackets in examples stay as they are
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    train.train,
    tasks.embed,
    tasks.integrate,
    tasks.annotate,
    tasks.translate,
    tasks.regions,
    make.generate,
    make.perturb,
    words.search,
    words.describe,
    dna.variants,
    tasks.evaluate,
    demo.demo,
    doctor.doctor,
):
    options.add(app, command.__name__, command)
app.add_typer(data.app, name="data")
app.add_typer(reference.app, name="reference")
app.add_typer(ontology.app, name="ontology")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"syncyte {version('syncyte')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version  # the callback answered


def spread(words: list[str]) -> list[str]:
    """Command line in which options that take several values are repeated: ``--condition-keys a b`` for two of them.

    Their values end at the next option, or at a file that exists.
    """
    found: list[str] = []
    several: str | None = None
    taken = 0
    for word in words:
        if word in SEVERAL:
            several, taken = word, 0
        elif several is not None and (word.startswith("-") or (taken and _is_data(word))):
            several = None
        elif several is not None:
            found += [several] if taken else []
            taken += 1
        found.append(word)
    return found


def _is_data(word: str) -> bool:
    """Whether a word is a file or a folder of cells, and not a folder that happens to be named like a column."""
    place = Path(word)
    signs = ("manifest.json", "matrix.mtx*", "zarr.json", ".zgroup")  # of a store, 10x, zarr
    return place.is_file() or any(next(place.glob(sign), None) for sign in signs)


def main() -> None:
    """Run the command line and leave with its exit code."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries: nothing a user could act on
    warnings.showwarning = lambda message, *_, **__: typer.echo(f"warning: {message}", err=True)
    try:
        try:
            app(spread(sys.argv[1:]))
        finally:
            sys.stdout.flush()  # here, so that a closed pipe is met below and not at interpreter exit
    except Dismissed as word:  # the first process says what is the matter
        sys.exit(word.exit_code)
    except DiskFullError as error:
        typer.echo(f"error: {error}", err=True)
        sys.stderr.flush()
        os._exit(error.exit_code)  # HDF5 crashes at the end of a process whose file it could not finish
    except SyncyteError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in MACHINE_FAULTS:
            raise
        place = f" ({error.filename})" if error.filename else ""
        _fail(f"The machine refused: {error.strerror}{place}. Free space or rights there, or choose another --out.", 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
