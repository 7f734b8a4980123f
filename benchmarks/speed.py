"""Embedding: cells per CPU-second by what is read, and peak memory at 10^4 and 10^5 cells of a store.

    OMP_NUM_THREADS=1 python benchmarks/speed.py RUN [RUN ...] --data cells.h5mu [--cells 10000 100000]

The given cells are repeated under new names until there are enough. One thread; reading, tokens and model are all in
the time. Memory is the peak of a fresh process that opens the store and embeds every cell.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from syncyte.data.cells import Cells
from syncyte.data.read import open_cells
from syncyte.data.store import open_store, write_store
from syncyte.modalities import all_schemas
from syncyte.tasks.embed import embed_cells
from syncyte.tasks.trained import Trained, load_trained


def repeated(cells: Cells, count: int) -> Cells:
    """The cells over and over, under names of their own."""
    rows = np.arange(count) % len(cells)
    taken = cells.take(rows)
    obs = taken.obs[[]].copy()
    obs.index = [f"{name}-{number}" for number, name in enumerate(taken.obs.index)]
    return replace(taken, obs=obs)


def rate(trained: Trained, cells: Cells, seconds: float) -> tuple[float, float]:
    """Cells per CPU-second and per second of the wall."""
    embed_cells(trained, cells.take(np.arange(min(512, len(cells)))))  # warm
    done, cpu, wall = 0, time.process_time(), time.perf_counter()
    while time.process_time() - cpu < seconds:
        embed_cells(trained, cells)
        done += len(cells)
    return done / (time.process_time() - cpu), done / (time.perf_counter() - wall)


def child(run: Path, store: Path) -> None:
    """Embed a store and print the peak memory in megabytes: before the cells, and in all."""
    trained = load_trained(run, "cpu")
    cells = open_store(store)
    embed_cells(trained, cells.take(np.arange(1024)))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = embed_cells(trained, cells).obsm["X_syncyte"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{base:.0f} {peak:.0f} {found.nbytes / 2**20:.0f}")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds of each rate")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    source = open_cells(given.data, schemas=all_schemas())
    print(f"`{shlex.join(['python', *sys.argv])}`\n")
    print("| run | reads | cells per CPU-second | cells per second |\n| --- | --- | --- | --- |")
    for run in given.runs:
        trained = load_trained(run, "cpu")
        some = repeated(source, 4096)
        for names in (*((name,) for name in trained.modalities), trained.modalities):
            fast, wall = rate(trained, some.only(names), given.seconds)
            print(f"| {run.name} | {' + '.join(names)} | {fast:,.0f} | {wall:,.0f} |", flush=True)
    print("\n| run | cells in the store | MB after 1,024 cells | peak MB | MB of the embedding |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for count in given.cells:
            store = write_store(repeated(source, count), Path(folder) / str(count))
            for run in given.runs:
                command = [sys.executable, "-W", "ignore", __file__, "--child", str(run.resolve()), str(store)]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                print(f"| {run.name} | {count:,} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
