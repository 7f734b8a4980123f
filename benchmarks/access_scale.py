"""CLM-Access at 1.2 million regions: memory of store, train and embed at 10^4 and 10^6 cells, and the disk they use.

    OMP_NUM_THREADS=2 python benchmarks/access_scale.py --chrom-sizes hg38.chrom.sizes [--cells 10000 1000000]
        [--preset lite] [--steps 2000] [--folder DIR]

Regions are bins of 2,500 bp. Cells are simulated while they are read: eight types, each with rates of its own, about
1,500 open regions a cell, which are never all in memory. Every job is a process of its own whose peak memory is
printed: writing the store, training for a number of steps spread over the whole store, embedding for as many steps of
128 cells, evenly spread (of few cells each several times, so that both sizes give equally many vectors).
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from syncyte.data.cells import Cells, Part

TYPES, DRAWS = 8, 1 << 21


@dataclass(frozen=True)
class SimulatedRows:
    """Rows drawn when they are read; a row is the same whenever it is."""

    table: np.ndarray  # (types, DRAWS) regions, as often as they are open
    cells: int
    width: int
    nonzeros: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and regions."""
        return self.cells, self.width

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Rows asked for, drawn in groups of 4,096 that have a seed each."""
        pieces = []
        for group in np.unique(rows >> 12):
            wanted = rows[rows >> 12 == group] & 4095
            pieces.append(self._group(int(group))[wanted])
        found = sp.vstack(pieces, format="csr") if len(pieces) > 1 else pieces[0]
        order = np.argsort(np.argsort(rows >> 12, kind="stable"), kind="stable")
        return found[order]

    def _group(self, number: int) -> sp.csr_matrix:
        generator = np.random.default_rng(number)
        kinds = generator.integers(0, TYPES, 4096)
        depth = np.clip(generator.lognormal(np.log(self.nonzeros), 0.4, 4096), 100, 4 * self.nonzeros).astype(np.int64)
        indptr = np.concatenate([[0], np.cumsum(depth)])
        cell = np.repeat(np.arange(4096), depth)
        region = self.table[kinds[cell], generator.integers(0, DRAWS, len(cell))]
        key = np.sort((cell.astype(np.int64) << 32) | region)
        keep = np.diff(key, prepend=-1) > 0
        key = key[keep]
        indptr = np.searchsorted(key, np.arange(4097, dtype=np.int64) << 32)
        data = generator.geometric(0.7, len(key)).astype(np.float32)
        return sp.csr_matrix((data, (key & 0xFFFFFFFF).astype(np.int32), indptr), shape=(4096, self.width))


def bins(chrom_sizes: Path, size: int = 2500) -> pd.DataFrame:
    """Bins of the main chromosomes, named as regions are."""
    sizes = pd.read_csv(chrom_sizes, sep="\t", header=None, names=["chrom", "size"])
    sizes = sizes[~sizes["chrom"].str.contains("_|M$|EBV", regex=True)]
    names = [
        f"{row.chrom}:{at}-{min(at + size, row.size)}" for row in sizes.itertuples() for at in range(0, row.size, size)
    ]
    return pd.DataFrame(index=pd.Index(names))


def simulated(chrom_sizes: Path, count: int, nonzeros: int = 1500) -> Cells:
    """Cells of eight types."""
    var = bins(chrom_sizes)
    generator = np.random.default_rng(0)
    base = generator.gamma(0.3, 1.0, len(var))
    table = np.empty((TYPES, DRAWS), dtype=np.int64)
    for row in table:
        change = np.where(generator.random(len(var)) < 0.1, generator.lognormal(0, 1.5, len(var)), 1.0)
        total = np.cumsum(base * change)
        row[:] = np.searchsorted(total, generator.random(DRAWS) * total[-1])
    rows = SimulatedRows(table, count, len(var), nonzeros)
    obs = pd.DataFrame(index=[f"cell{number}" for number in range(count)])
    return Cells(obs, {"atac": Part(rows, np.arange(count), var)})


def job(name: str, given: argparse.Namespace, folder: Path, cells: int) -> dict[str, float]:
    """Run one job in a process of its own."""
    command = [sys.executable, __file__, "--job", name, "--folder", str(folder), "--cells", str(cells)]
    command += ["--chrom-sizes", str(given.chrom_sizes), "--preset", given.preset, "--steps", str(given.steps)]
    command += [part for setting in given.set for part in ("--set", setting)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def work(name: str, given: argparse.Namespace) -> None:
    """One job; prints its peak memory and time."""
    from syncyte.data.store import open_store, write_store
    from syncyte.recipes.train import configure, train_recipe
    from syncyte.tasks.embed import embed_cells
    from syncyte.tasks.trained import load_trained

    folder, count = given.folder, given.cells[0]
    store, run = folder / f"store{count}", folder / f"run{count}"
    began, facts = time.perf_counter(), {}
    if name == "store":
        write_store(simulated(given.chrom_sizes, count), store, overwrite=True, compact=True)
    elif name == "train":
        config = configure("clm_access", given.preset, given.set)
        stage = config.stages["atac"]
        minibatches = max(1, int(count * 0.9) // stage.batch_size)
        changed = stage.model_copy(update={"epochs": given.steps / minibatches, "patience": 0, "validate_every": 1e9})
        config = config.model_copy(update={"stages": {"atac": changed}})
        train_recipe(config, open_store(store), run, overwrite=True, quiet=True)
        facts = {"stage_seconds": json.loads((run / "recipe.json").read_text())["training"]["wall_seconds"]}
    else:
        cells = open_store(store)
        facts = {"open_seconds": time.perf_counter() - began}
        spread = np.linspace(0, count - 1, given.steps * 128).astype(np.int64)  # of few cells each several times
        taken = cells.take(spread)
        taken = replace(taken, obs=pd.DataFrame(index=[f"c{number}" for number in range(len(taken))]))
        found = embed_cells(load_trained(run, "cpu"), taken).obsm["X_syncyte"]
        facts |= {"cells_embedded": float(len(found))}
    seconds = time.perf_counter() - began
    print(json.dumps({"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": seconds, **facts}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chrom-sizes", type=Path, required=True)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--preset", default="lite")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--jobs", nargs="+", default=["store", "train", "embed"])
    parser.add_argument("--job")
    parser.add_argument("--keep", action="store_true", help="leave the stores in the folder")
    given = parser.parse_args()
    if given.job:
        work(given.job, given)
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="syncyte-scale-"))
    print(f"`{shlex.join(['python', *sys.argv])}`\n")
    print("| cells | job | peak MB | seconds | bytes a cell on disk |\n| --- | --- | --- | --- | --- |")
    for count in given.cells:
        for name in given.jobs:
            facts = job(name, given, folder, count)
            disk = sum(path.stat().st_size for path in (folder / f"store{count}").rglob("*") if path.is_file())
            more = "".join(f", {key.replace('_', ' ')} {value:.1f}" for key, value in facts.items() if "_" in key)
            print(
                f"| {count:,} | {name}{more} | {facts['mb']:.0f} | {facts['seconds']:.0f} | {disk / count:.0f} |",
                flush=True,
            )
        if not given.keep:
            shutil.rmtree(folder / f"store{count}")
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
