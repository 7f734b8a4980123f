"""``syncyte demo``: the whole way, on simulated cells or on the user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from syncyte.cli import options


def demo(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Your own cells instead of simulated ones.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report and the result.")] = Path(
        "demo"
    ),
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train, embed, integrate, annotate, translate both ways and evaluate, offline; then say what to do next.

    Examples
    --------
    syncyte demo
    syncyte demo --data cells.h5mu --out mine
    """
    import syncyte

    syncyte.demo(data, out=out, seed=seed, device=device, quiet=quiet)
